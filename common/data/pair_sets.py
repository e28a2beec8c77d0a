"""Verification pair sets: InsightFace's `.bin` (LFW, CFP-FP, AgeDB-30 ...).

The file is a pickle of `(images, issame)`: 2P encoded pictures (bytes, in some packs uint8 arrays
as OpenCV's imencode gives them) and P booleans; pair i is pictures 2i and 2i+1. InsightFace reads
it with `pickle.load(file, encoding='bytes')`, and many are written by Python 2.

A pickle can run any code when it is loaded, and these files are passed around on drive folders.
Reading is therefore limited to what the format needs; every other name in the pickle is refused.
"""

import pickle
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..errors import InputError
from ..files import PathLike, atomic_path, input_file
from ..unpickle import Budget, Functions, unpickle

_PROTOCOL = 4  # the newest that every Python 3 in use with MXNet reads


def write_pairs(path: PathLike, encoded_images: Sequence[bytes], issame: Sequence[bool]) -> None:
    """Write a pair set: 2P encoded pictures, P booleans. The same bytes object is stored once."""
    images = [bytes(encoded) for encoded in encoded_images]
    same = [bool(value) for value in issame]
    _check_counts(path, len(images), len(same))
    with atomic_path(path) as temporary, open(temporary, 'wb') as handle:
        pickle.dump((images, same), handle, protocol=_PROTOCOL)


def read_pairs(path: PathLike) -> tuple[list[bytes], np.ndarray]:
    """Read a pair set written by any Python.

    Returns
    -------
    (images, issame): 2P encoded pictures, not decoded or checked; bool (P,)

    Raises
    ------
    InputError if the file is missing, cut off, not of this form, or its pickle asks for anything
    else than lists, tuples, bytes, numbers and uint8 or bool arrays (the message names what).
    """
    path = input_file(path, 'pair set')
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
