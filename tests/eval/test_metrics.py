"""Metrics against float64 loops written from the definition, and against laws."""

import numpy as np
import pytest
from vargfacenet.eval import metrics

ACCURACY_GRID = [step * 0.01 for step in range(400)]
VAL_GRID = [step * 0.001 for step in range(4000)]


def folds_of(pairs, folds):
    """Lists of pair numbers: contiguous, longer ones first."""
    start, out = 0, []
    for number in range(folds):
        size = pairs // folds + (1 if number < pairs % folds else 0)
        out.append(list(range(start, start + size)))
        start += size
    return out


def share(accepted, chosen):
    """Accepted part of the chosen pairs, nothing if there are none."""
    return sum(accepted[pair] for pair in chosen) / len(chosen) if chosen else None


def mean(values):
    known = [value for value in values if value is not None]
    return sum(known) / len(known)


def interpolate(target, far, grid):
    """Threshold at which FAR is `target`: from the last grid value that has at most `target`."""
    left = max(index for index, value in enumerate(far) if value <= target)
    if far[left] == target:
        return grid[left]
    part = (target - far[left]) / (far[left + 1] - far[left])
    return grid[left] + part * (grid[left + 1] - grid[left])


def slow_accuracy(distance, issame, folds):
    """(fold accuracies, fold thresholds, tpr, fpr) pair by pair."""
    parts = folds_of(len(issame), folds)
    right = [
        [(value < threshold) == same for value, same in zip(distance, issame)]
        for threshold in ACCURACY_GRID
    ]
    accuracies, thresholds = [], []
    for part in parts:
        train = [pair for pair in range(len(issame)) if pair not in part]
        scores = [sum(row[pair] for pair in train) for row in right]
        best = scores.index(max(scores))
        thresholds.append(ACCURACY_GRID[best])
        accuracies.append(share(right[best], part))
    curves = []
    for kind in (True, False):
        curve = []
        for threshold in ACCURACY_GRID:
            accepted = [value < threshold for value in distance]
            chosen = [[pair for pair in part if issame[pair] == kind] for part in parts]
            curve.append(mean([share(accepted, pairs) for pairs in chosen]))
        curves.append(curve)
    return accuracies, thresholds, *curves


def slow_val(distance, issame, folds, far_target):
    """(val, val_std, far) pair by pair."""
    vals, fars = [], []
    for part in folds_of(len(issame), folds):
        negatives = [pair for pair in range(len(issame)) if pair not in part and not issame[pair]]
        far = [
            share([value < threshold for value in distance], negatives) or 0.0
            for threshold in VAL_GRID
        ]
        threshold = interpolate(far_target, far, VAL_GRID) if max(far) >= far_target else 0.0
        accepted = [value < threshold for value in distance]
        vals.append(share(accepted, [pair for pair in part if issame[pair]]))
        fars.append(share(accepted, [pair for pair in part if not issame[pair]]))
    val = mean(vals)
    deviation = mean([None if one is None else (one - val) ** 2 for one in vals]) ** 0.5
    return val, deviation, mean(fars)


def case(rng, pairs, ties):
    """Random distances of both kinds that overlap; with `ties` they lie on the threshold grids."""
    issame = rng.rand(pairs) < 0.5
    issame[:2] = True, False
    distance = np.where(issame, rng.uniform(0, 2.5, pairs), rng.uniform(1, 4, pairs))
    if ties:
        distance = metrics.ACCURACY_THRESHOLDS[(distance * 10).astype(int) * 10]
    return distance, issame


@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('pairs, folds', [(40, 10), (47, 10), (23, 3), (7, 7)])
def test_accuracy_equals_slow_loop(rng, pairs, folds, ties):
    distance, issame = case(rng, pairs, ties)
    got = metrics.k_fold_accuracy(distance, issame, folds)
    accuracy, threshold, tpr, fpr = slow_accuracy(distance.tolist(), issame.tolist(), folds)
    np.testing.assert_allclose(got.accuracy, accuracy, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.threshold, threshold, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.tpr, tpr, rtol=0, atol=1e-12)
    np.testing.assert_allclose(got.fpr, fpr, rtol=0, atol=1e-12)


@pytest.mark.parametrize('far_target', [1e-3, 0.2, 0.5])
@pytest.mark.parametrize('ties', [False, True])
@pytest.mark.parametrize('pairs, folds', [(40, 10), (23, 3)])
def test_val_equals_slow_loop(rng, pairs, folds, ties, far_target):
    distance, issame = case(rng, pairs, ties)
    got = metrics.val_at_far(distance, issame, folds, far_target)
    want = slow_val(distance.tolist(), issame.tolist(), folds, far_target)
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-9)


def test_val_where_level_part_is_exactly_at_target():
    """FAR is 1/2 between the two different pairs' distances: the end of that part counts."""
    distance = np.array([1.0, 3.0, 2.9995, 0.5, 1.0, 3.0, 2.9995, 0.5])
    issame = np.array([False, False, True, True] * 2)
    got = metrics.val_at_far(distance, issame, folds=2, far_target=0.5)
    # the threshold is 3.000, which accepts 2.9995 and not 3.0
    assert got == (1.0, 0.0, 0.5)


def test_val_is_zero_when_far_is_never_reached():
    """Different pairs at distance 4 are accepted by no threshold of the grid."""
    distance = np.array([4.0, 0.0, 4.0, 0.0])
    issame = np.array([False, True, False, True])
    assert metrics.val_at_far(distance, issame, folds=2) == (0.0, 0.0, 0.0)


def test_pair_at_the_threshold_is_not_accepted():
    grid = np.array([0.0, 1.0, 2.0])
    distance = np.array([0.0, 1.0, np.nextafter(1.0, 0), 2.0, 3.0])
    got = metrics.accepted_per_fold(distance, np.zeros(5, int), 1, grid)
    assert got.tolist() == [[0, 2, 3]]


def test_smallest_of_equally_good_thresholds():
    """All thresholds in (0.5, 3] separate; the first grid value above 0.5 is 0.51."""
    distance = np.array([0.5, 3.0] * 4)
    issame = np.array([True, False] * 4)
    got = metrics.k_fold_accuracy(distance, issame, folds=4)
    np.testing.assert_allclose(got.threshold, 0.51, atol=1e-12)
    assert got.accuracy.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    'pairs, sizes', [(10, [1] * 10), (23, [3, 3, 3] + [2] * 7), (20, [2] * 10)]
)
def test_fold_sizes(pairs, sizes):
    fold = metrics.fold_numbers(pairs, 10)
    assert np.bincount(fold).tolist() == sizes
    assert (np.diff(fold) >= 0).all()


def test_curves_rise_with_the_threshold(rng):
    got = metrics.k_fold_accuracy(*case(rng, 200, ties=False))
    for curve in (got.tpr, got.fpr):
        assert curve[0] == 0
        assert (np.diff(curve) >= 0).all()


def test_squared_distance_of_known_angles():
    """|a - b|^2 = 2 - 2 cos for unit vectors."""
    angle = np.array([0, np.pi / 3, np.pi / 2, np.pi])
    rows = np.zeros((8, 2))
    rows[0::2, 0] = 1
    rows[1::2] = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    np.testing.assert_allclose(metrics.squared_distances(rows), [0, 1, 2, 4], atol=1e-15)
