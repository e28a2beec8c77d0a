"""The frame of losses that look at cosines: unit-length embeddings and class centres -> cosines ->
what the loss makes of them -> scale -> cross entropy."""

from ...common.backend import mx
from ...common.names import CLASSIFIER_PREFIX
from ..symbols import unit_length
from .loss import ClassificationLoss, Head, Logits

# arccos has an infinite slope at +-1, and float32 cosines of equal vectors exceed 1 by rounding.
# Clipping here moves the target's logit by at most 0.044 at theta = 0 (scale 64, margin 0.5).
COSINE_LIMIT = 1 - 1e-6


def class_cosines(head: Head, centres_per_class: int = 1) -> 'mx.sym.Symbol':
    """(N, C * centres_per_class): cosines of embeddings and class centres."""
    return mx.sym.FullyConnected(
        unit_length(head.embedding, CLASSIFIER_PREFIX + '_embedding'),
        weight=unit_length(head.weight(), CLASSIFIER_PREFIX + '_centres'),
        num_hidden=head.num_classes * centres_per_class,
        no_bias=True,
        name=CLASSIFIER_PREFIX,
    )


def target_of(values: 'mx.sym.Symbol', head: Head) -> 'mx.sym.Symbol':
    """(N,): of (N, C) values that of every image's own class."""
    return mx.sym.pick(values, head.label, axis=1)


def add_to_target(values: 'mx.sym.Symbol', change: 'mx.sym.Symbol', head: Head) -> 'mx.sym.Symbol':
    """(N, C) values with `change` (N,) added to that of every image's own class."""
    one_hot = mx.sym.one_hot(head.label, depth=head.num_classes)  # (N, C)
    return values + mx.sym.broadcast_mul(one_hot, mx.sym.expand_dims(change, axis=1))


def with_target(values: 'mx.sym.Symbol', target: 'mx.sym.Symbol', head: Head) -> 'mx.sym.Symbol':
    """(N, C) values with `target` (N,) in the place of every image's own class."""
    return add_to_target(values, target - target_of(values, head), head)


def angle_of(cosine: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """arccos in radians, of cosines in [-1, 1] up to rounding."""
    return mx.sym.arccos(mx.sym.clip(cosine, -COSINE_LIMIT, COSINE_LIMIT))


class CosineLoss(ClassificationLoss):
    """Base of losses whose logits are `s`, one of their options, times a function of cosines.

    The function is a method of its own, so that cosines may come from elsewhere: those of a part
    of the classes, for one, with labels that count within it.

    Attributes
    ----------
    margin_on_target_alone : whether the function leaves every cosine but the target's as it is, and
        looks at no other for the target's
    """

    margin_on_target_alone = False

    def of_cosines(self, cosine: 'mx.sym.Symbol', head: Head) -> Logits:
        """Cosines (N, head.num_classes * centres_per_class) and `head.label` -> logits before the
        scale, (N, head.num_classes)."""
        raise NotImplementedError

    def all_logits(self, head: Head) -> Logits:
        logits = self.of_cosines(class_cosines(head, self.centres_per_class), head)
        return logits._replace(values=self.s * logits.values)

    def logits(self, head: Head) -> 'mx.sym.Symbol':
        return self.all_logits(head).values
