"""Bootstrap and McNemar against loops, enumeration and known coverage."""

import math

import numpy as np
import pytest
from scipy.stats import binomtest
from vargfacenet.eval.pairs import hits_by_person
from vargfacenet.eval.report.statistics import (
    ErrorRates,
    Interval,
    RateAtFar,
    bootstrap,
    bootstrap_weights,
    cluster_interval,
    doubted,
    equal_error_rate,
    exact_interval,
    held_out_correct,
    mcnemar,
    pair_identities,
    weighted_mean,
    widest,
    with_failures,
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


def pairs_of(rng, ties=False, count=160):
    issame = rng.rand(count) < 0.4
    distances = rng.rand(count) * 2 + ~issame * 0.7
    return (distances.round(1) if ties else distances), issame


@pytest.mark.parametrize('ties', [False, True])
def test_error_rates_are_counts_of_repeated_pairs(rng, ties):
    distances, issame = pairs_of(rng, ties)
    weights = rng.randint(0, 4, len(issame))
    errors = ErrorRates(distances, issame)
    fmr, fnmr = errors(weights.astype(float))
    assert (np.diff(errors.cosines) > 0).all()
    cosines, same = np.repeat(1 - distances / 2, weights), np.repeat(issame, weights)
    for threshold, false_match, false_non_match in zip(errors.cosines, fmr, fnmr):
        accepted = cosines >= threshold
        assert false_match == pytest.approx(accepted[~same].mean())
        assert false_non_match == pytest.approx((~accepted[same]).mean())


def test_the_equal_error_rate_is_where_the_curves_cross(rng):
    """Against the lines between all neighbouring thresholds, in a loop."""
    for ties in (False, True):
        distances, issame = pairs_of(rng, ties)
        fmr, fnmr = ErrorRates(distances, issame)(np.ones(len(issame)))
        crossings = []
        for k in range(len(fmr) - 1):
            for share in np.linspace(0, 1, 2001):
                a = fmr[k] + share * (fmr[k + 1] - fmr[k])
                b = fnmr[k] + share * (fnmr[k + 1] - fnmr[k])
                crossings.append((abs(a - b), (a + b) / 2))
        assert equal_error_rate(fmr, fnmr) == pytest.approx(min(crossings)[1], abs=1e-3)
    apart = np.array([0.1, 0.2, 3.0, 3.5]), np.array([True, True, False, False])
    assert equal_error_rate(*ErrorRates(*apart)(np.ones(4))) == 0
    assert equal_error_rate(*ErrorRates(apart[0][::-1], apart[1])(np.ones(4))) == 1


@pytest.mark.parametrize('far', [0.01, 0.1, 0.5, 1.0])
def test_the_cosine_of_a_far_accepts_as_many_as_it_may(rng, far):
    distances, issame = pairs_of(rng, ties=True)
    cosines, rate = 1 - distances / 2, RateAtFar(distances, issame, far)
    threshold = rate.cosine()
    assert (cosines[~issame] > threshold).mean() <= far
    assert rate(np.ones(len(issame))) == pytest.approx((cosines[issame] > threshold).mean())
    if far < 1:
        assert threshold in cosines and (cosines[~issame] >= threshold).mean() > far


@pytest.mark.parametrize('errors, total', [(0, 7), (1, 500), (30, 60), (60, 60)])
def test_exact_intervals_are_those_of_scipy(errors, total):
    theirs = binomtest(errors, total).proportion_ci(0.95, method='exact')
    got = exact_interval(errors, total)
    assert got == pytest.approx((errors / total, theirs.low, theirs.high))
    assert math.isnan(exact_interval(0, 0).value)


def test_no_errors_are_no_proof_of_none():
    # the rule of three: with 0 of n, the rate is below about 3.7 / n at 97.5 %
    value, low, high = doubted(Interval(1.0, 1.0, 1.0), 500)
    assert (value, high) == (1, 1) and 1 - low == pytest.approx(3.689 / 500, rel=0.01)
    seen = Interval(0.9, 0.8, 0.95)
    assert doubted(seen, 10) == seen
    assert widest(Interval(0.5, 0.4, 0.6), Interval(0.5, math.nan, 0.7)) == (0.5, 0.4, 0.7)


def test_failures_are_refused():
    """500 genuine pairs of which 10 gave no score and 6 of the others are refused."""
    assert with_failures(6 / 490, 10, 490) == pytest.approx(16 / 500)
    assert with_failures(0.25, 0, 80) == 0.25


def test_intervals_over_people_are_wider_than_over_trials(rng):
    """20 people who are found always or never: 40 trials each say no more than one."""
    hits = np.where(np.arange(20) % 2, 40, 0)
    value, low, high = cluster_interval(hits, np.full(20, 40))
    assert value == 0.5
    # the share of 20 people drawn out of halves: binomial, deviation 0.112
    assert low == pytest.approx(0.5 - 1.96 * 0.112, abs=0.04)
    assert high == pytest.approx(0.5 + 1.96 * 0.112, abs=0.04)
    always = cluster_interval(np.full(20, 40), np.full(20, 40))
    assert always.low == pytest.approx(binomtest(800, 800).proportion_ci(0.95).low)


def test_hits_are_counted_by_person(rng):
    labels = np.array(['b', 'a', 'b', 'd', 'c'])
    rows = rng.randint(0, 4, 50)  # c has no trial
    hits = rng.rand(3, 50) < 0.5
    counted, totals = hits_by_person(labels, rows, hits)
    for place, name in enumerate('abd'):
        mine = labels[rows] == name
        assert totals[place] == mine.sum()
        assert counted[:, place].tolist() == hits[:, mine].sum(axis=1).tolist()
