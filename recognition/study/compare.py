"""What a study's runs tell: paired differences with intervals over people and seeds.

Two things could have been otherwise: who is in the test, and the seed (initial weights, order of
the data). A replicate draws people with replacement, the same for every run, and seeds with
replacement, the same for both arms of a comparison (a hierarchical bootstrap; Davison and Hinkley
1997, section 3.8).

Few seeds know too little of how seeds differ: among S, drawn with replacement, the variance of a
mean comes out (S - 1)/S of what it is, and its quantiles are a normal distribution's where
Student's are due. So the deviation of the drawn seeds from the mean over seeds is stretched by
t(S - 1)/1.96 * sqrt(S/(S - 1)): 2.7 for three seeds, 1.6 for five. With one seed nothing is known
of others, and the sentence says so.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm, t

from ...eval.report.statistics import CONFIDENCE

_POWER = 0.8  # with which a difference as large as the one seen should be told
_MOST = 1_000_000  # seeds or people beyond which a number says no more than 'more'


class Values(NamedTuple):
    """One measure of one run."""

    value: float
    replicates: np.ndarray  # (R,) float64, with people drawn; of a constant: the value itself


class Estimate(NamedTuple):
    """A number with its interval, and where its uncertainty comes from."""

    value: float
    low: float
    high: float
    seeds: int
    of_people: float  # standard deviation that the draw of people alone makes
    of_seeds: float  # standard deviation from seed to seed; NaN of one seed


def stretch(seeds: int) -> float:
    """By how much deviations of drawn seeds are too small; 0 where there is but one."""
    if seeds < 2:
        return 0.0
    tail = (1 + CONFIDENCE) / 2
    return float(t.ppf(tail, seeds - 1) / norm.ppf(tail) * np.sqrt(seeds / (seeds - 1)))


def estimate(runs: Sequence[Values], seed: int = 0) -> Estimate:
    """The mean over seeds with its interval (95 %).

    Parameters
    ----------
    runs : of one arm, or paired differences, one a seed
    seed : of the draw of seeds
    """
    values = np.array([run.value for run in runs])
    replicates = np.array([run.replicates for run in runs])  # (S, R)
    count, draws = replicates.shape
    drawn = np.random.RandomState(seed).multinomial(count, np.full(count, 1 / count), draws)
    means = replicates.mean(axis=0)
    deviations = drawn / count @ (values - values.mean())
    tail = 100 * (1 - CONFIDENCE) / 2
    low, high = np.nanpercentile(means + stretch(count) * deviations, (tail, 100 - tail))
    return Estimate(
        float(values.mean()),
        float(low),
        float(high),
        count,
        float(np.nanstd(means)),
        float(values.std(ddof=1)) if count > 1 else float('nan'),
    )


def paired(first: Mapping[int, Values], second: Mapping[int, Values]) -> dict[int, Values]:
    """second - first, for the seeds that both have.

    An arm of one run that no seed made (a network that was there) goes with every seed: it is
    given with the seed None alone.
    """
    if set(first) == {None}:
        first = dict.fromkeys(second, first[None])
    if set(second) == {None}:
        second = dict.fromkeys(first, second[None])
    return {
        seed: Values(
            second[seed].value - first[seed].value, second[seed].replicates - first[seed].replicates
        )
        for seed in first
        if seed in second
    }


class Needed(NamedTuple):
    """How large a study would tell a difference; inf where no number does."""

    seeds: float  # with these people
    people: float  # with these seeds
    times: float  # so many times both


def needed(difference: Estimate, people: int) -> Needed:
    """Seeds or people that would tell a difference as large as this one, with 95 % and power 80 %.

    The variance of a difference is V_p / people + V_s / seeds; both parts are known here, and a
    difference d is told with this power if the sum is at most (d / 2.8)**2. It takes the
    difference that was seen for the true one, so it is a guide and no promise. Where the seeds
    stay as few as they are, their part counts by Student's quantile, as in the intervals.
    """
    tail = (1 + CONFIDENCE) / 2
    reach = norm.ppf(tail) + norm.ppf(_POWER)
    allowed = (difference.value / reach) ** 2
    of_people = difference.of_people**2
    of_one_seed = 0.0 if np.isnan(difference.of_seeds) else difference.of_seeds**2
    of_seeds = of_one_seed / difference.seeds
    few = (t.ppf(tail, difference.seeds - 1) / norm.ppf(tail)) ** 2 if difference.seeds > 1 else 1
    seeds = of_one_seed / (allowed - of_people) if allowed > of_people else np.inf
    more = people * of_people / (allowed - few * of_seeds) if allowed > few * of_seeds else np.inf
    return Needed(seeds, more, (of_people + of_seeds) / allowed if allowed else np.inf)


def _number(value: float) -> str:
    """'about 40', rounded to two digits."""
    if value > _MOST:
        return f'more than {_MOST:,}'
    digits = max(int(np.floor(np.log10(max(value, 1)))) - 1, 0)
    return f'about {int(np.ceil(value / 10**digits)) * 10**digits:,}'


def _what_it_takes(difference: Estimate, people: int) -> str:
    size = needed(difference, people)
    ways = []
    if people and np.isfinite(size.people):
        ways.append(f'{_number(max(size.people, people + 1))} people in place of {people:,}')
    if difference.seeds > 1 and np.isfinite(size.seeds):
        seeds = max(np.ceil(size.seeds), difference.seeds + 1)
        ways.append(f'{_number(seeds)} seeds in place of {difference.seeds}')
    if not ways:
        if not np.isfinite(size.times):
            return 'no number of people or seeds would tell a difference of nothing'
        ways = [f'{_number(size.times)} times as many people and seeds']
    return f'if that is the true difference, it would take {" or ".join(ways)}'


def sentence(arm: str, against: str, measure: str, difference: Estimate, people: int) -> str:
    """What may be claimed of a comparison, and what not.

    Parameters
    ----------
    arm, against, measure : names; the difference is arm - against, a share 0..1
    people : in the test set; 0 if it is not known
    """
    value, low, high = (100 * number for number in difference[:3])
    interval = f'95 %: {low:+.1f} to {high:+.1f}'
    seeds = f'{difference.seeds} seeds' if difference.seeds > 1 else 'one seed'
    over = f'{seeds}, {people:,} people' if people else seeds
    if low > 0 or high < 0:
        side = 'above' if low > 0 else 'below'
        text = f'{arm} is {side} {against} by {abs(value):.1f} points of {measure} ({interval}; '
        text += f'{over}). '
        if difference.seeds == 1:
            return text + 'It may be said of these two runs; what other seeds give is not known.'
        return text + 'It may be said of this network, these data and this number of steps alone.'
    text = f'Cannot be told: {arm} - {against} is {value:+.1f} points of {measure} ({interval}; '
    return text + f'{over}); {_what_it_takes(difference, people)}.'
