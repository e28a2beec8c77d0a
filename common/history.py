"""What a training run logs: `history.jsonl`, one JSON object a line: {"step": ..., "loss": ...}.

Each line ends with a checksum of its other values, `crc32`, which readers see no more.
"""

import json
import logging
import zlib
from pathlib import Path
from typing import Optional

from .files import PathLike, read_lines
from .typed import is_number

log = logging.getLogger(__name__)

HISTORY = 'history.jsonl'
_LAST_STEP = 1 << 53
_CHECKSUM = 'crc32'


def read_history(folder: PathLike) -> list[dict]:
    """Rows of a run's history: 'step' is a whole number, all others are finite numbers.

    A last line cut off by a kill is left out; others that are damaged are left out with a warning.
    """
    rows, damaged = scan_history(folder)
    if damaged:
        log.warning('%s: %d lines are damaged and left out', Path(folder) / HISTORY, damaged)
    return rows


def scan_history(folder: PathLike) -> tuple[list[dict], int]:
    """(rows, number of damaged lines) of a run's history; a last line that was cut off is none."""
    path = Path(folder) / HISTORY
    lines = read_lines(path, 'history') if path.is_file() else []
    rows = [_row(line) for line in lines if line.strip()]
    return [row for row in rows if row is not None], sum(row is None for row in rows[:-1])


def history_line(row: dict) -> str:
    """The line of a row: 'step', a whole number, and numbers by name."""
    return json.dumps({**row, _CHECKSUM: _checksum(row)}) + '\n'


def _checksum(row: dict) -> int:
    return zlib.crc32(json.dumps(row).encode())


def _row(line: str) -> Optional[dict]:
    try:
        row = json.loads(line)
        whole = type(row['step']) is int and 0 <= row['step'] <= _LAST_STEP
        numbers = all(map(is_number, row.values()))
        numbers &= all(name.isprintable() for name in row)
        whole &= row.pop(_CHECKSUM, _checksum(row)) == _checksum(row)  # older runs have none
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return None
    return row if whole and numbers else None
