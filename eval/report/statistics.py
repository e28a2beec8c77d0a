"""How sure a verification result is: bootstrap over identities, and McNemar's test.

Pairs that share a person are not independent, so it is people who are drawn with replacement, not
pairs: a pair of one person counts as often as the person was drawn, a pair of two as often as the
product of both (Owen 2007; Bolle, Ratha and Pankanti 2004 for the subsets of a person).

scipy is imported by the functions that use it: commands that decide about photographs come by here,
and scipy.stats takes longer to load than they take to answer.
"""

import warnings
from collections.abc import Iterator
from typing import Callable, NamedTuple

import numpy as np

from ...common.registry import Registry
from ..metrics import fold_numbers

REPLICATES = 1000
CONFIDENCE = 0.95

# More numbers of a pair set for the page: functions (distances (P,) squared of unit vectors,
# issame (P,) bool, weights (P,) of the pairs) -> number, NaN for what the
# weights do not define. The bootstrap draws them.
METRICS: Registry[Callable[[np.ndarray, np.ndarray, np.ndarray], float]] = Registry('report metric')


class Interval(NamedTuple):
    """A value with the percentile interval of its bootstrap, 95 %."""

    value: float
    low: float
    high: float


class McNemar(NamedTuple):
    """Two models on the same pairs: where only one of them is right."""

    only_first: int
    only_second: int
    p_value: float  # two-sided, exact


def pair_identities(images: np.ndarray, issame: np.ndarray) -> np.ndarray:
    """Who is in the pairs, as far as the pair set tells.

    The pictures of a same pair are of one person, and so are pictures of equal content. What
    nothing connects counts as different people.

    Parameters
    ----------
    images : (2P, ...) uint8
    issame : (P,) bool

    Returns
    -------
    (P, 2) int64, numbers of people
    """
    contents = [image.tobytes() for image in images]
    numbers = {content: number for number, content in enumerate(dict.fromkeys(contents))}
    pictures = np.array([numbers[content] for content in contents]).reshape(-1, 2)
    first, second = pictures[issame].T
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    links = coo_matrix((np.ones(len(first)), (first, second)), (len(numbers), len(numbers)))
    return connected_components(links, directed=False)[1][pictures].astype(np.int64)


def held_out_correct(
    distances: np.ndarray, issame: np.ndarray, thresholds: np.ndarray
) -> np.ndarray:
    """(P,) bool: whether each pair is decided rightly at its fold's threshold.

    `thresholds` is (K,), chosen on the other folds, as `VerificationResult.fold_thresholds`.
    """
    fold = fold_numbers(len(issame), len(thresholds))
    return (distances < thresholds[fold]) == issame


def bootstrap_weights(
    identities: np.ndarray, issame: np.ndarray, replicates: int = REPLICATES, seed: int = 0
) -> Iterator[np.ndarray]:
    """Yield (P,) float64 weights of the pairs, one array a replicate.

    Parameters
    ----------
    identities : (P, 2) int, of both pictures of a pair
    issame : (P,) bool
    """
    known, numbers = np.unique(identities, return_inverse=True)
    first, second = numbers.reshape(-1, 2).T
    random = np.random.RandomState(seed)
    for _ in range(replicates):
        drawn = random.multinomial(len(known), np.full(len(known), 1 / len(known))).astype(float)
        yield np.where(issame, drawn[first], drawn[first] * drawn[second])


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    identities: np.ndarray,
    issame: np.ndarray,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> list[Interval]:
    """Interval of each number that `statistic` makes of pair weights.

    Parameters
    ----------
    statistic : (P,) weights -> (S,) numbers; NaN for what a replicate does not define
    """
    drawn = bootstrap_weights(identities, issame, replicates, seed)
    values = np.array([statistic(weights) for weights in drawn])
    tail = 100 * (1 - CONFIDENCE) / 2
    with warnings.catch_warnings():  # NaN, where no replicate defines a number, is the answer
        warnings.filterwarnings('ignore', 'All-NaN slice', RuntimeWarning)
        low, high = np.nanpercentile(values, (tail, 100 - tail), axis=0)
    estimate = statistic(np.ones(len(issame)))
    return [Interval(*map(float, row)) for row in zip(estimate, low, high)]


class RateAtFar:
    """TAR at a FAR as a function of pair weights; pairs are sorted once.

    The threshold accepts as much of the different pairs' weight as it can without exceeding FAR;
    ties with the first pair beyond are refused.
    """

    def __init__(self, distances: np.ndarray, issame: np.ndarray, far: float):
        self._order = np.argsort(distances, kind='stable')
        self._distances = distances[self._order]
        self._same, self._far = issame[self._order], far

    def __call__(self, weights: np.ndarray) -> float:
        weights = weights[self._order]
        different = np.cumsum(np.where(self._same, 0, weights))
        same = np.cumsum(np.where(self._same, weights, 0))
        if not different[-1] or not same[-1]:
            return np.nan
        beyond = np.searchsorted(different, self._far * different[-1] * (1 + 1e-12), side='right')
        if beyond == len(different):
            return 1.0
        accepted = np.searchsorted(self._distances, self._distances[beyond], side='left')
        return same[accepted - 1] / same[-1] if accepted else 0.0

    def cosine(self) -> float:
        """The threshold, all weights equal: a pair is accepted iff its cosine is above it; -1 where
        every pair may be."""
        different = np.cumsum(~self._same)
        beyond = np.searchsorted(different, self._far * different[-1] * (1 + 1e-12), side='right')
        return 1 - float(self._distances[beyond]) / 2 if beyond < len(different) else -1.0


class ErrorRates:
    """FMR and FNMR at every threshold as functions of pair weights; pairs are sorted once.

    `cosines` (R,) ascend; at the i-th a pair is accepted iff its cosine is at least that. The last
    is infinite and accepts nothing.
    """

    def __init__(self, distances: np.ndarray, issame: np.ndarray):
        self._order = np.argsort(-distances, kind='stable')
        ordered = distances[self._order]
        self._same = issame[self._order]
        self._starts = np.append(0, np.flatnonzero(np.diff(ordered)) + 1)
        self.cosines = np.append(1 - ordered[self._starts] / 2, np.inf)

    def __call__(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(fmr, fnmr), (R,) each; NaN where the weights leave no pairs of the kind."""
        weights = weights[self._order]
        refused = []
        for kind in (~self._same, self._same):
            below = np.append(0, np.cumsum(np.where(kind, weights, 0)))
            with np.errstate(invalid='ignore'):
                refused.append(below[np.append(self._starts, len(weights))] / below[-1])
        return 1 - refused[0], refused[1]


def equal_error_rate(fmr: np.ndarray, fnmr: np.ndarray) -> float:
    """Where FMR and FNMR meet, on the straight line between the two thresholds around it.

    Parameters
    ----------
    fmr, fnmr : (R,) falling from 1 to 0 and rising from 0 to 1, as `ErrorRates` gives them
    """
    gap = fnmr - fmr
    if np.isnan(gap).any():
        return np.nan
    after = int(np.argmax(gap >= 0))  # the first gap is -1
    before = after - 1
    share = gap[before] / (gap[before] - gap[after])
    return float(fmr[before] + share * (fmr[after] - fmr[before]))


def exact_interval(errors: int, total: int) -> Interval:
    """A share with its exact 95 % interval (Clopper and Pearson 1934), for independent trials.

    Without trials the share is NaN and the interval 0..1.
    """
    tail = (1 - CONFIDENCE) / 2
    from scipy.stats import beta

    low = float(beta.ppf(tail, errors, total - errors + 1)) if errors else 0.0
    high = float(beta.ppf(1 - tail, errors + 1, total - errors)) if errors < total else 1.0
    return Interval(errors / total if total else np.nan, low, high)


def doubted(interval: Interval, total: int) -> Interval:
    """An interval of a share of `total` pairs; the exact one where the bootstrap saw no spread: no
    errors among few pairs are no proof of none."""
    if interval.low < interval.high:
        return interval
    return exact_interval(round(interval.value * total), total)


def widest(first: Interval, second: Interval) -> Interval:
    """The value of the first with the lower low and the higher high of both."""
    return Interval(
        first.value, float(np.fmin(first.low, second.low)), float(np.fmax(first.high, second.high))
    )


def with_failures(rate: float, failed: int, total: int) -> float:
    """A rate of genuine pairs that are refused, with the pairs that gave no score refused as well.

    Parameters
    ----------
    rate : FNMR among the `total` genuine pairs that were compared
    failed : genuine pairs of which a picture gave no embedding (failure to acquire)

    Returns
    -------
    FRR = FTA + (1 - FTA) FNMR with FTA = failed / (failed + total) (ISO/IEC 19795-1)
    """
    acquired = total / (failed + total)
    return 1 - acquired + acquired * rate


def cluster_interval(hits: np.ndarray, totals: np.ndarray, seed: int = 0) -> Interval:
    """Share of hits with its interval: a bootstrap over the people whose hits they are.

    It is the wider of that and, since a bootstrap of nothing but hits knows no doubt, the exact
    one of independent trials.

    Parameters
    ----------
    hits, totals : (I,) int of every person
    """
    random = np.random.RandomState(seed)
    people = len(hits)
    shares = []
    for _ in range(REPLICATES):
        drawn = random.multinomial(people, np.full(people, 1 / people))
        among = drawn @ totals
        shares.append(drawn @ hits / among if among else np.nan)
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(shares, (tail, 100 - tail))
    total = int(totals.sum())
    value = hits.sum() / total
    return widest(
        Interval(float(value), float(low), float(high)), exact_interval(int(hits.sum()), total)
    )


def weighted_mean(values: np.ndarray, weights: np.ndarray) -> float:
    total = weights.sum()
    return float(values @ weights / total) if total else np.nan


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test on (P,) bool "decided rightly" of two models (McNemar 1947)."""
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    total = only_first + only_second
    from scipy.stats import binomtest

    p_value = binomtest(only_first, total).pvalue if total else 1.0
    return McNemar(only_first, only_second, float(p_value))
