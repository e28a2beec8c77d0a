"""Image files to embeddings, a block at a time: memory does not grow with their number."""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from ..common.data.image import check_crop, decode_rgb, read_picture
from ..common.engine.open_model import OpenModel
from ..common.errors import InputError
from ..common.parallel import batches, ordered_map

log = logging.getLogger(__name__)

_NAMED = 5  # missing images that a warning lists


class Block(NamedTuple):
    """Embeddings of consecutive images of a list."""

    start: int  # index of the first
    plain: np.ndarray  # (n, D) float32, raw rows
    flipped: np.ndarray  # (n, D) float32, raw rows of the mirror images
    missing: np.ndarray  # (n,) bool: no such file or no picture; its rows are zero


def load_crop(path: Path) -> Optional[np.ndarray]:
    """A 112x112 aligned crop as uint8 (112, 112, 3) RGB; None for no file or no picture.

    Raises InputError for a picture of another size, which was not aligned.
    """
    try:
        image = decode_rgb(read_picture(path))
    except InputError:
        return None
    check_crop(image, str(path))
    return image


def embed_images(
    embedder: OpenModel,
    items: Sequence,
    load: Callable[[object], Optional[np.ndarray]] = load_crop,
    flip: bool = True,
) -> Iterator[Block]:
    """Embed every item and, with `flip`, its mirror image (otherwise `flipped` is zero).

    Parameters
    ----------
    embedder : network
    items : whatever `load` takes, by default paths
    load : item -> uint8 (112, 112, 3) RGB, or None for one that is missing; runs on threads

    Yields
    ------
    Block for each `embedder.batch_size` items.
    """
    loaded = ordered_map(load, items)
    starts = range(0, len(items), embedder.batch_size)
    for start, images in zip(starts, batches(loaded, embedder.batch_size)):
        missing = np.array([image is None for image in images])
        plain = np.zeros((len(images), embedder.embedding_size), np.float32)
        flipped = np.zeros_like(plain)
        if not missing.all():
            present = np.stack([image for image in images if image is not None])
            plain[~missing] = embedder.embed(present)
            if flip:
                flipped[~missing] = embedder.embed(present[:, :, ::-1])
        _check_finite(start, plain, flipped)
        yield Block(start, plain, flipped, missing)


def _check_finite(start: int, plain: np.ndarray, flipped: np.ndarray) -> None:
    finite = np.isfinite(plain).all(axis=1) & np.isfinite(flipped).all(axis=1)
    if not finite.all():
        raise InputError(
            f'embedding of image {start + int(np.argmin(finite))} (counting from 0) is not finite; '
            f'was the training run diverging?'
        )


def report_missing(names: Sequence[str], total: int, what: str = 'images') -> None:
    """One warning with the count and the first names, if there are any."""
    if names:
        listed = ', '.join(names[:_NAMED]) + (' ...' if len(names) > _NAMED else '')
        log.warning(
            '%d of %d %s are missing or no pictures; their rows stay zero: %s',
            len(names),
            total,
            what,
            listed,
        )
