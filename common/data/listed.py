"""What lists name: the people, folders and pictures that are meant, however they are spelt there.

Lists come from other systems and programs: paths with Windows' separators, names in the other
Unicode normal form (macOS writes e and an accent as two characters), counts and labels behind them.
"""

import csv
import logging
import os
import re
import unicodedata
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Optional

from ..console import Parser
from ..errors import InputError
from ..files import PathLike, read_lines
from .folders import identity_folders
from .image import refuse_picture

log = logging.getLogger(__name__)

A_LIST = 'a folder, or a list with a path a line'
_SHOWN = 3  # names in a message
_COUNTS = re.compile(r'(\s+\d+)+$')  # behind a name


def listed_path(folder: Path, name: str) -> Path:
    """The path below `folder` that a list calls `name`, as the disk spells it.

    Where nothing is there under any spelling: the path as it is written.
    """
    written = folder / name
    if (name.isascii() and '\\' not in name) or os.path.exists(written):
        return written
    for spelling in (name, name.replace('\\', '/')):
        found = _descend(folder, PurePosixPath(spelling).parts)
        if found:
            return found
    return written


def _descend(path: Path, parts: Iterable[str]) -> Optional[Path]:
    for part in parts:
        forms = (part, *(unicodedata.normalize(form, part) for form in ('NFC', 'NFD')))
        there = (path / form for form in forms if os.path.exists(path / form))
        path = next(there, None)
        if path is None:
            return None
    return path


def split_comma(text: str) -> list[str]:
    """The values of a line of a CSV file, which may be quoted."""
    try:
        return [word.strip() for word in next(csv.reader([text], skipinitialspace=True), [])]
    except csv.Error:
        return [text]


def read_list(path: PathLike, root: Optional[Path] = None) -> list[list[str]]:
    """Lines of an image list that are not empty, each as [name, further words ...].

    A name ends at the first tab and may hold blanks. A line without tabs is a name as a whole if
    something below `root` is called so, or nothing is called as its beginning up to any blank.

    InputError for a file without any line, and for a picture in the place of a list.
    """
    refuse_picture(path, A_LIST)
    lines = read_lines(path, 'image list')
    split = [_name_and_rest(line.strip(), root) for line in lines if line.strip()]
    if not split:
        raise InputError(f'image list {path} is empty')
    return split


def _name_and_rest(line: str, root: Optional[Path]) -> list[str]:
    if '\t' in line:
        return [word.strip() for word in line.split('\t')]
    words = line.split()
    if len(words) == 1 or not root:
        return [line]
    name, rest = line, []
    while name:
        if os.path.exists(listed_path(root, name)):
            return [name, *rest]
        name, _, last = name.rpartition(' ')
        name, rest = name.rstrip(), [last, *rest]
    return [line]


class _People(NamedTuple):
    """The identity folders of a data set, by what a list may call them."""

    folder: Path
    names: dict[str, list[Path]]  # in Unicode's composed form; two forms may be two folders
    targets: dict[str, list[Path]]  # of links

    def called(self, name: str) -> list[Path]:
        """The folders that a name, or a path to a folder or into it, means."""
        path = PurePosixPath(name.replace('\\', '/'))
        tried = [path.parts]
        # as the shell sees it, with links as they are written and followed
        for absolute in (os.path.abspath, os.path.realpath):
            inside = os.path.relpath(absolute(path), absolute(self.folder))
            tried.append(PurePosixPath(inside).parts)
        if path.parts[:1] == (self.folder.name,):
            tried.append(path.parts[1:])
        for parts in tried:
            found = parts and self.names.get(unicodedata.normalize('NFC', parts[0]))
            if found:
                return found
        real = Path(os.path.realpath(path))
        around = (self.targets.get(str(place)) for place in (real, *real.parents))
        return next(filter(None, around), [])


def _people_of(folder: Path) -> _People:
    people = _People(folder, {}, {})
    for entry in identity_folders(folder):
        people.names.setdefault(unicodedata.normalize('NFC', entry.name), []).append(entry)
        if entry.is_symlink():
            people.targets.setdefault(os.path.realpath(entry), []).append(entry)
    return people


def _people_in(words: list[str]) -> list[str]:
    """The words that may name people: those that are no numbers, else by their place."""
    names = [word for word in words if word and not word.isdecimal()]
    return names or (words[::2] if len(words) == 4 else words[:1])  # NAME1 I NAME2 J, NAME I J


def _is_one(text: str) -> bool:
    """Whether a text can be one name or path: of two paths the first leads into a folder, too."""
    words = text.replace('\\', '/').replace(',', ' ').split()
    return sum('/' in word for word in words) < 2 or os.path.exists(text)


def _readings(line: str) -> Iterator[list[str]]:
    """Names that a line of a list of people may mean, the likeliest reading first."""
    if '\t' in line:
        yield _people_in([word.strip() for word in line.split('\t')])
        return
    text = line.strip()
    yield from ([one] for one in (text.strip('"'), _COUNTS.sub('', text)) if _is_one(one))
    if ',' in text:
        yield _people_in(split_comma(text))
    yield _people_in(text.split())


def _read(line: str, people: _People) -> tuple[list[Path], list[str]]:
    """(folders, names without one) of a line, by the reading that finds most."""
    best: tuple[list[Path], list[str]] = [], [line.strip()]
    for names in _readings(line):
        found = [(name, people.called(name)) for name in names]
        folders = [entry for _, entries in found for entry in entries]
        unknown = [name for name, entries in found if not entries]
        if not unknown:
            return folders, []
        if len(folders) > len(best[0]):
            best = folders, unknown
    return best


def _count_lines(lines: list[str]) -> set[int]:
    """Which lines may be counts, as they head LFW's lists and their folds: numbers alone at the
    head, and a number that as many lines follow. None where all are numbers."""
    numbers = [
        place for place, line in enumerate(lines) if all(word.isdecimal() for word in line.split())
    ]
    if len(numbers) == len(lines):
        return set()
    ends = {*numbers, len(lines)}
    short = [place for place in numbers if len(lines[place].strip()) < 9]
    folds = {
        place
        for place in short
        if lines[place].strip().isdecimal() and place + int(lines[place]) + 1 in ends
    }
    return folds | ({0} & set(numbers))


def add_people_options(parser: Parser, flag: str, what: str) -> None:
    """Add `flag` FILE, which names people of the source, and --allow-unknown; see `read_people`."""
    parser.add_argument(flag, metavar='FILE', help=what)
    parser.add_argument(
        '--allow-unknown', action='store_true', help=f'{flag} may name people who are not here'
    )


def read_people(
    path: Optional[PathLike], flag: str, folder: Path, allow_unknown: bool = False
) -> list[Path]:
    """Identity folders that the file of an option such as --exclude names, a line or more.

    A line is a name, a path to the folder or to a picture in it, or a line of a list of people or
    pairs (`name count`, `name i j`, `name i name j`, `path path 0|1`), of which everybody counts;
    the numbers that head LFW's lists and their folds are none. Unicode's normal forms are one.

    Raises
    ------
    InputError for a name without a folder, and for a file that names nobody, unless
    `allow_unknown`: test people would stay in training, or be missing from the test.
    """
    if path is None:
        if allow_unknown:
            raise InputError(f'--allow-unknown goes with {flag}, which names nobody here')
        return []
    people = _people_of(folder)
    refuse_picture(path, f'for {flag} a file with a name a line')
    lines = [line for line in read_lines(path, f'{flag} file') if line.strip()]
    counts = _count_lines(lines)
    named: list[Path] = []
    unknown: list[str] = []
    for number, line in enumerate(lines):
        folders, without = _read(line, people)
        named += folders
        if number in counts and not folders:
            log.info('%s: the line %s is taken for a count', path, line.strip())
        else:
            unknown += without
    problem = ''
    if unknown:
        shown = ', '.join(unknown[:_SHOWN]) + ' ...' * (len(unknown) > _SHOWN)
        problem = f'{path}: {len(unknown)} names have no folder in {folder} ({shown})'
    elif not lines:
        problem = f'{flag} file {path} names nobody'
    if problem and not allow_unknown:
        raise InputError(f'{problem}; correct it, or say --allow-unknown if this is meant')
    if problem:
        log.warning('%s', problem)
    return named
