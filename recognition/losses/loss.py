"""What a classification loss is, and the term of the training graph that comes of it.

Every loss is one number per image, shape (N,); the trainer divides by the batch size.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from ...common.backend import mx
from ...common.names import CLASSIFIER_WEIGHT
from ...common.options import check, defaults_of, rules_of
from ...common.registry import Registry
from ..symbols import cross_entropy


class Head(NamedTuple):
    """What a loss is put on."""

    embedding: 'mx.sym.Symbol'  # (N, D) float32, any length
    label: 'mx.sym.Symbol'  # (N,) float32 class numbers
    num_classes: int  # C
    embedding_size: int  # D

    centres: Optional['mx.sym.Symbol'] = None  # (C, D), in place of a classifier to be trained

    def weight(self) -> 'mx.sym.Symbol':
        """The classifier's variable `fc7_weight`, (C, D): class centres of a margin loss."""
        if self.centres is not None:
            return self.centres
        shape = (self.num_classes, self.embedding_size)
        return mx.sym.Variable(CLASSIFIER_WEIGHT, shape=shape)


class ClassificationLoss:
    """Base of all losses: a frozen dataclass of options, made by `common.options.option`, and the
    logits that they lead to.

    >>> @LOSSES.register('scaled')
    ... @dataclass(frozen=True)
    ... class Scaled(ClassificationLoss):
    ...     s: float = option('scale of the logits', 64.0, positive())
    ...
    ...     def logits(self, head):
    ...         return ...
    """

    def logits(self, head: Head) -> 'mx.sym.Symbol':
        """(N, C) float32, the target's margin already in it."""
        raise NotImplementedError

    def compiled(self, head: Head) -> Optional[tuple]:
        """(loss, correct) by an operator of the project's for the CPU: the same numbers, faster or
        in less memory. None of a loss that has none."""
        return None


LOSSES: Registry[type[ClassificationLoss]] = Registry('loss')


def make_loss(name: str, options: Mapping[str, Any]) -> ClassificationLoss:
    """The loss `name` with its options; InputError for unknown names and wrong values."""
    kind = LOSSES.get(name)
    return kind(**check('loss', name, options, defaults_of(kind), rules_of(kind)))


def class_loss(loss: ClassificationLoss, head: Head, compiled: bool = False) -> tuple:
    """Cross entropy of a loss; the classifier is `fc7_weight` (C, D).

    Parameters
    ----------
    compiled : use the loss's operator for the CPU, if it has one

    Returns
    -------
    (loss, correct) : symbols (N,); correct is 1 where the target's logit is the largest
    """
    outputs = loss.compiled(head) if compiled else None
    if outputs:
        return outputs
    logits = loss.logits(head)
    return cross_entropy(logits, head.label), mx.sym.argmax(logits, axis=1) == head.label
