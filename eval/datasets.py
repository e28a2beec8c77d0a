"""Verification pair sets as pixels."""

from typing import Optional

import numpy as np

from ..common.data.image import decode_rgb, square_crop
from ..common.data.pair_sets import read_pairs
from ..common.errors import InputError
from ..common.files import PathLike
from ..common.names import IMAGE_SIZE
from ..common.parallel import ordered_map


def load_bin(path: PathLike, threads: Optional[int] = None) -> tuple[np.ndarray, np.ndarray]:
    """Read and decode a verification `.bin`, on `threads` threads (default: one per CPU).

    As in InsightFace, a picture whose width is not 112 is resized, its shorter side to 112.

    Returns
    -------
    (images, issame): uint8 (2P, 112, 112, 3) RGB; bool (P,), pair i is images 2i and 2i+1

    Raises
    ------
    InputError as in `pair_sets.read_pairs`, and for a picture that cannot be decoded or that is not
    square, naming its number.
    """
    encoded, issame = read_pairs(path)
    images = np.empty((len(encoded), IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8)

    def decode(index: int) -> None:
        name = f'{path} image {index}'
        try:
            image = decode_rgb(encoded[index])
        except InputError as error:
            raise InputError(f'{name}: {error}') from None
        images[index] = square_crop(image, name)

    for _ in ordered_map(decode, range(len(encoded)), threads):
        pass
    return images, issame
