"""OpenVINO: ONNX models on Intel's and other x86 and ARM processors; the fastest on the CPU."""

import contextlib
from collections import deque
from typing import Optional

import numpy as np

from ...console import ProgressBar
from ...errors import InputError
from ...extras import need
from ...files import input_file
from ...names import IMAGE_SIZE
from ...parallel import cpu_count
from ..contract import (
    EXTRA,
    Contract,
    Model,
    check_images,
    check_rows,
    does_not_run,
    load_graph,
    padded,
    unreadable,
)
from ..openvino_core import core
from . import ENGINES, PRECISIONS, Engine

# fastest with a stream on every CPU and this many images in each (measured: 4, 8, 16)
_STREAM_BATCH = 8
_HINTS = {'float32': 'f32', 'bfloat16': 'bf16'}


@ENGINES.register('openvino')
class OpenVinoEngine(Engine):
    """An ONNX model in OpenVINO.

    Parameters
    ----------
    model : float32, float16 or int8
    contract : what it takes and gives
    precision : of the arithmetic, 'float32' or 'bfloat16' (cosine 0.9999 to float32 and twice as
        fast, on CPUs that have it)
    device : 'cpu', or a name of OpenVINO's such as 'GPU', 'GPU.1', 'NPU'
    batch_size : how many images come at once, usually
    threads : by default one per CPU

    Raises
    ------
    InputError for a model that does not load, a device that is not there, without OpenVINO, and
    for bfloat16 on a CPU that cannot compute in it.
    """

    name = 'openvino'
    title = 'OpenVINO'
    packages = ('openvino', 'onnx')
    extra = EXTRA
    precisions = PRECISIONS
    rank = 10

    def __init__(
        self,
        model: Model,
        contract: Contract,
        precision: str = 'float32',
        device: str = 'cpu',
        batch_size: int = 32,
        threads: Optional[int] = None,
    ):
        self._ov = need('openvino', EXTRA)
        self._core = core()
        self._device = self._known(device)
        abilities = self._core.get_property(self._device, 'OPTIMIZATION_CAPABILITIES')
        if precision == 'bfloat16' and 'BF16' not in abilities:
            raise InputError('this CPU has no bfloat16 arithmetic; use precision float32')
        if precision == 'bfloat16':
            self.name = 'openvino-bf16'
        content = model if isinstance(model, bytes) else input_file(model, 'ONNX model')
        # OpenVINO shows what it cannot read to all its front ends, and some print lines
        load_graph(content)
        try:
            self._model = self._core.read_model(content)
        except RuntimeError as error:
            raise unreadable(model, error) from None
        self._given, self._contract = model, contract
        self._output = next(
            index
            for index, output in enumerate(self._model.outputs)
            if contract.output in output.get_names()
        )
        self.embedding_size = contract.embedding_size
        self.batch_size = batch_size
        self._hint = _HINTS[precision]
        self._threads = threads or cpu_count()
        self._made = {}  # (images a request, requests at once) -> requests
        self._request_size = contract.batch or min(batch_size, _STREAM_BATCH)

    def _requests(self, size: int, streams: int) -> list:
        """Requests of a fixed number of images: one on all CPUs, or one on each.

        No callbacks and no AsyncInferQueue: a queue that is freed while one of its own threads
        returns from a callback ends the process ('Resource deadlock avoided').
        """
        if (size, streams) not in self._made:
            settings = {'INFERENCE_PRECISION_HINT': self._hint, 'NUM_STREAMS': streams}
            if self._device == 'CPU':
                settings['INFERENCE_NUM_THREADS'] = self._threads
            compiled = self._core.compile_model(self._prepared(size), self._device, settings)
            # of two a stream one waits while the other runs, so that no stream waits for us
            count = 2 * streams if streams > 1 else 1
            self._made[size, streams] = [compiled.create_infer_request() for _ in range(count)]
        return self._made[size, streams]

    def _prepared(self, size: int):
        """The model with our uint8 crops as its input."""
        pre = self._ov.preprocess.PrePostProcessor(self._model.clone())
        data, contract = pre.input(), self._contract
        tensor = data.tensor()
        tensor.set_element_type(self._ov.Type.u8).set_layout(self._ov.Layout('NHWC'))
        tensor.set_shape([size, IMAGE_SIZE, IMAGE_SIZE, 3])
        data.model().set_layout(self._ov.Layout(contract.layout))
        if contract.colour == 'bgr':
            data.preprocess().reverse_channels()
        if (contract.mean, contract.std) != (0, 1):
            steps = data.preprocess().convert_element_type(self._ov.Type.f32)
            steps.mean(contract.mean).scale(contract.std)
        return pre.build()

    def embed(self, images: np.ndarray, progress: Optional[ProgressBar] = None) -> np.ndarray:
        images = np.asarray(images)
        check_images(images)
        embeddings = np.empty((len(images), self.embedding_size), np.float32)
        if not len(images):
            return embeddings
        size = self._request_size
        if len(images) == 1 and not self._contract.batch:
            size = 1
        running: deque = deque()  # (request, first image), those that were started first in front
        try:
            requests = self._requests(size, 1 if len(images) == 1 else self._threads)
            for number, start in enumerate(range(0, len(images), size)):
                if len(running) == len(requests):
                    self._keep(*running.popleft(), embeddings, progress)
                request = requests[number % len(requests)]
                batch = padded(images[start : start + size], size)
                request.start_async({0: np.ascontiguousarray(batch)})
                running.append((request, start))
            while running:
                self._keep(*running.popleft(), embeddings, progress)
        except RuntimeError as error:
            raise does_not_run(self._given, error) from None
        finally:
            for request, _ in running:  # after an error: nothing runs on
                with contextlib.suppress(RuntimeError):
                    request.wait()
        return embeddings

    def _keep(
        self, request, start: int, embeddings: np.ndarray, progress: Optional[ProgressBar]
    ) -> None:
        """Wait for a request, and copy its rows to their place."""
        request.wait()
        rows = request.get_output_tensor(self._output).data
        check_rows(self._given, rows, (request.get_input_tensor().shape[0], self.embedding_size))
        rows = rows[: len(embeddings) - start]
        embeddings[start : start + len(rows)] = rows
        if progress:
            progress.advance(len(rows))

    @classmethod
    def devices(cls) -> list[str]:
        names = core().available_devices
        return ['cpu', *(name for name in names if name != 'CPU')]

    def _known(self, device: str) -> str:
        """OpenVINO's name of a device; InputError if it is not there."""
        name = device.upper()
        names = self._core.available_devices
        if name not in names and not any(known.startswith(f'{name}.') for known in names):
            raise self.no_device(device)
        return name
