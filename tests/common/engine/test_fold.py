"""Folded networks are the same function, with fewer layers."""

import json

import numpy as np
import pytest
from pictures import picture
from tiny_network import embed_on_stock_graph, reference_params, tiny_symbol
from vargfacenet.common.backend import mx
from vargfacenet.common.engine.fold import fold_batch_norms, without_dropout
from vargfacenet.common.engine.network import Network, plain_symbol
from vargfacenet.common.names import IMAGE_SHAPE
from vargfacenet.symbol import get_symbol

TOLERANCE = 5e-6  # of the largest value, float32 in another order


def images(rng, count=8):
    return np.stack([picture(rng) for _ in range(count)])


def operators(symbol):
    return [node['op'] for node in json.loads(symbol.tojson())['nodes']]


@pytest.mark.parametrize(
    ('network', 'options', 'left'),
    [
        ('vargfacenet', {'multiplier': 0.25, 'emb_size': 32}, 0),
        ('vargnet', {'multiplier': 0.25, 'emb_size': 32}, 0),
        ('y1', {}, 0),
        # mixed convolutions: one BatchNorm behind several that are joined
        ('shufflemixfacenet_xs', {'width': 0.25, 'gdw_size': 32, 'emb_size': 32}, 0),
        # bn1 of each of the 8 units is before a convolution that pads
        ('r18_se', {'width': 0.125, 'emb_size': 32}, 8),
    ],
)
def test_a_folded_network_gives_the_same_embeddings(network, options, left, rng):
    pixels = images(rng)
    symbol = get_symbol(network, **options)
    arg_params, aux_params = reference_params(symbol)
    expected = embed_on_stock_graph(symbol, arg_params, aux_params, pixels)
    folded = fold_batch_norms(Network(symbol, arg_params, aux_params))
    assert folded[0].list_outputs() == ['fc1_output']
    assert operators(folded[0]).count('BatchNorm') == left
    assert 'Dropout' not in operators(folded[0])
    result = embed_on_stock_graph(*folded, pixels)
    assert np.abs(result - expected).max() < TOLERANCE * np.abs(expected).max()
    # what was given is as it was
    again = embed_on_stock_graph(symbol, arg_params, aux_params, pixels)
    np.testing.assert_array_equal(again, expected)


def test_parameters_keep_their_names(rng):
    symbol = get_symbol('vargfacenet', multiplier=0.25)
    folded, arg_params, aux_params = fold_batch_norms(Network(symbol, *reference_params(symbol)))
    weights = {name for name in symbol.list_arguments() if name.endswith('_weight')}
    assert weights == {name for name in arg_params if name.endswith('_weight')}
    assert aux_params == {}
    assert set(folded.list_arguments()) == {'data', *arg_params}


def test_scale_and_shift_by_the_definition(rng):
    """One convolution and BatchNorm, by float64 arithmetic on the numbers."""
    symbol = mx.sym.Convolution(
        mx.sym.Variable('data'), kernel=(112, 112), num_filter=2, no_bias=True, name='c'
    )
    symbol = mx.sym.BatchNorm(symbol, eps=0.5, fix_gamma=False, name='b')
    symbol = mx.sym.Flatten(symbol, name='fc1')
    arrays = {
        'c_weight': rng.randn(2, *IMAGE_SHAPE),
        'b_gamma': [2.0, -3.0],
        'b_beta': [1.0, 0.25],
    }
    arrays = {name: mx.nd.array(value) for name, value in arrays.items()}
    aux = {'b_moving_mean': mx.nd.array([4.0, 5.0]), 'b_moving_var': mx.nd.array([0.5, 3.5])}
    _, folded, _ = fold_batch_norms(Network(symbol, arrays, aux))
    # 2 / sqrt(0.5 + 0.5) = 2 and -3 / sqrt(3.5 + 0.5) = -1.5
    weight = arrays['c_weight'].asnumpy().astype(np.float64)
    np.testing.assert_allclose(folded['c_weight'], weight * [[[[2.0]]], [[[-1.5]]]], rtol=1e-6)
    np.testing.assert_allclose(folded['c_bias'], [1 - 2 * 4, 0.25 + 1.5 * 5], rtol=1e-6)


@pytest.mark.parametrize('case', ['read twice', 'shared weight', 'before padding'])
def test_what_cannot_be_folded_stays(case, rng):
    data = mx.sym.Variable('data')
    options = {'kernel': (3, 3), 'num_filter': 3, 'no_bias': True}
    if case == 'read twice':
        first = mx.sym.Convolution(data, name='c', **options)
        x = mx.sym.concat(first, mx.sym.BatchNorm(first, fix_gamma=False, name='b'))
    elif case == 'shared weight':
        weight = mx.sym.Variable('w')
        x = mx.sym.Convolution(data, weight, name='c1', **options)
        x = mx.sym.BatchNorm(x, fix_gamma=False, name='b')
        x = mx.sym.Convolution(x, weight, name='c2', **options)
    else:
        x = mx.sym.BatchNorm(data, fix_gamma=False, name='b')
        x = mx.sym.Convolution(x, pad=(1, 1), name='c', **options)
    symbol = mx.sym.FullyConnected(x, num_hidden=4, name='fc1')
    arg_params, aux_params = reference_params(symbol)
    folded = fold_batch_norms(Network(symbol, arg_params, aux_params))
    assert operators(folded[0]).count('BatchNorm') == 1
    pixels = images(rng, 2)
    expected = embed_on_stock_graph(symbol, arg_params, aux_params, pixels)
    result = embed_on_stock_graph(*folded, pixels)
    np.testing.assert_allclose(result, expected, atol=1e-6 * np.abs(expected).max())


def test_dropout_goes_and_nothing_else():
    symbol = plain_symbol(get_symbol('r18', width=0.125))
    slim = without_dropout(symbol)
    expected = [op for op in operators(symbol) if op != 'Dropout']
    assert 'Dropout' in operators(symbol) and operators(slim) == expected
    assert slim.list_arguments() == symbol.list_arguments()
    tiny = plain_symbol(tiny_symbol())
    assert without_dropout(tiny) is tiny
