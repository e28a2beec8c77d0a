"""Checkpoints on disk: which one a run goes on with when files are damaged."""

import json
from dataclasses import replace

import numpy as np
import pytest
from fuzz.readers import _RUN
from vargfacenet.common.engine.params_file import write_arrays
from vargfacenet.common.errors import InputError
from vargfacenet.recognition import run_state
from vargfacenet.recognition.config import TrainConfig
from vargfacenet.recognition.run_state import TrainState, load_state, newest_state, save_state


@pytest.fixture
def saved(tmp_path):
    """Configuration of a run with the checkpoints 1, 2 and 3."""
    config = TrainConfig.from_json(json.dumps(json.loads(_RUN)['config']))
    config = replace(config, models_root=str(tmp_path), name='run')
    config.run_folder.mkdir()
    (config.run_folder / 'model-symbol.json').write_text('{"nodes": []}')
    for number in (1, 2, 3):
        arrays = {'arg:a': np.full(5, number, np.float32)}
        write_arrays(f'{config.prefix}-{number:04d}.params', arrays)
        state = TrainState(step=10 * number, number=number)
        save_state(config.prefix, config, state, {0: np.full(5, number, np.float32)})
    return config


def flip(path, position):
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize('suffix', ['params', 'states', 'json'])
def test_a_damaged_checkpoint_is_named_and_the_last_whole_one_taken(saved, suffix, monkeypatch):
    warned = []
    monkeypatch.setattr(run_state.log, 'warning', lambda form, *args: warned.append(form % args))
    assert newest_state(saved)[1].number == 3 and not warned
    path = saved.run_folder / f'model-0003.{suffix}'
    content = path.read_bytes()
    for position in range(0, len(content), max(len(content) // 200, 1)):
        path.write_bytes(content)
        flip(path, position)
        assert newest_state(saved)[1].number == 2
        assert str(path) in warned.pop() and not warned
    path.write_bytes(content)
    assert newest_state(saved)[1].number == 3


def test_none_is_whole(saved):
    for path in saved.run_folder.glob('*.states'):
        path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r'model-0003\.states'):
        newest_state(saved)


def test_processes_may_be_others_where_the_images_a_step_are_as_many(saved):
    """8 images of one process as 2 of 4; 2 of 8 only if that is asked for, with the same steps."""
    half = replace(saved, num_workers=2, per_batch_size=4, kvstore='horovod', total_steps=99)
    found, state = newest_state(half)
    assert (found, state.number) == (half, 3)
    double = replace(half, per_batch_size=8)
    with pytest.raises(InputError, match='would have 16 images, not 8: --global'):
        newest_state(double)
    found, _ = newest_state(double, batch_may_change=True)
    assert found == replace(double, total_steps=saved.total_steps, warmup_steps=saved.warmup_steps)
    # resumed and saved once with that batch, and resumed by the same command again
    for number in (4, 5):
        write_arrays(f'{found.prefix}-{number:04d}.params', {'arg:a': np.zeros(5, np.float32)})
        state = TrainState(step=10 * number, number=number)
        save_state(found.prefix, found, state, {0: np.zeros(5, np.float32)})
        again, state = newest_state(double, batch_may_change=True)
        assert (again, state.number) == (found, number)
    with pytest.raises(InputError, match='seed 5, saved'):
        newest_state(replace(double, seed=5), batch_may_change=True)


def test_a_changed_state_is_to_be_removed(saved):
    """It cannot be made again as a result can."""
    path = run_state.state_path(saved.prefix, 1)
    path.write_text(path.read_text().replace('"step": 10', '"step": 11'))
    with pytest.raises(InputError, match=r'does not agree; remove it, or take out its line'):
        load_state(saved.prefix, 1)


def test_states_without_a_checksum_are_read(saved):
    path = run_state.state_path(saved.prefix, 1)
    content = json.loads(path.read_text())
    del content['crc32']
    path.write_text(json.dumps(content))
    assert load_state(saved.prefix, 1)[1].step == 10
