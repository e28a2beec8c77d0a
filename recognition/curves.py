"""A picture of a run: loss, learning rate and verification accuracy over its steps."""

from pathlib import Path

from ..common.files import atomic_path
from ..common.history import read_history
from ..eval.report.figures import plain

_LOGGED = {'loss', 'learning_rate', 'accuracy'}  # what a row of training holds


def plot_curves(folder: Path, title: str) -> Path:
    """Draw the history of the run in `folder` as `curves.png` beside it; returns its path."""
    # loaded here, since nothing else of a training run needs it; Figure needs no display
    from matplotlib.figure import Figure

    rows = read_history(folder)
    logged = [row for row in rows if row.keys() >= _LOGGED]
    targets = sorted({name for row in rows for name in row if name.endswith('_accuracy')})
    figure = Figure(figsize=(12, 3.5))
    # fixed: to find places by what is drawn takes as long as to draw it
    figure.subplots_adjust(left=0.05, right=0.99, bottom=0.14, top=0.88, wspace=0.22)
    loss_axis, rate_axis, accuracy_axis = figure.subplots(1, 3)
    steps = [row['step'] for row in logged]
    for name in ('loss', 'class_loss', 'distill_loss'):
        if logged and name in logged[0]:
            loss_axis.plot(steps, [row[name] for row in logged], label=name.replace('_', ' '))
    loss_axis.set_ylim(bottom=0)
    rate_axis.plot(steps, [row['learning_rate'] for row in logged], label='learning rate')
    accuracy_axis.plot(steps, [100 * row['accuracy'] for row in logged], label='training')
    for name in targets:
        points = [(row['step'], 100 * row[name]) for row in rows if name in row]
        accuracy_axis.plot(*zip(*points), marker='o', label=plain(name.removesuffix('_accuracy')))
    accuracy_axis.set_ylabel('accuracy (%)')
    for axis in (loss_axis, rate_axis, accuracy_axis):
        axis.set_xlabel('step')
        axis.grid(alpha=0.3)
        if axis.lines:
            axis.legend(frameon=False)
    figure.suptitle(plain(title))
    path = Path(folder) / 'curves.png'
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)
    return path
