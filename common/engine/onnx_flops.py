"""FLOPs and parameters of an ONNX graph, by the rule of `common/flops`."""

import math
from pathlib import Path

from ..errors import InputError
from ..extras import need
from ..flops import Count
from ..names import IMAGE_SIZE
from .contract import EXTRA, load_graph

_LAYERS = ('Conv', 'Gemm', 'MatMul')
# operator -> the first of its inputs that is no parameter: running statistics, constants
_NO_PARAMS = {
    'BatchNormalization': 3,
    'Sub': 0,
    'Mul': 0,
    'Div': 0,
    'Max': 0,
    'Clip': 0,
    'QuantizeLinear': 1,
    'DequantizeLinear': 1,
}


def count_onnx(path: Path) -> Count:
    """FLOPs of one image, and parameters: arrays of weights, without running statistics.

    A BatchNorm that was folded into a layer gives it a bias, so that an export counts a little more
    than the symbol it comes from: one operation for each value that had none.

    Raises
    ------
    InputError if the shape of a layer's output does not follow from a 112x112 picture.
    """
    onnx = need('onnx', EXTRA)
    model = load_graph(path)
    weights = {tensor.name: tuple(tensor.dims) for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == 'DequantizeLinear' and node.input[0] in weights:
            weights[node.output[0]] = weights[node.input[0]]  # int8: the layer reads this
    for value in model.graph.input:
        if value.name not in weights:
            _fix_sizes(value)
    graph = onnx.shape_inference.infer_shapes(model).graph
    shapes = {
        value.name: tuple(length.dim_value for length in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    total = sum(
        _layer_flops(node, weights, shapes) for node in graph.node if node.op_type in _LAYERS
    )
    kinds = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8)
    no_params = {
        name
        for node in graph.node
        if node.op_type in _NO_PARAMS
        for name in node.input[_NO_PARAMS[node.op_type] :]
    }
    params = sum(
        math.prod(tensor.dims)
        for tensor in graph.initializer
        if tensor.data_type in kinds and tensor.name not in no_params
    )
    return Count(flops=total, params=params)


def _fix_sizes(value) -> None:
    """A batch of one, and sides that are open are those of a crop."""
    lengths = value.type.tensor_type.shape.dim
    lengths[0].dim_value = 1
    for length in lengths[1:]:
        if length.WhichOneof('value') != 'dim_value':
            length.dim_value = IMAGE_SIZE


def _layer_flops(node, weights: dict, shapes: dict) -> int:
    output = shapes.get(node.output[0], ())
    weight = weights.get(node.input[1], ())
    if not weight:
        return 0  # a product of two activations
    if not output or not all(output[1:]):
        raise InputError(f'the shape of {node.output[0]!r} does not follow from a crop')
    has_bias = len(node.input) > 2
    if node.op_type != 'Conv':
        inputs = weight[-2] if node.op_type == 'MatMul' or not _transposed(node) else weight[1]
        return math.prod(output[1:]) * (2 * inputs - (not has_bias))
    groups = next((item.i for item in node.attribute if item.name == 'group'), 1)
    inputs = math.prod(weight[1:]) * groups
    return (2 * inputs - (not has_bias)) * math.prod(output[1:]) // groups


def _transposed(node) -> bool:
    return any(item.name == 'transB' and item.i for item in node.attribute)
