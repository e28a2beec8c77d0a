"""Where a benchmark's results go: JSON and a picture beside it."""

import json
from pathlib import Path
from typing import Optional

from ...common import console
from ...common.engine.export_record import model_files
from ...common.errors import InputError
from ...common.files import atomic_write, output_file
from .measure import plot_lines


def add_out(parser: console.Parser, what: str) -> None:
    parser.add_argument(
        '--out', metavar='FILE.json', default='', help=f'write {what} here, the picture beside it'
    )


def check_out(out: str, model: Optional[str] = None) -> None:
    """InputError, before anything is measured, where the results could not be written, or would
    replace a file of the model."""
    if out and Path(out).suffix != '.json':
        raise InputError(f'--out {out}: expected a name that ends in .json')
    if out:
        output_file(out, model_files(model) if model else ())
        output_file(Path(out).with_suffix('.png'))


def shown(ratio: dict) -> str:
    """'10.2 (9.8-11.0)' of a ratio's fields."""
    return f'{ratio["median"]:.3g} ({ratio["low"]:.3g}-{ratio["high"]:.3g})'


def write(out: str, result: dict, panels: list) -> dict:
    """Write both files if asked for; the result again, for the command to print."""
    if not out:
        return result
    plot = Path(out).with_suffix('.png')
    plot_lines(plot, panels)
    result = {**result, 'plot': str(plot)}
    atomic_write(out, json.dumps(result, indent=1))
    return result
