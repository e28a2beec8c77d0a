"""Pictures out of focus, or of people who move."""

from dataclasses import dataclass

import cv2
import numpy as np

from ...common.options import integer, option, positive
from .augmentation import AUGMENTATIONS, PROBABILITY, Augmentation

_LEAST_SIGMA = 0.3  # pixels; less than that is not to be seen


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """Float32 (K, K) of sum 1: a line of `length` pixels through the middle, K odd."""
    size = 2 * int(np.ceil(length / 2)) + 1
    middle = size // 2
    x, y = length / 2 * np.cos(angle), length / 2 * np.sin(angle)
    kernel = np.zeros((size, size), np.float32)
    ends = [(round(middle + sign * x), round(middle + sign * y)) for sign in (-1, 1)]
    cv2.line(kernel, *ends, 1.0)
    return kernel / kernel.sum()


@AUGMENTATIONS.register('blur')
@dataclass(frozen=True)
class Blur(Augmentation):
    """Half of the blurred crops are out of focus (Gaussian), half were moved in a straight line."""

    sigma: float = option('of the Gaussian in pixels, at most', 2.0, positive(20))
    length: int = option('of the motion in pixels, at most', 7, integer(2, 50))
    probability: float = option('share of the crops', 0.2, PROBABILITY)

    def change(self, bgr, mirrored, draws):
        if draws[0] >= self.probability:
            return bgr
        if draws[1] < 0.5:
            sigma = min(_LEAST_SIGMA, self.sigma) + draws[2] * max(0.0, self.sigma - _LEAST_SIGMA)
            return cv2.GaussianBlur(bgr, (0, 0), sigma)
        kernel = motion_kernel(2 + draws[2] * (self.length - 2), np.pi * draws[3])
        return cv2.filter2D(bgr, -1, kernel)
