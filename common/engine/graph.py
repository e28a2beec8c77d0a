"""MXNet symbols as a list of nodes that passes read and change."""

import json
from dataclasses import dataclass, field

import numpy as np

from ..backend import mx
from ..errors import InputError


@dataclass(eq=False)
class Node:
    """One operator or variable (`op` is 'null') of a symbol.

    `inputs` are (node, output index) pairs; `shapes` are those of its visible outputs, () where
    unknown; `batched` says that it depends on an input of the network, not on parameters alone,
    `changed` that a pass made it something else.
    """

    op: str
    name: str
    attrs: dict = field(default_factory=dict)
    inputs: list = field(default_factory=list)
    extra: dict = field(default_factory=dict)  # what else the JSON holds, such as subgraphs
    shapes: list = field(default_factory=list)
    batched: bool = False
    changed: bool = False

    @property
    def shape(self) -> tuple:
        return self.shapes[0]

    def become(self, op: str, inputs: list, **attrs: str) -> None:
        """Turn into another operator of the same name; hidden attributes (`__x__`) stay."""
        hidden = {key: value for key, value in self.attrs.items() if key.startswith('__')}
        self.op, self.inputs, self.attrs = op, inputs, {**hidden, **attrs}
        self.changed = True


def parse(symbol: 'mx.sym.Symbol', shapes: dict, fixed: set) -> tuple[list[Node], list, dict]:
    """Take a symbol apart.

    Parameters
    ----------
    symbol : any
    shapes : input name -> shape
    fixed : names of all inputs of the network; every other variable is a parameter

    Returns
    -------
    (nodes, heads, attrs): Nodes in topological order, the outputs as (node, output index) pairs,
    and the attributes of the whole symbol, for `assemble`.

    Raises
    ------
    InputError if a parameter's shape does not follow from `shapes`.
    """
    graph = json.loads(symbol.tojson())
    nodes = []
    for item in graph['nodes']:
        inputs = [(nodes[index], output) for index, output, *_ in item.pop('inputs')]
        node = Node(item.pop('op'), item.pop('name'), item.pop('attrs', {}), inputs, item)
        node.batched = node.name in fixed or any(source.batched for source, _ in inputs)
        nodes.append(node)
    internals = symbol.get_internals()
    _, output_shapes, _ = internals.infer_shape_partial(**shapes)
    for (index, *_), shape in zip(json.loads(internals.tojson())['heads'], output_shapes):
        nodes[index].shapes.append(shape or ())
    for node in nodes:
        if node.op == 'null' and node.name not in fixed and not (node.shape and all(node.shape)):
            raise InputError(
                f'the shape of parameter {node.name!r} does not follow from the input shapes '
                f'{shapes}; give the shape of every input of the network'
            )
    heads = [(nodes[index], output) for index, output, *_ in graph['heads']]
    return nodes, heads, graph['attrs']


def constant_value(symbol: 'mx.sym.Symbol', node: Node, arrays: dict) -> np.ndarray:
    """The value of an operator that does not depend on the inputs of the network.

    `arrays` has the parameters by name, as NumPy arrays.
    """
    output = symbol.get_internals()[f'{node.name}_output']
    arguments = {name: mx.nd.array(arrays[name]) for name in output.list_arguments()}
    return output.bind(mx.cpu(), arguments).forward()[0].asnumpy()


def reached(heads: list) -> list[Node]:
    """What `heads` reach, (node, output index) pairs; every node behind its inputs."""
    order, seen = [], set()
    stack = [node for node, _ in reversed(heads)]
    while stack:
        node = stack[-1]
        missing = [source for source, _ in node.inputs if source not in seen]
        if missing:
            stack.append(missing[0])
            continue
        stack.pop()
        if node not in seen:
            seen.add(node)
            order.append(node)
    return order


def assemble(heads: list, attrs: dict) -> 'mx.sym.Symbol':
    """The symbol of what `heads` reach, (node, output index) pairs; `attrs` as from `parse`."""
    order = reached(heads)
    index = {node: position for position, node in enumerate(order)}

    def entries(pairs: list) -> list:
        return [[index[node], output, 0] for node, output in pairs]

    graph = {
        'nodes': [
            dict(node.extra, op=node.op, name=node.name, attrs=node.attrs,
                 inputs=entries(node.inputs))
            for node in order
        ],
        'arg_nodes': [index[node] for node in order if node.op == 'null'],
        'heads': entries(heads),
        'attrs': attrs,
    }  # fmt: skip
    return mx.sym.load_json(json.dumps(graph))


def flag(node: Node, name: str, default: bool) -> bool:
    """An attribute that is true or false; symbols write it in several ways."""
    return node.attrs.get(name, str(default)).lower() in ('true', '1')
