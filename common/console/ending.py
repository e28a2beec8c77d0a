"""How a command ends: its result on stdout, its errors as one line and an exit code, signals."""

import contextlib
import errno
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any, Callable

import numpy as np

from ..errors import InputError, RunError
from ..files import error_of_disk
from .streams import shown

_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)


_LINE = 2000  # characters of an error at most


class Interrupted(KeyboardInterrupt):
    """A signal has stopped a command; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Have SIGTERM and SIGHUP (a closed terminal) end a command as Ctrl-C does, so that what it
    half wrote goes. A SIGHUP that is ignored already (nohup) stays so."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number, frame):
        raise Interrupted(number)

    numbers = (signal.SIGTERM, signal.SIGHUP)
    changed = [number for number in numbers if signal.getsignal(number) == signal.SIG_DFL]
    for number in changed:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, signal.SIG_DFL)


def with_errors_told(prog: str, work: Callable[[], int]) -> int:
    """The exit code of `work`, or that of an expected error of it, which is told by one line; with
    VARGFACENET_DEBUG set it is raised."""
    try:
        return work()
    except (InputError, RunError, OSError, KeyboardInterrupt) as error:
        if os.environ.get('VARGFACENET_DEBUG'):
            raise
        return report_error(prog, error)


def report_error(prog: str, error: BaseException) -> int:
    """One line on stderr for an expected error; returns the exit code."""
    if isinstance(error, KeyboardInterrupt):
        message, code = 'interrupted', 128 + getattr(error, 'number', signal.SIGINT)
    elif isinstance(error, OSError):
        message, code = str(error.strerror or error), 1
        if error.filename and error.errno in _OF_A_DISK:
            message = error_of_disk(error.filename, message)
        elif error.filename:
            message = f'{error.filename}: {message}'
    else:
        message, code = ' '.join(str(error).split()), 2 if isinstance(error, InputError) else 1
    if len(message) > _LINE:  # what is named may come from a file
        message = f'{message[: _LINE // 2]} ... {message[-_LINE // 2 :]}'
    sys.stderr.write(f'{prog}: {shown(message)}\n')
    return code


def print_result(result: dict) -> None:
    """A command's result as one line of JSON; RunError where stdout takes no more, and at the end
    of the process nothing is tried again."""
    try:
        sys.stdout.write(_json_line(result) + '\n')
        sys.stdout.flush()
    except OSError as error:
        with contextlib.suppress(OSError, ValueError):
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, sys.stdout.fileno())
            os.close(null)
        raise RunError(
            f'the result cannot be written to stdout ({error.strerror}); all else is done'
        ) from None


def _json_line(result: dict) -> str:
    """JSON has no word for NaN and infinity, and most readers stop at Python's: they are null."""
    text = json.dumps(result, default=_plain)
    return json.dumps(json.loads(text, parse_constant=lambda _: None))


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as what JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)
