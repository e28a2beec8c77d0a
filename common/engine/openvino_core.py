"""OpenVINO's core, which whoever uses OpenVINO takes from here."""

import functools
import threading

from ..extras import need
from .contract import EXTRA

_making = threading.Lock()


def core():
    """OpenVINO's core, one for the life of the process.

    What runs models on the CPU gives the thread that first uses it a stack for signals, and unmaps
    that when its core goes. If that is in another thread, or before a later core's, the thread
    keeps a stack that is gone, and the next signal ends the process without a word: a Ctrl-C that
    was to save a training run.
    """
    with _making:
        return _one_core()


@functools.cache
def _one_core():
    return need('openvino', EXTRA).Core()
