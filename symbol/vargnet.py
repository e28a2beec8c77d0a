"""VarGNet (arXiv:1907.05653) with a face head: the baseline of table 4 of arXiv:1910.04985.

VarGFaceNet's body; the head averages the last map instead of weighting it with a 7x7 convolution.
"""

from ..common.backend import mx
from . import blocks
from .options import NETWORKS, Family
from .vargfacenet import VarGOptions, body

LAST_CHANNELS = 1024  # times the multiplier; narrow variants keep this many


def vargnet(options: VarGOptions) -> mx.sym.Symbol:
    """Body, 1x1 convolution, global average pooling, embedding."""
    channels = max(LAST_CHANNELS, int(LAST_CHANNELS * options.multiplier))
    data = blocks.conv_bn_act(body(options), 'embed_convx', channels, options)
    data = mx.sym.Pooling(
        data, global_pool=True, kernel=(1, 1), pool_type='avg', name='embed_convx_pool'
    )
    return blocks.embedding(data, options.emb_size, options.bn_eps, options, fix_gamma=False)


NETWORKS.register('vargnet')(Family(vargnet, VarGOptions()))
