"""Our training step in bfloat16 against the same in float32."""

from collections.abc import Callable

from ...common import console
from ...common.engine import ops
from . import child, report
from .measure import faster, machine, slices_in_turn


def measure(worker: Callable[[int, str], child.Worker], batches: list[int], seconds: float) -> dict:
    """Both precisions in turn at every batch size.

    Parameters
    ----------
    worker : (batch size, precision) -> process that makes training steps
    seconds : for each batch size, at least
    """
    rows = {}
    for batch in batches:
        with worker(batch, ops.FLOAT32) as single, worker(batch, ops.BFLOAT16) as half:
            workers = {ops.FLOAT32: single, ops.BFLOAT16: half}
            times = slices_in_turn(workers, seconds, slice_seconds=min(2, seconds))
        rows[batch] = {name: timing.summary(batch) for name, timing in times.items()}
        rows[batch]['ratio'] = vars(faster(*times.values()))
    return {'machine': machine(), 'batches': rows}


def show(result: dict) -> None:
    console.table(
        'training step, products in bfloat16 against float32, in turn',
        ('batch', 'float32 images/s', 'bfloat16 images/s', 'times as fast'),
        [
            (
                batch,
                *(f'{row[precision]["per_second"]:.1f}' for precision in ops.PRECISIONS),
                report.shown(row['ratio']),
            )
            for batch, row in result['batches'].items()
        ],
    )


def panels(result: dict) -> list:
    """Speed over batch, for the picture."""
    rows = result['batches']
    lines = {
        precision: (list(rows), [row[precision]['per_second'] for row in rows.values()])
        for precision in ops.PRECISIONS
    }
    return [('speed by batch', 'batch', 'images/s', lines)]
