"""A search that looks at the first dimensions alone, where a bound shows that they are enough.

Rotated to the principal axes of a set, its embeddings have most of their length in the first
dimensions, and scores stay what they are. By Cauchy-Schwarz the others add at most the product of
their lengths to a score, so that the first k find every pair above a threshold, for k of D parts of
the work, and some more, which are looked at again anyway. How many is told by a sample.
"""

from typing import NamedTuple

import numpy as np

from .screen import Packed, Searcher, pack

STEP = 16  # dimensions that the kernel takes at a time
_SAMPLE = 512  # embeddings of either side by which the share of pairs is told
_AXES_OF = 8192  # embeddings of either side that tell the axes
_AT_ONCE = 4096
_SIZES = 8  # numbers of dimensions that are tried
# nanoseconds of a core of an AMD Zen 2 (AVX2): a pair, a dimension of it, a pair that is looked at
# again, a dimension of that; a number of a rotation
_PAIR, _DIMENSION, _FOUND, _FOUND_DIMENSION, _ROTATED = 0.19, 0.0123, 30.0, 0.35, 0.2


def principal_axes(*sets: np.ndarray) -> np.ndarray:
    """(D, D) float64 orthogonal matrix: by it embeddings (n, D) of `sets` are rotated so that the
    mean square of a dimension falls from the first to the last."""
    moments = 0.0
    for embeddings in sets:
        some = np.asarray(embeddings[:: -(-len(embeddings) // _AXES_OF)], np.float64)
        moments = moments + some.T @ some / len(some)
    return np.ascontiguousarray(np.linalg.eigh(moments)[1][:, ::-1])


def pack_first(embeddings: np.ndarray, axes: np.ndarray, size: int, columns: bool) -> Packed:
    """The first `size` dimensions of rotated embeddings (N, D) for the kernel 'int8'."""
    first = np.empty((len(embeddings), size), np.float32)
    rests = np.empty(len(embeddings))
    for start in range(0, len(embeddings), _AT_ONCE):
        block = slice(start, start + _AT_ONCE)
        rotated = np.asarray(embeddings[block], np.float64) @ axes
        first[block] = rotated[:, :size]
        rests[block] = np.linalg.norm(rotated[:, size:], axis=1)
    packed = pack(first, 'int8', columns)
    padded = np.zeros(len(packed.scales.errors), np.float32)
    padded[: len(rests)] = np.nextafter(rests.astype(np.float32), np.float32(np.inf))
    return packed._replace(rests=padded)


class Choice(NamedTuple):
    """What a number of dimensions promises."""

    size: int  # dimensions
    cost: float  # nanoseconds a pair
    found: float  # share of pairs that will be looked at again


def choices(
    searcher: Searcher, rows: np.ndarray, columns: np.ndarray, axes: np.ndarray, threshold: float
) -> list[Choice]:
    """For some numbers of dimensions, all of them last, by a search in a sample of two sets."""
    size = rows.shape[1]
    a, b = (np.asarray(part[:: -(-len(part) // _SAMPLE)], np.float32) for part in (rows, columns))
    rotation = _ROTATED * size**2 * (1 / len(rows) + 1 / len(columns))
    step = -(-size // _SIZES // STEP) * STEP
    known = []
    for kept in (*range(step, size, step), size):
        if kept < size:
            packed = (pack_first(part, axes, kept, columns=part is b) for part in (a, b))
        else:
            packed, rotation = (pack(part, 'int8', columns=part is b) for part in (a, b)), 0.0
        found = searcher.search(*packed, np.full(len(a), threshold))
        share = len(found[0]) / (len(a) * len(b)) if found else 1.0
        again = share * (_FOUND + _FOUND_DIMENSION * size)
        known.append(Choice(kept, _PAIR + _DIMENSION * kept + again + rotation, share))
    return known
