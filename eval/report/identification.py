"""The report's section on identification among distractors and in open sets."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Optional

import numpy as np

from ..results import Results
from . import figures
from .cells import interval_cell, percent_cell, slug
from .page import FigureItem, Item, Section, TableItem
from .runs import Run
from .statistics import Interval, cluster_interval
from .verification import curve_items

_NOTE = (
    '[low, high]: 95 %, at the threshold as it was measured: the wider of a bootstrap over the '
    'identities of the probes and the exact interval of independent trials.'
)


def _intervals(item: Results, name: str) -> Optional[list[Interval]]:
    """Of the rows of hits that `identify --save` keeps; None of results without them."""
    hits, totals = (item.arrays.get(f'{name}_{key}') for key in ('hits', 'totals'))
    if hits is None or totals is None:
        return None
    return [cluster_interval(row, totals) for row in hits]


def _cells(item: Results, name: str, rates: Mapping[Any, float], wanted: Iterable) -> list:
    """A cell for each wanted rate, with its interval where there is one."""
    intervals = _intervals(item, name)
    known = dict(zip(rates, intervals)) if intervals else {}
    return [
        interval_cell(known[key]) if key in known else percent_cell(rates.get(key))
        for key in wanted
    ]


def _tpr_table(pairs: Mapping[str, Results]) -> TableItem:
    """TPR at every FPR that a run was measured at."""
    counts = ('probes', 'distractors')
    measured = {run: item.about['pairs'] for run, item in pairs.items()}
    fprs = sorted({fpr for result in measured.values() for fpr in result['tpr']}, key=float)
    rows, note = [], _NOTE
    for run, item in pairs.items():
        result = measured[run]
        head = (*(item.about[count] for count in counts), result['negatives'])
        rows.append((run, *head, *_cells(item, 'tpr', result['tpr'], fprs)))
        lost = item.about.get('lost', {}).get('positives', 0)
        if lost:
            share = result['positives'] / (result['positives'] + lost)
            rates = {fpr: share * tpr for fpr, tpr in result['tpr'].items()}
            cells = (percent_cell(rates.get(fpr)) for fpr in fprs)
            rows.append((f'{run}, failures refused', *head, *cells))
            note += f' {run}: {lost:,} genuine pairs have a probe without an embedding.'
    columns = ('run', *counts, 'negative pairs', *(f'TPR @ {float(fpr):g}' for fpr in fprs))
    return TableItem('identification', 'TPR at FPR, %', columns, rows, note)


def _pair_items(found: Mapping[str, Results], looks: Mapping[str, figures.Look]) -> list[Item]:
    """TPR at FPR as a table and as curves."""
    pairs = {run: item for run, item in found.items() if 'pairs' in item.about}
    if not pairs:
        return []
    curves = {
        run: tuple(item.arrays[f'curve_{key}'] for key in ('fpr', 'tpr', 'exact'))
        for run, item in pairs.items()
    }
    bars = {}
    for run, item in pairs.items():
        intervals = _intervals(item, 'tpr')
        if intervals:
            fprs = map(float, item.about['pairs']['tpr'])
            bars[run] = {fpr: (each.low, each.high) for fpr, each in zip(fprs, intervals)}
    return [_tpr_table(pairs), *curve_items('Identification', curves, looks, bars)]


def _rank_items(found: Mapping[str, Results], looks: Mapping[str, figures.Look]) -> list[Item]:
    """Rank-k by the number of distractors, as a table and as curves."""
    curves = {
        run: (item.arrays['distractors'], item.arrays['rank_rates'])
        for run, item in found.items()
        if 'rank_rates' in item.arrays
    }
    if not curves:
        return []
    first = {
        run: dict(zip(map(int, numbers), rates[:, 0])) for run, (numbers, rates) in curves.items()
    }
    sizes = sorted({size for rates in first.values() for size in rates})
    rows = [(run, *_cells(found[run], 'rank', rates, sizes)) for run, rates in first.items()]
    columns = ('run', *(f'{size:,}' for size in sizes))
    bands = {}
    for run in curves:
        intervals = _intervals(found[run], 'rank')
        if intervals:
            bands[run] = np.array([(each.low, each.high) for each in intervals])
    figure = figures.distractor_curve('Rank-k among distractors', curves, looks, bands)
    return [
        TableItem('ranks', 'Rank-1 by number of distractors, %', columns, rows, _NOTE),
        FigureItem('distractors', figure, 'Rank-1 over distractors'),
    ]


def _open_items(found: Mapping[str, Results], looks: Mapping[str, figures.Look]) -> list[Item]:
    """TPIR at every FPIR of an open-set run."""
    opened = {run: item for run, item in found.items() if 'open_set' in item.about}
    if not opened:
        return []
    measured = {run: item.about['open_set'] for run, item in opened.items()}
    fpirs = sorted({fpir for result in measured.values() for fpir in result['tpir']}, key=float)
    rows = [
        (
            run,
            measured[run]['mated'],
            measured[run]['non_mated'],
            *_cells(item, 'tpir', measured[run]['tpir'], fpirs),
            *_cells(item, 'rank1', {1: measured[run]['ranks'][0]}, [1]),
        )
        for run, item in opened.items()
    ]
    rates = (f'TPIR @ FPIR {float(fpir):g}' for fpir in fpirs)
    columns = ('run', 'mated probes', 'non-mated probes', *rates, 'rank-1')
    return [TableItem('open-set', 'Open set: TPIR at FPIR, %', columns, rows, _NOTE)]


def _score_items(found: Mapping[str, Results], looks: Mapping[str, figures.Look]) -> list[Item]:
    """A histogram of genuine and impostor scores for every run."""
    items = []
    for run, item in found.items():
        if 'pairs' in item.about:
            arrays = [item.arrays[f'histogram_{key}'] for key in ('edges', 'genuine', 'impostor')]
            figure = figures.histogram(f'Scores: {run}', *arrays, None, 'cosine', looks[run].colour)
            name = slug('identification', 'scores', run)
            items.append(FigureItem(name, figure, f'Scores of {run}'))
    return items


_ITEMS = (_pair_items, _rank_items, _open_items, _score_items)


def identification_section(
    runs: Sequence[Run], looks: Optional[Mapping[str, figures.Look]] = None
) -> Optional[Section]:
    """TPR at FPR, distractor curves, open sets and histograms of all runs that have them."""
    looks = looks or figures.looks_of(run.name for run in runs)
    found = {run.name: run.identification for run in runs if run.identification}
    if not found:
        return None
    section = Section(
        'Identification',
        'Among distractors; every pair was compared. Dotted parts of a curve are estimated from '
        'random pairs.',
    )
    for items in _ITEMS:
        section.items += items(found, looks)
    return section


def identification_sentence(run: Run) -> str:
    """The best known of a run's identification, in a sentence; '' without one."""
    if not run.identification:
        return ''
    about = run.identification.about
    if 'open_set' in about:
        fpir, tpir = min(about['open_set']['tpir'].items(), key=lambda item: float(item[0]))
        return f'{run.name} names {100 * tpir:.2f} % of the people it knows at FPIR {fpir}.'
    if 'pairs' not in about:
        return ''
    fpr, tpr = min(about['pairs']['tpr'].items(), key=lambda item: float(item[0]))
    among = f' among {about["distractors"]:,} distractors' if about['distractors'] else ''
    return f'{run.name} accepts {100 * tpr:.2f} % of genuine pairs at FPR {fpr}{among}.'
