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
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ...common.arrays import BROKEN, Header, read_header, read_npz
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
    except FileNotFoundError:
        raise InputError(f'{path} is missing; the checkpoint needs its class centres') from None
    except (InputError, *BROKEN) as error:
        reason = str(error) or type(error).__name__
        raise InputError(f'{path}: not a whole file of class centres ({reason})') from None


@contextlib.contextmanager
def _opened(path: PathLike, name: str) -> Iterator[tuple[BinaryIO, Header]]:
    """(an array's elements, its header) of one of (rows, width) whose bytes are all there."""
    with zipfile.ZipFile(path) as archive, archive.open(f'{name}.npy') as entry:
        member, header = archive.getinfo(f'{name}.npy'), read_header(entry)
        if member.compress_type != zipfile.ZIP_STORED or member.file_size != header.size:
            raise InputError(f'{name} has another size than it says')
        if header.dtype.kind != 'f' or header.order != 'C' or len(header.shape) != 2:
            raise InputError('its arrays are not what this program writes')
        yield entry, header


def check_centres(path: PathLike) -> None:
    """Read all of a file; InputError where it is missing or damaged."""
    with _damage_of(path), zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as entry:
                while entry.read(_READ_AT_ONCE):
                    pass


def shape_of(path: PathLike, padding: bool = False) -> tuple[int, int]:
    """(classes, width) of the centres in a file; with `padding` (rows, width)."""
    with _damage_of(path):
        with _opened(path, CENTRES) as (_, header):
            rows, width = header.shape
        told = {} if padding else read_npz(path, wanted=lambda name: name == CLASSES)
        if not told:  # older files have none
            return rows, width
        classes = told[CLASSES]
        if classes.shape or classes.dtype.kind not in 'iu' or not 0 <= classes <= rows:
            raise InputError(f'{rows} rows cannot be of {classes} classes')
        return int(classes), width


def read_blocks(path: PathLike, name: str) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows as they are stored) of an array of (rows, width), block by block."""
    with _damage_of(path), _opened(path, name) as (entry, header):
        rows, width = header.shape
        for start in range(0, rows, BLOCK):
            count = min(BLOCK, rows - start)
            content = entry.read(count * width * header.dtype.itemsize)
            yield start, np.frombuffer(content, header.dtype).reshape(count, width)


def read_states(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays that the loss carries along."""
    with _damage_of(path):
        found = read_npz(path, wanted=lambda name: name.startswith(_STATE))
        return {name[len(_STATE) :]: array for name, array in found.items()}
