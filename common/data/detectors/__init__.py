"""Detectors, which find faces and their five points in pictures, behind one interface.

Every module of this folder is a detector and registers itself when it is imported; a new one is
one new file. A file anywhere else can do the same with `@DETECTORS.register(name)`. None of them
imports what it runs on before it is made.
"""

import importlib
import pkgutil
from pathlib import Path
from typing import ClassVar, NamedTuple

import cv2
import numpy as np

from ...errors import InputError, RunError
from ...registry import Registry, unknown_name

DEFAULT = 'mtcnn'


class Faces(NamedTuple):
    """Faces of one picture, in pixels of it."""

    boxes: np.ndarray  # (N, 4) float64: x, y, width, height
    scores: np.ndarray  # (N,) float64, 0..1
    landmarks: np.ndarray  # (N, 5, 2) float64, x and y in the template's order


def made_smaller(image: np.ndarray, scale: float) -> np.ndarray:
    """A picture (H, W, 3) whose sides are `scale`, 0..1, as long, rounded."""
    width, height = (max(1, round(length * scale)) for length in image.shape[1::-1])
    while image.shape[1] >= 2 * width and image.shape[0] >= 2 * height:
        # halves, and what is left bilinearly, take a quarter of the time of INTER_AREA
        half = [-(-length // 2) for length in image.shape[1::-1]]
        image = cv2.resize(image, half, interpolation=cv2.INTER_AREA)
    return cv2.resize(image, (width, height), interpolation=cv2.INTER_LINEAR)


def no_faces() -> Faces:
    return Faces(np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2)))


class Detector:
    """What finds faces. One object serves one thread at a time.

    Subclasses declare the class attributes and are made with (model, min_size, min_score): the
    model's file, '' without one; the side of the smallest face to look for, in pixels of the
    pictures that `find` gets, and the lowest score of a face that is wanted, which the detector may
    use to do less. They raise InputError for a file that is not of their kind.
    """

    title: ClassVar[str]  # for messages
    smallest: ClassVar[float]  # side of the smallest face that it finds, in pixels
    usual_score: ClassVar[float] = 0.9  # faces below are doubtful, unless the user says otherwise
    side: ClassVar[int]  # longer pictures are made smaller to this before they come to `find`
    # a face so many times as large as the smallest that `find_larger` finds has points as exact as
    # those of `find`; by default none has
    exact_from: ClassVar[float] = np.inf

    def find(self, image: np.ndarray) -> Faces:
        """All faces of a (H, W, 3) uint8 RGB picture of any size, in any order.

        The landmarks are in the order of `warp.TEMPLATE`: eye, eye, nose, corners of the mouth, the
        left one in the picture first; pixel centres have whole numbers.
        """
        raise NotImplementedError

    def find_larger(self, image: np.ndarray, times: float) -> Faces:
        """Those faces of `find` that are at least about `times` (1 or more) as large as min_size,
        for less work; smaller ones may be among them. By default on a picture made smaller."""
        small = made_smaller(image, 1 / times)
        faces = _checked(self, self.find(small))
        scale = np.divide(image.shape[1::-1], small.shape[1::-1])
        return Faces(faces.boxes * np.tile(scale, 2), faces.scores, faces.landmarks * scale)

    def exact_landmarks(self, image: np.ndarray, faces: Faces) -> np.ndarray:
        """Landmarks (N, 5, 2) of those faces of `find` or `find_larger` in a picture that are
        wanted, which may be one of a crowd. By default their own; here is the place for work on
        each face."""
        return faces.landmarks

    def expect_many(self) -> None:
        """Thousands of pictures will come: what is slow to start and faster then pays. By default
        there is no such thing."""

    @classmethod
    def reads(cls, path: Path) -> bool:
        """Whether a file may be a model of this detector; by default it takes none."""
        return False


def found_by(detector: Detector, image: np.ndarray, times: float = 1) -> Faces:
    """The faces of a picture, by a detector's `find` or, for `times` above 1, its `find_larger`.

    Raises RunError for a detector whose answer is not of the shapes that `Faces` tells.
    """
    faces = detector.find(image) if times == 1 else detector.find_larger(image, times)
    return _checked(detector, faces)


def with_exact_landmarks(
    detector: Detector, image: np.ndarray, faces: Faces, which: slice
) -> Faces:
    """The faces of a picture, those in `which` by the detector's `exact_landmarks`; RunError as
    `found_by`."""
    wanted = Faces(*(part[which] for part in faces))
    exact = wanted._replace(landmarks=detector.exact_landmarks(image, wanted))
    landmarks = faces.landmarks.astype(np.float64)
    landmarks[which] = _checked(detector, exact).landmarks
    return faces._replace(landmarks=landmarks)


def _checked(detector: Detector, faces: Faces) -> Faces:
    faces = Faces(*map(np.asarray, faces))
    shapes, count = [part.shape for part in faces], len(faces.boxes)
    if shapes != [(count, 4), (count,), (count, 5, 2)]:
        raise RunError(
            f'detector {detector.title} gave boxes, scores and landmarks of the shapes '
            f'{", ".join(map(str, shapes))}; expected (N, 4), (N,), (N, 5, 2)'
        )
    return faces


DETECTORS: Registry[type[Detector]] = Registry('detector')


def detector_kind(text: str) -> tuple[type[Detector], str]:
    """The detector of a --detector option, and its model file, '' without one.

    Raises InputError for names that nobody knows and files that are not there or of no detector.
    """
    if text in DETECTORS:
        return DETECTORS.get(text), ''
    path = Path(text)
    for kind in DETECTORS.newest_first():
        if kind.reads(path):
            return kind, text
    if path.suffix:
        raise InputError(
            f'detector {text}: expected {", ".join(DETECTORS)}, or the file of a model'
        )
    raise unknown_name('detector', text, DETECTORS)


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'.{_module.name}', __name__)
