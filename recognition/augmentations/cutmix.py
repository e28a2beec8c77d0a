"""Part of one face in another (CutMix, arXiv:1905.04899), for distillation without labels: crops
are aligned, so that eyes come to lie on eyes, and what comes out is near to a face of nobody."""

from dataclasses import dataclass

import cv2
import numpy as np

from ...common.options import Rule, option
from .augmentation import AUGMENTATIONS, PROBABILITY, Augmentation

_EDGE = Rule(lambda value: 0 <= value <= 32, 'a whole number of pixels from 0 to 32')


@AUGMENTATIONS.register('cutmix')
@dataclass(frozen=True)
class CutMix(Augmentation):
    """A rectangle of a crop is that of another of the data set; its share of the area is uniform
    before the border cuts it."""

    mixes = True

    probability: float = option('share of the crops', 1.0, PROBABILITY)
    edge: int = option('half the width over which one becomes the other, pixels', 6, _EDGE)

    def mix(self, bgr, other, draws):
        if draws[0] >= self.probability:
            return bgr
        # both sides take the root of the share (the paper's Eq. 2), around a centre anywhere, so
        # that a rectangle over the border is cut by it
        half = np.sqrt(draws[1]) / 2
        top, bottom = _within(draws[2] - half, draws[2] + half, bgr.shape[0])
        left, right = _within(draws[3] - half, draws[3] + half, bgr.shape[1])
        share = np.zeros(bgr.shape[:2], np.float32)
        share[top:bottom, left:right] = 1
        if self.edge:
            # at the border of the crop there is nothing to become
            share = cv2.blur(share, (2 * self.edge + 1,) * 2, borderType=cv2.BORDER_REPLICATE)
        return cv2.blendLinear(other, bgr, share, 1 - share)


def _within(start: float, end: float, size: int) -> list[int]:
    """Shares of a side in pixels of it."""
    return [round(size * min(max(share, 0), 1)) for share in (start, end)]
