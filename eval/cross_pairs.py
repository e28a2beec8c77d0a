"""Every pair of a set of pictures of known people: the highest impostor scores, and all genuine.

A few thousand pictures hold millions of impostor pairs, so rates far below those of a list of pairs
can be measured. Pairs are not independent, since each person is in thousands of them: what is
uncertain is who was in the set, and people are drawn for the intervals.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple, Optional

import numpy as np

from .rates import allowed, threshold_at
from .report.statistics import CONFIDENCE, REPLICATES

_BLOCK = 1024  # pictures that are compared with all others at a time
_DRAWN = 1 << 16  # drawn pairs that are scored at a time
_CARRIERS = 1 << 16  # impostor pairs that a replicate weighs one by one; of more, every k-th


class CrossPairs(NamedTuple):
    """What the pairs of a set of pictures score."""

    scores: np.ndarray  # (K,) float32, the highest impostor scores, descending
    pictures: np.ndarray  # (K, 2) int64: whose they are
    genuine: np.ndarray  # (G,) float32, scores of all pairs of one person, ascending
    impostor_pairs: int  # K or more
    identities: np.ndarray  # (N,) int64, 0..people - 1, of each picture
    genuine_people: Optional[np.ndarray] = None  # (G,) int64: whose they are; None: unknown
    part: float = 1.0  # of all pairs of different people, how many were drawn to be compared

    @property
    def people(self) -> int:
        return int(self.identities.max()) + 1


def cross_pairs(
    embeddings: np.ndarray,
    identities: np.ndarray,
    share: float,
    drawn: Optional[np.ndarray] = None,
) -> CrossPairs:
    """Compare every picture with every other.

    Parameters
    ----------
    embeddings : (N, D) float, rows of unit length
    identities : (N,) of any kind: equal for pictures of one person
    share : of the impostor pairs, those with the highest scores are kept: about N * N / 2 * share
        of 20 bytes each
    drawn : (K, 2) int, impostor pairs to look at in place of all

    Returns
    -------
    CrossPairs; scores are float32 products, 1e-7 off at most.
    """
    rows = np.ascontiguousarray(embeddings, np.float32)
    _, numbers = np.unique(identities, return_inverse=True)
    numbers = numbers.reshape(-1).astype(np.int64)
    counts = np.bincount(numbers)
    total = (len(rows) ** 2 - int((counts**2).sum())) // 2
    compared = total if drawn is None else len(drawn)
    kept = allowed(share, compared) + 1  # one beyond, which is the threshold
    best, genuine, people = _Best(kept), [], []
    for start in range(0, len(rows), _BLOCK):
        end = min(start + _BLOCK, len(rows))
        scores = rows[start:end] @ rows[:end].T
        below = np.arange(end) < np.arange(start, end)[:, None]  # every pair once
        same = (numbers[start:end, None] == numbers[:end]) & below
        genuine.append(scores[same])
        people.append(numbers[start + np.nonzero(same)[0]])
        if drawn is None:
            i, j = np.nonzero(~same & below & (scores > best.threshold))
            best.add(scores[i, j], np.column_stack([i + start, j]))
    for start in range(0, 0 if drawn is None else len(drawn), _DRAWN):
        pairs = np.asarray(drawn[start : start + _DRAWN], np.int64)
        best.add(np.einsum('pd,pd->p', rows[pairs[:, 0]], rows[pairs[:, 1]]), pairs)
    scores, pictures = best.sorted()
    genuine, people = np.concatenate(genuine), np.concatenate(people)
    order = np.argsort(genuine, kind='stable')
    part = compared / max(total, 1)
    return CrossPairs(scores, pictures, genuine[order], compared, numbers, people[order], part)


class _Best:
    """The pairs of the highest scores among all added."""

    def __init__(self, count: int):
        self._count = count
        self._scores = np.empty(0, np.float32)
        self._pictures = np.empty((0, 2), np.int64)
        self.threshold = -np.inf

    def add(self, scores: np.ndarray, pictures: np.ndarray) -> None:
        self._scores = np.concatenate([self._scores, scores])
        self._pictures = np.concatenate([self._pictures, pictures])
        if len(self._scores) > 2 * self._count:  # seldom: each time costs all that are kept
            self._cut()

    def _cut(self) -> None:
        best = np.argpartition(-self._scores, self._count - 1)[: self._count]
        self._scores, self._pictures = self._scores[best], self._pictures[best]
        self.threshold = float(self._scores.min())

    def sorted(self) -> tuple[np.ndarray, np.ndarray]:
        if len(self._scores) > self._count:
            self._cut()
        order = np.argsort(-self._scores, kind='stable')
        return self._scores[order], self._pictures[order]


def thresholds_at(pairs: CrossPairs, fars: Sequence[float]) -> dict[float, float]:
    """The lowest threshold at each rate that the pairs can tell: one of at least 1/pairs."""
    counts = {far: allowed(far, pairs.impostor_pairs) for far in fars}
    return {far: threshold_at(pairs.scores, count) for far, count in counts.items() if count}


def true_accept_rate(pairs: CrossPairs, threshold: float) -> float:
    """Share of the genuine pairs above a threshold; NaN without any."""
    if not len(pairs.genuine):
        return np.nan
    return 1 - np.searchsorted(pairs.genuine, threshold, side='right') / len(pairs.genuine)


class RatesByPeople:
    """Thresholds at given FARs, and the TAR there, as functions of how often people are drawn.

    A pair counts as often as the product of how often its people were drawn; copies of one person
    make no impostor pairs, and a person's genuine pairs count as often as the person (Bolle, Ratha
    and Pankanti 2004). Of many impostor pairs every k-th stands for k, which widens an interval by
    far less than a hundredth.

    Parameters
    ----------
    pairs : kept well beyond the FARs (three times), since replicates need more than the pairs do
    fars : each at least 1 / pairs.impostor_pairs
    """

    def __init__(self, pairs: CrossPairs, fars: Sequence[float]):
        self._pairs, self._fars = pairs, np.asarray(fars, np.float64)
        self._scores, people, self._counts = _carriers(pairs)
        self._first, self._second = people.T
        self._pictures = np.bincount(pairs.identities).astype(np.float64)

    def thresholds(self, drawn: np.ndarray) -> np.ndarray:
        """(people,) counts -> (F,) float32; a pair is accepted iff its score is above."""
        weighted = drawn * self._pictures
        total = (weighted.sum() ** 2 - (weighted**2).sum()) / 2 * self._pairs.part
        above = np.cumsum(self._counts * (drawn[self._first] * drawn[self._second]))
        beyond = np.searchsorted(above, self._fars * total * (1 + 1e-12), side='right')
        return self._scores[np.minimum(beyond, len(self._scores) - 1)]

    def true_accepts(self, drawn: np.ndarray) -> np.ndarray:
        """(people,) counts -> (F,) float64, 0..1; NaN where nobody drawn has two pictures."""
        weights = drawn[self._pairs.genuine_people]
        refused = np.append(0, np.cumsum(weights))
        if not refused[-1]:
            return np.full(len(self._fars), np.nan)
        places = np.searchsorted(self._pairs.genuine, self.thresholds(drawn), side='right')
        return 1 - refused[places] / refused[-1]


def draw_people(people: int, replicates: int, seed: int) -> Iterator[np.ndarray]:
    """How often each person is drawn, (people,) int64, one array a replicate."""
    random = np.random.RandomState(seed)
    for _ in range(replicates):
        yield random.multinomial(people, np.full(people, 1 / people))


def _percentiles(values: np.ndarray) -> np.ndarray:
    """(replicates, F) -> (F, 2): low, high."""
    tail = 100 * (1 - CONFIDENCE) / 2
    return np.nanpercentile(values, (tail, 100 - tail), axis=0).T


def threshold_intervals(
    pairs: CrossPairs, fars: Sequence[float], replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """Percentile intervals (95 %) of the thresholds by drawing people with replacement.

    Returns
    -------
    (len(fars), 2) float64: low, high
    """
    rates = RatesByPeople(pairs, fars)
    drawn = draw_people(pairs.people, replicates, seed)
    return _percentiles(np.array([rates.thresholds(counts) for counts in drawn], np.float64))


def tar_intervals(
    pairs: CrossPairs, fars: Sequence[float], replicates: int = REPLICATES, seed: int = 0
) -> np.ndarray:
    """The same for the true-accept rates, each replicate at its own thresholds."""
    rates = RatesByPeople(pairs, fars)
    drawn = draw_people(pairs.people, replicates, seed)
    return _percentiles(np.array([rates.true_accepts(counts) for counts in drawn]))


def _carriers(pairs: CrossPairs) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(scores, (K, 2) people, for how many pairs each stands) of the highest impostor pairs."""
    every = -(-len(pairs.scores) // _CARRIERS)
    half = min(_CARRIERS // 2, len(pairs.scores))
    positions = np.concatenate([np.arange(half), np.arange(half, len(pairs.scores), every)])
    counts = np.diff(np.append(positions, len(pairs.scores)))
    return pairs.scores[positions], pairs.identities[pairs.pictures[positions]], counts
