"""ONNX models against MXNet, operator by operator and whole."""

import json

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import DATA
from pictures import picture
from tiny_network import calibrated_params, embed_on_stock_graph, reference_params
from vargfacenet.common.backend import mx
from vargfacenet.common.engine.fold import fold_batch_norms
from vargfacenet.common.engine.network import Network
from vargfacenet.common.engine.to_onnx import to_onnx
from vargfacenet.common.errors import InputError
from vargfacenet.symbol import blocks, get_symbol
from vargfacenet.symbol.options import ACTIVATIONS

TOLERANCE = 1e-5  # of the largest value


def run(model, data):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), providers=['CPUExecutionProvider']
    )
    return session.run(None, {'data': data})[0]


def nchw(images, dtype=np.float32):
    return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype)


def images(rng, count=8):
    return np.stack([picture(rng) for _ in range(count)])


def check_against_mxnet(symbol, rng, batches=(1, 3)):
    arg_params, aux_params = reference_params(symbol)
    model = to_onnx(Network(symbol, arg_params, aux_params))
    for batch in batches:
        pixels = images(rng, batch)
        # a second row keeps MXNet from its fault with fully connected layers at batch size 1
        twice = np.concatenate([pixels, pixels])
        expected = embed_on_stock_graph(symbol, arg_params, aux_params, twice)[:batch]
        result = run(model, nchw(pixels))
        assert result.shape == expected.shape
        assert np.isfinite(expected).all() and expected.std() > 0
        assert np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_the_published_embedding_comes_out_of_onnx(rng):
    """The reference implementation's numbers, through folding and conversion."""
    golden = json.loads((DATA / 'net_vargfacenet.json').read_text())
    symbol = get_symbol('vargfacenet')
    params = reference_params(symbol, golden['seed'])
    expected = np.array(golden['embedding'], np.float32)
    random = np.random.RandomState(golden['seed'])
    data = random.randint(0, 256, (len(expected), 3, 112, 112)).astype(np.float32)
    result = run(to_onnx(fold_batch_norms(Network(symbol, *params))), data)
    assert np.abs(result - expected).max() <= TOLERANCE * np.abs(expected).max()


def small(x):
    """(N, 3, 112, 112) -> (N, 8, 7, 7), values of both signs around 1."""
    x = (x - 127.5) * 0.0078125
    x = mx.sym.Convolution(
        x, kernel=(16, 16), stride=(16, 16), num_filter=8, no_bias=True, name='conv0'
    )
    return mx.sym.BatchNorm(x, fix_gamma=False, name='bn0')


# of 7 values and one of padding at each end: the last window reaches one beyond
FULL = {'kernel': (4, 4), 'stride': (3, 3), 'pad': (1, 1), 'pooling_convention': 'full'}
OPERATORS = {
    'convolution with dilation, bias and groups': lambda x: mx.sym.Convolution(
        x, kernel=(3, 3), dilate=(2, 2), pad=(1, 1), num_group=2, num_filter=6, name='c'
    ),
    'convolution of unequal sides': lambda x: mx.sym.Convolution(
        x, kernel=(3, 1), stride=(2, 1), pad=(1, 0), num_filter=6, no_bias=True, name='c'
    ),
    'batch norm with fixed gamma': lambda x: mx.sym.BatchNorm(x, fix_gamma=True, name='b'),
    'average pooling': lambda x: mx.sym.Pooling(
        x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='avg'
    ),
    'average pooling without padding in the mean': lambda x: mx.sym.Pooling(
        x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='avg', count_include_pad=False
    ),
    'max pooling, full': lambda x: mx.sym.Pooling(
        x, kernel=(2, 2), stride=(2, 2), pool_type='max', pooling_convention='full'
    ),
    'global max pooling': lambda x: mx.sym.Pooling(
        x, kernel=(1, 1), global_pool=True, pool_type='max'
    ),
    'one PReLU slope': lambda x: mx.sym.LeakyReLU(
        x, mx.sym.Variable('a_gamma', shape=(1,)), act_type='prelu', name='a'
    ),
    'swish': lambda x: x * mx.sym.sigmoid(x),
    'sigmoid gate': lambda x: mx.sym.broadcast_mul(
        x, mx.sym.Activation(mx.sym.mean(x, axis=(2, 3), keepdims=True), act_type='sigmoid')
    ),
    'tanh': lambda x: mx.sym.Activation(x, act_type='tanh'),
    'softsign': lambda x: mx.sym.Activation(x, act_type='softsign'),
    'numbers': lambda x: (1.5 - x) / 3 + 2 - mx.sym.relu(x) * 0.5,
    'difference and quotient': lambda x: (x - mx.sym.tanh(x)) / mx.sym.exp(x),
    'parts and their union': lambda x: mx.sym.concat(
        *reversed(list(mx.sym.split(x, num_outputs=4, axis=1))), dim=1
    ),
    'part of an axis': lambda x: mx.sym.slice_axis(x, axis=1, begin=2, end=7),
    'last part of an axis': lambda x: mx.sym.slice_axis(x, axis=3, begin=-3, end=None),
    'channel shuffle': lambda x: mx.sym.reshape(
        mx.sym.SwapAxis(mx.sym.reshape(x, shape=(0, -4, 4, 2, -2)), dim1=1, dim2=2),
        shape=(0, -3, -2),
    ),
    'transpose': lambda x: mx.sym.transpose(x, axes=(0, 2, 3, 1)),
    'clip': lambda x: mx.sym.clip(x, a_min=-0.3, a_max=0.4),
    'rounding down': lambda x: mx.sym.floor(x * 8),
    'a new axis': lambda x: mx.sym.expand_dims(x, axis=2),
    'parts that do not fill blocks': lambda x: blocks.concatenate(
        [mx.sym.slice_axis(x, axis=1, begin=3, end=8), mx.sym.tanh(x)], (5, 8), 'joined'
    ),
    'columns by computed numbers': lambda x: mx.sym.take(
        x, mx.sym.floor(mx.sym.arange(start=-1, stop=9) * 0.9, name='columns'), axis=3
    ),
    'columns counted round the end': lambda x: mx.sym.take(
        x, mx.sym.arange(start=-3, stop=9, name='columns'), axis=3, mode='wrap'
    ),
    'average pooling, full': lambda x: mx.sym.Pooling(
        x, kernel=(2, 2), stride=(2, 2), pool_type='avg', pooling_convention='full'
    ),
    'average pooling, full and padded': lambda x: mx.sym.Pooling(
        x, **FULL, pool_type='avg', count_include_pad=False
    ),
    'average pooling, full, padding in the mean': lambda x: mx.sym.Pooling(
        x, **FULL, pool_type='avg'
    ),
    'max pooling, full and padded': lambda x: mx.sym.Pooling(x, **FULL, pool_type='max'),
    'a computed factor': lambda x: mx.sym.broadcast_mul(
        x, mx.sym.reshape(mx.sym.arange(8, name='numbers') / 3, shape=(1, 8, 1, 1))
    ),
    'nothing': lambda x: mx.sym.BlockGrad(mx.sym.Dropout(mx.sym.identity(x), p=0.5)),
}


@pytest.mark.parametrize('name', OPERATORS)
def test_an_operator(name, rng):
    x = OPERATORS[name](small(mx.sym.Variable('data')))
    check_against_mxnet(mx.sym.Flatten(x, name='fc1'), rng)


@pytest.mark.parametrize('act_type', ACTIVATIONS)
def test_every_activation_of_the_networks(act_type, rng):
    check_against_mxnet(get_symbol('y1', act_type=act_type, emb_size=16), rng, batches=(2,))


def test_input_type_and_unit_length(rng):
    pixels = images(rng)
    network = calibrated_params('vargfacenet', pixels, multiplier=0.25, emb_size=32)
    expected = embed_on_stock_graph(*network, pixels).astype(np.float64)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    result = run(to_onnx(network, input_type='uint8', l2_normalize=True), nchw(pixels, np.uint8))
    # calibrated to so few images, random weights magnify rounding
    np.testing.assert_allclose(result, expected, atol=1e-4)


def test_a_zero_embedding_stays_zero(rng):
    symbol = mx.sym.FullyConnected(mx.sym.Variable('data'), num_hidden=4, name='fc1')
    zeros = {'fc1_weight': mx.nd.zeros((4, 37632)), 'fc1_bias': mx.nd.zeros((4,))}
    result = run(to_onnx(Network(symbol, zeros, {}), l2_normalize=True), nchw(images(rng, 2)))
    np.testing.assert_array_equal(result, np.zeros((2, 4)))


@pytest.mark.parametrize('l2_normalize', [False, True])
def test_float16_halves_the_file_and_keeps_the_direction(l2_normalize, rng):
    pixels = images(rng)
    network = calibrated_params('vargfacenet', pixels, multiplier=0.25, emb_size=32)
    folded = fold_batch_norms(network)
    half = to_onnx(folded, dtype=np.float16, l2_normalize=l2_normalize)
    whole = to_onnx(folded)
    assert half.ByteSize() < 0.55 * whole.ByteSize()
    result, expected = run(half, nchw(pixels)), run(whole, nchw(pixels))
    assert result.dtype == np.float32
    cosine = (result * expected).sum(axis=1)
    cosine /= np.linalg.norm(result, axis=1) * np.linalg.norm(expected, axis=1)
    assert cosine.min() > 0.999 and not np.array_equal(result, expected)


def test_only_data_is_an_input_and_no_node_is_stray():
    """MXNet's exporter lists parameters as inputs and adds reshapes around the last layer."""
    symbol = get_symbol('vargfacenet')
    model = to_onnx(fold_batch_norms(Network(symbol, *reference_params(symbol))))
    assert [value.name for value in model.graph.input] == ['data']
    counts = {}
    for node in model.graph.node:
        counts[node.op_type] = counts.get(node.op_type, 0) + 1
    # one PRelu for each of the 82 slopes, one SE module for each of the 12 normal blocks
    assert counts == {
        'Sub': 1,
        'Mul': 13,
        'Conv': 102,
        'PRelu': 82,
        'Add': 18,
        'GlobalAveragePool': 12,
        'Sigmoid': 12,
        'Flatten': 1,
        'Gemm': 1,
    }
    # with fewer axes than the data, run times change their layout around each addition
    slopes = {node.input[1] for node in model.graph.node if node.op_type == 'PRelu'}
    axes = {len(tensor.dims) for tensor in model.graph.initializer if tensor.name in slopes}
    assert axes == {4}


def test_maps_are_joined_without_the_detour():
    """One Concat, as `blocks.concatenate` would write it if MXNet had no fault."""
    x = OPERATORS['parts that do not fill blocks'](small(mx.sym.Variable('data')))
    symbol = mx.sym.Flatten(x, name='fc1')
    model = to_onnx(Network(symbol, *reference_params(symbol)))
    operators = [node.op_type for node in model.graph.node]
    assert operators.count('Concat') == 1
    assert not {'Unsqueeze', 'Reshape'} & set(operators)


def test_a_window_of_padding_alone_is_refused():
    """MXNet's 'full' makes one of 7 values with two of padding at each end."""
    x = small(mx.sym.Variable('data'))
    form = {'kernel': (3, 3), 'stride': (3, 3), 'pad': (2, 2), 'pooling_convention': 'full'}
    symbol = mx.sym.Flatten(mx.sym.Pooling(x, name='pool', **form), name='fc1')
    with pytest.raises(InputError, match=r"layer 'pool' \(Pooling\) has a window in its padding"):
        to_onnx(Network(symbol, *reference_params(symbol)))


def test_an_unknown_operator_is_named():
    symbol = mx.sym.FullyConnected(
        mx.sym.square(mx.sym.Variable('data'), name='bend'), num_hidden=4, name='fc1'
    )
    with pytest.raises(InputError, match="layer 'bend' is a square, which has no ONNX form"):
        to_onnx(Network(symbol, *reference_params(symbol)))
