"""Learning rate as a pure function of the step, from gluoncv's schedulers.

A pure function of the step needs no state in a checkpoint, and a parameter server can hold a copy.
A schedule is a function (lr, num_steps, lr_steps, lr_factor) -> LRScheduler of what follows the
warm-up; a new one is such a function, registered, and `ByStep` makes it of a formula.
"""

from typing import Callable

from ..common import backend  # noqa: F401  (MXNet, which GluonCV imports, as it is set up there)
from ..common.errors import RunError
from ..common.quick_mxnet import quick_import
from ..common.registry import Registry

with quick_import('gluoncv'):
    from gluoncv.utils.lr_scheduler import LRScheduler, LRSequential

SCHEDULES: Registry[Callable[..., LRScheduler]] = Registry('learning-rate schedule')
POLY_POWER = 2


class ByStep(LRScheduler):
    """A schedule by a formula: step 0..num_steps - 1 -> learning rate."""

    def __init__(self, formula: Callable[[int], float], num_steps: int):
        super().__init__('constant', niters=num_steps)
        self._formula = formula

    def update(self, num_update: int) -> None:
        step = min(max(0, num_update - self.offset), self.niters - 1)
        self.learning_rate = self._formula(step)


@SCHEDULES.register('cosine')
def cosine(lr: float, num_steps: int, lr_steps: tuple, lr_factor: float) -> LRScheduler:
    """Falls to 0 as half a cosine."""
    return LRScheduler('cosine', base_lr=lr, target_lr=0.0, niters=num_steps)


@SCHEDULES.register('poly')
def poly(lr: float, num_steps: int, lr_steps: tuple, lr_factor: float) -> LRScheduler:
    """Falls to 0 with the square of the steps that are left."""
    return LRScheduler('poly', base_lr=lr, target_lr=0.0, niters=num_steps, power=POLY_POWER)


@SCHEDULES.register('constant')
def constant(lr: float, num_steps: int, lr_steps: tuple, lr_factor: float) -> LRScheduler:
    """Stays."""
    return LRScheduler('constant', base_lr=lr, niters=num_steps)


@SCHEDULES.register('step')
def step(lr: float, num_steps: int, lr_steps: tuple, lr_factor: float) -> LRScheduler:
    """Multiplies by `lr_factor` at each of `lr_steps`."""
    return LRScheduler(
        'step', base_lr=lr, niters=num_steps, step_iter=list(lr_steps), step_factor=lr_factor
    )


def learning_rate(
    mode: str, lr: float, total_steps: int, warmup_steps: int = 0, steps=(), factor: float = 0.1
) -> LRSequential:
    """Linear warm-up from 0, then one of `SCHEDULES`.

    Parameters
    ----------
    mode : its name
    lr : learning rate at the end of warm-up
    total_steps, warmup_steps, steps : in updates, counted from the start of the run
    factor : of `mode` 'step'

    Returns
    -------
    callable of the update's number (MXNet counts the first one as 1) that gives the learning rate.
    """
    # gluoncv divides by niters - 1
    warmup_steps = min(warmup_steps, total_steps - 2) if warmup_steps >= 2 else 0
    parts = []
    if warmup_steps >= 2:
        parts.append(LRScheduler('linear', base_lr=0.0, target_lr=lr, niters=warmup_steps))
    # counted from the end of warm-up there, from the start of the run here
    after_warmup = tuple(step - warmup_steps for step in steps)
    num_steps = max(2, total_steps - warmup_steps)
    schedule = SCHEDULES.get(mode)(lr, num_steps, after_warmup, factor)
    if not isinstance(schedule, LRScheduler):
        raise RunError(
            f'--lr-mode {mode} gave {type(schedule).__name__}; expected an LRScheduler, such as '
            f'ByStep(formula, num_steps)'
        )
    parts.append(schedule)
    return LRSequential(parts)
