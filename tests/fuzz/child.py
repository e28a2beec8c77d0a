"""Runs readers on files in a process of its own: python child.py ORDERS (a JSON text).

An order: reader, folder, and either `cases` (paths) or `count` and `seed` of mutations. The number
of the case at hand is in FOLDER/at and its content at the reader's file, so that a crash can be
told. A line of JSON for each order: cases run, how many of them were read though changed, and, for
each that was neither read nor refused, what happened; such cases are kept in FOLDER.
"""

import contextlib
import io
import json
import os
import resource
import signal
import sys
import time
import traceback
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import conftest  # noqa: F401  makes the package importable

from fuzz.mutate import mutated
from fuzz.readers import READERS

ROOM = 2 << 30  # bytes that one file may take beyond what the process has
SECONDS = 5.0  # of the CPU, which a busy machine does not stretch
CPUS = 2  # a thread for each of a hundred would take what the others are allowed
PATIENCE = 60.0  # seconds of waiting for anything but a CPU, as of a sleep or a lock
READ, REFUSED = 'read', 'refused'


def _limit_memory():
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    limit = pages * os.sysconf('SC_PAGE_SIZE') + ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


class Slow(BaseException):
    pass


def _too_slow(*_):
    raise Slow


def _waited():
    """Seconds of the clock without those in which this thread was ready and no CPU was free."""
    with contextlib.suppress(OSError):
        return time.monotonic() - int(Path('/proc/self/schedstat').read_text().split()[1]) / 1e9
    return time.monotonic()


def _patience(until):
    """A signal handler: `Slow` unless the machine was busy, in which case it rings again."""

    def ring(*_):
        left = until - _waited()
        if left <= 0:
            raise Slow
        signal.setitimer(signal.ITIMER_REAL, max(left, 0.01))

    return ring


def outcome(read, path, refused):
    """READ for a result, REFUSED for one clear line, otherwise what happened."""
    started = time.process_time()
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    signal.signal(signal.SIGALRM, _patience(_waited() + PATIENCE))
    signal.setitimer(signal.ITIMER_REAL, PATIENCE)
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            read(path)
    except refused:
        return REFUSED
    except Slow:
        return f'slow: more than {SECONDS} s of the CPU, or {PATIENCE} s of waiting'
    except MemoryError:
        return 'memory: ' + traceback.format_exc(limit=-2)
    except Exception:
        return 'traceback: ' + traceback.format_exc(limit=-4)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.setitimer(signal.ITIMER_REAL, 0)
    if time.process_time() - started > SECONDS:
        return 'slow'
    return READ


def prepared(order):
    """(reader, path of its file, seeds) of an order, everything loaded that it needs."""
    folder = Path(order['folder'])
    reader = READERS[order['reader']]
    work, made = folder / 'work', folder / 'made'
    work.mkdir(parents=True, exist_ok=True)
    made.mkdir(exist_ok=True)
    path = work / reader.name
    with contextlib.redirect_stdout(io.StringIO()):  # of commands that make a seed, or read it
        seeds = reader.seeds(made)
        for seed in seeds:
            path.write_bytes(seed)
            reader.read(path)
            for _, work in reader.behind:
                work(path)
    return reader, path, seeds


def run(order, reader, path, seeds):
    """What happened with the cases of one order."""
    from vargfacenet.common.errors import InputError, RunError

    if 'cases' in order:
        cases = ((case, Path(case).read_bytes()) for case in order['cases'])
    else:
        cases = mutated(seeds, order['seed'], order['count'])
    folder = Path(order['folder'])
    found, count, taken, changed = {}, 0, 0, 0
    for name, content in cases:
        (folder / 'at').write_text(str(name))
        path.write_bytes(content)
        count += 1
        what = outcome(reader.read, path, (InputError, RunError))
        if what == READ:
            for every, work in reader.behind:
                if taken % every == 0 and what in (READ, REFUSED):
                    what = outcome(work, path, (InputError, RunError))
            taken += 1
            changed += content not in seeds
        if what not in (READ, REFUSED):
            found[str(name)] = what
            (folder / f'case-{name if "cases" not in order else count}').write_bytes(content)
    return {'reader': order['reader'], 'cases': count, 'changed': changed, 'found': found}


def main(orders):
    if hasattr(os, 'sched_setaffinity'):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CPUS])
    ready = [(order, *prepared(order)) for order in orders]
    _limit_memory()
    signal.signal(signal.SIGPROF, _too_slow)
    for parts in ready:
        print(json.dumps(run(*parts)), flush=True)


if __name__ == '__main__':
    main(json.loads(sys.argv[1]))
