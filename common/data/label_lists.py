"""Lists that give pictures their labels, in the forms that other tools write.

- MXNet's im2rec `.lst`: `index TAB label TAB path`
- InsightFace's `.lst`: `aligned TAB path TAB label`, more columns may follow
- `path label` or `label path`, separated by a tab, a comma or blanks

A label may be any word; classes are numbered by the sorted labels, as numbers if all are.
"""

import argparse
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Optional

from ..console import Parser
from ..errors import InputError
from ..files import PathLike, is_file, read_lines
from .folders import Identity, find_identities, identity_folders
from .image import refuse_picture
from .listed import A_LIST, listed_path, read_people, split_comma

log = logging.getLogger(__name__)


_NUMBER = re.compile(r'[+-]?\d+(\.\d*)?', re.ASCII)  # float() takes 1_2 and 1e5, which are names


def add_source_options(parser: Parser) -> None:
    """Add FOLDER|LIST and --root: people with their crops."""
    parser.add_argument(
        'source',
        type=Path,
        metavar='FOLDER|LIST',
        help='people with their crops: FOLDER/<identity>/<picture>, or a list with labels (.lst, '
        'or lines PATH LABEL)',
    )
    parser.add_argument('--root', default='', help="folder that a LIST's paths are relative to")


def check_root(args: argparse.Namespace) -> None:
    """InputError for a --root that would be ignored: the pictures of a FOLDER lie in it."""
    if args.root and args.source.is_dir():
        raise InputError(
            f'--root {args.root} goes with a LIST, whose paths it completes; leave it out'
        )


def source_people(args: argparse.Namespace, left_out: Sequence[Path] = ()) -> list[Identity]:
    """Who is in the source that `add_source_options` asks for, without the folders `left_out`.

    Raises InputError as `check_root`, `read_label_list` and `find_identities`.
    """
    check_root(args)
    if args.source.is_file():
        return read_label_list(args.source, args.root)
    return find_identities(args.source, left_out)


def named_people(args: argparse.Namespace) -> list[Identity]:
    """Those of the source whom the file of --people names; without it everybody."""
    if args.people and args.source.is_file():
        raise InputError('--people goes with a FOLDER; take the lines out of the list')
    wanted = set(read_people(args.people, '--people', args.source, args.allow_unknown))
    if not args.people:
        return source_people(args)
    left_out = [folder for folder in identity_folders(args.source) if folder not in wanted]
    return source_people(args, left_out)


def _is_number(word: str) -> bool:
    return _NUMBER.fullmatch(word) is not None


def _parse(words: list[str]) -> tuple[str, str]:
    """(label, path) of a line's words; ValueError for another form."""
    if len(words) >= 3 and _is_number(words[0]):
        if not _is_number(words[-1]):
            return words[1], words[-1]  # index, label(s), path
        if not _is_number(words[1]):
            return words[2], words[1]  # aligned, path, label
    first, second = words
    return (first, second) if _is_number(first) and not _is_number(second) else (second, first)


def _readings(text: str) -> Iterator[list[str]]:
    """The words of a line by every separator that it may have; paths may hold blanks and commas."""
    if '\t' in text:
        yield [word.strip() for word in text.split('\t')]
        return
    if ',' in text:
        yield split_comma(text)
    yield text.split()
    yield text.strip().rsplit(None, 1)
    yield text.split(None, 1)


def _find(text: str, folder: Path) -> Optional[tuple[str, Path]]:
    """(label, picture) by the first reading whose picture is there, else by the first of all; None
    for a line of another form."""
    first = None
    for words in _readings(text):
        try:
            label, name = _parse(words)
        except ValueError:
            continue
        found = label, listed_path(folder, name)
        if is_file(found[1]):
            return found
        first = first or found
    return first


def _label_key(label: str) -> str:
    """One name for 3 and 3.000000, as im2rec writes labels."""
    whole, _, fraction = label.partition('.')
    return whole if _is_number(label) and not fraction.strip('0') else label


def _warn_of_repeats(path: PathLike, groups: dict[str, list[Path]]) -> None:
    """A warning for pictures that are listed more than once."""
    labels: dict[Path, list[str]] = {}
    for label, pictures in groups.items():
        for picture in pictures:
            labels.setdefault(picture, []).append(label)
    repeated = {picture: found for picture, found in labels.items() if len(found) > 1}
    if repeated:
        torn = [picture for picture, found in repeated.items() if len(set(found)) > 1]
        log.warning(
            '%s: %d pictures are listed more than once, %d of them under several labels (%s ...)',
            *(path, len(repeated), len(torn), (torn or list(repeated))[0]),
        )


def read_label_list(path: PathLike, root: PathLike = '') -> list[Identity]:
    """Identities of a list, in the order of their labels; pictures in the order of the list.

    Parameters
    ----------
    path : the list
    root : folder that its paths are relative to; the list's own if empty

    Raises
    ------
    InputError naming the line that is of another form or names no file, and for a picture in the
    place of a list.
    """
    refuse_picture(path, A_LIST)
    folder = Path(root) if root else Path(path).parent
    groups: dict[str, list[Path]] = {}
    for line, text in enumerate(read_lines(path, 'label list'), 1):
        if not text.strip():
            continue
        found = _find(text, folder)
        if found is None:
            raise InputError(
                f'{path} line {line}: {text!r}; expected PATH LABEL, or INDEX TAB LABEL TAB PATH'
            )
        label, picture = found
        if not is_file(picture):
            raise InputError(
                f'{path} line {line}: there is no picture {picture}; --root names the folder that '
                f'paths are relative to'
            )
        groups.setdefault(_label_key(label), []).append(picture)
    if not groups:
        raise InputError(f'label list {path} is empty')
    _warn_of_repeats(path, groups)
    labels = sorted(groups)
    if all(map(_is_number, labels)):
        labels.sort(key=float)
    return [Identity(label, tuple(groups[label])) for label in labels]
