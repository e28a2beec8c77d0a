"""FLOPs and parameters of a symbol, by two conventions.

`flops` is the count of the LFR challenge's organisers: only convolutions and fully connected layers
count, a multiplication and an addition each as one. `flops_all` is the count of MixFaceNet's
authors (arXiv:2107.13046, reproduced to the unit from their published figures): twice the products
of convolutions and fully connected layers, 1 a bias added, 2 a value that a batch norm reads, 1 a
value that an activation or a pooling reads; sums and products of maps cost nothing.
"""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from . import names
from .errors import InputError

Symbol = Any  # mx.sym.Symbol or engine.symbol_file.Symbol; what they can do is all that is needed

_INPUTS = (names.DATA, names.LABEL, names.TEACHER)


@dataclass(frozen=True)
class Layer:
    """One operator of a symbol; `output_shape` is for a batch of one."""

    name: str
    operator: str
    output_shape: tuple[int, ...]
    params: int
    flops: int
    flops_all: int


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


# operations a value that the operator reads, in `flops_all`
_PER_INPUT = {'Activation': 1, 'BatchNorm': 2, 'LeakyReLU': 1, 'Pooling': 1}


def _all_flops(node: dict, shapes: list[tuple[int, ...]], output_shape: tuple[int, ...]) -> int:
    """`flops_all` of one node; `shapes` are those of its inputs."""
    if node['op'] in _PER_INPUT:
        return _PER_INPUT[node['op']] * math.prod(shapes[0])
    if node['op'] not in ('Convolution', 'FullyConnected'):
        return 0
    products = math.prod(shapes[1][1:]) * math.prod(output_shape)
    no_bias = node['attrs'].get('no_bias', 'False') in ('True', '1')
    return 2 * products + (0 if no_bias else math.prod(output_shape))


def _shapes(symbol: Symbol, image_shape: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    """Shapes of variables by name and of operators' outputs by the name of the output."""
    if names.DATA not in symbol.list_arguments():
        raise InputError(f'the symbol has no input {names.DATA!r}, so its shapes are unknown')
    if hasattr(symbol, 'output_shapes'):
        return symbol.output_shapes(image_shape)
    internals = symbol.get_internals()
    try:
        _, outputs, _ = internals.infer_shape_partial(**{names.DATA: (1, *image_shape)})
    except RuntimeError as error:
        reason = str(error).splitlines()[0]  # a stack trace of MXNet's may follow
        raise InputError(
            f'images of shape {tuple(image_shape)} do not fit the symbol: {reason}'
        ) from None
    shapes = dict(zip(internals.list_outputs(), outputs))
    for name, shape in shapes.items():
        if not shape or min(shape) < 1:  # 0 or -1 stands for unknown
            raise InputError(
                f'images of shape {tuple(image_shape)} leave the shape of {name!r} open; '
                f'count the embedding symbol (output {names.EMBEDDING_OUTPUT!r})'
            )
    return shapes


def _shape(node: dict, shapes: dict[str, tuple[int, ...]]) -> tuple[int, ...]:
    """Shape of a variable or of an operator's first output."""
    name = node['name']
    if node['op'] == 'null':
        return shapes[name]
    return shapes.get(f'{name}_output') or shapes[f'{name}_output0']


def layers(symbol: Symbol, image_shape: tuple[int, ...] = names.IMAGE_SHAPE) -> list[Layer]:
    """Every operator of a symbol in order of execution.

    Parameters
    ----------
    symbol : with the input `data`
    image_shape : (C, H, W) of one image

    Returns
    -------
    list of Layer. A parameter that two operators share counts at the first.

    Raises
    ------
    InputError if the images do not fit the symbol or leave a shape unknown.
    """
    shapes = _shapes(symbol, image_shape)
    parameters = set(symbol.list_arguments()).difference(_INPUTS)
    nodes = json.loads(symbol.tojson())['nodes']
    rows = []
    for node in nodes:
        if node['op'] == 'null':
            continue
        inputs = [nodes[index] for index, *_ in node['inputs']]
        own = parameters.intersection(source['name'] for source in inputs)
        parameters -= own
        output_shape = _shape(node, shapes)
        input_shapes = [_shape(source, shapes) for source in inputs]
        flops = 0
        if node['op'] in ('Convolution', 'FullyConnected'):
            flops = _operator_flops(node, input_shapes[1], output_shape)
        flops_all = _all_flops(node, input_shapes, output_shape)
        params = sum(math.prod(shapes[name]) for name in own)
        rows.append(Layer(node['name'], node['op'], output_shape, params, flops, flops_all))
    return rows


def total(rows: Iterable[Layer]) -> Count:
    """Sums over the layers of one symbol."""
    rows = list(rows)
    return Count(flops=sum(row.flops for row in rows), params=sum(row.params for row in rows))


def count(symbol: Symbol, image_shape: tuple[int, ...] = names.IMAGE_SHAPE) -> Count:
    """FLOPs of one image and parameters; arguments and errors as for `layers`."""
    return total(layers(symbol, image_shape))
