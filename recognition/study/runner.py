"""Running the jobs of a study as child processes: what is missing, several at a time.

A finished job leaves a record, RUNS/records/NAME.json: its words, what it was made from, its
result. It is done while these stay the same. A job that was stopped goes on where it was, since
train, distill and teach do; so a study goes on by the same command after any kill. Children end
with the study, even where it is killed (on Linux).
"""

import contextlib
import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from ...common import console
from ...common.checked_json import read_checked, write_checked
from ...common.child import module_words
from ...common.errors import InputError, RunError
from ...common.files import exclusive, output_folder
from ...common.history import HISTORY
from ...common.typed import is_number
from .plan import DATA, DISTILL, TEACH, TEST, TRAIN, Job

log = logging.getLogger(__name__)

RECORDS = 'records'  # folder below that of the runs

_POLL = 0.2  # seconds between two looks at the children
_PATIENCE = 60.0  # seconds that children have to save and stop
_TAIL = 8192  # bytes of a history or log that are looked at
_RESULT = 16 << 20  # and of a command's output: `lfr` names up to a thousand missing pictures
_LIBC = ctypes.CDLL(None)  # loaded here: little may be done between fork and exec
_SET_PARENT_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of Linux


@dataclass
class Child:
    """A job under way."""

    job: Job
    words: tuple[str, ...]  # with the products of other jobs in their places
    process: subprocess.Popen
    started: float
    output: Path  # its stdout


class Records:
    """What is known of finished jobs."""

    def __init__(self, folder: Path):
        self._folder = folder
        self._known: dict[str, dict[str, Any]] = {}
        for path in sorted(folder.glob('*.json')):
            self._known[path.stem] = _read_record(path)

    def get(self, name: str) -> Optional[dict[str, Any]]:
        return self._known.get(name)

    def product(self, name: str) -> str:
        """What others get of a finished job: its model, or the store that it made."""
        result = self._known[name]['result']
        return str(result.get('model') or result.get('store'))

    def stamps(self, job: Job) -> dict[str, int]:
        """Checksums of the records that a job is made from."""
        return {name: _stamp(self._known[name]) for name in job.after}

    def words(self, job: Job) -> tuple[str, ...]:
        """The words of a job whose `after` are done."""
        products = {'{' + name + '}': self.product(name) for name in job.after}
        return tuple(products.get(word, word) for word in job.words)

    def is_done(self, job: Job) -> bool:
        """Whether a job has run with these words, from what there is now."""
        if job.kind == DATA:
            return Path(job.makes).exists()
        known = self.get(job.name)
        if known is None or any(name not in self._known for name in job.after):
            return False
        return known['words'] == list(self.words(job)) and known['after'] == self.stamps(job)

    def check_inputs(self, job: Job) -> None:
        """InputError for a run that was made from other networks than there are now."""
        known = self.get(job.name)
        if known and job.kind in (TRAIN, DISTILL) and known['after'] != self.stamps(job):
            raise InputError(
                f'{job.name} was trained from another {", ".join(job.after)} than there is now; '
                f'remove {self._folder / job.name}.json and its folder to make it anew'
            )

    def add(self, job: Job, words: Sequence[str], result: Mapping, seconds: float) -> None:
        before = self.get(job.name) or {}
        if before.get('words') == list(words):  # it was made longer, or went on
            seconds += before.get('seconds', 0.0)
        content = {
            'words': list(words),
            'after': self.stamps(job),
            'result': dict(result),
            'seconds': round(seconds, 1),
        }
        self._known[job.name] = content
        write_checked(self._folder / f'{job.name}.json', content)


def _read_record(path: Path) -> dict[str, Any]:
    """What is known of a finished job; InputError for a file that is damaged, or no record."""
    content = read_checked(path, 'record of a study', 'remove it, and the job runs again')
    if not isinstance(content, dict) or not _is_record(content):
        raise InputError(f'{path} is no record of a study; remove it')
    return content


def _is_record(content: Mapping[str, Any]) -> bool:
    words, after = content.get('words'), content.get('after')
    return (
        isinstance(words, list)
        and all(isinstance(word, str) for word in words)
        and isinstance(after, dict)
        and all(type(stamp) is int for stamp in after.values())
        and isinstance(content.get('result'), dict)
        and is_number(content.get('seconds'))
    )


def _stamp(record: Mapping[str, Any]) -> int:
    """Checksum of what a job made of what; how long it took does not count."""
    parts = [record['words'], record['after'], record['result'].get('steps')]
    return zlib.crc32(json.dumps(parts, sort_keys=True).encode())


def _die_with_parent() -> None:
    """In a child, before it starts: have the system send SIGTERM when the parent has ended."""
    _LIBC.prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _last_line(path: Path, tail: int = _TAIL) -> str:
    """The last line of a text file that says something, of what its last bytes hold."""
    if not path.exists():
        return ''
    with open(path, 'rb') as handle:
        handle.seek(max(path.stat().st_size - tail, 0))
        lines = handle.read().decode('utf-8', 'replace').split('\n')
    return next((line.strip() for line in reversed(lines) if line.strip()), '')


class Runner:
    """Runs jobs below a folder.

    Parameters
    ----------
    runs : folder of the study; records, logs and models lie in it
    jobs : how many at a time
    """

    def __init__(self, runs: Path, jobs: int):
        self._runs, self._jobs = runs, jobs
        for name in (RECORDS, 'logs', 'models', 'tests'):
            output_folder(runs / name)
        self.records = Records(runs / RECORDS)
        self._children: dict[str, Child] = {}
        self.failed: dict[str, str] = {}  # job -> why
        self.tests = 0  # that have ended well here

    @property
    def is_idle(self) -> bool:
        """Whether no job is under way: one is where nobody waited for its end."""
        return not self._children

    # --- one job

    def _start(self, job: Job) -> None:
        words = self.records.words(job)
        output = self._runs / 'logs' / f'{job.name}.out'
        environment = {**os.environ, 'OMP_NUM_THREADS': '1'}
        with open(output, 'wb') as out, open(self._log(job), 'ab') as err:
            err.write(f'== vargfacenet {" ".join(words)}\n'.encode())
            err.flush()
            process = subprocess.Popen(
                module_words('vargfacenet', *words),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                env=environment,
                start_new_session=True,  # Ctrl-C is for the study, which stops its children
                preexec_fn=_die_with_parent if sys.platform == 'linux' else None,
            )
        self._children[job.name] = Child(job, words, process, time.monotonic(), output)
        log.info('started %s', job.name)

    def _log(self, job: Job) -> Path:
        return self._runs / 'logs' / f'{job.name}.log'

    def _finish(self, child: Child, code: int) -> None:
        job, seconds = child.job, time.monotonic() - child.started
        if code:
            why = _last_line(self._log(job)) or f'exit code {code}'
            self.failed[job.name] = why
            log.warning('%s failed: %s (%s)', job.name, why, self._log(job))
            return
        try:
            result = json.loads(_last_line(child.output, _RESULT))
        except ValueError:
            self.failed[job.name] = f'{child.output} does not end with its result'
            log.warning('%s failed: %s', job.name, self.failed[job.name])
            return
        if job.kind == DATA and not Path(job.makes).exists():
            self.failed[job.name] = f'it did not make {job.makes}'
            log.warning('%s: %s', job.name, self.failed[job.name])
            return
        self.records.add(job, child.words, result, seconds)
        self.tests += job.kind == TEST
        log.info('finished %s in %s', job.name, console.duration(seconds))

    def _is_free(self, job: Job) -> bool:
        """Whether no process writes where the job would; one of a killed study may still save."""
        if job.alone and any(job.alone == other.job.alone for other in self._children.values()):
            return False
        folder = Path(job.alone) if job.kind == TEACH else self._runs / job.folder
        try:
            with exclusive(folder) if folder.is_dir() else contextlib.nullcontext():
                return True
        except InputError:
            return False

    # --- all jobs

    def run(self, jobs: Mapping[str, Job], watch: Callable[[Sequence[Child]], None]) -> None:
        """Run what is not done, in order; a job whose `after` failed is left out and counted.

        Parameters
        ----------
        watch : called now and then with the children under way

        Raises
        ------
        KeyboardInterrupt after the children have saved and stopped; a second one does not wait for
        them, which stop as this process ends.
        """
        waiting = {name: job for name, job in jobs.items() if not self.records.is_done(job)}
        try:
            while waiting or self._children:
                self._collect()
                self._start_what_can(waiting)
                watch(list(self._children.values()))
                if self._children or waiting:
                    time.sleep(_POLL)
        finally:
            self._stop()

    def _collect(self) -> None:
        for name, child in list(self._children.items()):
            code = child.process.poll()
            if code is not None:
                del self._children[name]
                self._finish(child, code)

    def _start_what_can(self, waiting: dict[str, Job]) -> None:
        for name, job in list(waiting.items()):
            broken = next((other for other in job.after if other in self.failed), None)
            if broken:
                self.failed[name] = f'{broken} failed'
                del waiting[name]
            elif any(other in waiting or other in self._children for other in job.after):
                continue
            elif self.records.is_done(job):
                del waiting[name]
            elif len(self._children) < self._jobs and self._is_free(job):
                self.records.check_inputs(job)
                self._start(job)
                del waiting[name]

    def _stop(self) -> None:
        """Ask the children to save and stop, and wait for that."""
        for child in self._children.values():
            child.process.terminate()
        if self._children:
            names = ', '.join(self._children)
            log.info('stopping %s; press Ctrl-C again to stop at once', names)
        end = time.monotonic() + _PATIENCE
        for child in self._children.values():
            try:
                child.process.wait(max(end - time.monotonic(), 0.1))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
        self._children.clear()

    def steps_done(self, job: Job) -> int:
        """Steps that the history of a run shows so far; 0 before the first line."""
        try:
            return int(json.loads(_last_line(self._runs / job.folder / HISTORY))['step'])
        except (ValueError, KeyError, TypeError):  # none yet, or a line that is being written
            return 0


def run_in_turn(runner: Runner, jobs: Sequence[Job]) -> None:
    """Run data jobs one after the other; RunError for the first that fails."""
    for job in jobs:
        runner.run({job.name: job}, lambda children: None)
        if job.name in runner.failed:
            raise RunError(f'{job.name} ({" ".join(job.words)}): {runner.failed[job.name]}')
