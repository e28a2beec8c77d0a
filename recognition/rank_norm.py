"""BatchNorm with the statistics of all ranks' images (SyncBatchNorm), for training.

The mean and variance of a rank's own images go through an operator of Python, which gives those of
all ranks' images and, backwards, the gradients of what they were made of: a message each. Before
and behind it stand two compiled operators, or stock ones, which take many times as long.
"""

import json

import numpy as np

from ..common.backend import mx, mxnet_symbol
from ..common.engine.graph import Node, assemble, flag, parse
from ..common.ranks import Ranks

_STATISTICS = 'vg_rank_statistics'
_EPS, _MOMENTUM = '0.001', '0.9'  # of MXNet's BatchNorm where nothing is said


def synchronised(symbol: 'mx.sym.Symbol', ranks: Ranks, compiled: bool) -> 'mx.sym.Symbol':
    """The symbol with every BatchNorm over channels that takes the statistics of its batch taking
    those of all ranks; names of arguments, auxiliary states and outputs stay.

    Every rank must give as many images. Gradients are those of the mean over ranks of their
    losses, times the number of ranks as are all others: what sums over the ranks make whole.
    `compiled`: with the operators of `common/engine/ops`, for the CPU.
    """
    _register(ranks)
    graph = json.loads(symbol.tojson())
    nodes, heads, attrs = parse(graph, [[] for _ in graph['nodes']], set())
    for node in reversed(nodes):
        if node.op == 'BatchNorm' and not flag(node, 'use_global_stats', False):
            _replace(node, compiled)
    return mxnet_symbol(assemble(heads, attrs))


def _replace(norm: Node, compiled: bool) -> None:
    """(x - mean) / sqrt(variance + eps) * gamma + beta; fix_gamma is a gamma of 1."""

    def node(op: str, name: str, inputs: list, **more: str) -> tuple:
        return Node(op, f'{norm.name}_{name}', more, inputs), 0

    data, gamma, beta, *running = norm.inputs
    over = {'axis': '1', 'exclude': 'True', 'keepdims': 'True'}
    if compiled:
        moments, _ = node('vg_moments', 'moments', [data])
        own = [(moments, 0), (moments, 1)]
    else:
        centre = node('mean', 'own_mean', [data], **over)
        squared = node('square', 'squared', [node('broadcast_sub', 'own_centred', [data, centre])])
        pair = centre, node('mean', 'own_variance', [squared], **over)
        own = [node('Reshape', f'own_{i}', [entry], shape='(-1,)') for i, entry in enumerate(pair)]
    momentum = {'momentum': norm.attrs.get('momentum', _MOMENTUM)}
    statistics = {'op_type': _STATISTICS, 'layer': norm.name, **momentum}
    whole, _ = node('Custom', 'statistics', [*own, *running], **statistics)
    mean, variance = (whole, 0), (whole, 1)
    eps = {'scalar': norm.attrs.get('eps', _EPS)}
    inverse = node('rsqrt', 'inverse', [node('_plus_scalar', 'with_eps', [variance], **eps)])
    if flag(norm, 'fix_gamma', True):
        gamma = node('ones_like', 'one', [gamma])
    # sums with zeros, from which MXNet infers the shapes of gamma and beta
    scale = node('elemwise_mul', 'scale', [inverse, gamma])
    shift = node('elemwise_add', 'shift', [node('zeros_like', 'zero', [inverse]), beta])
    if compiled:
        norm.become('vg_recentre', [data, mean, scale, shift])
        return
    mean, scale, shift = (
        node('reshape_like', f'{name}_shaped', [entry, centre])
        for name, entry in (('mean', mean), ('scale', scale), ('shift', shift))
    )
    centred = node('broadcast_sub', 'centred', [data, mean])
    norm.become('broadcast_add', [node('broadcast_mul', 'scaled', [centred, scale]), shift])


class _Statistics(mx.operator.CustomOp):
    """Mean and variance (C,) of a rank's images -> those of all ranks' images."""

    def __init__(self, ranks: Ranks, layer: str, momentum: float):
        super().__init__()
        self._ranks, self._layer, self._momentum = ranks, layer, momentum
        self._apart: np.ndarray  # (C,) how far the own mean is from that of all

    def _of_all(self, pair: tuple, what: str) -> np.ndarray:
        """(R, 2, C) float64: a pair of (C,) of every rank."""
        stacked = np.stack([array.asnumpy() for array in pair])[None]
        name = f'BatchNorm: {self._layer} {what}'
        return self._ranks.gather(stacked, name).astype(np.float64)

    def forward(self, is_train, req, in_data, out_data, aux):
        means, variances = self._of_all(in_data, 'statistics').swapaxes(0, 1)
        mean = means.mean(axis=0)
        variance = (variances + (means - mean) ** 2).mean(axis=0)
        self._apart = means[self._ranks.rank] - mean
        context = out_data[0].context
        for place, values in enumerate((mean, variance)):
            new = mx.nd.array(values, ctx=context)
            self.assign(out_data[place], req[place], new)
            aux[place][:] = self._momentum * aux[place] + (1 - self._momentum) * new

    def backward(self, req, out_grad, in_data, out_data, in_grad, aux):
        of_mean, of_variance = self._of_all(out_grad, 'gradients').mean(axis=0)
        own = of_mean + 2 * self._apart * of_variance, of_variance
        for place, values in enumerate(own):
            self.assign(in_grad[place], req[place], mx.nd.array(values, ctx=in_grad[0].context))


class _StatisticsProp(mx.operator.CustomOpProp):
    ranks: Ranks  # of the subclass that is registered

    def __init__(self, layer: str, momentum: str):
        super().__init__(need_top_grad=True)
        self._layer, self._momentum = layer, float(momentum)

    def list_arguments(self):
        return ['own_mean', 'own_variance']

    def list_auxiliary_states(self):
        return ['moving_mean', 'moving_var']

    def list_outputs(self):
        return ['mean', 'variance']

    def infer_shape(self, in_shape):
        return in_shape, [in_shape[0], in_shape[0]], [in_shape[0], in_shape[0]]

    def create_operator(self, ctx, shapes, dtypes):
        return _Statistics(self.ranks, self._layer, self._momentum)


def _register(ranks: Ranks) -> None:
    """Make the operator known to MXNet, which binds to these ranks."""
    mx.operator.register(_STATISTICS)(type('RankStatistics', (_StatisticsProp,), {'ranks': ranks}))
