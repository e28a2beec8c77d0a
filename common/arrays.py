"""NumPy's `.npy` and `.npz` files of strangers: sizes are looked at before anything is unpacked.

NumPy believes the header of an array and the directory of an archive: two megabytes unpack to
gigabytes, and a damaged header fails in a dozen ways. Here every array is checked against what is
there, and no pickled object is read.
"""

import ast
import hashlib
import math
import struct
import sys
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Callable, NamedTuple, Optional

import numpy as np

from . import limits
from .errors import InputError
from .files import PathLike, atomic_path

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

_MAGIC = b'\x93NUMPY'
_LENGTHS = {1: '<H', 2: '<I', 3: '<I'}  # of the header, by major version
_HEADER_BYTES = 1 << 16
_ENTRIES = 1 << 12
_BLOCK = 1 << 20
_KINDS = 'biufcU'  # of plain arrays; no objects, records or dates
BROKEN = (  # what a damaged archive or array fails with
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,  # of a compression or a version that zipfile does not know
    struct.error,
    SyntaxError,
    ValueError,
    TypeError,
    KeyError,
    RuntimeError,  # of an encrypted member
    RecursionError,
    MemoryError,
    OverflowError,
    OSError,
)


class Header(NamedTuple):
    """Of one array; `offset` is the number of bytes before its elements."""

    dtype: np.dtype
    shape: tuple[int, ...]
    order: str
    offset: int

    @property
    def size(self) -> int:
        return self.offset + self.dtype.itemsize * math.prod(self.shape)


def read_header(handle: BinaryIO) -> Header:
    """What stands in front of an array's elements; an error of `BROKEN` for a damaged one."""
    start = handle.read(8)
    if start[:6] != _MAGIC or len(start) < 8 or start[6] not in _LENGTHS:
        raise InputError('it is no array of NumPy')
    form = _LENGTHS[start[6]]
    (length,) = struct.unpack(form, handle.read(struct.calcsize(form)))
    limits.within(length, _HEADER_BYTES, 'its header')
    text = handle.read(length).decode('utf-8' if start[6] == 3 else 'latin-1')
    values = ast.literal_eval(text.strip())
    if not isinstance(values, dict) or values.keys() != {'descr', 'fortran_order', 'shape'}:
        raise InputError('its header is damaged')
    descr, fortran, shape = values['descr'], values['fortran_order'], values['shape']
    if not isinstance(descr, str) or not isinstance(fortran, bool) or not isinstance(shape, tuple):
        raise InputError('its header is damaged, or it holds no plain numbers')
    dtype = np.dtype(descr)
    size = dtype.itemsize  # of '<U-1' NumPy makes one below zero
    if dtype.kind not in _KINDS or dtype.hasobject or not 0 <= size <= limits.TEXT_BYTES:
        raise InputError(f'it holds {dtype}, no plain numbers')
    if len(shape) > limits.NUM_AXES or not all(type(axis) is int and axis >= 0 for axis in shape):
        raise InputError(f'its shape {str(shape)[:40]} is impossible')
    offset = 8 + struct.calcsize(form) + length
    return Header(dtype, shape, 'F' if fortran else 'C', offset)


def digest_of(images: np.ndarray, *labels: Optional[np.ndarray]) -> str:
    """SHA-256 of a set's pictures and of what is known of them: equal texts are one test.

    Parameters
    ----------
    images : uint8 RGB
    labels : bool, a byte each, or integers, as little-endian int64 whatever type they have here;
        None counts as an empty array

    Results keep it, so it stays as it is. Shapes do not enter.
    """
    digest = hashlib.sha256(images.tobytes())
    for array in labels:
        if array is not None:
            digest.update(array.astype(bool if array.dtype == bool else '<i8').tobytes())
    return digest.hexdigest()


def _refused(path: PathLike, what: str, error: Exception) -> InputError:
    reason = ' '.join(str(error).split())[:200]
    return InputError(f'{path} is no {what} ({reason or type(error).__name__})')


def write_npz(path: PathLike, arrays: Mapping[str, 'ArrayLike'], compressed: bool = False) -> None:
    """Write what `np.savez` would, whole or not at all.

    NumPy's own leaves its archive open where the disk is full, which then writes to a closed file
    and says so behind the error.
    """
    method = zipfile.ZIP_DEFLATED if compressed else zipfile.ZIP_STORED
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, 'w', method) as archive:
        for name, array in arrays.items():
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                np.lib.format.write_array(member, np.asanyarray(array), allow_pickle=False)


def map_npy(path: PathLike) -> np.ndarray:
    """A `.npy` as a read-only memory map; InputError for one that is no whole plain array."""
    try:
        with open(path, 'rb') as handle:
            return _mapped(path, handle, 0, Path(path).stat().st_size)
    except (InputError, *BROKEN) as error:
        raise _refused(path, '.npy of a plain array', error) from None


def _mapped(path: PathLike, handle: BinaryIO, start: int, size: int) -> np.ndarray:
    handle.seek(start)
    header = read_header(handle)
    if header.size > size:
        raise InputError(f'its header announces {header.size} bytes, it has {size}')
    if not math.prod(header.shape):
        return np.empty(header.shape, header.dtype)
    offset = start + header.offset
    return _text(np.memmap(path, header.dtype, 'r', offset, header.shape, header.order))


def _text(array: np.ndarray) -> np.ndarray:
    """The array itself; InputError for texts with numbers that are no characters, on which Python
    fails wherever one is looked at."""
    if array.dtype.kind == 'U' and array.dtype.itemsize:
        number = np.dtype(np.uint32).newbyteorder(array.dtype.byteorder)
        if array.ravel('K').view(number).max() > sys.maxunicode:
            raise InputError('its texts are damaged')
    return array


def read_npz(
    path: PathLike, mapped: Optional[str] = None, wanted: Optional[Callable[[str], bool]] = None
) -> dict[str, np.ndarray]:
    """The arrays of an `.npz` by name.

    Parameters
    ----------
    path : a file
    mapped : name of an array that becomes a memory map where it is stored as it is, which NumPy
        itself reads whole
    wanted : tells by its name whether an array is read; None reads all

    Raises
    ------
    InputError for a damaged or encrypted archive, arrays that are not plain, and those that unpack
    to more than `limits` allows.
    """
    try:
        with zipfile.ZipFile(path) as archive, open(path, 'rb') as handle:
            members = archive.infolist()
            limits.within(len(members), _ENTRIES, 'the number of its arrays')
            packed = [m for m in members if m.compress_type != zipfile.ZIP_STORED]
            allowed = max(limits.UNPACKED_BYTES, limits.UNPACKED_FACTOR * Path(path).stat().st_size)
            limits.within(sum(m.file_size for m in packed), allowed, 'its unpacked size')
            arrays = {}
            for member in members:
                name = member.filename.removesuffix('.npy')
                if wanted is not None and not wanted(name):
                    continue
                if name == mapped and member.compress_type == zipfile.ZIP_STORED:
                    arrays[name] = _mapped(path, handle, *_extent(path, handle, member))
                else:
                    arrays[name] = _unpacked(path, archive, member)
            return arrays
    except (InputError, *BROKEN) as error:
        raise _refused(path, '.npz of plain arrays', error) from None


def _extent(path: PathLike, handle: BinaryIO, member: zipfile.ZipInfo) -> tuple[int, int]:
    """Where a stored member's bytes begin, and how many they are."""
    # a local header is 30 bytes with the lengths of name and extra field at its end, then both
    handle.seek(member.header_offset)
    name_length, extra_length = struct.unpack('<HH', handle.read(30)[26:])
    start = member.header_offset + 30 + name_length + extra_length
    if start + member.file_size > Path(path).stat().st_size:
        raise InputError(f'{member.filename} is cut off')
    return start, member.file_size


def _unpacked(path: PathLike, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> np.ndarray:
    if member.compress_type == zipfile.ZIP_STORED and (
        member.file_size > Path(path).stat().st_size
    ):
        raise InputError(f'{member.filename} is cut off')
    with archive.open(member) as handle:
        header = read_header(handle)
        if header.size != member.file_size:
            raise InputError(
                f'{member.filename} announces {header.size} bytes, it has {member.file_size}'
            )
        array = np.empty(header.shape, header.dtype, header.order)
        if header.size == header.offset:
            return array
        content, position = array.reshape(-1, order=header.order).view(np.uint8), 0
        # up to the end and no less: zipfile compares the checksum there
        while block := handle.read(_BLOCK):
            content[position : position + len(block)] = np.frombuffer(block, np.uint8)
            position += len(block)
        if position != len(content):
            raise InputError(f'{member.filename} is cut off')
        return _text(array)
