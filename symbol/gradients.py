"""A descriptor made by hand as a network: oriented gradients at four scales.

Nothing before the last two layers is learned. Grey, local contrast normalised by its neighbourhood,
derivatives of Gaussians, their orientations sorted into 12 bins, mean over cells of 6x6 pixels,
every cell at unit length, square root: dense HOG (Dalal and Triggs, CVPR 2005) with the contrast
normalisation of Jarrett et al. (ICCV 2009) and the square root of Arandjelovic and Zisserman (CVPR
2012). A picture and its mirror image are added, so that both have one embedding. Two linear layers
follow, whose weights `recognition/fit.py` computes.

Every layer is a convolution, a pooling, arithmetic or an exchange of axes, so that all engines and
the ONNX file have it; filters are parameters like any others.
"""

import numpy as np

from ..common.backend import mx
from ..common.engine.network import Network
from .blocks import normalized_input

SCALES = (0.0, 1.0, 2.0, 3.5)  # of the Gaussians, pixels; the first is the picture itself
BINS = 12  # orientations of a full turn, a multiple of 4
CHANNELS = len(SCALES) * BINS
CELL = 6  # pixels
# the face without the picture's border; columns lie symmetrically
_ROWS, _COLUMNS = (14, 110), (14, 98)
MAP = ((_ROWS[1] - _ROWS[0]) // CELL, (_COLUMNS[1] - _COLUMNS[0]) // CELL // 2)  # half a face
FEATURES = CHANNELS * MAP[0] * MAP[1]

_GREY = (0.299, 0.587, 0.114)  # of ITU-R BT.601
_NEIGHBOURHOOD = 8.0  # scale of the Gaussian, pixels
_FLAT = 2.4e-4  # variance of two grey levels, which is no contrast
_SHARPNESS = 0.88  # cosine of the angle at which an orientation's bin ends
_TINY = 1e-3  # squared length of a cell without edges


def _gaussian(scale: float) -> np.ndarray:
    """Float64 (2 radius + 1,) of sum 1, cut off at three scales."""
    radius = int(np.ceil(3 * scale))
    values = np.exp(-0.5 * (np.arange(-radius, radius + 1) / scale) ** 2)
    return values / values.sum()


class _Builder:
    """Convolutions with filters of their own."""

    def __init__(self):
        self.params: dict[str, np.ndarray] = {}

    def convolution(self, data: 'mx.sym.Symbol', name: str, weight, groups: int = 1):
        """`data` through `weight` (out, in / groups, height, width), zeros around it."""
        weight = np.asarray(weight, np.float32)
        self.params[f'{name}_weight'] = weight
        return mx.sym.Convolution(
            data,
            num_filter=len(weight),
            kernel=weight.shape[2:],
            pad=tuple(size // 2 for size in weight.shape[2:]),
            num_group=groups,
            no_bias=True,
            name=name,
        )

    def blurred(self, data: 'mx.sym.Symbol', name: str, scale: float) -> 'mx.sym.Symbol':
        """A map (N, 1, H, W), blurred by a Gaussian of `scale` pixels.

        Both ways downwards: along its rows OpenVINO takes 20 times as long for the same.
        """
        blur = _gaussian(scale).reshape(1, 1, -1, 1)
        for way in ('down', 'along'):
            data = self.convolution(data, f'{name}_{way}', blur)
            data = mx.sym.SwapAxis(data, dim1=2, dim2=3, name=f'{name}_{way}_turned')
        return data


def _contrast(build: _Builder) -> 'mx.sym.Symbol':
    """(N, 1, 112, 112): grey, in standard deviations from the mean around each pixel."""
    grey = build.convolution(normalized_input(), 'grey', np.reshape(_GREY, (1, 3, 1, 1)))
    difference = grey - build.blurred(grey, 'mean', _NEIGHBOURHOOD)
    variance = build.blurred(difference * difference, 'variance', _NEIGHBOURHOOD)
    return difference / mx.sym.sqrt(variance + _FLAT, name='deviation')


def _oriented(build: _Builder, data: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """(N, CHANNELS, H, W) of the face: how strong the edges of every scale and orientation are."""
    count = len(SCALES)
    smooth = [data] + [build.blurred(data, f'scale{scale:g}', scale) for scale in SCALES[1:]]
    slope = np.zeros((2, 1, 3, 3))  # to the right and down
    slope[0, 0, 1] = slope[1, 0, :, 1] = (-1, 0, 1)
    smooth = mx.sym.Concat(*smooth, dim=1, name='scales')
    both = build.convolution(smooth, 'slope', np.tile(slope, (count, 1, 1, 1)), count)
    for axis, (begin, end) in ((2, _ROWS), (3, _COLUMNS)):
        both = mx.sym.slice_axis(both, axis=axis, begin=begin, end=end, name=f'face{axis}')
    angles = 2 * np.pi * np.arange(BINS) / BINS
    directions = np.stack([np.cos(angles), np.sin(angles)], 1)[:, :, None, None]
    along = build.convolution(both, 'orientation', np.tile(directions, (count, 1, 1, 1)), count)
    squares = build.convolution(both * both, 'square', np.ones((count, 2, 1, 1)), count)
    length = mx.sym.sqrt(squares, name='length')
    least = np.full((CHANNELS, 1, 1, 1), _SHARPNESS)
    return mx.sym.relu(along - build.convolution(length, 'least', least, count), name='edges')


def _cells(build: _Builder, data: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """(N, CHANNELS, rows, columns): cells of every scale at unit length, to the power 1/2."""
    count = len(SCALES)
    data = mx.sym.Pooling(
        data, pool_type='avg', kernel=(CELL, CELL), stride=(CELL, CELL), name='cells'
    )
    tent = np.outer((1, 2, 1), (1, 2, 1)) / 16
    data = build.convolution(data, 'overlap', np.tile(tent, (CHANNELS, 1, 1, 1)), CHANNELS)
    squares = build.convolution(data * data, 'energy', np.ones((count, BINS, 1, 1)), count)
    length = mx.sym.sqrt(squares + _TINY, name='cell_length')
    data = data / build.convolution(length, 'spread', np.ones((CHANNELS, 1, 1, 1)), count)
    return mx.sym.sqrt(data, name='root')


def _with_mirror_image(build: _Builder, data: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    """(N, CHANNELS, *MAP): the left half of a map, and of its mirror image's, added."""

    def column(begin: int, end: int) -> 'mx.sym.Symbol':
        return mx.sym.slice_axis(data, axis=3, begin=begin, end=end, name=f'column{begin}')

    half = MAP[1]
    columns = [column(place, place + 1) for place in reversed(range(half, 2 * half))]
    right = mx.sym.Concat(*columns, dim=3, name='right')
    # an edge at angle a has pi - a in the mirror
    source = [
        scale * BINS + (BINS // 2 - bin_) % BINS
        for scale in range(len(SCALES))
        for bin_ in range(BINS)
    ]
    exchange = np.eye(CHANNELS)[source][:, :, None, None]
    return column(0, half) + build.convolution(right, 'mirror', exchange)


def _network(symbol: 'mx.sym.Symbol', params: dict) -> Network:
    return Network(symbol, {name: mx.nd.array(value) for name, value in params.items()}, {})


def _descriptor(build: _Builder) -> 'mx.sym.Symbol':
    data = _cells(build, _oriented(build, _contrast(build)))
    return _with_mirror_image(build, data)


def features() -> Network:
    """The descriptor alone: RGB 0..255 -> (N, FEATURES) float32, in the order (CHANNELS, *MAP)."""
    build = _Builder()
    return _network(mx.sym.Flatten(_descriptor(build), name='fc1'), build.params)


def embedding(channels: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> Network:
    """The whole network: the descriptor and two linear layers, rows not of unit length.

    Parameters
    ----------
    channels : (K, CHANNELS), to K values a cell
    weight : (D, K x MAP[0] x MAP[1]), from these in the order (K, row, column) to the embedding
    bias : (D,)
    """
    build = _Builder()
    data = build.convolution(_descriptor(build), 'channels', channels[:, :, None, None])
    data = mx.sym.FullyConnected(mx.sym.Flatten(data), num_hidden=len(weight), name='fc1')
    return _network(data, {**build.params, 'fc1_weight': weight, 'fc1_bias': bias})
