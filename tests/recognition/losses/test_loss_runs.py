"""Runs with the losses: what is learned, saved, gone on with and exported."""

import numpy as np
import pytest
from tiny_network import tiny_symbol
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.errors import InputError
from vargfacenet.common.history import read_history
from vargfacenet.recognition.config import bare
from vargfacenet.recognition.graph import training_module

# What a checkpoint holds beside the network; options for few classes and steps, since the papers'
# scales want more.
CENTRES = {'fc7_weight': (6, 32)}
RUNS = {
    'arcnegface': (CENTRES, ['s=16', 'm=0.1']),
    'adaface': ({**CENTRES, 'fc7_norm_mean': (1,), 'fc7_norm_deviation': (1,)}, ['s=16', 'm=0.1']),
    'magface': (CENTRES, ['s=16', 'narrow=0.1', 'wide=0.2', 'shortest=1']),
    'curricularface': ({**CENTRES, 'fc7_progress': (1,)}, ['s=16', 'm=0.1']),
    'subcenter_arcface': ({'fc7_weight': (18, 32)}, ['s=16', 'm=0.1']),
    'triplet': ({}, []),
    'cosface_small': (CENTRES, []),
    'arcface': (CENTRES, ['s=16', 'm2=0.1', 'detach=true']),
}
ADDITIONS = {'cosface_small': ['--label-smoothing', 0.1, '--regular-face', 1]}


def files(folder, number):
    return [
        (folder / f'model-{number:04d}.{suffix}').read_bytes() for suffix in ('params', 'states')
    ]


@pytest.mark.parametrize('loss', RUNS)
def test_it_learns_and_resumes_exactly_and_is_not_exported(
    loss, small_options, run_command, tmp_path
):
    own, numbers = RUNS[loss]
    words = [word for text in numbers for word in ('--loss-option', text)]
    words += [*ADDITIONS.get(loss, []), '--steps', 16, '--frequent', 1, '--verbose', 8]
    words = ['train', *small_options, '--loss', loss, *words, '--ckpt', 2]
    code, result, errors = run_command(*words)
    assert code == 0, errors
    folder = tmp_path / 'run'
    values = [row['loss'] for row in read_history(folder)]
    assert np.mean(values[-4:]) < 0.9 * np.mean(values[:4])
    network = checkpoint.load_embedding(result['model'])
    saved, _ = checkpoint.load_params(folder / 'model-0002.params')
    found = saved.keys() - set(network.symbol.list_arguments())
    assert {name: saved[name].shape for name in found} == own
    before, _ = checkpoint.load_params(folder / 'model-0001.params')
    for name in found:  # carried from step to step
        assert (saved[name] != before[name]).any()
    checkpoint.save_embedding(tmp_path / 'slim', 1, network)
    slim, _ = checkpoint.load_params(tmp_path / 'slim-0001.params')
    assert not any(name.startswith('fc7') for name in slim)
    whole = files(folder, 2)
    for path in folder.glob('model-0002.*'):
        path.unlink()
    assert run_command(*words, '--resume')[0] == 0
    assert files(folder, 2) == whole


@pytest.mark.parametrize('loss', ['adaface', 'curricularface'])
@pytest.mark.parametrize('more', [{'num_workers': 2}, {'devices': 'cpu(0),cpu(1)'}])
def test_a_state_wants_one_device_and_process(loss, more):
    devices = [mx.cpu(number) for number in range(2 if 'devices' in more else 1)]
    config = bare(loss=loss, num_classes=5, per_batch_size=4, **more)
    with pytest.raises(InputError, match=r'fc7_.* use one device'):
        training_module(tiny_symbol(), config, devices)


@pytest.mark.parametrize('loss', ['adaface', 'triplet'])
def test_it_is_the_classification_loss_of_a_distillation(
    loss, small_options, patterns, run_command, tmp_path
):
    """Beside a distillation loss that carries a state too; both are saved."""
    teacher = tmp_path / 'teacher.npz'
    random = np.random.RandomState(0)
    embeddings = {key: random.randn(48, 32).astype('f') for key in ('embeddings', 'mirrored')}
    np.savez(teacher, **embeddings, records=np.arange(48))
    words = ['--teacher', teacher, '--generations', 1, '--steps', 3, '--loss', loss]
    code, _, errors = run_command('distill', *small_options, *words, '--distill', 'ekd')
    assert code == 0, errors
    rows = read_history(tmp_path / 'run-gen1')
    assert all(np.isfinite(row['class_loss']) and row['class_loss'] > 0 for row in rows)
    saved, _ = checkpoint.load_params(tmp_path / 'run-gen1' / 'model-0001.params')
    states = {name for name in saved if name.startswith('fc7')} - {'fc7_weight'}
    own = {'fc7_norm_mean', 'fc7_norm_deviation'} if loss == 'adaface' else set()
    assert states == {'fc7_anchors', *own}


def test_frozen_centres_may_be_those_of_another_loss(small_options, run_command, tmp_path):
    """What AdaFace carries starts anew beside them; triplet has none to freeze."""
    words = ['train', *small_options, '--steps', 1]
    _, first, _ = run_command(*words)
    words += ['--name', 'second', '--pretrained', first['model'], '--freeze', 'centres']
    code, _, errors = run_command(*words, '--loss', 'adaface')
    assert code == 0, errors
    before, _ = checkpoint.load_params(tmp_path / 'run' / 'model-0001.params')
    after, _ = checkpoint.load_params(tmp_path / 'second' / 'model-0001.params')
    np.testing.assert_array_equal(after['fc7_weight'], before['fc7_weight'])
    # 1 % of the first step's deviation, which is far below 100, and 99 % of 100
    assert 99 <= after['fc7_norm_deviation'][0] < 99.5
    code, _, errors = run_command(*words, '--loss', 'triplet')
    assert code == 2 and 'triplet has no class centres to learn or to keep' in errors
