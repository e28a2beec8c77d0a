"""How often a model errs for one group of people and for another, at the same threshold."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..common.errors import InputError
from ..common.files import PathLike, read_csv
from ..eval.cross_pairs import draw_people
from ..eval.report.statistics import CONFIDENCE, REPLICATES

_BLOCK = 1024  # pictures that are compared with all others at a time
_MOST_LISTED = 2_000_000  # accepted pairs of different people of a group


class GroupRates(NamedTuple):
    """The rates of one group's pairs; intervals (95 %) by drawing people with replacement."""

    group: str
    people: int
    pictures: int
    impostor_pairs: int
    genuine_pairs: int
    far: float  # NaN without impostor pairs
    far_interval: tuple[float, float]
    tar: float  # NaN without genuine pairs
    tar_interval: tuple[float, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON: what is not known is None."""
        fields = self._asdict()
        for key in ('far', 'tar'):
            if np.isnan(fields[key]):
                fields[key] = fields[f'{key}_interval'] = None
        return fields


def read_groups(path: PathLike, names: Sequence[str]) -> list[str]:
    """The group of each person, by a CSV file of `person,group`; '' for people who are not in it.

    Parameters
    ----------
    path : the file; a first line `person,group` is a heading
    names : of the people, in the order of the result

    Raises
    ------
    InputError for lines of another form, a person in two groups, and a file that names nobody.
    """
    groups: dict[str, str] = {}
    for number, row in enumerate(read_csv(path, 'groups'), 1):
        if not row or [field.strip() for field in row] == ['person', 'group']:
            continue
        if len(row) != 2 or not all(field.strip() for field in row):
            raise InputError(f'{path} line {number}: expected PERSON,GROUP')
        person, group = (field.strip() for field in row)
        if groups.setdefault(person, group) != group:
            raise InputError(f'{path} line {number}: {person} is in {groups[person]} already')
    found = [groups.get(name, '') for name in names]
    if not any(found):
        raise InputError(f'{path} names none of the {len(names)} people, such as {names[0]!r}')
    return found


def group_rates(
    embeddings: np.ndarray, identities: np.ndarray, groups: np.ndarray, threshold: float
) -> list[GroupRates]:
    """Rates of all pairs of pictures within each group.

    Parameters
    ----------
    embeddings : (N, D) float, rows of unit length
    identities : (N,) equal for pictures of one person
    groups : (N,) str; '' is no group
    threshold : a pair is accepted iff its cosine is above
    """
    return [
        _rates_of(group, embeddings[groups == group], identities[groups == group], threshold)
        for group in sorted(set(groups.tolist()) - {''})
    ]


def _rates_of(
    group: str, embeddings: np.ndarray, identities: np.ndarray, threshold: float
) -> GroupRates:
    _, people = np.unique(identities, return_inverse=True)
    pictures = np.bincount(people).astype(np.float64)
    accepted, genuine, kept = _accepted(embeddings, people, threshold)
    once = np.ones(len(pictures))
    drawn = list(draw_people(len(pictures), REPLICATES, 0))

    def far(weights: np.ndarray) -> float:
        weighted = weights * pictures
        total = (weighted.sum() ** 2 - (weighted**2).sum()) / 2
        above = (weights[accepted[:, 0]] * weights[accepted[:, 1]]).sum()
        return above / total if total else np.nan

    def tar(weights: np.ndarray) -> float:
        total = weights[genuine].sum()
        return (weights[genuine] * kept).sum() / total if total else np.nan

    return GroupRates(
        group,
        len(pictures),
        len(embeddings),
        int((pictures.sum() ** 2 - (pictures**2).sum()) / 2),
        len(genuine),
        far(once),
        _interval([far(weights) for weights in drawn]),
        tar(once),
        _interval([tar(weights) for weights in drawn]),
    )


def _accepted(embeddings: np.ndarray, people: np.ndarray, threshold: float):
    """((K, 2) people of accepted impostor pairs, (G,) people of genuine pairs, (G,) accepted?)"""
    rows = np.ascontiguousarray(embeddings, np.float32)
    impostors, genuine, kept, count = [], [], [], 0
    for start in range(0, len(rows), _BLOCK):
        end = min(start + _BLOCK, len(rows))
        scores = rows[start:end] @ rows[:end].T
        below = np.arange(end) < np.arange(start, end)[:, None]  # every pair once
        same = people[start:end, None] == people[:end]
        first, second = np.nonzero(below & ~same & (scores > threshold))
        impostors.append(np.stack([people[start + first], people[second]], axis=1))
        count += len(first)
        if count > _MOST_LISTED:
            raise InputError('too many pairs of different people are accepted to tell groups apart')
        first, second = np.nonzero(below & same)
        genuine.append(people[start + first])
        kept.append(scores[first, second] > threshold)
    return np.concatenate(impostors), np.concatenate(genuine), np.concatenate(kept)


def _interval(values: list[float]) -> tuple[float, float]:
    known = np.array(values)[~np.isnan(values)]
    if not len(known):
        return np.nan, np.nan
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.percentile(known, (tail, 100 - tail))
    return float(low), float(high)
