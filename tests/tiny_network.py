"""A small network with a trained network's parts, for tests that need no particular one."""

import zlib

import numpy as np
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops
from vargfacenet.common.engine.network import Network
from vargfacenet.common.names import IMAGE_SHAPE
from vargfacenet.symbol import get_symbol


def tiny_symbol(size=16):
    """Convolution, BatchNorm, PReLU and group convolution before `pre_fc1` and BatchNorm `fc1`."""
    x = (mx.sym.Variable('data') - 127.5) * 0.0078125
    x = mx.sym.Convolution(
        x, kernel=(3, 3), stride=(4, 4), num_filter=16, no_bias=True, name='conv0'
    )
    x = mx.sym.BatchNorm(x, fix_gamma=False, eps=2e-5, name='bn0')
    x = mx.sym.LeakyReLU(x, act_type='prelu', name='relu0')
    x = mx.sym.Convolution(
        x, kernel=(3, 3), stride=(4, 4), num_filter=16, num_group=2, no_bias=True, name='conv1'
    )
    x = mx.sym.Pooling(x, kernel=(2, 2), stride=(2, 2), pool_type='avg', name='pool1')
    x = mx.sym.FullyConnected(x, num_hidden=size, name='pre_fc1')
    return mx.sym.BatchNorm(x, fix_gamma=False, eps=2e-5, name='fc1')


def reference_params(symbol, seed=1):
    """(arg_params, aux_params) that depend on each array's name only: the net_*.json recipe."""
    arguments, _, auxiliary = symbol.infer_shape(data=(1, *IMAGE_SHAPE))
    arg_params = {
        name: _value(name, shape, seed)
        for name, shape in zip(symbol.list_arguments(), arguments)
        if name != 'data'
    }
    aux_params = {
        name: _value(name, shape, seed)
        for name, shape in zip(symbol.list_auxiliary_states(), auxiliary)
    }
    return arg_params, aux_params


def calibrated_params(name, images, seed=1, **options):
    """A network whose BatchNorms hold the images' statistics.

    With those of the recipe, all images come out nearly the same; with these they differ, as in a
    trained network.
    """
    # nothing is kept of old statistics, so one step leaves the batch's own
    symbol = get_symbol(name, bn_mom=0.0, **options)
    arg_params, aux_params = reference_params(symbol, seed)
    data = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    graph = ops.accelerate(symbol, {'data': data.shape})  # the stock backward pass takes seconds
    executor = graph.simple_bind(mx.cpu(), grad_req='write', data=data.shape)
    executor.copy_params_from(arg_params, aux_params)
    output = executor.forward(is_train=True, data=mx.nd.array(data))[0]
    executor.backward(mx.nd.zeros(output.shape))
    mx.nd.waitall()
    aux_params = {name: value.copy() for name, value in executor.aux_dict.items()}
    return Network(get_symbol(name, **options), arg_params, aux_params)


def _value(name, shape, seed):
    random = np.random.RandomState((zlib.crc32(name.encode()) ^ seed) & 0xFFFFFFFF)
    if name.endswith('_moving_var'):
        value = 0.5 + random.rand(*shape)
    elif name.endswith('_gamma'):
        slope = 'act' in name or 'relu' in name
        value = (0.25 if slope else 0.5) + 0.1 * random.randn(*shape)
    elif name.endswith(('_moving_mean', '_beta', '_bias')):
        value = 0.1 * random.randn(*shape)
    else:
        value = random.randn(*shape) * np.sqrt(2 / np.prod(shape[1:]))
    return mx.nd.array(value.astype(np.float32))


def embed_on_stock_graph(symbol, arg_params, aux_params, images):
    """Embeddings by a plain executor over all images at once, no code of ours."""
    symbol, arg_params, aux_params = Network(symbol, arg_params, aux_params).in_mxnet()
    data = np.ascontiguousarray(images.transpose(0, 3, 1, 2)).astype(np.float32)
    executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=data.shape)
    executor.copy_params_from(arg_params, aux_params)
    return executor.forward(is_train=False, data=mx.nd.array(data))[0].asnumpy()
