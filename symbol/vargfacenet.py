"""VarGFaceNet (arXiv:1910.04985), built from variable group convolutions (arXiv:1907.05653).

Argument names, shapes and order equal the authors' file, so their checkpoints load.
"""

import math
from dataclasses import dataclass

from ..common.backend import mx
from ..common.errors import InputError
from . import blocks
from .options import NETWORKS, Family, LayerOptions


@dataclass(frozen=True)
class VarGOptions(LayerOptions):
    """Options of VarGFaceNet and VarGNet.

    Attributes
    ----------
    multiplier : factor on all channel counts of the body
    emb_size : D, length of the embedding
    use_se : squeeze and excitation in the normal blocks
    se_ratio : channels per hidden unit of a squeeze and excitation
    group_base : input channels of every convolution group
    factor : widening inside the blocks of the stages
    head_pooling : 3x3 max pooling in place of the block that halves the first feature map
    """

    multiplier: float = 1.25
    emb_size: int = 512
    use_se: bool = True
    se_ratio: int = 4
    group_base: int = 8
    factor: int = 2
    head_pooling: bool = False


def _sepconv(data, name, in_channels, out_channels, options, **separable_options):
    return blocks.separable_group_conv(
        data,
        name,
        in_channels,
        out_channels,
        layer=options,
        group_base=options.group_base,
        **separable_options,
    )


def _normal_block(data, name, channels, options, stride=1, factor=1, project=False):
    """Two separable convolutions, SE and a shortcut: the input or, if `project`, a third."""
    wide = {'options': options, 'factor': factor}
    main = _sepconv(data, f'{name}_sep1_data', channels, channels, stride=stride, **wide)
    main = _sepconv(main, f'{name}_sep2_data', channels, channels, act=False, **wide)
    if options.use_se:
        main = blocks.squeeze_excitation(
            main, f'{name}_se', channels, options.se_ratio, layer=options
        )
    shortcut = data
    if project:
        shortcut = _sepconv(
            data, f'{name}_shortcut', channels, channels, stride=stride, act=False, **wide
        )
    output = blocks.add(main, shortcut, f'{name}_out_data')
    return blocks.activation(output, f'{name}_out_data_act', options)


def _down_sampling_block(data, name, in_channels, channels, options):
    """Halves the map: two parallel separable convolutions, one more after their sum, a shortcut."""
    wide = {'options': options, 'factor': options.factor, 'act': False}
    branches = [
        _sepconv(data, f'{name}_sep{i}_data_branch', in_channels, channels, stride=2, **wide)
        for i in (1, 2)
    ]
    main = blocks.add(*branches, f'{name}_sep1_data')
    main = blocks.activation(main, f'{name}_sep1_data_act', options)
    main = _sepconv(main, f'{name}_sep2_data', channels, channels, **wide)
    shortcut = _sepconv(data, f'{name}_shortcut', in_channels, channels, stride=2, **wide)
    output = blocks.add(main, shortcut, f'{name}_out_data')
    return blocks.activation(output, f'{name}_out_data_act', options)


def _head(data, channels, options):
    """(N, 3, 112, 112) -> (N, channels, 56, 56)."""
    data = blocks.conv_bn_act(data, 'vargface_head_conv1', channels, options, kernel=3, pad=1)
    name = 'vargface_head_head_pooling'
    if options.head_pooling:
        return mx.sym.Pooling(
            data, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type='max', name=name
        )
    return _normal_block(data, name, channels, options, stride=2, project=True)


HEAD_CHANNELS = 32
# channels, units (the first one halves the map)
STAGES = ((64, 3), (128, 7), (256, 4))
EMBEDDING_CHANNELS = 1024


def scaled_channels(options: VarGOptions) -> tuple[int, ...]:
    """Channels of the head and of each stage.

    Raises InputError unless every count is whole and divided by the group base.
    """
    base = (HEAD_CHANNELS, *(channels for channels, _ in STAGES))
    scaled = [channels * options.multiplier for channels in base]
    wrong = [channels for channels in scaled if channels % options.group_base]
    if wrong:
        # the other counts are multiples of the head's, so its step decides
        step = options.group_base / HEAD_CHANNELS
        below = math.floor(options.multiplier / step) * step
        near = ' or '.join(f'{value:g}' for value in (below, below + step) if value > 0)
        raise InputError(
            f'multiplier {options.multiplier:g} gives {", ".join(f"{c:g}" for c in wrong)} '
            f'channels, which group_base {options.group_base} does not divide; '
            f'the nearest multipliers that work: {near}'
        )
    return tuple(int(channels) for channels in scaled)


def body(options: VarGOptions) -> mx.sym.Symbol:
    """Input, head and stages: (N, 3, 112, 112) RGB 0..255 -> (N, 256 x multiplier, 7, 7)."""
    channels, *stage_channels = scaled_channels(options)
    data = _head(blocks.normalized_input(), channels, options)
    for stage, (out_channels, (_, units)) in enumerate(zip(stage_channels, STAGES), start=2):
        name = f'vargface_stage_{stage}_unit'
        data = _down_sampling_block(data, f'{name}_1', channels, out_channels, options)
        for unit in range(2, units + 1):
            data = _normal_block(
                data, f'{name}_{unit}', out_channels, options, factor=options.factor
            )
        channels = out_channels
    return data


def vargfacenet(options: VarGOptions) -> mx.sym.Symbol:
    """The network of table 1 with the variable group embedding of figure 1(d)."""
    if EMBEDDING_CHANNELS % options.group_base:
        raise InputError(
            f'group_base {options.group_base} does not divide the {EMBEDDING_CHANNELS} channels '
            'of the embedding; take a power of two'
        )
    data = body(options)
    data = blocks.conv_bn_act(data, 'embed_convx', EMBEDDING_CHANNELS, options)
    data = blocks.conv_bn_act(
        data,
        'embed_convx_depthwise',
        EMBEDDING_CHANNELS,
        options,
        act=False,
        kernel=7,
        num_group=EMBEDDING_CHANNELS // options.group_base,
    )
    data = blocks.conv_bn_act(data, 'embed_convx_pointwise', EMBEDDING_CHANNELS // 2, options)
    return blocks.embedding(data, options.emb_size, options.bn_eps, options, fix_gamma=False)


NETWORKS.register('vargfacenet')(Family(vargfacenet, VarGOptions()))
