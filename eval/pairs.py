"""Which pairs a protocol counts: positives, negatives, how many of them an FPR accepts."""

from collections.abc import Iterable, Sequence
from typing import Optional

import numpy as np

from ..common.errors import InputError
from .rates import allowed

MAX_GENUINE = 1 << 28  # genuine pairs
MAX_SCORES = 1 << 26  # negative scores that are kept, 256 MB


def check_sizes(
    probes: np.ndarray,
    labels: np.ndarray,
    distractors: np.ndarray,
    distractor_labels: Optional[np.ndarray],
) -> None:
    """Raise InputError for labels and embeddings that do not belong together."""
    for what, rows, given in (
        ('probes', probes, labels),
        ('distractors', distractors, distractor_labels),
    ):
        if given is not None and len(given) != len(rows):
            raise InputError(f'{len(given)} labels for {len(rows)} {what}; expected one a row')
    if distractor_labels is not None:
        kinds = [np.asarray(each).dtype.kind in 'US' for each in (labels, distractor_labels)]
        if kinds[0] != kinds[1]:
            raise InputError(
                f'labels {labels.dtype} and {distractor_labels.dtype} cannot be equal; give both '
                f'as numbers or both as text'
            )
    if len(distractors) and distractors.shape[1] != probes.shape[1]:
        raise InputError(
            f'probes have {probes.shape[1]} dimensions, distractors {distractors.shape[1]}; are '
            f'they of one network?'
        )


def count_same(labels: np.ndarray) -> int:
    """How many pairs of equal labels there are."""
    counts = np.unique(labels, return_counts=True)[1].astype(object)
    return int((counts * (counts - 1) // 2).sum())


def same_identity_pairs(labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(i, j) int64, i < j, of all pairs of equal labels.

    Raises InputError if there is no such pair, or more than MAX_GENUINE.
    """
    order = np.argsort(labels, kind='stable')
    _, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
    total = count_same(labels)
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


def mated_pairs(labels: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(i, j) int64 of all pairs with labels[i] == others[j]."""
    order = np.argsort(others, kind='stable')
    first = np.searchsorted(others[order], labels, 'left')
    count = np.searchsorted(others[order], labels, 'right') - first
    i = np.repeat(np.arange(len(labels)), count)
    within = np.arange(len(i)) - np.repeat(np.cumsum(count) - count, count)
    return i, order[np.repeat(first, count) + within]


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


def accepted_counts(fprs: Sequence[float], negatives: int, rate: str = 'FPR') -> np.ndarray:
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


def hits_by_person(
    labels: np.ndarray, rows: np.ndarray, hits: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Trials counted by whose they are, for intervals over people.

    Parameters
    ----------
    labels : (P,) identity of each probe
    rows : (T,) int, the probe of each trial
    hits : F arrays, (T,) bool, under F conditions

    Returns
    -------
    (hits (F, I), totals (I,)) int64 of the identities that have trials
    """
    people = np.unique(labels, return_inverse=True)[1].ravel()[rows]
    totals = np.bincount(people)
    tried = totals > 0
    counts = [np.bincount(people, row, len(totals))[tried] for row in hits]
    return np.array(counts, np.int64), totals[tried]
