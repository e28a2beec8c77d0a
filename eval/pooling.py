"""Pooling: the frames of one video, each with its quality, to one embedding.

A pooling takes `embeddings`, the frames' (F, D) float32 rows as the network gives them (of any
length; F >= 1), and `qualities`, (F,) float32 of any sign, higher is better. It returns (D,)
float32, of any length: only the direction of an embedding counts.
"""

from typing import Callable

import numpy as np

from ..common.registry import Registry
from ..common.vectors import unit_rows

Pooling = Callable[[np.ndarray, np.ndarray], np.ndarray]

POOLINGS: Registry[Pooling] = Registry('pooling')
MEAN = 'mean'
SAFE = 'qan++-safe'
_RAW_UP_TO = 2  # frames whose qualities QAN++ does not stretch


def _weighted(embeddings: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """sum_k w_k f_k / sum_k w_k; NaN or infinite where the weights add up to zero."""
    with np.errstate(divide='ignore', invalid='ignore'):
        return (weights[:, None] * embeddings).sum(axis=0) / weights.sum()


def _stretched(qualities: np.ndarray) -> np.ndarray:
    """QAN++'s weights: of more than two frames the worst gets 0 and the best 1, others are raw."""
    if len(qualities) <= _RAW_UP_TO:
        return qualities
    lowest, highest = qualities.min(), qualities.max()
    with np.errstate(divide='ignore', invalid='ignore'):
        return (qualities - lowest) / (highest - lowest)


@POOLINGS.register(MEAN)
def mean(embeddings: np.ndarray, qualities: np.ndarray) -> np.ndarray:
    """The mean of the unit-length embeddings, whatever their qualities: the LFR baseline."""
    return unit_rows(embeddings).mean(axis=0).astype(np.float32)


@POOLINGS.register('norm')
def norm(embeddings: np.ndarray, qualities: np.ndarray) -> np.ndarray:
    """The unit-length embeddings weighted by their lengths before: the mean of the rows as they
    are. A network that was trained with softmax gives a clear face a longer embedding
    (arXiv:1703.09507).
    """
    return embeddings.mean(axis=0)


@POOLINGS.register('best')
def best(embeddings: np.ndarray, qualities: np.ndarray) -> np.ndarray:
    """The frame of the highest quality alone; of equal ones the first."""
    return embeddings[int(np.argmax(qualities))]


@POOLINGS.register('softmax')
def softmax(embeddings: np.ndarray, qualities: np.ndarray) -> np.ndarray:
    """The unit-length embeddings weighted by exp(q): what `vargfacenet quality` trains heads for.

    Finite for all finite qualities; equal ones give the mean.
    """
    weights = np.exp(qualities - qualities.max())
    return _weighted(unit_rows(embeddings), weights).astype(np.float32)


@POOLINGS.register('qan++')
def qan(embeddings: np.ndarray, qualities: np.ndarray) -> np.ndarray:
    """QAN++'s aggregation to the letter of its authors' code, in float32.

    More than two equal qualities give NaN, since it divides by zero; so do one or two that add up
    to zero, and negative ones among them turn the embedding away from its frames.
    """
    return _weighted(embeddings, _stretched(qualities))


@POOLINGS.register(SAFE)
def qan_safe(embeddings: np.ndarray, qualities: np.ndarray) -> np.ndarray:
    """QAN++'s aggregation, defined everywhere.

    The same number as 'qan++' wherever that one's weights are none of them negative and not all
    zero. A negative weight counts as zero, and where no frame is left all count alike.
    """
    weights = _stretched(qualities)
    weights = np.maximum(np.where(np.isfinite(weights), weights, 0), 0)
    return _weighted(embeddings, weights if weights.any() else np.ones_like(weights))
