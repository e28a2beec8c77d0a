"""MXNet: the network with its BatchNorms folded, and MXNet's and our fusions on top."""

import functools
from typing import Optional

import numpy as np

from ...console import ProgressBar
from ...errors import InputError
from ..network import Network
from . import ENGINES, Engine


@ENGINES.register('mxnet')
class MXNetEngine(Engine):
    """A Network in MXNet.

    Parameters
    ----------
    network : folded or not
    device : 'cpu' or 'gpu:0,1,...'; GPUs that are not there are replaced with a warning
    batch_size : images per forward pass
    """

    name = 'mxnet'
    title = 'MXNet'
    packages = ('mxnet',)
    extra = ''  # it comes with every install where it has a wheel
    reads = Network
    rank = 30

    def __init__(
        self,
        network: Network,
        precision: str = 'float32',
        device: str = 'cpu',
        batch_size: int = 32,
    ):
        from ...backend import parse_devices
        from ..fold import fold_batch_norms

        self._contexts = parse_devices(device)
        self._network = fold_batch_norms(network)
        self._embedder = self._bound(batch_size)
        self.batch_size = self._embedder.batch_size
        self.embedding_size = self._embedder.embedding_size

    def _bound(self, batch_size: int):
        from ..mxnet import Embedder

        return Embedder(self._network, self._contexts, batch_size)

    @functools.cached_property
    def _single(self):
        # a batch is padded to its full size, which one image should not pay for
        return self._bound(1)

    def embed(self, images: np.ndarray, progress: Optional[ProgressBar] = None) -> np.ndarray:
        embedder = self._single if len(images) == 1 else self._embedder
        return embedder.embed(images, progress)

    @classmethod
    def absent(cls) -> InputError:
        return InputError(
            'MXNet is not installed; it has wheels for Linux on x86-64 with Python up to 3.12. '
            'The other engines run checkpoints as well, and what vargfacenet export writes'
        )

    @classmethod
    def devices(cls) -> list[str]:
        from ...backend import mx

        return ['cpu', *(f'gpu:{number}' for number in range(mx.context.num_gpus()))]
