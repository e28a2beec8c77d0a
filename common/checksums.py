"""Checksums of files whose formats have no place for one, in CHECKSUMS of their folder.

It is a JSON object of file names and CRC-32s. A file without an entry is not checked: others wrote
it, or it was copied without that list.
"""

import contextlib
import functools
import json
import logging
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

from .errors import InputError
from .files import PathLike, atomic_write, check_holes, read_json

log = logging.getLogger(__name__)

CHECKSUMS = 'checksums.json'
_BLOCK = 1 << 20


def crc32(path: PathLike) -> int:
    """Of a file's content."""
    total = 0
    with open(path, 'rb') as handle:
        for block in iter(lambda: handle.read(_BLOCK), b''):
            total = zlib.crc32(block, total)
    return total


def listed(folder: PathLike) -> dict[str, int]:
    """The entries of a folder's list, {} without one; InputError where it is damaged."""
    path = Path(folder) / CHECKSUMS
    if not path.is_file():
        return {}
    about = path.stat()
    return _entries(path, (about.st_ino, about.st_size, about.st_mtime_ns))


@functools.lru_cache(maxsize=1)  # a folder of many files is read one after the other
def _entries(path: Path, _stamp: tuple[int, ...]) -> dict[str, int]:
    content = read_json(path, 'list of checksums')
    if not isinstance(content, dict) or any(type(value) is not int for value in content.values()):
        raise InputError(f'{path} is no list of checksums; remove it, and nothing is compared')
    return content


def agrees(path: PathLike) -> bool:
    """Whether a file is absent, in no list, or the one that its folder's list tells of; InputError
    as `check_holes`."""
    path = Path(path)
    known = listed(path.parent).get(path.name)
    if known is None or not path.is_file():
        return True
    check_holes(path)
    return crc32(path) == known


def check(path: PathLike) -> None:
    """InputError unless a file `agrees`."""
    if not agrees(path):
        raise InputError(
            f'{path} was changed or damaged after it was written: its checksum in {CHECKSUMS} does '
            f'not agree; make it again, or remove {CHECKSUMS} if it was changed on purpose'
        )


def warn_if_changed(path: PathLike) -> None:
    """A warning unless a file `agrees`: of one that people edit and other tools write anew.

    Another tool's list of that name, or a damaged one, is a warning as well.
    """
    try:
        agreed = agrees(path)
    except InputError as error:
        log.warning('%s is not compared: %s', path, error)
        return
    if not agreed:
        log.warning('%s was changed or damaged after it was written (%s)', path, CHECKSUMS)


@contextlib.contextmanager
def noted(*paths: PathLike) -> Iterator[None]:
    """Enter the files of one folder that are written inside into its list.

    The old entries go first, since a kill may leave new files; after an error they are back.
    """
    folder, names = Path(paths[0]).parent, [Path(path).name for path in paths]
    before = _take_out(folder, names)
    try:
        yield
    except BaseException:
        if before:
            _write(folder, before)
        raise
    _put_in(folder, names)


@contextlib.contextmanager
def noted_in_folders(paths: Iterable[PathLike]) -> Iterator[None]:
    """Enter files of many folders that are written inside, each into the list of its folder.

    The old entries go first. After an error or a kill nothing is known of any of them, since some
    are new.
    """
    by_folder: dict[Path, list[str]] = {}
    for path in map(Path, paths):
        by_folder.setdefault(path.parent, []).append(path.name)
    for folder, names in by_folder.items():
        _take_out(folder, names)
    yield
    for folder, names in by_folder.items():
        _put_in(folder, names)


def _take_out(folder: Path, names: Iterable[str]) -> dict[str, int]:
    """Remove entries from a folder's list; all that were there before, {} where none is removed."""
    before = _known(folder)
    rest = {name: before[name] for name in before.keys() - set(names)}
    if rest == before:
        return {}
    _write(folder, rest)
    return before


def _put_in(folder: Path, names: Iterable[str]) -> None:
    """Enter those of some files that are there."""
    there = {name: crc32(folder / name) for name in names if (folder / name).is_file()}
    if there:  # the list is read again: others may have written files of theirs meanwhile
        _write(folder, {**_known(folder), **there})


def forget(path: PathLike) -> None:
    """Let a file be written by somebody who notes it elsewhere."""
    path = Path(path)
    known = _known(path.parent)
    if known.pop(path.name, None) is not None:
        _write(path.parent, known)


def _known(folder: Path) -> dict[str, int]:
    try:
        return dict(listed(folder))
    except InputError:  # a damaged list is written anew
        return {}


def _write(folder: Path, entries: dict[str, int]) -> None:
    atomic_write(folder / CHECKSUMS, json.dumps(entries, indent=1, sort_keys=True) + '\n')
