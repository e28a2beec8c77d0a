"""Engines, which run embedding networks behind one interface: MXNet, onnxruntime, OpenVINO.

An engine takes aligned crops and gives embeddings; what it needs in layout, type, batch size and
threads is its own business. Every module of this folder is an engine and registers itself when it
is imported; a new one is one new file. A file anywhere else can do the same with
`@ENGINES.register(name)`. None of them imports its run time before it is used.
"""

import importlib
import logging
import pkgutil
from typing import ClassVar, Optional

import numpy as np

from ...console import ProgressBar
from ...errors import InputError
from ...extras import missing, need
from ...registry import Registry, unknown_name
from ..contract import Contract
from ..network import Network

log = logging.getLogger(__name__)

AUTO = 'auto'
PRECISIONS = ('float32', 'bfloat16')
MIN_COSINE = 0.9999  # to MXNet, of every probe; float32 gives 1 - 1e-7, bfloat16 about this


class Engine:
    """What runs a network. One object serves one thread at a time.

    Subclasses declare the class attributes. They are made with (model, contract, precision, device,
    batch_size) if they read ONNX models, with (network, precision, device, batch_size) if they read
    networks, and raise InputError for a precision or a device that is not there.
    """

    name: str  # in the registry; an object's may tell the precision as well
    title: ClassVar[str]  # for tables
    packages: ClassVar[tuple[str, ...]]  # what has to be installed
    extra: ClassVar[str]  # of setup.py, which brings them
    precisions: ClassVar[tuple[str, ...]] = PRECISIONS[:1]
    reads: ClassVar[type] = Contract  # ONNX models with a Contract; Network for MXNet's networks
    rank: ClassVar[int]  # 'auto' takes the lowest that is installed; the fastest comes first

    embedding_size: int
    batch_size: int  # images that come at once, usually

    def embed(self, images: np.ndarray, progress: Optional[ProgressBar] = None) -> np.ndarray:
        """Embeddings of aligned crops.

        Parameters
        ----------
        images : (N, 112, 112, 3) uint8, RGB; any N, also a view such as mirrored images
        progress : advanced by the images of each batch

        Returns
        -------
        (N, D) float32, rows as the network gives them: not normalised.

        Raises
        ------
        InputError for another dtype or shape.
        """
        raise NotImplementedError

    @classmethod
    def available(cls) -> bool:
        """Whether its packages are installed; does not import them."""
        return not any(missing(package) for package in cls.packages)

    @classmethod
    def absent(cls) -> InputError:
        """The error where it is not available: what to install."""
        try:
            for package in filter(missing, cls.packages):
                need(package, cls.extra)
        except InputError as error:
            return error
        return InputError(f'{cls.title} is not available')

    @classmethod
    def devices(cls) -> list[str]:
        """What a `device` can be on this machine; 'cpu' is the first."""
        raise NotImplementedError

    @classmethod
    def no_device(cls, device: str) -> InputError:
        """The error for a device that is not there; it names those of all engines, one of which was
        perhaps meant."""
        of_others = [
            f'--engine {kind.name}: {", ".join(kind.devices())}'
            for kind in by_rank()
            if kind is not cls and kind.available()
        ]
        others = f' ({"; ".join(of_others)})' if of_others else ''
        return InputError(
            f'--device {device!r}: {cls.title} has {", ".join(cls.devices())} here{others}'
        )


ENGINES: Registry[type[Engine]] = Registry('engine')


def by_rank(reads: Optional[type] = None) -> list[type[Engine]]:
    """All engines, installed or not, fast ones before others; of those that read `reads` alone."""
    known = sorted((ENGINES.get(name) for name in ENGINES.names()), key=lambda kind: kind.rank)
    return [kind for kind in known if reads in (None, kind.reads)]


def choose(
    name: str = AUTO, precision: str = PRECISIONS[0], reads: Optional[type] = None
) -> type[Engine]:
    """The engine of a name, or for 'auto' the fastest that is installed.

    Parameters
    ----------
    name : a name of ENGINES or 'auto'
    precision : of the arithmetic, one of PRECISIONS
    reads : Contract or Network where the model is the one or the other

    Raises
    ------
    InputError for names that nobody knows, an engine that is not installed and one that does not
    compute in the precision.
    """
    if name not in (AUTO, *ENGINES.names()):
        raise unknown_name('engine', name, (AUTO, *ENGINES.names()))
    if precision not in PRECISIONS:
        raise unknown_name('precision', precision, PRECISIONS)
    kinds = by_rank(reads)
    if name == AUTO:
        # where none is there, the last names the package to install
        kind = next((kind for kind in kinds if kind.available()), kinds[-1])
    else:
        kind = ENGINES.get(name)
    if precision not in kind.precisions:
        able = ' or '.join(other.name for other in kinds if precision in other.precisions)
        raise InputError(f'precision {precision} needs engine {able}, not {kind.name}')
    if not kind.available():
        raise kind.absent()
    return kind


def open_network(
    kind: type[Engine],
    network: Network,
    precision: str = PRECISIONS[0],
    device: str = 'cpu',
    batch_size: int = 32,
) -> Engine:
    """An engine for a network; engines that read ONNX get it converted."""
    if kind.reads is Network:
        return kind(network, precision, device, batch_size)
    from ..to_onnx import inference_model  # needs the package onnx

    content = inference_model(network, input_type='uint8').SerializeToString()
    contract = Contract(dtype='uint8', embedding_size=network.embedding_size)
    return kind(content, contract, precision, device, batch_size)


def fastest(network: Network, batch_size: int = 32, min_cosine: float = MIN_COSINE) -> Engine:
    """The first engine that is installed and gives MXNet's embeddings, fast ones before others.

    Parameters
    ----------
    network : that embeds
    batch_size : how many images come at once, usually
    min_cosine : smallest cosine to MXNet's embedding on each probe image. Below about 0.9999 the
        arithmetic may be bfloat16 where the CPU has it, which is twice as fast and more.

    Returns
    -------
    Engine; of two precisions of one, the faster is tried first. One log line names it.
    """
    from ..parity import cosines, probe_images

    (reference,) = by_rank(Network)
    engine = open_network(reference, network, batch_size=batch_size)
    if missing('onnx'):
        log.info('embedding with MXNet; faster with onnx and openvino (extra %r)', 'deploy')
        return engine
    images = probe_images()
    expected = engine.embed(images)
    for kind in by_rank(Contract):
        for precision in reversed(kind.precisions) if kind.available() else ():
            try:
                other = open_network(kind, network, precision, batch_size=batch_size)
            except InputError as error:
                log.debug('%s', error)
                continue
            worst = cosines(other.embed(images), expected).min()
            if worst >= min_cosine:
                log.info('embedding with %s (smallest cosine to MXNet %.6f)', other.name, worst)
                return other
            log.debug('%s: cosine %.6f is below %g', other.name, worst, min_cosine)
    log.info('embedding with MXNet; no engine of the extra %r agrees with it', 'deploy')
    return engine


for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f'.{_module.name}', __name__)
