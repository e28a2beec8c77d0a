"""Distillation losses: one a file, found by being in this folder.

A file registers a subclass of `DistillationLoss`; one that `--config FILE` runs does the same from
outside. `angular` is VarGFaceNet's.
"""

import sys

from ...common.registry import import_all
from .loss import DISTILLATION_LOSSES, DistillationLoss, Pair, Terms, make_distillation_loss

import_all(sys.modules[__name__])

__all__ = ['DISTILLATION_LOSSES', 'DistillationLoss', 'Pair', 'Terms', 'make_distillation_loss']
