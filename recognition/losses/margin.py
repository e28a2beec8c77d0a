"""Margins on the target's angle: ArcFace, CosFace and what lies between them.

The frame: unit-length embeddings and class centres -> cosines -> margin on the target's cosine ->
scale -> cross entropy. The published losses are rows of the `loss` table in presets.py.
"""

import math
from dataclasses import asdict, dataclass

from ...common.backend import mx
from ...common.engine import ops
from ...common.names import CLASSIFIER_PREFIX
from ...common.options import REAL, option, positive
from ..symbols import unit_length
from .loss import LOSSES, ClassificationLoss, Head

# arccos has an infinite slope at +-1, and float32 cosines of equal vectors exceed 1 by rounding.
# Clipping here moves the target's logit by at most 0.044 at theta = 0 (scale 64, margin 0.5).
COSINE_LIMIT = 1 - 1e-6


def margin_cosine(
    cosine: 'mx.sym.Symbol', m1: float = 1.0, m2: float = 0.0, m3: float = 0.0
) -> 'mx.sym.Symbol':
    """The target's cosine after the margin: cos(m1 * theta + m2) - m3.

    ArcFace (arXiv:1801.07698) is (1, m, 0), CosFace (arXiv:1801.09414) (1, 0, m).

    Where m1 * theta + m2 passes pi the cosine would rise again and reward the worst angles; from
    theta_pi = (pi - m2) / m1 on the value is cos(theta) - (pi - theta_pi) * sin(theta_pi) - m3,
    for m1 = 1 ArcFace's own cos(theta) - m2 * sin(m2).

    Parameters
    ----------
    cosine : symbol of any shape, values in [-1, 1] up to rounding
    m1, m2, m3 : factor of the angle, addition to the angle (radians), subtraction from the cosine
    """
    if m1 == 1 and m2 == 0:
        return cosine - m3
    clipped = mx.sym.clip(cosine, -COSINE_LIMIT, COSINE_LIMIT)
    theta = mx.sym.arccos(clipped)
    theta_pi = (math.pi - m2) / m1
    beyond = cosine - (math.pi - theta_pi) * math.sin(theta_pi)
    return mx.sym.where(theta < theta_pi, mx.sym.cos(m1 * theta + m2), beyond) - m3


def class_cosines(head: Head) -> 'mx.sym.Symbol':
    """(N, C): cosines of embeddings and class centres."""
    return mx.sym.FullyConnected(
        unit_length(head.embedding, CLASSIFIER_PREFIX + '_embedding'),
        weight=unit_length(head.weight(), CLASSIFIER_PREFIX + '_centres'),
        num_hidden=head.num_classes,
        no_bias=True,
        name=CLASSIFIER_PREFIX,
    )


def add_to_target(cosine: 'mx.sym.Symbol', change: 'mx.sym.Symbol', head: Head) -> 'mx.sym.Symbol':
    """(N, C) cosines with `change` (N,) added to that of every image's own class."""
    one_hot = mx.sym.one_hot(head.label, depth=head.num_classes)  # (N, C)
    return cosine + mx.sym.broadcast_mul(one_hot, mx.sym.expand_dims(change, axis=1))


@LOSSES.register('margin')
@dataclass(frozen=True)
class Margin(ClassificationLoss):
    """s * cos(theta), on the target s * (cos(m1 * theta + m2) - m3); the defaults are ArcFace."""

    s: float = option('scale of the logits', 64.0, positive())
    m1: float = option("factor of the target's angle", 1.0, positive())
    m2: float = option("addition to the target's angle, radians", 0.5, REAL)
    m3: float = option("subtraction from the target's cosine", 0.0, REAL)

    def logits(self, head: Head) -> 'mx.sym.Symbol':
        cosine = class_cosines(head)
        if (self.m1, self.m2, self.m3) == (1, 0, 0):
            return self.s * cosine
        target = mx.sym.pick(cosine, head.label, axis=1)  # (N,)
        margin = margin_cosine(target, self.m1, self.m2, self.m3) - target
        return self.s * add_to_target(cosine, margin, head)

    def compiled(self, head: Head) -> tuple:
        return ops.margin_softmax(head.embedding, head.weight(), head.label, **asdict(self))
