"""A detector file with YuNet's input and outputs, whose weights are made to see bright squares."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

BOX = (0.5, 0.25, np.log(3.0), np.log(4.0))  # of the place: centre in its sides, log of its sides
POINTS = np.array([(0.1, 0.2), (0.9, 0.3), (0.5, 0.5), (0.2, 0.8), (0.8, 0.7)])
STRIDE = 8


def made_yunet(side: int = 640) -> bytes:
    """An ONNX model: a face is where a square of 8 pixels, a place of its finest grid, is white."""
    heads = {
        'cls': (1, 40.0, [-20.0]),
        'obj': (1, 40.0, [-20.0]),
        'bbox': (4, 0.0, BOX),
        'kps': (10, 0.0, POINTS.ravel()),
    }
    nodes, arrays, outputs = [], [], []
    for stride in (8, 16, 32):
        for kind, (numbers, slope, shift) in heads.items():
            name = f'{kind}_{stride}'
            slope = slope if stride == STRIDE else 0.0
            weight = np.full((numbers, 3, stride, stride), slope / (3 * 255 * stride**2))
            told = kind in ('cls', 'obj')
            for array, what in ((weight, 'weight'), (np.array(shift), 'bias')):
                array = array.astype(np.float32)
                arrays.append(numpy_helper.from_array(array, f'{name}_{what}'))
            shape = np.array([1, -1, numbers])
            arrays.append(numpy_helper.from_array(shape, f'{name}_shape'))
            parts = [f'{name}_conv', f'{name}_turned', f'{name}_flat' if told else name]
            nodes += [
                helper.make_node(
                    'Conv',
                    ['input', f'{name}_weight', f'{name}_bias'],
                    parts[:1],
                    kernel_shape=[stride] * 2,
                    strides=[stride] * 2,
                ),
                helper.make_node('Transpose', parts[:1], parts[1:2], perm=[0, 2, 3, 1]),
                helper.make_node('Reshape', [parts[1], f'{name}_shape'], parts[2:]),
            ]
            if told:
                nodes.append(helper.make_node('Sigmoid', parts[2:], [name]))
            shape = [1, (side // stride) ** 2, numbers]
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    data = helper.make_tensor_value_info('input', TensorProto.FLOAT, [1, 3, side, side])
    graph = helper.make_graph(nodes, 'made', [data], outputs, arrays)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 11)], ir_version=6)
    return model.SerializeToString()
