"""The slim export: embedding only, the same numbers, what MXNet itself loads."""

import numpy as np
import pytest
from vargfacenet.common import checkpoint
from vargfacenet.common.backend import mx
from vargfacenet.symbol import get_symbol


@pytest.fixture
def trained(tmp_path, rng):
    """A checkpoint of a small network with a classifier, as training leaves it."""
    symbol = get_symbol('vargfacenet', multiplier=0.25, emb_size=32)
    shapes, _, aux_shapes = symbol.infer_shape(data=(1, 3, 112, 112))
    arrays = dict(zip(symbol.list_arguments(), shapes))
    arrays.pop('data')
    arg = {name: mx.nd.array(0.1 * rng.randn(*shape)) for name, shape in arrays.items()}
    arg['fc7_weight'] = mx.nd.array(rng.randn(7, 32))
    aux = {
        name: mx.nd.array(0.5 + rng.rand(*shape))
        for name, shape in zip(symbol.list_auxiliary_states(), aux_shapes)
    }
    checkpoint.save_symbol(tmp_path / 'model', symbol)
    checkpoint.save_params(checkpoint.params_path(tmp_path / 'model', 3), arg, aux)
    return f'{tmp_path}/model,3'


def test_the_export_holds_the_embedding_alone(trained, run_command, tmp_path):
    code, result, _ = run_command('export', '--model', trained, '--out', tmp_path / 'slim')
    assert code == 0
    # loaded with MXNet's own function, as InsightFace's tools do
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(tmp_path / 'slim' / 'model'), 0)
    assert symbol.list_outputs() == ['fc1_output']
    assert set(arg_params) == set(symbol.list_arguments()) - {'data'}
    assert set(aux_params) == set(symbol.list_auxiliary_states())
    _, full_args, _ = checkpoint.load_embedding(trained)
    for name, value in arg_params.items():
        np.testing.assert_array_equal(value.asnumpy(), full_args[name].asnumpy())
    count = sum(value.size for value in arg_params.values())
    assert result['params'] == count
    # float32 weights and little else
    assert 4 * count < result['bytes'] < 4 * count + 200 * (len(arg_params) + len(aux_params))


@pytest.mark.parametrize('damage, message', [('missing', 'does not exist'), ('cut', 'no whole')])
def test_a_damaged_checkpoint_leaves_nothing_behind(
    damage, message, trained, run_command, tmp_path
):
    path = tmp_path / 'model-0003.params'
    if damage == 'missing':
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:5000])
    code, _, errors = run_command('export', '--model', trained, '--out', tmp_path / 'slim')
    assert code == 2
    assert message in errors and str(path) in errors
    assert not (tmp_path / 'slim').exists()
