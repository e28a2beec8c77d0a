"""The command `info`."""

import json

import pytest
from conftest import DATA, ROOT
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
        assert f'{expected["flops"] / 1e6:,.1f}' in errors
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


def cells(line):
    return [cell.strip() for cell in line.strip('|').split('|')]


@pytest.fixture
def speeds(tmp_path):
    rows = [
        {'engine': 'onnxruntime int8', 'ms': 9.0, 'images_per_second': 260.0},
        {'engine': 'OpenVINO float32', 'ms': 4.25, 'images_per_second': 250.0},
    ]
    content = {'cpu': 'a CPU', 'batch_size': 8, 'networks': {'mixfacenet_xs': rows}}
    path = tmp_path / 'networks.json'
    path.write_text(json.dumps(content))
    return path


def test_the_table_has_what_is_published_and_measured(run_command, speeds):
    code, result, errors = run_command('info', '--table', 'markdown', '--results', speeds)
    assert code == 0
    header, _, *lines = map(cells, errors.splitlines())
    rows = {line[0]: dict(zip(header, line)) for line in lines}
    assert list(rows) == list_networks()
    # published: arXiv:2107.13046 and arXiv:1910.04985
    row = rows['mixfacenet_xs']
    assert row['M params'] == '1.04' and row['IJB-C'] == '90.73'
    assert row['MFLOPs, LFR organisers'] == '151.4'
    assert row['MFLOPs, MixFaceNet authors'] == '161.9'
    # the fastest at one image need not be the fastest at many
    assert row['ms, one thread'] == '4.2 (OpenVINO float32)'
    assert row['images/s at 8, one thread'] == '260.0 (onnxruntime int8)'
    assert rows['vargfacenet']['LFW'] == '99.85' and rows['vargfacenet']['ms, one thread'] == ''
    assert result['cpu'] == 'a CPU'
    assert result['networks']['mixfacenet_xs']['measured']['ms'] == 4.25
    assert result['networks']['r18']['published'] is None
    # a weight is a byte, and a filter has a bias and a scale
    sizes = {name: row['megabytes_int8'] for name, row in result['networks'].items()}
    assert 5.0 < sizes['vargfacenet'] < 6.5  # the exported file has at most 6.5 MB


def test_the_readme_shows_the_table(run_command):
    figures = ROOT / 'docs' / 'networks.json'
    code, _, errors = run_command('info', '--table', 'markdown', '--results', figures)
    assert code == 0 and errors in (ROOT / 'README.md').read_text()


def test_the_table_on_a_terminal(run_command, speeds):
    """A subject a table, each of which fits; nothing is lost of what Markdown has."""
    code, _, errors = run_command('info', '--table', '--results', speeds)
    assert code == 0
    assert 'What networks cost (speeds: CPU time, a CPU)' in errors
    assert '4.2 (OpenVINO float32)' in errors and '90.73' in errors


def test_networks_that_a_study_trained(run_command, tmp_path):
    arm = {
        'command': 'train',
        'network': 'vargfacenet',
        'network_options': {'multiplier': 0.25, 'emb_size': 128},
        'steps': 3640,
        'images_a_step': 32,
        'measures': {'lfw TAR@0.001': {'value': 0.5, 'low': 0.42, 'high': 0.575}},
    }
    arms = {'scratch': arm, 'not run': {**arm, 'measures': {}}}
    (tmp_path / 'r.json').write_text(json.dumps({'arms': arms}))
    options = ['--study', tmp_path / 'r.json']
    code, result, errors = run_command('info', '--table', 'markdown', *options)
    assert code == 0
    header, _, row = map(cells, errors.rstrip().splitlines()[-3:])
    found = dict(zip(header, row))
    assert found['arm'] == 'scratch' and found['lfw TAR@0.001 %'] == '50.0 [42.0, 57.5]'
    assert found['MFLOPs, LFR organisers'] == '106.2'
    assert 'multiplier=0.25' in found['network; training']
    _, alone, _ = run_command('info', 'vargfacenet', '--multiplier', 0.25, '--emb-size', 128)
    assert result['trained']['scratch']['flops'] == alone['flops']
    assert list(result['trained']) == ['scratch']


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['--table', 'text', 'y1'], 'leave the network out'),
        (['--table', '--option', 'use_se=no'], 'leave the network out'),
        (['--results', 'x'], '--results belongs to --table'),
        (['--study', 'x'], '--study belongs to --table'),
        (['--table', '--results', 'x'], 'results file x does not exist'),
        (['--table', '--results', f'{DATA}/align.json'], 'is no result of `bench networks'),
        (['--table', '--study', f'{DATA}/align.json'], 'is no results.json of a study'),
    ],
)
def test_wrong_use_of_the_table(arguments, message, run_command):
    code, _, errors = run_command('info', *arguments)
    assert code == 2 and message in errors
