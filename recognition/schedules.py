"""Learning rate as a pure function of the step, from gluoncv's schedulers.

A pure function of the step needs no state in a checkpoint, and a parameter server can hold a copy.
"""

from gluoncv.utils.lr_scheduler import LRScheduler, LRSequential

MODES = ('cosine', 'step', 'poly', 'constant')
POLY_POWER = 2


def learning_rate(
    mode: str, lr: float, total_steps: int, warmup_steps: int = 0, steps=(), factor: float = 0.1
) -> LRSequential:
    """Linear warm-up from 0, then one of `MODES`.

    Parameters
    ----------
    mode : 'cosine' or 'poly' (power 2) fall to 0 at `total_steps`; 'step' multiplies by `factor`
        at each of `steps`; 'constant'
    lr : learning rate at the end of warm-up
    total_steps, warmup_steps, steps : in updates, counted from the start of the run

    Returns
    -------
    callable of the update's number (MXNet counts the first one as 1) that gives the learning rate.
    """
    # gluoncv divides by niters - 1
    warmup_steps = min(warmup_steps, total_steps - 2) if warmup_steps >= 2 else 0
    parts = []
    if warmup_steps >= 2:
        parts.append(LRScheduler('linear', base_lr=0.0, target_lr=lr, niters=warmup_steps))
    main_steps = max(2, total_steps - warmup_steps)
    if mode == 'step':
        # counted from the end of warm-up there, from the start of the run here
        after_warmup = [step - warmup_steps for step in steps]
        parts.append(
            LRScheduler(
                'step', base_lr=lr, niters=main_steps, step_iter=after_warmup, step_factor=factor
            )
        )
    else:
        parts.append(
            LRScheduler(mode, base_lr=lr, target_lr=0.0, niters=main_steps, power=POLY_POWER)
        )
    return LRSequential(parts)
