"""The counter against counts made by hand from the rule of the challenge's organisers.

Convolution: (2 * Cin * kh * kw - [no bias]) * Hout * Wout * Cout / groups; fully connected:
2 * in * out - [no bias] * out; nothing else counts.
"""

import pytest
from vargfacenet.common import flops
from vargfacenet.common.backend import mx
from vargfacenet.common.errors import InputError


def convolution(**options):
    return mx.sym.Convolution(mx.sym.Variable('data'), name='conv', **options)


@pytest.mark.parametrize('no_bias', [False, True])
def test_convolution(no_bias):
    symbol = convolution(num_filter=5, kernel=(3, 2), stride=(2, 1), pad=(1, 0), no_bias=no_bias)
    # output: rows (8 + 2 - 3) // 2 + 1 = 4, columns 6 - 2 + 1 = 5
    (row,) = flops.layers(symbol, (4, 8, 6))
    operations = 2 * 4 * 3 * 2 - (1 if no_bias else 0)
    assert row == flops.Layer(
        name='conv',
        operator='Convolution',
        output_shape=(1, 5, 4, 5),
        params=5 * 4 * 3 * 2 + (0 if no_bias else 5),
        flops=operations * 5 * 4 * 5,
        flops_all=(2 * 4 * 3 * 2 + (0 if no_bias else 1)) * 5 * 4 * 5,
    )


@pytest.mark.parametrize(('no_bias', 'expected'), [(False, 432), (True, 428)])
def test_grouped_convolution_counts_all_inputs_and_divides(no_bias, expected):
    """3 groups of 2 inputs, 3x3, 3 filters on a 2x2 map: 2 * 6 * 9 * 12 / 3 = 432, and without
    bias 107 * 12 / 3 = 428, where the exact number of additions would give 12 * 35 = 420.
    """
    symbol = convolution(num_filter=3, kernel=(3, 3), num_group=3, no_bias=no_bias)
    (row,) = flops.layers(symbol, (6, 4, 4))
    assert row.output_shape == (1, 3, 2, 2)
    assert row.params == 3 * 2 * 9 + (0 if no_bias else 3)
    assert row.flops == expected


@pytest.mark.parametrize(('no_bias', 'params', 'expected'), [(False, 847, 1680), (True, 840, 1673)])
def test_fully_connected_flattens(no_bias, params, expected):
    """5 x 6 x 4 = 120 inputs, 7 outputs."""
    symbol = mx.sym.FullyConnected(mx.sym.Variable('data'), num_hidden=7, no_bias=no_bias)
    assert flops.count(symbol, (5, 6, 4)) == flops.Count(expected, params)


def test_fully_connected_that_does_not_flatten_runs_at_every_position():
    symbol = mx.sym.FullyConnected(mx.sym.Variable('data'), num_hidden=7, flatten=False)
    assert flops.count(symbol, (5, 6, 4)) == flops.Count(2 * 4 * 7 * 5 * 6, 4 * 7 + 7)


def test_other_layers_cost_nothing_and_running_statistics_are_no_parameters():
    symbol = mx.sym.BatchNorm(mx.sym.Variable('data'), name='bn')
    symbol = mx.sym.LeakyReLU(symbol, act_type='prelu', name='act')
    symbol = mx.sym.SliceChannel(symbol, num_outputs=2, name='split')[1]
    rows = flops.layers(symbol, (6, 4, 4))
    assert [(row.name, row.params, row.flops, row.flops_all) for row in rows] == [
        ('bn', 12, 0, 2 * 6 * 4 * 4),
        ('act', 6, 0, 6 * 4 * 4),
        ('split', 0, 0, 0),
    ]
    assert rows[-1].output_shape == (1, 3, 4, 4)


def test_shared_weight_is_one_parameter_and_two_computations():
    weight = mx.sym.Variable('shared')
    options = {'weight': weight, 'num_filter': 4, 'kernel': (1, 1), 'no_bias': True}
    once = mx.sym.Convolution(mx.sym.Variable('data'), **options, name='once')
    twice = mx.sym.Convolution(once, **options, name='twice')
    assert flops.count(twice, (4, 2, 2)) == flops.Count(2 * (7 * 16), 16)


def test_weight_that_is_computed():
    """The classifier of a margin loss: its weight is normalised before the product."""
    weight = mx.sym.L2Normalization(mx.sym.Variable('fc7_weight', shape=(10, 8)), name='unit')
    symbol = mx.sym.FullyConnected(
        mx.sym.Variable('data'), weight=weight, num_hidden=10, no_bias=True, name='fc7'
    )
    symbol = mx.sym.SoftmaxOutput(symbol, mx.sym.Variable('softmax_label'), name='softmax')
    rows = {row.name: row for row in flops.layers(symbol, (8,))}
    assert rows['unit'].params == 80
    assert rows['fc7'].flops == 10 * 15
    assert flops.count(symbol, (8,)).params == 80  # the label is no parameter


def test_image_shape_changes_operations_and_not_the_convolution_weights():
    symbol = convolution(num_filter=2, kernel=(3, 3), pad=(1, 1))
    small, large = (flops.count(symbol, (3, size, size)) for size in (8, 16))
    assert large == flops.Count(4 * small.flops, small.params)


def test_total_adds_up():
    rows = [
        flops.Layer('a', 'FullyConnected', (1,), 3, 50, 5),
        flops.Layer('b', 'Copy', (1,), 4, 6, 0),
    ]
    assert flops.total(iter(rows)) == flops.Count(flops=56, params=7)


def test_images_that_do_not_fit():
    with pytest.raises(InputError, match=r'\(3, 4, 4\) do not fit .*conv') as error:
        flops.count(convolution(num_filter=2, kernel=(7, 7)), (3, 4, 4))
    assert '\n' not in str(error.value)


def test_symbol_without_data():
    symbol = mx.sym.Activation(mx.sym.Variable('image'), act_type='relu')
    with pytest.raises(InputError, match="no input 'data'"):
        flops.count(symbol)


def test_shape_that_the_images_do_not_decide():
    symbol = mx.sym.dot(mx.sym.Flatten(mx.sym.Variable('data')), mx.sym.Variable('open'))
    with pytest.raises(InputError, match=r"leave the shape of 'open' open.*fc1_output"):
        flops.count(symbol, (3, 4, 4))
