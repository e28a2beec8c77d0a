"""Shards and samples by their laws, and centres stored in less than they are computed in."""

import numpy as np
import pytest
from vargfacenet.recognition.partial_fc import Centres
from vargfacenet.recognition.partial_fc.centres import round_at_random
from vargfacenet.recognition.partial_fc.sampling import columns_of, sample_rows, shard_of


@pytest.mark.parametrize(('classes', 'size'), [(19, 2), (20, 4), (7, 3), (5, 1)])
def test_shards_cover_all_classes_once(classes, size):
    exact = [shard_of(classes, rank, size, padded=False) for rank in range(size)]
    held = [start + row for start, rows in exact for row in range(rows)]
    assert held == list(range(classes))
    padded = [shard_of(classes, rank, size, padded=True) for rank in range(size)]
    assert {rows for _, rows in padded} == {-(-classes // size)}
    assert [start for start, _ in padded] == [rank * padded[0].rows for rank in range(size)]


def test_sample_keeps_positives_and_draws_the_others_evenly():
    random = np.random.default_rng(0)
    positives = np.array([3, 3, 0, 19])
    counts = np.zeros(20)
    for _ in range(4000):
        rows = sample_rows(positives, 20, 8, False, random)
        assert len(rows) == 8
        assert (np.diff(rows) > 0).all()
        counts[rows] += 1
    assert (counts[[0, 3, 19]] == 4000).all()
    others = np.delete(counts, [0, 3, 19])
    expected = 4000 * 5 / 17  # each of 17 negatives has 5 of 17 chances
    deviation = np.sqrt(4000 * 5 / 17 * 12 / 17)
    assert abs(others - expected).max() < 4.5 * deviation


def test_more_positives_than_the_sample_has_room_for():
    random = np.random.default_rng(0)
    positives = np.array([9, 2, 5, 7])
    assert sample_rows(positives, 10, 3, False, random).tolist() == [2, 5, 7]
    assert sample_rows(positives, 10, 3, True, random).tolist() == [2, 5, 7, 9]


def test_columns():
    rows = np.array([2, 5, 9])
    assert columns_of(np.array([9, -4, 3, 2, 40]), rows, 10).tolist() == [2, -1, -1, 0, -1]
    assert columns_of(np.array([9, -4, 10]), None, 10).tolist() == [9, -1, -1]


@pytest.mark.parametrize('scale', [1.0, 1e-3, 1e-5, 1e-7])  # normal and subnormal float16
def test_random_rounding_goes_to_a_neighbour_and_keeps_the_mean(scale):
    random = np.random.default_rng(1)
    values = (scale * random.uniform(-1, 1, 50)).astype(np.float32)
    rounded = np.stack([round_at_random(values, random) for _ in range(4000)])
    assert rounded.dtype == np.float16
    nearest = values.astype(np.float16)
    gap = np.maximum(np.abs(np.spacing(nearest)).astype(np.float64), 2.0**-24)
    assert (np.abs(rounded.astype(np.float64) - values) < gap * (1 + 1e-6)).all()
    error = rounded.astype(np.float64).mean(axis=0) - values
    # deviation of a mean of 4000 is at most gap / 2 / sqrt(4000); chances are cut to 2**-13
    assert (np.abs(error) < gap * (4.5 / 2 / np.sqrt(4000) + 2.0**-13)).all()


def test_random_rounding_keeps_what_float16_has_and_its_largest():
    random = np.random.default_rng(1)
    exact = np.array([0, 1, -0.5, 65504, -65504, 2.0**-24, -3 * 2.0**-24], np.float32)
    for _ in range(20):
        np.testing.assert_array_equal(round_at_random(exact, random), exact.astype(np.float16))
    beyond = round_at_random(np.array([7e4, -1e9, 65510], np.float32), random)
    assert beyond.tolist() == [65504, -65504, 65504]


def test_a_class_starts_with_the_same_values_in_any_shard(tmp_path):
    whole = Centres(9000, 4)
    whole.start(7, 0)
    assert whole.weights.std() == pytest.approx(0.01, rel=0.02)
    for first, rows in ((0, 4000), (4000, 5000)):
        part = Centres(rows, 4, folder=tmp_path)
        part.start(7, first)
        np.testing.assert_array_equal(part.weights, whole.weights[first : first + rows])
    assert not list(tmp_path.iterdir())  # the mapped files have no names


def test_float16_takes_half_and_stays_near(tmp_path):
    random = np.random.default_rng(2)
    stored = Centres(50, 4, 'float16', tmp_path)
    values = random.standard_normal((50, 4)).astype(np.float32)
    rows = np.arange(0, 50, 3)
    stored.write(rows, values[rows], values[rows] / 8, random)
    weights, momenta = stored.read(rows)
    assert weights.dtype == momenta.dtype == np.float32
    assert stored.weights.nbytes == 400
    np.testing.assert_allclose(weights, values[rows], rtol=2.0**-10)
    np.testing.assert_allclose(momenta, values[rows] / 8, rtol=2.0**-10)
    assert not stored.weights[1::3].any()
