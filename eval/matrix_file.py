"""Feature files of the LFR challenge (trillionpairs) and of MegaFace: one OpenCV matrix a file.

Both begin with four little-endian int32: rows, columns, bytes from one row to the next, 5 (OpenCV's
CV_32F); then rows x columns float32. LFR stores one embedding a row in a single file, MegaFace one
embedding a file, as a column.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..common.checksums import check, noted
from ..common.errors import InputError
from ..common.files import PathLike, atomic_path, atomic_write, input_file, reserve

HEADER = np.dtype('<i4')
FLOAT = np.dtype('<f4')
_HEADER_BYTES = 4 * HEADER.itemsize
_CV_32F = 5


def _header(rows: int, columns: int) -> bytes:
    return np.array([rows, columns, FLOAT.itemsize * columns, _CV_32F], HEADER).tobytes()


def read_matrix(path: PathLike) -> np.ndarray:
    """A feature file as a read-only memory map, float32 (rows, columns).

    Raises
    ------
    InputError for a missing file, another kind of file, a size that the header contradicts, and
    for one that is not as it was written.
    """
    path = input_file(path, 'feature file')
    size = path.stat().st_size
    with open(path, 'rb') as handle:
        head = handle.read(_HEADER_BYTES)
    if len(head) < _HEADER_BYTES:
        raise InputError(f'{path}: {size} bytes; a feature file begins with {_HEADER_BYTES}')
    rows, columns, stride, kind = (int(value) for value in np.frombuffer(head, HEADER))
    if kind != _CV_32F or rows < 1 or columns < 1 or stride != FLOAT.itemsize * columns:
        raise InputError(
            f'{path}: header {rows}, {columns}, {stride}, {kind} is not that of a float32 feature '
            f'file (rows, columns, 4 x columns, {_CV_32F})'
        )
    expected = _HEADER_BYTES + rows * stride
    if size != expected:
        raise InputError(
            f'{path}: {size} bytes, but its header announces {rows} x {columns} float32, '
            f'{expected} bytes; it is cut off or damaged, make it again'
        )
    check(path)
    return np.memmap(path, FLOAT, 'r', _HEADER_BYTES, (rows, columns))


def write_matrix(path: PathLike, matrix: np.ndarray) -> None:
    """Write a (rows, columns) float array as float32, whole or not at all."""
    rows, columns = matrix.shape
    content = np.ascontiguousarray(matrix, FLOAT).tobytes()
    atomic_write(path, _header(rows, columns) + content)


def write_megaface(path: PathLike, embedding: np.ndarray) -> None:
    """Write one (D,) embedding as MegaFace's D x 1 matrix."""
    write_matrix(path, np.reshape(embedding, (-1, 1)))


def read_megaface(path: PathLike) -> np.ndarray:
    """One embedding, float32 (D,), as `write_megaface` writes it; InputError as `read_matrix`."""
    matrix = read_matrix(path)
    if matrix.shape[1] != 1:
        raise InputError(
            f'{path}: a {matrix.shape} matrix; MegaFace stores one D x 1 column a file'
        )
    return np.array(matrix[:, 0])


@contextlib.contextmanager
def new_matrix(path: PathLike, rows: int, columns: int) -> Iterator[np.ndarray]:
    """Yield a float32 (rows, columns) memory map of zeros to fill; it becomes `path` at the end.

    Written through a temporary name: after an error or a kill `path` is as it was. Only the pages
    being written need memory.
    """
    with noted(path), atomic_path(Path(path)) as temporary:
        with open(temporary, 'wb') as handle:
            handle.write(_header(rows, columns))
            # reserved now, so that a full disk is an error here and not a signal while writing
            reserve(handle.fileno(), 0, _HEADER_BYTES + rows * columns * FLOAT.itemsize)
        matrix = np.memmap(temporary, FLOAT, 'r+', _HEADER_BYTES, (rows, columns))
        yield matrix
        matrix.flush()
