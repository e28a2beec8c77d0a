"""The operators that an embedding network may consist of: attributes, inputs and shapes of each.

The table is an allow-list. A symbol file whose layers all stand here, with attributes of the right
type and range, as many inputs as they take and shapes that fit together, gives MXNet nothing to
stumble over; and since the shapes are computed here, networks are understood without MXNet. Rules
and names of attributes are those of MXNet 1.9.1.
"""

import ast
import math
from collections.abc import Sequence
from typing import Any, Callable, NamedTuple, Optional

from .. import limits
from ..errors import InputError

Shape = tuple[int, ...]
Shapes = list[Optional[Shape]]  # of the inputs; None where nothing is known yet
Infer = Callable[[dict, Shapes], list[Shape]]

REQUIRED = object()
_SIZE = 1 << 12  # of a kernel, a stride ...


class Operator(NamedTuple):
    """One operator.

    `infer(attrs, shapes)` returns the outputs' shapes and puts those of parameters into `shapes`;
    InputError where they do not fit. `inputs(attrs)` names the inputs, the last `auxiliary` of
    which are running statistics.
    """

    attributes: dict[str, tuple[Callable[[str], Any], Any]]  # name -> (reader, default)
    inputs: Callable[[dict], Sequence[str]]
    infer: Infer
    auxiliary: int = 0


OPERATORS: dict[str, Operator] = {}


def read_attributes(op: str, attrs: dict[str, str]) -> dict[str, Any]:
    """Attributes as values, defaults included; InputError for an unknown or impossible one."""
    known = OPERATORS[op].attributes
    for name in attrs:
        if name not in known:
            raise InputError(f'has the attribute {name[:40]!r}, which {op} does not know')
    values = {}
    for name, (read, default) in known.items():
        if name not in attrs and default is REQUIRED:
            raise InputError(f'lacks the attribute {name!r}')
        try:
            values[name] = read(attrs[name]) if name in attrs else default
        except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
            raise InputError(f'has the impossible {name} {attrs[name][:40]!r}') from None
    return values


# --- readers of attributes


_DIGITS = '+-0123456789'


def _flag(text: str) -> bool:
    words = {'true': True, '1': True, 'false': False, '0': False}
    if text.lower() not in words:
        raise ValueError
    return words[text.lower()]


def _only(letters: str, text: str, length: int) -> str:
    """A short text of these letters: Python reads more as numbers than MXNet, '1_0' and '١'."""
    if len(text) > length or not set(text) <= set(letters):
        raise ValueError
    return text


def _integer(low: int, high: int = limits.LAYER_LENGTH) -> Callable[[str], int]:
    def read(text: str) -> int:
        if not low <= int(_only(_DIGITS, text, 20)) <= high:
            raise ValueError
        return int(text)

    return read


def _number(low: float = -3e38, high: float = 3e38) -> Callable[[str], float]:
    def read(text: str) -> float:
        if not low <= float(_only(f'{_DIGITS}.eE', text, 40)) <= high:
            raise ValueError
        return float(text)

    return read


def _choice(*words: str) -> Callable[[str], str]:
    def read(text: str) -> str:
        if text not in words:
            raise ValueError
        return text

    return read


def _optional(read: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == 'None' else read(text)


def _tuple(low: int, high: int, optional: bool = False) -> Callable[[str], tuple]:
    """'(3, 3)', '[3,3]' or a single number."""

    def read(text: str) -> tuple:
        value = ast.literal_eval(_only(f'{_DIGITS}()[], None', text.strip(), 200))
        value = (value,) if isinstance(value, int) else value
        if not isinstance(value, (tuple, list)) or len(value) > limits.NUM_AXES:
            raise ValueError
        for item in value:
            if not (optional and item is None) and not (type(item) is int and low <= item <= high):
                raise ValueError
        return tuple(value)

    return read


_AXIS = _integer(-limits.NUM_AXES, limits.NUM_AXES - 1)
_AXES = _tuple(-limits.NUM_AXES, limits.NUM_AXES - 1)
_ANY = _integer(-(1 << 31), (1 << 31) - 1)
_DTYPE = _choice('float16', 'float32', 'float64', 'uint8', 'int8', 'int32', 'int64', 'None')


# --- shapes


def _known(shapes: Shapes, index: int = 0) -> Shape:
    if shapes[index] is None:
        raise InputError('has an input whose shape does not follow from that of the pictures')
    return shapes[index]


def _put(shapes: Shapes, index: int, wanted: Shape) -> None:
    """A parameter has the shape `wanted`."""
    if shapes[index] not in (None, wanted):
        raise InputError(f'has an input of shape {shapes[index]}; expected {wanted}')
    shapes[index] = wanted


def _axis(axis: int, axes: int) -> int:
    if not -axes <= axis < axes:
        raise InputError(f'has the axis {axis} for {axes} axes')
    return axis % axes


def _need_axes(shape: Shape, low: int, high: int = limits.NUM_AXES) -> None:
    if not low <= len(shape) <= high:
        raise InputError(f'does not take an input of shape {shape}')


def _add(names: str, infer: Infer, inputs: Any = ('data',), auxiliary: int = 0, **attributes):
    """Enter an operator under all its names; `inputs` are names or a function of the attributes."""
    given = inputs if callable(inputs) else lambda attrs: inputs
    known = {
        name: value if isinstance(value, tuple) else (value, REQUIRED)
        for name, value in attributes.items()
    }
    for name in names.split():
        OPERATORS[name] = Operator(known, given, infer, auxiliary)


def _windows(attrs: dict, shape: Shape, full: bool = False) -> Shape:
    """Positions of a kernel along the axes behind the channels."""
    kernel, axes = attrs['kernel'], len(shape) - 2
    stride, pad, dilate = (
        attrs.get(name) or (default,) * axes
        for name, default in (('stride', 1), ('pad', 0), ('dilate', 1))
    )
    if not 1 <= axes <= 3 or {len(kernel), len(stride), len(pad), len(dilate)} != {axes}:
        raise InputError(f'has kernel {kernel}, stride {stride}, pad {pad} for an input {shape}')
    lengths = []
    for size, k, s, p, d in zip(shape[2:], kernel, stride, pad, dilate):
        span = d * (k - 1) + 1
        rest = size + 2 * p - span
        if rest < 0:
            raise InputError(f'has a kernel of {span} for {size + 2 * p} values')
        lengths.append(1 + (-(-rest // s) if full else rest // s))
    return tuple(lengths)


def _convolution(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    _need_axes(shape, 3, 5)
    filters, groups = attrs['num_filter'], attrs['num_group']
    if shape[1] % groups or filters % groups:
        raise InputError(f'has {groups} groups for {shape[1]} channels and {filters} filters')
    positions = _windows(attrs, shape)
    _put(shapes, 1, (filters, shape[1] // groups, *attrs['kernel']))
    if not attrs['no_bias']:
        _put(shapes, 2, (filters,))
    return [(shape[0], filters, *positions)]


def _weights(attrs: dict) -> Sequence[str]:
    return ('data', 'weight') if attrs['no_bias'] else ('data', 'weight', 'bias')


_SIZES = (_tuple(1, _SIZE), ())
_FLAG = (_flag, False)

_add(
    'Convolution',
    _convolution,
    _weights,
    kernel=_tuple(1, _SIZE),
    stride=_SIZES,
    dilate=_SIZES,
    pad=(_tuple(0, _SIZE), ()),
    num_filter=_integer(1),
    num_group=(_integer(1), 1),
    no_bias=_FLAG,
    workspace=(_integer(0, 1 << 20), 1024),
    cudnn_tune=(_choice('None', 'off', 'limited_workspace', 'fastest'), 'None'),
    cudnn_off=_FLAG,
    layout=(_choice('None', 'NCHW', 'NCW', 'NCDHW'), 'None'),
)


def _fully_connected(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    _need_axes(shape, 1)
    lead, inputs = (
        (shape[:1], math.prod(shape[1:])) if attrs['flatten'] else (shape[:-1], shape[-1])
    )
    _put(shapes, 1, (attrs['num_hidden'], inputs))
    if not attrs['no_bias']:
        _put(shapes, 2, (attrs['num_hidden'],))
    return [(*lead, attrs['num_hidden'])]


_add(
    'FullyConnected',
    _fully_connected,
    _weights,
    num_hidden=_integer(1),
    no_bias=_FLAG,
    flatten=(_flag, True),
)


def _batch_norm(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    _need_axes(shape, 1)
    channels = (shape[_axis(attrs['axis'], len(shape))],)
    for index in range(1, 5):
        _put(shapes, index, channels)
    return [shape, channels, channels] if attrs['output_mean_var'] else [shape]


_add(
    'BatchNorm',
    _batch_norm,
    ('data', 'gamma', 'beta', 'moving_mean', 'moving_var'),
    auxiliary=2,
    eps=(_number(0, 1), 1e-3),
    momentum=(_number(0, 1), 0.9),
    fix_gamma=(_flag, True),
    use_global_stats=_FLAG,
    output_mean_var=_FLAG,
    axis=(_AXIS, 1),
    cudnn_off=_FLAG,
    min_calib_range=(_optional(_number()), None),
    max_calib_range=(_optional(_number()), None),
)


def _same(attrs: dict, shapes: Shapes) -> list[Shape]:
    return [_known(shapes)]


def _leaky_relu(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    if attrs['act_type'] == 'prelu' and shapes[1] != (1,):  # one slope for all channels
        _need_axes(shape, 2)
        _put(shapes, 1, (shape[1],))
    return [shape]


_add(
    'LeakyReLU',
    _leaky_relu,
    lambda attrs: ('data', 'gamma') if attrs['act_type'] == 'prelu' else ('data',),
    act_type=(_choice('prelu', 'leaky', 'elu', 'selu', 'gelu'), 'leaky'),
    slope=(_number(), 0.25),
    lower_bound=(_number(), 0.125),
    upper_bound=(_number(), 0.334),
)
_add('Activation', _same, act_type=_choice('relu', 'sigmoid', 'tanh', 'softrelu', 'softsign'))
_add(
    'relu sigmoid tanh exp sqrt square abs negative identity _copy BlockGrad stop_gradient '
    'softsign erf log floor',
    _same,
)
_add('Cast cast', _same, dtype=_DTYPE)
_add(
    'Dropout',
    _same,
    p=(_number(0, 0.999), 0.5),
    mode=(_choice('training', 'always'), 'training'),
    axes=(_AXES, ()),
    cudnn_off=(_optional(_flag), False),
)
_add(
    'L2Normalization',
    _same,
    eps=(_number(0, 1), 1e-10),
    mode=(_choice('instance', 'channel', 'spatial'), 'instance'),
)
_add('clip', _same, a_min=_number(), a_max=_number())


def _pooling(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    _need_axes(shape, 3, 5)
    if attrs['global_pool']:
        return [(*shape[:2], *[1] * (len(shape) - 2))]
    if attrs['pooling_convention'] == 'same':
        raise InputError('has the pooling_convention same')
    if any(pad >= size for pad, size in zip(attrs['pad'], attrs['kernel'])):
        raise InputError(f'has pad {attrs["pad"]} for the kernel {attrs["kernel"]}')
    full = attrs['pooling_convention'] == 'full'
    return [(*shape[:2], *_windows(attrs, shape, full))]


_add(
    'Pooling',
    _pooling,
    kernel=_SIZES,
    stride=_SIZES,
    pad=(_tuple(0, _SIZE), ()),
    pool_type=(_choice('max', 'avg', 'sum'), 'max'),
    global_pool=_FLAG,
    pooling_convention=(_choice('valid', 'full', 'same'), 'valid'),
    count_include_pad=(_optional(_flag), True),
    cudnn_off=_FLAG,
    p_value=(_optional(_integer(1, 8)), None),
    layout=(_choice('None', 'NCHW', 'NCW', 'NCDHW'), 'None'),
)


def _elementwise(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = next((shape for shape in shapes if shape is not None), None)
    if shape is None:
        _known(shapes)
    for index in range(len(shapes)):
        _put(shapes, index, shape)
    return [shape]


def _broadcast(attrs: dict, shapes: Shapes) -> list[Shape]:
    first, second = _known(shapes), _known(shapes, 1)
    if len(first) != len(second) or any(a != b and 1 not in (a, b) for a, b in zip(first, second)):
        raise InputError(f'has inputs of shapes {first} and {second}')
    return [tuple(max(pair) for pair in zip(first, second))]


_add(
    'elemwise_add _plus _Plus _add elemwise_sub _minus _Minus _sub elemwise_mul _mul _Mul '
    'elemwise_div _div _Div',
    _elementwise,
    ('lhs', 'rhs'),
)
_add(
    'broadcast_add broadcast_plus broadcast_sub broadcast_minus broadcast_mul broadcast_div '
    'broadcast_maximum broadcast_minimum',
    _broadcast,
    ('lhs', 'rhs'),
)
_add(
    '_plus_scalar _PlusScalar _minus_scalar _MinusScalar _rminus_scalar _RMinusScalar _mul_scalar '
    '_MulScalar _div_scalar _DivScalar _rdiv_scalar _RDivScalar _maximum_scalar _MaximumScalar '
    '_minimum_scalar _MinimumScalar _power_scalar _PowerScalar',
    _same,
    scalar=(_number(), 1.0),
    is_int=(_flag, True),
)


def _numbered(attrs: dict) -> Sequence[str]:
    return tuple(f'arg{index}' for index in range(attrs['num_args']))


_COUNT = _integer(1, 1 << 10)
_add('add_n ElementWiseSum', _elementwise, _numbered, num_args=_COUNT)


def _concat(attrs: dict, shapes: Shapes) -> list[Shape]:
    known = [_known(shapes, index) for index in range(len(shapes))]
    axis = _axis(attrs['dim'], len(known[0]))
    rests = {(shape[:axis], shape[axis + 1 :]) for shape in known}
    if len(rests) != 1:
        raise InputError(f'has inputs of shapes {", ".join(map(str, known[:4]))}')
    total = sum(shape[axis] for shape in known)
    return [(*known[0][:axis], total, *known[0][axis + 1 :])]


_add('Concat concat', _concat, _numbered, num_args=_COUNT, dim=(_AXIS, 1))


def _split(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape, parts = _known(shapes), attrs['num_outputs']
    axis = _axis(attrs['axis'], len(shape))
    if shape[axis] % parts or (attrs['squeeze_axis'] and shape[axis] != parts):
        raise InputError(f'has {parts} parts for the axis {axis} of {shape}')
    middle = () if attrs['squeeze_axis'] else (shape[axis] // parts,)
    return [(*shape[:axis], *middle, *shape[axis + 1 :])] * parts


_add('SliceChannel split', _split, num_outputs=_COUNT, axis=(_AXIS, 1), squeeze_axis=_FLAG)


def _flatten(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    _need_axes(shape, 1)
    return [(shape[0], math.prod(shape[1:]))]


_add('Flatten flatten', _flatten)


def _reshape(attrs: dict, shapes: Shapes) -> list[Shape]:
    """MXNet's codes: 0 copies an axis, -1 is what is left, -2 copies all that follow, -3 joins two,
    -4 splits one into the two that follow the code."""
    source = _known(shapes)
    if attrs['reverse'] or attrs['target_shape'] or not attrs['shape']:
        raise InputError('has a form of reshape that is not known here')
    refused = InputError(f'does not reshape {shapes[0]} to {attrs["shape"]}')
    lengths = _decoded(list(source), list(attrs['shape']))
    if lengths is None or lengths.count(-1) > 1:
        raise refused
    size, known = math.prod(source), math.prod(length for length in lengths if length != -1)
    if not known or size % known:
        raise refused
    lengths = [size // known if length == -1 else length for length in lengths]
    if math.prod(lengths) != size:
        raise refused
    return [tuple(lengths)]


def _decoded(source: list[int], wanted: list[int]) -> Optional[list[int]]:
    """The lengths that the codes ask for, -1 for what is left; None where axes are missing."""
    lengths: list[int] = []
    while wanted:
        code = wanted.pop(0)
        taken = len(source) if code == -2 else {-3: 2, -4: 1, 0: 1}.get(code, 0)
        if code < -4 or taken > len(source) or (code == -4 and len(wanted) < 2):
            return None
        if code == -2:
            lengths += source
        elif code == -4:
            lengths += _divided(source[0], wanted.pop(0), wanted.pop(0))
        else:
            lengths.append(math.prod(source[:taken]) if taken else code)
        del source[: taken or 1]
    return lengths


def _divided(length: int, first: int, second: int) -> list[int]:
    if first == -1 and second > 0:
        first = length // second
    elif second == -1 and first > 0:
        second = length // first
    if first < 1 or second < 1 or first * second != length:
        raise InputError(f'does not split {length} into {first} and {second}')
    return [first, second]


_add(
    'Reshape reshape',
    _reshape,
    shape=(_tuple(-4, limits.LAYER_LENGTH), ()),
    reverse=_FLAG,
    target_shape=(_tuple(0, 0), ()),
    keep_highest=_FLAG,
)


def _transpose(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    axes = attrs['axes'] or tuple(reversed(range(len(shape))))
    axes = [_axis(axis, len(shape)) for axis in axes]
    if sorted(axes) != list(range(len(shape))):
        raise InputError(f'has the axes {attrs["axes"]} for an input {shape}')
    return [tuple(shape[axis] for axis in axes)]


def _swap_axes(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = list(_known(shapes))
    first, second = (_axis(attrs[name], len(shape)) for name in ('dim1', 'dim2'))
    if first == second:
        raise InputError('swaps an axis with itself')
    shape[first], shape[second] = shape[second], shape[first]
    return [tuple(shape)]


def _expand_dims(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    axis = _axis(attrs['axis'], len(shape) + 1)
    return [(*shape[:axis], 1, *shape[axis:])]


def _slice_axis(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    axis = _axis(attrs['axis'], len(shape))
    length = shape[axis]
    begin, end = attrs['begin'], length if attrs['end'] is None else attrs['end']
    begin, end = (value + length if value < 0 else value for value in (begin, end))
    if not 0 <= begin < end <= length:
        raise InputError(f'takes {begin}..{end} of {length}')
    return [(*shape[:axis], end - begin, *shape[axis + 1 :])]


def _reduce(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape = _known(shapes)
    axes = {_axis(axis, len(shape)) for axis in attrs['axis'] or ()} or set(range(len(shape)))
    if attrs['exclude']:
        axes = set(range(len(shape))) - axes
    kept = tuple(
        1 if axis in axes else length
        for axis, length in enumerate(shape)
        if attrs['keepdims'] or axis not in axes
    )
    return [kept or (1,)]


_add('transpose', _transpose, axes=(_AXES, ()))
_add('SwapAxis swapaxes', _swap_axes, dim1=(_AXIS, 0), dim2=(_AXIS, 0))
_add('expand_dims', _expand_dims, axis=_AXIS)
_add('slice_axis', _slice_axis, axis=_AXIS, begin=_ANY, end=_optional(_ANY))
_add(
    'mean sum sum_axis max max_axis min min_axis',
    _reduce,
    axis=(_optional(_AXES), None),
    keepdims=_FLAG,
    exclude=_FLAG,
)
_add(
    'softmax log_softmax',
    _same,
    axis=(_AXIS, -1),
    temperature=(_optional(_number(1e-6, 1e6)), None),
    dtype=(_DTYPE, 'None'),
    use_length=(_choice('False', '0'), 'False'),
)


def _arange(attrs: dict, shapes: Shapes) -> list[Shape]:
    start, stop, step = attrs['start'], attrs['stop'], attrs['step']
    if stop is None:
        start, stop = 0.0, start
    steps = (stop - start) / step if step else 0.0
    if not 0 < steps <= limits.LAYER_LENGTH:
        raise InputError(f'counts from {start:g} to {stop:g} by {step:g}')
    return [(math.ceil(steps),)]


_add(
    '_arange',
    _arange,
    (),
    start=_number(),
    stop=(_optional(_number()), None),
    step=(_number(), 1.0),
    repeat=(_integer(1, 1), 1),
    infer_range=(_choice('False', '0'), 'False'),
    dtype=(_choice('float32'), 'float32'),
    ctx=(_choice(''), ''),
)


def _take(attrs: dict, shapes: Shapes) -> list[Shape]:
    shape, indices = _known(shapes), _known(shapes, 1)
    axis = _axis(attrs['axis'], len(shape))
    result = (*shape[:axis], *indices, *shape[axis + 1 :])
    _need_axes(result, 1)
    return [result]


# what is out of range is the nearest with 'clip'; 'raise' would end the process
_add('take', _take, ('a', 'indices'), axis=(_AXIS, 0), mode=(_choice('clip', 'wrap'), 'clip'))
