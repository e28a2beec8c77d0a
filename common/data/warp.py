"""The ArcFace five-point template and the warp of a face onto it."""

import cv2
import numpy as np

from ..errors import InputError
from ..names import IMAGE_SIZE

# left eye, right eye, nose tip, left and right mouth corner, as seen in the picture (ArcFace)
TEMPLATE = np.array(
    [
        (38.2946, 51.6963),
        (73.5318, 51.5014),
        (56.0252, 71.7366),
        (41.5493, 92.3655),
        (70.7299, 92.2041),
    ]
)


def estimate_similarity(landmarks: np.ndarray) -> np.ndarray:
    """Least-squares similarity transform from landmarks to the template (Umeyama 1991, Eq. 40-43).

    Parameters
    ----------
    landmarks : (5, 2), x and y in pixels, in the order of TEMPLATE

    Returns
    -------
    (2, 3) float64: template = matrix[:, :2] @ point + matrix[:, 2]; never a reflection

    Raises
    ------
    InputError for another shape, numbers that are not finite, or five equal points.
    """
    points = np.asarray(landmarks, np.float64)
    if points.shape != TEMPLATE.shape or not np.isfinite(points).all():
        raise InputError(f'landmarks {points.tolist()}: expected five points (x, y)')
    mean, target_mean = points.mean(axis=0), TEMPLATE.mean(axis=0)
    centred, target = points - mean, TEMPLATE - target_mean
    spread = (centred**2).sum()
    if spread == 0:
        raise InputError(f'landmarks {points.tolist()}: all five are the same point')
    # in the plane, Umeyama's SVD without reflection is one complex division
    cosine = (centred * target).sum() / spread
    sine = (centred[:, 0] * target[:, 1] - centred[:, 1] * target[:, 0]).sum() / spread
    linear = np.array([[cosine, -sine], [sine, cosine]])
    return np.column_stack([linear, target_mean - linear @ mean])


def crop(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Warp a face onto the template: bilinear, black where the picture ends.

    Parameters
    ----------
    image : (H, W, 3) uint8, any channel order
    landmarks : (5, 2), see `estimate_similarity`

    Returns
    -------
    (112, 112, 3) uint8, channels as given
    """
    return warped(image, estimate_similarity(landmarks))


def warped(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """As `crop`, by the (2, 3) matrix of `estimate_similarity`."""
    return cv2.warpAffine(image, matrix, (IMAGE_SIZE, IMAGE_SIZE), flags=cv2.INTER_LINEAR)
