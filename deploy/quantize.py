"""Static int8 quantisation of an exported ONNX model by onnxruntime's quantiser."""

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..common.data.image import centre_crop, decode_rgb, resize_short_side
from ..common.data.recordio import RecordFile
from ..common.errors import InputError
from ..common.extras import need
from ..common.files import PathLike
from ..common.names import DATA, IMAGE_SIZE
from ..eval.datasets import load_bin

_BATCH = 16  # images per calibration step
# Only what these layers read becomes int8. Their outputs stay as they are up to the PReLU, which
# OpenVINO takes into the layer before it: rounded twice, the network is 1.3 times slower there and
# less accurate everywhere. onnxruntime is 1.3 times faster with both, and far slower either way.
_LAYERS = ('Conv', 'Gemm', 'Add')


def calibration_images(path: PathLike, count: int) -> np.ndarray:
    """Aligned crops of a data set, spread evenly over it.

    Parameters
    ----------
    path : a `.rec` (with its `.idx` and `property`) or a `.bin`
    count : how many; all of a smaller set

    Returns
    -------
    uint8 (n, 112, 112, 3) RGB, n <= count

    Raises
    ------
    InputError for another suffix, a missing or damaged file and a picture that does not decode.
    """
    path = Path(path)
    if path.suffix == '.bin':
        images, _ = load_bin(path)
        return images[_spread(len(images), count)]
    if path.suffix != '.rec':
        raise InputError(f'calibration images {path}: expected a .rec or a .bin file')
    records = RecordFile(path)
    with contextlib.closing(records):
        return np.stack([_picture(records, row) for row in _spread(len(records), count)])


def _spread(total: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))


def _picture(records: RecordFile, row: int) -> np.ndarray:
    try:
        image = decode_rgb(records.read(row)[1])
    except InputError as error:
        raise InputError(f'{records.name(row)}: {error}') from None
    return centre_crop(resize_short_side(image, IMAGE_SIZE), IMAGE_SIZE)


def quantize_int8(model: PathLike, target: PathLike, images: np.ndarray) -> None:
    """Write the int8 form of a float32 ONNX model: weights per output channel, what layers and
    additions read with the ranges it has on `images`.

    Parameters
    ----------
    model : ONNX file with the input `data` float32 or uint8
    target : file to write
    images : uint8 (N, 112, 112, 3) RGB, faces such as the network will see
    """
    onnx = need('onnx', 'deploy')
    quantization = need('onnxruntime.quantization', 'deploy')
    network = onnx.load(str(model))
    _flatten_prelus(network)
    tensor = network.graph.input[0].type.tensor_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)

    class Reader(quantization.CalibrationDataReader):
        def __init__(self):
            self._starts = iter(range(0, len(images), _BATCH))

        def get_next(self):
            start = next(self._starts, None)
            if start is None:
                return None
            batch = images[start : start + _BATCH].transpose(0, 3, 1, 2)
            return {DATA: np.ascontiguousarray(batch, dtype)}

    with _quiet_root_logger():
        quantization.quantize_static(
            network,
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            weight_type=quantization.QuantType.QInt8,
            activation_type=quantization.QuantType.QUInt8,
            op_types_to_quantize=list(_LAYERS),
            extra_options={'OpTypesToExcludeOutputQuantization': list(_LAYERS)},
        )


def _flatten_prelus(network) -> None:
    """Give the PReLUs over 1x1 maps in an onnx.ModelProto two axes instead of four.

    OpenVINO 2026.4 joins a PReLU to the convolution before it, and such a pair in int8 gives wrong
    numbers for a single image in a model whose batch size was open. With two axes it stays apart.
    """
    onnx = need('onnx', 'deploy')
    shapes = {
        value.name: [length.dim_value for length in value.type.tensor_type.shape.dim]
        for value in onnx.shape_inference.infer_shapes(network).graph.value_info
    }
    slopes = {tensor.name: tensor for tensor in network.graph.initializer}
    nodes = []
    for node in network.graph.node:
        data = node.input[0]
        if node.op_type != 'PRelu' or shapes.get(data, [])[2:] != [1, 1]:
            nodes.append(node)
            continue
        slope = onnx.numpy_helper.to_array(slopes[node.input[1]]).reshape(1, -1)
        slope = onnx.numpy_helper.from_array(slope, f'{node.name}_slopes')
        maps = onnx.numpy_helper.from_array(np.array([0, -1, 1, 1]), f'{node.name}_maps')
        network.graph.initializer.extend([slope, maps])
        flat, activated = f'{node.name}_flat', f'{node.name}_activated'
        nodes += [
            onnx.helper.make_node('Flatten', [data], [flat], flat, axis=1),
            onnx.helper.make_node('PRelu', [flat, slope.name], [activated], node.name),
            onnx.helper.make_node('Reshape', [activated, maps.name], node.output, maps.name),
        ]
    del network.graph.node[:]
    network.graph.node.extend(nodes)
    used = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in network.graph.initializer if tensor.name in used]
    del network.graph.initializer[:]
    network.graph.initializer.extend(kept)


@contextlib.contextmanager
def _quiet_root_logger() -> Iterator[None]:
    """onnxruntime's quantiser warns through the root logger that it was not run on a model that
    its own optimiser went over; ours has nothing left to fold."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
