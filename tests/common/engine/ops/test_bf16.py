"""Convolutions that multiply bfloat16: a float64 loop over operands that NumPy rounded."""

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
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops
from vargfacenet.common.engine.ops import build
from vargfacenet.common.errors import InputError
from vargfacenet.common.names import IMAGE_SHAPE
from vargfacenet.symbol import get_symbol

pytestmark = pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')

# Products of bfloat16 numbers are exact in float32, so what differs from the loop is the rounding
# of float32 sums alone, on a CPU with AVX512_BF16 as without: assert_close's limit is that of the
# float32 operators, a hundredth of what one operand that was not rounded would change.


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
    denormal = (np.abs(expected) < np.finfo(np.float32).tiny) & (actual == 0)
    np.testing.assert_array_equal(np.where(denormal, 0, expected), actual)
    # AVX512_BF16 takes them for zeros
    assert not denormal[expected != 0].any() or not ops.lacks_bfloat16()


def test_numbers_are_rounded_to_the_nearest_and_ties_to_even():
    """As the input, the gradient of the output and the weights, with a one on the other side."""
    values = every_kind()
    assert len(values) > 30000 and np.isnan(values).any() and np.isinf(values).any()
    options = {'num_group': 1, 'stride': 1, 'no_bias': True}
    row, one = values.reshape(1, 1, 1, -1), np.ones((1, 1, 1, 1))
    y, dx, _ = run('vg_pointwise_bf16', [row, one], row, num_filter=1, **options)
    assert_rounded(y.ravel(), values)
    assert_rounded(dx.ravel(), values)
    filters, channels = values.reshape(-1, 1, 1, 1), values.reshape(1, -1, 1, 1)
    count = len(values)
    y, _, dw = run('vg_pointwise_bf16', [one, filters], channels, num_filter=count, **options)
    assert_rounded(y.ravel(), values)
    assert_rounded(dw.ravel(), values)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('case', POINTWISE)
def test_pointwise_is_its_definition(rng, case, bias):
    check_convolution(rng, 'vg_pointwise_bf16', case, 1, 1, 1, bias, bfloat16)


@pytest.mark.parametrize('bias', [False, True])
@pytest.mark.parametrize('case', GROUPED)
def test_grouped_is_its_definition(rng, case, bias):
    *case, groups, stride = case
    check_convolution(rng, 'vg_grouped_bf16', case, groups, stride, 3, bias, bfloat16)


@pytest.mark.parametrize('case', SLICES)
def test_pointwise_of_slices_is_its_definition(rng, case):
    check_slices(rng, 'vg_mixed_pointwise_bf16', case, bfloat16)


def test_any_number_of_threads_gives_the_same_bits(monkeypatch):
    one = {'num_filter': '40', 'num_group': '1', 'stride': '1', 'no_bias': 'True'}
    slices = {'channels': '(16, 24)', 'filters': '(30, 20)'}
    grouped = {'num_filter': '33', 'num_group': '3', 'no_bias': 'True'}
    steps = [
        ('vg_pointwise_bf16', [(9, 60, 28, 28), (40, 60, 1, 1)], one),
        ('vg_mixed_pointwise_bf16', [(5, 40, 28, 28), (30, 16, 1, 1), (20, 24, 1, 1)], slices),
        *(
            ('vg_grouped_bf16', [(9, 24, 28, 28), (33, 8, 3, 3)], {**grouped, 'stride': stride})
            for stride in '12'
        ),
    ]
    assert_threads_change_no_bit(monkeypatch, steps)


@pytest.mark.parametrize('source', ['pointwise_bf16.cc', 'grouped_bf16.cc'])
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
        rounds = (kernel, pad) == ('(3, 3)', '(1, 1)') and 1 < channels <= 16
        plain = groups == 1 and stride in (None, '(1, 1)')
        rounds = rounds or (kernel == '(1, 1)' and plain)
        work[int(rounds)] += np.prod(shapes[f'{node["name"]}_output']) * channels * np.prod(size)
    return 100 * work[1] / work.sum()


BFLOAT16_OPERATORS = {
    'vargfacenet': {'vg_pointwise_bf16', 'vg_grouped_bf16'},
    'mixfacenet_xs': {'vg_pointwise_bf16', 'vg_mixed_pointwise_bf16', 'vg_grouped_bf16'},
    'polyface': {'vg_pointwise_bf16'},  # in float32 a network for MXNet's operators
}


@pytest.mark.parametrize('network', BFLOAT16_OPERATORS)
def test_networks_keep_their_names_and_say_how_much_is_rounded(network, caplog):
    symbol = get_symbol(network)
    with caplog.at_level(logging.INFO):
        fast = ops.accelerate(symbol, {'data': (2, *IMAGE_SHAPE)}, precision='bfloat16')
    assert fast.list_arguments() == symbol.list_arguments()
    assert fast.list_auxiliary_states() == symbol.list_auxiliary_states()
    assert fast.list_outputs() == symbol.list_outputs()
    found = {operator for operator in operators(fast) if operator.endswith('_bf16')}
    assert found == BFLOAT16_OPERATORS[network]
    assert not operators(fast) & {'vg_pointwise', 'vg_mixed_pointwise', 'vg_grouped'}
    told = f'bfloat16: {share_of(symbol):.0f} % of the multiply-adds of the convolutions'
    assert caplog.messages == [told]


def test_a_whole_network_is_nearly_that_of_float32():
    """Embeddings and gradients of a network of random weights, whose PReLUs are often near zero,
    so that rounding sends many to the other side: measured cosines are 0.997 and 0.89. Those of
    another network, or of gradients that do not fit, are near 0."""
    symbol = get_symbol('vargfacenet', multiplier=0.25, emb_size=32)
    arg_params, aux_params = reference_params(symbol)
    data = np.random.RandomState(3).randint(0, 256, (8, *IMAGE_SHAPE))
    found = {}
    for precision in ops.PRECISIONS:
        fast = ops.accelerate(symbol, {'data': data.shape}, precision=precision)
        executor = fast.simple_bind(mx.cpu(), grad_req='write', data=data.shape)
        executor.copy_params_from(arg_params, aux_params)
        y = executor.forward(is_train=True, data=mx.nd.array(data))[0]
        executor.backward(mx.nd.array(np.random.RandomState(7).randn(*y.shape)))
        names = [name for name in arg_params if name.endswith('_weight')]
        gradient = np.concatenate([executor.grad_dict[name].asnumpy().ravel() for name in names])
        found[precision] = [y.asnumpy().ravel(), gradient]
    for one, other, least in zip(*found.values(), (0.99, 0.8)):
        cosine = one @ other / np.linalg.norm(one) / np.linalg.norm(other)
        assert least < cosine < 0.9999


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
