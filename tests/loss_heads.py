"""A classification loss on inputs of its own: embedding, fc7_weight and label."""

import numpy as np
import pytest
from gradients import evaluate
from vargfacenet.common.backend import mx
from vargfacenet.common.engine import ops
from vargfacenet.recognition import losses

needs_compiler = pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')


def build_terms(
    name, num_classes, size, options, compiled=False, smoothing=0.0, exclusive=0.0, batch_size=None
):
    """`losses.Terms` of the loss `name`."""
    inputs = mx.sym.Variable('embedding'), mx.sym.Variable('label')
    head = losses.Head(*inputs, num_classes, size, batch_size=batch_size)
    loss = losses.make_loss(name, options)
    return losses.class_loss(loss, head, compiled, smoothing, exclusive)


def check_compiled(rng, name, classes, size, options, smoothing=0.0):
    """The compiled form of a loss against its form in stock operators: values, gradients, hits."""
    for images in (1, 9, 64):
        arrays = {
            'embedding': rng.randn(images, size),
            'fc7_weight': rng.randn(classes, size),
            'label': rng.randint(0, classes, images),
        }
        outputs = {}
        for compiled in (False, True):
            terms = build_terms(name, classes, size, options, compiled, smoothing)
            values, gradients = evaluate(terms.loss, **arrays)
            hits, _ = evaluate(mx.sym.BlockGrad(terms.correct), **arrays)
            outputs[compiled] = values, *gradients.values(), hits
        for stock, ours in zip(outputs[False], outputs[True]):
            np.testing.assert_allclose(ours, stock, rtol=1e-4, atol=2e-5 * np.abs(stock).max())
