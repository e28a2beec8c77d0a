"""Engines give MXNet's embeddings at every batch size, and refuse what they cannot run."""

import logging
import subprocess
import sys

import numpy as np
import onnx
import pytest
from conftest import ROOT
from pictures import picture
from tiny_network import calibrated_params, embed_on_stock_graph
from vargfacenet.common.engine import engines
from vargfacenet.common.engine.contract import Contract, read_contract
from vargfacenet.common.engine.fold import fold_batch_norms
from vargfacenet.common.engine.open_model import open_model
from vargfacenet.common.engine.parity import cosines
from vargfacenet.common.engine.to_onnx import to_onnx
from vargfacenet.common.errors import InputError


@pytest.fixture(scope='module')
def case():
    """(network, images, their embeddings on MXNet's stock graph)."""
    random = np.random.RandomState(4)
    images = np.stack([picture(random) for _ in range(21)])
    network = calibrated_params('vargfacenet', images, multiplier=0.25, emb_size=32)
    return network, images, embed_on_stock_graph(*network, images)


@pytest.fixture(scope='module')
def model(case):
    return to_onnx(fold_batch_norms(case[0]))


def make(name, case, model):
    kind = engines.choose(name)
    if name == 'mxnet':
        return kind(case[0], batch_size=4)
    content = model.SerializeToString()
    return kind(content, read_contract(content), batch_size=4)


@pytest.mark.parametrize('name', ['mxnet', 'onnxruntime', 'openvino'])
def test_an_engine_gives_mxnets_embeddings(name, case, model):
    _, images, expected = case
    engine = make(name, case, model)
    assert engine.name == name and engine.embedding_size == 32
    for count in (0, 1, 3, 4, 21):
        result = engine.embed(images[:count])
        assert result.dtype == np.float32 and result.shape == (count, 32)
        np.testing.assert_allclose(result, expected[:count], atol=2e-4)
    # mirrored images are a view with a negative stride
    mirrored = engine.embed(images[:5, :, ::-1])
    assert cosines(mirrored, expected[:5]).max() < 0.999
    np.testing.assert_allclose(mirrored, engine.embed(images[:5, :, ::-1].copy()), atol=1e-6)
    with pytest.raises(InputError, match='expected uint8'):
        engine.embed(images.astype(np.float32))


_SIGNALLED = """
import gc, os, signal, sys, threading
from pathlib import Path
import numpy as np
from vargfacenet.common.engine.contract import read_contract
from vargfacenet.common.engine.engines.openvino import OpenVinoEngine
from vargfacenet.common.engine.parity import onnx_engines

path = Path(sys.argv[1])
content = path.read_bytes()
runs = [OpenVinoEngine(content, read_contract(content)).embed for _ in range(2)]
if sys.argv[3] == 'with a check':
    runs.append(onnx_engines(path)['openvino'])
for run in runs:
    run(np.zeros((1, 112, 112, 3), np.uint8))
del run
got = []
signal.signal(signal.SIGINT, lambda number, _: got.append(number))
if sys.argv[2] == 'in another thread':
    thread = threading.Thread(target=runs.clear)
    thread.start()
    thread.join()
else:
    del runs[0]
    gc.collect()
    del runs[0]
gc.collect()
os.kill(os.getpid(), signal.SIGINT)
assert got == [signal.SIGINT]
"""


@pytest.mark.parametrize(
    ('freed', 'others'),
    [
        ('in another thread', ''),
        ('in another thread', 'with a check'),
        ('the first one first', ''),
    ],
)
def test_a_signal_is_handled_after_openvino(freed, others, model, tmp_path):
    """Its CPU plugin changes the stack on which a thread handles signals."""
    path = tmp_path / 'model.onnx'
    path.write_bytes(model.SerializeToString())
    words = [sys.executable, '-c', _SIGNALLED, path, freed, others]
    assert subprocess.run(words, cwd=ROOT.parent).returncode == 0


def test_uint8_models_run_the_same(case):
    network, images, expected = case
    content = to_onnx(fold_batch_norms(network), input_type='uint8').SerializeToString()
    for kind in engines.by_rank(Contract):
        engine = kind(content, read_contract(content))
        np.testing.assert_allclose(engine.embed(images), expected, atol=2e-4)


def field(number, content):
    """A field of a protobuf's message that holds a message."""
    head, left = bytes([number << 3 | 2]), len(content)
    while left > 127:
        head, left = head + bytes([left & 127 | 128]), left >> 7
    return head + bytes([left]) + content


def test_graphs_in_graphs_without_end_are_one_line():
    """A node whose attribute is a graph with such a node; protobuf may parse it in Python."""
    graph = b''
    for _ in range(5000):
        graph = field(1, field(5, field(6, graph)))  # node, attribute, g
    with pytest.raises(InputError, match='does not load as an ONNX model'):
        read_contract(field(7, graph))
    onnx.load_model_from_string(field(7, field(1, field(5, field(6, b'')))))


@pytest.mark.parametrize('name', ['onnxruntime', 'openvino'])
def test_other_files_are_refused(name, model, tmp_path, capfd):
    path = tmp_path / 'model.onnx'
    with pytest.raises(InputError, match='does not exist'):
        open_model(path, name)
    path.write_bytes(b'no model at all')
    with pytest.raises(InputError, match=r'model\.onnx does not load as an ONNX model'):
        open_model(path, name)
    assert capfd.readouterr().err == ''  # libraries have nothing to add
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 160
    onnx.save(other, str(path))
    with pytest.raises(
        InputError, match=r'another contract \(data float32 \[N, 3, 160, 112\] -> .*3, 112, 112\]'
    ):
        open_model(path, name)
    content = model.SerializeToString()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match='does not load'):
        open_model(path, name)


def test_fastest_agrees_with_mxnet_or_is_mxnet(case, caplog, monkeypatch):
    network, images, expected = case
    monkeypatch.setattr(logging.getLogger('vargfacenet'), 'propagate', True)
    with caplog.at_level(logging.INFO):
        engine = engines.fastest(network, batch_size=8)
    assert cosines(engine.embed(images), expected).min() > 0.999
    assert f'embedding with {engine.name}' in caplog.text
    # nothing agrees better than perfectly
    assert engines.fastest(network, batch_size=8, min_cosine=1.1).name == 'mxnet'


def test_fastest_runs_without_the_extra(case, monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger('vargfacenet'), 'propagate', True)
    monkeypatch.setitem(sys.modules, 'openvino', None)  # what import does not find
    assert engines.fastest(case[0], min_cosine=0.999).name == 'onnxruntime'
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert engines.fastest(case[0]).name == 'mxnet'
    monkeypatch.setitem(sys.modules, 'onnx', None)
    with caplog.at_level(logging.INFO):
        assert engines.fastest(case[0]).name == 'mxnet'
    assert "extra 'deploy'" in caplog.text


def test_cosines_by_the_definition():
    assert cosines(np.array([[3.0, 4.0], [1.0, 0.0]]), np.array([[4.0, 3.0], [-2.0, 0.0]])) == (
        pytest.approx([0.96, -1])
    )
