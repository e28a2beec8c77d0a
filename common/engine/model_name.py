"""A checkpoint's name, PREFIX,EPOCH, and the files that it stands for; needs no MXNet."""

import re
from pathlib import Path

from ..errors import InputError
from ..files import PathLike


def parse_model(text: str) -> tuple[str, int]:
    """'PREFIX,EPOCH' -> (prefix, epoch); raises InputError for any other form."""
    match = re.fullmatch(r'(.+),(\d{1,9})', text.strip())
    if not match:
        raise InputError(
            f'model {text!r}: expected PREFIX,EPOCH, e.g. models/run/model,1 '
            f'for models/run/model-symbol.json and models/run/model-0001.params'
        )
    return match.group(1), int(match.group(2))


def symbol_path(prefix: PathLike) -> Path:
    return Path(f'{prefix}-symbol.json')


def params_path(prefix: PathLike, epoch: int) -> Path:
    return Path(f'{prefix}-{epoch:04d}.params')
