"""The convolutions against their definition, a float64 loop over the taps."""

import numpy as np
import pytest
from convolutions import (
    GROUPED,
    POINTWISE,
    SLICES,
    assert_close,
    assert_threads_change_no_bit,
    check_convolution,
    check_slices,
    cut,
    draw,
    run,
)
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops

pytestmark = pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')
# images, height, width, stride, (channels, kernel, padding) of each part: all kernels, blocks of
# rows, columns and channels that are cut off, kernels larger than the picture
DEPTHWISE = [
    (1, 1, 1, 1, [(1, 3, 1)]),
    (2, 2, 3, 2, [(5, 3, 1)]),
    (3, 7, 7, 1, [(16, 3, 1), (13, 5, 2), (13, 7, 3), (13, 9, 4), (13, 11, 5)]),
    (2, 14, 14, 2, [(20, 3, 1), (20, 5, 2), (17, 7, 3), (8, 9, 4), (7, 11, 5)]),
    (2, 9, 12, 2, [(9, 5, 2), (3, 3, 1)]),
    (5, 5, 7, 1, [(3, 11, 5)]),
    (3, 7, 7, 1, [(40, 7, 0)]),
    (2, 11, 8, 2, [(4, 7, 0), (4, 7, 0)]),
    (2, 30, 29, 1, [(33, 5, 1)]),
    (2, 56, 50, 2, [(8, 3, 0)]),
]


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('case', POINTWISE)
def test_pointwise_is_its_definition(rng, case, bias):
    check_convolution(rng, 'vg_pointwise', case, 1, 1, 1, bias)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('case', GROUPED)
def test_grouped_is_its_definition(rng, case, bias):
    *case, groups, stride = case
    check_convolution(rng, 'vg_grouped', case, groups, stride, 3, bias)


@pytest.mark.parametrize('case', SLICES)
def test_pointwise_of_slices_is_its_definition(rng, case):
    check_slices(rng, 'vg_mixed_pointwise', case)


@pytest.mark.parametrize('op', ['vg_grouped', 'vg_grouped_bf16'])
def test_grouped_leaves_out_a_gradient_that_nobody_reads(rng, op):
    x, weight, dy = draw(rng, 3, 8, 9, 7), draw(rng, 16, 4, 3, 3), draw(rng, 3, 16, 9, 7)
    options = {'num_filter': 16, 'num_group': 2, 'stride': 1, 'no_bias': True}
    y, _, dweight = run(op, [x, weight], dy, **options)
    without = run(op, [x, weight], dy, input_gradient=False, **options)
    np.testing.assert_array_equal(without[0], y)
    assert np.isnan(without[1]).all()
    np.testing.assert_array_equal(without[2], dweight)


def windows(x, kernel, padding, stride):
    """Of every tap: its row, its column and what it reads of the padded input."""
    height, width = (length + 2 * padding - kernel for length in x.shape[2:])
    for i in range(kernel):
        for j in range(kernel):
            rows, columns = slice(i, i + height + 1, stride), slice(j, j + width + 1, stride)
            yield i, j, np.s_[:, :, rows, columns]


def depthwise(x, weight, padding, stride):
    """(N, C, H, W), (C, 1, k, k) -> (N, C, Ho, Wo)."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    return sum(
        padded[window] * weight[:, :, i, j].reshape(1, -1, 1, 1)
        for i, j, window in windows(x, weight.shape[2], padding, stride)
    )


def depthwise_gradients(x, weight, padding, stride, dy):
    """Of sum(y * dy), by x and by the weights."""
    padded = np.pad(x, ((0, 0), (0, 0), (padding,) * 2, (padding,) * 2))
    dpadded, dweight = np.zeros_like(padded), np.zeros_like(weight)
    for i, j, window in windows(x, weight.shape[2], padding, stride):
        dweight[:, 0, i, j] = np.sum(padded[window] * dy, (0, 2, 3))
        dpadded[window] += dy * weight[:, :, i, j].reshape(1, -1, 1, 1)
    inner = slice(padding, -padding or None)
    return dpadded[:, :, inner, inner], dweight


@pytest.mark.parametrize('case', DEPTHWISE)
def test_depthwise_is_its_definition(rng, case):
    n, h, w, stride, parts = case
    channels, kernels, pads = zip(*parts)
    x = draw(rng, n, sum(channels), h, w)
    weights = [draw(rng, c, 1, kernel, kernel) for c, kernel in zip(channels, kernels)]
    pieces = list(zip(cut(x, channels), weights, pads))
    expected = np.concatenate([depthwise(*piece, stride) for piece in pieces], axis=1)
    dy = draw(rng, *expected.shape)
    y, dx, *dweights = run(
        'vg_depthwise',
        [x, *weights],
        dy,
        channels=channels,
        kernel=kernels,
        pad=pads,
        stride=stride,
    )
    assert_close(y, expected)
    found = zip(cut(dx, channels), dweights)
    for piece, part_dy, gradients in zip(pieces, cut(dy, channels), found):
        for actual, right in zip(gradients, depthwise_gradients(*piece, stride, part_dy)):
            assert_close(actual, right)


def test_depthwise_lets_not_a_number_spread_no_further_than_the_definition_says(rng):
    x, weight = draw(rng, 3, 20, 7, 7), draw(rng, 20, 1, 3, 3)
    x[1, 3, 2, 6] = np.nan
    options = {'channels': (20,), 'kernel': (3,), 'pad': (1,), 'stride': 1}
    y, dx, dweight = run('vg_depthwise', [x, weight], np.ones_like(x), **options)
    expected = np.zeros(x.shape, bool)
    expected[1, 3, 1:4, 5:7] = True
    np.testing.assert_array_equal(np.isnan(y), expected)
    assert np.isfinite(dx).all()
    assert np.isfinite(np.delete(dweight, 3, axis=0)).all()


@pytest.mark.parametrize('stride', '12')
def test_any_number_of_threads_gives_the_same_bits(monkeypatch, stride):
    depthwise = {'channels': '(40, 20)', 'kernel': '(3, 5)', 'pad': '(1, 2)', 'stride': stride}
    grouped = {'num_filter': '48', 'num_group': '3', 'stride': stride, 'no_bias': 'True'}
    steps = [
        ('vg_depthwise', [(5, 60, 28, 28), (40, 1, 3, 3), (20, 1, 5, 5)], depthwise),
        ('vg_grouped', [(5, 24, 28, 28), (48, 8, 3, 3)], grouped),
    ]
    assert_threads_change_no_bit(monkeypatch, steps)


WRONG_DEPTHWISE = {
    'as many whole numbers': {'pad': '(1, 1)'},
    'kernels of 3, 5, 7, 9 and 11': {'kernel': '(4,)'},
    'larger than the picture': {'kernel': '(11,)', 'pad': '(0,)'},
    'the parts have 5 channels, the input 4': {'channels': '(5,)'},
}


@pytest.mark.parametrize('message', WRONG_DEPTHWISE)
def test_depthwise_names_what_it_cannot_do(message):
    options = {'channels': '(4,)', 'kernel': '(3,)', 'pad': '(1,)', 'stride': '1'}
    options.update(WRONG_DEPTHWISE[message])
    weight = mx.sym.Variable('weight')
    with pytest.raises(mx.MXNetError, match=message):
        mx.sym.vg_depthwise(mx.sym.Variable('x'), weight, **options).infer_shape(x=(1, 4, 5, 5))


@pytest.mark.parametrize('op', ['vg_pointwise', 'vg_grouped'])
def test_the_same_threads_give_the_same_bits(rng, op):
    size = 1 if op == 'vg_pointwise' else 3
    x, weight = rng.randn(9, 32, 28, 28), rng.randn(48, 32 if size == 1 else 8, size, size)
    options = {'num_filter': 48, 'num_group': 1 if size == 1 else 4, 'stride': 1, 'no_bias': True}
    dy = rng.randn(9, 48, 28, 28)
    first = run(op, [x, weight], dy, **options)
    for _ in range(3):
        for once, again in zip(first, run(op, [x, weight], dy, **options)):
            np.testing.assert_array_equal(once, again)


@pytest.mark.parametrize('op', ['vg_grouped', 'vg_grouped_bf16'])
def test_not_a_number_spreads_no_further_than_the_definition_says(rng, op):
    """What is read behind a row, for neighbours that it has not got, positions that are computed
    for nothing, and the second number of a pair, must not leak."""
    x, weight, dy = draw(rng, 3, 8, 7, 7), draw(rng, 8, 8, 3, 3), np.ones((3, 8, 7, 7))
    x[1, 3, 2, 6] = np.nan
    options = {'num_filter': 8, 'num_group': 1, 'stride': 1, 'no_bias': True}
    y, dx, dweight = run(op, [x, weight], dy, **options)
    expected = np.zeros((3, 7, 7), bool)
    expected[1, 1:4, 5:7] = True
    np.testing.assert_array_equal(np.isnan(y).all(axis=1), expected)
    np.testing.assert_array_equal(np.isnan(y).any(axis=1), expected)
    assert np.isfinite(dx).all()
    assert np.isfinite(np.delete(dweight, 3, axis=1)).all()


@pytest.mark.parametrize('missing', ['num_filter', 'num_group', 'stride'])
def test_missing_attributes_are_errors(missing):
    options = {'num_filter': '4', 'num_group': '1', 'stride': '1', 'no_bias': 'True'}
    del options[missing]
    with pytest.raises(mx.MXNetError, match=f'positive whole number as {missing}'):
        mx.nd.vg_grouped(mx.nd.ones((1, 4, 5, 5)), mx.nd.ones((4, 4, 3, 3)), **options)


WRONG_CONVOLUTIONS = [
    ('vg_grouped', {'stride': '3'}, 'stride of 1 or 2, not 3'),
    ('vg_grouped', {'stride': '1.5'}, 'positive whole number as stride'),
    ('vg_grouped', {'num_group': '3'}, 'divides C and num_filter, not 4 axes, C 4'),
    ('vg_pointwise', {'stride': '2'}, 'one group and a stride of 1, not 1 and 2'),
    ('vg_pointwise', {'num_group': '2'}, 'one group and a stride of 1, not 2 and 1'),
]


@pytest.mark.parametrize('form', ['', '_bf16'])
@pytest.mark.parametrize('op, wrong, message', WRONG_CONVOLUTIONS)
def test_convolutions_name_what_they_cannot_do(op, wrong, message, form):
    options = {'num_filter': '4', 'num_group': '1', 'stride': '1', 'no_bias': 'True', **wrong}
    with pytest.raises(mx.MXNetError, match=message):
        symbol = getattr(mx.sym, op + form)(mx.sym.Variable('x'), mx.sym.Variable('w'), **options)
        symbol.infer_shape(x=(1, 4, 5, 5))
