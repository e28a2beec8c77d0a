"""Matrices on colours (b, g, r), for `cv2.transform`."""

import numpy as np

_MIDDLE_GREY = 127.5
_LUMA_BGR = (0.114, 0.587, 0.299)  # ITU-R BT.601
# NTSC's luma and the plane of colours, in which hue is an angle; rows Y, I, Q, columns b, g, r
_YIQ = np.array([_LUMA_BGR, (-0.322, -0.274, 0.596), (0.312, -0.523, 0.211)])


def saturation_matrix(keep: float) -> np.ndarray:
    """Float64 (3, 3): `keep` 1 changes nothing, 0 makes grey, above 1 makes colours stronger."""
    return keep * np.eye(3) + (1 - keep) * np.tile(_LUMA_BGR, (3, 1))


def hue_matrix(angle: float) -> np.ndarray:
    """Float64 (3, 3) that turns hues by `angle`, in radians; grey and luma stay."""
    cosine, sine = np.cos(angle), np.sin(angle)
    turn = np.array([[1, 0, 0], [0, cosine, -sine], [0, sine, cosine]])
    return np.linalg.solve(_YIQ, turn @ _YIQ)


def exposed(linear: np.ndarray, gain: float, brightness: float) -> np.ndarray:
    """Float64 (3, 4) on (b, g, r, 1): `linear`, then contrast `gain` about middle grey, then
    `brightness` in grey levels."""
    offset = np.full(3, (1 - gain) * _MIDDLE_GREY + brightness)
    return np.column_stack([gain * linear, offset])
