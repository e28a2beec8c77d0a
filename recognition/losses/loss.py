"""What a classification loss is, and the term of the training graph that comes of it.

Every loss is one number per image, shape (N,); the trainer divides by the batch size.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

from ...common.backend import mx
from ...common.errors import InputError
from ...common.names import CLASSIFIER_WEIGHT, DATA, IMAGE_SHAPE, LABEL
from ...common.options import check, defaults_of, rules_of
from ...common.registry import Registry
from ..symbols import check_shape, cross_entropy, inferred_shapes
from .regular_face import regular_face

log = logging.getLogger(__name__)


class Head(NamedTuple):
    """What a loss is put on."""

    embedding: 'mx.sym.Symbol'  # (N, D) float32, any length
    label: 'mx.sym.Symbol'  # (N,) float32 class numbers
    num_classes: int  # C
    embedding_size: int  # D
    centres: Optional['mx.sym.Symbol'] = None  # (C, D), in place of a classifier to be trained
    batch_size: Optional[int] = None  # N of one device, where it is known

    def weight(self) -> 'mx.sym.Symbol':
        """The classifier's variable `fc7_weight`, (C, D): class centres of a margin loss."""
        return self.with_weight(1).centres

    def with_weight(self, centres_per_class: int) -> 'Head':
        """The same with the variable `fc7_weight`, (C * centres_per_class, D), as its centres: a
        graph has one variable of a name, however many terms look at it."""
        if self.centres is not None:
            return self
        shape = (self.num_classes * centres_per_class, self.embedding_size)
        return self._replace(centres=mx.sym.Variable(CLASSIFIER_WEIGHT, shape=shape))


class Logits(NamedTuple):
    """What a loss makes of a head."""

    values: 'mx.sym.Symbol'  # (N, C) float32, the target's margin already in it
    penalty: Optional['mx.sym.Symbol'] = None  # (N,), added to the cross entropy
    states: Mapping[str, 'mx.sym.Symbol'] = {}  # as in `Terms`


class Terms(NamedTuple):
    """What a loss adds to the training graph."""

    loss: 'mx.sym.Symbol'  # (N,)
    correct: Optional['mx.sym.Symbol'] = None  # (N,), 1 where a loss that classifies is right
    # variable -> its value after the step: arrays that a loss carries from step to step, untouched
    # by the optimizer and saved with the checkpoint; their names start with CLASSIFIER_PREFIX
    states: Mapping[str, 'mx.sym.Symbol'] = {}


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

    Attributes
    ----------
    softmax : whether it is a cross entropy of logits, whose labels --label-smoothing can smooth
    centres_per_class : rows of `fc7_weight` that a class has; 0 of a loss without a classifier
    compares_images : whether it learns from pairs of images of one person in a step
    """

    softmax = True
    centres_per_class = 1
    compares_images = False

    def logits(self, head: Head) -> 'mx.sym.Symbol':
        """(N, C) float32, the target's margin already in it."""
        raise NotImplementedError(f'{type(self).__name__} has neither logits nor terms of its own')

    def all_logits(self, head: Head) -> Logits:
        """The logits and what else a loss has; one that has no more leaves this as it is."""
        return Logits(self.logits(head))

    def compiled(self, head: Head, smoothing: float) -> Optional[tuple]:
        """(loss, correct) by an operator of the project's for the CPU: the same numbers, faster or
        in less memory. None of a loss that has none."""
        return None

    def terms(self, head: Head, compiled: bool, smoothing: float) -> Terms:
        """Cross entropy of the logits; another loss puts its own here."""
        outputs = self.compiled(head, smoothing) if compiled else None
        if outputs:
            return Terms(*outputs)
        logits, penalty, states = self.all_logits(head)
        _check_logits(type(self).__name__, logits, head)
        loss = cross_entropy(logits, head.label, smoothing)
        loss = loss if penalty is None else loss + penalty
        return Terms(loss, mx.sym.argmax(logits, axis=1) == head.label, states)


def _check_logits(loss: str, logits: 'mx.sym.Symbol', head: Head) -> None:
    """InputError for logits of a training graph that are no (N, C): MXNet takes the nearest column
    for a label that has none."""
    if head.batch_size is None or DATA not in logits.list_arguments():
        return
    inputs = {DATA: (head.batch_size, *IMAGE_SHAPE), LABEL: (head.batch_size,)}
    what = f'the logits of the loss {loss}'
    shape = inferred_shapes(logits, inputs, what)[0]
    expected = (head.batch_size, head.num_classes)
    rows = 'a row for each image and a column for each class'
    check_shape(f'{what} have', shape, expected, rows)


LOSSES: Registry[type[ClassificationLoss]] = Registry('loss')


def make_loss(name: str, options: Mapping[str, Any]) -> ClassificationLoss:
    """The loss `name` with its options; InputError for unknown names and wrong values."""
    kind = LOSSES.get(name)
    return kind(**check('loss', name, options, defaults_of(kind), rules_of(kind)))


def class_loss(
    loss: ClassificationLoss,
    head: Head,
    compiled: bool = False,
    smoothing: float = 0.0,
    exclusive: float = 0.0,
) -> Terms:
    """What a loss adds to the training graph; the classifier is `fc7_weight` (C, D).

    Parameters
    ----------
    compiled : use the loss's operator for the CPU, if it has one
    smoothing : of the labels, as in `symbols.cross_entropy`
    exclusive : weight of `regular_face`

    Raises
    ------
    InputError where the loss has no place for what `smoothing` and `exclusive` ask for.
    """
    check_additions(loss, smoothing, exclusive)
    head = head.with_weight(loss.centres_per_class)
    terms = loss.terms(head, compiled, smoothing)
    if exclusive:
        penalty = regular_face(head.weight(), head.label, head.num_classes)
        terms = terms._replace(loss=terms.loss + exclusive * penalty)
    return terms


def warn_of_few_pairs(loss: str, images: int, classes: int, shuffle: str) -> None:
    """Warn where a loss that compares images finds few pairs of one person in a step.

    Where pictures are drawn without regard to people, a step of B images of C people has
    B (B - 1) / 2C such pairs if people are equally frequent, and more if they are not.
    """
    if shuffle == 'people':
        return
    pairs = images * (images - 1) / (2 * classes)
    if pairs < images / 2:
        log.warning(
            'a step of %d images of %d people has %.2g pairs of one person if all are equally '
            'frequent, and %s compares these; --shuffle people makes more of them',
            *(images, classes, pairs, loss),
        )


def check_additions(loss: ClassificationLoss, smoothing: float, exclusive: float) -> None:
    """InputError where a loss has no place for label smoothing or regular face."""
    if smoothing and not loss.softmax:
        raise InputError(
            f'--label-smoothing {smoothing:g}: {type(loss).__name__} is no cross entropy over '
            'classes; leave it out or choose another --loss'
        )
    if exclusive and loss.centres_per_class != 1:
        raise InputError(
            f'--regular-face {exclusive:g}: {type(loss).__name__} has {loss.centres_per_class} '
            'centres a class, it takes a --loss with one; leave it out or choose another'
        )
