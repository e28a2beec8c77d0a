"""`accelerate`: the same names and values, with gradients that finite differences confirm."""

import json
import os
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from exact_graph import exact_prelu
from reference import gradient
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops
from vargfacenet.common.engine.ops import graph
from vargfacenet.common.errors import InputError

needs_compiler = pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')
FORMS = [
    pytest.param({'compiled': True}, id='fused', marks=needs_compiler),
    pytest.param({'compiled': True, 'accumulate': False}, id='write', marks=needs_compiler),
    pytest.param({'compiled': True, 'norms': False}, id='mirror', marks=needs_compiler),
    pytest.param({'compiled': False}, id='stock'),
]
BATCH = 3


def convolution(x, name, channels=4, kernel=3, **options):
    pad = (kernel // 2, kernel // 2)
    return mx.sym.Convolution(
        x, name=name, num_filter=channels, kernel=(kernel, kernel), pad=pad, **options
    )


def prelu(x, name, **options):
    return mx.sym.LeakyReLU(x, name=name, act_type='prelu', **options)


def norm(x, name, **options):
    return mx.sym.BatchNorm(x, name=name, fix_gamma=False, eps=2e-5, **options)


def squeeze_excite(x, name):
    scale = mx.sym.Pooling(x, global_pool=True, kernel=(7, 7), pool_type='avg')
    scale = prelu(convolution(scale, f'{name}_conv1', 2, 1), f'{name}_act')
    scale = mx.sym.Activation(convolution(scale, f'{name}_conv2', 4, 1), act_type='sigmoid')
    return mx.sym.broadcast_mul(x, scale)


def small_network():
    """Everything the networks of the family have around their PReLUs, with a head on top.

    Returns the symbol with the outputs softmax (N, 3) and the embedding (N, 6), and the shapes of
    its inputs.
    """
    x = mx.sym.Variable('data') * 0.5
    x = prelu(norm(convolution(x, 'stem', no_bias=True), 'stem_bn', momentum=0.8), 'stem_act')
    shortcut = norm(convolution(x, 'short', num_group=2, no_bias=True), 'short_bn')
    body = prelu(norm(convolution(x, 'body1'), 'body1_bn'), 'body1_act')
    body = norm(convolution(body, 'body2'), 'body2_bn')
    x = prelu(squeeze_excite(body, 'se') + shortcut, 'unit1_act')
    first, second = convolution(x, 'left'), convolution(x, 'right')
    x = prelu(mx.sym.elemwise_add(first, second), 'unit2_act')
    x = x + squeeze_excite(x, 'se2')
    x = prelu(mx.sym.FullyConnected(x, num_hidden=6, name='dense'), 'dense_act')
    slope = mx.sym.Variable('slow_gamma', lr_mult=0.1, wd_mult=0.0)
    x = prelu(norm(x, 'fc1'), 'slow', gamma=slope)
    logits = mx.sym.FullyConnected(x, num_hidden=3, name='fc7')
    softmax = mx.sym.SoftmaxOutput(logits, mx.sym.Variable('softmax_label'), name='softmax')
    shapes = {'data': (BATCH, 3, 5, 7), 'softmax_label': (BATCH,)}
    return mx.sym.Group([softmax, mx.sym.BlockGrad(x, name='embedding')]), shapes


def swish(x, name):
    gate = mx.sym.Activation(x, act_type='sigmoid', name=f'{name}_sigmoid')
    return mx.sym.elemwise_mul(x, gate, name=name)


def mixed(x, name, slices, kernels, stride=1, depthwise=False):
    """A convolution for each slice, (channels, filters), of the channels; at stride 2 put together
    by five axes."""
    parts, begin = [], 0
    for (channels, filters), kernel in zip(slices, kernels):
        part = mx.sym.slice_axis(x, axis=1, begin=begin, end=begin + channels)
        options = {'num_group': channels if depthwise else 1, 'no_bias': True}
        name_of = f'{name}_conv{len(parts)}'
        parts.append(
            convolution(part, name_of, filters, kernel, stride=(stride, stride), **options)
        )
        begin += channels
    if stride == 1:
        return mx.sym.Concat(*parts, dim=1, name=f'{name}_concat')
    parts = [mx.sym.expand_dims(part, axis=4) for part in parts]
    return mx.sym.reshape(mx.sym.Concat(*parts, dim=1), shape=(0, 0, 0, -3), name=f'{name}_concat')


def mixed_network():
    """What MixFaceNets have beside that: mixed convolutions and Swish; outputs as small_network."""
    x = prelu(norm(convolution(mx.sym.Variable('data'), 'stem'), 'stem_bn'), 'stem_act')
    shortcut = convolution(x, 'depthwise', num_group=4, no_bias=True)
    x = swish(norm(mixed(x, 'exp', [(2, 6), (2, 5)], [1, 1]), 'exp_bn'), 'exp_act')
    x = mixed(x, 'dw', [(5, 5), (3, 3), (3, 3)], [3, 5, 7], depthwise=True)
    x = swish(norm(x, 'dw_bn'), 'dw_act')
    scale = mx.sym.Pooling(x, global_pool=True, kernel=(7, 7), pool_type='avg')
    scale = swish(convolution(scale, 'se_conv1', 2, 1), 'se_act')
    scale = mx.sym.Activation(convolution(scale, 'se_conv2', 11, 1), act_type='sigmoid')
    x = mx.sym.broadcast_mul(x, scale)
    x = norm(mixed(x, 'proj', [(6, 2), (5, 2)], [1, 1]), 'proj_bn') + shortcut
    x = mixed(x, 'half', [(2, 2), (2, 2)], [3, 5], stride=2, depthwise=True)
    x = norm(mx.sym.FullyConnected(x, num_hidden=6, name='dense'), 'slow')
    logits = mx.sym.FullyConnected(x, num_hidden=3, name='fc7')
    softmax = mx.sym.SoftmaxOutput(logits, mx.sym.Variable('softmax_label'), name='softmax')
    shapes = {'data': (BATCH, 3, 5, 7), 'softmax_label': (BATCH,)}
    return mx.sym.Group([softmax, mx.sym.BlockGrad(x, name='embedding')]), shapes


NETWORKS = [small_network, mixed_network]


def values_of(symbol, shapes, rng):
    """Random float64 values, exact in float32, of all arguments and auxiliary states."""
    arguments, _, auxiliary = symbol.infer_shape(**shapes)
    names = symbol.list_arguments() + symbol.list_auxiliary_states()
    values = {name: rng.randn(*shape) for name, shape in zip(names, arguments + auxiliary)}
    for name in values:
        if name.endswith('label'):
            values[name] = np.arange(shapes[name][0]) % 3.0
        elif name.endswith('moving_var'):
            values[name] = 0.5 + np.abs(values[name])
    return {name: value.astype(np.float32).astype(np.float64) for name, value in values.items()}


def bind(symbol, values, dtype='float32', grad_req='null'):
    """Executor with the given values, one gradient array an argument where asked."""
    arguments = {n: mx.nd.array(values[n], dtype=dtype) for n in symbol.list_arguments()}
    auxiliary = {n: mx.nd.array(values[n], dtype=dtype) for n in symbol.list_auxiliary_states()}
    gradients = None if grad_req == 'null' else {n: a.zeros_like() for n, a in arguments.items()}
    return symbol.bind(mx.cpu(), arguments, gradients, grad_req, auxiliary)


def forward(symbol, values, train=False, dtype='float32'):
    """Outputs; bound with gradients to train, since without MXNet folds BatchNorm for inference."""
    executor = bind(symbol, values, dtype, 'write' if train else 'null')
    return [output.asnumpy() for output in executor.forward(is_train=train)]


def assert_close(actual, expected, tolerance):
    limit = tolerance * max(np.abs(expected).max(), 1e-30)
    assert np.abs(actual - expected).max() <= limit, np.abs(actual - expected).max() / limit


def loss_network(network=small_network):
    """A network with a smooth loss instead of its head."""
    symbol, shapes = network()
    embedding = symbol.get_internals()['slow_output']
    return mx.sym.MakeLoss(mx.sym.sum(mx.sym.sin(embedding))), {'data': shapes['data']}


def operators(symbol):
    return Counter(node['op'] for node in json.loads(symbol.tojson())['nodes'])


@needs_compiler
def test_every_pattern_of_mixed_networks_is_replaced():
    symbol, shapes = mixed_network()
    fast = ops.accelerate(symbol, shapes)
    assert fast.list_arguments() == symbol.list_arguments()
    assert fast.list_outputs() == symbol.list_outputs()
    counts = operators(fast)
    assert counts['vg_depthwise'] == 3
    assert counts['vg_mixed_pointwise'] == 2
    assert (counts['vg_bn_swish'], counts['vg_swish']) == (2, 1)
    assert (counts['vg_pointwise'], counts['vg_grouped']) == (2, 1)
    stock = ('Convolution', 'Concat', 'slice_axis', 'elemwise_mul', 'BatchNorm', 'LeakyReLU')
    assert not any(counts[op] for op in stock)


@needs_compiler
@pytest.mark.parametrize(
    'edges', [((0, 2), (1, 3)), ((0, 2), (3, 5)), ((2, 4), (0, 2)), ((0, 2), (2, 4))]
)
def test_slices_that_are_not_all_of_the_channels_stay_stock(rng, edges):
    x = mx.sym.Variable('data')
    parts = [
        convolution(
            mx.sym.slice_axis(x, axis=1, begin=begin, end=end),
            f'conv{begin}',
            2,
            num_group=2,
            no_bias=True,
        )
        for begin, end in edges
    ]
    symbol, shapes = mx.sym.Concat(*parts, dim=1), {'data': (2, 5, 4, 3)}
    fast = ops.accelerate(symbol, shapes)
    assert operators(fast)['slice_axis'] == 2
    values = values_of(symbol, shapes, rng)
    assert_close(forward(fast, values)[0], forward(symbol, values, dtype='float64')[0], 1e-5)


@needs_compiler
def test_a_gate_of_something_else_is_no_swish(rng):
    """A gate that others read, one of another tensor, one that is no sigmoid, the gate first."""
    x = mx.sym.Variable('data') * 2
    read = mx.sym.Activation(x, act_type='sigmoid')
    products = [
        x * read + read,
        mx.sym.elemwise_mul(x, mx.sym.Activation(x + 1, act_type='sigmoid')),
        mx.sym.elemwise_mul(x, mx.sym.Activation(x, act_type='tanh')),
    ]
    symbol, shapes = mx.sym.Group(products), {'data': (2, 3, 4, 5)}
    fast = ops.accelerate(symbol, shapes)
    assert operators(fast)['vg_swish'] == 0
    values = values_of(symbol, shapes, rng)
    for actual, expected in zip(forward(fast, values), forward(symbol, values)):
        np.testing.assert_array_equal(actual, expected)


@needs_compiler
def test_every_pattern_is_replaced():
    symbol, shapes = small_network()
    counts = operators(ops.accelerate(symbol, shapes))
    assert counts['vg_bn_prelu'] == 3
    assert counts['vg_prelu'] == 3  # two in the squeezes, one after the FullyConnected
    assert counts['vg_scale_add_prelu'] == counts['vg_add_prelu'] == counts['vg_scale'] == 1
    assert counts['vg_global_pool'] == 2
    assert counts['LeakyReLU'] == counts['broadcast_mul'] == counts['Pooling'] == 0
    assert (counts['vg_bn'], counts['BatchNorm']) == (2, 0)
    assert counts['vg_pointwise'] == 4  # those of the squeezes
    assert (counts['vg_grouped'], counts['Convolution']) == (6, 0)


@pytest.mark.parametrize('form', FORMS)
def test_names_shapes_and_attributes_stay(form):
    symbol, shapes = small_network()
    before = symbol.tojson()
    fast = graph.rewrite(symbol, shapes, **form)
    assert symbol.tojson() == before
    assert fast.list_arguments() == symbol.list_arguments()
    assert fast.list_auxiliary_states() == symbol.list_auxiliary_states()
    assert fast.list_outputs() == symbol.list_outputs()
    assert fast.infer_shape(**shapes) == symbol.infer_shape(**shapes)
    attributes = fast.attr_dict()
    assert attributes['slow_gamma']['__lr_mult__'] == '0.1'
    assert attributes['slow_gamma']['__wd_mult__'] == '0.0'
    for name, shape in zip(symbol.list_arguments(), symbol.infer_shape(**shapes)[0]):
        given = attributes.get(name, {}).get('__shape__')
        assert given == (None if name in shapes else str(shape))
    fused = form['compiled'] and form.get('norms', True)
    assert 'body1_act_output' in fast.get_internals().list_outputs() or fused


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('form', FORMS)
def test_twice_is_once(form, network):
    symbol, shapes = network()
    fast = graph.rewrite(symbol, shapes, **form)
    assert graph.rewrite(fast, shapes, **form).tojson() == fast.tojson()


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('batch', [1, BATCH, 7])
@pytest.mark.parametrize('form', FORMS)
def test_outputs_are_those_of_the_official_network_at_any_batch_size(rng, form, batch, network):
    symbol, shapes = network()
    fast = graph.rewrite(symbol, shapes, **form)
    shapes = {name: (batch, *shape[1:]) for name, shape in shapes.items()}
    values = values_of(symbol, shapes, rng)
    for train in (False, True):
        expected = forward(symbol, values, train, 'float64')
        for actual, output in zip(forward(fast, values, train), expected):
            # With one image BatchNorm divides by a deviation of zero after the dense layer.
            assert_close(actual, output, 1e-5 if batch > 1 or not train else 5e-2)


def one_ulp_changes(symbol, values, rng):
    """By name (4, ...): how gradients change when every value moves to a float32 beside it.

    Of stock operators in float32, which round their inputs and results as ours do.
    """
    executor = bind(symbol, values, grad_req='write')

    def gradients(inputs):
        for name, array in executor.arg_dict.items():
            array[:] = mx.nd.array(inputs[name])
        executor.forward(is_train=True)
        executor.backward()
        return {n: array.asnumpy().astype(np.float64) for n, array in executor.grad_dict.items()}

    def moved(value):
        towards = np.where(rng.rand(*value.shape) < 0.5, -np.inf, np.inf).astype(np.float32)
        return np.nextafter(value.astype(np.float32), towards)

    start = gradients(values)
    others = [gradients({n: moved(value) for n, value in values.items()}) for _ in range(4)]
    return {name: np.stack([other[name] - start[name] for other in others]) for name in start}


@pytest.mark.parametrize('network', NETWORKS)
@pytest.mark.parametrize('form', FORMS)
def test_gradients_are_finite_differences(rng, form, network):
    """Of every vector entry by entry, of larger arrays along a random direction.

    BatchNorm over three images makes them sensitive: moving the inputs by one float32 unit changes
    some by 1e-4 of their largest entry, with any instruction set. Hence the limit, which is twice
    the largest of four such changes, measured here.
    """
    symbol, shapes = loss_network(network)
    values = values_of(symbol, shapes, rng)
    exact = bind(exact_prelu(symbol, flat=('dense_act', 'slow')), values, 'float64', 'write')
    composed = graph.rewrite(symbol, shapes, compiled=False)
    changes = one_ulp_changes(composed, values, np.random.RandomState(1))
    executor = bind(graph.rewrite(symbol, shapes, **form), values, grad_req='write')
    executor.forward(is_train=True)
    executor.backward()
    for name in symbol.list_arguments():

        def loss(moved, name=name):
            exact.arg_dict[name][:] = mx.nd.array(moved, dtype='float64')
            return exact.forward(is_train=True)[0].asscalar()

        found = executor.grad_dict[name].asnumpy().astype(np.float64)
        if found.ndim == 1:
            expected = gradient(loss, values[name])
            change = np.abs(changes[name]).max()
        else:
            direction = rng.randn(*found.shape)
            found = np.sum(found * direction)
            # the deviation of a change's share along a random direction is its length
            change = np.sqrt(np.sum(changes[name] ** 2, tuple(range(1, direction.ndim + 1)))).max()
            expected = gradient(
                lambda step, n=name, d=direction: loss(values[n] + step * d, n), np.zeros(())
            )
        loss(values[name])  # puts the values back
        # A constant before BatchNorm has no influence: its gradient is rounding only.
        floor = 1e-4 if name.endswith('_bias') else 1e-5
        assert np.abs(found - expected).max() <= floor + 2 * change, (name, change)


def test_the_stock_gradient_is_what_we_replace(rng):
    """If this fails, MXNet has been repaired and the detour for PReLU is a matter of speed only."""
    x = prelu(mx.sym.FullyConnected(mx.sym.Variable('data'), num_hidden=3, name='dense'), 'act')
    values = values_of(x, {'data': (4, 2)}, rng)
    executor = bind(x, values, grad_req='write')
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones((4, 3)))
    inputs = values['data'] @ values['dense_weight'].T + values['dense_bias']
    right = np.minimum(inputs, 0).sum(0)
    actual = executor.grad_dict['act_gamma'].asnumpy()
    np.testing.assert_allclose(actual, right * values['act_gamma'], rtol=1e-5)


@pytest.mark.parametrize('form', [form for form in FORMS if form.id != 'write'])
def test_gradients_can_be_added_up(rng, form):
    """grad_req='add', and MXNet's own adding in place for a tensor with many readers."""
    x = mx.sym.Variable('data') * 1
    x = mx.sym.add_n(*[prelu(x, f'act{number}') for number in range(9)])
    values = values_of(x, {'data': (2, 3, 4, 5)}, rng)
    fast = graph.rewrite(x, {'data': (2, 3, 4, 5)}, **form)
    once, twice = (bind(fast, values, grad_req=request) for request in ('write', 'add'))
    for executor in (once, twice, twice):
        executor.forward(is_train=True)
        executor.backward(mx.nd.ones((2, 3, 4, 5)))
    slopes = sum(values[f'act{number}_gamma'] for number in range(9)).reshape(1, 3, 1, 1)
    expected = np.where(values['data'] > 0, 9, slopes)
    assert_close(once.grad_dict['data'].asnumpy(), expected, 1e-6)
    for name, total in twice.grad_dict.items():
        assert_close(total.asnumpy(), 2 * once.grad_dict[name].asnumpy(), 1e-6)


@pytest.mark.parametrize('form', FORMS)
def test_one_executor_trains_and_infers_in_turn(rng, form):
    """The running averages follow MXNet's through three steps, and inference uses them."""
    symbol, shapes = small_network()
    values = values_of(symbol, shapes, rng)
    fast = bind(graph.rewrite(symbol, shapes, **form), values, grad_req='write')
    stock = bind(symbol, values, grad_req='write')
    for _ in range(3):
        for executor in (fast, stock):
            executor.forward(is_train=True)
            executor.backward([mx.nd.zeros(output.shape) for output in executor.outputs])
        mx.nd.waitall()  # reading the averages does not wait for MXNet's BatchNorm to move them
        for name in stock.aux_dict:
            assert_close(fast.aux_dict[name].asnumpy(), stock.aux_dict[name].asnumpy(), 2e-6)
        kept = {name: array.asnumpy() for name, array in fast.aux_dict.items()}
        outputs = [executor.forward(is_train=False)[0].asnumpy() for executor in (fast, stock)]
        assert_close(*outputs, 1e-5)
        for name, array in fast.aux_dict.items():
            np.testing.assert_array_equal(array.asnumpy(), kept[name])


@needs_compiler
def test_batch_norm_with_other_rules_stays_stock(rng):
    x = mx.sym.Variable('data')
    frozen = prelu(norm(x, 'frozen', use_global_stats=True), 'a')
    read_twice = norm(x, 'twice')
    read_twice = prelu(read_twice, 'b') + read_twice
    last_axis = prelu(norm(x, 'last', axis=3), 'c')
    head = prelu(norm(x, 'head'), 'd')
    symbol = mx.sym.Group([frozen + read_twice + last_axis, head])
    shapes = {'data': (2, 3, 4, 5)}
    fast = ops.accelerate(symbol, shapes)
    assert operators(fast)['BatchNorm'] == 2  # the frozen one and that of the last axis
    assert fast.list_outputs() == symbol.list_outputs()
    values = values_of(symbol, shapes, rng)
    for train in (True, False):
        expected = forward(symbol, values, train, 'float64')
        for actual, output in zip(forward(fast, values, train), expected):
            assert_close(actual, output, 1e-5)


@needs_compiler
def test_products_and_sums_of_other_shapes_stay_stock(rng):
    """A parameter (1, C, 1, 1) looks like a scale at batch size 1 and must not be taken for it."""
    x = mx.sym.Variable('data')
    weight = mx.sym.Variable('weight', shape=(1, 3, 1, 1))
    constant = mx.sym.Variable('constant', shape=(1, 3, 4, 5))
    scaled = mx.sym.broadcast_mul(x, weight)
    shifted = prelu(mx.sym.broadcast_add(x, constant), 'act')
    symbol = mx.sym.Group([scaled, shifted])
    fast = ops.accelerate(symbol, {'data': (1, 3, 4, 5)})
    assert {'broadcast_mul', 'broadcast_add', 'vg_prelu'} <= set(operators(fast))
    values = values_of(symbol, {'data': (2, 3, 4, 5)}, rng)
    for actual, expected in zip(forward(fast, values), forward(symbol, values)):
        np.testing.assert_array_equal(actual, expected)


@pytest.mark.parametrize('form', FORMS)
def test_one_slope_for_all_channels(rng, form):
    slope = mx.sym.Variable('slope', shape=(1,))
    symbol = mx.sym.sum(prelu(mx.sym.Variable('data'), 'act', gamma=slope))
    values = values_of(symbol, {'data': (2, 3, 4, 5)}, rng)
    executor = bind(graph.rewrite(symbol, {'data': (2, 3, 4, 5)}, **form), values, grad_req='write')
    executor.forward(is_train=True)
    executor.backward(mx.nd.ones(1))
    assert_close(executor.outputs[0].asnumpy(), forward(symbol, values)[0], 1e-5)
    expected = np.minimum(values['data'], 0).sum()
    assert_close(executor.grad_dict['slope'].asnumpy(), expected, 1e-5)


@needs_compiler
def test_one_slope_for_all_channels_is_joined_to_what_stands_before(rng):
    """Values and gradients are those of the composites of stock operators."""
    slopes = [mx.sym.Variable(f'slope{number}', shape=(1,)) for number in range(3)]
    x = prelu(norm(convolution(mx.sym.Variable('data'), 'c'), 'n'), 'first', gamma=slopes[0])
    x = prelu(x + convolution(x, 'd'), 'second', gamma=slopes[1])
    symbol = prelu(convolution(x, 'e'), 'third', gamma=slopes[2])
    shapes = {'data': (3, 3, 5, 7)}
    fast = graph.rewrite(symbol, shapes, compiled=True)
    counts = operators(fast)
    assert [counts[f'vg_{op}'] for op in ('bn_prelu', 'add_prelu', 'prelu')] == [1, 1, 1]
    assert fast.list_arguments() == symbol.list_arguments()
    assert graph.rewrite(fast, shapes, compiled=True).tojson() == fast.tojson()
    values, found = values_of(symbol, shapes, rng), []
    for form in (fast, graph.rewrite(symbol, shapes, compiled=False)):
        executor = bind(form, values, grad_req='write')
        output = executor.forward(is_train=True)[0]
        executor.backward(mx.nd.array(np.random.RandomState(2).randn(*output.shape)))
        found.append({name: array.asnumpy() for name, array in executor.grad_dict.items()})
        found[-1]['output'] = output.asnumpy()
    for name, expected in found[1].items():
        if name != 'c_bias':  # its gradient is 0 before a BatchNorm, and what is left is rounding
            assert_close(found[0][name], expected, 1e-4)


def test_an_input_without_a_shape_is_named():
    symbol = mx.sym.dot(mx.sym.Variable('data'), mx.sym.Variable('memory'))
    with pytest.raises(InputError, match="'memory' does not follow"):
        ops.accelerate(symbol, {'data': (2, 3)})


SWITCHED_OFF = """
import json, sys
from vargfacenet.common.engine import ops
from vargfacenet.common.backend import mx
x = mx.sym.LeakyReLU(mx.sym.Variable('data'), act_type='prelu', name='act')
fast = [ops.accelerate(x, {'data': (2, 3, 4, 5)}) for _ in range(2)][-1]
assert not ops.available()
print(fast.tojson())
"""


def test_switched_off_by_the_environment():
    environment = {**os.environ, 'VARGFACENET_OPS': 'off'}
    done = subprocess.run(
        [sys.executable, '-c', SWITCHED_OFF], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    names = {node['op'] for node in json.loads(done.stdout)['nodes']}
    assert not any(name.startswith('vg_') or name == 'LeakyReLU' for name in names)
    assert done.stderr.count('VARGFACENET_OPS=off') == 1


@pytest.mark.parametrize('form', [*FORMS[:1], *FORMS[2:]])
@pytest.mark.parametrize('head', [False, True])
@pytest.mark.parametrize('readers', [6, 7, 8, 9])
def test_gradients_of_a_tensor_with_many_readers(rng, form, head, readers):
    """From eight contributions on MXNet adds gradients up in place; a head brings one as well."""
    x = mx.sym.tanh(mx.sym.Variable('data'))
    outputs = [prelu(x, f'act{number}') for number in range(readers)] + [x] * head
    symbol, shape = mx.sym.Group(outputs), (2, 3, 4, 5)
    values = values_of(symbol, {'data': shape}, rng)
    executor = bind(graph.rewrite(symbol, {'data': shape}, **form), values, grad_req='write')
    executor.forward(is_train=True)
    executor.backward([mx.nd.ones(shape)] * len(outputs))
    slopes = sum(values[f'act{number}_gamma'] for number in range(readers)).reshape(1, 3, 1, 1)
    inner = np.where(values['data'] > 0, readers, slopes) + head
    expected = inner * (1 - np.tanh(values['data']) ** 2)
    assert_close(executor.grad_dict['data'].asnumpy(), expected, 1e-5)


@pytest.mark.parametrize('form', FORMS)
def test_a_fixed_gamma_stays_one(rng, form):
    """MXNet writes it anew in every step; weight decay would take it to zero."""
    x = mx.sym.BatchNorm(mx.sym.Variable('data'), name='bn', fix_gamma=True)
    symbol, shapes = mx.sym.MakeLoss(mx.sym.sum(prelu(x, 'act'))), {'data': (4, 3, 2, 2)}
    executor = bind(
        graph.rewrite(symbol, shapes, **form), values_of(symbol, shapes, rng), grad_req='write'
    )
    for _ in range(3):
        executor.forward(is_train=True)
        executor.backward()
        np.testing.assert_array_equal(executor.grad_dict['bn_gamma'].asnumpy(), 0)
        mx.nd.waitall()  # MXNet's BatchNorm writes gamma behind the engine's back
        executor.arg_dict['bn_gamma'][:] *= 0.9  # what decay does
    executor.forward(is_train=True)
    mx.nd.waitall()
    np.testing.assert_array_equal(executor.arg_dict['bn_gamma'].asnumpy(), 1)


@needs_compiler
def test_the_gradient_of_the_data_is_left_out_where_nobody_reads_it(rng):
    symbol, shapes = small_network()
    values = values_of(symbol, shapes, rng)
    gradients = []
    for wanted in (True, False):
        fast = ops.accelerate(symbol, shapes, input_gradients=wanted)
        nodes = json.loads(fast.tojson())['nodes']
        left_out = [n['name'] for n in nodes if n.get('attrs', {}).get('input_gradient') == 'False']
        assert left_out == ([] if wanted else ['stem'])
        executor = bind(fast, values, grad_req='write')
        executor.forward(is_train=True)
        executor.backward()
        gradients.append({n: array.asnumpy() for n, array in executor.grad_dict.items()})
    assert np.isfinite(gradients[0]['data']).all() and np.isnan(gradients[1]['data']).all()
    for name in set(gradients[0]) - {'data'}:
        np.testing.assert_array_equal(gradients[1][name], gradients[0][name], err_msg=name)


@needs_compiler
def test_mirroring_keeps_batch_norm_from_moving_twice(monkeypatch, caplog):
    """MXNET_BACKWARD_DO_MIRROR runs forward operators again in the backward pass."""
    symbol, shapes = small_network()
    monkeypatch.setenv(ops.MIRROR, '1')
    counts = operators(ops.accelerate(symbol, shapes))
    assert counts['vg_bn'] == counts['vg_bn_prelu'] == 0
    assert f'{ops.MIRROR} is set' in caplog.text


@needs_compiler
def test_numbers_as_python_2_wrote_them():
    symbol = convolution(mx.sym.Variable('data'), 'conv', no_bias=True)
    old = mx.sym.load_json(
        symbol.tojson().replace('(3, 3)', '(3L, 3L)').replace('(1, 1)', '(1L, 1L)')
    )
    assert operators(ops.accelerate(old, {'data': (2, 3, 5, 5)}))['vg_grouped'] == 1
