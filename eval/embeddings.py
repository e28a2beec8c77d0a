"""Embeddings and labels from files, checked row by row before they are compared."""

import logging
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional, Union

import numpy as np

from ..common.arrays import map_npy, read_npz
from ..common.errors import InputError
from ..common.files import PathLike, input_file, read_lines
from .matrix_file import read_matrix

log = logging.getLogger(__name__)

UNIT_TOLERANCE = 1e-2  # embeddings stored as float16 are unit to about 1e-3
_ROWS = 1 << 14
_NAMED = 5  # rows that an error lists


class Embeddings(NamedTuple):
    """Embeddings with what is known of them."""

    rows: np.ndarray  # (N, D) float; a memory map where the file allows it
    labels: Optional[np.ndarray]  # (N,) identities


def _npz(path: Path) -> Embeddings:
    arrays = read_npz(path, mapped='embeddings')
    if 'embeddings' not in arrays:
        raise InputError(f"{path}: holds {sorted(arrays)}; expected 'embeddings' (and 'labels')")
    return Embeddings(arrays['embeddings'], arrays.get('labels'))


def load_embeddings(path: PathLike, labels: Optional[PathLike] = None) -> Embeddings:
    """Read embeddings, memory-mapped where the format allows it.

    Parameters
    ----------
    path : `.npy` (N, D), `.npz` with 'embeddings' and perhaps 'labels' (mapped as np.savez writes
        it, read if compressed), or an LFR feature file
    labels : `.npy` (N,), or a text file with one identity a line; used in place of the file's own

    Raises
    ------
    InputError for a damaged file, another shape, or another number of labels than rows.
    """
    path = input_file(path, 'embeddings')
    if path.suffix == '.npz':
        rows, own = _npz(path)
    else:
        rows, own = (map_npy(path) if path.suffix == '.npy' else read_matrix(path)), None
    if rows.ndim != 2 or rows.dtype.kind != 'f' or not rows.size:
        raise InputError(f'{path}: {rows.dtype} {rows.shape}; expected float (N, D)')
    own = read_labels(labels) if labels is not None else own
    own = own if own is None else composed(own)
    if own is not None and own.shape != (len(rows),):
        raise InputError(
            f'{labels or path}: labels of shape {own.shape} for {len(rows)} embeddings; expected '
            f'one a row'
        )
    return Embeddings(rows, own)


def composed(labels: np.ndarray) -> np.ndarray:
    """Labels that are text in Unicode's composed form: systems spell a folder's name in two."""
    if labels.dtype.kind != 'U':
        return labels
    names = [unicodedata.normalize('NFC', label) for label in labels.ravel()]
    return np.array(names, str).reshape(labels.shape)


def read_labels(path: PathLike) -> np.ndarray:
    """(N,) identities: a `.npy`, or the lines of a text file."""
    path = input_file(path, 'labels')
    if path.suffix == '.npy':
        return np.array(map_npy(path))
    return np.array([line.strip() for line in read_lines(path, 'labels')])


def _blocks(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(rows), _ROWS):
        yield start, np.ascontiguousarray(rows[start : start + _ROWS], np.float32)


def _named(indices: np.ndarray) -> str:
    more = f' and {len(indices) - _NAMED} more' if len(indices) > _NAMED else ''
    return ', '.join(map(str, indices[:_NAMED])) + more


class Check(NamedTuple):
    """What `check_embeddings` found."""

    zero: np.ndarray  # indices of zero rows, ascending
    keys: np.ndarray  # (N,) uint64; rows of equal float32 content have equal keys


def check_embeddings(rows: np.ndarray, what: str, allow_zero: bool = False) -> Check:
    """Look at every row once, a block at a time.

    Parameters
    ----------
    rows : (N, D) float
    what : for messages
    allow_zero : zero rows are reported instead of refused

    Raises
    ------
    InputError naming rows (from 0) that are NaN or infinite, zero, or not of unit length.
    """
    random = np.random.RandomState(1)
    factors = random.randint(0, 1 << 32, rows.shape[1], np.uint64) << np.uint64(32)
    factors |= random.randint(0, 1 << 32, rows.shape[1], np.uint64) | np.uint64(1)
    norms, keys = np.empty(len(rows)), np.empty(len(rows), np.uint64)
    for start, block in _blocks(rows):
        part = slice(start, start + len(block))
        norms[part] = np.sqrt(np.einsum('nd,nd->n', block, block, dtype=np.float64))
        # + 0.0: zero has two forms. The sum of products modulo 2**64 is a hash of the row.
        keys[part] = (block + np.float32(0)).view(np.uint32).astype(np.uint64) @ factors
    bad = np.flatnonzero(~np.isfinite(norms))
    if len(bad):
        raise InputError(
            f'{what}: NaN or infinite in {len(bad)} of {len(rows)} rows: {_named(bad)}'
        )
    zero = np.flatnonzero(norms == 0)
    if len(zero) and not allow_zero:
        raise InputError(
            f'{what}: {len(zero)} of {len(rows)} rows are zero (images that were missing?): '
            f'{_named(zero)}; leave them out with --skip-zero'
        )
    off = np.flatnonzero((np.abs(norms - 1) > UNIT_TOLERANCE) & (norms > 0))
    if len(off):
        raise InputError(
            f'{what}: {len(off)} of {len(rows)} rows are not of unit length (row {off[0]}: '
            f'{norms[off[0]]:.4g}); divide each by its length'
        )
    return Check(zero, keys)


class RowSubset:
    """Some rows of an array, taken from it when they are asked for.

    Has what a blockwise reader of (N, D) rows needs: length, shape, dtype, and indexing by a slice
    or an index array, which gives an ndarray.
    """

    def __init__(self, rows: np.ndarray, kept: np.ndarray):
        self._rows, self._kept = rows, kept
        self.shape, self.dtype = (len(kept), rows.shape[1]), rows.dtype

    def __len__(self) -> int:
        return len(self._kept)

    def __getitem__(self, index: Union[slice, np.ndarray]) -> np.ndarray:
        return self._rows[self._kept[index]]


def without_rows(embeddings: Embeddings, gone: np.ndarray) -> Embeddings:
    """The same without some rows: itself if there are none, else with a RowSubset."""
    if not len(gone):
        return embeddings
    kept = np.delete(np.arange(len(embeddings.rows)), gone)
    labels = None if embeddings.labels is None else embeddings.labels[kept]
    return Embeddings(RowSubset(embeddings.rows, kept), labels)


def count_duplicates(keys: np.ndarray, other_keys: np.ndarray) -> int:
    """How many of the others are equal to one of the rows, by their keys."""
    return int(np.isin(other_keys, keys).sum())
