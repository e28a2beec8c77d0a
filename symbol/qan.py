"""The quality network of QAN++: one number a picture, the weight of a frame of a video.

A network of its own beside the feature network (`polyface_deep`). The number is raw, of any sign;
`fc1_output` is (N, 1), so that whatever embeds pictures computes it.
"""

from dataclasses import dataclass

from ..common import names
from ..common.backend import mx
from . import blocks
from .options import NETWORKS, Family, LayerOptions
from .polyface import resized_input
from .torch_layout import TorchLayout


@dataclass(frozen=True)
class QualityOptions(LayerOptions):
    """Options of the quality network; `emb_size` numbers a picture."""

    emb_size: int = 1


STEM_CHANNELS = 8
STAGE_CHANNELS = (8, 16, 32, 48)
UNITS = 2  # of every stage


def _activation(data, name, options):
    """A PReLU with one slope for all channels."""
    if options.act_type != 'prelu':
        return blocks.activation(data, name, options)
    slope = mx.sym.Variable(f'{name}_gamma', shape=(1,))
    return mx.sym.LeakyReLU(data, slope, act_type='prelu', name=name)


def _unit(data, name, channels, stride, options):
    """Residual unit with an activation after the sum; a stride projects the shortcut."""
    shortcut = data
    if stride > 1:
        shortcut = blocks.convolution(data, f'{name}_downsample_0', channels, stride=stride)
        shortcut = blocks.batch_norm(shortcut, f'{name}_downsample_1', options)
    main = blocks.batch_norm(data, f'{name}_group1_bn1', options)
    main = blocks.convolution(main, f'{name}_group1_conv1', channels, kernel=3, pad=1)
    main = blocks.batch_norm(main, f'{name}_group1_bn2', options)
    main = _activation(main, f'{name}_group1_act1', options)
    main = blocks.convolution(
        main, f'{name}_group1_conv2', channels, kernel=3, stride=stride, pad=1
    )
    main = blocks.batch_norm(main, f'{name}_group1_bn3', options)
    return _activation(blocks.add(main, shortcut, f'{name}_sum'), f'{name}_act2', options)


def quality(options: QualityOptions) -> mx.sym.Symbol:
    """(N, 3, 112, 112) RGB 0..255 -> (N, emb_size)."""
    data = resized_input(names.IMAGE_SIZE)
    data = blocks.convolution(data, 'group1_conv1', STEM_CHANNELS, kernel=3, pad=1)
    data = _activation(blocks.batch_norm(data, 'group1_bn1', options), 'group1_act1', options)
    for stage, channels in enumerate(STAGE_CHANNELS, start=1):
        for unit in range(UNITS):
            stride = 2 if unit == 0 else 1
            data = _unit(data, f'layer{stage}_{unit}', channels, stride, options)
    data = mx.sym.Pooling(data, global_pool=True, kernel=(1, 1), pool_type='avg', name='pool')
    data = mx.sym.FullyConnected(
        data, num_hidden=options.emb_size, no_bias=True, name=f'pre_{names.EMBEDDING}'
    )
    return mx.sym.identity(data, name=names.EMBEDDING)


def _torch_module(layer: str) -> str:
    """layer1_0_group1_conv1 -> layer1.0.group1.conv1"""
    return 'fc1.1' if layer == 'pre_fc1' else layer.replace('_', '.')


TORCH = TorchLayout(
    module=_torch_module, sizes={'emb_size': ('fc1.1.weight', 1)}, pointwise=('pre_fc1_weight',)
)

NETWORKS.register('qan_quality')(Family(quality, QualityOptions(), torch=TORCH))
