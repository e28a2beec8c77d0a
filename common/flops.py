"""FLOPs and parameters of a symbol, as the organisers of the LFR challenge count them.

Only convolutions and fully connected layers count, a multiplication and an addition each as one.
"""

import json
import math
from dataclasses import dataclass

from . import names
from .errors import InputError

_INPUTS = (names.DATA, names.LABEL, names.TEACHER)


@dataclass(frozen=True)
class Layer:
    """One operator of a symbol; `output_shape` is for a batch of one."""

    name: str
    operator: str
    output_shape: tuple[int, ...]
    params: int
    flops: int


@dataclass(frozen=True)
class Count:
    """Totals of a symbol; `params` leaves out the running statistics of batch norms."""

    flops: int
    params: int


def _operator_flops(
    node: dict, weight_shape: tuple[int, ...], output_shape: tuple[int, ...]
) -> int:
    """FLOPs of one Convolution or FullyConnected node.

    A sum of n products is 2n - 1 operations, 2n with a bias. The organisers divide a grouped
    convolution's count of the full input channels, -1 included, by the groups; so does this.
    """
    attributes = node['attrs']
    no_bias = attributes.get('no_bias', 'False') in ('True', '1')
    if node['op'] == 'FullyConnected':
        out_features, in_features = weight_shape
        positions = math.prod(output_shape[1:-1])  # more than one only with flatten=False
        return positions * out_features * (2 * in_features - no_bias)
    groups = int(attributes.get('num_group', 1))
    inputs = math.prod(weight_shape[1:]) * groups
    return (2 * inputs - no_bias) * math.prod(output_shape[1:]) // groups


def _shapes(symbol, image_shape: tuple[int, ...]) -> tuple[dict, dict]:
    """Shapes of the symbol's arguments and of all operators' outputs, each by name."""
    if names.DATA not in symbol.list_arguments():
        raise InputError(f'the symbol has no input {names.DATA!r}, so its shapes are unknown')
    data = {names.DATA: (1, *image_shape)}
    internals = symbol.get_internals()
    arguments, outputs, _ = internals.infer_shape_partial(**data)
    by_argument = dict(zip(internals.list_arguments(), arguments))
    unknown = [
        name for name, shape in by_argument.items() if not shape or 0 in shape or -1 in shape
    ]
    if unknown:
        raise InputError(
            f'images of shape {tuple(image_shape)} leave the shape of {unknown[0]!r} open; '
            "count the embedding symbol (output 'fc1_output')"
        )
    return by_argument, dict(zip(internals.list_outputs(), outputs))


def layers(symbol, image_shape: tuple[int, ...] = names.IMAGE_SHAPE) -> list[Layer]:
    """Every operator of a symbol in order of execution.

    Parameters
    ----------
    symbol : mx.sym.Symbol with the input `data`
    image_shape : (C, H, W) of one image

    Returns
    -------
    list of Layer. A parameter that two operators share counts at the first.

    Raises
    ------
    InputError if the images do not fit the symbol or leave a shape unknown.
    """
    arguments, outputs = _shapes(symbol, image_shape)
    parameters = {name: shape for name, shape in arguments.items() if name not in _INPUTS}
    nodes = json.loads(symbol.tojson())['nodes']
    rows, seen = [], set()
    for node in nodes:
        if node['op'] == 'null':
            continue
        inputs = [nodes[index]['name'] for index, *_ in node['inputs']]
        own = [name for name in dict.fromkeys(inputs) if name in parameters and name not in seen]
        seen.update(own)
        name = node['name']
        output = outputs.get(f'{name}_output') or outputs[f'{name}_output0']
        counts = node['op'] in ('Convolution', 'FullyConnected')
        rows.append(
            Layer(
                name=name,
                operator=node['op'],
                output_shape=tuple(output),
                params=sum(math.prod(parameters[parameter]) for parameter in own),
                flops=_operator_flops(node, arguments[inputs[1]], output) if counts else 0,
            )
        )
    return rows


def count(symbol, image_shape: tuple[int, ...] = names.IMAGE_SHAPE) -> Count:
    """FLOPs of one image and parameters; arguments and errors as for `layers`."""
    rows = layers(symbol, image_shape)
    return Count(flops=sum(row.flops for row in rows), params=sum(row.params for row in rows))
