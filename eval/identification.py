"""Identification among distractors, exactly: TPR at FPR, rank-k, open-set TPIR at FPIR.

Scores are dot products of unit-length embeddings in float64, rounded to float32. A comparison is
accepted iff its score is above the threshold, and a mate is found at rank k iff fewer than k others
score as high or higher: a tie never helps.

All three protocols are blockwise: beside the inputs, which may be memory maps, they hold the packed
probes, one block of distractors and the highest scores. Letters: P probes, M distractors, D size.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from ..common.console import ProgressBar
from ..common.errors import InputError
from .rates import allowed, threshold_at
from .resume import ResumeFile
from .screen import (
    CAPACITY,
    ROW_STEP,
    Packed,
    Searcher,
    choose_kernel,
    exact_scores,
    pack,
)
from .world import ALONE, World

log = logging.getLogger(__name__)

BLOCK = 1 << 15  # distractors that are packed at a time, and after which a run can resume
MAX_SCORES = 1 << 26  # negative scores that are kept, 256 MB
MAX_GENUINE = 1 << 28  # genuine pairs
FULL_ROC_SCORES = 1 << 22  # up to so many negatives, all are kept and the whole ROC is exact
SAMPLED_PAIRS = 1 << 20  # that stand for the part of the ROC above the kept scores
_MARGIN = 4.0  # a bfloat16 search finds up to about this many times what it is for


@dataclass(frozen=True, eq=False)
class TprResult:
    """TPR at FPR; rates are 0..1, scores cosines."""

    fprs: tuple[float, ...]  # as asked for
    tpr: np.ndarray  # (F,) float64
    thresholds: np.ndarray  # (F,) float32: accepted iff above; -inf accepts everything
    accepted: np.ndarray  # (F,) int64 negatives above the threshold, at most FPR x negatives
    positives: int
    negatives: int
    genuine: np.ndarray  # (positives,) float32, ascending
    highest: np.ndarray  # (K,) float32, the K highest negative scores, descending
    sampled: np.ndarray  # (S,) float32 of random negatives, descending; empty if `highest` is all
    kernel: str
    pairs_per_second: float

    def curve(self, points: int = 200) -> dict[str, np.ndarray]:
        """The ROC at logarithmically spaced FPRs from 1 / negatives to 1.

        Returns
        -------
        dict of fpr, tpr, threshold (float64) and exact (bool). Points above the FPR that `highest`
        reaches are estimated from `sampled`.
        """
        fprs = np.logspace(-np.log10(self.negatives), 0, points)
        places = np.minimum(np.floor(fprs * self.negatives * (1 + 1e-9)), self.negatives)
        exact = places < len(self.highest)
        exact |= len(self.highest) == self.negatives
        thresholds = np.empty(points)
        for index, place in enumerate(places.astype(np.int64)):
            if exact[index]:
                thresholds[index] = threshold_at(self.highest, place)
            else:
                sampled_place = int(place / self.negatives * len(self.sampled))
                thresholds[index] = threshold_at(self.sampled, sampled_place)
        return {
            'fpr': fprs,
            'tpr': rate_above(self.genuine, thresholds),
            'threshold': thresholds,
            'exact': exact,
        }

    def histogram(self, bins: int = 100) -> dict[str, np.ndarray]:
        """Shares of genuine and of (sampled) negative scores in equal bins over -1..1."""
        edges = np.linspace(-1, 1, bins + 1)
        negatives = self.sampled if len(self.sampled) else self.highest
        shares = {
            name: np.histogram(values.clip(-1, 1), edges)[0] / max(len(values), 1)
            for name, values in (('genuine', self.genuine), ('impostor', negatives))
        }
        return {'edges': edges, **shares}


class RankResult(NamedTuple):
    """Rank-k rates among growing numbers of distractors."""

    distractors: tuple[int, ...]  # (S,)
    rates: np.ndarray  # (S, k) float64: rates[s, r - 1] is the rank-r rate
    searches: int  # a probe with one mate in the gallery each


class OpenSetResult(NamedTuple):
    """Open-set 1:N; rates are 0..1."""

    fpirs: tuple[float, ...]
    tpir: np.ndarray  # (F,) float64
    thresholds: np.ndarray  # (F,) float32
    ranks: np.ndarray  # (k,) float64: closed-set rank-1..k of the mated probes
    mated: int
    non_mated: int


def rate_above(ascending: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of ascending scores above each threshold."""
    return 1 - np.searchsorted(ascending, thresholds, side='right') / len(ascending)


# --- pairs of the same identity


def same_identity_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(i, j) int64, i < j, of all pairs of equal labels.

    Raises InputError if there is no such pair, or more than MAX_GENUINE.
    """
    order = np.argsort(labels, kind='stable')
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    total = int((counts.astype(object) * (counts.astype(object) - 1) // 2).sum())
    if not total:
        raise InputError(
            f'no identity has two of the {len(labels)} probes: there is no positive pair'
        )
    if total > MAX_GENUINE:
        raise InputError(
            f'{total} positive pairs are more than fit in memory ({MAX_GENUINE}); are the labels '
            f'right? The largest identity has {counts.max()} probes'
        )
    i, j = np.empty((2, total), np.int64)
    done = 0
    for start, count in zip(starts, counts):
        rows, columns = np.triu_indices(count, 1)
        block = slice(done, done + len(rows))
        i[block], j[block] = order[start + rows], order[start + columns]
        done += len(rows)
    return np.minimum(i, j), np.maximum(i, j)


def cross_pairs(labels: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(i, j) int64 of all pairs with labels[i] == others[j]."""
    order = np.argsort(others, kind='stable')
    first = np.searchsorted(others[order], labels, 'left')
    count = np.searchsorted(others[order], labels, 'right') - first
    i = np.repeat(np.arange(len(labels)), count)
    within = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    return i, order[np.repeat(first, count) + within]


# --- the search for the highest negative scores


class _Highest:
    """The `count` highest of all values added."""

    def __init__(self, count: int, values: Optional[np.ndarray] = None):
        self.count = count
        self._values = np.empty(0, np.float32) if values is None else values

    @property
    def threshold(self) -> float:
        """A value not above this one can be left out."""
        return float(self._values.min()) if len(self._values) >= self.count else -np.inf

    def add(self, values: np.ndarray) -> None:
        self._values = np.concatenate([self._values, values])
        if len(self._values) > self.count:
            self._values = np.partition(self._values, -self.count)[-self.count :]

    @property
    def values(self) -> np.ndarray:
        return self._values


class Unit(NamedTuple):
    """A piece of work: columns start..end - 1 of the distractors, or of the probes themselves."""

    probes: bool
    start: int
    end: int


def work_units(probes: int, distractors: int, probe_pairs: bool, block: int) -> list[Unit]:
    """All units of a run, in order."""
    units = [
        Unit(kind, start, min(start + block, total))
        for kind, total in ((False, distractors), (True, probes if probe_pairs else 0))
        for start in range(0, total, block)
    ]
    return units


@dataclass
class _NegativeSearch:
    """Runs units against the packed probes and keeps the highest negative scores."""

    probes: np.ndarray  # (P, D) float32
    labels: np.ndarray
    distractors: np.ndarray  # (M, D)
    distractor_labels: Optional[np.ndarray]
    searcher: Searcher
    highest: _Highest
    seen: int = 0  # pairs looked at

    def __post_init__(self):
        self._packed = pack(self.probes, self.searcher.kernel, columns=False)

    def run(self, unit: Unit) -> None:
        """Search the unit in slices of probes, which grow with the threshold."""
        source = self.probes if unit.probes else self.distractors
        columns = np.ascontiguousarray(source[unit.start : unit.end], np.float32)
        packed = pack(columns, self.searcher.kernel, columns=True)
        rows = unit.end if unit.probes else len(self.probes)  # of the pairs i < j, only those
        start, step = 0, self._step(unit)
        while start < rows:
            end = min(start + step, rows)
            threshold = self.highest.threshold
            slice_ = self._packed.rows(start, end)
            found = self.searcher.search(slice_, packed, np.full(end - start, threshold))
            if found is None:  # more than expected, e.g. where distractors are sorted; a slice of
                step = max(step // 2 // ROW_STEP * ROW_STEP, ROW_STEP)  # ROW_STEP always fits
                continue
            i, j = found[0] + start, found[1]
            keep = self.is_negative(unit, i, j)
            scores = exact_scores(self.probes, columns, i[keep], j[keep])
            self.highest.add(scores[scores > threshold])
            self.seen += (end - start) * (unit.end - unit.start)
            start, step = end, self._step(unit)

    def _step(self, unit: Unit) -> int:
        """Rows whose search is expected to fit: as many pairs pass as have passed so far."""
        count, capacity = self.highest.count, self.searcher.capacity
        pairs = capacity if self.seen < count else self.seen * capacity / (_MARGIN * count)
        rows = min(int(pairs / (unit.end - unit.start)), len(self.probes))
        return max(rows // ROW_STEP * ROW_STEP, ROW_STEP)

    def is_negative(self, unit: Unit, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """(n,) bool: which of the pairs (probe i, column j of the unit) the protocol counts."""
        if unit.probes:
            other = j + unit.start
            return (i < other) & (self.labels[i] != self.labels[other])
        if self.distractor_labels is None:
            return np.ones(len(i), bool)
        return self.labels[i] != self.distractor_labels[unit.start + j]

    def sample(self, unit: Unit, pairs: int, random: np.random.RandomState) -> np.ndarray:
        """Scores of about `pairs` random negatives of a unit, float32."""
        source = self.probes if unit.probes else self.distractors
        # few rows and columns, many pairs of them: reading single rows of a memory map is slow
        rows = np.sort(random.choice(len(self.probes), min(len(self.probes), 2048), False))
        columns = np.sort(random.choice(len(source), min(len(source), 4096), False))
        i, j = random.randint(len(rows), size=pairs), random.randint(len(columns), size=pairs)
        left, right = (
            np.ascontiguousarray(part, np.float32) for part in (self.probes[rows], source[columns])
        )
        scores = exact_scores(left, right, i, j)
        a, b = rows[i], columns[j]
        if unit.probes:
            a, b = np.minimum(a, b), np.maximum(a, b)
        return scores[self.is_negative(unit, a, b)]


def count_negatives(
    labels: np.ndarray, distractors: int, distractor_labels: Optional[np.ndarray], probe_pairs: bool
) -> tuple[int, int]:
    """Numbers of negative pairs: probes x distractors, and different-identity probe pairs."""
    probes = len(labels)
    known, counts = np.unique(labels, return_counts=True)
    counts = counts.astype(object)  # Python's integers, which do not overflow
    cross = probes * distractors
    if distractor_labels is not None:
        others, other_counts = np.unique(distractor_labels, return_counts=True)
        _, ours, theirs = np.intersect1d(known, others, return_indices=True)
        cross -= int((counts[ours] * other_counts.astype(object)[theirs]).sum())
    within = probes * (probes - 1) // 2 - int((counts * (counts - 1) // 2).sum())
    return cross, within if probe_pairs else 0


def _counts(fprs: Sequence[float], negatives: int, rate: str = 'FPR') -> np.ndarray:
    """How many negatives each FPR accepts; InputError for one that cannot be measured."""
    if not negatives:
        raise InputError('there is no negative pair: give distractors, or two identities')
    for fpr in fprs:
        if not 0 < fpr <= 1:
            raise InputError(f'{rate} {fpr:g}: expected a number above 0, up to 1')
        if allowed(fpr, negatives) < 1:
            raise InputError(
                f'{rate} {fpr:g} is below 1 / {negatives:,} negatives; the smallest that can be '
                f'measured here is {1 / negatives:.3g}'
            )
    counts = np.array([allowed(fpr, negatives) for fpr in fprs], object)
    if max(counts) >= MAX_SCORES and negatives > MAX_SCORES:
        raise InputError(
            f'{rate} {max(fprs):g} of {negatives:,} negatives needs {max(counts):,} scores, more '
            f'than are kept ({MAX_SCORES:,}); up to {MAX_SCORES / negatives:.3g} is possible'
        )
    return counts.astype(np.int64)


def _as_float32(embeddings: np.ndarray) -> np.ndarray:
    """`embeddings` itself where it is float32 rows, such as a memory map; else a copy."""
    if embeddings.dtype == np.float32 and embeddings.flags.c_contiguous:
        return embeddings
    return np.ascontiguousarray(embeddings, np.float32)


def tpr_at_fpr(
    probes: np.ndarray,
    labels: np.ndarray,
    distractors: Optional[np.ndarray] = None,
    fprs: Sequence[float] = (1e-8,),
    *,
    distractor_labels: Optional[np.ndarray] = None,
    probe_pairs: Optional[bool] = None,
    kernel: str = 'auto',
    resume: Optional[ResumeFile] = None,
    world: World = ALONE,
    progress: Optional[ProgressBar] = None,
    block: int = BLOCK,
    capacity: int = CAPACITY,
) -> Optional[TprResult]:
    """TPR at given FPRs, 1:1 among distractors (the LFR challenge's measure).

    Positives are all pairs of probes of one identity. Negatives are all probes x distractors and,
    with `probe_pairs`, the probe pairs of different identities. For an FPR f of N negatives, the
    threshold is the (floor(f N) + 1)-th highest negative score; TPR is the share of positives
    above it. Thresholds are scores of pairs, found by looking at all of them.

    Parameters
    ----------
    probes : (P, D) float, unit length; checked by `embeddings.check_embeddings`
    labels : (P,) identity of each
    distractors : (M, D) float, unit length, in any order; may be a memory map. None: probe pairs
        alone
    fprs : each above 1 / N
    distractor_labels : (M,), if identities of the probes can occur among the distractors; such
        pairs are no negatives
    probe_pairs : default: only where there are no distractors
    kernel : one of `screen.KERNELS`; all give the same result
    resume : file that the run goes on from, and is kept in after every block
    world : processes that share the distractors; each calls this with the same arguments
    progress : advanced by the pairs looked at in this process
    block, capacity : distractors and found pairs held at a time

    Returns
    -------
    TprResult, in the first process of the world; None in the others.

    Raises
    ------
    InputError for sizes that do not match, without positives or negatives, and for an FPR that
    cannot be measured, naming the smallest that can.
    """
    if distractors is None:
        distractors = probes[:0]
    probe_pairs = not len(distractors) if probe_pairs is None else probe_pairs
    check_sizes(probes, labels, distractors, distractor_labels)
    i, j = same_identity_pairs(labels)
    across, within = count_negatives(labels, len(distractors), distractor_labels, probe_pairs)
    negatives = across + within
    counts = _counts(fprs, negatives)
    keep = negatives if negatives <= FULL_ROC_SCORES else int(counts.max()) + 1
    keep = min(keep, negatives)

    probes = _as_float32(probes)
    searcher = Searcher(choose_kernel(kernel), capacity)
    search = _NegativeSearch(
        probes, labels, distractors, distractor_labels, searcher, _Highest(keep)
    )
    block = min(block, capacity // ROW_STEP)
    units = work_units(len(probes), len(distractors), probe_pairs, block)[world.rank :: world.size]
    rate = _run_units(search, units, resume, progress)
    parts = world.gather(search.highest.values)
    if not world.is_first:
        return None
    highest = _Highest(keep)
    for part in parts:
        highest.add(part)
    descending = np.sort(highest.values)[::-1]
    assert len(descending) == keep, (len(descending), keep)

    genuine = np.sort(exact_scores(probes, probes, i, j))
    thresholds = np.array([threshold_at(descending, count) for count in counts], np.float32)
    sampled = np.empty(0, np.float32)
    if keep < negatives:
        random = np.random.RandomState(0)
        sampled = np.sort(np.concatenate([
            search.sample(Unit(kind, 0, total), int(SAMPLED_PAIRS * share / negatives), random)
            for kind, total, share in (
                (False, len(distractors), across), (True, len(probes), within))
            if share
        ]))[::-1]  # fmt: skip
    return TprResult(
        fprs=tuple(fprs),
        tpr=rate_above(genuine, thresholds),
        thresholds=thresholds,
        accepted=np.searchsorted(-descending, -thresholds, side='left'),
        positives=len(genuine),
        negatives=negatives,
        genuine=genuine,
        highest=descending,
        sampled=sampled,
        kernel=searcher.kernel,
        pairs_per_second=rate,
    )


def check_sizes(
    probes: np.ndarray,
    labels: np.ndarray,
    distractors: np.ndarray,
    distractor_labels: Optional[np.ndarray],
) -> None:
    """Raise InputError for labels and embeddings that do not belong together."""  # fmt: skip
    for what, rows, given in (
        ('probes', probes, labels),
        ('distractors', distractors, distractor_labels),
    ):
        if given is not None and len(given) != len(rows):
            raise InputError(f'{len(given)} labels for {len(rows)} {what}; expected one a row')
    if len(distractors) and distractors.shape[1] != probes.shape[1]:
        raise InputError(
            f'probes have {probes.shape[1]} dimensions, distractors {distractors.shape[1]}; are '
            f'they of one network?'
        )


def _run_units(
    search: _NegativeSearch,
    units: list[Unit],
    resume: Optional[ResumeFile],
    progress: Optional[ProgressBar],
) -> float:
    """Run what is left of the units; returns pairs per second."""
    done = 0
    state = resume.load() if resume else None
    if state is not None:
        done, search.seen = int(state['done']), int(state['seen'])
        search.highest.add(state['highest'])
        log.info('going on after block %d of %d', done, len(units))
        if progress:
            progress.advance(search.seen)
            progress.start = progress.done
    started, before = time.monotonic(), search.seen
    for number, unit in enumerate(units[done:], done + 1):
        pairs = search.seen
        search.run(unit)
        if progress:
            progress.advance(search.seen - pairs, f'threshold {search.highest.threshold:.4f}')
        if resume:
            resume.save(done=number, seen=search.seen, highest=search.highest.values)
    return (search.seen - before) / max(time.monotonic() - started, 1e-9)


# --- rank-k and open set


class _Nearest:
    """The k highest scores of every row."""

    def __init__(self, rows: int, k: int):
        self.scores = np.full((rows, k), -np.inf, np.float32)  # descending

    def add(self, i: np.ndarray, scores: np.ndarray) -> None:
        """Take in scores of rows i, in any order."""
        k = self.scores.shape[1]
        order = np.lexsort((-scores, i))
        i, scores = i[order], scores[order]
        rows, starts, counts = np.unique(i, return_index=True, return_counts=True)
        within = np.arange(len(i)) - np.repeat(starts, counts)
        best = within < k
        new = np.full((len(rows), k), -np.inf, np.float32)
        new[np.repeat(np.arange(len(rows)), counts)[best], within[best]] = scores[best]
        both = np.concatenate([self.scores[rows], new], axis=1)
        self.scores[rows] = -np.sort(-both, axis=1)[:, :k]


def nearest_scores(
    probes: np.ndarray,
    others: np.ndarray,
    k: int,
    sizes: Sequence[int],
    labels: Optional[np.ndarray] = None,
    other_labels: Optional[np.ndarray] = None,
    *,
    kernel: str = 'auto',
    world: World = ALONE,
    progress: Optional[ProgressBar] = None,
    block: int = BLOCK,
    capacity: int = CAPACITY,
) -> np.ndarray:
    """The k highest scores of each probe among the first n others, for growing n.

    Parameters
    ----------
    probes, others : (P, D), (M, D) float, unit length
    sizes : n, ascending, up to M
    labels, other_labels : where both are given, pairs of equal labels are left out
    kernel, world, progress, block, capacity : as in `tpr_at_fpr`

    Returns
    -------
    (len(sizes), P, k) float32, descending; -inf where there are fewer than k. In every process.
    """
    probes = _as_float32(probes)
    searcher = Searcher(choose_kernel(kernel), capacity)
    packed = pack(probes, searcher.kernel, columns=False)
    nearest = _Nearest(len(probes), k)
    snapshots = []
    start, step, number = 0, 64, 0
    for size in sizes:
        while start < size:
            end = min(start + step, size)
            if number % world.size == world.rank:
                _search_nearest(
                    searcher,
                    packed,
                    probes,
                    others[start:end],
                    nearest,
                    None if other_labels is None else (labels, other_labels[start:end]),
                )
            if progress:
                progress.advance(len(probes) * (end - start))
            start, number = end, number + 1
            step = min(2 * step, block, capacity // ROW_STEP)
        parts = [part.reshape(-1, k) for part in world.gather(nearest.scores.reshape(-1))]
        snapshots.append(-np.sort(-np.concatenate(parts, axis=1), axis=1)[:, :k])
    return np.stack(snapshots)  # fmt: skip


def _search_nearest(
    searcher: Searcher,
    packed: Packed,
    probes: np.ndarray,
    columns: np.ndarray,
    nearest: _Nearest,
    labels: Optional[tuple[np.ndarray, np.ndarray]],
) -> None:
    """Take the scores of all probes with a block of columns into `nearest`."""
    columns = np.ascontiguousarray(columns, np.float32)
    packed_columns = pack(columns, searcher.kernel, columns=True)
    start, step = 0, -(-len(probes) // ROW_STEP) * ROW_STEP
    while start < len(probes):
        end = min(start + step, len(probes))
        thresholds = nearest.scores[start:end, -1]
        found = searcher.search(packed.rows(start, end), packed_columns, thresholds)
        if found is None:
            step = max(step // 2 // ROW_STEP * ROW_STEP, ROW_STEP)
            continue
        i, j = found[0] + start, found[1]
        if labels is not None:
            keep = labels[0][i] != labels[1][j]
            i, j = i[keep], j[keep]
        nearest.add(i, exact_scores(probes, columns, i, j))
        start = end


def rank_rates(
    probes: np.ndarray,
    labels: np.ndarray,
    distractors: np.ndarray,
    sizes: Sequence[int],
    k: int = 10,
    **options,
) -> RankResult:
    """Rank-1..k identification rates among n distractors, for growing n (MegaFace's measure).

    Every probe searches for every other probe of its identity in turn, alone in a gallery with the
    first n distractors. It is found at rank r iff fewer than r distractors score as high or higher.

    Parameters
    ----------
    probes, labels, distractors : as in `tpr_at_fpr`; the distractors' order matters
    sizes : n, ascending, up to M
    options : those of `nearest_scores`

    Raises
    ------
    InputError as `tpr_at_fpr`, and for sizes that are no ascending numbers in 1..M.
    """
    check_sizes(probes, labels, distractors, None)
    sizes = tuple(int(size) for size in sizes)
    if (
        not sizes
        or sizes[0] < 1
        or sizes[-1] > len(distractors)
        or sorted(set(sizes)) != list(sizes)
    ):
        raise InputError(
            f'numbers of distractors {sizes}: expected to ascend in 1..{len(distractors)}'
        )
    i, j = same_identity_pairs(labels)
    nearest = nearest_scores(probes, distractors, k, sizes, **options)
    probes = _as_float32(probes)
    mates = exact_scores(probes, probes, i, j)
    rates = [
        ((mates[:, None] > best[i]).sum(axis=0) + (mates[:, None] > best[j]).sum(axis=0))
        / (2 * len(mates))
        for best in nearest
    ]
    return RankResult(sizes, np.array(rates), 2 * len(mates))


def open_set(
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    probes: np.ndarray,
    probe_labels: np.ndarray,
    fpirs: Sequence[float] = (1e-2, 1e-1),
    k: int = 10,
    **options,
) -> OpenSetResult:
    """Open-set 1:N: TPIR at given FPIRs.

    A probe is mated if its identity is in the gallery. For an FPIR f of N non-mated probes, the
    threshold is the (floor(f N) + 1)-th highest of their highest scores. TPIR is the share of mated
    probes whose best mate scores above it and above every gallery embedding of another identity.

    Parameters
    ----------
    gallery, probes : (G, D), (P, D) float, unit length
    gallery_labels, probe_labels : (G,), (P,) identities
    fpirs : each at least 1 / N
    options : those of `nearest_scores`

    Raises
    ------
    InputError for sizes that do not match, no mated or no non-mated probe, or an FPIR that cannot
    be measured.
    """
    check_sizes(gallery, gallery_labels, probes, probe_labels)
    mated = np.isin(probe_labels, gallery_labels)
    if mated.all() or not mated.any():
        kind = 'every probe' if mated.all() else 'no probe'
        raise InputError(f'{kind} has its identity in the gallery; open-set needs both kinds')
    counts = _counts(fpirs, int((~mated).sum()), 'FPIR')
    nearest = nearest_scores(
        probes, gallery, k, (len(gallery),), probe_labels, gallery_labels, **options
    )[0]
    gallery, probes = _as_float32(gallery), _as_float32(probes)
    i, j = cross_pairs(probe_labels, gallery_labels)
    best_mate = np.full(len(probes), -np.inf, np.float32)
    np.maximum.at(best_mate, i, exact_scores(probes, gallery, i, j))
    impostors = np.sort(nearest[~mated, 0])[::-1]
    thresholds = np.array([threshold_at(impostors, count) for count in counts], np.float32)
    mates, others = best_mate[mated], nearest[mated]
    tpir = [((mates > others[:, 0]) & (mates > threshold)).mean() for threshold in thresholds]
    ranks = (mates[:, None] > others).mean(axis=0)
    return OpenSetResult(
        tuple(fpirs), np.array(tpir), thresholds, ranks, int(mated.sum()), int((~mated).sum())
    )
