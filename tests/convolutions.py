"""Convolutions by their definition, a float64 loop over the taps, and our operators beside them."""

import numpy as np
from vargfacenet.common.backend import mx

# images, channels, height, width, filters: one position, blocks cut off on every side, several
# images in a block, more than one block of everything
POINTWISE = [
    (1, 1, 1, 1, 1),
    (5, 16, 1, 1, 7),
    (3, 5, 7, 7, 9),
    (2, 40, 9, 11, 50),
    (17, 50, 7, 7, 8),
    (3, 96, 14, 14, 100),
]
# images, channels, height, width, filters, groups, stride
GROUPED = [
    (1, 4, 1, 1, 4, 1, 1),
    (1, 4, 2, 2, 4, 1, 2),
    (2, 2, 1, 5, 3, 1, 2),
    (3, 16, 7, 7, 16, 2, 1),
    (3, 16, 14, 14, 32, 2, 2),
    (2, 8, 9, 7, 16, 1, 2),
    (5, 24, 5, 5, 12, 3, 1),
    (9, 12, 13, 13, 33, 3, 2),
    (2, 3, 56, 50, 20, 1, 1),
    (33, 16, 7, 7, 32, 2, 1),
    (2, 16, 57, 56, 16, 2, 2),
    (2, 32, 6, 5, 80, 2, 1),
    (2, 13, 10, 8, 17, 1, 2),
]
# images, height, width, (channels, filters) of each slice
SLICES = [(1, 1, 1, [(1, 1), (2, 3)]), (3, 7, 9, [(8, 17), (7, 16)]), (2, 28, 28, [(40, 12)] * 3)]


def taps(shape, weight_shape, groups, stride):
    """For each group and tap: what it reads of the padded input, what it adds to of the output,
    and its entries of the weights, as indices."""
    _, c, h, w = shape
    filters, _, size, _ = weight_shape
    for group in range(groups):
        outputs = slice(group * filters // groups, (group + 1) * filters // groups)
        inputs = slice(group * c // groups, (group + 1) * c // groups)
        for i in range(size):
            for j in range(size):
                window = np.s_[:, inputs, i : i + h : stride, j : j + w : stride]
                yield window, np.s_[:, outputs], np.s_[outputs, :, i, j]


def pad(x, size):
    return np.pad(x, ((0, 0), (0, 0), (size // 2,) * 2, (size // 2,) * 2))


def convolve(x, weight, groups, stride):
    """3x3 with padding 1, or 1x1: (N, C, H, W), (O, C / groups, k, k) -> (N, O, Ho, Wo)."""
    out = [(length - 1) // stride + 1 for length in x.shape[2:]]
    padded, y = pad(x, weight.shape[2]), np.zeros((len(x), len(weight), *out))
    for window, outputs, tap in taps(x.shape, weight.shape, groups, stride):
        y[outputs] += np.einsum('nchw,oc->nohw', padded[window], weight[tap])
    return y


def gradients_of(x, weight, groups, stride, dy):
    """Of sum(y * dy): y is linear in x and in the weights, so each tap takes its product back."""
    padded = pad(x, weight.shape[2])
    dpadded, dweight = np.zeros_like(padded), np.zeros_like(weight)
    for window, outputs, tap in taps(x.shape, weight.shape, groups, stride):
        dweight[tap] = np.einsum('nchw,nohw->oc', padded[window], dy[outputs])
        dpadded[window] += np.einsum('nohw,oc->nchw', dy[outputs], weight[tap])
    inner = slice(weight.shape[2] // 2, -(weight.shape[2] // 2) or None)
    return dpadded[:, :, inner, inner], dweight


def run(op, arrays, dy, **attributes):
    """Output and input gradients, in arrays that are full of NaN before."""
    arrays = [mx.nd.array(array, dtype='float32') for array in arrays]
    variables = [mx.sym.Variable(f'v{i}', shape=array.shape) for i, array in enumerate(arrays)]
    symbol = getattr(mx.sym, op)(*variables, **{k: str(v) for k, v in attributes.items()})
    gradients = [mx.nd.full(array.shape, np.nan) for array in arrays]
    executor = symbol.bind(mx.cpu(), arrays, gradients)
    y = executor.forward(is_train=True)[0]
    executor.backward([mx.nd.array(dy, dtype='float32')])
    return [y.asnumpy(), *[array.asnumpy() for array in gradients]]


def assert_close(actual, expected):
    limit = 5e-6 * np.abs(expected).max()
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= limit, np.abs(actual - expected).max() / limit


def draw(rng, *shape):
    return rng.randn(*shape).astype(np.float32).astype(np.float64)


def cut(x, sizes):
    """Slices of the channels."""
    return np.split(x, np.cumsum(sizes)[:-1], axis=1)
