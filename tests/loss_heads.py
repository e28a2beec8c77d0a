"""A classification loss on inputs of its own: embedding, fc7_weight and label."""

import pytest
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
