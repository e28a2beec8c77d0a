"""Evaluation-oriented distillation (EKD, arXiv:2206.02325): who lies above which false accept."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.errors import InputError
from ...common.names import CLASSIFIER_PREFIX
from ...common.options import NOT_NEGATIVE, integer, option
from ..symbols import for_every_image, unit_length
from .loss import DISTILLATION_LOSSES, DistillationLoss, Pair, Terms

ANCHORS = CLASSIFIER_PREFIX + '_anchors'
NUM_ANCHORS = 6  # at false accept rates 1e-1 .. 1e-6
PACE = 0.01  # of the running average of the anchors
WIDTH = 0.01  # of the soft step at an anchor
STEEPEST = 50.0  # largest exponent
NO_PAIR = -2.0  # below every cosine


def _anchors(similarity: 'mx.sym.Symbol', negative: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """(6,): of n negative pairs in descending order those at the places n // 10^k, k from 1."""
    kept = mx.sym.where(negative, similarity, NO_PAIR * mx.sym.ones_like(similarity))
    descending = mx.sym.sort(kept, axis=None, is_ascend=False)
    shares = 10.0 ** -mx.sym.arange(1, NUM_ANCHORS + 1)
    return mx.sym.take(descending, mx.sym.floor(mx.sym.broadcast_mul(mx.sym.sum(negative), shares)))


def _rank(similarity: 'mx.sym.Symbol', anchors: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """(N, N): how many anchors (1, 6) a similarity is above, smoothly."""
    above = mx.sym.broadcast_sub(
        mx.sym.expand_dims(similarity, axis=2), mx.sym.expand_dims(anchors, axis=0)
    )
    return mx.sym.sum(mx.sym.sigmoid(mx.sym.clip(above / WIDTH, -STEEPEST, STEEPEST)), axis=2)


def _mean_over(values: 'mx.sym.Symbol', mask: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """(1,): mean of the values where the mask is 1; 0 if it is nowhere."""
    return mx.sym.sum(values * mask) / mx.sym.maximum(mx.sym.sum(mask), 1)


@DISTILLATION_LOSSES.register('ekd')
@dataclass(frozen=True)
class Ekd(DistillationLoss):
    """Squared difference of the ranks that student and teacher give to a pair of images.

    A rank says how many false accept rates' thresholds (the anchors) a similarity is above. Ranks
    are compared for all positive pairs of the step and for the negative ones that the student finds
    most alike. The anchors are running averages of each network's own, start at 0, take in a step
    before it uses them, and are saved with the checkpoint. A step without negative pairs leaves
    them. The loss wants steps with several images of a person.
    """

    positive: float = option('weight of the positive pairs', 0.02, NOT_NEGATIVE)
    negative: float = option('weight of the negative pairs', 0.01, NOT_NEGATIVE)
    hardest: int = option('negative pairs that count, at most', 2000, integer(1))

    default_alpha = 1.0
    needs_labels = compares_images = True

    def terms(self, pair: Pair) -> Terms:
        n = pair.batch_size
        if n < 2:
            raise InputError('ekd compares the images of a step; give --per-batch-size 2 or more')
        student = unit_length(pair.student, 'ekd_student')
        teacher = unit_length(mx.sym.BlockGrad(pair.teacher), 'ekd_teacher')
        ours, theirs = (mx.sym.dot(x, x, transpose_b=True) for x in (student, teacher))
        positive, negative = _pairs(pair.label, n)
        before = mx.sym.Variable(ANCHORS, shape=(2, NUM_ANCHORS), init=mx.init.Zero())
        found = mx.sym.stack(_anchors(ours, negative), _anchors(theirs, negative), axis=0)
        pace = PACE * (mx.sym.sum(negative) > 0)
        anchors = mx.sym.BlockGrad(before + mx.sym.broadcast_mul(pace, found - before))
        difference = mx.sym.square(
            _rank(ours, mx.sym.slice_axis(anchors, axis=0, begin=0, end=1))
            - _rank(theirs, mx.sym.slice_axis(anchors, axis=0, begin=1, end=2))
        )
        hard = self._hardest(ours, negative, n)
        loss = self.positive * _mean_over(difference, positive)
        loss = loss + self.negative * _mean_over(difference, hard)
        return Terms(for_every_image(loss, n), states={ANCHORS: anchors})

    def _hardest(self, similarity, negative, n: int) -> 'mx.sym.Symbol':
        """(N, N) mask of the negative pairs that are most alike."""
        kept = mx.sym.where(negative, similarity, NO_PAIR * mx.sym.ones_like(similarity))
        count = min(self.hardest, n * (n - 1) // 2)
        flat = mx.sym.reshape(kept, shape=(1, -1))
        mask = mx.sym.reshape(mx.sym.topk(flat, k=count, ret_typ='mask'), shape=(n, n))
        return mx.sym.BlockGrad(mask * negative)


def _pairs(label: 'mx.sym.Symbol', n: int) -> tuple:
    """(positive, negative): (N, N) masks of the pairs i < j of one class and of two."""
    columns, rows = (mx.sym.expand_dims(label, axis=axis) for axis in (1, 0))
    same = mx.sym.broadcast_equal(columns, rows)
    place = mx.sym.arange(n)
    upper = mx.sym.broadcast_lesser(
        mx.sym.expand_dims(place, axis=1), mx.sym.expand_dims(place, axis=0)
    )
    return upper * same, upper * (1 - same)
