"""Timing that can be trusted on a machine that other work shares: A and B in turn, medians, ratios.

A machine's speed drifts by the second, so two things are compared round by round: each round runs
every candidate for a moment, and a ratio is the median of the rounds' ratios.
"""

import argparse
import gc
import os
import platform
import resource
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Callable, Optional

from ...common.console import ProgressBar
from ...common.errors import InputError
from ...common.files import atomic_path
from ...common.options import Rule, positive
from ...common.parallel import cpu_fields, cpu_name

SECONDS = positive(1e6)  # of a measurement; NaN and infinity would never end it


@dataclass(frozen=True)
class Timing:
    """Seconds of one call."""

    seconds: tuple[float, ...]  # one number a round, the mean of its calls
    calls: tuple[float, ...] = ()  # every call, where they were kept

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    def summary(self, items: int = 1) -> dict:
        """For JSON; `items` is what one call handles, such as the images of a batch."""
        return {
            'seconds_median': self.median,
            'seconds_low': min(self.seconds),
            'seconds_high': max(self.seconds),
            'per_second': items / self.median,
            'rounds': len(self.seconds),
        }


@dataclass(frozen=True)
class Ratio:
    """How many times faster: median, lowest and highest of the rounds."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f'{self.median:.3g}x ({self.low:.3g}-{self.high:.3g})'


def faster(slow: Timing, fast: Timing, slow_items: int = 1, fast_items: int = 1) -> Ratio:
    """Items a second of `fast` over those of `slow`, which were measured in the same rounds."""
    ratios = [(a / slow_items) / (b / fast_items) for a, b in zip(slow.seconds, fast.seconds)]
    return Ratio(statistics.median(ratios), min(ratios), max(ratios))


def repeated(
    call: Callable[[], object], clock: Callable[[], float] = time.perf_counter
) -> Callable[[float], list[float]]:
    """A function that makes a call again and again for some seconds of `clock`, at least once: the
    seconds of each call."""

    def for_seconds(seconds: float) -> list[float]:
        times, spent = [], 0.0
        while not times or spent < seconds:
            started = clock()
            call()
            times.append(clock() - started)
            spent += times[-1]
        return times

    return for_seconds


def slices_in_turn(
    slices: Mapping[str, Callable[[float], list[float]]],
    seconds: float,
    slice_seconds: float = 0.5,
    min_rounds: int = 3,
    progress: Optional[ProgressBar] = None,
) -> dict[str, Timing]:
    """Time candidates that time themselves, such as `child.Worker`, in turn.

    Parameters
    ----------
    slices : name -> function of seconds as `repeated` makes it
    seconds, slice_seconds, min_rounds, progress : as of `in_turn`
    """
    rounds: dict[str, list[list[float]]] = {name: [] for name in slices}
    end = time.perf_counter() + seconds
    done = 0
    while done < min_rounds or time.perf_counter() < end:
        for name, run in slices.items():
            rounds[name].append(run(slice_seconds))
        done += 1
        if progress:
            progress.advance()
    return {
        name: Timing(tuple(map(statistics.mean, times)), tuple(chain(*times)))
        for name, times in rounds.items()
    }


def in_turn(
    calls: Mapping[str, Callable[[], object]],
    seconds: float,
    slice_seconds: float = 0.5,
    min_rounds: int = 3,
    progress: Optional[ProgressBar] = None,
) -> dict[str, Timing]:
    """Time all candidates in turn, after one call of each that does not count.

    Parameters
    ----------
    calls : name -> function without arguments that returns when its work is done
    seconds : about how long to measure in all; at least `min_rounds` rounds are run
    slice_seconds : in each round a candidate is called again until this has passed
    min_rounds : whatever `seconds` says
    progress : advanced by 1 per round; how many there will be is not known
    """
    for call in calls.values():
        call()
    gc.collect()
    slices = {name: repeated(call) for name, call in calls.items()}
    return slices_in_turn(slices, seconds, slice_seconds, min_rounds, progress)


def peak_memory() -> int:
    """Bytes of the largest resident size of this process so far."""
    status = Path('/proc/self/status')
    if status.is_file():  # getrusage would start from what the parent process had
        line = next(x for x in status.read_text().splitlines() if x.startswith('VmHWM'))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS


def machine() -> dict:
    """What the figures were taken on: CPU, its vector units, CPUs used, memory, versions."""
    info = {'system': platform.platform(), 'python': platform.python_version()}
    flags = cpu_fields().get('flags', '').split()
    wanted = ('avx2', 'fma', 'avx512f', 'avx512_vnni', 'avx512_bf16', 'amx_bf16', 'amx_int8')
    info['cpu'], info['vector_units'] = cpu_name(), [flag for flag in wanted if flag in flags]
    if hasattr(os, 'sched_getaffinity'):
        info['cpus'] = len(os.sched_getaffinity(0))
        info['memory_gb'] = round(os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9, 1)
    info['omp_num_threads'] = os.environ.get('OMP_NUM_THREADS', '')
    return info


def check_options(args: argparse.Namespace, rules: Mapping[str, Rule]) -> None:
    """InputError for the first option, by its name in `args`, that is not what its rule says."""
    for name, rule in rules.items():
        value = getattr(args, name)
        if not rule.test(value):
            raise InputError(f'--{name.replace("_", "-")} {value}: must be {rule.expected}')


def check_numbers(text: str, option: str, kind: type = int) -> list:
    """'16,32,64' -> [16, 32, 64]; InputError naming the option unless all are positive."""
    try:
        numbers = [kind(word) for word in text.split(',')]
    except ValueError:
        numbers = []
    if not numbers or not all(map(positive().test, numbers)):
        raise InputError(f'{option} {text!r}: expected positive numbers like 16,32,64')
    return numbers


_LOGARITHMIC = 100  # largest by smallest x


def plot_lines(
    path: Path, panels: Sequence[tuple[str, str, str, Mapping[str, tuple[list, list]]]]
) -> None:
    """A picture of several panels: (title, x label, y label, {line: (x values, y values)}).

    x values may be names. Where x runs over hundreds both axes are logarithmic, or one point would
    hide the others.
    """
    from matplotlib.figure import Figure  # takes a second that nothing else should wait for

    figure = Figure(figsize=(5 * len(panels), 4), layout='constrained')
    for axis, (title, x_label, y_label, lines) in zip(
        figure.subplots(1, len(panels), squeeze=False)[0], panels
    ):
        for label, (x, y) in lines.items():
            axis.plot(x, y, marker='o', label=label)
        axis.set_title(title)
        axis.set_xlabel(x_label)
        axis.set_ylabel(y_label)
        values = [value for x, _ in lines.values() for value in x if not isinstance(value, str)]
        if values and max(values) >= _LOGARITHMIC * min(values) > 0:
            axis.set_xscale('log')
            axis.set_yscale('log')
        else:
            axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
        axis.legend(frameon=False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
