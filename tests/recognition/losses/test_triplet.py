"""Triplet loss with semi-hard mining against a float64 loop."""

import numpy as np
import pytest
import reference
from gradients import evaluate, relative_error
from loss_heads import build_terms
from tiny_network import tiny_symbol
from vargfacenet.common.backend import mx
from vargfacenet.common.errors import InputError
from vargfacenet.recognition.config import bare
from vargfacenet.recognition.graph import training_module
from vargfacenet.recognition.losses import warn_of_few_pairs

# a loss must not depend on who adds which rows
pytestmark = pytest.mark.usefixtures('two_engine_threads')


def squared_distances(embeddings):
    units = [reference.unit(row) for row in embeddings]
    return [[sum((a - b) ** 2 for a, b in zip(one, other)) for other in units] for one in units]


def triplet_loss(embeddings, labels, margin):
    """(loss, kinds of negatives that were met)."""
    distances, total, pairs, kinds = squared_distances(embeddings), 0.0, 0, []
    for a, row in enumerate(distances):
        negatives = [row[n] for n in range(len(row)) if labels[n] != labels[a]]
        for p in range(len(row)):
            if p == a or labels[p] != labels[a] or not negatives:
                continue
            farther = [distance for distance in negatives if distance > row[p]]
            kinds.append('semi-hard' if farther else 'farthest')
            negative = min(farther) if farther else max(negatives)
            total += max(0.0, row[p] - negative + margin)
            pairs += 1
    return total / max(pairs, 1), kinds


@pytest.mark.parametrize('labels', [[0, 0, 0, 1, 1, 2, 3, 3, 0, 2], [0, 0, 1, 1, 0, 1, 1, 0, 0, 0]])
def test_it_equals_the_loop(labels, rng):
    embeddings = 3 * rng.randn(len(labels), 3)
    terms = build_terms('triplet', 4, 3, {'margin': 0.3}, batch_size=len(labels))
    arrays = {'embedding': embeddings, 'label': labels}
    ours, gradients = evaluate(terms.loss, **arrays)
    expected, kinds = triplet_loss(embeddings, labels, 0.3)
    assert {*kinds} == {'semi-hard', 'farthest'}
    np.testing.assert_allclose(ours, len(labels) * [expected], rtol=1e-5)
    expected = len(labels) * reference.gradient(
        lambda rows: triplet_loss(rows, labels, 0.3)[0], embeddings
    )
    assert relative_error(gradients['embedding'], expected) < 1e-4


def test_correct_is_the_nearest_other_image(rng):
    labels = np.array([0, 0, 1, 1, 2, 2, 3])
    embeddings = rng.randn(7, 3)
    distances = np.array(squared_distances(embeddings))
    np.fill_diagonal(distances, np.inf)
    terms = build_terms('triplet', 4, 3, {}, batch_size=7)
    correct, _ = evaluate(mx.sym.BlockGrad(terms.correct), embedding=embeddings, label=labels)
    assert 0 < correct.sum() < 7
    np.testing.assert_array_equal(correct, labels[distances.argmin(1)] == labels)


@pytest.mark.parametrize('labels', [[0, 1, 2, 3], [1, 1, 1, 1]])
def test_a_step_without_triplets_is_worth_nothing(labels, rng):
    terms = build_terms('triplet', 4, 3, {}, batch_size=4)
    ours, gradients = evaluate(terms.loss, embedding=rng.randn(4, 3), label=labels)
    assert not ours.any() and not gradients['embedding'].any()


def test_few_pairs_in_a_step_are_said(caplog):
    """Counted: steps of 32 of 1,000 people with 50 pictures each."""
    random = np.random.RandomState(3)
    steps = random.randint(0, 1000, (2000, 32))
    pairs = np.mean([(row[:, None] == row).sum() - 32 for row in steps]) / 2
    assert pairs == pytest.approx(0.5, abs=0.05)
    warn_of_few_pairs('triplet', 32, 1000, 'people')
    warn_of_few_pairs('triplet', 32, 16, 'full')
    assert not caplog.text
    warn_of_few_pairs('triplet', 32, 1000, 'full')
    assert 'has 0.5 pairs of one person' in caplog.text and '--shuffle people' in caplog.text
    with pytest.raises(InputError, match='--per-batch-size 2 or more'):
        build_terms('triplet', 4, 3, {}, batch_size=1)


@pytest.mark.parametrize(('loss', 'told'), [('triplet', True), ('margin', False)])
def test_few_pairs_are_said_of_a_loss_that_compares_images(loss, told, caplog):
    config = bare(loss=loss, shuffle='full', num_classes=100, per_batch_size=4)
    training_module(tiny_symbol(8), config, [mx.cpu()])
    assert ('has 0.06 pairs of one person' in caplog.text) == told
