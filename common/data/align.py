"""Turn raw photographs into 112x112 crops on the ArcFace five-point template.

FOLDER may hold identity folders or pictures side by side; every picture in it, however deep,
becomes OUT/<same relative path>.jpg. Faces are found by MTCNN (Zhang et al., arXiv:1604.02878), or
by another --detector.
Pictures without a face are listed in OUT/not_found.txt, the crops in OUT/crops.txt.
"""

import argparse
import contextlib
import logging
import os
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2

from .. import console
from ..errors import InputError
from ..files import atomic_write, exclusive, naming, output_folder, read_lines, real_path
from ..parallel import cpu_count, ordered_map
from .detect import WHICH, FaceDetector, add_detector_options, detector_from
from .folders import Found, check_line, find_pictures, refuse_inside, warn_of_others
from .image import IMAGE_SUFFIXES, decode_rgb, encode_jpeg, read_picture
from .warp import crop

log = logging.getLogger(__name__)

CROPS = 'crops.txt'
NOT_FOUND = 'not_found.txt'


class Photograph(NamedTuple):
    """A picture to align and where its crop goes."""

    source: Path
    target: Path


class Outcome(NamedTuple):
    """What became of a photograph; `error` says why it could not be read."""

    source: Path
    faces: int
    written: Sequence[Path] = ()
    error: str = ''


def find_photographs(folder: Path, out: Path) -> tuple[list[Photograph], Found]:
    """All pictures below `folder`, sorted, with their targets below `out`, and what was found.

    Raises
    ------
    InputError if there is none, if `out` lies in `folder`, if two pictures differ in their suffix
    only and would become one crop, and for a name that cannot be a line of a list.
    """
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder; expected a folder of photographs')
    refuse_inside(out, folder)
    found = find_pictures(folder)
    if not found.pictures:
        raise InputError(
            f'{folder}: no pictures among {len(found.others)} files '
            f'({" ".join(sorted(IMAGE_SUFFIXES))})'
        )
    photographs: dict[Path, Photograph] = {}
    for source in found.pictures:
        name = source.relative_to(folder)
        check_line(str(name), source)
        known = name.suffix.lower() in IMAGE_SUFFIXES
        target = out / (name.with_suffix('.jpg') if known else f'{name}.jpg')
        if target in photographs:
            raise InputError(
                f'{photographs[target].source} and {source} would both become {target}; rename one'
            )
        photographs[target] = Photograph(source, target)
    return list(photographs.values()), found


def prepare_output(out: Path, overwrite: bool) -> None:
    """With `overwrite`, remove the crops that an earlier run lists in `out`.

    Raises
    ------
    InputError if pictures remain: crops of another run would be taken for those of this one.
    """
    if overwrite and (out / CROPS).is_file():
        ours = real_path(out)
        for name in read_lines(out / CROPS, 'list of crops'):
            listed = out / name
            # a list of others may lead out of the folder, by its names or by links in it
            folder = real_path(listed.parent)
            if listed.suffix == '.jpg' and ours in (folder, *folder.parents):
                with contextlib.suppress(OSError):  # what is left is told below
                    listed.unlink()
        (out / CROPS).unlink()
    left = find_pictures(out).pictures
    if left:
        advice = 'remove them, since no list says that they are crops'
        if (out / CROPS).is_file():
            advice = (
                'say --overwrite to remove the crops of an earlier run, a whole one or one that '
                'was interrupted, which does not go on but begins again'
            )
        raise InputError(
            f'{out} holds {len(left)} pictures already, such as {left[0]}; choose another folder, '
            f'or {advice}'
        )


class _Aligner:
    """Aligns photographs from several threads, each with a detector of its own.

    A crop is in the unbuffered file `crops` before it is on the disk, so that after a kill the next
    run knows all crops of this one.
    """

    def __init__(self, args: argparse.Namespace, crops: BinaryIO):
        self._args, self._crops = args, crops
        self._threads = threading.local()

    def _detector(self) -> FaceDetector:
        if not hasattr(self._threads, 'detector'):
            self._threads.detector = detector_from(self._args, self._args.min_score)
        return self._threads.detector

    def __call__(self, photograph: Photograph) -> Outcome:
        try:
            image = decode_rgb(read_picture(photograph.source))
        except InputError as error:
            if self._args.skip_broken:
                return Outcome(photograph.source, 0, error=str(error))
            raise InputError(
                f'{photograph.source}: {error}; remove it, or leave such pictures out with '
                f'--skip-broken'
            ) from None
        found = self._detector().wanted(image, self._args.which)
        written = []
        for number, landmarks in enumerate(found.faces.landmarks):
            target = photograph.target
            if self._args.which == 'all':
                target = target.with_name(f'{target.stem}_{number}.jpg')
            target.parent.mkdir(parents=True, exist_ok=True)
            with naming(self._args.out / CROPS):
                self._crops.write(os.fsencode(target.relative_to(self._args.out)) + b'\n')
            atomic_write(target, encode_jpeg(crop(image, landmarks), self._args.quality))
            written.append(target)
        return Outcome(photograph.source, found.count, written)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='photographs')
    parser.add_argument('out', type=Path, metavar='OUT', help='folder for the crops')
    add_detector_options(parser)
    parser.add_argument(
        '--min-score',
        type=float,
        help='leave out doubtful faces, below this of 1; by default 0.9, of YuNet 0.6',
    )
    parser.add_argument(
        '--which',
        choices=WHICH,
        default='largest',
        help='face to take if there are several (besides the largest, those with half of its side '
        'or more count); all: PICTURE_0.jpg, PICTURE_1.jpg ...',
    )
    parser.add_argument('--quality', type=int, default=95, help='JPEG quality of the crops')
    parser.add_argument(
        '--skip-broken', action='store_true', help='leave out pictures that cannot be decoded'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='remove the crops of an earlier run in OUT first'
    )
    parser.add_argument('--workers', type=int, default=cpu_count(), help='threads')


def _check(args: argparse.Namespace) -> None:
    ranges = [
        ('--min-score', 1.0 if args.min_score is None else args.min_score, 0.1, 1.0),
        ('--quality', args.quality, 1, 100),
        ('--workers', args.workers, 1, 256),
    ]
    console.check_ranges(ranges)
    detector_from(args, args.min_score)  # what is wrong with it comes before the pictures


@contextlib.contextmanager
def _list_of_crops(path: Path) -> Iterator[BinaryIO]:
    """The list while crops are written; after an error it stays if there are any."""
    with open(path, 'wb', buffering=0) as crops:
        try:
            yield crops
        except BaseException:
            if not crops.tell():
                path.unlink()
            raise


def _align_all(args: argparse.Namespace, photographs: list[Photograph]) -> tuple[Counter, list]:
    """Counts of what became of the photographs, and the names of those without a face."""
    counts, not_found, listed = Counter(), [], []
    with (
        console.progress(len(photographs), 'align') as bar,
        _list_of_crops(args.out / CROPS) as crops,
    ):
        for outcome in ordered_map(_Aligner(args, crops), photographs, args.workers):
            bar.advance()
            listed += [os.fsencode(target.relative_to(args.out)) for target in outcome.written]
            counts['faces'] += len(outcome.written)
            if outcome.error:
                counts['unreadable'] += 1
                log.warning('%s: %s; left out', outcome.source, outcome.error)
            elif not outcome.faces:
                not_found.append(outcome.source.relative_to(args.folder).as_posix())
            else:
                counts['found'] += 1
                counts['several'] += outcome.faces > 1
        counts['rate'] = bar.rate
    # in the order of the photographs, whatever that of the threads was
    atomic_write(args.out / CROPS, b''.join(name + b'\n' for name in listed))
    return counts, not_found


def run(args: argparse.Namespace) -> dict:
    _check(args)
    photographs, found = find_photographs(args.folder, args.out)
    listed = args.out / NOT_FOUND
    with exclusive(output_folder(args.out)):
        prepare_output(args.out, args.overwrite)
        warn_of_others(args.folder, found.others)
        cv2.setNumThreads(1)  # our threads keep the CPUs busy; OpenCV's own would get in their way
        counts, not_found = _align_all(args, photographs)
        atomic_write(listed, ''.join(f'{name}\n' for name in not_found))
    log.info(
        '%s: %d of %d pictures aligned (%d with several faces), %d without a face, %d unreadable',
        args.out,
        counts['found'],
        len(photographs),
        counts['several'],
        len(not_found),
        counts['unreadable'],
    )
    return {
        'images': len(photographs),
        'found': counts['found'],
        'not_found': len(not_found),
        'several': counts['several'],
        'unreadable': counts['unreadable'],
        'other_files': len(found.others),
        'faces': counts['faces'],
        'images_per_second': round(counts['rate'], 1),
        'out': str(args.out),
        'not_found_list': str(listed),
    }


main = console.command('align', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
