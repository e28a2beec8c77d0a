"""Sub-center ArcFace (Deng et al., ECCV 2020): several centres a class, so that wrong labels and
hard images gather around others than the main one."""

from dataclasses import dataclass
from functools import reduce

from ...common.backend import mx
from ...common.options import REAL, integer, option, positive
from .cosine import CosineLoss, target_of, with_target
from .loss import LOSSES, Head, Logits
from .margin import margin_cosine


@LOSSES.register('subcenter_arcface')
@dataclass(frozen=True)
class SubCenterArcFace(CosineLoss):
    """ArcFace on the largest cosine of the k centres of each class.

    Centre j of class c is row c * k + j of `fc7_weight`, (C * k, D).
    """

    s: float = option('scale of the logits', 64.0, positive())
    m: float = option("addition to the target's angle, radians", 0.5, REAL)
    k: int = option('centres a class', 3, integer(1))

    @property
    def centres_per_class(self) -> int:
        return self.k

    def of_cosines(self, cosine: 'mx.sym.Symbol', head: Head) -> Logits:
        of_centres = mx.sym.reshape(cosine, shape=(-1, head.num_classes, self.k))
        # (N, C); MXNet's max over so short an axis takes 2.5 times as long
        nearest = reduce(
            mx.sym.maximum,
            (
                mx.sym.reshape(
                    mx.sym.slice_axis(of_centres, axis=2, begin=centre, end=centre + 1),
                    shape=(-1, head.num_classes),
                )
                for centre in range(self.k)
            ),
        )
        target = margin_cosine(target_of(nearest, head), m2=self.m)
        return Logits(with_target(nearest, target, head))
