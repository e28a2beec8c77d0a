"""What a study's runs gave: saved verifications -> one JSON-able table of figures and claims."""

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, Optional

from ...common.arrays import digest_of
from ...common.errors import InputError
from ...common.parallel import cpu_count, cpu_name
from ...eval.all_pairs import load_images
from ...eval.datasets import load_bin
from ...eval.report.statistics import mcnemar
from ...eval.targets import resolve_sets, resolve_targets
from .compare import Estimate, estimate, paired, sentence
from .measured import Measured, MeasuredRuns, keep, restore
from .plan import (
    DISTILL,
    GIVEN,
    TEACH,
    TRAIN,
    Arm,
    Study,
    made_by,
    make_jobs,
    measure_words,
    run_name,
    run_of,
)
from .result_file import read_arms
from .runner import Records

log = logging.getLogger(__name__)


def _as_dict(found: Estimate) -> dict[str, Any]:
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in found._asdict().items()
    }


class Run(NamedTuple):
    """A run that was tested, here or elsewhere."""

    seconds: Optional[float]  # wall clock; None of a network that was there
    machine: str
    measured: Measured


def known_runs(study: Study, path: Path) -> dict[str, Run]:
    """Runs of a study's results.json that are those of this study, by name; the others are told.

    Raises InputError as `read_arms`, and for a test that is damaged.
    """
    known, others, bare, parts = {}, [], [], []
    measures = {each['name']: measure_words(each) for each in study.tests.get('measure', [])}
    for name, arm in read_arms(path).items():
        own = study.arms.get(name)
        seeds = {str(seed): seed for seed in own.seeds} if own else {}
        for text, entry in arm.runs.items():
            run = run_name(own, seeds[text]) if text in seeds else f'{name}, seed {text}'
            test = entry.test
            if test is None:
                bare.append(run)
            elif (
                text not in seeds
                or test.made_by != made_by(study, own, seeds[text])
                or test.commands != measures
            ):
                others.append(run)
            elif not measures.keys() <= test.kept.keys():  # the study ended between two tests
                parts.append(run)
            else:
                values = restore(entry.measures, test, f'{path}: {run}')
                known[run] = Run(entry.seconds, test.machine, values)
    log.info('%s: %d runs of this study', path, len(known))
    if others:
        log.warning('%s: made otherwise than here, left out: %s', path, ', '.join(others))
    if parts:
        log.warning('%s: not all of their tests ran, left out: %s', path, ', '.join(parts))
    if bare:
        log.warning('%s: without their tests, left out: %s', path, ', '.join(bare))
    return known


def check_same_tests(study: Study, known: Mapping[str, Run], path: Path) -> None:
    """InputError where runs were not tested on the very sets that there are here."""
    if not known:
        return
    targets = resolve_targets(study.tests['target'], None) if study.tests.get('target') else {}
    here = {name: digest_of(*load_bin(file)) for name, file in targets.items()}
    for name, file in resolve_sets(study.tests.get('pairs', []), targets).items():
        here[name] = digest_of(*load_images(file))
    for run, each in known.items():
        for name, digest in here.items():
            if each.measured.digests.get(name) != digest:
                raise InputError(
                    f'{path}: {run} was not tested on the {name} that is here; make the one that '
                    'it had, or leave --known out'
                )


def _arm_entry(study: Study, arm: Arm, runs: Mapping[Any, Run], about: Mapping) -> dict[str, Any]:
    """One arm's part of the result."""
    names = list(dict.fromkeys(name for run in runs.values() for name in run.measured.values))
    entry: dict[str, Any] = {
        'command': arm.kind,
        'options': dict(arm.options),
        'model': arm.model,
        **about.get(arm.name, {}),
        'runs': {},
        'measures': {},
        'published': study.content.get('published', {}).get(arm.name, {}),
    }
    commands = {each['name']: measure_words(each) for each in study.tests.get('measure', [])}
    for seed in arm.seeds:
        run = runs.get(seed if arm.seeded else None)
        if run:
            values = run.measured.values.items()
            entry['runs'][str(seed)] = {
                'seconds': run.seconds,
                'measures': {name: value.value for name, value in values},
                'test': keep(run.measured, made_by(study, arm, seed), commands, run.machine),
            }
    for name in names:
        values = [run.measured.values[name] for run in runs.values() if name in run.measured.values]
        found = estimate(values)
        found = found._replace(low=max(found.low, 0.0), high=min(found.high, 1.0))  # it is a share
        entry['measures'][name] = _as_dict(found)
    return entry


def _mcnemars(
    first: Mapping[Any, Measured], second: Mapping[Any, Measured]
) -> dict[str, dict[str, Any]]:
    """McNemar's test on every target, seed by seed, on the same pairs."""
    found: dict[str, dict[str, Any]] = {}
    for seed in first if set(second) == {None} else second:
        before, after = (runs.get(seed, runs.get(None)) for runs in (first, second))
        if before is None or after is None:
            continue
        for target, right in after.correct.items():
            digest = after.digests.get(target)
            if digest is None or before.digests.get(target) != digest:
                continue
            test = mcnemar(right, before.correct[target])
            each = found.setdefault(target, {'only_arm': 0, 'only_against': 0, 'p_values': []})
            each['only_arm'] += test.only_first
            each['only_against'] += test.only_second
            each['p_values'].append(test.p_value)
    return found


def _compare(
    names: tuple[str, str], first: Mapping[Any, Measured], second: Mapping[Any, Measured]
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


def _runs(
    study: Study, records: Records, seen: MeasuredRuns, known: Mapping[str, Run], here: str
) -> dict[str, dict[Any, Run]]:
    """Arm -> seed -> run, of those that were tested; None for the seed of a network that was there.

    `here` is this machine's name.
    """
    jobs = make_jobs(study)

    def find(name: str) -> Optional[Run]:
        own = [job for job in jobs.values() if run_of(job.name) == name]
        # what ran here by other words, or in part, is no reason to forget the run that is known
        if name in known and not all(records.is_done(job) for job in own):
            return known[name]
        found = seen.of(name)
        if found is None:
            return None
        record = records.get(name)
        return Run(record['seconds'] if record else None, here, found)

    runs = {}
    for arm in study.arms.values():
        if arm.kind != TEACH:
            found = {seed if arm.seeded else None: find(run_name(arm, seed)) for seed in arm.seeds}
            runs[arm.name] = {seed: run for seed, run in found.items() if run is not None}
    return runs


def _answers(study: Study, runs: Mapping[str, Mapping[Any, Run]]) -> list[dict[str, Any]]:
    """The questions, each with its comparisons."""
    tests = {
        name: {seed: run.measured for seed, run in found.items()} for name, found in runs.items()
    }
    answers = []
    for question in study.questions:
        first, *others = question['arms']
        entries = [
            entry
            for arm in others
            if tests[first] and tests[arm]
            for entry in _compare((first, arm), tests[first], tests[arm])
        ]
        answers.append({**question, 'comparisons': entries})
    return answers


def gather(
    study: Study,
    records: Records,
    seen: MeasuredRuns,
    about: Mapping[str, Mapping],
    known: Mapping[str, Run] = MappingProxyType({}),
) -> dict[str, Any]:
    """The result of a study as far as its runs are there.

    Parameters
    ----------
    seen : of these records
    about : arm -> what is known of its network (params, mflops, steps ...), for the table
    known : runs from elsewhere, by name; one that has run here as well is taken from here
    """
    here = f'{cpu_name()}, {cpu_count()} CPUs'
    runs = _runs(study, records, seen, known, here)
    machines = [run.machine for found in runs.values() for run in found.values()]
    return {
        'title': study.title,
        'note': study.content.get('note', ''),
        'measure': study.content.get('measure', ''),
        'study': study.content,
        'arms': {
            name: _arm_entry(study, study.arms[name], found, about) for name, found in runs.items()
        },
        'questions': _answers(study, runs),
        'missing': [
            run_name(arm, seed)
            for arm in study.arms.values()
            if arm.kind in (TRAIN, DISTILL, GIVEN)
            for seed in arm.seeds
            if (seed if arm.seeded else None) not in runs[arm.name]
        ],
        'machine': '; '.join(dict.fromkeys(machines)) or here,
    }
