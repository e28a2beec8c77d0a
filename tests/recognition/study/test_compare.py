"""Intervals over people and seeds: how often they hold the truth, and what a sentence says."""

import numpy as np
import pytest
from vargfacenet.recognition.study.compare import (
    Estimate,
    Values,
    estimate,
    needed,
    paired,
    sentence,
)


def runs_of(random, seeds, of_people, of_seeds, truth=0.0, replicates=400):
    """Runs of one arm: people deviate alike in all of them, seeds each by itself."""
    people = random.normal(0, of_people)
    draws = random.normal(0, of_people, replicates)  # what drawing people anew would add
    values = truth + people + random.normal(0, of_seeds, seeds)
    return [Values(value, value + draws) for value in values]


@pytest.mark.parametrize('seeds', [2, 3, 5])
@pytest.mark.parametrize(('of_people', 'of_seeds'), [(1, 0), (1, 1), (0, 1)])
def test_intervals_hold_the_truth_as_often_as_they_say(seeds, of_people, of_seeds):
    random = np.random.RandomState(seeds)
    hits = 0
    for _ in range(400):
        found = estimate(runs_of(random, seeds, of_people, of_seeds, truth=3.0))
        hits += found.low <= 3.0 <= found.high
    # 95 %; a binomial count of 400 is within 3.3 deviations of it but for one run in 1,000
    assert hits >= 400 * 0.95 - 3.3 * np.sqrt(400 * 0.95 * 0.05)


def test_plain_draws_of_three_seeds_would_not(monkeypatch):
    monkeypatch.setattr('vargfacenet.recognition.study.compare.stretch', lambda seeds: 1.0)
    random = np.random.RandomState(3)
    hits = 0
    for _ in range(400):
        found = estimate(runs_of(random, 3, 0, 1))
        hits += found.low <= 0 <= found.high
    assert hits < 400 * 0.85


def test_what_seeds_and_people_have_in_common_cancels():
    random = np.random.RandomState(0)
    common = random.normal(0, 0.1, (3, 300))
    first = {seed: Values(0.5, 0.5 + common[seed]) for seed in range(3)}
    second = {seed: Values(0.52, 0.52 + common[seed]) for seed in range(3)}
    found = estimate(list(paired(first, second).values()))
    assert found.low == pytest.approx(0.02) and found.high == pytest.approx(0.02)
    assert found.seeds == 3 and estimate(list(first.values())).of_people > 0.03


def test_pairs_are_of_one_seed():
    values = {seed: Values(float(seed), np.full(5, float(seed))) for seed in range(4)}
    later = {seed: values[seed] for seed in (3, 1)}
    assert {seed: v.value for seed, v in paired(values, later).items()} == {1: 0.0, 3: 0.0}
    given = {None: Values(10.0, np.full(5, 10.0))}
    assert {s: v.value for s, v in paired(given, later).items()} == {3: -7.0, 1: -9.0}
    assert {s: v.value for s, v in paired(later, given).items()} == {3: 7.0, 1: 9.0}
    assert {s: v.value for s, v in paired(given, given).items()} == {None: 0.0}


def test_as_many_as_it_says_would_tell():
    """A study of the size that `needed` names tells a difference in about 80 of 100 tries."""
    random = np.random.RandomState(1)
    truth, of_person, of_seed, people = 0.01, 0.4, 0.002, 1000
    pilot = Estimate(truth, -0.02, 0.04, 3, of_person / np.sqrt(people), of_seed)
    size = needed(pilot, people)
    assert np.isinf(size.seeds)  # people alone make more of a doubt than that
    enough = int(np.ceil(size.people))
    told = 0
    for _ in range(300):
        found = estimate(
            runs_of(random, 3, of_person / np.sqrt(enough), of_seed, truth, replicates=300)
        )
        told += found.low > 0
    assert 0.6 * 300 < told < 0.95 * 300


def test_needed_against_the_formula():
    found = Estimate(0.03, -0.01, 0.07, 4, 0.005, 0.04)
    size = needed(found, 500)
    allowed = (0.03 / (1.959964 + 0.841621)) ** 2
    assert size.seeds == pytest.approx(0.04**2 / (allowed - 0.005**2), rel=1e-5)
    assert np.isinf(size.people)  # four seeds leave more doubt than that
    both = (0.005**2 + 0.04**2 / 4) / allowed
    assert size.times == pytest.approx(both, rel=1e-5)
    sure = needed(found._replace(of_seeds=0.01, of_people=0.02), 500)
    few = (3.182446 / 1.959964) ** 2  # Student's quantile, three degrees of freedom
    assert sure.people == pytest.approx(500 * 0.02**2 / (allowed - few * 0.01**2 / 4), rel=1e-5)


@pytest.mark.parametrize(
    ('found', 'expected', 'absent'),
    [
        (Estimate(0.12, 0.08, 0.16, 3, 0.01, 0.01), ['b is above a by 12.0', '3 seeds'], 'Cannot'),
        (Estimate(-0.12, -0.16, -0.08, 3, 0.01, 0.01), ['b is below a by 12.0'], 'Cannot'),
        (Estimate(0.12, 0.08, 0.16, 1, 0.01, np.nan), ['of these two runs', 'one seed'], 'alone'),
        (
            Estimate(0.02, -0.01, 0.05, 3, 0.01, 0.001),
            ['Cannot be told', 'people in place'],
            'above',
        ),
        (
            Estimate(0.0, 0.0, 0.0, 3, 0.0, 0.0),
            ['Cannot be told', 'difference of nothing'],
            'above',
        ),
    ],
)
def test_a_sentence_claims_what_the_interval_does(found, expected, absent):
    text = sentence('b', 'a', 'TAR', found, 963)
    assert all(part in text for part in expected) and absent not in text
