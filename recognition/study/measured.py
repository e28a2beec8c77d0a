"""What was measured of one run: from its saved verification, or from results that were kept.

Comparisons need of a run no more than its figures, each of them anew for every draw of people
(the same draws for every run), and which pairs it decided rightly. That is 9 KB a run as JSON, so
results.json keeps it, and runs of another machine are compared with those of this one.
"""

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import numpy as np

from ...common.errors import InputError
from ...common.typed import is_number
from ...eval.all_pairs import FARS, AllPairs, measure
from ...eval.cross_pairs import RatesByPeople, draw_people, thresholds_at
from ...eval.report.statistics import (
    REPLICATES,
    bootstrap_weights,
    held_out_correct,
    weighted_mean,
)
from ...eval.results import load_results
from .compare import Values
from .plan import Study, last_of_measure, results_path
from .runner import Records

_STEPS = 65534  # a share is kept in so many; one more stands for NaN


class Measured(NamedTuple):
    """What was measured of one run."""

    values: dict[str, Values]  # by measure
    people: dict[str, int]  # of each measure's test set; 0: not known
    correct: dict[str, np.ndarray]  # target -> (P,) bool, pairs decided rightly
    digests: dict[str, str]  # test set -> SHA-256 of its pictures and pairs


@dataclass(frozen=True)
class KeptMeasure:
    """A measure of a run in results.json."""

    people: int
    replicates: str  # base64 of uint16 (REPLICATES,); empty where all are the value itself


@dataclass(frozen=True)
class KeptTest:
    """A run's test in results.json, beside its figures."""

    made_by: dict[str, tuple[str, ...]]  # the run, and those that it is made from -> their words
    commands: dict[str, tuple[str, ...]]  # [[test.measure]] -> the words of its commands
    machine: str
    kept: dict[str, KeptMeasure]
    correct: dict[str, str]  # target -> base64 of a bit for each pair
    pairs: dict[str, int]  # target -> number of its pairs
    digests: dict[str, str]


def _measure_set(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Values], int]:
    """TAR at FARS over all pairs of a set of people."""
    digest = str(arrays.get('pairs_digest', ''))
    embedded = AllPairs(arrays['embeddings'], arrays['identities'], arrays.get('impostors'), digest)
    pairs = measure(embedded)
    fars = list(thresholds_at(pairs, FARS))
    if not fars:
        return {}, pairs.people
    rates = RatesByPeople(pairs, fars)
    drawn = draw_people(pairs.people, REPLICATES, 0)  # the same for every run
    replicates = np.array([rates.true_accepts(counts) for counts in drawn])
    value = rates.true_accepts(np.ones(pairs.people))
    return {
        f'{name} TAR@{far:g}': Values(float(value[i]), replicates[:, i])
        for i, far in enumerate(fars)
    }, pairs.people


def _measure_target(
    name: str, arrays: Mapping[str, np.ndarray]
) -> tuple[dict[str, Values], int, np.ndarray]:
    """Ten-fold accuracy of a .bin, and which pairs were decided rightly."""
    issame = arrays['issame']
    correct = held_out_correct(arrays['distances'], issame, arrays['fold_thresholds'])
    rights = correct.astype(float)
    weights = bootstrap_weights(arrays['identities'], issame, REPLICATES, 0)
    replicates = np.array([weighted_mean(rights, each) for each in weights])
    # the mean over folds, as protocols report it; folds of unequal sizes make a difference
    value = float(arrays['fold_accuracies'].mean())
    people = len(np.unique(arrays['identities']))
    return {f'{name} accuracy': Values(value, replicates)}, people, correct


def _picked(result: Any, keys: list, name: str) -> float:
    """result[keys[0]][keys[1]]...: a number, or InputError."""
    for key in keys:
        if not isinstance(result, dict) or str(key) not in result:
            raise InputError(f'[[test.measure]] {name}: the result has no {key!r} of {keys}')
        result = result[str(key)]
    if not is_number(result):
        raise InputError(f'[[test.measure]] {name}: {keys} is {result!r}, no number')
    return float(result)


def measured(study: Study, records: Records, run: str) -> Optional[Measured]:
    """What was measured of a run by the tests that ran here; None if they have not."""
    values, people, correct, digests = {}, {}, {}, {}
    if records.get(f'{run}.test'):
        saved = load_results(results_path(study, run))

        def arrays_of(name: str) -> dict[str, np.ndarray]:
            start = f'{name}/'
            arrays = {
                key[len(start) :]: array
                for key, array in saved.arrays.items()
                if key.startswith(start)
            }
            if 'pairs_digest' in arrays:
                digests[name] = str(arrays['pairs_digest'])
            return arrays

        for name in saved.about.get('all_pairs', {}):
            found, count = _measure_set(name, arrays_of(name))
            values.update(found)
            people.update(dict.fromkeys(found, count))
        for name in saved.about['targets']:
            found, count, correct[name] = _measure_target(name, arrays_of(name))
            values.update(found)
            people.update(dict.fromkeys(found, count))
    for number, each in enumerate(study.tests.get('measure', [])):
        record = records.get(last_of_measure(study, run, number))
        if record:
            value = _picked(record['result'], each['value'], each['name'])
            values[each['name']] = Values(value, np.full(REPLICATES, value))
            people[each['name']] = 0
    return Measured(values, people, correct, digests) if values else None


class MeasuredRuns:
    """What was measured of every run of a study; a run is looked at once, as long as its tests are
    the same."""

    def __init__(self, study: Study, records: Records):
        self._study, self._records = study, records
        self._seen: dict[str, tuple[list, Optional[Measured]]] = {}  # run -> (tests, of them)

    def of(self, run: str) -> Optional[Measured]:
        """As `measured`."""
        count = len(self._study.tests.get('measure', []))
        last = [last_of_measure(self._study, run, number) for number in range(count)]
        tests = [self._records.get(name) for name in (f'{run}.test', *last)]
        if run not in self._seen or self._seen[run][0] != tests:
            self._seen[run] = tests, measured(self._study, self._records, run)
        return self._seen[run][1]


# --- kept in results.json


def _pack(replicates: np.ndarray) -> str:
    """Shares, or NaN, to the nearest of _STEPS."""
    steps = np.where(np.isnan(replicates), _STEPS + 1, np.round(replicates * _STEPS))
    return base64.b64encode(steps.astype('<u2').tobytes()).decode()


def _unpack(text: str) -> np.ndarray:
    steps = np.frombuffer(base64.b64decode(text, validate=True), '<u2')
    return np.where(steps > _STEPS, np.nan, steps / _STEPS)


def _unpack_bits(text: str, count: int) -> np.ndarray:
    packed = np.frombuffer(base64.b64decode(text, validate=True), np.uint8)
    if count < 1 or len(packed) != (count + 7) // 8:
        raise ValueError(f'{len(packed)} bytes for {count} pairs')
    return np.unpackbits(packed, count=count).astype(bool)


def keep(
    run: Measured,
    made_by: Mapping[str, tuple[str, ...]],
    commands: Mapping[str, tuple[str, ...]],
    machine: str,
) -> dict[str, Any]:
    """A `KeptTest` of a run, for JSON; a replicate is rounded by less than 1e-5.

    Parameters
    ----------
    made_by : the run, and what it is made from -> the words of their commands
    commands : [[test.measure]] -> the words of its commands
    """
    constant = {
        name for name, (value, replicates) in run.values.items() if (replicates == value).all()
    }
    return {
        'made_by': {name: list(words) for name, words in made_by.items()},
        'commands': {name: list(words) for name, words in commands.items()},
        'machine': machine,
        'kept': {
            name: {
                'people': run.people[name],
                'replicates': '' if name in constant else _pack(replicates),
            }
            for name, (_, replicates) in run.values.items()
        },
        'correct': {
            name: base64.b64encode(np.packbits(right).tobytes()).decode()
            for name, right in run.correct.items()
        },
        'pairs': {name: len(right) for name, right in run.correct.items()},
        'digests': run.digests,
    }


def restore(measures: Mapping[str, float], kept: KeptTest, what: str) -> Measured:
    """What `keep` kept.

    Parameters
    ----------
    measures : the run's figures
    what : named in the InputError for what is none
    """
    try:
        values = {}
        for name, each in kept.kept.items():
            value = measures[name]
            values[name] = Values(
                value, _unpack(each.replicates) if each.replicates else np.full(REPLICATES, value)
            )
            if len(values[name].replicates) != REPLICATES:
                raise ValueError(f'{name} has {len(values[name].replicates)} replicates')
        correct = {
            name: _unpack_bits(bits, kept.pairs[name]) for name, bits in kept.correct.items()
        }
        if not correct.keys() <= kept.digests.keys():
            raise ValueError('a target without its digest')
    except (ValueError, KeyError) as error:
        raise InputError(f'{what}: the test that was kept is damaged ({error})') from None
    people = {name: each.people for name, each in kept.kept.items()}
    return Measured(values, people, correct, kept.digests)
