"""Faces that were small: a crop loses pixels and is brought back to its size."""

from dataclasses import dataclass

import cv2

from ...common.options import Rule, option
from .augmentation import AUGMENTATIONS, PROBABILITY, Augmentation

_WAYS = (cv2.INTER_NEAREST, cv2.INTER_LINEAR, cv2.INTER_AREA, cv2.INTER_CUBIC, cv2.INTER_LANCZOS4)


@AUGMENTATIONS.register('downscale')
@dataclass(frozen=True)
class Downscale(Augmentation):
    """Smaller and back, each by some interpolation (as AdaFace, arXiv:2204.00964, does)."""

    smallest: float = option(
        'share of the side that is left, at least',
        0.25,
        Rule(lambda value: 0.02 <= value <= 1, 'a number from 0.02 to 1'),
    )
    probability: float = option('share of the crops', 0.2, PROBABILITY)

    def change(self, bgr, mirrored, draws):
        if draws[0] >= self.probability:
            return bgr
        height, width = bgr.shape[:2]
        share = self.smallest + draws[1] * (1 - self.smallest)
        size = max(1, round(width * share)), max(1, round(height * share))
        down, up = (_WAYS[int(draw * len(_WAYS))] for draw in draws[2:4])
        small = cv2.resize(bgr, size, interpolation=down)
        return cv2.resize(small, (width, height), interpolation=up)
