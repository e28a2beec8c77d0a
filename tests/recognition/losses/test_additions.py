"""What goes with any loss: label smoothing, and RegularFace's term of the centres."""

import numpy as np
import pytest
import reference
from gradients import evaluate, relative_error
from vargfacenet.recognition import presets

# a loss must not depend on who adds which rows
pytestmark = pytest.mark.usefixtures('two_engine_threads')


@pytest.mark.parametrize('name', ['nsoftmax', 'arcface', 'cosface', 'combined'])
def test_smoothed_margin_loss_equals_the_loop(class_loss, name, rng):
    options = presets.loss[name].loss_options
    margins = (options['s'], options['m1'], options['m2'], options['m3'])
    embeddings, centres = 3 * rng.randn(7, 5), rng.randn(4, 5)
    labels = rng.randint(0, 4, 7)
    loss = class_loss('margin', 4, 5, options, smoothing=0.1)
    ours, gradients = evaluate(loss, embedding=embeddings, fc7_weight=centres, label=labels)

    def losses(rows, means):
        logits = reference.margin_logits(rows, means, labels, *margins)
        return reference.cross_entropy(logits, labels, 0.1)

    assert relative_error(ours, losses(embeddings, centres)) < 1e-5
    expected = reference.gradient(lambda rows: sum(losses(rows, centres)), embeddings)
    assert relative_error(gradients['embedding'], expected) < 1e-4
    expected = reference.gradient(lambda means: sum(losses(embeddings, means)), centres)
    assert relative_error(gradients['fc7_weight'], expected) < 1e-4


def test_smoothed_softmax_equals_the_loop(class_loss, rng):
    embeddings, weight, bias = rng.randn(6, 5), rng.randn(3, 5), rng.randn(3)
    labels = rng.randint(0, 3, 6)
    ours, gradients = evaluate(
        class_loss('softmax', 3, 5, {}, smoothing=0.25),
        embedding=embeddings,
        fc7_weight=weight,
        fc7_bias=bias,
        label=labels,
    )

    def losses(values):
        logits = embeddings @ values.T + bias
        return reference.cross_entropy(logits.tolist(), labels, 0.25)

    assert relative_error(ours, losses(weight)) < 1e-5
    expected = reference.gradient(lambda values: sum(losses(values)), weight)
    assert relative_error(gradients['fc7_weight'], expected) < 1e-4


def test_smoothing_has_its_least_where_the_probabilities_are_the_label(class_loss):
    """Logits whose softmax is the smoothed label: the loss is its entropy, the gradient nothing."""
    smoothing, classes = 0.3, 4
    label = np.full(classes, smoothing / classes)
    label[1] += 1 - smoothing
    loss = class_loss('softmax', classes, classes, {}, smoothing=smoothing)
    arrays = {
        'embedding': [np.log(label)],
        'fc7_weight': np.eye(classes),
        'fc7_bias': [0] * classes,
    }
    ours, gradients = evaluate(loss, label=[1], **arrays)
    np.testing.assert_allclose(ours, -(label * np.log(label)).sum(), rtol=1e-5)
    np.testing.assert_allclose(gradients['embedding'], 0, atol=1e-5)


def test_regular_face_equals_the_loop(class_loss, rng):
    embeddings, centres = rng.randn(7, 5), rng.randn(6, 5)
    labels = np.array([0, 3, 3, 5, 1, 0, 2])
    arrays = {'embedding': embeddings, 'fc7_weight': centres, 'label': labels}
    options = presets.loss.arcface.loss_options
    plain, before = evaluate(class_loss('margin', 6, 5, options), **arrays)
    ours, gradients = evaluate(class_loss('margin', 6, 5, options, exclusive=2.5), **arrays)
    assert relative_error(ours - plain, 2.5 * np.array(reference.regular_face(centres, labels))) < (
        2e-5
    )
    expected = 2.5 * reference.gradient(
        lambda means: sum(reference.regular_face(means, labels)), centres
    )
    assert relative_error(gradients['fc7_weight'] - before['fc7_weight'], expected) < 2e-5
    np.testing.assert_array_equal(gradients['embedding'], before['embedding'])


def test_regular_face_is_the_papers_where_every_class_has_one_image(class_loss, rng):
    """1/C sum over i of max over j != i of cos(W_i, W_j)."""
    centres = rng.randn(9, 4)
    arrays = {'embedding': rng.randn(9, 4), 'fc7_weight': centres, 'label': np.arange(9)}
    options = presets.loss.cosface.loss_options
    plain, _ = evaluate(class_loss('margin', 9, 4, options), **arrays)
    ours, _ = evaluate(class_loss('margin', 9, 4, options, exclusive=1.0), **arrays)
    unit = centres / np.linalg.norm(centres, axis=1, keepdims=True)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -np.inf)
    np.testing.assert_allclose((ours - plain).mean(), cosine.max(1).mean(), atol=1e-5)


def test_additions_that_are_not_the_losses(run_command, options):
    """One line, before anything is read."""
    for words, message in (
        (['--label-smoothing', 1], '--label-smoothing 1.0: must be a number from 0 up to'),
        (['--regular-face', -1], '--regular-face -1.0: must be a finite number, not negative'),
    ):
        code, _, errors = run_command('train', *options, *words)
        assert code == 2 and message in errors and len(errors.strip().splitlines()) == 1
    words = ['--teacher', 'none,1', '--label-smoothing', 0.1]
    for without in (['--no-classification'], ['--distill', 'proxyless']):
        code, _, errors = run_command('distill', *options, *words, *without)
        assert code == 2 and 'parts of the classification loss' in errors, errors
