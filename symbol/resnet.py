"""ResNet-IR, the residual network of ArcFace (arXiv:1801.07698), with or without SE.

r100_se is the paper's teacher; `width` makes small teachers for tests and laptops.
"""

import re
from dataclasses import dataclass
from functools import partial

from ..common.backend import mx
from . import blocks
from .options import NETWORKS, Family, LayerOptions
from .torch_layout import TorchLayout


@dataclass(frozen=True)
class ResNetOptions(LayerOptions):
    """Options of ResNet-IR.

    Attributes
    ----------
    emb_size : D, length of the embedding
    width : factor on all channel counts, which are rounded
    use_se : squeeze and excitation in every unit
    dropout : share of the last features that a training step drops
    """

    emb_size: int = 512
    width: float = 1.0
    use_se: bool = False
    dropout: float = 0.4


SE_RATIO = 16


def _unit(data, name, channels, options, stride):
    """Residual unit; the first of a stage (stride 2) projects its shortcut."""
    main = blocks.batch_norm(data, f'{name}_bn1', options)
    main = blocks.convolution(main, f'{name}_conv1', channels, kernel=3, pad=1)
    main = blocks.batch_norm(main, f'{name}_bn2', options)
    main = blocks.activation(main, f'{name}_relu1', options)
    main = blocks.convolution(main, f'{name}_conv2', channels, kernel=3, stride=stride, pad=1)
    main = blocks.batch_norm(main, f'{name}_bn3', options)
    if options.use_se:
        main = blocks.squeeze_excitation(
            main, f'{name}_se', channels, SE_RATIO, layer=options, act_name='relu1'
        )
    shortcut = data
    if stride > 1:
        shortcut = blocks.convolution(data, f'{name}_conv1sc', channels, stride=stride)
        shortcut = blocks.batch_norm(shortcut, f'{name}_sc', options)
    return blocks.add(main, shortcut, f'{name}_sum')


STEM_CHANNELS = 64
STAGE_CHANNELS = (64, 128, 256, 512)
# units of each stage
UNITS = {
    'r18': (2, 2, 2, 2),
    'r34': (3, 4, 6, 3),
    'r50': (3, 4, 14, 3),
    'r100': (3, 13, 30, 3),
}


def resnet(options: ResNetOptions, units: tuple[int, ...]) -> mx.sym.Symbol:
    """Stem without pooling, four stages that each halve the map, BN - dropout - embedding."""

    def scaled(channels: int) -> int:
        return max(1, round(channels * options.width))

    data = blocks.normalized_input()
    data = blocks.convolution(data, 'conv0', scaled(STEM_CHANNELS), kernel=3, pad=1)
    data = blocks.batch_norm(data, 'bn0', options)
    data = blocks.activation(data, 'relu0', options)
    for stage, (channels, count) in enumerate(zip(STAGE_CHANNELS, units), start=1):
        for unit in range(1, count + 1):
            stride = 2 if unit == 1 else 1
            data = _unit(data, f'stage{stage}_unit{unit}', scaled(channels), options, stride)
    data = blocks.batch_norm(data, 'bn1', options)
    data = mx.sym.Dropout(data, p=options.dropout, name='dropout0')
    return blocks.embedding(data, options.emb_size, options.bn_eps, options, fix_gamma=True)


# layer here -> module in arcface_torch's iresnet files
_TORCH_MODULES = (
    (r'conv0', r'conv1'),
    (r'bn0', r'bn1'),
    (r'relu0', r'prelu'),
    (r'stage(\d)_unit(\d+)_(bn\d|conv\d)', r'layer\1.{unit}.\3'),
    (r'stage(\d)_unit(\d+)_relu1', r'layer\1.{unit}.prelu'),
    (r'stage(\d)_unit(\d+)_conv1sc', r'layer\1.{unit}.downsample.0'),
    (r'stage(\d)_unit(\d+)_sc', r'layer\1.{unit}.downsample.1'),
    (r'bn1', r'bn2'),
    (r'pre_fc1', r'fc'),
    (r'fc1', r'features'),
)


def _torch_module(layer: str) -> str:
    """stage2_unit1_conv1 -> layer2.0.conv1"""
    for pattern, module in _TORCH_MODULES:
        match = re.fullmatch(pattern, layer)
        if match:
            unit = int(match.group(2)) - 1 if match.lastindex else 0
            return match.expand(module).format(unit=unit)
    return layer


TORCH = TorchLayout(
    module=_torch_module,
    options={'bn_eps': 1e-5},
    sizes={'emb_size': ('fc.weight', 1)},
    input_scale=1 / 127.5,
    bn_eps=1e-5,
)

for _name, _units in UNITS.items():
    for _suffix, _use_se in {'': False, '_se': True}.items():
        NETWORKS.register(_name + _suffix)(
            Family(
                partial(resnet, units=_units),
                ResNetOptions(use_se=_use_se),
                # iresnet has no SE
                torch=TorchLayout() if _use_se else TORCH,
            )
        )
