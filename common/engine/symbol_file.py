"""MXNet's symbol JSON, read and checked without MXNet.

MXNet trusts the file: a node may hold an address that it calls (`_Native`), and a missing input or
a zero where none may be ends the process. Here the layers that lead to the embedding are checked
one by one (see `operators`), and only they are handed on. Files of MXNet 0.8 to 1.9 are read; the
attributes of the older ones are brought to today's form, as MXNet does.
"""

import json
import math
from dataclasses import dataclass, field
from typing import Any, Optional

from .. import limits
from ..errors import InputError
from ..files import PathLike, input_file
from ..names import DATA, EMBEDDING_OUTPUT, IMAGE_SHAPE
from .operators import OPERATORS, Shape, read_attributes

VARIABLE = 'null'
_FLOAT32_BYTES = 4
_VERSION = 10901  # of the MXNet whose form is written
_WITH_AUXILIARY = 900  # before this one, running statistics were no inputs
_SEPARATOR = '$'  # MXNet puts it between the names of a layer and an attribute
_RUNS_CODE = (  # starts of names of operators that call, read or hold something else
    '_Native',
    '_NDArray',
    'Custom',
    '_CustomFunction',
    '_CachedOp',
    '_TensorRT',
    '_sg_',
    '_subgraph',
    '_FusedOp',
    '_foreach',
    '_while_loop',
    '_cond',
    '_cv',
    '_imdecode',
)
# hints for training that older files write without underscores
_HINTS = ('ctx_group', 'lr_mult', 'wd_mult', 'force_mirroring', 'mirror_stage')
_HIDDEN = {f'__{name}__' for name in (*_HINTS, 'profiler_scope')}
_INITIALIZERS = (
    'zero',
    'zeros',
    'one',
    'ones',
    'constant',
    'uniform',
    'normal',
    'orthogonal',
    'xavier',
    'msraprelu',
    'bilinear',
)


@dataclass(eq=False)
class Layer:
    """One node: an operator, or a variable (`op` is 'null').

    `inputs` are (layer, output, version) as the file has them; `shapes` those of the outputs for
    one picture.
    """

    op: str
    name: str
    attrs: dict[str, str]
    inputs: list[tuple['Layer', int, int]]
    values: dict[str, Any] = field(default_factory=dict)  # the attributes, read
    shapes: list[Shape] = field(default_factory=list)

    @property
    def auxiliary(self) -> list['Layer']:
        """Its running statistics."""
        count = OPERATORS[self.op].auxiliary if self.op != VARIABLE else 0
        return [layer for layer, *_ in self.inputs[len(self.inputs) - count :]]


class Symbol:
    """A checked embedding network: its layers in order of execution, the last is the output.

    It has those of mx.sym.Symbol's methods that need no MXNet.
    """

    def __init__(self, layers: list[Layer], output: int = 0):
        self.layers, self._output = layers, output

    def _variables(self, auxiliary: bool) -> list[str]:
        states = {id(state) for layer in self.layers for state in layer.auxiliary}
        return [
            layer.name
            for layer in self.layers
            if layer.op == VARIABLE and (id(layer) in states) == auxiliary
        ]

    def list_arguments(self) -> list[str]:
        return self._variables(auxiliary=False)

    def list_auxiliary_states(self) -> list[str]:
        return self._variables(auxiliary=True)

    def list_outputs(self) -> list[str]:
        return [EMBEDDING_OUTPUT]

    @property
    def embedding_size(self) -> int:
        return self.layers[-1].shapes[self._output][1]

    @property
    def shapes(self) -> dict[str, Shape]:
        """Parameters and running statistics: name -> shape."""
        return {
            layer.name: layer.shapes[0]
            for layer in self.layers
            if layer.op == VARIABLE and layer.name != DATA
        }

    def infer_shapes(self, batch_size: int = 1) -> list[list[Shape]]:
        """Shapes of each layer's outputs at a batch size.

        Raises InputError, naming the layer, where the network does not take that many pictures.
        """
        known: dict[Layer, list[Shape]] = {}
        for layer in self.layers:
            if layer.op == VARIABLE:
                is_data = layer.name == DATA
                known[layer] = [(batch_size, *IMAGE_SHAPE)] if is_data else layer.shapes
                continue
            shapes = [known[source][output] for source, output, _ in layer.inputs]
            try:
                known[layer] = OPERATORS[layer.op].infer(layer.values, shapes)
            except InputError as error:
                raise InputError(
                    f'layer {layer.name!r} ({layer.op}) {error} at batch size {batch_size}'
                ) from None
        return list(known.values())

    def output_shapes(self, image_shape: Shape = IMAGE_SHAPE) -> dict[str, Shape]:
        """Shapes for one picture: of variables by name, of others' first outputs by its name.

        Raises InputError for another `image_shape` than that of crops.
        """
        if tuple(image_shape) != IMAGE_SHAPE:
            raise InputError(
                f'images of shape {tuple(image_shape)}: checkpoints take {IMAGE_SHAPE}'
            )
        return {
            layer.name if layer.op == VARIABLE else f'{layer.name}_output': layer.shapes[0]
            for layer in self.layers
        }

    def graph(self) -> dict:
        """What the JSON of MXNet 1.9.1 holds; a copy."""
        index = {layer: position for position, layer in enumerate(self.layers)}
        nodes = []
        for layer in self.layers:
            node = {'op': layer.op, 'name': layer.name}
            if layer.attrs:
                node['attrs'] = dict(layer.attrs)
            node['inputs'] = [[index[source], *rest] for source, *rest in layer.inputs]
            nodes.append(node)
        variables = [i for i, layer in enumerate(self.layers) if layer.op == VARIABLE]
        return {
            'nodes': nodes,
            'arg_nodes': variables,
            'heads': [[len(nodes) - 1, self._output, 0]],
            'attrs': {'mxnet_version': ['int', _VERSION]},
        }

    def tojson(self) -> str:
        """In the form of MXNet 1.9.1."""
        return json.dumps(self.graph(), ensure_ascii=False)  # MXNet knows no \u in a text


def read_symbol(path: PathLike) -> Symbol:
    """The embedding network of a symbol file: what leads to the output `fc1_output`.

    Raises
    ------
    InputError for a missing or damaged file, and for a network that is not certainly harmless: an
    operator that is not known here or runs code, an attribute of the wrong type or range, too few
    inputs, shapes that do not fit together or are too large. The layer is named.
    """
    path = input_file(path, 'symbol file')
    limits.within(path.stat().st_size, limits.TEXT_BYTES, f'{path}: its size')
    content = {}
    try:
        try:
            content = json.loads(path.read_bytes())
        except (ValueError, RecursionError) as error:
            raise InputError(str(error) or 'it is nested too deep') from None
        return symbol_of_graph(content)
    except InputError as error:
        newer = _newer_version(content)
        raise InputError(f'{path} is no symbol that MXNet reads: {newer or error}') from None


def _version(content: Any) -> int:
    """Of the MXNet that wrote the file, e.g. 10901; 800 where it does not say."""
    try:
        _, version = content['attrs']['mxnet_version']
    except (KeyError, TypeError, ValueError):
        return 800
    return version if isinstance(version, int) else 800


def _newer_version(content: Any) -> str:
    """What to say of a file that a later MXNet wrote; '' of any other."""
    version = _version(content)
    if version <= _VERSION or version > 10**6:
        return ''
    return (
        f'it was written by MXNet {version // 10000}.{version // 100 % 100}.{version % 100} and '
        f'this is 1.9.1; save it again with MXNet 1.x, or build the network with `vargfacenet '
        f'train --network` and load the parameters'
    )


def _is_list(value: Any, length: int) -> bool:
    return isinstance(value, list) and len(value) <= length


def symbol_of_graph(content: Any) -> Symbol:
    """The embedding network of a symbol's JSON, read; arguments and errors as `read_symbol`."""
    if not isinstance(content, dict) or not _is_list(content.get('nodes'), limits.NUM_NODES):
        raise InputError('it holds no list of nodes')
    layers: list[Layer] = []
    for number, node in enumerate(content['nodes']):
        if not isinstance(node, dict):
            raise InputError(f'node {number} is no object')
        layers.append(_layer(number, node, layers))
    last, output = _embedding(layers)
    order = _behind(last)
    if _version(content) < _WITH_AUXILIARY:
        order = _with_auxiliary(order)
    names = [layer.name for layer in order]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise InputError(f'two layers are called {twice!r}')
    for layer in order:
        try:
            _check(layer)
        except InputError as error:
            raise InputError(f'layer {layer.name!r} ({layer.op}) {error}') from None
    _check_together(order)
    shape = last.shapes[output]
    if len(shape) != 2 or shape[0] != 1:
        raise InputError(f'{EMBEDDING_OUTPUT} is no embedding (N, D): one picture gives {shape}')
    return Symbol(order, output)


def _layer(number: int, node: dict, before: list[Layer]) -> Layer:
    """A node with its inputs looked up, its content not yet checked."""
    op, name, inputs = node.get('op'), node.get('name'), node.get('inputs')
    if not isinstance(op, str) or not isinstance(name, str) or not _is_list(inputs, 1 << 10):
        raise InputError(f'node {number} lacks its operator, name or inputs')
    plain = name.isprintable() and _SEPARATOR not in name
    if not 0 < len(name) <= limits.NAME_BYTES or not plain or len(op) > 99:
        raise InputError(f'node {number} has the impossible name {name[:40]!r}')
    if op.startswith(_RUNS_CODE) or node.get('subgraphs'):
        raise InputError(f'layer {name!r} is a {op}, which can run any code; refused')
    try:
        return Layer(op, name, _texts(node), [_source(entry, before) for entry in inputs])
    except InputError as error:
        raise InputError(f'layer {name!r} has {error}') from None


def _texts(node: dict) -> dict[str, str]:
    """The attributes of a node, under whatever key its version of MXNet wrote them."""
    attrs: dict[str, str] = {}
    for key in ('param', 'attr', 'attrs'):  # of MXNet 0.8, 1.0 and later
        more = node.get(key, {})
        texts = [*more, *more.values()] if isinstance(more, dict) else [None]
        if not all(isinstance(text, str) and text.isprintable() for text in texts):
            raise InputError('attributes that are no texts')
        if any(_SEPARATOR in name for name in more):
            raise InputError('an attribute with an impossible name')
        attrs.update(more)
    return attrs


def _source(entry: Any, before: list[Layer]) -> tuple[Layer, int, int]:
    """(layer, which of its outputs, version) of an input of the layer that comes after `before`."""
    if not _is_list(entry, 3) or len(entry) < 2 or not all(type(v) is int for v in entry):
        raise InputError(f'the impossible input {str(entry)[:40]}')
    index, output, version = (*entry, 0)[:3]
    if not 0 <= index < len(before) or not 0 <= output < 1 << 10 or not 0 <= version < 1 << 10:
        raise InputError(f'an input that does not come before it: {entry}')
    return before[index], output, version


def _embedding(layers: list[Layer]) -> tuple[Layer, int]:
    """The layer with the output `fc1_output`, and which of its outputs that is."""
    for layer in layers:
        if layer.op != VARIABLE and f'{layer.name}_output' == EMBEDDING_OUTPUT:
            return layer, 0
    raise InputError(f'no output {EMBEDDING_OUTPUT!r} among its {len(layers)} layers')


def _behind(last: Layer) -> list[Layer]:
    """What `last` needs, in the order in which MXNet lists it: inputs before their readers."""
    order, seen, stack = [], set(), [(last, 0)]
    while stack:
        layer, position = stack.pop()
        if layer in seen:
            continue
        if position < len(layer.inputs):
            stack += [(layer, position + 1), (layer.inputs[position][0], 0)]
        else:
            seen.add(layer)
            order.append(layer)
    return order


def _with_auxiliary(order: list[Layer]) -> list[Layer]:
    """Running statistics as inputs, under the names that MXNet gives them."""
    complete = []
    for layer in order:
        operator = OPERATORS.get(layer.op)
        if operator and operator.auxiliary:
            names = operator.inputs({})
            if len(layer.inputs) == len(names) - operator.auxiliary:
                for name in names[len(layer.inputs) :]:
                    state = Layer(VARIABLE, f'{layer.name}_{name}', {}, [])
                    layer.inputs.append((state, 0, 1))
                    complete.append(state)
        complete.append(layer)
    return complete


def _check(layer: Layer) -> None:
    """Attributes, inputs and shapes of one layer whose inputs are checked."""
    if layer.op == VARIABLE:
        layer.shapes = [(1, *IMAGE_SHAPE)] if layer.name == DATA else _variable(layer)
        return
    if layer.op not in OPERATORS:
        raise InputError('is of no operator that an embedding network is known to need')
    layer.attrs = _without_hints(layer)
    operator = OPERATORS[layer.op]
    shown = {name: text for name, text in layer.attrs.items() if name not in _HIDDEN}
    layer.values = read_attributes(layer.op, shown)
    wanted = operator.inputs(layer.values)
    if len(layer.inputs) != len(wanted):
        raise InputError(f'has {len(layer.inputs)} inputs; expected {len(wanted)}')
    shapes = [_shape(source, output) for source, output, _ in layer.inputs]
    layer.shapes = operator.infer(layer.values, shapes)
    for (source, *_), shape in zip(layer.inputs, shapes):
        if source.op == VARIABLE and not source.shapes:
            source.shapes = [shape]
    for state in layer.auxiliary:
        if state.op != VARIABLE or state.name == DATA:
            raise InputError('has running statistics that are no variables')
    for shape in layer.shapes:
        if _FLOAT32_BYTES * math.prod(shape) > limits.LAYER_BYTES:
            raise InputError(f'gives an array of shape {shape}, which is too large')


def _check_together(order: list[Layer]) -> None:
    """What no layer alone can break."""
    total = sum(
        _FLOAT32_BYTES * math.prod(shape)
        for layer in order
        if layer.op != VARIABLE
        for shape in layer.shapes
    )
    limits.within(total, limits.NETWORK_BYTES, 'the size of all values of one picture')
    states = {state for layer in order for state in layer.auxiliary}
    for layer in order:
        readers = layer.inputs[: len(layer.inputs) - len(layer.auxiliary)]
        shared = states.intersection(source for source, *_ in readers)
        if shared:
            name = min(state.name for state in shared)
            raise InputError(f'{name!r} is both a parameter and a running statistic')
    missing = [layer.name for layer in order if layer.op == VARIABLE and not layer.shapes]
    if missing:
        raise InputError(f'the shape of {missing[0]!r} does not follow from the layers')


def _shape(source: Layer, output: int) -> Optional[Shape]:
    if source.op == VARIABLE and output == 0 and not source.shapes:
        return None
    if output >= len(source.shapes):
        raise InputError(f'reads output {output} of {source.name!r}, which has fewer')
    return source.shapes[output]


def _without_hints(layer: Layer) -> dict[str, str]:
    """Attributes of an operator; hints for training are brought to their later form, or left out
    where they are meant for an input (`weight_lr_mult`)."""
    attrs = {}
    for name, text in layer.attrs.items():
        if name in _HINTS:
            attrs[f'__{name}__'] = text
        elif name in _HIDDEN or not name.endswith(_HINTS):
            attrs[name] = text
    return attrs


def _variable(layer: Layer) -> list[Shape]:
    """The shape that a variable states, if it does; what MXNet reads of it is checked."""
    if layer.inputs:
        raise InputError('is a variable with inputs')
    attrs = layer.attrs
    if attrs.get('__dtype__', '0') not in ('-1', *'01234567'):
        raise InputError(f'has the impossible type {attrs["__dtype__"][:40]!r}')
    if attrs.get('__storage_type__', '0') not in ('-1', '0'):
        raise InputError('is sparse')
    _check_initializer(attrs.get('__init__'))
    if '__shape__' not in attrs:
        return []
    shape = read_attributes('Reshape', {'shape': attrs['__shape__']})['shape']
    if not shape or min(shape) < 1:  # 0 stands for unknown
        return []
    return [shape]


def _check_initializer(text: Optional[str]) -> None:
    """Names of MXNet's initializers with plain numbers; another one could read files."""
    if text is None:
        return
    try:
        name, options = json.loads(text)
        known = name.lower() in _INITIALIZERS and all(
            isinstance(value, (int, float, str)) for value in options.values()
        )
    except (ValueError, TypeError, AttributeError, RecursionError):
        known = text.lower() in _INITIALIZERS
    if not known:
        raise InputError(f'has the unknown initializer {text[:40]!r}')
