"""MobileFaceNet (arXiv:1804.07573) in InsightFace's two sizes, y1 and y2."""

import re
from dataclasses import dataclass
from functools import partial

from ..common.backend import mx
from . import blocks
from .options import NETWORKS, Family, LayerOptions, integer
from .torch_layout import TorchLayout


@dataclass(frozen=True)
class MobileFaceNetOptions(LayerOptions):
    """Options of MobileFaceNet.

    Attributes
    ----------
    emb_size : D, length of the embedding
    scale : factor on the channels between the units; those inside of a unit stay. arcface_torch's
        `mbf` is y1 with scale 2
    width : factor on all channels, inside of units too, rounded to multiples of 8
    """

    bn_eps: float = 1e-3
    emb_size: int = 128
    scale: int = 1
    width: float = 1.0

    def channels(self, count: int) -> int:
        """`count` of the paper's network, as many as this one has."""
        return count if self.width == 1 else max(8, round(count * self.width / 8) * 8)


_conv = partial(blocks.conv_bn_act, suffixes=('_conv2d', '_batchnorm', '_relu'))


def _bottleneck(data, name, hidden, channels, options, stride=1):
    """1x1 expansion to `hidden`, 3x3 depthwise, linear 1x1 projection to `channels`."""
    data = _conv(data, f'{name}_conv_sep', hidden, options)
    data = _conv(
        data,
        f'{name}_conv_dw',
        hidden,
        options,
        kernel=3,
        stride=stride,
        pad=1,
        num_group=hidden,
    )
    return _conv(data, f'{name}_conv_proj', channels, options, act=False)


def _residual_units(data, name, count, hidden, channels, options):
    for unit in range(count):
        residual = _bottleneck(data, f'{name}_block{unit}', hidden, channels, options)
        data = blocks.add(residual, data, f'{name}_block{unit}_sum')
    return data


STEM_CHANNELS = 64
# stage, channels, hidden channels of the unit that halves the map, of the residual units
STAGES = ((3, 64, 128, 128), (4, 128, 256, 256), (5, 128, 512, 256))
LAST_CHANNELS = 512
EMBEDDING_EPS = 2e-5

# residual units before the stages and in each; a 1 in front stands for one depthwise convolution
UNITS = {'y1': (1, 4, 6, 2), 'y2': (2, 8, 16, 4)}


def mobilefacenet(options: MobileFaceNetOptions, units: tuple[int, ...]) -> mx.sym.Symbol:
    """Stem, stages and the global depthwise convolution head for a 112x112 input."""
    data = blocks.normalized_input()
    stem = options.channels(STEM_CHANNELS)
    stem_channels = stem * options.scale
    data = _conv(data, 'conv_1', stem_channels, options, kernel=3, stride=2, pad=1)
    if units[0] == 1:
        depthwise = {'kernel': 3, 'pad': 1, 'num_group': stem}
        data = _conv(data, 'conv_2_dw', stem_channels, options, **depthwise)
    else:
        data = _residual_units(data, 'res_2', units[0], stem, stem_channels, options)
    for count, (stage, *sizes) in zip(units[1:], STAGES):
        channels, hidden_down, hidden = map(options.channels, sizes)
        name = f'dconv_{stage - 1}{stage}'
        channels *= options.scale
        data = _bottleneck(data, name, hidden_down, channels, options, stride=2)
        data = _residual_units(data, f'res_{stage}', count, hidden, channels, options)
    last = options.channels(LAST_CHANNELS)
    data = _conv(data, 'conv_6sep', last, options)
    head = {'kernel': 7, 'num_group': last, 'act': False}
    data = _conv(data, 'conv_6dw7_7', last, options, **head)
    return blocks.embedding(data, options.emb_size, EMBEDDING_EPS, options, fix_gamma=True)


# start of a layer's name here -> of its module's path in arcface_torch's MobileFaceNet files
_TORCH_PATHS = (
    (r'conv_1', r'layers.0'),
    (r'conv_2_dw', r'layers.1'),
    (r'res_2_block(\d+)', r'layers.1.layers.\1'),
    (r'dconv_23', r'layers.2'),
    (r'res_3_block(\d+)', r'layers.3.layers.\1'),
    (r'dconv_34', r'layers.4'),
    (r'res_4_block(\d+)', r'layers.5.layers.\1'),
    (r'dconv_45', r'layers.6'),
    (r'res_5_block(\d+)', r'layers.7.layers.\1'),
    (r'conv_6sep', r'conv_sep'),
    (r'conv_6dw7_7', r'features.layers.0'),
    (r'pre_fc1', r'features.layers.2'),
    (r'fc1', r'features.layers.3'),
)
# the other parts of the name: the convolution in a unit, the layer in a convolution
_TORCH_LAYERS = {
    'conv_sep': 0,
    'conv_dw': 1,
    'conv_proj': 2,
    'conv2d': 0,
    'batchnorm': 1,
    'relu': 2,
}


def _torch_module(layer: str) -> str:
    """res_3_block2_conv_dw_batchnorm -> layers.3.layers.2.layers.1.layers.1"""
    for pattern, path in _TORCH_PATHS:
        match = re.match(pattern + r'(?=_|$)', layer)
        if match:
            rest = re.findall('|'.join(_TORCH_LAYERS), layer[match.end() :])
            return match.expand(path) + ''.join(f'.layers.{_TORCH_LAYERS[part]}' for part in rest)
    return layer


TORCH = TorchLayout(
    module=_torch_module,
    options={'bn_eps': 1e-5},
    sizes={'emb_size': ('features.layers.2.weight', 1), 'scale': ('layers.0.layers.0.weight', 64)},
    input_scale=1 / 127.5,
    bn_eps=1e-5,
    absent={'pre_fc1_bias': 0.0},
)

for _name, _emb_size in {'y1': 128, 'y2': 256}.items():
    NETWORKS.register(_name)(
        Family(
            partial(mobilefacenet, units=UNITS[_name]),
            MobileFaceNetOptions(emb_size=_emb_size),
            rules={'scale': integer(1, 64)},
            # the units before the stages of arcface_torch's y2 are wider
            torch=TORCH if _name == 'y1' else TorchLayout(),
        )
    )
