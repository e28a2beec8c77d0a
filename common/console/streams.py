"""stdin, stdout, stderr and the log: sound whatever they are, and nothing in them that a terminal
obeys or that passes for a line of ours."""

import contextlib
import logging
import os
import re
import sys
from typing import TYPE_CHECKING, Any, Optional

if TYPE_CHECKING:  # what shows nothing but lines starts sooner without
    from rich.console import Console

# all but the tab and the end of a line: terminals obey them, and names come from others' files;
# those of the second row turn the letters behind them around, or end a line
_CONTROL = re.compile('[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]')


def shown(text: str) -> str:
    """A text as people may see it: control characters as Python writes them, ESC as \\x1b."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class _Unbreakable:
    """stderr, of which a failure costs what was to be shown and never the command: it may be a file
    on a full disk, or a pipe whose reader is gone."""

    def __init__(self, stream: Any):
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            self._stream.write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            self._stream.flush()


def make_streams_sound() -> None:
    """Have stdin, stdout and stderr, closed ones as the null device: the first file that is opened
    would take the place of one, and get what libraries print there. Children have them too."""
    for number, name in enumerate(('stdin', 'stdout', 'stderr')):
        if getattr(sys, name) is None:
            try:
                os.fstat(number)  # of a file that has taken the place already
            except OSError:
                # the lowest number that is free
                os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
            setattr(sys, name, open(os.devnull, 'w' if number else 'r'))  # noqa: SIM115
    if not isinstance(sys.stderr, _Unbreakable):
        sys.stderr = _Unbreakable(sys.stderr)


def stderr_console() -> 'Console':
    """Rich console on the current stderr (looked up anew, since tests replace it)."""
    from rich.console import Console

    return Console(file=sys.stderr, highlight=False, width=None if sys.stderr.isatty() else 120)


class _LineHandler(logging.Handler):
    """Writes records as lines; above a progress bar while one is running."""

    def __init__(self):
        super().__init__()
        self.bar: Optional[Console] = None

    def emit(self, record: logging.LogRecord) -> None:
        prefix = '' if record.levelno < logging.WARNING else f'{record.levelname.lower()}: '
        # what follows an end of a line in a name, or in an error's, would pass for a line of ours
        line = prefix + shown(record.getMessage()).replace('\n', '\\n')
        if self.bar:
            self.bar.print(line, markup=False, emoji=False, soft_wrap=True)
        else:
            sys.stderr.write(line + '\n')


HANDLER = _LineHandler()


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the project's log records to stderr, whatever that is; safe to call more than once."""
    make_streams_sound()
    for name in ('vargfacenet', '__main__'):  # the second is a module run by `python -m`
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if HANDLER not in logger.handlers:
            logger.addHandler(HANDLER)
            logger.propagate = False
