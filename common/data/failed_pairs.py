"""Pairs that a pair set could not take since a picture is missing, such as one without a face.

They give no score, and an evaluation counts them (failure to acquire, ISO/IEC 19795-1). Beside
SET.bin lies SET.failed.txt: a line a pair, its number in the pair list (from 0), both pictures and
0 or 1, between tabs.
"""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..checksums import forget, noted, warn_if_changed
from ..errors import InputError
from ..files import PathLike, atomic_write, read_lines

_NUMBER = re.compile('[0-9]{1,18}')


class FailedPair(NamedTuple):
    number: int  # in the pair list
    first: str
    second: str
    same: bool


def failed_path(pair_set: PathLike) -> Path:
    return Path(pair_set).with_suffix('.failed.txt')


def write_failed(pair_set: PathLike, failed: Iterable[FailedPair]) -> Path:
    """Write the list beside a pair set; returns its path."""
    path = failed_path(pair_set)
    lines = (f'{pair.number}\t{pair.first}\t{pair.second}\t{pair.same:d}\n' for pair in failed)
    with noted(path):
        atomic_write(path, ''.join(lines))
    return path


def remove_failed(pair_set: PathLike) -> None:
    """Remove the list of a pair set that is written anew."""
    failed_path(pair_set).unlink(missing_ok=True)
    forget(failed_path(pair_set))


def read_failed(pair_set: PathLike) -> list[FailedPair]:
    """The list beside a pair set, empty where there is none; InputError for another file."""
    path = failed_path(pair_set)
    if not path.is_file():
        return []
    warn_if_changed(path)
    failed = []
    for number, line in enumerate(read_lines(path, 'pairs left out'), 1):
        words = line.split('\t')
        if len(words) != 4 or not _NUMBER.fullmatch(words[0]) or words[3] not in ('0', '1'):
            raise InputError(f'{path}: line {number} is no pair; expected NUMBER FIRST SECOND 0|1')
        failed.append(FailedPair(int(words[0]), words[1], words[2], words[3] == '1'))
    return failed
