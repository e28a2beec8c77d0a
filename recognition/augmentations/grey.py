"""Pictures without colour: infrared cameras, old photographs."""

from dataclasses import dataclass

import cv2

from ...common.options import option
from .augmentation import AUGMENTATIONS, PROBABILITY, Augmentation
from .colour import saturation_matrix


@AUGMENTATIONS.register('grey')
@dataclass(frozen=True)
class Grey(Augmentation):
    """Some crops lose their colour; their luma (ITU-R BT.601) stays."""

    probability: float = option('share of the crops', 0.1, PROBABILITY)

    def change(self, bgr, mirrored, draws):
        return cv2.transform(bgr, saturation_matrix(0)) if draws[0] < self.probability else bgr
