"""Centres on disk: PREFIX-%04d.centres beside a checkpoint, an `.npz` that is not compressed.

    centres   (rows, width) float32 or float16
    momenta   the same
    state.*   arrays that the loss carries along

It is written and read in blocks, since the arrays may be larger than what memory is left. The
archive's CRC-32 tells damage.
"""

import contextlib
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

import numpy as np

from ...common.errors import InputError
from ...common.files import PathLike, atomic_path
from .centres import BLOCK, Centres

CENTRES, MOMENTA = 'centres', 'momenta'
_STATE = 'state.'
_READ_AT_ONCE = 1 << 20  # bytes


def centres_path(prefix: PathLike, number: int) -> Path:
    return Path(f'{prefix}-{number:04d}.centres')


def write_centres(path: PathLike, centres: Centres, states: dict[str, np.ndarray]) -> None:
    """Write centres and momenta, whole or not at all."""
    named = {_STATE + name: value for name, value in states.items()}
    with atomic_path(path) as temporary, open(temporary, 'wb') as handle:
        np.savez(handle, **{CENTRES: centres.weights, MOMENTA: centres.momenta}, **named)


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


def shape_of(path: PathLike) -> tuple[int, int]:
    """(rows, width) of the centres in a file."""
    with (
        _damage_of(path),
        zipfile.ZipFile(path) as archive,
        archive.open(f'{CENTRES}.npy') as entry,
    ):
        rows, width = _header(entry)[0]
        return rows, width


def read_blocks(path: PathLike, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows as they are stored) of an array of (rows, width), block by block."""
    with _damage_of(path), zipfile.ZipFile(path) as archive, archive.open(f'{name}.npy') as entry:
        (rows, width), dtype = _header(entry)
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            content = entry.read(count * width * dtype.itemsize)
            yield start, np.frombuffer(content, dtype).reshape(count, width)


def read_centres(path: PathLike, centres: Centres) -> dict[str, np.ndarray]:
    """Fill centres and momenta from a file of the same shape and type; the loss's states.

    Raises InputError for a file that is missing, damaged or of another run.
    """
    wanted = centres.weights.shape
    if shape_of(path) != wanted:
        raise InputError(f'{path} has centres of {shape_of(path)}, this run {wanted}')
    for name, array in ((CENTRES, centres.weights), (MOMENTA, centres.momenta)):
        for start, block in read_blocks(path, name):
            if block.dtype != array.dtype:
                raise InputError(f'{path} has {block.dtype} centres, this run {array.dtype}')
            array[start : start + len(block)] = block
    with _damage_of(path), np.load(path, allow_pickle=False) as archive:
        names = [name for name in archive.files if name.startswith(_STATE)]
        return {name[len(_STATE) :]: archive[name] for name in names}


def adopt_blocks(
    centres: Centres,
    blocks: Iterator[tuple[int, np.ndarray]],
    rows: Optional[np.ndarray],
    random: np.random.Generator,
) -> int:
    """Put centres of another run in the places of this one's; their momenta are zero.

    Parameters
    ----------
    blocks : (first row, rows) as of `read_blocks`
    rows : int, this run's row of each of the other's, -1 for none. None: the same

    Returns
    -------
    how many were taken
    """
    taken = 0
    for start, block in blocks:
        places = np.arange(start, start + len(block))
        places = places if rows is None else rows[places]
        held = places >= 0
        values = block[held].astype(np.float32)
        centres.write(places[held], values, np.zeros_like(values), random)
        taken += int(held.sum())
    return taken
