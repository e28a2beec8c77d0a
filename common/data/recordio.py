"""Face records in MXNet's RecordIO: the `.rec`, `.idx` and `property` of InsightFace's data sets.

`.rec` is a row of records (dmlc-core's RecordIO). A record is one or more parts; a part is two
little-endian uint32, the magic number 0xced7230a and `kind << 29 | length`, then `length` bytes,
padded with zeros to a multiple of four. Kind 0 is a whole record. A payload that holds the magic
number at a multiple of four is split there into parts of kind 1 (first), 2 (middle) and 3 (last);
the magic number between two parts is not stored. The payload of all our records starts with the
24 bytes of MXNet's image header (uint32 flag, float32 label, uint64 id, uint64 id2); with flag > 0
that many float32 follow and are the label. The rest is a JPEG.

`id2` has no use in MXNet, and InsightFace's packers write 0. In what we write it is a checksum, the
CRC-32 of all else but the ids under a mark in its upper half, and `read` compares it. Records
without the mark are read unchecked: others wrote them.

`.idx` is text, one `key TAB byte offset` per record. `property` lies beside them and its first line
is `number of classes,112,112`; `classes.txt`, which `make-rec` writes, names the classes.

Two layouts of keys exist. *Plain* (MXNet's im2rec): every record is an image. *Grouped*
(InsightFace): images at keys 1..N sorted by identity, then one identity record per class without
a picture, whose label is the key range [a, b) of its images (it may be empty in files of others),
and last in the file, at key 0, a record whose label is (first identity key, end of keys).
A label is float32: whole numbers up to 2**24 only.
"""

import codecs
import hashlib
import logging
import os
import struct
import warnings
import weakref
import zlib
from collections.abc import Iterable, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple, Union

import numpy as np

from ..checksums import noted, warn_if_changed
from ..errors import InputError, RunError
from ..files import PathLike, atomic_path, input_file, read_lines
from ..names import IMAGE_SIZE

log = logging.getLogger(__name__)

_MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack('<I', _MAGIC)
_PART = struct.Struct('<II')
_HEADER = struct.Struct('<IfQQ')
_LENGTH_BITS = 29
_IDS = slice(8, 24)  # of a payload: id and id2
_MARK = 0x56474352  # upper half of an id2 that is a checksum
_FLIPPED_BITS = 4  # of a mark that is damaged itself; a random id2 is as close once in 10,000
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)

_LONG_RECORD = 1 << 15  # bytes that hold nearly every crop's record
_SAMPLES, _SAMPLE_BYTES = 1024, 4096  # that a digest reads
CLASSES = 'classes.txt'  # beside the .rec: names of the classes, one a line
_FLOAT32_INTEGERS = 1 << 24  # a float32 label counts no further


class RecordPaths(NamedTuple):
    """The three files of a record set."""

    rec: Path
    idx: Path
    property: Path


def record_paths(path: PathLike) -> RecordPaths:
    """The files that belong to PREFIX or PREFIX.rec."""
    rec = Path(path)
    if rec.suffix != '.rec':
        rec = rec.with_name(rec.name + '.rec')
    return RecordPaths(rec, rec.with_suffix('.idx'), rec.with_name('property'))


class WrittenRecords(NamedTuple):
    """What `write_face_records` wrote."""

    num_classes: int
    num_images: int
    paths: RecordPaths


class RecordWriter:
    """Writes a `.rec` and its `.idx`, byte for byte as MXNet's MXIndexedRecordIO does from a header
    with the same id2, the record's checksum.

    Parameters
    ----------
    rec, idx : paths of the two files; what is there is replaced
    """

    def __init__(self, rec: PathLike, idx: PathLike):
        self._rec = open(rec, 'wb')  # noqa: SIM115  (closed by `close`)
        self._idx = open(idx, 'w')  # noqa: SIM115

    def __enter__(self) -> 'RecordWriter':
        return self

    def __exit__(self, *_) -> None:
        self.close()

    def close(self) -> None:
        """Write what is buffered; OSError if the disk is full."""
        with self._idx:
            self._rec.close()

    def write(self, key: int, label: Union[float, Sequence[float]], content: bytes) -> None:
        """Append a record: image header, label (a number, or several as float32) and content.

        Raises InputError for a record of 2**29 bytes or more, which the format cannot hold.
        """
        if isinstance(label, (int, float)):
            payload = _HEADER.pack(0, label, key, 0) + content
        else:
            numbers = np.array(label, '<f4')
            payload = _HEADER.pack(numbers.size, 0, key, 0) + numbers.tobytes() + content
        payload = b''.join(
            (payload[: _IDS.stop - 8], struct.pack('<Q', _seal(payload)), payload[_IDS.stop :])
        )
        if len(payload) >= 1 << _LENGTH_BITS:
            raise InputError(f'record {key} of {len(payload)} bytes: too long for a .rec')
        self._idx.write(f'{key}\t{self._rec.tell()}\n')
        starts = [0, *(place + len(_MAGIC_BYTES) for place in _aligned_magic(payload))]
        for number, start in enumerate(starts):
            last = number == len(starts) - 1
            end = len(payload) if last else starts[number + 1] - len(_MAGIC_BYTES)
            if number == 0:
                kind = _WHOLE if last else _FIRST
            else:
                kind = _LAST if last else _MIDDLE
            self._rec.write(_PART.pack(_MAGIC, kind << _LENGTH_BITS | end - start))
            self._rec.write(payload[start:end])
        self._rec.write(b'\0' * (-len(payload) % 4))


def _seal(payload: bytes) -> int:
    """The id2 of a record: what a relabelling changes, and the picture, are under the checksum."""
    return _MARK << 32 | zlib.crc32(
        memoryview(payload)[_IDS.stop :], zlib.crc32(payload[: _IDS.start])
    )


def _aligned_magic(payload: bytes) -> list[int]:
    """Where the magic number stands at a multiple of four."""
    places = []
    place = payload.find(_MAGIC_BYTES)
    while place >= 0:
        aligned = place % 4 == 0
        if aligned:
            places.append(place)
        place = payload.find(_MAGIC_BYTES, place + (4 if aligned else 1))
    return places


@contextmanager
def _record_writer(paths: RecordPaths):
    """A RecordWriter and a `property` path under temporary names, renamed at the end.

    The `.rec` is renamed last, so that whoever sees it finds the other two.
    """
    with ExitStack() as files:
        files.enter_context(noted(paths.idx, paths.property))  # records carry their own
        rec, idx, property_path = (files.enter_context(atomic_path(path)) for path in paths)
        try:
            with RecordWriter(rec, idx) as writer:
                yield writer, property_path
        except OSError as error:
            raise RunError(f'{paths.rec}: writing failed ({error.strerror})') from None


def write_face_records(
    prefix: PathLike, identities: Iterable[Iterable[bytes]], size: int = IMAGE_SIZE
) -> WrittenRecords:
    """Write PREFIX.rec, PREFIX.idx and `property` in the grouped layout.

    Parameters
    ----------
    prefix : path without suffix (or ending in .rec) in an existing folder
    identities : one iterable of JPEG bytes per class, class 0 first; both may be generators, one
        picture at a time is held
    size : height and width of the pictures, for `property`; the bytes are stored as they are

    Raises
    ------
    InputError for an identity without pictures, no identity at all, or more records than a float32
    label can number. Nothing is left behind then.
    """
    paths = record_paths(prefix)
    with _record_writer(paths) as (writer, property_path):
        key = 1
        ranges = []
        for label, images in enumerate(identities):
            start = key
            for encoded in images:
                writer.write(key, float(label), encoded)
                key += 1
            if key == start:
                raise InputError(f'{paths.rec}: identity {label} has no pictures')
            ranges.append((start, key))
        if not ranges:
            raise InputError(f'{paths.rec}: no identities to write')
        first_identity, end = key, key + len(ranges)
        if end > _FLOAT32_INTEGERS:
            raise InputError(
                f'{paths.rec}: {end} records; the format counts to {_FLOAT32_INTEGERS} only '
                f'(labels are float32), so split the data set'
            )
        for key, image_range in enumerate(ranges, first_identity):
            writer.write(key, image_range, b'')
        # record 0 is written last because its numbers are known only now
        writer.write(0, (first_identity, end), b'')
        property_path.write_text(f'{len(ranges)},{size},{size}\n')
    return WrittenRecords(len(ranges), first_identity - 1, paths)


def read_property(path: PathLike, size: int = IMAGE_SIZE) -> int:
    """Number of classes in a `property` file: the first number of its first line.

    InsightFace's packers write more lines behind it (the number of images, 'shuffled', a date).

    Raises InputError if the file is missing, is not `classes,height,width`, or if the picture size
    is not `size`.
    """
    role = 'property file (number of classes, height, width)'
    lines = read_lines(path, role)
    text = lines[0].strip()[:100] if lines else ''
    try:
        num_classes, height, width = (int(word) for word in text.split(','))
    except ValueError:
        num_classes = 0
    if num_classes < 1:
        raise InputError(f'{path}: {text!r}; expected one line CLASSES,{size},{size}')
    if (height, width) != (size, size):
        raise InputError(f'{path}: pictures of {height}x{width}; this network needs {size}x{size}')
    return num_classes


def _read_index(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """(keys, offsets) of an `.idx` file, int64, sorted by key."""
    with warnings.catch_warnings(), open(input_file(path, 'index'), 'rb') as handle:
        if handle.read(len(codecs.BOM_UTF8)) != codecs.BOM_UTF8:
            handle.seek(0)
        warnings.simplefilter('error', DeprecationWarning)  # how NumPy reports unreadable text
        try:
            numbers = np.fromfile(handle, np.int64, sep=' ')
        except (DeprecationWarning, ValueError):
            raise InputError(
                f'{path}: expected lines of two whole numbers, KEY TAB OFFSET'
            ) from None
    if numbers.size == 0 or numbers.size % 2:
        state = 'is empty' if numbers.size == 0 else 'ends in the middle of a line'
        raise InputError(f'{path} {state}; copy it again or rebuild it from the .rec')
    keys, offsets = numbers[0::2], numbers[1::2]
    order = np.argsort(keys, kind='stable')  # timsort: nearly sorted already
    keys, offsets = keys[order], offsets[order]
    if keys[0] < 0 or offsets.min() < 0:
        raise InputError(f'{path}: holds a negative key or offset')
    twice = np.flatnonzero(keys[1:] == keys[:-1])
    if twice.size:
        raise InputError(f'{path}: record {keys[twice[0]]} is listed twice')
    return keys, offsets


def scan_index(path: PathLike) -> tuple[np.ndarray, np.ndarray]:
    """(keys, offsets) of the pictures of a `.rec` without its `.idx`, read off the file itself.

    Keys count the pictures in the order of the file; records without a picture, such as the
    identity records of the grouped layout, are left out.

    Raises InputError for a file that is no row of records, or cut off.
    """
    offsets = []
    size = os.path.getsize(path)
    place = 0
    head_bytes = _PART.size + _HEADER.size
    with open(path, 'rb', buffering=0) as handle:
        while place < size:
            head = os.pread(handle.fileno(), head_bytes, place)
            if len(head) < _PART.size or head[: len(_MAGIC_BYTES)] != _MAGIC_BYTES:
                raise InputError(f'{path}: no record starts at byte {place}; copy it again')
            _, word = _PART.unpack_from(head)
            kind, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
            if kind in (_WHOLE, _FIRST) and length >= _HEADER.size and len(head) == head_bytes:
                flag = _HEADER.unpack_from(head, _PART.size)[0]
                if kind == _FIRST or length > _HEADER.size + 4 * flag:
                    offsets.append(place)
            place += _PART.size + (length + 3) // 4 * 4
    if place > size or not offsets:
        state = 'is cut off' if offsets else 'holds no pictures'
        raise InputError(f'{path} {state}; copy it again')
    return np.arange(len(offsets)), np.array(offsets, np.int64)


def read_class_names(path: PathLike, num_classes: int) -> tuple[str, ...]:
    """Names of the classes, one a line, or () for a file that is missing or of another set."""
    if not Path(path).is_file():
        return ()
    names = tuple(read_lines(path, 'class names'))
    return names if len(names) == num_classes else ()


class RecordFile:
    """Random access to the images of a `.rec`, from any number of threads.

    Parameters
    ----------
    path : PREFIX.rec (or PREFIX), with `property` beside it, either layout; PREFIX.idx as well,
        or the file is scanned once for where its records start
    size : picture size that `property` must state
    compare : warn of files beside it that are not those that their folder's checksums tell of

    Attributes
    ----------
    num_images, num_classes : int
    class_names : tuple of str, of classes.txt beside the file; () without one
    source : Path of the `.rec`
    grouped : bool, InsightFace's layout

    Raises
    ------
    InputError, here and in `read`, naming file and record: missing or malformed files, an index
    that points past the end, a file that is cut off, damaged framing, labels out of range.
    """

    def __init__(self, path: PathLike, size: int = IMAGE_SIZE, compare: bool = True):
        self.paths = record_paths(path)
        input_file(self.paths.rec, 'record file')
        self.source = self.paths.rec
        beside = (self.paths.idx, self.paths.property, self.source.with_name(CLASSES))
        for each in beside if compare else ():
            warn_if_changed(each)
        self.num_classes = read_property(self.paths.property, size)
        self.class_names = read_class_names(self.source.with_name(CLASSES), self.num_classes)
        if self.paths.idx.exists():
            self._keys, self._offsets = _read_index(self.paths.idx)
        else:
            log.info('%s does not exist: reading %s through', self.paths.idx, self.source)
            self._keys, self._offsets = scan_index(self.source)
        self._file = os.open(self.paths.rec, os.O_RDONLY | getattr(os, 'O_CLOEXEC', 0))
        self._closer = weakref.finalize(self, os.close, self._file)
        if self.paths.idx.exists():
            self._check_end()
        self.grouped, self._first_row, end_row = self._find_images()
        self.num_images = end_row - self._first_row

    def __len__(self) -> int:
        return self.num_images

    def close(self) -> None:
        """Close the file; no thread may be reading. Also done on garbage collection."""
        self._closer()

    def read(self, position: int) -> tuple[int, bytes]:
        """(class label, encoded picture) of image `position`, 0 <= position < num_images."""
        if not 0 <= position < self.num_images:
            raise IndexError(f'image {position} of {self.num_images}')
        row = self._first_row + position
        label, encoded = self._read_row(row)
        if not encoded:
            raise self._damaged(row, 'holds no picture')
        # some packers store (class, aligned?) instead of the class alone
        number = label[0]
        if not (0 <= number < self.num_classes and number == int(number)):
            raise self._damaged(
                row, f'has label {number:g}; {self.paths.property} allows 0..{self.num_classes - 1}'
            )
        return int(number), encoded

    def check_others(self) -> None:
        """Read the records without pictures, those of the identities; InputError for a bad one."""
        for row in range(len(self._keys)):
            if not 0 <= row - self._first_row < self.num_images:
                self._read_row(row)

    def has_checksum(self, position: int) -> bool:
        """Whether image `position` was written with a checksum, so that `read` notices damage."""
        payload, _ = self._read_payload(self._first_row + position)
        return _HEADER.unpack_from(payload)[3] >> 32 == _MARK

    def will_need(self, start: int, end: int) -> None:
        """Have the system read images `start` to `end` - 1 in the background.

        Only a hint: nothing happens on systems that do not know it.
        """
        if not hasattr(os, 'posix_fadvise'):
            return
        offsets = self._offsets[self._first_row + start : self._first_row + end]
        # One by one: the system may take no more than 128 KB of a hint, and the records of an
        # index in another order lie all over the file.
        for offset in np.sort(offsets).tolist():
            os.posix_fadvise(self._file, offset, _LONG_RECORD, os.POSIX_FADV_WILLNEED)

    def digest(self) -> str:
        """Hash of the whole index, `property`, the file's size, and 1,024 samples of it.

        Reading a data set of 40 GB for a hash would take minutes. A data set that was made anew
        has another index; samples spread over the file find one whose index alone was kept.
        """
        indexed = self.paths.idx.exists()
        content = hashlib.sha256(self.paths.idx.read_bytes() if indexed else self._offsets)
        content.update(self.paths.property.read_bytes())
        size = self.source.stat().st_size
        content.update(str(size).encode())
        for start in np.linspace(0, max(0, size - _SAMPLE_BYTES), _SAMPLES).astype(int).tolist():
            content.update(os.pread(self._file, _SAMPLE_BYTES, start))
        return content.hexdigest()

    def name(self, position: int) -> str:
        """How errors call image `position`: file and record key."""
        return self._row_name(self._first_row + position)

    def _row_name(self, row: int) -> str:
        return f'{self.paths.rec} record {self._keys[row]}'

    def _damaged(self, row: int, what: str) -> InputError:
        return InputError(f'{self._row_name(row)} (byte {self._offsets[row]}) {what}')

    def _read_row(self, row: int) -> tuple[np.ndarray, bytes]:
        payload, _ = self._read_payload(row)
        if len(payload) < _HEADER.size:
            raise self._damaged(row, f'has {len(payload)} bytes, too few for an image header')
        flag, number, _, seal = _HEADER.unpack_from(payload)
        if bin(seal >> 32 ^ _MARK).count('1') <= _FLIPPED_BITS and seal != _seal(payload):
            raise self._damaged(
                row, 'was damaged after it was written: its checksum does not agree'
            )
        start = _HEADER.size + 4 * flag
        if len(payload) < start:
            raise self._damaged(row, f'announces a label of {flag} numbers and is too short')
        if flag == 0:
            return np.array([number], np.float32), payload[start:]
        return np.frombuffer(payload, '<f4', flag, _HEADER.size), payload[start:]

    def _read_payload(self, row: int) -> tuple[bytes, int]:
        """A record's payload, its parts put together, and the offset behind it."""
        offset = int(self._offsets[row])
        parts = []
        while True:
            head = os.pread(self._file, _PART.size, offset)
            if len(head) < _PART.size:
                raise self._damaged(row, 'is cut off; the file is not whole, copy it again')
            magic, word = _PART.unpack(head)
            kind, length = word >> _LENGTH_BITS, word & ((1 << _LENGTH_BITS) - 1)
            if magic != _MAGIC or kind not in ((_MIDDLE, _LAST) if parts else (_WHOLE, _FIRST)):
                raise self._damaged(
                    row, f'does not start like a record; is {self.paths.idx} of the same file?'
                )
            data = os.pread(self._file, length, offset + _PART.size)
            if len(data) < length:
                raise self._damaged(row, 'is cut off; the file is not whole, copy it again')
            parts.append(data)
            offset += _PART.size + (length + 3) // 4 * 4
            if kind in (_WHOLE, _LAST):
                return _MAGIC_BYTES.join(parts), offset

    def _check_end(self) -> None:
        """The index must not point past the end, and the last record must be whole."""
        size = os.fstat(self._file).st_size
        last = int(self._offsets.argmax())
        if self._offsets[last] >= size:
            raise InputError(
                f'{self.paths.idx}: record {self._keys[last]} starts at byte '
                f'{self._offsets[last]}, but {self.paths.rec} ends at {size}; '
                f'one of the two is cut off or of another data set'
            )
        _, end = self._read_payload(last)
        if end < size:
            log.warning(
                '%s lists nothing in the last %d bytes of %s; if it is no subset made on purpose, '
                'it is cut off',
                self.paths.idx,
                size - end,
                self.paths.rec,
            )

    def _find_images(self) -> tuple[bool, int, int]:
        """(grouped?, first row, row behind the last) of the images in key order."""
        if self._keys[0] != 0:
            return False, 0, len(self._keys)
        label, content = self._read_row(0)
        if content or label.size < 2:
            return False, 0, len(self._keys)
        if not np.isfinite(label[:2]).all():
            raise self._damaged(0, f'announces identities {label[0]:g} to {label[1]:g}')
        first_identity, end = int(label[0]), int(label[1])
        row = int(np.searchsorted(self._keys, first_identity))
        if row != first_identity or row < 2:
            raise self._damaged(
                0, f'announces images 1..{first_identity - 1}; {self.paths.idx} lists {row - 1}'
            )
        if end - first_identity != self.num_classes:
            raise self._damaged(
                0,
                f'announces {end - first_identity} identities; '
                f'{self.paths.property} says {self.num_classes} classes',
            )
        return True, 1, row
