"""SIGKILL at random moments: python tests/kills.py [COUNT [SEED [JOB ...]]]

A job is a command that is killed with all its processes somewhere between its start and the time
that a whole run takes, and started again. What comes out must be what the whole run gave, to the
bit, with nothing left over. A line a kill, and one JSON line with the counts.
"""

import contextlib
import hashlib
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

sys.path.insert(0, str(Path(__file__).resolve().parent))
import conftest  # noqa: F401  makes the package importable
import numpy as np
from conftest import DATA, ROOT
from deploy_models import portrait, write_checkpoint
from pictures import encoded
from vargfacenet.__main__ import main
from vargfacenet.common.data.recordio import write_face_records
from vargfacenet.common.engine.params_file import read_arrays

PROGRAM = [sys.executable, '-m', 'vargfacenet']
EARLIEST = 0.3  # of a run's time: before it the command is being imported
LATEST = 1.0


@dataclass
class Job:
    """`first` starts in a folder, `again` after a kill; `outcome` is what must not depend on it.
    `refusal` is what `again` says where the first one had done all, but not yet ended."""

    first: list[str]
    again: list[str]
    outcome: Callable[[Path, str], object]
    seconds: float = 0.0
    expected: object = None
    refusal: str = ''


def digest(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def last_weights(run):
    """The arrays of the newest checkpoint under a folder of runs."""

    def outcome(folder, _shown):
        newest = sorted((folder / 'runs' / run).glob('model-*.params'))[-1]
        return [newest.name, {name: array.tobytes() for name, array in read_arrays(newest).items()}]

    return outcome


def exported(folder, _shown):
    record = json.loads((folder / 'export' / 'export.json').read_text())
    return {name: digest(folder / 'export' / name) for name in record['files']}


def stored(folder, _shown):
    return {path.name: digest(path) for path in (folder / 'data').glob('*.f16')}


def result(_folder, shown):
    """What was found, without how long it took."""
    found = json.loads(shown.splitlines()[-1])['pairs']
    return {key: found[key] for key in ('negatives', 'tpr', 'threshold', 'accepted')}


def here(*words):
    """Standard output of a command in this process, which must succeed."""
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        code = main([str(word) for word in words])
    assert code == 0, shown.getvalue()
    return shown.getvalue()


def enrolled(folder, _shown):
    shown = here('gallery', 'list', '--gallery', folder / 'gallery', '--json')
    return sorted(json.loads(shown.splitlines()[-1])['identities'])


def jobs():
    data = ['--data-dir', 'data', '--models-root', 'runs', '--per-batch-size', '4']
    small = ['--network', 'small', '--network-option', 'emb_size=32', '--verbose', '15']
    small += ['--network-option', 'dropout=0.4']  # whose random numbers a resumed run goes on with
    small += ['--lr-mode', 'slow']
    train = [*PROGRAM, 'train', *data, *small, '--steps', '60', '--name', 'run']
    distill = [*PROGRAM, 'distill', *data, *small]
    distill += ['--steps', '30', '--name', 'student', '--teacher', 'model/model,3']
    distill += ['--generations', '2', '--threads', '1']
    teach = [*PROGRAM, 'teach', '--data-dir', 'data', '--teacher', 'model/model,3']
    export = [*PROGRAM, 'export', '--model', 'model/model,3', '--out', 'export']
    enrol = [*PROGRAM, 'gallery', 'enrol', 'Ada', 'face.jpg', '--gallery', 'gallery']
    enrol += ['--model', 'model/model,3']
    identify = [*PROGRAM, 'identify', '--probes', 'probes.npz', '--distractors', 'others.npy']
    identify += ['--resume', 'state.npz', '--fpr', '1e-3']
    ranks = ['bash', str(ROOT / 'recognition' / 'dist_train.sh'), '2', *train[4:]]
    return {
        'train': Job(train, [*train, '--resume'], last_weights('run')),
        'distill': Job(distill, [*distill, '--resume'], last_weights('student-gen2')),
        'teach': Job(teach, teach, stored),
        'export': Job(export, export, exported),
        'gallery': Job(enrol, enrol, enrolled, refusal='is enrolled as'),
        'identify': Job(identify, identify, result),
        'ranks': Job(ranks, [*ranks, '--resume'], last_weights('run')),
    }


def make_inputs(folder):
    (folder / 'data').mkdir()
    faces = [[encoded(portrait(i, k)) for k in range(6)] for i in range(6)]
    write_face_records(folder / 'data' / 'train', faces)
    (folder / 'model').mkdir()
    write_checkpoint(folder / 'model')
    (folder / 'face.jpg').write_bytes(encoded(portrait(0, size=250)))
    rng = np.random.RandomState(5)
    rows = rng.randn(60_400, 128).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    labels = np.array([str(number // 2) for number in range(400)])
    np.savez(folder / 'probes.npz', embeddings=rows[:400], labels=labels)
    np.save(folder / 'others.npy', rows[400:])


def start(words, folder):
    environment = {**os.environ, 'VARGFACENET_VENV': sys.prefix, 'OMP_NUM_THREADS': '1'}
    plugins = DATA / 'small_network.py', DATA / 'paced_schedules.py'
    environment['VARGFACENET_PLUGINS'] = os.pathsep.join(map(str, plugins))
    output = (folder / 'shown').open('w')
    errors = (folder / 'errors').open('w')
    with output, errors:
        return subprocess.Popen(
            words, cwd=folder, stdout=output, stderr=errors, env=environment, start_new_session=True
        )


def finish(words, folder, refusal=''):
    """Standard output of a command that must succeed, or say that all is done."""
    process = start(words, folder)
    if process.wait(600):
        errors = (folder / 'errors').read_text()
        if not (refusal and process.returncode == 2 and refusal in errors):
            raise AssertionError(f'exit code {process.returncode}: {errors}')
    return (folder / 'shown').read_text()


def leftovers(folder):
    """Names of temporary files and folders below a folder."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob('.*'))


def kill_once(job, inputs, moment):
    """Kill at `moment` of a run's time, go on, compare; True if there was still something to
    kill."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / 'work'
        shutil.copytree(inputs, folder)
        process = start(job.first, folder)
        time.sleep(moment * job.seconds)
        alive = process.poll() is None
        if alive:
            os.killpg(process.pid, signal.SIGKILL)  # workers of its own are of its session
        process.wait()
        shown = finish(job.again, folder, job.refusal)
        outcome = job.outcome(folder, shown)
        assert outcome == job.expected, 'another outcome than that of a whole run'
        assert leftovers(folder) == [], leftovers(folder)
        here('check', folder)
    return alive


def run(count, seed, names=()):
    """Kill `count` times, the jobs in turn; {job: [kills, of them before the end]}."""
    rnd = random.Random(seed)
    known = jobs()
    chosen = list(names) or list(known)
    done = {}
    with tempfile.TemporaryDirectory() as name:
        inputs = Path(name) / 'inputs'
        inputs.mkdir()
        make_inputs(inputs)
        for number in range(count):
            which = chosen[number % len(chosen)]
            job = known[which]
            if job.expected is None:
                whole = shutil.copytree(inputs, Path(name) / f'whole-{which}')
                begun = time.monotonic()
                shown = finish(job.first, whole)
                job.seconds = time.monotonic() - begun
                job.expected = job.outcome(whole, shown)
                shutil.rmtree(whole)
            moment = rnd.uniform(EARLIEST, LATEST)
            alive = kill_once(job, inputs, moment)
            kills, early = done.get(which, (0, 0))
            done[which] = (kills + 1, early + alive)
            text = f'{moment * job.seconds:.1f} s of {job.seconds:.1f}'
            print(f'{number + 1}: {which} killed at {text}: as a whole run', file=sys.stderr)
    return done


if __name__ == '__main__':
    numbers = [int(word) for word in sys.argv[1:3]]
    count, seed = (*numbers, *(50, 1)[len(numbers) :])
    print(json.dumps({'seed': seed, 'kills': run(count, seed, sys.argv[3:])}))
