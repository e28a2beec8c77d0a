"""Training in bfloat16: convolutions against a float64 loop over operands that NumPy rounded; then
norms, sums and whole graphs; and that MXNet never computes with arrays of it."""

import json
import logging
import subprocess
from pathlib import Path

import numpy as np
import pytest
from convolutions import (
    GROUPED,
    POINTWISE,
    SLICES,
    assert_threads_change_no_bit,
    check_convolution,
    check_slices,
    run,
)
from tiny_network import reference_params
from vargfacenet.common import native
from vargfacenet.common.backend import mx, mxnet_symbol
from vargfacenet.common.engine import ops
from vargfacenet.common.engine.graph import Node, assemble, parse
from vargfacenet.common.engine.ops import build
from vargfacenet.common.errors import InputError
from vargfacenet.common.names import IMAGE_SHAPE
from vargfacenet.symbol import get_symbol, list_networks

pytestmark = pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')

# Products of bfloat16 numbers are exact in float32, so what differs from the loop is the rounding
# of float32 sums, on a CPU with AVX512_BF16 as without, and that of what is stored.


def bfloat16(values):
    """The nearest bfloat16 of float32 numbers, the even one of two, by the halves of their bits."""
    values = np.asarray(values, np.float32)
    upper, lower = np.divmod(values.view(np.uint32).astype(np.int64), 1 << 16)
    upper += (lower > 0x8000) | ((lower == 0x8000) & (upper % 2 == 1))
    nearest = (upper << 16).astype(np.uint32).view(np.float32)
    return np.where(np.isnan(values), np.float32(np.nan), nearest).astype(np.float64)


def every_kind():
    """float32 numbers of every sign and exponent, with every way to round: exact, below, at and
    above the middle between an even and an odd neighbour; denormals, infinities, not a number."""
    upper = np.arange(1 << 16, dtype=np.uint32)
    upper = upper[(upper & 0x7F) % 21 < 2]  # of each exponent a few mantissas, even and odd, and 0
    upper = np.append(upper, [0x7F7F, 0xFF7F, 0x007F, 0x7FFF, 0x7F81])
    lower = np.array([0, 1, 0x7FFF, 0x8000, 0x8001, 0xFFFF], np.uint32)
    return (upper[:, None] << 16 | lower).astype(np.uint32).ravel().view(np.float32)


def assert_rounded(actual, values):
    expected = bfloat16(values)
    denormal = (np.abs(values) < np.finfo(np.float32).tiny) & (actual == 0)
    np.testing.assert_array_equal(np.where(denormal, 0, expected), actual)
    # AVX512_BF16 takes them for zeros
    assert not denormal[expected != 0].any() or not ops.lacks_bfloat16()


def test_numbers_are_rounded_to_the_nearest_and_ties_to_even():
    """As an array, its gradient and weights, these with ones on the other side."""
    values = every_kind()
    assert len(values) > 30000 and np.isnan(values).any() and np.isinf(values).any()
    both = np.stack([values, values[::-1]])
    array = mx.nd.array(both.reshape(1, 2, 1, -1))
    array.attach_grad()
    with mx.autograd.record():
        y = mx.nd.vg_from_bf16(mx.nd.vg_to_bf16(array))
    y.backward(array)
    assert_rounded(y.asnumpy().ravel(), both.ravel())
    assert_rounded(array.grad.asnumpy().ravel(), both.ravel())
    filters = np.stack([values, np.zeros_like(values)], axis=1)
    options = {'num_group': 1, 'stride': 1, 'no_bias': True, 'num_filter': len(values)}
    ones, dy = np.ones((1, 2, 1, 1)), values.reshape(1, -1, 1, 1)
    y, _, dw = run('vg_pointwise_bf16', [ones, filters[:, :, None, None]], dy, **options)
    assert_rounded(y.ravel(), values)
    assert_rounded(dw[:, 0].ravel(), values)


def even(count, groups=1):
    """At least as many channels, an even number in each group."""
    return -(-count // (2 * groups)) * 2 * groups


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('case', POINTWISE)
def test_pointwise_is_its_definition(rng, case, bias):
    n, c, h, w, filters = case
    case = n, even(c), h, w, even(filters)
    check_convolution(rng, 'vg_pointwise_bf16', case, 1, 1, 1, bias, bfloat16)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('case', GROUPED)
def test_grouped_is_its_definition(rng, case, bias):
    n, c, h, w, filters, groups, stride = case
    case = n, even(c, groups), h, w, even(filters, groups)
    check_convolution(rng, 'vg_grouped_bf16', case, groups, stride, 3, bias, bfloat16)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('case', GROUPED)
def test_grouped_of_float32_is_its_definition(rng, case, bias):
    n, c, h, w, filters, groups, stride = case
    case = n, c, h, w, even(filters, groups)
    check_convolution(rng, 'vg_grouped_to_bf16', case, groups, stride, 3, bias, bfloat16)


@pytest.mark.parametrize('case', SLICES)
def test_pointwise_of_slices_is_its_definition(rng, case):
    n, h, w, slices = case
    case = n, h, w, [(even(c), even(filters)) for c, filters in slices]
    check_slices(rng, 'vg_mixed_pointwise_bf16', case, bfloat16)


# ------------------------------------------------------------------ operators beside convolutions
# They compute in float32 what the float32 operators compute, bit by bit, on rounded arrays.

SHAPE = (3, 6, 7, 9)
ELEMENTWISE = {  # inputs, those with positions as True
    'vg_prelu': (True, 'C'),
    'vg_add_prelu': (True, True, 'C'),
    'vg_scale_add_prelu': (True, 'NC11', True, 'C'),
    'vg_scale': (True, 'NC11'),
    'vg_global_pool': (True,),
}
COPIED = ('vg_prelu', 'vg_add_prelu', 'vg_scale_add_prelu')


def pairs(array):
    return mx.nd.vg_to_bf16(mx.nd.array(array))


def plain(array):
    """A numpy array of what an operator gave."""
    return (mx.nd.vg_from_bf16(array) if array.dtype == np.float16 else array).asnumpy()


def outputs_and_gradients(op, arrays, dys, **options):
    """Of pair arrays (float16) and others, the attributes as texts; as numpy arrays."""
    for array in arrays:
        array.attach_grad()
    with mx.autograd.record():
        y = getattr(mx.nd, op)(*arrays, **options)
    y = (y if isinstance(y, list) else [y])[: len(dys)]
    mx.autograd.backward(y, dys)
    return [plain(array) for array in [*y, *(array.grad for array in arrays)]]


def assert_same_rounded(halves, floats):
    """Bit by bit, where a half is a bfloat16; `floats` may be rounded once more."""
    for half, single in zip(halves, floats):
        same = (half == single).all() or (half == bfloat16(single)).all()
        assert same, np.abs(half - single).max()
    assert any((half != single).any() for half, single in zip(halves, floats))


@pytest.mark.parametrize(
    ('op', 'copies'), [*((op, 1) for op in ELEMENTWISE), *((op, 3) for op in COPIED)]
)
def test_elementwise_operators_are_those_of_float32_rounded(rng, op, copies):
    shapes = {True: SHAPE, 'C': SHAPE[1:2], 'NC11': (*SHAPE[:2], 1, 1)}
    arrays = [rng.randn(*shapes[kind]) for kind in ELEMENTWISE[op]]
    made = [pairs if kind is True else mx.nd.array for kind in ELEMENTWISE[op]]
    shape, to = ((*SHAPE[:2], 1, 1), mx.nd.array) if 'pool' in op else (SHAPE, pairs)
    dys = [rng.randn(*shape) for _ in range(copies)]
    options = {'copies': str(copies)} if op in COPIED else {}
    halves = outputs_and_gradients(
        f'{op}_bf16', [make(a) for make, a in zip(made, arrays)], [to(a) for a in dys], **options
    )
    rounded = [mx.nd.array(plain(make(a))) for make, a in zip(made, arrays)]
    total = sum(plain(to(a)) for a in dys)  # what MXNet would add up
    y, *gradients = outputs_and_gradients(op, rounded, [mx.nd.array(total)])
    assert_same_rounded(halves, [*[y] * copies, *gradients])


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('op', ['vg_bn', 'vg_bn_prelu', 'vg_bn_swish'])
@pytest.mark.parametrize(('reads', 'writes'), [(True, True), (True, False), (False, True)])
def test_norms_are_those_of_float32_rounded(rng, op, reads, writes, train):
    """With two readers and the mean over the positions, as squeeze-and-excitation reads it."""
    suffix = {(True, True): '', (True, False): '_from', (False, True): '_to'}[reads, writes]
    x, channels = rng.randn(*SHAPE), SHAPE[1]
    into, out = pairs if reads else mx.nd.array, pairs if writes else mx.nd.array
    params = [rng.rand(channels) + 0.5, rng.randn(channels)]
    params += [rng.randn(channels)] if 'prelu' in op else []
    dys, dpool = [rng.randn(*SHAPE) for _ in range(2)], mx.nd.array(rng.randn(*SHAPE[:2], 1, 1))
    options = {'eps': '2e-5', 'momentum': '0.9'}

    def passed(name, x, dys, **more):
        states = [mx.nd.array([0 if train else 1]), mx.nd.zeros(channels), mx.nd.ones(channels)]
        learnt = [x, *map(mx.nd.array, params)]
        for array in learnt:
            array.attach_grad()
        with mx.autograd.record():
            y = getattr(mx.nd, name)(*learnt, *states, **options, **more)[: len(dys)]
            y = [*y, mx.nd.vg_global_pool(y[0])] if not more else y
        mx.autograd.backward(y, [*dys, dpool][: len(y)])
        return y, [array.grad for array in learnt], states[1:]

    y, gradients, states = passed(
        f'{op}{suffix}_bf16', into(x), [*map(out, dys), dpool], copies='2', pool='True'
    )
    total = mx.nd.array(sum(plain(out(a)) for a in dys))
    right = passed(op, mx.nd.array(plain(into(x))), [total])
    found = [*y, *gradients, *states]
    wanted = [right[0][0], right[0][0], right[0][1], *right[1], *right[2]]
    for position, (half, single) in enumerate(zip(map(plain, found), map(plain, wanted))):
        # MXNet adds the mean's share to the gradient in an order of its own
        limit = 1e-5 * np.abs(single).max() + np.abs(single) / 256 * (half != single)
        assert (np.abs(half - single) <= limit).all(), position
    stored = plain(y[0]), plain(right[0][0])
    np.testing.assert_array_equal(stored[0], bfloat16(stored[1]) if writes else stored[1])
    np.testing.assert_array_equal(plain(y[1]), stored[0])


def norm_and_convolution(kind, channels=24):
    """Shapes of (x, gamma, beta, slope), those of (weight, bias), those of (mode, mean, variance),
    and the options of a convolution behind a BatchNorm and a PReLU."""
    c, (groups, size) = channels, {'pointwise': (1, 1), 'grouped': (3, 3)}[kind]
    options = {'num_filter': '36', 'num_group': str(groups), 'eps': '2e-5', 'momentum': '0.9'}
    learnt, states = [(5, c, 33, 35), (c,), (c,), (c,)], [(1,), (c,), (c,)]
    return learnt, [(36, c // groups, size, size), (36,)], states, options


@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize(
    ('kind', 'stride'), [('pointwise', '1'), ('grouped', '1'), ('grouped', '2')]
)
def test_a_norm_inside_a_convolution_is_one_before_it(rng, kind, stride, bias, train):
    """Bit by bit, though its output is not kept but computed again."""
    of_norm, weights, (_, *states), options = norm_and_convolution(kind)
    weights = weights if bias else weights[:1]
    options |= {'stride': stride, 'no_bias': str(not bias)}
    values = [rng.randn(*shape) for shape in [*of_norm, *weights, *states]]
    values[-1] = values[-1] ** 2
    mode, dy = mx.nd.array([0 if train else 1]), None

    def passed(inside):
        nonlocal dy
        x, *rest = map(mx.nd.array, values)
        learnt, (mean, variance) = [pairs(x), *rest[:-2]], rest[-2:]
        for array in learnt:
            array.attach_grad()
        norm, weights = learnt[:4], learnt[4:]
        with mx.autograd.record():
            if inside:
                inputs = [*norm, *weights, mode, mean, variance]
                y = getattr(mx.nd, f'vg_bn_prelu_{kind}_bf16')(*inputs, **options)[0]
            else:
                normed = mx.nd.vg_bn_prelu_bf16(*norm, mode, mean, variance, **options)[0]
                y = getattr(mx.nd, f'vg_{kind}_bf16')(normed, *weights, **options)
        dy = pairs(rng.randn(*y.shape)) if dy is None else dy
        y.backward(dy)
        return [y, *(array.grad for array in learnt), mean, variance]

    for position, (one, other) in enumerate(zip(passed(True), passed(False))):
        np.testing.assert_array_equal(plain(one), plain(other), err_msg=str(position))


@pytest.mark.parametrize(('terms', 'copies'), [(1, 3), (2, 1), (2, 2)])
def test_sums_are_rounded_once(rng, terms, copies):
    arrays = [rng.randn(*SHAPE) for _ in range(terms)]
    dys = [rng.randn(*SHAPE) for _ in range(copies)]
    found = outputs_and_gradients(
        'vg_sum_bf16',
        [*map(pairs, arrays)],
        [*map(pairs, dys)],
        terms=str(terms),
        copies=str(copies),
    )
    y = bfloat16(sum(plain(pairs(a)) for a in arrays))
    dx = bfloat16(sum(plain(pairs(a)) for a in dys))
    for actual, expected in zip(found, [*[y] * copies, *[dx] * terms]):
        np.testing.assert_array_equal(actual, expected)


def steps_of_convolutions():
    one = {'num_filter': '40', 'num_group': '1', 'stride': '1', 'no_bias': 'False'}
    slices = {'channels': '(16, 24)', 'filters': '(30, 20)'}
    grouped = {'num_filter': '36', 'num_group': '3', 'no_bias': 'True'}
    weights = (36, 8, 3, 3)
    yield 'vg_pointwise_bf16', [(9, 60, 28, 28), (40, 60, 1, 1), (40,)], one, 0
    yield 'vg_mixed_pointwise_bf16', [(5, 40, 28, 28), (30, 16, 1, 1), (20, 24, 1, 1)], slices, 0
    for stride in '12':
        options = {**grouped, 'stride': stride}
        yield 'vg_grouped_bf16', [(9, 24, 28, 28), weights], options, 0
        yield 'vg_grouped_to_bf16', [(9, 24, 28, 28), weights], options


def steps_of_others():
    """On arrays that are large enough to be shared among threads."""
    shape = n, c, _, _ = 4, 24, 33, 35
    shapes = {True: shape, 'C': (c,), 'NC11': (n, c, 1, 1)}
    for op, kinds in ELEMENTWISE.items():
        pairs = [position for position, kind in enumerate(kinds) if kind is True]
        options = {'copies': '2'} if op in COPIED else {}
        yield f'{op}_bf16', [shapes[kind] for kind in kinds], options, *pairs
    options = {'eps': '2e-5', 'momentum': '0.9', 'copies': '2', 'pool': 'True'}
    for op, learnt in (('vg_bn', 2), ('vg_bn_prelu', 3), ('vg_bn_swish', 2)):
        norm = [shape, *[(c,)] * learnt, (1,), (c,), (c,)]
        yield f'{op}_bf16', norm, options, 0
        yield f'{op}_from_bf16', norm, options, 0
        yield f'{op}_to_bf16', norm, options
    for kind in ('pointwise', 'grouped'):
        learnt, weights, states, options = norm_and_convolution(kind)
        options |= {'stride': '1', 'no_bias': 'False'}
        yield f'vg_bn_prelu_{kind}_bf16', [*learnt, *weights, *states], options, 0
    yield 'vg_sum_bf16', [shape] * 3, {'terms': '3', 'copies': '2'}, 0, 1, 2
    yield 'vg_to_bf16', [shape], {}
    yield 'vg_from_bf16', [shape], {}, 0


@pytest.mark.parametrize('steps', [steps_of_convolutions, steps_of_others])
def test_any_number_of_threads_gives_the_same_bits(monkeypatch, steps):
    assert_threads_change_no_bit(monkeypatch, [*steps()])


def test_every_operator_has_been_asked_for_its_threads():
    asked = {op for op, *_ in [*steps_of_convolutions(), *steps_of_others()]}
    known = mx.operator.get_all_registered_operators()
    assert asked == {op for op in known if op.startswith('vg_') and op.endswith('_bf16')}


def test_other_types_are_errors():
    with pytest.raises(mx.MXNetError, match='float32 only'):
        mx.nd.vg_to_bf16(mx.nd.ones((2, 4, 3, 3), dtype='float16')).wait_to_read()


def odd_steps():
    """(op, shapes, attributes, positions of inputs in bfloat16): each has a channel without another
    somewhere."""
    convolution = {'stride': '1', 'no_bias': 'True'}
    for c, filters in ((3, 4), (4, 3)):
        options = {**convolution, 'num_filter': filters, 'num_group': '1'}
        yield 'vg_pointwise_bf16', [(2, c, 5, 5), (filters, c, 1, 1)], options, 0
    for c, filters, op in ((6, 4, 'vg_grouped_bf16'), (4, 6, 'vg_grouped_bf16')):
        options = {**convolution, 'num_filter': filters, 'num_group': '2'}
        yield op, [(2, c, 5, 5), (filters, c // 2, 3, 3)], options, 0
    options = {**convolution, 'num_filter': '6', 'num_group': '2'}
    yield 'vg_grouped_to_bf16', [(2, 4, 5, 5), (6, 2, 3, 3)], options
    for channels, filters in (((1, 3), (2, 2)), ((2, 2), (3, 1))):
        weights = [(f, c, 1, 1) for c, f in zip(channels, filters)]
        options = {'channels': str(channels), 'filters': str(filters)}
        yield 'vg_mixed_pointwise_bf16', [(2, 4, 5, 5), *weights], options, 0
    for op, shapes, options, *pairs in steps_of_others():
        odd = [tuple(23 if size == 24 else size for size in shape) for shape in shapes]
        yield op, odd, options, *pairs


@pytest.mark.parametrize('step', [*odd_steps()], ids=lambda step: f'{step[0]} {step[1][0][1]}')
def test_an_odd_number_of_channels_is_an_error(step):
    """Called by hand; such an operator would write behind the end of its arrays."""
    op, shapes, options, *pairs = step
    types = ['float16' if position in pairs else 'float32' for position in range(len(shapes))]
    arrays = [mx.nd.zeros(shape, dtype=kind) for shape, kind in zip(shapes, types)]
    options = {name: str(value) for name, value in options.items()}
    with pytest.raises(mx.MXNetError, match='an even number of channels'):
        getattr(mx.nd, op)(*arrays, **options)


@pytest.mark.parametrize('source', ['conv.cc', 'grouped.cc'])
def test_the_instructions_are_used_where_the_cpu_has_them(source):
    """As assembly for a CPU that has them. Without its optimisation, which takes most of the time,
    intrinsics of the wrong CPU fail all the same."""
    compiler = native._compiler()
    flags = [flag for flag in native.FLAGS if not flag.startswith(('-march', '-O', '-shared'))]
    headers = [f'-I{native.HEADERS}', f'-I{build._mxnet().headers}']
    path = build.OPERATORS.folder / source
    known = [compiler, '-march=cooperlake', '-E', '-x', 'c++', '/dev/null']
    if subprocess.run(known, capture_output=True).returncode:
        pytest.skip(f'{compiler} knows no such CPU')
    command = [compiler, *flags, '-O1', '-march=cooperlake', *headers, '-S', str(path), '-o', '-']
    assembly = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert 'vdpbf16ps' in assembly


# -------------------------------------------------------------------------------------- graphs


def rounded_by_hand(symbol, stored: set, size: int):
    """The float32 operators' graph in which every reader of an array that `stored` names has casts
    of its own before it: it reads rounded numbers and rounds their gradient, and MXNet sums the
    gradients of all readers in float32."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=(size, *IMAGE_SHAPE))
    graph = json.loads(symbol.tojson())
    known = [[] for _ in graph['nodes']]
    for (index, *_), shape in zip(json.loads(internals.tojson())['heads'], shapes):
        known[index].append(shape)
    nodes, heads, attrs = parse(graph, known, {'data'})
    for node in nodes:
        for position, (source, output) in enumerate(node.inputs):
            if source.name not in stored or output:
                continue
            name = f'{node.name}_{position}'
            down = Node('vg_to_bf16', f'{name}_down', {'__at__': name}, [(source, 0)])
            node.inputs[position] = Node('vg_from_bf16', f'{name}_up', {}, [(down, 0)]), 0
    return mxnet_symbol(assemble(heads, attrs))


def passed(symbol, arg_params, aux_params, data, seed=7):
    """Embeddings, and the gradients by name."""
    executor = symbol.simple_bind(mx.cpu(), grad_req='write', data=data.shape)
    executor.copy_params_from(arg_params, aux_params)
    y = executor.forward(is_train=True, data=mx.nd.array(data))[0]
    executor.backward(mx.nd.array(np.random.RandomState(seed).randn(*y.shape)))
    return y.asnumpy(), {name: executor.grad_dict[name].asnumpy() for name in arg_params}


def operators(symbol):
    return {node['op'] for node in json.loads(symbol.tojson())['nodes']}


def share_of(symbol):
    """Per cent of the convolutions' multiply-adds in those that the option is for."""
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=(1, *IMAGE_SHAPE))
    shapes = dict(zip(internals.list_outputs(), shapes))
    work = np.zeros(2)
    for node in json.loads(symbol.tojson())['nodes']:
        if node['op'] != 'Convolution':
            continue
        kernel, groups = node['attrs']['kernel'], int(node['attrs'].get('num_group', 1))
        stride, pad = (node['attrs'].get(name) for name in ('stride', 'pad'))
        _, channels, *size = shapes[f'{node["name"]}_weight']
        _, filters, *positions = shapes[f'{node["name"]}_output']
        rounds = (kernel, pad) == ('(3, 3)', '(1, 1)') and 1 < channels <= 16
        plain = groups == 1 and stride in (None, '(1, 1)')
        plain = plain and np.prod(positions) > 1 and channels % 2 == filters % 2 == 0
        rounds = rounds or (kernel == '(1, 1)' and plain)
        work[int(rounds)] += np.prod(shapes[f'{node["name"]}_output']) * channels * np.prod(size)
    return 100 * work[1] / work.sum()


NORMS_INSIDE = {'vg_bn_prelu_pointwise_bf16', 'vg_bn_prelu_grouped_bf16'}
CONVOLUTIONS = ('vg_pointwise', 'vg_mixed_pointwise', 'vg_grouped', *NORMS_INSIDE)
BFLOAT16_CONVOLUTIONS = {
    'r18': {'vg_grouped_to_bf16'},
    'vargfacenet': {'vg_pointwise_bf16', 'vg_grouped_bf16', 'vg_grouped_to_bf16', *NORMS_INSIDE},
    'mixfacenet_xs': {'vg_pointwise_bf16', 'vg_mixed_pointwise_bf16', 'vg_grouped_to_bf16'},
    'polyface': {'vg_pointwise_bf16'},  # in float32 a network for MXNet's operators
}


@pytest.mark.parametrize('network', BFLOAT16_CONVOLUTIONS)
def test_networks_keep_their_names_and_say_how_much_is_rounded(network, caplog):
    symbol = get_symbol(network)
    with caplog.at_level(logging.INFO):
        fast = ops.accelerate(symbol, {'data': (2, *IMAGE_SHAPE)}, precision='bfloat16')
    assert fast.list_arguments() == symbol.list_arguments()
    assert fast.list_auxiliary_states() == symbol.list_auxiliary_states()
    assert fast.list_outputs() == symbol.list_outputs()
    found = {operator for operator in operators(fast) if operator.endswith('_bf16')}
    products = {operator for operator in found if operator.startswith(CONVOLUTIONS)}
    assert products == BFLOAT16_CONVOLUTIONS[network]
    share = share_of(symbol)
    told = [f'bfloat16: {share:.0f} % of the multiply-adds of the convolutions']
    if share < 25 or network == 'polyface':
        told.append('that is hardly faster than float32, and what lies between them is rounded')
    assert caplog.messages == told


# Options that make it small, images, and the layer up to which it is compared: as deep as rounding
# does not yet grow into something else, for which BatchNorms over few images suffice.
NETWORKS = {
    'vargfacenet': ({'multiplier': 0.25, 'emb_size': 32}, 6, 'fc1'),
    'vargnet': ({'multiplier': 0.25, 'emb_size': 32}, 6, 'fc1'),
    'y1': ({}, 4, 'res_4_block0_conv_sep_batchnorm'),
    'y2': ({}, 4, 'res_3_block5_conv_sep_batchnorm'),
    'mixfacenet_xs': ({}, 4, 'stage2_unit2_exp_bn'),
    'shufflemixfacenet_s': ({}, 4, 'stage2_unit2_exp_bn'),
    'polyface': ({}, 3, 'a10_0_branch1_0_bn'),
    'qan_quality': ({}, 3, ''),
}


def round_weights(symbol, params):
    """Those of the convolutions, as the operators do."""
    nodes = json.loads(symbol.tojson())['nodes']
    for node in nodes:
        if not (node['op'].endswith('_bf16') and node['op'].startswith(CONVOLUTIONS)):
            continue
        for index, *_ in node['inputs'][1:]:
            source = nodes[index]
            name = nodes[source['inputs'][0][0]]['name'] if source['inputs'] else source['name']
            if name.endswith('_weight'):
                params[name] = mx.nd.array(bfloat16(params[name].asnumpy()))


@pytest.mark.parametrize('network', NETWORKS)
def test_networks_give_what_casts_around_float32_operators_give(network):
    """Wherever the pass stores an array: were there one that MXNet computes with, or a gradient
    left out, nothing would fit. What differs are ties of sums in another order."""
    options, size, layer = NETWORKS[network]
    symbol = get_symbol(network, **options)
    symbol = symbol.get_internals()[f'{layer}_output'] if layer else symbol
    arg_params, aux_params = reference_params(symbol)
    for node in json.loads(symbol.tojson())['nodes']:
        if node['op'] == 'LeakyReLU':  # without a bend, where rounding sends many the other way
            arg_params[f'{node["name"]}_gamma'][:] = 1
    # (x - 127.5) / 128 of whole numbers is exact
    data = np.random.RandomState(3).randint(0, 256, (size, *IMAGE_SHAPE))
    fast = ops.accelerate(symbol, {'data': data.shape}, precision='bfloat16')
    round_weights(fast, arg_params)
    nodes = json.loads(fast.tojson())['nodes']
    stored = {node['name'] for node in nodes if stores(node)} | norms_inside(nodes)
    by_hand = rounded_by_hand(ops.accelerate(symbol, {'data': data.shape}), stored, size)
    y, gradients = passed(fast, arg_params, aux_params, data)
    right, expected = passed(by_hand, arg_params, aux_params, data)
    whole = [
        np.concatenate([g[name].ravel() for name in arg_params]) for g in (gradients, expected)
    ]
    assert cosine(y, right) > 0.999
    assert cosine(*whole) > (0.99 if network == 'polyface' else 0.998)  # whose ReLUs bend


def stores(node):
    """Whether a node's first output is in bfloat16, of those that have one by this name in
    float32."""
    op = node['op']
    if not op.endswith('_bf16') or '_from' in op or 'pool' in op or op == 'vg_to_bf16':
        return False
    return not node['name'].endswith('_copies')


def norms_inside(nodes):
    """Names of the PReLUs that convolutions have inside, by those of their slopes."""
    slopes = [nodes[node['inputs'][3][0]] for node in nodes if node['op'] in NORMS_INSIDE]
    names = (nodes[s['inputs'][0][0]]['name'] if s['inputs'] else s['name'] for s in slopes)
    return {name.removesuffix('_gamma') for name in names}


def cosine(one, other):
    return one.ravel() @ other.ravel() / np.linalg.norm(one) / np.linalg.norm(other)


def test_a_whole_network_is_nearly_that_of_float32():
    """Embeddings and gradients of a network of random weights, whose PReLUs are often near zero,
    so that rounding sends many to the other side: measured cosines are 0.995 and 0.86. Those of
    another network, or of gradients that do not fit, are near 0."""
    symbol = get_symbol('vargfacenet', multiplier=0.25, emb_size=32)
    params = reference_params(symbol)
    data = np.random.RandomState(3).randint(0, 256, (8, *IMAGE_SHAPE))
    found = []
    for precision in ops.PRECISIONS:
        fast = ops.accelerate(symbol, {'data': data.shape}, precision=precision)
        y, gradients = passed(fast, *params, data)
        names = [name for name in gradients if name.endswith('_weight')]
        found.append([y, np.concatenate([gradients[name].ravel() for name in names])])
    for one, other, least in zip(*found, (0.99, 0.75)):
        assert least < cosine(one, other) < 0.9999


def test_a_network_that_would_round_nothing_is_refused():
    x = mx.sym.Convolution(
        mx.sym.Variable('data'), kernel=(5, 5), num_filter=4, num_group=2, name='conv'
    )
    with pytest.raises(InputError, match='no convolution of this network takes bfloat16'):
        ops.accelerate(x, {'data': (2, 4, 9, 9)}, precision='bfloat16')


def test_without_the_operators_it_is_refused(monkeypatch):
    monkeypatch.setattr(ops, 'available', lambda: False)
    with pytest.raises(InputError, match='needs the compiled operators'):
        ops.accelerate(get_symbol('y1'), {'data': (2, *IMAGE_SHAPE)}, precision='bfloat16')
    assert 'compiled operators are not there' in ops.lacks_bfloat16()


def test_what_the_machine_lacks_is_what_the_kernel_tells():
    flags = Path('/proc/cpuinfo').read_text().split('\n\n')[0]
    assert ('avx512_bf16' in flags.split()) == ('has no AVX512_BF16' not in ops.lacks_bfloat16())


def pools_and_a_reader():
    """Two outputs: the mean of an array that a convolution reads as well, and that one's."""

    def norm(name, data):
        return mx.sym.BatchNorm(data, fix_gamma=False, eps=2e-5, name=name)

    def convolution(name, data, filters):
        return mx.sym.Convolution(data, kernel=(1, 1), num_filter=filters, no_bias=True, name=name)

    def pool(name, data):
        return mx.sym.Pooling(data, global_pool=True, pool_type='avg', kernel=(1, 1), name=name)

    first = norm('norm', convolution('convolution', mx.sym.Variable('data'), 8))
    second = norm('norm1', convolution('convolution1', first, 6))
    return mx.sym.Group([pool('pool', first), pool('pool1', second)])


@pytest.mark.parametrize('name', ['pools_and_a_reader', *list_networks()])
def test_mxnet_never_computes_with_bfloat16(name):
    """Every array of it has one reader at most, an operator of ours, and is no output: of several
    readers MXNet would add up the gradients, as float16 numbers."""
    if name == 'pools_and_a_reader':
        symbol, shape = pools_and_a_reader(), (3, 4, 7, 9)
    else:
        symbol, shape = get_symbol(name), (3, *IMAGE_SHAPE)
    symbol = ops.accelerate(symbol, {'data': shape}, precision='bfloat16')
    content, inside = json.loads(symbol.tojson()), symbol.get_internals()
    types = inside.infer_type(data='float32')[1]
    entries = [(node, output) for node, output, *_ in json.loads(inside.tojson())['heads']]
    stored = {entry for entry, kind in zip(entries, types) if kind == np.float16}
    assert stored or name.startswith('r')
    readers = dict.fromkeys(stored, 0)
    for node in content['nodes']:
        for source, output, *_ in node['inputs']:
            if (source, output) in stored:
                readers[source, output] += 1
                assert node['op'].startswith('vg_') and 'bf16' in node['op'], node['name']
    assert max(readers.values(), default=0) <= 1
    assert not stored & {(node, output) for node, output, *_ in content['heads']}


# ------------------------------------------------------------------------------------- memory


def table(multiplier):
    """(channels, positions, how often) of VarGFaceNet's arrays with positions, by its table: all
    of them, those that are computed again in bfloat16, and those that have copies there."""
    kept, again, copied = [], [], []

    def separable(c, out, positions, factor=2):
        """3x3 in groups and 1x1, with a BatchNorm behind either."""
        kept.extend([(c * factor, positions, 2), (out, positions, 2)])
        again.append((c * factor, positions, 1))

    def added(c, positions, readers):
        """A sum and its PReLU."""
        kept.append((c, positions, 1))
        copied.append((c, positions, readers - 1))

    def normal(c, positions, readers, factor=2):
        for _ in range(2):
            separable(c, c, positions, factor)
        again.append((c, positions, 1))  # between the two
        added(c, positions, readers)

    c, positions = int(32 * multiplier), 112**2
    kept.append((c, positions, 2))  # the first convolution and its BatchNorm,
    copied.append((c, positions, 1))  # for two branches
    positions //= 4
    separable(c, c, positions, factor=1)  # shortcut
    normal(c, positions, readers=3, factor=1)
    for base, units in ((64, 3), (128, 7), (256, 4)):
        out, positions = int(base * multiplier), positions // 4
        for _ in range(3):
            separable(c, out, positions)
        added(out, positions, readers=1)
        separable(out, out, positions)
        added(out, positions, readers=2)
        for unit in range(2, units + 1):
            last = 3 if base < 256 else 1  # the next stage's branches
            normal(out, positions, readers=2 if unit < units else last)
        c = out
    kept.append((1024, positions, 2))
    return kept, again, copied


def numbers(arrays):
    return sum(channels * positions * times for channels, positions, times in arrays)


def pictures(multiplier, precision):
    """(bytes of an image, type) of the arrays with positions between operators, by name; all are
    there from the forward pass to the backward pass, which reads them."""
    symbol = get_symbol('vargfacenet', multiplier=multiplier)
    fast = ops.accelerate(symbol, {'data': (1, *IMAGE_SHAPE)}, False, False, precision)
    inside = fast.get_internals()
    types = inside.infer_type(data='float32')[1]
    shapes = inside.infer_shape(data=(1, *IMAGE_SHAPE))[1]
    inputs = {*fast.list_arguments(), *fast.list_auxiliary_states()}
    return {
        name: (int(np.prod(shape)) * np.dtype(kind).itemsize, np.dtype(kind))
        for name, shape, kind in zip(inside.list_outputs(), shapes, types)
        if len(shape) == 4 and shape[2] * shape[3] > 1 and shape[1] > 3 and name not in inputs
    }


@pytest.mark.parametrize('multiplier', [1.25, 0.25])
def test_activations_take_less_than_half_the_memory(multiplier):
    """As reckoned from the network's table: two bytes for four, some not kept, some there twice;
    the last, which MXNet's 7x7 convolution reads, is the only one in float32."""
    kept, again, copied = map(numbers, table(multiplier))
    single, half = (pictures(multiplier, precision) for precision in ops.PRECISIONS)
    last = 1024 * 7 * 7
    assert sum(size for size, _ in single.values()) == 4 * kept
    assert sum(size for size, _ in half.values()) == 2 * (kept - again + copied + last)
    assert [name for name, (_, kind) in half.items() if kind == np.float32] == [
        'embed_convx_act_output0'
    ]
    assert 2 * (kept - again + copied + last) < 0.45 * 4 * kept
