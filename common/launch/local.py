"""The ranks of this host as processes, and what the launcher makes of signals."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

from .places import Place, environment

FAREWELL = 60.0  # seconds that ranks have to end after a signal
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PARENT_DEATH_SIGNAL = 1  # of prctl


@dataclass(frozen=True)
class End:
    """How a rank ended."""

    who: str  # 'rank 1 on b'
    code: int  # as of a process: negative for a signal
    host: str = ''  # 'b', where one of its ranks ended

    @property
    def killed(self) -> bool:
        """Whether a signal ended it that nobody here has sent: what another try may be spared."""
        return self.code < 0 and bool(self.host)

    @property
    def stopped(self) -> bool:
        """Whether it ended since somebody asked it to."""
        return self.code - 128 in _SIGNALS

    @property
    def told(self) -> bool:
        """Whether rank 0 ended with an error that it has told, as every command does."""
        return self.who.startswith('rank 0 ') and self.code in (1, 2)

    @property
    def may_follow(self) -> bool:
        """Whether another's end may have led to it: an error, or an abort, at the broken
        connection."""
        return self.code in (1, -signal.SIGABRT)

    @property
    def exit_code(self) -> int:
        """As a shell has it."""
        return self.code if self.code >= 0 else 128 - self.code

    def __str__(self) -> str:
        if self.code < 0:
            return f'{self.who} was killed by {signal.Signals(-self.code).name}'
        return f'{self.who} ended with exit code {self.code}'


def _end_with_parent() -> None:
    """Have the system kill this process when the launcher is gone, however that ended."""
    ctypes.CDLL(None).prctl(_PARENT_DEATH_SIGNAL, signal.SIGKILL)


def _pass_on(pipe, rank: int) -> None:
    """Write the lines of a rank with its number before them."""
    with pipe:
        for line in pipe:
            sys.stderr.write(f'rank {rank}: {line.decode(errors="replace")}')
            sys.stderr.flush()


def _name(place: Place) -> str:
    return f'rank {place.rank} on {place.hostname}'


def after_others(end: End) -> int:
    """Sorts ranks that are found ended in one look by how likely they ended of another's end. What
    nobody does to himself comes first."""
    if end.may_follow:
        return 2 if end.code == 1 else 3
    return int(end.code >= 0)


class LocalRanks:
    """Processes in sessions of their own, so that Ctrl-C reaches the launcher alone.

    Rank 0 has the launcher's stdout and stderr; what the others write to stderr comes with their
    number, and there is no other use for their stdout.

    Parameters
    ----------
    places : of the ranks of this host
    command : what each of them runs
    address, port, interface : see `places.environment`
    """

    def __init__(
        self,
        places: Sequence[Place],
        command: Sequence[str],
        address: str,
        port: int,
        interface: str,
    ):
        self._places = list(places)
        self._processes, self._threads = [], []
        for place in places:
            first = place.rank == 0
            process = subprocess.Popen(
                command,
                env={**os.environ, **environment(place, address, port, interface)},
                stdin=subprocess.DEVNULL,
                stdout=None if first else subprocess.DEVNULL,
                stderr=None if first else subprocess.PIPE,
                start_new_session=True,
                preexec_fn=_end_with_parent,
            )
            self._processes.append(process)
            if not first:
                thread = threading.Thread(target=_pass_on, args=(process.stderr, place.rank))
                thread.start()
                self._threads.append(thread)

    def failed(self) -> Optional[End]:
        """A rank that has not ended well, if there is one; of several the likeliest cause."""
        ends = [
            End(_name(place), process.returncode, place.hostname)
            for place, process in zip(self._places, self._processes)
            if process.poll()
        ]
        return min(ends, key=after_others, default=None)

    def running(self) -> list[str]:
        """The names of those that have not ended."""
        pairs = zip(self._places, self._processes)
        return [_name(place) for place, process in pairs if process.poll() is None]

    def done(self) -> bool:
        """Whether all have ended, well or not."""
        return all(process.poll() is not None for process in self._processes)

    def tell_first(self, number: int) -> None:
        """Send a signal to the first rank here, which tells the others when to stop."""
        with contextlib.suppress(ProcessLookupError):
            self._processes[0].send_signal(number)

    def kill(self) -> None:
        """End those that still run, and what they have started."""
        for process in self._processes:
            if process.poll() is None:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        for thread in self._threads:
            thread.join(timeout=1)


@dataclass
class Stop:
    """Whether the job is to stop, and since when."""

    number: int = 0  # of the signal
    since: float = 0.0
    asked: int = 0  # how often

    def ask(self, number: int) -> None:
        """Begin to stop, or, asked again, stop at once."""
        self.asked += 1
        if not self.number:
            self.number, self.since = number, time.monotonic()

    @contextlib.contextmanager
    def at_signals(self) -> Iterator[None]:
        """Be asked by Ctrl-C, SIGTERM and SIGHUP, unless that is ignored already (nohup)."""
        kinds = [kind for kind in _SIGNALS if signal.getsignal(kind) != signal.SIG_IGN]
        before = {kind: signal.signal(kind, lambda number, _: self.ask(number)) for kind in kinds}
        try:
            yield
        finally:
            for kind, handler in before.items():
                signal.signal(kind, handler)

    @property
    def overdue(self) -> bool:
        """Whether the ranks are not to be waited for any more."""
        return self.asked > 1 or bool(self.number and time.monotonic() - self.since > FAREWELL)
