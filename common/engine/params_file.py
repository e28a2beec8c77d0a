"""MXNet's `.params` (mx.nd.save): named arrays, read and written without MXNet.

All numbers are little-endian:

    uint64 0x112, uint64 0
    uint64 number of arrays, then each as below
    uint64 number of names (the same, or 0 for a list), each a uint64 length and UTF-8

An array starts with a magic number that tells its version:

    0xF993FAC9 (V2), 0xF993FACA (V3)   int32 storage (0: dense), int32 axes, int64 lengths
    0xF993FAC8 (V1)                    int32 axes, int64 lengths
    other                              it is the number of axes itself; uint32 lengths follow

and goes on with int32 device, int32 device number, int32 type and the elements in C order. V3 may
have arrays without axes (scalars) and without elements; in the others such an array means none.

What we write has a trailer, 'VGFNCRC1' and the CRC-32 of all before it; MXNet reads no further than
the names. A file without a trailer is read unchecked: MXNet wrote it.
"""

import io
import math
import os
import struct
import zlib
from collections.abc import Iterator, Mapping
from typing import BinaryIO

import numpy as np

from .. import limits
from ..errors import InputError
from ..files import PathLike, atomic_path, input_file

_FILE_MAGIC = 0x112
FILE_START = struct.pack('<QQ', _FILE_MAGIC, 0)
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE = 0
_CPU = 1
_TYPES = tuple(
    np.dtype(name)
    for name in ('<f4', '<f8', '<f2', 'u1', '<i4', 'i1', '<i8', '?')  # by MXNet's type number
)
_TRAILER = struct.Struct('<8sI')
_TRAILER_MAGIC = b'VGFNCRC1'


class _Reader:
    """Numbers and arrays of `size` bytes, with what is left of them."""

    def __init__(self, handle: BinaryIO, size: int):
        self._handle = handle
        self.left = size
        self._sum = 0

    def take(self, size: int) -> bytes:
        self._announced(size)
        content = self._handle.read(size)
        self._sum = zlib.crc32(content, self._sum)
        return content

    def fill(self, array: np.ndarray) -> None:
        content = array.reshape(-1).view(np.uint8)
        if self._handle.readinto(content) != len(content):
            raise InputError('it is cut off')
        self._sum = zlib.crc32(content, self._sum)
        self.left -= len(content)

    def numbers(self, form: str) -> tuple:
        return struct.unpack('<' + form, self.take(struct.calcsize('<' + form)))

    def number(self, form: str) -> int:
        return self.numbers(form)[0]

    def end(self) -> None:
        """The trailer, if there is one: InputError unless the content is what was written."""
        total = self._sum
        if not self.left:
            return
        magic, expected = (
            _TRAILER.unpack(self.take(self.left)) if self.left == _TRAILER.size else (b'', 0)
        )
        if magic != _TRAILER_MAGIC:
            raise InputError('something else follows its arrays')
        if total != expected:
            raise InputError('its checksum does not agree: it was damaged after it was written')

    def _announced(self, size: int) -> None:
        if size > self.left:
            raise InputError(f'it announces {size} bytes where {self.left} are left')
        self.left -= size


def read_arrays(path: PathLike) -> dict[str, np.ndarray]:
    """The arrays of a `.params` file by name, in the file's order.

    Every announced size is compared with the file's before memory is taken, so that the arrays take
    as much as the file does.

    Raises
    ------
    InputError for a missing, cut off, damaged or foreign file, and for arrays that are sparse,
    empty or without names.
    """
    path = input_file(path, 'parameter file')
    with open(path, 'rb') as handle:
        try:
            return _read(_Reader(handle, os.fstat(handle.fileno()).st_size))
        except (InputError, UnicodeDecodeError) as error:
            raise InputError(
                f'{path} ({path.stat().st_size} bytes) is no whole MXNet parameter file: {error}'
            ) from None


def has_checksum(path: PathLike) -> bool:
    """Whether a `.params` file ends in our trailer, so that `read_arrays` notices damage."""
    with open(input_file(path, 'parameter file'), 'rb') as handle:
        handle.seek(max(os.fstat(handle.fileno()).st_size - _TRAILER.size, 0))
        return handle.read(len(_TRAILER_MAGIC)) == _TRAILER_MAGIC


def array_of_bytes(content: bytes) -> np.ndarray:
    """One array as a file holds it, which is how MXNet pickles it; InputError for other bytes."""
    reader = _Reader(io.BytesIO(content), len(content))
    array = _read_array(reader)
    if reader.left:
        raise InputError('something else follows an array')
    return array


def _read(reader: _Reader) -> dict[str, np.ndarray]:
    magic, reserved, count = reader.numbers('QQQ')
    if (magic, reserved) != (_FILE_MAGIC, 0):
        raise InputError('it does not start as one')
    limits.within(count, limits.NUM_ARRAYS, 'the number of arrays')
    arrays = [_read_array(reader) for _ in range(count)]
    if reader.number('Q') != count:
        raise InputError(f'it does not name each of its {count} arrays')
    names = [_read_name(reader) for _ in range(count)]
    reader.end()
    if len(set(names)) != count:
        raise InputError('two of its arrays have the same name')
    return dict(zip(names, arrays))


def _read_name(reader: _Reader) -> str:
    length = reader.number('Q')
    limits.within(length, limits.NAME_BYTES, 'the length of a name')
    return reader.take(length).decode()


def _read_array(reader: _Reader) -> np.ndarray:
    magic = reader.number('I')
    if magic in (_V2, _V3) and reader.number('i') != _DENSE:
        raise InputError('one of its arrays is sparse')
    known = magic in (_V1, _V2, _V3)
    axes = reader.number('i') if known else magic
    limits.within(axes, limits.NUM_AXES, 'the number of axes of an array')
    shape = reader.numbers(f'{axes}{"q" if known else "I"}')
    if min(shape, default=1 if magic == _V3 else 0) < 1:
        raise InputError(f'one of its arrays has the shape {shape}')
    _device, _device_number, kind = reader.numbers('iii')
    if not 0 <= kind < len(_TYPES):
        raise InputError(f'one of its arrays has the unknown type {kind}')
    size = math.prod(shape) * _TYPES[kind].itemsize
    if size > reader.left:
        raise InputError(
            f'an array of shape {shape} takes {size} bytes where {reader.left} are left'
        )
    array = np.empty(shape, _TYPES[kind])
    reader.fill(array)
    return array


def write_arrays(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays as mx.nd.save does (the same bytes), and a checksum behind them; the file is
    whole or not there.

    InputError for an array that the format has no place for: another type, no axes, no elements.
    """
    for name, array in arrays.items():
        if array.dtype not in _TYPES or not array.size or not array.ndim:
            raise InputError(f'{path}: {name} is {array.dtype} {array.shape}, which has no place')
    with atomic_path(path) as temporary, open(temporary, 'wb') as handle:
        total = 0
        for block in _blocks(arrays):
            total = zlib.crc32(block, total)
            handle.write(block)
        handle.write(_TRAILER.pack(_TRAILER_MAGIC, total))


def _blocks(arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """The file before its trailer, piece by piece."""
    yield struct.pack('<QQQ', _FILE_MAGIC, 0, len(arrays))
    for array in arrays.values():
        kind = _TYPES.index(array.dtype)
        form = f'<Iii{array.ndim}qiii'
        yield struct.pack(form, _V2, _DENSE, array.ndim, *array.shape, _CPU, 0, kind)
        yield memoryview(np.ascontiguousarray(array, _TYPES[kind]).reshape(-1).view(np.uint8))
    yield struct.pack('<Q', len(arrays))
    for name in arrays:
        yield struct.pack('<Q', len(name.encode())) + name.encode()
