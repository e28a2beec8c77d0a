"""The face of a picture that counts: found, turned upright, embedded and judged."""

import logging
from typing import NamedTuple, Optional

import cv2
import numpy as np

from ..common.console import Parser
from ..common.data import detect
from ..common.data.image import check_crop
from ..common.data.warp import crop
from ..common.errors import InputError
from .embedder import FaceEmbedder, FaceFinder, read_photo, unit_length
from .quality import Quality, assess, blur

log = logging.getLogger(__name__)

FACES = ('auto', 'crop', 'detect')
LARGEST = slice(1)

_TINY = 40  # pixels of a side, below which no face can be expected
_DARK, _BRIGHT, _FLAT = 30.0, 225.0, 8.0  # mean and deviation of grey values 0..255
_UNSHARP = 0.85  # of `blur`; beyond, faces are seldom found
_LOOKED_AT = 400  # pixels of the longer side to tell it
_TURNS = {
    0: None,
    1: cv2.ROTATE_90_COUNTERCLOCKWISE,
    3: cv2.ROTATE_90_CLOCKWISE,
    2: cv2.ROTATE_180,
}  # by 90 degrees against the clock, as np.rot90, which takes 30 times as long
_ADVICE = 'no face found; take a photograph'


class Face(NamedTuple):
    """The face of a picture that counts."""

    embedding: np.ndarray  # (D,) float32, unit length
    crop: np.ndarray  # (112, 112, 3) uint8 RGB
    quality: Quality
    turned: int  # degrees by which the picture was turned, against the clock, to find it
    detected: bool  # False for an aligned crop, taken as it is
    index: int = 0  # among those of the picture, the largest first

    def summary(self) -> dict:
        """What commands and the page say of it."""
        return {
            'detected': self.detected,
            'turned': self.turned,
            'quality': round(self.quality.score, 3),
            'reasons': list(self.quality.reasons),
        }


class Largest(NamedTuple):
    """The largest face of a picture, where others do not count."""

    face: Face
    large_faces: int  # of the picture, with half of the largest one's side or more

    def summary(self) -> dict:
        """What commands say of it."""
        return {'large_faces': self.large_faces, **self.face.summary()}


class Group(NamedTuple):
    """What is found in a picture: where all faces are, and those that were looked at."""

    boxes: np.ndarray  # (n, 4) float64: x, y, width, height in pixels of the picture as it came
    scores: np.ndarray  # (n,) float64, 0..1; largest face first
    faces: list[Face]


class NoFace(InputError):
    """A picture in which no face is found; the message says why, as far as can be seen."""


def cosine_of(first: Face, second: Face) -> float:
    """The cosine of two faces, -1..1: rounding, which may take it beyond, is cut off."""
    product = np.dot(first.embedding.astype(np.float64), second.embedding)
    return float(np.clip(product, -1, 1))


def add_faces_option(parser: Parser) -> None:
    """Add --faces, --detector and --min-face."""
    parser.add_argument(
        '--faces',
        choices=FACES,
        default='auto',
        help='crop: pictures are aligned crops; detect: find the face in all; auto: tell a 112x112 '
        'crop by its face, which lies on the template',
    )
    detect.add_detector_options(parser)


def find_face(embedder: FaceEmbedder, image: np.ndarray, faces: str = 'auto') -> Largest:
    """The largest face of a picture.

    Parameters
    ----------
    embedder : of the model
    image : (H, W, 3) uint8 RGB; where no face is found it is turned by 90, 270 and 180 degrees
    faces : 'crop': the picture is an aligned crop; 'detect': find the face; 'auto': take a 112x112
        picture whose face lies on the template for a crop

    Raises
    ------
    NoFace if there is none; InputError for another size if it must be a crop.
    """
    look = _look(embedder, image, faces, 'largest')
    return Largest(_judged(embedder, look, 0), look.count)


def find_group(embedder: FaceEmbedder, image: np.ndarray, faces: str, which: slice) -> Group:
    """All faces of a picture, and those in `which` (of the largest first) embedded and judged.

    Otherwise as `find_face`. The box of an aligned crop is the whole picture.
    """
    height, width = image.shape[:2]
    look = _look(embedder, image, faces, 'all', which)
    boxes, scores = np.array([[0, 0, width, height]], np.float64), np.ones(1)
    if look.found is not None:
        boxes, scores = turned_back(look.found.boxes, look.turns, width, height), look.found.scores
    judged = [_judged(embedder, look, index) for index in range(len(boxes))[which]]
    return Group(boxes, scores, judged)


class Look(NamedTuple):
    """A picture as its faces stand upright."""

    image: np.ndarray
    found: Optional[detect.Faces] = None  # in it, the largest first; None of an aligned crop
    count: int = 1  # as in Wanted
    turns: int = 0  # by 90 degrees against the clock, from the picture as it came


def _look(
    embedder: FaceEmbedder,
    image: np.ndarray,
    faces: str,
    wanted: str,
    exact: slice = slice(None),
) -> Look:
    """As `turned_until_found`, of an aligned crop as well; raises as `find_face`."""
    if faces == 'crop':
        check_crop(image)
    if faces == 'crop' or (faces == 'auto' and embedder.finder.is_crop(image)):
        return Look(image)
    look = turned_until_found(embedder.finder, image, wanted, exact)
    if look is None:
        raise NoFace(_why_no_face(embedder, image))
    return look


def turned_until_found(
    finder: FaceFinder, image: np.ndarray, wanted: str, exact: slice = slice(None)
) -> Optional[Look]:
    """The faces that are `wanted`, as of `FaceFinder.wanted`, in the first turn of a picture that
    shows one: as it came, by 90, 270 and 180 degrees; None if none does."""
    for turns, how in _TURNS.items():
        upright = image if how is None else cv2.rotate(image, how)
        found, count = finder.wanted(upright, wanted, exact)
        if count:
            return Look(upright, found, count, turns)
    return None


def turned_back(boxes: np.ndarray, turns: int, width: int, height: int) -> np.ndarray:
    """Boxes of a picture turned by np.rot90, in pixels of the picture before.

    Parameters
    ----------
    boxes : (n, 4): x, y, width, height in the turned picture
    turns : by 90 degrees, against the clock, 0..3
    width, height : of the picture before
    """
    x, y, wide, high = np.asarray(boxes, np.float64).reshape(-1, 4).T
    placed = (
        (x, y, wide, high),
        (width - y - high, x, high, wide),
        (width - x - wide, height - y - high, wide, high),
        (y, height - x - wide, high, wide),
    )[turns]
    return np.stack(placed, axis=1)


def face_of(embedder: FaceEmbedder, path: str, faces: str = 'auto') -> Largest:
    """The largest face of a picture file; InputError, naming it, as in `find_face`."""
    image = read_photo(path)
    try:
        face, large_faces = found = find_face(embedder, image, faces)
    except InputError as error:
        raise type(error)(f'{path}: {error}') from None
    if large_faces > 1:
        log.warning(
            "%s: %d faces (of half of the largest one's side or more); the largest counts",
            path,
            large_faces,
        )
    if face.turned:
        log.warning(
            '%s: the face was found with the picture turned by %d degrees', path, face.turned
        )
    for reason in face.quality.reasons:
        log.warning('%s: quality %.2f: %s', path, face.quality.score, reason)
    return found


def _judged(embedder: FaceEmbedder, look: Look, index: int) -> Face:
    """One of the faces of a picture."""
    cut, landmarks, score = look.image, None, None
    if look.found is not None:
        landmarks, score = look.found.landmarks[index], float(look.found.scores[index])
        cut = crop(look.image, landmarks)
    raw = embedder.raw(cut[None])
    usual = usual_norm(embedder)
    length = None if usual is None else float(np.linalg.norm(raw[0])) / usual
    quality = assess(cut, landmarks, score, length)
    embedding = unit_length(raw, embedder.model)[0]
    detected = look.found is not None
    return Face(embedding, cut, quality, 90 * look.turns, detected, index)


def usual_norm(embedder: FaceEmbedder) -> Optional[float]:
    """The median length of the model's embeddings as export.json has it; None if it tells none."""
    if embedder.record.get('output', {}).get('unit_length'):
        return None
    lengths = [row.get('norm') for row in embedder.record.get('verification', ())]
    known = [length for length in lengths if isinstance(length, (int, float)) and length > 0]
    return float(known[0]) if known else None


def _why_no_face(embedder: FaceEmbedder, image: np.ndarray) -> str:
    """What is wrong with a picture in which no face was found, and what to do."""
    height, width = image.shape[:2]
    if min(height, width) < _TINY:
        return f'{_ADVICE} of more pixels than {width}x{height}'
    scale = _LOOKED_AT / max(height, width)  # a large photograph is soft from pixel to pixel
    small = image
    if scale < 1:
        small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    grey = small.mean(axis=2)
    if grey.std() < _FLAT:
        return f'{_ADVICE} that shows one: this is of one tone'
    if grey.mean() < _DARK:
        return f'{_ADVICE} with more light: this is nearly black'
    if grey.mean() > _BRIGHT:
        return f'{_ADVICE} with less light: this is nearly white'
    unsure = embedder.finder.candidates(image)
    if len(unsure.scores):
        side, score = min(unsure.boxes[0, 2:]), unsure.scores[0]
        return (
            f'{_ADVICE} where it is larger and seen from the front: something of {side:.0f} pixels '
            f'may be one (score {score:.2f}), too small, covered or turned away'
        )
    if blur(small) > _UNSHARP:
        return f'{_ADVICE} that is sharper: this is blurred'
    return f'{_ADVICE} where it is larger and seen from the front: turning this one does not help'
