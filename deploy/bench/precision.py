"""Our training step in bfloat16 against the same in float32."""

from collections.abc import Callable

from ...common import console
from ...common.engine import ops
from . import child, report
from .measure import faster, machine, slices_in_turn
from .measured import measure_step


def measure(
    worker: Callable[[int, str], child.Worker],
    step: dict,
    batches: list[int],
    seconds: float,
) -> dict:
    """Both precisions in turn at every batch size, and the memory of each in a process of its own.

    Parameters
    ----------
    worker : (batch size, precision) -> process that makes training steps
    step : network, options, classes
    seconds : for each batch size, at least
    """
    rows = {}
    for batch in batches:
        with worker(batch, ops.FLOAT32) as single, worker(batch, ops.BFLOAT16) as half:
            workers = {ops.FLOAT32: single, ops.BFLOAT16: half}
            times = slices_in_turn(workers, seconds, slice_seconds=min(2, seconds))
        rows[batch] = {name: timing.summary(batch) for name, timing in times.items()}
        rows[batch]['ratio'] = vars(faster(*times.values()))
        how = {**step, 'batch_size': batch, 'stock': False, 'rounds': 1}
        for precision in ops.PRECISIONS:
            found = child.run(measure_step, precision=precision, **how)
            rows[batch][precision]['bytes'] = found['bytes']
    return {'machine': machine(), 'batches': rows}


def show(result: dict) -> None:
    console.table(
        'training step in bfloat16 against float32, in turn; memory in a process each',
        (
            'batch',
            *(f'{precision} images/s' for precision in ops.PRECISIONS),
            'times as fast',
            *(f'{precision} GB' for precision in ops.PRECISIONS),
        ),
        [
            (
                batch,
                *(f'{row[precision]["per_second"]:.1f}' for precision in ops.PRECISIONS),
                report.shown(row['ratio']),
                *(f'{row[precision]["bytes"] / 1e9:.2f}' for precision in ops.PRECISIONS),
            )
            for batch, row in result['batches'].items()
        ],
    )


def panels(result: dict) -> list:
    """Speed and memory over batch, for the picture."""
    rows = result['batches']
    found = []
    for title, unit, key, scale in (
        ('speed by batch', 'images/s', 'per_second', 1),
        ('memory by batch', 'GB', 'bytes', 1e9),
    ):
        lines = {
            precision: (list(rows), [row[precision][key] / scale for row in rows.values()])
            for precision in ops.PRECISIONS
        }
        found.append((title, 'batch', unit, lines))
    return found
