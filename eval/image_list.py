"""Lists of image files to embeddings, a block at a time: memory does not grow with their number."""

import logging
import os
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from ..common.data.image import decode_rgb
from ..common.engine.open_model import OpenModel
from ..common.errors import InputError
from ..common.files import PathLike, read_lines
from ..common.names import IMAGE_SIZE
from ..common.parallel import ordered_map

log = logging.getLogger(__name__)

_NAMED = 5  # missing images that a warning lists


class Block(NamedTuple):
    """Embeddings of consecutive images of a list."""

    start: int  # index of the first
    plain: np.ndarray  # (n, D) float32, raw rows
    flipped: np.ndarray  # (n, D) float32, raw rows of the mirror images
    missing: np.ndarray  # (n,) bool: no such file or no picture; its rows are zero


def read_list(path: PathLike, root: Optional[Path] = None) -> list[list[str]]:
    """Lines of an image list that are not empty, each as [name, further words ...].

    A name ends at the first tab and may hold blanks. In a line without tabs it ends at the first
    blank only if something below `root` has that name and nothing has the whole line's.

    InputError for a file without any line.
    """
    lines = read_lines(path, 'image list')
    split = [_name_and_rest(line.strip(), root) for line in lines if line.strip()]
    if not split:
        raise InputError(f'image list {path} is empty')
    return split


_exists = os.path.exists  # unlike Path's, False of a name that is too long


def _name_and_rest(line: str, root: Optional[Path]) -> list[str]:
    if '\t' in line:
        return [word.strip() for word in line.split('\t')]
    words = line.split()
    if (
        len(words) > 1
        and root
        and not os.path.exists(root / line)
        and os.path.exists(root / words[0])
    ):
        return words
    return [line]


def load_crop(path: Path) -> Optional[np.ndarray]:
    """A 112x112 aligned crop as uint8 (112, 112, 3) RGB; None for no file or no picture.

    Raises InputError for a picture of another size, which was not aligned.
    """
    try:
        image = decode_rgb(path.read_bytes())
    except (OSError, InputError):
        return None
    if image.shape[:2] != (IMAGE_SIZE, IMAGE_SIZE):
        height, width = image.shape[:2]
        raise InputError(
            f'{path}: {width}x{height} pixels; expected aligned {IMAGE_SIZE}x{IMAGE_SIZE} crops '
            f'(vargfacenet align makes them)'
        )
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
    for start in range(0, len(items), embedder.batch_size):
        images = list(islice(loaded, embedder.batch_size))
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
