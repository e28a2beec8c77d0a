"""The words of a command: argparse whose errors are one line, and checks that options share."""

import argparse
import re
import sys
from collections.abc import Iterable, Iterator
from typing import Optional

from ..errors import InputError
from ..registry import nearest


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
        known = list(_options_of(self, self._words))
        for word in (word.split('=')[0] for word in self._words if word.startswith('--')):
            near = '' if word in known else nearest(word, known, 0.7)
            if near:
                return f'; did you mean {near} by {word}?'
        return ''


def _options_of(parser: argparse.ArgumentParser, words: Iterable[str]) -> Iterator[str]:
    """The options of a parser and of the subcommand that `words` name, of all where they name
    none: argparse leaves a subcommand's unknown words to the parser above."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            named = [action.choices[word] for word in words if word in action.choices]
            for subcommand in named or action.choices.values():
                yield from _options_of(subcommand, words)


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
