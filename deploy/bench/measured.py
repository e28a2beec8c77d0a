"""What benchmarks measure in a process of its own, because its memory or its environment counts."""

import gc
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from ...common.backend import mx
from ...common.data.records import open_records
from ...common.engine import ops
from .measure import peak_memory
from .steps import head_step, training_step


def _timed(step: Callable[[], None], rounds: int) -> list[float]:
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - started)
    return seconds


def measure_step(
    network: str,
    options: dict,
    batch_size: int,
    classes: int,
    stock: bool,
    rounds: int,
    precision: str = ops.FLOAT32,
) -> dict:
    """Seconds of a training step and the bytes that the process needs for it."""
    before = _resident()
    step = training_step(network, options, batch_size, classes, stock, precision)
    step()
    return {'seconds': _timed(step, rounds), 'bytes': peak_memory() - before}


def profile_step(network: str, options: dict, batch_size: int, classes: int, rounds: int) -> dict:
    """Milliseconds of a step by operator. Needs MXNET_EXEC_BULK_EXEC_TRAIN=0, or operators that
    follow each other are counted as one."""
    step = training_step(network, options, batch_size, classes, stock=False)
    step()
    with TemporaryDirectory() as folder:
        mx.profiler.set_config(
            profile_symbolic=True,
            profile_imperative=True,
            aggregate_stats=True,
            filename=str(Path(folder) / 'profile.json'),
        )
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
    return measured(lambda: head_step(classes, batch_size, size, stock), rounds)


def measured(make: Callable[[], Callable[[], None]], rounds: int) -> dict:
    """Seconds of the steps that `make` makes, and the bytes that both need."""
    before = _resident()
    step = make()
    step()
    return {'seconds': _timed(step, rounds), 'bytes': peak_memory() - before}


def measure_index(data_dir: str) -> dict:
    """Seconds to open a training set, the bytes that stay, and the most it took meanwhile."""
    held = _resident()
    started = time.perf_counter()
    records = open_records(data_dir)
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
