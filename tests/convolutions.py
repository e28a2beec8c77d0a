"""Convolutions by their definition, a float64 loop over the taps, and our operators beside them."""

import subprocess
import sys

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


def reads_pairs(op):
    """Whether an operator reads its first input in bfloat16."""
    return op.endswith('_bf16') and not op.endswith('_to_bf16')


def run(op, arrays, dy, **attributes):
    """Output and input gradients, in arrays that are full of NaN before; of an operator on
    bfloat16 between casts."""
    arrays = [mx.nd.array(array, dtype='float32') for array in arrays]
    variables = [mx.sym.Variable(f'v{i}', shape=array.shape) for i, array in enumerate(arrays)]
    data = mx.sym.vg_to_bf16(variables[0]) if reads_pairs(op) else variables[0]
    options = {k: str(v) for k, v in attributes.items()}
    symbol = getattr(mx.sym, op)(data, *variables[1:], **options)
    symbol = mx.sym.vg_from_bf16(symbol) if op.endswith('_bf16') else symbol
    gradients = [mx.nd.full(array.shape, np.nan) for array in arrays]
    executor = symbol.bind(mx.cpu(), arrays, gradients)
    y = executor.forward(is_train=True)[0]
    executor.backward([mx.nd.array(dy, dtype='float32')])
    return [y.asnumpy(), *[array.asnumpy() for array in gradients]]


def assert_close(actual, expected, stored=False):
    """`stored`: rounded to bfloat16, by half of the last of 8 bits, after a sum in float32."""
    limit = 5e-6 * np.abs(expected).max() + stored * np.abs(expected) / 256
    assert actual.shape == expected.shape
    assert (np.abs(actual - expected) <= limit).all(), (np.abs(actual - expected) / limit).max()


def draw(rng, *shape):
    return rng.randn(*shape).astype(np.float32).astype(np.float64)


def cut(x, sizes):
    """Slices of the channels."""
    return np.split(x, np.cumsum(sizes)[:-1], axis=1)


def exact(values):
    return values


def expected_of(x, weight, groups, stride, dy, rounding=exact):
    """Output, and gradients of input and weights, of operands that `rounding` rounds."""
    x, weight, dy = map(rounding, (x, weight, dy))
    return [convolve(x, weight, groups, stride), *gradients_of(x, weight, groups, stride, dy)]


def check_convolution(rng, op, case, groups, stride, size, bias, rounding=exact):
    """`op` of random operands against the loop; `case` is images, channels, height, width, filters,
    `size` the kernel's."""
    n, c, h, w, filters = case
    x, weight = draw(rng, n, c, h, w), draw(rng, filters, c // groups, size, size)
    dy = draw(rng, n, filters, (h - 1) // stride + 1, (w - 1) // stride + 1)
    expected, dx, dweight = expected_of(x, weight, groups, stride, dy, rounding)
    biases = [draw(rng, filters)] if bias else []
    options = {'num_filter': filters, 'num_group': groups, 'stride': stride}
    y, *gradients = run(op, [x, weight, *biases], dy, no_bias=not bias, **options)
    expected = expected + (biases[0].reshape(1, -1, 1, 1) if bias else 0)
    assert_close(y, expected, stored=op.endswith('_bf16'))
    assert_close(gradients[0], dx, stored=reads_pairs(op))
    assert_close(gradients[1], dweight)
    if bias:
        assert_close(gradients[2], rounding(dy).sum((0, 2, 3)))


def check_slices(rng, op, case, rounding=exact):
    """The same of an operator of channel slices; `case` is one of SLICES."""
    n, h, w, slices = case
    channels, filters = zip(*slices)
    x, dy = draw(rng, n, sum(channels), h, w), draw(rng, n, sum(filters), h, w)
    weights = [draw(rng, out, c, 1, 1) for c, out in slices]
    y, dx, *dweights = run(op, [x, *weights], dy, channels=channels, filters=filters)
    pieces = zip(cut(x, channels), weights, cut(dy, filters))
    for i, (part, weight, part_dy) in enumerate(pieces):
        expected = expected_of(part, weight, 1, 1, part_dy, rounding)
        assert_close(cut(y, filters)[i], expected[0], stored=op.endswith('_bf16'))
        assert_close(cut(dx, channels)[i], expected[1], stored=reads_pairs(op))
        assert_close(dweights[i], expected[2])


# What it prints is one line for the bits of outputs, of gradients and of inputs, which operators
# with running averages write.
DIGEST = """
import hashlib, sys, numpy as np
from vargfacenet.common.engine import ops
from vargfacenet.common.backend import mx
assert ops.available()
random = np.random.RandomState(3)
digest = hashlib.sha256()
for op, shapes, options, *pairs in eval(sys.argv[1]):
    arrays = [mx.nd.array(random.randn(*shape)) for shape in shapes]
    for array in arrays:
        array.attach_grad()
    with mx.autograd.record():
        given = [mx.nd.vg_to_bf16(a) if i in pairs else a for i, a in enumerate(arrays)]
        y = getattr(mx.nd, op)(*given, **options)
        y = y if isinstance(y, list) else [y]
        y = [mx.nd.vg_from_bf16(a) if a.dtype == np.float16 else a for a in y]
    mx.autograd.backward(y, y)
    for array in [*y, *arrays, *[array.grad for array in arrays]]:
        digest.update(array.asnumpy().tobytes())
print(digest.hexdigest())
"""


def assert_threads_change_no_bit(monkeypatch, steps):
    """`steps`: (op, shapes of its inputs, attributes as texts, then the positions of the inputs in
    bfloat16) each."""
    digests = set()
    for threads in '123':
        monkeypatch.setenv('OMP_NUM_THREADS', threads)
        command = [sys.executable, '-c', DIGEST, repr(steps)]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        digests.add(done.stdout)
    assert len(digests) == 1
