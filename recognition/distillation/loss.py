"""What a distillation loss is."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...common.backend import mx
from ...common.names import TEACHER_CENTRES
from ...common.options import check, defaults_of, rules_of
from ...common.registry import Registry
from ..losses import Terms


class Pair(NamedTuple):
    """A batch as student and teacher see it."""

    student: 'mx.sym.Symbol'  # (N, D) float32, any length
    teacher: 'mx.sym.Symbol'  # (N, D) float32, any length; an input, to which no gradient flows
    label: 'mx.sym.Symbol'  # (N,) float32 class numbers
    batch_size: int  # N of one device
    num_classes: int
    embedding_size: int  # D
    compiled: bool = False  # whether operators of the project's for the CPU may be used

    def centres(self) -> 'mx.sym.Symbol':
        """(C, D) float32, `class_centres` of the teacher: a constant that no optimizer sees. Of a
        loss that has `needs_centres`; to be called once, since a graph has one such variable."""
        # zeros until the first rank, which reads the store, gives them to the others
        shape = (self.num_classes, self.embedding_size)
        return mx.sym.Variable(TEACHER_CENTRES, shape=shape, init=mx.init.Zero())


class DistillationLoss:
    """Base of all distillation losses: a frozen dataclass of options, made by
    `common.options.option`, and the loss that they lead to.

    Attributes
    ----------
    default_alpha : weight of L_s where --alpha is not given
    needs_labels : whether L_s looks at labels
    needs_embeddings : whether it looks at the teacher's embeddings of the images of a step
    needs_centres : whether it looks at the teacher's class centres
    classifies : whether it takes the place of the classification loss
    compares_images : whether it learns from pairs of images of one person in a step
    """

    default_alpha = 7.0  # VarGFaceNet's
    needs_labels = False
    needs_embeddings = True
    needs_centres = False
    classifies = False
    compares_images = False

    def loss(self, pair: Pair) -> 'mx.sym.Symbol':
        """L_s of every image, (N,) float32; the trainer takes alpha times its mean (VarGFaceNet,
        arXiv:1910.04985, Eq. 7). A loss of the batch as a whole gives every image the same."""
        raise NotImplementedError(f'{type(self).__name__} has neither loss nor terms of its own')

    def terms(self, pair: Pair) -> Terms:
        """L_s and what else a loss has; a loss that has no more leaves this as it is."""
        return Terms(self.loss(pair))


DISTILLATION_LOSSES: Registry[type[DistillationLoss]] = Registry('distillation loss')


def make_distillation_loss(name: str, options: Mapping[str, Any]) -> DistillationLoss:
    """The loss `name` with its options; InputError for unknown names and wrong values."""
    kind = DISTILLATION_LOSSES.get(name)
    return kind(**check('distillation', name, options, defaults_of(kind), rules_of(kind)))
