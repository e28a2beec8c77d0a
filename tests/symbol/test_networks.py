"""Networks against the reference implementation's names, shapes, counts and embeddings.

The files net_*.json hold what the reference built, and its embedding of `reference_images` with
`reference_value` in every array.
"""

import json
import math
import zlib

import numpy as np
import pytest
from conftest import DATA
from vargfacenet.common import flops
from vargfacenet.common.backend import mx
from vargfacenet.common.names import IMAGE_SHAPE
from vargfacenet.symbol import get_symbol, list_networks, network_options
from vargfacenet.symbol.options import ACTIVATIONS

RESNETS = ('r100', 'r100_se', 'r18', 'r18_se', 'r34', 'r34_se', 'r50', 'r50_se')
MIXED = ('mixfacenet_m', 'mixfacenet_s', 'mixfacenet_xs')
SHUFFLED = ('shufflemixfacenet_m', 'shufflemixfacenet_s', 'shufflemixfacenet_xs')
POLYFACES = ('polyface', 'polyface_deep', 'qan_quality')
ALL = (*MIXED, *SHUFFLED, *POLYFACES, *RESNETS, 'vargfacenet', 'vargnet', 'y1', 'y2')
REFERENCE = ('vargfacenet', 'y1', 'y2', 'r18_se', 'r34_se', 'r50', 'r50_se', 'r100', 'r100_se')
SLOW = ('r34', 'r34_se', 'r50', 'r50_se', 'r100', 'r100_se')


def marked(networks, slow=SLOW):
    return [
        pytest.param(name, marks=pytest.mark.slow) if name in slow else name for name in networks
    ]


def reference(name):
    return json.loads((DATA / f'net_{name}.json').read_text())


def shapes_of(symbol):
    """[name, shape] of arguments and of auxiliary states, in order."""
    arguments, _, auxiliary = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    return (
        [[key, list(shape)] for key, shape in zip(symbol.list_arguments(), arguments)],
        [[key, list(shape)] for key, shape in zip(symbol.list_auxiliary_states(), auxiliary)],
    )


def reference_images(seed, count):
    images = np.random.RandomState(seed).randint(0, 256, (count, *IMAGE_SHAPE))
    return images.astype(np.float32)


def reference_value(name, shape, seed):
    """An array's value that depends on its name only, so a swapped name is seen in the output."""
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
    if name.endswith('_moving_var'):
        value = 0.5 + random.rand(*shape)
    elif name.endswith('_gamma') and ('act' in name or 'relu' in name):
        value = 0.25 + 0.1 * random.randn(*shape)
    elif name.endswith('_gamma'):
        value = 0.5 + 0.1 * random.randn(*shape)
    elif name.endswith(('_moving_mean', '_beta', '_bias')):
        value = 0.1 * random.randn(*shape)
    else:
        value = random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    return value.astype(np.float32)


def fill(executor, seed=1):
    """Reference values for every array except the images."""
    for arrays in (executor.arg_dict, executor.aux_dict):
        for name, array in arrays.items():
            if name != 'data':
                array[:] = reference_value(name, array.shape, seed)


def embed(symbol, images, seed=1):
    executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=images.shape)
    fill(executor, seed)
    return executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()


def test_the_list_of_networks():
    assert set(ALL) <= set(list_networks())
    assert list_networks() == sorted(list_networks())


@pytest.mark.parametrize('name', list_networks())
def test_every_network_builds_one_embedding(name):
    symbol = get_symbol(name)
    assert symbol.list_outputs() == ['fc1_output']
    _, (output,), _ = symbol.infer_shape(data=(3, *IMAGE_SHAPE))
    assert output == (3, network_options(name)['emb_size'])
    assert len(set(symbol.list_arguments())) == len(symbol.list_arguments())


@pytest.mark.parametrize('name', REFERENCE)
def test_names_shapes_and_counts_equal_the_reference(name):
    expected = reference(name)
    symbol = get_symbol(name)
    arguments, auxiliary = shapes_of(symbol)
    assert arguments == expected['args']
    assert auxiliary == expected['aux']
    assert symbol.list_outputs() == expected['outputs']
    count = flops.count(symbol)
    assert (count.flops, count.params) == (expected['flops'], expected['num_params'])


@pytest.mark.parametrize('name', marked(REFERENCE))
def test_embedding_equals_the_reference(name):
    expected = reference(name)
    embedding = np.array(expected['embedding'])
    images = reference_images(expected['seed'], len(embedding))
    found = embed(get_symbol(name), images, expected['seed'])
    assert np.abs(found - embedding).max() <= 1e-5 * np.abs(embedding).max()


@pytest.mark.parametrize('name', list_networks())
def test_building_twice_gives_the_same_text(name):
    """Names from MXNet's counters would go on counting in the second build."""
    assert get_symbol(name).tojson() == get_symbol(name).tojson()


# A stock PReLU step of the deep networks takes many seconds; small ones keep the others quick.
POLYFACE = {'blocks_a': 1, 'blocks_b': 1, 'blocks_c': 1}
TRAINED = {
    'r18': {'width': 0.25},
    'r18_se': {'width': 0.25},
    'y1': {},
    'shufflemixfacenet_xs': {},
    'polyface': POLYFACE,
    'polyface_deep': POLYFACE,
    'qan_quality': {},
}
# their input is rounded to whole numbers
NO_IMAGE_GRADIENT = ('polyface', 'polyface_deep', 'qan_quality')


@pytest.mark.parametrize(
    'name', marked(list_networks(), set(list_networks()) - set(TRAINED) | {'polyface_deep'})
)
def test_every_parameter_gets_a_finite_gradient(name, rng):
    batch = 4
    symbol = get_symbol(name, **TRAINED.get(name, {}))
    executor = symbol.simple_bind(mx.cpu(), grad_req='write', data=(batch, *IMAGE_SHAPE))
    fill(executor)
    images = mx.nd.array(reference_images(1, batch))
    idle = set(executor.grad_dict)
    # a bias in front of a batch norm cannot change its output, and a fixed gamma does not learn
    without = {'pre_fc1_bias', 'fc1_gamma'}
    if name in NO_IMAGE_GRADIENT:
        without.add('data')
    # a pass of stochastic depth leaves out layers by MXNet's own random numbers
    for _ in range(8 if name in NO_IMAGE_GRADIENT else 1):
        embedding = executor.forward(is_train=True, data=images)[0]
        executor.backward(mx.nd.array(rng.randn(*embedding.shape)))
        assert np.isfinite(embedding.asnumpy()).all()
        gradients = {key: value.asnumpy() for key, value in executor.grad_dict.items()}
        assert [key for key, value in gradients.items() if not np.isfinite(value).all()] == []
        idle -= {key for key, value in gradients.items() if value.any()}
        if idle <= without:
            break
    assert idle <= without


@pytest.mark.parametrize(
    ('options', 'params', 'flop_count'),
    [
        ({}, 4_744_916, 1_029_815_328),
        ({'use_se': False, 'act_type': 'relu'}, 4_486_216, 1_029_340_128),
    ],
)
def test_vargnet_counts_equal_the_published_ones(options, params, flop_count):
    assert flops.count(get_symbol('vargnet', **options)) == flops.Count(flop_count, params)


def test_vargnet_shares_the_body_of_vargfacenet():
    def body(name):
        arguments, _ = shapes_of(get_symbol(name))
        return [row for row in arguments if row[0].startswith('vargface_')]

    assert len(body('vargnet')) == 353
    assert body('vargnet') == body('vargfacenet')


def test_vargfacenet_without_se():
    symbol = get_symbol('vargfacenet', use_se=False)
    assert flops.count(symbol) == flops.Count(1_022_388_952, 4_957_512)
    assert len(symbol.list_arguments()) == 309


def test_multiplier_scales_the_body_and_not_the_embedding():
    arguments = dict(shapes_of(get_symbol('vargfacenet', multiplier=0.5))[0])
    expected = dict(reference('vargfacenet')['args'])
    assert list(arguments) == list(expected)
    for name, (out_channels, *rest) in expected.items():
        if name.startswith('vargface_'):
            scaled = [out_channels * 2 // 5]  # 0.5 / 1.25
            if name.endswith(('pointwise_weight', 'se_conv1_weight', 'se_conv2_weight')):
                rest = [rest[0] * 2 // 5, *rest[1:]]
            assert arguments[name] == scaled + rest, name
    assert arguments['embed_convx_weight'] == [1024, 128, 1, 1]
    assert arguments['pre_fc1_weight'] == [512, 512]


def test_head_pooling_replaces_the_head_block():
    symbol = get_symbol('vargfacenet', head_pooling=True)
    expected = reference('vargfacenet')
    left_out = [row for row in expected['args'] if 'head_head_pooling' in row[0]]
    assert len(left_out) == 28
    assert shapes_of(symbol)[0] == [row for row in expected['args'] if row not in left_out]
    pooling = next(row for row in flops.layers(symbol) if row.operator == 'Pooling')
    assert pooling.output_shape == (1, 40, 56, 56)
    saved = sum(math.prod(shape) for _, shape in left_out)
    assert flops.count(symbol).params == expected['num_params'] - saved


def test_group_base_is_the_input_channels_of_every_group():
    arguments = dict(shapes_of(get_symbol('vargfacenet', group_base=4))[0])
    grouped = {shape[1] for name, shape in arguments.items() if name.endswith('depthwise_weight')}
    assert grouped == {4}


def test_factor_widens_the_stages_and_not_the_head():
    arguments = dict(shapes_of(get_symbol('vargfacenet', factor=3))[0])
    block = 'sep2_data_conv2d_depthwise_weight'
    assert arguments[f'vargface_head_head_pooling_{block}'][0] == 40
    assert arguments[f'vargface_stage_4_unit_4_{block}'][0] == 3 * 320


def test_se_ratio_sets_the_hidden_units():
    arguments = dict(shapes_of(get_symbol('vargfacenet', se_ratio=8))[0])
    assert arguments['vargface_stage_4_unit_2_se_conv1_weight'] == [40, 320, 1, 1]


@pytest.mark.parametrize('name', list_networks())
def test_embedding_size(name):
    symbol = get_symbol(name, emb_size=96)
    assert symbol.infer_shape(data=(1, *IMAGE_SHAPE))[1] == [(1, 96)]


@pytest.mark.parametrize('name', ['r18', 'r34', 'r50', 'r100'])
def test_se_of_resnet_adds_two_layers_and_slopes_to_each_unit(name):
    units = {'r18': (2, 2, 2, 2), 'r34': (3, 4, 6, 3), 'r50': (3, 4, 14, 3), 'r100': (3, 13, 30, 3)}
    plain, with_se = get_symbol(name), get_symbol(f'{name}_se')
    added = sum(
        count * (2 * channels * channels // 16 + channels // 16 * 2 + channels)
        for count, channels in zip(units[name], (64, 128, 256, 512))
    )
    assert flops.count(with_se).params - flops.count(plain).params == added
    assert get_symbol(name, use_se=True).tojson() == with_se.tojson()
    se = [argument for argument in with_se.list_arguments() if '_se_' in argument]
    assert [a for a in with_se.list_arguments() if a not in se] == plain.list_arguments()


def test_width_scales_every_channel_count_of_a_resnet():
    arguments = dict(shapes_of(get_symbol('r100_se', width=0.125))[0])
    expected = dict(reference('r100_se')['args'])
    assert list(arguments) == list(expected)
    for name, shape in expected.items():
        if name.endswith(('conv1_weight', 'conv2_weight')) and '_se_' not in name:
            assert arguments[name] == [shape[0] // 8, shape[1] // 8, *shape[2:]]
    assert arguments['stage1_unit1_se_conv1_weight'] == [1, 8, 1, 1]
    assert arguments['pre_fc1_weight'] == [512, 64 * 7 * 7]


def test_dropout_drops_that_share_of_the_last_features():
    symbol = get_symbol('r18', width=0.125, dropout=0.75)
    dropped = symbol.get_internals()['dropout0_output']
    # bound without gradients, MXNet leaves dropout out even with is_train
    executor = dropped.simple_bind(mx.cpu(), grad_req='write', data=(4, *IMAGE_SHAPE))
    fill(executor)
    features = executor.forward(is_train=True, data=mx.nd.array(reference_images(1, 4)))[0]
    zeros = (features.asnumpy() == 0).mean()
    # 4 * 64 * 49 features: the share's standard deviation is 0.004
    assert abs(zeros - 0.75) < 0.02


@pytest.mark.parametrize('act_type', ACTIVATIONS)
def test_every_activation_runs_and_only_prelu_has_slopes(act_type):
    symbol = get_symbol('y1', act_type=act_type)
    slopes = [name for name in symbol.list_arguments() if name.endswith('_relu_gamma')]
    assert len(slopes) == (33 if act_type == 'prelu' else 0)
    assert np.isfinite(embed(symbol, reference_images(1, 2))).all()


def test_batch_norm_options_reach_every_layer_but_the_fixed_one():
    nodes = json.loads(get_symbol('y1', bn_eps=1e-4, bn_mom=0.5).tojson())['nodes']
    norms = {node['name']: node['attrs'] for node in nodes if node['op'] == 'BatchNorm'}
    assert len(norms) == 50
    assert {float(attributes['momentum']) for attributes in norms.values()} == {0.5}
    embedding_eps = float(norms.pop('fc1')['eps'])
    assert embedding_eps == 2e-5
    assert {float(attributes['eps']) for attributes in norms.values()} == {1e-4}


def test_a_narrowed_mobilefacenet_has_the_same_layers():
    whole, narrow = (get_symbol('y1', **options) for options in ({}, {'width': 0.46}))
    assert whole.list_arguments() == narrow.list_arguments()
    shapes = [
        dict(zip(net.list_arguments(), net.infer_shape(data=(1, 3, 112, 112))[0]))
        for net in (whole, narrow)
    ]
    for name, shape in shapes[0].items():
        if name.endswith('_gamma') and name != 'fc1_gamma':
            assert shapes[1][name][0] == max(8, round(0.46 * shape[0] / 8) * 8), name
    assert shapes[1]['fc1_gamma'] == (128,)
    assert 95e6 < flops.count(narrow).flops < 110e6
