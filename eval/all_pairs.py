"""All pairs of the pictures of known people: TAR at FAR 1e-3 and 1e-4, with how sure it is."""

from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ..common import console
from ..common.arrays import digest_of
from ..common.data.image import check_crop, decode_rgb
from ..common.data.people_sets import check_kinds, read_people_set
from ..common.engine.engines import Engine
from ..common.errors import InputError
from ..common.files import PathLike
from ..common.parallel import ordered_map
from .cross_pairs import CrossPairs, cross_pairs, tar_intervals, thresholds_at, true_accept_rate
from .verification import add_flips, embed_both

FARS = (1e-3, 1e-4)
# Of the impostor pairs, the most alike are kept: so many times as many as the largest FAR accepts.
# A replicate of drawn people may need more than the set itself does.
_BEYOND = 10


class AllPairs(NamedTuple):
    """An embedded set of people."""

    embeddings: np.ndarray  # (N, D) float32, with mirror images, unit length
    people: np.ndarray  # (N,) int64
    impostors: Optional[np.ndarray]  # (K, 2) int64, pairs that were drawn; None: all
    digest: str  # of its pictures, people and drawn pairs: equal texts are one test


def load_images(path: PathLike) -> tuple[np.ndarray, np.ndarray, Optional[np.ndarray]]:
    """A set of people: (N, 112, 112, 3) uint8 RGB, people (N,), drawn impostor pairs or None.

    Raises
    ------
    InputError as `read_people_set`, for a picture that cannot be decoded or is no 112x112 crop,
    and for a set without both kinds of pairs.
    """
    people_set = read_people_set(path)
    check_kinds(people_set.people, str(path))

    def decode(item: tuple[int, bytes]) -> np.ndarray:
        try:
            image = decode_rgb(item[1])
        except InputError as error:
            raise InputError(f'{path} image {item[0]}: {error}') from None
        check_crop(image, f'{path} image {item[0]}')
        return image

    images = list(ordered_map(decode, enumerate(people_set.pictures)))
    return np.stack(images), people_set.people, people_set.impostors


def embed_set(embedder: Engine, name: str, path: Path) -> AllPairs:
    """Embed every picture of a set and its mirror image."""
    images, people, impostors = load_images(path)
    with console.progress(2 * len(images), name) as bar:
        plain, flipped = embed_both(embedder, images, bar)
    rows = add_flips(plain, flipped)[0].astype(np.float32)
    wrong = ~np.isfinite(rows).all(axis=1) | ~rows.any(axis=1)
    if wrong.any():
        raise InputError(
            f'{path}: the embeddings of {wrong.sum()} of {len(rows)} pictures have no direction '
            f'(picture {wrong.argmax()}); was the training run diverging?'
        )
    return AllPairs(rows, people, impostors, digest_of(images, people, impostors))


def measure(embedded: AllPairs) -> CrossPairs:
    """Compare all pairs; enough of the impostors are kept for FARS and their intervals."""
    return cross_pairs(
        embedded.embeddings, embedded.people, _BEYOND * max(FARS), embedded.impostors
    )


def entry_of(pairs: CrossPairs) -> dict[str, Any]:
    """A set's part of the JSON result; `tar` has those of FARS that the pairs can tell.

    `threshold_cosine` is the highest score that is refused: a pair above it is accepted.
    """
    found = thresholds_at(pairs, FARS)
    intervals = tar_intervals(pairs, list(found)) if found else ()
    return {
        'people': pairs.people,
        'pictures': len(pairs.identities),
        'genuine_pairs': len(pairs.genuine),
        'impostor_pairs': pairs.impostor_pairs,
        'tar': {
            f'{far:g}': {
                'value': float(true_accept_rate(pairs, threshold)),
                'low': float(low),
                'high': float(high),
                'threshold_cosine': threshold,
            }
            for (far, threshold), (low, high) in zip(found.items(), intervals)
        },
    }
