"""ROC curves of verification results as a picture."""

from collections.abc import Mapping
from pathlib import Path

from ..common.errors import InputError
from ..common.files import PathLike, atomic_path, output_file
from .report.figures import add_legend, plain, rate_limits
from .verification import VerificationResult

FORMATS = ('.png', '.pdf', '.svg')


def check_plot_path(path: PathLike) -> Path:
    """`path` if a plot can be written there, otherwise InputError; makes its folder."""
    path = Path(path)
    if path.suffix.lower() not in FORMATS:
        raise InputError(f'plot {path}: expected a name that ends in {", ".join(FORMATS)}')
    return output_file(path)


def plot_roc(path: PathLike, results: Mapping[str, VerificationResult]) -> None:
    """Write one curve per target, true accepts over false accepts (logarithmic).

    Parameters
    ----------
    path : picture to write; the suffix (.png, .pdf, .svg) chooses the format
    results : target name -> result

    Raises
    ------
    InputError for another suffix or a folder that cannot be written.
    """
    path = check_plot_path(path)
    # imported here: it takes a second that nobody else should wait for
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4.5), layout='constrained')
    FigureCanvasAgg(figure)  # draws without a display
    axes = figure.add_subplot()
    for name, result in results.items():
        shown = result.fpr > 0  # a logarithmic axis has no zero
        label = f'{plain(name)}: accuracy {result.accuracy:.4f}'
        axes.plot(result.fpr[shown], result.tpr[shown], label=label)
    axes.set_xscale('log')
    axes.set_xlim(right=1)
    lowest = min(result.tpr[result.fpr > 0].min() for result in results.values())
    axes.set_ylim(*rate_limits(float(lowest)))
    axes.set_xlabel('false-accept rate')
    axes.set_ylabel('true-accept rate')
    axes.grid(True, which='both', alpha=0.3)
    add_legend(axes, loc='lower right')
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=150)
