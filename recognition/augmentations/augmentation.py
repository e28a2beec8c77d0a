"""What an augmentation is."""

from typing import Callable, NamedTuple

import numpy as np

from ...common.registry import Registry

NUM_DRAWS = 8

Change = Callable[[np.ndarray, bool, np.ndarray], np.ndarray]


class Augmentation(NamedTuple):
    """A change to crops, and what it says of itself.

    Attributes
    ----------
    change : pure function (bgr, mirrored, draws) -> bgr of the crop as uint8 (H, W, 3), whether to
        mirror it, and NUM_DRAWS uniform numbers in [0, 1) that decide everything else
    mirrors : whether half of the crops are to be mirrored
    storable : whether a crop has no other view than itself and its mirror image, so that a
        teacher's embeddings of all views can be stored
    """

    change: Change
    mirrors: bool
    storable: bool


AUGMENTATIONS: Registry[Augmentation] = Registry('augmentation')


def augmentation(
    name: str, *, mirrors: bool = True, storable: bool = False
) -> Callable[[Change], Change]:
    """Decorator that registers a change to crops; the attributes are those of `Augmentation`."""
    register = AUGMENTATIONS.register(name)

    def add(change: Change) -> Change:
        register(Augmentation(change, mirrors, storable))
        return change

    return add
