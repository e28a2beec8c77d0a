"""The teacher store: what is in it, who may read it, what a kill leaves, what distils from it."""

import contextlib
import shutil
import types
from dataclasses import replace

import numpy as np
import pytest
from vargfacenet.common.backend import mx
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.data.recordio import RecordFile
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.mxnet import Embedder
from vargfacenet.common.engine.network import Network
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.recognition import teacher_store, teaching
from vargfacenet.recognition.hooks import read_history
from vargfacenet.recognition.teacher import FrozenTeacher, open_teacher
from vargfacenet.symbol import get_symbol

SIZE = 32


def make_teacher(folder, seed):
    """'PREFIX,1' of a small ResNet-SE with random weights."""
    symbol = get_symbol('r18_se', width=0.125, emb_size=SIZE)
    module = mx.mod.Module(symbol, label_names=None)
    module.bind([('data', (1, 3, 112, 112))], for_training=False)
    mx.random.seed(seed)
    module.init_params(mx.initializer.Xavier())
    checkpoint.save_embedding(folder / 'model', 1, Network(symbol, *module.get_params()))
    return f'{folder}/model,1'


@pytest.fixture(scope='module')
def teachers(tmp_path_factory):
    return [make_teacher(tmp_path_factory.mktemp(f'teacher{seed}'), seed) for seed in (1, 2)]


@pytest.fixture
def data(patterns, tmp_path):
    """A copy of the data set of one test's own: 48 images."""
    return shutil.copytree(patterns, tmp_path / 'data')


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(teaching, 'BLOCK', 10)


def header_of(teacher, data):
    return open_teacher(teacher).header(str(data))


def test_it_holds_the_teachers_directions_of_image_and_mirror_image(
    teachers, data, run_command, small_blocks
):
    code, result, _ = run_command('teach', '--data-dir', data, '--teacher', teachers[0])
    assert (code, result['records'], result['embedding_size']) == (0, 48, SIZE)
    store = teacher_store.TeacherStore(result['store'], header_of(teachers[0], data))
    with contextlib.closing(RecordFile(data / 'train.rec')) as records:
        images = np.stack([decode_rgb(records.read(n)[1]) for n in range(48)])
    embedder = Embedder(checkpoint.load_embedding(teachers[0]))
    positions = np.random.RandomState(0).permutation(48)
    for mirrored in (False, True):
        expected = embedder.embed(images[:, :, ::-1] if mirrored else images)[positions]
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        rows = store.read(positions, np.full(48, mirrored))
        assert rows.dtype == np.float32
        # an engine may differ from MXNet by a cosine of 0.9999, a distance of 0.0141
        assert np.linalg.norm(rows - expected, axis=1).max() < 0.0142
    both = store.read(np.array([3, 3]), np.array([False, True]))
    assert np.abs(both[0] - both[1]).max() > 0.01
    again, found, errors = run_command('teach', '--data-dir', data, '--teacher', teachers[0])
    assert (again, found['store']) == (0, result['store'])
    assert 'is there already' in errors


def fake_embed(calls, stop_after=None):
    """Directions that tell images apart; raises KeyboardInterrupt after some blocks."""

    def embed(images):
        if stop_after is not None and len(calls) >= stop_after:
            raise KeyboardInterrupt
        calls.append(len(images))
        return images.reshape(len(images), -1)[:, :SIZE].astype(np.float32) + 1

    return embed


def build(path, header, data, embed):
    with contextlib.closing(RecordFile(data / 'train.rec')) as records:
        no_bar = contextlib.nullcontext(type('Bar', (), {'advance': lambda *_: None})())
        teacher_store.build(
            path, header, lambda first: teaching._blocks(records, first), embed, lambda done: no_bar
        )


def test_a_stopped_store_is_gone_on_with(teachers, data, tmp_path, small_blocks):
    header = header_of(teachers[0], data)
    whole, calls = tmp_path / 'whole.f16', []
    build(whole, header, data, fake_embed(calls))
    assert sum(calls) == 2 * 48
    path, first, second = tmp_path / 'store.f16', [], []
    with pytest.raises(KeyboardInterrupt):
        build(path, header, data, fake_embed(first, stop_after=5))  # in the third block
    assert not path.exists()
    with pytest.raises(InputError, match=r'unfinished, 20 of 48 images'):
        teacher_store.TeacherStore(path.with_suffix('.part'), header)
    build(path, header, data, fake_embed(second))
    assert sum(second) == 2 * (48 - 20)
    assert path.read_bytes() == whole.read_bytes()
    assert not path.with_suffix('.part').exists()


@pytest.mark.parametrize(('field', 'images'), [('data_hash', 48), ('engine', 48 - 20)])
def test_what_another_run_left_is_gone_on_with_only_if_it_fits(
    teachers, data, tmp_path, small_blocks, field, images
):
    """Other data start anew; another engine goes on, and the header names both."""
    header, path = header_of(teachers[0], data), tmp_path / 'store.f16'
    header = replace(header, engine='this')
    with pytest.raises(KeyboardInterrupt):
        build(path, replace(header, **{field: 'other'}), data, fake_embed([], stop_after=5))
    calls = []
    build(path, header, data, fake_embed(calls))
    assert sum(calls) == 2 * images
    store = teacher_store.TeacherStore(path, header)
    assert store.header.engine == ('other, this' if field == 'engine' else 'this')


def test_a_store_that_another_process_made_meanwhile_is_kept(teachers, data, tmp_path):
    header, path, calls = header_of(teachers[0], data), tmp_path / 'store.f16', []
    build(path, header, data, fake_embed([]))
    build(path, header, data, fake_embed(calls))
    assert not calls


def test_two_processes_do_not_make_one_store(teachers, data, tmp_path):
    import fcntl

    path = tmp_path / 'store.f16'
    with open(path.with_suffix('.lock'), 'a') as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        with pytest.raises(InputError, match='being made by another process'):
            build(path, header_of(teachers[0], data), data, fake_embed([]))


def test_a_header_that_is_too_long_is_said_before_anything_is_embedded(teachers, data, tmp_path):
    header, calls = replace(header_of(teachers[0], data), data='x' * 5000), []
    with pytest.raises(InputError, match='too long'):
        build(tmp_path / 'store.f16', header, data, fake_embed(calls))
    assert not calls


def test_an_embedding_without_direction_is_named(teachers, data, tmp_path, small_blocks):
    def embed(images):
        embeddings = np.ones((len(images), SIZE), np.float32)
        embeddings[3] = 0
        return embeddings

    with pytest.raises(RunError, match='no direction for image 3 of'):
        build(tmp_path / 'store.f16', header_of(teachers[0], data), data, embed)


def test_other_teachers_data_sets_and_files_are_refused_by_name(teachers, data, tmp_path):
    expected = header_of(teachers[0], data)
    path = teaching.teach(open_teacher(teachers[0]), expected).path
    with pytest.raises(InputError, match=f'another teacher, {teachers[0]}, not {teachers[1]}'):
        teacher_store.TeacherStore(path, header_of(teachers[1], data))
    other = shutil.copytree(data, tmp_path / 'other')
    content = bytearray((other / 'train.rec').read_bytes())
    content[len(content) // 2] ^= 1  # same index, same length
    (other / 'train.rec').write_bytes(content)
    with pytest.raises(InputError, match=f'another data set, {data}/train.rec'):
        teacher_store.TeacherStore(path, header_of(teachers[0], other))
    with pytest.raises(InputError, match='another preprocessing'):
        teacher_store.TeacherStore(path, replace(expected, preprocessing='BGR'))
    cut = tmp_path / 'cut.f16'
    cut.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match='bytes, not'):
        teacher_store.TeacherStore(cut, expected)
    cut.write_bytes(b'{"kind": "something"}')
    with pytest.raises(InputError, match='is no teacher store'):
        teacher_store.TeacherStore(cut, expected)


def test_the_key_follows_teacher_data_and_preprocessing(teachers, data):
    header = header_of(teachers[0], data)
    others = [
        header_of(teachers[1], data),
        replace(header, data_hash='0'),
        replace(header, preprocessing='BGR'),
    ]
    assert len({header.key, *(other.key for other in others)}) == 4
    assert replace(header, teacher='renamed,7', engine='another').key == header.key


@pytest.fixture
def distill_options(options, data, teachers):
    options = [data if str(option).endswith('patterns0') else option for option in options]
    assert data in options
    return [*options, '--teacher', teachers[0], '--generations', 1, '--frequent', 1]


def test_store_and_live_teacher_differ_by_float16_alone(
    distill_options, run_command, tmp_path, monkeypatch
):
    """A live teacher whose embeddings are rounded as the store's gives the store's curve.

    On some processors the last bits of an image's embedding depend on its place in the batch (up to
    4e-7 with AVX2), and now and then a float16 with them: here an image fills a batch of its own.
    """

    def same_engine(network, batch_size):
        embedder = Embedder(network, batch_size=8)

        def embed(images):
            return np.stack([embedder.embed(np.stack([image] * 8))[0] for image in images])

        return types.SimpleNamespace(name='as in training', embed=embed)

    monkeypatch.setattr(teaching, 'fastest', same_engine)

    def curve(source, name):
        code, result, _ = run_command(
            'distill',
            *distill_options,
            '--teacher-store',
            source,
            '--name',
            name,
            '--lr',
            0.001,
            '--no-classification',
        )
        assert code == 0
        assert bool(result['teacher_store']) == (source == 'auto')
        rows = read_history(tmp_path / f'{name}-gen1')
        return np.array([row['distill_loss'] for row in rows if 'loss' in row])

    stored, live = curve('auto', 'stored'), curve('live', 'live')
    of_batch = FrozenTeacher.of_batch

    def rounded(self, batch):
        rows = np.stack(
            [
                of_batch(self, types.SimpleNamespace(data=[mx.nd.stack(*[image] * 8)]))[0].asnumpy()
                for image in batch.data[0]
            ]
        )
        rows = rows / np.linalg.norm(rows.astype(np.float64), axis=1, keepdims=True)
        return mx.nd.array(rows.astype(np.float16).astype(np.float32))

    monkeypatch.setattr(FrozenTeacher, 'of_batch', rounded)
    live_rounded = curve('live', 'rounded')
    assert len(live) == 12
    assert 0 < np.abs(stored - live)[0] < 1e-4  # of a distance of about 2
    # So few images make a chaotic run: what float16 rounds grows a hundredfold in a step. Rounded
    # in the same way, the live teacher leads the same way to the last bit.
    np.testing.assert_array_equal(stored, live_rounded)


@pytest.mark.parametrize(
    ('extra', 'reason'),
    [
        (['--augment', 'mild'], '--augment mild shows it ever new images'),
        (['--steps', 11], 'this run looks at 88 images, a store would take 96'),
    ],
)
def test_why_a_live_teacher_is_said(distill_options, run_command, extra, reason):
    code, result, errors = run_command('distill', *distill_options, *extra)
    assert code == 0
    assert result['teacher_store'] == ''
    assert errors.count(f'live teacher: {reason}') == 1


@pytest.mark.parametrize(
    ('extra', 'message'),
    [
        (['--teacher-store', 'nothing.f16'], 'teacher store nothing.f16 does not exist'),
        (['--teacher-store', 'a.f16', '--augment', 'mild'], 'use --augment mirror'),
    ],
)
def test_wrong_stores_are_one_line(distill_options, run_command, extra, message):
    code, _, errors = run_command('distill', *distill_options, *extra)
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1
