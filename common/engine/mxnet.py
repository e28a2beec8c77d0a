"""Images to embeddings: an embedding symbol bound for inference."""

import json
from typing import Optional

import numpy as np

from ..backend import mx, mxnet_symbol
from ..console import ProgressBar
from ..errors import InputError
from ..names import DATA, IMAGE_SHAPE
from . import ops
from .checkpoint import check_match
from .contract import check_images
from .graph import Node, assemble, flag, parse
from .network import Network, plain_symbol


def flatten_before_dense(symbol: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """The same network with a Flatten before each FullyConnected that flattens and has none.

    Without it the second forward pass fails in MXNet 1.9.1 on the CPU: a fused FullyConnected
    cannot read what a fused convolution writes (MobileFaceNet; VarGFaceNet at batch size 1).
    """
    graph = json.loads(symbol.tojson())
    nodes, heads, attrs = parse(graph, [[] for _ in graph['nodes']], {DATA})
    for node in nodes:
        if node.op == 'FullyConnected' and flag(node, 'flatten', True):
            source = node.inputs[0]
            if source[0].op != 'Flatten':
                node.inputs[0] = Node('Flatten', f'{node.name}_flatten', {}, [source]), 0
    return mxnet_symbol(assemble(heads, attrs))


def embed_exactly(network: Network, images: np.ndarray) -> np.ndarray:
    """Embeddings in float64: what the rounding of float32 is measured by.

    MXNet's operators alone, some 50 times as slow as an `Embedder`.

    Parameters
    ----------
    network : with one output (B, D)
    images : (N, 112, 112, 3) uint8, RGB

    Returns
    -------
    (N, D) float64, raw rows
    """
    symbol, arg_params, aux_params = network.in_mxnet()
    symbol, pixels = _for_float64(symbol)
    args, auxiliary = (
        {name: params[name].astype('float64') for name in names if name != DATA}
        for params, names in (
            (arg_params, symbol.list_arguments()),
            (aux_params, symbol.list_auxiliary_states()),
        )
    )
    data = np.asarray(images).transpose(0, 3, 1, 2)
    args[DATA] = mx.nd.array(data, dtype=pixels)
    executor = symbol.bind(mx.cpu(), args, grad_req='null', aux_states=auxiliary)
    return executor.forward(is_train=False)[0].asnumpy()


def _for_float64(symbol: 'mx.sym.Symbol') -> tuple['mx.sym.Symbol', str]:
    """The same network where MXNet rounds nothing to float32, and the type of its pixels.

    PReLU, which MXNet rounds in float64 as well, is relu(x) - slope relu(-x). Constants are float32
    (of resizing, whose rounding is meant), so what follows from them and pixels alone stays so, and
    is widened where it meets parameters.
    """
    values = symbol.get_internals()
    shapes = dict(zip(values.list_outputs(), values.infer_shape(**{DATA: (1, *IMAGE_SHAPE)})[1]))
    graph = json.loads(symbol.tojson())
    nodes, heads, attrs = parse(graph, [[] for _ in graph['nodes']], {DATA})
    narrow = set()
    if any(node.op != 'null' and not node.inputs for node in nodes):
        for node in nodes:
            if narrow.issuperset(source for source, _ in node.inputs):
                if node.op != 'null' or node.name == DATA:
                    narrow.add(node)
                continue
            for place, entry in enumerate(node.inputs):
                if entry[0] in narrow:
                    name = f'{node.name}_wide{place}'
                    node.inputs[place] = Node('Cast', name, {'dtype': 'float64'}, [entry]), 0
    for node in nodes:
        if node.op == 'LeakyReLU' and node.attrs.get('act_type') == 'prelu':
            _split_prelu(node, len(shapes[f'{node.name}_output']))
    return mxnet_symbol(assemble(heads, attrs)), 'float32' if narrow else 'float64'


def _split_prelu(node: Node, axes: int) -> None:
    def part(op: str, name: str, *inputs: tuple, **attrs: str) -> tuple:
        return Node(op, f'{node.name}_{name}', attrs, list(inputs)), 0

    data, slope = node.inputs
    slope = part('Reshape', 'slope', slope, shape=str((1, -1, 1, 1)[:axes]))
    below = part('relu', 'below', part('negative', 'negative', data))
    below = part('broadcast_mul', 'scaled', below, slope)
    node.become('elemwise_sub', [part('relu', 'above', data), below])


class Embedder:
    """Runs an embedding network on any number of images, in batches of one size.

    Parameters
    ----------
    network : with one output (B, D)
    devices : list of mx.Context, by default the CPU; a batch is split over them
    batch_size : images per forward pass. Memory grows with it, not with the number of images.

    Raises
    ------
    InputError for parameters that are missing or of another shape, and for a batch size below 1.
    """

    def __init__(
        self,
        network: Network,
        devices: Optional[list] = None,
        batch_size: int = 64,
    ):
        if batch_size < 1:
            raise InputError(f'batch size {batch_size}: expected at least 1')
        self.embedding_size = network.embedding_size
        self._plain_symbol = plain_symbol(network.symbol)  # that parameters are checked against
        symbol, *_ = network = network.in_mxnet()
        devices = devices or [mx.cpu()]
        self.batch_size = max(batch_size, len(devices))  # a batch is split over them
        self._symbol = symbol
        self._devices = devices
        self._input = np.zeros((self.batch_size, *IMAGE_SHAPE), np.float32)
        self._module = None
        self._bound_symbol = symbol
        if all(device.device_type == 'cpu' for device in devices):
            shapes = {DATA: self._input.shape}
            fast = ops.accelerate(symbol, shapes, accumulate=False)
            self._bound_symbol = flatten_before_dense(fast)
        self.set_params(network.arg_params, network.aux_params)

    def set_params(self, arg_params: dict, aux_params: dict) -> None:
        """Take new parameter values, e.g. of a training run; names the symbol lacks are ignored.

        Raises
        ------
        InputError listing what is missing or has another shape; nothing is changed then.
        """
        arg_names = set(self._symbol.list_arguments())
        aux_names = set(self._symbol.list_auxiliary_states())
        arg_params = {name: value for name, value in arg_params.items() if name in arg_names}
        aux_params = {name: value for name, value in aux_params.items() if name in aux_names}
        check_match(self._plain_symbol, arg_params, aux_params, 'the given set of parameters')
        # Bound anew: after a first forward on the CPU, MXNet 1.9.1 goes on with its fused copies of
        # some old weights (FullyConnected, convolutions without BatchNorm), silently.
        self._module = None  # gives its memory to the new one
        module = mx.mod.Module(
            self._bound_symbol, data_names=(DATA,), label_names=None, context=self._devices
        )
        module.bind([(DATA, self._input.shape)], for_training=False)
        module.init_params(arg_params=arg_params, aux_params=aux_params, initializer=None)
        self._module = module

    def params(self) -> dict:
        """Weights and running statistics by name, copied from the device as they are now."""
        arg_params, aux_params = self._module.get_params()
        return {**arg_params, **aux_params}

    def embed_batch(self, data: 'mx.nd.NDArray') -> 'mx.nd.NDArray':
        """Embeddings of one batch that is already in the network's layout.

        Parameters
        ----------
        data : (B, 3, 112, 112) float32, RGB, 0..255. B equal to `batch_size` is the fastest; less
            is padded, more is cut into pieces.

        Returns
        -------
        (B, D) float32, raw rows, on the first device; a copy that the next call leaves alone.
        """
        rows = len(data)
        if rows > self.batch_size:
            pieces = [
                self.embed_batch(data[start : start + self.batch_size])
                for start in range(0, rows, self.batch_size)
            ]
            return mx.nd.concat(*pieces, dim=0)
        if rows < self.batch_size:
            padding = mx.nd.zeros((self.batch_size - rows, *IMAGE_SHAPE), data.context)
            data = mx.nd.concat(data, padding, dim=0)
        return self._forward(data, rows)

    def _forward(self, data: 'mx.nd.NDArray', rows: int) -> 'mx.nd.NDArray':
        self._module.forward(mx.io.DataBatch([data]), is_train=False)
        # the output array belongs to the executor, which writes the next batch into it
        return self._module.get_outputs()[0][:rows].copy()

    def embed(self, images: np.ndarray, progress: Optional[ProgressBar] = None) -> np.ndarray:
        """Embeddings of images.

        Parameters
        ----------
        images : (N, 112, 112, 3) uint8, RGB; any N, also a view such as mirrored images
        progress : advanced by the images of each batch

        Returns
        -------
        (N, D) float32, raw rows: not normalised.

        Raises
        ------
        InputError for another dtype or shape.
        """
        images = np.asarray(images)
        check_images(images)
        embeddings = np.empty((len(images), self.embedding_size), np.float32)
        for start in range(0, len(images), self.batch_size):
            batch = images[start : start + self.batch_size]
            rows = len(batch)
            self._input[:rows] = batch.transpose(0, 3, 1, 2)
            self._input[rows:] = 0
            output = self._forward(mx.nd.array(self._input), rows)
            embeddings[start : start + rows] = output.asnumpy()
            if progress:
                progress.advance(rows)
        return embeddings
