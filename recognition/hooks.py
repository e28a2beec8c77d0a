"""What happens beside the update: logging, verification, checkpoints, stopping.

A hook is called after every step with the `TrainState`. Hooks run in the order log, verify, save,
so that a checkpoint is never written of a run whose loss is already known to be non-finite.
"""

import contextlib
import errno
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from ..common.backend import mx
from ..common.console import Interrupted
from ..common.engine import checkpoint
from ..common.engine.mxnet import Embedder
from ..common.errors import InputError, RunError
from ..common.files import atomic_write
from ..common.history import HISTORY, history_line, read_history
from ..common.ranks import Ranks
from ..eval.datasets import load_bin
from ..eval.targets import resolve_targets
from ..eval.verification import VerificationResult, check_pairs, verify
from .config import TrainConfig
from .curves import plot_curves
from .event_log import EventLog
from .graph import CLASS_LOSS, CORRECT, DISTILL_LOSS, TOTAL_LOSS, current_params
from .heads import GraphHead
from .run_state import TrainState, checkpoint_numbers, raw_path, remove_checkpoint, save_state
from .updates import WeightAverage

log = logging.getLogger(__name__)

FOLDS = 10  # of the verification protocol


class NoHistory:
    """The history of a process that leaves writing to another."""

    def add(self, step: int, values: dict[str, float]) -> None:
        """Forget the row."""

    def draw(self, title: str) -> None:
        """Draw nothing."""

    def close(self) -> None:
        """Nothing is open."""


class History(NoHistory):
    """`history.jsonl` and the TensorBoard log of a run; rows after `state.step` are dropped on
    resume, since the resumed run writes them again (TensorBoard's keeps both).

    A log does not end a run: where the disk is full, rows wait until one can be written again."""

    def __init__(self, folder: Path, state: TrainState):
        self._folder, self._path = folder, folder / HISTORY
        rows = read_history(folder) if state.step else []
        kept = [history_line(row) for row in rows if row['step'] <= state.step]
        atomic_write(self._path, ''.join(kept))
        self._waiting: list[str] = []
        self._events = EventLog(folder / 'mxboard')

    def add(self, step: int, values: dict[str, float]) -> None:
        """Append one row, here and to the TensorBoard log."""
        self._waiting.append(history_line({'step': step, **values}))
        self._write()
        self._events.add(step, values)

    def _write(self) -> None:
        """Append what waits, whole or not at all."""
        first_failure = len(self._waiting) == 1
        try:
            # unbuffered, so that what fails does so here
            with open(self._path, 'ab', buffering=0) as handle:
                size, content = handle.tell(), ''.join(self._waiting).encode()
                try:
                    if handle.write(content) < len(content):
                        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                except OSError:
                    with contextlib.suppress(OSError):
                        handle.truncate(size)
                    raise
        except OSError as error:
            if first_failure:
                log.warning(
                    '%s: cannot be written (%s); the run goes on and tries again with every row',
                    self._path,
                    error.strerror,
                )
        else:
            self._waiting.clear()

    def draw(self, title: str) -> None:
        """Draw the rows as `curves.png`."""
        plot_curves(self._folder, title)

    def close(self) -> None:
        if self._waiting:
            self._write()
        self._events.close()


def momenta(module) -> dict:
    """The optimizer's state by the number of the parameter, as arrays, tuples of them or None."""

    def plain(state):
        if isinstance(state, (tuple, list)):
            return tuple(plain(part) for part in state)
        return None if state is None else state.asnumpy()

    return {number: plain(state) for number, state in module._updater.states.items()}


def last_checkpoint(config: TrainConfig, state: TrainState) -> str:
    """'PREFIX,EPOCH' of the newest checkpoint, or that there is none."""
    return f'{config.prefix},{state.number}' if state.number else 'none was saved yet'


class Stopwatch:
    """Seconds spent training: what runs inside `paused` does not count."""

    def __init__(self):
        self._since = time.monotonic()

    def lap(self) -> float:
        """Seconds since the start or the last lap."""
        before, self._since = self._since, time.monotonic()
        return self._since - before

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time of verification and saving, but not of steps still under way."""
        mx.nd.waitall()
        started = time.monotonic()
        yield
        self._since += time.monotonic() - started


class LogHook:
    """Loss, accuracy, learning rate, images/s and time left, every `config.frequent` steps.

    Losses stay on the device until then; they are means over all ranks. Raises RunError naming the
    first step of the interval whose loss was not finite.
    """

    def __init__(self, config: TrainConfig, lr_at, watch: Stopwatch, history, bar, ranks: Ranks):
        self._config, self._lr_at, self._ranks = config, lr_at, ranks
        self._watch, self._bar = watch, bar
        self._history: NoHistory = history
        self._window: list = []  # per pass: (4,) means of the outputs

    def see(self, outputs: list) -> None:
        """Keep the losses of a pass, the `NUM_OUTPUTS` outputs of its graph."""
        means = [mx.nd.mean(output) for output in outputs]
        self._window.append(mx.nd.concat(*means, dim=0))

    def __call__(self, state: TrainState) -> None:
        config = self._config
        # also where a checkpoint is due, so that none is written of a loss that is not finite
        due = not state.step % config.frequent or not state.step % config.verbose
        if not due and state.step != config.total_steps:
            self._bar.advance()
            return
        values = self._measure(state)
        self._bar.advance(
            note=f'loss {values["loss"]:.3f} acc {values["accuracy"]:.3f} '
            f'lr {values["learning_rate"]:.4f} {values["images_per_second"]:.0f} images/s'
        )
        self._history.add(state.step, values)

    def _measure(self, state: TrainState) -> dict[str, float]:
        window = mx.nd.stack(*self._window).asnumpy()  # (passes, 4)
        window = self._ranks.sum(window, 'losses') / self._ranks.size
        self._window.clear()
        steps = len(window) // self._config.accumulate
        finite = np.isfinite(window[:, TOTAL_LOSS])
        if not finite.all():
            passes = int(np.argmin(finite))
            step = state.step - steps + 1 + passes // self._config.accumulate
            kept = last_checkpoint(self._config, state)
            raise RunError(
                f'the loss is not finite at step {step} '
                f'(learning rate {self._lr_at(step):.4g}); last good checkpoint: {kept}. '
                'Lower --lr or lengthen --warmup-steps'
            )
        seconds = self._watch.lap()
        state.seconds += seconds
        mean = window.mean(axis=0)
        values = {
            'loss': float(mean[TOTAL_LOSS]),
            'accuracy': float(mean[CORRECT]),
            'learning_rate': float(self._lr_at(state.step)),
            'images_per_second': steps * self._config.global_batch_size / seconds,
        }
        if self._config.teacher:
            values['class_loss'] = float(mean[CLASS_LOSS])
            values['distill_loss'] = float(mean[DISTILL_LOSS])
        return values


def target_paths(config: TrainConfig) -> dict[str, Path]:
    """Name -> file of every verification target; InputError for a missing one."""
    if not config.val_targets:
        return {}
    return resolve_targets(list(config.val_targets), config.data_dir)


def load_targets(config: TrainConfig) -> dict[str, tuple]:
    """Name -> (images, issame) of every target; InputError for one that cannot be verified on."""
    targets = {}
    for name, path in target_paths(config).items():
        images, issame = load_bin(path)
        if len(issame) < FOLDS:
            raise InputError(
                f'target {path} has {len(issame)} pairs; verification takes {FOLDS}, one a '
                'fold. Add pairs to it, or leave it out of --target'
            )
        check_pairs(len(images), issame, FOLDS)
        targets[name] = images, issame
    return targets


@dataclass
class Weights:
    """The weights of a run: as the newest update left them, and those that the run shows."""

    module: 'mx.mod.Module'
    head: GraphHead
    average: Optional[WeightAverage] = None

    def newest(self) -> tuple[dict, dict]:
        """(arg_params, aux_params) after the newest update."""
        return current_params(self.module)

    def shown(self) -> tuple[dict, dict]:
        """(arg_params, aux_params) that are verified and saved: the average, if there is one."""
        newest = self.newest()
        return self.average.params(*newest) if self.average else newest


class VerifyHook:
    """10-fold verification on every target, every `config.verbose` steps and at the end."""

    def __init__(
        self, config: TrainConfig, weights: Weights, embedder: Embedder, targets: dict, history
    ):
        self._config, self._weights, self._embedder = config, weights, embedder
        self._targets, self._history = targets, history
        self.results: dict[str, VerificationResult] = {}  # of the newest verification

    def __call__(self, state: TrainState) -> None:
        if state.step % self._config.verbose and state.step != self._config.total_steps:
            return
        if not self._targets:
            return
        self._embedder.set_params(*self._weights.shown())
        for name, (images, issame) in self._targets.items():
            try:
                result, _ = verify(self._embedder, images, issame)
            except InputError as error:
                # Early in a run, running statistics may be so far from the weights that an
                # embedding overflows; the loss decides whether the run goes on.
                self.results.pop(name, None)
                log.warning('step %d  %s  not verified: %s', state.step, name, error)
                continue
            self.results[name] = result
            accuracy = f'{100 * result.accuracy:.2f} +- {100 * result.accuracy_std:.2f}'
            val = f'{100 * result.val:.2f} % @ FAR {result.far:.4f}'
            log.info('step %d  %s  accuracy %s %%  VAL %s', state.step, name, accuracy, val)
            self._history.add(
                state.step, {f'{name}_accuracy': result.accuracy, f'{name}_val': result.val}
            )

    @property
    def score(self) -> float:
        """Mean accuracy over the targets of the newest verification; -1 without targets."""
        accuracies = [result.accuracy for result in self.results.values()]
        return float(np.mean(accuracies)) if accuracies else -1.0


class HelpSaveHook:
    """The checkpoints of a process that leaves saving to another, and gives it its own part."""

    def __init__(self, config: TrainConfig, weights: Weights, verify_hook: VerifyHook):
        self._config, self._weights, self._verify = config, weights, verify_hook

    def __call__(self, state: TrainState) -> None:
        if state.step % self._config.verbose == 0 or state.step == self._config.total_steps:
            self.save(state, self._verify.score)

    def save(self, state: TrainState, score: float = -1.0) -> None:
        """Count the checkpoint, and send the first process what belongs to it."""
        if self._config.ckpt:
            state.number += 1
            self._weights.head.save(self._config.prefix, state.number)


class SaveHook(HelpSaveHook):
    """Checkpoints every `config.verbose` steps and at the end, kept as `config.ckpt` says."""

    def __init__(self, config: TrainConfig, weights: Weights, embedding, verify_hook: VerifyHook):
        super().__init__(config, weights, verify_hook)
        checkpoint.save_symbol(config.prefix, embedding)

    def save(self, state: TrainState, score: float = -1.0) -> None:
        """Write checkpoint `state.number + 1`; `score` decides whether it is the best."""
        config = self._config
        if config.ckpt == 0:
            return
        arg_params, aux_params = self._weights.shown()
        raw = self._weights.newest() if config.ema else ({}, {})
        for name, value in (*arg_params.items(), *aux_params.items(), *raw[0].items()):
            if not np.isfinite(value.asnumpy()).all():
                raise RunError(
                    f'parameter {name} is not finite at step {state.step}; '
                    f'last good checkpoint: {last_checkpoint(config, state)}'
                )
        state.number += 1
        if score >= state.best_score:
            state.best_number, state.best_score = state.number, score
        path = checkpoint.params_path(config.prefix, state.number)
        checkpoint.save_params(path, arg_params, aux_params)
        if config.ema:
            checkpoint.save_params(raw_path(config.prefix, state.number), *raw)
        self._weights.head.save(config.prefix, state.number)
        save_state(config.prefix, config, state, momenta(self._weights.module))
        log.info('step %d  saved %s,%d', state.step, config.prefix, state.number)
        keep = {1: {state.number}, 3: {state.number, state.best_number}}.get(config.ckpt)
        for number in checkpoint_numbers(config.prefix) if keep else ():
            if number not in keep:
                remove_checkpoint(config.prefix, number)


@dataclass
class StopRequest:
    """Whether a signal asked the run to stop: true then, and `number` is the signal's."""

    number: int = 0

    def __bool__(self) -> bool:
        return self.number > 0


@contextlib.contextmanager
def stop_signals() -> Iterator[StopRequest]:
    """Turn the first Ctrl-C, SIGTERM or SIGHUP (a closed terminal) into a request, so that the
    step can end and be saved. A SIGHUP that is ignored already (nohup) stays so."""
    asked = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def ask(number, frame):
        if asked:  # a second Ctrl-C does not wait
            raise Interrupted(number)
        asked.number = number
        log.info('stopping after this step; press Ctrl-C again to stop at once')

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, ask) for number in numbers}
    try:
        yield asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
