"""The command `info`."""

import json

import pytest
from conftest import DATA
from vargfacenet.symbol import list_networks


def test_table_of_all_networks(run_command):
    code, result, errors = run_command('info')
    assert code == 0
    assert sorted(result['networks']) == list_networks()
    for name in ('vargfacenet', 'y1', 'y2', 'r50', 'r100_se'):
        expected = json.loads((DATA / f'net_{name}.json').read_text())
        row = result['networks'][name]
        assert row['params'] == expected['num_params']
        assert row['flops'] == expected['flops']
        assert row['embedding_size'] == len(expected['embedding'][0])
        assert row['megabytes'] == pytest.approx(4e-6 * expected['num_params'], abs=0.005)
        assert f'{expected["flops"]:,}' in errors
    # published as 161.9, 451.7 and 626.1 MFLOPs: cut off, not rounded
    published = {
        'xs': (161_988_532, '161.9'),
        's': (451_720_268, '451.7'),
        'm': (626_139_948, '626.1'),
    }
    for size, (count, text) in published.items():
        assert result['networks'][f'mixfacenet_{size}']['flops_all'] == count
        assert result['networks'][f'shufflemixfacenet_{size}']['flops_all'] == count
        assert text in errors


def test_layers_of_one_network(run_command):
    code, result, errors = run_command('info', 'vargfacenet')
    assert code == 0
    assert (result['flops'], result['params']) == (1_022_864_152, 5_198_292)
    assert sum(layer['flops'] for layer in result['layers']) == result['flops']
    assert sum(layer['params'] for layer in result['layers']) == result['params']
    by_name = {layer['name']: layer for layer in result['layers']}
    # 3x3 on 3 channels, 40 filters, no bias: (2 * 27 - 1) * 40 * 112 * 112
    assert by_name['vargface_head_conv1'] == {
        'name': 'vargface_head_conv1',
        'operator': 'Convolution',
        'output_shape': [1, 40, 112, 112],
        'params': 3 * 9 * 40,
        'flops': 53 * 40 * 112 * 112,
        'flops_all': 54 * 40 * 112 * 112,
    }
    for name in by_name:
        assert name in errors  # on one line: a folded name cannot be searched for
    assert '1,022.864' in errors


def test_options_change_the_network(run_command):
    code, result, _ = run_command(
        'info', 'vargfacenet', '--multiplier', '1', '--emb-size', 128, '--option', 'use_se=false'
    )
    assert code == 0
    assert result['embedding_size'] == 128
    assert result['options']['multiplier'] == 1.0
    assert result['options']['use_se'] is False
    assert result['options']['group_base'] == 8
    assert not [layer for layer in result['layers'] if '_se_' in layer['name']]


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['vargfacnet'], "did you mean 'vargfacenet'?"),
        (['vargfacenet', '--multiplier', '1.3'], 'work: 1.25 or 1.5'),
        (['vargfacenet', '--multiplier', 'x'], "not 'x'"),
        (['y1', '--multiplier', '1'], "unknown y1 option 'multiplier'"),
        (['y1', '--emb-size', '64', '--option', 'emb_size=32'], 'given twice'),
        (['--emb-size', '64'], 'emb_size=64: an option needs a network'),
        (['y1', '--wrong'], '--wrong'),
    ],
)
def test_wrong_usage(run_command, arguments, message):
    code, _, errors = run_command('info', *arguments)
    assert code == 2
    assert message in errors
    assert errors.count('\n') == 1
