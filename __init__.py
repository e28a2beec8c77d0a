"""VarGFaceNet on MXNet: the whole life of a light face-recognition network.

    model = vargfacenet.open_model('export')  # an export, a checkpoint PREFIX,EPOCH, an .onnx file
    embeddings = model.embed(crops)  # uint8 (N, 112, 112, 3) RGB -> float32 (N, D)

`FaceEmbedder` finds the faces of photographs first; `load_bin` and `verify` measure a model;
`get_symbol` and `list_networks` are the networks, in MXNet. The commands, `vargfacenet --help`, do
the rest of its life. Importing this package loads nothing heavy: the names of PUBLIC come with
what they need when they are first asked for, MXNet where it is used.
"""

import importlib
import os

__version__ = '0.1.0'

# OpenMP reads these when the first library that uses it is loaded, which can be OpenCV as well as
# MXNet; nothing of the package is imported before this file. MXNet starts a single thread when the
# number is not set. Threads wait for each other by spinning for some microseconds, then by
# sleeping: never to spin costs a third of the training speed on two idle cores, to spin for long
# three quarters on busy ones.
if hasattr(os, 'sched_getaffinity'):
    os.environ.setdefault('OMP_NUM_THREADS', str(len(os.sched_getaffinity(0))))
os.environ.setdefault('GOMP_SPINCOUNT', '10000')

# name -> module that defines it: what code outside is meant to use
PUBLIC = {
    'FaceEmbedder': 'deploy.embedder',
    'evaluate': 'eval.verification',
    'get_symbol': 'symbol',
    'list_networks': 'symbol',
    'load_bin': 'eval.datasets',
    'open_model': 'common.engine.open_model',
    'verify': 'eval.verification',
}
__all__ = sorted(PUBLIC)
_SUBPACKAGES = ('common', 'deploy', 'eval', 'recognition', 'symbol')


def __getattr__(name: str):
    if name in _SUBPACKAGES:
        return importlib.import_module(f'.{name}', __name__)
    if name not in PUBLIC:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    value = getattr(importlib.import_module(f'.{PUBLIC[name]}', __name__), name)
    globals()[name] = value  # the next time it is found at once
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *PUBLIC})
