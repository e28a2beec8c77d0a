"""Which classes a rank holds, and which of them a step looks at."""

from typing import NamedTuple, Optional

import numpy as np

from ...common.errors import InputError


class Shard(NamedTuple):
    """The classes of one rank: start, start + 1, ..., start + rows - 1."""

    start: int
    rows: int


def shard_of(num_classes: int, rank: int, size: int, padded: bool) -> Shard:
    """The shard of a rank.

    Parameters
    ----------
    padded : all shards have ceil(C / R) rows, as in the MXNet original; those of the last ranks
        beyond the C classes are never anyone's class but stand in the softmax. Otherwise the first
        C mod R ranks have one row more than the others, and there are no other rows.
    """
    if padded:
        rows = -(-num_classes // size)
        return Shard(rank * rows, rows)
    rows, more = divmod(num_classes, size)
    return Shard(rank * rows + min(rank, more), rows + (rank < more))


def check_room(rate: float, num_classes: int, ranks: int, images: int, dense: bool) -> None:
    """InputError where the sample of a rank has no room for the classes of a step of `images`, all
    of which may be its own, unless the update is `dense`, which takes as many as there are."""
    rows = -(-num_classes // ranks)
    needed = min(images, rows)
    if int(rate * rows) < needed and not dense:
        raise InputError(
            f'--sample-rate {rate:g}: {int(rate * rows)} of {rows} classes'
            f'{" of a rank" if ranks > 1 else ""} have no '
            f'room for those of a step of {images} images; raise it to {needed / rows:.2g} '
            'or more, or give --partial-fc-update dense, which takes as many as there are'
        )


def sample_rows(
    positives: np.ndarray,
    rows: int,
    count: int,
    all_positives: bool,
    random: np.random.Generator,
) -> np.ndarray:
    """The rows of a step: those of the images' own classes, and others at random.

    Parameters
    ----------
    positives : int (any number,), own rows of the images, each as often as it comes
    rows : of the shard
    count : of the sample
    all_positives : keep all where there are more than `count`; otherwise the smallest `count`

    Returns
    -------
    int64, ascending, each row once; the negatives are uniform without replacement
    """
    positives = np.unique(positives).astype(np.int64)
    if len(positives) >= count:
        return positives if all_positives else positives[:count]
    others = random.choice(rows - len(positives), count - len(positives), replace=False)
    # the k-th row that is no positive: k and the number of positives before it
    before = np.searchsorted(positives - np.arange(len(positives)), others, side='right')
    return np.sort(np.concatenate([positives, others + before]))


def columns_of(wanted: np.ndarray, rows: Optional[np.ndarray], shard_rows: int) -> np.ndarray:
    """Where each of the `wanted` rows, int (N,), stands in the sample; -1 where it does not.

    `rows` None: the sample is the whole shard.
    """
    if rows is None:
        return np.where((wanted >= 0) & (wanted < shard_rows), wanted, -1)
    places = np.minimum(np.searchsorted(rows, wanted), len(rows) - 1)
    return np.where(rows[places] == wanted, places, -1)
