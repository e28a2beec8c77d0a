"""onnxruntime: ONNX models on the CPU, or on what its installed execution providers reach."""

from typing import Optional

import numpy as np

from ...console import ProgressBar
from ...extras import need
from ...files import input_file
from ...parallel import cpu_count
from ..contract import (
    EXTRA,
    Contract,
    Model,
    check_images,
    check_rows,
    does_not_run,
    padded,
    unreadable,
)
from . import ENGINES, Engine

_SUFFIX = 'ExecutionProvider'


@ENGINES.register('onnxruntime')
class OnnxRuntimeEngine(Engine):
    """An ONNX model in onnxruntime.

    Parameters
    ----------
    model : float32, float16 or int8
    contract : what it takes and gives
    device : 'cpu', or an installed execution provider such as 'cuda', 'cuda:1', 'tensorrt',
        'coreml'
    batch_size : most images per run; memory grows with it
    threads : of one run, by default one per CPU

    Raises
    ------
    InputError for a model that does not load, a device that is not there, and without onnxruntime.
    """

    name = 'onnxruntime'
    title = 'onnxruntime'
    packages = ('onnxruntime', 'onnx')
    extra = EXTRA
    rank = 20

    def __init__(
        self,
        model: Model,
        contract: Contract,
        precision: str = 'float32',
        device: str = 'cpu',
        batch_size: int = 32,
        threads: Optional[int] = None,
    ):
        ort = need('onnxruntime', EXTRA)
        provider, options = self._provider(device)
        settings = ort.SessionOptions()
        settings.intra_op_num_threads = threads or cpu_count()
        settings.log_severity_level = 3  # warnings of graph optimisations are not for our users
        content = model if isinstance(model, bytes) else str(input_file(model, 'ONNX model'))
        wanted = [(provider, options)] + [('CPUExecutionProvider', {})] * (device != 'cpu')
        try:
            self._session = ort.InferenceSession(content, settings, providers=wanted)
        except Exception as error:  # onnxruntime's errors have no base class but this
            raise unreadable(model, error) from None
        if self._session.get_providers()[0] != provider:
            raise self.no_device(device)  # it is built in, but its drivers are not here
        self._model, self._contract = model, contract
        self.embedding_size = contract.embedding_size
        self.batch_size = batch_size

    def embed(self, images: np.ndarray, progress: Optional[ProgressBar] = None) -> np.ndarray:
        images = np.asarray(images)
        check_images(images)
        embeddings = np.empty((len(images), self.embedding_size), np.float32)
        contract = self._contract
        size = contract.batch or self.batch_size
        for start in range(0, len(images), size):
            batch = images[start : start + size]
            rows = len(batch)
            if contract.batch:
                batch = padded(batch, size)
            feed = {contract.name: contract.prepare(batch)}
            try:
                output = self._session.run([contract.output], feed)
            except Exception as error:  # as above
                raise does_not_run(self._model, error) from None
            check_rows(self._model, output[0], (len(batch), self.embedding_size))
            embeddings[start : start + rows] = output[0][:rows]
            if progress:
                progress.advance(rows)
        return embeddings

    @classmethod
    def devices(cls) -> list[str]:
        providers = need('onnxruntime', EXTRA).get_available_providers()
        names = sorted(name.removesuffix(_SUFFIX).lower() for name in providers)
        return ['cpu', *(name for name in names if name != 'cpu')]

    @classmethod
    def _provider(cls, device: str) -> tuple[str, dict]:
        """Execution provider of a device, and its options; InputError if it is not installed."""
        name, _, number = device.partition(':')
        for provider in need('onnxruntime', EXTRA).get_available_providers():
            if provider.removesuffix(_SUFFIX).lower() != name.lower():
                continue
            if not number:
                return provider, {}
            if name.lower() != 'cpu' and number.isdecimal():
                return provider, {'device_id': number}
        raise cls.no_device(device)
