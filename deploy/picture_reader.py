"""Pictures read and their faces found, on several threads, for what embeds many of them."""

import argparse
import threading
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..common.data.image import check_crop
from ..common.errors import InputError
from ..common.names import IMAGE_SIZE
from .embedder import FaceFinder, Photo, cut_out, read_photo
from .faces import Look, turned_back, turned_until_found

NOTHING = np.empty((0, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)


class Found(NamedTuple):
    """The faces of one picture; none where there is no face, and `error` says why."""

    path: Path
    crops: np.ndarray = NOTHING  # (n, 112, 112, 3) uint8 RGB
    boxes: np.ndarray = np.empty((0, 4))
    scores: np.ndarray = np.empty(0)
    count: int = 0  # as of detect.Wanted
    error: str = ''
    turned: bool = False  # to find the face; the boxes are those of the picture as it came
    broken: bool = False  # no picture at all, or none of the kind that was asked for


class PictureReader:
    """Reads pictures and finds their faces, from several threads, each with its own detector.

    Parameters
    ----------
    args : with `faces`, `detector`, `min_face`, `which` and `skip_broken`
    """

    def __init__(self, args: argparse.Namespace):
        self._args = args
        self._threads = threading.local()

    def _finder(self) -> FaceFinder:
        if not hasattr(self._threads, 'finder'):
            self._threads.finder = FaceFinder(self._args.min_face, self._args.detector, True)
        return self._threads.finder

    def _is_crop(self, name: str, image: np.ndarray) -> bool:
        if self._args.faces != 'crop':
            return self._args.faces == 'auto' and self._finder().is_crop(image)
        check_crop(image, name)
        return True

    def __call__(self, path: Path) -> Found:
        """The faces of a picture, which is turned where none is found, as in `faces.find_face`."""
        return self.find(path, str(path), turn=True)

    def find(self, photo: Photo, name: str, turn: bool = False) -> Found:
        """The faces of a picture that messages call `name`.

        With `turn` it is turned by 90 degrees and more where none is found: not for the frames of
        videos, many of which show none, and which a player shows upright.

        Raises InputError for one that is broken, unless `skip_broken`.
        """
        path = Path(name)
        try:
            image = read_photo(photo)
            is_crop = self._is_crop(name, image)
        except InputError as error:
            if not self._args.skip_broken:
                raise InputError(f'{error}; --skip-broken leaves such pictures out') from None
            return Found(path, error=str(error), broken=True)
        if is_crop:
            whole = np.array([[0.0, 0, IMAGE_SIZE, IMAGE_SIZE]])
            return Found(path, image[None], whole, np.ones(1), 1)
        look = self._look(image, turn)
        if look is None:
            return Found(path, error=f'{path}: no face found')
        height, width = image.shape[:2]
        boxes = turned_back(look.found.boxes, look.turns, width, height)
        crops = cut_out(look.image, look.found.landmarks)
        return Found(path, crops, boxes, look.found.scores, look.count, turned=look.turns > 0)

    def _look(self, image: np.ndarray, turn: bool) -> Optional[Look]:
        """The faces that are asked for; None where there are none."""
        if turn:
            return turned_until_found(self._finder(), image, self._args.which)
        found, count = self._finder().wanted(image, self._args.which)
        return Look(image, found, count) if count else None
