"""Build a verification .bin from aligned crops and one of LFW's pair lists.

Both forms of list are read. View 1 (pairsDevTrain.txt, pairsDevTest.txt): the number N, then N
lines `name i j` (the same person) and N lines `name1 i name2 j`. View 2 (pairs.txt): `folds N`,
then per fold N lines of the first kind and N of the second. Picture i of a name is
FOLDER/name/name_%04d.jpg.

The folds of the verification protocol are blocks of the file. View 2 is in such blocks and its
order is kept. View 1 has no folds: all same pairs come first, and in that order no fold would hold
both kinds; it is laid out as View 2 is, in 10 blocks of equally many same and different pairs.
"""

import argparse
import logging
from pathlib import Path
from typing import NamedTuple

from .. import console
from ..errors import InputError
from ..files import PathLike, input_file, output_folder
from ..parallel import ordered_map
from .image import jpeg_crop
from .pair_sets import write_pairs

log = logging.getLogger(__name__)


VIEW_1_FOLDS = 10


class Pair(NamedTuple):
    """One line of a pair list."""

    line: int  # 1 is the first of the file
    first: tuple[str, int]  # name, number of the picture
    second: tuple[str, int]
    same: bool


class PairList(NamedTuple):
    pairs: list[Pair]  # in the order in which they are written
    folds: int


def _parse_line(path: PathLike, line: int, text: str, same: bool) -> Pair:
    """One pair; names may hold blanks if the line is separated by tabs."""
    words = [word.strip() for word in text.split('\t' if '\t' in text else None)]
    expected = 'NAME I J' if same else 'NAME1 I NAME2 J'
    try:
        if same:
            name, first, second = words
            return Pair(line, (name, int(first)), (name, int(second)), True)
        name, first, other, second = words
        return Pair(line, (name, int(first)), (other, int(second)), False)
    except ValueError:
        raise InputError(f'{path} line {line}: {text!r}; expected {expected}') from None


def read_pair_list(path: PathLike) -> PairList:
    """Parse an LFW pair list of View 1 or View 2; raises InputError naming file and line."""
    path = input_file(path, 'pair list')
    lines = path.read_text('utf-8', 'replace').splitlines()
    head = lines[0].split() if lines else []
    if len(head) not in (1, 2) or not all(word.isdigit() and int(word) for word in head):
        raise InputError(
            f'{path} line 1: {" ".join(head)!r}; expected the number of pairs per kind (View 1) '
            f'or folds and pairs per kind and fold (View 2)'
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
        _parse_line(path, number, text, same=index // block % 2 == 0)
        for index, (number, text) in enumerate(body)
    ]
    return PairList(in_folds(pairs), VIEW_1_FOLDS) if view_1 else PairList(pairs, folds)


def in_folds(pairs: list[Pair]) -> list[Pair]:
    """Same and different pairs dealt into 10 blocks, each kind in its order."""
    kinds = [[pair for pair in pairs if pair.same is same] for same in (True, False)]
    return [
        kind[index]
        for fold in range(VIEW_1_FOLDS)
        for kind in kinds
        for index in range(fold * len(kind) // VIEW_1_FOLDS, (fold + 1) * len(kind) // VIEW_1_FOLDS)
    ]


def picture_path(folder: Path, name: str, number: int) -> Path:
    """Where LFW keeps picture `number` of `name`."""
    return folder / name / f'{name}_{number:04d}.jpg'


def load_pictures(
    folder: Path, pair_list: PairList, source: PathLike, quality: int = 95
) -> dict[Path, tuple[bytes, bool]]:
    """Every picture of the list once: path -> (112x112 JPEG, kept byte for byte?).

    Raises InputError for a missing or broken picture, naming the line of `source` that wants it.
    """
    wanted: dict[Path, int] = {}
    for pair in pair_list.pairs:
        for name, number in (pair.first, pair.second):
            wanted.setdefault(picture_path(folder, name, number), pair.line)

    def load(item: tuple[Path, int]) -> tuple[bytes, bool]:
        path, line = item
        if not path.is_file():
            raise InputError(f'{source} line {line}: there is no picture {path}')
        try:
            return jpeg_crop(path.read_bytes(), quality=quality)
        except InputError as error:
            raise InputError(f'{source} line {line}: {path}: {error}') from None

    pictures = {}
    with console.progress(len(wanted), 'make-bin') as bar:
        for path, picture in zip(wanted, ordered_map(load, wanted.items())):
            pictures[path] = picture
            bar.advance()
    return pictures


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='NAME/NAME_0001.jpg crops')
    parser.add_argument('pairs', metavar='PAIRS', help='LFW pair list (View 1 or View 2)')
    parser.add_argument('out', type=Path, metavar='OUT.bin', help='the pair set to write')


def run(args: argparse.Namespace) -> dict:
    if not args.folder.is_dir():
        raise InputError(f'{args.folder} is no folder; expected FOLDER/NAME/NAME_0001.jpg')
    pair_list = read_pair_list(args.pairs)
    output_folder(args.out.parent)
    pictures = load_pictures(args.folder, pair_list, args.pairs)
    images = [
        pictures[picture_path(args.folder, *picture)][0]
        for pair in pair_list.pairs
        for picture in (pair.first, pair.second)
    ]
    same = [pair.same for pair in pair_list.pairs]
    write_pairs(args.out, images, same)
    kept = sum(kept for _, kept in pictures.values())
    log.info('%s: %d pairs of %d pictures', args.out, len(same), len(pictures))
    return {
        'pairs': len(same),
        'same': sum(same),
        'different': len(same) - sum(same),
        'folds': pair_list.folds,
        'pictures': len(pictures),
        'kept': kept,
        'reencoded': len(pictures) - kept,
        'bin': str(args.out),
    }


main = console.command('make-bin', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
