"""Processes that run a module of ours: how they are started, spoken to and limited.

What a hostile file breaks, it breaks in one of them. Messages are frames: four bytes with the
length of a JSON object, the object, and the bytes whose sizes it tells; JSON carries no code.
"""

import contextlib
import json
import re
import resource
import signal
import struct
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Optional

LENGTH = struct.Struct('>I')

# `python -m` looks for every import in the working directory first, where a stranger's cv2.py may
# lie; its option against that came with Python 3.11. No garbage is looked for at the end, as in
# `__main__.py`.
_RUN = (
    'import atexit, gc, sys; atexit.register(gc.freeze); '
    'sys.path = [place for place in sys.path if place]; del sys.argv[0]; '
    'from runpy import run_module; run_module(sys.argv[0], run_name="__main__", alter_sys=True)'
)


def module_words(module: str, *words: str) -> list[str]:
    """The command `python -m MODULE WORDS`, which imports nothing from the working directory."""
    return [sys.executable, '-c', _RUN, module, *words]


@contextlib.contextmanager
def ctrl_c_held_off() -> Iterator[None]:
    """Start processes inside that end with the one that starts them, and do not see Ctrl-C, which a
    terminal sends to all: they inherit what their thread blocks, from before their first import,
    when they can ignore nothing yet.

    At the end SIGINT is let through, not what was before: coroutines may be inside by turns.
    """
    try:  # a handler that waits for its turn may raise in the call that blocks
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def frame(content: dict, parts: Sequence[bytes] = ()) -> list[bytes]:
    """The parts of a message; `parts` are bytes or flat arrays of uint8."""
    header = json.dumps({**content, 'sizes': [len(part) for part in parts]}).encode()
    return [LENGTH.pack(len(header)), header, *parts]


def read_frame(stream: BinaryIO) -> Optional[tuple[dict, list[bytes]]]:
    """(object, parts); None at the end."""
    start = stream.read(LENGTH.size)
    if len(start) < LENGTH.size:
        return None
    header = json.loads(stream.read(*LENGTH.unpack(start)))
    return header, [stream.read(size) for size in header['sizes']]


def limit_memory(extra: int) -> None:
    """Let this process have `extra` more bytes than it has now, and leave no core with faces.

    Linux counts what is allocated (RLIMIT_DATA); elsewhere there is no such limit.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path('/proc/self/status')
    if status.is_file():
        used = int(re.search(r'VmData:\s+(\d+) kB', status.read_text())[1]) << 10
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (used + extra, hard))


def how_it_ended(code: int) -> str:
    """A process's exit code in words, those of a signal among them."""
    if code < 0:
        with contextlib.suppress(ValueError):
            return f'the process was ended by {signal.Signals(-code).name}'
    return f'the process ended with exit code {code}'
