"""The largest face of a picture, looked for on a coarse one first.

Where a large face is seen there, no smaller one can be the largest, and the search for small faces,
which takes most of the work, is left out. What cannot be told so is searched completely.
"""

from typing import NamedTuple, Optional

import numpy as np

from .detectors import Detector, Faces, found_by, no_faces

BESIDE = 0.5  # of the side of the largest face: a face from there on counts beside it
DOUBT = 2 / 3  # of the score of a face that counts: what has less is none

# times the smallest face that a coarse look finds is the picture's longer side; one look, since a
# second one between it and the complete search costs MTCNN half of that
_LOOK = 9.6
_WORTH = 2  # times the smallest face of all is that of a look: less would save nothing
_SEEN = 2.5  # times the smallest face of a look: from there on it finds those beside as well
_ALIKE = 0.85  # of the side of the largest face: what has more may be larger, looked at closely
_AROUND = 0.75  # of its side, from its middle on, is looked at of a face that is seen again
# times the smallest face that is looked for is a face seen again: large enough for exact points
_SHARP = 8
_GRID = 4  # pixels, to a multiple of which a cut is rounded
_SAME = 0.4  # of the union of two boxes that they share, of one face


class Wanted(NamedTuple):
    """The wanted faces of a picture, and how many it shows: where the largest alone is wanted, of
    those with a side of at least BESIDE of its own, itself included."""

    faces: Faces
    count: int


def largest_face(
    detector: Detector, image: np.ndarray, min_size: float, min_score: float
) -> Wanted:
    """The face that `largest_of` takes of all faces, for less work where it is large.

    Parameters
    ----------
    detector : made for faces from min_size on with scores from DOUBT * min_score on
    image : (H, W, 3) uint8 RGB, no longer than the detector's `side`
    min_size : side of the smallest face to look for, in pixels of the picture
    min_score : the lowest score of a face that counts
    """
    times = max(image.shape[:2]) / (_LOOK * min_size)
    if times >= _WORTH:
        found = _settled(found_by(detector, image, times), times * min_size, min_score)
        if found and sides(found.faces)[0] < detector.exact_from * times * min_size:
            again = _seen_again(detector, image, found.faces.boxes[0], min_size, min_score)
            found = Wanted(again, found.count) if again else None
        if found:
            return found
    return largest_of(found_by(detector, image), min_score)


def largest_of(faces: Faces, min_score: float) -> Wanted:
    """The largest of all faces of a picture whose scores are high enough."""
    faces = of_faces(faces, np.flatnonzero(faces.scores >= min_score))
    if not len(faces.scores):
        return Wanted(no_faces(), 0)
    all_sides = sides(faces)
    beside = all_sides >= BESIDE * all_sides.max()
    return Wanted(of_faces(faces, [int(all_sides.argmax())]), int(beside.sum()))


def sides(faces: Faces) -> np.ndarray:
    """(N,) sides of squares as large as the faces' boxes."""
    return np.sqrt(faces.boxes[:, 2:].clip(min=0).prod(axis=1))


def of_faces(faces: Faces, numbers) -> Faces:
    """Some of the faces, by their numbers."""
    return Faces(*(part[numbers] for part in faces))


def _settled(faces: Faces, smallest: float, min_score: float) -> Optional[Wanted]:
    """The largest of the faces that are found from a side of `smallest` on; None where a complete
    search may take another one."""
    found = largest_of(faces, min_score)
    if not found.count:
        return None
    side = sides(found.faces)[0]
    alike = (sides(faces) >= _ALIKE * side).sum()  # the doubtful ones as well
    return found if side >= _SEEN * smallest and alike == 1 else None


def _seen_again(
    detector: Detector, image: np.ndarray, box: np.ndarray, min_size: float, min_score: float
) -> Optional[Faces]:
    """The face of a box as the detector finds it in the picture around it; None if it does not."""
    side = np.sqrt(box[2:].prod())
    middle = box[:2] + box[2:] / 2
    # a cut that can be halved some times is made smaller faster
    low, high = (middle - _AROUND * side) / _GRID, (middle + _AROUND * side) / _GRID
    left, top = _GRID * np.floor(low).clip(min=0).astype(int)
    right, bottom = _GRID * np.ceil(high).clip(min=0).astype(int)
    cut = image[top:bottom, left:right]
    if not cut.size:
        return None
    faces = found_by(detector, cut, max(1.0, side / (_SHARP * min_size)))
    corner = np.array([left, top, 0, 0])
    faces = Faces(faces.boxes + corner, faces.scores, faces.landmarks + corner[:2])
    shared = _shared(faces.boxes, box) * (faces.scores >= min_score)
    if shared.max(initial=0) < _SAME:
        return None
    return of_faces(faces, [int(shared.argmax())])


def _shared(boxes: np.ndarray, box: np.ndarray) -> np.ndarray:
    """(N,) intersections over unions of boxes (N, 4) with one."""
    low = np.maximum(boxes[:, :2], box[:2])
    high = np.minimum(boxes[:, :2] + boxes[:, 2:], box[:2] + box[2:])
    both = (high - low).clip(min=0).prod(axis=1)
    return both / (boxes[:, 2:].prod(axis=1) + box[2:].prod() - both)
