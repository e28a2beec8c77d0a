"""ProxylessKD (arXiv:2011.00265): the teacher's class centres are the student's classifier."""

from dataclasses import dataclass

from ...common.options import REAL, option, positive
from ..losses import Head, class_loss
from ..losses.margin import Margin
from .loss import DISTILLATION_LOSSES, DistillationLoss, Pair, Terms


@DISTILLATION_LOSSES.register('proxyless')
@dataclass(frozen=True)
class Proxyless(DistillationLoss):
    """ArcFace of the student's embeddings against the teacher's frozen class centres."""

    s: float = option('scale of the logits', 64.0, positive())
    m2: float = option("addition to the target's angle, radians", 0.5, REAL)

    default_alpha = 1.0
    needs_labels = needs_centres = classifies = True
    needs_embeddings = False

    def terms(self, pair: Pair) -> Terms:
        head = Head(pair.student, pair.label, pair.num_classes, pair.embedding_size, pair.centres())
        return class_loss(Margin(s=self.s, m2=self.m2), head, pair.compiled)
