"""Small affine changes of place: a detector's landmarks are never exact."""

from dataclasses import dataclass

import numpy as np

from ...common.options import NOT_NEGATIVE, SHARE, option
from .augmentation import AUGMENTATIONS, PROBABILITY, Augmentation
from .mild import shake_matrix, warped


@AUGMENTATIONS.register('affine')
@dataclass(frozen=True)
class Affine(Augmentation):
    """Shear, rotate and scale about the centre, then shift; the border is reflected."""

    shift: float = option('pixels, at most', 6.0, NOT_NEGATIVE)
    scale: float = option('share, at most', 0.1, SHARE)
    rotation: float = option('radians, at most', 0.15, NOT_NEGATIVE)
    shear: float = option('pixels a pixel, at most', 0.05, SHARE)
    probability: float = option('share of the crops', 1.0, PROBABILITY)

    def matrix(self, draws: np.ndarray, size: int) -> np.ndarray:
        """Float64 (2, 3) from crop to result, of five uniform numbers (x, y, scale, angle,
        shear)."""
        shake = shake_matrix(draws[:4], False, size, self.shift, self.scale, self.rotation)
        slope = self.shear * (2 * draws[4] - 1)
        shear = np.array([[1, slope, -slope * (size - 1) / 2], [0, 1, 0], [0, 0, 1]])
        return shake @ shear

    def change(self, bgr, mirrored, draws):
        if draws[5] >= self.probability:
            return bgr
        return warped(bgr, self.matrix(draws[:5], bgr.shape[0]))
