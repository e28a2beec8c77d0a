"""The command `convert`: PyTorch files of other people's networks, and ours for PyTorch."""

import json
import re
import zlib

import numpy as np
import pytest
import torch_reference
from conftest import DATA
from tiny_network import embed_on_stock_graph, reference_params
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.network import Network
from vargfacenet.common.engine.torch_file import read_states, write_state
from vargfacenet.common.errors import InputError
from vargfacenet.symbol import get_symbol

# outputs of arcface_torch's networks in PyTorch, in float64
TORCH = json.loads((DATA / 'torch_networks.json').read_text())


def golden(name):
    return json.loads((DATA / f'net_{name}.json').read_text())


def mixfacenet_pixels():
    """The golden input, (pixel - 127.5) / 127.5 there, as (N, H, W, 3)."""
    blocks = np.random.RandomState(12345).uniform(-1, 1, (2, 3, 14, 14))
    pixels = np.kron(blocks, np.ones((8, 8))) * 127.5 + 127.5
    return pixels.astype(np.float32).transpose(0, 2, 3, 1)


def random_pixels():
    pixels = np.random.RandomState(1).randint(0, 256, (2, 3, 112, 112))
    return pixels.astype(np.float32).transpose(0, 2, 3, 1)


def torch_values(keys):
    """key -> array that depends on the key, as torch_networks.json was made."""
    values = {}
    prelus = [key for key, shape in keys if key.endswith('.weight') and len(shape) == 1]
    norms = {key.rpartition('.')[0] for key, _ in keys if key.endswith('.running_var')}
    for key, shape in keys:
        random = np.random.RandomState(zlib.crc32(key.encode()) & 0xFFFFFFFF)
        module, _, kind = key.rpartition('.')
        if kind == 'running_var':
            value = 0.5 + random.rand(*shape)
        elif kind in ('bias', 'running_mean'):
            value = 0.1 * random.randn(*shape)
        elif key in prelus:
            value = (0.5 if module in norms else 0.25) + 0.1 * random.randn(*shape)
        else:
            value = random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
        values[key] = value.astype(np.float32)
    return values


def relative_error(found, expected):
    return np.abs(found - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize('name', ['mixfacenet_xs', 'shufflemixfacenet_xs', 'mixfacenet_m'])
def test_a_file_of_the_mixfacenet_authors(name, run_command, tmp_path):
    expected = golden(name)
    values = torch_reference.state_dict(expected['layers'])
    state = {f'module.{key}': value.astype(np.float32) for key, value in values.items()}
    write_state(tmp_path / 'x.pth', state)
    code, result, _ = run_command(
        'convert', tmp_path / 'x.pth', '--network', name, '--out', tmp_path / 'new' / 'model'
    )
    assert code == 0
    assert result['params'] == expected['params']
    network = checkpoint.load_embedding(result['model'])
    found = embed_on_stock_graph(*network, mixfacenet_pixels())
    assert relative_error(found, np.array(expected['embedding'])) <= 1e-5
    # and back: the same tensors
    code, result, _ = run_command('convert', result['model'], '--to', tmp_path / 'back.pth')
    assert code == 0
    (back,) = read_states(tmp_path / 'back.pth').values()
    assert back.keys() == values.keys()
    for key, value in values.items():
        np.testing.assert_allclose(back[key].array(), value, rtol=1e-6, err_msg=key)


def test_a_gamma_that_is_fixed_here(run_command, tmp_path):
    """The embedding is that with gamma: each value minus beta times gamma."""
    name = 'mixfacenet_xs'
    expected = golden(name)
    values = torch_reference.state_dict(expected['layers'])
    gamma = np.linspace(-2, 3, 512)
    values['features_norm.weight'] = gamma
    state = {key: value.astype(np.float32) for key, value in values.items()}
    write_state(tmp_path / 'x.pth', state)
    code, result, _ = run_command(
        'convert', tmp_path / 'x.pth', '--network', name, '--out', tmp_path / 'model'
    )
    assert code == 0
    found = embed_on_stock_graph(*checkpoint.load_embedding(result['model']), mixfacenet_pixels())
    beta = values['features_norm.bias']
    embedding = (np.array(expected['embedding']) - beta) * gamma + beta
    assert relative_error(found, embedding) <= 1e-5


@pytest.mark.parametrize(
    'name',
    ['mobilefacenet_1', 'mobilefacenet_2', pytest.param('iresnet18', marks=pytest.mark.slow)],
)
def test_a_file_of_arcface_torch(name, run_command, tmp_path):
    """Other epsilons, another scale of the input, a gamma of the embedding that is not 1."""
    reference = TORCH[name]
    values = torch_values(reference['keys'])
    write_state(tmp_path / 'x.pth', values)
    network = reference['network']
    code, result, _ = run_command(
        'convert', tmp_path / 'x.pth', '--network', network, '--out', tmp_path / 'model'
    )
    assert code == 0
    converted = checkpoint.load_embedding(result['model'])
    found = embed_on_stock_graph(*converted, random_pixels())
    expected = np.array(reference['embedding'])
    assert relative_error(found[:, : expected.shape[1]], expected) <= 1e-5
    # back, and here again: the same function
    assert run_command('convert', result['model'], '--to', tmp_path / 'back.pth')[0] == 0
    (back,) = read_states(tmp_path / 'back.pth').values()
    assert {key: list(tensor.shape) for key, tensor in back.items()} == dict(reference['keys'])
    code, result, _ = run_command(
        'convert', tmp_path / 'back.pth', '--network', network, '--out', tmp_path / 'again'
    )
    again = embed_on_stock_graph(*checkpoint.load_embedding(result['model']), random_pixels())
    assert relative_error(again, found) <= 1e-5


def test_a_trained_bias_goes_where_the_other_network_has_a_place(run_command, tmp_path, rng):
    """y1 has a bias before its last batch norm, arcface_torch's MobileFaceNet none."""
    symbol = get_symbol('y1', emb_size=16)
    network = Network(symbol, *reference_params(symbol))
    assert network.arg_params['pre_fc1_bias'].asnumpy().all()
    checkpoint.save_embedding(tmp_path / 'ours', 2, network)
    code, result, _ = run_command('convert', f'{tmp_path}/ours,2', '--to', tmp_path / 'x.pth')
    assert code == 0 and result['network'] == 'y1'
    code, result, _ = run_command(
        'convert', tmp_path / 'x.pth', '--network', 'y1', '--out', tmp_path / 'back'
    )
    images = rng.randint(0, 256, (2, 112, 112, 3), np.uint8)
    expected = embed_on_stock_graph(*network, images)
    found = embed_on_stock_graph(*checkpoint.load_embedding(result['model']), images)
    assert relative_error(found, expected) <= 1e-5


def test_a_model_is_not_replaced_unasked(run_command, tmp_path):
    symbol = get_symbol('y1', emb_size=16)
    network = Network(symbol, *reference_params(symbol))
    checkpoint.save_embedding(tmp_path / 'ours', 2, network)
    out = ('--to', tmp_path / 'x.pth')
    assert run_command('convert', f'{tmp_path}/ours,2', *out)[0] == 0
    code, _, errors = run_command('convert', f'{tmp_path}/ours,2', *out)
    assert code == 2 and 'x.pth is there already' in errors
    assert run_command('convert', f'{tmp_path}/ours,2', *out, '--overwrite')[0] == 0
    before = (tmp_path / 'ours-symbol.json').read_bytes()
    options = ('--network', 'y1', '--out', tmp_path / 'ours')
    code, _, errors = run_command('convert', tmp_path / 'x.pth', *options)
    assert code == 2 and 'ours-symbol.json is there already' in errors
    assert (tmp_path / 'ours-symbol.json').read_bytes() == before
    assert not (tmp_path / 'ours-0000.params').exists()
    # nor at all where other checkpoints share the symbol, as those of a training run
    code, _, errors = run_command('convert', tmp_path / 'x.pth', *options, '--overwrite')
    assert code == 2 and 'ours has other checkpoints (the newest: 2)' in errors
    assert (tmp_path / 'ours-symbol.json').read_bytes() == before
    assert not (tmp_path / 'ours-0000.params').exists()


@pytest.mark.parametrize('name', ['vargfacenet', 'r18_se'])
def test_a_network_without_another_implementation_keeps_its_names(name, run_command, tmp_path):
    options = {'multiplier': 0.25} if name == 'vargfacenet' else {'width': 0.125}
    symbol = get_symbol(name, emb_size=16, **options)
    network = Network(symbol, *reference_params(symbol))
    checkpoint.save_embedding(tmp_path / 'ours', 0, network)
    code, result, errors = run_command('convert', f'{tmp_path}/ours,0', '--to', tmp_path / 'x.pth')
    assert code == 0 and result['network'] == '' and 'keys of our own' in errors
    words = [f'--option={key}={value}' for key, value in {'emb_size': 16, **options}.items()]
    arguments = ('--network', name, *words, '--out', tmp_path / 'back')
    code, result, _ = run_command('convert', tmp_path / 'x.pth', *arguments)
    assert code == 0
    back = checkpoint.load_embedding(result['model']).in_mxnet()
    assert back.symbol.tojson() == symbol.tojson()
    for key, value in network.params.items():
        # the ResNet's last gamma is fixed at 1, whatever its array holds
        expected = 1 if key == 'fc1_gamma' and name == 'r18_se' else value.asnumpy()
        np.testing.assert_array_equal(back.params[key].asnumpy(), expected)
    symbol_file = tmp_path / 'back-symbol.json'
    symbol_file.write_text(symbol_file.read_text().replace('"0.001"', '"0.009"', 1) + ' ')
    with pytest.raises(InputError, match=r'back-symbol\.json was changed or damaged'):
        checkpoint.load_embedding(result['model'])


def authors_state():
    return torch_reference.state_dict(golden('mixfacenet_xs')['layers'])


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda state: state.pop('tail.conv.weight'), '1 only in the network: tail.conv.weight'),
        (
            lambda state: state.update({'tail.conv2.weight': np.zeros(3)}),
            '1 only in the file: tail.conv2.weight',
        ),
        (
            lambda state: state.update({'tail.bn.bias': np.zeros(7)}),
            r'1 of another shape: tail.bn.bias \(\(7,\) in the file, \(512,\) in the network\)',
        ),
        (
            lambda state: state.update({'tail.bn.bias': np.full(512, np.nan)}),
            'tail.bn.bias has values that are not finite',
        ),
        (lambda state: state.clear() or state.update(a=np.ones(3)), 'does not hold network'),
    ],
)
def test_a_file_of_another_network(change, message, run_command, tmp_path):
    state = authors_state()
    change(state)
    state = {key: np.asarray(value, np.float32) for key, value in state.items()}
    write_state(tmp_path / 'x.pth', state)
    arguments = ('--network', 'mixfacenet_xs', '--out', tmp_path / 'out' / 'model')
    code, _, errors = run_command('convert', tmp_path / 'x.pth', *arguments)
    assert code == 2 and len(errors.splitlines()) == 1
    assert re.search(message, errors)
    assert not (tmp_path / 'out').exists()


def test_what_is_left_out_is_said(run_command, tmp_path):
    state = {f'module.{key}': value for key, value in authors_state().items()}
    state.update({'module.tail.bn.num_batches_tracked': np.array(3)})
    state.update({'module.classifier.weight': np.zeros((5, 512)), 'step': np.zeros(1)})
    dtypes = {True: np.int64, False: np.float32}
    write_state(
        tmp_path / 'x.pth',
        {key: np.asarray(value, dtypes['tracked' in key]) for key, value in state.items()},
    )
    code, _, errors = run_command(
        'convert', tmp_path / 'x.pth', '--network', 'mixfacenet_xs', '--out', tmp_path / 'model'
    )
    assert code == 0
    assert '1 tensors are no part of mixfacenet_xs and left out: classifier.weight' in errors
    assert '1 tensors outside of' in errors


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        (['x.pth', '--network', 'mixfacenet_xs'], 'one of the arguments --out --to is required'),
        (['x.pth', '--out', 'm'], '--out needs --network, the network of the file: mixfacenet_m'),
        (['x.pth', '--network', 'mixfacenet_xl', '--out', 'm'], "mean 'mixfacenet_xs'"),
        (['x.pth', '--network', 'r18', '--out', 'm'], 'PyTorch file x.pth does not exist'),
        (['x.pth', '--network', 'r18', '--option', 'widht=2', '--out', 'm'], "mean 'width'"),
        (['x.pth', '--network', 'r18', '--to', 'y.pth'], 'belong to --out'),
        (['x.pth', '--to', 'y.pth'], 'expected PREFIX,EPOCH'),
        (['x,3', '--to', 'y.pth'], 'x-symbol.json does not exist'),
    ],
)
def test_wrong_usage(arguments, message, run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run_command('convert', *arguments)
    assert code == 2 and message in errors
    assert not list(tmp_path.iterdir())
