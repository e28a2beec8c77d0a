"""Dataclasses from what a JSON file holds: every field there, of its type, and no other."""

import dataclasses
import math
import numbers
import typing
from typing import Any, TypeVar

from .errors import InputError
from .registry import unknown_name

T = TypeVar('T')

FLOAT32_LEAST, FLOAT32_LARGEST = 2.0**-126, (2.0 - 2.0**-23) * 2.0**127

_SHOWN = 40  # characters of a value in a message
_NAMES = {
    **{int: 'a whole number', float: 'a number', str: 'a text', bool: 'true or false'},
    **{list: 'a list', tuple: 'a list', dict: 'a table'},
}


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


def is_float32(value: Any) -> bool:
    """Whether a number is one that float32 holds: 0, or in size from its least normal number to
    its largest one. MXNet refuses all others, and at the first step of a run."""
    if not is_number(value):
        return False
    return value == 0 or FLOAT32_LEAST <= abs(value) <= FLOAT32_LARGEST


def taken(value: Any, kind: Any, place: str) -> Any:
    """`value` as a field of this kind holds it, a list as a tuple where that is the kind.

    InputError, beginning with `place`, for a value of another kind or beyond all bounds.
    """
    inner = typing.get_args(kind)
    if dataclasses.is_dataclass(kind):
        return from_values(kind, value, place)
    if type(None) in inner:  # Optional
        return None if value is None else taken(value, inner[0], place)
    kind = typing.get_origin(kind) or kind
    if kind in (list, tuple) and isinstance(value, (list, tuple)):
        return kind(taken(each, inner[0], f'{place} [{n}]') for n, each in enumerate(value))
    if kind is dict and isinstance(value, dict):
        return {key: taken(each, inner[1], f'{place} {key!r}') for key, each in value.items()}
    if kind is Any or _fits(value, kind):
        return value
    expected = _NAMES.get(kind, kind.__name__)
    raise InputError(f'{place} is {str(value)[:_SHOWN]!r}; expected {expected}')


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return is_number(value) and abs(value) < 1e300
    if kind is int:
        return type(value) is int and abs(value) < 1 << 62
    return isinstance(value, kind)


def from_values(cls: type[T], values: Any, what: str) -> T:
    """An instance of a dataclass whose fields are numbers, texts, truth values, tuples, dicts,
    other such dataclasses, and any of these or None.

    `values` is what json.loads gives; a list stands for a tuple. Raises InputError, beginning with
    `what`, for unknown and missing fields and for a value of another type or beyond all bounds.
    """
    if not isinstance(values, dict):
        raise InputError(f'{what}: expected an object, not {type(values).__name__}')
    kinds = typing.get_type_hints(cls)
    for name in values.keys() - kinds.keys():
        raise unknown_name(f'field of {what}', name[:_SHOWN], kinds)
    for field in dataclasses.fields(cls):
        needed = field.default is field.default_factory is dataclasses.MISSING
        if needed and field.name not in values:
            raise InputError(f'{what}: the field {field.name!r} is missing')
    place = f'{what}: the field'
    return cls(
        **{name: taken(value, kinds[name], f'{place} {name!r}') for name, value in values.items()}
    )
