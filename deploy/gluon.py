"""An exported network as a Gluon block, for code that trains or runs with Gluon."""

from typing import Optional

from ..common.backend import mx
from ..common.engine.checkpoint import load_embedding
from ..common.engine.mxnet import flatten_before_dense
from ..common.names import DATA


def load_block(model: str, device: Optional['mx.Context'] = None) -> 'mx.gluon.SymbolBlock':
    """A checkpoint or an MXNet file of an export as a SymbolBlock.

    Parameters
    ----------
    model : PREFIX,EPOCH, such as 'export/model,0' or, for inference only, 'export/model-folded,0'
    device : mx.Context for the parameters, by default the CPU

    Returns
    -------
    block that takes (N, 3, 112, 112) float32, RGB, 0..255 and gives raw embeddings (N, D) float32.
    Its parameters have the checkpoint's names.

    Raises
    ------
    InputError for missing, truncated or disagreeing files.
    """
    network = load_embedding(model).in_mxnet()
    # without it, the second forward pass at batch size 1 fails on the CPU
    symbol = flatten_before_dense(network.symbol)
    block = mx.gluon.SymbolBlock(symbol, mx.sym.Variable(DATA))
    values = network.params
    for name, parameter in block.collect_params().items():
        parameter._load_init(values[name], device or mx.cpu())
    return block
