"""Looking through what commands have written: is every file as it was written, and whole?

`find` tells what lies in a folder, as one `Item` a data set, pair set, run, export, gallery ...
`Item.check` reads it through. Nothing is changed, and nothing needs MXNet.
"""

import contextlib
import hashlib
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

import numpy as np

from ..common import console
from ..common.arrays import map_npy, read_npz
from ..common.checked_json import read_checked
from ..common.checksums import CHECKSUMS, listed
from ..common.checksums import check as check_listed
from ..common.data.folders import is_hidden, is_picture
from ..common.data.image import decode_rgb
from ..common.data.pair_sets import has_checksum as pairs_have_checksum
from ..common.data.pair_sets import read_pairs
from ..common.data.recordio import CLASSES, RecordFile
from ..common.data.records import FolderRecords, Records
from ..common.data.store_file import HEADER_BYTES, NO_CHECKSUM, read_header
from ..common.engine.export_record import RECORD, read_record
from ..common.engine.model_name import params_path
from ..common.engine.optimizer_states import read_states
from ..common.engine.params_file import has_checksum, read_arrays
from ..common.engine.symbol_file import read_symbol
from ..common.errors import InputError, RunError
from ..common.files import is_file, sha256
from ..common.history import HISTORY, scan_history
from ..common.names import IMAGE_SIZE
from ..common.parallel import ordered_map
from ..common.run_files import (
    check_symbol,
    checkpoint_numbers,
    read_state,
    state_path,
    symbol_path,
)
from ..eval.matrix_file import read_matrix
from .decision_log import check_log, head_path
from .gallery_check import inspect_gallery
from .gallery_file import DATABASE, is_gallery_file

_CHECKPOINT_FILE = re.compile(r'(.+)-(\d{4,})\.(json|params|states|raw)')
_PICKLE_STARTS = (b'\x80', b'(')
_BLOCK = 1 << 24  # bytes of a store that are looked at together
_UNIT_TOLERANCE = 1e-2  # of float16 rows
_END = 64  # bytes in which the checksum of a JSON file stands
_ENDS_WITH_CHECKSUM = re.compile(rb'"crc32": [0-9]+\s*}\s*$')
_NAMED = 20  # duplicates that are named
_NO_CHECKSUM = 'it has no checksum: others or an older version wrote it'


@dataclass
class Checked:
    """What came of a check."""

    kind: str
    path: Path
    content: str = ''  # what is in it, such as '48 images of 6 classes'
    problems: list[str] = field(default_factory=list)  # what is damaged
    remarks: list[str] = field(default_factory=list)  # what is worth knowing and no damage

    @contextlib.contextmanager
    def part(self) -> Iterator[None]:
        """An error inside is a problem of this item, and the next part is looked at."""
        try:
            yield
        except (InputError, RunError) as error:
            self.problems.append(str(error))
        except OSError as error:  # of a disk that fails
            self.problems.append(f'{error.filename or self.path}: {error.strerror or error}')


@dataclass(frozen=True)
class Item:
    """Something to check."""

    kind: str
    path: Path
    look: Callable[[Path, Checked], None]

    def check(self) -> Checked:
        """Read it through; damage is in the result, not raised."""
        checked = Checked(self.kind, self.path)
        with checked.part():
            self.look(self.path, checked)
        return checked


def find(folder: Path) -> tuple[list[Item], list[Path]]:
    """(what lies in a folder and below, files of other kinds), both in the order of their paths.

    Hidden files and folders are left out, and links to folders are not followed. A folder that
    cannot be listed is one of the items, and damaged.
    """
    items, others = [], []

    def closed(error: OSError) -> None:
        items.append(Item('folder', Path(error.filename), lambda *_: _raise(error)))

    for place, folders, found in os.walk(folder, onerror=closed):
        place, names = Path(place), []
        for name in sorted(name for name in found if not is_hidden(name)):
            if not is_file(place / name):  # a pipe would be waited for, whatever it is called
                others.append(place / name)
            elif name != CHECKSUMS:  # which is read with the files that it tells of
                names.append(name)
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        identities = [name for name in folders if _is_identity(place / name)]
        rest = set(names)
        for kind, look, path, taken in _known(place, names):
            items.append(Item(kind, path, look))
            rest -= taken
        pictures = {name for name in rest if _is_picture(place / name)}
        if identities or (pictures and rest == set(names)):
            items.append(Item('pictures', place, _look_at_folder))
            rest -= pictures
            folders[:] = [name for name in folders if name not in identities]
            if not identities:  # all below is one set without labels
                folders[:] = []
        for kind, look, path in _with_a_checksum(place, rest):
            items.append(Item(kind, path, look))
            rest.discard(path.name)
        others += [place / name for name in sorted(rest)]
    return items, others


def _raise(error: OSError) -> None:
    raise error


def _with_a_checksum(place: Path, names: set[str]) -> Iterator[tuple[str, Callable, Path]]:
    """(kind, look, path) of what is of no known form, but was written with a checksum."""
    try:
        noted = listed(place)
    except InputError:
        yield 'list of checksums', _look_at_checksums, place / CHECKSUMS
        noted = {}
    for name in sorted(names):
        path = place / name
        if name in noted:
            yield 'file', _look_at_listed, path
        elif path.suffix == '.json' and path.is_file() and _may_have_checksum(path):
            yield 'JSON', _look_at_json, path


def _may_have_checksum(path: Path) -> bool:
    """Whether a JSON file ends with one, or cannot be read: what looks at it says why."""
    try:
        with open(path, 'rb') as handle:
            handle.seek(max(path.stat().st_size - _END, 0))
            return _ENDS_WITH_CHECKSUM.search(handle.read(_END)) is not None
    except OSError:
        return True


def _look_at_checksums(path: Path, _checked: Checked) -> None:
    listed(path.parent)


def _compare(path: Path) -> None:
    """`check_listed`, but for a damaged list, which is an item of its own."""
    try:
        listed(path.parent)
    except InputError:
        return
    check_listed(path)


def _look_at_listed(path: Path, checked: Checked) -> None:
    check_listed(path)
    checked.content = f'{path.stat().st_size} bytes'


def _look_at_json(path: Path, checked: Checked) -> None:
    checked.content = f'{len(read_checked(path, "JSON file"))} entries'


def _is_picture(path: Path) -> bool:
    try:
        return path.is_file() and is_picture(path)
    except OSError:  # whose first bytes cannot be read
        return False


def _is_identity(folder: Path) -> bool:
    """Whether a folder holds pictures before all: a run's folder with its curves is none, nor is
    one that cannot be listed."""
    try:
        names = [path for path in folder.iterdir() if path.is_file() and not is_hidden(path.name)]
    except OSError:
        return False
    return bool(names) and 2 * sum(map(_is_picture, names)) > len(names)


def _known(place: Path, names: list[str]) -> Iterator[tuple[str, Callable, Path, set[str]]]:
    """(kind, look, path, names of its files) of everything in one folder whose form is known."""
    if RECORD in names:
        yield 'export', _look_at_export, place, _files_of_export(place)
    if DATABASE in names:
        yield 'gallery', _look_at_gallery, place, set(filter(is_gallery_file, names))
    exported = _files_of_export(place) if RECORD in names else set()
    matches = [_CHECKPOINT_FILE.fullmatch(name) for name in names if name not in exported]
    found = [match for match in matches if match]
    for stem in sorted({match[1] for match in found if match[3] != 'json'}):
        prefix = place / stem
        taken = {match[0] for match in found if match[1] == stem} | {f'{stem}-symbol.json'}
        is_run = bool(checkpoint_numbers(prefix))
        yield 'run' if is_run else 'checkpoint', _look_at_checkpoints, prefix, taken
    if HISTORY in names:
        yield 'history', _look_at_history, place, {HISTORY}
    for name in names:
        path = place / name
        if path.suffix == '.rec':
            beside = {path.with_suffix('.idx').name, 'property', CLASSES}
            yield 'data set', _look_at_records, path, {name, *beside}
        elif head_path(name).name in names and DATABASE not in names:
            yield 'decision log', _look_at_log, path, {name, head_path(name).name}
        elif path.suffix in _BY_SUFFIX:
            yield *_BY_SUFFIX[path.suffix], path, {name}


# --- sets of pictures


def _look_at_records(path: Path, checked: Checked) -> None:
    for beside in (path.with_suffix('.idx'), path.with_name('property'), path.with_name(CLASSES)):
        with checked.part():
            _compare(beside)
    try:
        opened = RecordFile(path, compare=False)
    except InputError:
        if checked.problems:  # that it cannot be opened comes of them
            return
        raise
    with contextlib.closing(opened) as records:
        with checked.part():
            records.check_others()
        _look_at_pictures(records, checked, (IMAGE_SIZE, IMAGE_SIZE))
        if not checked.problems and not records.has_checksum(0):
            checked.remarks.append(_NO_CHECKSUM)


def _look_at_folder(path: Path, checked: Checked) -> None:
    with contextlib.closing(FolderRecords(path)) as records:
        _look_at_pictures(records, checked, None)


def _look_at_pictures(records: Records, checked: Checked, size) -> None:
    """Decode every picture; `size` is what all must have, None for any."""

    def look(position: int) -> tuple[int, int, str]:
        """(label, hash of the bytes, what is wrong)"""
        try:
            label, encoded = records.read(position)
            shape = decode_rgb(encoded).shape[:2]
        except (InputError, OSError) as error:
            text, name = str(error), records.name(position)
            return -1, 0, text if name in text else f'{name}: {text}'
        wrong = ''
        if size and shape != size:
            wrong = f'{records.name(position)}: {shape[1]}x{shape[0]} pixels'
        return label, _hash(encoded), wrong

    count = len(records)
    labels, hashes = np.empty(count, np.int64), np.empty(count, np.uint64)
    with console.progress(count, f'checking {records.source}') as bar:
        for position, (label, key, wrong) in enumerate(ordered_map(look, range(count))):
            labels[position], hashes[position] = label, key
            if wrong:
                checked.problems.append(wrong)
            bar.advance()
    checked.content = f'{count} images of {records.num_classes} classes'
    empty = records.num_classes - len(np.unique(labels[labels >= 0]))
    if records.num_classes and empty and not checked.problems:
        checked.remarks.append(f'{empty} classes have no picture')
    _remark_on_copies(records, labels, hashes, checked)


def _hash(content: bytes) -> int:
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), 'little')


def _remark_on_copies(records: Records, labels, hashes, checked: Checked) -> None:
    """Pictures whose bytes are there twice, those of two classes by name."""
    order = np.argsort(hashes, kind='stable')
    twice = np.flatnonzero((np.diff(hashes[order]) == 0) & (hashes[order][1:] != 0))
    pairs = [(order[index], order[index + 1]) for index in twice]
    mixed = [(a, b) for a, b in pairs if labels[a] != labels[b]]
    if len(pairs) > len(mixed):
        checked.remarks.append(f'{len(pairs) - len(mixed)} pictures are there twice in one class')
    for a, b in mixed[:_NAMED]:
        names = f'{records.name(a)} and {records.name(b)}'
        checked.remarks.append(f'one picture in two classes: {names}')
    if len(mixed) > _NAMED:
        checked.remarks.append(f'{len(mixed) - _NAMED} more pictures are in two classes')


def _look_at_bin(path: Path, checked: Checked) -> None:
    with open(path, 'rb') as handle:
        is_pickle = handle.read(1) in _PICKLE_STARTS
    if not is_pickle:
        checked.kind = 'features'
        _look_at_rows(read_matrix(path), checked)
        return
    encoded, issame = read_pairs(path)

    def look(index: int) -> str:
        try:
            decode_rgb(encoded[index])
        except InputError as error:
            return f'{path} image {index}: {error}'
        return ''

    with console.progress(len(encoded), f'checking {path}') as bar:
        for wrong in ordered_map(look, range(len(encoded))):
            if wrong:
                checked.problems.append(wrong)
            bar.advance()
    checked.content = f'{len(issame)} pairs, {int(issame.sum())} of one person'
    if not pairs_have_checksum(path):
        checked.remarks.append(_NO_CHECKSUM)
    equal = np.array([first == second for first, second in zip(encoded[::2], encoded[1::2])])
    for same, what in ((True, 'of one person'), (False, 'of two people')):
        count = int(np.count_nonzero(equal & (issame == same)))
        if count:
            checked.remarks.append(f'{count} pairs {what} are one picture twice')


# --- runs and exports


def _look_at_checkpoints(prefix: Path, checked: Checked) -> None:
    """All checkpoints of a prefix, those of a run and others."""
    complete = checkpoint_numbers(prefix)
    found = sorted(
        int(match[2])
        for match in map(_CHECKPOINT_FILE.fullmatch, os.listdir(prefix.parent))
        if match and match[1] == prefix.name and match[3] == 'params'
    )
    unchecked = 0
    with checked.part():
        read_symbol(symbol_path(prefix))
    whole = not checked.problems
    readable = []
    for number in sorted({*complete, *found}):
        path = params_path(prefix, number)
        with checked.part():
            arrays = read_arrays(path)
            unchecked += not has_checksum(path)
            wild = [name for name, array in arrays.items() if not np.isfinite(array).all()]
            if wild:
                checked.problems.append(f'{path}: {wild[0]} holds values that are not finite')
        if number not in complete:
            readable.append(number)
            continue
        with checked.part():
            read_state(prefix, number)
            readable.append(number)
        with checked.part():
            read_states(Path(f'{prefix}-{number:04d}.states'))
        raw = Path(f'{prefix}-{number:04d}.raw')
        with checked.part():
            if raw.is_file():  # of a run that saves averaged weights
                read_arrays(raw)
    if whole:  # a damaged symbol is told once
        with checked.part():
            for number in readable:
                check_symbol(prefix, number)
    checked.content = f'{len({*complete, *found})} checkpoints'
    if complete and len(found) > len(complete):
        partial = ', '.join(str(number) for number in found if number not in complete)
        checked.remarks.append(f'{partial}: no {state_path(prefix, 0).suffix}, left by a kill')
    if unchecked:
        checked.remarks.append(
            f'{unchecked} have no checksum: others or an older version wrote them'
        )


def _files_of_export(folder: Path) -> set[str]:
    try:
        return {RECORD, *read_record(str(folder)).get('files', ())}
    except InputError:
        return {RECORD}


def _look_at_export(folder: Path, checked: Checked) -> None:
    files = read_record(str(folder))['files']
    for name, about in files.items():
        path = folder / name
        with checked.part():
            if Path(name).name != name or not path.is_file():
                raise InputError(f'{path} is missing')
            if sha256(path) != about['sha256']:
                raise InputError(f'{path} is not the file that {RECORD} tells of')
    checked.content = f'{len(files)} files'


def _look_at_history(folder: Path, checked: Checked) -> None:
    rows, damaged = scan_history(folder)
    checked.content = f'{len(rows)} rows'
    if damaged:
        checked.problems.append(f'{folder / HISTORY}: {damaged} lines are damaged')


# --- embeddings


def _look_at_gallery(folder: Path, checked: Checked) -> None:
    found = inspect_gallery(folder)
    checked.content = f'{found.faces} faces of {found.identities} identities'
    checked.problems += found.problems
    if found.decisions:
        checked.remarks.append(f'its log tells of {found.decisions} decisions and changes')
    if found.sealed:
        checked.remarks.append('it is sealed: its rows and records were not looked at')
    if found.without_checksums:
        checked.remarks.append('its rows have no checksums; the next use of the gallery adds them')
    if found.open_to_others:
        files = ', '.join(found.open_to_others)
        checked.remarks.append(f'others can read {files}; the next use of the gallery ends that')


def _look_at_log(path: Path, checked: Checked) -> None:
    found = check_log(path)
    checked.content = f'{found.lines} decisions'
    checked.problems += found.problems


def _look_at_store(path: Path, checked: Checked) -> None:
    header = read_header(path)
    checked.content = f'{header.records} images, {header.embedding_size} numbers each'
    if header.views:
        checked.content += f', {header.views} views by {header.augmentation}'
    size = path.stat().st_size
    if size != header.file_bytes:
        raise InputError(f'{path} has {size} bytes, not {header.file_bytes}')
    if header.done < header.records:
        checked.remarks.append(f'unfinished: {header.done} images are done')
    row_bytes = 2 * header.rows * header.embedding_size
    step = max(_BLOCK // row_bytes, 1)
    total, first = 0, 0
    with open(path, 'rb') as handle, console.progress(header.done, f'checking {path}') as bar:
        handle.seek(HEADER_BYTES)
        for start in range(0, header.done, step):
            content = handle.read(row_bytes * min(step, header.done - start))
            total = zlib.crc32(content, total)
            rows = np.frombuffer(content, '<f2').reshape(-1, header.embedding_size)
            lengths = np.linalg.norm(rows.astype(np.float32), axis=1)
            bad = np.flatnonzero(~(np.abs(lengths - 1) < _UNIT_TOLERANCE))  # NaN as well
            if len(bad) and not checked.problems:
                first = start + int(bad[0]) // header.rows
                checked.problems.append(f'{path}: image {first} has no embedding of unit length')
            bar.advance(len(rows) // header.rows)
    if header.crc32 == NO_CHECKSUM:
        checked.remarks.append(_NO_CHECKSUM)
    elif header.crc32 != total:
        checked.problems.append(f'{path} was damaged after it was written: its checksum differs')


def _look_at_rows(rows: np.ndarray, checked: Checked) -> None:
    checked.content = f'{rows.dtype} {rows.shape}'
    if rows.dtype.kind != 'f':
        return
    step = max(_BLOCK // max(rows[:1].nbytes, 1), 1)
    for start in range(0, len(rows), step):
        bad = np.argwhere(~np.isfinite(rows[start : start + step]))
        if len(bad):
            raise InputError(f'{checked.path}: row {start + bad[0][0]} is not finite')


def _look_at_npz(path: Path, checked: Checked) -> None:
    arrays = read_npz(path)  # compares the checksum of every member
    checked.content = ', '.join(sorted(name.strip('_') for name in arrays))
    if 'embeddings' in arrays:
        _look_at_rows(arrays['embeddings'], checked)


def _look_at_npy(path: Path, checked: Checked) -> None:
    _look_at_rows(map_npy(path), checked)


_BY_SUFFIX: dict[str, tuple[str, Callable[[Path, Checked], None]]] = {
    '.bin': ('pair set', _look_at_bin),
    '.f16': ('teacher store', _look_at_store),
    '.part': ('teacher store', _look_at_store),
    '.npz': ('arrays', _look_at_npz),
    '.npy': ('array', _look_at_npy),
}


def counted(paths: list[Path]) -> str:
    """'3 .onnx, 1 .txt': how many files there are of which suffix; those of TensorBoard's logs end
    with the machine's name."""
    suffixes = Counter(
        '.tfevents' if '.tfevents.' in path.name else path.suffix or path.name for path in paths
    )
    return ', '.join(f'{count} {suffix}' for suffix, count in suffixes.most_common())
