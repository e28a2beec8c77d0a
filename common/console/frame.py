"""The frame of every command, and the door that hands words over to them."""

import argparse
import contextvars
import gc
import importlib
import shlex
import sys
import types
from collections.abc import Mapping, Sequence
from typing import Callable, Optional, Union

from ..files import empty_folders_removed
from ..plugins import load_plugins
from ..registry import unknown_name
from .ending import print_result, stopped_by_signals, with_errors_told
from .parser import Parser
from .streams import make_streams_sound, set_up_logging

_command_line: contextvars.ContextVar[str] = contextvars.ContextVar('command line', default='')


def command_line() -> str:
    """The command that runs, as a shell would take it: 'vargfacenet verify --model ...'."""
    return _command_line.get()


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
            with stopped_by_signals(), empty_folders_removed():
                check(arguments)
        return 0

    def run_words(words: Sequence[str]) -> int:
        load_plugins()  # before the parser, whose choices come from the registries
        _command_line.set(shlex.join(['vargfacenet', *name.split(), *words]))
        arguments = make_parser().parse_args(words)
        asked = vars(arguments).pop('json', False)
        with stopped_by_signals(), empty_folders_removed():
            result = run(arguments)
        result, code = result if isinstance(result, tuple) else (result, 0)
        if result is not None and (asked or not sys.stdout.isatty()):
            print_result(result)
        return code

    def main(argv: Optional[Sequence[str]] = None) -> int:
        set_up_logging()
        words = list(sys.argv[1:] if argv is None else argv)
        return with_errors_told(f'vargfacenet {name}', lambda: run_words(words))

    main.parser = make_parser
    main.check = lambda words: with_errors_told(f'vargfacenet {name}', lambda: check_words(words))
    return main


def imported(module: str) -> types.ModuleType:
    """The module, without a look for garbage meanwhile: there is none, and each look goes over all
    that has been imported so far."""
    before = gc.isenabled()
    gc.disable()
    try:
        return importlib.import_module(module)
    finally:
        if before:
            gc.enable()


def main_of(name: str) -> Callable[[Optional[Sequence[str]]], int]:
    """The `main(argv=None)` of `vargfacenet NAME`; InputError for an unknown command."""
    package = __package__.rpartition('.common.')[0]
    # by its name: the door knows all rooms, and none may know it
    known = importlib.import_module('.__main__', package).COMMANDS
    if name not in known:
        raise unknown_name('command', name, known)
    return imported(f'{package}.{known[name][0]}').main


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
    make_streams_sound()
    argv = list(sys.argv[1:] if argv is None else argv)
    if argv[:1] == ['help']:
        argv = [*argv[1:], '--help']
    if argv and argv[0] in commands:
        module = f'{package}.{commands[argv[0]][0]}'
        # an import may fail as well: on a machine on which a library cannot run, or at Ctrl-C
        return with_errors_told(f'{prog} {argv[0]}', lambda: imported(module).main(argv[1:]))
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
