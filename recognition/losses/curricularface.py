"""CurricularFace (Huang et al., arXiv:2004.00288): hard negative classes count little at first, and
more as the network learns."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.names import CLASSIFIER_PREFIX
from ...common.options import option, positive
from .cosine import CosineLoss, target_of, with_target
from .loss import LOSSES, Head, Logits
from .margin import margin_cosine

PROGRESS = CLASSIFIER_PREFIX + '_progress'  # the paper's t


@LOSSES.register('curricularface')
@dataclass(frozen=True)
class CurricularFace(CosineLoss):
    """ArcFace's target T = cos(theta + m), and of another class cos (t + cos) where cos > T, else
    cos.

    t is the running mean of the target's cosine, starts at 0, takes in a step before it is used
    and has no gradient: the loss's state.
    """

    s: float = option('scale of the logits', 64.0, positive())
    m: float = option("addition to the target's angle, radians", 0.5, positive())
    pace: float = option('share of a step in the running mean t', 0.01, positive(1.0))

    def of_cosines(self, cosine: 'mx.sym.Symbol', head: Head) -> Logits:
        own = target_of(cosine, head)
        target = margin_cosine(own, m2=self.m)
        before = mx.sym.Variable(PROGRESS, shape=(1,), init=mx.init.Zero())
        progress = mx.sym.BlockGrad(self.pace * mx.sym.mean(own) + (1 - self.pace) * before)
        hard = mx.sym.broadcast_greater(cosine, mx.sym.expand_dims(target, axis=1))
        harder = cosine * mx.sym.broadcast_add(cosine, progress)
        values = mx.sym.where(hard, harder, cosine)
        return Logits(with_target(values, target, head), states={PROGRESS: progress})
