"""The report's section on sets of people, all pairs of which were compared."""

from collections.abc import Sequence
from typing import Optional

from .cells import DASH, interval_cell, slug
from .page import Section, TableItem
from .runs import Run
from .statistics import Interval


def all_pairs_section(runs: Sequence[Run]) -> Optional[Section]:
    """TAR at every FAR that `verify --pairs` measured; None where nobody did."""
    names = list(dict.fromkeys(name for run in runs for name in run.all_pairs))
    if not names:
        return None
    section = Section('All pairs', 'All genuine and all impostor pairs of sets of people.')
    for name in names:
        known = {run.name: run.all_pairs[name] for run in runs if name in run.all_pairs}
        fars = sorted({far for each in known.values() for far in each['tar']}, key=float)
        rows = []
        for run, each in known.items():
            rates = (each['tar'].get(far) for far in fars)
            cells = (
                interval_cell(Interval(*(tar[key] for key in ('value', 'low', 'high'))))
                if tar
                else DASH
                for tar in rates
            )
            counts = (each[key] for key in ('people', 'genuine_pairs', 'impostor_pairs'))
            rows.append((run, *counts, *cells))
        columns = ('run', 'people', 'genuine pairs', 'impostor pairs')
        section.items.append(
            TableItem(
                slug(name, 'all-pairs'),
                f'TAR on {name}, %',
                (*columns, *(f'TAR @ FAR {float(far):g}' for far in fars)),
                rows,
                '[low, high]: 95 % confidence, over people.',
            )
        )
    return section
