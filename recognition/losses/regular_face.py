"""RegularFace (Zhao et al., CVPR 2019): class centres push their nearest neighbours away."""

from ...common.backend import mx
from ..symbols import unit_length


def regular_face(
    centres: 'mx.sym.Symbol', label: 'mx.sym.Symbol', num_classes: int
) -> 'mx.sym.Symbol':
    """(N,): of the class of every image, the cosine of its centre and the nearest other one.

    The paper's exclusive regularization is 1/C sum over i of max over j != i of cos(W_i, W_j).
    Here a step takes the classes of its images, one summand an image: it is the same in the mean
    where classes have as many images as each other, and costs N x C products where all pairs of
    classes would cost C x C (29 GB of cosines at 85,742 classes). Both centres are moved.

    Parameters
    ----------
    centres : (C, D) float32, any length
    label : (N,) float32 class numbers
    """
    one_hot = mx.sym.one_hot(label, depth=num_classes)  # (N, C)
    centres = unit_length(centres, 'regular_face_centres')
    cosine = mx.sym.dot(mx.sym.take(centres, label), centres, transpose_b=True)
    return mx.sym.max(cosine - 4 * one_hot, axis=1)  # no cosine is as low as the own one then
