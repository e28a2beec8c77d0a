"""Losses of one paper each against float64 loops of their definitions, forward and gradient."""

import math

import numpy as np
import pytest
import reference
from gradients import evaluate, relative_error
from loss_heads import build_terms
from vargfacenet.common.backend import mx
from vargfacenet.common.errors import InputError
from vargfacenet.recognition.losses import make_loss

# a loss must not depend on who adds which rows
pytestmark = pytest.mark.usefixtures('two_engine_threads')

CLASSES, SIZE, IMAGES = 5, 4, 9


@pytest.fixture
def arrays(rng):
    """Embeddings of lengths from 2 to 200; one is opposite to its centre, one beside it."""
    labels = rng.randint(0, CLASSES, IMAGES)
    embeddings, centres = rng.randn(IMAGES, SIZE), rng.randn(CLASSES, SIZE)
    embeddings[0] = -centres[labels[0]] + 0.1 * rng.randn(SIZE)
    embeddings[1] = centres[labels[1]] + 0.1 * rng.randn(SIZE)
    lengths = np.geomspace(2, 200, IMAGES)
    embeddings *= (lengths / np.linalg.norm(embeddings, axis=1))[:, None]
    return {'embedding': embeddings, 'fc7_weight': centres, 'label': labels}


def check(name, options, arrays, losses, classes=CLASSES, smoothing=0.0, **states):
    """Values and gradients of a loss are those of `losses`(embeddings, centres)."""
    terms = build_terms(name, classes, SIZE, options, smoothing=smoothing)
    ours, gradients = evaluate(terms.loss, **arrays, **states)
    start, centres = arrays['embedding'], arrays['fc7_weight']
    assert relative_error(ours, losses(start, centres)) < 1e-5
    expected = reference.gradient(lambda rows: sum(losses(rows, centres)), start)
    for row, other in zip(gradients['embedding'], expected):  # long ones have small gradients
        assert relative_error(row, other) < 1e-3
    expected = reference.gradient(lambda means: sum(losses(start, means)), centres)
    assert relative_error(gradients['fc7_weight'], expected) < 2e-4
    for state in states:
        assert not gradients[state].any()
    return terms


def next_value(terms, name, arrays):
    value, _ = evaluate(mx.sym.BlockGrad(terms.states[name]), **arrays)
    return value


def qualities(embeddings, mean, deviation, h):
    """AdaFace's z, with running values as they are after the step."""
    lengths = [min(max(np.linalg.norm(row), 0.001), 100) for row in embeddings]
    return [min(max(h * (length - mean) / (deviation + 1e-3), -1), 1) for length in lengths]


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_adaface(arrays, smoothing):
    m, s, h, pace = 0.35, 30.0, 0.4, 0.3
    lengths = [min(max(np.linalg.norm(row), 0.001), 100) for row in arrays['embedding']]
    mean = sum(lengths) / IMAGES
    deviation = math.sqrt(sum((length - mean) ** 2 for length in lengths) / (IMAGES - 1))
    mean = pace * mean + (1 - pace) * 15
    deviation = pace * deviation + (1 - pace) * 10
    fixed = qualities(arrays['embedding'], mean, deviation, h)
    assert min(fixed) < 0 < max(fixed) == 1  # clipped, and on both sides

    def losses(embeddings, centres):
        rows = reference.cosines(embeddings, centres)
        for row, label, z in zip(rows, arrays['label'], fixed):
            angle = min(max(math.acos(row[label]) - m * z, 0), math.pi)
            row[label] = math.cos(angle) - (m + m * z)
        logits = [[s * value for value in row] for row in rows]
        return reference.cross_entropy(logits, arrays['label'], smoothing)

    states = {'fc7_norm_mean': [15.0], 'fc7_norm_deviation': [10.0]}
    options = {'m': m, 's': s, 'h': h, 'pace': pace}
    terms = check('adaface', options, arrays, losses, smoothing=smoothing, **states)
    for name, expected in (('fc7_norm_mean', mean), ('fc7_norm_deviation', deviation)):
        found = next_value(terms, name, {**arrays, **states})
        np.testing.assert_allclose(found, [expected], rtol=1e-6)


def test_adaface_of_one_image_has_no_deviation(arrays):
    one = {name: values[:1] if name != 'fc7_weight' else values for name, values in arrays.items()}
    terms = build_terms('adaface', CLASSES, SIZE, {})
    states = {'fc7_norm_mean': [20.0], 'fc7_norm_deviation': [100.0]}
    assert next_value(terms, 'fc7_norm_deviation', {**one, **states}) == pytest.approx(99)
    assert np.isfinite(evaluate(terms.loss, **one, **states)[0]).all()


def magface_margin(length, shortest=10, longest=110, narrow=0.45, wide=0.8):
    length = min(max(length, shortest), longest)
    return length, (wide - narrow) / (longest - shortest) * (length - shortest) + narrow


def test_magface(arrays):
    s, weight = 20.0, 3.0

    def losses(embeddings, centres):
        rows = reference.cosines(embeddings, centres)
        penalties = []
        for row, label, embedding in zip(rows, arrays['label'], embeddings):
            length, margin = magface_margin(math.sqrt(sum(value**2 for value in embedding)))
            row[label] = reference.margin_target(row[label], 1, margin, 0)
            penalties.append(weight * (1 / length + length / 110**2))
        logits = [[s * value for value in row] for row in rows]
        found = reference.cross_entropy(logits, arrays['label'])
        return [one + penalty for one, penalty in zip(found, penalties)]

    check('magface', {'s': s, 'weight': weight}, arrays, losses)


def test_magface_is_least_at_the_largest_length():
    """g'(longest) = 0, and it falls up to there: the paper's Property 2."""
    lengths = np.linspace(10, 110, 50)
    embeddings = np.stack([lengths, 0 * lengths], 1)
    terms = build_terms('magface', 2, 2, {'narrow': 0, 'wide': 0})
    arrays = {'embedding': embeddings, 'fc7_weight': np.eye(2), 'label': np.zeros(50)}
    losses, gradients = evaluate(terms.loss, **arrays)
    assert (np.diff(losses) < 0).all()
    assert abs(gradients['embedding'][-1, 0]) < 1e-6 < -gradients['embedding'][-2, 0]


def test_magface_limits_are_checked():
    with pytest.raises(InputError, match='shortest 10 must be below longest 5'):
        make_loss('magface', {'longest': 5})


@pytest.mark.parametrize('before', [0.0, 0.6])
def test_curricularface(arrays, before):
    m, s, pace = 0.5, 16.0, 0.05
    rows = reference.cosines(arrays['embedding'], arrays['fc7_weight'])
    own = [row[label] for row, label in zip(rows, arrays['label'])]
    t = pace * sum(own) / IMAGES + (1 - pace) * before
    hard = []

    def losses(embeddings, centres):
        rows = reference.cosines(embeddings, centres)
        for row, label in zip(rows, arrays['label']):
            target = reference.margin_target(row[label], 1, m, 0)
            for number, value in enumerate(row):
                if number == label:
                    row[number] = target
                elif value > target:
                    row[number] = value * (t + value)
                    hard.append(number)
        logits = [[s * value for value in row] for row in rows]
        return reference.cross_entropy(logits, arrays['label'])

    losses(arrays['embedding'], arrays['fc7_weight'])
    assert 0 < len(hard) < IMAGES * (CLASSES - 1)
    states = {'fc7_progress': [before]}
    options = {'m': m, 's': s, 'pace': pace}
    terms = check('curricularface', options, arrays, losses, **states)
    found = next_value(terms, 'fc7_progress', {**arrays, **states})
    np.testing.assert_allclose(found, [t], rtol=1e-5)


@pytest.mark.parametrize('k', [1, 3])
def test_subcenter_arcface(arrays, rng, k):
    m, s = 0.4, 24.0
    arrays = {**arrays, 'fc7_weight': rng.randn(CLASSES * k, SIZE)}

    def losses(embeddings, centres):
        logits = []
        for row, label in zip(reference.cosines(embeddings, centres), arrays['label']):
            best = [max(row[c * k + j] for j in range(k)) for c in range(CLASSES)]
            best[label] = reference.margin_target(best[label], 1, m, 0)
            logits.append([s * value for value in best])
        return reference.cross_entropy(logits, arrays['label'])

    check('subcenter_arcface', {'m': m, 's': s, 'k': k}, arrays, losses)


def test_one_centre_a_class_is_arcface(arrays):
    arcface, _ = evaluate(build_terms('margin', CLASSES, SIZE, {}).loss, **arrays)
    for name, options in (
        ('subcenter_arcface', {'k': 1}),
        ('magface', {'narrow': 0.5, 'wide': 0.5, 'weight': 0}),
    ):
        ours, _ = evaluate(build_terms(name, CLASSES, SIZE, options).loss, **arrays)
        np.testing.assert_allclose(ours, arcface, rtol=1e-5, atol=1e-5)


def test_regular_face_wants_one_centre_a_class():
    for name, message in (
        ('subcenter_arcface', 'has 3 centres a class'),
        ('triplet', 'has 0 centres a class'),
    ):
        with pytest.raises(InputError, match=message):
            build_terms(name, CLASSES, SIZE, {}, exclusive=1.0, batch_size=4)
    with pytest.raises(InputError, match='Triplet is no cross entropy'):
        build_terms('triplet', CLASSES, SIZE, {}, smoothing=0.1, batch_size=4)


@pytest.mark.parametrize('name', ['adaface', 'magface', 'curricularface', 'subcenter_arcface'])
@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_parallel_opposite_and_zero_embeddings_stay_finite(name, sign, rng):
    rows = rng.randn(60, 64).astype('f')
    embeddings = sign * rows
    embeddings[-1] = 0
    states = {'fc7_norm_mean': [20.0], 'fc7_norm_deviation': [100.0], 'fc7_progress': [0.3]}
    centres = rows.repeat(3, axis=0) if name == 'subcenter_arcface' else rows
    arrays = {'embedding': embeddings, 'fc7_weight': centres, 'label': np.arange(60)}
    losses, gradients = evaluate(build_terms(name, 60, 64, {}).loss, **arrays, **states)
    assert np.isfinite(losses).all()
    for values in gradients.values():
        assert np.isfinite(values).all()
