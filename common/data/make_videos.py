"""Videos to measure with, from crops of real people: folders of frames, degraded by a recipe.

The pictures of a person are shuffled and dealt to videos, so that no picture is in two of them; a
video has a few frames of each of its pictures. Every frame is blurred, darkened and covered at
random, each to a strength of its own: a few frames of a video stay good, most become bad, as in a
video from a street. People, pictures and strengths follow from the seed and the person's name.
"""

import argparse
import logging
import zlib
from pathlib import Path

import cv2
import numpy as np

from .. import console
from ..errors import InputError
from ..files import atomic_folder, output_folder
from ..parallel import ordered_map
from .folders import Identity, choose_images, find_identities, identity_folders
from .image import check_crop, decode_rgb, encode_jpeg, read_picture
from .listed import add_people_options, read_people

log = logging.getLogger(__name__)

_BLUR_SIGMA = 4.0  # pixels, at full strength
_LEAST_LIGHT = 0.08  # of the light, at full strength
_DARK_NOISE = 4.0  # grey values of a sensor's noise, at full strength
_COVERED = (0.2, 0.7)  # of a side, from no strength to full


def blurred(image: np.ndarray, strength: float) -> np.ndarray:
    """Out of focus: a Gaussian of 4 pixels at strength 1."""
    sigma = max(_BLUR_SIGMA * strength, 0.1)
    return cv2.GaussianBlur(image, (0, 0), sigma)


def darkened(image: np.ndarray, strength: float, random: np.random.RandomState) -> np.ndarray:
    """Less light, down to 8 % at strength 1, and the noise of a sensor that gets so little."""
    light = _LEAST_LIGHT**strength
    noise = _DARK_NOISE * strength * random.standard_normal(image.shape)
    return np.clip(np.rint(image * light + noise), 0, 255).astype(np.uint8)


def covered(image: np.ndarray, strength: float, random: np.random.RandomState) -> np.ndarray:
    """A rectangle of one colour at a random place, 0.2 to 0.7 of the sides with the strength."""
    least, most = _COVERED
    height, width = (round(side * (least + strength * (most - least))) for side in image.shape[:2])
    top, left = (
        random.randint(0, side - length + 1)
        for side, length in zip(image.shape[:2], (height, width))
    )
    image = image.copy()
    image[top : top + height, left : left + width] = random.randint(0, 256, 3)
    return image


def degrade(image: np.ndarray, share: float, random: np.random.RandomState) -> np.ndarray:
    """Blur, dark and occlusion, each with the chance `share` and a strength of its own, 0..1.

    Parameters
    ----------
    image : (H, W, 3) uint8 RGB
    share : 0..1
    """
    # drawn always, so that the share changes no other draw
    hit, strengths = random.uniform(size=3) < share, random.uniform(size=3)
    if hit[0]:
        image = covered(image, strengths[0], random)
    if hit[1]:
        image = blurred(image, strengths[1])
    if hit[2]:
        image = darkened(image, strengths[2], random)
    return image


def build_parser(parser: console.Parser) -> None:
    parser.add_argument(
        'source', type=Path, metavar='FOLDER', help='crops, FOLDER/<identity>/<picture>'
    )
    parser.add_argument('out', type=Path, metavar='OUT', help='OUT/<identity>/<video>/<frame>.jpg')
    add_people_options(parser, '--exclude', 'names of people to leave out')
    parser.add_argument(
        '--min-images', type=int, default=10, help='people with fewer pictures are left out'
    )
    parser.add_argument(
        '--most-people', type=int, default=0, help='draw so many of the others; 0: all'
    )
    parser.add_argument('--pictures', type=int, default=3, help='of the person in one video')
    parser.add_argument('--frames', type=int, default=8, help='of one video')
    parser.add_argument('--most-videos', type=int, default=4, help='of one person')
    parser.add_argument('--share', type=float, default=0.8, help='of the frames, for each damage')
    parser.add_argument('--seed', type=int, default=0, help='of all that is drawn')


def _people(args: argparse.Namespace) -> list[Identity]:
    left_out = set(read_people(args.exclude, '--exclude', args.source, args.allow_unknown))
    folders, few = identity_folders(args.source), 0
    for folder in folders:
        if folder not in left_out and sum(1 for _ in folder.iterdir()) < args.min_images:
            left_out.add(folder)
            few += 1
    if few and left_out.issuperset(folders):
        raise InputError(
            f'{args.source}: none of {few} people has {args.min_images} pictures; choose a smaller '
            f'--min-images'
        )
    log.info('%d people with fewer than %d pictures are left out', few, args.min_images)
    people = choose_images(find_identities(args.source, sorted(left_out)), args.min_images, 0, 0)
    if len(people) < max(2, args.most_people):
        raise InputError(
            f'{args.source}: {len(people)} people have {args.min_images} pictures; '
            f'{max(2, args.most_people)} are needed'
        )
    if args.most_people:
        drawn = np.random.RandomState(args.seed).permutation(len(people))[: args.most_people]
        people = [people[index] for index in sorted(drawn)]
    return people


def _videos_of(identity: Identity, args: argparse.Namespace, out: Path) -> int:
    """Write the videos of a person; returns how many."""
    # by the name as well, so that leaving people out changes nothing for the others
    random = np.random.RandomState([args.seed, zlib.crc32(identity.name.encode())])
    order = random.permutation(len(identity.paths))
    videos = min(args.most_videos, len(order) // args.pictures)
    for video in range(videos):
        folder = out / identity.name / f'{video:02d}'
        folder.mkdir(parents=True)
        mine = order[video * args.pictures : (video + 1) * args.pictures]
        for frame in range(args.frames):
            path = identity.paths[mine[frame % args.pictures]]
            try:
                image = decode_rgb(read_picture(path))
            except InputError as error:
                raise InputError(f'{path}: {error}') from None
            check_crop(image, str(path))
            content = encode_jpeg(degrade(image, args.share, random))
            (folder / f'{frame:03d}.jpg').write_bytes(content)
    return videos


def run(args: argparse.Namespace) -> dict:
    console.check_ranges(
        [
            ('--min-images', args.min_images, 2, 10**6),
            ('--most-people', args.most_people, 0, 10**7),
            ('--pictures', args.pictures, 1, 10**6 // 2),
            ('--frames', args.frames, 1, 10**4),
            ('--most-videos', args.most_videos, 2, 10**4),
            ('--share', args.share, 0.0, 1.0),
            ('--seed', args.seed, 0, 2**32 - 1),
        ]
    )
    if args.min_images < 2 * args.pictures:
        raise InputError(
            f'people with {args.min_images} pictures (--min-images) have none for two videos of '
            f'{args.pictures} each (--pictures); give --min-images {2 * args.pictures} or more, or '
            f'--pictures {args.min_images // 2} or fewer'
        )
    if args.out.exists() and (not args.out.is_dir() or any(args.out.iterdir())):
        raise InputError(f'{args.out} is no empty folder; choose another')
    people = _people(args)
    output_folder(args.out.parent)
    videos = frames = 0
    shown = console.progress(len(people), 'make-videos', 'people')
    with atomic_folder(args.out) as partial, shown as bar:
        for more in ordered_map(lambda one: _videos_of(one, args, partial), people):
            videos, frames = videos + more, frames + more * args.frames
            bar.advance()
    log.info('%s: %d videos of %d people, %d frames', args.out, videos, len(people), frames)
    return {'out': str(args.out), 'people': len(people), 'videos': videos, 'frames': frames}


main = console.command('make-videos', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
