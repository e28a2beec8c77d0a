"""Drawn verification sets for tests."""

import cv2
import numpy as np
from vargfacenet.common.data.pair_sets import write_pairs

PAIRS = 20


def pair_images(random):
    """(images, issame): noise pictures; both of a same pair share the picture under the noise."""
    issame = np.arange(PAIRS) % 2 == 0
    coarse = random.randint(0, 256, (2 * PAIRS, 7, 7, 3))
    coarse[1::2][issame] = coarse[0::2][issame]
    images = coarse.repeat(16, axis=1).repeat(16, axis=2)
    images = images + random.randint(-40, 41, images.shape)
    return images.clip(0, 255).astype(np.uint8), issame


def write_bin(path, images, issame):
    encoded = [cv2.imencode('.png', image[:, :, ::-1])[1].tobytes() for image in images]
    write_pairs(path, encoded, issame)
