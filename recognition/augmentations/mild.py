"""Small changes of place and colour, for data sets of a few thousand pictures."""

import cv2
import numpy as np

from .augmentation import augmentation

_SHIFT_PIXELS = 6.0
_SCALE = 0.06
_ROTATION_RAD = 0.1
_BRIGHTNESS = 25.0  # grey levels
_CONTRAST = 0.2
_SATURATION = 0.4
_GREY_PROBABILITY = 0.1

_MIDDLE_GREY = 127.5
_LUMA_BGR = (0.114, 0.587, 0.299)  # ITU-R BT.601


def shake_matrix(draws: np.ndarray, mirrored: bool, size: int) -> np.ndarray:
    """Float64 (2, 3) from crop to shaken crop: mirror, then rotate and scale about the centre,
    then shift; `draws` are four uniform numbers (x, y, scale, angle)."""
    shift_x, shift_y, scale, angle = 2 * draws - 1  # -1..1
    centre = (size - 1) / 2
    scale, angle = 1 + _SCALE * scale, _ROTATION_RAD * angle
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    linear = np.array([[cosine, sine], [-sine, cosine]])
    if mirrored:
        linear[:, 0] *= -1  # about the centre, where mirroring is a change of sign
    offset = np.array([shift_x, shift_y]) * _SHIFT_PIXELS + centre - linear @ (centre, centre)
    return np.column_stack([linear, offset])


def colour_matrix(draws: np.ndarray) -> np.ndarray:
    """Float64 (3, 4) on (b, g, r, 1): saturation or grey, then contrast, then brightness; `draws`
    are four uniform numbers (brightness, contrast, saturation, grey)."""
    brightness, contrast, saturation = 2 * draws[:3] - 1  # -1..1
    keep = 0.0 if draws[3] < _GREY_PROBABILITY else 1 + _SATURATION * saturation
    gain = 1 + _CONTRAST * contrast
    linear = gain * (keep * np.eye(3) + (1 - keep) * np.tile(_LUMA_BGR, (3, 1)))
    offset = np.full(3, (1 - gain) * _MIDDLE_GREY + _BRIGHTNESS * brightness)
    return np.column_stack([linear, offset])


@augmentation('mild')
def mild(bgr: np.ndarray, mirrored: bool, draws: np.ndarray) -> np.ndarray:
    """Shift up to 6 pixels, scale 6%, rotate 0.1 rad (border reflected), and change brightness,
    contrast and saturation a little; one crop in ten becomes grey."""
    size = bgr.shape[0]
    shaken = cv2.warpAffine(
        bgr,
        shake_matrix(draws[:4], mirrored, size),
        (size, size),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT_101,
    )
    return cv2.transform(shaken, colour_matrix(draws[4:8]))
