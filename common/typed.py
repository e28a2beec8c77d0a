"""Dataclasses from what a JSON file holds: every field there, of its type, and no other."""

import dataclasses
import math
import numbers
import typing
from typing import Any, TypeVar

from .errors import InputError
from .registry import unknown_name

T = TypeVar('T')

_SHOWN = 40  # characters of a value in a message


def is_number(value: Any) -> bool:
    """Whether a value out of JSON or TOML is a number that a float can hold: no NaN, no infinity,
    no truth value, and no whole number of hundreds of digits, on which math.isfinite itself fails.
    """
    if not isinstance(value, numbers.Real) or isinstance(value, bool):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _fits(value: Any, kind: Any) -> bool:
    kind, inner = typing.get_origin(kind) or kind, typing.get_args(kind)
    if kind is tuple and isinstance(value, tuple):
        return all(_fits(item, inner[0]) for item in value)
    if kind is dict and isinstance(value, dict):
        return inner[1] is Any or all(_fits(item, inner[1]) for item in value.values())
    if kind is float:
        return is_number(value) and abs(value) < 1e300
    if kind is int:
        return type(value) is int and abs(value) < 1 << 62
    return isinstance(value, kind)


def from_values(cls: type[T], values: Any, what: str) -> T:
    """An instance of a dataclass whose fields are numbers, texts, truth values, tuples and dicts.

    `values` is what json.loads gives; a list stands for a tuple. Raises InputError, beginning with
    `what`, for unknown and missing fields and for a value of another type or beyond all bounds.
    """
    if not isinstance(values, dict):
        raise InputError(f'{what}: expected an object, not {type(values).__name__}')
    kinds = typing.get_type_hints(cls)
    for name in values.keys() - kinds.keys():
        raise unknown_name(f'field of {what}', name[:_SHOWN], kinds)
    values = {name: tuple(v) if isinstance(v, list) else v for name, v in values.items()}
    for field in dataclasses.fields(cls):
        name = field.name
        if name not in values:
            if field.default is field.default_factory is dataclasses.MISSING:
                raise InputError(f'{what}: the field {name!r} is missing')
        elif not _fits(values[name], kinds[name]):
            raise InputError(f'{what}: the field {name!r} is {str(values[name])[:_SHOWN]!r}')
    return cls(**values)
