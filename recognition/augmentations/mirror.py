"""Crops as they are, and mirrored: what the paper does."""

import cv2
import numpy as np

from .augmentation import augmentation


@augmentation('none', mirrors=False, storable=True)
@augmentation('mirror', storable=True)
def mirror(bgr: np.ndarray, mirrored: bool, draws: np.ndarray) -> np.ndarray:
    """The crop, or its mirror image."""
    return cv2.flip(bgr, 1) if mirrored else bgr
