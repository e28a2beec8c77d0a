"""What a training run logs: `history.jsonl`, one JSON object a line: {"step": ..., "loss": ...}."""

import contextlib
import json
from pathlib import Path

from .files import PathLike

HISTORY = 'history.jsonl'


def read_history(folder: PathLike) -> list[dict]:
    """Rows of a run's history; a last line cut off by a kill is left out."""
    path = Path(folder) / HISTORY
    rows = []
    for line in path.read_text('utf-8', 'replace').splitlines() if path.is_file() else ():
        with contextlib.suppress(json.JSONDecodeError):
            row = json.loads(line)
            if isinstance(row, dict) and isinstance(row.get('step'), int):
                rows.append(row)
    return rows
