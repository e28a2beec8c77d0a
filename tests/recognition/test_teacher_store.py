"""The teacher store: what is in it, who may read it, what a kill leaves, what distils from it."""

import contextlib
import fcntl
import functools
import os
import shutil
import types
from dataclasses import replace

import numpy as np
import pytest
from tiny_network import tiny_symbol
from vargfacenet.common.backend import mx
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.data.left_out import LeftOut
from vargfacenet.common.data.recordio import RecordFile
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.mxnet import Embedder
from vargfacenet.common.engine.network import Network
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.common.ranks import SingleRank
from vargfacenet.recognition import teacher_store, teaching
from vargfacenet.recognition.augmentations import make_augmentations
from vargfacenet.recognition.data import FaceRecordIter
from vargfacenet.recognition.hooks import read_history
from vargfacenet.recognition.run_state import load_state, remove_checkpoint
from vargfacenet.recognition.teacher import FrozenTeacher, open_teacher
from vargfacenet.recognition.views import Views, picture_of, row_of

SIZE = 32
ORDER_OF_RECORD_9 = [1, 0, 5, 3, 2, 4]
DRAWS_OF_VIEW_5 = [0.16693269322718618, 0.28986894880305536]


def make_teacher(folder, seed):
    """'PREFIX,1' of a network of a few layers with random weights."""
    symbol = tiny_symbol(SIZE)
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
def small_blocks(monkeypatch):
    monkeypatch.setattr(teaching, 'BLOCK', 10)


def header_of(teacher, data, views=None):
    return open_teacher(teacher).header(str(data), views)


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


def build(path, header, data, embed, views=None):
    with contextlib.closing(RecordFile(data / 'train.rec')) as records:
        no_bar = contextlib.nullcontext(type('Bar', (), {'advance': lambda *_: None})())
        blocks = functools.partial(teaching._blocks, records, views, LeftOut(0))
        size = teaching.block_size(views)
        embedded = functools.partial(
            teaching._embedded_by_all, SingleRank(), blocks, embed, header, size
        )
        teacher_store.build(path, header, embedded, lambda done: no_bar)


def test_a_stopped_store_is_gone_on_with(teachers, data, tmp_path, small_blocks):
    header = header_of(teachers[0], data)
    whole, calls = tmp_path / 'whole.f16', []
    build(whole, header, data, fake_embed(calls))
    assert sum(calls) == 2 * 48
    path, first, second = tmp_path / 'store.f16', [], []
    with pytest.raises(KeyboardInterrupt):
        build(path, header, data, fake_embed(first, stop_after=2))  # in the third block
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
        build(path, replace(header, **{field: 'other'}), data, fake_embed([], stop_after=2))
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
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(InputError, match='another command is writing there'):
            build(tmp_path / 'store.f16', header_of(teachers[0], data), data, fake_embed([]))
    finally:
        os.close(handle)


def test_a_header_that_is_too_long_is_said_before_anything_is_embedded(teachers, data, tmp_path):
    header, calls = replace(header_of(teachers[0], data), data='x' * 5000), []
    with pytest.raises(InputError, match='too long'):
        build(tmp_path / 'store.f16', header, data, fake_embed(calls))
    assert not calls


def test_an_embedding_without_direction_is_named(teachers, data, tmp_path, small_blocks):
    def embed(images):
        embeddings = np.ones((len(images), SIZE), np.float32)
        embeddings[2 * 3] = 0  # two rows of an image
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
def distill_options(small_options, teachers):
    return [*small_options, '--teacher', teachers[0], '--generations', 1, '--frequent', 1]


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
        (['--views', 4], '--views 4 with --augment mirror: a store has the mirror images anyway'),
        (
            ['--views', 4, '--augment', 'mild', '--distill', 'proxyless'],
            '--views 4 with --distill proxyless, which asks for the embedding of no picture',
        ),
    ],
)
def test_wrong_stores_are_one_line(distill_options, run_command, extra, message):
    code, _, errors = run_command('distill', *distill_options, *extra)
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


# --- augmented views

MILD = make_augmentations('mild')
STRONG = make_augmentations('strong', {'blur.probability': 0.5})


def pictures_of(data, views, count, **options):
    """{(record, row): uint8 RGB} of all pictures that an iterator shows in `count` epochs, and
    how often it shows each."""
    batches = FaceRecordIter(
        data,
        8,
        augment=','.join(views.augmentations.names),
        augment_options=views.augmentations.options,
        views=views.count,
        view_seed=views.seed,
        **options,
    )
    shown, times = {}, {}
    for _ in range(count):
        for batch in batches:
            for image, place in zip(batch.data[0].asnumpy(), zip(batch.index, batch.rows)):
                shown.setdefault(place, image.transpose(1, 2, 0).astype(np.uint8))
                np.testing.assert_array_equal(shown[place], image.transpose(1, 2, 0))
                times[place] = times.get(place, 0) + 1
        batches.reset()
    batches.close()
    return shown, times


@pytest.mark.parametrize(
    'views',
    [Views(STRONG, 3, 7), Views(make_augmentations('mixing,jitter'), 2)],
    ids=['strong', 'mixing'],
)
def test_the_picture_that_is_drawn_embeds_to_the_row_of_the_store(teachers, data, views):
    """And a record shows all its rows, each once, before it begins anew."""
    teacher = open_teacher(teachers[0])
    header = teacher.header(str(data), views)
    store = teaching.teach(teacher, header, views)
    rows = 2 + views.count
    assert store.path.stat().st_size == 4096 + 2 * 48 * rows * SIZE
    own_rows = rows if views.augmentations.mirrors else rows - 1  # without the mirror image
    shown, times = pictures_of(data, views, own_rows, seed=5)
    assert len(shown) == 48 * own_rows and set(times.values()) == {1}
    assert {row for _, row in shown} == set(range(rows)) - (set() if own_rows == rows else {1})
    places = np.array(list(shown))
    images = np.stack(list(shown.values()))
    expected = Embedder(checkpoint.load_embedding(teachers[0])).embed(images)
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    stored = store.read(places[:, 0], places[:, 1])
    # as above: another engine, at most
    assert np.linalg.norm(stored - expected, axis=1).max() < 0.0142
    if store.header.engine == 'mxnet':
        np.testing.assert_allclose(stored, expected, atol=1e-3)  # of float16 below 1, twice
    # and the pictures of a record are far from each other: no row stands for another
    one = store.read(np.zeros(rows, int), np.arange(rows))
    assert np.linalg.norm(one[2:, None] - one[:2], axis=2).min() > 0.02


def test_another_turn_has_another_order_and_the_same_pictures(data):
    views = Views(MILD, 2, 3)
    shown, times = pictures_of(data, views, 8, seed=1)
    assert set(times.values()) == {2}
    orders = np.array([[row_of(MILD, 2, 1, epoch, p) for epoch in range(8)] for p in range(48)])
    assert (np.sort(orders[:, :4]) == np.arange(4)).all()
    assert (np.sort(orders[:, 4:]) == np.arange(4)).all()
    assert len(np.unique(orders, axis=0)) > 40
    other, _ = pictures_of(data, views, 4, seed=2)  # another run, the same store
    assert all(np.array_equal(shown[place], other[place]) for place in other)


def test_views_are_what_they_were(rng):
    """A store that was made under an older version must go on to fit."""
    bgr = rng.randint(0, 256, (112, 112, 3)).astype(np.uint8)
    assert [row_of(MILD, 4, 1, epoch, 9) for epoch in range(6)] == ORDER_OF_RECORD_9
    draws = []
    seen = types.SimpleNamespace(
        num_draws=2, mirrors=True, change=lambda _, mirrored, given, __: draws.append(given)
    )
    picture_of(seen, bgr, 2 + 5, 3, 11, None)
    np.testing.assert_allclose(draws[0], DRAWS_OF_VIEW_5, rtol=1e-12)


def test_a_stopped_store_of_views_is_gone_on_with(teachers, data, tmp_path, small_blocks):
    views = Views(STRONG, 3)
    header, stores = header_of(teachers[0], data, views), []
    build(tmp_path / 'whole.f16', header, data, fake_embed([]), views)
    with pytest.raises(KeyboardInterrupt):
        build(tmp_path / 'store.f16', header, data, fake_embed([], stop_after=3), views)
    build(tmp_path / 'store.f16', header, data, fake_embed(stores), views)
    assert sum(stores) == 5 * (48 - 12)  # a block is four records of five rows
    assert (tmp_path / 'store.f16').read_bytes() == (tmp_path / 'whole.f16').read_bytes()


def test_other_views_are_refused_by_name(teachers, data):
    views = Views(MILD, 2, 4)
    teacher = open_teacher(teachers[0])
    path = teaching.teach(teacher, teacher.header(str(data), views), views).path
    plain = header_of(teachers[0], data)
    assert teacher_store.TeacherStore(path, plain).header.views == 2  # serves others as well
    for other, message in (
        (Views(MILD, 3, 4), 'holds 2 augmented views of every image, not 3'),
        (Views(MILD, 2, 5), 'holds views of seed 4, here it is 5'),
        (Views(STRONG, 2, 4), r'holds views by mild, here it is mirror,affine\(shift=6.0'),
    ):
        with pytest.raises(InputError, match=message):
            teacher_store.TeacherStore(path, replace(plain, **other.header_fields()))
    names = {header_of(teachers[0], data, v).key for v in (None, views, replace(views, seed=5))}
    assert len(names) == 3


def test_distilling_finds_the_views_and_draws_them(
    distill_options, data, teachers, run_command, tmp_path
):
    """From the store, from the teacher itself, and in two parts: the same pictures."""
    words = ['--data-dir', data, '--teacher', teachers[0], '--views', 3, '--augment', 'mild']
    code, taught, _ = run_command('teach', *words)
    assert (code, taught['views'], taught['augmentation']) == (0, 3, 'mild')
    mild = [*distill_options, '--augment', 'mild', '--lr', 0.001, '--no-classification']
    code, result, errors = run_command('distill', *mild, '--name', 'whole')
    assert code == 0 and result['teacher_store'] == taught['store'], errors
    config = load_state(tmp_path / 'whole-gen1' / 'model', 1)[0]
    assert (config.views, config.view_seed) == (3, 0)

    def curve(name):
        rows = read_history(tmp_path / f'{name}-gen1')
        return np.array([row['distill_loss'] for row in rows if 'loss' in row])

    live = ['--views', 3, '--teacher-store', 'live', '--name', 'live']
    assert run_command('distill', *mild, *live)[0] == 0
    assert 0 < np.abs(curve('whole') - curve('live'))[0] < 0.02  # of a distance of about 2
    code, result, errors = run_command('distill', *mild, '--views', 0, '--name', 'fresh')
    assert code == 0 and not result['teacher_store'] and 'ever new images' in errors
    assert np.abs(curve('fresh') - curve('whole'))[0] > 0.001
    part = [*mild, '--name', 'parts', '--verbose', 5, '--ckpt', 2]
    assert run_command('distill', *part)[0] == 0
    prefix = tmp_path / 'parts-gen1' / 'model'
    for number in (2, 3):  # as after a kill behind the first checkpoint
        remove_checkpoint(prefix, number)
    assert load_state(prefix, 1)[1].step == 5
    code, _, errors = run_command('distill', *part, '--resume')
    assert code == 0 and 'step 5  saved' not in errors
    np.testing.assert_array_equal(curve('parts'), curve('whole'))
    code, _, errors = run_command('distill', *part, '--resume', '--views', 2)
    assert code == 2 and 'views 2, saved 3' in errors


def test_distilling_says_what_is_wrong_with_a_store_of_views(
    distill_options, data, teachers, run_command
):
    views = Views(MILD, 1)
    teacher = open_teacher(teachers[0])
    made = teaching.teach(teacher, teacher.header(str(data), views), views).path
    jitter = [*distill_options, '--augment', 'mirror,jitter', '--steps', 1]
    code, result, errors = run_command('distill', *jitter)
    assert code == 0 and not result['teacher_store']
    assert 'holds views by mild; here it is mirror,jitter(brightness=40.0' in errors
    assert '`vargfacenet teach --views K --augment mirror,jitter`' in errors
    code, _, errors = run_command('distill', *jitter, '--teacher-store', made, '--overwrite')
    assert code == 2 and 'holds views by mild, here it is mirror,jitter(' in errors
    plain = teaching.teach(teacher, teacher.header(str(data))).path
    code, _, errors = run_command('distill', *jitter, '--teacher-store', plain, '--overwrite')
    assert code == 2 and 'image and its mirror image only; use --augment mirror' in errors


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--views', 2], '--views and --augment belong together'),
        (['--augment', 'mild'], '--views and --augment belong together'),
        (['--views', 2, '--augment', 'mirror'], 'a store has the mirror images anyway'),
        (['--views', 2, '--augment', 'mid'], "did you mean 'mild'"),
        (['--views', -1, '--augment', 'mild'], '--views -1: must be 0..10000'),
        (['--seed', 2**31], '--seed 2147483648: must be 0..2147483647'),
    ],
)
def test_wrong_views_are_one_line(words, message, teachers, data, run_command):
    code, _, errors = run_command('teach', '--data-dir', data, '--teacher', teachers[0], *words)
    assert code == 2 and message in errors and errors.count('\n') == 1
    assert not list(data.glob('*.f16'))
