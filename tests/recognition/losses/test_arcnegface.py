"""ArcNegFace against another implementation's numbers and a float64 loop."""

import json

import numpy as np
import pytest
import reference
from conftest import DATA
from gradients import evaluate, relative_error
from loss_heads import check_compiled, needs_compiler
from vargfacenet.common.backend import mx
from vargfacenet.recognition.losses import Head, make_loss

# a loss must not depend on who adds which rows
pytestmark = pytest.mark.usefixtures('two_engine_threads')

GOLDEN = json.loads((DATA / 'arcneg.json').read_text())


def golden_case(name):
    """Arrays of a case and what was found for them."""
    case = GOLDEN[name]
    if 'embeddings' in case:
        arrays = {'embedding': case['embeddings'], 'fc7_weight': case['weight']}
    else:
        random = np.random.RandomState(5)
        arrays = {
            'embedding': random.standard_normal((6, 8)),
            'fc7_weight': random.standard_normal((10, 8)),
        }
        assert case['labels'] == random.randint(0, 10, 6).tolist()
    arrays['label'] = case['labels']
    return {key: np.array(value) for key, value in arrays.items()}, case['arcneg']


@pytest.mark.parametrize('name', ['caseA', 'caseB'])
def test_golden_loss_and_gradients(class_loss, name):
    arrays, expected = golden_case(name)
    classes, size = arrays['fc7_weight'].shape
    ours, gradients = evaluate(class_loss('arcnegface', classes, size, {}), **arrays)
    assert ours.mean() == pytest.approx(expected['ce_mean'], rel=1e-6)
    rows = len(ours)
    assert relative_error(gradients['embedding'] / rows, expected['grad_emb']) < 1e-5
    assert relative_error(gradients['fc7_weight'] / rows, expected['grad_weight']) < 1e-5


@pytest.mark.parametrize('name', ['caseA', 'caseB'])
def test_golden_logits(name):
    arrays, expected = golden_case(name)
    head = Head(mx.sym.Variable('embedding'), mx.sym.Variable('label'), *arrays['fc7_weight'].shape)
    logits, _ = evaluate(make_loss('arcnegface', {}).logits(head), **arrays)
    np.testing.assert_allclose(logits, expected['logits'], rtol=1e-5, atol=2e-5)


@pytest.mark.parametrize('cosine', [1, -1])
def test_at_the_ends(class_loss, cosine):
    """The golden loss; at +1 its gradient is not a number, ours is finite."""
    expected = GOLDEN['edge'][f'cos_target={cosine:+d}']
    arrays = {'embedding': [[cosine, 0, 0]], 'fc7_weight': np.eye(3), 'label': [0]}
    ours, gradients = evaluate(class_loss('arcnegface', 3, 3, {}), **arrays)
    loss = reference.cross_entropy(expected['logits'], [0])
    # the clipping of the cosine is worth up to 0.044
    np.testing.assert_allclose(ours, loss, rtol=1e-6, atol=0.05 if cosine == 1 else 1e-4)
    for values in gradients.values():
        assert np.isfinite(values).all()
    if cosine == -1:
        assert relative_error(gradients['embedding'], expected['grad_emb']) < 1e-5


@pytest.mark.parametrize('smoothing', [0.0, 0.1])
def test_it_equals_the_loop(class_loss, rng, smoothing):
    embeddings, centres = 3 * rng.randn(7, 5), rng.randn(4, 5)
    labels = rng.randint(0, 4, 7)
    embeddings[0] = -2 * centres[labels[0]] + 0.1 * rng.randn(5)  # past pi
    options = {'s': 30.0, 'm': 0.4, 'alpha': 1.5, 'sigma': 0.7}
    loss = class_loss('arcnegface', 4, 5, options, smoothing=smoothing)
    ours, gradients = evaluate(loss, embedding=embeddings, fc7_weight=centres, label=labels)
    weights = reference.arcneg_weights(embeddings, centres, labels, 0.4, 1.5, 0.7)

    def losses(rows, means):
        logits = reference.arcneg_logits(rows, means, labels, weights, 30.0, 0.4)
        return reference.cross_entropy(logits, labels, smoothing)

    assert relative_error(ours, losses(embeddings, centres)) < 1e-5
    expected = reference.gradient(lambda rows: sum(losses(rows, centres)), embeddings)
    assert relative_error(gradients['embedding'], expected) < 1e-4
    expected = reference.gradient(lambda means: sum(losses(embeddings, means)), centres)
    assert relative_error(gradients['fc7_weight'], expected) < 1e-4


@needs_compiler
@pytest.mark.parametrize('classes, size', [(2, 3), (47, 40), (200, 512), (1000, 40)])
def test_compiled_is_stock_at_any_size(classes, size, rng):
    check_compiled(rng, 'arcnegface', classes, size, {}, smoothing=0.2)
