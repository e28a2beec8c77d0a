"""Checkpoint files: what is refused and what an error names."""

import pytest
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.network import Network
from vargfacenet.common.errors import InputError
from vargfacenet.symbol import get_symbol


@pytest.mark.parametrize('text', ['model', 'model,', ',1', 'model,one', ''])
def test_a_model_is_prefix_and_epoch(text):
    with pytest.raises(InputError, match='PREFIX,EPOCH'):
        checkpoint.parse_model(text)


def test_a_prefix_may_hold_commas():
    assert checkpoint.parse_model('runs/a,b/model,12') == ('runs/a,b/model', 12)


@pytest.fixture
def network():
    symbol = get_symbol('y1')
    shapes, _, aux_shapes = symbol.infer_shape(data=(1, 3, 112, 112))
    arg = {n: mx.nd.zeros(s) for n, s in zip(symbol.list_arguments(), shapes) if n != 'data'}
    aux = {n: mx.nd.zeros(s) for n, s in zip(symbol.list_auxiliary_states(), aux_shapes)}
    return symbol, arg, aux


def test_both_directions_of_a_mismatch_are_named(network):
    symbol, arg, aux = network
    checkpoint.check_match(symbol, arg, aux, 'file')
    checkpoint.check_match(symbol, {**arg, 'fc7_weight': mx.nd.zeros((5, 128))}, aux, 'file')
    arg['alien_weight'] = arg.pop('pre_fc1_weight')
    arg['fc1_beta'] = mx.nd.zeros(64)
    with pytest.raises(InputError) as caught:
        checkpoint.check_match(symbol, arg, aux, 'file')
    message = str(caught.value)
    assert '1 only in the network: pre_fc1_weight' in message
    assert '1 only in the file: alien_weight' in message
    assert 'fc1_beta ((64,) in the file, (128,) in the network)' in message


def test_files_that_are_no_parameters(network, tmp_path):
    _, arg, aux = network
    path = checkpoint.params_path(tmp_path / 'model', 1)
    with pytest.raises(InputError, match='does not exist'):
        checkpoint.load_params(path)
    checkpoint.save_params(path, arg, aux)
    content = path.read_bytes()
    for damaged in (b'', content[:100], content[: len(content) // 2], content[:-1], b'x' * 5000):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=str(path)):
            checkpoint.load_params(path)
    mx.nd.save(str(path), {'pre_fc1_weight': mx.nd.zeros(3)})
    with pytest.raises(InputError, match='arg:'):
        checkpoint.load_params(path)


def test_a_symbol_without_the_embedding_output(tmp_path):
    symbol = mx.sym.FullyConnected(mx.sym.Variable('data'), num_hidden=3, name='other')
    with pytest.raises(InputError, match='fc1_output'):
        checkpoint.embedding_symbol(symbol)
    (tmp_path / 'model-symbol.json').write_text('{"nodes": [')
    with pytest.raises(InputError, match='no symbol that MXNet reads'):
        checkpoint.load_embedding(f'{tmp_path}/model,1')


@pytest.mark.parametrize('ending', ['-0000.params', '-0000.json', '-symbol.json', '-0003.params'])
def test_what_appears_while_a_network_is_made_stays(ending, network, tmp_path):
    """Behind the check that a command begins with, before it writes."""
    prefix = tmp_path / 'model'
    checkpoint.check_free(prefix, overwrite=False)
    meanwhile = tmp_path / f'model{ending}'
    meanwhile.write_bytes(b"another command's")
    with pytest.raises(InputError, match=r'is there already|has other checkpoints'):
        checkpoint.save_alone(prefix, Network(*network), overwrite=False)
    assert meanwhile.read_bytes() == b"another command's"
    assert [path.name for path in tmp_path.iterdir() if 'model' in path.name] == [meanwhile.name]
    meanwhile.unlink()
    checkpoint.save_alone(prefix, Network(*network), overwrite=False)
    assert checkpoint.load_embedding(f'{prefix},0').arg_params
