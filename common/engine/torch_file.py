"""PyTorch's files of tensors (`.pth`, `.pt`, `.pth.tar`), read and written without PyTorch.

Such a file is a pickle: PyTorch's own reader may run what the file names. This one knows tensors,
dictionaries and plain values, and refuses every other name. Two formats are read: the zip archive
of PyTorch 1.6 and later (`data.pkl` and one entry a storage), and the pickles in a row before it.
The archive is written.
"""

import contextlib
import errno
import io
import itertools
import math
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Callable, Optional

import numpy as np

from ..errors import InputError
from ..files import PathLike, atomic_path, input_file
from ..unpickle import Functions, damage_reported, mapped, read_pickle

_REFUSAL = 'which no tensors need'
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_MAX_AXES = 8
_MAX_DEPTH = 4  # of dictionaries in dictionaries that are searched for tensors
_ALIGNMENT = 64  # bytes; where PyTorch lays the storages so that they can be mapped

# name of a storage -> dtype; bfloat16 is read as the upper half of a float32
_STORAGES = {
    'DoubleStorage': 'f8',
    'FloatStorage': 'f4',
    'HalfStorage': 'f2',
    'BFloat16Storage': 'bfloat16',
    'LongStorage': 'i8',
    'IntStorage': 'i4',
    'ShortStorage': 'i2',
    'CharStorage': 'i1',
    'ByteStorage': 'u1',
    'BoolStorage': '?',
}


class _State(dict):
    """Stands in for OrderedDict, whose attributes (`_metadata`) are not needed."""

    def set_state(self, _state: Any) -> None:
        pass


@dataclass
class _Storage:
    """The numbers of one or more tensors. `load` gives all its bytes."""

    dtype: str
    length: int  # values
    load: Callable[[], bytes]
    big_endian: bool = False
    start: int = 0  # the first value in what `load` gives

    @property
    def item_size(self) -> int:
        return 2 if self.dtype == 'bfloat16' else np.dtype(self.dtype).itemsize

    def values(self) -> np.ndarray:
        content = memoryview(self.load())[self.start * self.item_size :]
        size = self.length * self.item_size
        if len(content) < size:
            raise InputError(f'a storage has {len(content)} bytes, its tensors need {size}')
        dtype = np.dtype('u2' if self.dtype == 'bfloat16' else self.dtype)
        if self.big_endian:
            dtype = dtype.newbyteorder('>')
        values = np.frombuffer(content[:size], dtype)
        if self.dtype == 'bfloat16':
            return (values.astype(np.uint32) << 16).view(np.float32)
        return values


class Tensor:
    """A tensor whose numbers are not read yet."""

    def __init__(self, storage: Any, offset: Any, size: Any, stride: Any, *_unused: Any):
        lengths = [size, stride]
        if not isinstance(storage, _Storage) or not all(
            isinstance(part, tuple) for part in lengths
        ):
            raise InputError('has a tensor without storage or shape')
        numbers = [offset, *size, *stride]
        if len(size) != len(stride) or len(size) > _MAX_AXES:
            raise InputError(
                f'has a tensor of shape {str(size)[:60]} and strides {str(stride)[:60]}'
            )
        if not all(type(number) is int and number >= 0 for number in numbers):
            raise InputError('has a tensor whose shape, strides or offset are no counts')
        last = offset + sum((length - 1) * step for length, step in zip(size, stride))
        if math.prod(size) and (last >= storage.length or math.prod(size) > storage.length):
            raise InputError(f'has a tensor of shape {size} that reaches beyond its storage')
        self._storage, self._offset, self._stride = storage, offset, stride
        self.shape = size

    def array(self) -> np.ndarray:
        """The numbers, of the file's type (float32 for bfloat16), contiguous."""
        if not math.prod(self.shape):
            return np.empty(self.shape, np.float32)
        values = self._storage.values()[self._offset :]
        strides = [step * values.itemsize for step in self._stride]
        view = np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False)
        return np.array(view, values.dtype.newbyteorder('='))


def _parameter(data: Any, *_unused: Any) -> Tensor:
    if not isinstance(data, Tensor):
        raise InputError('has a parameter that is no tensor')
    return data


def _no_call(*_arguments: Any) -> None:
    raise InputError('makes an empty storage')


FUNCTIONS: Functions = {
    ('collections', 'OrderedDict'): _State,
    ('torch._utils', '_rebuild_tensor'): Tensor,
    ('torch._utils', '_rebuild_tensor_v2'): Tensor,
    ('torch._utils', '_rebuild_parameter'): _parameter,
    **{('torch', name): _no_call for name in _STORAGES},
}


def _is_tar(path: Path) -> bool:
    """By its mark alone: tarfile unpacks what is compressed to find out, however long it takes."""
    with open(path, 'rb') as handle:
        handle.seek(257)
        return handle.read(5) == b'ustar'


def read_states(path: PathLike) -> dict[str, dict[str, Tensor]]:
    """All dictionaries of tensors in a PyTorch file.

    Returns
    -------
    Path of the dictionary in the file ('' for the file itself, 'state_dict', 'net.student') ->
    {key: Tensor}. Other values beside the tensors, such as an epoch, are left out.

    Raises
    ------
    InputError for a file that is missing, cut off, damaged or of another kind, that holds
    anything but tensors and plain values, or that has no tensors.
    """
    path = input_file(path, 'PyTorch file')
    if zipfile.is_zipfile(path):
        content = _read_archive(path)
    elif _is_tar(path):
        raise InputError(
            f'{path} is a tar archive, as PyTorch wrote before version 0.1.10; load it with an old '
            'PyTorch and save it again'
        )
    else:
        content = _read_legacy(path)
    states = dict(_states(content, '', _MAX_DEPTH, set()))
    if not states:
        raise InputError(f'{path} holds no dictionary of tensors; save model.state_dict()')
    return states


def _states(
    value: Any, path: str, depth: int, seen: set[int]
) -> Iterator[tuple[str, dict[str, Tensor]]]:
    if not isinstance(value, dict) or not depth or id(value) in seen:
        return
    seen.add(id(value))  # a pickle may hold a dictionary many times over
    tensors = {str(key): item for key, item in value.items() if isinstance(item, Tensor)}
    if tensors:
        yield path, tensors
    for key, item in value.items():
        yield from _states(item, f'{path}.{key}' if path else str(key), depth - 1, seen)


# --- the archive


class _Archive:
    """Entries of a zip file below one folder; nothing is unpacked."""

    def __init__(self, path: Path):
        self._path, self._file = path, zipfile.ZipFile(path)
        names = [name for name in self._file.namelist() if name.split('/')[-1] == 'data.pkl']
        if len(names) != 1:
            raise InputError('is a zip archive, but not one of PyTorch: it has no data.pkl')
        self._folder = names[0][: -len('data.pkl')]
        if f'{self._folder}constants.pkl' in self._file.namelist():
            raise InputError('is a TorchScript program; save model.state_dict() instead')
        entries = self._file.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise InputError('has compressed entries, which a file of tensors never has')
        if any(entry.flag_bits & 1 for entry in entries):
            raise InputError('is encrypted')
        size = path.stat().st_size
        if any(entry.file_size != entry.compress_size for entry in entries) or (
            sum(entry.file_size for entry in entries) > size
        ):
            raise InputError('announces more bytes than it has')
        order = self._optional('byteorder')
        self.big_endian = order == b'big'

    def read(self, name: str) -> bytes:
        return self._file.read(self._folder + name)

    def _optional(self, name: str) -> Optional[bytes]:
        return self.read(name) if self._folder + name in self._file.namelist() else None

    def storage(self, identifier: Any) -> _Storage:
        """What a persistent id of `data.pkl` stands for."""
        dtype, key, length = _identified(identifier, 5)
        return _Storage(dtype, length, lambda: self._content(key), self.big_endian)

    def _content(self, key: str) -> bytes:
        with _archive_damage_reported(self._path):
            content = self._optional(f'data/{key}')
        if content is None:
            raise InputError(f'{self._path} has no entry data/{key[:40]}; copy it again')
        return content


def _identified(identifier: Any, count: int) -> tuple[str, str, int]:
    """(dtype, key, length) of the id ('storage', type, key, device, length, ...)."""
    if not isinstance(identifier, tuple) or len(identifier) < count:
        raise InputError('refers to something that is no storage')
    word, kind, key, _device, length, *_ = identifier
    name = getattr(kind, 'key', (None, None))[1]
    if word != 'storage' or name not in _STORAGES or not isinstance(key, str):
        raise InputError('refers to something that is no storage')
    if type(length) is not int or length < 0:
        raise InputError('has a storage without a length')
    return _STORAGES[name], key, length


@contextlib.contextmanager
def _archive_damage_reported(path: Path) -> Iterator[None]:
    """What zipfile fails with, as InputError with the path."""
    try:
        yield
    except InputError:
        raise
    # a name that is no text is a ValueError
    except (zipfile.BadZipFile, NotImplementedError, EOFError, struct.error, ValueError) as error:
        reason = ' '.join(str(error).split())[:200]
        raise InputError(f'{path} is no whole archive ({reason}); copy it again') from None
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        # of a seek to before the file
        raise InputError(f'{path} is no whole archive; copy it again') from None


def _read_archive(path: Path) -> Any:
    with _archive_damage_reported(path), damage_reported(path):
        archive = _Archive(path)
        content = io.BytesIO(archive.read('data.pkl'))
        return read_pickle(content, FUNCTIONS, _REFUSAL, archive.storage)


# --- the pickles in a row


def _read_legacy(path: Path) -> Any:
    """Magic number, protocol, machine, content, keys of the storages; then each storage's bytes."""
    if not path.stat().st_size:
        raise InputError(f'{path} is empty')
    with damage_reported(path), open(path, 'rb') as handle, mapped(handle) as file:
        if _header(file) != _LEGACY_MAGIC:
            raise InputError('is no PyTorch file, or one that is cut off')
        protocol = read_pickle(file, {}, _REFUSAL)
        if protocol != _LEGACY_PROTOCOL:
            raise InputError(f'is of format {str(protocol)[:20]}, known is {_LEGACY_PROTOCOL}')
        machine = read_pickle(file, {}, _REFUSAL)
        big_endian = not machine['little_endian']
        storages = _LegacyStorages(big_endian)
        content = read_pickle(file, FUNCTIONS, _REFUSAL, storages.storage)
        storages.read(file, read_pickle(file, {}, _REFUSAL))
        return content


def _header(file: Any) -> Any:
    try:
        return read_pickle(file, {}, _REFUSAL)
    except (InputError, ValueError, TypeError, AttributeError, LookupError):
        return None


class _LegacyStorages:
    """Storages that are named before their bytes come."""

    def __init__(self, big_endian: bool):
        self._big_endian = big_endian
        self._items: dict[str, int] = {}  # key -> bytes a value
        self._content: dict[str, bytes] = {}

    def storage(self, identifier: Any) -> _Storage:
        dtype, key, length = _identified(identifier, 5)
        view = identifier[5] if len(identifier) > 5 else None
        start = 0
        if view is not None:
            _, start, length = view
            if not all(type(number) is int and number >= 0 for number in (start, length)):
                raise InputError('has a storage without a length')
        storage = _Storage(dtype, length, lambda: self._content[key], self._big_endian, start)
        self._items[key] = storage.item_size
        return storage

    def read(self, file: Any, keys: Any) -> None:
        if not isinstance(keys, list) or set(keys) != self._items.keys():
            raise InputError('lists other storages than its tensors use')
        for key in keys:
            # the length is in the byte order of the format, which is little endian
            (length,) = struct.unpack('<q', _exactly(file, 8))
            self._content[key] = _exactly(file, length * self._items[key])


def _exactly(file: Any, size: int) -> bytes:
    if not 0 <= size <= len(file) - file.tell():
        raise InputError('is cut off: a storage is missing or incomplete')
    return file.read(size)


# --- writing


def write_state(path: PathLike, arrays: Mapping[str, np.ndarray]) -> None:
    """Write a state_dict that `torch.load(path, weights_only=True)` reads, whole or not at all.

    `arrays` are float32 or int64.
    """
    arrays = {key: np.asarray(value) for key, value in arrays.items()}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        _store(archive, 'data.pkl', _state_pickle(arrays))
        _store(archive, 'byteorder', b'little')
        for number, value in enumerate(arrays.values()):
            content = np.ascontiguousarray(value, value.dtype.newbyteorder('<')).tobytes()
            _store(archive, f'data/{number}', content)
        _store(archive, 'version', b'3\n')


def _store(archive: zipfile.ZipFile, name: str, content: bytes) -> None:
    """One entry, its content at a multiple of _ALIGNMENT as PyTorch lays it."""
    entry = zipfile.ZipInfo(f'archive/{name}')
    handle: BinaryIO = archive.fp
    begin = handle.tell() + zipfile.sizeFileHeader + len(entry.filename) + 4
    padding = -begin % _ALIGNMENT
    entry.extra = b'FB' + struct.pack('<H', padding) + b'Z' * padding
    archive.writestr(entry, content)


def _text(text: str) -> bytes:
    encoded = text.encode()
    return b'X' + struct.pack('<I', len(encoded)) + encoded


def _number(number: int) -> bytes:
    if number < 1 << 31:
        return b'J' + struct.pack('<i', number)
    return b'\x8a\x08' + struct.pack('<q', number)


def _tuple(*items: bytes) -> bytes:
    return b'(' + b''.join(items) + b't'


_DICTIONARY = b'ccollections\nOrderedDict\n)R'
_WRITTEN = {'float32': 'FloatStorage', 'int64': 'LongStorage'}


def _state_pickle(arrays: Mapping[str, np.ndarray]) -> bytes:
    """Protocol 2: an OrderedDict of `_rebuild_tensor_v2` calls, opcode by opcode."""
    items = []
    for number, (key, value) in enumerate(arrays.items()):
        storage = f'ctorch\n{_WRITTEN[value.dtype.name]}\n'.encode()
        identifier = _tuple(
            _text('storage'), storage, _text(str(number)), _text('cpu'), _number(value.size)
        )
        tail = (*value.shape[1:], 1) if value.ndim else ()
        strides = list(itertools.accumulate(reversed(tail), lambda a, b: a * b))[::-1]
        tensor = _tuple(
            identifier + b'Q',
            _number(0),
            _tuple(*map(_number, value.shape)),
            _tuple(*map(_number, strides)),
            b'\x89',
            _DICTIONARY,
        )
        items.append(_text(key) + b'ctorch._utils\n_rebuild_tensor_v2\n' + tensor + b'R')
    return b'\x80\x02' + _DICTIONARY + b'(' + b''.join(items) + b'u.'
