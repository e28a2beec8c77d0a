"""MixFaceNets against the authors' implementation: embeddings, units, counts and rules."""

import json

import numpy as np
import pytest
import torch_reference
from conftest import DATA
from vargfacenet.common import flops
from vargfacenet.common.backend import mx
from vargfacenet.symbol import NETWORKS, get_symbol, mixfacenet

SIZES = {
    'xs': (1_040_866, 151_367_282, 161_988_532),
    's': (3_073_110, 433_275_058, 451_720_268),
    'm': (3_953_046, 603_011_919, 626_139_948),
}
ALL = [f'{prefix}mixfacenet_{size}' for prefix in ('', 'shuffle') for size in SIZES]
RULES = json.loads((DATA / 'mixface_rules.json').read_text())


def golden(name):
    return json.loads((DATA / f'net_{name}.json').read_text())


def pixels():
    """The golden input, given there as (pixel - 127.5) / 127.5."""
    blocks = np.random.RandomState(12345).uniform(-1, 1, (2, 3, 14, 14))
    return (np.kron(blocks, np.ones((8, 8))) * 127.5 + 127.5).astype(np.float32)


def run(symbol, name, values):
    images = pixels()
    executor = torch_reference.bind(symbol, NETWORKS.get(name).torch, values, images.shape)
    return [
        output.asnumpy() for output in executor.forward(is_train=False, data=mx.nd.array(images))
    ]


@pytest.mark.parametrize('name', ALL)
def test_embedding_equals_the_authors(name):
    expected = golden(name)
    values = torch_reference.state_dict(expected['layers'])
    (found,) = run(get_symbol(name), name, values)
    embedding = np.array(expected['embedding'])
    assert np.abs(found - embedding).max() <= 1e-5 * np.abs(embedding).max()


@pytest.mark.parametrize('name', ['mixfacenet_xs', 'shufflemixfacenet_xs'])
def test_every_unit_equals_the_authors(name):
    """Mean, deviation and corner values after every unit, so that a fault shows where it is."""
    expected = golden(name)
    taps = {path: tap for path, tap in expected['taps'].items() if '.unit' in path}
    assert len(taps) >= 5
    internals = get_symbol(name).get_internals()
    ends = ('shuffle',) if name.startswith('shuffle') else ('sum', 'proj_bn')
    outputs = []
    for path in taps:
        unit = path.removeprefix('features.').replace('.', '_')
        names = [f'{unit}_{end}_output' for end in ends]
        outputs.append(next(output for output in names if output in internals.list_outputs()))
    symbol = mx.sym.Group([*(internals[output] for output in outputs), internals['fc1_output']])
    maps = run(symbol, name, torch_reference.state_dict(expected['layers']))
    for found, tap in zip(maps, taps.values()):
        assert list(found.shape) == tap['shape']
        bound = 1e-5 * np.abs(found).max()
        assert abs(found.mean() - tap['mean']) <= bound
        assert abs(found.std() - tap['std']) <= bound
        np.testing.assert_allclose(found.ravel()[:6], tap['first'], rtol=0, atol=bound)
        np.testing.assert_allclose(found.ravel()[-3:], tap['last'], rtol=0, atol=bound)


@pytest.mark.parametrize('name', ALL)
def test_counts_equal_the_published_ones(name):
    params, organisers, authors = SIZES[name.rsplit('_', 1)[1]]
    symbol = get_symbol(name)
    assert flops.count(symbol) == flops.Count(organisers, params)
    assert sum(layer.flops_all for layer in flops.layers(symbol)) == authors
    nodes = json.loads(symbol.tojson())['nodes']
    shuffles = sum(node['op'] == 'SwapAxis' for node in nodes)
    units = 19 if name.endswith('_m') else 16
    assert shuffles == (units if name.startswith('shuffle') else 1)  # that of the stem stays
    assert sum(node['op'] == 'LeakyReLU' for node in nodes) == 7


@pytest.mark.parametrize(
    ('options', 'params', 'mflops'),
    [
        ({'gdw_size': 512}, 2_680_918, 441.0),
        ({'width': 0.5}, 1_383_906, 167.9),
    ],
)
def test_other_sizes_of_the_small_table(options, params, mflops):
    symbol = get_symbol('mixfacenet_s', **options)
    assert flops.count(symbol).params == params
    count = sum(layer.flops_all for layer in flops.layers(symbol))
    assert count / 1e6 == pytest.approx(mflops, abs=0.1)


def test_other_sizes_of_the_medium_table():
    small = get_symbol('mixfacenet_m', width=0.5, gdw_size=512)
    assert flops.count(small).params == 1_303_312
    assert flops.count(get_symbol('mixfacenet_m', gdw_size=512)).params == 3_560_854
    large = get_symbol('mixfacenet_m', width=1.3, gdw_size=512)  # the unpublished L
    assert flops.count(large).params == 5_810_348


def test_the_order_of_a_shuffle():
    for count, order in RULES['channel_shuffle_groups2_output_takes_input'].items():
        data = mx.sym.Variable('data')
        symbol = mixfacenet._shuffle(data, 'shuffle')
        channels = mx.nd.arange(int(count)).reshape((1, -1, 1, 1))
        images = mx.nd.broadcast_mul(channels, mx.nd.ones((2, 1, 3, 5)))
        (output,) = symbol.bind(mx.cpu(), {'data': images}).forward()
        expected = images.asnumpy()[:, order]
        np.testing.assert_array_equal(output.asnumpy(), expected)


def test_the_rules_of_splits_and_widths():
    for text, expected in RULES['mixconv_split'].items():
        channels, groups = map(int, text.split('/'))
        assert mixfacenet.split(channels, groups) == expected
    for product, expected in RULES['round_channels_div8'].items():
        assert mixfacenet.scaled(float(product) * 2, 0.5) == expected
    assert mixfacenet.scaled(20, 1.0) == 20  # no rounding without a width


def test_the_last_gamma_is_fixed_and_beta_learns(rng):
    symbol = get_symbol('mixfacenet_xs', width=0.25, gdw_size=16, emb_size=8)
    executor = symbol.simple_bind(mx.cpu(), grad_req='write', data=(3, 3, 112, 112))
    for name, array in executor.arg_dict.items():
        array[:] = 1 if name.endswith('gamma') else 0.1 * rng.randn(*array.shape)
    executor.arg_dict['fc1_gamma'][:] = 7
    executor.forward(is_train=True)
    executor.backward(mx.nd.array(rng.randn(3, 8)))
    assert not executor.grad_dict['fc1_gamma'].asnumpy().any()
    assert executor.grad_dict['fc1_beta'].asnumpy().all()
    assert executor.outputs[0].asnumpy().std(axis=0).max() < 2  # and not times 7
