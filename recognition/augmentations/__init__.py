"""Augmentations: random changes to training crops, one a file, found by being in this folder.

The paper (arXiv:1910.04985) mirrors and does nothing else.
"""

import sys

from ...common.registry import import_all
from .augmentation import (
    AUGMENTATIONS,
    COMBINATIONS,
    NUM_DRAWS,
    Augmentation,
    Augmentations,
    augmentation,
    make_augmentations,
    names_of,
    parse_augmentation_options,
)

import_all(sys.modules[__name__])

__all__ = [
    'AUGMENTATIONS',
    'COMBINATIONS',
    'NUM_DRAWS',
    'Augmentation',
    'Augmentations',
    'augmentation',
    'make_augmentations',
    'names_of',
    'parse_augmentation_options',
]
