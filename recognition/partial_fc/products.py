"""The two passes of a step over the sampled centres: their cosines, and their update.

Compiled for this machine (recognition/kernels) both read the rows where they lie, with all threads;
without a compiler NumPy does the same in blocks of rows, several times slower.
"""

from collections.abc import Iterator
from typing import NamedTuple, Optional

import numpy as np

from ..kernels.sample import native_kernels
from .centres import BLOCK, Centres, Rows

_NORM_ADDEND = 1e-10  # of squares, that of MXNet's L2Normalization


class Move(NamedTuple):
    """How sampled centres move: momentum = mom * momentum - lr * (gradient + wd * centre), and
    centre += momentum."""

    lr: float
    mom: float
    wd: float


def lengths(rows: np.ndarray) -> np.ndarray:
    """(M,) float32: L2 norms of rows (M, D), never 0."""
    return np.sqrt(np.einsum('md,md->m', rows, rows) + np.float32(_NORM_ADDEND))


def _count(centres: Centres, rows: Optional[np.ndarray]) -> int:
    """How many rows of the shard a sample has."""
    return centres.rows if rows is None else len(rows)


def _blocks(centres: Centres, rows: Optional[np.ndarray]) -> Iterator[tuple[slice, Rows]]:
    """(places in the sample, rows of the shard) of a block of centres."""
    total = _count(centres, rows)
    for start in range(0, total, BLOCK):
        places = slice(start, min(start + BLOCK, total))
        yield places, places if rows is None else rows[places]


def _sample(centres: Centres, rows: Optional[np.ndarray], per_row: int) -> tuple:
    """What the kernels are told of a sample; `rows` stays in the caller's hands."""
    place = None if rows is None else rows.ctypes.data
    return place, per_row, _count(centres, rows) * per_row


def cosines(
    unit: np.ndarray, centres: Centres, rows: Optional[np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Cosines of embeddings and sampled centres.

    Parameters
    ----------
    unit : (N, D) float32, of length 1, C-contiguous
    centres : of k * D values a row
    rows : (m,) int64, C-contiguous, which rows are sampled; None: all

    Returns
    -------
    (N, m * k) float32, and (m * k,) float32: 1 / length of every centre
    """
    size, native = unit.shape[1], native_kernels()
    k = centres.width // size
    total = k * _count(centres, rows)
    found, factors = np.empty((len(unit), total), np.float32), np.empty(total, np.float32)
    if native is not None:
        call = getattr(native, f'vgc_cosines_{centres.dtype}')
        sample = _sample(centres, rows, k)
        call(unit, len(unit), size, centres.weights.ctypes.data, *sample, found, factors)
        return found, factors
    for places, chosen in _blocks(centres, rows):
        weights = centres.read_weights(chosen).reshape(-1, size)
        columns = slice(places.start * k, places.stop * k)
        factors[columns] = 1 / lengths(weights)
        found[:, columns] = unit @ weights.T * factors[columns]
    return found, factors


def update(
    unit: np.ndarray,
    gradient: np.ndarray,
    factors: np.ndarray,
    centres: Centres,
    rows: Optional[np.ndarray],
    move: Move,
    random: np.random.Generator,
) -> np.ndarray:
    """Move the sampled centres by the gradient of the mean of the images' losses.

    Where g is the gradient of w / |w|, that of the centre w is g / |w| - (g w) w / |w|^3.

    Parameters
    ----------
    unit, rows : as `cosines` takes them
    gradient : (N, m * k) float32, C-contiguous: of the sum of the losses by the cosines
    factors : as `cosines` gave them
    random : of the rounding where centres are float16

    Returns
    -------
    (N, D) float32: the gradient of the sum of the losses by `unit`
    """
    size, native, rate = unit.shape[1], native_kernels(), move.lr / len(unit)
    k = centres.width // size
    if native is not None:
        found = np.empty_like(unit)
        call = getattr(native, f'vgc_update_{centres.dtype}')
        stored = centres.weights.ctypes.data, centres.momenta.ctypes.data
        sample = _sample(centres, rows, k)
        numbers = rate, move.lr * move.wd, move.mom, int(random.integers(1 << 32))
        call(unit, len(unit), size, *stored, *sample, gradient, factors, *numbers, found)
        return found
    found = np.zeros_like(unit)
    for places, chosen in _blocks(centres, rows):
        weights, momenta = centres.read(chosen)
        directions = weights.reshape(-1, size)
        columns = slice(places.start * k, places.stop * k)
        part = gradient[:, columns] * factors[columns]
        found += part @ directions
        part *= np.float32(rate)
        change = part.T @ unit
        along = np.einsum('md,md->m', change, directions) * factors[columns] ** 2
        change += directions * (np.float32(move.lr * move.wd) - along)[:, None]
        _step(centres, chosen, (weights, momenta), change.reshape(weights.shape), move.mom, random)
    return found


def decay_others(
    centres: Centres, rows: np.ndarray, move: Move, random: np.random.Generator
) -> None:
    """Decay and momentum of the centres that are not in the sample `rows`, ascending."""
    for _, block in _blocks(centres, None):
        low, high = np.searchsorted(rows, [block.start, block.stop])
        others = np.ones(block.stop - block.start, bool)
        others[rows[low:high] - block.start] = False
        chosen = block.start + np.flatnonzero(others)
        weights, momenta = centres.read(chosen)
        change = np.float32(move.lr * move.wd) * weights
        _step(centres, chosen, (weights, momenta), change, move.mom, random)


def _step(centres: Centres, chosen: Rows, values: tuple, change: np.ndarray, mom, random) -> None:
    """Momentum and centres of some rows; `change` is the learning rate times the gradient."""
    weights, momenta = values
    momenta *= np.float32(mom)
    momenta -= change
    weights += momenta
    centres.write(chosen, weights, momenta, random)
