"""Small changes of place and colour, for data sets of a few thousand pictures."""

import cv2
import numpy as np

from .augmentation import augmentation
from .colour import exposed, saturation_matrix

_SHIFT_PIXELS = 6.0
_SCALE = 0.06
_ROTATION_RAD = 0.1
_BRIGHTNESS = 25.0  # grey levels
_CONTRAST = 0.2
_SATURATION = 0.4
_GREY_PROBABILITY = 0.1


def shake_matrix(
    draws: np.ndarray,
    mirrored: bool,
    size: int,
    shift: float = _SHIFT_PIXELS,
    scale: float = _SCALE,
    rotation: float = _ROTATION_RAD,
) -> np.ndarray:
    """Float64 (2, 3) from crop to shaken crop: mirror, then rotate and scale about the centre,
    then shift; `draws` are four uniform numbers (x, y, scale, angle), the others the limits."""
    shift_x, shift_y, scale_by, angle = 2 * draws - 1  # -1..1
    centre = (size - 1) / 2
    factor, angle = 1 + scale * scale_by, rotation * angle
    cosine, sine = factor * np.cos(angle), factor * np.sin(angle)
    linear = np.array([[cosine, sine], [-sine, cosine]])
    if mirrored:
        linear[:, 0] *= -1  # about the centre, where mirroring is a change of sign
    offset = np.array([shift_x, shift_y]) * shift + centre - linear @ (centre, centre)
    return np.column_stack([linear, offset])


def warped(bgr: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """A crop through a float64 (2, 3) from crop to result, the border reflected."""
    return cv2.warpAffine(
        bgr,
        matrix,
        bgr.shape[1::-1],
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )


def colour_matrix(draws: np.ndarray) -> np.ndarray:
    """Float64 (3, 4) on (b, g, r, 1): saturation or grey, then contrast, then brightness; `draws`
    are four uniform numbers (brightness, contrast, saturation, grey)."""
    brightness, contrast, saturation = 2 * draws[:3] - 1  # -1..1
    keep = 0.0 if draws[3] < _GREY_PROBABILITY else 1 + _SATURATION * saturation
    return exposed(saturation_matrix(keep), 1 + _CONTRAST * contrast, _BRIGHTNESS * brightness)


@augmentation('mild')
def mild(bgr: np.ndarray, mirrored: bool, draws: np.ndarray) -> np.ndarray:
    """Shift up to 6 pixels, scale 6%, rotate 0.1 rad (border reflected), and change brightness,
    contrast and saturation a little; one crop in ten becomes grey."""
    shaken = warped(bgr, shake_matrix(draws[:4], mirrored, bgr.shape[0]))
    return cv2.transform(shaken, colour_matrix(draws[4:8]))
