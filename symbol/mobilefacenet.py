"""MobileFaceNet (arXiv:1804.07573) in InsightFace's two sizes, y1 and y2."""

from dataclasses import dataclass
from functools import partial

from ..common.backend import mx
from . import blocks
from .options import NETWORKS, Family, LayerOptions


@dataclass(frozen=True)
class MobileFaceNetOptions(LayerOptions):
    """Options of MobileFaceNet; `emb_size` is D, the length of the embedding."""

    bn_eps: float = 1e-3
    emb_size: int = 128


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
    data = _conv(data, 'conv_1', STEM_CHANNELS, options, kernel=3, stride=2, pad=1)
    if units[0] == 1:
        stem = {'kernel': 3, 'pad': 1, 'num_group': STEM_CHANNELS}
        data = _conv(data, 'conv_2_dw', STEM_CHANNELS, options, **stem)
    else:
        data = _residual_units(data, 'res_2', units[0], STEM_CHANNELS, STEM_CHANNELS, options)
    for count, (stage, channels, hidden_down, hidden) in zip(units[1:], STAGES):
        name = f'dconv_{stage - 1}{stage}'
        data = _bottleneck(data, name, hidden_down, channels, options, stride=2)
        data = _residual_units(data, f'res_{stage}', count, hidden, channels, options)
    data = _conv(data, 'conv_6sep', LAST_CHANNELS, options)
    head = {'kernel': 7, 'num_group': LAST_CHANNELS, 'act': False}
    data = _conv(data, 'conv_6dw7_7', LAST_CHANNELS, options, **head)
    return blocks.embedding(data, options.emb_size, EMBEDDING_EPS, options, fix_gamma=True)


for _name, _emb_size in {'y1': 128, 'y2': 256}.items():
    NETWORKS.register(_name)(
        Family(partial(mobilefacenet, units=UNITS[_name]), MobileFaceNetOptions(emb_size=_emb_size))
    )
