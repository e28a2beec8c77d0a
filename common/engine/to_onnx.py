"""MXNet symbols as ONNX models, operator by operator (opset 13).

MXNet's own exporter gives files that no run time loads for networks of this family: PReLU slopes
must have the shape (C, 1, 1), a fully connected layer flattens from axis 1 on, and parameters
belong to the initialisers alone, not to the inputs.
"""

import ast
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Optional

import numpy as np

from ..errors import InputError
from ..extras import need
from ..names import DATA, IMAGE_SHAPE
from ..registry import Registry
from .contract import OUTPUT
from .fold import fold_batch_norms
from .graph import Node, flag, parse, reached
from .network import Network

onnx = need('onnx', 'deploy')

OPSET = 13
IR_VERSION = 8  # what was current with opset 13 to 17; old run times refuse a newer one
_SMALLEST_NORM = 1e-12  # a zero embedding stays zero
_PROBE = 2  # batch size at which a dimension that is the batch can be told from one that is 1

# operator -> function(writer, node, inputs) -> names of its outputs
_Operator = Callable[['_Writer', Node, list[str]], list[str]]
OPERATORS: Registry[_Operator] = Registry('operator')

# operator -> function(node, *values of its inputs), where no input depends on the images
CONSTANTS: dict[str, Callable[..., np.ndarray]] = {}


@dataclass
class _Writer:
    """The ONNX graph while it is written."""

    dtype: np.dtype
    arrays: dict  # parameter name -> NumPy array
    nodes: list = field(default_factory=list)
    initializers: dict = field(default_factory=dict)

    def add(self, op: str, name: str, inputs: list[str], outputs: int = 1, **attrs) -> list[str]:
        """Append a node `name`; returns the names of its outputs."""
        names = [name] if outputs == 1 else [f'{name}_{index}' for index in range(outputs)]
        self.nodes.append(onnx.helper.make_node(op, inputs, names, name=name, **attrs))
        return names

    def constant(self, name: str, value: np.ndarray) -> str:
        """Store an array as initialiser; floats get the model's precision."""
        value = np.asarray(value)
        if value.dtype.kind == 'f':
            value = value.astype(self.dtype)
        self.initializers[name] = onnx.numpy_helper.from_array(np.ascontiguousarray(value), name)
        return name

    def parameter(self, entry: tuple, shape: Optional[tuple] = None) -> str:
        """A parameter of the network as initialiser, reshaped if `shape` is given."""
        name = entry[0].name
        value = self.arrays[name]
        return self.constant(name, value if shape is None else value.reshape(shape))


def to_onnx(
    network: Network,
    input_type: str = 'float32',
    l2_normalize: bool = False,
    dtype: type = np.float32,
) -> 'onnx.ModelProto':
    """Convert a network for inference.

    Parameters
    ----------
    network : plain or MXNet's
    input_type : of `data`, 'float32' or 'uint8'; RGB 0..255 either way
    l2_normalize : divide every embedding by its length
    dtype : of the arithmetic and the weights, np.float32 or np.float16; the output is float32

    Returns
    -------
    ONNX model with the input `data` (N, 3, 112, 112) and the output `embedding` (N, D), N dynamic.

    Raises
    ------
    InputError for an operator that is not known here, naming the layer.
    """
    symbol, *_ = network = network.plain()
    nodes, heads, _ = parse(symbol.graph(), symbol.infer_shapes(_PROBE), {DATA})
    nodes = _with_plain_concatenations(nodes, heads)
    arrays = network.params
    writer = _Writer(np.dtype(dtype), arrays)
    element = onnx.helper.np_dtype_to_tensor_dtype(writer.dtype)
    values = {}  # (node, output index) -> name in the ONNX graph
    for node in nodes:
        if node.name == DATA:
            cast = input_type != writer.dtype.name
            first = writer.add('Cast', 'data_cast', [DATA], to=element)[0] if cast else DATA
            values[node, 0] = first
        elif node.op != 'null' and not node.batched:
            # what uses it takes it for a parameter
            arrays[node.name] = _constant_value(node, arrays)
        elif node.op != 'null':
            names = _convert(writer, node, values)
            values.update({(node, index): name for index, name in enumerate(names)})
    name = values[heads[0]]
    if l2_normalize:
        name = _unit_length(writer, name)
    _name_output(writer, name)
    return _model(writer, heads[0][0].shape[1], input_type)


def inference_model(network: Network, **options) -> 'onnx.ModelProto':
    """`to_onnx` of the network with its BatchNorms folded: what all run times get."""
    return to_onnx(fold_batch_norms(network), **options)


def _with_plain_concatenations(nodes: list[Node], heads: list) -> list[Node]:
    """Maps that `symbol.blocks.concatenate` joins as arrays of five axes are joined as they are:
    what it avoids is a fault of MXNet's.
    """
    readers = Counter(entry for node in nodes for entry in node.inputs)
    for node in nodes:
        if node.op != 'Reshape' or node.attrs.get('shape') != '(0, 0, 0, -3)':
            continue
        (joined, _), *_ = node.inputs
        parts = [part for part, _ in joined.inputs]
        if (
            joined.op == 'Concat'
            and readers[joined, 0] == 1
            and all(part.op == 'expand_dims' and part.attrs['axis'] == '4' for part in parts)
        ):
            node.become('Concat', [part.inputs[0] for part in parts], dim='1')
    return reached(heads)


def _convert(writer: _Writer, node: Node, values: dict) -> list[str]:
    if node.op not in OPERATORS.names():
        raise InputError(
            f'layer {node.name!r} is a {node.op}, which has no ONNX form here; known: '
            f'{", ".join(OPERATORS.names())}'
        )
    # parameters are initialisers of a form that the operator decides, '' until then
    inputs = [values.get(entry, '') for entry in node.inputs]
    return OPERATORS.get(node.op)(writer, node, inputs)


def _constant_value(node: Node, arrays: dict) -> np.ndarray:
    """The value of an operator that does not depend on the images, float32 as in MXNet."""
    if node.op not in CONSTANTS:
        raise _unsupported(node, 'no input that depends on the images')
    return CONSTANTS[node.op](node, *(arrays[source.name] for source, _ in node.inputs))


def _unit_length(writer: _Writer, name: str) -> str:
    # squares of a long embedding do not fit into float16
    if writer.dtype == np.float16:
        name = writer.add('Cast', 'unit_cast', [name], to=onnx.TensorProto.FLOAT)[0]
    smallest = writer.initializers['unit_smallest'] = onnx.numpy_helper.from_array(
        np.float32(_SMALLEST_NORM), 'unit_smallest'
    )
    length = writer.add('ReduceL2', 'unit_length', [name], axes=[1], keepdims=1)
    length = writer.add('Max', 'unit_divisor', [*length, smallest.name])
    return writer.add('Div', 'unit', [name, *length])[0]


def _name_output(writer: _Writer, name: str) -> None:
    """Give the last value the name of the output, as float32."""
    producer = next(node for node in writer.nodes if name in node.output)
    if writer.dtype == np.float16 and producer.name != 'unit':
        writer.add('Cast', OUTPUT, [name], to=onnx.TensorProto.FLOAT)
        return
    for node in writer.nodes:
        for values in (node.input, node.output):
            values[:] = [OUTPUT if value == name else value for value in values]


def _model(writer: _Writer, size: int, input_type: str) -> 'onnx.ModelProto':
    helper = onnx.helper
    element = helper.np_dtype_to_tensor_dtype(np.dtype(input_type))
    graph = helper.make_graph(
        writer.nodes,
        'vargfacenet',
        [helper.make_tensor_value_info(DATA, element, ['N', *IMAGE_SHAPE])],
        [helper.make_tensor_value_info(OUTPUT, onnx.TensorProto.FLOAT, ['N', size])],
        initializer=list(writer.initializers.values()),
    )
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid('', OPSET)], producer_name='vargfacenet'
    )
    model.ir_version = IR_VERSION
    return model


# --- operators; `node.shapes` and the inputs' shapes are those at batch size _PROBE


def _tuple(node: Node, name: str, default: str = '()') -> tuple:
    value = ast.literal_eval(node.attrs.get(name, default))
    return tuple(value) if isinstance(value, (tuple, list)) else (value,)


def _rank(node: Node, position: int = 0) -> int:
    source, output = node.inputs[position]
    return len(source.shapes[output])


def _unsupported(node: Node, what: str) -> InputError:
    return InputError(f'layer {node.name!r} ({node.op}) has {what}, which has no ONNX form here')


@OPERATORS.register('Convolution')
def _convolution(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    if node.attrs.get('layout', 'None') not in ('None', 'NCHW'):
        raise _unsupported(node, f'layout {node.attrs["layout"]}')
    kernel = _tuple(node, 'kernel')
    ones, zeros = str((1,) * len(kernel)), str((0,) * len(kernel))
    parameters = node.inputs[1:2] if flag(node, 'no_bias', False) else node.inputs[1:3]
    return writer.add(
        'Conv',
        node.name,
        [inputs[0], *(writer.parameter(entry) for entry in parameters)],
        kernel_shape=kernel,
        strides=_tuple(node, 'stride', ones) or (1,) * len(kernel),
        dilations=_tuple(node, 'dilate', ones) or (1,) * len(kernel),
        pads=2 * (_tuple(node, 'pad', zeros) or (0,) * len(kernel)),
        group=int(node.attrs.get('num_group', 1)),
    )


@OPERATORS.register('FullyConnected')
def _fully_connected(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    if not flag(node, 'flatten', True) and _rank(node) != 2:
        raise _unsupported(node, 'flatten=False')
    data = inputs[0]
    if _rank(node) != 2:
        data = writer.add('Flatten', f'{node.name}_flatten', [data], axis=1)[0]
    parameters = node.inputs[1:2] if flag(node, 'no_bias', False) else node.inputs[1:3]
    parameters = [writer.parameter(entry) for entry in parameters]
    return writer.add('Gemm', node.name, [data, *parameters], transB=1)


@OPERATORS.register('BatchNorm')
def _batch_norm(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    if node.attrs.get('axis', '1') != '1':
        raise _unsupported(node, f'axis {node.attrs["axis"]}')
    gamma, *others = node.inputs[1:]
    names = [writer.parameter(entry) for entry in others]
    if flag(node, 'fix_gamma', True):
        scale = writer.constant(gamma[0].name, np.ones(gamma[0].shape, np.float32))
    else:
        scale = writer.parameter(gamma)
    return writer.add(
        'BatchNormalization',
        node.name,
        [inputs[0], scale, *names],
        epsilon=float(node.attrs.get('eps', 1e-3)),
    )


@OPERATORS.register('LeakyReLU')
def _leaky_relu(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    kind = node.attrs.get('act_type', 'leaky')
    slope = float(node.attrs.get('slope', 0.25))
    if kind == 'prelu':
        # As many axes as the data: with fewer OpenVINO leaves its channels-last layout here and
        # comes back, a tenth of its time. One slope for all channels has the shape (1,).
        shape = (1, -1, *[1] * (_rank(node) - 2))
        return writer.add('PRelu', node.name, [inputs[0], writer.parameter(node.inputs[1], shape)])
    if kind == 'gelu':  # x (1 + erf(x / sqrt 2)) / 2; an operator of its own from opset 20 on
        root, half = (
            writer.constant(f'{node.name}_{name}', np.float32(value))
            for name, value in (('root', math.sqrt(0.5)), ('half', 0.5))
        )
        scaled = writer.add('Mul', f'{node.name}_scaled', [inputs[0], root])
        erf = writer.add('Erf', f'{node.name}_erf', scaled)
        halved = writer.add('Mul', f'{node.name}_halved', [inputs[0], half])
        product = writer.add('Mul', f'{node.name}_product', [*halved, *erf])
        return writer.add('Add', node.name, [*halved, *product])
    simple = {'leaky': ('LeakyRelu', slope), 'elu': ('Elu', slope), 'selu': ('Selu', None)}
    if kind not in simple:
        raise _unsupported(node, f'act_type {kind!r}')
    operator, alpha = simple[kind]
    attrs = {} if alpha is None else {'alpha': alpha}
    return writer.add(operator, node.name, inputs, **attrs)


_ACTIVATIONS = {
    'relu': 'Relu',
    'sigmoid': 'Sigmoid',
    'softrelu': 'Softplus',
    'softsign': 'Softsign',
    'tanh': 'Tanh',
}


@OPERATORS.register('Activation')
def _activation(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    kind = node.attrs['act_type']
    if kind not in _ACTIVATIONS:
        raise _unsupported(node, f'act_type {kind!r}')
    return writer.add(_ACTIVATIONS[kind], node.name, inputs)


@OPERATORS.register('Pooling')
def _pooling(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    kind = node.attrs.get('pool_type', 'max')
    names = {'max': 'MaxPool', 'avg': 'AveragePool'}
    if kind not in names:
        raise _unsupported(node, f'pool_type {kind!r}')
    if flag(node, 'global_pool', False):
        return writer.add(f'Global{names[kind]}', node.name, inputs)
    kernel = _tuple(node, 'kernel')
    strides = _tuple(node, 'stride') or (1,) * len(kernel)
    pad = _tuple(node, 'pad') or (0,) * len(kernel)
    beyond = _beyond(node, kernel, strides, pad)
    attrs, begins = {}, pad
    if kind == 'avg':
        counts_pad = flag(node, 'count_include_pad', True)
        if counts_pad and any(beyond):
            # the padding counts in a mean, what lies beyond it does not: it is made data
            sides = writer.constant(f'{node.name}_pads', np.array(2 * (0, 0, *pad), np.int64))
            inputs = writer.add('Pad', f'{node.name}_padded', [inputs[0], sides])
            begins, counts_pad = (0,) * len(kernel), False
        attrs['count_include_pad'] = int(counts_pad)
    return writer.add(
        names[kind],
        node.name,
        inputs,
        kernel_shape=kernel,
        strides=strides,
        pads=(*begins, *(begin + more for begin, more in zip(begins, beyond))),
        **attrs,
    )


def _beyond(node: Node, kernel: tuple, strides: tuple, pad: tuple) -> tuple[int, ...]:
    """How far the last windows reach beyond the padding of each axis, which they do in MXNet's
    convention 'full'. Run times differ in what ceil_mode makes of such, so they are told.

    InputError for a window that has nothing of the data.
    """
    convention = node.attrs.get('pooling_convention', 'valid')
    if convention not in ('valid', 'full'):
        raise _unsupported(node, f'pooling_convention {convention!r}')
    if convention == 'valid':
        return (0,) * len(kernel)
    source, output = node.inputs[0]
    sizes, counts = source.shapes[output][2:], node.shape[2:]
    lasts = [(count - 1) * stride for count, stride in zip(counts, strides)]
    if any(last - edge >= size for last, edge, size in zip(lasts, pad, sizes)):
        raise _unsupported(node, 'a window in its padding alone')
    ends = zip(lasts, kernel, sizes, pad)
    return tuple(last + length - size - 2 * edge for last, length, size, edge in ends)


def _same(names: tuple, operator: str, value: Callable[..., np.ndarray]) -> None:
    """Register MXNet operators that ONNX has under another name; `value` computes them."""

    def convert(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
        # a parameter among the inputs, such as a constant that is added, keeps its shape
        inputs = [name or writer.parameter(entry) for name, entry in zip(inputs, node.inputs)]
        return writer.add(operator, node.name, inputs)

    for name in names:
        OPERATORS.register(name)(convert)
        CONSTANTS[name] = lambda node, *values: value(*values)


_same(('elemwise_add', '_plus', '_Plus', '_add', 'broadcast_add', 'broadcast_plus'), 'Add', np.add)
_same(
    ('elemwise_sub', '_minus', '_Minus', '_sub', 'broadcast_sub', 'broadcast_minus'),
    'Sub',
    np.subtract,
)
_same(('elemwise_mul', '_mul', '_Mul', 'broadcast_mul'), 'Mul', np.multiply)
_same(('elemwise_div', '_div', '_Div', 'broadcast_div'), 'Div', np.divide)
_same(('relu',), 'Relu', lambda x: np.maximum(x, 0))
_same(('sigmoid',), 'Sigmoid', lambda x: 1 / (1 + np.exp(-x)))
_same(('tanh',), 'Tanh', np.tanh)
_same(('exp',), 'Exp', np.exp)
_same(('sqrt',), 'Sqrt', np.sqrt)
_same(('floor',), 'Floor', np.floor)


def _scalar(
    names: tuple, operator: str, value: Callable[..., np.ndarray], reversed_: bool = False
) -> None:
    """Register MXNet operators of a tensor and a number; `value` computes them."""

    def order(pair: list) -> list:
        return pair[::-1] if reversed_ else pair

    def convert(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
        constant = writer.constant(f'{node.name}_scalar', _number(node))
        return writer.add(operator, node.name, order([inputs[0], constant]))

    def compute(node: Node, array: np.ndarray) -> np.ndarray:
        return value(*order([array, _number(node)]))

    for name in names:
        OPERATORS.register(name)(convert)
        CONSTANTS[name] = compute


def _number(node: Node) -> np.float32:
    return np.float32(node.attrs.get('scalar', 1))


_scalar(('_plus_scalar', '_PlusScalar'), 'Add', np.add)
_scalar(('_minus_scalar', '_MinusScalar'), 'Sub', np.subtract)
_scalar(('_rminus_scalar', '_RMinusScalar'), 'Sub', np.subtract, reversed_=True)
_scalar(('_mul_scalar', '_MulScalar'), 'Mul', np.multiply)
_scalar(('_div_scalar', '_DivScalar'), 'Div', np.divide)
_scalar(('_maximum_scalar', '_MaximumScalar'), 'Max', np.maximum)


def _nothing(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    """Operators that do nothing in inference leave no node."""
    return inputs[:1]


for _name in ('identity', '_copy', 'BlockGrad', 'stop_gradient', 'Dropout'):
    OPERATORS.register(_name)(_nothing)


@OPERATORS.register('Flatten')
def _flatten(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    return writer.add('Flatten', node.name, inputs, axis=1)


OPERATORS.register('flatten')(_flatten)


@OPERATORS.register('Reshape')
def _reshape(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    source, output = node.inputs[0]
    before, after = source.shapes[output], node.shape
    # MXNet's special codes are already in the shape that it inferred; only the batch is open
    if after[0] != before[0]:
        raise _unsupported(node, f'the shape {node.attrs.get("shape")}, which moves the batch')
    shape = writer.constant(f'{node.name}_shape', np.array([-1, *after[1:]], np.int64))
    return writer.add('Reshape', node.name, [inputs[0], shape])


OPERATORS.register('reshape')(_reshape)


@OPERATORS.register('transpose')
def _transpose(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    axes = _tuple(node, 'axes') or tuple(reversed(range(_rank(node))))
    return writer.add('Transpose', node.name, inputs, perm=axes)


@OPERATORS.register('SwapAxis')
def _swap_axes(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    order = list(range(_rank(node)))
    first, second = (int(node.attrs.get(name, 0)) for name in ('dim1', 'dim2'))
    order[first], order[second] = order[second], order[first]
    return writer.add('Transpose', node.name, inputs, perm=order)


OPERATORS.register('swapaxes')(_swap_axes)


@OPERATORS.register('Concat')
def _concat(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    return writer.add('Concat', node.name, inputs, axis=int(node.attrs.get('dim', 1)))


OPERATORS.register('concat')(_concat)


@OPERATORS.register('SliceChannel')
def _split(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    if flag(node, 'squeeze_axis', False):
        raise _unsupported(node, 'squeeze_axis')
    outputs = int(node.attrs['num_outputs'])
    axis = int(node.attrs.get('axis', 1))
    return writer.add('Split', node.name, inputs, outputs, axis=axis)


OPERATORS.register('split')(_split)


@OPERATORS.register('slice_axis')
def _slice_axis(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    end = node.attrs.get('end', 'None')
    bounds = {
        'starts': int(node.attrs['begin']),
        'ends': np.iinfo(np.int64).max if end == 'None' else int(end),
        'axes': int(node.attrs['axis']),
    }
    names = [
        writer.constant(f'{node.name}_{key}', np.array([value], np.int64))
        for key, value in bounds.items()
    ]
    return writer.add('Slice', node.name, [inputs[0], *names])


@OPERATORS.register('expand_dims')
def _expand_dims(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    axes = writer.constant(f'{node.name}_axes', np.array([int(node.attrs['axis'])], np.int64))
    return writer.add('Unsqueeze', node.name, [inputs[0], axes])


@OPERATORS.register('take')
def _take(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    indices, _ = node.inputs[1]
    if indices.batched:
        raise _unsupported(node, 'indices that depend on the images')
    axis = int(node.attrs.get('axis', 0))
    source, output = node.inputs[0]
    # out of range means the nearest in MXNet, or round the end; in ONNX an error
    inside, length = writer.arrays[indices.name].astype(np.int64), source.shapes[output][axis]
    wraps = node.attrs.get('mode', 'clip') == 'wrap'
    inside = inside % length if wraps else np.clip(inside, 0, length - 1)
    name = writer.constant(f'{node.name}_indices', inside)
    return writer.add('Gather', node.name, [inputs[0], name], axis=axis)


@OPERATORS.register('mean')
def _mean(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    axes = _tuple(node, 'axis')
    if not axes or flag(node, 'exclude', False):
        raise _unsupported(node, 'a mean over all axes or with exclude')
    keep = int(flag(node, 'keepdims', False))
    return writer.add('ReduceMean', node.name, inputs, axes=axes, keepdims=keep)


@OPERATORS.register('clip')
def _clip(writer: _Writer, node: Node, inputs: list[str]) -> list[str]:
    low, high = (
        writer.constant(f'{node.name}_{name}', np.float32(node.attrs[name]))
        for name in ('a_min', 'a_max')
    )
    return writer.add('Clip', node.name, [inputs[0], low, high])


# --- constants that have no ONNX operator above, or are simpler in NumPy


def _arange_value(node: Node) -> np.ndarray:
    start = 0 if node.attrs.get('stop', 'None') == 'None' else node.attrs['start']
    steps = np.arange(node.shape[0], dtype=np.float32)
    return np.float32(start) + steps * np.float32(node.attrs.get('step', 1))


def _reshaped_value(node: Node, value: np.ndarray) -> np.ndarray:
    return value.reshape(node.shape)


def _clipped_value(node: Node, value: np.ndarray) -> np.ndarray:
    return np.clip(value, *(np.float32(node.attrs[name]) for name in ('a_min', 'a_max')))


def _joined_value(node: Node, *values: np.ndarray) -> np.ndarray:
    return np.concatenate(values, axis=int(node.attrs.get('dim', 1)))


CONSTANTS['_arange'] = _arange_value
CONSTANTS['clip'] = _clipped_value
CONSTANTS['Concat'] = CONSTANTS['concat'] = _joined_value
for _name in ('Reshape', 'reshape', 'Flatten', 'flatten', 'expand_dims', 'identity', '_copy'):
    CONSTANTS[_name] = _reshaped_value
CONSTANTS['BlockGrad'] = CONSTANTS['stop_gradient'] = _reshaped_value
