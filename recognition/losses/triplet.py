"""Triplet loss with semi-hard mining (FaceNet, Schroff et al., arXiv:1503.03832)."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.errors import InputError
from ...common.options import option, positive
from ..symbols import for_every_image, unit_length
from .loss import LOSSES, ClassificationLoss, Head, Terms

FARTHER = 8.0  # than any squared distance of unit vectors


@LOSSES.register('triplet')
@dataclass(frozen=True)
class Triplet(ClassificationLoss):
    """Mean of max(0, d(a, p) - d(a, n) + margin) over all pairs (a, p) of one class in the step.

    d is the squared distance of unit-length embeddings. n is semi-hard: the nearest image of
    another class that is farther from a than p is, and where there is none the farthest of all.
    There are no class centres. A pair in a step without another class does not count. An image is
    `correct` where the nearest other image of the step is of its class.
    """

    margin: float = option('by which a negative must be farther, squared distance', 0.2, positive())

    softmax = False
    centres_per_class = 0
    compares_images = True

    def terms(self, head: Head, compiled: bool, smoothing: float) -> Terms:
        n = head.batch_size
        if not n or n < 2:
            raise InputError(
                'triplet compares the images of a step; give --per-batch-size 2 or more'
            )
        unit = unit_length(head.embedding, 'triplet_embedding')
        distance = 2 - 2 * mx.sym.dot(unit, unit, transpose_b=True)
        columns, rows = (mx.sym.expand_dims(head.label, axis=axis) for axis in (1, 0))
        same = mx.sym.broadcast_equal(columns, rows)
        itself = mx.sym.one_hot(mx.sym.arange(n), depth=n)
        negative = 1 - same
        mined = _along(distance, _semi_hard(distance, negative, n), n)
        counted = mx.sym.broadcast_mul(same - itself, mx.sym.max(negative, axis=1, keepdims=True))
        hinge = mx.sym.relu(distance - mined + self.margin) * counted
        loss = mx.sym.sum(hinge) / mx.sym.maximum(mx.sym.sum(counted), 1)
        nearest = mx.sym.argmin(distance + FARTHER * itself, axis=1)
        return Terms(for_every_image(loss, n), mx.sym.take(head.label, nearest) == head.label)


def _along(values: 'mx.sym.Symbol', columns: 'mx.sym.Symbol', n: int) -> 'mx.sym.Symbol':
    """(N, N): of every row of `values` (N, N) those in the columns that its row of `columns` names.

    As one `take`, whose gradient adds in a fixed order; that of gather_nd does not.
    """
    starts = n * mx.sym.expand_dims(mx.sym.arange(n), axis=1)
    return mx.sym.take(mx.sym.reshape(values, shape=(-1,)), mx.sym.broadcast_add(starts, columns))


def _semi_hard(distance: 'mx.sym.Symbol', negative: 'mx.sym.Symbol', n: int) -> 'mx.sym.Symbol':
    """(N, N): for a in the row and p in the column, which image is n.

    By sorting, in N x N numbers: a negative is farther than p if as many negatives lie before it
    in the order of distances as lie before p.
    """
    distance = mx.sym.BlockGrad(distance)
    order = mx.sym.argsort(distance, axis=1)
    place = mx.sym.argsort(order, axis=1)
    before = _along(mx.sym.cumsum(_along(negative, order, n), axis=1), place, n)
    last = mx.sym.maximum(mx.sym.sum(negative, axis=1, keepdims=True) - 1, 0)
    far = mx.sym.where(negative, distance, FARTHER * mx.sym.ones_like(distance))
    return _along(mx.sym.argsort(far, axis=1), mx.sym.broadcast_minimum(before, last), n)
