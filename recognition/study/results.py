"""What a study's runs gave: saved verifications -> one JSON-able table of figures and claims."""

import math
from collections.abc import Mapping, Sequence
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
    mcnemar,
    weighted_mean,
)
from ...eval.results import Results, load_results
from .compare import Estimate, Values, estimate, paired, sentence
from .plan import DISTILL, GIVEN, TEACH, TRAIN, Arm, Study, last_of_measure, results_path, run_name
from .runner import Records


class Tested(NamedTuple):
    """What was measured of one run."""

    values: dict[str, Values]  # by measure
    people: dict[str, int]  # of each measure's test set; 0: not known
    correct: dict[str, tuple[str, np.ndarray]]  # target -> (digest of its pairs, (P,) bool)


def _measure_set(name: str, arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, Values], int]:
    """TAR at FARS over all pairs of a set of people."""
    embedded = AllPairs(arrays['embeddings'], arrays['identities'], arrays.get('impostors'))
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


def _arrays_of(saved: Results, name: str) -> dict[str, np.ndarray]:
    prefix = f'{name}/'
    return {
        key[len(prefix) :]: array for key, array in saved.arrays.items() if key.startswith(prefix)
    }


def _tested(study: Study, records: Records, run: str) -> Optional[Tested]:
    """What was measured of a run; None if its test has not been run."""
    values, people, correct = {}, {}, {}
    if records.get(f'{run}.test'):
        saved = load_results(results_path(study, run))
        for name in saved.about.get('all_pairs', {}):
            found, count = _measure_set(name, _arrays_of(saved, name))
            values.update(found)
            people.update(dict.fromkeys(found, count))
        for name in saved.about['targets']:
            arrays = _arrays_of(saved, name)
            found, count, right = _measure_target(name, arrays)
            values.update(found)
            people.update(dict.fromkeys(found, count))
            correct[name] = (str(arrays['pairs_digest']), right)
    for number, each in enumerate(study.tests.get('measure', [])):
        record = records.get(last_of_measure(study, run, number))
        if record:
            value = _picked(record['result'], each['value'], each['name'])
            values[each['name']] = Values(value, np.full(REPLICATES, value))
            people[each['name']] = 0
    return Tested(values, people, correct) if values else None


def _picked(result: Any, keys: Sequence[str], name: str) -> float:
    """result[keys[0]][keys[1]]...: a number, or InputError."""
    for key in keys:
        if not isinstance(result, dict) or str(key) not in result:
            raise InputError(f'[[test.measure]] {name}: the result has no {key!r} of {keys}')
        result = result[str(key)]
    if not is_number(result):
        raise InputError(f'[[test.measure]] {name}: {keys} is {result!r}, no number')
    return float(result)


def _as_dict(found: Estimate) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in found._asdict().items()
    }


def _arm_entry(
    study: Study, arm: Arm, records: Records, tested: Mapping[Any, Tested], about: Mapping
) -> dict[str, Any]:
    """One arm's part of the result."""
    names = list(dict.fromkeys(name for each in tested.values() for name in each.values))
    entry: dict[str, Any] = {
        'command': arm.kind,
        'options': dict(arm.options),
        'model': arm.model,
        **about.get(arm.name, {}),
        'runs': {},
        'measures': {},
        'published': study.content.get('published', {}).get(arm.name, {}),
    }
    for seed in arm.seeds:
        record = records.get(run_name(arm, seed))
        run = tested.get(seed if arm.seeded else None)
        if run:
            entry['runs'][str(seed)] = {
                'seconds': record['seconds'] if record else None,
                'measures': {name: value.value for name, value in run.values.items()},
            }
    for name in names:
        runs = [each.values[name] for each in tested.values() if name in each.values]
        found = estimate(runs)
        found = found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))  # it is a share
        entry['measures'][name] = _as_dict(found)
    return entry


def _mcnemars(
    first: Mapping[Any, Tested], second: Mapping[Any, Tested]
) -> dict[str, dict[str, Any]]:
    """McNemar's test on every target, seed by seed, on the same pairs."""
    found: dict[str, dict[str, Any]] = {}
    for seed in first if set(second) == {None} else second:
        before, after = (runs.get(seed, runs.get(None)) for runs in (first, second))
        if before is None or after is None:
            continue
        for target, (digest, right) in after.correct.items():
            if before.correct.get(target, ('', None))[0] != digest:
                continue
            test = mcnemar(right, before.correct[target][1])
            each = found.setdefault(target, {'only_arm': 0, 'only_against': 0, 'p_values': []})
            each['only_arm'] += test.only_first
            each['only_against'] += test.only_second
            each['p_values'].append(test.p_value)
    return found


def _compare(
    names: tuple[str, str], first: Mapping[Any, Tested], second: Mapping[Any, Tested]
) -> list[dict[str, Any]]:
    """Every measure of `second` against `first`."""
    against, arm = names
    measures = [
        name
        for name in next(iter(second.values())).values
        if name in next(iter(first.values())).values
    ]
    tests = _mcnemars(first, second)
    entries = []
    for name in measures:
        each = [
            {seed: run.values[name] for seed, run in runs.items() if name in run.values}
            for runs in (first, second)
        ]
        differences = paired(*each)
        if not differences:
            continue
        found = estimate(list(differences.values()))
        people = next(iter(second.values())).people[name]
        entries.append(
            {
                'arm': arm,
                'against': against,
                'measure': name,
                'people': people,
                'difference': _as_dict(found),
                'by_seed': {str(seed): value.value for seed, value in differences.items()},
                'told': bool(found.low > 0 or found.high < 0),
                'sentence': sentence(arm, against, name, found, people),
                'mcnemar': tests.get(name.removesuffix(' accuracy')),
            }
        )
    return entries


def gather(study: Study, records: Records, about: Mapping[str, Mapping]) -> dict[str, Any]:
    """The result of a study as far as its runs are there.

    Parameters
    ----------
    about : arm -> what is known of its network (params, mflops, steps ...), for the table
    """
    tested: dict[str, dict[Any, Tested]] = {}
    for arm in study.arms.values():
        if arm.kind == TEACH:
            continue
        runs = {seed: _tested(study, records, run_name(arm, seed)) for seed in arm.seeds}
        tested[arm.name] = {
            seed if arm.seeded else None: run for seed, run in runs.items() if run is not None
        }
    questions = []
    for question in study.questions:
        first, *others = question['arms']
        entries = [
            entry
            for arm in others
            if tested[first] and tested[arm]
            for entry in _compare((first, arm), tested[first], tested[arm])
        ]
        questions.append({**question, 'comparisons': entries})
    return {
        'title': study.title,
        'note': study.content.get('note', ''),
        'measure': study.content.get('measure', ''),
        'study': study.content,
        'arms': {
            name: _arm_entry(study, study.arms[name], records, runs, about)
            for name, runs in tested.items()
        },
        'questions': questions,
        'missing': [
            run_name(arm, seed)
            for arm in study.arms.values()
            if arm.kind in (TRAIN, DISTILL, GIVEN)
            for seed in arm.seeds
            if (seed if arm.seeded else None) not in tested[arm.name]
        ],
    }
