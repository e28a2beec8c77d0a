"""MagFace (Meng et al., arXiv:2103.06627): long embeddings get a wide margin and are rewarded, so
that the length becomes a measure of quality."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.errors import InputError
from ...common.options import NOT_NEGATIVE, option, positive
from ..symbols import length_of
from .cosine import CosineLoss, target_of, with_target
from .loss import LOSSES, Head, Logits
from .margin import margin_of_images


@LOSSES.register('magface')
@dataclass(frozen=True)
class MagFace(CosineLoss):
    """Target cos(theta + m(a)), and weight * g(a) beside the cross entropy.

    a = |x| clipped to shortest..longest; m(a) goes in a straight line from narrow to wide;
    g(a) = 1 / a + a / longest^2, which falls up to longest. The gradient flows through both, and
    there is none in a beyond the limits. An embedding of D values out of a BatchNorm without scale
    has a length of about sqrt(D): 22.6 at 512, 11.3 at 128, and below `shortest` at 64.
    """

    s: float = option('scale of the logits', 64.0, positive())
    shortest: float = option('length of an embedding with the margin `narrow`', 10.0, positive())
    longest: float = option('length of one with the margin `wide`', 110.0, positive())
    narrow: float = option("least addition to the target's angle, radians", 0.45, NOT_NEGATIVE)
    wide: float = option('largest addition', 0.8, NOT_NEGATIVE)
    weight: float = option('of g, which rewards length', 35.0, NOT_NEGATIVE)

    def __post_init__(self) -> None:
        if self.shortest >= self.longest:
            raise InputError(
                f'loss magface: shortest {self.shortest:g} must be below longest {self.longest:g}'
            )

    margin_on_target_alone = True

    def of_cosines(self, cosine: 'mx.sym.Symbol', head: Head) -> Logits:
        length = mx.sym.clip(length_of(head.embedding), self.shortest, self.longest)
        slope = (self.wide - self.narrow) / (self.longest - self.shortest)
        margin = slope * (length - self.shortest) + self.narrow
        target = margin_of_images(target_of(cosine, head), margin)
        penalty = self.weight * (1 / length + length / self.longest**2)
        return Logits(with_target(cosine, target, head), penalty)
