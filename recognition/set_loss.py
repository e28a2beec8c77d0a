"""The set-to-set loss that a quality head is trained with; ours, since QAN++'s is not published.

Each video is one embedding, the mean of its frames' unit-length embeddings weighted by exp(q), of
unit length again. For two videos i, j of a person and all videos k of others

    L_ij = -log(exp(s c_ij) / (exp(s c_ij) + sum_k exp(s c_ik)))

with c the cosine of two videos: softmax with j as the class of i (as in N-pair loss, Sohn 2016). L
is the mean over the ordered pairs of a person, and then over people: one with many videos counts
as much as one with two. The embeddings are constants, so that the network stays as it is.
"""

from typing import NamedTuple

import numpy as np

MOST_SCALE = 200.0  # exp(-2 s) of the least alike videos is a number up to there


class FrameSets(NamedTuple):
    """Frames of videos, one video after the other; every video has one or more."""

    units: np.ndarray  # (F, D) float64, embeddings of unit length
    starts: np.ndarray  # (V,) int64, the first frame of each video
    people: np.ndarray  # (V,) int64

    @property
    def owner(self) -> np.ndarray:
        """(F,) the video of each frame."""
        return np.repeat(np.arange(len(self.starts)), np.diff(self.starts, append=len(self.units)))


def _pair_weights(people: np.ndarray) -> np.ndarray:
    """(V, V) float64 of sum 1: what each ordered pair of a person counts, 0 for others."""
    same = (people[:, None] == people) & ~np.eye(len(people), dtype=bool)
    pairs = np.bincount(people, weights=same.sum(axis=1))  # of each person
    weights = same / np.maximum(pairs[people], 1)[:, None]
    return weights / weights.sum()


def set_loss(sets: FrameSets, qualities: np.ndarray, scale: float) -> tuple[float, np.ndarray]:
    """The loss, and its gradient for the qualities.

    Parameters
    ----------
    sets : at least one person with two videos, and another person
    qualities : (F,) float64
    scale : s, above 0 and up to MOST_SCALE

    Returns
    -------
    (L, (F,) dL/dq)
    """
    owner, starts = sets.owner, sets.starts
    weights = np.exp(qualities - np.maximum.reduceat(qualities, starts)[owner])
    weights /= np.add.reduceat(weights, starts)[owner]
    means = np.add.reduceat(weights[:, None] * sets.units, starts)
    lengths = np.linalg.norm(means, axis=1, keepdims=True)
    videos = means / lengths

    # cosines are at most 1: with the scale taken away nothing overflows
    scores = scale * (videos @ videos.T)
    exps = np.exp(scores - scale)
    different = sets.people[:, None] != sets.people
    others = np.where(different, exps, 0).sum(axis=1, keepdims=True)
    pair_weights = _pair_weights(sets.people)
    sums = exps + others
    loss = float((pair_weights * (np.log(sums) + scale - scores)).sum())

    by_score = pair_weights * (exps / sums - 1)
    by_score += different * exps * (pair_weights / sums).sum(axis=1, keepdims=True)
    by_video = scale * (by_score + by_score.T) @ videos
    by_mean = (by_video - videos * (by_video * videos).sum(axis=1, keepdims=True)) / lengths
    by_weight = (sets.units * by_mean[owner]).sum(axis=1)
    mean_slope = np.add.reduceat(weights * by_weight, starts)
    return loss, weights * (by_weight - mean_slope[owner])
