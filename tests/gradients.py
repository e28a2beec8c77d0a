"""What a symbol of a loss gives when it is run: values and gradients."""

import numpy as np
from vargfacenet.common.backend import mx


def evaluate(symbol, **arrays):
    """Forward values and gradients of the sum of a symbol's rows; arrays it lacks are ignored."""
    symbol = mx.sym.MakeLoss(symbol)
    used = {name: mx.nd.array(arrays[name]) for name in symbol.list_arguments()}
    gradients = {name: mx.nd.zeros_like(value) for name, value in used.items()}
    executor = symbol.bind(mx.cpu(), used, gradients)
    output = executor.forward(is_train=True)[0].asnumpy()
    executor.backward()
    return output, {name: value.asnumpy() for name, value in gradients.items()}


def relative_error(ours, theirs):
    """Largest difference, relative to the largest value."""
    return np.abs(np.asarray(ours) - np.asarray(theirs)).max() / np.abs(theirs).max()
