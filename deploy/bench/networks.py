"""What each network costs in every engine that is installed: CPU time of one thread.

What `info --table --results FILE` shows. The CPU time of one thread is the same whatever else the
machine does, so that networks can be compared that were measured hours apart; `bench engines
--network NAME` has the latency on all CPUs. Networks have weights as before training, and int8 is
the whole network in int8: how fast it is, not whether a trained one may be so. FILE is written
after every network, and a run goes on with those that it does not hold.
"""

import argparse
import logging
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from ...common import console
from ...common.checked_json import read_checked, write_checked
from ...common.errors import InputError
from ...common.options import integer
from ...symbol import list_networks, network_options
from . import child, report
from .candidates import ORIGINAL, candidates, untrained
from .measure import SECONDS, check_options, machine, repeated
from .ways import embedding_call

log = logging.getLogger(__name__)

_ONE_THREAD = {'OMP_NUM_THREADS': '1'}
_ROUNDS = 3


def cpu_times(name: str, batch_size: int, seconds: float) -> dict[str, Any]:
    """A row an engine of network `name`, the fastest first; for a process of its own.

    A figure is the median of three rounds, in which the engines take turns.
    """
    if hasattr(os, 'sched_setaffinity'):  # the engines take a thread a CPU
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    with tempfile.TemporaryDirectory() as folder:
        found = candidates(untrained(name, {}), Path(folder), only_speed=True)
        del found[ORIGINAL]
        calls = {}
        for engine, candidate in found.items():
            (variant,) = candidate.variants.values()
            try:
                for size in (1, batch_size):
                    call = embedding_call(batch_size=size, **variant.options)
                    calls[engine, size] = repeated(call, time.process_time)
            except InputError as error:  # an arithmetic that this CPU does not have
                log.warning('%s is left out: %s', engine, error)
        share = seconds / (_ROUNDS * len(calls))
        rounds = [{key: call(share) for key, call in calls.items()} for _ in range(_ROUNDS)]
    rows = []
    for engine in dict.fromkeys(engine for engine, _ in calls):
        one, many = (
            sorted(sum(times[engine, size]) / len(times[engine, size]) for times in rounds)
            for size in (1, batch_size)
        )
        rows.append(
            {
                'engine': engine,
                'precision': found[engine].precision,
                'ms': round(1e3 * one[_ROUNDS // 2], 3),
                'ms_low': round(1e3 * one[0], 3),
                'ms_high': round(1e3 * one[-1], 3),
                'images_per_second': round(batch_size / many[_ROUNDS // 2], 3),
            }
        )
    return {'rows': sorted(rows, key=lambda row: row['ms'])}


def _measured_before(out: str, here: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """The networks in an earlier result; InputError where it was another machine or batch."""
    if not out or not Path(out).is_file():
        return {}
    before = read_checked(out, 'results file')
    if not isinstance(before, dict) or not {'networks', *here} <= before.keys():
        raise InputError(f'{out} is no result of `bench networks`; choose another file')
    for key, value in here.items():
        if before.get(key) != value:
            raise InputError(
                f'{out} was measured with {key} {before.get(key)}, this is {value}; choose '
                'another file'
            )
    return before['networks']


def build_parser(parser: console.Parser) -> None:
    parser.add_argument(
        '--network',
        action='append',
        default=[],
        metavar='NAME',
        help='measure this one, even if FILE has it (repeatable; default: all that FILE lacks)',
    )
    parser.add_argument('--batch-size', type=int, default=8, help='for the throughput')
    parser.add_argument('--seconds', type=float, default=10.0, help='to measure each network')
    parser.add_argument('--out', metavar='FILE.json', default='', help='write the result here')


def show(networks: dict[str, list[dict[str, Any]]], batch_size: int) -> None:
    cells = [
        (
            name if number == 0 else '',
            row['engine'],
            f'{row["ms"]:.1f} ({row["ms_low"]:.1f}-{row["ms_high"]:.1f})',
            f'{row["images_per_second"]:.1f}',
        )
        for name, rows in networks.items()
        for number, row in enumerate(rows)
    ]
    columns = ('network', 'engine', 'ms at 1', f'images/s at {batch_size}')
    console.table('CPU time of one thread', columns, cells)


def run(args: argparse.Namespace) -> dict[str, Any]:
    check_options(args, {'batch_size': integer(2), 'seconds': SECONDS})
    report.check_out(args.out)
    for name in args.network:
        network_options(name)  # an unknown one is an error
    here = {'cpu': machine().get('cpu', ''), 'batch_size': args.batch_size}
    networks = _measured_before(args.out, here)
    wanted = args.network or [name for name in list_networks() if name not in networks]
    for number, name in enumerate(wanted, 1):
        log.info('%s, %d of %d', name, number, len(wanted))
        options = {'name': name, 'batch_size': args.batch_size, 'seconds': args.seconds}
        networks[name] = child.run(cpu_times, _ONE_THREAD, **options)['rows']
        networks = dict(sorted(networks.items()))
        if args.out:
            write_checked(args.out, {**here, 'networks': networks})
    show(networks, args.batch_size)
    return {**here, 'networks': networks}


main = console.command('bench networks', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
