"""Weights of the golden files that name layers as the authors' PyTorch code does."""

import numpy as np
from vargfacenet.common.backend import mx


def state_dict(layers):
    """key -> float64 array, by the recipe: layer k draws from RandomState(k).

    `layers` rows: k, kind, path, shape, and for a convolution stride, pad, groups, bias.
    """
    values = {}
    for number, kind, path, shape, *rest in layers:
        random = np.random.RandomState(number)
        if kind in ('conv', 'fc'):
            deviation = 1.4 * np.sqrt(1 / np.prod(shape[1:]))
            values[f'{path}.weight'] = deviation * random.standard_normal(shape)
            if rest[-1]:
                values[f'{path}.bias'] = 0.1 * random.standard_normal(shape[0])
        elif kind == 'prelu':
            values[f'{path}.weight'] = 0.25 + 0.05 * random.standard_normal(shape[0])
        else:
            gamma = 1 + 0.1 * random.standard_normal(shape[0])
            beta = 0.1 * random.standard_normal(shape[0])
            values[f'{path}.running_mean'] = 0.1 * random.standard_normal(shape[0])
            values[f'{path}.running_var'] = random.uniform(0.8, 1.2, shape[0])
            if rest[-1] != 'no_affine':
                values[f'{path}.weight'] = gamma if rest[-1] == 'affine' else np.ones(shape[0])
                values[f'{path}.bias'] = beta
    return values


def bind(symbol, layout, values, data_shape):
    """Executor with a state_dict's values; fails on a key that is missing or not used."""
    executor = symbol.simple_bind(mx.cpu(), grad_req='null', data=data_shape)
    unused = set(values)
    for arrays in (executor.arg_dict, executor.aux_dict):
        for name, array in arrays.items():
            if name in layout.absent:
                array[:] = layout.absent[name]
            elif name != 'data':
                array[:] = values[layout.key(name)].reshape(array.shape)
                unused.remove(layout.key(name))
    assert not unused
    return executor
