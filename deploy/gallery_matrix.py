"""The rows of a gallery on the disk, one after another, in a file for each key.

Only bytes and places are known here: whose row it is, and what opens it, the gallery knows.
"""

import contextlib
import errno
import mmap
import os
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ..common.files import reserve, sync_folder

MATRIX = 'embeddings.f32'
_GROWTH = 1024  # rows by which the file grows at least
_FORM = re.compile(r'embeddings(\.[1-9][0-9]{0,8})?\.f32')


def matrix_name(generation: int) -> str:
    """The name of the matrix file after so many changes of the key."""
    return f'embeddings.{generation}.f32' if generation else MATRIX


def is_matrix(name: str) -> bool:
    """Whether a file's name is that of a matrix, of any generation."""
    return _FORM.fullmatch(name) is not None


def rows_of(path: Path, width: int) -> np.ndarray:
    """The whole rows of a matrix file, uint8 (N, width)."""
    count = path.stat().st_size // width if path.is_file() else 0
    if not count:
        return np.empty((0, width), np.uint8)
    return np.memmap(path, np.uint8, 'r', shape=(count, width))


class MatrixFile:
    """A matrix file that is open, made if it is not there; every method may raise OSError.

    Parameters
    ----------
    folder : of the gallery
    generation : changes of the key until then
    width : bytes of a row
    """

    def __init__(self, folder: Path, generation: int, width: int):
        self.path = folder / matrix_name(generation)
        self.width = width
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o600)

    def close(self) -> None:
        """Close the file, which a second time does nothing."""
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1

    def __len__(self) -> int:
        """Rows that the file holds, used or not."""
        return os.fstat(self._handle).st_size // self.width

    def mapped(self) -> np.ndarray:
        """The rows where they lie, uint8 (rows, width)."""
        if not len(self):
            return np.empty((0, self.width), np.uint8)
        return np.memmap(self.path, np.uint8, 'r+', shape=(len(self), self.width))

    def write(self, places: np.ndarray, rows: np.ndarray) -> None:
        """Put rows, uint8 (N, width), at places, int64 (N,), and on the disk."""
        if not len(places):
            return
        self._reserve(self.width * (int(places.max()) + 1))
        # neighbours go in one write
        for run in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
            _write_all(self._handle, rows[run].tobytes(), self.width * int(places[run[0]]))
        os.fsync(self._handle)

    def _reserve(self, needed: int) -> None:
        """Have the file `needed` bytes long, or longer, all with room on the disk: where a file
        system in memory is full, to read a mapped byte that has none ends the process."""
        size = os.fstat(self._handle).st_size
        if size >= needed:
            return
        try:
            reserve(self._handle, size, needed + self.width * _GROWTH)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise
            os.ftruncate(self._handle, size)  # what may have been added
            reserve(self._handle, size, needed)

    def others(self) -> list[Path]:
        """Matrix files of other keys than today's, and of changes of it that came to no end."""
        names = (name for name in os.listdir(self.path.parent) if is_matrix(name))
        return [self.path.parent / name for name in names if name != self.path.name]


def write_matrix(folder: Path, generation: int, rows: Iterable[tuple[int, bytes]]) -> None:
    """A file of (place, row), all rows of one width, in place of one that may be there."""
    path = folder / matrix_name(generation)
    handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, 'wb') as file:
        for place, row in rows:
            file.seek(len(row) * place)
            file.write(row)
        file.flush()
        if size := os.fstat(handle).st_size:  # rows that nobody has need room as well: `_reserve`
            reserve(handle, 0, size)
        os.fsync(file.fileno())
    sync_folder(folder)


def wipe(path: Path) -> None:
    """Overwrite a file with zeros and remove it."""
    with open(path, 'r+b') as file:
        left = os.fstat(file.fileno()).st_size
        while left > 0:
            left -= file.write(bytes(min(left, 1 << 20)))
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def private_rows(rows: int, size: int) -> np.ndarray:
    """float32 zeros (rows, size) in memory, which no core dump holds.

    They begin on a page, as a mapped file does: NumPy's own begin 16 bytes behind one, and a
    product takes a fifth longer.
    """
    if not rows:
        return np.empty((0, size), np.float32)
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    memory = mmap.mmap(-1, 4 * rows * size, flags=flags)
    for advice in ('MADV_DONTDUMP', 'MADV_HUGEPAGE'):
        with contextlib.suppress(AttributeError, OSError):  # Linux alone knows them
            memory.madvise(getattr(mmap, advice))
    return np.frombuffer(memory, np.float32).reshape(rows, size)


def _write_all(handle: int, content: bytes, offset: int) -> None:
    """os.pwrite writes at most 2 GiB at once."""
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
