"""Efficient PolyFace, the image submission of the Trojans team to the LFR challenge of 2019.

The released networks are Inception-ResNet-v2-like with residual units of first order. Their input
is 235x235, made from the 112x112 crop inside of the network, so that crops of one size go into
every network here.
"""

from dataclasses import dataclass
from functools import partial

from ..common import names
from ..common.backend import mx
from . import blocks
from .options import FLAG, NETWORKS, SHARE, Family, LayerOptions, integer
from .torch_layout import TorchLayout


@dataclass(frozen=True)
class PolyFaceOptions(LayerOptions):
    """Options of PolyFace.

    Attributes
    ----------
    blocks_a, blocks_b, blocks_c : residual units of each of the three stages
    drop : probability that a training step leaves out a residual unit, one draw a unit and batch
    dropout : share of the last maps that a training step drops
    feature_nobn : end before the last batch norm, as the authors do for verification; with it
        (false) for training, as they train
    emb_size : D, length of the embedding
    """

    act_type: str = 'relu'
    bn_eps: float = 1e-10
    blocks_a: int = 23
    blocks_b: int = 38
    blocks_c: int = 23
    drop: float = 0.2
    dropout: float = 0.4
    feature_nobn: bool = True
    emb_size: int = 256


# --- the input

_COEFFICIENTS = 2048  # OpenCV's fixed point: 11 bits


def _positions(size: int, source: int) -> tuple[mx.sym.Symbol, ...]:
    """(left, right, share of right), (size,) each: what a pixel of a line of `size` is made of.

    The line has `source` pixels, the first of which is number 1: the crop's first row and column
    are left out. OpenCV computes a position in float32 and rounds the share to 1/2048.
    """
    double = mx.sym.arange(
        start=source - size, stop=source - size + 2 * source * size, step=2 * source
    )
    position = double / (2 * size)
    left = mx.sym.floor(position)
    # adding 2**23 rounds a float32, ties to even as OpenCV does and MXNet's rint does not
    share = ((position - left) * _COEFFICIENTS + 2**23 - 2**23) / _COEFFICIENTS
    ends = [mx.sym.clip(left + offset, a_min=0, a_max=source - 1) + 1 for offset in (0, 1)]
    return (*ends, share)


def _weighted_row(high, low, share):
    """floor(2048 share * (128 high + low) / 65536), exactly: 26 bits do not fit into float32."""
    fraction = mx.sym.floor(mx.sym.broadcast_mul(low, share) * 16) / 512
    return mx.sym.floor(mx.sym.broadcast_mul(high, share) * 4 + fraction)


def resized_input(size: int) -> mx.sym.Symbol:
    """The input `data`, (N, 3, 112, 112) float32 RGB 0..255, as the authors prepare it.

    (N, 3, size, size) BGR in -1.6..1.6: without the first row and column, resized bilinearly to
    `size` as OpenCV does it with uint8, to the bit. Rounding leaves no gradient to `data`.
    """
    source = names.IMAGE_SIZE - 1
    with mx.name.Prefix('resize_'):
        data = mx.sym.take(
            mx.sym.Variable(names.DATA),
            mx.sym.arange(start=2, stop=-1, step=-1),
            axis=1,
            name='bgr',
        )
        left, right, share = _positions(size, source)
        columns = mx.sym.reshape(share, shape=(1, 1, 1, size))
        rows = mx.sym.reshape(share, shape=(1, 1, size, 1))
        data = mx.sym.broadcast_mul(
            mx.sym.take(data, left, axis=3), 1 - columns
        ) + mx.sym.broadcast_mul(mx.sym.take(data, right, axis=3), columns)
        data = mx.sym.floor(data * 128)  # OpenCV's sums of 11 fraction bits, shifted by 4
        high = mx.sym.floor(data / 128)
        parts = (high, data - high * 128)
        above = _weighted_row(*(mx.sym.take(part, left, axis=2) for part in parts), 1 - rows)
        below = _weighted_row(*(mx.sym.take(part, right, axis=2) for part in parts), rows)
        data = mx.sym.floor((above + below + 2) / 4)
        return mx.sym._internal._minus_scalar(data * (3.2 / 255), scalar=1.6, name='pixels')


# --- the network


def _cbr(data, name, channels, options, kernel=(1, 1), stride=1, same=True):
    """Convolution without bias, batch norm, ReLU; padded to the same size unless `same` is off."""
    data = _conv_bn(data, name, channels, options, kernel, stride, same, ('_conv', '_bn'))
    return blocks.activation(data, f'{name}_relu', options)


def _conv_bn(data, name, channels, options, kernel, stride, same, suffixes):
    pad = tuple(length // 2 for length in kernel) if same else (0, 0)
    data = mx.sym.Convolution(
        data,
        num_filter=channels,
        kernel=kernel,
        stride=(stride, stride),
        pad=pad,
        no_bias=True,
        name=name + suffixes[0],
    )
    return _batch_norm(data, name + suffixes[1], options.bn_eps, options.bn_mom)


def _batch_norm(data, name, eps, momentum, **options):
    """cuDNN takes no epsilon below 1e-5."""
    return mx.sym.BatchNorm(
        data,
        fix_gamma=options.pop('fix_gamma', False),
        eps=eps,
        momentum=momentum,
        cudnn_off=eps < 1e-5,
        name=name,
        **options,
    )


def _pool(data, name):
    return mx.sym.Pooling(data, kernel=(3, 3), stride=(2, 2), pool_type='max', name=name)


def _branch(data, name, layers, options):
    """Some `_cbr` in a row; more than one are numbered."""
    for index, (channels, *shape) in enumerate(layers):
        number = f'_{index}' if len(layers) > 1 else ''
        data = _cbr(data, f'{name}{number}', channels, options, *shape)
    return data


def _branches(data, name, branches, options, first=0, pool_at=None):
    """Branches beside each other, joined; a max pooling that halves the map at `pool_at`."""
    parts = [
        _branch(data, f'{name}_branch{index}', layers, options)
        for index, layers in enumerate(branches, start=first)
    ]
    if pool_at is not None:
        parts.insert(pool_at, _pool(data, f'{name}_pool'))
    return mx.sym.Concat(*parts, dim=1, name=f'{name}_concat')


HALVE = ((3, 3), 2, False)
# channels of a convolution, then kernel, stride and whether it keeps the size of the map
STEM_2 = (
    ((64,), (96, (3, 3), 1, False)),
    ((64,), (64, (7, 1)), (64, (1, 7)), (96, (3, 3), 1, False)),
)
A_CHANNELS, A = 384, (((32,), (48, (3, 3)), (64, (3, 3))), ((32,), (32, (3, 3))), ((32,),))
A_TO_B = (((256,), (256, (3, 3)), (384, *HALVE)), ((384, *HALVE),))
B_CHANNELS, B = 1152, (((128,), (160, (1, 7)), (192, (7, 1))), ((192,),))
B_TO_C = (
    ((256,), (256, (3, 3)), (256, *HALVE)),
    ((256,), (256, *HALVE)),
    ((256,), (384, *HALVE)),
)
C_CHANNELS, C = 2048, (((192,), (224, (1, 3)), (256, (3, 1))), ((192,),))
RESIDUAL_SCALE = 0.3  # of a unit that a training step keeps
INPUT_SIZE = 235


def _stem(data, options):
    """(N, 3, 235, 235) -> (N, 384, 27, 27)."""
    data = _cbr(data, 'stem_step1_stem_0', 32, options, *HALVE)
    data = _cbr(data, 'stem_step1_stem_1', 32, options, (3, 3), 1, False)
    data = _cbr(data, 'stem_step1_stem_2', 64, options, (3, 3))
    data = _branches(data, 'stem_step1', (((96, *HALVE),),), options, first=1, pool_at=0)
    data = _branches(data, 'stem_step2', STEM_2, options)
    return _branches(data, 'stem_step3', (((192, *HALVE),),), options, first=1, pool_at=0)


def _unit(data, name, channels, branches, options):
    """y = ReLU(x + c F(x)): c is 0.3 or 0 in a training step, the mean of that in inference.

    Of a unit that is left out the running statistics go on, and its weights keep momentum and
    decay, unlike in the authors' code, which does not compute it.
    """
    main = _branches(data, name, branches, options)
    main = _conv_bn(main, f'{name}_stem', channels, options, (1, 1), 1, True, ('_0', '_1'))
    # one draw for all values of the batch; what is kept is divided by the probability to be kept
    main = mx.sym.Dropout(main, p=options.drop, axes=(0, 1, 2, 3), name=f'{name}_drop')
    scale = RESIDUAL_SCALE * (1 - options.drop)
    main = mx.sym._internal._mul_scalar(main, scalar=scale, name=f'{name}_scale')
    return blocks.activation(blocks.add(main, data, f'{name}_sum'), f'{name}_relu', options)


def _head(data, options):
    """(N, 2048, 6, 6) -> (N, emb_size). New batches weigh 0.9 in the running statistics here."""
    data = _batch_norm(data, 'fc_bn1', 2e-5, 0.1)
    data = mx.sym.Dropout(data, p=options.dropout, axes=(2, 3), name='fc_drop')
    data = mx.sym.FullyConnected(data, num_hidden=options.emb_size, name=f'pre_{names.EMBEDDING}')
    if options.feature_nobn:
        return mx.sym.identity(data, name=names.EMBEDDING)
    # neither gamma nor beta learns
    beta = mx.sym.Variable(f'{names.EMBEDDING}_beta', lr_mult=0.0, wd_mult=0.0, init=mx.init.Zero())
    return _batch_norm(data, names.EMBEDDING, 2e-5, 0.1, fix_gamma=True, beta=beta)


def polyface(options: PolyFaceOptions) -> mx.sym.Symbol:
    """Input, stem, three stages and the embedding: (N, 3, 112, 112) RGB 0..255 -> (N, emb_size)."""
    data = _stem(resized_input(INPUT_SIZE), options)
    for index in range(options.blocks_a):
        data = _unit(data, f'a10_{index}', A_CHANNELS, A, options)
    data = _branches(data, 'a2b', A_TO_B, options, pool_at=len(A_TO_B))
    for index in range(options.blocks_b):
        data = _unit(data, f'b20_{index}', B_CHANNELS, B, options)
    data = _branches(data, 'b2c', B_TO_C, options, pool_at=len(B_TO_C))
    for index in range(options.blocks_c):
        data = _unit(data, f'c10_{index}', C_CHANNELS, C, options)
    return _head(data, options)


def _torch_module(layer: str) -> str:
    """a10_0_branch0_1_conv -> a10.0.branch0.1.conv"""
    of_the_head = {'pre_fc1': 'fc.fc', 'fc1': 'fc.bn2'}
    return of_the_head.get(layer, layer.replace('_', '.'))


_FAMILY = partial(
    Family,
    polyface,
    rules={
        'blocks_a': integer(0, 1000),
        'blocks_b': integer(0, 1000),
        'blocks_c': integer(0, 1000),
        'drop': SHARE,
        'feature_nobn': FLAG,
    },
    torch=TorchLayout(
        module=_torch_module,
        sizes={'emb_size': ('fc.fc.weight', 1)},
        absent={'fc1_gamma': 1.0, 'fc1_beta': 0.0},
        unused=('fc.bn2.',),
    ),
)

NETWORKS.register('polyface')(_FAMILY(PolyFaceOptions()))
# the feature network of QAN++
NETWORKS.register('polyface_deep')(_FAMILY(PolyFaceOptions(blocks_a=20, blocks_b=30, blocks_c=20)))
