"""BatchNorm with the statistics of all ranks' images (SyncBatchNorm), for training.

The batch's mean and variance go through two operators of Python whose forward pass has the mean
over the ranks of what each has of its own images, and whose backward pass has that of the
gradients; the rest are stock operators with MXNet's own gradients.
"""

import json

from ..common.backend import mx
from ..common.engine.graph import Node, assemble, flag, parse
from ..common.ranks import Ranks

_MEAN, _VARIANCE = 'vg_rank_mean', 'vg_rank_variance'
_EPS, _MOMENTUM = '0.001', '0.9'  # of MXNet's BatchNorm where nothing is said


def synchronised(symbol: 'mx.sym.Symbol', ranks: Ranks) -> 'mx.sym.Symbol':
    """The symbol with every BatchNorm over channels that takes the statistics of its batch taking
    those of all ranks; names of arguments, auxiliary states and outputs stay.

    Every rank must give as many images. Gradients are those of the mean over ranks of their
    losses, times the number of ranks as are all others: what sums over the ranks make whole.
    """
    _register(ranks)
    graph = json.loads(symbol.tojson())
    nodes, heads, attrs = parse(graph, [[] for _ in graph['nodes']], set())
    for node in reversed(nodes):
        if node.op == 'BatchNorm' and not flag(node, 'use_global_stats', False):
            _replace(node)
    return mx.sym.load_json(json.dumps(assemble(heads, attrs)))


def _replace(norm: Node) -> None:
    """(x - mean) / sqrt(variance + eps) * gamma + beta; fix_gamma is a gamma of 1."""

    def node(op: str, name: str, inputs: list, **more: str) -> tuple:
        return Node(op, f'{norm.name}_{name}', more, inputs), 0

    def custom(op_type: str, name: str, inputs: list, **more: str) -> tuple:
        return node('Custom', name, inputs, op_type=op_type, layer=norm.name, **more)

    data, gamma, beta, *running = norm.inputs
    over = {'axis': '1', 'exclude': 'True', 'keepdims': 'True'}
    mean = custom(_MEAN, 'mean', [node('mean', 'own_mean', [data], **over)])
    centred = node('broadcast_sub', 'centred', [data, mean])
    squares = node('mean', 'own_variance', [node('square', 'squared', [centred])], **over)
    momentum = norm.attrs.get('momentum', _MOMENTUM)
    variance = custom(_VARIANCE, 'variance', [mean, squares, *running], momentum=momentum)
    eps = {'scalar': norm.attrs.get('eps', _EPS)}
    inverse = node('rsqrt', 'inverse', [node('_plus_scalar', 'with_eps', [variance], **eps)])
    if flag(norm, 'fix_gamma', True):
        gamma = node('ones_like', 'one', [gamma])
    # as (C,), from which MXNet infers the shapes of gamma and beta
    flat = node('Reshape', 'inverse_flat', [inverse], shape='(-1,)')
    scale = node('elemwise_mul', 'scale', [flat, gamma])
    shift = node('elemwise_add', 'shift', [node('zeros_like', 'zero', [flat]), beta])
    scale, shift = (
        node('reshape_like', f'{name}_shaped', [entry, variance])
        for name, entry in (('scale', scale), ('shift', shift))
    )
    scaled = node('broadcast_mul', 'scaled', [centred, scale])
    norm.become('broadcast_add', [scaled, shift])


class _OfRanks(mx.operator.CustomOp):
    def __init__(self, ranks: Ranks, layer: str, momentum: float):
        super().__init__()
        self._ranks, self._layer, self._momentum = ranks, layer, momentum

    def _mean(self, array, what: str):
        total = self._ranks.sum(array.asnumpy(), f'BatchNorm: {self._layer} {what}')
        return mx.nd.array(total / self._ranks.size)


class _Mean(_OfRanks):
    def forward(self, is_train, req, in_data, out_data, aux):
        self.assign(out_data[0], req[0], self._mean(in_data[0], 'mean'))

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        self.assign(in_grad[0], req[0], self._mean(out_grad[0], 'mean gradient'))


class _Variance(_OfRanks):
    def forward(self, is_train, req, in_data, out_data, aux):
        variance = self._mean(in_data[1], 'variance')
        self.assign(out_data[0], req[0], variance)
        for running, new in zip(aux, (in_data[0], variance)):
            share = 1 - self._momentum
            running[:] = self._momentum * running + share * new.reshape(running.shape)

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        self.assign(in_grad[0], req[0], mx.nd.zeros_like(in_grad[0]))
        self.assign(in_grad[1], req[1], self._mean(out_grad[0], 'variance gradient'))


class _MeanProp(mx.operator.CustomOpProp):
    ranks: Ranks  # of the subclass that is registered
    operator = _Mean

    def __init__(self, layer: str, momentum: str = '0'):
        super().__init__(need_top_grad=True)
        self._layer, self._momentum = layer, float(momentum)

    def list_arguments(self):
        return ['data']

    def infer_shape(self, in_shape):
        return in_shape, [in_shape[0]], []

    def create_operator(self, ctx, shapes, dtypes):
        return self.operator(self.ranks, self._layer, self._momentum)


class _VarianceProp(_MeanProp):
    operator = _Variance

    def list_arguments(self):
        return ['mean', 'variance']

    def list_auxiliary_states(self):
        return ['moving_mean', 'moving_var']

    def infer_shape(self, in_shape):
        channels = [in_shape[0][1]]
        return in_shape, [in_shape[0]], [channels, channels]


def _register(ranks: Ranks) -> None:
    """Make the two operators known to MXNet, which bind to these ranks."""
    for name, kind in ((_MEAN, _MeanProp), (_VARIANCE, _VarianceProp)):
        mx.operator.register(name)(type(kind.__name__, (kind,), {'ranks': ranks}))
