"""The report's figures, each a matplotlib figure made of arrays.

A figure takes the `looks` of all runs of a report, so that a run has one colour in all of them.
The page shows them as SVG with the style of `_DARK`, which a dark screen takes.
"""

import functools
import io
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, Optional

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)

# Okabe and Ito's colours, which the colour-blind can tell apart; one a run, in every figure
COLOURS = ('#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#333333')
STYLES = ('-', (0, (6, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1, 2)))  # when the colours are used up
INK, GREY, GRID = '#1c2430', '#7d8794', '#d3d8de'
# colour -> what it is on a dark screen; no two of the first may be equal
_DARK = {
    INK: '#e3e9f0',
    GREY: '#8f9bab',
    GRID: '#3a4553',
    '#0072b2': '#4aa8e0',
    '#d55e00': '#ff8a3d',
    '#009e73': '#2fc79b',
    '#333333': '#d0d4da',
}
MARKED_FARS = tuple(10.0**power for power in range(-9, 0))
_SIZE = (5.2, 3.7)
_INSIDE = 12  # names of a legend that the axes have room for
_IN_HALF = 30  # letters of a name of which two stand beside each other
_ROW = 0.185  # inches of a legend's line
_FEW = 12  # points of a line that are marked


class Look(NamedTuple):
    """How a run is drawn, everywhere."""

    colour: str
    style: Any  # a line style of matplotlib's


def looks_of(runs: Iterable[str]) -> dict[str, Look]:
    """A look for each run of a report; 28 differ."""
    return {
        run: Look(COLOURS[i % len(COLOURS)], STYLES[i // len(COLOURS) % len(STYLES)])
        for i, run in enumerate(runs)
    }


def plain(text: str) -> str:
    """Text that matplotlib shows as it is: a dollar sign starts no formula."""
    return text.replace('$', r'\$')


def _figure(title: str) -> tuple['Figure', 'Axes']:
    # loaded here: it takes a second that no other command should wait for; needs no display
    from matplotlib.figure import Figure

    figure = Figure(figsize=_SIZE, layout='constrained', facecolor='none')
    axes = figure.add_subplot(facecolor='none')
    axes.set_title(plain(title), fontsize=11, loc='left', color=INK)
    axes.grid(color=GRID, linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[['top', 'right']].set_visible(False)
    axes.spines[['bottom', 'left']].set_color(INK)
    axes.tick_params(which='both', color=INK, labelcolor=INK)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    return figure, axes


def add_legend(axes: 'Axes', below: bool = False, **options) -> None:
    """Add the names of what is drawn; many stand `below` the axes, for which the figure grows.

    `options` are those of matplotlib's legend, for few. The figure's layout is 'constrained'.
    """
    handles, labels = axes.get_legend_handles_labels()
    form = {'frameon': False, 'fontsize': 8.5, 'labelcolor': INK}
    if labels and (below or len(labels) > _INSIDE):
        columns = 2 if max(map(len, labels)) <= _IN_HALF else 1
        width, height = axes.figure.get_size_inches()
        rows = -(-len(labels) // columns)
        axes.figure.set_size_inches(width, height + _ROW * rows)
        axes.figure.legend(handles, labels, loc='outside lower center', ncols=columns, **form)
    elif labels:
        axes.legend(**form, **options)


def _looked(
    runs: Mapping[str, Any], looks: Optional[Mapping[str, Look]]
) -> Iterator[tuple[str, Any, Look]]:
    """(run as a label, its value, its look); without looks as if these were all runs."""
    looks = looks_of(runs) if looks is None else looks
    return ((plain(run), value, looks[run]) for run, value in runs.items())


def drawn(figure: 'Figure', form: str) -> bytes:
    """The figure as 'svg', 'png' or 'pdf'; the same bytes for the same figure."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    buffer = io.BytesIO()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter('always')
        # fonts as TrueType: many publishers take no Type 3
        settings = {'svg.hashsalt': 'report', 'svg.fonttype': 'none', 'pdf.fonttype': 42}
        with matplotlib.rc_context(settings):
            if form == 'svg':
                # the bytes of savefig, which draws everything once more to find its place first
                figure.set_facecolor('none')
                FigureCanvasSVG(figure).print_svg(buffer, metadata={'Date': None})
            else:
                metadata = {'CreationDate': None} if form == 'pdf' else None
                figure.savefig(buffer, format=form, dpi=200, metadata=metadata, facecolor='white')
    figure.set_layout_engine(None)  # everything has its place now, in the next form as well
    if form != 'svg' and any('missing from' in str(warning.message) for warning in caught):
        _say_what_is_missing(form)
    return buffer.getvalue()


@functools.cache
def _say_what_is_missing(form: str) -> None:
    log.warning('.%s figures lack letters that the font has not; .svg figures have them', form)


def svg(figure: 'Figure') -> bytes:
    """The figure as SVG with a transparent ground, and lighter on a dark screen."""
    rules = ' '.join(
        f'[style*="{kind}: {light}"] {{ {kind}: {dark} !important }}'
        for light, dark in _DARK.items()
        for kind in ('stroke', 'fill')
    )
    style = f'<style>@media screen and (prefers-color-scheme: dark) {{ {rules} }}</style>'
    head, _, rest = drawn(figure, 'svg').partition(b' <defs>')
    return head + style.encode() + b'\n <defs>' + rest


def history_curves(
    title: str,
    histories: Mapping[str, list[dict]],
    names: Sequence[str],
    percent: bool = False,
    looks: Optional[Mapping[str, Look]] = None,
) -> Optional['Figure']:
    """Logged values over steps, one colour a run, one style a value; None if nobody logged any."""
    figure, axes = _figure(title)
    for run, rows, look in _looked(histories, looks):
        for name, style in zip(names, ('-', '--', ':', '-.')):
            points = [
                (row['step'], row[name] * (100 if percent else 1)) for row in rows if name in row
            ]
            if points:
                alone = len(names) == 1
                label = run if alone else f'{run}: {name.replace("_", " ")}'
                axes.plot(
                    *zip(*points),
                    linestyle=look.style if alone else style,
                    color=look.colour,
                    label=label,
                    marker='o' if len(points) < _FEW else None,
                    markersize=3,
                )
    if not axes.lines:
        return None
    axes.set_xlabel('step')
    if percent:
        axes.set_ylabel('%')
    add_legend(axes)
    return figure


def _at(fpr: np.ndarray, rate: np.ndarray, far: float) -> float:
    """The rate at the last point that does not exceed a FAR."""
    return float(rate[int(np.searchsorted(fpr, far * (1 + 1e-9), side='right')) - 1])


def roc_curve(
    title: str,
    curves: Mapping[str, tuple],
    det: bool = False,
    looks: Optional[Mapping[str, Look]] = None,
    intervals: Optional[Mapping[str, Mapping[float, tuple]]] = None,
) -> 'Figure':
    """ROC (true accepts) or DET (false rejects) over false accepts, with FAR points marked.

    The axes show where the curves lie: an ROC starts a little below the lowest true-accept rate
    at the smallest FAR.

    Parameters
    ----------
    curves : run -> (fpr, tpr, exact): ascending float arrays, and bool or None: points that are
        estimated are dotted
    looks : run -> look, of all runs of the report
    intervals : run -> {FAR: (low, high)} of the true-accept rate, drawn as bars
    """
    figure, axes = _figure(title)
    places = [fpr[fpr > 0].min() for fpr, _, _ in curves.values()]
    lowest_far = min([0.1, *places])
    rates = [tpr if not det else 1 - tpr for _, tpr, _ in curves.values()]
    axes.set_xscale('log')
    errors = det and any((rate > 0).any() for rate in rates)
    axes.set_yscale('log' if errors else 'linear')  # nothing can be drawn on a logarithmic axis
    for number, (run, (fpr, _, exact), look) in enumerate(_looked(curves, looks)):
        rate = rates[number]
        exact = np.ones(len(fpr), bool) if exact is None else exact
        # what is accepted without a false accept lies left of a logarithmic axis: drawn at its edge
        x = np.maximum(fpr, lowest_far / 1.3)
        # steps between the points of a small set, whose rates lie nowhere in between
        step = {'drawstyle': 'steps-post'} if len(fpr) < 5000 else {}
        axes.plot(x[exact], rate[exact], linestyle=look.style, color=look.colour, label=run, **step)
        axes.plot(x[~exact], rate[~exact], ':', color=look.colour, **step)
        marks = [far for far in MARKED_FARS if far >= places[number]]
        at = [_at(fpr, rate, far) for far in marks]
        axes.plot(marks, at, 'o', color=look.colour, markersize=4)
    _draw_intervals(axes, intervals or {}, det, looks or looks_of(curves))
    # limits of our own: a model without errors has nothing to draw on a logarithmic axis
    axes.set_xlim(lowest_far / 1.3, 1.3)
    axes.set_xlabel('false-accept rate')
    if det:
        lowest_rate = min([0.1, *(rate[rate > 0].min() for rate in rates if (rate > 0).any())])
        highest = max(_at(fpr, 1 - tpr, lowest_far / 2) for fpr, tpr, _ in curves.values())
        axes.set_ylim(lowest_rate / 1.3, min(1.3, max(2 * highest, 10 * lowest_rate)))
        _label_between_decades(axes.yaxis)
        axes.set_ylabel('false-reject rate')
        if not any((rate > 0).any() for rate in rates):
            words = {'transform': axes.transAxes, 'ha': 'center', 'color': INK}
            axes.text(0.5, 0.5, 'no false rejects', **words)
    else:
        lowest = min(_at(fpr, tpr, lowest_far / 2) for fpr, tpr, _ in curves.values())
        axes.set_ylim(*rate_limits(lowest))
        axes.set_ylabel('true-accept rate')
    add_legend(axes, loc='lower left' if det else 'lower right')
    return figure


def _label_between_decades(axis: 'Axis') -> None:
    """1, 2 and 5 of every decade, where the axis has fewer than three decades."""
    from matplotlib.ticker import LogLocator, NullLocator, StrMethodFormatter

    low, high = axis.get_view_interval()
    if high < 1000 * low:
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter(StrMethodFormatter('{x:g}'))
        axis.set_minor_locator(NullLocator())


def rate_limits(lowest: float) -> tuple[float, float]:
    """Limits of an axis of rates from `lowest` to 1, with room on both sides."""
    room = max(1 - lowest, 0.01)
    return max(0.0, 1 - 1.4 * room), 1 + 0.06 * room


def _draw_intervals(axes: 'Axes', intervals: Mapping, det: bool, looks: Mapping) -> None:
    """Bars side by side: those of different runs at one FAR would hide each other."""
    for number, (run, bars) in enumerate(intervals.items()):
        shift = 1.06 ** (number - (len(intervals) - 1) / 2)
        for far, (low, high) in bars.items():
            ends = (1 - high, 1 - low) if det else (low, high)
            axes.plot(
                [far * shift] * 2,
                np.maximum(ends, 1e-9),
                color=looks[run].colour,
                linewidth=2.5,
                alpha=0.45,
                solid_capstyle='butt',
            )


def error_curves(
    title: str,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    eers: Mapping[str, float],
    looks: Optional[Mapping[str, Look]] = None,
) -> 'Figure':
    """FMR (dashed) and FNMR (solid) over the threshold, and where they meet.

    Parameters
    ----------
    curves : run -> (cosines ascending, fmr, fnmr)
    eers : run -> equal error rate, of the same runs in the same order
    """
    figure, axes = _figure(title)
    lowest, starts, ends = 0.1, [], []
    for (_, (cosine, fmr, fnmr), look), (run, eer) in zip(_looked(curves, looks), eers.items()):
        line = {'color': look.colour, 'drawstyle': 'steps-post'}
        label = f'{plain(run)}, EER {100 * eer:.2f} %'
        axes.plot(cosine, fnmr, label=label, **line)
        axes.plot(cosine, fmr, '--', **line)
        lowest = min([lowest, *fmr[fmr > 0], *fnmr[fnmr > 0]])
        meet = int(np.argmax(fnmr >= fmr))
        axes.plot([cosine[meet]], [max(eer, lowest)], 'o', color=look.colour, markersize=6)
        errors = np.flatnonzero(((fnmr > 0) & (fnmr < 0.5)) | ((fmr > 0) & (fmr < 0.5)))
        if len(errors):
            starts.append(cosine[errors[0]])
            ends.append(cosine[errors[-1]])
    for label, style in (('FNMR', '-'), ('FMR', '--')):
        axes.plot([], [], style, color=GREY, label=label)
    axes.set_yscale('log')
    axes.set_ylim(lowest / 2, 1.2)
    if starts:
        axes.set_xlim(min(starts) - 0.02, max(ends) + 0.02)
    axes.set_xlabel('threshold, cosine')
    axes.set_ylabel('error rate')
    add_legend(axes, below=True)  # the curves fill every corner
    return figure


def histogram(
    title: str,
    edges: np.ndarray,
    genuine: np.ndarray,
    impostor: np.ndarray,
    threshold: Optional[float],
    label: str,
    colour: str = COLOURS[0],
) -> 'Figure':
    """Shares of genuine (in the run's colour) and impostor pairs (grey) in bins of the score."""
    figure, axes = _figure(title)
    for shares, name, fill in (
        (impostor, 'impostor pairs', GREY),
        (genuine, 'genuine pairs', colour),
    ):
        axes.stairs(100 * shares, edges, fill=True, alpha=0.4, color=fill, label=name)
        axes.stairs(100 * shares, edges, color=fill)
    if threshold is not None:
        axes.axvline(
            threshold, color=INK, linestyle='--', linewidth=1, label=f'threshold {threshold:.3f}'
        )
    used = np.flatnonzero(genuine + impostor)
    axes.set_xlim(edges[used[0]], edges[used[-1] + 1])
    axes.set_xlabel(label)
    axes.set_ylabel('share of its kind, %')
    # room for the legend above the bars
    axes.set_ylim(0, 135 * max(genuine.max(), impostor.max()))
    add_legend(axes, loc='upper right')
    return figure


def distractor_curve(
    title: str,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray]],
    looks: Optional[Mapping[str, Look]] = None,
    intervals: Optional[Mapping[str, np.ndarray]] = None,
) -> 'Figure':
    """Rank-1 (solid) and rank-10 (dashed) over the number of distractors: run -> (sizes, rates).

    `intervals` are (S, 2) low and high of rank-1 by run, drawn as a band.
    """
    figure, axes = _figure(title)
    for run, (sizes, rates), look in _looked(curves, looks):
        axes.plot(
            sizes, 100 * rates[:, 0], 'o-', color=look.colour, markersize=4, label=f'{run}: rank-1'
        )
        if rates.shape[1] >= 10:
            form = {'color': look.colour, 'markersize': 3}
            axes.plot(sizes, 100 * rates[:, 9], 'o--', label=f'{run}: rank-10', **form)
    for run, band in (intervals or {}).items():
        colour = (looks or looks_of(curves))[run].colour
        axes.fill_between(curves[run][0], *(100 * band.T), color=colour, alpha=0.15, linewidth=0)
    axes.set_xscale('log')
    axes.set_xlabel('distractors')
    axes.set_ylabel('found, %')
    add_legend(axes)
    return figure


def fold_accuracies(
    title: str,
    accuracies: Mapping[str, np.ndarray],
    looks: Optional[Mapping[str, Look]] = None,
) -> 'Figure':
    """Accuracy of every fold, one row of points a run, with the mean."""
    figure, axes = _figure(title)
    for number, (_, values, look) in enumerate(_looked(accuracies, looks)):
        row = len(accuracies) - 1 - number  # the first is on top
        spread = np.linspace(-0.18, 0.18, len(values))
        axes.plot(100 * values, row + spread, 'o', color=look.colour, markersize=5, alpha=0.75)
        mean = 100 * values.mean()
        axes.plot([mean, mean], [row - 0.35, row + 0.35], color=look.colour, linewidth=2)
        axes.annotate(
            f'{mean:.2f}', (mean, row + 0.38), ha='center', va='bottom', fontsize=8.5, color=INK
        )
    axes.set_yticks(range(len(accuracies)), [plain(run) for run in accuracies][::-1])
    axes.set_ylim(-0.6, len(accuracies) - 0.4)
    axes.set_xlabel('accuracy of a fold, % (line: mean)')
    return figure


def interval_figure(
    title: str, names: Sequence[str], triples: Sequence[tuple[float, float, float]]
) -> 'Figure':
    """Values with their intervals, (value, low, high), a line each; those that hold 0 are grey."""
    figure, axes = _figure(title)
    for row, (value, low, high) in enumerate(triples):
        colour = COLOURS[0] if low > 0 or high < 0 else '#888888'
        axes.plot([low, high], [row, row], color=colour, linewidth=2)
        axes.plot([value], [row], 'o', color=colour, markersize=6)
    axes.axvline(0, color='#333333', linewidth=1)
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.5, -0.5)
    return figure
