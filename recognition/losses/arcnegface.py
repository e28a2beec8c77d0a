"""ArcNegFace (Liu et al., "Towards Flops-constrained Face Recognition", arXiv:1909.00632): negative
classes weigh more the closer they are to the target."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.engine import ops
from ...common.options import option, positive
from .cosine import CosineLoss, target_of, with_target
from .loss import LOSSES, Head, Logits
from .margin import margin_cosine


@LOSSES.register('arcnegface')
@dataclass(frozen=True)
class ArcNegFace(CosineLoss):
    """ArcFace's target a = cos(theta + m), and of every other class t * (1 + cos) - 1.

    t = alpha * exp(-(cos - a)^2 / sigma), a constant to the gradient: it is up to alpha where a
    class is as near as the target, and small far from it. The divisor is sigma, not 2 sigma^2.
    """

    s: float = option('scale of the logits', 64.0, positive())
    m: float = option("addition to the target's angle, radians", 0.5, positive())
    alpha: float = option('largest weight of a negative class', 1.2, positive())
    sigma: float = option("width of the weight's bell over cosines", 2.0, positive())

    def of_cosines(self, cosine: 'mx.sym.Symbol', head: Head) -> Logits:
        target = margin_cosine(target_of(cosine, head), m2=self.m)
        distance = mx.sym.broadcast_sub(cosine, mx.sym.expand_dims(target, axis=1))
        weight = mx.sym.BlockGrad(self.alpha * mx.sym.exp(mx.sym.square(distance) / -self.sigma))
        return Logits(with_target(weight * (1 + cosine) - 1, target, head))

    def compiled(self, head: Head, smoothing: float) -> tuple:
        return ops.margin_softmax(
            head.embedding,
            head.weight(),
            head.label,
            s=self.s,
            m2=self.m,
            alpha=self.alpha,
            sigma=self.sigma,
            smoothing=smoothing,
        )
