"""Pictures in the folders that people bring: found by name or content, links followed.

What is hidden (a leading dot, macOS's and NAS boxes' shadow folders) is no picture of theirs. Every
other file that is left out, pipes and devices too, is counted, and `warn_of_others` says so.
"""

import logging
import os
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..errors import InputError
from ..files import real_path
from .image import IMAGE_SUFFIXES, has_picture_start, is_unreadable_kind

log = logging.getLogger(__name__)

_SHADOWS = {'__MACOSX', '@eaDir'}
_START_BYTES = 32  # that tell a picture's kind
_SHOWN = 4  # suffixes in a warning


class Found(NamedTuple):
    """Files of a folder, each list sorted by path."""

    pictures: list[Path]
    others: list[Path]  # no pictures, of a kind that nothing here can read, no ordinary files

    def add(self, path: Path) -> None:
        is_one = path.is_file() and is_picture(path)
        (self.pictures if is_one else self.others).append(path)


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


def _leads_nowhere(path: Path) -> bool:
    return path.is_symlink() and not path.exists()


def _files_below(folder: Path) -> Iterator[Path]:
    """What lies below `folder` and is no folder; links to folders are followed, when all that lies
    there by its own name is known.

    Each folder counts once: a link to one above it has no end, and some links to each other's
    folders lead along more ways than anybody could go.
    """
    known: set[str] = set()
    again: list[Path] = []
    links = deque([folder])
    while links:
        left = [links.popleft()]
        while left:
            here = left.pop()
            real = os.path.realpath(here)
            if real in known:
                again.append(here)
                continue
            known.add(real)
            with os.scandir(here) as entries:
                shown = [entry for entry in entries if not is_hidden(entry.name)]
            for entry in sorted(shown, key=lambda entry: entry.name):
                path = here / entry.name
                # the entry knows what it is; only a link must be asked where it leads
                is_link = entry.is_symlink()
                if not (path.is_dir() if is_link else entry.is_dir(follow_symlinks=False)):
                    yield path
                else:
                    (links if is_link else left).append(path)
    _warn_of_links(folder, again)


def _warn_of_links(folder: Path, again: Sequence[Path]) -> None:
    if again:
        log.warning(
            '%s: %d links to folders that are there already are left out (%s ...)',
            *(folder, len(again), again[0]),
        )


def find_pictures(folder: Path) -> Found:
    """All files below `folder`, however deep, through symbolic links as well, of each folder once.

    A warning counts links to folders that are there already.
    """
    found = Found([], [])
    for path in sorted(_files_below(folder)):
        found.add(path)
    return found


def _pictures_in(folder: Path) -> tuple[Found, int]:
    """What lies in `folder` itself, and how many folders are in it."""
    found, folders = Found([], []), 0
    for path in sorted(folder.iterdir()):
        if is_hidden(path.name):
            continue
        if path.is_dir():
            folders += 1
        else:
            found.add(path)
    return found, folders


def refuse_inside(out: Path, folder: Path) -> None:
    """Raise InputError for an output folder that is a folder of pictures or lies in it: what is
    written would become a part of what is read."""
    real = real_path(out)
    if real_path(folder) in (real, *real.parents):
        raise InputError(
            f'{out} lies in {folder} and would become a part of it; choose a folder outside'
        )


def pictures_in(folder: Path) -> list[Path]:
    """Pictures that lie in `folder` itself, sorted; [] where there is no such folder."""
    return _pictures_in(folder)[0].pictures if folder.is_dir() else []


def identity_folders(folder: Path) -> list[Path]:
    """The folders in `folder` that may be identities, sorted; InputError if it is no folder."""
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder; expected FOLDER/<identity>/<picture>')
    return [path for path in sorted(folder.iterdir()) if path.is_dir() and not is_hidden(path.name)]


def find_identities(folder: Path, left_out: Sequence[Path] = ()) -> list[Identity]:
    """The identity folders of `folder` in sorted order, without those in `left_out`.

    Warnings count what is left out: pictures beside the folders, deeper folders, other files, and
    links to folders that are there already, whose people would be two classes each.

    Raises
    ------
    InputError if there are none, for an identity without pictures, and for a name that cannot be a
    line of a list.
    """
    absent = {os.path.realpath(path) for path in left_out}  # a link to one is the same person
    identities, others, deeper, again = [], [], [], []
    known: set[str] = set()
    for entry in identity_folders(folder):
        real = os.path.realpath(entry)
        if real in absent:
            continue
        if real in known:
            again.append(entry)
            continue
        known.add(real)
        check_line(entry.name, entry)
        found, folders = _pictures_in(entry)
        if not found.pictures:
            inside = f'{folders} folders but no pictures' if folders else 'no pictures'
            raise InputError(
                f'{entry} holds {inside}; expected FOLDER/<identity>/<picture>: remove the '
                f'folder (make-rec can --exclude it)'
            )
        identities.append(Identity(entry.name, tuple(found.pictures)))
        others += found.others
        deeper += [entry] * bool(folders)
    if not identities:
        raise InputError(f'{folder}: no identity folders; expected FOLDER/<identity>/<picture>')
    beside, _ = _pictures_in(folder)
    warn_of_others(folder, others + [path for path in beside.others if not path.is_file()])
    _warn_of_links(folder, again)
    if deeper:
        log.warning(
            '%s: folders inside %d identity folders are left out (%s ...); pictures lie directly '
            'in the folder of their identity',
            folder,
            len(deeper),
            deeper[0],
        )
    if beside.pictures:
        log.warning(
            '%s: %d pictures in no identity folder are left out', folder, len(beside.pictures)
        )
    return identities


def check_line(name: str, path: Path) -> None:
    """InputError for a name that cannot stand in a line of a list, whose words end at tabs."""
    if {'\n', '\r', '\t'} & set(name):
        raise InputError(
            f'{str(path)!r}: lists cannot hold a name with a line end or a tab in it; rename it'
        )


def choose_images(
    identities: Sequence[Identity], min_images: int, max_images: int, seed: int
) -> list[Identity]:
    """Identities with at least `min_images`, each cut to `max_images` drawn by `seed` (0: all).

    The draw of an identity depends on the seed and its own number of pictures only, so that adding
    or excluding others changes nothing for it. How much is left out is told.
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
    if small := sum(len(identity.paths) < min_images for identity in identities):
        log.info('%d identities with fewer than %d pictures are left out', small, min_images)
    beyond = sum(max(len(identity.paths) - max_images, 0) for identity in identities)
    if max_images and beyond:
        log.info('%d pictures beyond %d of an identity are left out', beyond, max_images)
    return chosen


def _kind_of_file(path: Path) -> str:
    """What a file that is left out is called in the count."""
    if path.is_file():
        return path.suffix.lower() or 'no suffix'
    return 'links to nothing' if _leads_nowhere(path) else 'no ordinary files'


def warn_of_others(folder: Path, others: Sequence[Path]) -> None:
    """One warning with the number of files that are left out, and their suffixes."""
    if not others:
        return
    suffixes = Counter(map(_kind_of_file, others))
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
