"""A study's results.json: its form, and how it is read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ...common.checked_json import read_checked
from ...common.errors import InputError
from ...common.typed import from_values
from .measured import KeptTest


@dataclass(frozen=True)
class _Interval:
    """A `compare.Estimate`; what is not finite is None."""

    value: float
    low: float
    high: float
    seeds: int
    of_people: Optional[float]
    of_seeds: Optional[float]


@dataclass(frozen=True)
class _Run:
    seconds: Optional[float]
    measures: dict[str, float]
    test: Optional[KeptTest] = None  # older results have none


@dataclass(frozen=True)
class _Arm:
    command: str
    options: dict[str, Any]
    model: str
    runs: dict[str, _Run]
    measures: dict[str, _Interval]
    published: dict[str, float]
    # of an arm that trains
    network: Optional[str] = None
    network_options: Optional[dict[str, Any]] = None
    params: Optional[int] = None
    flops: Optional[int] = None
    steps: Optional[int] = None
    images_a_step: Optional[int] = None
    images: Optional[int] = None
    people: Optional[int] = None


@dataclass(frozen=True)
class _McNemar:
    only_arm: int
    only_against: int
    p_values: tuple[float, ...]


@dataclass(frozen=True)
class _Comparison:
    arm: str
    against: str
    measure: str
    people: int
    difference: _Interval
    by_seed: dict[str, float]
    told: bool
    sentence: str
    mcnemar: Optional[_McNemar]


@dataclass(frozen=True)
class _Question:
    ask: str
    arms: tuple[str, ...]
    comparisons: tuple[_Comparison, ...]
    note: str = ''


@dataclass(frozen=True)
class _Result:
    title: str
    note: str
    measure: str
    study: dict[str, Any]
    arms: dict[str, _Arm]
    questions: tuple[_Question, ...]
    missing: tuple[str, ...]
    machine: str
    version: str


def _read(path: Path) -> tuple[dict[str, Any], _Result]:
    """A results.json as it is, and typed."""
    result = read_checked(path, 'results of a study')
    typed = from_values(_Result, result, f'{path} is no results.json of a study')
    try:
        json.dumps(result, allow_nan=False)
    except ValueError:
        raise InputError(f'{path}: a number in it is NaN or infinite, which is no JSON') from None
    return result, typed


def read_results(path: Path) -> dict[str, Any]:
    """What `results.gather` gave, from a study's results.json.

    Raises InputError for any other file, naming the field that is missing or of another type.
    """
    return _read(path)[0]


def read_arms(path: Path) -> dict[str, _Arm]:
    """The arms of a study's results.json, with their runs; InputError as `read_results`."""
    return _read(path)[1].arms
