"""Compiles the operators for this machine: `python -m vargfacenet.common.engine.ops.build`.

Without MXNet it does nothing: there is nothing that could load them.
"""

import importlib.util
import sys
from pathlib import Path

from ...console import set_up_logging
from ...native import Outside, Sources, library


def _mxnet() -> Outside:
    """MXNet's interface for operators, found without the seconds that importing it takes."""
    folder = Path(importlib.util.find_spec('mxnet').submodule_search_locations[0])
    headers = folder / 'include'
    return Outside(
        headers,
        compiled=(folder / 'src' / 'lib_api.cc',),
        key=(folder / 'libinfo.py', headers / 'mxnet' / 'lib_api.h'),
    )


OPERATORS = Sources(
    'vgops',
    what='operators',
    folder=Path(__file__).resolve().parent,
    without='networks run on stock operators, several times slower',
    until=' Until then DNNL_MAX_CPU_ISA=AVX2 in the environment makes it up to 3 times faster',
    outside=_mxnet,
)


if __name__ == '__main__':
    set_up_logging()
    if importlib.util.find_spec('mxnet') is not None:
        library(OPERATORS)
    sys.exit(0)
