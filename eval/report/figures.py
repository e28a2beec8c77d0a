"""The report's figures, each a matplotlib figure made of arrays."""

import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Optional

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, which the colour-blind can tell apart; one a run, in every figure
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#333333')
MARKED_FARS = tuple(10.0**power for power in range(-9, 0))
_SIZE = (5.2, 3.7)


def _figure(title: str) -> tuple['Figure', 'Axes']:
    # loaded here: it takes a second that no other command should wait for; needs no display
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout='constrained')
    axes = figure.add_subplot()
    axes.set_title(title, fontsize=11, loc='left')
    axes.grid(alpha=0.25)
    axes.spines[['top', 'right']].set_visible(False)
    return figure, axes


def _legend(axes: 'Axes', **options) -> None:
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False, fontsize=8.5, **options)


def _coloured(runs: Mapping[str, Any]) -> Iterator[tuple[str, Any, str]]:
    """(run, its value, its colour)."""
    return ((run, value, COLOURS[i % len(COLOURS)]) for i, (run, value) in enumerate(runs.items()))


def svg(figure: 'Figure') -> bytes:
    """The figure as SVG; the same bytes for the same figure."""
    import matplotlib

    buffer = io.BytesIO()
    with matplotlib.rc_context({'svg.hashsalt': 'report'}):
        figure.savefig(buffer, format='svg', metadata={'Date': None})
    return buffer.getvalue()


def history_curves(
    title: str, histories: Mapping[str, list[dict]], names: Sequence[str], percent: bool = False
) -> Optional['Figure']:
    """Logged values over steps, one colour a run, one style a value; None if nobody logged any."""
    figure, axes = _figure(title)
    styles = ('-', '--', ':', '-.')
    for run, rows, colour in _coloured(histories):
        for name, style in zip(names, styles):
            points = [
                (row['step'], row[name] * (100 if percent else 1)) for row in rows if name in row
            ]
            if points:
                label = run if len(names) == 1 else f'{run}: {name.replace("_", " ")}'
                few = 'o' if len(points) < 12 else None
                axes.plot(*zip(*points), style, color=colour, label=label, marker=few, markersize=3)
    if not axes.lines:
        return None
    axes.set_xlabel('step')
    if percent:
        axes.set_ylabel('%')
    _legend(axes)
    return figure


def roc_curve(title: str, curves: Mapping[str, tuple], det: bool = False) -> 'Figure':
    """ROC (true accepts) or DET (false rejects) over false accepts, with FAR points marked.

    Parameters
    ----------
    curves : run -> (fpr, tpr, exact): ascending float arrays, and bool or None: points that are
        estimated are dotted
    """
    figure, axes = _figure(title)
    lowest_far, lowest_rate = 0.1, 0.1
    for _, (fpr, tpr, _), _ in _coloured(curves):
        rate = 1 - tpr if det else tpr
        lowest_far = min([lowest_far, *fpr[fpr > 0]])
        lowest_rate = min([lowest_rate, *rate[rate > 0]])
    for run, (fpr, tpr, exact), colour in _coloured(curves):
        rate = 1 - tpr if det else tpr
        exact = np.ones(len(fpr), bool) if exact is None else exact
        # what is accepted without a false accept lies left of a logarithmic axis: drawn at its edge
        places = np.maximum(fpr, lowest_far / 1.3)
        # steps between the points of a small set, whose rates lie nowhere in between
        step = {'drawstyle': 'steps-post'} if len(fpr) < 5000 else {}
        axes.plot(places[exact], rate[exact], color=colour, label=run, **step)
        axes.plot(places[~exact], rate[~exact], ':', color=colour, **step)
        marks = [far for far in MARKED_FARS if far >= fpr[fpr > 0].min()]
        at = [int(np.searchsorted(fpr, far * (1 + 1e-9), side='right')) - 1 for far in marks]
        axes.plot(marks, rate[at], 'o', color=colour, markersize=4)
    # limits of our own: a model without errors has nothing to draw on a logarithmic axis
    axes.set_xscale('log')
    axes.set_xlim(lowest_far / 1.3, 1.3)
    axes.set_xlabel('false-accept rate')
    if det:
        axes.set_yscale('log')
        axes.set_ylim(lowest_rate / 1.3, 1.3)
        axes.set_ylabel('false-reject rate')
    else:
        axes.set_ylim(0, 1.02)
        axes.set_ylabel('true-accept rate')
    _legend(axes, loc='lower left' if det else 'lower right')
    return figure


def histogram(
    title: str,
    edges: np.ndarray,
    genuine: np.ndarray,
    impostor: np.ndarray,
    threshold: Optional[float],
    label: str,
) -> 'Figure':
    """Shares of genuine and impostor pairs in bins of the score."""
    figure, axes = _figure(title)
    for shares, name, colour in (
        (impostor, 'impostor pairs', COLOURS[1]),
        (genuine, 'genuine pairs', COLOURS[0]),
    ):
        axes.stairs(100 * shares, edges, fill=True, alpha=0.45, color=colour, label=name)
        axes.stairs(100 * shares, edges, color=colour)
    if threshold is not None:
        axes.axvline(threshold, color='#333333', linestyle='--', linewidth=1, label='threshold')
    used = np.flatnonzero(genuine + impostor)
    axes.set_xlim(edges[used[0]], edges[used[-1] + 1])
    axes.set_xlabel(label)
    axes.set_ylabel('share of its kind, %')
    _legend(axes)
    return figure


def distractor_curve(title: str, curves: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> 'Figure':
    """Rank-1 (solid) and rank-10 (dashed) over the number of distractors: run -> (sizes, rates)."""
    figure, axes = _figure(title)
    for run, (sizes, rates), colour in _coloured(curves):
        axes.plot(
            sizes, 100 * rates[:, 0], 'o-', color=colour, markersize=4, label=f'{run}: rank-1'
        )
        if rates.shape[1] >= 10:
            look = {'color': colour, 'markersize': 3}
            axes.plot(sizes, 100 * rates[:, 9], 'o--', label=f'{run}: rank-10', **look)
    axes.set_xscale('log')
    axes.set_xlabel('distractors')
    axes.set_ylabel('found, %')
    _legend(axes)
    return figure


def fold_accuracies(title: str, accuracies: Mapping[str, np.ndarray]) -> 'Figure':
    """Accuracy of every fold, one row of points a run, with the mean."""
    figure, axes = _figure(title)
    for row, (_, values, colour) in enumerate(_coloured(accuracies)):
        spread = np.linspace(-0.18, 0.18, len(values))
        axes.plot(100 * values, row + spread, 'o', color=colour, markersize=5, alpha=0.75)
        mean = 100 * values.mean()
        axes.plot([mean, mean], [row - 0.35, row + 0.35], color=colour, linewidth=2)
        axes.annotate(f'{mean:.2f}', (mean, row + 0.38), ha='center', va='bottom', fontsize=8.5)
    axes.set_yticks(range(len(accuracies)), list(accuracies))
    axes.set_ylim(len(accuracies) - 0.4, -0.6)
    axes.invert_yaxis()
    axes.set_xlabel('accuracy of a fold, % (line: mean)')
    return figure
