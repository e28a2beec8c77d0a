"""The embedder against a plain executor, golden embeddings and itself in other batches."""

import json
import re

import numpy as np
import pytest
from conftest import DATA
from exact_graph import exact_prelu
from tiny_network import embed_on_stock_graph, reference_params, tiny_symbol
from vargfacenet.common.backend import mx
from vargfacenet.common.engine.mxnet import Embedder, embed_exactly, flatten_before_dense
from vargfacenet.common.engine.network import Network
from vargfacenet.common.errors import InputError
from vargfacenet.symbol import get_symbol

BATCH = 4
CLOSE = {'rtol': 0, 'atol': 2e-5}  # float32 of values near 1..10, sums in another order


@pytest.fixture(scope='module')
def symbol():
    return tiny_symbol()


@pytest.fixture(scope='module')
def params(symbol):
    return reference_params(symbol)


@pytest.fixture
def embedder(symbol, params):
    return Embedder(Network(symbol, *params), batch_size=BATCH)


@pytest.fixture
def images(rng):
    return rng.randint(0, 256, (2 * BATCH + 1, 112, 112, 3)).astype(np.uint8)


def test_equals_a_plain_executor(symbol, params, embedder, images):
    expected = embed_on_stock_graph(symbol, *params, images)
    assert expected.std() > 0.1
    got = embedder.embed(images)
    assert (got.shape, got.dtype) == ((len(images), 16), np.float32)
    assert embedder.embedding_size == 16
    np.testing.assert_allclose(got, expected, **CLOSE)


@pytest.mark.parametrize('name', ['tiny', 'qan_quality'])
def test_float64_is_that_in_every_operator(name, images):
    """PReLU, whose slopes are one a channel or one in all, is what MXNet would round."""
    symbol = tiny_symbol() if name == 'tiny' else get_symbol(name)
    params = reference_params(symbol)
    exact = embed_exactly(Network(symbol, *params), images[:2])
    assert exact.dtype == np.float64
    near = embed_on_stock_graph(symbol, *params, images[:2])
    np.testing.assert_allclose(near, exact, rtol=0, atol=1e-5 * np.abs(exact).max())
    assert (exact.astype(np.float32) != exact).any()
    if name == 'qan_quality':  # resizes in float32, as it is meant to
        return
    flat = [node['name'] for node in json.loads(symbol.tojson())['nodes'] if 'fc' in node['name']]
    plain = exact_prelu(symbol, flat=flat)
    executor = plain.simple_bind(
        mx.cpu(),
        grad_req='null',
        type_dict=dict.fromkeys(
            [*plain.list_arguments(), *plain.list_auxiliary_states()], 'float64'
        ),
        data=(2, 3, 112, 112),
        **{key: value.shape for key, value in params[0].items()},
    )
    executor.copy_params_from(
        *({key: value.astype('float64') for key, value in each.items()} for each in params)
    )
    pixels = images[:2].transpose(0, 3, 1, 2)
    output = executor.forward(is_train=False, data=mx.nd.array(pixels, dtype='float64'))[0]
    np.testing.assert_allclose(exact, output.asnumpy(), rtol=1e-12)


@pytest.mark.parametrize('count', [0, 1, BATCH - 1, BATCH, BATCH + 1, 2 * BATCH + 1])
def test_any_number_equals_one_by_one(embedder, images, count):
    one_by_one = [embedder.embed(images[index : index + 1])[0] for index in range(count)]
    got = embedder.embed(images[:count])
    assert got.shape == (count, 16)
    np.testing.assert_allclose(got, np.reshape(one_by_one, (count, 16)), **CLOSE)


@pytest.mark.parametrize('batch_size', [1, 2, 3, 64])
def test_batch_size_changes_nothing(symbol, params, embedder, images, batch_size):
    other = Embedder(Network(symbol, *params), batch_size=batch_size)
    np.testing.assert_allclose(other.embed(images), embedder.embed(images), **CLOSE)


@pytest.mark.parametrize('batch_size', [1, 2])
@pytest.mark.parametrize('name', ['vargfacenet', 'y1'])
def test_golden_embeddings_in_every_pass(name, batch_size):
    """Stock MXNet fails in the second pass: y1 always, vargfacenet at batch size 1."""
    golden = json.loads((DATA / f'net_{name}.json').read_text())
    expected = np.array(golden['embedding'])
    images = np.random.RandomState(golden['seed']).randint(0, 256, (len(expected), 3, 112, 112))
    images = np.tile(images.transpose(0, 2, 3, 1).astype(np.uint8), (4, 1, 1, 1))
    network = get_symbol(name)
    embedder = Embedder(
        Network(network, *reference_params(network, golden['seed'])), batch_size=batch_size
    )
    assert embedder.embedding_size == expected.shape[1]
    got = embedder.embed(images).reshape(4, *expected.shape)
    for each in got:
        np.testing.assert_allclose(each, expected, rtol=0, atol=1e-5 * np.abs(expected).max())


def test_mirrored_view_equals_mirrored_copy(embedder, images):
    view = images[:, :, ::-1]
    np.testing.assert_array_equal(embedder.embed(view), embedder.embed(view.copy()))
    assert np.abs(embedder.embed(view) - embedder.embed(images)).max() > 0.01
    symmetric = images.copy()
    symmetric[:, :, 56:] = symmetric[:, :, :56][:, :, ::-1]
    np.testing.assert_array_equal(embedder.embed(symmetric), embedder.embed(symmetric[:, :, ::-1]))


def test_flatten_keeps_names_and_shapes(symbol):
    """FullyConnected(flatten=False) keeps its 3-D input, the embedding's gets a Flatten."""
    dense = mx.sym.FullyConnected(mx.sym.Variable('words'), num_hidden=4, flatten=False, name='d')
    network = mx.sym.Group([symbol, dense])
    changed = flatten_before_dense(network)
    assert changed.list_arguments() == network.list_arguments()
    assert changed.list_auxiliary_states() == network.list_auxiliary_states()
    assert changed.list_outputs() == network.list_outputs()
    shapes = {'data': (2, 3, 112, 112), 'words': (2, 5, 7)}
    assert changed.infer_shape(**shapes) == network.infer_shape(**shapes)
    added = set(changed.get_internals().list_outputs()) - set(
        network.get_internals().list_outputs()
    )
    assert added == {'pre_fc1_flatten_output'}


@pytest.mark.parametrize('count', [1, BATCH, 2 * BATCH + 1])
def test_embed_batch_equals_embed(embedder, images, count):
    data = mx.nd.array(images[:count].transpose(0, 3, 1, 2))
    got = embedder.embed_batch(data)
    kept = got.asnumpy()
    np.testing.assert_allclose(kept, embedder.embed(images[:count]), **CLOSE)
    embedder.embed(255 - images)
    np.testing.assert_array_equal(got.asnumpy(), kept)  # a copy, not the executor's array


def test_follows_new_parameters(symbol, params, embedder, images):
    before = embedder.embed(images)
    arg, aux = reference_params(symbol, seed=2)
    extra = {'fc7_weight': mx.nd.ones((10, 16)), 'fc7_bias': mx.nd.ones(10)}
    embedder.set_params({**arg, **extra}, {**aux, 'fc7_moving_mean': mx.nd.ones(10)})
    after = embedder.embed(images)
    assert np.abs(after - before).max() > 0.1
    np.testing.assert_allclose(after, embed_on_stock_graph(symbol, arg, aux, images), **CLOSE)
    embedder.set_params(*params)
    np.testing.assert_array_equal(embedder.embed(images), before)


def test_missing_parameters_are_listed_and_change_nothing(symbol, embedder, images):
    before = embedder.embed(images)
    arg, aux = reference_params(symbol, seed=2)
    del arg['conv1_weight'], aux['fc1_moving_var']
    with pytest.raises(InputError, match=r'conv1_weight, fc1_moving_var'):
        embedder.set_params(arg, aux)
    np.testing.assert_array_equal(embedder.embed(images), before)


def test_reshaped_parameter_is_named(symbol, params):
    arg, aux = params
    arg = {**arg, 'pre_fc1_bias': mx.nd.zeros(5)}
    with pytest.raises(InputError, match=r'pre_fc1_bias \(\(5,\)'):
        Embedder(Network(symbol, arg, aux))


@pytest.mark.parametrize(
    'bad',
    [
        np.zeros((2, 112, 112, 3), np.float32),
        np.zeros((2, 3, 112, 112), np.uint8),
        np.zeros((112, 112, 3), np.uint8),
        np.zeros((2, 112, 96, 3), np.uint8),
    ],
    ids=lambda bad: f'{bad.dtype}{bad.shape}',
)
def test_other_images_are_refused(embedder, bad):
    with pytest.raises(InputError, match=re.escape(f'images are {bad.dtype} {bad.shape}')):
        embedder.embed(bad)


def test_batch_size_must_be_positive(symbol, params):
    with pytest.raises(InputError, match='batch size 0'):
        Embedder(Network(symbol, *params), batch_size=0)


def test_symbol_must_be_one_embedding(symbol, params):
    both = mx.sym.Group([symbol, symbol.get_internals()['pool1_output']])
    with pytest.raises(InputError, match=r'fc1_output.*pool1_output'):
        Embedder(Network(both, *params))
