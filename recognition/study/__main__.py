"""Run an experiment that a file describes, and say what it tells: STUDY.toml -> table and page.

Runs what is missing, several runs at a time with one thread each, and goes on by the same command
after any stop or kill. A study whose runs are all there costs the comparison alone. Given the
results.json of a study in place of its file, the table and the page are made anew from it
(studies/results/ has those of the project; NAME.json makes NAME.html).
"""

import argparse
import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...common import console, flops
from ...common.errors import InputError, RunError
from ...common.files import atomic_write, exclusive, output_folder
from ...common.parallel import cpu_count
from ...common.registry import unknown_name
from ...eval.all_pairs import FARS
from ...eval.report.page import Section
from ...eval.targets import resolve_sets, resolve_targets
from ...symbol import get_symbol
from ..config import TrainConfig
from ..configure import configure, settings
from ..views import read_views
from . import plan, results
from .page import all_claims, show
from .plan import Arm, Job, Study, data_jobs, make_jobs, read_study
from .report import PAGE, RESULTS, Report, draw
from .result_file import read_results
from .runner import RECORDS, Child, Records, Runner, run_in_turn

log = logging.getLogger(__name__)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument(
        'study', type=Path, metavar='STUDY.toml', help='a study, or the results.json of one'
    )
    parser.add_argument(
        '--jobs', type=int, default=0, metavar='N', help='runs at a time; 0: one a CPU'
    )
    parser.add_argument(
        '--arms', default='', metavar='ARM,...', help='run these and what they need; else all'
    )
    parser.add_argument(
        '--known',
        type=Path,
        metavar='FILE.json',
        help='results of this study from elsewhere: what ran there is not run again',
    )
    parser.add_argument(
        '--dry-run', action='store_true', help='say what would run, and run nothing'
    )
    parser.add_argument(
        '--out', type=Path, metavar='DIR', help='folder for results.json and report.html'
    )


# --- the configurations of the runs, before any of them starts


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Let an InputError begin with what it is of."""
    try:
        yield
    except InputError as error:
        raise InputError(f'{what}: {error}') from None


def arm_settings(study: Study, arm: Arm) -> dict[str, Any]:
    """The checked settings of an arm's first run; InputError names the arm."""
    words, _ = plan.run_words(study, arm, arm.seeds[0])
    words = ['none,0' if word[:1] == '{' and word[-1:] == '}' else word for word in words]
    with _named(f'arm {arm.name}'):
        args = console.parse_command(words)
        values = settings(args, classification=not getattr(args, 'no_classification', False))
    values.pop('teacher_store', None)
    return values


def check_commands(study: Study) -> None:
    """InputError for words of any job but a training run that its command would not take; those of
    training runs are told by their settings."""
    for maker in study.content.get('data', []):
        with _named(f'[[data]] {maker["makes"]}'):
            console.parse_command(list(map(str, maker['command'])))
    for measure in study.tests.get('measure', []):
        for command in measure['commands']:
            with _named(f'[[test.measure]] {measure["name"]}'):
                console.parse_command(list(map(str, command)))
    for arm in study.arms.values():
        if arm.kind == plan.TEACH:
            with _named(f'arm {arm.name}'):
                read_views(console.parse_command(plan.run_words(study, arm, arm.seeds[0])[0]))


def check_tests(study: Study) -> None:
    """InputError for a test set that is not there, and for the name of a measure that none has."""
    tests = study.tests
    with _named('[test]'):
        targets = resolve_targets(tests['target'], None) if tests.get('target') else {}
        sets = resolve_sets(tests.get('pairs', []), targets)
    known = [f'{name} accuracy' for name in targets]
    known += [f'{name} TAR@{far:g}' for name in sets for far in FARS]
    known += [measure['name'] for measure in tests.get('measure', [])]
    figures = study.content.get('published', {})
    asked = [('measure', study.content.get('measure'))]
    asked += [(f'[published.{arm}]', name) for arm, names in figures.items() for name in names]
    for place, name in asked:
        if name is not None and name not in known:
            raise unknown_name(f'measure in {place}', name, known)


def describe(config: TrainConfig) -> dict[str, Any]:
    """What the table says of an arm's network and run."""
    symbol = get_symbol(config.network, **config.network_options)
    count = flops.count(symbol)
    return {
        'network': config.network,
        'network_options': config.network_options,
        'params': count.params,
        'flops': count.flops,
        'steps': config.total_steps,
        'images_a_step': config.global_batch_size,
        'images': config.num_images,
        'people': config.num_classes,
    }


def configurations(study: Study, check_data: bool) -> dict[str, TrainConfig]:
    """Arm -> configuration of its first run; InputError names the arm that has a fault."""
    configs = {}
    for arm in study.arms.values():
        if not arm.seeded:
            continue
        values = arm_settings(study, arm)
        if check_data:
            with _named(f'arm {arm.name}'):
                configs[arm.name] = configure(values)
    return configs


# --- progress


class Watch:
    """Shows how far the whole study is, in training steps."""

    def __init__(self, runner: Runner, jobs: Mapping[str, Job], steps: Mapping[str, int], bar):
        self._runner, self._jobs, self._steps, self._bar = runner, jobs, steps, bar

    def done(self, children: Sequence[Child] = ()) -> int:
        """Steps done by all runs."""
        running = {child.job.name for child in children}
        return sum(
            steps
            if name not in running and self._runner.records.is_done(self._jobs[name])
            else min(self._runner.steps_done(self._jobs[name]), steps)
            for name, steps in self._steps.items()
        )

    def __call__(self, children: Sequence[Child]) -> None:
        left = sum(not self._runner.records.is_done(job) for job in self._jobs.values())
        failed = len(self._runner.failed)
        note = f'{left} of {len(self._jobs)} jobs left; {failed} failed; running '
        note += ', '.join(child.job.name for child in children) or 'none'
        self._bar.advance(max(self.done(children) - self._bar.done, 0), note)


def _steps(study: Study, configs: Mapping[str, TrainConfig]) -> dict[str, int]:
    """Training run -> its steps."""
    return {
        plan.run_name(arm, seed): configs[arm.name].total_steps
        for arm in study.arms.values()
        if arm.seeded
        for seed in arm.seeds
    }


def checked_jobs(study: Study, arms: str) -> dict[str, Job]:
    """The jobs to run, of the arms of --arms or of all; faults of the file show here, before hours
    of work."""
    configurations(study, check_data=False)
    check_commands(study)
    todo = make_jobs(study)
    names = [name for name in arms.split(',') if name]
    return plan.jobs_of_arms(study, todo, names) if names else todo


def make_data(study: Study, runner: Runner, check: Callable[[], None]) -> dict[str, TrainConfig]:
    """Make the data and `check` them; the configurations of the runs, by arm."""
    run_in_turn(runner, data_jobs(study))
    check_tests(study)
    check()
    return configurations(study, check_data=True)


def run_jobs(
    study: Study,
    runner: Runner,
    todo: Mapping[str, Job],
    configs: Mapping[str, TrainConfig],
    report: Report,
) -> None:
    """Run what is missing; the report grows meanwhile, and has all that is there however this
    ends, unless a second Ctrl-C does not wait."""
    steps = {name: count for name, count in _steps(study, configs).items() if name in todo}
    start = Watch(runner, todo, steps, None).done()
    try:
        with console.progress(sum(steps.values()), study.title, 'steps', start=start) as bar:
            watch = Watch(runner, todo, steps, bar)

            def look(children: Sequence[Child]) -> None:
                watch(children)
                if children:  # else all is done, and the whole is written
                    report.grow()

            runner.run(todo, look)
    except BaseException:
        if runner.is_idle:
            report.write_what_is_there()
        raise


def dry_run(study: Study, todo: Mapping[str, Job]) -> dict[str, Any]:
    """What would run, as far as it can be told; writes nothing."""
    records = Records(study.runs / RECORDS)
    jobs = [*data_jobs(study), *todo.values()]
    left = [job for job in jobs if not records.is_done(job)]
    for job in left:
        log.info('%s: vargfacenet %s', job.name, ' '.join(job.words))
    return {'jobs': len(jobs), 'left': [job.name for job in left]}


# --- results


def summary(result: dict[str, Any], found: Sequence[Section], path: Path) -> dict[str, Any]:
    """Show a result whose page is at `path`; returns the command's result."""
    show(result, found)
    log.info('page: %s', path)
    return {'page': str(path), 'claims': all_claims(result), 'missing': result['missing']}


def _check_runs_nothing(args: argparse.Namespace) -> None:
    given = {'--jobs': args.jobs, '--arms': args.arms, '--dry-run': args.dry_run}
    given['--known'] = args.known
    wrong = [flag for flag, value in given.items() if value]
    if wrong:
        raise InputError(
            f'{" and ".join(wrong)} with {args.study}: results run nothing; name a .toml'
        )


def run(args: argparse.Namespace) -> dict:
    console.check_ranges([('--jobs', args.jobs, 0, 1000)])
    if args.study.suffix == '.json':
        _check_runs_nothing(args)
        result = read_results(args.study)
        found, html = draw(result)
        # results of several studies may lie in one folder
        name = PAGE if args.study.name == RESULTS else f'{args.study.stem}.html'
        path = output_folder(args.out or args.study.parent) / name
        atomic_write(path, html)
        return summary(result, found, path)
    study = read_study(args.study)
    todo = checked_jobs(study, args.arms)
    known = results.known_runs(study, args.known) if args.known else {}
    todo = plan.jobs_beside(todo, known)
    if args.dry_run:
        return dry_run(study, todo)
    out = output_folder(args.out or study.runs)
    with exclusive(output_folder(study.runs)):
        runner = Runner(study.runs, args.jobs or cpu_count())
        configs = make_data(
            study, runner, lambda: results.check_same_tests(study, known, args.known)
        )
        about = {name: describe(config) for name, config in configs.items()}
        report = Report(study, runner, about, known, out)
        run_jobs(study, runner, todo, configs, report)
        result, found = report.write()
    ending = {**summary(result, found, report.page), 'results': str(report.results)}
    if runner.failed:
        reasons = '; '.join(f'{name}: {why}' for name, why in runner.failed.items())
        raise RunError(f'{len(runner.failed)} jobs failed ({reasons}); the same command goes on')
    return ending


main = console.command('study', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
