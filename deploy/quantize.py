"""Static int8 quantisation of an exported ONNX model by onnxruntime's quantiser."""

import contextlib
import logging
import math
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..common import console
from ..common.data.detect import warn_if_unaligned
from ..common.data.image import decode_rgb, middle_crop
from ..common.data.records import Records, open_records
from ..common.engine.parity import cosines
from ..common.errors import InputError
from ..common.extras import need
from ..common.files import PathLike, atomic_write
from ..common.names import DATA
from ..eval.datasets import load_bin

log = logging.getLogger(__name__)

MIN_COSINE = 0.995  # mean, to the float32 model; below it layers return to float
_BATCH = 16  # images per calibration step
_PROBES = 16
_ROUNDS = 3
_STRICTER = 0.5  # what a round aims at beside the one before
_MAX_GROWTH = 0.1  # of the file, by layers in float
_FLOAT_GROWTH = 3  # bytes that a weight in float takes more
# Only what these layers read becomes int8. Their outputs stay as they are up to the PReLU, which
# OpenVINO takes into the layer before it: rounded twice, the network is 1.3 times slower there and
# less accurate everywhere. onnxruntime is 1.3 times faster with both, and far slower either way.
_LAYERS = ('Conv', 'Gemm', 'Add')


def calibration_images(path: PathLike, count: int) -> np.ndarray:
    """Aligned crops of a data set, spread evenly over it.

    Parameters
    ----------
    path : a `.bin`, or a training set as `open_records` takes it: a `.rec`, crops in folders, or
        what a function in SOURCES knows
    count : how many; all of a smaller set

    Returns
    -------
    uint8 (n, 112, 112, 3) RGB, n <= count

    Raises
    ------
    InputError for none of these, a missing or damaged file and a picture that does not decode.
    """
    path = Path(path)
    if path.suffix == '.bin':
        images, _ = load_bin(path)
        return images[_spread(len(images), count)]
    try:
        records = open_records(path)
    except InputError as error:
        raise InputError(f'calibration set: {error}') from None
    with contextlib.closing(records):
        chosen = _spread(len(records), count)
        warn_if_unaligned(path, chosen, lambda row: records.read(row)[1])
        return np.stack([_picture(records, row) for row in chosen])


def _spread(total: int, count: int) -> np.ndarray:
    return np.unique(np.linspace(0, total - 1, min(count, total)).astype(int))


def _picture(records: Records, row: int) -> np.ndarray:
    try:
        image = decode_rgb(records.read(row)[1])
    except InputError as error:
        raise InputError(f'{records.name(row)}: {error}') from None
    return middle_crop(image)


class Quantised(NamedTuple):
    """What became of a model in int8."""

    cosine: float  # to the float32 model: mean over the probes, in onnxruntime
    kept_float: tuple[str, ...]  # layers whose rounding costs too much, in the order of the network


class _Layer(NamedTuple):
    """What a layer costs in float and what its rounding costs in accuracy."""

    name: str
    products: int  # multiplications of one image, the measure of its time
    weights: int
    loss: float  # of the mean cosine if this layer alone is int8


def quantize_int8(
    model: PathLike, target: PathLike, images: np.ndarray, min_cosine: float = MIN_COSINE
) -> Quantised:
    """Write the int8 form of a float32 ONNX model: weights per output channel, what layers and
    additions read with the ranges it has on `images`.

    Where the whole network in int8 stays below `min_cosine`, each layer is tried in int8 alone; the
    losses add up well, so the layers whose return to float buys the most for its time are known.
    At most three rounds leave more and more of them in float, and never so many that the file
    grows by more than a tenth.

    Parameters
    ----------
    model : ONNX file with the input `data` float32 or uint8
    target : file to write
    images : uint8 (N, 112, 112, 3) RGB, faces such as the network will see
    min_cosine : to the float32 model, mean over up to 16 of the images
    """
    onnx = need('onnx', 'deploy')
    network = onnx.load(str(model))
    _flatten_prelus(network)
    work = _Quantizer(network, images)
    kept: tuple[str, ...] = ()
    content = work.int8(excluded=kept)
    cosine = work.cosine(content)
    layers: list[_Layer] = []
    aim = 1 - min_cosine
    for _ in range(_ROUNDS):
        if cosine >= min_cosine:
            break
        if not layers:
            log.info('cosine %.4f in int8: looking for the layers that cost it', cosine)
            layers = work.layers()
        kept = _cheapest(layers, aim)
        content = work.int8(excluded=kept)
        cosine = work.cosine(content)
        aim *= _STRICTER
    atomic_write(target, content)
    if kept:
        log.info(
            'cosine %.4f with %d of %d layers in float: %s',
            cosine,
            len(kept),
            len(layers),
            ', '.join(kept),
        )
    if cosine < min_cosine:
        log.warning(
            '%s: mean cosine %.4f to float32 where %g is aimed at, with %d of %d layers in float; '
            'calibrate on more faces, or take the float32 file',
            *(Path(target).name, cosine, min_cosine, len(kept), len(layers)),
        )
    return Quantised(cosine, kept)


def _cheapest(layers: list[_Layer], aim: float) -> tuple[str, ...]:
    """Layers to leave in float so that the losses of the others sum to `aim` at most, if the file
    may grow so far: by most cosine for their time, without those that the last ones made needless.
    """
    room = _MAX_GROWTH * sum(layer.weights for layer in layers) / _FLOAT_GROWTH
    left = sum(layer.loss for layer in layers)
    chosen: list[_Layer] = []
    for layer in sorted(layers, key=lambda one: one.loss / one.products, reverse=True):
        if left <= aim:
            break
        if layer.weights <= room and layer.loss > 0:
            chosen.append(layer)
            room -= layer.weights
            left -= layer.loss
    for layer in sorted(chosen, key=lambda one: one.loss):
        if left + layer.loss <= aim:
            chosen.remove(layer)
            left += layer.loss
    names = {layer.name for layer in chosen}
    return tuple(layer.name for layer in layers if layer.name in names)


class _Quantizer:
    """A network in memory, the ranges of what its layers read, and what it gives for the probes."""

    def __init__(self, network, images: np.ndarray):
        onnx = need('onnx', 'deploy')
        need('onnxruntime.quantization', 'deploy')
        from onnxruntime.quantization import calibrate

        self._content = network.SerializeToString()
        tensor = network.graph.input[0].type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type)

        def layout(batch: np.ndarray) -> dict[str, np.ndarray]:
            return {DATA: np.ascontiguousarray(batch.transpose(0, 3, 1, 2), dtype)}

        class Reader(calibrate.CalibrationDataReader):
            def __init__(self):
                self._starts = iter(range(0, len(images), _BATCH))

            def get_next(self):
                start = next(self._starts, None)
                return None if start is None else layout(images[start : start + _BATCH])

        with tempfile.TemporaryDirectory() as folder, _quiet_root_logger():
            path = Path(folder) / 'model.onnx'
            path.write_bytes(self._content)
            # the mean of the batches' ranges: single pictures with values far outside would take
            # the resolution of all others (MobileFaceNet y1: cosine 0.93 against 0.88)
            calibrator = calibrate.create_calibrator(
                path,
                list(_LAYERS),
                str(Path(folder) / 'augmented.onnx'),
                extra_options={'moving_average': True},
            )
            calibrator.collect_data(Reader())
            self._ranges = calibrator.compute_data()
        self._probes = layout(images[:: max(1, len(images) // _PROBES)][:_PROBES])
        self._expected = self._run(self._content)

    def int8(self, excluded: Sequence[str] = (), only: Sequence[str] = ()) -> bytes:
        """The network with all layers in int8 but some, or with some alone."""
        onnx = need('onnx', 'deploy')
        from onnxruntime.quantization import QuantType
        from onnxruntime.quantization.qdq_quantizer import QDQQuantizer

        with _quiet_root_logger():
            quantizer = QDQQuantizer(
                onnx.load_model_from_string(self._content),
                per_channel=True,
                # 7 bits for weights: without VNNI, a processor adds two products of 8 bits in 16
                # and cuts off what does not fit (MobileFaceNet y1 in OpenVINO: smallest cosine
                # 0.91 against 0.99); with VNNI 8 bits are not measurably better
                reduce_range=True,
                weight_qType=QuantType.QInt8,
                activation_qType=QuantType.QUInt8,
                tensors_range=self._ranges,
                nodes_to_quantize=list(only),
                nodes_to_exclude=list(excluded),
                op_types_to_quantize=list(_LAYERS),
                extra_options={'OpTypesToExcludeOutputQuantization': list(_LAYERS)},
            )
            quantizer.quantize_model()
        quantizer.model.topological_sort()
        network = quantizer.model.model
        _normalisation_first(network)
        # an open batch size among the shapes of inner values breaks converters
        del network.graph.value_info[:]
        return network.SerializeToString()

    def cosine(self, content: bytes) -> float:
        """Mean over the probes, to the float32 network."""
        return float(cosines(self._run(content), self._expected).mean())

    def layers(self) -> list[_Layer]:
        """Every layer tried in int8 alone, with a progress bar."""
        found = [node for node in self._network().graph.node if node.op_type in _LAYERS]
        sizes = self._sizes()
        layers = []
        with console.progress(len(found), 'int8 layer by layer', 'layers') as bar:
            for node in found:
                loss = 1 - self.cosine(self.int8(only=[node.name]))
                layers.append(_Layer(node.name, *sizes[node.name], loss))
                bar.advance()
        return layers

    def _network(self):
        return need('onnx', 'deploy').load_model_from_string(self._content)

    def _sizes(self) -> dict[str, tuple[int, int]]:
        """Name of a layer -> (multiplications of one image, weights)."""
        onnx = need('onnx', 'deploy')
        network = onnx.shape_inference.infer_shapes(self._network())
        shapes = {
            value.name: [length.dim_value for length in value.type.tensor_type.shape.dim[1:]]
            for value in (*network.graph.value_info, *network.graph.output)
        }
        weights = {tensor.name: list(tensor.dims) for tensor in network.graph.initializer}
        sizes = {}
        for node in network.graph.node:
            positions = math.prod(shapes[node.output[0]]) if node.output[0] in shapes else 1
            shape = weights.get(node.input[1]) if len(node.input) > 1 else None
            per_position = math.prod(shape[1:]) if shape else 1
            sizes[node.name] = positions * per_position, math.prod(shape) if shape else 0
        return sizes

    def _run(self, content: bytes) -> np.ndarray:
        ort = need('onnxruntime', 'deploy')
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # threads that wait for work would take as much of the CPU again; nobody waits for this
        options.add_session_config_entry('session.intra_op.allow_spinning', '0')
        session = ort.InferenceSession(content, options, providers=['CPUExecutionProvider'])
        return session.run(None, self._probes)[0]


def _normalisation_first(network) -> None:
    """Put what happens to the input ahead of all other nodes of an onnx.ModelProto.

    InsightFace's Python package looks for a subtraction and a multiplication among the first eight
    nodes, and normalises once more where it does not see them.
    """
    front, value = [], DATA
    nodes = list(network.graph.node)
    for node in nodes:
        if node.op_type in ('Cast', 'Identity', 'Sub', 'Mul') and node.input[0] == value:
            front.append(node)
            value = node.output[0]
    rest = [node for node in nodes if node not in front]
    del network.graph.node[:]
    network.graph.node.extend([*front, *rest])


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
