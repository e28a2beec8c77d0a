"""Two pictures in one (mixup, arXiv:1710.09412), for distillation without labels: nobody is in
such a picture, but a teacher has a direction for it, and a student that gives the same one knows
more of the teacher than pictures of people show (arXiv:2106.05237)."""

from dataclasses import dataclass

import cv2

from ...common.options import option
from .augmentation import AUGMENTATIONS, PROBABILITY, Augmentation


@AUGMENTATIONS.register('mixing')
@dataclass(frozen=True)
class Mixing(Augmentation):
    """A crop and another of the data set, weighted by uniform shares of sum 1."""

    mixes = True

    probability: float = option('share of the crops', 1.0, PROBABILITY)

    def mix(self, bgr, other, draws):
        if draws[0] >= self.probability:
            return bgr
        return cv2.addWeighted(bgr, 1 - draws[1], other, draws[1], 0)
