"""The state of a training run on disk: what `--resume` needs to end with the same weights.

A checkpoint is numbered from 1 and consists of

    PREFIX-%04d.params   weights, with the classifier
    PREFIX-%04d.states   the optimizer's momenta
    PREFIX-%04d.raw      with --ema: the weights that go on being trained, since those of .params
                         are their average, which is verified, exported and learnt from
    PREFIX-%04d.centres  with --head partial-fc: class centres, their momenta, the loss's states
    PREFIX-%04d.json     configuration and TrainState; written last, so its presence is the proof
                         that the others are whole

Order of the data, mirroring, dropout and learning rate are pure functions of (seed, step), so the
step is all there is to remember of them.
"""

import json
import logging
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Optional

from ..common.checked_json import write_checked
from ..common.engine.model_name import params_path
from ..common.engine.optimizer_states import read_states, write_states
from ..common.engine.params_file import read_arrays
from ..common.errors import InputError
from ..common.files import PathLike
from ..common.run_files import (
    SYMBOL_CHECKSUM,
    checkpoint_numbers,
    read_state,
    state_path,
    symbol_checksum,
)
from ..common.typed import from_values
from .config import PARTIAL_FC, TrainConfig
from .partial_fc.centres_file import centres_path, check_centres
from .schedules import LRSequential, learning_rate

log = logging.getLogger(__name__)
SILENT = logging.getLogger(f'{__name__}.silent')  # for who looks before the run does
SILENT.disabled = True

# fields that say how the images of a step fall to processes
_SHARES = [field.name for field in fields(TrainConfig) if field.metadata.get('shares')]


@dataclass
class TrainState:
    """Where a run stands."""

    step: int = 0  # updates done
    number: int = 0  # of the newest checkpoint; 0 before the first
    best_number: int = 0  # of the checkpoint with the best verification
    best_score: float = -1.0  # its mean accuracy over the targets
    seconds: float = 0.0  # spent training, over all resumed parts


def optimizer_path(prefix: PathLike, number: int) -> Path:
    return Path(f'{prefix}-{number:04d}.states')


def raw_path(prefix: PathLike, number: int) -> Path:
    return Path(f'{prefix}-{number:04d}.raw')


def save_state(prefix: PathLike, config: TrainConfig, state: TrainState, momenta: dict) -> None:
    """Write momenta (as `write_states` takes them), then the JSON that completes checkpoint
    `state.number`."""
    write_states(optimizer_path(prefix, state.number), momenta)
    content = {'config': json.loads(config.to_json()), 'state': asdict(state)}
    content[SYMBOL_CHECKSUM] = symbol_checksum(prefix)
    write_checked(state_path(prefix, state.number), content)


def load_state(prefix: PathLike, number: int) -> tuple[TrainConfig, TrainState]:
    """Configuration and state of checkpoint `number`; InputError for a damaged file."""
    config, state = read_state(prefix, number)
    try:
        return TrainConfig.from_json(json.dumps(config)), from_values(
            TrainState, state, 'saved state'
        )
    except InputError as error:
        raise InputError(f'{state_path(prefix, number)}: {error}') from None


def learning_rate_of(config: TrainConfig) -> LRSequential:
    """The learning rate at every step of a run."""
    return learning_rate(
        config.lr_mode,
        config.lr,
        config.total_steps,
        config.warmup_steps,
        config.lr_steps,
        config.lr_factor,
    )


def newest_state(
    config: TrainConfig, batch_may_change: bool = False, told: logging.Logger = log
) -> Optional[tuple[TrainConfig, TrainState]]:
    """Configuration and state to go on with, or None where nothing was saved yet.

    It is the state of the newest checkpoint whose files are whole; damaged ones after it are `told`
    by name, and written anew by the run. A run may be made longer: from the checkpoint on, the
    learning rate is that of the longer one. It may go on in another number of processes, with as
    many images a step. If `batch_may_change`, these may be others, and the run ends after the steps
    that it was to take before, however often it is resumed.

    Raises
    ------
    InputError where the saved run had another configuration, naming the fields.
    """
    numbers = checkpoint_numbers(config.prefix)
    if not numbers:
        return None
    number, saved, state = _last_whole(config.prefix, numbers, told)
    if batch_may_change:
        # also where the batch is the saved one: it may have become so in an earlier resumption
        config = _with_steps_of(saved, config, told)
    _tell_shares(config, saved, told)
    before = saved
    if batch_may_change:
        saved = replace(saved, **{name: getattr(config, name) for name in _SHARES})
    if config.total_steps > saved.total_steps:
        longer = {'total_steps': config.total_steps}
        if state.step >= max(config.warmup_steps, saved.warmup_steps):
            longer['warmup_steps'] = config.warmup_steps  # is over either way
        saved = replace(saved, **longer)
    differences = config.differences(saved)
    if differences:
        raise InputError(
            f'{state_path(config.prefix, number)} was saved by another configuration: '
            + '; '.join(differences)
            + ' (give the same options, another --name, or --overwrite)'
            + _about_images(config, saved)
        )
    if config.total_steps > before.total_steps:
        rates = (learning_rate_of(each)(state.step + 1) for each in (before, config))
        told.info(
            '%s is made longer, from %d to %d steps: at step %d the learning rate goes from %.4g '
            'to %.4g',
            *(config.name, before.total_steps, config.total_steps, state.step + 1),
            *rates,
        )
    return config, state


def _with_steps_of(saved: TrainConfig, config: TrainConfig, told: logging.Logger) -> TrainConfig:
    """`config` with the saved steps and warm-up."""
    if config.total_steps != saved.total_steps:
        told.info(
            '%s keeps its %d steps, for --batch-may-change; these options would give %d',
            *(config.name, saved.total_steps, config.total_steps),
        )
    return replace(config, total_steps=saved.total_steps, warmup_steps=saved.warmup_steps)


def _about_images(config: TrainConfig, saved: TrainConfig) -> str:
    """What to do where the images a step are not as many as before; '' where they are."""
    ours, theirs = config.global_batch_size, saved.global_batch_size
    if ours == theirs:
        return ''
    return (
        f'. A step would have {ours} images, not {theirs}: --global-batch-size {theirs} keeps them '
        'in any number of processes, --batch-may-change takes others'
    )


def _tell_shares(config: TrainConfig, saved: TrainConfig, told: logging.Logger) -> None:
    """Say what a run in another number of processes has in common with the one before."""
    ours, theirs = (
        f'{each.num_workers} x {each.per_batch_size * each.num_devices} images'
        for each in (config, saved)
    )
    if ours == theirs:
        return
    told.info(
        '%s goes on in processes of %s, not %s. What each process does by itself differs from now '
        "on: %sdropout, PartialFC's samples, losses that compare the images of a step%s",
        *(config.name, ours, theirs),
        '' if config.sync_bn else "BatchNorm's statistics, ",
        ''
        if config.global_batch_size == saved.global_batch_size
        else f'. Steps and learning rate stay, with {config.global_batch_size} images a step, not '
        f'{saved.global_batch_size}',
    )


def _last_whole(
    prefix: PathLike, numbers: list[int], told: logging.Logger
) -> tuple[int, TrainConfig, TrainState]:
    """Number, configuration and state of the newest checkpoint that is not damaged.

    Raises InputError, that of the newest, where all are.
    """
    first = None
    for number in reversed(numbers):
        try:
            saved = load_state(prefix, number)
            read_arrays(params_path(prefix, number))
            read_states(optimizer_path(prefix, number))
            if saved[0].ema:
                read_arrays(raw_path(prefix, number))
            if saved[0].head == PARTIAL_FC:
                check_centres(centres_path(prefix, number))
        except InputError as error:
            told.warning('checkpoint %d is damaged: %s', number, error)
            first = first or error
        else:
            return number, *saved
    raise first


def remove_checkpoint(prefix: PathLike, number: int) -> None:
    """Delete the files of one checkpoint, the JSON first, so that no rest looks complete."""
    for path in (
        state_path(prefix, number),
        optimizer_path(prefix, number),
        raw_path(prefix, number),
        centres_path(prefix, number),
        Path(f'{prefix}-{number:04d}.params'),
    ):
        path.unlink(missing_ok=True)
