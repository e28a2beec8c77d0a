"""The graph pass behind `accelerate`: patterns of stock operators become ours, names stay.

A symbol's argument order is the order in which its operators' inputs are walked, so every
replacement takes its inputs in the order of what it replaces.

A rule looks at a node and what stands before it, and says what the node becomes, or None where its
pattern is not there. `COMPILED` and `STOCK` list the rules of every operator, the first that
answers is taken. Nodes are visited from the outputs to the inputs: what a node absorbs is still
stock then, and what nothing reads any more is dropped.
"""

import json
import logging
import math
import re
from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple, Optional

from ...backend import mxnet_symbol
from ...errors import InputError
from ...names import DATA, LABEL, TEACHER
from ..graph import Node, assemble, flag, parse, reached
from . import bfloat16

log = logging.getLogger(__name__)

ADDITIONS = bfloat16.ADDITIONS
MODE = 'vg_mode'  # name of the node that tells a fused BatchNorm whether the network trains
NORM_STATES = 3  # inputs without a gradient, at the end of a BatchNorm's: mode, mean and variance
DEPTHWISE_KERNELS = (3, 5, 7, 9, 11)
MANY_CHANNELS = 16  # of a group, from here on oneDNN's 3x3 convolution is the faster one
CONVOLUTIONS = ('Convolution', 'vg_depthwise', *bfloat16.CONVOLUTIONS)  # that are float32
MANY_READERS = 8  # from here on MXNet adds up gradients in place (MXNET_EXEC_INPLACE_GRAD_SUM_CAP)


class Replacement(NamedTuple):
    """What a node becomes; its name stays."""

    op: str
    inputs: list
    attrs: Optional[dict] = None


@dataclass
class _Graph:
    """What rules ask about the graph as it was."""

    uses: Counter  # readers of each (node, output index), heads among them
    heads: list
    mode: Node
    norms: bool  # whether BatchNorms are replaced
    unread: set  # names of the variables whose gradient nobody reads

    def gradient_is_read(self, entry: tuple) -> bool:
        """Whether a variable before the entry has a gradient that somebody reads."""
        return not self.unread or any(
            node.op == 'null' and node.name not in self.unread for node in reached([entry])
        )

    def absorbed(self, entry: tuple, readers: int = 1) -> Optional[Node]:
        """The node behind an entry if only `readers` read it, so that it may go."""
        return entry[0] if entry[1] == 0 and self.uses[entry] == readers else None

    def replaces_norm(self, node: Node, reader: Node) -> bool:
        """Whether `node` is a BatchNorm that becomes ours in the place of `reader`.

        Not as an output of the network, where the further outputs that ours has would show.
        """
        return self.norms and _is_batch_norm(node) and (reader, 0) not in self.heads


def rewrite(
    symbol,
    shapes: dict,
    compiled: bool,
    norms: bool = True,
    accumulate: bool = True,
    input_gradients: bool = True,
    stores_bfloat16: bool = False,
):
    """See `accelerate`; `compiled` says whether our operators are loaded, `norms` whether
    BatchNorms are replaced as well, `stores_bfloat16` whether arrays are."""
    fixed = {DATA, LABEL, TEACHER, *shapes}
    nodes, heads, attrs = _parse(symbol, shapes, fixed)
    uses = Counter(entry for node in nodes for entry in node.inputs)
    uses.update(heads)
    mode = next((node for node in nodes if node.name == MODE), None) or _mode()
    unread = set() if input_gradients else fixed
    graph = _Graph(uses, heads, mode, norms, unread)
    if stores_bfloat16 and not compiled:
        raise InputError(
            'bfloat16 needs the compiled operators, which are not there; train in float32'
        )
    best_in_stock = _best_in_stock(nodes)
    compiled = compiled and (stores_bfloat16 or not best_in_stock)
    rules = COMPILED if compiled else STOCK
    for node in reversed(nodes):
        if node.op == 'null' and node.name not in fixed:
            # Operators from a library get buffers of a wrong size for parameters without it.
            node.attrs['__shape__'] = str(node.shape)
        answers = (rule(node, graph) for rule in rules.get(node.op, ()))
        replacement = next(filter(None, answers), None)
        if replacement:
            node.become(replacement.op, replacement.inputs, **(replacement.attrs or {}))
    if stores_bfloat16:
        bfloat16.store(heads)
        _tell_bfloat16(reached(heads), best_in_stock)
    if compiled:
        _buffer_gradients(heads, accumulate)
    return mxnet_symbol(assemble(heads, attrs))


_WORTH = 25  # % of the multiply-adds; ResNet18 has 1 and is 1.04 times as fast


def _tell_bfloat16(nodes: list[Node], best_in_stock: bool) -> None:
    """Log which share of the convolutions' arithmetic is in bfloat16; InputError for none.

    What 1x1 convolutions gain there is lost again where a network is fastest in MXNet's operators,
    which it leaves for ours: PolyFace takes as long as in float32 (docs/training.md).
    """
    work: Counter = Counter()  # multiply-adds of an image, by whether they are
    for node in nodes:
        rounds = bfloat16.is_convolution(node)
        if node.shapes and (rounds or node.op in CONVOLUTIONS):
            shapes = [shape for source, _ in node.inputs[1:] for shape in source.shapes[:1]]
            weights = sum(math.prod(shape) for shape in shapes if len(shape) > 1)
            work[rounds] += weights * math.prod(node.shape[2:])
    if not work[True]:
        raise InputError(
            'no convolution of this network takes bfloat16, which is for 1x1 convolutions and for '
            f'3x3 ones of 2 to {MANY_CHANNELS} channels a group; train in float32'
        )
    share = 100 * work[True] / sum(work.values())
    log.info('bfloat16: %.0f %% of the multiply-adds of the convolutions', share)
    if share < _WORTH or best_in_stock:
        log.warning('that is hardly faster than float32, and what lies between them is rounded')


def _best_in_stock(nodes: list[Node]) -> bool:
    """Whether the network has ReLUs behind its BatchNorms and no convolution in groups.

    MXNet keeps one blocked layout through such a network (PolyFace), and a training step takes
    three quarters of the time that it takes with our operators, which want plain arrays.
    """
    slow = any(
        (node.op == 'LeakyReLU' and node.attrs.get('act_type') == 'prelu')
        or (node.op == 'Convolution' and int(node.attrs.get('num_group', 1)) > 1)
        for node in nodes
    )
    return not slow and any(
        node.op == 'Activation'
        and node.attrs['act_type'] == 'relu'
        and node.inputs[0][0].op == 'BatchNorm'
        for node in nodes
    )


def _parse(symbol, shapes: dict, fixed: set) -> tuple[list[Node], list, dict]:
    """`parse` with the shapes that MXNet infers, since a training's operators are not all ours."""
    graph = json.loads(symbol.tojson())
    internals = symbol.get_internals()
    _, output_shapes, _ = internals.infer_shape_partial(**shapes)
    inferred: list[list] = [[] for _ in graph['nodes']]
    for (index, *_), shape in zip(json.loads(internals.tojson())['heads'], output_shapes):
        inferred[index].append(shape or ())
    nodes, heads, attrs = parse(graph, inferred, fixed)
    for node in nodes:
        if node.op == 'null' and node.name not in fixed and not (node.shape and all(node.shape)):
            raise InputError(
                f'the shape of parameter {node.name!r} does not follow from the input shapes '
                f'{shapes}; give the shape of every input of the network'
            )
    return nodes, heads, attrs


def _buffer_gradients(heads: list, accumulate: bool) -> None:
    """Put a copy before inputs of our operators whose gradient MXNet may ask to be added to.

    Operators from a library overwrite the array they are given, even for grad_req='add'; the
    gradient of a copy adds. Such inputs are variables, small ones here, and much-read tensors.
    """
    nodes = reached(heads)
    uses = Counter(entry for node in nodes for entry in node.inputs)
    uses.update(heads)  # which bring a gradient as well
    for node in nodes:
        if not (node.changed and node.op.startswith('vg_')):
            continue
        learnt = len(node.inputs) - (NORM_STATES if node.op.startswith('vg_bn') else 0)
        for position, entry in enumerate(node.inputs[:learnt]):
            variable = entry[0].op == 'null'
            if (variable and accumulate) or uses[entry] >= MANY_READERS:
                name = f'{node.name}_input{position}'
                # Without an attribute that differs MXNet merges equal copies into one again.
                node.inputs[position] = (Node('_copy', name, {'__reader__': name}, [entry]), 0)


def _mode() -> Node:
    """An array of one number: 1 in inference, 0 or 2 in training."""
    one = Node('_ones', f'{MODE}_one', {'shape': '(1,)', 'dtype': 'float32'})
    dropout = Node('Dropout', f'{MODE}_dropout', {'p': '0.5'}, [(one, 0)])
    return Node('BlockGrad', MODE, {}, [(dropout, 0)])


# ------------------------------------------------------------------------------------ PReLU


def _with_slopes(rule):
    """A rule (PReLU, entry with a slope for each channel, graph); one slope for all is copied."""

    def of_prelu(node: Node, graph: _Graph) -> Optional[Replacement]:
        slopes = _channel_slopes(node) if node.attrs.get('act_type') == 'prelu' else None
        return rule(node, slopes, graph) if slopes else None

    return of_prelu


def _has_channel_slopes(node: Node) -> bool:
    return node.inputs[1][0].shape == node.shape[1:2]


def _channel_slopes(node: Node) -> Optional[tuple]:
    if _has_channel_slopes(node):
        return node.inputs[1]
    if node.inputs[1][0].shape != (1,) or len(node.shape) < 2:
        return None
    options = {'shape': str(node.shape[1:2])}
    return Node('broadcast_to', f'{node.name}_slopes', options, [node.inputs[1]]), 0


def _prelu_of_sum(node: Node, slopes: tuple, graph: _Graph) -> Optional[Replacement]:
    """Absorbs the addition, and the SE scale of its first term."""
    addition = graph.absorbed(node.inputs[0])
    if addition is None or addition.op not in ADDITIONS:
        return None
    if any(not n.batched or n.shapes[output] != node.shape for n, output in addition.inputs):
        return None
    first, shortcut = addition.inputs
    if graph.absorbed(first) and _is_channel_scale(first[0]):
        return Replacement('vg_scale_add_prelu', [*first[0].inputs, shortcut, slopes])
    return Replacement('vg_add_prelu', [first, shortcut, slopes])


def _prelu_of_norm(node: Node, slopes: tuple, graph: _Graph) -> Optional[Replacement]:
    norm = graph.absorbed(node.inputs[0])
    if norm is None or not graph.replaces_norm(norm, node):
        return None
    return _norm_with('vg_bn_prelu', norm, graph, (slopes,))


def _prelu(node: Node, slopes: tuple, graph: _Graph) -> Optional[Replacement]:
    return Replacement('vg_prelu', [node.inputs[0], slopes])


def _composed_prelu(node: Node, graph: _Graph) -> Optional[Replacement]:
    """slope * x + (1 - slope) * relu(x): the same values, with gradients that are right in place.

    The products are depthwise 1x1 convolutions, several times faster than broadcast products.
    """
    if node.attrs.get('act_type') != 'prelu':
        return None
    x, slope = node.inputs
    depthwise = len(node.shape) == 4 and _has_channel_slopes(node)

    def part(suffix: str, op: str, *inputs, **attrs: str) -> tuple:
        return Node(op, f'{node.name}_{suffix}', attrs, list(inputs)), 0

    def product(suffix: str, left: tuple, right: tuple) -> tuple:
        if not depthwise:
            return part(suffix, 'broadcast_mul', left, right)
        channels = str(node.shape[1])
        options = {'kernel': '(1, 1)', 'num_filter': channels, 'num_group': channels}
        return part(suffix, 'Convolution', left, right, no_bias='True', **options)

    shape = (-1, 1, 1, 1) if depthwise else (1, -1, *[1] * (len(node.shape) - 2))
    weight = part('slope', 'Reshape', slope, shape=str(shape))
    rest = part('rest', '_rminus_scalar', weight, scalar='1')
    if depthwise:
        positive = part('positive', 'Activation', x, act_type='relu')
    else:
        # MXNet's inference would fold an Activation into a FullyConnected that others read too.
        positive = part('positive', 'relu', x)
    terms = [product('line', x, weight), product('bend', positive, rest)]
    return Replacement('elemwise_add', terms)


# ------------------------------------------------------------------------------------ Swish


def _gated(node: Node, graph: _Graph) -> Optional[tuple]:
    """The entry x if the node is x * sigmoid(x), in this order, of which nothing else is read."""
    x, gate = node.inputs
    sigmoid = graph.absorbed(gate)
    if sigmoid is None or sigmoid.inputs != [x] or not node.batched:
        return None
    return x if sigmoid.op == 'Activation' and sigmoid.attrs['act_type'] == 'sigmoid' else None


def _swish_of_norm(node: Node, graph: _Graph) -> Optional[Replacement]:
    x = _gated(node, graph)
    norm = graph.absorbed(x, readers=2) if x else None
    if norm is None or not graph.replaces_norm(norm, node):
        return None
    return _norm_with('vg_bn_swish', norm, graph)


def _swish(node: Node, graph: _Graph) -> Optional[Replacement]:
    x = _gated(node, graph)
    return Replacement('vg_swish', [x]) if x and len(node.shape) > 1 else None


# --------------------------------------------------------------------- BatchNorm, scale and mean


def _is_batch_norm(node: Node) -> bool:
    """A BatchNorm over channels that normalises with the batch's statistics."""
    return (
        node.op == 'BatchNorm'
        and len(node.shapes) == 1
        and node.attrs.get('axis', '1') == '1'
        and not flag(node, 'use_global_stats', False)
        and not flag(node, 'fix_gamma', True)  # MXNet's writes a one into gamma, against decay
    )


def _norm_with(op: str, norm: Node, graph: _Graph, slopes: tuple = ()) -> Replacement:
    """`op` does what `norm` did, and the activation behind it if it has one."""
    x, gamma, beta, mean, variance = norm.inputs
    options = {
        'eps': norm.attrs.get('eps', '1e-3'),
        'momentum': norm.attrs.get('momentum', '0.9'),
    }
    return Replacement(op, [x, gamma, beta, *slopes, (graph.mode, 0), mean, variance], options)


def _norm(node: Node, graph: _Graph) -> Optional[Replacement]:
    return _norm_with('vg_bn', node, graph) if graph.replaces_norm(node, node) else None


def _is_channel_scale(node: Node) -> bool:
    """x (N, C, H, W) times scale (N, C, 1, 1), in this order."""
    if node.op != 'broadcast_mul' or len(node.shape) != 4:
        return False
    (x, x_output), (scale, scale_output) = node.inputs
    return (
        x.shapes[x_output] == node.shape
        and scale.shapes[scale_output] == (*node.shape[:2], 1, 1)
        and scale.batched  # a parameter (1, C, 1, 1) looks the same at batch size 1
    )


def _channel_scale(node: Node, graph: _Graph) -> Optional[Replacement]:
    return Replacement('vg_scale', node.inputs) if _is_channel_scale(node) else None


def _is_global_mean(node: Node) -> bool:
    return (
        len(node.shape) == 4
        and flag(node, 'global_pool', False)
        and node.attrs.get('pool_type', 'max') == 'avg'
        and node.attrs.get('layout', 'None') in ('None', 'NCHW')
    )


def _global_mean(node: Node, graph: _Graph) -> Optional[Replacement]:
    return Replacement('vg_global_pool', node.inputs) if _is_global_mean(node) else None


def _composed_mean(node: Node, graph: _Graph) -> Optional[Replacement]:
    options = {'axis': '(2, 3)', 'keepdims': 'True'}
    return Replacement('mean', node.inputs, options) if _is_global_mean(node) else None


# ------------------------------------------------------------------------------- convolutions


class _Convolution(NamedTuple):
    """A 2-D convolution without dilation, its kernel, stride and padding the same both ways."""

    kernel: int
    stride: int
    pad: int
    groups: int
    channels: int  # of the input, in a group
    filters: int
    bias: bool

    @classmethod
    def of(cls, node: Node) -> 'Optional[_Convolution]':
        """None for another kind of node or convolution."""

        def pair(name: str, default: int) -> tuple:
            numbers = re.findall(r'\d+', node.attrs.get(name, ''))  # also (1L, 1L), of Python 2
            return tuple(map(int, numbers)) or (default, default)

        if node.op != 'Convolution' or len(node.shape) != 4:
            return None
        if node.attrs.get('layout', 'None') not in ('None', 'NCHW'):
            return None
        sizes = [pair('kernel', 0), pair('stride', 1), pair('pad', 0), pair('dilate', 1)]
        if any(height != width for height, width in sizes) or sizes[3] != (1, 1):
            return None
        return cls(
            *(size for size, _ in sizes[:3]),
            groups=int(node.attrs.get('num_group', 1)),
            channels=node.inputs[1][0].shape[1],
            filters=node.shape[1],
            bias=not flag(node, 'no_bias', False),
        )

    def is_pointwise(self) -> bool:
        return (self.kernel, self.stride, self.pad, self.groups) == (1, 1, 0, 1)

    def is_grouped(self) -> bool:
        """3x3 over a few channels a group."""
        few = 1 < self.channels <= MANY_CHANNELS
        return few and (self.kernel, self.pad) == (3, 1) and self.stride in (1, 2)

    def is_depthwise(self) -> bool:
        alone = self.channels == 1 and self.filters == self.groups and not self.bias
        fits = self.kernel in DEPTHWISE_KERNELS and self.pad <= self.kernel // 2
        return alone and fits and self.stride in (1, 2)


def _single_convolution(node: Node, graph: _Graph) -> Optional[Replacement]:
    """1x1, depthwise, and 3x3 over few channels a group; others are MXNet's own faster."""
    convolution = _Convolution.of(node)
    if convolution is None:
        return None
    if convolution.is_depthwise():
        return _depthwise(node.inputs, [convolution])
    if not (convolution.is_pointwise() or convolution.is_grouped()):
        return None
    options = {
        'num_filter': str(convolution.filters),
        'num_group': str(convolution.groups),
        'stride': str(convolution.stride),
        'no_bias': str(not convolution.bias),
    }
    if convolution.is_pointwise():
        return Replacement('vg_pointwise', node.inputs, options)
    options['input_gradient'] = str(graph.gradient_is_read(node.inputs[0]))
    return Replacement('vg_grouped', node.inputs, options)


def _depthwise(inputs: list, parts: list) -> Replacement:
    options = {
        'channels': _tuple(part.filters for part in parts),
        'kernel': _tuple(part.kernel for part in parts),
        'pad': _tuple(part.pad for part in parts),
        'stride': str(parts[0].stride),
    }
    return Replacement('vg_depthwise', inputs, options)


def _tuple(numbers) -> str:
    return str(tuple(numbers))


def _mixed_convolution(node: Node, graph: _Graph) -> Optional[Replacement]:
    """Slices of the channels, each through a convolution of its own, put together again."""
    joined = [graph.absorbed(entry) for entry in _joined(node, graph)]
    parts = [part and _Convolution.of(part) for part in joined]
    if not parts or None in parts or any(part.bias for part in parts):
        return None
    source = _sliced([part.inputs[0] for part in joined], graph)
    if source is None:
        return None
    inputs = [source, *(part.inputs[1] for part in joined)]
    if all(part.is_pointwise() for part in parts):
        options = {
            'channels': _tuple(part.channels for part in parts),
            'filters': _tuple(part.filters for part in parts),
        }
        return Replacement('vg_mixed_pointwise', inputs, options)
    if all(part.is_depthwise() and part.stride == parts[0].stride for part in parts):
        return _depthwise(inputs, parts)
    return None


def _joined(node: Node, graph: _Graph) -> list:
    """The entries whose channels the node has one after the other, [] if it is no such node.

    `symbol.blocks.concatenate` goes by five axes where MXNet's gradient of four is wrong.
    """
    axes = 4
    if node.op == 'Reshape' and node.attrs.get('shape') == '(0, 0, 0, -3)':
        node, axes = graph.absorbed(node.inputs[0]), 5
    if node is None or node.op != 'Concat' or node.attrs.get('dim', '1') != '1':
        return []
    if axes == 4:
        return node.inputs
    parts = [graph.absorbed(entry) for entry in node.inputs]
    widened = all(p and p.op == 'expand_dims' and p.attrs['axis'] == '4' for p in parts)
    return [part.inputs[0] for part in parts] if widened else []


def _sliced(entries: list, graph: _Graph) -> Optional[tuple]:
    """The entry that these are slices of, one channel after the other, from first to last."""
    nodes = [graph.absorbed(entry) for entry in entries]
    if not all(node and node.op == 'slice_axis' and node.attrs['axis'] == '1' for node in nodes):
        return None
    source = nodes[0].inputs[0]
    if any(node.inputs[0] != source for node in nodes):
        return None
    channels = source[0].shapes[source[1]][1]
    edges = [_edge(node, name, channels) for node in nodes for name in ('begin', 'end')]
    follows = all(end == begin for end, begin in zip(edges[1::2], edges[2::2]))
    return source if follows and (edges[0], edges[-1]) == (0, channels) else None


def _edge(node: Node, name: str, channels: int) -> int:
    """'begin' or 'end' of a slice; counted from behind where it is negative."""
    text = node.attrs[name]
    value = channels if text == 'None' else int(text)
    return value + channels if value < 0 else value


# -------------------------------------------------------------------------------------- rules

COMPILED = {
    'LeakyReLU': (
        _with_slopes(_prelu_of_sum),
        _with_slopes(_prelu_of_norm),
        _with_slopes(_prelu),
        _composed_prelu,
    ),
    'elemwise_mul': (_swish_of_norm, _swish),
    'BatchNorm': (_norm,),
    'broadcast_mul': (_channel_scale,),
    'Pooling': (_global_mean,),
    'Convolution': (_single_convolution,),
    'Concat': (_mixed_convolution,),
    'Reshape': (_mixed_convolution,),
}
STOCK = {'LeakyReLU': (_composed_prelu,), 'Pooling': (_composed_mean,)}
