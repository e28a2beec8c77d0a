"""Relational distillation (RKD, arXiv:1904.05068): the shape of a batch counts, not its place."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.errors import InputError
from ...common.options import NOT_NEGATIVE, option
from ..symbols import for_every_image, unit_length
from .loss import DISTILLATION_LOSSES, DistillationLoss, Pair

# In float32 two embeddings that are nearer hardly have a direction from one to the other; of such a
# pair no gradient flows.
LEAST_DISTANCE = 1e-2


def _relations(unit: 'mx.sym.Symbol', n: int) -> tuple:
    """Of (N, D) rows of unit length: distances over their mean (N, N), and cosines of the angles
    (N, N, N), [j, i, k] that at j between i and k: 0 for i or k = j, and 1 for i = k."""
    gram = mx.sym.dot(unit, unit, transpose_b=True)
    distance = mx.sym.sqrt(mx.sym.maximum(2 - 2 * gram, LEAST_DISTANCE**2))
    total = mx.sym.sum(distance * (1 - mx.sym.eye(n)))
    relative = mx.sym.broadcast_div(distance, total / (n * (n - 1)))
    # (f_i - f_j)(f_k - f_j) = f_i f_k - f_i f_j - f_k f_j + 1: no array of N x N x D
    to_i, to_k = mx.sym.expand_dims(gram, axis=2), mx.sym.expand_dims(gram, axis=1)
    product = 1 - mx.sym.broadcast_add(to_i, to_k)
    product = mx.sym.broadcast_add(product, mx.sym.expand_dims(gram, axis=0))
    apart = distance + mx.sym.eye(n)  # where i or k = j, nothing is divided by next to nothing
    lengths = mx.sym.broadcast_mul(
        mx.sym.expand_dims(apart, axis=2), mx.sym.expand_dims(apart, axis=1)
    )
    return relative, product / lengths


@DISTILLATION_LOSSES.register('rkd')
@dataclass(frozen=True)
class Relational(DistillationLoss):
    """Huber loss of distances over their mean in all pairs, and of cosines in all triplets.

    Each is the mean over ordered pairs and triplets of different images of the batch (of one
    device); embeddings are of unit length. The angles take N x N x N floats.
    """

    distance: float = option('weight of the distances', 25.0, NOT_NEGATIVE)
    angle: float = option('weight of the angles', 50.0, NOT_NEGATIVE)

    default_alpha = 1.0

    def loss(self, pair: Pair) -> 'mx.sym.Symbol':
        n = pair.batch_size
        if n < 3:
            raise InputError(
                f'rkd compares the images of a step with each other; {n} a device are too few, '
                'give --per-batch-size 3 or more'
            )
        ours = _relations(unit_length(pair.student, 'rkd_student'), n)
        theirs = _relations(unit_length(mx.sym.BlockGrad(pair.teacher), 'rkd_teacher'), n)
        distances, angles = (
            mx.sym.smooth_l1(one - other, scalar=1.0) for one, other in zip(ours, theirs)
        )
        distances = mx.sym.sum(distances * (1 - mx.sym.eye(n))) / (n * (n - 1))
        # where indices agree both angles are 0, or both 1: no mask of N x N x N is needed
        angles = mx.sym.sum(angles) / (n * (n - 1) * (n - 2))
        return for_every_image(self.distance * distances + self.angle * angles, n)
