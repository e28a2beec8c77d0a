"""Options that say of themselves what they are, and the one reader of KEY=VALUE words.

A table of options is a dataclass whose fields are made by `option`: each has a type, perhaps a
default, a help text and a rule. The command line, the checks and the help all come from it.
"""

import dataclasses
import math
import numbers
from collections.abc import Iterable, Mapping
from typing import Any, Callable, NamedTuple, Optional

from .errors import InputError
from .registry import unknown_name
from .typed import FLOAT32_LARGEST, FLOAT32_LEAST, is_float32, is_number

_BOUNDS = f'{FLOAT32_LEAST:.2g} to {FLOAT32_LARGEST:.2g}'
_WITH_0 = f'float32: 0, or in size from {_BOUNDS}'


class Rule(NamedTuple):
    """What a value may be."""

    test: Callable[[Any], bool]
    expected: str  # ends the sentence 'it must be ...'


def integer(low: int, high: Optional[int] = None) -> Rule:
    """A whole number from `low`, to `high` if there is one."""

    def test(value: Any) -> bool:
        is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return is_integer and low <= value and (high is None or value <= high)

    if high is not None:
        return Rule(test, f'an integer from {low} to {high}')
    return Rule(test, 'an integer above 0' if low == 1 else f'an integer, at least {low}')


def positive(high: float = math.inf) -> Rule:
    """A number above 0, at most `high`; without that, one that float32 holds."""
    if math.isinf(high):
        return Rule(
            lambda value: is_float32(value) and value > 0, f'a number above 0 (float32: {_BOUNDS})'
        )
    return Rule(
        lambda value: is_number(value) and 0 < value <= high, f'a number above 0, at most {high:g}'
    )


def one_of(choices: Iterable[str]) -> Rule:
    """One of some words."""
    choices = tuple(choices)
    return Rule(lambda value: value in choices, f'one of {", ".join(choices)}')


REAL = Rule(is_float32, f'a finite number ({_WITH_0})')
NOT_NEGATIVE = Rule(
    lambda value: is_float32(value) and value >= 0, f'a finite number, not negative ({_WITH_0})'
)
SHARE = Rule(
    lambda value: is_number(value) and 0 <= value < 1, 'a number from 0 up to, not including, 1'
)
FLAG = Rule(lambda value: isinstance(value, bool), 'true or false')

_FLAG_WORDS = {'true': True, 'yes': True, '1': True, 'false': False, 'no': False, '0': False}


def option(
    help: str, default: Any = dataclasses.MISSING, rule: Optional[Rule] = None, **more: Any
) -> Any:
    """A dataclass field that describes itself.

    Parameters
    ----------
    help : what it is, for people
    default : value when nothing is given; without one the field must be given
    rule : what a value may be; anything by default
    more : what else its users want to know, kept in the field's metadata
    """
    metadata = {'help': help, 'rule': rule, **more}
    if isinstance(default, (dict, list)):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def defaults_of(table: type) -> dict[str, Any]:
    """Option -> default of a dataclass of options that all have one."""
    return {field.name: field.default for field in dataclasses.fields(table)}


def rules_of(table: type) -> dict[str, Rule]:
    """Option -> rule of a dataclass of options, for those that have one."""
    rules = {field.name: field.metadata.get('rule') for field in dataclasses.fields(table)}
    return {name: rule for name, rule in rules.items() if rule}


def _known(name: str, option: str, defaults: Mapping[str, Any]) -> None:
    if not defaults:
        raise InputError(f'{name} has no options, so no {option!r} either')
    if option not in defaults:
        raise unknown_name(f'{name} option', option, defaults)


def parse(
    kind: str,
    name: str,
    words: Iterable[str],
    defaults: Mapping[str, Any],
    rules: Mapping[str, Rule],
) -> dict[str, Any]:
    """Options from the command line.

    Parameters
    ----------
    kind, name : whose options they are, e.g. 'network', 'y1'
    words : 'option=value' each, e.g. 'multiplier=1.0', 'use_se=no'
    defaults : option -> default, which gives the type of the value
    rules : option -> what it may be

    Returns
    -------
    dict of the options that were given, every value of its option's type

    Raises
    ------
    InputError for an unknown option, a word without '=', an option given twice and a value that
    cannot be read or that the rule refuses.
    """
    options = {}
    for word in words:
        option, equals, text = word.partition('=')
        if not equals:
            raise InputError(f'{kind} option {word!r}: expected OPTION=VALUE (KEY=VALUE)')
        _known(name, option, defaults)
        if option in options:
            raise InputError(f'{kind} option {option} is given twice')
        as_type = type(defaults[option])
        try:
            options[option] = _FLAG_WORDS[text.lower()] if as_type is bool else as_type(text)
        except (KeyError, ValueError):
            expected = rules[option].expected if option in rules else f'a {as_type.__name__}'
            raise InputError(f'{kind} {name}: {option} must be {expected}, not {text!r}') from None
    return check(kind, name, options, defaults, rules)


def check(
    kind: str,
    name: str,
    given: Mapping[str, Any],
    defaults: Mapping[str, Any],
    rules: Mapping[str, Rule],
) -> dict[str, Any]:
    """`given` options with every value of its default's type.

    So multiplier=1 and 1.0, or a NumPy number, are the same. Raises InputError for an option that
    does not exist (with the nearest one that does) and for a value that the rule refuses.
    """
    values = {}
    for option, value in given.items():
        _known(name, option, defaults)
        rule = rules.get(option)
        if rule and not rule.test(value):
            raise InputError(f'{kind} {name}: {option} must be {rule.expected}, not {value!r}')
        values[option] = type(defaults[option])(value)
    return values
