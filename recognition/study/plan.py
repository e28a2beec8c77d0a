"""A study file -> jobs: what has to run, in which order, and how each is started.

The file is TOML; docs/studies.md has its parts. An *arm* is one way to get a network; with a seed
it is a *run*. A value `run:ARM` in an arm is the model of that arm's run of the same seed (of its
only seed, if it has one), or the store that a `teach` arm makes, and is waited for.
"""

import json
import re
import sys
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional

from ...common import limits
from ...common.errors import InputError
from ...common.files import PathLike, input_file
from ...common.registry import unknown_name
from ...common.typed import taken

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

TRAIN, DISTILL, TEACH, GIVEN = 'train', 'distill', 'teach', 'given'  # kinds of arms
DATA, TEST = 'data', 'test'  # kinds of other jobs
REFERENCE = 'run:'
_NAME = re.compile(r'[A-Za-z0-9][A-Za-z0-9_+-]*')  # no dot: job names have one
_MAKERS = ('make-rec', 'make-bin', 'make-pairs', 'synth', 'align')
_RESERVED = {'name', 'models-root', 'resume', 'overwrite', 'seed', 'target', 'json'}
_TABLE = dict[str, Any]
_PARTS = {
    'title': str,
    'note': str,
    'runs': str,
    'seeds': list[Any],
    'measure': str,
    'options': _TABLE,
    'data': list[_TABLE],
    'test': _TABLE,
    'arms': dict[str, _TABLE],
    'questions': list[_TABLE],
    'published': dict[str, dict[str, float]],
}
_TEST_PARTS = {'pairs': list[str], 'target': list[str], 'measure': list[_TABLE]}
_MEASURE_PARTS = {'name': str, 'commands': list[list[Any]], 'value': list[Any]}
_QUESTION_PARTS = {'ask': str, 'arms': list[str], 'note': str}
_DATA_PARTS = {'makes': str, 'command': list[Any]}


@dataclass(frozen=True)
class Arm:
    """One way to get a network."""

    name: str
    kind: str  # TRAIN, DISTILL, TEACH or GIVEN
    options: Mapping[str, Any]  # of its command, without those of [options]
    seeds: tuple[int, ...]  # of a TEACH or GIVEN arm: (0,), which stands for all
    model: str = ''  # of a GIVEN arm

    @property
    def seeded(self) -> bool:
        return self.kind in (TRAIN, DISTILL)


@dataclass(frozen=True)
class Job:
    """One child process to run."""

    name: str  # of its record and log
    kind: str
    words: tuple[str, ...]  # command and options; {NAME} is the product of the job NAME
    after: tuple[str, ...] = ()  # jobs whose products it needs
    makes: str = ''  # of a data job: the file that shows that it is done
    alone: str = ''  # of jobs with equal texts here one runs at a time
    folder: str = ''  # of a training run, below `runs`


@dataclass(frozen=True)
class Study:
    """A study file that was read and checked."""

    path: str
    content: dict[str, Any]  # the file's
    title: str
    runs: Path
    arms: dict[str, Arm]
    questions: tuple[Mapping[str, Any], ...]
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def tests(self) -> Mapping[str, Any]:
        return self.content['test']


# --- reading


def _typed(values: Mapping[str, Any], parts: Mapping[str, Any], what: str) -> dict[str, Any]:
    """`values` if they are known parts of their types; otherwise InputError."""
    for name in values:
        if name not in parts:
            raise unknown_name(f'part of {what}', name, parts)
    return {name: taken(value, parts[name], f'{what}: {name}') for name, value in values.items()}


def _seeds(values: Any, what: str) -> tuple[int, ...]:
    known = isinstance(values, list) and all(type(seed) is int and seed >= 0 for seed in values)
    if not values or not known:
        raise InputError(f'{what}: seeds are {values!r}; expected whole numbers, e.g. [0, 1, 2]')
    if len(set(values)) < len(values):
        raise InputError(f'{what}: seeds {values!r} name one twice')
    return tuple(values)


def _arm(name: str, values: Mapping[str, Any], seeds: list) -> Arm:
    what = f'arm {name}'
    if not _NAME.fullmatch(name):
        raise InputError(f'{what}: expected letters, digits and _ + - in the name')
    values = dict(values)
    kind = values.pop('command', GIVEN if 'model' in values else None)
    if kind == GIVEN:
        if set(values) != {'model'} or not isinstance(values['model'], str):
            raise InputError(f'{what}: a model that is there has `model` alone, a text')
        return Arm(name, GIVEN, {}, (0,), values['model'])
    if kind not in (TRAIN, DISTILL, TEACH):
        raise InputError(
            f'{what}: command is {kind!r}; expected train, distill or teach, or `model` of one '
            f'that is there'
        )
    seeds = values.pop('seeds', seeds if kind != TEACH else [0])
    for option in _RESERVED & values.keys():
        raise InputError(f'{what}: {option} is what the study gives; leave it out')
    return Arm(name, kind, values, _seeds(seeds, what))


def _check_questions(questions: list, arms: Mapping[str, Arm]) -> None:
    for question in questions:
        _typed(question, _QUESTION_PARTS, 'a question')
        names = question.get('arms', [])
        if 'ask' not in question or len(names) < 2:
            raise InputError(f'question {question}: expected `ask` and two `arms` or more')
        for name in names:
            if name not in arms:
                raise unknown_name(f'arm of the question {question["ask"]!r}', name, arms)
            if arms[name].kind == TEACH:
                raise InputError(f'question {question["ask"]!r}: {name} makes no network')


def read_study(path: PathLike) -> Study:
    """A study from its file.

    Raises
    ------
    InputError for a file that is no TOML, an unknown part, and arms that refer to none.
    """
    path = input_file(path, 'study')
    limits.within(path.stat().st_size, limits.STUDY_BYTES, f'study {path}: its size in bytes')
    try:
        content = tomllib.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:  # no UTF-8, or no TOML
        raise InputError(f'study {path} is no TOML: {error}') from None
    try:
        json.dumps(content, allow_nan=False)  # it stands in the results
    except (TypeError, ValueError) as error:
        raise InputError(f'study {path}: {error}; a date in quotes is a text') from None
    except RecursionError:  # tables in tables, which TOML may name in one line
        raise InputError(f'study {path} is nested too deep') from None
    _typed(content, _PARTS, f'study {path}')
    for part in ('arms', 'test'):
        if not content.get(part):
            raise InputError(f'study {path}: the table [{part}] is missing')
    tests = _typed(content['test'], _TEST_PARTS, '[test]')
    for measure in tests.get('measure', []):
        _typed(measure, _MEASURE_PARTS, '[[test.measure]]')
        if set(measure) != set(_MEASURE_PARTS) or not all(measure.values()):
            raise InputError(f'[[test.measure]] {measure}: expected name, commands and value')
    for maker in content.get('data', []):
        _typed(maker, _DATA_PARTS, '[[data]]')
        if set(maker) != set(_DATA_PARTS) or maker['command'][:1] not in [[m] for m in _MAKERS]:
            raise InputError(f'[[data]] {maker}: expected `makes`, and a command of {_MAKERS}')
    for option in _RESERVED & content.get('options', {}).keys():
        raise InputError(f'[options]: {option} is what the study gives; leave it out')
    seeds = content.get('seeds', [0])
    arms = {name: _arm(name, values, seeds) for name, values in content['arms'].items()}
    runs = sum(len(arm.seeds) for arm in arms.values())
    limits.within(runs, limits.STUDY_RUNS, f'study {path}: its number of runs')
    questions = content.get('questions', [])
    _check_questions(questions, arms)
    for name, figures in content.get('published', {}).items():
        if name not in arms:
            raise unknown_name('arm in [published]', name, arms)
        for measure, value in figures.items():
            if not 0 <= value <= 1:
                raise InputError(f'[published.{name}] {measure}: {value} is no share; 0..1')
    folder = Path(content.get('runs', f'runs/{path.stem}'))
    title = content.get('title', path.stem)
    options = content.get('options', {})
    return Study(str(path), content, title, folder, arms, tuple(questions), options)


# --- words of a command line


def option_words(options: Mapping[str, Any]) -> list[str]:
    """`{'lr': 0.1, 'network-option': {'multiplier': 0.25}}` as words of a command line.

    True is a flag alone, false leaves the option out; a list is joined by commas.
    """
    words = []
    for name, value in options.items():
        flag = '--' + name.replace('_', '-')
        if value is True:
            words.append(flag)
        elif isinstance(value, dict):
            words += [word for key, each in value.items() for word in (flag, f'{key}={each}')]
        elif isinstance(value, list):
            words += [flag, ','.join(map(str, value))]
        elif value is not False:
            words += [flag, str(value)]
    return words


def run_name(arm: Arm, seed: int) -> str:
    """Of a run's folders, record and log."""
    return f'{arm.name}-s{seed}' if arm.seeded else arm.name


def _referred(study: Study, arm: Arm, option: str, value: Any, seed: int) -> Optional[str]:
    """Name of the run that an option's value refers to; None if it is no reference."""
    if not isinstance(value, str) or not value.startswith(REFERENCE):
        return None
    name = value[len(REFERENCE) :]
    if name not in study.arms:
        raise unknown_name(f'arm that {option} of {arm.name} refers to', name, study.arms)
    other = study.arms[name]
    if other.kind == GIVEN:
        return other.name
    if seed in other.seeds:
        return run_name(other, seed)
    if len(other.seeds) == 1:
        return run_name(other, other.seeds[0])
    raise InputError(f'arm {arm.name}, {option}: {name} has no seed {seed}; it has {other.seeds}')


def options_of(study: Study, arm: Arm) -> dict[str, Any]:
    """All options of an arm's command; its own come before those of [options]."""
    if arm.kind == TEACH:
        shared = {name: study.options[name] for name in ('data-dir',) if name in study.options}
        return {**shared, **arm.options}
    options = {**study.options, **arm.options}
    if arm.kind == DISTILL:
        # one generation a run: the next is an arm that starts from it. Two runs must not make one
        # store, so a store is an arm as well
        options = {'generations': 1, 'teacher-store': 'live', **options}
        if options['generations'] != 1:
            raise InputError(
                f'arm {arm.name}: generations must be 1; the next is an arm with pretrained = '
                f"'run:{arm.name}'"
            )
    return options


def run_words(study: Study, arm: Arm, seed: int) -> tuple[list[str], list[str]]:
    """(words, names of the runs that they refer to) of a run."""
    options, after = options_of(study, arm), []
    for option, value in options.items():
        other = _referred(study, arm, option, value, seed)
        if other in study.arms and study.arms[other].kind == GIVEN:
            options[option] = study.arms[other].model
        elif other:
            options[option] = '{' + other + '}'
            after.append(other)
    words = [arm.kind, *option_words(options)]
    if arm.seeded:
        place = {'models-root': str(study.runs / 'models'), 'name': run_name(arm, seed)}
        words += option_words({**place, 'seed': seed, 'resume': True})
    return words, after


def made_by(study: Study, arm: Arm, seed: int) -> dict[str, tuple[str, ...]]:
    """A run, those that it is made from, and the [[data]] that they are trained on -> the words of
    their commands, in which {NAME} is another's product; of a network that is there its name."""
    if arm.kind == GIVEN:
        return {arm.name: (arm.model,)}
    words, after = run_words(study, arm, seed)
    made = {run_name(arm, seed): tuple(words)}
    for job in data_jobs(study):
        if {job.makes, str(Path(job.makes).parent)} & set(words):
            made[job.makes] = job.words
    for other in study.arms.values():
        for each in other.seeds:
            if run_name(other, each) in after:
                made.update(made_by(study, other, each))
    return made


# --- jobs


def data_jobs(study: Study) -> list[Job]:
    """What makes the data, in the order of the file."""
    return [
        Job(f'data-{number}', DATA, tuple(map(str, maker['command'])), (), maker['makes'])
        for number, maker in enumerate(study.content.get('data', []), 1)
    ]


def results_path(study: Study, run: str) -> Path:
    """Where `verify` saves what it measured of a run."""
    return study.runs / 'tests' / f'{run}.npz'


def _test_jobs(study: Study, run: str, model: str, after: tuple[str, ...]) -> Iterable[Job]:
    """Verification of a run's model, and the measures of the file's own commands."""
    tests = study.tests
    words = ['verify', '--model', model]
    for option in ('target', 'pairs'):
        words += [word for path in tests.get(option, []) for word in (f'--{option}', str(path))]
    if len(words) > 3:
        words += ['--save', str(results_path(study, run))]
        yield Job(f'{run}.test', TEST, tuple(words), after)
    for number, measure in enumerate(tests.get('measure', [])):
        before, folder = after, str(study.runs / 'tests' / run)
        for step, command in enumerate(measure['commands']):
            places = {'{model}': model, '{folder}': folder}
            words = [places.get(str(word), str(word)) for word in command]
            words = [word.replace('{folder}', folder) for word in words]
            name = f'{run}.measure{number}.{step}'
            yield Job(name, TEST, tuple(words), before)
            before = (*after, name)


def last_of_measure(study: Study, run: str, number: int) -> str:
    """Name of the job whose result has the value of [[test.measure]] `number`."""
    return f'{run}.measure{number}.{len(study.tests["measure"][number]["commands"]) - 1}'


def measure_words(measure: Mapping[str, Any]) -> tuple[str, ...]:
    """The words of all commands of a [[test.measure]]."""
    return tuple(str(word) for command in measure['commands'] for word in command)


def make_jobs(study: Study) -> dict[str, Job]:
    """All jobs but those that make data, by name, each after those that it needs; the first seed
    of everything comes first, so that answers come early.

    Raises InputError for arms that wait for each other in a circle.
    """
    jobs: dict[str, Job] = {}
    arms = study.arms.values()
    for seed in sorted({seed for arm in arms for seed in arm.seeds}):
        for arm in (arm for arm in arms if seed in arm.seeds):
            name, model, after = run_name(arm, seed), arm.model, ()
            if arm.kind != GIVEN:
                jobs[name] = _run_job(study, arm, seed)
                model, after = '{' + name + '}', (name,)
            if arm.kind != TEACH:
                jobs.update({job.name: job for job in _test_jobs(study, name, model, after)})
    return _in_order(jobs)


def _run_job(study: Study, arm: Arm, seed: int) -> Job:
    words, needed = run_words(study, arm, seed)
    name, alone, folder = run_name(arm, seed), '', ''
    if arm.kind == TEACH:
        if '--data-dir' not in words:
            raise InputError(f'arm {arm.name}: data-dir is missing, here and in [options]')
        alone = words[words.index('--data-dir') + 1]
    else:
        folder = f'models/{name}' + '-gen1' * (arm.kind == DISTILL)
    return Job(name, arm.kind, tuple(words), tuple(needed), '', alone, folder)


def jobs_of_arms(study: Study, jobs: Mapping[str, Job], names: Iterable[str]) -> dict[str, Job]:
    """Those of all jobs that some arms need, tests of other arms left out."""
    wanted: set[str] = set()
    for name in names:
        if name not in study.arms:
            raise unknown_name('arm of --arms', name, study.arms)
        runs = {run_name(study.arms[name], seed) for seed in study.arms[name].seeds}
        wanted |= {job for job in jobs if run_of(job) in runs}
    waiting = list(wanted)
    while waiting:
        new = set(jobs[waiting.pop()].after) - wanted
        wanted |= new
        waiting += new
    return {name: job for name, job in jobs.items() if name in wanted}


def jobs_beside(jobs: Mapping[str, Job], known: Collection[str]) -> dict[str, Job]:
    """Those of all jobs that are left where some runs are known from elsewhere. A known run from
    which another is made runs here after all, with its tests, as what is compared with it then is
    made from it. A store is made where a run that is left reads it."""
    if not known:
        return dict(jobs)
    left = {run_of(name) for name, job in jobs.items() if job.kind != TEACH} - set(known)
    waiting = list(left)
    while waiting:
        run = waiting.pop()
        own = [job for name, job in jobs.items() if run_of(name) == run]
        needed = {run_of(other) for job in own for other in job.after}
        waiting += needed - left
        left |= needed
    return {name: job for name, job in jobs.items() if run_of(name) in left}


def run_of(job: str) -> str:
    """The run that a job makes or tests, by the job's name."""
    return job.partition('.')[0]


def _in_order(jobs: Mapping[str, Job]) -> dict[str, Job]:
    """The same, each after those that it needs."""
    ordered: dict[str, Job] = {}
    waiting = dict(jobs)
    while waiting:
        before = len(waiting)
        for job in list(waiting.values()):
            if not set(job.after) & waiting.keys():
                ordered[job.name] = waiting.pop(job.name)
        if len(waiting) == before:
            raise InputError(f'these runs wait for each other in a circle: {", ".join(waiting)}')
    return ordered
