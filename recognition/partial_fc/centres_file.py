"""Centres on disk: PREFIX-%04d.centres beside a checkpoint, an `.npz` that is not compressed.

    centres   (rows, width) float32 or float16: one row a class, and behind them those that pad the
              shards of several ranks
    momenta   the same
    classes   how many of the rows are classes
    state.*   arrays that the loss carries along

It is written and read in blocks, since the arrays may be larger than what memory is left. The
archive's CRC-32 tells damage.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np

from ...common.errors import InputError
from ...common.files import PathLike, atomic_path
from .centres import BLOCK

CENTRES, MOMENTA, CLASSES = 'centres', 'momenta', 'classes'
_STATE = 'state.'
_READ_AT_ONCE = 1 << 20  # bytes


def centres_path(prefix: PathLike, number: int) -> Path:
    return Path(f'{prefix}-{number:04d}.centres')


def write_centres(
    path: PathLike,
    blocks: Mapping[str, Iterable[np.ndarray]],
    shape: tuple[int, int],
    dtype: str,
    classes: int,
    states: Mapping[str, np.ndarray],
) -> None:
    """Write arrays of (rows, width) that come in blocks, whole or not at all."""
    header = {'descr': np.dtype(dtype).str, 'fortran_order': False, 'shape': shape}
    small = {CLASSES: np.array(classes), **{_STATE + name: states[name] for name in states}}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        for name, rows in blocks.items():
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as entry:
                np.lib.format.write_array_header_1_0(entry, header)
                for block in rows:
                    entry.write(np.ascontiguousarray(block).view(np.uint8).data)
        for name, value in small.items():
            with archive.open(f'{name}.npy', 'w') as entry:
                np.lib.format.write_array(entry, np.asarray(value), allow_pickle=False)


@contextlib.contextmanager
def _damage_of(path: PathLike) -> Iterator[None]:
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError) as error:
        raise InputError(f'{path}: not a whole file of class centres ({error})') from None
    except FileNotFoundError:
        raise InputError(f'{path} is missing; the checkpoint needs its class centres') from None


def check_centres(path: PathLike) -> None:
    """Read all of a file; InputError where it is missing or damaged."""
    with _damage_of(path), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as entry:
                while entry.read(_READ_AT_ONCE):
                    pass


def _header(entry) -> tuple[tuple, np.dtype]:
    version = np.lib.format.read_magic(entry)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }[version]
    shape, fortran, dtype = read(entry)
    if fortran or dtype.kind != 'f':
        raise ValueError('its arrays are not what this program writes')
    return shape, dtype


def shape_of(path: PathLike, padding: bool = False) -> tuple[int, int]:
    """(classes, width) of the centres in a file; with `padding` (rows, width)."""
    with _damage_of(path), zipfile.ZipFile(path) as archive:
        with archive.open(f'{CENTRES}.npy') as entry:
            rows, width = _header(entry)[0]
        if padding or f'{CLASSES}.npy' not in archive.namelist():  # older files have none
            return rows, width
        with archive.open(f'{CLASSES}.npy') as entry:
            return int(np.lib.format.read_array(entry, allow_pickle=False)), width


def read_blocks(path: PathLike, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows as they are stored) of an array of (rows, width), block by block."""
    with _damage_of(path), zipfile.ZipFile(path) as archive, archive.open(f'{name}.npy') as entry:
        (rows, width), dtype = _header(entry)
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            content = entry.read(count * width * dtype.itemsize)
            yield start, np.frombuffer(content, dtype).reshape(count, width)


def read_states(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays that the loss carries along."""
    with _damage_of(path), np.load(path, allow_pickle=False) as archive:
        names = [name for name in archive.files if name.startswith(_STATE)]
        return {name[len(_STATE) :]: archive[name] for name in names}
