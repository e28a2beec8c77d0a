"""The state of a training run on disk: what `--resume` needs to end with the same weights.

A checkpoint is numbered from 1 and consists of

    PREFIX-%04d.params   weights, with the classifier
    PREFIX-%04d.states   the optimizer's momenta
    PREFIX-%04d.json     configuration and TrainState; written last, so its presence is the proof
                         that the other two are whole

Order of the data, mirroring, dropout and learning rate are pure functions of (seed, step), so the
step is all there is to remember of them.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from ..common.engine.optimizer_states import write_states
from ..common.errors import InputError
from ..common.files import PathLike, atomic_write, read_json
from ..common.typed import from_values
from .config import TrainConfig


@dataclass
class TrainState:
    """Where a run stands."""

    step: int = 0  # updates done
    number: int = 0  # of the newest checkpoint; 0 before the first
    best_number: int = 0  # of the checkpoint with the best verification
    best_score: float = -1.0  # its mean accuracy over the targets
    seconds: float = 0.0  # spent training, over all resumed parts


def state_path(prefix: PathLike, number: int) -> Path:
    return Path(f'{prefix}-{number:04d}.json')


def optimizer_path(prefix: PathLike, number: int) -> Path:
    return Path(f'{prefix}-{number:04d}.states')


def save_state(prefix: PathLike, config: TrainConfig, state: TrainState, momenta: dict) -> None:
    """Write momenta (as `write_states` takes them), then the JSON that completes checkpoint
    `state.number`."""
    write_states(optimizer_path(prefix, state.number), momenta)
    content = {'config': json.loads(config.to_json()), 'state': asdict(state)}
    atomic_write(state_path(prefix, state.number), json.dumps(content, indent=1, sort_keys=True))


def checkpoint_numbers(prefix: PathLike) -> list[int]:
    """Numbers of all complete checkpoints, ascending."""
    prefix = Path(prefix)
    pattern = re.compile(re.escape(prefix.name) + r'-(\d{4,})\.json')
    matches = (pattern.fullmatch(path.name) for path in prefix.parent.glob(f'{prefix.name}-*.json'))
    return sorted(int(match.group(1)) for match in matches if match)


def load_state(prefix: PathLike, number: int) -> tuple[TrainConfig, TrainState]:
    """Configuration and state of checkpoint `number`; InputError for a damaged file."""
    path = state_path(prefix, number)
    content = read_json(path, 'run state')
    if not isinstance(content, dict) or not {'config', 'state'} <= content.keys():
        raise InputError(f'{path} is no saved run state')
    try:
        config = TrainConfig.from_json(json.dumps(content['config']))
        return config, from_values(TrainState, content['state'], 'saved state')
    except InputError as error:
        raise InputError(f'{path}: {error}') from None


def newest_state(config: TrainConfig) -> Optional[TrainState]:
    """State to resume `config` from, or None where nothing was saved yet.

    Raises
    ------
    InputError where the saved run had another configuration, naming the fields.
    """
    numbers = checkpoint_numbers(config.prefix)
    if not numbers:
        return None
    saved, state = load_state(config.prefix, numbers[-1])
    differences = config.differences(saved)
    if differences:
        raise InputError(
            f'{state_path(config.prefix, numbers[-1])} was saved by another configuration: '
            + '; '.join(differences)
            + ' (give the same options, another --name, or --overwrite)'
        )
    return state


def remove_checkpoint(prefix: PathLike, number: int) -> None:
    """Delete the files of one checkpoint, the JSON first, so that no rest looks complete."""
    for path in (
        state_path(prefix, number),
        optimizer_path(prefix, number),
        Path(f'{prefix}-{number:04d}.params'),
    ):
        path.unlink(missing_ok=True)
