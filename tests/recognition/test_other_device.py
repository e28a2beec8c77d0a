"""A device that is no CPU runs MXNet's operators alone, ours being compiled for the CPU.

MXNet's pinned memory stands for the card that no test has: a context of another type, whose
operators run all the same.
"""

import json

import numpy as np
import pytest
from tiny_network import reference_params, tiny_symbol
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops
from vargfacenet.common.engine.mxnet import Embedder
from vargfacenet.common.engine.network import Network
from vargfacenet.recognition.config import bare
from vargfacenet.recognition.graph import training_module

OTHER = mx.Context('cpu_pinned', 0)


def ours(symbol) -> set:
    return {
        node['op'] for node in json.loads(symbol.tojson())['nodes'] if node['op'].startswith('vg_')
    }


@pytest.mark.parametrize('loss', ['margin', 'adaface'])
def test_a_training_step(loss, rng):
    """The same loss and gradients as on the CPU, by MXNet's operators."""
    config = bare(loss=loss, num_classes=5, per_batch_size=4)
    symbol = tiny_symbol()
    batch = mx.io.DataBatch(
        [mx.nd.array(rng.randint(0, 256, (4, 3, 112, 112)))], [mx.nd.array([0, 1, 4, 4])]
    )
    outputs, gradients, operators = {}, {}, {}
    start = None
    for device in (mx.cpu(), OTHER):
        module = training_module(symbol, config, [device])
        operators[device] = ours(module.symbol)
        mx.random.seed(1)
        module.init_params(mx.init.Xavier())
        if start:
            module.set_params(*start)
        start = module.get_params()
        module.forward_backward(batch)
        outputs[device] = [value.asnumpy() for value in module.get_outputs()]
        gradients[device] = {
            name: arrays[0].asnumpy()
            for name, arrays in zip(module._exec_group.param_names, module._exec_group.grad_arrays)
            if arrays[0] is not None
        }
    assert operators[OTHER] == set() and bool(operators[mx.cpu()]) == ops.available()
    for there, here in zip(outputs[OTHER], outputs[mx.cpu()]):
        np.testing.assert_allclose(there, here, rtol=1e-4, atol=1e-5)
    assert gradients[OTHER].keys() == gradients[mx.cpu()].keys()
    largest = max(np.abs(values).max() for values in gradients[OTHER].values())
    for name, there in gradients[OTHER].items():
        here = gradients[mx.cpu()][name]
        # the bias before a BatchNorm has no gradient but rounding
        close = 1e-4 * np.abs(here).max() + 1e-6 * largest
        np.testing.assert_allclose(there, here, rtol=0, atol=close, err_msg=name)


def test_embeddings(rng):
    symbol = tiny_symbol()
    network = Network(symbol, *reference_params(symbol))
    images = rng.randint(0, 256, (5, 112, 112, 3)).astype(np.uint8)
    here = Embedder(network, batch_size=4)
    there = Embedder(network, [OTHER], batch_size=4)
    assert ours(there._bound_symbol) == set()
    assert bool(ours(here._bound_symbol)) == ops.available()
    expected = here.embed(images)
    np.testing.assert_allclose(
        there.embed(images), expected, rtol=0, atol=1e-5 * np.abs(expected).max()
    )
