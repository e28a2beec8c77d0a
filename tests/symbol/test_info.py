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


def test_the_table_has_what_is_published_and_measured(run_command, tmp_path):
    engines = [
        {'engine': 'mxnet', 'latency_ms_median': 9.0},
        {'engine': 'openvino', 'latency_ms_median': 4.25},
    ]
    (tmp_path / 'xs.json').write_text(json.dumps({'engines': engines, 'machine': {'cpu': 'x'}}))
    results = f'mixfacenet_xs={tmp_path}/xs.json'
    code, result, errors = run_command('info', '--table', 'markdown', '--results', results)
    assert code == 0
    lines = [line.strip('| ').split(' | ') for line in errors.splitlines()]
    assert len(lines) == 2 + len(list_networks())
    rows = {line[0]: line for line in lines}
    # published: arXiv:2107.13046 and arXiv:1910.04985
    assert rows['mixfacenet_xs'][1:4] == ['1.04', '151.4', '161.9']
    assert '4.2 (openvino)' in rows['mixfacenet_xs'] and '90.73' in rows['mixfacenet_xs']
    assert rows['vargfacenet'][7:10] == ['99.85', '98.5', '98.15']
    assert result['networks']['mixfacenet_xs']['measured']['engine'] == 'openvino'
    assert result['networks']['r18']['published'] is None
    # a weight is a byte, and a filter has a bias and a scale
    sizes = {name: row['megabytes_int8'] for name, row in result['networks'].items()}
    assert 5.0 < sizes['vargfacenet'] < 6.5  # the exported file has at most 6.5 MB
    assert run_command('info', '--table')[0] == 0


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--table', 'text', 'y1'], 'leave the network out'),
        (['--table', '--option', 'use_se=no'], 'leave the network out'),
        (['--results', 'y1=x'], 'belongs to --table'),
        (['--table', '--results', 'y3=x'], "unknown network 'y3'"),
        (['--table', '--results', 'y1=x'], 'results file x does not exist'),
        (['--table', '--results', f'y1={DATA}/align.json'], 'is no result of `bench engines'),
    ],
)
def test_wrong_use_of_the_table(arguments, message, run_command):
    code, _, errors = run_command('info', *arguments)
    assert code == 2 and message in errors
