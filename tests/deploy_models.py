"""Small exported models and faces for the tests of deploy/."""

import functools
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from vargfacenet.common.checked_json import write_checked
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.engine.export_record import RECORD
from vargfacenet.common.synth.face import jpeg_faces

EMBEDDING_SIZE = 32


@functools.cache
def _drawn(identity, picture, size):
    """JPEG of a drawn person, drawn once a process."""
    return jpeg_faces(3, identity, [picture], size)[0]


def portrait(identity, picture=0, size=112):
    """uint8 (size, size, 3) RGB of a drawn person."""
    return decode_rgb(_drawn(identity, picture, size))


def encoded_crop(identity, picture=0):
    """An aligned crop as PNG: taken as it is, so that no detector decides a test."""
    return cv2.imencode('.png', portrait(identity, picture)[..., ::-1])[1].tobytes()


def portraits(count):
    """uint8 (count, 112, 112, 3): one picture of each of `count` people."""
    return np.stack([portrait(identity) for identity in range(count)])


def write_checkpoint(folder):
    """A checkpoint of a small network; returns PREFIX,EPOCH.

    Few layers, so that random weights magnify rounding as little as trained ones do.
    """
    pytest.importorskip('mxnet')
    from tiny_network import reference_params, tiny_symbol
    from vargfacenet.common.engine import checkpoint

    symbol = tiny_symbol(EMBEDDING_SIZE)
    prefix = folder / 'model'
    checkpoint.save_symbol(prefix, symbol)
    checkpoint.save_params(checkpoint.params_path(prefix, 3), *reference_params(symbol))
    return f'{prefix},3'


def _exported(folder, *flags):
    model = write_checkpoint(folder)  # skips the test where MXNet is not installed
    from vargfacenet.deploy.export import main

    out = folder / 'export'
    assert main(['--model', model, '--out', str(out), *map(str, flags)]) == 0
    return out


@functools.cache
def _plain_export():
    """(export without flags, what keeps its folder), made once a process: it takes seconds."""
    keeper = tempfile.TemporaryDirectory()
    return _exported(Path(keeper.name)), keeper


def export_folder(folder, *flags, thresholds=None):
    """Folder of an export of such a checkpoint; `thresholds` are put into its export.json.

    Without MXNet it is a copy of what this file, run as a script, exported with MXNet.
    """
    made_before = os.environ.get('VARGFACENET_TEST_EXPORT')
    if flags:
        out = _exported(folder, *flags)
    else:
        if not made_before:
            write_checkpoint(folder)
        out = Path(shutil.copytree(made_before or _plain_export()[0], folder / 'export'))
    if thresholds:
        record = json.loads((out / RECORD).read_text())
        record['verification'] = [
            {'file': 'model.onnx', 'engine': 'openvino', 'thresholds': thresholds}
        ]
        write_checked(out / RECORD, record)
    return out


if __name__ == '__main__':
    _exported(Path(sys.argv[1]))
