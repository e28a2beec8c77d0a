"""Rates by group: from a column of labels that a user brings, of people, pictures or pairs."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ...common.errors import InputError
from ...common.files import read_csv
from .cells import DASH, interval_cell, number_cell, slug
from .page import TableItem
from .statistics import Interval, bootstrap, exact_interval, weighted_mean, widest

log = logging.getLogger(__name__)

ACROSS = 'of two groups'
_PEOPLE = ('identity', 'name', 'person')  # a column of these names says whose label a line is


class Labels(NamedTuple):
    """A column of a CSV file."""

    path: Path
    column: str
    values: list[str]
    people: Optional[list[str]]  # whose they are; None: of pictures or pairs, in their order


def read_labels(path: Path, column: str = '') -> Labels:
    """Read a CSV file with a header.

    Parameters
    ----------
    path : a line for each person (with a column `identity`), each picture or each pair
    column : which one; without it the one beside `identity`, or the only one

    Raises
    ------
    InputError for a file that is none, without the column, with lines of another length, or that
    gives a person two labels.
    """
    numbered = [(line, row) for line, row in enumerate(read_csv(path, 'labels'), 1) if row]
    rows = [row for _, row in numbered]
    if len(rows) < 2:
        raise InputError(f'labels {path}: expected a header and lines below it')
    header = [name.strip() for name in rows[0]]
    person = next((header.index(name) for name in _PEOPLE if name in header), None)
    choices = [name for place, name in enumerate(header) if place != person]
    if not column and len(choices) != 1:
        raise InputError(f'labels {path}: say --group-column, one of {", ".join(choices)}')
    column = column or choices[0]
    if column not in choices:
        raise InputError(f'labels {path}: no column {column!r}; there are {", ".join(choices)}')
    for line, row in numbered:
        if len(row) != len(header):
            raise InputError(
                f'labels {path}: line {line} has {len(row)} values, expected {len(header)}'
            )
    values = [row[header.index(column)].strip() for row in rows[1:]]
    people = None if person is None else [row[person].strip() for row in rows[1:]]
    known: dict[str, str] = {}
    for (line, _), name, value in zip(numbered[1:], people or (), values):
        if known.setdefault(name, value) != value:
            raise InputError(
                f'labels {path}: line {line} calls {name} {value!r}, a line before it '
                f'{known[name]!r}'
            )
    return Labels(path, column, values, people)


def pair_groups(labels: Labels, target: Mapping) -> Optional[np.ndarray]:
    """(P,) text: the group of each pair, ACROSS where its pictures are of two, '' where a label is
    missing; None where the labels are not this pair set's.
    """
    pairs = len(target['issame'])
    values = np.array(labels.values, object)
    if labels.people is None:
        if len(values) == pairs:
            return values
        if len(values) != 2 * pairs:
            return None
        first, second = values.reshape(-1, 2).T
    else:
        if target.get('names') is None or not target['identities_named']:
            return None
        known = dict(zip(labels.people, values))
        of_person = np.array([known.get(str(name), '') for name in target['names']], object)
        if not any(of_person):
            return None
        first, second = of_person[target['identities']].T
    groups = np.where(first == second, first, ACROSS)
    groups[(first == '') | (second == '')] = ''
    return groups


def _rates(
    target: Mapping, groups: np.ndarray, names: list[str], accepted: np.ndarray
) -> tuple[list[Interval], list[Interval], list[tuple[int, int]]]:
    """FNMR and FMR of every group, and its numbers of genuine and impostor pairs."""
    issame = target['issame']
    kinds = [(groups == name) & kind for name in names for kind in (issame, ~issame)]
    errors = np.where(issame, ~accepted, accepted)

    def statistic(weights: np.ndarray) -> np.ndarray:
        return np.array([weighted_mean(errors[kind], weights[kind]) for kind in kinds])

    intervals = bootstrap(statistic, target['identities'], issame)
    exact = [exact_interval(int(errors[kind].sum()), int(kind.sum())) for kind in kinds]
    both = [widest(own, boot) for own, boot in zip(exact, intervals)]
    counts = [int(kind.sum()) for kind in kinds]
    return both[0::2], both[1::2], list(zip(counts[0::2], counts[1::2]))


def worst_ratio(names: list[str], rates: list[Interval]) -> str:
    """'x4.2 (A over B)' of the highest over the lowest rate; with no errors in the lowest, the
    least that its interval leaves."""
    known = [(rate, name) for name, rate in zip(names, rates) if not np.isnan(rate.value)]
    if len(known) < 2:
        return 'only one group has such pairs'
    worst, best = max(known), min(known)
    if not worst[0].value:
        return 'no errors in any group'
    over = f'({worst[1]} over {best[1]})'
    if best[0].value:
        return f'×{worst[0].value / best[0].value:.1f} {over}'
    least = worst[0].value / best[0].high
    if least <= 1:
        return f'no ratio is shown, {best[1]} having no errors and few pairs'
    return f'at least ×{least:.1f} {over}, which has none'


def group_table(
    name: str, run: str, target: Mapping, labels: Labels, cosine: float, far: float
) -> Optional[TableItem]:
    """FNMR and FMR of each group at one threshold for all; None for another pair set's labels."""
    groups = pair_groups(labels, target)
    if groups is None:
        return None
    missing = int((groups == '').sum())
    names = sorted(set(groups) - {'', ACROSS})
    if not names:
        return None
    shown = [*names, *([ACROSS] if (groups == ACROSS).any() else [])]
    accepted = 1 - target['distances'] / 2 > cosine
    fnmr, fmr, counts = _rates(target, groups, shown, accepted)
    whole = [
        float(np.mean(errors))
        for errors in (~accepted[target['issame']], accepted[~target['issame']])
    ]
    rows = []
    for group, false_rejects, false_accepts, (same, different) in zip(shown, fnmr, fmr, counts):
        row = [group]
        for rate, pairs, over in zip((false_rejects, false_accepts), (same, different), whole):
            known = pairs > 0
            row += [pairs, interval_cell(rate) if known else DASH]
            row += [number_cell(rate.value / over, '.2f') if known and over else DASH]
        rows.append(row)
    of_groups = len(names)
    ratios = (worst_ratio(names, rates[:of_groups]) for rates in (fnmr, fmr))
    left_out = f' {missing:,} pairs without a label are left out.' if missing else ''
    return TableItem(
        slug(name, 'groups', labels.column, run),
        f'{run} by {labels.column}, % at FAR {far:g} of all (cosine above {cosine:.3f})',
        (
            labels.column,
            *('genuine pairs', 'FNMR', 'FNMR over all'),
            *('impostor pairs', 'FMR', 'FMR over all'),
        ),
        rows,
        'Worst to best: FNMR {}, FMR {}. [low, high]: 95 %, the wider of the bootstrap over '
        'identities and the exact interval of independent pairs; worst and best are chosen by the '
        'same data.'.format(*ratios)
        + left_out,
    )
