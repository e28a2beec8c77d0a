"""What an ONNX model takes and gives: found out of its graph, so that foreign files run as well.

Callers always give uint8 (N, 112, 112, 3) RGB crops; the contract says what becomes of them.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Optional, Union

import numpy as np

from .. import limits
from ..errors import InputError, RunError
from ..extras import need
from ..files import is_file
from ..names import DATA, IMAGE_SIZE
from ..options import REAL, one_of, parse, positive

Model = Union[bytes, str, Path]  # a serialised ONNX model, or the path of one

OUTPUT = 'embedding'  # of the files that we write
EXTRA = 'deploy'
COLOURS = ('rgb', 'bgr')
DTYPES = ('float32', 'float16', 'uint8')
_CENTRE = 127.5  # (x - 127.5) / 127.5 is what networks of this field take, if not 0..255
# A network whose first arithmetic takes 255 to less than this, or shifts by more, takes 0..255.
_LARGE = 16
_TRANSPARENT = ('Identity', 'Cast', 'Transpose', 'QuantizeLinear', 'DequantizeLinear')
_INPUT_DEFAULTS = {'mean': 0.0, 'std': 1.0, 'colour': COLOURS[0]}
_INPUT_RULES = {'mean': REAL, 'std': positive(), 'colour': one_of(COLOURS)}
_SIGNS = {'Add': 1, 'Sub': -1}


class Contract(NamedTuple):
    """Input and output of a model. Pixels go in as (value - mean) / std of 0..255."""

    name: str = DATA
    layout: str = 'NCHW'  # or 'NHWC'
    dtype: str = 'float32'
    batch: Optional[int] = None  # the only number of images that it takes; None for any
    mean: float = 0.0
    std: float = 1.0
    colour: str = 'rgb'
    output: str = OUTPUT
    embedding_size: int = 0
    apart: tuple[str, ...] = ()  # names of the files beside it that hold weights, sorted

    @property
    def preprocessing(self) -> str:
        """'mean=127.5,std=128,colour=rgb': as an --input option says it."""
        return f'mean={self.mean:g},std={self.std:g},colour={self.colour}'

    def prepare(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 112, 112, 3) RGB as the model's input tensor, contiguous."""
        if self.colour == 'bgr':
            images = images[..., ::-1]
        if self.layout == 'NCHW':
            images = images.transpose(0, 3, 1, 2)
        if self.dtype == 'uint8':
            return np.ascontiguousarray(images)
        data = np.ascontiguousarray(images, np.float32)
        if (self.mean, self.std) != (0, 1):
            data -= np.float32(self.mean)
            data /= np.float32(self.std)
        return data.astype(self.dtype, copy=False)


def check_images(images: np.ndarray) -> None:
    """Raise InputError unless `images` is uint8 (N, 112, 112, 3)."""
    shape = (IMAGE_SIZE, IMAGE_SIZE, 3)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != shape:
        raise InputError(
            f'images are {images.dtype} {images.shape}; expected uint8 (N, {IMAGE_SIZE}, '
            f'{IMAGE_SIZE}, 3), aligned RGB crops'
        )


def padded(images: np.ndarray, size: int) -> np.ndarray:
    """At most `size` images, filled up to that number with black ones."""
    if len(images) == size:
        return images
    rest = np.zeros((size - len(images), *images.shape[1:]), images.dtype)
    return np.concatenate([images, rest])


def shown(model: Model) -> str:
    """A model's name for messages."""
    return f'a model of {len(model)} bytes' if isinstance(model, bytes) else str(model)


# attributes that native code divides by
_COUNTS = {'strides', 'dilations', 'kernel_shape', 'group', 'blocksize'}
_MAY_BE_WHOLE = (0, 2, 7)  # types of attributes: not said, INT, INTS
_SHOWN = 60  # characters of a name
_SHAPE_VALUES = 64  # a tensor of more is no shape
_FLOAT32_BYTES = 4
# what these give is as large as their inputs' values say
_SIZED = {'ConstantOfShape', 'EyeLike', 'Expand', 'OneHot', 'Pad', 'Range', 'Resize', 'Tile'}
_SIZED |= {'Upsample', 'MaxUnpool', 'ConvTranspose', 'RandomNormal', 'RandomUniform', 'Reshape'}
_LARGEST_BATCH = 1 << 12  # of a file that takes a fixed number of pictures


def check_rows(model: Model, rows: np.ndarray, shape: tuple[int, int]) -> None:
    """RunError unless what a library gives for some pictures is an embedding of each."""
    if rows.shape != shape:
        raise does_not_run(model, ValueError(f'its output is {rows.shape}, not {shape}'))


def unreadable(model: Model, error: Exception) -> InputError:
    """The error for a model that a library does not load."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return InputError(f'{shown(model)} does not load as an ONNX model: {reason}')


def does_not_run(model: Model, error: Exception) -> RunError:
    """The error for a model that loads, and a library that fails in the middle of it."""
    reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
    return RunError(f'{shown(model)} does not run: {reason}')


def load_graph(model: Model, whole: bool = False) -> 'onnx.ModelProto':  # noqa: F821
    """An ONNX model's protobuf; with `whole` also the weights that lie in files beside it.

    Raises InputError for what is no ONNX model, and without the package.
    """
    onnx = need('onnx', EXTRA)
    try:
        if isinstance(model, bytes):
            loaded = onnx.load_model_from_string(model)
        else:
            loaded = onnx.load(str(model), load_external_data=whole)
    except Exception as error:  # protobuf's DecodeError, whose module differs by version
        raise unreadable(model, error) from None
    if not loaded.graph.node:
        raise unreadable(model, ValueError('its graph is empty'))
    parts = list(_parts(loaded))
    _check_tensors(model, parts)
    for node in (part for part in parts if _kind(part) == 'NodeProto'):
        if not node.output:
            raise unreadable(model, ValueError(f'{node.op_type[:_SHOWN]} gives nothing'))
    _check_counts(model, parts)
    return loaded


def _check_counts(model: Model, parts: Sequence) -> None:
    """InputError for a zero that native code would divide by, also where a function takes it under
    another name, from a call or as a default."""
    attributes = [(part, each) for part in parts for each in _attributes(part)]
    names, more = set(), set(_COUNTS)
    while more:
        names |= more
        more = {each.ref_attr_name for _, each in attributes if each.name in names} - names - {''}
    for part, each in attributes:
        other = each.name not in _COUNTS and each.type not in _MAY_BE_WHOLE
        if each.name not in names or each.ref_attr_name or other:
            continue
        if min(each.ints or [each.i]) < 1:
            shown_part = f'{getattr(part, "op_type", "function")} {part.name[:_SHOWN]}'
            raise unreadable(model, ValueError(f'{shown_part}: {each.name[:_SHOWN]} below 1'))


def _check_tensors(model: Model, parts: Sequence) -> None:
    """InputError unless the files that the weights lie in are ordinary ones beside the model: it
    may name any file of whoever runs it, or a pipe that has no end."""
    if any(_kind(part) == 'SparseTensorProto' for part in parts):
        raise unreadable(model, ValueError('it has sparse weights, which no face network needs'))
    for name in _apart(parts):
        beside = not isinstance(model, bytes) and not Path(name).is_absolute()
        if not (beside and '..' not in Path(name).parts and is_file(Path(model).parent / name)):
            why = f'{name[:_SHOWN]!r}, where its weights are to be, is no file beside it'
            raise unreadable(model, ValueError(why))


def _apart(parts: Iterable) -> list[str]:
    """What the files beside a model that hold weights are called there."""
    tensors = (part for part in parts if _kind(part) == 'TensorProto')
    entries = (entry for tensor in tensors for entry in tensor.external_data)
    return sorted({entry.value for entry in entries if entry.key == 'location'})


def _parts(loaded) -> Iterator:
    """All messages that an ONNX model is made of, whatever field holds them: engines read a tensor
    wherever it is. Of a tensor itself nothing is looked at, since that would copy it."""
    left = [loaded]
    while left:
        part = left.pop()
        yield part
        for field, value in part.ListFields() if _kind(part) != 'TensorProto' else ():
            if field.message_type:
                left += [value] if hasattr(value, 'DESCRIPTOR') else value


def _attributes(part) -> Sequence:
    """What a node gives, and what a function has by default."""
    fields = {'NodeProto': 'attribute', 'FunctionProto': 'attribute_proto'}
    return getattr(part, fields.get(_kind(part), ''), ())


def _kind(part) -> str:
    return part.DESCRIPTOR.name


def read_contract(model: Model, raw_pixels: bool = False) -> Contract:
    """Find out what an ONNX model takes.

    Parameters
    ----------
    model : the file, or its content
    raw_pixels : known to take 0..255, as our own exports; otherwise its first layers tell

    Raises
    ------
    InputError for a model that takes no 112x112 pictures or gives no embedding (N, D), for a file
    that does not load, and without the package `onnx`.
    """
    loaded = load_graph(model)
    graph = loaded.graph
    initial = {tensor.name for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in initial]
    outputs = [value for value in graph.output if _embedding_size(value) > 1]
    # beside an embedding a score is something else; alone it is what a quality network gives
    outputs = outputs or [value for value in graph.output if _embedding_size(value) == 1]
    if len(inputs) != 1 or len(outputs) != 1:
        raise _another_contract(model, inputs, graph.output)
    (data,), (embedding,) = inputs, outputs
    layout, dtype = _layout(_shape(data)), _dtype(data)
    if layout is None or dtype not in DTYPES:
        raise _another_contract(model, inputs, graph.output)
    mean, std = 0.0, 1.0
    if dtype != 'uint8' and not raw_pixels and not _takes_raw_pixels(graph, data.name):
        mean = std = _CENTRE
    batch = _shape(data)[0]
    told = {
        'output': embedding.name,
        'embedding_size': _embedding_size(embedding),
        'apart': tuple(_apart(_parts(loaded))),
    }
    _check_sizes(model, loaded, data, layout, batch or 1)
    return Contract(data.name, layout, dtype, batch, mean, std, **told)


def _check_sizes(model: Model, loaded, data, layout: str, batch: int) -> None:
    """InputError where a layer gives far more than one of a face network does, or where nobody can
    tell: engines make room for whatever it asks for. Changes `loaded`.

    Behind an operator that is not ONNX's own, as those of some int8 files, shapes may be unknown.
    """
    if batch > _LARGEST_BATCH:
        raise unreadable(model, ValueError(f'it takes {batch} pictures at a time'))
    sides = {'NCHW': (3, IMAGE_SIZE, IMAGE_SIZE), 'NHWC': (IMAGE_SIZE, IMAGE_SIZE, 3)}[layout]
    for length, side in zip(data.type.tensor_type.shape.dim, (batch, *sides)):
        length.dim_value = side
    for tensor in loaded.graph.initializer:
        if math.prod(tensor.dims) > _SHAPE_VALUES:  # a weight, of which the shape is enough
            for kind in ('raw_data', 'float_data', 'int32_data', 'int64_data'):
                tensor.ClearField(kind)
    del loaded.graph.value_info[:]  # what a file says of its layers need not be so
    for value in loaded.graph.output:
        value.type.tensor_type.ClearField('shape')
    try:
        inferred = need('onnx', EXTRA).shape_inference.infer_shapes(loaded, data_prop=True)
    except Exception as error:
        raise unreadable(model, error) from None
    values = (data, *inferred.graph.value_info, *inferred.graph.output)
    shapes = {
        value.name: _shape(value) for value in values if value.type.tensor_type.HasField('shape')
    }
    shapes |= {tensor.name: list(tensor.dims) for tensor in loaded.graph.initializer}
    known = {name: shape for name, shape in shapes.items() if None not in shape}
    weights = {tensor.name for tensor in loaded.graph.initializer}
    total = 0
    for node in inferred.graph.node:
        if node.op_type == 'DequantizeLinear' and weights.intersection(node.input[:1]):
            continue  # int8 weights as numbers: the file's own size bounds them
        if any(attribute.HasField('g') or attribute.graphs for attribute in node.attribute):
            raise unreadable(model, ValueError(f'{node.op_type}: branches and loops are not taken'))
        for name in filter(None, node.output):
            if name in known:
                size = _FLOAT32_BYTES * math.prod(known[name])
                total += size
                if size > batch * limits.LAYER_BYTES:
                    too_large = f'{name[:_SHOWN]} is of shape {known[name]}, which is too large'
                    raise unreadable(model, ValueError(too_large))
            elif node.op_type in _SIZED or known.keys() >= set(filter(None, node.input)):
                unknown = f'the shape of {name[:_SHOWN]} ({node.op_type}) depends on the picture'
                raise unreadable(model, ValueError(unknown))
    if total > batch * limits.NETWORK_BYTES:
        raise unreadable(model, ValueError(f'its layers give {total >> 20} MB'))


def override(contract: Contract, text: str) -> Contract:
    """A contract changed by an --input option, 'mean=127.5,std=128,colour=bgr'.

    Raises InputError for other names and values, and for a mean of a model that takes uint8.
    """
    words = filter(None, text.split(','))
    changes = parse('model', '--input', words, _INPUT_DEFAULTS, _INPUT_RULES)
    if contract.dtype == 'uint8' and {'mean', 'std'} & changes.keys():
        raise InputError(f'--input {text!r}: the model takes uint8 pixels as they are, no mean')
    return contract._replace(**changes)


def _shape(value) -> list[Optional[int]]:
    """Lengths of a graph's input or output, None where they are open."""
    lengths = value.type.tensor_type.shape.dim
    return [length.dim_value if length.dim_value > 0 else None for length in lengths]


def _dtype(value) -> str:
    helper = need('onnx', EXTRA).helper
    try:
        return helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type).name
    except (KeyError, ValueError):
        return 'of no known type'


def _embedding_size(value) -> int:
    """D of an output (N, D); 0 for any other. The batch may be stated wrongly, as [1, 512]."""
    shape = _shape(value)
    return shape[1] or 0 if len(shape) == 2 else 0


def _layout(shape: list[Optional[int]]) -> Optional[str]:
    """'NCHW' or 'NHWC' of what holds 112x112 pictures; None for another shape."""
    if len(shape) != 4:
        return None
    wanted = {'NCHW': (3, IMAGE_SIZE, IMAGE_SIZE), 'NHWC': (IMAGE_SIZE, IMAGE_SIZE, 3)}
    for layout, sides in wanted.items():
        if all(length in (None, side) for length, side in zip(shape[1:], sides)):
            return layout
    return None


def _another_contract(model: Model, inputs: list, outputs: list) -> InputError:
    def told(values) -> str:
        return ', '.join(
            f'{value.name} {_dtype(value)} [{", ".join(str(n or "N") for n in _shape(value))}]'
            for value in values
        )

    return InputError(
        f'{shown(model)} has another contract ({told(inputs)} -> {told(outputs)}); expected one '
        f'picture tensor [N, 3, {IMAGE_SIZE}, {IMAGE_SIZE}] or [N, {IMAGE_SIZE}, {IMAGE_SIZE}, 3] '
        f'-> one embedding [N, D]'
    )


def _takes_raw_pixels(graph, name: str) -> bool:
    """Whether the first layers bring 0..255 to the range of a network.

    They are followed from the input on as long as they are arithmetic with constants: x becomes
    scale * x + shift.
    """
    values = _Constants(graph)
    readers: dict[str, list] = {}
    for node in graph.node:
        for source in node.input:
            readers.setdefault(source, []).append(node)
    scale, shift = np.float64(1), np.float64(0)
    while len(readers.get(name, ())) == 1:
        node = readers[name][0]
        if node.op_type not in _TRANSPARENT:
            step = _affine(node, name, values)
            if step is None:
                break
            try:
                scale, shift = scale * step[0], shift * step[0] + step[1]
            except ValueError:  # of lengths that do not fit, as the engine will say
                break
        name = node.output[0]
    largest = np.max(np.abs(scale))
    return bool(255 * largest < _LARGE or (largest <= 1 and np.max(np.abs(shift)) > _LARGE))


class _Constants:
    """Values of a graph's initialisers and Constant nodes, read when they are asked for."""

    def __init__(self, graph):
        self._tensors = {tensor.name: tensor for tensor in graph.initializer}
        for node in graph.node:
            for attribute in node.attribute[:1]:
                if node.op_type == 'Constant' and attribute.name == 'value':
                    self._tensors[node.output[0]] = attribute.t

    def get(self, name: str) -> Optional[np.ndarray]:
        """float64, or None for what is no constant of at most a value a channel."""
        tensor = self._tensors.get(name)
        if tensor is None or np.prod(tensor.dims) > 3:
            return None
        try:
            return need('onnx', EXTRA).numpy_helper.to_array(tensor).astype(np.float64).ravel()
        except (ValueError, TypeError):  # more or fewer bytes than it says, or no numbers
            return None


def _affine(node, name: str, values: _Constants) -> Optional[tuple]:
    """(scale, shift) of a node that does scale * x + shift; None of any other node."""
    if node.op_type == 'BatchNormalization' and len(node.input) == 5:
        parts = [values.get(source) for source in node.input[1:]]
        if any(part is None for part in parts):
            return None
        gamma, beta, mean, variance = parts
        scale = gamma / np.sqrt(variance + 1e-5)
        return scale, beta - scale * mean
    if node.op_type not in ('Add', 'Sub', 'Mul', 'Div') or node.input[0] != name:
        swapped = node.op_type in ('Add', 'Mul') and node.input[1] == name
        if not swapped:
            return None
    other = values.get(next((source for source in node.input if source != name), ''))
    if other is None:
        return None
    if node.op_type in _SIGNS:
        return np.float64(1), _SIGNS[node.op_type] * other
    return (other if node.op_type == 'Mul' else 1 / other), np.float64(0)
