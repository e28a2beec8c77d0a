"""Verification pair sets: InsightFace's `.bin` (LFW, CFP-FP, AgeDB-30 ...).

The file is a pickle of `(images, issame)`: 2P encoded pictures (bytes, in some packs uint8 arrays
as OpenCV's imencode gives them) and P booleans; pair i is pictures 2i and 2i+1. InsightFace reads
it with `pickle.load(file, encoding='bytes')`, and many are written by Python 2.

A pickle can run any code when it is loaded, and these files are passed around on drive folders.
Reading is therefore limited to what the format needs; every other name in the pickle is refused.
"""

import pickle
from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np

from ..errors import InputError
from ..files import PathLike, atomic_path, input_file

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
    with open(path, 'rb') as handle:
        content = _load(path, handle)
    if not isinstance(content, (tuple, list)) or len(content) != 2:
        raise InputError(f'{path}: expected a pickled pair (images, issame)')
    images, same = (list(part) if isinstance(part, _Array) else part for part in content)
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
    if isinstance(image, (bytes, bytearray, _Array)):
        return bytes(image)
    raise InputError(f'{path}: image {index} is {type(image).__name__}, not encoded bytes')


def _boolean(path: PathLike, index: int, value: Any) -> bool:
    if isinstance(value, int) and value in (0, 1):
        return bool(value)
    raise InputError(f'{path}: issame of pair {index} is {value!r}, not true or false')


# --- stand-ins: what the allowed names in a pickle are replaced by; none runs foreign code


class _Dtype:
    """numpy.dtype of one byte per element."""

    def __init__(self, code: Any, *_):
        code = code.decode('latin-1') if isinstance(code, bytes) else code
        if code not in ('u1', 'b1'):
            raise InputError(f'holds an array of type {code!r}; only uint8 and bool are expected')

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: nothing that one-byte elements need."""


class _Array(bytearray):
    """numpy.ndarray: its elements as bytes, in memory order."""

    def __setstate__(self, state: Any) -> None:
        _version, _shape, dtype, _fortran, elements = state
        self[:] = _elements(dtype, elements)


def _elements(dtype: Any, elements: Any) -> bytes:
    if not isinstance(dtype, _Dtype) or not isinstance(elements, (bytes, bytearray)):
        raise InputError('holds an array whose content is not plain bytes')
    return bytes(elements)


def _reconstruct(_kind: Any, _shape: Any, _code: Any) -> _Array:
    return _Array()


def _from_buffer(elements: Any, dtype: Any, _shape: Any, _order: Any) -> _Array:
    return _Array(_elements(dtype, elements))


def _scalar(dtype: Any, element: Any) -> int:
    return _elements(dtype, element)[0]


def _encode(text: str, encoding: str) -> bytes:
    """Python 3 writes bytes as text for protocols that know no bytes."""
    if encoding != 'latin1':
        raise InputError(f'asks for the codec {encoding!r}')
    return text.encode('latin-1')


def _no_bytes() -> bytes:
    return b''


_ALLOWED = {('_codecs', 'encode'): _encode}
for _module in ('builtins', '__builtin__'):
    _ALLOWED[_module, 'bytes'] = _no_bytes  # b'' in those protocols; takes no argument here
for _package in ('numpy.core', 'numpy._core'):
    _ALLOWED[f'{_package}.multiarray', '_reconstruct'] = _reconstruct
    _ALLOWED[f'{_package}.multiarray', 'scalar'] = _scalar
    _ALLOWED[f'{_package}.numeric', '_frombuffer'] = _from_buffer
_ALLOWED['numpy', 'ndarray'] = _Array
_ALLOWED['numpy', 'dtype'] = _Dtype


class _Unpickler(pickle.Unpickler):
    """Knows the names in `_ALLOWED` and no other."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise InputError(
                f'its pickle asks for {module}.{name}, which no pair set needs; '
                f'refused, since it could run any code'
            )
        return _ALLOWED[module, name]


def _load(path: PathLike, handle: BinaryIO) -> Any:
    try:
        return _Unpickler(handle, encoding='bytes').load()
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    except Exception as error:
        # a damaged pickle fails in any of a dozen ways, none of which is of use to the reader
        raise InputError(
            f'{path} is no whole pickle ({type(error).__name__}: {error}); copy it again'
        ) from None
