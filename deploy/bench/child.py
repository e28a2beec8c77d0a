"""What a benchmark measures in a process of its own, for its memory or its environment.

`run(what, **options)` starts the process and returns what it measured.
"""

import gc
import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Optional

from ...common.backend import mx
from ...common.errors import RunError
from .measure import peak_memory


def command(*words: str, environment: Optional[dict] = None) -> dict:
    """Run `python -m WORDS` to its end; the JSON object of its last line.

    Raises
    ------
    RunError if it fails, with its last line.
    """
    done = subprocess.run(
        [sys.executable, '-m', *words],
        capture_output=True,
        text=True,
        env={**os.environ, **(environment or {})},
    )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or [f'exit code {done.returncode}']
        raise RunError(f'{" ".join(words)}: {reason[0]}')
    return json.loads(done.stdout.strip().splitlines()[-1])


def run(what: str, environment: Optional[dict] = None, **options) -> dict:
    """Result of MEASUREMENTS[what](**options) in a new process; RunError if it fails."""
    return command(__name__, what, json.dumps(options), environment=environment)


def _timed(step, rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure_step(
    network: str, options: dict, batch_size: int, classes: int, stock: bool, rounds: int
) -> dict:
    """Seconds of a training step and the bytes that the process needs for it."""
    from .steps import training_step

    before = _resident()
    step = training_step(network, options, batch_size, classes, stock)
    step()
    return {'seconds': _timed(step, rounds), 'bytes': peak_memory() - before}


def profile_step(network: str, options: dict, batch_size: int, classes: int, rounds: int) -> dict:
    """Milliseconds of a step by operator. Needs MXNET_EXEC_BULK_EXEC_TRAIN=0, or operators that
    follow each other are counted as one."""
    from .steps import training_step

    step = training_step(network, options, batch_size, classes, stock=False)
    step()
    with TemporaryDirectory() as folder:
        mx.profiler.set_config(
            profile_symbolic=True, profile_imperative=True, aggregate_stats=True,
            filename=str(Path(folder) / 'profile.json'),
        )  # fmt: skip
        mx.profiler.set_state('run')
        seconds = _timed(step, rounds)
        mx.profiler.set_state('stop')
        statistics = json.loads(mx.profiler.dumps(format='json'))
    milliseconds, calls = Counter(), Counter()
    for name, row in statistics['Time'].get('operator', {}).items():
        milliseconds[name] += row['Total'] / rounds
        calls[name] += row['Count'] / rounds
    return {
        'seconds': seconds,
        'operators': {name: [ms, calls[name]] for name, ms in milliseconds.most_common()},
    }


def measure_head(classes: int, batch_size: int, size: int, stock: bool, rounds: int) -> dict:
    """Seconds of forward, backward and update of a margin head, and the bytes it needs."""
    from .head import head_step

    before = _resident()
    step = head_step(classes, batch_size, size, stock)
    step()
    return {'seconds': _timed(step, rounds), 'bytes': peak_memory() - before}


def measure_index(rec: str) -> dict:
    """Seconds to open a record file, the bytes that stay, and the most it took meanwhile."""
    from ...common.data.recordio import RecordFile

    held = _resident()
    started = time.perf_counter()
    records = RecordFile(rec)
    return {
        'seconds': time.perf_counter() - started,
        'bytes': _resident() - held,
        'peak_bytes': peak_memory() - held,
        'images': len(records),
    }


def _resident() -> int:
    """Bytes of memory that the process holds now."""
    gc.collect()
    pages = int(Path('/proc/self/statm').read_text().split()[1])
    return pages * os.sysconf('SC_PAGE_SIZE')


MEASUREMENTS = {
    'step': measure_step,
    'profile': profile_step,
    'head': measure_head,
    'index': measure_index,
}

if __name__ == '__main__':
    result = MEASUREMENTS[sys.argv[1]](**json.loads(sys.argv[2]))
    sys.stdout.write(json.dumps(result) + '\n')
