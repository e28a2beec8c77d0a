"""BatchNorm with running statistics is a scale and a shift: folded into its neighbours.

A network for inference only. What cannot be folded exactly stays: a BatchNorm before a convolution
that pads (the padding is 0 after the BatchNorm and would need another value before it), and one
whose input others read as well.
"""

from collections import Counter

import numpy as np

from ..names import DATA
from .graph import Node, assemble, flag, parse, reached
from .network import Network
from .symbol_file import Symbol, symbol_of_graph

_SEEN_THROUGH = ('Flatten', 'flatten', '_copy', 'identity')  # keep the order of all values


def without_dropout(symbol: Symbol) -> Symbol:
    """The same symbol without its Dropout operators, which do nothing in inference."""
    if not any(layer.op == 'Dropout' for layer in symbol.layers):
        return symbol
    heads, attrs = _heads_without_dropout(symbol)
    return symbol_of_graph(assemble(heads, attrs))


def fold_batch_norms(network: Network) -> Network:
    """Fold BatchNorms into the convolutions and fully connected layers around them.

    Parameters
    ----------
    network : any, which stays as it is

    Returns
    -------
    Network, plain: the same function with running statistics, without Dropout. Layers keep their
    weights' names; a folded layer has the BatchNorm's name (so the output is `fc1_output` still)
    and a bias.
    The sums are made in float64 and rounded once.
    """
    symbol, *_ = network = network.plain()
    values = {name: value.astype(np.float64) for name, value in network.params.items()}
    heads, attrs = _heads_without_dropout(symbol)
    for op, fold in (('BatchNorm', _fold_back), ('FullyConnected', _fold_forward)):
        nodes = reached(heads)
        uses = Counter(entry for node in nodes for entry in node.inputs)
        uses.update(heads)
        for node in nodes:
            if node.op == op:
                fold(node, uses, values)
    folded = symbol_of_graph(assemble(heads, attrs))

    def used(names: list) -> dict:
        return {name: values[name].astype(np.float32) for name in names}

    arguments = [name for name in folded.list_arguments() if name != DATA]
    return Network(folded, used(arguments), used(folded.list_auxiliary_states()))


def scale_and_shift(node: Node, values: dict) -> tuple[np.ndarray, np.ndarray]:
    """A BatchNorm in inference as (scale, shift), (C,) float64 each: y = scale * x + shift."""
    gamma, beta, mean, variance = (values[source.name] for source, _ in node.inputs[1:])
    scale = 1 / np.sqrt(variance + float(node.attrs.get('eps', 1e-3)))
    if not flag(node, 'fix_gamma', True):
        scale = scale * gamma
    return scale, beta - scale * mean


def _heads_without_dropout(symbol: Symbol) -> tuple[list, dict]:
    """(heads, attributes) of the nodes of a symbol, as from `parse`, that has no Dropout."""
    nodes, heads, attrs = parse(symbol.graph(), symbol.infer_shapes(), {DATA})
    for node in nodes:
        node.inputs = [_behind_dropout(entry) for entry in node.inputs]
    return [_behind_dropout(entry) for entry in heads], attrs


def _behind_dropout(entry: tuple) -> tuple:
    while entry[0].op == 'Dropout':
        entry = entry[0].inputs[0]
    return entry


def _fold_into_parts(norm: Node, uses: Counter, values: dict) -> None:
    """Fold BatchNorm(joined convolutions) into each of them; the join gets the BatchNorm's name.

    The join is a Concat of channels, or that of `symbol.blocks.concatenate` with five axes.
    """
    join, inside = norm.inputs[0][0], [norm.inputs[0]]
    concat = join
    if join.op == 'Reshape' and join.attrs.get('shape') == '(0, 0, 0, -3)':
        concat = join.inputs[0][0]
        inside.append(join.inputs[0])
    if concat.op != 'Concat' or concat.attrs.get('dim', '1') != '1':
        return
    parts = list(concat.inputs)
    if concat is not join:
        if any(part.op != 'expand_dims' or part.attrs['axis'] != '4' for part, _ in parts):
            return
        inside += parts
        parts = [part.inputs[0] for part, _ in parts]
    inside += parts
    weights = [layer.inputs[1] for layer, _ in parts if layer.op == 'Convolution']
    if len(weights) != len(parts) or any(uses[entry] != 1 for entry in (*inside, *weights)):
        return
    if not all(flag(layer, 'no_bias', False) for layer, _ in parts):
        return
    scale, shift = scale_and_shift(norm, values)
    begin = 0
    for (layer, _), (weight, _) in zip(parts, weights):
        own = slice(begin, begin + len(values[weight.name]))
        values[weight.name] = values[weight.name] * scale[own, None, None, None]
        bias = _bias(layer, values, own.stop - own.start)
        values[bias.name] = shift[own]
        layer.become(
            'Convolution', [*layer.inputs[:2], (bias, 0)], **{**layer.attrs, 'no_bias': 'False'}
        )
        begin = own.stop
    norm.become(join.op, join.inputs, **join.attrs)


def _fold_back(norm: Node, uses: Counter, values: dict) -> None:
    """Turn BatchNorm(layer(x)) into the layer, under the BatchNorm's name."""
    layer = norm.inputs[0][0]
    if layer.op in ('Concat', 'Reshape') and norm.attrs.get('axis', '1') == '1':
        _fold_into_parts(norm, uses, values)
        return
    if layer.op not in ('Convolution', 'FullyConnected') or norm.attrs.get('axis', '1') != '1':
        return
    parameters = [source for source, _ in layer.inputs[1:]]
    if not flag(layer, 'flatten', True):
        return
    if uses[norm.inputs[0]] != 1 or any(uses[source, 0] != 1 for source in parameters):
        return
    scale, shift = scale_and_shift(norm, values)
    weight = parameters[0].name
    values[weight] = values[weight] * scale.reshape(-1, *[1] * (values[weight].ndim - 1))
    bias = _bias(layer, values, len(scale))
    values[bias.name] = scale * values[bias.name] + shift
    attrs = {**layer.attrs, 'no_bias': 'False'}
    norm.become(layer.op, [*layer.inputs[:2], (bias, 0)], **attrs)


def _fold_forward(layer: Node, uses: Counter, values: dict) -> None:
    """Take a BatchNorm before a fully connected layer into the layer."""
    reader, entry = layer, layer.inputs[0]
    while entry[0].op in _SEEN_THROUGH and uses[entry] == 1:
        reader, entry = entry[0], entry[0].inputs[0]
    norm = entry[0]
    parameters = [source for source, _ in layer.inputs[1:]]
    if norm.op != 'BatchNorm' or norm.attrs.get('axis', '1') != '1' or uses[entry] != 1:
        return
    if any(uses[source, 0] != 1 for source in parameters) or not flag(layer, 'flatten', True):
        return
    scale, shift = scale_and_shift(norm, values)
    weight = parameters[0].name
    by_channel = values[weight].reshape(len(values[weight]), len(scale), -1)
    bias = _bias(layer, values, len(by_channel))
    values[bias.name] = values[bias.name] + np.einsum('ock,c->o', by_channel, shift)
    values[weight] = (by_channel * scale[:, None]).reshape(values[weight].shape)
    layer.inputs = [*layer.inputs[:2], (bias, 0)]
    layer.attrs = {**layer.attrs, 'no_bias': 'False'}
    reader.inputs[0] = norm.inputs[0]


def _bias(layer: Node, values: dict, channels: int) -> Node:
    """The layer's bias; a new one of zeros if it has none."""
    if not flag(layer, 'no_bias', False):
        return layer.inputs[2][0]
    name = layer.inputs[1][0].name.removesuffix('_weight') + '_bias'
    values[name] = np.zeros(channels)
    return Node('null', name)
