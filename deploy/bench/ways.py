"""Ways to run an embedding network, each made in a process of its own: MXNet as people use it, and
our engines. A way takes uint8 (B, 112, 112, 3) RGB crops and gives float32 (B, D)."""

from collections.abc import Callable

import numpy as np

from ...common.names import DATA, IMAGE_SHAPE, IMAGE_SIZE

Run = Callable[[np.ndarray], np.ndarray]


def original(model: str, batch_size: int, flatten: bool) -> Run:
    """The checkpoint's own symbol in MXNet's Module, bound to one batch size.

    Parameters
    ----------
    model : PREFIX,EPOCH
    batch_size : of every call
    flatten : put a Flatten before the last layer, as our export does. Without one the second
        forward pass of MobileFaceNet (y1, y2) fails in MXNet 1.9.1 on the CPU, and with several
        threads that of VarGFaceNet at one image.
    """
    from ...common.backend import mx
    from ...common.engine.checkpoint import load_embedding
    from ...common.engine.mxnet import flatten_before_dense

    symbol, arg_params, aux_params = load_embedding(model).in_mxnet()
    symbol = flatten_before_dense(symbol) if flatten else symbol
    module = mx.mod.Module(symbol, data_names=(DATA,), label_names=None, context=mx.cpu())
    module.bind([(DATA, (batch_size, *IMAGE_SHAPE))], for_training=False)
    module.set_params(arg_params, aux_params, allow_extra=True)

    def run(images: np.ndarray) -> np.ndarray:
        batch = mx.nd.array(images.transpose(0, 3, 1, 2), dtype=np.float32)
        module.forward(mx.io.DataBatch([batch]), is_train=False)
        return module.get_outputs()[0].asnumpy()

    return run


def ours(model: str, batch_size: int, engine: str, precision: str) -> Run:
    """A checkpoint or an exported ONNX file in one of our engines."""
    from ...common.engine.open_model import open_model

    return open_model(model, engine, precision, batch_size=batch_size).embed


_WAYS = {way.__name__: way for way in (original, ours)}


def embedding_call(way: str, batch_size: int, **options) -> Callable[[], np.ndarray]:
    """A call that embeds the same batch of noise every time; a first pass is behind it, since the
    second is what fails in MXNet if any does."""
    run = _WAYS[way](batch_size=batch_size, **options)
    shape = (batch_size, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    run(images)
    return lambda: run(images)
