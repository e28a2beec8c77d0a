"""--precision bfloat16: refused where the CPU lacks it, and the same run wherever it goes."""

import json

import numpy as np
import pytest
from saved_weights import assert_same_weights, weights
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops
from vargfacenet.common.history import read_history
from vargfacenet.recognition import configure
from vargfacenet.recognition.config import TrainConfig
from vargfacenet.recognition.run_state import load_state, remove_checkpoint

needs_compiler = pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')
BFLOAT16 = ('--precision', 'bfloat16')


@pytest.fixture
def anywhere(monkeypatch):
    """The same arithmetic on a CPU that has no instructions for it: what a command would refuse."""
    monkeypatch.setattr(configure, 'lacks_bfloat16', lambda: '')


@pytest.mark.skipif(not ops.lacks_bfloat16(), reason='this CPU has AVX512_BF16')
@pytest.mark.parametrize('command', ['train', 'distill', 'bench'])
def test_a_cpu_without_it_is_named(command, small_options, run_command, tmp_path):
    words = {
        'train': small_options,
        'distill': [*small_options, '--teacher', tmp_path / 'never_read.onnx'],
        'bench': ['train'],
    }
    code, _, errors = run_command(command, *words[command], *BFLOAT16)
    assert code == 2 and errors.count('\n') == 1
    assert ops.lacks_bfloat16() in errors
    assert 'bfloat16' in errors and 'leave it out to train in float32' in errors
    assert not (tmp_path / 'run').exists()


def test_gpus_and_other_words_are_refused(small_options, run_command, monkeypatch):
    code, _, errors = run_command('train', *small_options, '--precision', 'float16')
    assert code == 2 and 'float32' in errors and 'bfloat16' in errors
    monkeypatch.setattr(configure, 'parse_devices', lambda text: [mx.gpu(0)])
    code, _, errors = run_command('train', *small_options, *BFLOAT16, '--devices', 'gpu:0')
    assert code == 2 and 'it is for the CPU, not gpu:0' in errors and errors.count('\n') == 1


@needs_compiler
@pytest.mark.usefixtures('anywhere')
def test_learns_as_in_float32(small_options, run_command, tmp_path):
    options = [*small_options, '--steps', 40, '--frequent', 1, '--target', '', '--ckpt', 1]
    losses = {}
    for precision in ('float32', 'bfloat16'):
        words = ['--precision', precision, '--name', precision]
        code, _, errors = run_command('train', *options, *words)
        assert code == 0
        assert ('of the multiply-adds' in errors) == (precision == 'bfloat16')
        rows = read_history(tmp_path / precision)
        losses[precision] = np.array([row['loss'] for row in rows if 'loss' in row])
    assert losses['bfloat16'][-4:].mean() < 0.7 * losses['bfloat16'][:4].mean()
    # the first is of the same weights: products that are rounded by up to 2**-8, no more, no less
    assert 1e-6 < abs(losses['bfloat16'][0] / losses['float32'][0] - 1) < 0.01
    one, other = (weights(tmp_path / name / 'model', 1) for name in losses)
    assert one.keys() == other.keys()
    assert {value.dtype for value in other.values()} == {np.dtype('float32')}
    symbols = [(tmp_path / name / 'model-symbol.json').read_text() for name in losses]
    assert symbols[0] == symbols[1]


@needs_compiler
@pytest.mark.usefixtures('anywhere')
def test_resumed_ends_with_the_same_weights_and_in_no_other_precision(
    small_options, run_command, tmp_path
):
    options = [*small_options, '--steps', 6, '--verbose', 3, '--ckpt', 2, '--target', '']
    assert run_command('train', *options, *BFLOAT16)[0] == 0
    prefix = tmp_path / 'run' / 'model'
    whole = weights(prefix, 2)
    remove_checkpoint(prefix, 2)
    code, _, errors = run_command('train', *options, '--resume')
    assert code == 2 and "precision 'float32', saved 'bfloat16'" in errors
    assert run_command('train', *options, *BFLOAT16, '--resume')[0] == 0
    assert_same_weights(weights(prefix, 2), whole)
    assert load_state(prefix, 2)[0].precision == 'bfloat16'


def test_runs_from_before_the_option_were_of_float32(small_options, run_command, tmp_path):
    options = [*small_options, '--steps', 1, '--target', '']
    assert run_command('train', *options)[0] == 0
    config, _ = load_state(tmp_path / 'run' / 'model', 1)
    values = json.loads(config.to_json())
    del values['precision']
    assert TrainConfig.from_json(json.dumps(values)) == config
