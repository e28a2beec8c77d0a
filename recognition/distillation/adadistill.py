"""AdaDistill (arXiv:2407.01332): class centres follow the teacher as well as the student does."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.names import CLASSIFIER_PREFIX
from ...common.options import REAL, option, positive
from ..losses import Head, class_loss
from ..losses.margin import Margin
from ..symbols import unit_length
from .loss import DISTILLATION_LOSSES, DistillationLoss, Pair, Terms

CENTRES = CLASSIFIER_PREFIX + '_mean_centres'
LEAST_WEIGHT = 1e-6


@DISTILLATION_LOSSES.register('adadistill')
@dataclass(frozen=True)
class AdaDistill(DistillationLoss):
    """Margin softmax against running means of the teacher's embeddings.

    Before the softmax the centre of every class of the step becomes w * centre + (1 - w) * t, where
    w = f.t * cos(centre, t), each factor and w itself clipped (Eq. 7 and 8); a student that agrees
    with the teacher leaves its centre in place. Of several images of a class it is the mean of what
    each alone would make of the centre, so that their order does not matter. No gradient reaches
    the centres. They start at random and are saved with the checkpoint.
    """

    s: float = option('scale of the logits', 64.0, positive())
    m2: float = option("addition to the target's angle, radians", 0.45, REAL)
    m3: float = option("subtraction from the target's cosine", 0.0, REAL)

    default_alpha = 1.0
    needs_labels = classifies = True

    def terms(self, pair: Pair) -> Terms:
        shape = (pair.num_classes, pair.embedding_size)
        before = mx.sym.Variable(CENTRES, shape=shape, init=mx.init.Normal(0.01))
        centres = mx.sym.BlockGrad(_moved(before, pair))
        head = Head(pair.student, pair.label, pair.num_classes, pair.embedding_size, centres)
        margin = Margin(s=self.s, m2=self.m2, m3=self.m3)
        return class_loss(margin, head, pair.compiled)._replace(states={CENTRES: centres})


def _moved(centres: 'mx.sym.Symbol', pair: Pair) -> 'mx.sym.Symbol':
    """(C, D): the centres after a step's images."""
    student = unit_length(pair.student, 'adadistill_student')
    teacher = unit_length(pair.teacher, 'adadistill_teacher')
    own = mx.sym.take(centres, pair.label)  # (N, D)
    alike = mx.sym.clip(mx.sym.sum(student * teacher, axis=1, keepdims=True), -1, 1)
    near = mx.sym.sum(unit_length(own, 'adadistill_own') * teacher, axis=1, keepdims=True)
    weight = mx.sym.clip(alike * mx.sym.clip(near, LEAST_WEIGHT, 1), LEAST_WEIGHT, 1)
    move = mx.sym.broadcast_mul(1 - weight, teacher - own)
    columns, rows = (mx.sym.expand_dims(pair.label, axis=axis) for axis in (1, 0))
    same = mx.sym.broadcast_equal(columns, rows)  # (N, N)
    move = mx.sym.broadcast_div(mx.sym.dot(same, move), mx.sym.sum(same, axis=1, keepdims=True))
    # images of one class write to one row: all write the bits of the first one
    move = mx.sym.take(move, mx.sym.argmax(same, axis=1))
    shape = (pair.num_classes, pair.embedding_size)
    return centres + mx.sym.scatter_nd(move, rows, shape=shape)
