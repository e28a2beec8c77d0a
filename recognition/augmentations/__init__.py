"""Augmentations: random changes to training crops, one a file, found by being in this folder.

The paper (arXiv:1910.04985) mirrors and does nothing else.
"""

import sys

from ...common.registry import import_all
from .augmentation import AUGMENTATIONS, NUM_DRAWS, Augmentation, augmentation

import_all(sys.modules[__name__])

__all__ = ['AUGMENTATIONS', 'NUM_DRAWS', 'Augmentation', 'augmentation']
