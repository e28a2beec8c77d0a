"""The graph pass behind `accelerate`: patterns of stock operators become ours, names stay.

A symbol's argument order is the order in which its operators' inputs are walked, so every
replacement takes its inputs in the order of what it replaces.
"""

import re
from collections import Counter
from typing import Optional

from ...names import DATA, LABEL, TEACHER
from ..graph import Node, assemble, flag, parse, reached

ADDITIONS = ('elemwise_add', '_plus', '_Plus', '_add', 'broadcast_add', 'broadcast_plus')
MODE = 'vg_mode'  # name of the node that tells a fused BatchNorm whether the network trains
DIFFERENTIABLE = 4  # no operator has more inputs with a gradient; then come mode and statistics
MANY_CHANNELS = 16  # of a group, from here on oneDNN's 3x3 convolution is the faster one
MANY_READERS = 8  # from here on MXNet adds up gradients in place (MXNET_EXEC_INPLACE_GRAD_SUM_CAP)


def rewrite(symbol, shapes: dict, compiled: bool, norms: bool = True, accumulate: bool = True):
    """See `accelerate`; `compiled` says whether our operators are loaded, `norms` whether
    BatchNorms are replaced as well."""
    fixed = {DATA, LABEL, TEACHER, *shapes}
    nodes, heads, attrs = parse(symbol, shapes, fixed)
    uses = Counter(entry for node in nodes for entry in node.inputs)
    uses.update(heads)
    mode = next((node for node in nodes if node.name == MODE), None) or _mode()
    for node in nodes:
        if node.op == 'null' and node.name not in fixed:
            # Operators from a library get buffers of a wrong size for parameters without it.
            node.attrs['__shape__'] = str(node.shape)
        elif _is_prelu(node):
            if not compiled or not _has_channel_slopes(node):
                _compose_prelu(node)
            elif not _fuse_sum(node, uses) and not (
                norms and (node, 0) not in heads and _fuse_norm(node, uses, mode)
            ):
                node.become('vg_prelu', node.inputs)
    for node in nodes:
        if compiled and _is_channel_scale((node, 0)):
            node.become('vg_scale', node.inputs)
        elif _is_global_mean(node) and compiled:
            node.become('vg_global_pool', node.inputs)
        elif _is_global_mean(node):
            node.become('mean', node.inputs, axis='(2, 3)', keepdims='True')
        elif compiled and node.op == 'Convolution':
            _replace_convolution(node)
        elif compiled and norms and _is_batch_norm(node) and (node, 0) not in heads:
            _replace_norm(node, node, mode)
    if compiled:
        _buffer_gradients(heads, accumulate)
    return assemble(heads, attrs)


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
        for position, entry in enumerate(node.inputs[:DIFFERENTIABLE]):
            variable = entry[0].op == 'null'
            if (variable and accumulate) or uses[entry] >= MANY_READERS:
                name = f'{node.name}_input{position}'
                # Without an attribute that differs MXNet merges equal copies into one again.
                node.inputs[position] = (Node('_copy', name, {'__reader__': name}, [entry]), 0)


def _is_prelu(node: Node) -> bool:
    return node.op == 'LeakyReLU' and node.attrs.get('act_type') == 'prelu'


def _has_channel_slopes(node: Node) -> bool:
    """MXNet also takes one slope for all channels, which our operators do not."""
    return node.inputs[1][0].shape == node.shape[1:2]


def _only_use(entry: tuple, uses: Counter) -> Optional[Node]:
    """The node behind an entry if nothing else reads it and it may be absorbed."""
    return entry[0] if entry[1] == 0 and uses[entry] == 1 else None


def _is_channel_scale(entry: tuple) -> bool:
    """x (N, C, H, W) times scale (N, C, 1, 1), in this order."""
    node = entry[0]
    if node.op != 'broadcast_mul' or len(node.shape) != 4:
        return False
    (x, x_output), (scale, scale_output) = node.inputs
    return (
        x.shapes[x_output] == node.shape
        and scale.shapes[scale_output] == (*node.shape[:2], 1, 1)
        and scale.batched  # a parameter (1, C, 1, 1) looks the same at batch size 1
    )


def _is_global_mean(node: Node) -> bool:
    return (
        node.op == 'Pooling'
        and len(node.shape) == 4
        and flag(node, 'global_pool', False)
        and node.attrs.get('pool_type', 'max') == 'avg'
        and node.attrs.get('layout', 'None') in ('None', 'NCHW')
    )


def _fuse_sum(node: Node, uses: Counter) -> bool:
    """PReLU of a sum: absorbs the addition, and the SE scale of its first term."""
    addition = _only_use(node.inputs[0], uses)
    if addition is None or addition.op not in ADDITIONS:
        return False
    if any(not n.batched or n.shapes[output] != node.shape for n, output in addition.inputs):
        return False
    first, shortcut = addition.inputs
    slope = node.inputs[1]
    if _only_use(first, uses) and _is_channel_scale(first):
        node.become('vg_scale_add_prelu', [*first[0].inputs, shortcut, slope])
    else:
        node.become('vg_add_prelu', [first, shortcut, slope])
    return True


def _is_batch_norm(node: Node) -> bool:
    """A BatchNorm over channels that normalises with the batch's statistics."""
    return (
        node.op == 'BatchNorm'
        and len(node.shapes) == 1
        and node.attrs.get('axis', '1') == '1'
        and not flag(node, 'use_global_stats', False)
        and not flag(node, 'fix_gamma', True)  # MXNet's writes a one into gamma, against decay
    )


def _fuse_norm(node: Node, uses: Counter, mode: Node) -> bool:
    """PReLU of a BatchNorm."""
    norm = _only_use(node.inputs[0], uses)
    if norm is None or not _is_batch_norm(norm):
        return False
    _replace_norm(node, norm, mode)
    return True


def _replace_norm(node: Node, norm: Node, mode: Node) -> None:
    """`node`, which is `norm` itself or its PReLU, does what both did."""
    x, gamma, beta, mean, variance = norm.inputs
    prelu = node is not norm
    node.become(
        'vg_bn_prelu' if prelu else 'vg_bn',
        [x, gamma, beta, *([node.inputs[1]] if prelu else []), (mode, 0), mean, variance],
        eps=norm.attrs.get('eps', '1e-3'),
        momentum=norm.attrs.get('momentum', '0.9'),
    )


def _replace_convolution(node: Node) -> None:
    """1x1 convolutions, and 3x3 over few channels a group; others are MXNet's own faster."""

    def pair(name: str, default: int) -> tuple:
        numbers = re.findall(r'\d+', node.attrs.get(name, ''))  # also (1L, 1L), of Python 2
        return tuple(map(int, numbers)) or (default, default)

    kernel, stride, pad = pair('kernel', 0), pair('stride', 1), pair('pad', 0)
    if len(node.shape) != 4 or pair('dilate', 1) != (1, 1):
        return
    if node.attrs.get('layout', 'None') not in ('None', 'NCHW'):
        return
    groups, filters = int(node.attrs.get('num_group', 1)), node.shape[1]
    in_channels = node.inputs[1][0].shape[1]  # of a group
    if kernel == (1, 1) and stride == (1, 1) and pad == (0, 0) and groups == 1:
        op = 'vg_pointwise'
    elif (
        kernel == (3, 3)
        and stride in ((1, 1), (2, 2))
        and pad == (1, 1)
        and 1 < in_channels <= MANY_CHANNELS
    ):
        op = 'vg_grouped'
    else:
        return
    node.become(
        op,
        node.inputs,
        num_filter=str(filters),
        num_group=str(groups),
        stride=str(stride[0]),
        no_bias=str(flag(node, 'no_bias', False)),
    )


def _mode() -> Node:
    """An array of one number: 1 in inference, 0 or 2 in training."""
    one = Node('_ones', f'{MODE}_one', {'shape': '(1,)', 'dtype': 'float32'})
    dropout = Node('Dropout', f'{MODE}_dropout', {'p': '0.5'}, [(one, 0)])
    return Node('BlockGrad', MODE, {}, [(dropout, 0)])


def _compose_prelu(node: Node) -> None:
    """slope * x + (1 - slope) * relu(x): the same values, with gradients that are right in place.

    The products are depthwise 1x1 convolutions, several times faster than broadcast products.
    """
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
    node.become('elemwise_add', [product('line', x, weight), product('bend', positive, rest)])
