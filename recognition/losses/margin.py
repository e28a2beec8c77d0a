"""Classification and distillation losses as MXNet symbols.

Every loss is one number per image, shape (N,); the trainer divides by the batch size. The frame of
a margin loss is: unit-length embeddings and class centres -> cosines -> margin on the target's
cosine -> scale -> cross entropy.
"""

import math

from ..common.backend import mx
from ..common.engine import ops
from ..common.errors import InputError
from ..common.names import CLASSIFIER_BIAS, CLASSIFIER_PREFIX, CLASSIFIER_WEIGHT
from ..common.registry import Registry

# arccos has an infinite slope at +-1, and float32 cosines of equal vectors exceed 1 by rounding.
# Clipping here moves the target's logit by at most 0.044 at theta = 0 (scale 64, margin 0.5).
COSINE_LIMIT = 1 - 1e-6

MARGIN_DEFAULTS = {'s': 64.0, 'm1': 1.0, 'm2': 0.5, 'm3': 0.0}  # ArcFace

LOSSES: Registry = Registry('loss')


def unit_length(vectors: 'mx.sym.Symbol', name: str) -> 'mx.sym.Symbol':
    """Rows of (N, D) divided by their L2 norm; a zero row stays zero."""
    return mx.sym.L2Normalization(vectors, mode='instance', name=name)


def margin_cosine(
    cosine: 'mx.sym.Symbol', m1: float = 1.0, m2: float = 0.0, m3: float = 0.0
) -> 'mx.sym.Symbol':
    """The target's cosine after the margin: cos(m1 * theta + m2) - m3.

    ArcFace (arXiv:1801.07698) is (1, m, 0), CosFace (arXiv:1801.09414) (1, 0, m).

    Where m1 * theta + m2 passes pi the cosine would rise again and reward the worst angles; from
    theta_pi = (pi - m2) / m1 on the value is cos(theta) - (pi - theta_pi) * sin(theta_pi) - m3,
    for m1 = 1 ArcFace's own cos(theta) - m2 * sin(m2).

    Parameters
    ----------
    cosine : symbol of any shape, values in [-1, 1] up to rounding
    m1, m2, m3 : factor of the angle, addition to the angle (radians), subtraction from the cosine
    """
    if m1 == 1 and m2 == 0:
        return cosine - m3
    clipped = mx.sym.clip(cosine, -COSINE_LIMIT, COSINE_LIMIT)
    theta = mx.sym.arccos(clipped)
    theta_pi = (math.pi - m2) / m1
    beyond = cosine - (math.pi - theta_pi) * math.sin(theta_pi)
    return mx.sym.where(theta < theta_pi, mx.sym.cos(m1 * theta + m2), beyond) - m3


def margin_logits(
    cosine: 'mx.sym.Symbol',
    label: 'mx.sym.Symbol',
    num_classes: int,
    s: float = 64.0,
    m1: float = 1.0,
    m2: float = 0.5,
    m3: float = 0.0,
) -> 'mx.sym.Symbol':
    """s * cosine with the margin on each row's target.

    Parameters
    ----------
    cosine : (N, C) float32
    label : (N,) float32 class numbers
    s : scale of the logits; the margins as in `margin_cosine`
    """
    if m1 == 1 and m2 == 0 and m3 == 0:
        return s * cosine
    target = mx.sym.pick(cosine, label, axis=1)  # (N,)
    change = margin_cosine(target, m1, m2, m3) - target
    one_hot = mx.sym.one_hot(label, depth=num_classes)  # (N, C)
    return s * (cosine + mx.sym.broadcast_mul(one_hot, mx.sym.expand_dims(change, axis=1)))


@LOSSES.register('softmax')
def softmax_logits(embedding, label, num_classes: int, embedding_size: int) -> 'mx.sym.Symbol':
    """(N, D) -> (N, C) of a plain fully connected layer with bias."""
    return mx.sym.FullyConnected(
        embedding,
        weight=mx.sym.Variable(CLASSIFIER_WEIGHT, shape=(num_classes, embedding_size)),
        bias=mx.sym.Variable(CLASSIFIER_BIAS, shape=(num_classes,)),
        num_hidden=num_classes,
        name=CLASSIFIER_PREFIX,
    )


@LOSSES.register('margin')
def margin_head(
    embedding, label, num_classes: int, embedding_size: int, **options: float
) -> 'mx.sym.Symbol':
    """(N, D) -> (N, C) logits of normalised centres; options s, m1, m2, m3."""
    centres = unit_length(
        mx.sym.Variable(CLASSIFIER_WEIGHT, shape=(num_classes, embedding_size)),
        CLASSIFIER_PREFIX + '_centres',
    )
    cosine = mx.sym.FullyConnected(
        unit_length(embedding, CLASSIFIER_PREFIX + '_embedding'),
        weight=centres,
        num_hidden=num_classes,
        no_bias=True,
        name=CLASSIFIER_PREFIX,
    )
    return margin_logits(cosine, label, num_classes, **options)


def class_loss(
    name: str,
    embedding,
    label,
    num_classes: int,
    embedding_size: int,
    options: dict,
    compiled: bool = False,
) -> tuple:
    """Cross entropy of the loss `name` with its options; the classifier is `fc7_weight` (C, D).

    Parameters
    ----------
    embedding, label : symbols (N, D) and (N,)
    compiled : use the project's operator for a margin loss, on the CPU only; the same numbers
        in a fraction of the memory

    Returns
    -------
    (loss, correct) : symbols (N,); correct is 1 where the target's logit is the largest

    Raises
    ------
    InputError for an unknown loss, an unknown option or a scale that is not positive.
    """
    head = LOSSES.get(name)
    known = {'margin': MARGIN_DEFAULTS}.get(name, {})
    for option, value in options.items():
        if option not in known:
            raise InputError(
                f'loss {name!r} has no option {option!r}; it has: {tuple(known) or "none"}'
            )
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InputError(f'loss option {option}={value!r}: must be a number')
        if not math.isfinite(value):
            raise InputError(f'loss option {option}={value}: must be a finite number')
        if option in ('s', 'm1') and value <= 0:
            raise InputError(f'loss option {option}={value}: must be above 0')
    if compiled and name == 'margin':
        centres = mx.sym.Variable(CLASSIFIER_WEIGHT, shape=(num_classes, embedding_size))
        return ops.margin_softmax(embedding, centres, label, **{**MARGIN_DEFAULTS, **options})
    logits = head(embedding, label, num_classes, embedding_size, **options)
    return cross_entropy(logits, label), mx.sym.argmax(logits, axis=1) == label


def cross_entropy(logits: 'mx.sym.Symbol', label: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """-log softmax(logits)[label], (N, C) and (N,) -> (N,)."""
    return -mx.sym.pick(mx.sym.log_softmax(logits, axis=1), label, axis=1)


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
