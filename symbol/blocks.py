"""Layers that the networks share: convolution + BN + activation, variable group convolution, SE.

Every operator gets its name from the caller and none from MXNet's counters, because the names of
parameters are the keys of checkpoints and two builds in one process must agree.
"""

from collections.abc import Callable, Sequence

from ..common import names
from ..common.backend import mx
from .options import LayerOptions

_LEAKY_FAMILY = ('elu', 'gelu', 'leaky', 'prelu', 'selu')

# what follows a layer's name in the names of its convolution, batch norm and activation
_SUFFIXES = ('', '_bn', '_act')


def normalized_input(scale: float = 1 / 128) -> mx.sym.Symbol:
    """The input `data`, (N, 3, H, W) float32 RGB 0..255, minus 127.5 and times `scale`.

    InsightFace's run-time code recognises a model that normalises its input by these node names.
    """
    data = mx.sym.identity(mx.sym.Variable(names.DATA), name='id')
    data = mx.sym._internal._minus_scalar(data, scalar=127.5, name='_minusscalar0')
    return mx.sym._internal._mul_scalar(data, scalar=scale, name='_mulscalar0')


def convolution(
    data: mx.sym.Symbol,
    name: str,
    channels: int,
    kernel: int = 1,
    stride: int = 1,
    pad: int = 0,
    num_group: int = 1,
    no_bias: bool = True,
) -> mx.sym.Symbol:
    """Square 2-D convolution, (N, C, H, W) -> (N, channels, H', W')."""
    return mx.sym.Convolution(
        data,
        num_filter=channels,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        pad=(pad, pad),
        num_group=num_group,
        no_bias=no_bias,
        name=name,
    )


def batch_norm(
    data: mx.sym.Symbol, name: str, layer: LayerOptions, fix_gamma: bool = False
) -> mx.sym.Symbol:
    """Batch normalisation over all axes but 1."""
    return mx.sym.BatchNorm(
        data, fix_gamma=fix_gamma, eps=layer.bn_eps, momentum=layer.bn_mom, name=name
    )


def activation(data: mx.sym.Symbol, name: str, layer: LayerOptions) -> mx.sym.Symbol:
    """The network's activation; a PReLU learns `<name>_gamma`, one slope a channel."""
    if layer.act_type in _LEAKY_FAMILY:
        return mx.sym.LeakyReLU(data, act_type=layer.act_type, name=name)
    return mx.sym.Activation(data, act_type=layer.act_type, name=name)


def swish(data: mx.sym.Symbol, name: str, layer: LayerOptions) -> mx.sym.Symbol:
    """x * sigmoid(x) (arXiv:1710.05941), of operators that every run time has.

    It has no options; `layer` makes it stand where an `activation` can.
    """
    gate = mx.sym.Activation(data, act_type='sigmoid', name=f'{name}_sigmoid')
    return mx.sym.elemwise_mul(data, gate, name=name)


def conv_bn_act(
    data: mx.sym.Symbol,
    name: str,
    channels: int,
    layer: LayerOptions,
    act: bool = True,
    suffixes: tuple[str, str, str] = _SUFFIXES,
    **convolution_options,
) -> mx.sym.Symbol:
    """Convolution without bias, batch norm and, if `act`, the activation."""
    conv_suffix, bn_suffix, act_suffix = suffixes
    data = convolution(data, name + conv_suffix, channels, **convolution_options)
    data = batch_norm(data, name + bn_suffix, layer)
    return activation(data, name + act_suffix, layer) if act else data


def separable_group_conv(
    data: mx.sym.Symbol,
    name: str,
    in_channels: int,
    out_channels: int,
    layer: LayerOptions,
    group_base: int,
    stride: int = 1,
    factor: int = 1,
    act: bool = True,
) -> mx.sym.Symbol:
    """Variable group convolution and its pointwise convolution (arXiv:1907.05653, figure 1).

    A 3x3 convolution whose every group sees `group_base` input channels (the number of groups
    varies, not their size) widens `in_channels` by `factor`; 1x1 takes the result to
    `out_channels`. (N, in_channels, H, W) -> (N, out_channels, H/stride, W/stride). The activation
    between the two is always there, the last one only if `act`.
    """
    data = conv_bn_act(
        data,
        # the authors' word, though a group has more than one channel
        f'{name}_conv2d_depthwise',
        in_channels * factor,
        layer,
        kernel=3,
        stride=stride,
        pad=1,
        num_group=in_channels // group_base,
    )
    return conv_bn_act(data, f'{name}_conv2d_pointwise', out_channels, layer, act=act)


def squeeze_excitation(
    data: mx.sym.Symbol,
    name: str,
    channels: int,
    ratio: int,
    layer: LayerOptions,
    act_name: str = 'act1',
    act: Callable[..., mx.sym.Symbol] = activation,
) -> mx.sym.Symbol:
    """Squeeze and excitation (arXiv:1709.01507): scales each channel of (N, channels, H, W) by a
    gate in 0..1 computed from all channels' means through channels // ratio hidden units, whose
    activation is `act`.
    """
    gate = mx.sym.Pooling(
        data, global_pool=True, kernel=(1, 1), pool_type='avg', name=f'{name}_pool1'
    )
    gate = convolution(gate, f'{name}_conv1', max(1, channels // ratio), no_bias=False)
    gate = act(gate, f'{name}_{act_name}', layer)
    gate = convolution(gate, f'{name}_conv2', channels, no_bias=False)
    gate = mx.sym.Activation(gate, act_type='sigmoid', name=f'{name}_sigmoid')
    return mx.sym.broadcast_mul(data, gate, name=f'{name}_scale')


def add(data: mx.sym.Symbol, other: mx.sym.Symbol, name: str) -> mx.sym.Symbol:
    """Element-wise sum of two branches of one shape."""
    return mx.sym.elemwise_add(data, other, name=name)


def concatenate(
    parts: Sequence[mx.sym.Symbol], channels: Sequence[int], name: str
) -> mx.sym.Symbol:
    """Maps (N, channels[i], H, W) as one, (N, sum(channels), H, W).

    The backward pass of MXNet 1.9.1's oneDNN concatenation fails or crashes where a part does not
    fill whole blocks of 16 channels (8 without AVX-512). Arrays of five axes go another way.
    """
    if all(count % 16 == 0 for count in channels):
        return mx.sym.Concat(*parts, dim=1, name=name)
    parts = [
        mx.sym.expand_dims(part, axis=4, name=f'{name}_part{index}')
        for index, part in enumerate(parts)
    ]
    data = mx.sym.Concat(*parts, dim=1, name=f'{name}_parts')
    return mx.sym.reshape(data, shape=(0, 0, 0, -3), name=name)


def embedding(
    data: mx.sym.Symbol,
    size: int,
    eps: float,
    layer: LayerOptions,
    fix_gamma: bool,
    no_bias: bool = False,
) -> mx.sym.Symbol:
    """Fully connected layer and the batch norm `fc1`: (N, ...) -> (N, size), not unit length.

    The fully connected layer flattens: BatchNorm on a flattened view of a convolution's output
    crashes MXNet 1.9.1 on the CPU.
    """
    data = mx.sym.FullyConnected(
        data, num_hidden=size, no_bias=no_bias, name=f'pre_{names.EMBEDDING}'
    )
    return mx.sym.BatchNorm(
        data, fix_gamma=fix_gamma, eps=eps, momentum=layer.bn_mom, name=names.EMBEDDING
    )
