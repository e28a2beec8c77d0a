"""Margins on the target's angle: ArcFace, CosFace and what lies between them.

The published losses are rows of the `loss` table in presets.py.
"""

import math
from dataclasses import asdict, dataclass

from ...common.backend import mx
from ...common.engine import ops
from ...common.options import FLAG, REAL, option, positive
from .cosine import CosineLoss, angle_of, target_of, with_target
from .loss import LOSSES, Head, Logits


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
    theta = angle_of(cosine)
    theta_pi = (math.pi - m2) / m1
    beyond = cosine - (math.pi - theta_pi) * math.sin(theta_pi)
    return mx.sym.where(theta < theta_pi, mx.sym.cos(m1 * theta + m2), beyond) - m3


def margin_of_images(cosine: 'mx.sym.Symbol', margin: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """cos(theta + margin) with a margin for every image, both (N,); past pi, cos(theta) - margin *
    sin(margin), as in `margin_cosine`."""
    theta = angle_of(cosine)
    beyond = cosine - margin * mx.sym.sin(margin)
    return mx.sym.where(theta + margin < math.pi, mx.sym.cos(theta + margin), beyond)


@LOSSES.register('margin')
@dataclass(frozen=True)
class Margin(CosineLoss):
    """s * cos(theta), on the target s * (cos(m1 * theta + m2) - m3); the defaults are ArcFace.

    With `detach` the margin is a constant to the gradient: that of the target's logit by its cosine
    is s, as in arcface_torch, which takes arccos and cos without gradient. The true one is
    s * m1 * sin(m1 * theta + m2) / sin(theta).
    """

    s: float = option('scale of the logits', 64.0, positive())
    m1: float = option("factor of the target's angle", 1.0, positive())
    m2: float = option("addition to the target's angle, radians", 0.5, REAL)
    m3: float = option("subtraction from the target's cosine", 0.0, REAL)
    detach: bool = option('no gradient through the margin, as in arcface_torch', False, FLAG)

    margin_on_target_alone = True

    def of_cosines(self, cosine: 'mx.sym.Symbol', head: Head) -> Logits:
        margins = (self.m1, self.m2, self.m3)
        if margins == (1, 0, 0):
            return Logits(cosine)
        own = target_of(cosine, head)
        target = margin_cosine(own, *margins)
        if self.detach:
            target = own + mx.sym.BlockGrad(target - own)
        return Logits(with_target(cosine, target, head))

    def compiled(self, head: Head, smoothing: float) -> tuple:
        return ops.margin_softmax(
            head.embedding, head.weight(), head.label, smoothing=smoothing, **asdict(self)
        )
