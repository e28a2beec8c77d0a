"""Losses against float64 loops, forward and gradient, and the laws that they obey."""

import json
import math

import numpy as np
import pytest
import reference
from conftest import DATA
from gradients import evaluate, relative_error
from loss_heads import build_terms, check_compiled, needs_compiler
from vargfacenet.common.errors import InputError
from vargfacenet.recognition import presets

# a loss must not depend on who adds which rows
pytestmark = pytest.mark.usefixtures('two_engine_threads')

MARGINS = {
    name: presets.loss[name].loss_options for name in ('nsoftmax', 'arcface', 'cosface', 'combined')
}
MARGINS['sphere'] = {'s': 30.0, 'm1': 1.35, 'm2': 0.0, 'm3': 0.0}


@pytest.mark.parametrize('name', MARGINS)
def test_margin_loss_equals_the_loop(class_loss, name, rng):
    options = MARGINS[name]
    embeddings, centres = 3 * rng.randn(7, 5), rng.randn(4, 5)
    labels = rng.randint(0, 4, 7)
    ours, gradients = evaluate(
        class_loss('margin', 4, 5, options), embedding=embeddings, fc7_weight=centres, label=labels
    )
    margins = (options['s'], options['m1'], options['m2'], options['m3'])

    def total(values, of):
        given = (values, centres) if of == 'embedding' else (embeddings, values)
        return sum(reference.margin_loss(*given, labels, *margins))

    assert relative_error(ours, reference.margin_loss(embeddings, centres, labels, *margins)) < 1e-5
    for of, start in (('embedding', embeddings), ('fc7_weight', centres)):
        expected = reference.gradient(lambda values, of=of: total(values, of), start)
        assert relative_error(gradients[of], expected) < 2e-4


@pytest.mark.parametrize('name', MARGINS)
def test_every_angle_from_0_to_180_degrees(class_loss, name):
    """One embedding turns away from its class centre; both sides of theta + m = pi are met."""
    options = MARGINS[name]
    degrees = np.arange(0.5, 180, 1.0)
    embeddings = [[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees]
    centres = np.array([[1.0, 0.0], [0.3, -1.0]])
    labels = np.zeros(len(degrees), int)
    ours, gradients = evaluate(
        class_loss('margin', 2, 2, options), embedding=embeddings, fc7_weight=centres, label=labels
    )
    margins = (options['s'], options['m1'], options['m2'], options['m3'])
    assert relative_error(ours, reference.margin_loss(embeddings, centres, labels, *margins)) < 1e-5
    for row, degree in enumerate(degrees):
        expected = reference.gradient(
            lambda values: reference.margin_loss([values], centres, [0], *margins)[0],
            embeddings[row],
        )
        error = np.abs(gradients['embedding'][row] - expected).max()
        assert error <= 1e-3 * max(1.0, np.abs(expected).max()), degree


@pytest.mark.parametrize('name', ['arcface', 'combined', 'sphere'])
def test_a_detached_margin_is_a_constant_to_the_gradient(class_loss, name, rng):
    """The loop keeps what the margin changed at the start; one target lies past pi, one embedding
    on its centre, where the true gradient is cut off."""
    options = MARGINS[name]
    embeddings, centres = 3 * rng.randn(7, 5), rng.randn(4, 5)
    labels = rng.randint(0, 4, 7)
    embeddings[0], embeddings[1] = -centres[labels[0]], 2 * centres[labels[1]]
    embeddings[0, 0] += 0.1
    margins = (options['m1'], options['m2'], options['m3'])
    start = [row[label] for row, label in zip(reference.cosines(embeddings, centres), labels)]
    changes = [reference.margin_target(cosine, *margins) - cosine for cosine in start]

    def losses(embeddings, centres):
        logits = np.array(reference.cosines(embeddings, centres))
        logits[np.arange(7), labels] += changes
        return reference.cross_entropy((options['s'] * logits).tolist(), labels)

    ours, gradients = evaluate(
        class_loss('margin', 4, 5, {**options, 'detach': True}),
        embedding=embeddings,
        fc7_weight=centres,
        label=labels,
    )
    assert relative_error(ours, losses(embeddings, centres)) < 1e-5
    by_embedding = reference.gradient(lambda values: sum(losses(values, centres)), embeddings)
    by_centre = reference.gradient(lambda values: sum(losses(embeddings, values)), centres)
    assert relative_error(gradients['embedding'], by_embedding) < 2e-4
    assert relative_error(gradients['fc7_weight'], by_centre) < 2e-4
    true, _ = evaluate(
        class_loss('margin', 4, 5, options), embedding=embeddings, fc7_weight=centres, label=labels
    )
    np.testing.assert_allclose(ours, true, rtol=1e-5)


@pytest.mark.parametrize('name', MARGINS)
@pytest.mark.parametrize('sign', [1.0, -1.0])
def test_parallel_and_opposite_embeddings_stay_finite(class_loss, name, sign):
    """cos = +-1 exactly, where arccos has an infinite slope, and beyond by rounding."""
    rows = np.random.RandomState(3).randn(200, 128).astype('f')
    ours, gradients = evaluate(
        class_loss('margin', 200, 128, MARGINS[name]),
        embedding=sign * rows,
        fc7_weight=rows,
        label=np.arange(200),
    )
    assert np.isfinite(ours).all()
    for values in gradients.values():
        assert np.isfinite(values).all()
        assert np.abs(values).max() < 1e3


def test_arcface_equals_the_golden_numbers(class_loss):
    """Mean loss and gradients of another implementation; one target lies past pi."""
    case = json.loads((DATA / 'arcneg.json').read_text())['caseA']
    ours, gradients = evaluate(
        class_loss('margin', 4, len(case['weight'][0]), MARGINS['arcface']),
        embedding=case['embeddings'],
        fc7_weight=case['weight'],
        label=case['labels'],
    )
    expected = case['arcface']
    rows = len(case['labels'])
    assert ours.mean() == pytest.approx(expected['ce_mean'], rel=1e-6)
    assert relative_error(gradients['embedding'] / rows, expected['grad_emb']) < 1e-5
    assert relative_error(gradients['fc7_weight'] / rows, expected['grad_weight']) < 1e-5


def test_margin_zero_is_the_normalised_softmax(class_loss, rng):
    arrays = {
        'embedding': rng.randn(6, 8),
        'fc7_weight': rng.randn(5, 8),
        'label': rng.randint(0, 5, 6),
    }
    plain, _ = evaluate(class_loss('margin', 5, 8, MARGINS['nsoftmax']), **arrays)
    zero = {'s': 64.0, 'm1': 1.0, 'm2': 1e-12, 'm3': 0.0}
    margin, _ = evaluate(class_loss('margin', 5, 8, zero), **arrays)
    np.testing.assert_allclose(margin, plain, rtol=1e-4, atol=1e-4)


def test_length_of_embedding_and_centres_does_not_matter(class_loss, rng):
    arrays = {
        'embedding': rng.randn(6, 8),
        'fc7_weight': rng.randn(5, 8),
        'label': rng.randint(0, 5, 6),
    }
    loss = class_loss('margin', 5, 8, MARGINS['arcface'])
    one, _ = evaluate(loss, **arrays)
    arrays['embedding'] = 7.5 * arrays['embedding']
    arrays['fc7_weight'] = 0.1 * arrays['fc7_weight']
    other, _ = evaluate(loss, **arrays)
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)


@needs_compiler
@pytest.mark.parametrize('classes', [2, 47, 48, 200, 1000])
@pytest.mark.parametrize('size', [512, 40, 3])
def test_compiled_is_stock_at_any_size(classes, size, rng):
    """Blocks that are cut off in images, classes and values of an embedding."""
    check_compiled(rng, 'margin', classes, size, MARGINS['combined'])


@needs_compiler
@pytest.mark.parametrize('where', ['embedding', 'fc7_weight'])
def test_compiled_passes_on_what_is_not_finite(where, rng):
    arrays = {'embedding': rng.randn(6, 8), 'fc7_weight': rng.randn(70, 8), 'label': np.arange(6)}
    arrays[where][3, 5] = np.nan
    loss = build_terms('margin', 70, 8, MARGINS['arcface'], compiled=True).loss
    values, gradients = evaluate(loss, **arrays)
    rows = [3] if where == 'embedding' else range(6)
    assert np.isnan(values[rows]).all() and np.isnan(values).sum() == len(rows)
    assert np.isnan(gradients['embedding'][rows]).all()


def test_softmax_equals_the_loop(class_loss, rng):
    embeddings, weight, bias = rng.randn(6, 5), rng.randn(3, 5), rng.randn(3)
    labels = rng.randint(0, 3, 6)
    ours, gradients = evaluate(
        class_loss('softmax', 3, 5, {}),
        embedding=embeddings,
        fc7_weight=weight,
        fc7_bias=bias,
        label=labels,
    )
    assert relative_error(ours, reference.softmax_loss(embeddings, weight, bias, labels)) < 1e-5
    expected = reference.gradient(
        lambda values: sum(reference.softmax_loss(embeddings, values, bias, labels)), weight
    )
    assert relative_error(gradients['fc7_weight'], expected) < 1e-4


@pytest.mark.parametrize(
    'name, options, message',
    [
        ('arcfase', {}, 'unknown loss'),
        ('softmax', {'s': 64}, 'no option'),
        ('margin', {'m4': 1}, "unknown margin option 'm4'; known: detach, m1, m2, m3, s"),
        ('margin', {'s': -1}, 'above 0'),
        ('margin', {'s': True}, 'above 0'),
        ('margin', {'m2': 'half'}, 'number'),
        ('margin', {'m2': math.inf}, 'finite number'),
    ],
)
def test_wrong_losses_are_named(class_loss, name, options, message):
    with pytest.raises(InputError, match=message):
        class_loss(name, 4, 8, options)
