"""Pairs of pictures for a verification set: read from lists, or drawn from people.

Lists of pairs:

- LFW's View 1 (pairsDevTrain.txt, pairsDevTest.txt): the number N, then N lines `name i j` (the
  same person) and N lines `name1 i name2 j`
- LFW's View 2 (pairs.txt): `folds N`, then per fold N lines of the first kind and N of the second
- `path path 0|1`, or the 0|1 first: 1 is the same person

The folds of the verification protocol are blocks of the file. View 2 is in such blocks and its
order is kept. View 1 and lists of paths have no folds: they are laid out as View 2 is, in blocks of
equally many same and different pairs. Words of a line are separated by tabs, or by blanks.

Another format is a function in `PAIR_FORMATS`.
"""

import math
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Union

import numpy as np

from ..checksums import warn_if_changed
from ..errors import InputError
from ..files import PathLike, is_file, read_lines
from ..registry import Registry
from .folders import Identity, is_hidden, is_picture
from .image import refuse_picture
from .listed import listed_path, split_comma

FOLDS = 10  # of the protocol
_LABELS = {'0': False, '1': True}


class Pair(NamedTuple):
    """One line of a pair list."""

    line: int  # 1 is the first of the file
    first: tuple[str, Union[int, str]]  # identity, and number of its picture or path of the picture
    second: tuple[str, Union[int, str]]
    same: bool


class PairList(NamedTuple):
    pairs: list[Pair]  # in the order in which they are written
    folds: int


# Functions (path, lines) -> PairList, or None for a list in another format; asked before the lines
# are read as one of the formats above.
PAIR_FORMATS: Registry[Callable[[PathLike, Sequence[str]], Optional[PairList]]] = Registry(
    'pair format'
)


def _parse_lfw_line(path: PathLike, line: int, text: str, same: bool) -> Pair:
    """One pair; names may hold blanks if the line is separated by tabs."""
    words = [word.strip() for word in text.strip().split('\t' if '\t' in text else None)]
    expected = 'NAME I J' if same else 'NAME1 I NAME2 J'
    try:
        if same:
            name, first, second = words
            return Pair(line, (name, int(first)), (name, int(second)), True)
        name, first, other, second = words
        return Pair(line, (name, int(first)), (other, int(second)), False)
    except ValueError:
        raise InputError(f'{path} line {line}: {text!r}; expected {expected}') from None


def _path_words(text: str) -> list[str]:
    """The three words of a line of paths, however they are separated; [] for another line."""
    for words in (text.split('\t'), split_comma(text), text.split()):
        if len(words) == 3:
            return [word.strip() for word in words]
    return []


def _parse_path_line(path: PathLike, line: int, text: str) -> Pair:
    """`path path 0|1` or `0|1 path path`. The identity of a path is the folder it names, if any."""
    words = _path_words(text)
    if words and words[0] in _LABELS and words[2] not in _LABELS:
        words = [*words[1:], words[0]]
    if not words or words[2] not in _LABELS:
        raise InputError(
            f'{path} line {line}: {text!r}; expected PATH PATH 0|1 (tabs between, if names hold '
            f'blanks)'
        )
    first, second = ((Path(word).parent.name or word, word) for word in words[:2])
    return Pair(line, first, second, _LABELS[words[2]])


def _is_number(word: str) -> bool:
    return re.fullmatch('[0-9]{1,9}', word) is not None and int(word) > 0


def read_pair_list(path: PathLike) -> PairList:
    """Parse a pair list; see the module. Raises InputError naming file and line."""
    refuse_picture(path, 'a pair list, a pair a line')
    lines = read_lines(path, 'pair list')
    warn_if_changed(path)
    for read in PAIR_FORMATS.newest_first():
        pair_list = read(path, lines)
        if pair_list is not None:
            return pair_list
    head = lines[0].split() if lines else []
    if not all(map(_is_number, head)) and (len(head) >= 3 or _path_words(lines[0])):
        numbered = [(number, text) for number, text in enumerate(lines, 1) if text.strip()]
        pairs = [_parse_path_line(path, number, text) for number, text in numbered]
        return PairList(in_folds(pairs), FOLDS)
    if len(head) not in (1, 2) or not all(_is_number(word) for word in head):
        raise InputError(
            f'{path} line 1: {" ".join(head)!r}; expected the number of pairs per kind (View 1), '
            f'folds and pairs per kind and fold (View 2), or PATH PATH 0|1'
        )
    view_1 = len(head) == 1
    folds, block = (1, int(head[0])) if view_1 else (int(head[0]), int(head[1]))
    body = [(number, text) for number, text in enumerate(lines[1:], 2) if text.strip()]
    if len(body) != folds * 2 * block:
        raise InputError(
            f'{path}: {len(body)} pairs; line 1 announces {folds} x 2 x {block} = '
            f'{folds * 2 * block}'
        )
    pairs = [
        _parse_lfw_line(path, number, text, same=index // block % 2 == 0)
        for index, (number, text) in enumerate(body)
    ]
    return PairList(in_folds(pairs), FOLDS) if view_1 else PairList(pairs, folds)


def in_folds(pairs: list[Pair]) -> list[Pair]:
    """Same and different pairs dealt into 10 blocks, each kind in its order."""
    kinds = [[pair for pair in pairs if pair.same is same] for same in (True, False)]
    return [
        kind[index]
        for fold in range(FOLDS)
        for kind in kinds
        for index in range(fold * len(kind) // FOLDS, (fold + 1) * len(kind) // FOLDS)
    ]


class MissingPicture(InputError):
    """A picture of a list is not there."""


class PictureFinder:
    """Where the pictures of a list lie below a folder; asks each folder once.

    LFW keeps picture `number` of `name` at name/name_%04d.jpg. Any other suffix, any number of
    digits and any word before them is found as well, and a name may be spelt as `listed_path` says.
    """

    def __init__(self, folder: Path):
        self._folder = folder
        self._numbered: dict[Path, dict[int, list[Path]]] = {}

    def find(self, identity: str, which: Union[int, str]) -> Path:
        """The picture; MissingPicture if there is none, InputError for several of that number."""
        if isinstance(which, str):
            return self._existing(which)
        usual = self._folder / identity / f'{identity}_{which:04d}.jpg'
        if is_file(usual):
            return usual
        found = self._by_number(self._existing(identity, usual)).get(which, [])
        if not found:
            raise MissingPicture(f'there is no picture {usual}, nor another of that number')
        if len(found) > 1:
            raise InputError(f'{found[0]} and {found[1]} are both picture {which} of {identity}')
        return found[0]

    def _existing(self, name: str, wanted: Union[Path, str] = '') -> Path:
        path = listed_path(self._folder, name)
        if os.path.exists(path):  # False where a name is too long
            return path
        raise MissingPicture(f'there is no picture {wanted or self._folder / name}')

    def _by_number(self, folder: Path) -> dict[int, list[Path]]:
        if folder not in self._numbered:
            numbered: dict[int, list[Path]] = {}
            for path in sorted(folder.iterdir()):
                match = re.search(r'(?a:(\d+))$', path.stem)
                if match and not is_hidden(path.name) and path.is_file() and is_picture(path):
                    numbered.setdefault(int(match[1]), []).append(path)
            self._numbered[folder] = numbered
        return self._numbered[folder]


def _deal(identities: Sequence[Identity], folds: int, random) -> list[list[Identity]]:
    """Identities in `folds` groups of about equally many pictures, nobody in two."""
    shuffled = [identities[index] for index in random.permutation(len(identities))]
    shuffled.sort(key=lambda identity: -len(identity.paths))
    groups: list[list[Identity]] = [[] for _ in range(folds)]
    for number, identity in enumerate(shuffled):
        row, place = divmod(number, folds)
        groups[place if row % 2 == 0 else folds - 1 - place].append(identity)
    return groups


def _take_in_turn(choices: Iterable[Iterable], count: int) -> list:
    """`count` items, one of each choice after the other until all are used up."""
    taken: list = []
    turns = [iter(choice) for choice in choices]
    while turns and len(taken) < count:
        turns, before = [], turns
        for turn in before:
            if len(taken) == count:
                break
            for item in islice(turn, 1):
                taken.append(item)
                turns.append(turn)
    return taken


def _pairs_of(paths: Sequence[Path], random) -> Iterator[tuple[Path, Path]]:
    """All pairs of a person's pictures in random order; only what is taken is worked for.

    A thousand pictures make half a million pairs, of which a set takes a few. This is Fisher and
    Yates' shuffle of the pairs' numbers, of which only those that moved are kept. Number
    b (b - 1) / 2 + a is the pair of pictures a < b.
    """
    total = len(paths) * (len(paths) - 1) // 2
    moved: dict[int, int] = {}
    for place in range(total):
        other = int(random.randint(place, total))
        here = moved.pop(place, place)
        number = here
        if other != place:
            number, moved[other] = moved.get(other, other), here
        second = (math.isqrt(8 * number + 1) + 1) // 2
        yield paths[number - second * (second - 1) // 2], paths[second]


def _same_pairs(group: Sequence[Identity], count: int, random) -> list[tuple[Path, Path]]:
    """Pairs of pictures of one person, as equally many of each as there are."""
    order = random.permutation(len(group))
    return _take_in_turn((_pairs_of(group[index].paths, random) for index in order), count)


def _different_pairs(group: Sequence[Identity], count: int, random) -> list[tuple[Path, Path]]:
    """Pairs of pictures of two people, everybody about equally often, no pair twice."""
    people = len(group)
    drawn: dict[tuple[Path, Path], None] = {}
    tries = 0
    while people > 1 and len(drawn) < count and tries < 50 * count:
        order = random.permutation(people)
        # everybody once with the next one in a new random circle
        for first, second in zip(order, np.roll(order, 1)):
            tries += 1
            paths = [
                group[who].paths[random.randint(len(group[who].paths))] for who in (first, second)
            ]
            pair = tuple(sorted(paths))
            if len(drawn) < count and pair not in drawn:
                drawn[pair] = None
    return list(drawn)


def _capacity(group: Sequence[Identity]) -> int:
    """Pairs of each kind that a fold can hold."""
    sizes = np.array([len(identity.paths) for identity in group], np.int64)
    same = int((sizes * (sizes - 1) // 2).sum())
    different = int((sizes.sum() ** 2 - (sizes**2).sum()) // 2)
    return min(same, different)


def draw_pairs(
    identities: Sequence[Identity], count: int, seed: int, folds: int = FOLDS
) -> PairList:
    """Pairs for a verification set: half same, half different, nobody in two folds.

    Within a fold every person is in about as many pairs as any other, however many pictures there
    are of each; no pair comes twice.

    Parameters
    ----------
    identities : people with their pictures
    count : pairs, a multiple of 2 * folds; 0: as many as each fold holds, at most 6,000
    seed : of the draw

    Raises
    ------
    InputError if the people are too few, or if their pictures make fewer pairs.
    """
    random = np.random.RandomState(seed)
    groups = _deal(identities, folds, random)
    room = min(_capacity(group) for group in groups) if all(groups) else 0
    if not room:
        several = sum(len(identity.paths) > 1 for identity in identities)
        raise InputError(
            f'{len(identities)} people, {several} of them with two pictures or more, are too few '
            f'for {folds} folds with different people in each; take fewer --folds or add pictures'
        )
    count = count or 2 * folds * min(room, 3000 // folds)
    per_fold = count // (2 * folds)
    if per_fold > room or count % (2 * folds):
        raise InputError(
            f'--pairs {count}: must be a multiple of {2 * folds} and at most {2 * folds * room} '
            f'with these pictures (equally many in each of {folds} folds)'
        )
    pairs = []
    for group in groups:
        names = {path: identity.name for identity in group for path in identity.paths}
        drawn = [(pair, True) for pair in _same_pairs(group, per_fold, random)]
        drawn += [(pair, False) for pair in _different_pairs(group, per_fold, random)]
        if len(drawn) < 2 * per_fold:
            raise InputError(f'--pairs {count}: more than these pictures make; take fewer')
        for (first, second), same in drawn:
            line = len(pairs) + 1
            pairs.append(Pair(line, (names[first], str(first)), (names[second], str(second)), same))
    return PairList(pairs, folds)
