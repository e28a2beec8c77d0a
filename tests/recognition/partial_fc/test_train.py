"""`train --head partial-fc`: as the full head, resumed exactly, exported without a trace."""

import re

import numpy as np
import pytest
from vargfacenet.common.data.recordio import RecordFile
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.params_file import read_arrays
from vargfacenet.common.history import read_history

SAMPLED = ['--head', 'partial-fc', '--sample-rate', 0.5, '--partial-fc-update', 'dense']


def arrays_of(prefix, number):
    with np.load(f'{prefix}-{number:04d}.centres') as archive:
        return {name: archive[name] for name in archive.files}


@pytest.fixture
def short(small_options):
    return [*small_options, '--target', '', '--steps', 4, '--frequent', 1, '--loss-option', 's=16']


def test_all_classes_train_as_the_full_head(short, run_command, tmp_path):
    """From the same weights, centres included: two steps. At the third the full head parts from
    itself by a percent where a centre is changed by 2e-7: the small network's BatchNorms."""
    assert run_command('train', *short, '--name', 'start', '--steps', 1)[0] == 0
    run = [*short, '--pretrained', f'{tmp_path}/start/model,1']
    run += ['--verbose', 1, '--ckpt', 2]
    assert run_command('train', *run, '--name', 'full')[0] == 0
    code, _, messages = run_command('train', *run, '--name', 'part', '--head', 'partial-fc')
    assert code == 0
    assert '6 of 6 class centres are from' in messages
    keys = ('loss', 'accuracy', 'learning_rate')
    full, part = (
        [[row[key] for key in keys] for row in read_history(tmp_path / name)[:2]]
        for name in ('full', 'part')
    )
    np.testing.assert_allclose(part, full, rtol=2e-5)
    assert full[0][2] > 0  # the first step moves the weights
    for number in (1, 2):
        expected, found = (
            checkpoint.load_params(tmp_path / name / f'model-{number:04d}.params')[0]
            for name in ('full', 'part')
        )
        assert expected.keys() - found.keys() == {'fc7_weight'}  # no trace in what is exported
        centres = arrays_of(tmp_path / 'part/model', number)
        np.testing.assert_allclose(centres['centres'], expected['fc7_weight'], atol=2e-6)
        for name, value in found.items() if number == 1 else ():
            np.testing.assert_allclose(value, expected[name], rtol=1e-4, atol=2e-6, err_msg=name)


@pytest.mark.parametrize('dtype', ['float32', 'float16'])
def test_resumes_exactly(dtype, short, run_command, tmp_path):
    """A loss with a state, a sample, and rounding at random."""
    loss = ['--loss', 'curricularface', '--centres-dtype', dtype, *SAMPLED]
    assert run_command('train', *short, *loss, '--name', 'whole')[0] == 0
    parts = [*short, *loss, '--name', 'parts', '--verbose', 1, '--ckpt', 2]
    assert run_command('train', *parts)[0] == 0
    for path in (tmp_path / 'parts').glob('model-000[234].*'):
        path.unlink()  # as a run that was killed after the first of four steps
    assert run_command('train', *parts, '--resume')[0] == 0
    whole, resumed = arrays_of(tmp_path / 'whole/model', 1), arrays_of(tmp_path / 'parts/model', 4)
    assert set(whole) == {'centres', 'momenta', 'classes', 'state.fc7_progress'}
    assert whole['centres'].dtype == dtype
    for name, value in whole.items():
        np.testing.assert_array_equal(resumed[name], value, err_msg=name)
    names = ('whole/model-0001', 'parts/model-0004')
    params = [read_arrays(tmp_path / f'{name}.params') for name in names]
    for name, value in params[0].items():
        np.testing.assert_array_equal(params[1][name], value, err_msg=name)
    assert not [path for path in (tmp_path / 'parts').iterdir() if path.name.startswith('.model')]


def test_a_damaged_file_of_centres_goes_back_one_checkpoint(short, run_command, tmp_path):
    run = [*short, *SAMPLED, '--verbose', 2, '--ckpt', 2]
    assert run_command('train', *run)[0] == 0
    path = tmp_path / 'run/model-0002.centres'
    whole = path.read_bytes()
    path.write_bytes(whole[:300] + bytes([whole[300] ^ 1]) + whole[301:])
    code, _, messages = run_command('train', *run, '--resume')
    assert code == 0
    assert 'checkpoint 2 is damaged' in messages
    assert path.read_bytes() == whole  # steps 3 and 4 again, to the same bytes


def test_says_how_much_the_filter_leaves_out(short, run_command):
    code, _, messages = run_command('train', *short, *SAMPLED, '--interclass-filter', 0.001)
    assert code == 0
    match = re.search(r'(\d+) of (\d+) cosines were left out', messages)
    left_out, looked_at = map(int, match.groups())
    assert 0 < left_out < looked_at
    assert looked_at % 8 == 0  # images a step


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--sample-rate', 0.5], '--sample-rate 0.5: only with --head partial-fc'),
        (['--head', 'partial-fc', '--loss', 'softmax'], 'softmax is no function of cosines'),
        (['--head', 'partial-fc', '--sample-rate', 0.5], 'have no room for those of a step'),
        (['--head', 'partial-fc', '--sample-rate', 2], '--sample-rate 2.0: must be a number'),
        (['--head', 'partial-fc', '--label-smoothing', 0.1], 'no place for --label-smoothing'),
        (['--head', 'partial-fc', '--accumulate', 2], 'no place for --accumulate 2'),
        (['--head', 'partial-fc', '--partial-fc-update', 'x'], '--partial-fc-update'),
    ],
)
def test_what_does_not_go_together_is_refused(words, message, options, run_command, tmp_path):
    code, _, messages = run_command('train', *options, '--target', '', *words)
    assert code == 2
    assert message in messages
    assert not list(tmp_path.glob('run/model*'))


def test_pretrained_centres_are_matched_by_name(short, patterns, run_command, tmp_path):
    """Five people in another order, one of whom the first run did not know."""
    records = RecordFile(patterns / 'train')
    for position in range(len(records)):
        label, encoded = records.read(position)
        for folder, names in (('first', 'abcdef'), ('second', 'fe-dcz')):
            if names[label] != '-':
                path = tmp_path / folder / names[label] / f'{position}.jpg'
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(encoded)
    run = [*short, '--head', 'partial-fc', '--steps', 1]
    first = ['--data-dir', tmp_path / 'first', '--name', 'one']
    assert run_command('train', *run, *first)[0] == 0
    # a learning rate that moves nothing
    second = ['--data-dir', tmp_path / 'second', '--name', 'two', '--lr', 1e-12]
    begun = ['--pretrained', f'{tmp_path}/one/model,1']
    code, _, messages = run_command('train', *run, *second, *begun)
    assert code == 0
    assert '4 of 5 class centres are from' in messages
    theirs = dict(zip('abcdef', arrays_of(tmp_path / 'one/model', 1)['centres']))
    ours = dict(zip('cdefz', arrays_of(tmp_path / 'two/model', 1)['centres']))
    for name in 'cdef':
        np.testing.assert_allclose(ours[name], theirs[name], atol=1e-7)
    assert 0 < abs(ours['z']).max() < 0.06  # random, of deviation 0.01


def test_distils_as_the_full_head(short, run_command, tmp_path):
    """A teacher's loss in the graph and PartialFC's beside it: one step, to rounding."""
    assert run_command('train', *short, '--name', 'start', '--steps', 1)[0] == 0
    model = f'{tmp_path}/start/model,1'
    run = [*short, '--pretrained', model, '--teacher', model, '--generations', 1]
    run += ['--verbose', 1, '--ckpt', 2, '--teacher-store', 'live', '--alpha', 100]
    for name, head in (('full', 'full'), ('part', 'partial-fc')):
        assert run_command('distill', *run, '--name', name, '--head', head)[0] == 0
    rows = [read_history(next(tmp_path.glob(f'{name}*/'))) for name in ('full', 'part')]
    assert rows[0][0]['learning_rate'] > 0  # the first step moves the weights
    for key in ('loss', 'class_loss', 'distill_loss', 'accuracy'):
        assert rows[1][0][key] == pytest.approx(rows[0][0][key], rel=1e-5, abs=1e-6)
    expected, found = (
        checkpoint.load_params(next(tmp_path.glob(f'{name}*/model-0001.params')))[0]
        for name in ('full', 'part')
    )
    begun = checkpoint.load_params(tmp_path / 'start/model-0001.params')[0]
    for name, value in found.items():
        moved = abs(expected[name] - begun[name]).max()
        assert abs(value - expected[name]).max() < 1e-3 * moved + 2e-6, name
