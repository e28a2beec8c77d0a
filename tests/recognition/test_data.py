import contextlib
import gc
import itertools
import json
import threading

import numpy as np
import pytest
from pictures import corrupted, decoded, encoded, jpeg, picture
from vargfacenet.common.backend import mx
from vargfacenet.common.data.left_out import LeftOut
from vargfacenet.common.data.recordio import RecordFile, write_face_records
from vargfacenet.common.errors import InputError
from vargfacenet.recognition import data
from vargfacenet.recognition.data import FaceRecordIter, epoch_order, record_draws

COUNTS = (9, 1, 14, 5, 8)  # 37 records: no batch size divides them
ORDER_10_1_2 = [1, 6, 4, 8, 3, 7, 5, 0, 2, 9]
DRAWS_1_2_3 = [0.06344102965932141, 0.707504754819708, 0.27756060377104574]


@pytest.fixture(scope='module')
def contents():
    """[(label, JPEG bytes)] of all records."""
    rng = np.random.RandomState(5)
    return [(label, jpeg(rng)) for label, count in enumerate(COUNTS) for _ in range(count)]


@pytest.fixture(scope='module')
def rec(tmp_path_factory, contents):
    groups = itertools.groupby(contents, key=lambda item: item[0])
    folder = tmp_path_factory.mktemp('records')
    write_face_records(folder / 'train', ([image for _, image in group] for _, group in groups))
    return folder / 'train.rec'


def arrays(batch):
    return (
        batch.data[0].asnumpy(),
        batch.label[0].asnumpy(),
        np.asarray(batch.index),
        batch.mirrored,
    )


def take(batches, count):
    """The next `count` batches as arrays, going on with the next epoch at its end."""
    result = []
    while len(result) < count:
        try:
            result.append(arrays(batches.next()))
        except StopIteration:
            batches.reset()
    return result


def assert_same(left, right):
    assert len(left) == len(right)
    for one, other in zip(left, right):
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)


# --- order


@pytest.mark.parametrize(('n', 'parts', 'batch_size'), [(100, 1, 7), (101, 3, 4), (12, 4, 3)])
@pytest.mark.parametrize('shuffle', data.SHUFFLES)
def test_parts_share_an_epoch_without_overlap(n, parts, batch_size, shuffle):
    labels = np.random.RandomState(0).randint(0, 9, n)
    options = (n, 3, 1, shuffle)
    orders = [epoch_order(*options, parts, part, batch_size, labels) for part in range(parts)]
    assert {order.size for order in orders} == {n // (parts * batch_size) * batch_size}
    seen = np.concatenate(orders)
    assert np.unique(seen).size == seen.size > n - parts * batch_size
    whole = epoch_order(*options, 1, 0, parts * batch_size, labels).reshape(-1, parts * batch_size)
    split = np.hstack([order.reshape(-1, batch_size) for order in orders])
    np.testing.assert_array_equal(split, whole)


def test_the_order_depends_on_seed_and_epoch_alone():
    base = epoch_order(1000, 0, 0)
    np.testing.assert_array_equal(base, epoch_order(1000, 0, 0))
    np.testing.assert_array_equal(np.sort(base), np.arange(1000))
    others = [epoch_order(1000, 0, 1), epoch_order(1000, 1, 0), np.arange(1000)]
    assert all((base == other).mean() < 0.05 for other in others)
    np.testing.assert_array_equal(epoch_order(1000, 7, 3, shuffle='none'), np.arange(1000))


def test_orders_are_the_same_in_every_version():
    """A run that was stopped under an older version must go on with the same batches."""
    assert epoch_order(10, 1, 2).tolist() == ORDER_10_1_2
    np.testing.assert_allclose(record_draws(1, 2, 3)[:3], DRAWS_1_2_3, rtol=1e-12)


def test_draws_are_uniform_and_independent_of_each_other():
    draws = np.array([record_draws(4, 0, position) for position in range(4000)])
    assert draws.min() >= 0 and draws.max() < 1
    # mean 1/2, variance 1/12 and no correlation, each within four standard errors
    np.testing.assert_allclose(draws.mean(0), 0.5, atol=4 * np.sqrt(1 / 12 / 4000))
    np.testing.assert_allclose(draws.var(0), 1 / 12, atol=4 * np.sqrt(1 / 180 / 4000))
    correlation = np.corrcoef(draws.T) - np.eye(draws.shape[1])
    assert np.abs(correlation).max() < 4 / np.sqrt(4000)
    neighbours = np.corrcoef(draws[:-1, 0], draws[1:, 0])[0, 1]
    epochs = np.corrcoef(draws[:, 0], [record_draws(4, 1, p)[0] for p in range(4000)])[0, 1]
    assert max(abs(neighbours), abs(epochs)) < 4 / np.sqrt(4000)


def test_pictures_of_a_person_lie_together():
    """Groups of at most four of a person, as even as can be, in an order that knows no person."""
    counts = np.array([1, 2, 3, 4, 5, 8, 9, 30] * 50)
    labels = np.random.RandomState(1).permutation(np.repeat(np.arange(len(counts)), counts))
    orders = [epoch_order(len(labels), 0, epoch, 'people', labels=labels) for epoch in (0, 1)]
    assert (orders[0] == orders[1]).mean() < 0.05
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(len(labels)))
        people = labels[order]
        ends = np.flatnonzero(np.diff(people)) + 1
        runs = [(run[0], len(run)) for run in np.split(people, ends)]
        # two groups of a person beside each other are a matter of chance
        assert np.mean([length > 4 for _, length in runs]) < 0.02
        sizes = {
            count: sorted(length for person, length in runs if counts[person] == count)
            for count in (1, 5, 9)
        }
        assert sizes[1] == [1] * 50
        assert sizes[5].count(2) == sizes[5].count(3) > 45
        assert sizes[9].count(3) > 140
        assert abs(np.corrcoef([person for person, _ in runs], np.arange(len(runs)))[0, 1]) < 0.1


def test_a_training_epoch_by_people(tmp_path):
    """With four pictures of each and steps of eight, every image has its three others beside it
    where no group lies across two steps."""
    rng = np.random.RandomState(5)
    write_face_records(tmp_path / 'train', ([jpeg(rng) for _ in range(4)] for _ in range(6)))
    records = tmp_path / 'train.rec'
    with contextlib.closing(FaceRecordIter(records, 8, shuffle='people', threads=1)) as batches:
        assert batches.people_per_batch == 2
        found = [np.bincount(batch.label[0].asnumpy().astype(int)) for batch in batches]
    assert len(found) == 3
    for counts in found:
        assert sorted(counts[counts > 0]) == [4, 4]


def test_blocks_are_read_in_long_pieces_and_mixed(monkeypatch):
    """In a window every record of its blocks once, in an order that knows nothing of the file."""
    n, window = 70_001, data.WINDOW
    order = epoch_order(n, 5, 2, 'blocks')
    np.testing.assert_array_equal(np.sort(order), np.arange(n))
    assert not np.array_equal(order, epoch_order(n, 5, 3, 'blocks'))
    for start in range(0, n, window):
        part = order[start : start + window]
        blocks = np.unique(part // data.BLOCK)
        # whole blocks, but for one cut in two at either end and the file's last, shorter one
        assert len(blocks) <= len(part) // data.BLOCK + 2
        if len(part) == window:
            assert abs(np.corrcoef(part[:-1], part[1:])[0, 1]) < 4 / np.sqrt(window)
            assert np.ptp(part) > 0.9 * n  # from all over the file


def test_blocks_tell_the_system_what_comes(rec, monkeypatch):
    """Every record is announced, the next window before this one is read to its end."""
    monkeypatch.setattr(data, 'BLOCK', 5)
    monkeypatch.setattr(data, 'WINDOW', 15)
    announced = []
    will_need = RecordFile.will_need

    def spy(self, start, end):
        announced.extend(range(start, end))
        will_need(self, start, end)

    monkeypatch.setattr(RecordFile, 'will_need', spy)
    batches = FaceRecordIter(rec, 4, shuffle='blocks')
    order = epoch_order(37, 0, 0, 'blocks', batch_size=4)
    batches.next()
    batches._reader.submit(lambda: None).result()  # one thread: all that was asked for is done
    assert set(announced) >= set(order[:30].tolist())  # the first two windows
    list(batches)
    batches._reader.submit(lambda: None).result()
    assert set(announced) >= set(order.tolist())


# --- batches


def test_batches_are_the_decoded_records(rec, contents):
    batches = FaceRecordIter(rec, 4, seed=3)
    assert (batches.num_images, batches.num_classes, batches.batches_per_epoch) == (37, 5, 9)
    mirrored = []
    for batch in batches:
        data, label, index, flags = arrays(batch)
        assert data.shape == (4, 3, 112, 112) and data.dtype == np.float32
        assert batch.pad == 0
        assert [list(d.shape) for d in batches.provide_data + batches.provide_label] == [
            list(data.shape),
            [4],
        ]
        for image, number, position, flag in zip(data, label, index, flags):
            expected_label, content = contents[position]
            pixels = decoded(content)[:, ::-1] if flag else decoded(content)
            assert number == expected_label
            np.testing.assert_array_equal(image, pixels.transpose(2, 0, 1))
        mirrored += flags.tolist()
    assert 0 < sum(mirrored) < len(mirrored)


def test_an_epoch_visits_no_record_twice_and_drops_less_than_a_batch(rec):
    batches = FaceRecordIter(rec, 5)
    for epoch in range(3):
        assert (batches.epoch, batches.batch) == (epoch, 0)
        seen = np.concatenate([batch.index for batch in batches])
        assert np.unique(seen).size == seen.size == 35
        assert batches.batch == 7
        with pytest.raises(StopIteration):
            batches.next()
        batches.reset()


def test_without_shuffle_and_mirror_it_is_the_file(rec, contents):
    batches = FaceRecordIter(rec, 37, shuffle='none', augment='none')
    data, label, index, flags = arrays(batches.next())
    assert index.tolist() == list(range(37)) and not flags.any()
    assert label.tolist() == [label for label, _ in contents]
    np.testing.assert_array_equal(data[20], decoded(contents[20][1]).transpose(2, 0, 1))


def test_mirroring_differs_between_epochs_and_seeds(rec):
    def flags(seed, epoch):
        batches = FaceRecordIter(rec, 37, seed=seed, shuffle='none')
        batches.seek(epoch, 0)
        return batches.next().mirrored.tolist()

    drawn = [flags(seed, epoch) for seed in range(2) for epoch in range(3)]
    assert all(a != b for a, b in itertools.combinations(drawn, 2))
    assert flags(1, 2) == [bool(record_draws(1, 2, position)[0] < 0.5) for position in range(37)]


@pytest.mark.parametrize('augment', ['mirror', 'mild', 'mixing,strong'])
@pytest.mark.parametrize(('threads', 'prefetch'), [(2, 1), (7, 3)])
def test_threads_and_prefetch_change_nothing(rec, augment, threads, prefetch):
    options = {'seed': 8, 'augment': augment}
    alone = take(FaceRecordIter(rec, 6, threads=1, prefetch=1, **options), 15)
    assert_same(
        alone, take(FaceRecordIter(rec, 6, threads=threads, prefetch=prefetch, **options), 15)
    )


def test_sharding_changes_neither_batches_nor_mirroring(rec):
    whole = take(FaceRecordIter(rec, 6, seed=2, augment='mild'), 8)
    parts = [
        take(FaceRecordIter(rec, 2, seed=2, augment='mild', num_parts=3, part_index=part), 8)
        for part in range(3)
    ]
    joined = [tuple(map(np.concatenate, zip(*batch))) for batch in zip(*parts)]
    assert_same(whole, joined)


@pytest.mark.parametrize('place', [(0, 0), (0, 5), (1, 3), (2, 0)])
def test_seek_goes_on_exactly_as_without_interruption(rec, place):
    epoch, batch = place
    through = take(FaceRecordIter(rec, 6, seed=1, augment='mild'), 18)
    fresh = FaceRecordIter(rec, 6, seed=1, augment='mild')
    fresh.seek(epoch, batch)
    assert (fresh.epoch, fresh.batch) == place
    start = epoch * fresh.batches_per_epoch + batch
    assert_same(through[start:], take(fresh, 18 - start))
    fresh.seek(0, 2)  # and back again, with batches under way
    assert_same(through[2:5], take(fresh, 3))


def test_seek_decodes_nothing_that_is_skipped(rec, tmp_path, contents):
    """The first record of the file is broken; seeking behind it never meets it."""
    broken = [[b'broken'] + [image for _, image in contents[1:]]]
    write_face_records(tmp_path / 'train', broken)
    batches = FaceRecordIter(tmp_path / 'train', 4, shuffle='none')
    batches.seek(0, 1)
    assert len(take(batches, 5)) == 5


def test_the_end_of_an_epoch_can_be_sought(rec):
    batches = FaceRecordIter(rec, 6)
    batches.seek(4, 6)
    with pytest.raises(StopIteration):
        batches.next()
    batches.reset()
    assert (batches.epoch, batches.batch) == (5, 0)


def test_batches_keep_their_content_while_later_ones_are_read(rec):
    batches = FaceRecordIter(rec, 6, prefetch=1)
    kept = list(batches)
    copies = [arrays(batch) for batch in kept]
    batches.seek(0, 0)
    assert_same(copies, take(batches, 6))


def test_module_trains_on_it(rec):
    """The stock `Module.fit` accepts the iterator: names, shapes, reset between epochs."""
    data = mx.sym.Pooling(
        mx.sym.var('data') / 255, kernel=(16, 16), stride=(16, 16), pool_type='avg'
    )
    score = mx.sym.FullyConnected(data, num_hidden=5)
    module = mx.mod.Module(mx.sym.SoftmaxOutput(score, mx.sym.var('softmax_label')))
    batches = FaceRecordIter(rec, 6)
    metric = mx.metric.CrossEntropy()
    losses = []
    module.fit(
        batches,
        eval_metric=metric,
        num_epoch=12,
        optimizer_params={'learning_rate': 0.02, 'momentum': 0.9},
        initializer=mx.init.Zero(),
        epoch_end_callback=lambda *_: losses.append(metric.get()[1]),
    )
    assert losses[0] == pytest.approx(np.log(5), rel=0.3)
    assert losses[-1] < 0.8 * losses[0]
    assert batches.epoch == 12


def test_a_mixture_takes_another_record_of_the_data(rec, contents):
    """Weights and partner are the record's draws, whatever else the list names."""
    batches = FaceRecordIter(rec, 37, seed=4, shuffle='none', augment='mirror,mixing')
    images, _, positions, flags = arrays(batches.next())
    for image, position, mirrored in zip(images, positions, flags):
        draws = record_draws(4, 0, position, 16)
        one, other = (
            decoded(contents[number][1]).astype(float) for number in (position, int(37 * draws[9]))
        )
        one = one[:, ::-1] if mirrored else one
        expected = (1 - draws[11]) * one + draws[11] * other
        np.testing.assert_allclose(image, expected.transpose(2, 0, 1), atol=0.51)


# --- threads


def start_threads(rec):
    """(iterator that has given a batch, its threads)."""
    before = set(threading.enumerate())
    batches = FaceRecordIter(rec, 6, threads=3)
    batches.next()
    started = set(threading.enumerate()) - before
    assert started
    return batches, started


def test_close_stops_the_threads(rec):
    batches, started = start_threads(rec)
    batches.close()
    assert not any(thread.is_alive() for thread in started)
    batches.close()  # once more does no harm


def test_an_iterator_nobody_uses_stops_its_threads(rec):
    batches, started = start_threads(rec)
    del batches
    gc.collect()
    for thread in started:
        thread.join(timeout=60)
    assert not any(thread.is_alive() for thread in started)


# --- bad input


def with_record_3(folder, contents, content):
    """37 records in the order of the file, the third one being `content`."""
    images = [image for _, image in contents]
    write_face_records(folder / 'train', [[*images[:2], content, *images[3:]]])
    return FaceRecordIter(folder / 'train', 4, shuffle='none')


@pytest.mark.parametrize(
    ('make', 'reason'),
    [
        (lambda content: content[:400], 'JPEG of 400 bytes is cut off'),
        (lambda content: b'<html>', '6 bytes are no picture'),
        (lambda content: b'', 'holds no picture'),
        (
            lambda content: encoded(picture(np.random.RandomState(0), 96, 112)),
            '112x96 pixels; an aligned crop has 112x112',
        ),
    ],
    ids=['cut off', 'html', 'empty', 'wrong size'],
)
def test_a_bad_picture_is_named_every_time_and_can_be_passed(tmp_path, contents, make, reason):
    batches = with_record_3(tmp_path, contents, make(contents[2][1]))
    for _ in range(2):
        with pytest.raises(InputError, match=rf'train\.rec record 3\b.*{reason}'):
            batches.next()
    batches.seek(0, 1)
    assert batches.next().index.tolist() == [4, 5, 6, 7]


def test_a_label_out_of_range_is_named(rec, tmp_path):
    for path in rec.parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / 'train.rec').read_bytes())
    content[12:16] = np.float32(5).tobytes()  # behind magic number, length and flag of record 1
    content[24:32] = bytes(8)  # and no checksum, as in files of others
    (tmp_path / 'train.rec').write_bytes(content)
    with pytest.raises(InputError, match=r'record 1 .*has label 5; .*property allows 0\.\.4'):
        FaceRecordIter(tmp_path / 'train', 37, shuffle='none').next()


def test_fewer_records_than_a_batch(rec):
    with pytest.raises(InputError, match=r'37 images are fewer than one batch of 38 on 1 worker'):
        FaceRecordIter(rec, 38)
    with pytest.raises(InputError, match='one batch of 10 on 4 worker'):
        FaceRecordIter(rec, 10, num_parts=4)


@pytest.mark.parametrize(
    ('options', 'reason'),
    [
        ({'batch_size': 0}, 'batch size 0'),
        ({'threads': 0}, 'threads 0'),
        ({'prefetch': 0}, 'prefetch 0'),
        ({'seed': -1}, 'seed -1'),
        ({'num_parts': 2, 'part_index': 2}, 'part 2 of 2'),
        ({'num_parts': 0}, 'part 0 of 0'),
        (
            {'augment': 'mid'},
            "'mid'; known: .*mirror, mixing, none, strong .did you mean 'mild'",
        ),
    ],
)
def test_wrong_options(rec, options, reason):
    with pytest.raises(InputError, match=reason):
        FaceRecordIter(rec, **{'batch_size': 4, **options})


@pytest.mark.parametrize('place', [(-1, 0), (0, -1), (0, 10)])
def test_places_that_do_not_exist(rec, place):
    with pytest.raises(InputError, match='has 9 batches of 4 per epoch'):
        FaceRecordIter(rec, 4).seek(*place)


def test_the_next_readable_record_takes_a_bad_ones_place(patterns, tmp_path):
    """The same in every epoch, from any place and on any number of threads."""
    folder = corrupted(patterns, tmp_path / 'bad', (11, 12, 30))

    def indices(threads, batch=0):
        data = FaceRecordIter(folder, 8, threads=threads, left_out=LeftOut(3), seed=1)
        data.seek(0, batch)
        found = [data.next() for _ in range(6 - batch)]
        left_out = dict(data.left_out)
        data.close()
        labels = np.concatenate([each.label[0].asnumpy() for each in found])
        return np.concatenate([each.index for each in found]), labels, left_out

    index, labels, left_out = indices(1)
    order = epoch_order(48, 1, 0)
    place = {10: 12, 11: 12, 29: 30}  # positions count from 0, keys from 1
    assert index.tolist() == [place.get(position, position) for position in order]
    assert left_out.keys() == {10, 11, 29} and 'record 11' in left_out[10]
    np.testing.assert_array_equal(labels, index // 8)
    np.testing.assert_array_equal(indices(3)[0], index)
    np.testing.assert_array_equal(indices(2, batch=4)[0], index[32:])
    few = FaceRecordIter(folder, 8, left_out=LeftOut(2), seed=1)
    with pytest.raises(InputError, match=r'record (11|12|30)\b.*; --skip-corrupt N leaves'):
        for _ in range(6):
            few.next()
    few.close()


def test_an_option_is_named_only_where_there_is_one(patterns, tmp_path):
    """bench data reads as training does, and has none."""
    folder = corrupted(patterns, tmp_path / 'bad', (11,))
    for left_out in (None, LeftOut(0)):
        batches = FaceRecordIter(folder, 8, left_out=left_out)
        with contextlib.closing(batches), pytest.raises(InputError, match=r'record 11\b') as told:
            for _ in range(6):
                batches.next()
        assert ('--skip-corrupt' in str(told.value)) == (left_out is not None)


def test_labels_are_read_past_bad_records(patterns, tmp_path):
    folder = corrupted(patterns, tmp_path / 'bad', (11,))
    with pytest.raises(InputError, match=r'record 11\b'):
        FaceRecordIter(folder, 8, shuffle='people')
    batches = FaceRecordIter(folder, 8, shuffle='people', left_out=LeftOut(1))
    with contextlib.closing(batches):
        found = [batches.next() for _ in range(6)]
        assert batches.left_out.keys() == {10}
    people = np.concatenate([batch.label[0].asnumpy() for batch in found]).astype(int)
    np.testing.assert_array_equal(np.bincount(people), 6 * [8])


def test_a_resumed_job_counts_on(patterns, tmp_path):
    """Two of three are met, the process ends, and the third and a fourth come: one too many."""
    folder = corrupted(patterns, tmp_path / 'bad', (11, 12, 30, 40))
    kept = tmp_path / 'left-out.json'

    def read_through(left_out):
        data = FaceRecordIter(folder, 8, shuffle='none', left_out=left_out)
        try:
            for _ in range(6):
                data.next()
        finally:
            data.close()

    with pytest.raises(InputError, match=r'record 30\b.*after 2 others.*; --skip-corrupt N leaves'):
        read_through(LeftOut(2, kept))
    assert list(LeftOut(2, kept).reasons) == [10, 11]
    with pytest.raises(InputError, match=r'record 40\b.*after 3 others'):
        read_through(LeftOut(3, kept))
    read_through(LeftOut(4, kept))
    assert list(json.loads(kept.read_text())) == ['10', '11', '29', '39', 'crc32']
    fresh = LeftOut(4, kept, anew=True)
    assert not fresh.reasons and kept.exists()  # not before it is sure that the job goes on
    fresh.begin()
    assert not kept.exists()
    kept.write_text('[1]')
    with pytest.raises(InputError, match='is no list of records'):
        LeftOut(4, kept)
