"""Run times for an embedding network behind one interface: MXNet, onnxruntime, OpenVINO.

An engine takes aligned crops and gives embeddings; what it needs in layout, type, batch size and
threads is its own business. `fastest` picks the first of them that is installed and agrees with
MXNet.
"""

import functools
import logging
from pathlib import Path
from typing import Optional, Protocol, Union

import numpy as np
from google.protobuf.message import DecodeError

from ..data.image import decode_rgb
from ..errors import InputError
from ..extras import missing, need
from ..files import input_file
from ..names import DATA, IMAGE_SHAPE, IMAGE_SIZE
from ..parallel import cpu_count
from ..synth.face import jpeg_faces
from .fold import fold_batch_norms
from .mxnet import Embedder, check_images
from .network import Network

log = logging.getLogger(__name__)

Model = Union[bytes, str, Path]  # a serialised ONNX model, or the path of one

OUTPUT = 'embedding'
EXTRA = 'deploy'
MIN_COSINE = 0.9999  # to MXNet, of every probe; float32 gives 1 - 1e-7, bfloat16 about this
PRECISIONS = ('float32', 'bfloat16')
_PROBES = 4
_PROBE_SEED = 20191011
# OpenVINO is fastest with a stream on every CPU and this many images in each (measured: 4, 8, 16)
_STREAM_BATCH = 8


class Engine(Protocol):
    """What runs a network. `embed_batch` may be called from one thread at a time."""

    name: str
    embedding_size: int

    def embed_batch(self, images: np.ndarray) -> np.ndarray:
        """uint8 (N, 112, 112, 3) RGB, any N -> float32 (N, D), rows as the network gives them.

        Raises InputError for images of another dtype or shape.
        """


class MXNetEngine:
    """The network with its BatchNorms folded, and MXNet's and our fusions on top.

    Parameters
    ----------
    network : folded or not
    batch_size : images per forward pass
    """

    def __init__(self, network: Network, batch_size: int = 32):
        self.name = 'mxnet'
        self._network = fold_batch_norms(network)
        self._embedder = Embedder(self._network, batch_size=batch_size)
        self.embedding_size = self._embedder.embedding_size

    @functools.cached_property
    def _single(self) -> Embedder:
        # a batch is padded to its full size, which one image should not pay for
        return Embedder(self._network, batch_size=1)

    def embed_batch(self, images: np.ndarray) -> np.ndarray:
        return (self._single if len(images) == 1 else self._embedder).embed(images)


class OnnxRuntimeEngine:
    """An exported ONNX model in onnxruntime, on the CPU.

    Parameters
    ----------
    model : ONNX, float32 or int8
    batch_size : most images per run; memory grows with it
    threads : of one run, by default one per CPU

    Raises
    ------
    InputError for a model that does not load or has another contract, and without onnxruntime.
    """

    def __init__(self, model: Model, batch_size: int = 32, threads: Optional[int] = None):
        ort = need('onnxruntime', EXTRA)
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads or cpu_count()
        options.log_severity_level = 3  # warnings about graph optimisations are not for our users
        content = model if isinstance(model, bytes) else str(input_file(model, 'ONNX model'))
        try:
            self._session = ort.InferenceSession(
                content, options, providers=['CPUExecutionProvider']
            )
        except Exception as error:  # onnxruntime's errors have no base class but this
            raise _unreadable(model, error) from None
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self.name = 'onnxruntime'
        self.embedding_size = _check_contract(
            model,
            [(value.name, value.type, value.shape) for value in inputs],
            [(value.name, value.shape) for value in outputs],
        )
        self._dtype = np.uint8 if 'uint8' in inputs[0].type else np.float32
        self._batch_size = batch_size

    def embed_batch(self, images: np.ndarray) -> np.ndarray:
        check_images(images)
        embeddings = np.empty((len(images), self.embedding_size), np.float32)
        for start in range(0, len(images), self._batch_size):
            batch = images[start : start + self._batch_size].transpose(0, 3, 1, 2)
            data = np.ascontiguousarray(batch, self._dtype)
            embeddings[start : start + len(data)] = self._session.run(None, {DATA: data})[0]
        return embeddings


class OpenVinoEngine:
    """An exported ONNX model in OpenVINO, on the CPU.

    Parameters
    ----------
    model : ONNX, float32 or int8
    batch_size : how many images come at once, usually
    precision : of the arithmetic, 'float32' or 'bfloat16'
    threads : by default one per CPU

    Raises
    ------
    InputError for a model that does not load or has another contract, without OpenVINO, and for
    bfloat16 on a CPU that cannot compute in it.
    """

    def __init__(
        self,
        model: Model,
        batch_size: int = 32,
        precision: str = 'float32',
        threads: Optional[int] = None,
    ):
        self._ov = need('openvino', EXTRA)
        self._core = self._ov.Core()
        if precision == 'bfloat16' and not _has_bfloat16(self._core):
            raise InputError('this CPU has no bfloat16 arithmetic; use precision float32')
        self.name = 'openvino' + ('-bf16' if precision == 'bfloat16' else '')
        content = model if isinstance(model, bytes) else input_file(model, 'ONNX model')
        try:
            if not missing('onnx'):
                # OpenVINO shows what it cannot read to all its front ends, and some print lines
                whole = content if isinstance(content, bytes) else content.read_bytes()
                need('onnx', EXTRA).load_model_from_string(whole)
            self._model = self._core.read_model(content)
        except (RuntimeError, DecodeError) as error:
            raise _unreadable(model, error) from None
        self.embedding_size = _check_contract(
            model,
            [(value.any_name, value.element_type.get_type_name(), _ov_shape(value))
             for value in self._model.inputs],
            [(value.any_name, _ov_shape(value)) for value in self._model.outputs],
        )  # fmt: skip
        self._hint = {'float32': 'f32', 'bfloat16': 'bf16'}[precision]
        self._threads = threads or cpu_count()
        self._compiled = {}  # images a request -> queue of requests
        self._batch_size = min(batch_size, _STREAM_BATCH)

    def _queue(self, images: int):
        """Requests of a fixed number of images: one on all CPUs, or one on each."""
        if images not in self._compiled:
            pre = self._ov.preprocess.PrePostProcessor(self._model.clone())
            tensor = pre.input().tensor()
            tensor.set_element_type(self._ov.Type.u8).set_layout(self._ov.Layout('NHWC'))
            tensor.set_shape([images, IMAGE_SIZE, IMAGE_SIZE, 3])
            pre.input().model().set_layout(self._ov.Layout('NCHW'))
            streams = 1 if images == 1 else self._threads
            compiled = self._core.compile_model(
                pre.build(),
                'CPU',
                {
                    'INFERENCE_PRECISION_HINT': self._hint,
                    'INFERENCE_NUM_THREADS': self._threads,
                    'NUM_STREAMS': streams,
                },
            )
            self._compiled[images] = self._ov.AsyncInferQueue(compiled, streams)
        return self._compiled[images]

    def embed_batch(self, images: np.ndarray) -> np.ndarray:
        check_images(images)
        embeddings = np.empty((len(images), self.embedding_size), np.float32)

        def keep(request, start: int) -> None:
            rows = request.get_output_tensor(0).data
            embeddings[start : start + len(rows)] = rows[: len(images) - start]

        size = min(self._batch_size, len(images))
        size = size if size in (1, self._batch_size) else self._batch_size
        if len(images):
            queue = self._queue(size)
            queue.set_callback(keep)
            for start in range(0, len(images), size):
                queue.start_async({0: _padded(images[start : start + size], size)}, start)
            queue.wait_all()
        return embeddings


def _padded(images: np.ndarray, size: int) -> np.ndarray:
    if len(images) < size:
        rest = np.zeros((size - len(images), *images.shape[1:]), images.dtype)
        images = np.concatenate([images, rest])
    return np.ascontiguousarray(images)


def _has_bfloat16(core) -> bool:
    return 'BF16' in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES')


def _ov_shape(value) -> list:
    shape = value.partial_shape
    return [length.get_length() if length.is_static else 'N' for length in shape]


def _unreadable(model: Model, error: Exception) -> InputError:
    reason = str(error).strip().splitlines()[-1]
    return InputError(f'{_shown(model)} does not load as an ONNX model: {reason}')


def _shown(model: Model) -> str:
    return f'a model of {len(model)} bytes' if isinstance(model, bytes) else str(model)


def _check_contract(model: Model, inputs: list, outputs: list) -> int:
    """The embedding size of a model with our inputs and outputs; otherwise InputError.

    `inputs` are (name, type, shape), `outputs` (name, shape); a dynamic length is no integer.
    """
    fits = len(inputs) == 1 and len(outputs) == 1
    if fits:
        (name, kind, shape), (output, output_shape) = inputs[0], outputs[0]
        fits = (
            name == DATA
            and any(word in kind for word in ('float', 'f32', 'u8', 'uint8'))
            and list(shape[1:]) == list(IMAGE_SHAPE)
            and not isinstance(shape[0], int)
            and output == OUTPUT
            and len(output_shape) == 2
            and isinstance(output_shape[1], int)
        )
    if not fits:
        given = ', '.join(f'{name} {kind} {list(shape)}' for name, kind, shape in inputs)
        given += ' -> ' + ', '.join(f'{name} {list(shape)}' for name, shape in outputs)
        raise InputError(
            f'{_shown(model)} has another contract ({given}); expected {DATA} float32 or uint8 '
            f'[N, 3, {IMAGE_SIZE}, {IMAGE_SIZE}] -> {OUTPUT} [N, D], as `vargfacenet export` writes'
        )
    return output_shape[1]


def probe_images(count: int = _PROBES) -> np.ndarray:
    """uint8 (count, 112, 112, 3) RGB: synthetic faces of different people, always the same."""
    faces = [jpeg_faces(_PROBE_SEED, person, [0], IMAGE_SIZE)[0] for person in range(count)]
    return np.stack([decode_rgb(face) for face in faces])


def cosines(embeddings: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosine of every row to the same row of `others`: (N, D), (N, D) -> (N,) float64."""
    embeddings, others = np.asarray(embeddings, np.float64), np.asarray(others, np.float64)
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(others, axis=1)
    return np.einsum('nd,nd->n', embeddings, others) / np.maximum(lengths, 1e-300)


def fastest(
    network: Network,
    batch_size: int = 32,
    min_cosine: float = MIN_COSINE,
) -> Engine:
    """The first engine that is installed and gives MXNet's embeddings, fast ones before others.

    Parameters
    ----------
    network : that embeds
    batch_size : how many images come at once, usually
    min_cosine : smallest cosine to MXNet's embedding on each probe image. Below about 0.9999 the
        arithmetic may be bfloat16 where the CPU has it, which is twice as fast and more.

    Returns
    -------
    Engine, in this order of preference: OpenVINO bfloat16, OpenVINO float32, onnxruntime, MXNet.
    One log line names it.
    """
    engine = MXNetEngine(network, batch_size)
    if missing('onnx'):
        log.info('embedding with MXNet; faster with onnx and openvino (extra %r)', EXTRA)
        return engine
    from .to_onnx import to_onnx

    images = probe_images()
    expected = engine.embed_batch(images)
    content = to_onnx(fold_batch_norms(network), input_type='uint8').SerializeToString()
    candidates = (
        lambda: OpenVinoEngine(content, batch_size, 'bfloat16'),
        lambda: OpenVinoEngine(content, batch_size),
        lambda: OnnxRuntimeEngine(content, batch_size),
    )
    for make in candidates:
        try:
            other = make()
        except InputError as error:
            log.debug('%s', error)
            continue
        worst = cosines(other.embed_batch(images), expected).min()
        if worst >= min_cosine:
            log.info('embedding with %s (smallest cosine to MXNet %.6f)', other.name, worst)
            return other
        log.debug('%s: cosine %.6f is below %g', other.name, worst, min_cosine)
    log.info('embedding with MXNet; no engine of the extra %r agrees with it', EXTRA)
    return engine
