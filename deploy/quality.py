"""How far a face can be trusted: size, sharpness, pose, detector score and embedding length.

Each measure becomes a share 0..1 by a ramp between a value at which faces are useless and one from
which on they are as good as any; the score is the smallest share, since a face is no better than
its worst fault, and what is low is named. Where a measure is missing (the landmarks of a crop that
was brought, the usual length of a model without measured faces) the others decide.
"""

import math
from typing import NamedTuple, Optional

import cv2
import numpy as np

from ..common.data.warp import TEMPLATE

ENROL = 0.3  # score from which on a face is taken into a gallery
_LOW = 0.5  # shares below are named

# measure -> (useless, good): the ramp's ends. A size is the distance of the eyes in pixels, of
# which the template has 35: a smaller face is made larger, and nothing is gained.
_RAMPS = {
    'size': (8.0, 30.0),
    'blur': (0.85, 0.55),
    'yaw': (75.0, 35.0),
    'pitch': (60.0, 30.0),
    'detector': (0.8, 0.97),
    'norm': (0.4, 0.8),
}
_ADVICE = {
    'size': 'the face is small (eyes {:.0f} pixels apart); take a larger picture',
    'blur': 'the face is blurred ({:.2f} of 1); take a sharper picture',
    'yaw': 'the head is turned sideways by about {:.0f} degrees; take one from the front',
    'pitch': 'the head is raised or lowered by about {:.0f} degrees; take one from the front',
    'detector': 'it is not sure that this is a face (detector score {:.2f}); take a clearer one',
    'norm': 'the model sees little of a face here (embedding of {:.2f} times the usual length)',
}

# A mean head in units of the distance between the eyes, x to its left (the picture's right), y down
# and z to the viewer: the template's points, with depths of an average adult (Farkas 1994: the nose
# tip stands out by about 0.45 of that distance before the eyes, the corners of the mouth by 0.1).
_DEPTHS = np.array([0.0, 0.0, 0.45, 0.1, 0.1])
_BLUR_TAPS = 9


class Quality(NamedTuple):
    """A face's quality, and what lowers it."""

    score: float  # 0..1, the smallest of the shares
    reasons: tuple[str, ...]  # what is wrong and what to do, the worst first
    measures: dict[str, float]  # by name, as measured


def ramp(value: float, useless: float, good: float) -> float:
    """0 at `useless` and beyond, 1 at `good` and beyond, straight between; either may be larger."""
    return float(np.clip((value - useless) / (good - useless), 0, 1))


def blur(crop: np.ndarray) -> float:
    """How blurred a picture is, 0 (sharp) .. 1, whatever its contrast.

    The share of the differences between neighbours that a further blur leaves, the larger of both
    directions (Crete, Dolmiere, Ladret and Nicolas 2007): what is blurred already loses little.

    Parameters
    ----------
    crop : (H, W, 3) uint8 RGB
    """
    grey = cv2.cvtColor(crop, cv2.COLOR_RGB2GRAY).astype(np.float64)
    shares = []
    for axis in (0, 1):
        taps = (1, _BLUR_TAPS) if axis else (_BLUR_TAPS, 1)
        blurred = cv2.blur(grey, taps[::-1])
        before = np.abs(np.diff(grey, axis=axis))
        after = np.abs(np.diff(blurred, axis=axis))
        lost = np.maximum(before - after, 0).sum()
        total = before.sum()
        shares.append(1 - lost / total if total else 1.0)
    return float(max(shares))


def head_pose(landmarks: np.ndarray) -> tuple[float, float]:
    """(yaw, pitch) of a head in degrees, by its five points; 0, 0 as on the template.

    The mean head is fitted in scaled orthographic projection (DeMenthon and Davis 1995, the first
    step of POSIT). Positive: turned to the picture's right, and lowered.

    Parameters
    ----------
    landmarks : (5, 2) pixels, in the template's order; the roll does not matter
    """
    points = np.asarray(landmarks, np.float64)
    across, down = points[1] - points[0]
    roll = math.atan2(down, across)  # the line between the eyes
    back = [[math.cos(roll), math.sin(roll)], [-math.sin(roll), math.cos(roll)]]
    points = points @ np.array(back).T
    eyes = np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])
    head = np.column_stack([TEMPLATE / eyes, _DEPTHS])
    head, points = head - head.mean(axis=0), points - points.mean(axis=0)
    rows = np.linalg.lstsq(head, points, rcond=None)[0].T
    # of the nearest rotation (times a scale) to the two rows of the camera
    left, _, right = np.linalg.svd(rows, full_matrices=False)
    x, y = left @ right
    forward = np.cross(x, y)  # the head's direction of view in the camera's axes is column z
    yaw = math.degrees(math.atan2(x[2], forward[2]))
    pitch = math.degrees(math.atan2(y[2], forward[2]))
    return yaw, pitch


def assess(
    crop: np.ndarray,
    landmarks: Optional[np.ndarray] = None,
    detector: Optional[float] = None,
    norm: Optional[float] = None,
) -> Quality:
    """The quality of a face.

    Parameters
    ----------
    crop : (112, 112, 3) uint8 RGB, aligned
    landmarks : (5, 2) in pixels of the photograph; None for a crop that was brought
    detector : its score, 0..1
    norm : length of the embedding divided by the model's usual one
    """
    measures = {'blur': blur(crop)}
    if landmarks is not None:
        measures['size'] = float(np.linalg.norm(landmarks[1] - landmarks[0]))
        measures['yaw'], measures['pitch'] = head_pose(landmarks)
    if detector is not None:
        measures['detector'] = detector
    if norm is not None:
        measures['norm'] = norm
    shares = {name: ramp(abs(value), *_RAMPS[name]) for name, value in measures.items()}
    low = sorted((share, name) for name, share in shares.items() if share < _LOW)
    reasons = tuple(_ADVICE[name].format(abs(measures[name])) for _, name in low)
    return Quality(min(shares.values()), reasons, measures)
