"""The one place that imports MXNet: `from ..common.backend import mx`.

MXNet 1.9.1 uses NumPy aliases that NumPy 1.24 removed; they are put back before the import. How
many threads it uses is set in the package's __init__.py.
"""

import functools
import json
import logging
import os
import re

import numpy as np

from . import gpu
from .errors import InputError
from .quick_mxnet import quick_import

log = logging.getLogger(__name__)

for _alias, _type in {'bool': bool, 'int': int, 'float': float, 'object': object}.items():
    if _alias not in np.__dict__:
        setattr(np, _alias, _type)


os.environ.setdefault('MXNET_SUBGRAPH_VERBOSE', '0')  # else a line on stderr at every bind

if gpu.installed():
    gpu.load_libraries()

with quick_import('mxnet'):
    import mxnet as mx

if not mx.__version__.startswith('1.9.'):
    raise ImportError(
        f'MXNet {mx.__version__} is installed; this project needs 1.9.1: pip install mxnet==1.9.1'
    )


def mxnet_symbol(graph: dict) -> 'mx.sym.Symbol':
    """The symbol of what MXNet's JSON holds."""
    return mx.sym.load_json(json.dumps(graph, ensure_ascii=False))  # MXNet knows no \u in a text


@functools.cache  # a run asks for its devices when it is checked, and when it starts
def _tell_of_no_gpu(text: str) -> None:
    log.warning(
        '--devices %s: MXNet sees no GPU here, its build for NVIDIA cards is an extra: '
        'VARGFACENET_EXTRAS=gpu source common/setup_env.sh; running on the CPU',
        text,
    )


def parse_devices(text: str) -> list:
    """Devices of a `--devices` value.

    Parameters
    ----------
    text : 'cpu', or 'gpu:0' or 'gpu:0,1' ...

    Returns
    -------
    list of mx.Context; of several ranks on one machine, each has the next of the GPUs alone. Where
    MXNet's build knows no GPUs the CPU takes their place with a warning, so that a script written
    for a GPU machine runs anywhere.

    Raises
    ------
    InputError for any other text, and for GPUs that are not there or that MXNet cannot use.
    """
    if text == 'cpu':
        return [mx.cpu()]
    match = re.fullmatch(r'gpu:(\d+(?:,\d+)*)', text)
    if not match:
        raise InputError(f"--devices {text!r}: expected 'cpu' or 'gpu:0,1,...'")
    wanted = [int(number) for number in match.group(1).split(',')]
    if len(set(wanted)) != len(wanted):
        raise InputError(f'--devices {text!r}: a GPU is named twice')
    if not gpu.installed():
        _tell_of_no_gpu(text)
        return [mx.cpu()]
    ranks = int(os.environ.get('HOROVOD_LOCAL_SIZE', 1))
    if ranks > 1:
        if len(wanted) != ranks:
            raise InputError(f'--devices {text!r}: name one GPU for each of the {ranks} ranks here')
        wanted = [wanted[int(os.environ['HOROVOD_LOCAL_RANK'])]]
    gpu.check(wanted)
    return [mx.gpu(number) for number in wanted]
