"""The training graph: embedding symbol + losses, and its Module."""

import json
from collections.abc import Mapping, Sequence
from typing import Optional

from ..common.backend import mx, mxnet_symbol
from ..common.engine import ops
from ..common.errors import InputError
from ..common.names import CLASSIFIER_PREFIX, DATA, IMAGE_SHAPE, LABEL, TEACHER, TEACHER_CENTRES
from ..common.ranks import Ranks
from .config import FULL, STATISTICS, TrainConfig
from .distillation import Pair, make_distillation_loss
from .losses import Head, Terms, class_loss, make_loss, warn_of_few_pairs
from .processes import HOROVOD
from .rank_norm import synchronised
from .symbols import check_shape, inferred_shapes

# Outputs of the training graph, each (N,) float32
TOTAL_LOSS, CORRECT, CLASS_LOSS, DISTILL_LOSS = range(4)
# Further ones are the next values of the losses' states, called after their variables, and last,
# where PartialFC computes the classification loss, the embedding.
NUM_OUTPUTS = 4
_NEXT = 'next_'
_TERMS = ('loss_output', 'correct_output', 'class_loss_output', 'distill_loss_output')


def embedding_size(symbol: 'mx.sym.Symbol') -> int:
    """D of an embedding symbol."""
    _, shapes, _ = symbol.infer_shape(**{DATA: (1, *IMAGE_SHAPE)})
    return shapes[0][1]


def _distillation(
    embedding: 'mx.sym.Symbol', label: 'mx.sym.Symbol', config: TrainConfig, compiled: bool
) -> Terms:
    """What the student learns from the teacher's embeddings, the input TEACHER."""
    pair = Pair(
        student=embedding,
        teacher=mx.sym.Variable(TEACHER),
        label=label,
        batch_size=config.per_batch_size,
        num_classes=config.num_classes,
        embedding_size=embedding_size(embedding),
        compiled=compiled,
    )
    loss = make_distillation_loss(config.distill, config.distill_options)
    if loss.compares_images:
        warn_of_few_pairs(config.distill, pair.batch_size, pair.num_classes, config.shuffle)
    return loss.terms(pair)


def training_symbol(
    embedding: 'mx.sym.Symbol', config: TrainConfig, compiled: bool = False
) -> 'mx.sym.Symbol':
    """Embedding symbol -> group of the outputs above; the gradient flows from TOTAL_LOSS alone.

    L = L_class + alpha * L_s (VarGFaceNet Eq. 7) with a teacher, L_class without. With
    `classification` off, L = alpha * L_s, and the graph has no classifier; neither has that of a
    run with PartialFC, whose L_class is in none of the outputs, and whose embedding is the last of
    them. `compiled` as in `losses.class_loss`.
    """
    if config.freeze == 'backbone':
        embedding = as_it_embeds(embedding)
    elif config.freeze == STATISTICS:
        embedding = _changed(embedding, {'BatchNorm': ('use_global_stats', 'True')})
    label = mx.sym.Variable(LABEL)
    zero = mx.sym.zeros_like(label)
    class_term, correct, distill_loss = zero, zero, zero
    states: dict[str, mx.sym.Symbol] = {}
    total = None
    in_graph = config.head == FULL
    if config.classification and in_graph:
        size, batch_size = embedding_size(embedding), config.per_batch_size
        head = Head(embedding, label, config.num_classes, size, batch_size=batch_size)
        loss = make_loss(config.loss, config.loss_options)
        if loss.compares_images:
            warn_of_few_pairs(config.loss, batch_size, config.num_classes, config.shuffle)
        smoothing, exclusive = config.label_smoothing, config.regular_face
        class_term, correct, next_states = class_loss(loss, head, compiled, smoothing, exclusive)
        states.update(next_states)
        total = class_term
    if config.teacher:
        terms = _distillation(embedding, label, config, compiled)
        distill_loss = terms.loss
        states.update(terms.states)
        correct = correct if terms.correct is None else terms.correct
        weighted = config.alpha * distill_loss
        total = weighted if total is None else total + weighted
    if total is None and in_graph:
        raise InputError('--no-classification leaves no loss without a teacher')
    return mx.sym.Group(
        [
            mx.sym.BlockGrad(zero, name='loss')
            if total is None
            else mx.sym.MakeLoss(total, name='loss'),
            mx.sym.BlockGrad(correct, name='correct'),
            mx.sym.BlockGrad(class_term, name='class_loss'),
            mx.sym.BlockGrad(distill_loss, name='distill_loss'),
            *(mx.sym.BlockGrad(value, name=_NEXT + name) for name, value in states.items()),
            *([] if in_graph else [mx.sym.identity(embedding, name='embedding')]),
        ]
    )


def _check_terms(symbol: 'mx.sym.Symbol', inputs: Mapping[str, tuple], config: TrainConfig) -> None:
    """InputError for a training graph whose losses do not fit together, or give something else than
    a number an image; `inputs` are shapes of one device's."""
    losses = [f'loss {config.loss}'] * config.classification
    losses += [f'distillation loss {config.distill}'] * bool(config.teacher)
    what, expected = ' and '.join(losses), inputs[LABEL]
    for name, shape in zip(symbol.list_outputs(), inferred_shapes(symbol, inputs, what)):
        if name in _TERMS:
            check_shape(f'{what}: {name} has', shape, expected, 'a number an image')


def as_it_embeds(embedding: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """The embedding of training as it is when the network is used: running statistics, which stay
    as they are, no dropout, and no gradient."""
    frozen = {'BatchNorm': ('use_global_stats', 'True'), 'Dropout': ('p', '0')}
    return mx.sym.BlockGrad(_changed(embedding, frozen), name='frozen_embedding')


def _changed(symbol: 'mx.sym.Symbol', attributes: Mapping[str, tuple[str, str]]) -> 'mx.sym.Symbol':
    """The symbol with an attribute of some operators set: operator -> (attribute, value)."""
    graph = json.loads(symbol.tojson())
    for node in graph['nodes']:
        if node['op'] in attributes:
            key, value = attributes[node['op']]
            node.setdefault('attrs', {})[key] = value
    return mxnet_symbol(graph)


def frozen_names(embedding: 'mx.sym.Symbol', inputs: Sequence[str], freeze: str) -> list[str]:
    """Which of the `inputs` of a training graph --freeze keeps as they are."""
    if freeze == 'backbone':
        backbone = {*embedding.list_arguments()} - {DATA}
        return [name for name in inputs if name in backbone]
    if freeze == 'centres':
        return [name for name in inputs if name.startswith(CLASSIFIER_PREFIX)]
    return []


def state_names(symbol: 'mx.sym.Symbol') -> list[str]:
    """Variables of a training graph that its own outputs replace after every step."""
    outputs = symbol.list_outputs()[NUM_OUTPUTS:]
    return [name[len(_NEXT) : -len('_output')] for name in outputs if name.startswith(_NEXT)]


def keep_states(module: 'mx.mod.Module') -> None:
    """After a step, put the states that came out of it where the next step reads them."""
    for array, value in zip(state_arrays(module), module.get_outputs()[NUM_OUTPUTS:]):
        value.copyto(array)


def state_arrays(module: 'mx.mod.Module') -> list:
    """The arrays of a Module that a step reads its losses' states from."""
    names = state_names(module.symbol)
    arrays = module._exec_group.execs[0].arg_dict if names else {}
    return [arrays[name] for name in names]


def current_params(module: 'mx.mod.Module') -> tuple[dict, dict]:
    """(arg_params, aux_params) of a training Module as they are after the newest update.

    MXNet's BatchNorm moves its running averages in the backward pass without telling the engine;
    only waiting for everything makes sure that they are not read before.
    """
    mx.nd.waitall()
    arg_params, aux_params = module.get_params()
    # what a run makes anew from the teacher is no parameter of its network
    return {name: arg_params[name] for name in arg_params if name != TEACHER_CENTRES}, aux_params


def training_module(
    embedding: 'mx.sym.Symbol',
    config: TrainConfig,
    devices: Sequence['mx.Context'],
    ranks: Optional[Ranks] = None,
) -> 'mx.mod.Module':
    """A bound Module of the training graph, without parameters yet; `ranks` are all of the run.

    On the CPU the project's operators stand in for MXNet's; parameter names are the same, and
    convolutions multiply in `config.precision`. The teacher's class centres and the losses' states
    are fixed: they have no gradient, and so neither momentum nor decay.
    """
    on_cpu = all(device.device_type == 'cpu' for device in devices)
    inner = embedding
    if config.sync_bn and ranks and ranks.size > 1:  # of one rank they are its own
        inner = synchronised(embedding, ranks, compiled=on_cpu and ops.available())
    symbol = training_symbol(inner, config, compiled=on_cpu and ops.available())
    batch = config.per_batch_size * len(devices)  # Module cuts it into one part a device
    data_shapes = {DATA: (batch, *IMAGE_SHAPE)}
    inputs = symbol.list_arguments()
    states = state_names(symbol)
    fixed = [name for name in inputs if name in (TEACHER_CENTRES, *states)]
    learning = [name for name in inputs if name not in fixed]
    fixed += frozen_names(embedding, learning, config.freeze)
    apart = config.num_workers > 1 and config.kvstore != HOROVOD
    if states and (len(devices) > 1 or apart):
        raise InputError(
            f'the loss carries {", ".join(states)} from step to step, which several devices or '
            f'workers would each change in another way; use one device (not {config.devices}) '
            'a process, and for several processes recognition/train_multi.sh'
        )
    if TEACHER in inputs:
        data_shapes[TEACHER] = (batch, embedding_size(embedding))
    label_shapes = {LABEL: (batch,)}
    shapes = {**data_shapes, **label_shapes}
    of_one = {name: (config.per_batch_size, *shape[1:]) for name, shape in shapes.items()}
    _check_terms(symbol, of_one, config)
    if on_cpu:
        symbol = ops.accelerate(
            symbol, shapes, accumulate=False, input_gradients=False, precision=config.precision
        )
    module = mx.mod.Module(
        symbol,
        data_names=list(data_shapes),
        label_names=[LABEL],
        context=list(devices),
        fixed_param_names=fixed,
    )
    module.bind(list(data_shapes.items()), list(label_shapes.items()), for_training=True)
    return module
