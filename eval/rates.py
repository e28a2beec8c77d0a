"""Rates and thresholds from scores: ROC points, and thresholds at given false-positive rates.

A score is a similarity: higher is more alike. A comparison is accepted iff its score is *above* the
threshold, so that a threshold can be one of the scores and ties with it are refused.
"""

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np


class Roc(NamedTuple):
    """Points of an ROC curve, ascending; the first is (0, 0)."""

    fpr: np.ndarray  # (R,) float64
    tpr: np.ndarray  # (R,) float64
    threshold: np.ndarray  # (R,) float64: point i accepts scores >= threshold[i]


def roc_points(scores: np.ndarray, same: np.ndarray) -> Roc:
    """ROC with a point at every distinct score, without points between equal steps.

    Parameters
    ----------
    scores : (P,) float
    same : (P,) bool or 0/1; both kinds occur

    Returns
    -------
    Roc. A point is left out where the counts of both kinds change before and after it by the same
    steps, as scikit-learn's roc_curve does by default.
    """
    order = np.argsort(-scores, kind='stable')
    scores, same = scores[order], np.asarray(same, bool)[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
    true = np.cumsum(same)[ends]
    false = ends + 1 - true
    bends = np.concatenate(([True], (np.diff(true, 2) != 0) | (np.diff(false, 2) != 0), [True]))
    bends = bends[-len(ends) :]  # a single distinct score
    fpr = np.append(0, false[bends] / false[-1])
    tpr = np.append(0, true[bends] / true[-1])
    return Roc(fpr, tpr, np.append(np.inf, scores[ends[bends]]))


def nearest_points(roc: Roc, fprs: Sequence[float]) -> np.ndarray:
    """Index of the point nearest to each FPR; of equally near ones the last (largest TPR)."""
    distance = np.abs(roc.fpr[::-1] - np.asarray(fprs, np.float64)[:, None])
    return len(roc.fpr) - 1 - distance.argmin(axis=1)


def allowed(fpr: float, negatives: int) -> int:
    """How many of `negatives` may be accepted at `fpr`: the floor of their product, exactly.

    The decimal value that people write counts: 1e-8 of 10**8 is 1, though the binary number
    nearest to 1e-8 may be a little less.
    """
    return math.floor(Fraction(repr(float(fpr))) * negatives)


def threshold_at(descending: np.ndarray, count: int) -> float:
    """The threshold that accepts at most `count` of some scores, by the rule "above".

    Parameters
    ----------
    descending : (K,) float, the highest scores, descending; K > count unless these are all
    count : how many may be accepted

    Returns
    -------
    the (count + 1)-th highest score; -inf if there are no more than `count`. Ties with it are all
    refused, since accepting one would accept more than `count`.
    """
    return float(descending[count]) if count < len(descending) else -np.inf
