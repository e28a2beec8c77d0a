"""Pictures that were saved once too often."""

from dataclasses import dataclass

import cv2

from ...common.options import integer, option
from .augmentation import AUGMENTATIONS, PROBABILITY, Augmentation


@AUGMENTATIONS.register('jpeg')
@dataclass(frozen=True)
class Jpeg(Augmentation):
    """JPEG of a quality from `lowest` to 95 and back."""

    lowest: int = option('quality, at least', 20, integer(1, 95))
    probability: float = option('share of the crops', 0.3, PROBABILITY)

    def change(self, bgr, mirrored, draws):
        if draws[0] >= self.probability:
            return bgr
        quality = self.lowest + int(draws[1] * (96 - self.lowest))
        _, encoded = cv2.imencode('.jpg', bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))
        return cv2.imdecode(encoded, cv2.IMREAD_COLOR)
