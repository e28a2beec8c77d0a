"""Rank-k and open-set identification, exactly: what each probe's nearest embeddings decide.

A mate is found at rank k iff fewer than k others score as high or higher: a tie never helps.
Letters: P probes, M others (distractors or a gallery), D embedding size.
"""

from collections.abc import Sequence
from typing import NamedTuple, Optional

import numpy as np

from ..common.console import ProgressBar
from ..common.errors import InputError
from .pairs import (
    accepted_counts,
    check_sizes,
    hits_by_person,
    mated_pairs,
    same_identity_pairs,
)
from .rates import threshold_at
from .search.screen import (
    BLOCK,
    CAPACITY,
    ROW_STEP,
    Packed,
    Searcher,
    as_float32,
    choose_kernel,
    exact_scores,
    pack,
)
from .search.world import ALONE, World


class RankResult(NamedTuple):
    """Rank-k rates among growing numbers of distractors."""

    distractors: tuple[int, ...]  # (S,)
    rates: np.ndarray  # (S, k) float64: rates[s, r - 1] is the rank-r rate
    searches: int  # a probe with one mate in the gallery each
    hits: np.ndarray  # (S, I) int64: searches of every identity that are found at rank 1
    totals: np.ndarray  # (I,) int64: of all its searches


class OpenSetResult(NamedTuple):
    """Open-set 1:N; rates are 0..1."""

    fpirs: tuple[float, ...]
    tpir: np.ndarray  # (F,) float64
    thresholds: np.ndarray  # (F,) float32
    ranks: np.ndarray  # (k,) float64: closed-set rank-1..k of the mated probes
    mated: int
    non_mated: int
    hits: np.ndarray  # (F, I) int64: mated probes of every identity that count for TPIR
    rank1_hits: np.ndarray  # (1, I) int64: that are found at rank 1
    totals: np.ndarray  # (I,) int64: of all its mated probes


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
    probes = as_float32(probes)
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
    return np.stack(snapshots)


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


def check_rank_sizes(sizes: Sequence[int], distractors: int) -> tuple[int, ...]:
    """`sizes` if they ascend in 1..distractors, otherwise InputError."""
    sizes = tuple(int(size) for size in sizes)
    if not sizes or sizes[0] < 1 or sizes[-1] > distractors or sorted(set(sizes)) != list(sizes):
        raise InputError(f'numbers of distractors {sizes}: expected to ascend in 1..{distractors}')
    return sizes


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
    sizes = check_rank_sizes(sizes, len(distractors))
    i, j = same_identity_pairs(labels)
    nearest = nearest_scores(probes, distractors, k, sizes, **options)
    probes = as_float32(probes)
    mates = exact_scores(probes, probes, i, j)
    rates = [
        ((mates[:, None] > best[i]).sum(axis=0) + (mates[:, None] > best[j]).sum(axis=0))
        / (2 * len(mates))
        for best in nearest
    ]
    found = (np.concatenate([mates > best[i, 0], mates > best[j, 0]]) for best in nearest)
    hits, totals = hits_by_person(labels, np.tile(i, 2), found)
    return RankResult(sizes, np.array(rates), 2 * len(mates), hits, totals)


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
    counts = accepted_counts(fpirs, int((~mated).sum()), 'FPIR')
    nearest = nearest_scores(
        probes, gallery, k, (len(gallery),), probe_labels, gallery_labels, **options
    )[0]
    gallery, probes = as_float32(gallery), as_float32(probes)
    i, j = mated_pairs(probe_labels, gallery_labels)
    best_mate = np.full(len(probes), -np.inf, np.float32)
    np.maximum.at(best_mate, i, exact_scores(probes, gallery, i, j))
    impostors = np.sort(nearest[~mated, 0])[::-1]
    thresholds = np.array([threshold_at(impostors, count) for count in counts], np.float32)
    mates, others = best_mate[mated], nearest[mated]
    first = mates > others[:, 0]
    found = np.array([first & (mates > threshold) for threshold in thresholds])
    ranks = (mates[:, None] > others).mean(axis=0)
    rows = np.flatnonzero(mated)
    hits, totals = hits_by_person(probe_labels, rows, found)
    rank1_hits, _ = hits_by_person(probe_labels, rows, [first])
    sizes = (int(mated.sum()), int((~mated).sum()))
    return OpenSetResult(
        *(tuple(fpirs), found.mean(axis=1), thresholds, ranks),
        *(*sizes, hits, rank1_hits, totals),
    )
