"""What verification of a run's models gave, as a table for people."""

from ..common import console
from ..eval.verification import VerificationResult


def print_results(title: str, rows: dict[str, dict[str, VerificationResult]]) -> None:
    """Table on stderr: one row a model, accuracy and VAL of every target as columns; none where
    nothing was verified."""
    names = sorted({name for targets in rows.values() for name in targets})
    if not names:
        return
    columns = ['model']
    for name in names:
        columns += [f'{name} accuracy %', f'{name} VAL % @ FAR']
    cells = []
    for model, targets in rows.items():
        row = [model]
        for name in names:
            result = targets.get(name)
            row += _cells(result) if result else ['-', '-']
        cells.append(row)
    console.table(title, columns, cells)


def _cells(result: VerificationResult) -> list[str]:
    return [
        f'{100 * result.accuracy:.2f} +- {100 * result.accuracy_std:.2f}',
        f'{100 * result.val:.2f} @ {result.far:.4f}',
    ]
