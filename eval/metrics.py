"""1:1 verification metrics on NumPy arrays: 10-fold accuracy and VAL at a false-accept rate.

The protocol is LFW's (contiguous folds; a fold's threshold is chosen on the other folds) with the
threshold grids of FaceNet's and InsightFace's evaluation, whose numbers papers report.

A pair is accepted as "same" iff its distance is *smaller* than the threshold. Distances are squared
Euclidean distances of unit vectors, 0..4. Letters: P pairs, K folds, T thresholds.
"""

from typing import NamedTuple

import numpy as np

ACCURACY_THRESHOLDS = np.arange(0, 4, 0.01)  # (400,)
VAL_THRESHOLDS = np.arange(0, 4, 0.001)  # (4000,)


class FoldAccuracy(NamedTuple):
    """Result of `k_fold_accuracy`; curves are over ACCURACY_THRESHOLDS."""

    accuracy: np.ndarray  # (K,) float64, 0..1, each fold at its own threshold
    threshold: np.ndarray  # (K,) float64, squared distance
    tpr: np.ndarray  # (T,) float64, accepted share of the same pairs, mean over folds
    fpr: np.ndarray  # (T,) float64, accepted share of the different pairs, mean over folds


class FoldVal(NamedTuple):
    """Result of `val_at_far`: means over folds and the population deviation of VAL."""

    val: float
    val_std: float
    far: float


def squared_distances(embeddings: np.ndarray) -> np.ndarray:
    """(2P, D) float unit vectors, pair i in rows 2i and 2i+1 -> (P,) float64, 0..4."""
    embeddings = np.asarray(embeddings, np.float64)
    difference = embeddings[0::2] - embeddings[1::2]
    return np.einsum('pd,pd->p', difference, difference)


def fold_numbers(pairs: int, folds: int) -> np.ndarray:
    """(P,) int: the fold of every pair. Contiguous; the first P mod K folds are one longer."""
    sizes = np.full(folds, pairs // folds)
    sizes[: pairs % folds] += 1
    return np.repeat(np.arange(folds), sizes)


def accepted_per_fold(
    distance: np.ndarray, fold: np.ndarray, folds: int, thresholds: np.ndarray
) -> np.ndarray:
    """How many pairs of each fold every threshold accepts.

    Parameters
    ----------
    distance : (P,) float
    fold : (P,) int, 0..folds-1
    thresholds : (T,) float, ascending

    Returns
    -------
    (K, T) int64
    """
    # side='right': a pair at exactly the threshold is not accepted by it
    first_accepting = np.searchsorted(thresholds, distance, side='right')
    bins = len(thresholds) + 1  # the last bin is for pairs that no threshold accepts
    histogram = np.bincount(fold * bins + first_accepting, minlength=folds * bins)
    return histogram.reshape(folds, bins).cumsum(axis=1)[:, :-1]


def _rate(accepted: np.ndarray, total: np.ndarray) -> np.ndarray:
    """accepted / total for the folds that have such pairs; the others say nothing."""
    has_pairs = total > 0
    return (accepted[has_pairs].T / total[has_pairs]).T


def k_fold_accuracy(distance: np.ndarray, issame: np.ndarray, folds: int = 10) -> FoldAccuracy:
    """Accuracy of every fold at the threshold that is best on the other folds.

    Parameters
    ----------
    distance : (P,) float, squared distances
    issame : (P,) bool
    folds : K <= P

    Returns
    -------
    FoldAccuracy. Among equally good thresholds the smallest is taken. A fold without same
    (different) pairs does not enter the mean of `tpr` (`fpr`).
    """
    fold = fold_numbers(len(issame), folds)
    same_total = np.bincount(fold[issame], minlength=folds)
    different_total = np.bincount(fold[~issame], minlength=folds)
    same = accepted_per_fold(distance[issame], fold[issame], folds, ACCURACY_THRESHOLDS)
    different = accepted_per_fold(distance[~issame], fold[~issame], folds, ACCURACY_THRESHOLDS)

    correct = same + different_total[:, None] - different
    best = (correct.sum(axis=0) - correct).argmax(axis=1)  # argmax is the first maximum
    return FoldAccuracy(
        accuracy=correct[np.arange(folds), best] / (same_total + different_total),
        threshold=ACCURACY_THRESHOLDS[best],
        tpr=_rate(same, same_total).mean(axis=0),
        fpr=_rate(different, different_total).mean(axis=0),
    )


def val_at_far(
    distance: np.ndarray, issame: np.ndarray, folds: int = 10, far_target: float = 1e-3
) -> FoldVal:
    """Validation rate (accepted same pairs) at a false-accept rate, both on held-out folds.

    A fold's threshold is interpolated linearly in the (FAR, threshold) curve of the other folds at
    `far_target`; it is 0, which accepts nothing, when they never reach `far_target`.

    Parameters
    ----------
    distance : (P,) float, squared distances
    issame : (P,) bool
    folds : K <= P
    far_target : 0..1

    Returns
    -------
    FoldVal. A fold without same (different) pairs does not enter the means of VAL (FAR).
    """
    fold = fold_numbers(len(issame), folds)
    same_total = np.bincount(fold[issame], minlength=folds)
    different_total = np.bincount(fold[~issame], minlength=folds)
    different = accepted_per_fold(distance[~issame], fold[~issame], folds, VAL_THRESHOLDS)

    train_accepted = different.sum(axis=0) - different
    train_total = different_total.sum() - different_total
    train_far = train_accepted / np.maximum(train_total, 1)[:, None]
    # FAR stays level between distances; np.interp then takes the end of the level part
    threshold = np.array(
        [
            np.interp(far_target, far, VAL_THRESHOLDS) if far[-1] >= far_target else 0.0
            for far in train_far
        ]
    )
    accepted = distance < threshold[fold]
    val = _rate(np.bincount(fold[issame & accepted], minlength=folds), same_total)
    far = _rate(np.bincount(fold[~issame & accepted], minlength=folds), different_total)
    return FoldVal(val=float(val.mean()), val_std=float(val.std()), far=float(far.mean()))
