"""What a training run logs: `history.jsonl`, one JSON object a line: {"step": ..., "loss": ...}."""

import json
import logging
import math
from pathlib import Path
from typing import Optional

from .files import PathLike, read_lines

log = logging.getLogger(__name__)

HISTORY = 'history.jsonl'
_LAST_STEP = 1 << 53


def read_history(folder: PathLike) -> list[dict]:
    """Rows of a run's history: 'step' is a whole number, all others are finite numbers.

    A last line cut off by a kill is left out; others that are damaged are left out with a warning.
    """
    path = Path(folder) / HISTORY
    lines = read_lines(path, 'history') if path.is_file() else []
    rows = [_row(line) for line in lines if line.strip()]
    damaged = sum(row is None for row in rows[:-1])
    if damaged:
        log.warning('%s: %d lines are damaged and left out', path, damaged)
    return [row for row in rows if row is not None]


def _row(line: str) -> Optional[dict]:
    try:
        row = json.loads(line)
        whole = type(row['step']) is int and 0 <= row['step'] <= _LAST_STEP
        numbers = all(type(v) in (int, float) and math.isfinite(v) for v in row.values())
        numbers &= all(name.isprintable() for name in row)
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return None
    return row if whole and numbers else None
