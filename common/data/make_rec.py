"""Turn a folder of identity folders with aligned face crops into a training record file.

FOLDER/<identity>/<picture> becomes OUT/train.rec, OUT/train.idx and OUT/property in InsightFace's
layout (see recordio.py). Identities are numbered in the order of their sorted names, pictures are
stored in the order of theirs; deeper folders, hidden files and files that are no pictures by name
are left alone.
"""

import argparse
import logging
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from .. import console
from ..errors import InputError
from ..files import input_file, output_folder
from ..parallel import ordered_map
from .image import jpeg_crop
from .recordio import write_face_records

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp'}

_SHOWN_NAMES = 3


class Identity(NamedTuple):
    """One class: the folder's name and the pictures to take from it, sorted."""

    name: str
    paths: tuple[Path, ...]


class Crop(NamedTuple):
    """A picture ready for the record file; `encoded` is None if it is broken and skipped."""

    encoded: Optional[bytes]
    kept: bool  # the file's own bytes


def find_identities(folder: Path, exclude: Sequence[str] = ()) -> list[Identity]:
    """The identity folders of `folder` in sorted order, without the names in `exclude`.

    Raises InputError if there are none, or for an identity without pictures.
    """
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder; expected FOLDER/<identity>/<picture>')
    left_out = set(exclude)
    identities = []
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.name.startswith('.') or entry.name in left_out:
            continue
        paths = tuple(
            path
            for path in sorted(entry.iterdir())
            if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.')
        )
        if not paths:
            raise InputError(
                f'{entry} holds no pictures ({" ".join(sorted(IMAGE_SUFFIXES))}); '
                f'remove the folder or name it in the --exclude file'
            )
        identities.append(Identity(entry.name, paths))
    if not identities:
        raise InputError(f'{folder}: no identity folders; expected FOLDER/<identity>/<picture>')
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


def read_exclude(path: Optional[str], folder: Path) -> list[str]:
    """Names in the --exclude file, one a line; warns of names that `folder` does not have."""
    if path is None:
        return []
    lines = input_file(path, '--exclude file').read_text('utf-8', 'replace').splitlines()
    names = [line.strip() for line in lines if line.strip()]
    unknown = [name for name in names if not (folder / name).is_dir()]
    if unknown:
        log.warning(
            '%s: %d of %d names have no folder in %s (%s ...)',
            path, len(unknown), len(names), folder, ', '.join(unknown[:_SHOWN_NAMES]),
        )  # fmt: skip
    return names


def load_crop(path: Path, quality: int, skip_broken: bool) -> Crop:
    """The picture at `path` as JPEG of the right size; InputError names the file if broken."""
    try:
        return Crop(*jpeg_crop(path.read_bytes(), quality=quality))
    except InputError as error:
        if skip_broken:
            return Crop(None, False)
        raise InputError(
            f'{path}: {error}; remove it, or leave such pictures out with --skip-broken'
        ) from None


def _usable_identities(
    identities: Sequence[Identity], args: argparse.Namespace, counts: Counter
) -> Iterator[list[bytes]]:
    """Encoded pictures per identity, decoded ahead on several threads; fills `counts`.

    An identity that broken pictures push below --min-images is left out as a whole.
    """
    work = [(label, path) for label, identity in enumerate(identities) for path in identity.paths]
    crops = ordered_map(lambda item: load_crop(item[1], args.quality, args.skip_broken), work)
    with console.progress(len(work), 'make-rec') as bar:
        for _, group in groupby(zip(work, crops), key=lambda pair: pair[0][0]):
            images = []
            for _, crop in group:
                bar.advance()
                images.append(crop)
            usable = [crop for crop in images if crop.encoded is not None]
            counts['skipped'] += len(images) - len(usable)
            if len(usable) < args.min_images:
                counts['identities_lost'] += 1
                continue
            counts['kept'] += sum(crop.kept for crop in usable)
            yield [crop.encoded for crop in usable]


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='identity folders of crops')
    parser.add_argument('out', metavar='OUT', help='folder for train.rec, train.idx, property')
    parser.add_argument('--min-images', type=int, default=1, help='leave out smaller identities')
    parser.add_argument(
        '--max-images', type=int, default=0, help='take at most this many per identity; 0: all'
    )
    parser.add_argument('--exclude', metavar='FILE', help='names of identities to leave out')
    parser.add_argument('--seed', type=int, default=0, help='draws the pictures of --max-images')
    parser.add_argument(
        '--quality', type=int, default=95, help='JPEG quality of pictures that are no 112x112 JPEG'
    )
    parser.add_argument(
        '--skip-broken', action='store_true', help='leave out pictures that cannot be decoded'
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


def run(args: argparse.Namespace) -> dict:
    _check(args)
    found = find_identities(args.folder, read_exclude(args.exclude, args.folder))
    chosen = choose_images(found, args.min_images, args.max_images, args.seed)
    if not chosen:
        raise InputError(
            f'{args.folder}: none of {len(found)} identities has {args.min_images} pictures; '
            f'lower --min-images'
        )
    out = output_folder(args.out)
    counts = Counter()
    written = write_face_records(out / 'train', _usable_identities(chosen, args, counts))
    reencoded = written.num_images - counts['kept']
    log.info(
        '%s: %d identities, %d pictures (%d encoded anew, %d broken)',
        written.paths.rec, written.num_classes, written.num_images, reencoded, counts['skipped'],
    )  # fmt: skip
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
    }


main = console.command('make-rec', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
