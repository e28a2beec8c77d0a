"""MixFaceNets (arXiv:2107.13046), built from mixed depthwise convolutions (arXiv:1907.09595).

Their input is (x - 127.5) / 127.5, not divided by 128 as InsightFace's networks have it. The
shuffled variants differ in the units of the stages alone: the unit of the stem always shuffles.
"""

import math
import re
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

from ..common.backend import mx
from . import blocks
from .options import FLAG, NETWORKS, Family, LayerOptions, integer
from .torch_layout import TorchLayout


@dataclass(frozen=True)
class MixFaceNetOptions(LayerOptions):
    """Options of the MixFaceNets.

    Attributes
    ----------
    act_type : of the stem, stage 1 and the last 1x1 convolution; the other stages have Swish
    width : factor on the channel counts of stem and stages, see `scaled`
    gdw_size : channels of the global depthwise convolution
    shuffle : shuffle the channels after every unit of the stages
    emb_size : D, length of the embedding
    """

    bn_eps: float = 1e-5
    width: float = 1.0
    gdw_size: int = 1024
    shuffle: bool = False
    emb_size: int = 512


class Unit(NamedTuple):
    """One unit: 1x1 expansion, mixed depthwise convolution, SE, 1x1 projection."""

    channels: int  # of the output
    expand_groups: int  # channel groups of the expansion
    expand: int  # channels of the depthwise convolution per input channel
    kernels: int  # of the depthwise convolution: 3, 5, 7 ...
    project_groups: int  # channel groups of the projection
    se: int = 0  # input channels per hidden unit of the SE, 0 without one


# channels of the stem, then the units of the four stages
SMALL = (
    16,
    (
        (Unit(24, 2, 6, 1, 2), Unit(24, 2, 3, 1, 2)),
        (Unit(40, 1, 6, 3, 1, 2), *[Unit(40, 2, 6, 2, 2, 2)] * 3),
        (Unit(80, 1, 6, 3, 2, 4), *[Unit(80, 1, 6, 2, 2, 4)] * 2),
        (
            Unit(120, 2, 6, 3, 2, 2),
            *[Unit(120, 2, 3, 4, 2, 2)] * 2,
            Unit(200, 1, 6, 5, 1, 2),
            *[Unit(200, 1, 6, 4, 2, 2)] * 2,
        ),
    ),
)
MEDIUM = (
    24,
    (
        (Unit(32, 2, 6, 3, 2), Unit(32, 2, 3, 1, 2)),
        (Unit(40, 1, 6, 4, 1, 2), *[Unit(40, 2, 6, 2, 2, 2)] * 3),
        (Unit(80, 1, 6, 3, 1, 4), *[Unit(80, 2, 6, 4, 2, 4)] * 3),
        (
            Unit(120, 1, 6, 1, 1, 2),
            *[Unit(120, 2, 3, 4, 2, 2)] * 3,
            Unit(200, 1, 6, 4, 1, 2),
            *[Unit(200, 1, 6, 4, 2, 2)] * 3,
        ),
    ),
)


def scaled(channels: int, width: float) -> int:
    """A channel count times the width, as a multiple of 8 not much below the product."""
    if width == 1:
        return channels
    product = channels * width
    rounded = max(8, math.floor((product + 4) / 8) * 8)
    return rounded + 8 if rounded < 0.9 * product else rounded


def split(channels: int, groups: int) -> list[int]:
    """Channels of each group; the first one gets what a division leaves."""
    size = channels // groups
    return [channels - size * (groups - 1), *[size] * (groups - 1)]


def stride_of(stage: int, unit: int, count: int) -> int:
    """Stride of a unit, counted from 0, of stage 1..4 with `count` units."""
    halving = {2: 0, 3: 0, 4: count // 2}
    return 2 if halving.get(stage) == unit else 1


def _mixed(data, name, in_channels, out_channels, kernels, stride=1, depthwise=False):
    """A convolution of another kernel for each group of channels, (N, in_channels, H, W) ->
    (N, out_channels, H/stride, W/stride).
    """
    if len(kernels) == 1:
        (kernel,) = kernels
        num_group = in_channels if depthwise else 1
        return blocks.convolution(
            data, f'{name}_conv', out_channels, kernel, stride, kernel // 2, num_group
        )
    inputs, outputs = (split(count, len(kernels)) for count in (in_channels, out_channels))
    parts, begin = [], 0
    for index, kernel in enumerate(kernels):
        end = begin + inputs[index]
        part = mx.sym.slice_axis(data, axis=1, begin=begin, end=end, name=f'{name}_slice{index}')
        num_group = inputs[index] if depthwise else 1
        part = blocks.convolution(
            part, f'{name}_conv{index}', outputs[index], kernel, stride, kernel // 2, num_group
        )
        parts.append(part)
        begin = end
    return blocks.concatenate(parts, outputs, f'{name}_concat')


def _shuffle(data, name):
    """All even channels, then all odd ones: (C/2, 2) channels transposed. Not ShuffleNet's order,
    which is the inverse of it.
    """
    data = mx.sym.reshape(data, shape=(0, -4, -1, 2, -2), name=f'{name}_pairs')
    data = mx.sym.SwapAxis(data, dim1=1, dim2=2, name=f'{name}_swap')
    return mx.sym.reshape(data, shape=(0, -3, -2), name=name)


def _unit(data, name, in_channels, unit, options, stride, act, shuffle):
    """One unit; the shortcut, where there is one, is added before the shuffle."""
    channels = in_channels * unit.expand
    main = data
    if unit.expand > 1:
        ones = [1] * unit.expand_groups
        main = _mixed(main, f'{name}_exp', in_channels, channels, ones)
        main = act(blocks.batch_norm(main, f'{name}_exp_bn', options), f'{name}_exp_act', options)
    kernels = [3 + 2 * index for index in range(unit.kernels)]
    main = _mixed(main, f'{name}_dw', channels, channels, kernels, stride, depthwise=True)
    main = act(blocks.batch_norm(main, f'{name}_dw_bn', options), f'{name}_dw_act', options)
    if unit.se:
        ratio = unit.expand * unit.se
        main = blocks.squeeze_excitation(main, f'{name}_se', channels, ratio, options, act=act)
    ones = [1] * unit.project_groups
    main = _mixed(main, f'{name}_proj', channels, unit.channels, ones)
    main = blocks.batch_norm(main, f'{name}_proj_bn', options)
    if stride == 1 and in_channels == unit.channels:
        main = blocks.add(main, data, f'{name}_sum')
    return _shuffle(main, f'{name}_shuffle') if shuffle else main


def mixfacenet(options: MixFaceNetOptions, table: tuple) -> mx.sym.Symbol:
    """Stem, four stages and the embedding: (N, 3, 112, 112) RGB 0..255 -> (N, emb_size)."""
    stem_channels, stages = table
    channels = scaled(stem_channels, options.width)
    data = blocks.normalized_input(scale=1 / 127.5)
    data = blocks.conv_bn_act(
        data,
        'stem',
        channels,
        options,
        kernel=3,
        stride=2,
        pad=1,
        suffixes=('_conv', '_bn', '_act'),
    )
    plain = Unit(channels, 1, 1, 1, 1)
    data = _unit(
        data, 'stem_unit', channels, plain, options, stride=1, act=blocks.activation, shuffle=True
    )
    for stage, units in enumerate(stages, start=1):
        act = blocks.activation if stage == 1 else blocks.swish
        for index, unit in enumerate(units):
            unit = unit._replace(channels=scaled(unit.channels, options.width))
            stride = stride_of(stage, index, len(units))
            name = f'stage{stage}_unit{index + 1}'
            data = _unit(data, name, channels, unit, options, stride, act, options.shuffle)
            channels = unit.channels
    head = partial(blocks.conv_bn_act, layer=options, suffixes=('_conv', '_bn', '_act'))
    data = head(data, 'tail', options.gdw_size)
    data = head(data, 'gdw', options.gdw_size, act=False, kernel=7, num_group=options.gdw_size)
    # the authors' 1x1 convolution of the 1x1 map
    return blocks.embedding(
        data, options.emb_size, options.bn_eps, options, fix_gamma=True, no_bias=True
    )


# start of a layer's name here -> of its module's path in the authors' files (spelt so)
_TORCH_PATHS = (
    (r'stem_unit_dw_', r'features.init_block.conv2.conv1.'),
    (r'stem_unit_proj_', r'features.init_block.conv2.conv2.'),
    (r'stem_', r'features.init_block.conv1.'),
    (r'(stage\d)_(unit\d)_exp_', r'features.\1.\2.exp_conv.'),
    (r'(stage\d)_(unit\d)_dw_', r'features.\1.\2.conv1.'),
    (r'(stage\d)_(unit\d)_proj_', r'features.\1.\2.conv2.'),
    (r'(stage\d)_(unit\d)_se_conv', r'features.\1.\2.se.conv'),
    (r'tail_', r'tail.'),
    (r'gdw_', r'feautre_layer.dw_conv.'),
    (r'pre_fc1', r'feautre_layer.pw_conv.conv'),
    (r'fc1', r'features_norm'),
)
# the layer's own name in a block; the convolutions of a mixed one are numbered
_TORCH_LAYERS = ((r'act', 'activ'), (r'conv(\d)', r'conv.\1'))


def _torch_module(layer: str) -> str:
    """stage2_unit1_dw_conv0 -> features.stage2.unit1.conv1.conv.0"""
    for pattern, path in _TORCH_PATHS:
        match = re.match(pattern, layer)
        if match:
            rest = layer[match.end() :]
            for name, theirs in _TORCH_LAYERS:
                rest = re.sub(f'^{name}$', theirs, rest)
            return match.expand(path) + rest
    return layer


TORCH = TorchLayout(
    module=_torch_module,
    sizes={
        'emb_size': ('feautre_layer.pw_conv.conv.weight', 1),
        'gdw_size': ('tail.conv.weight', 1),
    },
    pointwise=('pre_fc1_weight',),
)
_RULES = {'shuffle': FLAG, 'gdw_size': integer(1, 65536)}
_SIZES = {
    'xs': (SMALL, {'width': 0.5, 'gdw_size': 512}),
    's': (SMALL, {}),
    'm': (MEDIUM, {}),
}

for _size, (_table, _options) in _SIZES.items():
    for _prefix, _shuffled in {'': False, 'shuffle': True}.items():
        NETWORKS.register(f'{_prefix}mixfacenet_{_size}')(
            Family(
                partial(mixfacenet, table=_table),
                MixFaceNetOptions(shuffle=_shuffled, **_options),
                rules=_RULES,
                torch=TORCH,
            )
        )
