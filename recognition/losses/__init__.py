"""Classification losses: one family a file, found by being in this folder.

A file registers a subclass of `ClassificationLoss`. It need not lie here: one that `--config FILE`
runs adds its loss in the same way.
"""

import sys

from ...common.registry import import_all
from .loss import (
    LOSSES,
    ClassificationLoss,
    Head,
    Logits,
    Terms,
    check_additions,
    class_loss,
    make_loss,
    warn_of_few_pairs,
)

import_all(sys.modules[__name__])

__all__ = [
    'LOSSES',
    'ClassificationLoss',
    'Head',
    'Logits',
    'Terms',
    'check_additions',
    'class_loss',
    'make_loss',
    'warn_of_few_pairs',
]
