"""Build a verification .bin from aligned crops: of a list of pairs, or of pairs drawn from people.

With PAIRS the list says what is compared: LFW's View 1 or View 2, or lines `path path 0|1`. Without
it pairs are drawn from FOLDER/<identity>/<picture>, or from a list with labels in place of FOLDER
(an `.lst`, or lines `path label`): half same and half different, nobody in two folds; what was
drawn is written beside OUT.bin as OUT.pairs.txt.
"""

import argparse
import logging
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from .. import console
from ..checksums import noted
from ..errors import InputError
from ..files import atomic_write, free_to_write, output_folder
from ..parallel import ordered_map
from .detect import warn_if_unaligned
from .failed_pairs import FailedPair, remove_failed, write_failed
from .folders import check_line
from .image import jpeg_crop, read_picture
from .label_lists import add_source_options, check_root, named_people
from .listed import add_people_options
from .pair_lists import (
    FOLDS,
    MissingPicture,
    PairList,
    PictureFinder,
    draw_pairs,
    read_pair_list,
)
from .pair_sets import write_pairs

log = logging.getLogger(__name__)


class Comparison(NamedTuple):
    """Two pictures to compare; `where` tells what wants them."""

    first: Path
    second: Path
    same: bool
    where: str


def listed(
    folder: Path, pair_list: PairList, source: Path, skip_missing: bool = False
) -> tuple[list[Comparison], list[FailedPair]]:
    """The pictures of a pair list below `folder`, and the pairs of which one is missing.

    Raises InputError naming the line of a missing one unless these are skipped.
    """
    finder = PictureFinder(folder)
    comparisons, failed = [], []
    for number, pair in enumerate(pair_list.pairs):
        where = f'{source} line {pair.line}'
        try:
            paths = [finder.find(*picture) for picture in (pair.first, pair.second)]
        except InputError as error:
            if not skip_missing or not isinstance(error, MissingPicture):
                raise InputError(f'{where}: {error}') from None
            names = ('/'.join(map(str, picture)) for picture in (pair.first, pair.second))
            failed.append(FailedPair(number, *names, pair.same))
            continue
        comparisons.append(Comparison(*paths, pair.same, where))
    if not comparisons:
        raise InputError(f'{source}: no pair has both of its pictures in {folder}')
    return comparisons, failed


def _warn_of_few(out: Path, same: list[bool]) -> None:
    """Say what a set is too small for, while it is being made."""
    if all(same) or not any(same):
        kind = 'same' if all(same) else 'different'
        log.warning('%s: all pairs are %s pairs; `verify` and `train` need both kinds', out, kind)
    elif len(same) < FOLDS:
        log.warning(
            '%s: %d pairs; `train` takes a set from %d on, `verify` with as many --folds or fewer',
            *(out, len(same), FOLDS),
        )


def drawn(args: argparse.Namespace) -> tuple[PairList, list[Comparison]]:
    """Pairs drawn from the people of a folder or of a list with labels."""
    pair_list = draw_pairs(named_people(args), args.count, args.seed, args.folds)
    pairs = pair_list.pairs
    return pair_list, [
        Comparison(Path(pair.first[1]), Path(pair.second[1]), pair.same, str(args.source))
        for pair in pairs
    ]


def load_pictures(comparisons: Iterable[Comparison]) -> dict[Path, tuple[bytes, bool]]:
    """Every picture once: path -> (112x112 JPEG, kept byte for byte?).

    Raises InputError for a missing or broken picture, naming what wants it.
    """
    wanted: dict[Path, str] = {}
    for comparison in comparisons:
        for path in comparison[:2]:
            wanted.setdefault(path, comparison.where)

    def load(item: tuple[Path, str]) -> tuple[bytes, bool]:
        path, where = item
        if not path.is_file():
            raise InputError(f'{where}: there is no picture {path}')
        try:
            return jpeg_crop(read_picture(path))
        except InputError as error:
            raise InputError(f'{where}: {path}: {error}') from None

    pictures = {}
    with console.progress(len(wanted), 'make-bin') as bar:
        for path, picture in zip(wanted, ordered_map(load, wanted.items())):
            pictures[path] = picture
            bar.advance()
    return pictures


def pairs_text(comparisons: Iterable[Comparison], folder: Path) -> str:
    """Lines `path TAB path TAB 0|1`, with paths relative to `folder`."""
    lines = []
    for first, second, same, _ in comparisons:
        paths = (os.path.relpath(path, folder) for path in (first, second))
        lines.append('\t'.join([*paths, str(int(same))]) + '\n')
    return ''.join(lines)


def build_parser(parser: console.Parser) -> None:
    add_source_options(parser)
    parser.add_argument(
        'list',
        type=Path,
        nargs='?',
        metavar='PAIRS',
        help='list of pairs; without it they are drawn',
    )
    parser.add_argument('out', type=Path, metavar='OUT.bin', help='the pair set to write')
    parser.add_argument(
        '--pairs',
        type=int,
        default=0,
        dest='count',
        metavar='N',
        help='how many to draw; 0: as many as the pictures make, at most 6,000',
    )
    add_people_options(parser, '--people', 'names of the people to draw from; else all')
    parser.add_argument('--seed', type=int, default=0, help='of the draw')
    parser.add_argument('--folds', type=int, default=FOLDS, help='folds of what is drawn')
    parser.add_argument(
        '--skip-missing',
        action='store_true',
        help='leave pairs of PAIRS out whose pictures are missing, such as those without a face, '
        'and list them in OUT.failed.txt; verify --save counts them',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace OUT.bin')


def _check(args: argparse.Namespace) -> None:
    ranges = [
        ('--pairs', args.count, 0, 10_000_000),
        ('--seed', args.seed, 0, 2**32 - 1),
        ('--folds', args.folds, 2, 1000),
    ]
    console.check_ranges(ranges)
    if not args.source.is_dir() and (args.list or not args.source.is_file()):
        raise InputError(f'{args.source} is no folder; expected FOLDER/<identity>/<picture>')
    check_root(args)
    if args.skip_missing and not args.list:
        raise InputError('--skip-missing is for a list of pairs; what is drawn is there')
    of_a_draw = {
        '--pairs': args.count,
        '--people': args.people,
        '--allow-unknown': args.allow_unknown,
        '--seed': args.seed,
        '--folds': args.folds - FOLDS,
    }
    if args.list and any(of_a_draw.values()):
        given = ' and '.join(flag for flag, value in of_a_draw.items() if value)
        raise InputError(f'{given}: for pairs that are drawn; {args.list} says what is compared')
    free_to_write(args.out, args.overwrite)


def run(args: argparse.Namespace) -> dict:
    _check(args)
    if args.list:
        pair_list = read_pair_list(args.list)
        comparisons, failed = listed(args.source, pair_list, args.list, args.skip_missing)
    else:
        (pair_list, comparisons), failed = drawn(args), []
        for path in {path for comparison in comparisons for path in comparison[:2]}:
            check_line(path.name, path)  # before the list that tells what was drawn is written
    same = [comparison.same for comparison in comparisons]
    _warn_of_few(args.out, same)
    output_folder(args.out.parent)
    pictures = load_pictures(comparisons)
    warn_if_unaligned(args.source, list(pictures))
    images = [pictures[path][0] for comparison in comparisons for path in comparison[:2]]
    write_pairs(args.out, images, same)
    result = {
        'pairs': len(same),
        'same': sum(same),
        'different': len(same) - sum(same),
        'folds': pair_list.folds,
        'pictures': len(pictures),
        'kept': sum(kept for _, kept in pictures.values()),
        'reencoded': sum(not kept for _, kept in pictures.values()),
        'bin': str(args.out),
    }
    remove_failed(args.out)  # of the set that was there before
    if failed:
        result['failed'] = len(failed)
        log.warning('%d pairs are left out: %s', len(failed), write_failed(args.out, failed))
    if not args.list:
        folder = args.source if args.source.is_dir() else Path(args.root or args.source.parent)
        text = args.out.with_suffix('.pairs.txt')
        with noted(text):
            atomic_write(text, pairs_text(comparisons, folder))
        result['list'] = str(text)
    log.info('%s: %d pairs of %d pictures', args.out, len(same), len(pictures))
    return result


main = console.command('make-bin', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
