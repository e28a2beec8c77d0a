"""Who is in the pictures of a pair set, which names nobody.

Equal pictures are one picture, and pairs marked same join people. What no mark tells is taken for
different people, except where pictures are too alike for that: people who are in several pairs by
different pictures would otherwise be their own impostors, and in LFW's DevTest, where 383 of 1.2
million unmarked pairs are of one person, set every threshold below a rate of 0.001.
"""

from typing import NamedTuple, Optional

import numpy as np

from ..eval.cross_pairs import cross_pairs
from ..eval.report.statistics import pair_identities

# An unmarked pair joins two people above all of: so many standard deviations above the mean of all
# pairs (of 1e8 pairs of different people, not one), the highest pair marked different, and the
# score that four of five pairs marked same reach.
_DEVIATIONS = 6.0
_SAME_REACH = 20.0  # percentile
_SHARE = 0.05  # of all pairs that are looked at


class PairPeople(NamedTuple):
    """The different pictures of a pair set, and whose they are."""

    pictures: np.ndarray  # (N,) int64, rows of the pair set, one of each picture
    identities: np.ndarray  # (N,) int64
    joined: int  # people that no mark joins and likeness does
    level: Optional[float]  # cosine above which it does; None: nothing can be so alike


def pair_people(images: np.ndarray, issame: np.ndarray, embeddings: np.ndarray) -> PairPeople:
    """Tell the people of a pair set apart.

    Parameters
    ----------
    images : (2P, ...) uint8, pair i is images 2i and 2i+1
    issame : (P,) bool
    embeddings : (2P, D) float, rows of unit length
    """
    issame = np.asarray(issame, bool)
    contents = {image.tobytes(): row for row, image in reversed(list(enumerate(images)))}
    pictures = np.sort(np.fromiter(contents.values(), np.int64))
    marked = pair_identities(images, issame).reshape(-1)
    level = _join_level(embeddings, issame, pictures)
    identities = marked[pictures]
    if level is None:
        return PairPeople(pictures, identities, 0, None)
    pairs = cross_pairs(embeddings[pictures], identities, _SHARE)
    alike = identities[pairs.pictures[pairs.scores > level]]  # the most alike first
    people = _joined(alike, marked.reshape(-1, 2)[~issame])[identities]
    joined = len(np.unique(identities)) - len(np.unique(people))
    return PairPeople(pictures, people, joined, level)


def _joined(alike: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Groups of people, by the number of a person, (people,) int64.

    Parameters
    ----------
    alike : (L, 2) people to join, in this order, unless that would join two of `apart`
    apart : (K, 2) people whom a mark tells apart
    """
    size = int(max(alike.max(initial=0), apart.max(initial=0))) + 1
    group = np.arange(size)
    members = {person: [person] for person in range(size)}
    others: dict[int, set[int]] = {person: set() for person in range(size)}
    for first, second in apart.tolist():
        others[first].add(second)
        others[second].add(first)
    for first, second in alike.tolist():
        kept, gone = int(group[first]), int(group[second])
        if kept == gone or gone in {int(group[person]) for person in others[kept]}:
            continue
        group[members[gone]] = kept
        members[kept] += members.pop(gone)
        others[kept] |= others.pop(gone)
    return group


def _join_level(
    embeddings: np.ndarray, issame: np.ndarray, pictures: np.ndarray
) -> Optional[float]:
    """The cosine above which an unmarked pair is of one person; None if none can be."""
    rows = np.asarray(embeddings, np.float64)
    marked = np.einsum('pd,pd->p', rows[0::2], rows[1::2])
    if not issame.any():
        return None
    rows = rows[pictures]
    count = len(rows)
    # mean and mean square of all products, from the sum of the rows and their second moments
    pairs = count * (count - 1)
    mean = (np.square(rows.sum(axis=0)).sum() - count) / pairs if pairs else 1.0
    square = (np.square(rows.T @ rows).sum() - count) / pairs if pairs else 1.0
    level = max(
        mean + _DEVIATIONS * np.sqrt(max(square - mean**2, 0)),
        marked[~issame].max(initial=-1.0),
        np.percentile(marked[issame], _SAME_REACH),
    )
    return float(level) if level < 1 else None
