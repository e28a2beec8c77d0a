"""MXNet imported quickly is the MXNet that it is otherwise."""

import json
import os
import subprocess
import sys

import pytest
from conftest import needs_mxnet
from ranks_launched import needs_horovod

pytestmark = needs_mxnet

PROGRAM = """
import contextlib, inspect, json, pathlib, sys
from vargfacenet.common import quick_mxnet

plain = sys.argv[1] == 'plain'
if plain:
    quick_mxnet.quick_import = contextlib.nullcontext
before = {*sys.modules}
from vargfacenet.common.backend import mx
from vargfacenet.recognition.event_log import EventLog
from vargfacenet.recognition.schedules import learning_rate

EventLog(pathlib.Path(sys.argv[2])).close()

later_modules = [
    *('scipy.stats', 'scipy.sparse', 'requests', 'onnx', 'gluoncv.data', 'gluoncv.model_zoo'),
    *('setuptools', 'cv2', 'mxnet.test_utils', 'gluoncv.utils.viz'),
]
loaded = [name for name in later_modules if name in sys.modules]


def operators():
    for side in (mx.nd, mx.sym, mx.contrib.nd, mx.contrib.sym):
        parts = [side, *(getattr(side, name, side) for name in (
            'op', '_internal', 'contrib', 'linalg', 'random', 'sparse', 'image', 'numpy',
            'numpy_extension', 'numpy._internal'))]
        parts += [module for module in (mx.np, mx.npx, mx.np.random, mx.np.linalg)]
        for part in parts:
            for name in {*dir(part)} - {'__warningregistry__'}:
                yield part.__name__, name, getattr(part, name)


def kept(function):
    '''How a function that is made when it is called makes it, and what it has made.'''
    if getattr(function, '__module__', None) is None or not inspect.isfunction(function):
        return None
    if function.__code__.co_filename != quick_mxnet.__file__:
        return None
    return inspect.getclosurevars(function).nonlocals


later = {id(f): kept(f) for _, _, f in operators() if kept(f)}
made_by_import = sum(parts['made'] is not None for parts in later.values())

mx.random.seed(3)
x = mx.nd.array([[[[1, -2, 3], [4, 5, -6], [7, 8, 9]]]])
weight = mx.nd.ones((2, 1, 2, 2))
results = {
    'optional': mx.nd.Convolution(x, weight, kernel=(2, 2), num_filter=2, no_bias=True),
    'by name': mx.nd.FullyConnected(data=x, weight=mx.nd.ones((2, 9)), num_hidden=2, no_bias=True),
    'any number': mx.nd.concat(x, x + 1, dim=1),
    'out': mx.nd.zeros((1, 1, 3, 3)),
    'contrib': mx.nd.contrib.box_iou(mx.nd.array([[0, 0, 2, 2]]), mx.nd.array([[1, 1, 3, 3]])),
    'old contrib': mx.contrib.nd.quadratic(x, a=1, b=2, c=3),
    'linalg': mx.nd.linalg.gemm2(x[0, 0], x[0, 0]),
    'random': mx.nd.random.uniform(shape=4),
    'internal': mx.nd._internal._plus_scalar(x, scalar=2),
    'dtype': mx.nd.cast(x, dtype='int8'),
    'np': mx.np.einsum('ij,jk->ik', mx.np.ones((2, 3)), mx.np.arange(6).reshape(3, 2)),
    'npx': mx.npx.relu(mx.np.array([-1.0, 2.0])),
}
mx.nd.clip(x, -1, 1, out=results['out'])
data = mx.sym.Variable('data')
with mx.AttrScope(ctx_group='one'), mx.name.Prefix('a_'):
    symbol = mx.sym.Convolution(data, kernel=(3, 3), num_filter=4, name='one', attr={'__k__': 'v'})
    symbol = mx.sym.LeakyReLU(symbol, act_type='prelu')
parts = mx.sym.SliceChannel(symbol, num_outputs=2)
symbol = mx.sym.Group([mx.sym.concat(symbol, symbol, dim=1), parts])
errors = {}
for name, call in {
    'value': lambda: mx.nd.Activation(x, act_type='nothing'),
    'shape': lambda: mx.nd.dot(mx.nd.ones((2, 3)), mx.nd.ones((2, 3))).asnumpy(),
    'kind': lambda: mx.nd.relu('text'),
    'argument': lambda: mx.sym.relu(data, data, data, data, data),
}.items():
    try:
        call()
    except Exception as error:
        errors[name] = [type(error).__name__, str(error).splitlines()[-1]]
shown = {
    'results': {name: array.asnumpy().tolist() for name, array in results.items()},
    'symbol': symbol.tojson(),
    'errors': errors,
    'signature': str(inspect.signature(mx.np.zeros_like)),
    'no sparse': mx.nd.array([[1.0]]).asnumpy().tolist(),
    'urls': mx.gluon.utils.requests.codes.ok,
    'onnx': [mx.contrib.onnx.export_model.__name__, mx.onnx.export_model.__name__],
    'rates': [learning_rate('poly', 0.1, 10, 3)(step) for step in range(10)],
    'stats': [mx.contrib.quantization.stats.norm.cdf(1), mx.test_utils.ss.norm.cdf(2)],
}
import gluoncv, requests, scipy.sparse, scipy.stats

matrix = scipy.sparse.csr_matrix([[0, 2.0], [3.0, 0]])
found = mx.nd.sparse.csr_matrix(matrix)
shown['sparse'] = [
    found.asscipy().toarray().tolist(), found.indices.asnumpy().tolist(),
    mx.nd.sparse.array(matrix).stype,
]
shown['GluonCV'] = [
    *sorted(name for name in dir(gluoncv) if name[0] != '_'),
    len(gluoncv.model_zoo.get_model_list()), gluoncv.nn.coder.__name__,
    gluoncv.loss.FocalLoss.__name__, gluoncv.data.VOCDetection.__name__,
    gluoncv.utils.viz.plot_image.__name__, gluoncv.utils.TrainingHistory.__name__,
    gluoncv.utils.LRScheduler is sys.modules['gluoncv.utils.lr_scheduler'].LRScheduler,
]
shown['gluoncv.utils'] = dir(gluoncv.utils)
shown['pictures'] = [mx.image.image.cv2.INTER_CUBIC, mx.gluon.nn.Dense(3).name]
kinds = [type(module).__name__ for module in (requests, scipy.sparse, scipy.stats)]
from vargfacenet.common.engine import ops

if ops.available():
    shown['ours'] = mx.nd.vg_prelu(x, mx.nd.array([0.5])).asnumpy().tolist()
    shown['our names'] = [name for name in dir(mx.sym) if name.startswith('vg_')]
wrong = [
    name
    for _, name, function in operators()
    if kept(function)
    and kept(function)['make'](
        kept(function)['handle'], kept(function)['name'], function.__name__
    ).__name__ != function.__name__
]
print(json.dumps({
    'names': sorted({(part, name) for part, name, _ in operators()}), 'shown': shown,
    'wrong': wrong, 'later': len(later), 'made': made_by_import, 'loaded': loaded, 'kinds': kinds,
}))
"""


MEANWHILE = """
import importlib.machinery, sys, threading
from vargfacenet.common import quick_mxnet

held, go, seen = threading.Event(), threading.Event(), []


class Pause(importlib.machinery.SourceFileLoader):
    def exec_module(self, module):  # behind cv2 and scipy; no import lock is held but its own
        held.set()
        assert go.wait(60)
        super().exec_module(module)


class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == 'mxnet.rnn':
            spec = importlib.machinery.PathFinder.find_spec(name, path)
            spec.loader = Pause(name, spec.origin)
            return spec


def other():
    held.wait(60)
    stood = type(sys.modules['cv2']).__name__ == '_Later'
    import cv2
    seen.extend([stood, cv2.INTER_CUBIC == 2])
    go.set()


thread = threading.Thread(target=other)
thread.start()
sys.meta_path.insert(0, Finder())
from vargfacenet.common.backend import mx
thread.join()
import requests
print(*seen, sys.modules.get('scipy.sparse'), mx.gluon.utils.requests.codes.ok)
"""


@pytest.fixture(scope='module')
def found(tmp_path_factory):
    """How -> what a process that imports MXNet so has to say."""
    done = {}
    for how in ('plain', 'quick'):
        words = [sys.executable, '-c', PROGRAM, how, tmp_path_factory.mktemp(how)]
        done[how] = json.loads(subprocess.run(words, capture_output=True, check=True).stdout)
    return done


def test_every_operator_has_its_name_and_can_be_made(found):
    assert found['quick']['names'] == found['plain']['names']
    assert found['quick']['wrong'] == []


def test_operators_do_what_they_do_otherwise(found):
    """Values, symbols with names and attributes, errors, also those of our own library."""
    plain, quick = (found[how]['shown'] for how in ('plain', 'quick'))
    assert len(plain['errors']) == 4
    for key in plain:
        assert quick[key] == plain[key], key


def test_few_of_them_are_made_and_other_packages_are_not_loaded(found):
    plain, quick = found['plain'], found['quick']
    assert plain['later'] == 0 and len(plain['loaded']) > 5  # by MXNet and GluonCV
    assert quick['later'] > 2000 and quick['made'] < 50 and quick['loaded'] == []


def test_whoever_imports_a_module_gets_itself(found):
    assert found['plain']['kinds'] == found['quick']['kinds'] == ['module'] * 3


def test_another_thread_may_import_them_meanwhile():
    """One that comes between gets the modules as well, and MXNet is whole."""
    done = subprocess.run([sys.executable, '-c', MEANWHILE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ['True', 'True', 'None', '200']


BESIDE_HOROVOD = """
from vargfacenet.common.backend import mx
import sys
import horovod.mxnet
assert 'onnx' not in sys.modules
import onnx
from onnx.helper import make_graph, make_model, make_node, make_tensor_value_info
x, y = (make_tensor_value_info(name, 1, [1, 2]) for name in 'xy')
model = make_model(make_graph([make_node('Relu', ['x'], ['y'])], 'one', [x], [y]))
onnx.checker.check_model(model, full_check=True)
print(onnx.shape_inference.infer_shapes(model) == model)
"""


@needs_horovod
def test_onnx_works_in_a_rank():
    """Loaded after Horovod its library would take MXNet's protobuf for its own, and crash."""
    pytest.importorskip('onnx')
    words = [sys.executable, '-c', BESIDE_HOROVOD]
    environment = {**os.environ, 'HOROVOD_SIZE': '1'}
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout) == (0, 'True\n'), done.stderr
