"""Dataclasses from JSON: every field there, of its type."""

import math
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np
import pytest
from vargfacenet.common.errors import InputError
from vargfacenet.common.typed import from_values, is_number


@dataclass(frozen=True)
class Thing:
    count: int
    rate: float
    name: str
    steps: tuple[int, ...]
    options: dict[str, Any]
    weights: dict[str, float]
    late: bool = False


GOOD = {
    **{'count': 3, 'rate': 1, 'name': 'a', 'steps': [1, 2]},
    **{'options': {'b': [None]}, 'weights': {'c': 0.5}},
}


def test_a_number_is_what_a_float_can_hold():
    for value in (0, -3, 1.5, 10**300, np.float32(2)):
        assert is_number(value)
    for value in (10**400, -(10**400), math.inf, math.nan, True, None, '1', [1]):
        assert not is_number(value)


def test_the_fields_come_back():
    thing = from_values(Thing, GOOD, 'thing')
    assert thing == Thing(3, 1, 'a', (1, 2), {'b': [None]}, {'c': 0.5})


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'count': 3.5}, "'count' is '3.5'"),
        ({'count': True}, "'count' is 'True'"),
        ({'count': 10**30}, "'count' is"),
        ({'rate': float('nan')}, "'rate' is 'nan'"),
        ({'rate': 10**400}, "'rate' is"),
        ({'name': None}, "'name' is 'None'"),
        ({'steps': [2, '1']}, r"'steps' \[1\] is '1'; expected a whole number"),
        ({'steps': 2}, "'steps' is '2'; expected a list"),
        ({'weights': {'c': 'x'}}, "'weights' 'c' is 'x'; expected a number"),
        ({'weights': [1]}, "'weights' is .*; expected a table"),
        ({'late': 1}, "'late' is '1'"),
        ({'nmae': 1}, 'did you mean'),
    ],
)
def test_a_field_of_another_type_is_named(change, message):
    with pytest.raises(InputError, match=message):
        from_values(Thing, {**GOOD, **change}, 'thing')


@dataclass(frozen=True)
class Box:
    things: dict[str, Thing]
    lid: Optional[float] = None


def test_objects_in_objects():
    box = from_values(Box, {'things': {'a': GOOD}, 'lid': None}, 'box')
    assert box == Box({'a': from_values(Thing, GOOD, 'thing')})
    assert from_values(Box, {'things': {}, 'lid': 2}, 'box').lid == 2
    for values, message in (
        ({'things': {'a': {**GOOD, 'count': 'x'}}}, "'things' 'a': the field 'count' is 'x'"),
        ({'things': {'a': 3}}, "'things' 'a': expected an object"),
        ({'things': {}, 'lid': 'x'}, "'lid' is 'x'; expected a number"),
    ):
        with pytest.raises(InputError, match=f'^box: the field {message}'):
            from_values(Box, values, 'box')


def test_a_missing_field_and_other_values():
    with pytest.raises(InputError, match="'rate' is missing"):
        from_values(Thing, {key: value for key, value in GOOD.items() if key != 'rate'}, 'thing')
    for values in ([], None, 'x', 3):
        with pytest.raises(InputError, match='expected an object'):
            from_values(Thing, values, 'thing')
