"""YuNet (Wu, Peng and Yu, Machine Intelligence Research 20, 2023), from a file, through OpenCV.

cv2.FaceDetectorYN runs any network whose twelve outputs have YuNet's names, and reads beyond them
where they are too small. So what a file holds is checked before OpenCV gets it. For many pictures
onnxruntime runs the network, in half of the time, and faces are read off its outputs here.

Its points alone cost a network that decides by the crops one to three points of accuracy, so they
are found again by MTCNN's last network, in half a millisecond a face.
"""

from pathlib import Path
from typing import Callable, Optional

import cv2
import numpy as np

from ...errors import InputError
from ...extras import missing, need
from ...files import input_file
from ...limits import LAYER_BYTES
from . import DETECTORS, Detector, Faces, made_smaller, no_faces
from .mtcnn import PointNetwork

_MAX_BYTES = 32 << 20  # the published files have 0.2 to 0.4 MB
_MAX_NODES = 1000  # and about 100 nodes
_STRIDES = (8, 16, 32)  # pixels between the places of three grids, on each of which faces are told
_NUMBERS = {'cls': 1, 'obj': 1, 'bbox': 4, 'kps': 10}  # what is told at each place
# what the published files are made of; all of it OpenCV runs on pictures of other sizes
_OPERATORS = {'Add', 'Conv', 'MaxPool', 'Relu', 'Reshape', 'Resize', 'Sigmoid', 'Transpose'}
_FLOAT, _INT64 = 1, 7  # of ONNX
_ROUNDED = 32  # pixels, to a multiple of which a picture is filled up: few sizes are to be prepared
# networks in OpenCV: coarse to fine two sizes come in turn, and to be prepared for another one
# takes a network as long as a small picture
_PREPARED = 2
_OVERLAP = 0.3  # of two boxes that are one face, as in OpenCV's own example
_MAX_FACES = 5000
_FARTHEST = 1e6  # pixels: what is told beyond is no face
_EXTRA = 'deploy'


@DETECTORS.register('yunet')
class YuNet(Detector):
    title = 'YuNet'
    smallest = 10
    side = 640
    usual_score = 0.6
    exact_from = 1  # the points are found again in the picture as it is

    def __init__(self, model: str, min_size: float, min_score: float):
        if not model:
            raise InputError('detector yunet: give its file, --detector FILE.onnx')
        self._model = model
        content = _read(input_file(model, 'detector'))
        self._graph = _checked_graph(model, content)
        self._scale = min(1, self.smallest / min_size)
        self._min_score = min_score
        self._sizes: set[tuple[int, int]] = set()
        self._check_size(self.side, self.side)
        self._content = content
        size = (self.side, self.side)
        self._networks = {size: self._loaded(size)}  # by sizes, the last one used comes last
        self._run = self._by_opencv
        self._points = PointNetwork(many=False)

    def expect_many(self) -> None:
        self._points = PointNetwork(many=True)
        if not missing('onnxruntime'):
            self._run = self._onnxruntime()

    @classmethod
    def reads(cls, path: Path) -> bool:
        return path.suffix == '.onnx'

    def find(self, image: np.ndarray) -> Faces:
        return self.find_larger(image, 1)

    def find_larger(self, image: np.ndarray, times: float) -> Faces:
        height, width = image.shape[:2]
        # small ones make it faster, and no face that is asked for is smaller than it finds
        scale = self._scale / times
        small = made_smaller(image, scale) if scale < 1 else image
        found = self._run(self._canvas(small))
        if found is None:
            return no_faces()
        found = found[np.isfinite(found).all(axis=1)].astype(np.float64)
        scale = np.array([width / small.shape[1], height / small.shape[0]])
        boxes = found[:, :4] * np.tile(scale, 2)
        # its 'right' is the person's, which is on the left in the picture, as in our template
        landmarks = found[:, 4:14].reshape(-1, 5, 2) * scale
        return Faces(boxes, found[:, 14].clip(0, 1), landmarks)

    def exact_landmarks(self, image: np.ndarray, faces: Faces) -> np.ndarray:
        return self._points(image, faces.landmarks)

    def _canvas(self, image: np.ndarray) -> np.ndarray:
        """A picture as BGR, filled up with black to one of a few sizes."""
        height, width = (-(-length // _ROUNDED) * _ROUNDED for length in image.shape[:2])
        if (width, height) not in self._sizes:
            self._check_size(width, height)
        canvas = np.zeros((height, width, 3), np.uint8)
        cv2.cvtColor(image, cv2.COLOR_RGB2BGR, canvas[: image.shape[0], : image.shape[1]])
        return canvas

    def _by_opencv(self, canvas: np.ndarray) -> Optional[np.ndarray]:
        """(N, 15) float32 of a canvas: box, five points and score of each face; None for none."""
        size = canvas.shape[1::-1]
        network = self._networks.pop(size, None)
        if network is None and len(self._networks) < _PREPARED:
            network = self._loaded(size)
        elif network is None:
            network = self._networks.pop(next(iter(self._networks)))
            network.setInputSize(size)
        self._networks[size] = network
        try:
            return network.detect(canvas)[1]
        except cv2.error as error:
            raise _no_yunet(self._model, f'OpenCV does not run it ({error.err})') from None

    def _loaded(self, size: tuple[int, int]) -> cv2.FaceDetectorYN:
        """The network in OpenCV for pictures of a size, width and height."""
        arrays = np.frombuffer(self._content, np.uint8), np.empty(0, np.uint8)
        settings = size, self._min_score, _OVERLAP, _MAX_FACES
        try:
            return cv2.FaceDetectorYN.create('onnx', *arrays, *settings)
        except cv2.error as error:
            raise _no_yunet(self._model, f'OpenCV does not load it ({error.err})') from None

    def _onnxruntime(self) -> Callable[[np.ndarray], np.ndarray]:
        """What gives the faces of `_by_opencv`, to rounding."""
        import onnxruntime

        model = type(self._graph)()
        model.CopyFrom(self._graph)
        data = model.graph.input[0]
        for side, name in zip(data.type.tensor_type.shape.dim[2:], ('height', 'width')):
            side.dim_param = name
        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = 1  # pictures go on beside each other
        settings.log_severity_level = 3
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), settings, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # of the package's C++ code, a class for each kind
            raise _no_yunet(self._model, str(error).strip().splitlines()[0][:100]) from None
        names = [f'{kind}_{stride}' for stride in _STRIDES for kind in _NUMBERS]

        def run(canvas: np.ndarray) -> np.ndarray:
            pixels = cv2.dnn.blobFromImage(canvas)
            outputs = dict(zip(names, session.run(names, {data.name: pixels})))
            return _told(outputs, canvas.shape[1], self._min_score)

        return run

    def _check_size(self, width: int, height: int) -> None:
        """InputError unless the outputs for a size of picture are YuNet's."""
        onnx = need('onnx', _EXTRA)
        graph = self._graph.graph
        sides = graph.input[0].type.tensor_type.shape.dim
        for side, length in zip(sides, (1, 3, height, width)):
            side.dim_value = length
        try:
            inferred = onnx.shape_inference.infer_shapes(
                self._graph, check_type=True, strict_mode=True, data_prop=True
            ).graph
        except Exception as error:  # of the package's C++ code, whose class differs by version
            raise _no_yunet(self._model, str(error).strip().splitlines()[0][:100]) from None
        shapes = {
            value.name: [side.dim_value for side in value.type.tensor_type.shape.dim]
            for value in (*inferred.value_info, *inferred.output)
        }
        for node in inferred.node:
            for name in node.output:
                sides = shapes.get(name, [0])
                if min(sides, default=0) < 1 or 4 * np.prod(sides, dtype=float) > LAYER_BYTES:
                    raise _no_yunet(self._model, f'its layer {name[:40]!r} gives {sides[:8]}')
        for stride in _STRIDES:
            places = (height // stride) * (width // stride)
            for kind, numbers in _NUMBERS.items():
                found = shapes[f'{kind}_{stride}']
                if found != [1, places, numbers]:
                    raise _no_yunet(
                        self._model,
                        f'its output {kind}_{stride} is {found} for {width}x{height} pixels',
                    )
        self._sizes.add((width, height))


def _told(outputs: dict[str, np.ndarray], width: int, min_score: float) -> np.ndarray:
    """(N, 15) of the faces that the outputs for a canvas of some width tell, as OpenCV reads them.

    A place tells a box by its centre, from the place's corner, and the logarithms of its sides, all
    in strides. Its score is the geometric mean of two.
    """
    rows = [np.empty((0, 15), np.float32)]
    for stride in _STRIDES:
        kind = {name: outputs[f'{name}_{stride}'][0] for name in _NUMBERS}
        scores = np.sqrt(kind['cls'].clip(0, 1) * kind['obj'].clip(0, 1))
        places = np.flatnonzero(scores[:, 0] >= min_score)
        corners = np.stack([places % (width // stride), places // (width // stride)], 1)
        corners = corners.astype(np.float32)
        told = kind['bbox'][places]
        with np.errstate(over='ignore', invalid='ignore'):  # a face of such a size is left out
            sides = np.exp(told[:, 2:]) * stride
            low = (corners + told[:, :2]) * stride - sides / 2
        points = (kind['kps'][places] + np.tile(corners, 5)) * stride
        rows.append(np.hstack([low, sides, points, scores[places]]))
    found = np.concatenate(rows)
    found = found[np.isfinite(found).all(axis=1) & (np.abs(found) < _FARTHEST).all(axis=1)]
    if len(found) < 2:
        return found
    boxes = np.trunc(found[:, :4]).astype(np.float64)
    kept = cv2.dnn.NMSBoxes(boxes, found[:, 14], min_score, _OVERLAP, 1.0, _MAX_FACES)
    return found[np.asarray(kept, int).ravel()]


def _no_yunet(model: str, why: str) -> InputError:
    return InputError(f'detector {model} is no YuNet: {why}')


def _read(path: Path) -> bytes:
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise _no_yunet(str(path), f'it has {size} bytes, more than {_MAX_BYTES}')
    return path.read_bytes()


def _checked_graph(model: str, content: bytes) -> 'onnx.ModelProto':  # noqa: F821
    """The model without its sizes of outputs; InputError unless its parts are YuNet's."""
    onnx = need('onnx', _EXTRA)
    try:
        loaded = onnx.load_model_from_string(content)
        onnx.checker.check_model(loaded)
    except Exception as error:  # protobuf's DecodeError, whose module differs by version
        raise _no_yunet(
            model, (str(error).strip() or 'nothing in it').splitlines()[0][:100]
        ) from None
    graph = loaded.graph
    arrays = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in arrays]
    wanted = sorted(f'{kind}_{stride}' for kind in _NUMBERS for stride in _STRIDES)
    if sorted(value.name for value in graph.output) != wanted or len(inputs) != 1:
        names = ', '.join(value.name[:20] for value in graph.output[:6])
        raise _no_yunet(
            model, f'it has {len(inputs)} inputs and the outputs {names}; expected cls_8 ... kps_32'
        )
    if len(graph.input) != 1 or len(inputs[0].type.tensor_type.shape.dim) != 4:
        raise _no_yunet(model, 'expected one input of N x 3 x H x W')
    others = {node.op_type for node in graph.node} - _OPERATORS
    if others or len(graph.node) > _MAX_NODES or loaded.functions or graph.sparse_initializer:
        raise _no_yunet(
            model,
            f'{len(graph.node)} layers, among them {", ".join(sorted(others))[:80] or "such"}',
        )
    for tensor in graph.initializer:
        _check_array(model, tensor)
    for node in graph.node:
        _check_layer(model, node, arrays)
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField('shape')
    return loaded


def _check_array(model: str, tensor) -> None:
    """InputError for weights that are not as large as they say, or lie elsewhere."""
    width = {_FLOAT: 4, _INT64: 8}.get(tensor.data_type)
    count = np.prod(tensor.dims, dtype=float)
    if width is None or tensor.external_data or tensor.data_location:
        raise _no_yunet(model, f'its array {tensor.name[:40]!r} is not of float32 in the file')
    given = len(tensor.raw_data) / width or len(tensor.float_data) or len(tensor.int64_data)
    if given != count or any(length < 0 for length in tensor.dims):
        raise _no_yunet(
            model,
            f'its array {tensor.name[:40]!r} of {list(tensor.dims)[:8]} holds {given:g} numbers',
        )


def _check_layer(model: str, node, arrays: dict) -> None:
    """InputError for a layer whose output for another size of picture OpenCV may get wrong."""
    onnx = need('onnx', _EXTRA)
    settings = {item.name: onnx.helper.get_attribute_value(item) for item in node.attribute}
    constants = [arrays.get(name) for name in node.input]
    good = bool(node.input) and constants[0] is None and len(node.output) == 1
    if node.op_type == 'Conv':
        weight = constants[1] if len(constants) in (2, 3) else None
        good &= weight is not None and len(weight.dims) == 4 and constants[-1] is not None
        good = good and settings.get('kernel_shape', weight.dims[2:]) == list(weight.dims[2:])
        good &= settings.get('group', 1) >= 1
    elif node.op_type == 'Reshape':
        shape = constants[1] if len(constants) == 2 else None
        good &= shape is not None and shape.data_type == _INT64
        good = good and onnx.numpy_helper.to_array(shape).ravel()[:2].tolist() == [1, -1]
    elif node.op_type == 'Resize':
        scales = constants[2] if len(constants) == 3 else None
        good &= scales is not None and scales.data_type == _FLOAT
        good = good and onnx.numpy_helper.to_array(scales).tolist() == [1, 1, 2, 2]
    elif node.op_type == 'Transpose':
        good &= settings.get('perm') == [0, 2, 3, 1]
    elif node.op_type == 'Add':
        good &= len(constants) == 2 and constants[1] is None
    numbers = [
        number
        for name in ('kernel_shape', 'strides', 'dilations', 'pads')
        for number in settings.get(name, [])
    ]
    if not good or not all(0 <= number <= 64 for number in numbers):
        raise _no_yunet(model, f'its layer {node.name[:40]!r} ({node.op_type}) is of another kind')
