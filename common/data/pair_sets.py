"""Verification pair sets: InsightFace's `.bin` (LFW, CFP-FP, AgeDB-30 ...).

The file is a pickle of `(images, issame)`: 2P encoded pictures (bytes, in some packs uint8 arrays
as OpenCV's imencode gives them) and P booleans; pair i is pictures 2i and 2i+1. InsightFace reads
it with `pickle.load(file, encoding='bytes')`, and many are written by Python 2.

A pickle can run any code when it is loaded, and these files are passed around on drive folders.
Reading is therefore limited to what the format needs; every other name in the pickle is refused.

What we write has a trailer behind the pickle, 'VGFPCRC1' and the CRC-32 of all before it; Python
reads no further than a pickle's end. A file without a trailer is read unchecked: others wrote it.
"""

import os
import pickle
import struct
import zlib
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError
from ..files import PathLike, atomic_path, input_file
from ..unpickle import Budget, Functions, unpickle
from .image import refuse_picture

_PROTOCOL = 4  # the newest that every Python 3 in use with MXNet reads
_TRAILER = struct.Struct('<8sI')
_TRAILER_MAGIC = b'VGFPCRC1'
_ZIP = b'PK\x03\x04'
_FLIPPED_BITS = 8  # of a trailer that is damaged itself
_BLOCK = 1 << 20


class _Summed:
    """A file to write to, with the CRC-32 of what was written."""

    def __init__(self, handle: BinaryIO):
        self._handle = handle
        self.sum = 0

    def write(self, content: Any) -> int:
        self.sum = zlib.crc32(content, self.sum)
        return self._handle.write(content)


def write_pairs(path: PathLike, encoded_images: Sequence[bytes], issame: Sequence[bool]) -> None:
    """Write a pair set: 2P encoded pictures, P booleans. The same bytes object is stored once."""
    images = [bytes(encoded) for encoded in encoded_images]
    same = [bool(value) for value in issame]
    _check_counts(path, len(images), len(same))
    with atomic_path(path) as temporary, open(temporary, 'wb') as handle:
        summed = _Summed(handle)
        pickle.dump((images, same), summed, protocol=_PROTOCOL)
        handle.write(_TRAILER.pack(_TRAILER_MAGIC, summed.sum))


def has_checksum(path: PathLike) -> bool:
    """Whether a pair set ends in our trailer; InputError where what is before it was damaged."""
    with open(input_file(path, 'pair set'), 'rb') as handle:
        left = os.fstat(handle.fileno()).st_size - _TRAILER.size
        handle.seek(max(left, 0))
        trailer = handle.read()
        is_cut_off = _TRAILER_MAGIC in trailer[1:]
        if left < 0 or (_flipped(trailer) > _FLIPPED_BITS and not is_cut_off):
            return False
        handle.seek(0)
        total = 0
        while left:
            block = handle.read(min(_BLOCK, left))
            total, left = zlib.crc32(block, total), left - len(block)
    if trailer != _TRAILER.pack(_TRAILER_MAGIC, total):
        raise InputError(
            f'{path} was damaged after it was written: its checksum does not agree; copy it again'
        )
    return True


def _refuse_npz(path: PathLike) -> None:
    """InputError for a set of make-pairs, or another archive, in the place of a pair set."""
    with open(path, 'rb') as handle:
        if handle.read(len(_ZIP)) == _ZIP:
            raise InputError(
                f'{path} is no verification .bin, which make-bin writes, but an .npz or another '
                'ZIP file; a set of make-pairs is for `verify --pairs`, and `export --people` '
                'takes the folder that it was made from'
            )


def _flipped(trailer: bytes) -> int:
    """Bits in which a trailer's magic is not ours."""
    magic = trailer[: len(_TRAILER_MAGIC)]
    return sum(bin(a ^ b).count('1') for a, b in zip(magic, _TRAILER_MAGIC))


def read_pairs(path: PathLike) -> tuple[list[bytes], np.ndarray]:
    """Read a pair set written by any Python.

    Returns
    -------
    (images, issame): 2P encoded pictures, not decoded or checked; bool (P,)

    Raises
    ------
    InputError if the file is missing, cut off, damaged, not of this form, or its pickle asks for
    anything else than lists, tuples, bytes, numbers and uint8 or bool arrays (the message names
    what).
    """
    path = input_file(path, 'pair set')
    _refuse_npz(path)
    refuse_picture(path, 'a verification .bin, which make-bin writes')
    has_checksum(path)
    content = unpickle(path, _allowed, 'which no pair set needs')
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise InputError(f'{path}: expected a pickled pair (images, issame)')
    images, same = (list(part.elements) if isinstance(part, _Array) else part for part in content)
    if not isinstance(images, (tuple, list)) or not isinstance(same, (tuple, list)):
        raise InputError(f'{path}: images and issame must be lists')
    _check_counts(path, len(images), len(same))
    return (
        [_encoded(path, index, image) for index, image in enumerate(images)],
        np.array([_boolean(path, index, value) for index, value in enumerate(same)], bool),
    )


def _check_counts(path: PathLike, num_images: int, num_pairs: int) -> None:
    if num_images != 2 * num_pairs:
        raise InputError(
            f'{path}: {num_images} images for {num_pairs} pairs; expected {2 * num_pairs}'
        )
    if num_pairs == 0:
        raise InputError(f'{path}: holds no pairs')


def _encoded(path: PathLike, index: int, image: Any) -> bytes:
    if isinstance(image, _Array):
        return image.elements
    if isinstance(image, bytes):
        return image
    raise InputError(f'{path}: image {index} is {type(image).__name__}, not encoded bytes')


def _boolean(path: PathLike, index: int, value: Any) -> bool:
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    # of a nested value, repr could fill the memory
    shown = repr(value) if isinstance(value, (int, float, type(None))) else type(value).__name__
    raise InputError(f'{path}: issame of pair {index} is {shown}, not true or false')


# --- stand-ins: what the allowed names in a pickle are replaced by; none runs foreign code


class _Dtype:
    """numpy.dtype of one byte per element."""

    def __init__(self, code: Any, *_):
        code = code.decode('latin-1') if isinstance(code, bytes) else code
        if not isinstance(code, str) or code not in ('u1', 'b1'):
            shown = repr(code)[:20] if isinstance(code, str) else type(code).__name__
            raise InputError(f'holds an array of type {shown}; only uint8 and bool are expected')

    def set_state(self, state: Any) -> None:
        """Byte order and the like: nothing that one-byte elements need."""


class _Array:
    """numpy.ndarray: its elements as bytes, in memory order."""

    def __init__(self, budget: Budget):
        self.elements = b''
        self._budget = budget

    def set_state(self, state: Any) -> None:
        _version, _shape, dtype, _fortran, elements = state
        self.elements = _elements(self._budget, dtype, elements)


def _elements(budget: Budget, dtype: Any, elements: Any) -> bytes:
    if not isinstance(dtype, _Dtype):
        raise InputError('holds an array whose content is not plain bytes')
    return budget.take(elements)


def _allowed(budget: Budget) -> Functions:
    """Stand-ins by the names that the versions of Python and NumPy give them."""

    def reconstruct(_kind: Any, _shape: Any, _code: Any) -> _Array:
        return _Array(budget)

    def from_buffer(elements: Any, dtype: Any, _shape: Any, _order: Any) -> _Array:
        array = _Array(budget)
        array.elements = _elements(budget, dtype, elements)
        return array

    def scalar(dtype: Any, element: Any) -> int:
        return _elements(budget, dtype, element)[0]

    def encode(text: str, encoding: str) -> bytes:
        """Python 3 writes bytes as text for protocols that know no bytes."""
        if encoding != 'latin1':
            shown = repr(encoding)[:20] if isinstance(encoding, str) else type(encoding).__name__
            raise InputError(f'asks for the codec {shown}')
        return budget.take(text.encode('latin-1'))

    def no_bytes() -> bytes:
        return b''  # in those protocols; takes no argument

    def kind(*_) -> None:
        raise InputError('makes an array of its own')  # pickles only name numpy.ndarray

    functions = {('_codecs', 'encode'): encode, ('numpy', 'dtype'): _Dtype}
    functions['numpy', 'ndarray'] = kind
    for module in ('builtins', '__builtin__'):
        functions[module, 'bytes'] = no_bytes
    for package in ('numpy.core', 'numpy._core'):
        functions[f'{package}.multiarray', '_reconstruct'] = reconstruct
        functions[f'{package}.multiarray', 'scalar'] = scalar
        functions[f'{package}.numeric', '_frombuffer'] = from_buffer
    return functions
