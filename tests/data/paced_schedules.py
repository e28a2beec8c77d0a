"""Schedules by which a run is stopped where a test wants it, however fast the machine is: a plugin,
see VARGFACENET_PLUGINS."""

import math
import os
import time
from pathlib import Path

from vargfacenet.recognition.schedules import SCHEDULES, ByStep

STARTED_BY = os.getppid()
SLOW = 0.03  # seconds a step


def cosine(lr, num_steps, step):
    return lr * (1 + math.cos(math.pi * step / num_steps)) / 2


@SCHEDULES.register('held')
def held(lr, num_steps, lr_steps, lr_factor):
    """Half-way it waits for the file HELD_UNTIL, or the end of who has started it."""
    until = Path(os.environ['HELD_UNTIL'])

    def formula(step):
        while step >= num_steps // 2 and not until.exists() and os.getppid() == STARTED_BY:
            time.sleep(0.01)
        return cosine(lr, num_steps, step)

    return ByStep(formula, num_steps)


@SCHEDULES.register('slow')
def slow(lr, num_steps, lr_steps, lr_factor):
    """The steps take more time than the imports, so that kills come among them."""
    newest = 0

    def formula(step):
        nonlocal newest
        if step > newest:  # it is asked for every array
            newest = step
            time.sleep(SLOW)
        return cosine(lr, num_steps, step)

    return ByStep(formula, num_steps)
