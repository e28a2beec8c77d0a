"""Turn identity folders with aligned face crops into a training record file.

FOLDER/<identity>/<picture> becomes OUT/train.rec, OUT/train.idx and OUT/property in InsightFace's
layout (see recordio.py), and OUT/classes.txt, the name of each class. Identities are numbered in
the order of their sorted names, pictures are stored in the order of theirs. A list with labels
serves in place of the folder (see label_lists.py).
"""

import argparse
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Optional

from .. import console
from ..checksums import noted
from ..errors import InputError
from ..files import atomic_write, exclusive, free_to_write, output_folder
from ..parallel import ordered_map
from .detect import warn_if_unaligned
from .folders import Identity, choose_images
from .image import jpeg_crop, read_picture
from .label_lists import add_source_options, source_people
from .listed import add_people_options, read_people
from .recordio import CLASSES, write_face_records

log = logging.getLogger(__name__)


class Crop(NamedTuple):
    """A picture ready for the record file; `encoded` is None if it is broken and skipped."""

    encoded: Optional[bytes]
    kept: bool  # the file's own bytes


def load_crop(path: Path, quality: int, skip_broken: bool) -> Crop:
    """The picture at `path` as JPEG of the right size; InputError names the file if broken."""
    try:
        return Crop(*jpeg_crop(read_picture(path), quality=quality))
    except InputError as error:
        if skip_broken:
            log.warning('%s: %s; left out', path, error)
            return Crop(None, False)
        raise InputError(
            f'{path}: {error}; remove it, or leave such pictures out with --skip-broken'
        ) from None


def _usable_identities(
    identities: Sequence[Identity], args: argparse.Namespace, counts: Counter, names: list[str]
) -> Iterator[list[bytes]]:
    """Encoded pictures per identity, decoded ahead on several threads; fills `counts`, `names`.

    An identity that broken pictures push below --min-images is left out as a whole.
    """
    work = [(label, path) for label, identity in enumerate(identities) for path in identity.paths]
    crops = ordered_map(lambda item: load_crop(item[1], args.quality, args.skip_broken), work)
    with console.progress(len(work), 'make-rec') as bar:
        for label, group in groupby(zip(work, crops), key=lambda pair: pair[0][0]):
            images = []
            for _, crop in group:
                bar.advance()
                images.append(crop)
            usable = [crop for crop in images if crop.encoded is not None]
            counts['skipped'] += len(images) - len(usable)
            if len(usable) < args.min_images:
                counts['identities_lost'] += 1
                log.warning(
                    'identity %s: %d pictures can be read, of at least %d; left out',
                    *(identities[label].name, len(usable), args.min_images),
                )
                continue
            counts['kept'] += sum(crop.kept for crop in usable)
            names.append(identities[label].name)
            yield [crop.encoded for crop in usable]


def build_parser(parser: console.Parser) -> None:
    add_source_options(parser)
    parser.add_argument('out', metavar='OUT', help='folder for train.rec, train.idx, property')
    parser.add_argument('--min-images', type=int, default=1, help='leave out smaller identities')
    parser.add_argument(
        '--max-images', type=int, default=0, help='take at most this many per identity; 0: all'
    )
    add_people_options(parser, '--exclude', 'names of identities to leave out')
    parser.add_argument('--seed', type=int, default=0, help='draws the pictures of --max-images')
    parser.add_argument(
        '--quality', type=int, default=95, help='JPEG quality of pictures that are no 112x112 JPEG'
    )
    parser.add_argument(
        '--skip-broken', action='store_true', help='leave out pictures that cannot be decoded'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace the data set that is in OUT'
    )


def _check(args: argparse.Namespace) -> None:
    if args.min_images < 1:
        raise InputError(f'--min-images {args.min_images}: must be at least 1')
    if args.max_images and args.max_images < args.min_images:
        raise InputError(
            f'--max-images {args.max_images}: must be 0 or at least --min-images {args.min_images}'
        )
    if not 1 <= args.quality <= 100:
        raise InputError(f'--quality {args.quality}: must be 1..100')
    if not 0 <= args.seed < 2**32:
        raise InputError(f'--seed {args.seed}: must be 0..{2**32 - 1}')


def _identities(args: argparse.Namespace) -> list[Identity]:
    if args.exclude and args.source.is_file():
        raise InputError('--exclude: goes with a FOLDER; take the lines out of the list')
    excluded = read_people(args.exclude, '--exclude', args.source, args.allow_unknown)
    return source_people(args, excluded)


def run(args: argparse.Namespace) -> dict:
    _check(args)
    for rec in sorted(Path(args.out).glob('*.rec')):  # of any name: `property` belongs to it
        free_to_write(rec, args.overwrite)
    found = _identities(args)
    chosen = choose_images(found, args.min_images, args.max_images, args.seed)
    if not chosen:
        raise InputError(
            f'{args.source}: none of {len(found)} identities has {args.min_images} pictures; '
            f'lower --min-images'
        )
    out = output_folder(args.out)
    warn_if_unaligned(args.source, [path for identity in chosen for path in identity.paths])
    counts, names = Counter(), []
    with exclusive(out):  # the three files and the names belong together
        written = write_face_records(out / 'train', _usable_identities(chosen, args, counts, names))
        with noted(out / CLASSES):
            atomic_write(out / CLASSES, ''.join(f'{name}\n' for name in names))
    if written.num_classes == 1:
        log.warning(
            '%s: all pictures are of one identity, %s, which teaches a network nothing; expected '
            'FOLDER/<identity>/<picture>',
            args.source,
            names[0],
        )
    reencoded = written.num_images - counts['kept']
    log.info(
        '%s: %d identities, %d pictures (%d encoded anew, %d broken)',
        written.paths.rec,
        written.num_classes,
        written.num_images,
        reencoded,
        counts['skipped'],
    )
    return {
        'identities': written.num_classes,
        'images': written.num_images,
        'kept': counts['kept'],
        'reencoded': reencoded,
        'skipped': counts['skipped'],
        'identities_lost': counts['identities_lost'],
        'rec': str(written.paths.rec),
        'idx': str(written.paths.idx),
        'property': str(written.paths.property),
        'classes': str(out / CLASSES),
    }


main = console.command('make-rec', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
