"""Angular distillation: the frozen teacher, the loss that is trained, the generations."""

import collections
import shutil

import numpy as np
import pytest
from pictures import corrupted
from vargfacenet.common.backend import mx
from vargfacenet.common.data import recordio
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.data.recordio import RecordFile
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.mxnet import Embedder
from vargfacenet.common.history import read_history
from vargfacenet.recognition import teacher as teachers
from vargfacenet.recognition.class_centres import class_centres, labels_of
from vargfacenet.recognition.teacher import FrozenTeacher, open_teacher
from vargfacenet.recognition.teacher_store import TeacherStore


@pytest.fixture(scope='module')
def teacher(patterns, tmp_path_factory):
    """A small ResNet-SE teacher, trained for 12 steps: 'PREFIX,EPOCH'."""
    from vargfacenet.__main__ import main

    root = tmp_path_factory.mktemp('teacher')
    words = ['train', '--data-dir', str(patterns), '--models-root', str(root), '--name', 'teacher']
    words += [
        '--network',
        'r18_se',
        '--network-option',
        'width=0.125',
        '--network-option',
        'emb_size=32',
    ]
    code = main([*words, *['--per-batch-size', '8', '--steps', '12', '--frequent', '4']])
    assert code == 0
    return f'{root}/teacher/model,1'


@pytest.fixture(scope='module')
def taught(patterns, teacher, tmp_path_factory):
    """A copy of `patterns`, and beside the pictures the store of the teacher's embeddings."""
    from vargfacenet.__main__ import main

    folder = shutil.copytree(patterns, tmp_path_factory.mktemp('taught') / 'data')
    assert main(['teach', '--data-dir', str(folder), '--teacher', teacher]) == 0
    return folder


@pytest.fixture
def data(taught, tmp_path):
    """A copy of `taught`, to write to."""
    return shutil.copytree(taught, tmp_path / 'data')


@pytest.fixture
def untaught(data):
    """`data` without the store."""
    (store,) = data.glob('*.f16')
    store.unlink()
    return data


def cosine_to_teacher(model: str, teacher: str, patterns) -> float:
    """Mean cosine of the two embeddings over the training images."""
    records = RecordFile(patterns / 'train')
    images = np.stack([decode_rgb(records.read(number)[1]) for number in range(len(records))])
    one, other = (
        Embedder(checkpoint.load_embedding(spec)).embed(images) for spec in (model, teacher)
    )
    lengths = np.linalg.norm(one, axis=1) * np.linalg.norm(other, axis=1)
    return float(((one * other).sum(axis=1) / lengths).mean())


def test_generations_start_from_each_other_and_end_in_a_table(
    small_options, teacher, patterns, run_command, tmp_path
):
    before = checkpoint.params_path(*teacher.split(',')[:1], 1).read_bytes()
    _, scratch, _ = run_command('train', *small_options, '--name', 'scratch')
    words = ['--teacher', teacher, '--scratch', scratch['model'], '--generations', 2]
    code, result, errors = run_command('distill', *small_options, *words, '--target', 'pairs')
    assert code == 0
    assert list(result['targets']) == ['teacher', 'scratch', 'generation 1', 'generation 2']
    for row in result['targets']:
        assert row in errors
        assert 0 <= result['targets'][row]['pairs']['accuracy'] <= 1
    assert checkpoint.params_path(*teacher.split(',')[:1], 1).read_bytes() == before
    first = [row['distill_loss'] for row in read_history(tmp_path / 'run-gen1') if 'loss' in row]
    second = [row['distill_loss'] for row in read_history(tmp_path / 'run-gen2') if 'loss' in row]
    assert first[-1] < first[0]
    # a generation that started anew would begin where the first one began
    assert second[0] < 0.5 * (first[0] + first[-1])
    assert result['models']['generation 2'] == result['model']


def test_the_student_turns_towards_the_teacher(
    small_options, teacher, patterns, run_command, tmp_path
):
    _, plain, _ = run_command('train', *small_options, '--name', 'plain')
    words = ['--teacher', teacher, '--generations', 1, '--steps', 40, '--lr', 0.1]
    code, distilled, _ = run_command('distill', *small_options, *words, '--no-classification')
    assert code == 0
    alike = cosine_to_teacher(distilled['model'], teacher, patterns)
    assert alike > 0.3 + cosine_to_teacher(plain['model'], teacher, patterns)
    arg_params, _ = checkpoint.load_params(f'{tmp_path}/run-gen1/model-0001.params')
    assert 'fc7_weight' not in arg_params


def test_equation_4_trains_as_well(small_options, teacher, run_command, tmp_path):
    words = ['--teacher', teacher, '--generations', 1, '--steps', 24, '--lr', 0.1]
    words += ['--form', 'cosine', '--no-classification']
    code, _, _ = run_command('distill', *small_options, *words)
    assert code == 0
    distances = [row['distill_loss'] for row in read_history(tmp_path / 'run-gen1')]
    assert distances[-1] < 0.7 * distances[0]


def test_total_loss_is_classification_plus_alpha_times_distillation(
    small_options, teacher, run_command, tmp_path
):
    code, _, _ = run_command(
        'distill', *small_options, '--teacher', teacher, '--generations', 1, '--alpha', 3.5
    )
    assert code == 0
    for row in read_history(tmp_path / 'run-gen1'):
        expected = row['class_loss'] + 3.5 * row['distill_loss']
        assert row['loss'] == pytest.approx(expected, rel=1e-5)


def test_the_teacher_stays_bit_identical(teacher):
    """Its running statistics and weights after use are those of the file."""
    frozen = FrozenTeacher(open_teacher(teacher).model, [mx.cpu()], 8)
    images = mx.nd.random.uniform(0, 255, (8, 3, 112, 112))
    first = frozen(images).asnumpy()
    for _ in range(3):
        frozen(mx.nd.random.uniform(0, 255, (8, 3, 112, 112)))
    np.testing.assert_array_equal(frozen(images).asnumpy(), first)
    _, arg_params, aux_params = checkpoint.load_embedding(teacher).in_mxnet()
    held = frozen.params()
    for name, value in {**arg_params, **aux_params}.items():
        if not name.startswith('fc7'):
            np.testing.assert_array_equal(held[name].asnumpy(), value.asnumpy(), err_msg=name)


def test_a_complete_generation_is_not_trained_again(small_options, teacher, run_command, tmp_path):
    """Resuming with one generation complete leaves it alone and goes on with the next."""
    run_command('distill', *small_options, '--teacher', teacher, '--generations', 1)
    done = (tmp_path / 'run-gen1' / 'model-0001.params').stat().st_mtime_ns
    code, result, _ = run_command(
        'distill', *small_options, '--teacher', teacher, '--generations', 2, '--resume'
    )
    assert code == 0
    assert (tmp_path / 'run-gen1' / 'model-0001.params').stat().st_mtime_ns == done
    assert result['model'] == f'{tmp_path}/run-gen2/model,1'
    longer = ['--generations', 1, '--steps', 14]
    words = [*small_options, *longer, '--teacher']
    code, _, errors = run_command('distill', *words, 'nothing,3')  # the folder comes first
    assert code == 2 and 'run-gen1 already holds checkpoint 1; give --resume' in errors
    code, _, errors = run_command('distill', *words, teacher, '--resume')
    assert code == 0 and errors.count('run-gen1 is made longer, from 12 to 14 steps') == 1


@pytest.mark.parametrize(
    'extra, message',
    [
        (['--network-option', 'emb_size=64'], 'embeddings of 32 values, the student of 64'),
        (['--generations', 0], '--generations'),
        (['--alpha', -1], '--alpha'),
        (['--form', 'l1'], '--form'),
        (['--ckpt', 0], '--ckpt 0'),
        (['--kvstore', 'dist_sync'], 'does not distil'),
    ],
)
def test_wrong_input_is_one_line(extra, message, options, teacher, run_command):
    code, _, errors = run_command('distill', *options, '--teacher', teacher, *extra)
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_a_missing_teacher_is_named(options, run_command):
    code, _, errors = run_command('distill', *options, '--teacher', 'nothing,3')
    assert code == 2
    assert 'nothing-symbol.json' in errors


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        (['--scratch', 'nope,1'], 'nope-symbol.json does not exist'),
        (['--teacher-store', 'nope.f16'], 'teacher store nope.f16 does not exist'),
        (['--distill', 'margin', '--teacher-store', 'live'], 'which a store holds'),
    ],
)
def test_what_else_is_wrong_is_told_before_a_teacher_is_read(extra, message, options, run_command):
    code, _, errors = run_command('distill', *options, '--teacher', 'nothing,3', *extra)
    assert code == 2 and message in errors and len(errors.strip().splitlines()) == 1


def test_teacher_and_data_are_read_once(small_options, teacher, untaught, run_command, monkeypatch):
    """Two generations from a store, the teacher's own row in the table, and all of it resumed."""
    counts = collections.Counter()

    def counting(module, name):
        function = getattr(module, name)

        def counted(*args):
            counts[name, str(args[0]) if name == 'load_params' else ''] += 1
            return function(*args)

        monkeypatch.setattr(module, name, counted)

    counting(checkpoint, 'load_params')
    counting(recordio.RecordFile, 'digest')
    counting(teachers, 'teacher_hash')
    prefix, epoch = teacher.rsplit(',', 1)
    loads = 'load_params', str(checkpoint.params_path(prefix, int(epoch)))
    words = ['--teacher', teacher, '--target', 'pairs', '--frequent', 1]
    for extra in ([], ['--resume']):
        counts.clear()
        code, result, _ = run_command('distill', *small_options, *words, *extra)
        assert code == 0 and result['teacher_store']
        assert (counts[loads], counts['digest', ''], counts['teacher_hash', '']) == (1, 1, 1)


@pytest.fixture
def crops(patterns, tmp_path):
    """The pictures of the record file as a folder of crops without identities."""
    folder = tmp_path / 'crops'
    folder.mkdir()
    records = RecordFile(patterns / 'train')
    for position in range(len(records)):
        (folder / f'{position:03d}.jpg').write_bytes(records.read(position)[1])
    return folder


def test_pictures_without_labels_teach_as_those_with_labels(
    small_options, teacher, crops, run_command, tmp_path
):
    """L_s alone looks at no label: a folder of crops gives the run of the record file."""
    words = [*small_options, '--teacher', teacher, '--generations', 1, '--no-classification']
    words += ['--frequent', 1, '--distill', 'angular']
    assert run_command('distill', *words, '--name', 'labelled')[0] == 0
    plain = [*words, '--data-dir', crops]
    code, result, errors = run_command('distill', *plain, '--name', 'plain')
    assert code == 0, errors
    assert result['teacher_store'].startswith(str(crops))  # and teaches from a store of its own
    labelled, unlabelled = (
        [row['distill_loss'] for row in read_history(tmp_path / f'{name}-gen1')]
        for name in ('labelled', 'plain')
    )
    np.testing.assert_allclose(unlabelled, labelled, rtol=1e-3)
    code, _, errors = run_command('distill', *words[:-5], '--data-dir', crops, '--name', 'no')
    assert code == 2 and 'distil with --no-classification' in errors


def test_class_centres_are_those_of_the_pictures_that_can_be_read(
    small_options, teacher, patterns, run_command, tmp_path
):
    """In the place of a person's last picture the store has the next person's first."""
    folder = corrupted(patterns, tmp_path / 'bad', [8])  # position 7 of 0..7
    words = ['--data-dir', folder, '--teacher', teacher, '--skip-corrupt', 1]
    code, made, errors = run_command('teach', *words)
    assert code == 0 and made['left_out'] == 1, errors
    code, result, errors = run_command(
        *('distill', *small_options, *words, '--generations', 1, '--steps', 2),
        *('--distill', 'proxyless', '--teacher-store', made['store'], '--target', ''),
    )
    assert code == 0 and result['teacher_store'] == made['store'], errors
    store = TeacherStore(made['store'], open_teacher(teacher).header(str(folder)))
    plain = np.zeros(1, int)
    np.testing.assert_array_equal(store.read(plain + 7, plain), store.read(plain + 8, plain))
    labels = labels_of(folder, store, skip=True)
    assert labels[:9].tolist() == [0] * 7 + [-1, 1]
    own = sum(store.read(np.arange(7), np.full(7, row)).sum(axis=0) for row in (0, 1))
    centres = class_centres(store, labels, 6)
    # the store's float16 rows are unit to 1e-3 or so, and are summed at unit length
    np.testing.assert_allclose(centres[0], own / np.linalg.norm(own), atol=1e-4)


def test_class_centres_come_from_a_store_whatever_the_augmentation(
    small_options, teacher, untaught, run_command
):
    words = [*small_options, '--teacher', teacher, '--generations', 1]
    words += ['--steps', 2, '--augment', 'mild']
    code, _, errors = run_command(
        'distill', *words, '--distill', 'margin', '--teacher-store', 'live'
    )
    assert code == 2 and 'means over all pictures, which a store holds' in errors
    code, result, errors = run_command('distill', *words, '--distill', 'margin')
    assert code == 0 and len(list(untaught.glob('*.f16'))) == 1, errors
    assert not result['teacher_store']  # of shaken pictures only the teacher itself has embeddings
    code, result, _ = run_command('distill', *words, '--distill', 'proxyless', '--name', 'other')
    assert code == 0 and result['teacher_store'] == str(*untaught.glob('*.f16'))
