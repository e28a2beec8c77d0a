"""The operators against their definitions in float64 and against MXNet's own operators."""

import numpy as np
import pytest
from convolutions import assert_threads_change_no_bit
from reference import gradient
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops

pytestmark = pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')

SHAPES = [(1, 3, 1, 1), (2, 3, 7, 7), (3, 5), (1, 1, 3, 5), (2, 2, 4)]
NORM_SHAPES = [(2, 3, 7, 7), (5, 3), (4, 1, 1, 1), (1, 2, 3, 5)]
PARALLEL_SHAPE = (4, 24, 33, 35)  # large enough to be shared among threads
EPSILON, MOMENTUM = 2e-5, 0.9


def by_channel(values, ndim):
    return np.reshape(values, (1, -1) + (1,) * (ndim - 2))


def prelu(v, slope):
    return np.where(v > 0, v, v * by_channel(slope, v.ndim))


def normalise(x, gamma, beta, mean, variance):
    mean, variance, gamma, beta = (by_channel(a, x.ndim) for a in (mean, variance, gamma, beta))
    return gamma * (x - mean) / np.sqrt(variance + EPSILON) + beta


def batch_norm_prelu(x, gamma, beta, slope):
    axes = (0, *range(2, x.ndim))
    return prelu(normalise(x, gamma, beta, x.mean(axes), x.var(axes)), slope)


def swish(v):
    return v / (1 + np.exp(-v))


def recentre(x, centre, factor, offset):
    centre, factor, offset = (by_channel(each, x.ndim) for each in (centre, factor, offset))
    return (x - centre) * factor + offset


DEFINITIONS = {
    'vg_prelu': prelu,
    'vg_swish': swish,
    'vg_add_prelu': lambda x, shortcut, slope: prelu(x + shortcut, slope),
    'vg_scale_add_prelu': lambda x, scale, shortcut, slope: prelu(x * scale + shortcut, slope),
    'vg_scale': lambda x, scale: x * scale,
    'vg_global_pool': lambda x: x.mean((2, 3), keepdims=True),
    'vg_recentre': recentre,
}
INPUTS = {
    'vg_prelu': ('x', 'slope'),
    'vg_swish': ('x',),
    'vg_add_prelu': ('x', 'shortcut', 'slope'),
    'vg_scale_add_prelu': ('x', 'scale', 'shortcut', 'slope'),
    'vg_scale': ('x', 'scale'),
    'vg_global_pool': ('x',),
    'vg_recentre': ('x', 'centre', 'factor', 'offset'),
}
CASES = [
    (op, shape)
    for op in DEFINITIONS
    for shape in SHAPES
    if len(shape) == 4 or op in ('vg_prelu', 'vg_add_prelu', 'vg_swish', 'vg_recentre')
]


def away_from_zero(values):
    """Finite differences across the kink of a PReLU would say nothing."""
    return values + 0.1 * np.sign(values)


def draw(rng, op, shape):
    """Inputs of an operator in float64, exact in float32; slopes below 0 and above 1 included."""
    values = {
        'x': away_from_zero(rng.randn(*shape)),
        'scale': 0.1 + rng.rand(*shape[:2], 1, 1),
        'shortcut': rng.randn(*shape),
        'slope': np.resize([-1.65, 0.25, 1.76, 0.0], shape[1]) + 0.01 * rng.randn(shape[1]),
        **{name: rng.randn(shape[1]) for name in ('centre', 'factor', 'offset')},
    }
    if op != 'vg_prelu' and 'shortcut' in INPUTS[op]:
        first = values['x'] * (values['scale'] if 'scale' in INPUTS[op] else 1)
        values['shortcut'] = away_from_zero(first + values['shortcut']) - first
    return [values[name].astype(np.float32).astype(np.float64) for name in INPUTS[op]]


def run(op, arrays, output_gradient=None, **attributes):
    """Output and input gradients of an operator on float32 copies of the arrays."""
    arrays = [mx.nd.array(array, dtype='float32') for array in arrays]
    for array in arrays:
        array.attach_grad()
    with mx.autograd.record():
        y = getattr(mx.nd, op)(*arrays, **attributes)
        y = y[0] if isinstance(y, list) else y
    if output_gradient is None:
        return y.asnumpy()
    y.backward(mx.nd.array(output_gradient, dtype='float32'))
    return y.asnumpy(), [array.grad.asnumpy() for array in arrays]


def assert_close(actual, expected, tolerance=1e-5):
    """Within `tolerance` of the largest value."""
    limit = tolerance * max(np.abs(expected).max(), 1e-30)
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= limit, np.abs(actual - expected).max() / limit


@pytest.mark.parametrize(('op', 'shape'), CASES)
def test_forward_and_gradients_are_those_of_the_definition(rng, op, shape):
    arrays = draw(rng, op, shape)
    expected = DEFINITIONS[op](*arrays)
    weights = rng.randn(*expected.shape).astype(np.float32).astype(np.float64)
    y, gradients = run(op, arrays, weights)
    assert_close(y, expected, 1e-6)
    for position in range(len(arrays)):

        def loss(values, position=position):
            replaced = [*arrays[:position], values, *arrays[position + 1 :]]
            return float(np.sum(DEFINITIONS[op](*replaced) * weights))

        assert_close(gradients[position], gradient(loss, arrays[position]))


@pytest.mark.parametrize('shape', [*SHAPES, PARALLEL_SHAPE])
def test_forward_has_the_bits_of_the_stock_operators(rng, shape):
    def stock_prelu(v, slope):
        return mx.nd.LeakyReLU(v, slope, act_type='prelu').asnumpy()

    x, slope = draw(rng, 'vg_prelu', shape)
    nd = [mx.nd.array(values, dtype='float32') for values in (x, slope)]
    np.testing.assert_array_equal(run('vg_prelu', (x, slope)), stock_prelu(*nd))
    x, shortcut, slope = draw(rng, 'vg_add_prelu', shape)
    a, b, g = [mx.nd.array(values, dtype='float32') for values in (x, shortcut, slope)]
    np.testing.assert_array_equal(run('vg_add_prelu', (x, shortcut, slope)), stock_prelu(a + b, g))
    if len(shape) == 4:
        arrays = draw(rng, 'vg_scale_add_prelu', shape)
        a, s, b, g = [mx.nd.array(values, dtype='float32') for values in arrays]
        product = mx.nd.broadcast_mul(a, s)
        np.testing.assert_array_equal(
            run('vg_scale_add_prelu', arrays), stock_prelu(product + b, g)
        )
        np.testing.assert_array_equal(run('vg_scale', arrays[:2]), product.asnumpy())


@pytest.mark.parametrize('op', DEFINITIONS)
def test_shared_among_threads_gives_the_bits_of_one_channel_at_a_time(rng, op):
    arrays = draw(rng, op, PARALLEL_SHAPE)
    weights = rng.randn(*DEFINITIONS[op](*arrays).shape)
    y, gradients = run(op, arrays, weights)
    again = run(op, arrays, weights)
    np.testing.assert_array_equal(y, again[0])
    for first, second in zip(gradients, again[1]):
        np.testing.assert_array_equal(first, second)
    for c in range(0, PARALLEL_SHAPE[1], 5):
        one = slice(c, c + 1)
        part = [array[one] if array.ndim == 1 else array[:, one] for array in arrays]
        part_y, part_gradients = run(op, part, weights[:, one])
        np.testing.assert_array_equal(y[:, one], part_y)
        for whole, alone in zip(gradients, part_gradients):
            np.testing.assert_array_equal(whole[one] if whole.ndim == 1 else whole[:, one], alone)


def test_long_sums_keep_their_digits(rng):
    """Terms of one sign and size: a float32 sum of 800,000 of them would lose four digits."""
    x = -(1 + 0.01 * rng.rand(64, 1, 112, 112)).astype(np.float32)
    dy = (1 + 0.01 * rng.rand(*x.shape)).astype(np.float32)
    _, (_, dslope) = run('vg_prelu', (x, np.array([0.25])), dy)
    expected = np.sum(dy.astype(np.float64) * x.astype(np.float64))
    assert abs(dslope[0] / expected - 1) < 2e-7


def norm_arrays(rng, shape, offset=0.5):
    """x, gamma, beta, slope, running mean and variance of BatchNorm + PReLU, float64."""
    channels = shape[1]
    arrays = [
        offset + rng.randn(*shape),
        0.5 + rng.rand(channels),
        0.1 * rng.randn(channels),
        np.resize([-1.65, 0.25, 1.76, 0.0], channels),
        0.1 * rng.randn(channels),
        0.5 + rng.rand(channels),
    ]
    return [array.astype(np.float32).astype(np.float64) for array in arrays]


def run_norm(arrays, output_gradient, train):
    """Output, gradients of x, gamma, beta and slope, and the running averages afterwards."""
    x, gamma, beta, slope, mean, variance = (mx.nd.array(a, dtype='float32') for a in arrays)
    mode = mx.nd.array([2.0 if train else 1.0])
    learnt = (x, gamma, beta, slope)
    for array in learnt:
        array.attach_grad()
    with mx.autograd.record():
        states = (mode, mean, variance)
        outputs = mx.nd.vg_bn_prelu(*learnt, *states, eps=EPSILON, momentum=MOMENTUM)
    outputs[0].backward(mx.nd.array(output_gradient, dtype='float32'))
    gradients = [array.grad.asnumpy() for array in learnt]
    return outputs[0].asnumpy(), gradients, mean.asnumpy(), variance.asnumpy()


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('shape', NORM_SHAPES)
def test_norm_prelu_is_its_definition(rng, shape, train):
    *arrays, mean, variance = norm_arrays(rng, shape)

    def definition(x, gamma, beta, slope):
        if train:
            return batch_norm_prelu(x, gamma, beta, slope)
        return prelu(normalise(x, gamma, beta, mean, variance), slope)

    weights = rng.randn(*shape).astype(np.float32).astype(np.float64)
    y, gradients, _, _ = run_norm([*arrays, mean, variance], weights, train)
    assert_close(y, definition(*arrays))
    for position in range(4):

        def loss(values, position=position):
            replaced = [*arrays[:position], values, *arrays[position + 1 :]]
            return float(np.sum(definition(*replaced) * weights))

        assert_close(gradients[position], gradient(loss, arrays[position]))


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('shape', [*NORM_SHAPES, (3, 2, 50, 61)])
def test_norm_swish_is_norm_and_then_swish(rng, shape, train):
    """`vg_bn_prelu` with slopes of 1 is a BatchNorm, tested above; it gets Swish's gradient."""
    arrays = norm_arrays(rng, shape)
    arrays[3] = np.ones(shape[1])
    weights = rng.randn(*shape).astype(np.float32).astype(np.float64)
    plain, *_ = run_norm(arrays, weights, train)
    gate = 1 / (1 + np.exp(-plain.astype(np.float64)))
    through = weights * gate * (1 + plain * (1 - gate))
    _, gradients, *averages = run_norm(arrays, through, train)
    x, gamma, beta, _, mean, variance = (mx.nd.array(a, dtype='float32') for a in arrays)
    learnt = (x, gamma, beta)
    for array in learnt:
        array.attach_grad()
    with mx.autograd.record():
        states = (mx.nd.array([2.0 if train else 1.0]), mean, variance)
        y = mx.nd.vg_bn_swish(*learnt, *states, eps=EPSILON, momentum=MOMENTUM)[0]
    y.backward(mx.nd.array(weights, dtype='float32'))
    assert_close(y.asnumpy(), swish(plain.astype(np.float64)), 1e-6)
    for array, expected in zip(learnt, gradients):
        assert_close(array.grad.asnumpy(), expected)
    for array, expected in zip((mean, variance), averages):
        np.testing.assert_array_equal(array.asnumpy(), expected)


@pytest.mark.parametrize('shape', [*SHAPES, PARALLEL_SHAPE])
def test_moments_are_mean_and_variance_and_so_are_their_gradients(rng, shape):
    x = (3 + rng.randn(*shape)).astype(np.float32)
    given = [mx.nd.array(rng.randn(shape[1])) for _ in range(2)]
    axes = (0, *range(2, x.ndim))
    array = mx.nd.array(x)
    array.attach_grad()
    with mx.autograd.record():
        moments = mx.nd.vg_moments(array)
    mx.autograd.backward(moments, given)
    wide = x.astype(np.float64)
    assert_close(moments[0].asnumpy(), wide.mean(axes), 1e-6)
    np.testing.assert_allclose(moments[1].asnumpy(), wide.var(axes), rtol=1e-5, atol=1e-10)
    of_mean, of_variance = (by_channel(each.asnumpy(), x.ndim) for each in given)
    centred = wide - wide.mean(axes, keepdims=True)
    count = x.size / shape[1]
    assert_close(array.grad.asnumpy(), of_mean / count + 2 * centred * of_variance / count)


def test_swish_at_the_ends():
    """No overflow far out, and not a number stays so."""
    x = np.array([[-3e38, -100, -87.5, -20, 0, 20, 100, 3e38, np.inf, np.nan]], np.float32)
    y, (dx,) = run('vg_swish', [x], np.ones_like(x))
    np.testing.assert_allclose(y[0, 3:8], [-20 / (1 + np.exp(20)), 0, 20, 100, 3e38], rtol=1e-6)
    assert np.abs(y[0, :3]).max() < 1e-30
    np.testing.assert_allclose(dx[0, [0, 1, 4, 6, 7]], [0, 0, 0.5, 1, 1], atol=1e-7)
    assert y[0, 8] == np.inf
    assert np.isnan(y[0, 9])
    assert np.isnan(dx[0, 9])


def test_norm_prelu_survives_a_mean_far_from_zero(rng):
    """A mean 4,000 times the deviation: sums of squares in float32 would have no digit left."""
    arrays = norm_arrays(rng, (4, 3, 17, 19), offset=4000.0)
    y, _, _, _ = run_norm(arrays, np.ones_like(arrays[0]), train=True)
    assert_close(y, batch_norm_prelu(*arrays[:4]), 1e-4)  # x itself is rounded to 2.4e-4


def test_norm_prelu_moves_the_running_averages_like_batch_norm(rng):
    ours = norm_arrays(rng, (3, 4, 5, 6))
    stock = [mx.nd.array(array, dtype='float32') for array in ours]
    for _ in range(3):
        ours[0] = 1 + 2 * rng.randn(*ours[0].shape)
        y, gradients, *averages = run_norm(ours, np.ones(ours[0].shape), True)
        ours[4:] = averages
        _, gamma, beta, slope, mean, variance = stock
        gamma.attach_grad()
        with mx.autograd.record():
            arrays = (mx.nd.array(ours[0]), gamma, beta, mean, variance)
            options = {'eps': EPSILON, 'momentum': MOMENTUM, 'fix_gamma': False}
            normalised = mx.nd.BatchNorm(*arrays, **options)
            stock_y = mx.nd.LeakyReLU(normalised, slope, act_type='prelu')
        stock_y.backward()  # which is when the stock operator moves its averages
        assert_close(y, stock_y.asnumpy())
    assert_close(ours[4], mean.asnumpy(), 1e-6)
    assert_close(ours[5], variance.asnumpy(), 1e-6)
    assert np.any(gradients[1])


def test_norm_prelu_leaves_the_running_averages_alone_in_inference(rng):
    arrays = norm_arrays(rng, (3, 4, 5, 6))
    _, _, mean, variance = run_norm(arrays, np.ones(arrays[0].shape), train=False)
    np.testing.assert_array_equal(mean, arrays[4].astype(np.float32))
    np.testing.assert_array_equal(variance, arrays[5].astype(np.float32))


def test_norm_prelu_passes_on_what_is_not_finite(rng):
    arrays = norm_arrays(rng, (2, 3, 4, 4))
    arrays[0][0, 1, 2, 2] = np.nan
    y, _, mean, variance = run_norm(arrays, np.ones(arrays[0].shape), train=True)
    for values in (y.transpose(1, 0, 2, 3), mean, variance):
        assert np.isnan(values[1]).all()
        assert np.isfinite(values[[0, 2]]).all()


def test_other_types_shapes_and_missing_attributes_are_errors():
    x, slope = mx.nd.ones((2, 3, 4, 4)), mx.nd.ones(3)
    with pytest.raises(mx.MXNetError, match='float32 only'):
        mx.nd.vg_prelu(x.astype('float64'), slope.astype('float64')).wait_to_read()
    with pytest.raises(mx.MXNetError):
        mx.nd.vg_prelu(x, mx.nd.ones(1)).wait_to_read()
    with pytest.raises(mx.MXNetError):
        mx.nd.vg_add_prelu(x, mx.nd.ones((2, 3, 4, 1)), slope).wait_to_read()
    with pytest.raises(mx.MXNetError, match='needs the attribute eps'):
        mx.nd.vg_bn_prelu(x, *[slope] * 3, mx.nd.ones(1), slope, slope)


def test_the_number_of_threads_does_not_change_a_bit(monkeypatch):
    shape, channel = PARALLEL_SHAPE, PARALLEL_SHAPE[1:2]
    norm = [shape, channel, channel, channel, (1,), channel, channel]
    options = {'eps': '2e-5', 'momentum': '0.9'}
    steps = [('vg_bn_prelu', norm, options), ('vg_prelu', [shape, channel], {})]
    assert_threads_change_no_bit(monkeypatch, steps)
