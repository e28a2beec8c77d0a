"""Progress on stderr: a bar on a terminal, lines now and then elsewhere."""

import contextlib
import logging
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Callable, Optional

from .streams import HANDLER, shown, stderr_console

log = logging.getLogger(__name__)

_NON_TTY_LINE_SECONDS = 15.0  # a log file gets a progress line this often instead of a bar


@dataclass
class ProgressBar:
    """Counts work done; made by `progress`. `rate` is in units per second since the start."""

    unit: str
    total: int
    done: int = 0
    start: int = 0
    started: float = field(default_factory=time.monotonic)
    _update: Optional[Callable[[str], None]] = None

    @property
    def rate(self) -> float:
        return (self.done - self.start) / max(time.monotonic() - self.started, 1e-9)

    @property
    def seconds_left(self) -> float:
        """Estimated from the rate so far; 0 before anything is done."""
        return (self.total - self.done) / self.rate if self.done > self.start else 0.0

    def advance(self, count: int = 1, note: str = '') -> None:
        """Add `count` units; `note` is short free text behind the bar (loss, rate)."""
        self.done += count
        if self._update:
            self._update(note)


def duration(seconds: float) -> str:
    """'41 s', '12:05' (minutes) or '3:07:00' (hours)."""
    seconds = round(seconds)
    if seconds < 60:
        return f'{seconds} s'
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    return f'{hours}:{minutes:02d}:{seconds:02d}' if hours else f'{minutes}:{seconds:02d}'


@contextlib.contextmanager
def progress(
    total: int, description: str, unit: str = 'images', start: int = 0
) -> Iterator[ProgressBar]:
    """Show progress on stderr with rate and time left: a bar on a terminal, lines elsewhere.

    `start` units count as done before this run (a resumed one). A `total` of 0 is not known: only
    what is done and the rate are shown.
    """
    bar = ProgressBar(unit=unit, total=total, done=start, start=start)
    if sys.stderr.isatty():
        from rich import progress as parts

        columns = (
            parts.TextColumn('{task.description}', markup=False),
            parts.BarColumn(),
            parts.MofNCompleteColumn(),
            parts.TextColumn('{task.fields[note]}', markup=False),
            parts.TimeRemainingColumn(),
        )
        with parts.Progress(*columns, console=stderr_console()) as display:
            total = total or None
            task = display.add_task(shown(description), total=total, completed=start, note='')

            def update(note: str) -> None:
                note = f'{bar.rate:.1f} {unit}/s {shown(note)}'
                display.update(task, completed=bar.done, note=note)

            bar._update = update
            HANDLER.bar = display.console
            try:
                yield bar
            finally:
                HANDLER.bar = None
        return

    last_line = time.monotonic()

    def line(note: str) -> None:
        nonlocal last_line
        if time.monotonic() - last_line < _NON_TTY_LINE_SECONDS:
            return
        last_line = time.monotonic()
        of = f'/{total}' if total else ''
        known = total and bar.done > bar.start  # else no rate tells how long the rest takes
        left = f', {duration(bar.seconds_left)} left' if known else ''
        log.info(
            f'%s: %d%s {unit}, %.1f {unit}/s%s%s',
            *(description, bar.done, of, bar.rate, left, f' {note}' if note else ''),
        )

    bar._update = line
    yield bar
