"""Things before a face: random erasing (arXiv:1708.04896)."""

from dataclasses import dataclass

import numpy as np

from ...common.errors import InputError
from ...common.options import Rule, option
from .augmentation import AUGMENTATIONS, PROBABILITY, Augmentation

_SHARE = Rule(lambda value: 0 < value < 1, 'a number between 0 and 1')


@AUGMENTATIONS.register('erasing')
@dataclass(frozen=True)
class Erasing(Augmentation):
    """A rectangle of some crops becomes one colour, drawn anew each time."""

    smallest: float = option('share of the area, at least', 0.02, _SHARE)
    largest: float = option('share of the area, at most', 0.25, _SHARE)
    aspect: float = option('height to width from this to its inverse', 0.3, _SHARE)
    probability: float = option('share of the crops', 0.2, PROBABILITY)

    def __post_init__(self):
        if self.smallest > self.largest:
            raise InputError(
                f'augmentation erasing: smallest {self.smallest:g} is above largest '
                f'{self.largest:g}'
            )

    def change(self, bgr, mirrored, draws):
        if draws[0] >= self.probability:
            return bgr
        height, width = bgr.shape[:2]
        area = self.smallest + draws[1] * (self.largest - self.smallest)
        aspect = np.exp(np.log(self.aspect) * (2 * draws[2] - 1))  # as often wide as high
        # a rectangle longer than the crop is cut to it
        h = min(height, max(1, round(height * np.sqrt(area * aspect))))
        w = min(width, max(1, round(width * np.sqrt(area / aspect))))
        top, left = int(draws[3] * (height - h + 1)), int(draws[4] * (width - w + 1))
        erased = bgr.copy()
        erased[top : top + h, left : left + w] = (256 * draws[5:8]).astype(np.uint8)
        return erased
