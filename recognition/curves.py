"""A picture of a run: loss, learning rate and verification accuracy over its steps."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ..common.files import atomic_path
from ..common.history import read_history
from ..eval.report.figures import plain

_LOGGED = {'loss', 'learning_rate', 'accuracy'}  # what a row of training holds
_LOSSES = ('loss', 'class_loss', 'distill_loss')
_SUFFIX = '_accuracy'  # of what is logged of a target
_LETTERS = 10  # points of a legend's letters, at most; a row of it is 1.7 times as high
_ROOM = 100  # points of letters that the axes have room for, one above the other


class Line(NamedTuple):
    """A line of a picture: `values` over `steps`."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    marker: str = ''


class Curves(NamedTuple):
    """The lines of the three pictures."""

    losses: list[Line]
    rates: list[Line]
    accuracies: list[Line]  # %


def _line(rows: Sequence[dict], name: str, label: str, scale: int = 1, marker: str = '') -> Line:
    """What those of the rows say that hold such a value."""
    rows = [row for row in rows if name in row]
    values = [scale * row[name] for row in rows]
    return Line(label, [row['step'] for row in rows], values, marker)


def curves_of(rows: Sequence[dict]) -> Curves:
    """What is to be drawn of a history, as `read_history` gives it."""
    logged = [row for row in rows if row.keys() >= _LOGGED]
    targets = sorted({name for row in rows for name in row if name.endswith(_SUFFIX)})
    losses = [_line(logged, name, name.replace('_', ' ')) for name in _LOSSES]
    verified = (
        _line(rows, name, plain(name.removesuffix(_SUFFIX)), 100, marker='o') for name in targets
    )
    return Curves(
        [line for line in losses if line.steps],
        [_line(logged, 'learning_rate', 'learning rate')],
        [_line(logged, 'accuracy', 'training', 100), *verified],
    )


def _legend_size(names: int) -> tuple[int, int]:
    """(columns, rows) of a legend; more than 20 names begin another column."""
    columns = -(-names // 20)
    return columns, -(-names // columns)


def plot_curves(folder: Path, title: str) -> Path:
    """Draw the history of the run in `folder` as `curves.png` beside it; returns its path."""
    # loaded here, since nothing else of a training run needs it; Figure needs no display
    from matplotlib.figure import Figure

    curves = curves_of(read_history(folder))
    figure = Figure(figsize=(12, 3.5))
    # fixed: to find places by what is drawn takes as long as to draw it
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.14, top=0.88, wspace=0.22)
    loss_axis, rate_axis, accuracy_axis = figure.subplots(1, 3)
    for axis, lines in zip((loss_axis, rate_axis, accuracy_axis), curves):
        for line in lines:
            axis.plot(line.steps, line.values, marker=line.marker, label=line.label)
        axis.set_xlabel('step')
        axis.grid(alpha=0.3)
        if axis.lines:
            columns, rows = _legend_size(len(axis.lines))
            size = min(_LETTERS, _ROOM / rows)
            # many columns have room for half of the usual lines and gaps, in letters
            narrow = {} if columns == 1 else {'handlelength': 1, 'columnspacing': 1}
            axis.legend(frameon=False, ncols=columns, fontsize=size, **narrow)
    loss_axis.set_ylim(bottom=0)
    accuracy_axis.set_ylabel('accuracy (%)')
    figure.suptitle(plain(title))
    path = Path(folder) / 'curves.png'
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path
