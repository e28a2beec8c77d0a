"""PartialFC beside the full head: time and memory of a step by classes and sample rate."""

import statistics
import tempfile
from collections.abc import Sequence

import numpy as np

from ...common import console
from ...common.errors import RunError
from ...recognition.losses import make_loss
from ...recognition.partial_fc import Centres, PartialFC, Settings
from . import child
from .measure import Timing, faster
from .measured import measure_head, measured
from .steps import ARCFACE

FULL = 'full'
_MOST_OF_THE_FULL = 1_000_000  # classes; beyond, the full head needs tens of gigabytes


def partial_fc_step(classes: int, batch_size: int, size: int, rate: float, dtype: str, folder: str):
    """A function that does the next step of ArcFace on random embeddings."""
    centres = Centres(classes, size, dtype, folder)
    centres.start(0, 0)
    head = PartialFC(make_loss('margin', ARCFACE), Settings(classes, size, rate), centres)
    random = np.random.default_rng(0)
    embedding = random.standard_normal((batch_size, size)).astype(np.float32)
    numbers = iter(range(1 << 62))

    def step() -> None:
        label = random.integers(0, classes, batch_size)
        head.step(embedding, label, 0.01, next(numbers))

    return step


def measure_partial_fc(
    classes: int, batch_size: int, size: int, rate: float, dtype: str, rounds: int
) -> dict:
    """Seconds of forward, backward and update, and the bytes that the process needs for it."""
    with tempfile.TemporaryDirectory() as folder:
        return measured(
            lambda: partial_fc_step(classes, batch_size, size, rate, dtype, folder), rounds
        )


def compare(classes: int, rates: Sequence[float], dtype: str, options: dict, rounds: int) -> dict:
    """The full head and PartialFC at every rate, in turn, each time in a new process.

    Parameters
    ----------
    options : batch_size and size
    rounds : processes of each
    """
    options = {'classes': classes, **options, 'rounds': 3}
    calls = {f'{rate:g}': (measure_partial_fc, {'rate': rate, 'dtype': dtype}) for rate in rates}
    if classes <= _MOST_OF_THE_FULL:
        calls = {FULL: (measure_head, {'stock': False}), **calls}
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    sizes: dict[str, int] = {}
    failed: dict[str, str] = {}
    for _ in range(rounds):
        for name, (function, more) in calls.items():
            if name in failed:
                continue
            try:
                found = child.run(function, **options, **more)
            except RunError as error:
                failed[name] = str(error)
                continue
            seconds[name].append(statistics.median(found['seconds']))
            sizes[name] = max(found['bytes'], sizes.get(name, 0))
    times = {name: Timing(tuple(each)) for name, each in seconds.items() if name not in failed}
    heads = {name: {**time.summary(), 'bytes': sizes[name]} for name, time in times.items()}
    for name in times.keys() - {FULL} if FULL in times else ():
        heads[name]['ratio'] = vars(faster(times[FULL], times[name]))
    return {'classes': classes, 'heads': heads, 'failed': failed}


def show(rows: list[dict], dtype: str) -> None:
    """The table of what `compare` found."""
    cells = []
    for row in rows:
        for name, found in row['heads'].items():
            ratio = found.get('ratio')
            cells.append(
                [
                    f'{row["classes"]:,}',
                    name,
                    f'{1000 * found["seconds_median"]:.1f}',
                    f'{found["bytes"] / 1e6:,.0f}',
                    f'{ratio["median"]:.1f} ({ratio["low"]:.1f}-{ratio["high"]:.1f})'
                    if ratio
                    else '-',
                ]
            )
        for name, reason in row['failed'].items():
            cells.append([f'{row["classes"]:,}', name, 'failed', reason, '-'])
    console.table(
        f'PartialFC, {dtype}: forward, backward, update',
        ['classes', 'sample rate', 'ms', 'MB', 'times as fast as full'],
        cells,
    )


def panels(rows: list[dict]) -> list:
    """Time and memory by classes, a line for the full head and every rate."""
    names = list(dict.fromkeys(name for row in rows for name in row['heads']))
    found = []
    for title, unit, key, factor in (
        ('time by classes', 'ms', 'seconds_median', 1000),
        ('memory by classes', 'GB', 'bytes', 1e-9),
    ):
        lines = {}
        for name in names:
            known = [row for row in rows if name in row['heads']]
            values = [factor * row['heads'][name][key] for row in known]
            label = name if name == FULL else f'rate {name}'
            lines[label] = [row['classes'] for row in known], values
        found.append((title, 'classes', unit, lines))
    return found
