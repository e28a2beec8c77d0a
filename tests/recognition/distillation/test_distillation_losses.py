"""Distillation losses against float64 loops from the definitions, forward and gradient."""

import math

import gradients as values
import numpy as np
import pytest
from gradients import relative_error
from reference import gradient, unit
from vargfacenet.common.backend import mx
from vargfacenet.common.errors import InputError
from vargfacenet.recognition.distillation import Pair, make_distillation_loss


def evaluate(name, options, student, teacher, label, num_classes=0, **arrays):
    """(loss (N,), gradients by name) of L_s summed over the images."""
    n, size = student.shape
    pair = Pair(
        student=mx.sym.Variable('student'),
        teacher=mx.sym.Variable('teacher'),
        label=mx.sym.Variable('label'),
        batch_size=n,
        num_classes=num_classes,
        embedding_size=size,
    )
    symbol = make_distillation_loss(name, options).loss(pair)
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
