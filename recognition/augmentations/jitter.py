"""Other light and another camera: brightness, contrast, saturation and hue."""

from dataclasses import dataclass

import cv2
import numpy as np

from ...common.options import NOT_NEGATIVE, SHARE, option
from .augmentation import AUGMENTATIONS, PROBABILITY, Augmentation
from .colour import exposed, hue_matrix, saturation_matrix


@AUGMENTATIONS.register('jitter')
@dataclass(frozen=True)
class Jitter(Augmentation):
    """All four at once, as one matrix on colours."""

    brightness: float = option('grey levels, at most', 40.0, NOT_NEGATIVE)
    contrast: float = option('share, at most', 0.3, SHARE)
    saturation: float = option('share, at most', 0.4, SHARE)
    hue: float = option('radians, at most', 0.15, NOT_NEGATIVE)
    probability: float = option('share of the crops', 0.8, PROBABILITY)

    def matrix(self, draws: np.ndarray) -> np.ndarray:
        """Float64 (3, 4) on (b, g, r, 1), of four uniform numbers (brightness, contrast,
        saturation, hue)."""
        brightness, contrast, saturation, hue = 2 * draws - 1  # -1..1
        linear = hue_matrix(self.hue * hue) @ saturation_matrix(1 + self.saturation * saturation)
        return exposed(linear, 1 + self.contrast * contrast, self.brightness * brightness)

    def change(self, bgr, mirrored, draws):
        if draws[4] >= self.probability:
            return bgr
        return cv2.transform(bgr, self.matrix(draws[:4]))
