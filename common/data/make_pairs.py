"""All pairs that the pictures of a folder of people allow, as one file for `verify --pairs`.

A few thousand pictures hold thousands of genuine and millions of impostor pairs: enough to measure
a true-accept rate at FAR 1e-4, where lists of some thousand pairs end at 1e-3.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from .. import console
from ..errors import InputError
from ..files import free_to_write, output_folder
from ..parallel import ordered_map
from .detect import warn_if_unaligned
from .folders import choose_images
from .image import jpeg_crop, read_picture
from .label_lists import add_source_options, named_people
from .listed import add_people_options
from .people_sets import (
    SUFFIX,
    PeopleSet,
    check_kinds,
    draw_impostors,
    impostor_pairs,
    write_people_set,
)

log = logging.getLogger(__name__)

_MOST = 50_000_000  # impostor pairs that are compared without being asked


def build_parser(parser: console.Parser) -> None:
    add_source_options(parser)
    parser.add_argument('out', type=Path, metavar='OUT.npz', help='the set to write')
    add_people_options(parser, '--people', 'names of the people to take; else all')
    parser.add_argument(
        '--max-images', type=int, default=0, help='take at most this many per person; 0: all'
    )
    parser.add_argument(
        '--impostors',
        type=int,
        default=_MOST,
        metavar='N',
        help='draw N pairs of different people where there are more than twice as many; 0: all',
    )
    parser.add_argument(
        '--seed', type=int, default=0, help='draws the pictures of --max-images, and --impostors'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace OUT.npz')


def _load(paths: Sequence[Path]) -> list[tuple[bytes, bool]]:
    """(112x112 JPEG, kept byte for byte?) of each picture; InputError names a broken one."""

    def load(path: Path) -> tuple[bytes, bool]:
        try:
            return jpeg_crop(read_picture(path))
        except InputError as error:
            raise InputError(f'{path}: {error}') from None

    loaded = []
    with console.progress(len(paths), 'make-pairs') as bar:
        for picture in ordered_map(load, paths):
            loaded.append(picture)
            bar.advance()
    return loaded


def _drawn(people: np.ndarray, args: argparse.Namespace) -> Optional[np.ndarray]:
    """The impostor pairs to compare; None for all of them."""
    if not args.impostors or impostor_pairs(people) < 2 * args.impostors:
        return None
    return draw_impostors(people, args.impostors, args.seed)


def run(args: argparse.Namespace) -> dict:
    console.check_ranges(
        [
            ('--max-images', args.max_images, 0, 10_000_000),
            ('--impostors', args.impostors, 0, 1_000_000_000),
            ('--seed', args.seed, 0, 2**32 - 1),
        ]
    )
    if args.out.suffix != SUFFIX:
        raise InputError(f'{args.out}: expected a name that ends in {SUFFIX}')
    free_to_write(args.out, args.overwrite)
    identities = choose_images(named_people(args), 1, args.max_images, args.seed)
    people = np.repeat(np.arange(len(identities)), [len(each.paths) for each in identities])
    check_kinds(people, str(args.source))
    impostors = _drawn(people, args)
    output_folder(args.out.parent)
    paths = [path for identity in identities for path in identity.paths]
    warn_if_unaligned(args.source, paths)
    loaded = _load(paths)
    names = [identity.name for identity in identities]
    people_set = PeopleSet([picture for picture, _ in loaded], people, names, impostors)
    write_people_set(args.out, people_set)
    result = {
        'people': len(names),
        'pictures': len(paths),
        'genuine_pairs': people_set.genuine_pairs,
        'impostor_pairs': impostor_pairs(people) if impostors is None else len(impostors),
        'drawn': impostors is not None,
        'reencoded': sum(not kept for _, kept in loaded),
        'pairs': str(args.out),
    }
    log.info(
        '%s: %d pictures of %d people, %d genuine and %d impostor pairs',
        *(args.out, len(paths), len(names), result['genuine_pairs'], result['impostor_pairs']),
    )
    return result


main = console.command('make-pairs', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
