"""What a distillation loss is."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from ...common.backend import mx
from ...common.options import check, defaults_of, rules_of
from ...common.registry import Registry


class Pair(NamedTuple):
    """A batch as student and teacher see it."""

    student: 'mx.sym.Symbol'  # (N, D) float32, any length
    teacher: 'mx.sym.Symbol'  # (N, D) float32, any length; an input, to which no gradient flows
    label: 'mx.sym.Symbol'  # (N,) float32 class numbers
    batch_size: int  # N of one device
    num_classes: int
    embedding_size: int  # D


class DistillationLoss:
    """Base of all distillation losses: a frozen dataclass of options, made by
    `common.options.option`, and the loss that they lead to.

    Attributes
    ----------
    default_alpha : weight of L_s beside the classification loss where --alpha is not given
    """

    default_alpha = 7.0  # VarGFaceNet's

    def loss(self, pair: Pair) -> 'mx.sym.Symbol':
        """L_s of every image, (N,) float32; the trainer takes alpha times its mean (VarGFaceNet,
        arXiv:1910.04985, Eq. 7). A loss of the batch as a whole gives every image the same."""
        raise NotImplementedError


DISTILLATION_LOSSES: Registry[type[DistillationLoss]] = Registry('distillation loss')


def for_every_image(loss: 'mx.sym.Symbol', batch_size: int) -> 'mx.sym.Symbol':
    """A loss of the batch as a whole, (1,), as that of every image, (N,)."""
    return mx.sym.broadcast_to(loss, shape=(batch_size,))


def make_distillation_loss(name: str, options: Mapping[str, Any]) -> DistillationLoss:
    """The loss `name` with its options; InputError for unknown names and wrong values."""
    kind = DISTILLATION_LOSSES.get(name)
    return kind(**check('distillation', name, options, defaults_of(kind), rules_of(kind)))
