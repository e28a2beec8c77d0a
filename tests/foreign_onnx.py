"""ONNX files as others write them: our own, taken apart and put together in another way."""

import numpy as np
import onnx
from onnx import helper, numpy_helper


def copied(model):
    other = onnx.ModelProto()
    other.CopyFrom(model)
    return other


def renamed(model, name='input.1', output='683'):
    """Other names of input and output."""
    model = copied(model)
    old, old_output = model.graph.input[0].name, model.graph.output[0].name
    for node in model.graph.node:
        node.input[:] = [name if value == old else value for value in node.input]
        node.output[:] = [output if value == old_output else value for value in node.output]
    model.graph.input[0].name = name
    model.graph.output[0].name = output
    return model


def replace_start(model, nodes, initializers=()):
    """The two nodes that bring 0..255 to -1..1 become others; `nodes(data, out)` makes them."""
    model = copied(model)
    graph = model.graph
    assert [node.op_type for node in graph.node[:2]] == ['Sub', 'Mul']
    rest = graph.node[2:]
    made = nodes(graph.input[0].name, graph.node[1].output[0])
    if not made:  # what read the product reads the input
        for node in rest:
            node.input[:] = [
                graph.input[0].name if value == graph.node[1].output[0] else value
                for value in node.input
            ]
    kept = [copied_node(node) for node in rest]
    del graph.node[:]
    graph.node.extend([*made, *kept])
    graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in initializers
    )
    return model


def copied_node(node):
    other = onnx.NodeProto()
    other.CopyFrom(node)
    return other


def normalisation_outside(model):
    """Takes (x - 127.5) / 128."""
    return replace_start(model, lambda data, out: [])


def field_normalisation_outside(model):
    """Takes (x - 127.5) / 127.5, as the files of this field do."""
    return replace_start(
        model,
        lambda data, out: [helper.make_node('Mul', [data, 'rescale'], [out])],
        [('rescale', 127.5 / 128)],
    )


def mul_add(model):
    """x / 128 - 127.5 / 128, a value a channel, the constant first."""
    return replace_start(
        model,
        lambda data, out: [
            helper.make_node('Mul', ['scale', data], ['scaled']),
            helper.make_node('Add', ['scaled', 'shift'], [out]),
        ],
        [
            ('scale', np.full((1, 3, 1, 1), 1 / 128)),
            ('shift', np.full((1, 3, 1, 1), -127.5 / 128)),
        ],
    )


def batch_norm(model):
    """A BatchNorm over the pixels, as InsightFace's first networks have."""
    return replace_start(
        model,
        lambda data, out: [
            helper.make_node('BatchNormalization', [data, 'g', 'b', 'm', 'v'], [out], epsilon=2e-5)
        ],
        [('g', np.ones(3)), ('b', np.zeros(3)), ('m', [127.5] * 3), ('v', [128**2 - 2e-5] * 3)],
    )


def channels_last(model):
    """Takes [N, 112, 112, 3] and transposes it itself."""
    model = copied(model)
    graph = model.graph
    name = graph.input[0].name
    for node in graph.node:
        node.input[:] = ['planes' if value == name else value for value in node.input]
    nodes = [helper.make_node('Transpose', [name], ['planes'], perm=[0, 3, 1, 2])]
    nodes += [copied_node(node) for node in graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    shape = graph.input[0].type.tensor_type.shape
    for length, value in zip(shape.dim[1:], (112, 112, 3)):
        length.dim_value = value
    return model


def fixed_batch(model, size=1):
    """Takes `size` pictures and no other number."""
    model = copied(model)
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = size
    return model


def blue_first(model):
    """Takes BGR: the first layer's weights are turned round."""
    model = copied(model)
    conv = next(node for node in model.graph.node if node.op_type == 'Conv')
    for tensor in model.graph.initializer:
        if tensor.name == conv.input[1]:
            weight = numpy_helper.to_array(tensor)[:, ::-1]
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(weight), tensor.name))
    return model


def with_norm(model):
    """Gives a second output (N, 1), the length of the embedding."""
    model = copied(model)
    graph = model.graph
    graph.node.append(
        helper.make_node('ReduceL2', [graph.output[0].name], ['norm'], axes=[1], keepdims=1)
    )
    graph.output.append(helper.make_tensor_value_info('norm', onnx.TensorProto.FLOAT, ['N', 1]))
    return model


def of_size(model, side):
    """Says that it takes pictures of another size."""
    model = copied(model)
    for length in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        length.dim_value = side
    return model
