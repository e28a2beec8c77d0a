"""Angular distillation of VarGFaceNet (arXiv:1910.04985): directions alone count."""

from dataclasses import dataclass

from ...common.backend import mx
from ...common.errors import InputError
from ...common.options import one_of, option
from ..symbols import unit_length
from .loss import DISTILLATION_LOSSES, DistillationLoss, Pair

FORMS = ('l2', 'cosine')


def angular_distance(
    student: 'mx.sym.Symbol', teacher: 'mx.sym.Symbol', form: str = 'l2'
) -> 'mx.sym.Symbol':
    """Distance of the directions of two embeddings, one number per image.

    VarGFaceNet (arXiv:1910.04985): 'l2' is the summand of Eq. 5, ||F_t/|F_t| - F_s/|F_s|||^2;
    'cosine' that of Eq. 4, (1 - cos)^2. No gradient flows into the teacher.

    Parameters
    ----------
    student, teacher : (N, D) float32, any length

    Raises
    ------
    InputError for another form.
    """
    student = unit_length(student, 'distill_student')
    teacher = unit_length(mx.sym.BlockGrad(teacher), 'distill_teacher')
    if form == 'l2':
        return mx.sym.sum(mx.sym.square(teacher - student), axis=1)
    if form == 'cosine':
        return mx.sym.square(1 - mx.sym.sum(teacher * student, axis=1))
    raise InputError(f"distillation form {form!r}: expected 'l2' (Eq. 5) or 'cosine' (Eq. 4)")


def angular_distillation(
    student: 'mx.sym.Symbol', teacher: 'mx.sym.Symbol', form: str = 'l2'
) -> 'mx.sym.Symbol':
    """L_s of VarGFaceNet: the mean of `angular_distance` over the batch, Eq. 5 or Eq. 4, (1,)."""
    return mx.sym.mean(angular_distance(student, teacher, form))


@DISTILLATION_LOSSES.register('angular')
@dataclass(frozen=True)
class Angular(DistillationLoss):
    """Distance of the directions of student and teacher, image by image."""

    form: str = option('l2 is Eq. 5, cosine is Eq. 4', 'l2', one_of(FORMS))

    def loss(self, pair: Pair) -> 'mx.sym.Symbol':
        return angular_distance(pair.student, pair.teacher, self.form)
