"""Augmented views of a data set's pictures: a fixed number of each, for a teacher to embed them
once.

View v of a record is a function of (seed, record, v) and of the augmentations with their options.
A store has them behind the record and its mirror image: row 0 is the record, 1 its mirror image,
2 + v its view v.
"""

import argparse
from dataclasses import dataclass
from typing import Any, Callable, Optional

import cv2
import numpy as np

from ..common.console import check_ranges
from ..common.data.store_file import PLAIN_ROWS
from ..common.errors import InputError
from .augmentations import Augmentations, make_augmentations, parse_augmentation_options

MIRRORED = 1  # the row of a mirror image
MOST_VIEWS = 10_000

# what random numbers are for, as a word of Philox's counter; 0 is a record in an epoch
_OF_A_VIEW, _OF_AN_ORDER = 1, 2


@dataclass(frozen=True)
class Views:
    """Which views there are of every record."""

    augmentations: Augmentations
    count: int
    seed: int = 0

    def header_fields(self) -> dict[str, Any]:
        """What a store's header says of them."""
        return {
            'views': self.count,
            'augmentation': str(self.augmentations),
            'view_seed': self.seed,
        }


def read_views(args: argparse.Namespace) -> Optional[Views]:
    """What --views, --augment, --augment-option and --seed of `teach` say; None without views.

    Raises InputError where they contradict each other.
    """
    check_ranges([('--views', args.views, 0, MOST_VIEWS), ('--seed', args.seed, 0, 2**31 - 1)])
    if bool(args.views) != bool(args.augment) or (args.augment_option and not args.views):
        raise InputError('--views and --augment belong together: how many, and what makes them')
    if not args.views:
        return None
    options = parse_augmentation_options(args.augment, args.augment_option)
    augmentations = make_augmentations(args.augment, options)
    if augmentations.storable:
        raise InputError(f'--augment {args.augment}: a store has the mirror images anyway')
    return Views(augmentations, args.views, args.seed)


def _uniform(seed: int, number: int, purpose: int, position: int, count: int) -> np.ndarray:
    bits = np.random.Philox(key=[seed, number], counter=[0, 0, purpose, position])
    return np.random.Generator(bits).random(count)


def picture_of(
    augmentations: Augmentations,
    bgr: np.ndarray,
    row: int,
    seed: int,
    position: int,
    another: Callable[[float], np.ndarray],
) -> np.ndarray:
    """The picture of a row of a record, uint8 (H, W, 3) BGR.

    Parameters
    ----------
    bgr : the record's crop
    row : see above
    seed : of the views
    position : of the record
    another : as `Augmentations.change` takes it
    """
    if row < PLAIN_ROWS:
        return cv2.flip(bgr, 1) if row else bgr
    draws = _uniform(seed, row - PLAIN_ROWS, _OF_A_VIEW, position, 1 + augmentations.num_draws)
    mirrored = augmentations.mirrors and bool(draws[0] < 0.5)
    return augmentations.change(bgr, mirrored, draws[1:], another)


def row_of(augmentations: Augmentations, views: int, seed: int, epoch: int, position: int) -> int:
    """Which row of a record a run shows in an epoch.

    A record goes through all its rows in an order of its own, each once, before it begins anew in
    another order: the record itself, its mirror image (if the augmentations mirror) and its views.
    """
    rows = [0, *range(1 if augmentations.mirrors else PLAIN_ROWS, PLAIN_ROWS + views)]
    turn, place = divmod(epoch, len(rows))
    order = np.argsort(_uniform(seed, turn, _OF_AN_ORDER, position, len(rows)))
    return rows[order[place]]
