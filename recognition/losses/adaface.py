"""AdaFace (Kim et al., arXiv:2204.00964): the margin follows the quality of an image, for which the
length of its embedding stands."""

import math
from dataclasses import dataclass

from ...common.backend import mx
from ...common.names import CLASSIFIER_PREFIX
from ...common.options import SHARE, option, positive
from ..symbols import length_of
from .cosine import CosineLoss, angle_of, target_of, with_target
from .loss import LOSSES, Head, Logits

MEAN, DEVIATION = CLASSIFIER_PREFIX + '_norm_mean', CLASSIFIER_PREFIX + '_norm_deviation'
FIRST_MEAN, FIRST_DEVIATION = 20.0, 100.0  # the authors' start of the running values
SHORTEST, LONGEST = 0.001, 100.0  # lengths that count
LEAST_DEVIATION = 1e-3  # added to it


@LOSSES.register('adaface')
@dataclass(frozen=True)
class AdaFace(CosineLoss):
    """Target cos(theta - m z) - (m + m z), where z = h (|x| - mean) / (deviation + 1e-3), clipped
    to -1..1.

    mean and deviation are running values of the lengths |x| in a step (clipped to 0.001..100; the
    deviation with N - 1), which take in a step before it uses them; they are the loss's state. No
    gradient flows through z. The angle is kept in 0..pi (the authors: 1e-3 inside), beyond which
    the cosine would rise again.
    """

    s: float = option('scale of the logits', 64.0, positive())
    m: float = option(
        'margin: the angle moves by up to this, the cosine by up to twice', 0.4, SHARE
    )
    h: float = option('concentration: deviations from the mean times this', 0.333, positive())
    pace: float = option('share of a step in the running mean and deviation', 0.01, positive(1.0))

    margin_on_target_alone = True

    def of_cosines(self, cosine: 'mx.sym.Symbol', head: Head) -> Logits:
        quality, states = self._quality(head.embedding)
        theta = angle_of(target_of(cosine, head))
        angle = mx.sym.clip(theta - self.m * quality, 0, math.pi)
        target = mx.sym.cos(angle) - self.m * (1 + quality)
        return Logits(with_target(cosine, target, head), states=states)

    def _quality(self, embedding: 'mx.sym.Symbol') -> tuple:
        """z of every image, (N,), and the states after the step."""
        length = mx.sym.BlockGrad(mx.sym.clip(length_of(embedding), SHORTEST, LONGEST))
        mean = mx.sym.mean(length)
        others = mx.sym.maximum(mx.sym.sum(mx.sym.ones_like(length)) - 1, 1)
        squares = mx.sym.sum(mx.sym.square(mx.sym.broadcast_sub(length, mean)))
        found = {
            MEAN: (mean, FIRST_MEAN),
            DEVIATION: (mx.sym.sqrt(squares / others), FIRST_DEVIATION),
        }
        states = {}
        for name, (value, first) in found.items():
            before = mx.sym.Variable(name, shape=(1,), init=mx.init.Constant(first))
            states[name] = mx.sym.BlockGrad(self.pace * value + (1 - self.pace) * before)
        distance = mx.sym.broadcast_sub(length, states[MEAN])
        scaled = mx.sym.broadcast_div(distance, states[DEVIATION] + LEAST_DEVIATION)
        return mx.sym.clip(self.h * scaled, -1, 1), states
