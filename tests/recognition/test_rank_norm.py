"""BatchNorm over ranks (threads) is that of the whole batch, forwards and backwards."""

import threading

import numpy as np
import pytest
from thread_ranks import on_ranks
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops
from vargfacenet.recognition import rank_norm

IMAGES, RANKS = 12, 3


def network():
    """Two BatchNorms: one over positions whose gamma learns, one of rows whose gamma is 1."""
    data = mx.sym.Variable('data')
    body = mx.sym.Convolution(data, kernel=(3, 3), num_filter=4, name='conv')
    body = mx.sym.BatchNorm(body, fix_gamma=False, eps=2e-5, momentum=0.7, name='first')
    body = mx.sym.Activation(body, act_type='tanh')
    body = mx.sym.FullyConnected(body, num_hidden=3, name='dense')
    return mx.sym.BatchNorm(body, name='second')


def step(symbol, images, gradient):
    """name -> array after one pass of a network whose values are the same in every rank."""
    executor = symbol.simple_bind(mx.cpu(), data=images.shape)
    random = np.random.RandomState(0)
    for name in sorted(executor.arg_dict):
        if name != 'data':
            executor.arg_dict[name][:] = random.standard_normal(executor.arg_dict[name].shape)
    executor.arg_dict['data'][:] = images
    for name in sorted(executor.aux_dict):
        executor.aux_dict[name][:] = random.uniform(size=executor.aux_dict[name].shape)
    executor.forward(is_train=True)
    executor.backward(mx.nd.array(gradient))
    mx.nd.waitall()
    found = {'output': executor.outputs[0], **executor.aux_dict}
    found.update((f'gradient of {name}', array) for name, array in executor.grad_dict.items())
    return {name: array.asnumpy() for name, array in found.items()}


@pytest.fixture
def batch(rng):
    sizes = np.linspace(0.5, 3, IMAGES).reshape(-1, 1, 1, 1)
    images = sizes * rng.standard_normal((IMAGES, 2, 6, 6))
    return images.astype(np.float32), rng.standard_normal((IMAGES, 3)).astype(np.float32)


@pytest.fixture(params=['compiled', 'stock'])
def compiled(request):
    if request.param == 'compiled' and not ops.available():
        pytest.skip('no C++ compiler')
    return request.param == 'compiled'


def test_three_ranks_are_one_batch(batch, compiled):
    """What is of images stands in the order of ranks, gradients of parameters are summed."""
    whole = step(network(), *batch)

    registering = threading.Lock()  # the operators are registered by name

    def work(ranks):
        part = slice(ranks.rank * IMAGES // RANKS, (ranks.rank + 1) * IMAGES // RANKS)
        with registering:
            symbol = rank_norm.synchronised(network(), ranks, compiled)
        return step(symbol, *(array[part] for array in batch))

    parts = on_ranks(RANKS, work)
    for name, wanted in whole.items():
        each = [part[name] for part in parts]
        if name in ('output', 'gradient of data'):
            found = np.concatenate(each)
        elif name.startswith('gradient'):
            found = np.sum(each, axis=0)
        else:
            found = each[0]
            for other in each[1:]:
                np.testing.assert_array_equal(other, found)
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=3e-6, err_msg=name)


def test_a_mean_far_from_zero_takes_no_digits(rng, compiled):
    """Running averages of 0, as before the first step, images around 1,000: as in float64."""
    images = (1000 + rng.standard_normal((IMAGES, 2, 3, 3))).astype(np.float32)
    norm = mx.sym.BatchNorm(mx.sym.Variable('data'), fix_gamma=True, eps=1e-5, name='norm')
    registering = threading.Lock()

    def work(ranks):
        part = slice(ranks.rank * IMAGES // RANKS, (ranks.rank + 1) * IMAGES // RANKS)
        with registering:
            symbol = rank_norm.synchronised(norm, ranks, compiled)
        executor = symbol.simple_bind(mx.cpu(), data=images[part].shape)
        executor.arg_dict['data'][:] = images[part]
        executor.arg_dict['norm_beta'][:] = 0
        return executor.forward(is_train=True)[0].asnumpy()

    wide = images.astype(np.float64)
    axes = (0, 2, 3)
    wanted = wide - wide.mean(axes, keepdims=True)
    wanted /= np.sqrt(wide.var(axes, keepdims=True) + 1e-5)
    np.testing.assert_allclose(np.concatenate(on_ranks(RANKS, work)), wanted, atol=3e-4)


def test_names_stay_and_running_statistics_are_left_alone(compiled):
    symbol = mx.sym.BatchNorm(network(), use_global_stats=True, name='third')
    ranks = on_ranks(1, lambda ranks: ranks)[0]
    changed = rank_norm.synchronised(symbol, ranks, compiled)
    for listed in ('list_arguments', 'list_auxiliary_states', 'list_outputs'):
        assert getattr(changed, listed)() == getattr(symbol, listed)()
    assert changed.tojson().count('"BatchNorm"') == 1
