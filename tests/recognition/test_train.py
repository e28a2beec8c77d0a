"""The training command: learning, resuming after a kill, stopping, refusing."""

import contextlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import DATA, registered_for_now
from pictures import corrupted, encoded, picture
from saved_weights import assert_same_weights, weights
from vargfacenet.common.backend import mx
from vargfacenet.common.checked_json import write_checked
from vargfacenet.common.checksums import CHECKSUMS
from vargfacenet.common.console import Parser
from vargfacenet.common.data.pair_sets import read_pairs, write_pairs
from vargfacenet.common.data.recordio import RecordFile, write_face_records
from vargfacenet.common.data.records import open_records
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.model_name import parse_model
from vargfacenet.common.errors import InputError
from vargfacenet.common.history import read_history
from vargfacenet.recognition import hooks
from vargfacenet.recognition.config import add_arguments
from vargfacenet.recognition.configure import resolve
from vargfacenet.recognition.curves import plot_curves
from vargfacenet.recognition.data import FaceRecordIter, epoch_order
from vargfacenet.recognition.graph import training_module
from vargfacenet.recognition.run_state import checkpoint_numbers, load_state
from vargfacenet.recognition.schedules import SCHEDULES
from vargfacenet.recognition.trainer import initializer
from vargfacenet.symbol import get_symbol

from tests.recognition.conftest import SMALL_NETWORK

PACED = DATA / 'paced_schedules.py'


def start(*options, **environment) -> subprocess.Popen:
    """The training command in a process of its own, which knows the small network and the paced
    schedules as well."""
    plugins = {'VARGFACENET_PLUGINS': f'{SMALL_NETWORK}:{PACED}', 'CURVES': 'none'}
    command = [sys.executable, '-m', 'vargfacenet', 'train', *map(str, options)]
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, **plugins, **environment},
    )


def wait_for(path: Path, process: subprocess.Popen, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not path.exists() or not path.stat().st_size:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline, f'{path} did not appear'
        time.sleep(0.005)


@pytest.fixture
def go(tmp_path, monkeypatch):
    """File without which runs of --lr-mode held do not go on from their middle."""
    path = tmp_path / 'go'
    monkeypatch.setenv('HELD_UNTIL', str(path))
    with registered_for_now(SCHEDULES):
        runpy.run_path(str(PACED))
        yield path


def assert_finite(values: dict) -> None:
    for name, value in values.items():
        assert np.isfinite(value).all(), name


def test_learns_and_reports(options, run_command, tmp_path, monkeypatch):
    monkeypatch.setattr(hooks, 'plot_curves', plot_curves)  # whatever other tests have drawn
    code, result, _ = run_command(
        'train', *options, '--steps', 32, '--verbose', 16, '--target', 'pairs'
    )
    assert code == 0
    assert result['steps'] == 32
    rows = read_history(tmp_path / 'run')
    losses = {row['step']: row['loss'] for row in rows if 'loss' in row}
    assert list(losses) == list(range(4, 33, 4))
    assert losses[32] < 0.7 * losses[4]
    assert set(rows[0]) == {'step', 'loss', 'accuracy', 'learning_rate', 'images_per_second'}
    assert [row['step'] for row in rows if 'pairs_accuracy' in row] == [16, 32]
    assert result['targets']['pairs']['accuracy'] > 0.5
    assert list((tmp_path / 'run' / 'mxboard').glob('events*'))
    assert cv2.imread(str(tmp_path / 'run' / 'curves.png')).std() > 5  # something is drawn
    config, state = load_state(
        tmp_path / 'run' / 'model', checkpoint_numbers(tmp_path / 'run' / 'model')[-1]
    )
    assert state.step == 32
    assert config.network_options == {'multiplier': 0.25, 'emb_size': 32, 'bn_mom': 0.5}
    told = run_command('info', result['model'])[1]['training']
    assert told['total_steps'] == 32
    assert not {'teacher', 'distill', 'alpha'} & told.keys()  # nobody taught it


def test_a_folder_of_people_trains_to_the_very_weights_of_its_record_file(
    small_options, patterns, run_command, tmp_path
):
    """The same order, the same classes."""
    records = RecordFile(patterns / 'train')
    for position in range(len(records)):
        label, encoded = records.read(position)
        path = tmp_path / 'people' / f'p{label}' / f'{position:04d}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded)
    options = [*small_options, '--target', '', '--steps', 4]
    assert run_command('train', *options)[0] == 0
    folder = [*options, '--data-dir', tmp_path / 'people', '--name', 'folder']
    assert run_command('train', *folder, '--ckpt', 1)[0] == 0
    expected = weights(tmp_path / 'run' / 'model', 1)
    assert_same_weights(weights(tmp_path / 'folder' / 'model', 1), expected)
    names = (tmp_path / 'folder' / 'classes.txt').read_text().split()
    assert names == [f'p{number}' for number in range(6)]
    assert not (tmp_path / 'run' / 'classes.txt').exists()  # that .rec does not tell


def test_pictures_without_labels_are_refused_by_a_classification(options, run_command, tmp_path):
    (tmp_path / 'crops').mkdir()
    for number in range(8):
        (tmp_path / 'crops' / f'{number}.jpg').write_bytes(b'never decoded')
    code, _, errors = run_command('train', *options, '--data-dir', tmp_path / 'crops')
    assert code == 2 and 'holds no classes' in errors and errors.count('\n') == 1


def test_killed_and_resumed_ends_with_the_same_weights(small_options, tmp_path, go):
    """SIGKILL between two checkpoints; the network has dropout, the data are shuffled and
    mirrored, the learning rate changes at every step. Two threads share the work of each."""
    shared = {'OMP_NUM_THREADS': '2'}
    options = [*small_options, '--network-option', 'dropout=0.4', '--steps', 60, '--verbose', 20]
    options += ['--lr-mode', 'held', '--warmup-steps', 0]
    killed = start(*options, '--name', 'killed', **shared)
    prefix = tmp_path / 'killed' / 'model'
    wait_for(Path(f'{prefix}-0001.json'), killed)
    killed.kill()
    killed.wait()
    go.touch()
    whole = start(*options, '--name', 'whole', **shared)
    _, errors = whole.communicate()
    assert whole.returncode == 0, errors
    _, state = load_state(prefix, checkpoint_numbers(prefix)[-1])
    assert state.step == 20
    resumed = start(*options, '--name', 'killed', '--resume', CURVES='drawn', **shared)
    _, errors = resumed.communicate()
    assert resumed.returncode == 0, errors
    assert (tmp_path / 'killed' / 'curves.png').stat().st_size
    assert_same_weights(weights(tmp_path / 'whole' / 'model', 3), weights(prefix, 3))
    steps = [row['step'] for row in read_history(tmp_path / 'killed')]
    assert steps == sorted(set(steps))


def test_interrupt_saves_and_resume_goes_on(small_options, run_command, tmp_path, go):
    """Ctrl-C between two checkpoints, then the same command again: the weights of a whole run."""
    options = [*small_options, '--steps', 20, '--frequent', 1, '--verbose', 20]
    options += ['--lr-mode', 'held', '--warmup-steps', 0]
    process = start(*options)
    wait_for(tmp_path / 'run' / 'history.jsonl', process)  # behind the first step
    os.killpg(process.pid, signal.SIGINT)
    go.touch()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert 'go on with --resume' in errors
    assert 'Traceback' not in errors
    _, state = load_state(tmp_path / 'run' / 'model', 1)
    assert 0 < state.step <= 10
    assert state.seconds > 0
    assert run_command('train', *options, '--resume')[0] == 0
    assert run_command('train', *options, '--name', 'whole')[0] == 0
    resumed = weights(tmp_path / 'run' / 'model', 2)
    assert_same_weights(resumed, weights(tmp_path / 'whole' / 'model', 1))


def test_a_bad_record_stops_a_run_saved_and_may_be_left_out(
    small_options, patterns, run_command, tmp_path
):
    """What a stopped run goes on to is what a whole one that leaves the record out gives."""
    order = epoch_order(48, 0, 0)
    bad = int(order[8 * 3 + 2]) + 1  # in the fourth batch of the first epoch
    folder = corrupted(patterns, tmp_path / 'bad', [bad])
    options = [*small_options, '--data-dir', folder, '--target', '', '--seed', 0]
    code, _, errors = run_command('train', *options)
    line = errors.strip().splitlines()[-1]
    assert code == 2 and f'train.rec record {bad}' in line
    assert line.count('--skip-corrupt N leaves') == 1
    _, state = load_state(tmp_path / 'run' / 'model', 1)
    assert state.step == 3 and state.seconds > 0
    code, _, errors = run_command('train', *options, '--resume')
    assert code == 2 and checkpoint_numbers(tmp_path / 'run' / 'model') == [1]
    code, _, errors = run_command('train', *options, '--resume', '--skip-corrupt', 1)
    assert code == 0 and 'left out, 1 of at most 1' in errors
    assert run_command('train', *options, '--name', 'whole', '--skip-corrupt', 1)[0] == 0
    resumed = weights(tmp_path / 'run' / 'model', 2)
    assert_same_weights(resumed, weights(tmp_path / 'whole' / 'model', 1))


def test_few_people_a_step_are_said_where_the_learning_rate_is_for_more(small_options, run_command):
    """Of 8 pictures of 2 people or a few more; a loss without class centres learns from such."""
    words = [*small_options, '--steps', 1, '--target', '', '--overwrite']
    for more, warned in (
        (['--shuffle', 'people'], True),
        (['--shuffle', 'people', '--lr', 0.005], False),
        (['--shuffle', 'people', '--loss', 'triplet'], False),
        ([], False),
    ):
        code, _, errors = run_command('train', *words, *more)
        assert code == 0 and ('of one person move class centres' in errors) == warned, errors
    assert 'Try --lr' not in errors


def test_non_finite_loss_stops_and_keeps_the_last_checkpoint(small_options, run_command, tmp_path):
    """The learning rate jumps to 1e30 behind the checkpoint of step 4: float32 overflows."""
    wild = [*small_options, '--steps', 100, '--verbose', 4, '--loss', 'softmax']
    jump = tmp_path / 'jump.py'
    jump.write_text('default = dict(lr_mode="step", lr_steps=(5,), lr_factor=1e30)')
    code, _, errors = run_command('train', *wild, '--config', jump, '--warmup-steps', 0)
    assert code == 1
    line = errors.strip().splitlines()[-1]
    assert 'Traceback' not in errors
    step = int(line.split('not finite at step ')[1].split()[0])
    assert 5 < step <= 8  # within one interval of four steps
    assert line.count(f'last good checkpoint: {tmp_path}/run/model,1')
    assert checkpoint_numbers(tmp_path / 'run' / 'model') == [1]
    assert_finite(weights(tmp_path / 'run' / 'model', 1))
    _, state = load_state(tmp_path / 'run' / 'model', 1)
    assert state.step == 4


def test_a_learning_rate_that_leaves_float32_on_its_way(small_options, run_command, tmp_path):
    steps = [*small_options, '--steps', 100, '--lr-mode', 'step', '--lr-steps', '5,10']
    wild = tmp_path / 'wild.py'
    wild.write_text('default = dict(lr_factor=1e30)')
    code, _, errors = run_command('train', *steps, '--config', wild)
    assert code == 2 and 'at each of 2 --lr-steps is 5e+58, which float32 does not' in errors
    assert not (tmp_path / 'run').exists()


def test_arcface_from_scratch_at_learning_rate_01(options, run_command, tmp_path):
    """The originals' best-known failure (issue 5 there): no warm-up, ArcFace, lr 0.1."""
    code, result, _ = run_command(
        'train', *options, '--lr', 0.1, '--warmup-steps', 0, '--steps', 40, '--loss', 'arcface'
    )
    assert code == 0
    losses = [row['loss'] for row in read_history(tmp_path / 'run') if 'loss' in row]
    assert np.isfinite(losses).all()
    assert losses[-1] < losses[0]
    assert all(
        np.isfinite(value).all()
        for value in weights(
            *result['model'].rsplit(',', 1)[:1], int(result['model'].rsplit(',', 1)[1])
        ).values()
    )


@pytest.mark.parametrize('ckpt, kept', [(0, []), (1, [3]), (2, [1, 2, 3])])
def test_which_checkpoints_are_kept(ckpt, kept, small_options, run_command, tmp_path):
    code, result, _ = run_command(
        'train', *small_options, '--ckpt', ckpt, '--verbose', 4, '--target', 'pairs'
    )
    assert code == 0
    assert checkpoint_numbers(tmp_path / 'run' / 'model') == kept
    for model in (result['model'], result['best_model']):
        assert (model is None) == (not kept)
        if model:
            checkpoint.load_embedding(model)  # what is named is there


def test_a_finished_run_resumed_gives_its_result_again(small_options, run_command):
    _, first, _ = run_command('train', *small_options, '--target', 'pairs')
    code, again, _ = run_command('train', *small_options, '--target', 'pairs', '--resume')
    assert code == 0
    assert again['model'] == first['model']
    assert again['targets']['pairs']['accuracy'] == first['targets']['pairs']['accuracy']


def test_the_checkpoint_loads_in_the_official_symbol(options, run_command, tmp_path):
    """The saved symbol has no operator of ours and the authors' argument names."""
    _, result, _ = run_command('train', *options, '--steps', 2)
    saved = json.loads((tmp_path / 'run' / 'model-symbol.json').read_text())
    assert not [node['op'] for node in saved['nodes'] if node['op'].startswith('vg_')]
    official = get_symbol('vargfacenet', multiplier=0.25, emb_size=32)
    symbol, arg_params, _ = checkpoint.load_embedding(result['model'], official).in_mxnet()
    assert set(symbol.list_arguments()) - {'data'} == set(arg_params) - {'fc7_weight'}
    assert arg_params['fc7_weight'].shape == (6, 32)


WRONG = {
    'missing target': (['--target', 'lfw'], 'lfw.bin does not exist'),
    'missing data': (['--data-dir', 'nowhere'], 'nowhere'),
    'unknown network': (['--network', 'vargfacnet'], "did you mean 'vargfacenet'"),
    'unknown option': (['--network-option', 'multiplyer=1'], 'multiplier'),
    'bad multiplier': (['--network-option', 'multiplier=0.3'], 'multiplier'),
    'unknown loss': (['--loss', 'arcfase'], "did you mean 'arcface'"),
    'unknown recipe': (['--recipe', 'papr'], "did you mean 'paper'"),
    'learning rate': (['--lr', '-1'], '--lr'),
    'more than float32 holds': (['--lr', '1e99'], '--lr 1e+99: must be a number above 0 (float32:'),
    'less than float32 holds': (['--mom', '1e-50'], '--mom 1e-50: must be a finite number, not'),
    # by the name that was typed, not by that of the class, margin
    'scale of float64': (
        ['--loss', 'cosface', '--loss-option', 's=1e39'],
        'loss cosface: s must be a number above 0 (float32:',
    ),
    'batch too large': (['--per-batch-size', 4096], 'per-batch-size'),
    'step without steps': (['--lr-mode', 'step'], '--lr-steps'),
    'device': (['--devices', 'tpu'], '--devices'),
    'missing weights': (['--pretrained', 'nothing,1'], 'nothing'),
    'flag': (['--learning-rate', 1], '--learning-rate'),
    'seed': (['--seed', 2**70], '--seed'),
    'not a number': (['--wd', 'nan'], '--wd'),
    'margin not a number': (['--loss-option', 'm2=NaN'], 'arcface: m2 must be a finite number'),
    'lr-steps alone': (['--lr-steps', '5,10'], '--lr-mode step'),
    'resume and overwrite': (['--resume', '--overwrite'], 'give one of the two'),
    'a path for a name': (['--name', '../../evil'], '--name'),
    'network option': (['--network-option', 'use_se=perhaps'], 'use_se must be true or false'),
    'no parameter server': (['--kvstore', 'dist_sync'], 'dist_train.sh'),
}


@pytest.mark.parametrize('case', WRONG)
def test_wrong_input_is_one_line_before_training(case, options, run_command, tmp_path):
    extra, message = WRONG[case]
    code, _, errors = run_command('train', *options, *extra)
    assert code == 2
    assert message in errors
    assert 'Traceback' not in errors
    assert len(errors.strip().splitlines()) == 1
    assert not list(tmp_path.glob('run/model-*.params'))


def test_a_started_run_is_not_overwritten_or_mixed(small_options, run_command):
    code, result, errors = run_command('train', *small_options)
    assert code == 0
    # what is done, and where, before the first step has ended
    first = next(line for line in errors.splitlines() if line.startswith('training '))
    assert f', step 0 to {result["steps"]} of ' in first
    assert first.endswith(f', in {Path(result["model"]).parent}')
    code, _, errors = run_command('train', *small_options)
    assert code == 2 and '--resume' in errors and '--overwrite' in errors
    code, _, errors = run_command('train', *small_options, '--resume', '--lr', 0.2)
    assert code == 2 and 'lr 0.2, saved 0.05' in errors
    assert run_command('train', *small_options, '--overwrite', '--lr', 0.2)[0] == 0


def test_a_checkpoint_of_another_network_names_the_difference(
    small_options, run_options, run_command, tmp_path
):
    assert run_command('train', *small_options, '--steps', 4)[0] == 0
    words = ['--name', 'other', '--network', 'y1', '--pretrained', f'{tmp_path}/run/model,1']
    code, _, errors = run_command('train', *run_options, *words)
    assert code == 2
    assert 'only in the network' in errors and 'only in the file' in errors


def test_read_only_output_folder(options, run_command):
    code, _, errors = run_command('train', *options, '--models-root', '/proc/nowhere')
    assert code == 2
    assert 'cannot write here' in errors


def test_a_disk_that_takes_no_more_is_one_line(options, tmp_path):
    """A limit on file sizes stands in for a full disk: writing the parameters stops half-way."""
    limited = (
        'import resource, sys; from vargfacenet.__main__ import main; '
        'resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000)); sys.exit(main())'
    )
    done = subprocess.run(
        [sys.executable, '-c', limited, 'train', *map(str, options), '--steps', '2'],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 1
    assert 'model-0001.params could not be written whole' in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr
    assert not [path.name for path in (tmp_path / 'run').iterdir() if '0001' in path.name]


def test_a_damaged_optimizer_state_is_one_line(small_options, run_command, tmp_path):
    assert run_command('train', *small_options, '--steps', 4)[0] == 0
    path = tmp_path / 'run' / 'model-0001.states'
    whole = path.read_bytes()
    for content in (b'', whole[: len(whole) // 2]):
        path.write_bytes(content)
        code, _, errors = run_command('train', *small_options, '--steps', 4, '--resume')
        assert code == 2 and str(path) in errors and 'Traceback' not in errors


def test_overwrite_keeps_the_old_run_until_the_input_is_right(small_options, run_command, tmp_path):
    assert run_command('train', *small_options, '--steps', 4)[0] == 0
    wrong = ['--overwrite', '--pretrained', 'nothing,1']
    assert run_command('train', *small_options, '--steps', 4, *wrong)[0] == 2
    assert checkpoint_numbers(tmp_path / 'run' / 'model') == [1]


def test_a_target_that_cannot_be_verified_on(options, run_command, patterns, tmp_path):
    images, issame = read_pairs(patterns / 'pairs.bin')
    write_pairs(tmp_path / 'few.bin', images[:10], issame[:5])
    code, _, errors = run_command('train', *options, '--target', tmp_path / 'few.bin')
    assert code == 2 and '5 pairs' in errors


def test_missing_gpus_are_replaced_by_one_cpu_with_its_batch(options, patterns):
    parser = Parser()
    add_arguments(parser)
    config = resolve(parser.parse_args([*map(str, options), '--devices', 'gpu:0,1']))
    if mx.context.num_gpus() == 0:
        assert (config.num_devices, config.global_batch_size) == (1, 8)


def test_user_tables_are_laid_over_the_presets(small_options, run_command, tmp_path, patterns):
    tables = tmp_path / 'mine.py'
    tables.write_text(
        'from easydict import EasyDict as edict\n'
        f'dataset = edict(mine=edict(data_dir={str(patterns)!r}, val_targets=["pairs"]))\n'
        'loss = edict(soft_arc=edict(loss="margin", loss_options={"s": 32.0, "m2": 0.2}))\n'
        'default = edict(mom=0.8)\n'
    )
    without_data = small_options[2:]
    code, result, _ = run_command(
        'train', *without_data, '--config', tables, '--dataset', 'mine', '--loss', 'soft_arc'
    )
    assert code == 0
    assert set(result['targets']) == {'pairs'}
    config, _ = load_state(*[tmp_path / 'run' / 'model', int(result['model'].split(',')[1])])
    assert (config.mom, config.loss_options) == (0.8, {'s': 32.0, 'm2': 0.2})
    tables.write_text('default = dict(learning_rate=0.3)')
    code, _, errors = run_command('train', *small_options, '--config', tables)
    assert code == 2 and "'learning_rate'" in errors
    tables.write_text('default = dict(lr="fast")')
    assert run_command('train', *small_options, '--config', tables)[0] == 2
    tables.write_text('import nothing_of_the_kind')
    code, _, errors = run_command('train', *small_options, '--config', tables)
    assert code == 2 and 'nothing_of_the_kind' in errors


def test_two_dist_sync_workers_train_together(small_options, patterns, tmp_path):
    """After one step, the weights are those of one SGD update by hand with the gradients that the
    two halves of the batch give, each with its own batch statistics."""
    script = Path(__file__).parents[2] / 'recognition' / 'dist_train.sh'
    words = [*small_options, '--per-batch-size', 4, '--steps', 1]
    words += ['--lr-mode', 'constant', '--lr', 1e-3]
    done = subprocess.run(
        ['bash', script, '2', *map(str, words), '--warmup-steps', '0'],
        capture_output=True,
        text=True,
        timeout=500,
        env={
            **os.environ,
            'VARGFACENET_VENV': sys.prefix,
            'VARGFACENET_PLUGINS': str(SMALL_NETWORK),
        },
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'run' / 'curves.png').stat().st_size
    result = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{')]
    assert [row['model'] for row in result] == [f'{tmp_path}/run/model,1']  # one process reports
    trained = weights(tmp_path / 'run' / 'model', 1)
    config, state = load_state(tmp_path / 'run' / 'model', 1)
    assert (config.num_workers, config.global_batch_size, state.step) == (2, 8, 1)

    embedding = get_symbol(config.network, **config.network_options)
    start, gradient = {}, {}
    for part in range(2):
        module = training_module(embedding, config, [mx.cpu()])
        mx.random.seed(config.seed)
        module.init_params(initializer())
        start = {name: value.asnumpy() for name, value in module.get_params()[0].items()}
        batch = FaceRecordIter(patterns / 'train.rec', 4, num_parts=2, part_index=part).next()
        module.forward_backward(batch)
        for name, (array, *_) in zip(
            module._exec_group.param_names, module._exec_group.grad_arrays
        ):
            gradient[name] = gradient.get(name, 0) + array.asnumpy()
    for name in (name for name in start if name.endswith('_weight')):
        expected = start[name] - config.lr * (gradient[name] / 8 + config.wd * start[name])
        moved = np.abs(expected - start[name]).max()
        assert np.abs(trained[name] - expected).max() <= 1e-4 * moved + 1e-7, name


def test_a_longer_run_goes_on_with_a_shorter_one(small_options, run_command, tmp_path):
    """From the checkpoint on the learning rate is that of the longer run, and this is said."""
    options = [*small_options, '--frequent', 1, '--warmup-steps', 0]
    assert run_command('train', *options, '--steps', 4)[0] == 0
    code, result, errors = run_command('train', *options, '--steps', 8, '--resume')
    assert code == 0 and result['steps'] == 8
    assert (
        'run is made longer, from 4 to 8 steps: at step 5 the learning rate goes from 0 to'
        in errors
    )
    rates = [row['learning_rate'] for row in read_history(tmp_path / 'run')]
    cosine = [0.05 * (1 + np.cos(np.pi * min(step, 7) / 7)) / 2 for step in range(5, 9)]
    np.testing.assert_allclose(rates[4:], cosine, atol=1e-12)
    code, _, errors = run_command('train', *options, '--steps', 6, '--resume')
    assert code == 2 and 'total_steps 6, saved 8' in errors


def test_latest_and_best_name_checkpoints(small_options, run_command, tmp_path):
    assert run_command('train', *small_options, '--verbose', 6, '--ckpt', 2)[0] == 0
    prefix = f'{tmp_path}/run/model'
    path = tmp_path / 'run' / 'model-0002.json'
    assert parse_model(f'{prefix},latest') == (prefix, 2)
    content = json.loads(path.read_text())
    content['state']['best_number'] = 1
    write_checked(path, content)
    assert parse_model(f'{prefix},best') == (prefix, 1)
    (tmp_path / 'run' / 'model-0001.json').unlink()
    assert parse_model(f'{prefix},best') == (prefix, 2)  # the better one is gone
    for word in ('latest', 'best'):
        with pytest.raises(InputError, match='no training run'):
            parse_model(f'{tmp_path}/nothing,{word}')
    words = [*small_options, '--name', 'other', '--steps', 1, '--pretrained', f'{prefix},latest']
    assert run_command('train', *words)[0] == 0
    config, _ = load_state(tmp_path / 'other' / 'model', 1)
    assert config.pretrained == f'{prefix},2'


def test_the_published_name_of_the_last_weight_is_known(run_options, run_command, tmp_path):
    """MobileFaceNet's file for MXNet calls it fc1_weight, all networks here pre_fc1_weight."""
    options = [*run_options, '--network', 'y1', '--steps', 1]
    assert run_command('train', *options)[0] == 0
    arg_params, aux_params = checkpoint.load_params(tmp_path / 'run' / 'model-0001.params')
    arg_params['fc1_weight'] = arg_params.pop('pre_fc1_weight')
    checkpoint.save_params(tmp_path / 'published-0000.params', arg_params, aux_params)
    symbol = get_symbol('y1')
    network = checkpoint.load_embedding(f'{tmp_path}/published,0', symbol)
    np.testing.assert_array_equal(network.arg_params['pre_fc1_weight'], arg_params['fc1_weight'])
    words = [*options, '--name', 'tuned', '--pretrained', f'{tmp_path}/published,0']
    assert run_command('train', *words)[0] == 0


def encoded_pictures(folder) -> list[bytes]:
    """All pictures of a data set."""
    with contextlib.closing(open_records(folder)) as records:
        return [records.read(position)[1] for position in range(len(records))]


def test_photographs_are_refused_before_anything_is_made(small_options, run_command, tmp_path, rng):
    for number in range(8):
        path = tmp_path / 'photos' / str(number % 2) / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture(rng, 300, 400)))
    words = [*small_options, '--data-dir', tmp_path / 'photos']
    before = set(tmp_path.rglob('*'))
    for more in ([], ['--skip-corrupt', 100]):
        code, _, errors = run_command('train', *words, *more)
        assert code == 2 and errors.count('\n') == 1, errors
        assert f'`vargfacenet align {tmp_path}/photos crops` makes crops' in errors
    assert set(tmp_path.rglob('*')) == before


def test_a_classification_loss_needs_people(options, patterns, run_command, tmp_path):
    images = encoded_pictures(patterns)[:8]
    (tmp_path / 'one').mkdir()
    write_face_records(tmp_path / 'one' / 'train', [images])
    code, _, errors = run_command('train', *options, '--data-dir', tmp_path / 'one')
    assert code == 2 and 'holds one class' in errors
    (tmp_path / 'one' / 'property').write_text('85742,112,112')
    (tmp_path / 'one' / CHECKSUMS).unlink()  # changed on purpose
    code, _, errors = run_command('train', *options, '--data-dir', tmp_path / 'one')
    assert code == 2 and '85742 classes' in errors
