"""The settings under which stock MXNet is measured: those that suit it best, and they are named.

MXNet as it is imported uses as many threads as it thinks right; OMP_NUM_THREADS may suit it better
or worse. On CPUs with AVX-512, DNNL_MAX_CPU_ISA=AVX2 makes its training faster. Our package sets
variables of its own, so that "as imported" has to take them back.
"""

import logging
from collections.abc import Callable, Mapping
from typing import NamedTuple

from ...common.errors import RunError
from ...common.parallel import cpu_count
from .child import Worker
from .measure import machine, slices_in_turn

log = logging.getLogger(__name__)

DEFAULT = 'as imported'
_TRIAL_ROUNDS = 3
_TRIAL_SECONDS = 0.3


class Variant(NamedTuple):
    """One way to run the same thing."""

    environment: dict[str, str]  # '' is like a variable that is not set
    options: dict  # of what makes it


def environments() -> dict[str, dict[str, str]]:
    """Name -> variables of the environment that are worth trying on this machine."""
    spin = {'GOMP_SPINCOUNT': ''}
    found = {
        DEFAULT: {**spin, 'OMP_NUM_THREADS': ''},
        f'OMP_NUM_THREADS={cpu_count()}': {**spin, 'OMP_NUM_THREADS': str(cpu_count())},
    }
    if 'avx512f' in machine().get('vector_units', ()):
        avx2 = {'DNNL_MAX_CPU_ISA': 'AVX2'}
        for name, variables in list(found.items()):
            found[f'{name}, DNNL_MAX_CPU_ISA=AVX2'] = {**variables, **avx2}
    return found


def fastest(make: Callable, variants: Mapping[str, Variant]) -> tuple[str, Worker]:
    """(name, its worker) of the variant that is the fastest in a short trial, all in turn.

    A variant that fails is left out with a log line; RunError if all do.
    """
    workers: dict[str, Worker] = {}
    chosen = None
    try:
        for name, (environment, options) in variants.items():
            try:
                workers[name] = Worker(make, environment, **options)
            except RunError as error:
                log.info('%s fails: %s', name, error)
        if not workers:
            raise RunError(f'{make.__name__}: fails under every one of {", ".join(variants)}')
        if len(workers) == 1:
            chosen = next(iter(workers))
        else:
            times = slices_in_turn(workers, 0, _TRIAL_SECONDS, _TRIAL_ROUNDS)
            chosen = min(times, key=lambda name: times[name].median)
    finally:
        for name, worker in workers.items():
            if name != chosen:
                worker.close()
    return chosen, workers[chosen]
