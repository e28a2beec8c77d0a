"""One table of all networks: what they cost, what is published of them, what was measured here.

Figures of this machine come from files: what `bench networks` and a study wrote.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ..common import console
from ..common.checked_json import read_checked
from ..common.errors import InputError
from ..common.typed import is_number
from . import list_networks
from .published import PUBLISHED

# the two conventions of flops.py, as tables name them
ORGANISERS = 'LFR organisers'
AUTHORS = 'MixFaceNet authors'
_ACCURACIES = ('LFW', 'CFP-FP', 'AgeDB-30', 'IJB-B', 'IJB-C')


def millions_cut_off(flop_count: int) -> str:
    """Cut off after one decimal, as MixFaceNet's authors publish 161,988,532 as 161.9."""
    return f'{flop_count // 100_000 / 10:,.1f}'


# --- what other commands measured


class Speeds(NamedTuple):
    """The fastest engine of each network, CPU time of one thread."""

    cpu: str
    batch_size: int  # of images_per_second
    networks: dict[str, dict[str, Any]]  # name -> engine, ms, batch_engine, images_per_second


def read_speeds(path: str) -> Speeds:
    """What `bench networks --out PATH` wrote; InputError for a file of another kind."""
    result = read_checked(path, 'results file')
    try:
        fastest = {}
        for name, rows in result['networks'].items():
            one = min(rows, key=lambda row: row['ms'])
            many = max(rows, key=lambda row: row['images_per_second'])
            fastest[name] = {
                'engine': one['engine'],
                'ms': _number(one['ms']),
                'batch_engine': many['engine'],
                'images_per_second': _number(many['images_per_second']),
            }
        return Speeds(str(result['cpu']), int(_number(result['batch_size'])), fastest)
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f'{path} is no result of `bench networks --out`') from None


def _number(value: Any) -> float:
    if not is_number(value):
        raise ValueError(f'{value!r} is no number')
    return float(value)


class Trained(NamedTuple):
    """An arm of a study: a network that was trained and tested here."""

    arm: str
    network: str
    options: dict[str, Any]
    about: str  # how it was trained
    measures: dict[str, tuple[float, float, float]]  # name -> value, 95 % interval, 0..1


def read_trained(path: str) -> list[Trained]:
    """The arms in a study's results.json, those without a result left out; InputError for a file of
    another kind."""
    result = read_checked(path, "study's results file")
    try:
        return [
            Trained(
                name,
                arm['network'],
                dict(arm['network_options']),
                f'{arm["command"]}, {arm["steps"]:,} steps of {arm["images_a_step"]}',
                {
                    measure: (found['value'], found['low'], found['high'])
                    for measure, found in arm['measures'].items()
                },
            )
            for name, arm in result['arms'].items()
            if arm['measures'] and arm.get('network') in list_networks() and arm.get('steps')
        ]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f'{path} is no results.json of a study') from None


# --- the table


def _costs(network: Mapping[str, Any]) -> list[str]:
    return [
        f'{network["params"] / 1e6:.2f}',
        f'{network["flops"] / 1e6:,.1f}',
        millions_cut_off(network['flops_all']),
        f'{network["megabytes"]:.1f}',
        f'{network["megabytes_int8"]:.1f}',
    ]


_COST_COLUMNS = (
    'M params',
    f'MFLOPs, {ORGANISERS}',
    f'MFLOPs, {AUTHORS}',
    'MB float32',
    'MB int8',
)


def _speed_columns(speeds: Speeds) -> list[str]:
    return ['ms, one thread', f'images/s at {speeds.batch_size}, one thread']


def _speed(speeds: Speeds, name: str) -> list[str]:
    here = speeds.networks.get(name)
    if not here:
        return ['', '']
    return [
        f'{here["ms"]:.1f} ({here["engine"]})',
        f'{here["images_per_second"]:.1f} ({here["batch_engine"]})',
    ]


def _published(name: str) -> list[str]:
    """The cells of _ACCURACIES, then the data and the source."""
    published = PUBLISHED.get(name)
    if not published:
        return [''] * (len(_ACCURACIES) + 1)
    *accuracies, data, source = published
    return [*('' if value is None else str(value) for value in accuracies), f'{data}; {source}']


def _measured(interval: tuple[float, float, float]) -> str:
    value, low, high = (f'{100 * each:.1f}' for each in interval)
    return f'{value} [{low}, {high}]'


def _name(row: Trained) -> str:
    return ' '.join([row.network, *(f'{key}={value}' for key, value in row.options.items())])


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    rule = ['---', *['---:'] * (len(columns) - 2), '---']
    return '\n'.join(f'| {" | ".join(line)} |' for line in (columns, rule, *rows)) + '\n'


def _trained_table(
    trained: Sequence[Trained], costs: Mapping[str, Mapping[str, Any]]
) -> tuple[list[str], list[list[str]]]:
    names = list(dict.fromkeys(name for row in trained for name in row.measures))
    rows = [
        [
            row.arm,
            *_costs(costs[row.arm]),
            *(_measured(row.measures[name]) if name in row.measures else '' for name in names),
            f'{_name(row)}; {row.about}',
        ]
        for row in trained
    ]
    return ['arm', *_COST_COLUMNS, *(f'{name} %' for name in names), 'network; training'], rows


def print_table(
    form: str,
    networks: Mapping[str, Mapping[str, Any]],
    speeds: Speeds,
    trained: Sequence[Trained],
    costs: Mapping[str, Mapping[str, Any]],
) -> None:
    """Print the table on stderr, as Markdown or for a terminal, where it is one a subject.

    Parameters
    ----------
    form : 'text' or 'markdown'
    networks : name -> params, flops, flops_all, megabytes, megabytes_int8
    costs : the same by arm of `trained`
    """
    cost_columns = [*_COST_COLUMNS, *(_speed_columns(speeds) if speeds.networks else [])]
    cost_rows = [
        [*_costs(network), *(_speed(speeds, name) if speeds.networks else [])]
        for name, network in networks.items()
    ]
    publication_columns = [*_ACCURACIES, 'trained on; source']
    publications = [_published(name) for name in networks]
    trained_columns, trained_rows = _trained_table(trained, costs)
    if form == 'markdown':
        rows = [[*cells] for cells in zip(networks, cost_rows, publications)]
        rows = [[name, *cost, *published] for name, cost, published in rows]
        sys.stderr.write(_markdown(['network', *cost_columns, *publication_columns], rows))
        if trained_rows:
            sys.stderr.write('\n' + _markdown(trained_columns, trained_rows))
        return
    by_name = [[name, *cost] for name, cost in zip(networks, cost_rows)]
    title = 'What networks cost'
    title += f' (speeds: CPU time, {speeds.cpu})' if speeds.networks else ''
    console.table(title, ['network', *cost_columns], by_name)
    known = [[name, *cells] for name, cells in zip(networks, publications) if any(cells)]
    console.table('What is published of them, %', ['network', *publication_columns], known)
    if trained_rows:
        console.table('Trained here', trained_columns, trained_rows)
