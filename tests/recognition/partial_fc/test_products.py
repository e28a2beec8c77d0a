"""The compiled passes over the centres against float64 loops, for sizes that fill no block."""

import numpy as np
import pytest
from vargfacenet.recognition.partial_fc import Centres, centres, products

MOVE = products.Move(lr=0.3, mom=0.9, wd=0.02)


def stored(random, rows, width, dtype):
    made = Centres(rows, width, dtype)
    made.weights[:] = random.standard_normal((rows, width))
    made.momenta[:] = 0.1 * random.standard_normal((rows, width))
    return made


def by_definition(unit, gradient, weights, momenta, sampled, size):
    """(cosines, gradient of unit, weights, momenta) in float64, a centre and a value at a time."""
    unit, gradient = unit.astype(np.float64), gradient.astype(np.float64)
    weights, momenta = weights.astype(np.float64), momenta.astype(np.float64)
    k = weights.shape[1] // size
    cosine, back = np.zeros(gradient.shape), np.zeros(unit.shape)
    for c in range(gradient.shape[1]):
        row, part = sampled[c // k], slice(c % k * size, (c % k + 1) * size)
        w = weights[row, part].copy()
        length = np.sqrt((w * w).sum() + 1e-10)
        change = np.zeros(size)
        for n in range(len(unit)):
            cosine[n, c] = (unit[n] * w).sum() / length
            back[n] += gradient[n, c] * w / length
            change += gradient[n, c] * unit[n] / length
        change -= (change * w).sum() / length**2 * w
        change = change / len(unit) + MOVE.wd * w
        momenta[row, part] = MOVE.mom * momenta[row, part] - MOVE.lr * change
        weights[row, part] += momenta[row, part]
    return cosine, back, weights, momenta


CASES = [  # images, size, centres a row, rows, sampled
    (1, 1, 1, 1, None),
    (3, 7, 1, 40, [0, 3, 39]),
    (8, 24, 2, 60, None),
    (5, 33, 3, 50, range(1, 50, 2)),
    (13, 100, 1, 300, range(0, 300, 2)),
]


@pytest.mark.parametrize('case', CASES)
def test_cosines_and_update_are_the_definition(way, case):
    images, size, k, rows, sampled = case
    random = np.random.default_rng(images)
    own = stored(random, rows, k * size, 'float32')
    before = own.weights.copy(), own.momenta.copy()
    chosen = None if sampled is None else np.array(list(sampled), np.int64)
    places = np.arange(rows) if chosen is None else chosen
    unit = random.standard_normal((images, size)).astype(np.float32)
    gradient = random.standard_normal((images, k * len(places))).astype(np.float32)
    cosine, back, weights, momenta = by_definition(unit, gradient, *before, places, size)

    found, factors = products.cosines(unit, own, chosen)
    np.testing.assert_allclose(found, cosine, rtol=1e-5, atol=1e-5)
    moved = products.update(unit, gradient, factors, own, chosen, MOVE, random)
    np.testing.assert_allclose(moved, back, rtol=1e-5, atol=3e-5)
    np.testing.assert_allclose(own.weights, weights, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(own.momenta, momenta, rtol=1e-5, atol=1e-5)
    others = np.setdiff1d(np.arange(rows), places)
    np.testing.assert_array_equal(own.weights[others], before[0][others])
    np.testing.assert_array_equal(own.momenta[others], before[1][others])


def test_float16_is_a_neighbour_and_in_the_mean_the_value(way):
    """4,000 updates of the same centres, each drawn anew: never further than one step of float16,
    and the mean within 4.5 deviations of what float32 gives."""
    random = np.random.default_rng(4)
    images, size, rows, times = 4, 9, 3, 4000
    start = stored(random, rows, size, 'float16')
    start.weights[0] *= 1e-6  # below float16's normal numbers
    start.weights[1, 0] = 65504
    unit = random.standard_normal((images, size)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    gradient = 1e-3 * random.standard_normal((images, rows)).astype(np.float32)
    gradient[:, 0] *= 1e-9
    exact = Centres(rows, size)
    exact.weights[:], exact.momenta[:] = start.weights, start.momenta * np.float32(1e-3)
    start.momenta[:] = exact.momenta
    exact.momenta[:] = start.momenta
    before = start.weights.copy(), start.momenta.copy()
    _, factors = products.cosines(unit, exact, None)
    products.update(unit, gradient, factors, exact, None, MOVE, random)

    totals = [np.zeros((rows, size)), np.zeros((rows, size))]
    wanted = exact.weights, exact.momenta
    gaps = [
        np.abs(np.spacing(np.abs(each).astype(np.float16)).astype(np.float64)) for each in wanted
    ]
    for _ in range(times):
        start.weights[:], start.momenta[:] = before
        products.update(unit, gradient, factors, start, None, MOVE, random)
        for total, found, value, gap in zip(totals, (start.weights, start.momenta), wanted, gaps):
            found = found.astype(np.float64)
            assert (np.abs(found - np.minimum(value, 65504)) <= 1.01 * gap).all()
            total += found
    for total, value, gap in zip(totals, wanted, gaps):
        error = np.abs(total / times - np.minimum(value, 65504))
        assert (error <= gap * (4.5 / 2 / np.sqrt(times) + 2.0**-12)).all()
    assert (totals[0] / times != before[0]).any()


def test_both_ways_agree_with_a_sample_of_half(monkeypatch):
    if products.native_kernels() is None:
        pytest.skip('no C++ compiler')
    results = []
    for kernels in (products.native_kernels, lambda: None):
        monkeypatch.setattr(products, 'native_kernels', kernels)
        random = np.random.default_rng(0)
        own = stored(random, 5000, 64, 'float16')
        rows = np.sort(random.choice(5000, 2500, replace=False))
        unit = random.standard_normal((10, 64)).astype(np.float32)
        found, factors = products.cosines(unit, own, rows)
        moved = products.update(unit, found, factors, own, rows, MOVE, random)
        results.append((found, factors, moved))
    for one, other in zip(*results):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-4)


def test_the_same_numbers_twice():
    """Also where float16 is rounded at random: of the same seed."""
    found = []
    for _ in range(2):
        random = np.random.default_rng(7)
        own = stored(random, 700, 16, 'float16')
        unit = random.standard_normal((6, 16)).astype(np.float32)
        cosine, factors = products.cosines(unit, own, None)
        back = products.update(unit, cosine, factors, own, None, MOVE, random)
        found.append((cosine, back, own.weights, own.momenta))
    for one, other in zip(*found):
        np.testing.assert_array_equal(one, other)


def test_files_take_over_where_memory_has_no_room(tmp_path, monkeypatch):
    monkeypatch.setattr(centres, 'free_memory', lambda: 10_000)
    assert not Centres(100, 11, folder=tmp_path).on_disk  # 8,800 bytes
    assert not Centres(100, 12).on_disk  # no folder
    large = Centres(100, 12, folder=tmp_path)
    assert large.on_disk
    assert not Centres(100, 20, 'float16', tmp_path).on_disk
    large.start(3, 0)
    plain = Centres(100, 12)
    plain.start(3, 0)
    np.testing.assert_array_equal(large.weights, plain.weights)
    assert not list(tmp_path.iterdir())  # files have no name
