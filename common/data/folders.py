"""Pictures in the folders that people bring: found by name or content, links followed.

What is hidden (a leading dot, macOS's and NAS boxes' shadow folders) is no picture of theirs. Every
other file that is left out is counted, and `warn_of_others` says so.
"""

import logging
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Optional

import numpy as np

from ..errors import InputError
from ..files import PathLike, read_lines
from .image import IMAGE_SUFFIXES, has_picture_start, is_unreadable_kind

log = logging.getLogger(__name__)

_SHADOWS = {'__MACOSX', '@eaDir'}
_START_BYTES = 32  # that tell a picture's kind
_SHOWN = 4  # suffixes in a warning
_SHOWN_NAMES = 3  # of people in a message


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


def choose_images(
    identities: Sequence[Identity], min_images: int, max_images: int, seed: int
) -> list[Identity]:
    """Identities with at least `min_images`, each cut to `max_images` drawn by `seed` (0: all).

    The draw of an identity depends on the seed and its own number of pictures only, so that adding
    or excluding others changes nothing for it.
    """
    chosen = []
    for identity in identities:
        count = len(identity.paths)
        if count < min_images:
            continue
        if max_images and count > max_images:
            draw = np.random.RandomState(seed).permutation(count)[:max_images]
            identity = identity._replace(paths=tuple(identity.paths[i] for i in sorted(draw)))
        chosen.append(identity)
    return chosen


def _spellings(line: str) -> Iterator[str]:
    """Names that a line of a list of people may mean, the likeliest first."""
    text = line.strip().strip('"')
    yield text
    yield text.split(',')[0]
    words = text.rsplit(None, 1)
    if len(words) == 2 and words[1].isdigit():  # NAME COUNT
        yield words[0]


def _folder_of(name: str, folder: Path, known: Mapping[str, Path]) -> Optional[Path]:
    """The identity folder that a name, or a path to the folder or into it, means."""
    path = PurePosixPath(name.replace('\\', '/'))
    tried = [path.parts]
    # as the shell sees it, with links as they are written and followed
    for absolute in (os.path.abspath, os.path.realpath):
        inside = os.path.relpath(absolute(path), absolute(folder))
        tried.append(PurePosixPath(inside).parts)
    if path.parts[:1] == (folder.name,):
        tried.append(path.parts[1:])
    for parts in tried:
        if parts and (entry := known.get(unicodedata.normalize('NFC', parts[0]))):
            return entry
    return None


def read_people(
    path: Optional[PathLike], flag: str, folder: Path, allow_unknown: bool = False
) -> list[Path]:
    """Identity folders that the file of an option such as --exclude names, one a line.

    A line is a name, a path to the folder or to a picture in it, or a line of LFW's lists (`name
    count`, `name i j`, `name i name j`); Unicode's normal forms are one.

    Raises InputError for a line that names no folder, unless `allow_unknown`: test people would
    stay in training, or be missing from the test.
    """
    if path is None:
        return []
    folders = identity_folders(folder)
    known = {unicodedata.normalize('NFC', entry.name): entry for entry in folders}
    named, unknown = [], []
    for number, line in enumerate(read_lines(path, f'{flag} file')):
        fields = [field.strip() for field in line.split('\t') if field.strip()]
        words = [field for field in fields if not field.isdigit()]
        if not fields or (number == 0 and len(fields) == 2 and not words):  # FOLDS PAIRS
            continue
        for word in words or fields[:1]:
            found = (_folder_of(name, folder, known) for name in _spellings(word))
            entry = next(filter(None, found), None)
            (unknown if entry is None else named).append(entry or word)
    if unknown:
        what = f'{path}: {len(unknown)} names have no folder in {folder} '
        what += f'({", ".join(unknown[:_SHOWN_NAMES])}{" ..." * (len(unknown) > _SHOWN_NAMES)})'
        if not allow_unknown:
            raise InputError(
                f'{what}; correct them, or say --allow-unknown if these people are not here'
            )
        log.warning('%s', what)
    return named


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
