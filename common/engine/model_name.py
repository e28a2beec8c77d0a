"""A checkpoint's name, PREFIX,EPOCH, and the files that it stands for; needs no MXNet."""

import os
import re
from pathlib import Path

from ..errors import InputError
from ..files import PathLike
from ..run_files import checkpoint_numbers, read_state, symbol_path

DEFAULT = 'default'  # names the model that comes with the project, see default_model.py
_DEFAULT_MODEL = f'{Path(__file__).with_name("default") / "model"},0'


def resolve(text: str) -> str:
    """The text of a `--model` option with DEFAULT replaced by the checkpoint PREFIX,EPOCH."""
    return _DEFAULT_MODEL if text.strip() == DEFAULT else text


def parse_model(text: str) -> tuple[str, int]:
    """'PREFIX,EPOCH', or 'default', -> (prefix, epoch).

    EPOCH may be `latest`, the newest checkpoint of a training run, or `best`, the best verified of
    those that are there. Raises InputError for any other form, and where there is no such run.
    """
    match = re.fullmatch(r'(.+),(\d{1,9}|latest|best)', resolve(text).strip())
    if not match:
        raise InputError(
            f'model {text!r}: expected PREFIX,EPOCH, e.g. models/run/model,1 '
            f'for models/run/model-symbol.json and models/run/model-0001.params'
        )
    prefix, epoch = match.groups()
    return prefix, int(epoch) if epoch.isdigit() else _number(prefix, epoch)


def _number(prefix: str, word: str) -> int:
    numbers = checkpoint_numbers(prefix)
    if not numbers:
        raise InputError(f'model {prefix},{word}: {prefix} is no training run with checkpoints')
    best = read_state(prefix, numbers[-1])[1].get('best_number')
    return best if word == 'best' and best in numbers else numbers[-1]


def numbered(model: str) -> str:
    """The text of a `--model` option with the number in the place of `latest` or `best`: of a run
    that goes on, these would soon be another checkpoint."""
    if not model.strip().endswith((',latest', ',best')):
        return model
    return '{},{}'.format(*parse_model(model))


def shown_name(model: PathLike) -> str:
    """A model's name for people who need not know where it lies: 'run/model,9' of a checkpoint,
    'export/model.onnx' of a file, the last part of the path of an export."""
    path = Path(os.path.abspath(model))
    named_by = 2 if ',' in path.name or path.suffix else 1
    return '/'.join(path.parts[-named_by:])


def params_path(prefix: PathLike, epoch: int) -> Path:
    return Path(f'{prefix}-{epoch:04d}.params')


def checkpoint_files(model: str) -> tuple[Path, Path]:
    """The symbol and the parameters of a checkpoint PREFIX,EPOCH."""
    prefix, epoch = parse_model(model)
    return symbol_path(prefix), params_path(prefix, epoch)
