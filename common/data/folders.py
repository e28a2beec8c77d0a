"""Pictures in the folders that people bring: found by name or content, links followed.

What is hidden (a leading dot, macOS's and NAS boxes' shadow folders) is no picture of theirs. Every
other file that is left out is counted, and `warn_of_others` says so.
"""

import logging
import os
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from .image import IMAGE_SUFFIXES, has_picture_start, is_unreadable_kind

log = logging.getLogger(__name__)

_SHADOWS = {'__MACOSX', '@eaDir'}
_START_BYTES = 32  # that tell a picture's kind
_SHOWN = 4  # suffixes in a warning


class Found(NamedTuple):
    """Files of a folder, each list sorted by path."""

    pictures: list[Path]
    others: list[Path]  # no pictures, or of a kind that nothing here can read


class Identity(NamedTuple):
    """One class: the folder's name and its pictures, sorted."""

    name: str
    paths: tuple[Path, ...]


def is_hidden(name: str) -> bool:
    """Whether a file or folder of this name is none that its owner sees."""
    return name.startswith('.') or name in _SHADOWS


def is_picture(path: Path) -> bool:
    """Whether a file is a picture that can be read here: by its suffix, else by its first bytes.

    A file with a picture's suffix is one even if it is broken, so that the damage is noticed.
    """
    suffix = path.suffix.lower()
    if is_unreadable_kind(suffix):
        return False
    if suffix in IMAGE_SUFFIXES:
        return True
    with open(path, 'rb') as handle:
        return has_picture_start(handle.read(_START_BYTES))


def _files_below(folder: Path, above: frozenset) -> Iterable[Path]:
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_hidden(entry.name):
                continue
            path = folder / entry.name
            if entry.is_file():
                yield path
            elif entry.is_dir():
                real = os.path.realpath(path)
                if real in above:  # a link to a folder that it lies in has no end
                    log.warning('%s is a link to a folder above it; left out', path)
                else:
                    yield from _files_below(path, above | {real})


def find_pictures(folder: Path) -> Found:
    """All files below `folder`, however deep, through symbolic links as well."""
    found = Found([], [])
    for path in sorted(_files_below(folder, frozenset({os.path.realpath(folder)}))):
        (found.pictures if is_picture(path) else found.others).append(path)
    return found


def _pictures_in(folder: Path) -> tuple[Found, int]:
    """What lies in `folder` itself, and how many folders are in it."""
    found, folders = Found([], []), 0
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            continue
        if path.is_file():
            (found.pictures if is_picture(path) else found.others).append(path)
        folders += path.is_dir()
    return found, folders


def identity_folders(folder: Path) -> list[Path]:
    """The folders in `folder` that may be identities, sorted; InputError if it is no folder."""
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder; expected FOLDER/<identity>/<picture>')
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path.name)]


def find_identities(folder: Path, left_out: Sequence[Path] = ()) -> list[Identity]:
    """The identity folders of `folder` in sorted order, without those in `left_out`.

    A warning counts what lies elsewhere: pictures beside the folders, deeper folders, other files.

    Raises
    ------
    InputError if there are none, or for an identity without pictures.
    """
    absent = {os.path.realpath(path) for path in left_out}  # a link to one is the same person
    identities, others, deeper = [], [], []
    for entry in identity_folders(folder):
        if os.path.realpath(entry) in absent:
            continue
        found, folders = _pictures_in(entry)
        if not found.pictures:
            inside = f'{folders} folders but no pictures' if folders else 'no pictures'
            raise InputError(
                f'{entry} holds {inside}; expected FOLDER/<identity>/<picture>: remove the '
                f'folder or name it in the --exclude file'
            )
        identities.append(Identity(entry.name, tuple(found.pictures)))
        others += found.others
        deeper += [entry] * bool(folders)
    if not identities:
        raise InputError(f'{folder}: no identity folders; expected FOLDER/<identity>/<picture>')
    warn_of_others(folder, others)
    if deeper:
        log.warning(
            '%s: folders inside %d identity folders are left out (%s ...); pictures lie directly '
            'in the folder of their identity',
            folder,
            len(deeper),
            deeper[0],
        )
    beside = len(_pictures_in(folder)[0].pictures)
    if beside:
        log.warning('%s: %d pictures in no identity folder are left out', folder, beside)
    return identities


def warn_of_others(folder: Path, others: Sequence[Path]) -> None:
    """One warning with the number of files that are left out, and their suffixes."""
    if not others:
        return
    suffixes = Counter(path.suffix.lower() or 'no suffix' for path in others)
    shown = ', '.join(f'{suffix} {count}' for suffix, count in suffixes.most_common(_SHOWN))
    hint = ''
    if {'.heic', '.heif'} & suffixes.keys():
        hint = '; `pip install pillow-heif` reads HEIC'
    log.warning(
        '%s: %d files are no pictures that can be read here and are left out (%s)%s',
        folder,
        len(others),
        shown,
        hint,
    )
