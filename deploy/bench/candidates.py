"""What can run a network here, as candidates of a measurement: MXNet as people have it, and our
engines, in every arithmetic."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ...common.backend import mx
from ...common.engine.checkpoint import save_embedding
from ...common.engine.contract import Contract
from ...common.engine.engines import PRECISIONS, Engine, by_rank
from ...common.engine.network import Network
from ...common.engine.parity import probe_images
from ...common.extras import how_to_install, missing, need
from ...common.files import PathLike
from ...common.names import DATA, IMAGE_SHAPE
from ...common.parallel import cpu_count
from ...symbol import get_symbol
from .. import quantize
from .stock import Variant, environments

log = logging.getLogger(__name__)

ORIGINAL = 'original, MXNet Module'
OURS = 'ours, MXNet'
_CALIBRATION = 64  # drawn faces
_FEW, _ANY_COSINE = 4, -1.0
_SHORT = {'bfloat16': 'bf16'}


class Candidate(NamedTuple):
    """One way to run the network."""

    precision: str  # of its arithmetic
    variants: Mapping[str, Variant]  # by their settings; the fastest is measured


def original_variants(model: str) -> dict[str, Variant]:
    """MXNet's Module under every setting, the symbol as it is and with a Flatten."""
    return {
        name + (', Flatten before the last layer' if flatten else ''): Variant(
            environment, {'way': 'original', 'model': model, 'flatten': flatten}
        )
        for name, environment in environments().items()
        for flatten in (False, True)
    }


def candidates(network: Network, folder: Path, only_speed: bool = False) -> dict[str, Candidate]:
    """Name -> how to run it, of everything that is installed; files go to `folder`.

    With `only_speed` the whole network is int8, however far from float32: that of a network that is
    not trained says nothing, and to look for layers to leave in float takes minutes.
    """
    save_embedding(folder / 'model', 0, network)
    model = f'{folder / "model"},0'

    def ours(
        arithmetic: str,
        file: PathLike,
        kind: type[Engine],
        precision: str = PRECISIONS[0],
        said: str = '',
    ) -> Candidate:
        options = {'model': str(file), 'engine': kind.name, 'precision': precision}
        variant = Variant({}, {'way': 'ours', **options})
        return Candidate(arithmetic, {f'{cpu_count()} threads{said}': variant})

    (mxnet,) = by_rank(Network)
    found = {
        ORIGINAL: Candidate('float32', original_variants(model)),
        OURS: ours('float32', model, mxnet),
    }
    if missing('onnx') or missing('onnxruntime'):
        log.warning('onnxruntime and OpenVINO are left out: %s', how_to_install('deploy'))
        return found
    from ...common.engine.to_onnx import inference_model

    whole, int8 = folder / 'model.onnx', folder / 'model.int8.onnx'
    need('onnx', 'deploy').save(inference_model(network, input_type='uint8'), str(whole))
    log.info('quantising to int8')
    count, least = (_FEW, _ANY_COSINE) if only_speed else (_CALIBRATION, quantize.MIN_COSINE)
    quantize.quantize_int8(whole, int8, probe_images(count), least)
    # an export may leave layers in float, which takes longer
    said = ', every layer in int8, accuracy not looked at' if only_speed else ''
    for kind in (kind for kind in reversed(by_rank(Contract)) if kind.available()):
        for precision in kind.precisions:
            name = f'{kind.title} {_SHORT.get(precision, precision)}'
            found[name] = ours(precision, whole, kind, precision)
        found[f'{kind.title} int8'] = ours('int8', int8, kind, said=said)
    return found


def untrained(name: str, options: Mapping[str, Any]) -> Network:
    """A network with weights as before training; InputError as of `get_symbol`."""
    symbol = get_symbol(name, **options)
    module = mx.mod.Module(symbol, data_names=(DATA,), label_names=None, context=mx.cpu())
    module.bind([(DATA, (2, *IMAGE_SHAPE))], for_training=False)
    mx.random.seed(0)
    slopes, others = mx.init.Constant(0.25), mx.init.Xavier('gaussian', 'out', 2)
    module.init_params(mx.init.Mixed(['.*act.*_gamma|.*relu.*_gamma', '.*'], [slopes, others]))
    return Network(symbol, *module.get_params())
