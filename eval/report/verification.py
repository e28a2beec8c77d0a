"""The report's section on a pair set: rates with intervals, errors, curves, the hardest pairs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Callable, Optional

import numpy as np

from ..rates import roc_points
from . import figures
from .cells import interval_cell, number_cell, percent_cell, slug, spread_cell
from .groups import Labels, group_table
from .page import Cell, FigureItem, Item, PairsItem, Section, TableItem
from .statistics import (
    METRICS,
    REPLICATES,
    ErrorRates,
    Interval,
    RateAtFar,
    bootstrap,
    doubted,
    equal_error_rate,
    held_out_correct,
    mcnemar,
    weighted_mean,
    with_failures,
)

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
ENOUGH_ERRORS = 30  # Doddington et al. 2000: then a rate is within 30 % of itself at 90 %
_BINS = 60
_QUANTILES = (0, 0.001, 0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99, 0.999, 1)
_HARDEST = {'accepts': 'impostor', 'rejects': 'genuine'}  # kinds of saved pairs


@dataclass(frozen=True)
class Measured:
    """What is measured of a run on a pair set; rates are 0..1."""

    fars: tuple[float, ...]  # those of FARS for which the set has enough different pairs
    accuracy: Interval
    eer: Interval
    tars: tuple[Interval, ...]  # at each of `fars`
    cosines: tuple[float, ...]  # thresholds: accepted iff above
    accepted: tuple[int, ...]  # impostor pairs above them
    genuine: int
    impostor: int
    failed: tuple[int, int]  # genuine and impostor pairs that gave no score

    def frr(self, number: int) -> float:
        """False rejects at the number-th FAR, of all genuine pairs, failed ones refused."""
        return with_failures(1 - self.tars[number].value, self.failed[0], self.genuine)


def measurable(target: Mapping) -> list[float]:
    """Those of FARS for which the set has enough different pairs."""
    impostors = int((~target['issame']).sum())
    return [far for far in FARS if far * impostors * (1 + 1e-12) >= 1]


def _statistics(target: Mapping, fars: Sequence[float]) -> Callable[[np.ndarray], np.ndarray]:
    """Weights -> accuracy, equal error rate and TAR at each of `fars`."""
    distances, issame = target['distances'], target['issame']
    correct = held_out_correct(distances, issame, target['fold_thresholds']).astype(float)
    rates = [RateAtFar(distances, issame, far) for far in fars]
    errors = ErrorRates(distances, issame)
    return lambda weights: np.array(
        [
            weighted_mean(correct, weights),
            equal_error_rate(*errors(weights)),
            *(rate(weights) for rate in rates),
        ]
    )


def measure(target: Mapping, fars: Optional[Sequence[float]] = None) -> Measured:
    """Everything that has an interval, from one bootstrap."""
    fars = tuple(measurable(target) if fars is None else fars)
    distances, issame = target['distances'], target['issame']
    accuracy, eer, *tars = bootstrap(_statistics(target, fars), target['identities'], issame)
    genuine, pairs = int(issame.sum()), len(issame)
    accuracy = doubted(accuracy, pairs)
    tars = [doubted(tar, genuine) for tar in tars]
    cosines = [RateAtFar(distances, issame, far).cosine() for far in fars]
    impostors = 1 - distances[~issame] / 2
    failed = target.get('failed', np.zeros(2, int))
    return Measured(
        *(fars, accuracy, eer, tuple(tars), tuple(cosines)),
        accepted=tuple(int((impostors > cosine).sum()) for cosine in cosines),
        genuine=genuine,
        impostor=pairs - genuine,
        failed=(int(failed[0]), int(failed[1])),
    )


def measure_all(targets: Mapping[str, Mapping]) -> dict[str, Measured]:
    """`measure` of every run, at the FARs of the first."""
    fars = measurable(next(iter(targets.values())))
    return {run: measure(target, fars) for run, target in targets.items()}


def summary_table(
    name: str, targets: Mapping[str, Mapping], measured: Optional[Mapping[str, Measured]] = None
) -> TableItem:
    """Accuracy, equal error rate and TAR of every run with intervals."""
    measured = measured or measure_all(targets)
    rows = [
        (
            run,
            interval_cell(measured[run].accuracy),
            spread_cell([100 * accuracy for accuracy in target['fold_accuracies']]),
            interval_cell(measured[run].eer),
            *map(interval_cell, measured[run].tars),
        )
        for run, target in targets.items()
    ]
    first = next(iter(targets.values()))
    people = f'{len(np.unique(first["identities"])):,} identities'
    if not first['identities_named']:
        people += ' (as far as the pictures tell; verify --pair-list knows them)'
    fars = next(iter(measured.values())).fars
    return TableItem(
        slug(name, 'summary'),
        'Accuracy, equal error rate and true-accept rates, %',
        ('run', 'accuracy', 'folds: mean ± std', 'EER', *(f'TAR @ FAR {far:g}' for far in fars)),
        rows,
        f'[low, high]: 95 % confidence, bootstrap over {people}, '
        f'{REPLICATES:,} replicates (a rate without spread, such as 100 %: the exact interval of '
        'independent pairs). Thresholds of the accuracy are chosen on the other folds.',
    )


def threshold_table(name: str, measured: Mapping[str, Measured]) -> TableItem:
    """The cosine of every FAR, and what it refuses; failures counted where there are any."""
    failures = any(any(each.failed) for each in measured.values())
    rows = []
    for run, each in measured.items():
        for number, far in enumerate(each.fars):
            tar, accepted = each.tars[number], each.accepted[number]
            fnmr = Interval(1 - tar.value, 1 - tar.high, 1 - tar.low)
            row = [run, number_cell(far, 'g'), number_cell(each.cosines[number])]
            row += [interval_cell(fnmr), accepted, each.impostor]
            rows.append((*row, *([percent_cell(each.frr(number))] if failures else [])))
    note = (
        'A pair is accepted iff its cosine is above the threshold. FNMR: genuine pairs that are '
        f'refused. A rate that rests on fewer than {ENOUGH_ERRORS} errors is rough (rule of 30).'
    )
    if failures:
        counts = '; '.join(
            f'{run}: {each.failed[0]:,} genuine, {each.failed[1]:,} impostor'
            for run, each in measured.items()
        )
        note += f' FRR counts pairs that gave no score as refused (ISO/IEC 19795-1): {counts}.'
    return TableItem(
        slug(name, 'thresholds'),
        f'Thresholds on {name}',
        (
            *('run', 'FAR', 'cosine above', 'FNMR %', 'false accepts', 'of impostor pairs'),
            *(['FRR %'] if failures else []),
        ),
        rows,
        note,
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
    fars = measurable(first)
    before, afters = _statistics(first, fars), [_statistics(target, fars) for _, target in same]

    def differences(weights: np.ndarray) -> np.ndarray:
        known = before(weights)
        return np.concatenate([after(weights) - known for after in afters])

    intervals = bootstrap(differences, first['identities'], first['issame'])
    each, rows = len(intervals) // len(same), []
    correct = [
        held_out_correct(target['distances'], target['issame'], target['fold_thresholds'])
        for target in (first, *(target for _, target in same))
    ]
    for number, ((run, _), right) in enumerate(zip(same, correct[1:])):
        test = mcnemar(right, correct[0])
        mcnemars = (test.only_first, test.only_second, number_cell(test.p_value, '.2g'))
        moved = [interval_cell(i, True) for i in intervals[number * each : (number + 1) * each]]
        rows.append((run, *moved, *mcnemars))
    rates = (f'TAR @ FAR {far:g}' for far in fars)
    tests = ('only it is right', f'only {first_name} is', 'McNemar p')
    return TableItem(
        slug(name, 'differences'),
        f'Differences to {first_name}, percentage points',
        ('run', 'accuracy', 'EER', *rates, *tests),
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
        cells = (
            Cell(f'{value:.3f} [{low:.3f}, {high:.3f}]', (value, low, high), ('', 'low', 'high'))
            for value, low, high in intervals
        )
        rows.append((run, *cells))
    note = '[low, high]: 95 % confidence, bootstrap over identities.'
    return TableItem(slug(name, 'metrics'), 'More metrics', ('run', *METRICS), rows, note)


def quantile_table(name: str, targets: Mapping[str, Mapping]) -> TableItem:
    """Quantiles of the cosines of every run, by kind of pair."""
    rows = []
    for run, target in targets.items():
        cosines = 1 - target['distances'] / 2
        for kind, pairs in (('genuine', target['issame']), ('impostor', ~target['issame'])):
            values = np.quantile(cosines[pairs], _QUANTILES)
            rows.append((run, kind, *map(number_cell, values)))
    shown = ('lowest', *(f'{100 * share:g} %' for share in _QUANTILES[1:-1]), 'highest')
    return TableItem(
        slug(name, 'quantiles'), 'Quantiles of the cosine', ('run', 'pairs', *shown), rows
    )


def _curve(target: Mapping) -> tuple[np.ndarray, np.ndarray, None]:
    roc = roc_points(-target['distances'], target['issame'])
    return roc.fpr, roc.tpr, None


def curve_items(
    name: str,
    curves: Mapping[str, tuple],
    looks: Mapping[str, figures.Look],
    intervals: Optional[Mapping[str, Mapping[float, tuple]]] = None,
) -> list[FigureItem]:
    """ROC and DET of all runs; bars of TAR at some FARs where there are intervals."""
    bars = ', with 95 % intervals' if intervals else ''
    return [
        FigureItem(
            slug(name, title),
            figures.roc_curve(f'{title} of {name}', curves, det, looks, intervals),
            f'{title} curves of {name}{bars}',
        )
        for title, det in (('ROC', False), ('DET', True))
    ]


def _errors_item(
    name: str,
    targets: Mapping[str, Mapping],
    measured: Mapping[str, Measured],
    looks: Mapping[str, figures.Look],
) -> FigureItem:
    """FMR and FNMR over the threshold."""
    curves = {}
    for run, target in targets.items():
        errors = ErrorRates(target['distances'], target['issame'])
        rates = errors(np.ones(len(target['issame'])))
        curves[run] = (errors.cosines[:-1], *(rate[:-1] for rate in rates))
    eers = {run: each.eer.value for run, each in measured.items()}
    figure = figures.error_curves(f'Errors of {name} over the threshold', curves, eers, looks)
    return FigureItem(slug(name, 'errors'), figure, f'FMR and FNMR of {name} over the threshold')


def _histogram(name: str, run: str, target: Mapping, look: figures.Look) -> FigureItem:
    edges = np.linspace(-1, 1, _BINS + 1)
    cosine = 1 - target['distances'] / 2
    shares = [
        np.histogram(cosine[kind].clip(-1, 1), edges)[0] / kind.sum()
        for kind in (target['issame'], ~target['issame'])
    ]
    threshold = 1 - float(target['fold_thresholds'].mean()) / 2
    figure = figures.histogram(f'Scores: {run}', edges, *shares, threshold, 'cosine', look.colour)
    return FigureItem(
        slug(name, 'scores', run), figure, f'Scores of genuine and impostor pairs of {run}'
    )


def _names(target: Mapping, pair: int) -> str:
    """Who is in a pair, where the set tells: 'Ada / Bob', or 'Ada'."""
    if target.get('names') is None or not target['identities_named']:
        return ''
    numbers = target['identities'][pair]
    first, second = (str(target['names'][number]).replace('_', ' ') for number in numbers)
    return f'{first} / {second} · ' if first != second else f'{first} · '


def hardest_items(run: str, target: Mapping, most: int) -> list[PairsItem]:
    """Impostor pairs that scored highest and genuine pairs that scored lowest, each marked by what
    its fold's threshold decides."""
    right = held_out_correct(target['distances'], target['issame'], target['fold_thresholds'])
    items = []
    for kind, pair_kind in _HARDEST.items():
        pairs = target[f'hardest_{kind}'][:most]
        wrong = int((~right[pairs]).sum())
        how = 'wrongly accepted' if kind == 'accepts' else 'wrongly refused'
        extreme = 'highest' if kind == 'accepts' else 'lowest'
        captions = [
            f'{_names(target, pair)}cosine {1 - target["distances"][pair] / 2:.3f}'
            for pair in pairs
        ]
        items.append(
            PairsItem(
                f'{run}. The {len(pairs)} {pair_kind} pairs that scored {extreme}; {wrong} of them '
                f'{how}',
                target[f'images_{kind}'],
                captions,
                right[pairs],
            )
        )
    return items


def verification_section(
    name: str,
    targets: Mapping[str, Mapping],
    looks: Optional[Mapping[str, figures.Look]] = None,
    measured: Optional[Mapping[str, Measured]] = None,
    labels: Sequence[Labels] = (),
) -> Section:
    """One pair set: run -> its arrays.

    Parameters
    ----------
    looks : of all runs of the report
    measured : what `measure_all` gives, if it is known already
    labels : columns of labels; groups are shown of those that fit the pair set
    """
    looks = looks or figures.looks_of(targets)
    measured = measured or measure_all(targets)
    first = next(iter(targets.values()))
    same = int(first['issame'].sum())
    section = Section(
        f'Verification: {name}',
        f'{same:,} genuine and {len(first["issame"]) - same:,} impostor pairs, '
        f'{len(first["fold_accuracies"])}-fold protocol.',
    )
    items: list[Optional[Item]] = [
        summary_table(name, targets, measured),
        metrics_table(name, targets),
        comparison_table(name, targets),
        *_group_items(name, targets, measured, labels),
    ]
    intervals = {
        run: {far: (tar.low, tar.high) for far, tar in zip(each.fars, each.tars)}
        for run, each in measured.items()
    }
    curves = {run: _curve(target) for run, target in targets.items()}
    items += curve_items(name, curves, looks, intervals)
    items.append(_errors_item(name, targets, measured, looks))
    folds = {run: target['fold_accuracies'] for run, target in targets.items()}
    figure = figures.fold_accuracies('Accuracy by fold', folds, looks)
    items.append(FigureItem(slug(name, 'folds'), figure, f'Fold accuracies on {name}'))
    items += [_histogram(name, run, target, looks[run]) for run, target in targets.items()]
    items.append(quantile_table(name, targets))
    for run, target in targets.items():
        items += hardest_items(run, target, 12 if len(targets) <= 2 else 6)
    section.items = [item for item in items if item]
    return section


def _group_items(
    name: str,
    targets: Mapping[str, Mapping],
    measured: Mapping[str, Measured],
    labels: Sequence[Labels],
) -> list[Optional[TableItem]]:
    """A table for every run and column of labels, at the lowest FAR that can be measured."""
    return [
        group_table(name, run, target, column, measured[run].cosines[0], measured[run].fars[0])
        for column in labels
        for run, target in targets.items()
        if measured[run].fars
    ]
