"""A search that looks at the first dimensions alone, where a bound shows that they are enough.

Rotated to the principal axes of a set, its embeddings have most of their length in the first
dimensions, and scores stay what they are. By Cauchy-Schwarz the others add at most the product of
their lengths to a score, so that the first k find every pair above a threshold, for k of D parts of
the work, and some more, which are looked at again anyway. How many is told by a sample, what either
costs by the clock.
"""

import time
from typing import Callable, NamedTuple

import numpy as np

from ...common.parallel import cpu_count
from .screen import ROW_STEP, Packed, Searcher, exact_scores, pack

STEP = 16  # dimensions that the kernel takes at a time
_SAMPLE = 512  # embeddings of either side by which the share of pairs is told
_AXES_OF = 8192  # embeddings of either side that tell the axes
_AT_ONCE = 4096
_SIZES = 8  # numbers of dimensions that are tried
# what is timed: a few ms of every kind of work, the least of some times
_TIMES = 3
_TIMED_ROWS, _TIMED_COLUMNS = 960, 2048  # the latter a CPU
_TIMED_PAIRS = 1 << 14


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
        whole = np.asarray(embeddings[block], np.float64)
        rotated = whole @ axes[:, :size]
        first[block], rests[block] = rotated, _rests(rotated, _squares(whole), whole.shape[1])
    return _packed(first, rests, columns)


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum('nd,nd->n', rows, rows)


def _rests(first: np.ndarray, squares: np.ndarray, size: int) -> np.ndarray:
    """(N,) no less than the lengths of what `first` (N, k) leaves out of rotated embeddings of
    `size` dimensions and squared lengths `squares`; float64.

    The two sums, the products in `first` and the axes are rounded: together by less than
    8 D sqrt(k) u of the squares (u = 2**-53).
    """
    rounding = 8 * size * np.sqrt(first.shape[1]) * 2.0**-53
    return np.sqrt(np.maximum(squares - _squares(first), 0.0) + rounding * squares)


def _packed(first: np.ndarray, rests: np.ndarray, columns: bool) -> Packed:
    packed = pack(first.astype(np.float32), 'int8', columns)
    padded = np.zeros(len(packed.scales.errors), np.float32)
    padded[: len(rests)] = np.nextafter(rests.astype(np.float32), np.float32(np.inf))
    return packed._replace(rests=padded)


class Costs(NamedTuple):
    """Nanoseconds of a CPU of this machine, for the form of the kernel in use."""

    pair: float
    dimension: float  # of a pair
    again: float  # to find a pair and to look at it again
    rotated: float  # an embedding, a dimension of what it becomes


def _nanoseconds(work: Callable[[], object]) -> int:
    """CPU time of all threads: what else runs on a busy machine does not count."""

    def once() -> int:
        started = time.process_time_ns()
        work()
        return time.process_time_ns() - started

    return min(once() for _ in range(_TIMES))


def measured_costs(searcher: Searcher, rows: np.ndarray, columns: np.ndarray) -> Costs:
    """Timed on the beginning of two sets, (N, D) and (M, D), for the kernel 'int8'.

    The clock decides what is fastest alone: a wrong cost costs time, no pair.
    """
    a = np.asarray(rows[:_TIMED_ROWS], np.float32)
    b = np.asarray(columns[: _TIMED_COLUMNS * cpu_count()], np.float32)
    size = a.shape[1]

    def search(a: np.ndarray, b: np.ndarray, threshold: float) -> float:
        packed = pack(a, 'int8', columns=False), pack(b, 'int8', columns=True)
        return _nanoseconds(lambda: searcher.search(*packed, np.full(len(a), threshold)))

    least = min(STEP, size)
    short, whole = (
        search(a[:, :depth], b[:, :depth], np.inf) / (len(a) * len(b)) for depth in (least, size)
    )
    dimension = max(whole - short, 0.0) / max(size - least, 1)
    some = a[:ROW_STEP], b[: _TIMED_PAIRS // ROW_STEP]
    found = search(*some, -np.inf) / (len(some[0]) * len(some[1]))
    random = np.random.RandomState(0)
    i, j = (random.randint(len(side), size=_TIMED_PAIRS) for side in (rows, columns))
    exact = _nanoseconds(lambda: exact_scores(rows, columns, i, j)) / _TIMED_PAIRS
    rotated = np.asarray(a, np.float64)
    rotation = _nanoseconds(lambda: rotated @ rotated[:size].T) / (len(a) * min(size, len(a)))
    return Costs(max(short - least * dimension, 0.0), dimension, found + exact, rotation)


class Choice(NamedTuple):
    """What a number of dimensions promises."""

    size: int  # dimensions
    cost: float  # nanoseconds a pair
    found: float  # share of pairs that will be looked at again


def choices(
    searcher: Searcher,
    rows: np.ndarray,
    columns: np.ndarray,
    axes: np.ndarray,
    threshold: float,
    costs: Costs,
) -> list[Choice]:
    """For some numbers of dimensions, all of them last, by a search in a sample of two sets."""
    size = rows.shape[1]
    a, b = (np.asarray(part[:: -(-len(part) // _SAMPLE)], np.float32) for part in (rows, columns))
    rotated = [np.asarray(part, np.float64) @ axes for part in (a, b)]
    step = -(-size // _SIZES // STEP) * STEP
    known = []
    for kept in (*range(step, size, step), size):
        rotation = 0.0
        if kept < size:
            parts = [part[:, :kept] for part in rotated]
            rests = (_rests(part, _squares(whole), size) for part, whole in zip(parts, rotated))
            packed = (_packed(part, rest, part is parts[1]) for part, rest in zip(parts, rests))
            rotation = costs.rotated * kept * (1 / len(rows) + 1 / len(columns))
        else:
            packed = (pack(part, 'int8', columns=part is b) for part in (a, b))
        found = searcher.search(*packed, np.full(len(a), threshold))
        share = len(found[0]) / (len(a) * len(b)) if found else 1.0
        cost = costs.pair + costs.dimension * kept + share * costs.again + rotation
        known.append(Choice(kept, cost, share))
    return known
