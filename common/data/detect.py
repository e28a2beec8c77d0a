"""Faces in photographs, and which of them counts."""

import argparse
import contextlib
import logging
from collections.abc import Sequence
from typing import Any, Callable, Optional

import numpy as np

from ..console import Parser, check_ranges
from ..errors import InputError
from ..files import PathLike
from .coarse_to_fine import DOUBT, Wanted, largest_face, of_faces
from .detectors import (
    DEFAULT,
    DETECTORS,
    Faces,
    detector_kind,
    found_by,
    made_smaller,
    with_exact_landmarks,
)
from .image import decode_rgb, has_crop_size, middle_crop, read_picture
from .warp import TEMPLATE

log = logging.getLogger(__name__)

MIN_FACE = 20  # pixels: the smallest face that is looked for when nobody says
WHICH = ('largest', 'centre', 'all')

CROP_FACE = 36  # smallest face to look for in a 112x112 picture
# Mean distance in pixels: 99 % of LFW's crops stay below 6, and 97 % of its photographs, whole or
# cut to the face, are beyond 10.
_OFF_TEMPLATE = 8.0
_LOOKED_AT = 32  # pictures, to tell whether a set is aligned
_TOLERATED = 0.2  # share of them that may look otherwise


class FaceDetector:
    """A detector of `detectors/` for photographs of any size. One object serves one thread at a
    time.

    Parameters
    ----------
    min_size : side of the smallest face to look for, in pixels of the picture that is looked at: a
        photograph with a side longer than the detector's `side` is made smaller to it
    min_score : faces below are left out, 0..1; by default as the detector has it
    detector : a name of DETECTORS, or the file of a model that one of them reads
    many : whether so many pictures will come that a slower start pays

    Raises
    ------
    InputError for a detector or a file that nobody knows, and a size that it cannot find.
    """

    def __init__(
        self,
        min_size: int = MIN_FACE,
        min_score: Optional[float] = None,
        detector: str = DEFAULT,
        many: bool = False,
    ):
        kind, model = detector_kind(detector)
        if min_size < kind.smallest:
            raise InputError(
                f'--min-face {min_size}: {kind.title} finds faces from {kind.smallest} pixels on'
            )
        self.name = detector
        self._side, self._min_size = kind.side, min_size
        self._min_score = kind.usual_score if min_score is None else min_score
        self._detector = kind(model, min_size, DOUBT * self._min_score)
        if many:
            self._detector.expect_many()

    def detect(self, image: np.ndarray) -> Faces:
        """Find all faces in a (H, W, 3) uint8 RGB picture, largest first.

        Raises RunError for a detector whose answer is not of the shapes that `Faces` tells.
        """
        return self.wanted(image, 'all').faces

    def wanted(self, image: np.ndarray, which: str, exact: slice = slice(None)) -> Wanted:
        """The wanted faces of a (H, W, 3) uint8 RGB picture.

        `which` is 'largest', 'centre' (nearest to the picture's middle, as in LFW) or 'all', the
        largest first. Of these the largest takes the least time: see `largest_face`. The landmarks
        of those in `exact` alone are to be used. Raises RunError as `detect`.
        """
        small, scale = within_side(image, self._side)
        if which == 'largest':
            faces, count = largest_face(self._detector, small, self._min_size, self._min_score)
        else:
            faces = self._all(small)
            count = len(faces.scores)
        if which == 'centre' and count:
            middle = scale * np.array(image.shape[1::-1]) / 2
            offsets = faces.boxes[:, :2] + faces.boxes[:, 2:] / 2 - middle
            faces = of_faces(faces, [int((offsets**2).sum(axis=1).argmin())])
        faces = with_exact_landmarks(self._detector, small, faces, exact)
        return Wanted(_enlarged(faces, scale), count)

    def _all(self, image: np.ndarray) -> Faces:
        """Those of a picture that count, largest first."""
        found = found_by(self._detector, image)
        order = np.argsort(-found.boxes[:, 2:].prod(axis=1), kind='stable')
        return of_faces(found, order[found.scores[order] >= self._min_score])


def _enlarged(faces: Faces, scale: float) -> Faces:
    """The faces of a picture, found in it made smaller by `scale`."""
    return Faces(faces.boxes / scale, faces.scores, faces.landmarks / scale)


def within_side(image: np.ndarray, side: int) -> tuple[np.ndarray, float]:
    """A picture made smaller so that no side of it is longer than `side`, and by how much, 0..1."""
    scale = min(1, side / max(image.shape[:2]))
    if scale < 1:
        image = made_smaller(image, scale)
    return image, scale


def add_detector_options(parser: Parser) -> None:
    """Add --detector and --min-face."""
    parser.add_argument(
        '--detector',
        default=DEFAULT,
        metavar='NAME|FILE.onnx',
        help=f'what finds faces: {", ".join(DETECTORS)}, or the file of a YuNet, which is faster',
    )
    parser.add_argument(
        '--min-face',
        '--min-size',
        type=int,
        default=MIN_FACE,
        help='side of the smallest face to look for, in pixels; larger is faster',
    )


def detector_from(args: argparse.Namespace, min_score: Optional[float] = None) -> FaceDetector:
    """The detector for the many pictures of a command, by `add_detector_options`; InputError as
    FaceDetector."""
    check_ranges([('--min-face', args.min_face, 1, 10_000)])
    return FaceDetector(args.min_face, min_score, args.detector, many=True)


def template_distance(crop: np.ndarray, detector: FaceDetector) -> Optional[float]:
    """How far the face of a crop lies from the template: mean distance of the five points.

    Parameters
    ----------
    crop : (112, 112, 3) uint8 RGB
    detector : one of small faces

    Returns
    -------
    pixels; None where no face is found, which says nothing
    """
    faces = detector.wanted(crop, 'centre').faces
    if not len(faces.scores):
        return None
    return float(np.linalg.norm(faces.landmarks[0] - TEMPLATE, axis=1).mean())


def is_aligned_crop(image: np.ndarray, detector: FaceDetector) -> bool:
    """Whether a picture is taken for an aligned crop: 112x112, and its face lies on the template.

    One in which no face is found is taken for one: crops with faces hard to see are common,
    photographs of this size are not.
    """
    if not has_crop_size(image):
        return False
    distance = template_distance(image, detector)
    return distance is None or distance <= _OFF_TEMPLATE


def looks_aligned(encoded: bytes, detector: FaceDetector) -> Optional[bool]:
    """Whether a picture file is an aligned crop; None if that cannot be told.

    A picture of another size in which no face is found once it is 112x112 is none: its face is
    small. A crop without a face may be one that is hard to see.

    Raises InputError as in `decode_rgb`.
    """
    image = decode_rgb(encoded)
    crop = middle_crop(image)
    distance = template_distance(crop, detector)
    if distance is None:
        return None if crop.shape == image.shape else False
    return distance <= _OFF_TEMPLATE


def warn_if_unaligned(
    source: PathLike, pictures: Sequence, read: Callable[[Any], bytes] = read_picture
) -> int:
    """Warn if pictures that are taken for aligned crops are none; how many of those looked at.

    A few spread over `pictures` are looked at; broken ones are somebody else's business.

    Parameters
    ----------
    source : where they come from, for the message
    pictures : by default paths
    read : one of them -> the encoded picture
    """
    detector = FaceDetector(CROP_FACE)
    aligned = []
    for index in np.unique(np.linspace(0, len(pictures) - 1, _LOOKED_AT).astype(int)):
        with contextlib.suppress(InputError):
            aligned.append(looks_aligned(read(pictures[index]), detector))
    told = [answer for answer in aligned if answer is not None]
    wrong = told.count(False)
    if wrong > _TOLERATED * len(told):
        log.warning(
            '%s: %d of %d pictures looked at are no aligned crops but photographs, or aligned in '
            'another way; a network sees too little of such faces. Make crops with `vargfacenet '
            'align`',
            source,
            wrong,
            len(told),
        )
    return wrong
