"""Evaluation results on disk: one `.npz` with arrays and a JSON description, for the report."""

import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .. import __version__
from ..common.arrays import read_npz, write_npz
from ..common.console import command_line
from ..common.errors import InputError
from ..common.files import PathLike, input_file, output_file

VERIFICATION, IDENTIFICATION = 'verification', 'identification'
_FORMAT = 'vargfacenet-results'
_ABOUT = '__about__'


class Results(NamedTuple):
    """What one evaluation command saved."""

    kind: str  # VERIFICATION or IDENTIFICATION
    about: dict[str, Any]  # plain values: model, targets, options
    arrays: dict[str, np.ndarray]


def check_results_path(path: PathLike, inputs: Iterable[PathLike] = ()) -> Path:
    """`path` if results can be saved there, otherwise InputError, as for one of the `inputs`; makes
    its folder."""
    path = Path(path)
    if path.suffix != '.npz':
        raise InputError(f'results {path}: expected a name that ends in .npz')
    return output_file(path, inputs)


def save_results(path: PathLike, kind: str, about: Mapping, arrays: Mapping) -> None:
    """Write results, whole or not at all. `about` holds what JSON knows; arrays go by name.

    The date (UTC), the version and the command that runs are added.
    """
    made = {
        'date': time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime()),
        'version': __version__,
        'command': command_line(),
    }
    head = {'format': _FORMAT, 'kind': kind, **made, **about}
    text = json.dumps(head, default=lambda value: value.tolist())
    write_npz(path, {_ABOUT: np.array(text), **arrays}, compressed=True)


def load_results(path: PathLike) -> Results:
    """Read what `save_results` wrote; InputError for any other file."""
    path = input_file(path, 'results')
    try:
        arrays = read_npz(path)
        about = json.loads(str(arrays.pop(_ABOUT)))
        is_ours = about.pop('format') == _FORMAT and isinstance(about['kind'], str)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        is_ours = False
    if not is_ours:
        raise InputError(
            f'{path} is no results file; vargfacenet verify --save and identify --save write them'
        )
    return Results(about.pop('kind'), about, arrays)
