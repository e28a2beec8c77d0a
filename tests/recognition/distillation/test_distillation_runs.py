"""Runs with every distillation loss: what is learned, saved and gone on with."""

import numpy as np
import pytest
from tiny_network import tiny_symbol
from vargfacenet.common.backend import mx
from vargfacenet.common.data.recordio import RecordFile
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.errors import InputError
from vargfacenet.common.history import read_history
from vargfacenet.recognition.config import bare
from vargfacenet.recognition.graph import current_params, training_module
from vargfacenet.recognition.trainer import initializer

SIZE = 32
# Parameters beside the network's that a checkpoint holds, by the loss.
OWN = {
    'rkd': set(),
    'proxyless': set(),
    'margin': set(),
    'adadistill': {'fc7_mean_centres'},
    'ekd': {'fc7_anchors'},
}
# of few classes and steps; the papers' scales want more
SMALL = {
    'proxyless': ['s=16', 'm2=0.1'],
    'margin': ['s=16', 'least=0', 'most=0.2'],
    'adadistill': ['s=16', 'm2=0.1'],
}


@pytest.fixture(scope='module')
def teacher(patterns, tmp_path_factory):
    """An .npz of a teacher that tells the six people apart, the mirror images a little less."""
    random = np.random.RandomState(0)
    records = RecordFile(patterns / 'train')
    labels = [records.read(position)[0] for position in range(len(records))]
    people = random.randn(records.num_classes, SIZE)
    plain = people[labels] + 0.3 * random.randn(len(labels), SIZE)
    path = tmp_path_factory.mktemp('teacher') / 'teacher.npz'
    np.savez(
        path,
        embeddings=plain.astype('f'),
        mirrored=(plain + 0.2 * random.randn(*plain.shape)).astype('f'),
        records=np.arange(len(labels)),
    )
    return path


@pytest.fixture
def distil(small_options, teacher, run_command):
    def run(loss, *words):
        numbers = [word for text in SMALL.get(loss, []) for word in ('--distill-option', text)]
        return run_command(
            *(
                'distill',
                *small_options,
                '--teacher',
                teacher,
                '--generations',
                1,
                '--distill',
                loss,
            ),
            *('--frequent', 1, '--verbose', 10, '--ckpt', 2, *numbers, *words),
        )

    return run


def files(folder, number):
    return [
        (folder / f'model-{number:04d}.{suffix}').read_bytes() for suffix in ('params', 'states')
    ]


@pytest.mark.parametrize('loss', OWN)
def test_it_learns_and_resumes_exactly(loss, distil, tmp_path):
    words = ['--no-classification', '--steps', 20, '--lr', 0.1]
    code, _, errors = distil(loss, *words)
    assert code == 0, errors
    folder = tmp_path / 'run-gen1'
    values = [row['distill_loss'] for row in read_history(folder)]
    assert np.mean(values[-5:]) < 0.9 * np.mean(values[:5])
    network = checkpoint.load_embedding(f'{folder}/model,2')
    symbol = network.symbol
    arg_params, _ = checkpoint.load_params(folder / 'model-0002.params')
    assert arg_params.keys() - set(symbol.list_arguments()) == OWN[loss]
    before, _ = checkpoint.load_params(folder / 'model-0001.params')
    for name in OWN[loss]:  # carried from step to step
        assert (arg_params[name] != before[name]).any()
    checkpoint.save_embedding(tmp_path / 'slim', 1, network)
    slim, _ = checkpoint.load_params(tmp_path / 'slim-0001.params')
    assert not any('centres' in name or name.startswith('fc7') for name in slim)
    whole = files(folder, 2)
    for path in folder.glob('model-0002.*'):
        path.unlink()
    assert distil(loss, *words, '--resume')[0] == 0
    assert files(folder, 2) == whole


def test_centres_serve_every_augmentation(distil):
    """Only a loss that looks at the teacher's embeddings of a step's images needs them stored."""
    code, _, errors = distil('proxyless', '--augment', 'mild', '--steps', 2)
    assert code == 0, errors
    code, _, errors = distil('margin', '--augment', 'mild', '--steps', 2, '--overwrite')
    assert code == 2 and 'use --augment mirror' in errors


def test_centres_need_people(distil, patterns, tmp_path):
    folder = tmp_path / 'crops'
    folder.mkdir()
    records = RecordFile(patterns / 'train')
    for position in range(len(records)):
        (folder / f'{position:03d}.jpg').write_bytes(records.read(position)[1])
    code, _, errors = distil('margin', '--data-dir', folder)
    assert code == 2 and 'no classes, of which --distill margin learns nothing' in errors


def test_what_a_loss_carries_wants_one_device():
    config = bare(teacher='t', distill='ekd', classification=False, num_classes=5, per_batch_size=4)
    with pytest.raises(InputError, match='use one device'):
        training_module(tiny_symbol(SIZE), config, [mx.cpu(0), mx.cpu(1)])


def test_a_loss_of_pairs_says_that_a_step_has_few(caplog):
    """Steps of four of a hundred people have 0.06 pairs of one person."""
    given = {'teacher': 't', 'classification': False, 'num_classes': 100, 'per_batch_size': 4}
    for loss, shuffle, told in (
        ('ekd', 'full', True),
        ('ekd', 'people', False),
        ('rkd', 'full', False),
    ):
        caplog.clear()
        training_module(tiny_symbol(SIZE), bare(distill=loss, shuffle=shuffle, **given), [mx.cpu()])
        assert ('has 0.06 pairs of one person' in caplog.text) == told


@pytest.mark.parametrize('loss', ['proxyless', 'margin'])
def test_ranks_behind_the_first_begin_without_centres(loss):
    """As `trainer` starts them; the first rank's come with its weights."""
    config = bare(teacher='t', distill=loss, classification=False, num_classes=5, per_batch_size=4)
    module = training_module(tiny_symbol(SIZE), config, [mx.cpu()])
    module.init_params(initializer(), {}, {}, allow_missing=True, allow_extra=True)
    assert not module.get_params()[0]['teacher_centres'].asnumpy().any()


@pytest.mark.parametrize('loss', ['proxyless', 'margin'])
def test_centres_have_neither_gradient_nor_momentum_nor_decay(loss, rng):
    config = bare(teacher='t', distill=loss, classification=False, num_classes=5, per_batch_size=4)
    module = training_module(tiny_symbol(SIZE), config, [mx.cpu()])
    centres = mx.nd.array(rng.randn(5, SIZE))
    module.init_params(mx.init.Normal(0.1), {'teacher_centres': centres}, allow_missing=True)
    module.init_optimizer(optimizer='sgd', optimizer_params={'momentum': 0.9, 'wd': 0.1})
    before = {name: value.copy() for name, value in module.get_params()[0].items()}
    shapes = [shape for _, shape in module.data_shapes]
    batch = mx.io.DataBatch(
        [mx.nd.array(rng.rand(*shape)) for shape in shapes], [mx.nd.array([0, 1, 4, 4])]
    )
    for _ in range(2):
        module.forward_backward(batch)
        module.update()
    after = module.get_params()[0]
    same = {name for name in after if (after[name] == before[name]).asnumpy().all()}
    assert same == {'teacher_centres'}
    names = module._optimizer.idx2name
    momenta = {names[number] for number in module._updater.states}
    assert momenta == after.keys() - {'teacher_centres'} == current_params(module)[0].keys()
