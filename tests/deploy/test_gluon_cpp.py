"""The Gluon block and the C++ program give the numbers of the checkpoint."""

import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import onnx
import pytest
from conftest import ROOT
from deploy_models import export_folder, portrait, portraits
from tiny_network import embed_on_stock_graph
from vargfacenet.common.backend import mx
from vargfacenet.common.engine.checkpoint import load_embedding
from vargfacenet.common.engine.network import Network
from vargfacenet.common.engine.to_onnx import to_onnx
from vargfacenet.deploy import FaceEmbedder
from vargfacenet.deploy.gluon import load_block


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return export_folder(tmp_path_factory.mktemp('export'))


@pytest.mark.parametrize('hybrid', [False, True])
@pytest.mark.parametrize('name', ['model', 'model-folded'])
def test_the_block_gives_the_embeddings(name, hybrid, model):
    block = load_block(f'{model}/{name},0')
    if hybrid:
        block.hybridize()
    images = portraits(3)
    expected = embed_on_stock_graph(*load_embedding(f'{model}/model,0'), images)
    for count in (1, 1, 3, 1):  # the second pass at batch size 1 is where stock MXNet fails
        data = mx.nd.array(images[:count].transpose(0, 3, 1, 2), dtype=np.float32)
        np.testing.assert_allclose(block(data).asnumpy(), expected[:count], atol=1e-4)


def test_the_block_keeps_names_and_learns(model):
    block = load_block(f'{model}/model,0')
    symbol, _, _ = load_embedding(f'{model}/model,0').in_mxnet()
    names = {*symbol.list_arguments(), *symbol.list_auxiliary_states()} - {'data'}
    assert set(block.collect_params()) == names
    data = mx.nd.array(portraits(2).transpose(0, 3, 1, 2), dtype=np.float32)
    with mx.autograd.record():
        loss = (block(data) ** 2).sum()
    loss.backward()
    gradient = block.collect_params()['conv0_weight'].grad().asnumpy()
    assert np.isfinite(gradient).all() and np.abs(gradient).max() > 0


@pytest.fixture(scope='module')
def program(tmp_path_factory):
    """The C++ program, compiled here; skips where there is no compiler."""
    if not shutil.which('c++'):
        pytest.skip('no C++ compiler')
    path = tmp_path_factory.mktemp('cpp') / 'embed'
    environment = {**os.environ, 'PATH': f'{os.path.dirname(sys.executable)}:{os.environ["PATH"]}'}
    build = [ROOT / 'deploy' / 'cpp' / 'build.sh', path]
    done = subprocess.run(build, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


def run(*words):
    return subprocess.run([str(word) for word in words], capture_output=True, text=True)


def test_cpp_prints_pythons_numbers(program, model, tmp_path):
    face = tmp_path / 'face.ppm'
    cv2.imwrite(str(face), portrait(1)[..., ::-1])
    face.write_bytes(face.read_bytes().replace(b'P6\n', b'P6\n# a comment, as GIMP writes\n', 1))
    done = run(program, model / 'model.onnx', tmp_path / 'face.ppm')
    assert done.returncode == 0, done.stderr
    numbers = np.array(done.stdout.split(), np.float64)
    expected = FaceEmbedder(model).embed(portrait(1)[None])[0]
    np.testing.assert_allclose(numbers, expected, atol=1e-6)


@pytest.mark.parametrize(
    'case', ['no model', 'no file', 'no picture', 'other size', 'cut off', 'no argument', 'zero']
)
def test_cpp_says_what_is_wrong(case, program, model, tmp_path):
    face = tmp_path / 'face.ppm'
    cv2.imwrite(str(face), np.zeros((10 if case == 'other size' else 112, 112, 3), np.uint8))
    if case == 'no picture':
        face.write_bytes(b'GIF89a')
    elif case == 'cut off':
        face.write_bytes(face.read_bytes()[:1000])
    elif case == 'no file':
        face.unlink()
    path = tmp_path / 'none.onnx' if case == 'no model' else model / 'model.onnx'
    if case == 'zero':
        symbol, arg_params, aux_params = load_embedding(f'{model}/model,0').in_mxnet()
        zero = {name: value * (not name.startswith('fc1_')) for name, value in arg_params.items()}
        path = tmp_path / 'zero.onnx'
        onnx.save(to_onnx(Network(symbol, zero, aux_params)), str(path))
    done = run(program) if case == 'no argument' else run(program, path, face)
    message = {
        'no model': 'none.onnx',
        'no picture': 'binary PPM',
        'other size': '112x10 pixels',
        'cut off': 'cut off',
        'no argument': 'usage',
        'no file': 'face.ppm cannot be opened',
        'zero': 'zero or not finite',
    }[case]
    assert done.returncode == 2 and message in done.stderr and not done.stdout
    assert len(done.stderr.splitlines()) == 1


def test_building_without_openvino_says_what_to_do(tmp_path):
    python = tmp_path / 'python'
    python.write_text('#!/bin/sh\nexit 1\n')
    python.chmod(0o755)
    environment = {**os.environ, 'PATH': f'{tmp_path}:{os.environ["PATH"]}'}
    build = [ROOT / 'deploy' / 'cpp' / 'build.sh', tmp_path / 'embed']
    done = subprocess.run(build, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and 'has no openvino' in done.stderr
    assert len(done.stderr.splitlines()) == 1 and not (tmp_path / 'embed').exists()
