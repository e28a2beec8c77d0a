"""The compiled kernels of PartialFC, loaded: `python -m` of this module compiles them.

In a folder of its own, which needs no MXNet, so that a set-up without it compiles them as well.
"""

import ctypes
import functools
from pathlib import Path
from typing import Optional

import numpy as np

from ...common.console import set_up_logging
from ...common.native import Sources, loaded

SOURCES = Sources(
    'vgcentres',
    what='kernels of PartialFC',
    folder=Path(__file__).resolve().parent,
    without='a step of PartialFC runs on NumPy, several times slower',
)

_F32 = np.ctypeslib.ndpointer(np.float32, flags='C')
_POINTER, _LONG = ctypes.c_void_p, ctypes.c_int64
_SIDES = [_F32, _LONG, _LONG]  # unit, images, size
_SAMPLE = [_POINTER, _LONG, _LONG]  # rows, centres a row, centres
_NUMBERS = [ctypes.c_float, ctypes.c_float, ctypes.c_float, ctypes.c_uint32]


@functools.cache
def native_kernels() -> Optional[ctypes.CDLL]:
    """The compiled kernels; None, after a warning, where there are none."""
    native = loaded(SOURCES)
    if native is None:
        return None
    for dtype in ('float32', 'float16'):
        forward = getattr(native, f'vgc_cosines_{dtype}')
        forward.argtypes = [*_SIDES, _POINTER, *_SAMPLE, _F32, _F32]
        back = getattr(native, f'vgc_update_{dtype}')
        back.argtypes = [*_SIDES, _POINTER, _POINTER, *_SAMPLE, _F32, _F32, *_NUMBERS, _F32]
        forward.restype = back.restype = None
    return native


if __name__ == '__main__':
    set_up_logging()
    native_kernels()
