"""MarginDistillation (arXiv:2003.02586): the teacher says how wide the margin of an image is."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.options import NOT_NEGATIVE, option, positive
from ..losses import Head
from ..losses.cosine import class_cosines, target_of, with_target
from ..losses.margin import margin_of_images
from ..symbols import cross_entropy, unit_length
from .loss import DISTILLATION_LOSSES, DistillationLoss, Pair, Terms

# A largest cosine that is smaller counts as this: there is nothing to divide by.
LEAST_COSINE = 1e-6


@DISTILLATION_LOSSES.register('margin')
@dataclass(frozen=True)
class MarginDistillation(DistillationLoss):
    """ArcFace against the teacher's frozen class centres, with a margin that the teacher sets.

    m_i = (most - least) * q_i / max q + least, where q_i is the cosine of the teacher's embedding
    of an image and its class's centre, and the largest is that of the step on one device. A
    negative q_i, of an image on the other side of the sphere, counts as 0: it has the least margin.
    """

    s: float = option('scale of the logits', 64.0, positive())
    least: float = option('margin of an image that the teacher hardly knows', 0.2, NOT_NEGATIVE)
    most: float = option('margin of the image that it knows best', 0.5, NOT_NEGATIVE)

    default_alpha = 1.0
    needs_labels = needs_centres = classifies = True

    def margins(self, pair: Pair, centres: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
        """m_i in radians, (N,)."""
        own = mx.sym.take(centres, pair.label)
        known = mx.sym.sum(unit_length(pair.teacher, 'margin_teacher') * own, axis=1)
        known = mx.sym.relu(known)
        largest = mx.sym.maximum(mx.sym.max(known), LEAST_COSINE)
        share = mx.sym.broadcast_div(known, largest)
        return mx.sym.BlockGrad((self.most - self.least) * share + self.least)

    def terms(self, pair: Pair) -> Terms:
        centres = pair.centres()
        head = Head(pair.student, pair.label, pair.num_classes, pair.embedding_size, centres)
        cosine = class_cosines(head)
        target = margin_of_images(target_of(cosine, head), self.margins(pair, centres))
        logits = self.s * with_target(cosine, target, head)
        correct = mx.sym.argmax(logits, axis=1) == pair.label
        return Terms(cross_entropy(logits, pair.label), correct)
