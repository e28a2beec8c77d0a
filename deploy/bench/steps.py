"""Training steps to measure: ours, and the stock way, rebuilt as people run it today."""

from collections.abc import Callable
from typing import Optional

import numpy as np

from ...common.backend import mx
from ...common.engine import ops
from ...common.names import CLASSIFIER_PREFIX, CLASSIFIER_WEIGHT, DATA, IMAGE_SHAPE, LABEL, TEACHER
from ...recognition.config import TrainConfig, bare
from ...recognition.distillation.angular import angular_distillation
from ...recognition.graph import embedding_size, training_module
from ...recognition.losses import ClassificationLoss, Head, class_loss, make_loss
from ...recognition.trainer import initializer
from ...symbol import get_symbol

EMBEDDING = 'embedding'
ARCFACE = {'s': 64.0, 'm1': 1.0, 'm2': 0.5, 'm3': 0.0}
OPTIMIZER = {'learning_rate': 0.01, 'momentum': 0.9, 'wd': 5e-4}


def config_of(
    network: str,
    options: dict,
    batch_size: int,
    classes: int,
    teacher: str = '',
    precision: str = ops.FLOAT32,
) -> TrainConfig:
    """Configuration of a run that is never started: what `training_module` needs to know."""
    return bare(
        network=network,
        network_options=options,
        loss='margin',
        loss_options=ARCFACE,
        num_classes=classes,
        per_batch_size=batch_size,
        teacher=teacher,
        precision=precision,
    )


def one_hot_logits(embedding, label, classes: int, size: int):
    """(N, C) logits of the margin head that InsightFace's MXNet code trains with: normalised
    centres and a one-hot array as arrays of their own."""
    centres = mx.sym.L2Normalization(
        mx.sym.Variable(CLASSIFIER_WEIGHT, shape=(classes, size)), mode='instance'
    )
    unit = mx.sym.L2Normalization(embedding, mode='instance') * ARCFACE['s']
    logits = mx.sym.FullyConnected(
        unit, weight=centres, num_hidden=classes, no_bias=True, name=CLASSIFIER_PREFIX
    )
    target = mx.sym.pick(logits, label, axis=1)
    angle = mx.sym.arccos(target / ARCFACE['s'])
    change = mx.sym.cos(angle + ARCFACE['m2']) * ARCFACE['s'] - target
    hot = mx.sym.one_hot(label, depth=classes, on_value=1.0, off_value=0.0)
    return logits + mx.sym.broadcast_mul(hot, mx.sym.expand_dims(change, axis=1))


def stock_symbol(embedding, classes: int, alpha: Optional[float] = None):
    """Training graph of stock operators: the head above, SoftmaxOutput, and with `alpha` the
    angular distance to a teacher's embeddings."""
    label, size = mx.sym.Variable(LABEL), embedding_size(embedding)
    logits = one_hot_logits(embedding, label, classes, size)
    outputs = [mx.sym.SoftmaxOutput(logits, label, name='softmax')]
    if alpha is not None:
        distance = angular_distillation(embedding, mx.sym.Variable(TEACHER))
        outputs.append(mx.sym.MakeLoss(alpha * distance))
    return mx.sym.Group(outputs)


def random_batch(batch_size: int, classes: int, teacher_size: int = 0) -> 'mx.io.DataBatch':
    """Noise images, labels and, if asked for, teacher embeddings."""
    random = np.random.RandomState(0)
    data = [mx.nd.array(random.randint(0, 256, (batch_size, *IMAGE_SHAPE)))]
    if teacher_size:
        data.append(mx.nd.array(random.randn(batch_size, teacher_size)))
    return mx.io.DataBatch(data, [mx.nd.array(random.randint(0, classes, batch_size))])


def start(module: 'mx.mod.Module', batch_size: int) -> 'mx.mod.Module':
    """Random weights and the optimizer for a bound module."""
    module.init_params(initializer())
    options = {**OPTIMIZER, 'rescale_grad': 1 / batch_size}
    module.init_optimizer(kvstore='local', optimizer='sgd', optimizer_params=options)
    return module


def stock_module(embedding, batch_size: int, classes: int, alpha: Optional[float] = None):
    """The stock training graph, bound on the CPU."""
    data = [(DATA, (batch_size, *IMAGE_SHAPE))]
    if alpha is not None:
        data.append((TEACHER, (batch_size, embedding_size(embedding))))
    symbol = stock_symbol(embedding, classes, alpha)
    module = mx.mod.Module(symbol, [name for name, _ in data], [LABEL], context=mx.cpu())
    module.bind(data, [(LABEL, (batch_size,))], for_training=True)
    return module


def update(module: 'mx.mod.Module', batch: 'mx.io.DataBatch') -> None:
    """One step, to its end."""
    module.forward_backward(batch)
    module.update()
    mx.nd.waitall()


def training_step(
    network: str,
    options: dict,
    batch_size: int,
    classes: int,
    stock: bool,
    precision: str = ops.FLOAT32,
) -> Callable[[], None]:
    """A function that makes one training step on images that are already in memory; stock
    operators know no precision but float32. Its attribute `about` is the precision of its arrays.
    """
    embedding = get_symbol(network, **options)
    if stock:
        module = stock_module(embedding, batch_size, classes)
    else:
        config = config_of(network, options, batch_size, classes, precision=precision)
        module = training_module(embedding, config, [mx.cpu()])
    start(module, batch_size)
    batch = random_batch(batch_size, classes)

    def step() -> None:
        update(module, batch)

    step.about = ops.FLOAT32 if stock else _precision(module)
    return step


def _precision(module: 'mx.mod.Module') -> str:
    """What a Module of ours stores between operators, by the types that MXNet gives its arrays."""
    _, types, _ = module.symbol.get_internals().infer_type(**{DATA: 'float32'})
    return ops.BFLOAT16 if np.float16 in types else ops.FLOAT32  # see ops.bfloat16


def head_step(classes: int, batch_size: int, size: int, stock: bool) -> Callable[[], None]:
    """A function that makes one step of a head alone on embeddings that are in memory."""
    if stock:
        embedding, label = mx.sym.Variable(EMBEDDING), mx.sym.Variable(LABEL)
        symbol = mx.sym.SoftmaxOutput(one_hot_logits(embedding, label, classes, size), label)
        return _step_of(symbol, classes, batch_size, size)
    return loss_step(classes, batch_size, size, make_loss('margin', ARCFACE))


def loss_step(
    classes: int,
    batch_size: int,
    size: int,
    loss: ClassificationLoss,
    compiled: bool = True,
    smoothing: float = 0.0,
    exclusive: float = 0.0,
) -> Callable[[], None]:
    """The same of any loss; `compiled` where the operators are there, the others as of
    `class_loss`."""
    inputs = mx.sym.Variable(EMBEDDING), mx.sym.Variable(LABEL)
    head = Head(*inputs, classes, size, batch_size=batch_size)
    terms = class_loss(loss, head, compiled and ops.available(), smoothing, exclusive)
    others = [mx.sym.BlockGrad(output) for output in (terms.correct, *terms.states.values())]
    symbol = mx.sym.Group([mx.sym.MakeLoss(terms.loss), *others])
    return _step_of(symbol, classes, batch_size, size)


def _step_of(symbol, classes: int, batch_size: int, size: int) -> Callable[[], None]:
    module = mx.mod.Module(symbol, [EMBEDDING], [LABEL], context=mx.cpu())
    shapes = [(EMBEDDING, (batch_size, size))], [(LABEL, (batch_size,))]
    module.bind(*shapes, for_training=True, inputs_need_grad=True)
    start(module, batch_size)
    random = np.random.RandomState(0)
    batch = mx.io.DataBatch(
        [mx.nd.array(random.randn(batch_size, size))],
        [mx.nd.array(random.randint(0, classes, batch_size))],
    )

    return lambda: update(module, batch)
