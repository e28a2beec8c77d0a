"""What people see: log lines, progress bars and tables on stderr, one JSON line on stdout.

The JSON line is for programs: where stdout is a terminal it is printed with `--json` alone. Every
command of the project is `main = console.command(NAME, build_parser, run)`: `run` gets the
parsed arguments and returns a dict of results; errors become one line and an exit code here.
"""

import argparse
import contextlib
import contextvars
import errno
import importlib
import json
import logging
import os
import re
import shlex
import signal
import sys
import textwrap
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Callable, Optional, Union

import numpy as np
from rich.console import Console
from rich.measure import Measurement
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from .errors import InputError, RunError
from .files import empty_folders_removed, error_of_disk
from .plugins import load_plugins
from .registry import nearest, unknown_name

log = logging.getLogger(__name__)

_OF_A_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS)
_LINE = 2000  # characters of an error at most
_WIDEST = 10_000  # characters; a table is measured as if the terminal had so many
_NON_TTY_LINE_SECONDS = 15.0  # a log file gets a progress line this often instead of a bar


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


def _make_streams_sound() -> None:
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


def stderr_console() -> Console:
    """Rich console on the current stderr (looked up anew, since tests replace it)."""
    return Console(file=sys.stderr, highlight=False, width=None if sys.stderr.isatty() else 120)


class _LineHandler(logging.Handler):
    """Prints records through rich, so that they appear above a running progress bar."""

    def __init__(self):
        super().__init__()
        self.bar: Optional[Console] = None

    def emit(self, record: logging.LogRecord) -> None:
        prefix = '' if record.levelno < logging.WARNING else f'{record.levelname.lower()}: '
        # what follows an end of a line in a name, or in an error's, would pass for a line of ours
        line = prefix + shown(record.getMessage()).replace('\n', '\\n')
        (self.bar or stderr_console()).print(line, markup=False, emoji=False, soft_wrap=True)


_handler = _LineHandler()


def set_up_logging(level: int = logging.INFO) -> None:
    """Send the project's log records to stderr, whatever that is; safe to call more than once."""
    _make_streams_sound()
    for name in ('vargfacenet', '__main__'):  # the second is a module run by `python -m`
        logger = logging.getLogger(name)
        logger.setLevel(level)
        if _handler not in logger.handlers:
            logger.addHandler(_handler)
            logger.propagate = False


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
    console = stderr_console()
    if console.is_terminal:
        columns = (
            TextColumn('{task.description}', markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn('{task.fields[note]}', markup=False),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=console) as display:
            total = total or None
            task = display.add_task(shown(description), total=total, completed=start, note='')

            def update(note: str) -> None:
                note = f'{bar.rate:.1f} {unit}/s {shown(note)}'
                display.update(task, completed=bar.done, note=note)

            bar._update = update
            _handler.bar = display.console
            try:
                yield bar
            finally:
                _handler.bar = None
        return

    last_line = time.monotonic()

    def line(note: str) -> None:
        nonlocal last_line
        if time.monotonic() - last_line < _NON_TTY_LINE_SECONDS:
            return
        last_line = time.monotonic()
        of, left = (f'/{total}', f', {duration(bar.seconds_left)} left') if total else ('', '')
        log.info(
            f'%s: %d%s {unit}, %.1f {unit}/s%s%s',
            *(description, bar.done, of, bar.rate, left, f' {note}' if note else ''),
        )

    bar._update = line
    yield bar


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], prose: bool = False
) -> None:
    """Print a table on stderr; the first column is text, the others are numbers, right-aligned, or
    with `prose` text as well."""
    # as Text: rich would take what stands in [brackets] in a name or path for its markup
    rows = [[shown(str(cell)) for cell in row] for row in rows]
    columns = [shown(column) for column in columns]  # names of runs may be among them
    console = stderr_console()
    room = console.options.update(max_width=_WIDEST)
    for headers in (columns, _narrow(columns, rows)):
        output = Table()
        for index, header in enumerate(headers):
            justify = 'left' if index == 0 or prose else 'right'
            output.add_column(Text(header), justify=justify, overflow='fold')
        for row in rows:
            output.add_row(*map(Text, row))
        fits = Measurement.get(console, room, output).maximum <= console.width
        if fits:
            break
    console.print(Text(shown(title), 'bold'))  # not as the table's, to which it would be broken
    console.print(output if fits or len(columns) < 3 else _records(columns, rows))


def _narrow(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Headers broken between words, to be no wider than the cells below them."""
    widest = [max(map(len, cells), default=1) for cells in zip(*rows)] or [1] * len(columns)
    return [
        '\n'.join(textwrap.wrap(header, max(width, 1), break_long_words=False) or [''])
        for header, width in zip(columns, widest)
    ]


def _records(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    """A table too wide for the terminal, as a block of lines for each row; empty cells are left
    out. Columns of three letters could not be read."""
    output = Table(show_header=False)
    output.add_column(overflow='fold')
    output.add_column(overflow='fold')
    for row in rows:
        for number, (column, cell) in enumerate(zip(columns, row)):
            if cell or not number:
                output.add_row(Text(column), Text(cell, 'bold' if number == 0 else ''))
        output.add_section()
    return output


def _plain(value: Any) -> Any:
    """NumPy scalars and arrays as what JSON knows."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    return str(value)


class _Formatter(argparse.ArgumentDefaultsHelpFormatter):
    """Defaults in the help, but for switches, which are off until they are given."""

    def _get_help_string(self, action: argparse.Action) -> Optional[str]:
        if action.nargs == 0 or action.default in (None, '', [], ()):
            return action.help
        return super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse with defaults in the help, errors as InputError (one line, exit 2), and --json."""

    def __init__(self, *args, **kwargs):
        kwargs.setdefault('formatter_class', _Formatter)
        kwargs.setdefault('allow_abbrev', False)  # a cut-off flag should not mean another later
        super().__init__(*args, **kwargs)
        self._words: list[str] = []
        self.add_argument(
            '--json',
            action='store_true',
            default=argparse.SUPPRESS,  # a subcommand's default would undo what stands before it
            help='print the result as one line of JSON on a terminal too',
        )

    def parse_known_args(self, args=None, namespace=None):
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str):
        raise InputError(f'{message}{self._hint(message)} (see {self.prog} --help)')

    def _hint(self, message: str) -> str:
        """What was meant by a misspelt choice, or an option where such a one can be at fault."""
        chosen = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if chosen:
            near = nearest(chosen[1], re.findall(r"[^', ]+", chosen[2]), 0.6)
            return f'; did you mean {near}?' if near else ''
        if not re.search('unrecognized|required', message):
            return ''
        known = list(_options_of(self))
        for word in (word.split('=')[0] for word in self._words if word.startswith('--')):
            near = '' if word in known else nearest(word, known, 0.7)
            if near:
                return f'; did you mean {near} by {word}?'
        return ''


def _options_of(parser: argparse.ArgumentParser) -> Iterator[str]:
    """The options of a parser and of its subcommands, of which argparse leaves unknown words to
    the parser above."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for subcommand in action.choices.values():
                yield from _options_of(subcommand)


_command_line: contextvars.ContextVar[str] = contextvars.ContextVar('command line', default='')


def command_line() -> str:
    """The command that runs, as a shell would take it: 'vargfacenet verify --model ...'."""
    return _command_line.get()


class Interrupted(KeyboardInterrupt):
    """A signal has stopped a command; `number` is the signal's."""

    def __init__(self, number: int):
        super().__init__()
        self.number = number


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
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


def check_ranges(options: Iterable[tuple[str, float, float, float]]) -> None:
    """Raise InputError for the first of (flag, value, lowest, highest) that is out of its range."""
    for flag, value, low, high in options:
        if not low <= value <= high:
            raise InputError(f'{flag} {value}: must be {low}..{high}')


def refuse_options(args: argparse.Namespace, names: Iterable[str], why: str) -> None:
    """Raise InputError for those of the options, by their names in `args`, that were given though
    nothing would come of them; `why` ends the line. Their defaults are None, False or []."""
    values = ((name, getattr(args, name)) for name in names)
    given = [name for name, value in values if not (value is None or value is False or value == [])]
    if given:
        raise InputError(f'{", ".join("--" + name.replace("_", "-") for name in given)}: {why}')


def command(
    name: str,
    build_parser: Callable[[Parser], None],
    run: Callable[[argparse.Namespace], Union[dict, tuple[dict, int], None]],
    check: Optional[Callable[[argparse.Namespace], object]] = None,
) -> Callable[[Optional[Sequence[str]]], int]:
    """The `main(argv=None)` of a command.

    Parameters
    ----------
    name : the word after `vargfacenet`
    build_parser : adds the command's arguments to the parser it is given; the module docstring's
        first paragraph of `run`'s module is the description
    run : does the work; its dict is printed as the last line of stdout, on a terminal only with
        --json (None, of a process that only helps another: nothing is printed); with an exit code
        of its own, (dict, code)
    check : raises InputError for arguments that are wrong whatever the data are, for `main.check`;
        `run` checks them by itself

    Returns
    -------
    function of argv that returns the exit code: 0, 2 for InputError, 1 for RunError or a failing
    disk, 128 and the signal's number after one that stopped it (130 for Ctrl-C). Set
    VARGFACENET_DEBUG=1 to see the traceback of any of them.
    `main.parser()` makes the command's parser; `main.check(words)` looks at the words alone, and
    returns the exit code of what is wrong with them, told as ever.
    """

    def make_parser() -> Parser:
        description = (sys.modules[run.__module__].__doc__ or '').split('\n\n')[0]
        parser = Parser(prog=f'vargfacenet {name}', description=description)
        build_parser(parser)
        return parser

    def check_words(words: Sequence[str]) -> int:
        load_plugins()
        arguments = make_parser().parse_args(list(words))
        if check:
            with _stopped_by_signals(), empty_folders_removed():
                check(arguments)
        return 0

    def run_words(words: Sequence[str]) -> int:
        load_plugins()  # before the parser, whose choices come from the registries
        _command_line.set(shlex.join(['vargfacenet', *name.split(), *words]))
        arguments = make_parser().parse_args(words)
        asked = vars(arguments).pop('json', False)
        with _stopped_by_signals(), empty_folders_removed():
            result = run(arguments)
        result, code = result if isinstance(result, tuple) else (result, 0)
        if result is not None and (asked or not sys.stdout.isatty()):
            _print_result(_json_line(result))
        return code

    def main(argv: Optional[Sequence[str]] = None) -> int:
        set_up_logging()
        words = list(sys.argv[1:] if argv is None else argv)
        return with_errors_told(f'vargfacenet {name}', lambda: run_words(words))

    main.parser = make_parser
    main.check = lambda words: with_errors_told(f'vargfacenet {name}', lambda: check_words(words))
    return main


def with_errors_told(prog: str, work: Callable[[], int]) -> int:
    """The exit code of `work`, or that of an expected error of it, which is told by one line; with
    VARGFACENET_DEBUG set it is raised."""
    try:
        return work()
    except (InputError, RunError, OSError, KeyboardInterrupt) as error:
        if os.environ.get('VARGFACENET_DEBUG'):
            raise
        return report_error(prog, error)


def _print_result(line: str) -> None:
    """RunError where stdout takes no more; at the end of the process nothing is tried again."""
    try:
        sys.stdout.write(line + '\n')
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


def main_of(name: str) -> Callable[[Optional[Sequence[str]]], int]:
    """The `main(argv=None)` of `vargfacenet NAME`; InputError for an unknown command."""
    package = __package__.rpartition('.')[0]
    # by its name: the door knows all rooms, and none may know it
    known = importlib.import_module('.__main__', package).COMMANDS
    if name not in known:
        raise unknown_name('command', name, known)
    return importlib.import_module(f'.{known[name][0]}', package).main


def parse_command(words: Sequence[str]) -> Optional[argparse.Namespace]:
    """What `vargfacenet WORDS` would be given: for whoever starts commands as processes, to know
    before what is wrong with them. None for a group of commands.

    Raises InputError for an unknown command, and for words that it does not take.
    """
    name, *rest = words or ['']
    main = main_of(name)
    return main.parser().parse_args(rest) if hasattr(main, 'parser') else None


def dispatch(
    prog: str,
    commands: Mapping[str, tuple[str, str]],
    package: str,
    argv: Optional[Sequence[str]] = None,
    version: str = '',
) -> int:
    """Hand `argv` over to the command it starts with; without one, list them all.

    Parameters
    ----------
    prog : what the user typed before the command
    commands : command -> (module relative to `package`, what it does); the module's main(argv)
        returns the exit code. Only the module of the chosen command is imported.
    version : what `--version` prints; without one there is no such option

    Returns
    -------
    the command's exit code, 2 for an unknown or missing one. What was asked for, the list of
    `--help` and the version, goes to stdout. `help COMMAND` is `COMMAND --help`.
    """
    _make_streams_sound()
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ['help']:
        argv = [*argv[1:], '--help']
    if argv and argv[0] in commands:
        module = f'{package}.{commands[argv[0]][0]}'
        # an import may fail as well: on a machine on which a library cannot run, or at Ctrl-C
        return with_errors_told(
            f'{prog} {argv[0]}', lambda: importlib.import_module(module).main(argv[1:])
        )
    if not argv or argv[0] in ('-h', '--help'):
        width = max(map(len, commands))
        lines = [f'  {name:<{width}} {text}' for name, (_, text) in commands.items()]
        usage = f'usage: {prog} COMMAND [options]   ({prog} COMMAND --help)'
        (sys.stdout if argv else sys.stderr).write('\n'.join([usage, '', *lines]) + '\n')
        return 0 if argv else 2
    if version and argv[0] == '--version':
        sys.stdout.write(f'{prog} {version}\n')
        return 0
    sys.stderr.write(f'{prog}: {unknown_name("command", argv[0], commands)}\n')
    return 2
