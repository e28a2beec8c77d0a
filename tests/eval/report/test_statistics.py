"""Bootstrap and McNemar against loops, enumeration and known coverage."""

import math

import numpy as np
import pytest
from vargfacenet.eval.report.statistics import (
    RateAtFar,
    bootstrap,
    bootstrap_weights,
    held_out_correct,
    mcnemar,
    pair_identities,
    weighted_mean,
)


def test_identities_are_what_connects_the_pictures(rng):
    """0 1 | 1 2 same, 3 4 different, 5 6 same, 0 7 different; pictures are told by content."""
    pictures = rng.randint(0, 256, (8, 4, 4, 3), np.uint8)
    images = pictures[[0, 1, 1, 2, 3, 4, 5, 6, 0, 7]]
    identities = pair_identities(images, np.array([True, True, False, True, False]))
    a, b, c, d, e = identities
    assert a[0] == a[1] == b[0] == b[1] == e[0]
    assert len({a[0], c[0], c[1], d[0], e[1]}) == 5
    assert d[0] == d[1]


def test_held_out_decisions_are_those_of_the_accuracy(rng):
    from vargfacenet.eval.metrics import k_fold_accuracy

    issame = rng.rand(103) < 0.5
    distances = rng.rand(103) * 2 + ~issame * 0.5
    folds = k_fold_accuracy(distances, issame, 10)
    correct = held_out_correct(distances, issame, folds.threshold)
    sizes = [11] * 3 + [10] * 7
    means = [part.mean() for part in np.split(correct, np.cumsum(sizes)[:-1])]
    assert means == pytest.approx(folds.accuracy.tolist())


def test_weights_are_products_of_how_often_people_were_drawn():
    identities = np.array([[7, 7], [7, 9], [9, 30], [30, 30]])
    issame = identities[:, 0] == identities[:, 1]
    seen = np.array(list(bootstrap_weights(identities, issame, 4000)))
    of_7, of_30 = seen[:, 0], seen[:, 3]
    of_9 = 3 - of_7 - of_30  # three people are drawn
    assert (seen[:, 1] == of_7 * of_9).all() and (seen[:, 2] == of_9 * of_30).all()
    assert of_7.mean() == pytest.approx(1, abs=0.05)
    assert of_7.var() == pytest.approx(2 / 3, abs=0.06)  # binomial, 3 draws of 1/3


@pytest.mark.parametrize('far', [0.001, 0.05, 0.3, 1.0])
@pytest.mark.parametrize('ties', [False, True])
def test_rate_at_far_with_weights_is_that_of_repeated_pairs(rng, far, ties):
    issame = rng.rand(200) < 0.5
    distances = rng.rand(200) + ~issame * 0.4
    if ties:
        distances = distances.round(1)
    weights = rng.randint(0, 4, 200)
    got = RateAtFar(distances, issame, far)(weights.astype(float))
    d, s = np.repeat(distances, weights), np.repeat(issame, weights)
    best = 0.0
    for threshold in [*np.unique(d), np.inf]:
        if (d[~s] < threshold).mean() <= far:
            best = max(best, (d[s] < threshold).mean())
    assert got == pytest.approx(best, abs=1e-12)


def test_interval_covers_the_truth():
    """People are easy or hard: intervals over people cover a known mean, over pairs they do not."""
    random = np.random.RandomState(5)
    covered = naive = 0
    trials = 120
    for trial in range(trials):
        people, each = 60, 10
        easy = random.rand(people) < 0.7
        correct = np.repeat(easy, each).astype(float)
        identities = np.repeat(np.arange(people), each)[:, None].repeat(2, axis=1)
        issame = np.ones(len(correct), bool)
        (interval,) = bootstrap(
            lambda weights, correct=correct: np.array([weighted_mean(correct, weights)]),
            identities,
            issame,
            200,
            trial,
        )
        covered += interval.low <= 0.7 <= interval.high
        error = 1.96 * math.sqrt(correct.var() / len(correct))
        naive += abs(correct.mean() - 0.7) <= error
    assert covered / trials > 0.87
    assert naive / trials < 0.6


@pytest.mark.parametrize(('only_first', 'only_second'), [(0, 0), (3, 12), (40, 41), (9, 0)])
def test_mcnemar_by_enumeration(only_first, only_second):
    first = np.array([True] * only_first + [False] * only_second + [True, False] * 10)
    second = np.array([False] * only_first + [True] * only_second + [True, False] * 10)
    result = mcnemar(first, second)
    assert (result.only_first, result.only_second) == (only_first, only_second)
    total, low = only_first + only_second, min(only_first, only_second)
    tail = sum(math.comb(total, k) for k in range(low + 1)) / 2**total
    assert result.p_value == pytest.approx(min(1, 2 * tail), rel=1e-9)
