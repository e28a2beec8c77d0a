"""Distillation losses against float64 loops from the definitions, forward and gradient."""

import math

import gradients as values
import numpy as np
import pytest
from gradients import relative_error
from reference import gradient, log_sum_exp, margin_loss, margin_target, unit
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops
from vargfacenet.common.errors import InputError
from vargfacenet.recognition.class_centres import class_centres
from vargfacenet.recognition.distillation import Pair, make_distillation_loss

# a loss must not depend on who adds which rows
pytestmark = pytest.mark.usefixtures('two_engine_threads')

needs_compiler = pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')


def next_state(name, options, student, teacher, label, num_classes, **state):
    """The array that a loss carries from step to step, after one."""
    pair = pair_of(student, num_classes, compiled=False)
    (symbol,) = make_distillation_loss(name, options).terms(pair).states.values()
    given = {'student': student, 'teacher': teacher, 'label': label, **state}
    used = {name: mx.nd.array(given[name]) for name in symbol.list_arguments()}
    return symbol.bind(mx.cpu(), used).forward()[0].asnumpy()


def pair_of(student, num_classes, compiled):
    return Pair(
        student=mx.sym.Variable('student'),
        teacher=mx.sym.Variable('teacher'),
        label=mx.sym.Variable('label'),
        batch_size=len(student),
        num_classes=num_classes,
        embedding_size=student.shape[1],
        compiled=compiled,
    )


def evaluate(name, options, student, teacher, label, num_classes=0, compiled=False, **arrays):
    """(loss (N,), gradients by name) of L_s summed over the images."""
    pair = pair_of(student, num_classes, compiled)
    symbol = make_distillation_loss(name, options).terms(pair).loss
    return values.evaluate(symbol, student=student, teacher=teacher, label=label, **arrays)


def dot(one, other):
    return sum(a * b for a, b in zip(one, other))


def huber(x):
    return 0.5 * x * x if abs(x) < 1 else abs(x) - 0.5


def rkd_loop(student, teacher, distance, angle):
    """Eq. 5 and 8 of RKD (arXiv:1904.05068) as means, on unit embeddings."""

    def relations(rows):
        rows = [np.array(unit(row)) for row in rows]
        n = len(rows)
        pairs = {(i, j): rows[i] - rows[j] for i in range(n) for j in range(n) if i != j}
        length = {key: math.sqrt(dot(edge, edge)) for key, edge in pairs.items()}
        mean = sum(length.values()) / len(length)
        distances = {key: value / mean for key, value in length.items()}
        angles = {
            (i, j, k): dot(pairs[i, j], pairs[k, j]) / length[i, j] / length[k, j]
            for i, j in pairs
            for k in range(n)
            if k not in (i, j)
        }
        return distances, angles

    total = 0
    for weight, ours, theirs in zip((distance, angle), relations(student), relations(teacher)):
        total += weight * sum(huber(ours[key] - theirs[key]) for key in ours) / len(ours)
    return total


@pytest.mark.parametrize('options', [{}, {'distance': 2.0, 'angle': 0.0}])
def test_rkd_equals_the_loop(options, rng):
    student, teacher, label = 3 * rng.randn(6, 5), rng.randn(6, 5), np.zeros(6)
    # one pair far nearer than the rest, so that both branches of Huber's loss are met
    student[1] = student[0] + 0.1 * rng.randn(5)
    weights = {'distance': 25.0, 'angle': 50.0, **options}
    loss, gradients = evaluate('rkd', options, student, teacher, label)
    expected = rkd_loop(student, teacher, **weights)
    np.testing.assert_allclose(loss, np.full(6, expected), rtol=1e-4)
    # the trainer divides by the batch size, and so every image brings the whole loss
    slope = gradient(lambda values: 6 * rkd_loop(values, teacher, **weights), student)
    assert relative_error(gradients['student'], slope) < 2e-3
    assert not gradients['teacher'].any()


def test_rkd_does_not_see_turned_embeddings(rng):
    """Relations of a batch are those of its image under any orthogonal map."""
    teacher = rng.randn(7, 4)
    turn = np.linalg.qr(rng.randn(4, 4))[0]
    loss, gradients = evaluate('rkd', {}, 2 * teacher @ turn, teacher, np.zeros(7))
    assert loss.max() < 1e-9
    assert np.abs(gradients['student']).max() < 1e-3


def test_rkd_stays_finite_for_equal_images(rng):
    student, teacher = rng.randn(5, 4), rng.randn(5, 4)
    student[1], teacher[1] = student[0], teacher[0]
    loss, gradients = evaluate('rkd', {}, student, teacher, np.zeros(5))
    assert np.isfinite(loss).all() and np.isfinite(gradients['student']).all()


def test_rkd_needs_three_images(rng):
    rows = rng.randn(2, 4)
    with pytest.raises(InputError, match='too few'):
        evaluate('rkd', {}, rows, rows, np.zeros(2))


@pytest.mark.parametrize('compiled', [False, pytest.param(True, marks=needs_compiler)])
def test_proxyless_is_arcface_against_the_centres(compiled, rng):
    student, label = 3 * rng.randn(6, 5), rng.randint(0, 4, 6)
    centres = np.array([unit(row) for row in rng.randn(4, 5)])
    loss, gradients = evaluate(
        'proxyless',
        {'s': 20.0, 'm2': 0.4},
        *(student, student, label, 4, compiled),
        teacher_centres=centres,
    )
    assert 'teacher' not in gradients  # no embedding of the teacher is asked for in a step
    margins = (20.0, 1.0, 0.4, 0.0)
    assert relative_error(loss, margin_loss(student, centres, label, *margins)) < 1e-5
    slope = gradient(lambda rows: sum(margin_loss(rows, centres, label, *margins)), student)
    assert relative_error(gradients['student'], slope) < 2e-4


def margin_loop(student, teacher, centres, label, s, least, most):
    """MarginDistillation (arXiv:2003.02586), image by image."""
    known = [max(dot(unit(row), centres[y]), 0) for row, y in zip(teacher, label)]
    losses = []
    for row, y, q in zip(student, label, known):
        m = (most - least) / max(*known, 1e-6) * q + least
        logits = [s * dot(unit(row), centre) for centre in centres]
        logits[y] = s * margin_target(logits[y] / s, 1, m, 0)
        losses.append(log_sum_exp(logits) - logits[y])
    return losses


@pytest.mark.parametrize('side', [1, -1])
def test_margin_equals_the_loop(side, rng):
    """Angles on both sides of pi - m; with `side` -1 no image of the teacher is near its centre."""
    centres = np.array([unit(row) for row in rng.randn(4, 5)])
    label = rng.randint(0, 4, 9)
    teacher = side * centres[label] + 0.5 * rng.randn(9, 5)
    student = 3 * rng.randn(9, 5)
    student[0] = -2 * centres[label[0]] + 0.1 * rng.randn(5)
    options = {'s': 20.0, 'least': 0.2, 'most': 0.5}
    loss, gradients = evaluate(
        'margin', options, student, teacher, label, 4, teacher_centres=centres
    )
    given = (teacher, centres, label, *options.values())
    assert relative_error(loss, margin_loop(student, *given)) < 1e-5
    slope = gradient(lambda rows: sum(margin_loop(rows, *given)), student)
    assert relative_error(gradients['student'], slope) < 2e-4
    assert not gradients['teacher'].any()


class Both:
    """Embeddings of pictures and mirror images in memory."""

    def __init__(self, plain, mirrored):
        self._views = plain, mirrored

    def read(self, positions, mirrored):
        return np.stack([self._views[int(m)][p] for p, m in zip(positions, mirrored)])


def test_class_centres_equal_the_loop(rng, monkeypatch):
    monkeypatch.setattr('vargfacenet.recognition.class_centres._BLOCK', 7)
    rows = Both(rng.randn(30, 6).astype('f'), 2 * rng.randn(30, 6).astype('f'))
    labels = rng.randint(0, 4, 30)
    labels[labels == 2] = 4  # a class without pictures
    centres = class_centres(rows, labels, 5)
    for number, centre in enumerate(centres):
        total = np.zeros(6)
        for position in np.flatnonzero(labels == number):
            for mirrored in (False, True):
                total += unit(rows.read([position], [mirrored])[0])
        expected = unit(total) if total.any() else total
        np.testing.assert_allclose(centre, expected, atol=1e-6)
    assert not centres[2].any()


def moved_centres(student, teacher, label, centres):
    """AdaDistill (arXiv:2407.01332): centres after a step, the mean over the images of a class."""
    moved = np.array(centres, np.float64)
    for y in set(label.tolist()):
        proposals = []
        for f, t in zip(student[label == y], teacher[label == y]):
            t = np.array(unit(t))
            a = min(max(dot(unit(f), t), -1), 1)
            near = min(max(dot(unit(centres[y]), t), 1e-6), 1)
            w = min(max(a * near, 1e-6), 1)
            proposals.append(w * centres[y] + (1 - w) * t)
        moved[y] = np.mean(proposals, axis=0)
    return moved


@pytest.mark.parametrize('compiled', [False, pytest.param(True, marks=needs_compiler)])
def test_adadistill_equals_the_loop(compiled, rng):
    """Two images of a class, one class without, students that agree and disagree."""
    label = np.array([0, 3, 3, 1, 0, 0])
    student, teacher, centres = 3 * rng.randn(6, 5), rng.randn(6, 5), 0.5 * rng.randn(4, 5)
    centres[3] = 0.7 * teacher[1]
    student[1] = teacher[1] + 0.1 * rng.randn(5)
    options = {'s': 20.0, 'm2': 0.4, 'm3': 0.1}
    given = student, teacher, label, 4
    after = moved_centres(student, teacher, label, centres)
    state = next_state('adadistill', options, *given, fc7_mean_centres=centres)
    np.testing.assert_allclose(state, after, atol=1e-6)
    loss, gradients = evaluate('adadistill', options, *given, compiled, fc7_mean_centres=centres)
    margins = (20.0, 1.0, 0.4, 0.1)
    assert relative_error(loss, margin_loss(student, after, label, *margins)) < 1e-5
    slope = gradient(lambda rows: sum(margin_loss(rows, after, label, *margins)), student)
    assert relative_error(gradients['student'], slope) < 2e-4
    assert not gradients['teacher'].any() and not gradients['fc7_mean_centres'].any()


def ekd_loop(student, teacher, label, anchors, weights, frozen=None):
    """EKD (arXiv:2206.02325): (loss, (anchors after the step, hardest pairs)).

    `frozen` are anchors and pairs to take as they are: no gradient flows through their choice.
    """
    pairs = [(i, j) for j in range(len(label)) for i in range(j)]
    similar = [
        {(i, j): dot(unit(rows[i]), unit(rows[j])) for i, j in pairs} for rows in (student, teacher)
    ]
    negative = [(i, j) for i, j in pairs if label[i] != label[j]]
    positive = [(i, j) for i, j in pairs if label[i] == label[j]]
    if frozen is None:
        after = []
        for old, values in zip(anchors, similar):
            falling = sorted((values[key] for key in negative), reverse=True)
            found = [falling[len(falling) // 10**k] for k in range(1, 7)] if falling else old
            after.append([0.99 * a + 0.01 * b for a, b in zip(old, found)])
        hard = sorted(negative, key=similar[0].get, reverse=True)[: weights['hardest']]
        frozen = after, hard
    after, hard = frozen

    def rank(value, above):
        exponents = (min(max((value - a) / 0.01, -50), 50) for a in above)
        return sum(1 / (1 + math.exp(-exponent)) for exponent in exponents)

    loss = 0
    for weight, chosen in ((weights['positive'], positive), (weights['negative'], hard)):
        squares = [
            (rank(similar[0][key], after[0]) - rank(similar[1][key], after[1])) ** 2
            for key in chosen
        ]
        loss += weight * sum(squares) / max(len(squares), 1)
    return loss, frozen


@pytest.mark.parametrize('label', [[0, 0, 1, 1, 1, 2, 3], [0, 1, 2, 3, 4, 5, 6], [2] * 7])
@pytest.mark.parametrize('hardest', [5, 2000])
def test_ekd_equals_the_loop(label, hardest, rng):
    """Positive and negative pairs, only one kind, and fewer negative pairs than may count."""
    label = np.array(label)
    student, teacher = 3 * rng.randn(7, 5), rng.randn(7, 5)
    anchors = np.sort(rng.uniform(-0.5, 0.8, (2, 6)))
    weights = {'positive': 2.0, 'negative': 1.0, 'hardest': hardest}
    expected, frozen = ekd_loop(student, teacher, label, anchors, weights)
    given = student, teacher, label, 7
    state = next_state('ekd', weights, *given, fc7_anchors=anchors)
    np.testing.assert_allclose(state, frozen[0], atol=1e-6)
    loss, gradients = evaluate('ekd', weights, *given, fc7_anchors=anchors)
    np.testing.assert_allclose(loss, np.full(7, expected), rtol=1e-4)
    slope = gradient(
        lambda rows: 7 * ekd_loop(rows, teacher, label, anchors, weights, frozen)[0], student
    )
    assert np.abs(slope).max() > 0
    assert relative_error(gradients['student'], slope) < 2e-3
    assert not gradients['teacher'].any() and not gradients['fc7_anchors'].any()
