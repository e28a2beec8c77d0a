"""MXNet symbols as a list of nodes that passes read and change: JSON in, JSON out."""

from dataclasses import dataclass, field


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


def parse(graph: dict, shapes: list, fixed: set) -> tuple[list[Node], list, dict]:
    """Take a symbol apart.

    Parameters
    ----------
    graph : what the symbol's JSON holds; it is used up
    shapes : of every node's visible outputs, a list for each node
    fixed : names of all inputs of the network; every other variable is a parameter

    Returns
    -------
    (nodes, heads, attrs): Nodes in topological order, the outputs as (node, output index) pairs,
    and the attributes of the whole symbol, for `assemble`.
    """
    nodes: list[Node] = []
    for item, known in zip(graph['nodes'], shapes):
        inputs = [(nodes[index], output) for index, output, *_ in item.pop('inputs')]
        node = Node(item.pop('op'), item.pop('name'), item.pop('attrs', {}), inputs, item, known)
        node.batched = node.name in fixed or any(source.batched for source, _ in inputs)
        nodes.append(node)
    heads = [(nodes[index], output) for index, output, *_ in graph['heads']]
    return nodes, heads, graph['attrs']


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


def assemble(heads: list, attrs: dict) -> dict:
    """What the JSON holds of the symbol that `heads` reach, (node, output index) pairs; `attrs` as
    from `parse`."""
    order = reached(heads)
    index = {node: position for position, node in enumerate(order)}

    def entries(pairs: list) -> list:
        return [[index[node], output, 0] for node, output in pairs]

    def item(node: Node) -> dict:
        inputs = entries(node.inputs)
        return {
            **node.extra,
            'op': node.op,
            'name': node.name,
            'attrs': node.attrs,
            'inputs': inputs,
        }

    return {
        'nodes': [item(node) for node in order],
        'arg_nodes': [index[node] for node in order if node.op == 'null'],
        'heads': entries(heads),
        'attrs': attrs,
    }


def flag(node: Node, name: str, default: bool) -> bool:
    """An attribute that is true or false; symbols write it in several ways."""
    return node.attrs.get(name, str(default)).lower() in ('true', '1')
