"""Rewrites of symbols for tests of gradients: PReLU exact in float64, probes to measure through."""

import json

from vargfacenet.common.backend import mx


def edited(symbol, edit):
    """The symbol with every node put through `edit(add, node, inputs)`.

    `add(op, name, inputs, **attributes)` appends a node and returns its output; `edit` returns the
    output that readers of the node get in its place, or None to keep the node.
    """
    graph = json.loads(symbol.tojson())
    nodes, new_index = [], {}

    def add(op, name, inputs, **attrs):
        nodes.append({'op': op, 'name': name, 'inputs': inputs, 'attrs': attrs})
        return [len(nodes) - 1, 0, 0]

    def entry(old):
        index, *output_and_version = old
        return [new_index[index], *output_and_version]

    for index, node in enumerate(graph['nodes']):
        inputs = [entry(old) for old in node['inputs']]
        output = edit(add, node, inputs)
        if output is None:
            output = add(node['op'], node['name'], inputs, **node.get('attrs', {}))
        new_index[index] = output[0]
    arguments = [index for index, node in enumerate(nodes) if node['op'] == 'null']
    heads = [entry(old) for old in graph['heads']]
    new = {'nodes': nodes, 'arg_nodes': arguments, 'heads': heads, 'attrs': graph['attrs']}
    return mx.sym.load_json(json.dumps(new))


def exact_prelu(symbol, flat=()):
    """PReLUs as relu(x) - slope * relu(-x); `flat` names those with a 2-D input.

    MXNet's own PReLU rounds to float32 even in float64, and its gradient can be wrong.
    """

    def edit(add, node, inputs):
        if node['op'] != 'LeakyReLU':
            return None
        name, (x, slope) = node['name'], inputs
        shape = '(1, -1)' if name in flat else '(1, -1, 1, 1)'
        weight = add('Reshape', f'{name}_weight', [slope], shape=shape)
        negative = add('relu', f'{name}_negative', [add('negative', f'{name}_negated', [x])])
        product = add('broadcast_mul', f'{name}_product', [negative, weight])
        return add('elemwise_sub', name, [add('relu', f'{name}_positive', [x]), product])

    return edited(symbol, edit)


def probed(symbol, shapes):
    """The symbol with an argument `probe_NAME` of the given shape added to each named output.

    The gradient of a probe is the gradient of the loss by that output.
    """

    def edit(add, node, inputs):
        name = node['name']
        if name not in shapes:
            return None
        output = add(node['op'], name, inputs, **node.get('attrs', {}))
        probe = add('null', f'probe_{name}', [], __shape__=str(shapes[name]))
        return add('elemwise_add', f'{name}_probed', [output, probe])

    return edited(symbol, edit)
