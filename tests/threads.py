"""How many threads share the loops of compiled code in this process.

OMP_NUM_THREADS is read once, and `tests/run.sh` has it say 1. OpenMP keeps a number for each thread
that begins such loops; here these are Python's main thread and the one in which MXNet's engine runs
operators.

The engine may go from more threads to fewer, not back: MXNet 1.9.1 keeps the pooling of a shape as
oneDNN has made it for so many threads, and with more of them it writes to memory that is not its
own (two threads after one: malloc ends the process). So `tests/conftest.py` runs the files of
several engine threads first; and no network is trained there, since one that is trained later in
the process would get what was kept, and other bits than a process of one thread.
"""

import contextlib
import ctypes
import sys
from collections.abc import Callable, Iterator

import pytest


class _Context(ctypes.Structure):
    """A device, as MXNet's C interface takes it."""

    _fields_ = (('type', ctypes.c_int32), ('number', ctypes.c_int32))


_WORK = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)


def _in_the_engine(work: Callable[[], None]) -> None:
    """Call `work` where operators run, and wait for its end."""
    mx = sys.modules['mxnet']
    written = mx.nd.zeros(1)  # by the work, as the engine is told: what reads it waits
    array = (ctypes.c_void_p * 1)(written.handle)
    call, cpu = _WORK(lambda *_: work()), ctypes.byref(_Context(1, 0))
    push = mx.base._LIB.MXEnginePushSyncND
    mx.base.check_call(push(call, None, None, cpu, None, 0, array, 1, None, 0, None))
    written.wait_to_read()


@contextlib.contextmanager
def threads(number: int, engine: bool = False) -> Iterator[None]:
    """Inside, `number` threads share a loop of the main thread, and of `engine` too.

    Skips the tests where there is no OpenMP to share loops by: they would pass with one thread.
    """
    try:
        openmp = ctypes.CDLL('libgomp.so.1')
    except OSError as error:
        pytest.skip(f'{number} threads: nothing shares a loop here ({error})')
    assert 'mxnet' in sys.modules or not engine, 'mxnet is not imported, and has no engine'
    places = [lambda work: work()] + [_in_the_engine] * engine
    before: list[int] = []
    for place in places:
        place(lambda: before.append(openmp.omp_get_max_threads()))
        place(lambda: openmp.omp_set_num_threads(number))
    now: list[int] = []
    for place in places:
        place(lambda: now.append(openmp.omp_get_max_threads()))
    assert now == [number] * len(places)
    try:
        yield
    finally:
        for place, wanted in zip(places, before):
            place(lambda wanted=wanted: openmp.omp_set_num_threads(wanted))
