"""Numbers as cells of a table: as people read them, with the values that a CSV gets."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from .page import Cell
from .statistics import Interval

DASH = '–'  # where there is no number


def percent(interval: Interval, signed: bool = False) -> str:
    """'98.90 [98.10, 99.50]' of a rate 0..1."""
    value, low, high = (100 * number for number in interval)
    sign = '+' if signed else ''
    return f'{value:{sign}.2f} [{low:{sign}.2f}, {high:{sign}.2f}]'


def interval_cell(interval: Interval, signed: bool = False) -> Cell:
    """A rate 0..1 in percent with its interval; three values."""
    values = tuple(100 * number for number in interval)
    return Cell(percent(interval, signed), values, ('', 'low', 'high'))


def percent_cell(rate: Optional[float]) -> Any:
    """A rate 0..1 in percent without an interval; a dash for None."""
    return DASH if rate is None else Cell(f'{100 * rate:.2f}', (100 * float(rate),))


def number_cell(value: float, form: str = '.3f') -> Cell:
    return Cell(f'{value:{form}}', (float(value),))


def spread_cell(values: Sequence[float], form: str = '.2f') -> Cell:
    """Mean ± population deviation; two values."""
    mean = sum(values) / len(values)
    deviation = (sum((value - mean) ** 2 for value in values) / len(values)) ** 0.5
    return Cell(f'{mean:{form}} ± {deviation:{form}}', (mean, deviation), ('', 'std'))


def option_text(value: Any) -> str:
    """A configuration's value: options as 'a=1, b=2', a dash for what is empty."""
    if isinstance(value, Mapping):
        return ', '.join(f'{key}={item}' for key, item in value.items()) or DASH
    return DASH if value in ('', None) else str(value)


def slug(*words: str) -> str:
    """A file's name without suffix, of letters and digits of any script; never empty."""
    name = re.sub(r'\W+', '-', '-'.join(words).casefold()).strip('-')
    return name[:60] or 'item'  # a file's name has at most 255 bytes
