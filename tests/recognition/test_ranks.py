"""Several ranks train as one process does, and end together."""

import fcntl
import json
import os
import shutil
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import ranks_launched
from conftest import registered_for_now
from ranks_launched import NETWORK, finish, launch, needs_horovod, start, wait_for
from saved_weights import assert_same_weights, weights
from vargfacenet.common import plugins
from vargfacenet.common.data.recordio import RecordFile
from vargfacenet.common.data.store_file import HEADER_BYTES
from vargfacenet.common.history import read_history
from vargfacenet.recognition import teaching
from vargfacenet.symbol import NETWORKS

pytestmark = needs_horovod

STEPS = 50


@pytest.fixture(scope='module')
def small_network():
    """The small network in this process too."""
    with registered_for_now(NETWORKS):
        plugins.run_file(NETWORK)
        yield


@pytest.fixture(scope='module')
def place(patterns, tmp_path_factory):
    """Options of all runs of this file, which share a folder."""
    folder = tmp_path_factory.mktemp('ranks')
    data = shutil.copytree(patterns, folder / 'data')
    words = ['--data-dir', data, '--models-root', folder, '--network', 'small']
    words += ['--target', '', '--lr', 0.02, '--loss-option', 's=16', '--steps', STEPS]
    return folder, [*words, '--frequent', 1, '--verbose', 100]


@pytest.fixture
def alone(place, small_network, run_command):
    """Train in this process; folder of the run."""

    def run(name, *words, command='train'):
        folder, options = place
        code, _, errors = run_command(command, *options, '--name', name, *words)
        assert code == 0, errors
        return folder / (f'{name}-gen1' if command == 'distill' else name)

    return run


@pytest.fixture
def together(place):
    """Train in two ranks; folder of the run."""

    def run(name, *words, command='train', size=2):
        folder, options = place
        code, _, errors = launch('-np', size, command, *options, '--name', name, *words)
        assert code == 0, errors
        return folder / (f'{name}-gen1' if command == 'distill' else name)

    return run


@pytest.fixture(scope='module')
def begun(place):
    """Statistics and weights to start from, 'PREFIX,EPOCH'."""
    _, options = place
    code, result, errors = launch('-np', 1, *options, '--name', 'begun', '--steps', 3)
    assert code == 0, errors
    return result['model']


FROZEN = ['--freeze', 'statistics', '--pretrained']


@pytest.fixture(scope='module')
def two(place, begun):
    """Folder of a run of two ranks with 8 images each."""
    folder, options = place
    words = ['--per-batch-size', 8, *FROZEN, begun]
    code, result, errors = launch('-np', 2, *options, '--name', 'two', *words, curves='drawn')
    assert code == 0, errors
    assert (folder / 'two' / 'curves.png').stat().st_size
    return folder / 'two', result


def column(folder, key):
    return np.array([row[key] for row in read_history(folder) if key in row])


def newest(folder):
    """Arrays of the newest checkpoint of a run."""
    prefix, number = max(folder.glob('model-*.params')).stem.split('-')
    return weights(folder / prefix, int(number))


def test_two_ranks_of_8_train_as_one_of_16(two, begun, alone):
    """BatchNorm frozen: the same losses to rounding."""
    one = alone('one', '--per-batch-size', 16, *FROZEN, begun)
    losses = column(one, 'loss')
    assert len(losses) == STEPS and losses[-1] < 0.5 * losses[0]
    np.testing.assert_allclose(column(two[0], 'loss'), losses, rtol=1e-3, atol=1e-4)
    np.testing.assert_array_equal(column(two[0], 'accuracy')[:5], column(one, 'accuracy')[:5])
    found = newest(two[0])
    for name, array in newest(one).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-2, atol=2e-4, err_msg=name)


def test_synchronised_norms_are_those_of_the_whole_batch(begun, alone, together, place):
    """Losses, weights and running statistics of 2 x 8 images as of 16; without it they part."""
    folder, options = place
    words = ['--pretrained', begun, '--steps', 6]
    one = alone('norms-one', '--per-batch-size', 16, *words)
    apart = together('norms-apart', '--per-batch-size', 8, *words)
    words = [*options, '--name', 'norms-two', '--per-batch-size', 8, *words, '--sync-bn']
    code, result, errors = launch('-np', 2, *words)
    assert code == 0, errors
    both = folder / 'norms-two'
    np.testing.assert_allclose(column(both, 'loss'), column(one, 'loss'), rtol=1e-4)
    assert abs(column(apart, 'loss') / column(one, 'loss') - 1).max() > 0.01
    wanted, found = newest(one), newest(both)
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_allclose(found[name], array, rtol=1e-3, atol=1e-4, err_msg=name)
    # mean and variance, there and back, of every channel
    channels = sum(array.size for name, array in wanted.items() if 'moving_mean' in name)
    assert result['sent_bytes']['BatchNorm'] == 6 * 4 * 4 * channels


def test_a_step_says_what_it_has_sent(two, begun):
    """Every gradient once, and one number more: whether to stop."""
    arrays = newest(two[0])
    values = sum(arrays[name].size for name in arrays if '_moving_' not in name)
    sent = two[1]['sent_bytes']
    assert sent['gradients'] == STEPS * 4 * (values + 1)
    assert sent['losses'] == STEPS * 4 * 4


@pytest.mark.parametrize(
    'words',
    [
        ('--head', 'partial-fc', '--partial-fc-update', 'dense'),
        ('--loss', 'curricularface', '--head', 'partial-fc', '--partial-fc-update', 'dense'),
        ('--loss', 'combined', '--clip-gradient', 5, '--accumulate', 2, '--ema', 0.9),
    ],
)
def test_heads_and_recipes_train_alike(words, begun, alone, together):
    few = [*FROZEN, begun, '--steps', 6, *words]
    name = '-'.join(str(word).strip('-') for word in words[1:2])
    one = alone(f'{name}-one-{len(words)}', '--per-batch-size', 8, *few)
    both = together(f'{name}-two-{len(words)}', '--per-batch-size', 4, *few)
    np.testing.assert_allclose(column(both, 'loss'), column(one, 'loss'), rtol=2e-4)


def test_centres_of_two_ranks_resume_exactly(begun, together):
    """To the bit: a sample of the classes, resumed after the fourth of twelve steps."""
    head = ['--head', 'partial-fc', '--sample-rate', 0.9, '--per-batch-size', 1]
    words = [*FROZEN, begun, *head, '--steps', 12, '--verbose', 4, '--ckpt', 2]
    folder = together('parts', *words)
    whole = folder.with_name('whole')
    whole.mkdir()
    for path in folder.glob('model-0003.*'):
        path.rename(whole / path.name)
    for path in folder.glob('model-0002.*'):
        path.unlink()
    together('parts', *words, '--resume')
    for suffix in ('params', 'centres', 'states'):
        name = f'model-0003.{suffix}'
        if suffix == 'centres':
            with np.load(whole / name) as ours, np.load(folder / name) as theirs:
                assert len(ours['centres']) == 6
                for key in ours.files:
                    np.testing.assert_array_equal(ours[key], theirs[key], err_msg=key)
        else:
            assert (whole / name).read_bytes() == (folder / name).read_bytes()


def test_goes_on_in_another_number_of_ranks(begun, alone, together):
    """Six steps, the last three of them in one rank after two, or in two after one: as one rank
    does them all, centres and momenta included."""
    head = ['--head', 'partial-fc', '--partial-fc-update', 'dense', '--loss', 'curricularface']
    words = [*FROZEN, begun, *head, '--global-batch-size', 8, '--steps', 6, '--verbose', 3]
    words += ['--ckpt', 2]
    one = alone('left-alone', *words)
    for name, before, after in (('fewer', together, alone), ('more', alone, together)):
        folder = before(name, *words)
        for path in folder.glob('model-0002.*'):
            path.unlink()
        after(name, *words, '--resume')
        np.testing.assert_allclose(column(folder, 'loss'), column(one, 'loss'), rtol=2e-4)
        file = 'model-0002.centres'
        with np.load(one / file) as wanted, np.load(folder / file) as found:
            for key in wanted.files:
                np.testing.assert_allclose(found[key], wanted[key], rtol=1e-3, atol=1e-5)


def test_distils_in_two_ranks(begun, alone, together):
    """The first rank makes the store of the teacher's embeddings, the other one reads it."""
    words = [*FROZEN, begun, '--teacher', begun, '--generations', 1, '--alpha', 10]
    words += ['--steps', 10]
    both = together('pupils', '--per-batch-size', 8, *words, command='distill')
    one = alone('pupil', '--per-batch-size', 16, *words, command='distill')
    for key in ('class_loss', 'distill_loss'):
        np.testing.assert_allclose(column(both, key), column(one, key), rtol=2e-4, atol=1e-6)


def test_teaches_the_same_store(begun, patterns, tmp_path, monkeypatch, run_command, small_network):
    """48 pictures: one rank embeds all of them, as one process does; with blocks of 10 records two
    ranks take turns, the last of them with less, and a third has nothing to do then."""
    words = ['teach', '--teacher', begun, '--batch-size', 4, '--data-dir']
    stores = {}
    for name in ('alone', 'together'):
        data = tmp_path / name
        data.mkdir()
        for file in ('train.idx', 'property', 'train.rec'):
            (data / file).write_bytes((patterns / file).read_bytes())
        if name == 'alone':
            monkeypatch.setattr(teaching, 'BLOCK', 10)
            code, stores[name], errors = run_command(*words, data)
        else:
            blocks = 'from vargfacenet.recognition import teaching\nteaching.BLOCK = 10\n'
            plugin = tmp_path / 'blocks.py'
            plugin.write_text(NETWORK.read_text() + blocks)
            monkeypatch.setattr(ranks_launched, 'NETWORK', plugin)
            code, stores[name], errors = launch('-np', 3, *words, data)
        assert code == 0, errors
    assert stores['together']['records'] == 48
    one, several = (stored_rows(store['store']) for store in stores.values())
    np.testing.assert_array_equal(several, one)
    code, again, errors = launch('-np', 2, *words, tmp_path / 'together')
    assert (
        code == 0
        and 'is there already' in errors
        and again['bytes'] == several.nbytes + HEADER_BYTES
    )


@pytest.mark.parametrize(
    ('wrong', 'told'),
    [
        (('--skip-corrupt', 1), '--skip-corrupt counts in one process'),
        (('--views', 2), '--views and --augment belong together'),
        (('--teacher', 'nobody,1'), 'nobody-symbol.json does not exist'),
    ],
)
def test_a_wrong_option_is_told_in_one_line(wrong, told, begun, patterns, tmp_path):
    """Once: before ranks start, or where it takes data by the first of them. Modules of the
    working directory are not imported by ranks."""
    for name in ('numpy', 'json', 'vargfacenet'):
        (tmp_path / f'{name}.py').write_text('open("ran", "w")\n')
    words = ['teach', '--data-dir', patterns, '--teacher', begun, *wrong]
    code, _, errors = launch('-np', 2, *words, cwd=tmp_path)
    assert code == 2
    (line,) = errors.splitlines()
    assert line.startswith('vargfacenet teach: ') and told in line
    assert not (tmp_path / 'ran').exists()


def stored_rows(path):
    """(records, rows, D) as stored."""
    return np.memmap(path, '<f2', 'r', HEADER_BYTES).reshape(48, 2, -1)


def rank_of(launcher, rank):
    """Process number of a rank that a launcher has started."""
    for path in Path('/proc').glob('[0-9]*/environ'):
        try:
            words = path.read_bytes().split(b'\0')
            parent = int((path.parent / 'stat').read_text().rpartition(')')[2].split()[1])
        except OSError:
            continue
        if parent == launcher.pid and b'HOROVOD_RANK=%d' % rank in words:
            return int(path.parent.name)
    raise AssertionError(f'no rank {rank}')


def test_a_killed_rank_ends_all_and_resumes_to_the_bit(place, two, begun, go):
    folder, options = place
    words = [*options, '--name', 'killed', '--per-batch-size', 8, *FROZEN, begun]
    words += ['--verbose', 2, '--ckpt', 1]
    launcher = start('-np', 2, *words)
    wait_for(folder / 'killed' / 'model-0001.json', launcher)
    os.kill(rank_of(launcher, 1), signal.SIGKILL)
    go.touch()
    killed = time.monotonic()
    code, _, errors = finish(launcher)
    assert time.monotonic() - killed < 60
    assert code == 128 + signal.SIGKILL
    assert [line for line in errors.splitlines() if line.startswith('train_multi')] == [
        'train_multi: rank 1 on localhost was killed by SIGKILL; the others were stopped; --resume '
        'goes on from the newest checkpoint'
    ]
    code, _, errors = launch('-np', 2, *words, '--resume')
    assert code == 0, errors
    assert_same_weights(newest(folder / 'killed'), newest(two[0]))


def test_an_elastic_run_goes_on_without_a_killed_rank(place, two, begun, go):
    """With as many images a step, all of the one that is left, it ends as the whole run does."""
    folder, options = place
    words = [*options, '--name', 'elastic', '--global-batch-size', 16, *FROZEN, begun]
    launcher = start('-np', 2, '--elastic', *words, '--verbose', 2, '--ckpt', 1)
    wait_for(folder / 'elastic' / 'model-0001.json', launcher)
    os.kill(rank_of(launcher, 1), signal.SIGKILL)
    go.touch()
    code, result, errors = finish(launcher)
    assert code == 0, errors
    assert [line for line in errors.splitlines() if line.startswith('train_multi')] == [
        'train_multi: rank 1 on localhost was killed by SIGKILL; starting again with 1 of 2 ranks'
    ]
    assert 'goes on in processes of 1 x 16 images, not 2 x 8 images' in errors
    assert result['steps'] == STEPS
    np.testing.assert_allclose(
        column(folder / 'elastic', 'loss'), column(two[0], 'loss'), rtol=1e-3, atol=1e-4
    )


def test_elastic_does_not_overwrite(place):
    code, _, errors = launch('-np', 2, '--elastic', *place[1], '--overwrite')
    assert code == 2 and '--elastic goes on by --resume' in errors


def test_a_stop_is_saved_in_the_same_step_of_all(place, begun, default_signals):
    folder, options = place
    words = [*options, '--name', 'stopped', '--per-batch-size', 8, '--steps', 2000]
    launcher = start('-np', 2, *words, '--verbose', 2, '--ckpt', 1)
    wait_for(folder / 'stopped' / 'model-0001.json', launcher)
    launcher.send_signal(signal.SIGTERM)
    code, _, errors = finish(launcher)
    assert code == 128 + signal.SIGTERM
    # the launcher ends ranks that hang, and says so
    assert 'stopped at step' in errors and 'train_multi' not in errors
    (line,) = (line for line in errors.splitlines() if 'stopped at step' in line)
    told = int(line.split('stopped at step ')[1].split()[0])
    (path,) = (folder / 'stopped').glob('model-0*.json')
    assert json.loads(path.read_text())['state']['step'] == told


def test_a_rank_that_cannot_read_ends_all(place, patterns, tmp_path):
    """One picture is no JPEG any more: the rank whose turn it is names it."""
    _, options = place
    for name in ('train.idx', 'property', 'train.rec'):
        (tmp_path / name).write_bytes((patterns / name).read_bytes())
    records = RecordFile(tmp_path / 'train')
    content = (tmp_path / 'train.rec').read_bytes()
    _, encoded = records.read(7)
    broken = content.replace(encoded, bytes(len(encoded)))
    (tmp_path / 'train.rec').write_bytes(broken)
    words = ['--data-dir', tmp_path, '--name', 'broken', '--per-batch-size', 8]
    code, _, errors = launch('-np', 2, *options, *words)
    assert code == 2
    assert 'train.rec' in errors and 'stopped at step' in errors
    assert 'Traceback' not in errors


def test_a_folder_in_use_is_refused(place, two):
    folder, options = place
    holder = os.open(folder / 'two', os.O_RDONLY)
    fcntl.flock(holder, fcntl.LOCK_EX)
    try:
        words = [*options, '--name', 'two', '--per-batch-size', 8, '--overwrite']
        code, _, errors = launch('-np', 2, *words)
    finally:
        os.close(holder)
    assert code == 2
    (line,) = errors.splitlines()
    assert 'another command is writing there' in line
