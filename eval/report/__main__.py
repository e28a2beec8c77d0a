"""One self-contained HTML page from training runs and evaluation results, side by side.

RUN is the folder of a training run (history.jsonl, and the results saved in it as .npz), or one
results file of `verify --save` or `identify --save`; NAME=RUN gives it another name. Differences
and tests compare every run with the first.
"""

import argparse
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import numpy as np

from ...common import console
from ...common.errors import InputError
from ...common.files import atomic_write, output_folder
from ...common.history import HISTORY, read_history
from ...common.run_files import checkpoint_numbers, read_state, state_path
from ..rates import roc_points
from ..results import IDENTIFICATION, Results, load_results
from . import figures
from .page import FigureItem, Item, PairsItem, Section, TableItem, page, write_files
from .statistics import (
    METRICS,
    REPLICATES,
    Interval,
    RateAtFar,
    bootstrap,
    held_out_correct,
    mcnemar,
    weighted_mean,
)

log = logging.getLogger(__name__)

FARS = (1e-3, 1e-2, 1e-1)
_BINS = 60
_SHOWN_CONFIG = (
    ('network', 'network'),
    ('network_options', 'options'),
    ('loss', 'loss'),
    ('teacher', 'teacher'),
    ('data_dir', 'data'),
    ('num_classes', 'people'),
    ('num_images', 'images'),
    ('total_steps', 'steps'),
    ('per_batch_size', 'batch'),
    ('lr', 'learning rate'),
)


@dataclass
class Run:
    """What is known of one model."""

    name: str
    history: list[dict] = field(default_factory=list)
    config: dict = field(default_factory=dict)
    seconds: float = 0.0  # of training
    targets: dict[str, dict] = field(default_factory=dict)  # verification: target -> arrays
    identification: Optional[Results] = None


# --- reading


def _training_state(folder: Path) -> dict:
    """Configuration and state that the newest checkpoint of a run was saved with, or {}."""
    numbers = checkpoint_numbers(folder / 'model')
    if not numbers:
        return {}
    config, state = read_state(folder / 'model', numbers[-1])
    if type(state.get('seconds', 0)) not in (int, float):
        path = state_path(folder / 'model', numbers[-1])
        raise InputError(f'{path} is no state of a training run; remove it')
    return {'config': config, 'state': state}


def _add_results(run: Run, path: Path) -> None:
    results = load_results(path)
    if results.kind == IDENTIFICATION:
        run.identification = results
        return
    for name in results.about['targets']:
        prefix = f'{name}/'
        run.targets[name] = {
            key[len(prefix) :]: array
            for key, array in results.arrays.items()
            if key.startswith(prefix)
        }


def read_run(text: str) -> Run:
    """A RUN argument; InputError if there is nothing to report in it."""
    name, _, rest = text.rpartition('=')
    path = Path(text) if Path(text).exists() else Path(rest)
    name = name if path != Path(text) else ''
    if path.is_dir():
        run = Run(name or path.resolve().name, read_history(path))
        state = _training_state(path)
        if state:
            run.config = state['config']
            run.seconds = float(state['state'].get('seconds', 0))
        for results in sorted(path.glob('*.npz')):
            try:
                _add_results(run, results)
            except InputError as error:  # embeddings, or the state of a run under way
                log.info('left out: %s', error)
        if not run.history and not run.targets and not run.identification:
            raise InputError(f'run {path}: no {HISTORY} and no results (.npz) in it')
        return run
    if not path.is_file():
        raise InputError(f'run {text} does not exist; expected a folder of a run or a results .npz')
    run = Run(name or path.stem)
    _add_results(run, path)
    return run


def read_runs(texts: Sequence[str]) -> list[Run]:
    """All RUN arguments; InputError for two of one name."""
    runs = [read_run(text) for text in texts]
    names = [run.name for run in runs]
    double = next((name for name in names if names.count(name) > 1), None)
    if double is not None:
        raise InputError(f'two runs are called {double}; name one, e.g. other={texts[-1]}')
    return runs


# --- sections


def _percent(interval: Interval, signed: bool = False) -> str:
    value, low, high = (100 * number for number in interval)
    sign = '+' if signed else ''
    return f'{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]'


def _slug(*words: str) -> str:
    return re.sub(r'[^a-z0-9]+', '-', '-'.join(words).lower()).strip('-')


def _option_text(value) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{key}={item}' for key, item in value.items()) or '–'
    return '–' if value in ('', None) else str(value)


def _training_table(runs: Sequence[Run]) -> TableItem:
    """What was trained on what, and how it ended; a column a run."""
    rows = [
        (title, *(_option_text(run.config.get(key)) for run in runs))
        for key, title in _SHOWN_CONFIG
        if any(run.config.get(key) not in ('', None, {}) for run in runs)
    ]
    last = [next((row for row in reversed(run.history) if 'loss' in row), {}) for run in runs]
    for key, title in (('loss', 'last loss'), ('images_per_second', 'images/s at the end')):
        rows.append((title, *(f'{row[key]:.3g}' if key in row else '–' for row in last)))
    rows.append(('time', *(console.duration(run.seconds) if run.seconds else '–' for run in runs)))
    return TableItem('training', 'Runs', ('', *(run.name for run in runs)), rows)


def _history_figures(histories: Mapping[str, list[dict]]) -> list[FigureItem]:
    """A figure for whatever was logged: loss, rate, accuracies."""
    logged = {name for rows in histories.values() for row in rows for name in row}
    suffix = '_accuracy'
    targets = sorted(name for name in logged if name.endswith(suffix))
    items = []
    for title, name, percent in (
        ('Loss', 'loss', False),
        ('Learning rate', 'learning_rate', False),
        ('Training accuracy', 'accuracy', True),
        *((f'Accuracy on {name[: -len(suffix)]}', name, True) for name in targets),
    ):
        figure = figures.history_curves(title, histories, [name], percent)
        if figure is not None:
            caption = f'{title} over training steps'
            items.append(FigureItem(_slug('training', title), figure, caption))
    return items


def training_section(runs: Sequence[Run]) -> Optional[Section]:
    """What was trained on what, and the curves."""
    runs = [run for run in runs if run.history or run.config]
    if not runs:
        return None
    section = Section('Training', 'What was trained on what, and how it went.')
    section.items.append(_training_table(runs))
    section.items += _history_figures({run.name: run.history for run in runs})
    return section


def _statistics(target: Mapping) -> Callable[[np.ndarray], np.ndarray]:
    """Weights -> accuracy and TAR at each of FARS."""
    distances, issame = target['distances'], target['issame']
    correct = held_out_correct(distances, issame, target['fold_thresholds']).astype(float)
    rates = [RateAtFar(distances, issame, far) for far in FARS]
    return lambda weights: np.array(
        [weighted_mean(correct, weights), *(rate(weights) for rate in rates)]
    )


def _measurable(target: Mapping) -> list[float]:
    """Those of FARS for which the set has enough different pairs."""
    return [far for far in FARS if far * (~target['issame']).sum() >= 1]


def summary_table(name: str, targets: Mapping[str, Mapping]) -> TableItem:
    """Accuracy and TAR of every run with intervals."""
    rows, fars = [], _measurable(next(iter(targets.values())))
    for run, target in targets.items():
        accuracy, *tars = bootstrap(_statistics(target), target['identities'], target['issame'])
        measured = [_percent(tar) for far, tar in zip(FARS, tars) if far in fars]
        folds = 100 * target['fold_accuracies']
        spread = f'{folds.mean():.2f} ± {folds.std():.2f}'
        rows.append((run, _percent(accuracy), spread, *measured))
    first = next(iter(targets.values()))
    people = f'{len(np.unique(first["identities"])):,} identities'
    if not first['identities_named']:
        people += ' (as far as the pictures tell; verify --pair-list knows them)'
    return TableItem(
        _slug(name, 'summary'),
        'Accuracy and true-accept rates, %',
        ('run', 'accuracy', 'folds: mean ± std', *(f'TAR @ FAR {far:g}' for far in fars)),
        rows,
        f'[low, high]: 95 % confidence, bootstrap over {people}, '
        f'{REPLICATES:,} replicates. Thresholds of the accuracy are chosen on the other folds.',
    )


def comparison_table(name: str, targets: Mapping[str, Mapping]) -> Optional[TableItem]:
    """Differences to the first run on the same pairs; None if no other run has them."""
    (first_name, first), *others = targets.items()
    same = [
        (run, target)
        for run, target in others
        if str(target['pairs_digest']) == str(first['pairs_digest'])
    ]
    if not same:
        return None
    before, rows = _statistics(first), []
    correct = [
        held_out_correct(target['distances'], target['issame'], target['fold_thresholds'])
        for target in (first, *(target for _, target in same))
    ]
    fars = _measurable(first)
    for (run, target), right in zip(same, correct[1:]):
        after = _statistics(target)

        def difference(weights: np.ndarray, after: Callable = after) -> np.ndarray:
            return after(weights) - before(weights)

        accuracy, *tars = bootstrap(difference, first['identities'], first['issame'])
        test = mcnemar(right, correct[0])
        measured = [_percent(tar, True) for far, tar in zip(FARS, tars) if far in fars]
        mcnemars = (test.only_first, test.only_second, f'{test.p_value:.2g}')
        rows.append((run, _percent(accuracy, True), *measured, *mcnemars))
    rates = (f'TAR @ FAR {far:g}' for far in fars)
    tests = ('only it is right', f'only {first_name} is', 'McNemar p')
    return TableItem(
        _slug(name, 'differences'),
        f'Differences to {first_name}, percentage points',
        ('run', 'accuracy', *rates, *tests),
        rows,
        'Both models see the same drawn identities in every replicate. McNemar: exact, two-sided, '
        'on the pairs that one of the two decides rightly.',
    )


def metrics_table(name: str, targets: Mapping[str, Mapping]) -> Optional[TableItem]:
    """Every number of METRICS for every run, with its interval; None where there are none."""
    if not METRICS.names():
        return None
    rows = []
    for run, target in targets.items():
        pairs = (target['distances'], target['issame'])

        def numbers(weights: np.ndarray, pairs: tuple = pairs) -> np.ndarray:
            return np.array([METRICS.get(metric)(*pairs, weights) for metric in METRICS])

        intervals = bootstrap(numbers, target['identities'], target['issame'])
        rows.append(
            (run, *(f'{value:.3f} [{low:.3f}, {high:.3f}]' for value, low, high in intervals))
        )
    note = '[low, high]: 95 % confidence, bootstrap over identities.'
    return TableItem(_slug(name, 'metrics'), 'More metrics', ('run', *METRICS), rows, note)


def _curve(target: Mapping) -> tuple[np.ndarray, np.ndarray, None]:
    roc = roc_points(-target['distances'], target['issame'])
    return roc.fpr, roc.tpr, None


def _curve_items(name: str, curves: Mapping[str, tuple]) -> list[FigureItem]:
    """ROC and DET of all runs."""
    return [
        FigureItem(
            _slug(name, title),
            figures.roc_curve(f'{title} of {name}', curves, det),
            f'{title} curves of {name}',
        )
        for title, det in (('ROC', False), ('DET', True))
    ]


def _histogram(name: str, run: str, target: Mapping) -> FigureItem:
    edges = np.linspace(-1, 1, _BINS + 1)
    cosine = 1 - target['distances'] / 2
    shares = [
        np.histogram(cosine[kind].clip(-1, 1), edges)[0] / kind.sum()
        for kind in (target['issame'], ~target['issame'])
    ]
    threshold = 1 - float(target['fold_thresholds'].mean()) / 2
    figure = figures.histogram(f'Scores: {run}', edges, *shares, threshold, 'cosine')
    return FigureItem(
        _slug(name, 'scores', run), figure, f'Scores of genuine and impostor pairs of {run}'
    )


def _hardest(run: str, target: Mapping, most: int) -> list[PairsItem]:
    items = []
    for kind, title in (
        ('accepts', 'Hardest false accepts: different people, scored highest'),
        ('rejects', 'Hardest false rejects: one person, scored lowest'),
    ):
        pairs = target[f'hardest_{kind}'][:most]
        captions = [f'cosine {1 - target["distances"][pair] / 2:.3f}' for pair in pairs]
        items.append(PairsItem(f'{run}. {title}', target[f'images_{kind}'], captions))
    return items


def verification_section(name: str, targets: Mapping[str, Mapping]) -> Section:
    """One pair set: run -> its arrays."""
    first = next(iter(targets.values()))
    same = int(first['issame'].sum())
    section = Section(
        f'Verification: {name}',
        f'{same:,} genuine and {len(first["issame"]) - same:,} impostor pairs, '
        f'{len(first["fold_accuracies"])}-fold protocol.',
    )
    section.items.append(summary_table(name, targets))
    more = (metrics_table(name, targets), comparison_table(name, targets))
    section.items += [table for table in more if table]
    section.items += _curve_items(name, {run: _curve(target) for run, target in targets.items()})
    folds = {run: target['fold_accuracies'] for run, target in targets.items()}
    figure = figures.fold_accuracies('Accuracy by fold', folds)
    section.items.append(FigureItem(_slug(name, 'folds'), figure, f'Fold accuracies on {name}'))
    section.items += [_histogram(name, run, target) for run, target in targets.items()]
    for run, target in targets.items():
        section.items += _hardest(run, target, 12 if len(targets) <= 2 else 6)
    return section


def _tpr_table(pairs: Mapping[str, Results]) -> TableItem:
    """TPR at every FPR that a run was measured at."""
    counts = ('probes', 'distractors')
    measured = {run: item.about['pairs'] for run, item in pairs.items()}
    fprs = sorted({fpr for result in measured.values() for fpr in result['tpr']}, key=float)
    rows = [
        (
            run,
            *(f'{item.about[count]:,}' for count in counts),
            f'{measured[run]["negatives"]:,}',
            *(_percent_or_dash(measured[run]['tpr'].get(fpr)) for fpr in fprs),
        )
        for run, item in pairs.items()
    ]
    columns = ('run', *counts, 'negative pairs', *(f'@ {float(fpr):g}' for fpr in fprs))
    return TableItem('identification', 'TPR at FPR, %', columns, rows)


def _percent_or_dash(rate: Optional[float]) -> str:
    return '–' if rate is None else f'{100 * rate:.2f}'


def _pair_items(found: Mapping[str, Results]) -> list[Item]:
    """TPR at FPR as a table and as curves."""
    pairs = {run: item for run, item in found.items() if 'pairs' in item.about}
    if not pairs:
        return []
    curves = {
        run: tuple(item.arrays[f'curve_{key}'] for key in ('fpr', 'tpr', 'exact'))
        for run, item in pairs.items()
    }
    return [_tpr_table(pairs), *_curve_items('Identification', curves)]


def _rank_items(found: Mapping[str, Results]) -> list[Item]:
    """Rank-k by the number of distractors, as a table and as curves."""
    curves = {
        run: (item.arrays['distractors'], item.arrays['rank_rates'])
        for run, item in found.items()
        if 'rank_rates' in item.arrays
    }
    if not curves:
        return []
    first = {run: dict(zip(numbers, rates[:, 0])) for run, (numbers, rates) in curves.items()}
    sizes = sorted({size for rates in first.values() for size in rates})
    rows = [
        (run, *(_percent_or_dash(rates.get(size)) for size in sizes))
        for run, rates in first.items()
    ]
    columns = ('run', *(f'{size:,}' for size in sizes))
    figure = figures.distractor_curve('Rank-k among distractors', curves)
    return [
        TableItem('ranks', 'Rank-1 by number of distractors, %', columns, rows),
        FigureItem('distractors', figure, 'Rank-1 over distractors'),
    ]


def _score_items(found: Mapping[str, Results]) -> list[Item]:
    """A histogram of genuine and impostor scores for every run."""
    items = []
    for run, item in found.items():
        if 'pairs' in item.about:
            arrays = [item.arrays[f'histogram_{key}'] for key in ('edges', 'genuine', 'impostor')]
            figure = figures.histogram(f'Scores: {run}', *arrays, None, 'cosine')
            name = _slug('identification', 'scores', run)
            items.append(FigureItem(name, figure, f'Scores of {run}'))
    return items


_IDENTIFICATION_ITEMS = (_pair_items, _rank_items, _score_items)


def identification_section(runs: Sequence[Run]) -> Optional[Section]:
    """TPR at FPR, distractor curves and score histograms of all runs that have them."""
    found = {run.name: run.identification for run in runs if run.identification}
    if not found:
        return None
    section = Section(
        'Identification',
        'Among distractors; every pair was compared. Dotted parts of a curve are estimated from '
        'random pairs.',
    )
    for items in _IDENTIFICATION_ITEMS:
        section.items += items(found)
    return section


def build_sections(runs: Sequence[Run]) -> list[Section]:
    """All sections that the runs have data for."""
    names = list(dict.fromkeys(name for run in runs for name in run.targets))
    with console.progress(len(names) + 2, 'report', 'sections') as bar:
        sections = [training_section(runs)]
        bar.advance()
        for name in names:
            targets = {run.name: run.targets[name] for run in runs if name in run.targets}
            sections.append(verification_section(name, targets))
            bar.advance()
        sections.append(identification_section(runs))
        bar.advance()
    return [section for section in sections if section]


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('runs', nargs='+', metavar='RUN', help='folder of a run, or results .npz')
    parser.add_argument('--out', type=Path, default=Path('report.html'), help='the page')
    parser.add_argument('--title', default='Face recognition report', help='its heading')
    parser.add_argument(
        '--files', type=Path, metavar='DIR', help='also figures (.svg, .png), tables (.csv, .md)'
    )


def run(arguments: argparse.Namespace) -> dict:
    runs = read_runs(arguments.runs)
    output_folder(arguments.out.parent)
    if arguments.files:
        output_folder(arguments.files)
    sections = build_sections(runs)
    subtitle = ' · '.join(run.name for run in runs)
    atomic_write(arguments.out, page(arguments.title, subtitle, sections))
    files = write_files(arguments.files, sections) if arguments.files else []
    for section in sections:
        for item in section.items:
            if isinstance(item, TableItem):
                console.table(f'{section.title}: {item.title}', item.columns, item.rows)
    log.info('report: %s (%.1f MB)', arguments.out, arguments.out.stat().st_size / 1e6)
    return {
        'out': str(arguments.out),
        'runs': [run.name for run in runs],
        'sections': [section.title for section in sections],
        'files': [str(path) for path in files],
    }


main = console.command('report', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
