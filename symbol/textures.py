"""A descriptor made by hand as a network: local patterns and waves, each of three scales.

Nothing before the last layers is learned. Grey, local contrast normalised by its neighbourhood
(Jarrett et al., ICCV 2009); then two parts:

* patterns: which of eight neighbours on a ring are brighter, as local binary patterns (Ojala,
  Pietikainen and Maenpaa, TPAMI 2002), of which the 58 uniform ones are counted. A difference that
  is small counts in part, so that noise turns no pattern into another.
* waves: how strongly waves of eight orientations answer, whatever their phase: magnitudes of Gabor
  filters (Liu and Wechsler, TIP 2002).

Both are averaged over cells, every scale of a cell is brought to one sum or length, and the square
root taken (Arandjelovic and Zisserman, CVPR 2012). A picture and its mirror image are added, so
that both have one embedding. Linear layers follow for each part, whose weights
`recognition/fit.py` computes, and each part is brought to one length.

Every layer is a convolution, a pooling, arithmetic or an exchange of axes, so that all engines and
the ONNX file have it; filters are parameters like any others.
"""

from typing import NamedTuple

import numpy as np

from ..common.backend import mx
from ..common.engine.network import Network
from .blocks import normalized_input


class Part(NamedTuple):
    """What one part gives of a picture: (channels, rows, columns), of half a face."""

    name: str
    channels: int
    rows: int
    columns: int

    @property
    def size(self) -> int:
        return self.channels * self.rows * self.columns


# the face without the picture's border, (first, behind the last); columns lie symmetrically
_ROWS, _COLUMNS = (14, 110), (14, 98)
_NEIGHBOURS = 8
# of a ring: how far neighbours beside and diagonal ones lie, and the scale of the Gaussian before
_RINGS = ((2, 1, 0.7), (4, 3, 1.2), (6, 4, 2.0))  # pixels
_PATTERN_CELL = 12  # pixels
_CLEARLY = 0.15  # difference of contrast that counts whole
_ORIENTATIONS = 8  # of half a turn
# scale of a wave's envelope, pixels, and how far apart it is asked for, a part of the cell
_WAVES = ((2.0, 2), (3.0, 3), (4.5, 3))
_WAVE_LENGTH = 2.2  # in scales
_WAVE_CELL = 6  # pixels
_PATTERNS = 58


def _part(name: str, channels: int, cell: int) -> Part:
    columns = (_COLUMNS[1] - _COLUMNS[0]) // cell
    return Part(name, channels, (_ROWS[1] - _ROWS[0]) // cell, (columns + 1) // 2)


PARTS = (
    _part('patterns', _PATTERNS * len(_RINGS), _PATTERN_CELL),
    _part('waves', _ORIENTATIONS * len(_WAVES), _WAVE_CELL),
)
FEATURES = sum(part.size for part in PARTS)

_GREY = (0.299, 0.587, 0.114)  # of ITU-R BT.601
_NEIGHBOURHOOD = 8.0  # scale of the Gaussian, pixels
_FLAT = 2.4e-4  # variance of two grey levels, which is no contrast
_FEW = 1e-2  # sum of a cell without patterns
_TINY = 1e-3  # squared length of a cell without waves
_NOTHING = 1e-12  # mean square of an embedding that is none


def _gaussian(scale: float) -> np.ndarray:
    """Float64 (2 radius + 1,) of sum 1, cut off at three scales."""
    radius = int(np.ceil(3 * scale))
    values = np.exp(-0.5 * (np.arange(-radius, radius + 1) / scale) ** 2)
    return values / values.sum()


class _Builder:
    """Convolutions with filters of their own."""

    def __init__(self):
        self.params: dict[str, np.ndarray] = {}

    def convolution(
        self, data: 'mx.sym.Symbol', name: str, weight, groups: int = 1, apart: int = 1, **options
    ):
        """`data` through `weight` (out, in / groups, height, width), whose pixels lie `apart`;
        zeros around it."""
        weight = np.asarray(weight, np.float32)
        self.params[f'{name}_weight'] = weight
        return mx.sym.Convolution(
            data,
            num_filter=len(weight),
            kernel=weight.shape[2:],
            pad=tuple((size - 1) // 2 * apart for size in weight.shape[2:]),
            dilate=(apart, apart),
            num_group=groups,
            no_bias=True,
            name=name,
            **options,
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

    def cells(self, data: 'mx.sym.Symbol', part: Part, kinds: int, power: int, least: float):
        """Cells, each mixed with its neighbours and of one measure over the `kinds` of channels of
        a scale, to the power 1/2.

        The measure is their sum, or for `power` 2 the root of the sum of their squares, of which
        `least` is what an empty cell is taken to have.
        """
        scales = part.channels // kinds
        tent = np.tile(np.outer((1, 2, 1), (1, 2, 1)) / 16, (part.channels, 1, 1, 1))
        data = self.convolution(data, f'{part.name}_overlap', tent, part.channels)
        ones = np.ones((scales, kinds, 1, 1))
        amounts = data * data if power == 2 else data
        measure = self.convolution(amounts, f'{part.name}_measure', ones, scales) + least
        if power == 2:
            measure = mx.sym.sqrt(measure, name=f'{part.name}_length')
        ones = np.ones((part.channels, 1, 1, 1))
        data = data / self.convolution(measure, f'{part.name}_spread', ones, scales)
        return mx.sym.sqrt(data, name=f'{part.name}_root')

    def with_mirror_image(self, data: 'mx.sym.Symbol', part: Part, cell: int, mirrored: np.ndarray):
        """The left half of a map and of its mirror image's, added; a column in the middle twice.

        `mirrored` tells for every kind of channel which kind it is in the mirror.
        """

        def columns(begin: int, end: int) -> 'mx.sym.Symbol':
            name = f'{part.name}_column{begin}'
            return mx.sym.slice_axis(data, axis=3, begin=begin, end=end, name=name)

        count = (_COLUMNS[1] - _COLUMNS[0]) // cell
        right = [
            columns(place, place + 1) for place in reversed(range(count - part.columns, count))
        ]
        right = mx.sym.Concat(*right, dim=3, name=f'{part.name}_right')
        scales = part.channels // len(mirrored)
        exchange = np.tile(np.eye(len(mirrored))[mirrored], (scales, 1))[:, :, None, None]
        exchanged = self.convolution(right, f'{part.name}_mirror', exchange, scales)
        return columns(0, part.columns) + exchanged


def _contrast(build: _Builder) -> 'mx.sym.Symbol':
    """(N, 1, 112, 112): grey, in standard deviations from the mean around each pixel."""
    grey = build.convolution(normalized_input(), 'grey', np.reshape(_GREY, (1, 3, 1, 1)))
    difference = grey - build.blurred(grey, 'mean', _NEIGHBOURHOOD)
    variance = build.blurred(difference * difference, 'variance', _NEIGHBOURHOOD)
    return difference / mx.sym.sqrt(variance + _FLAT, name='deviation')


def _cut(data: 'mx.sym.Symbol', name: str, every: int = 1) -> 'mx.sym.Symbol':
    """The face of a map that has one value for `every` pixels, the first around pixel 0."""
    for axis, (begin, end) in ((2, _ROWS), (3, _COLUMNS)):
        # the value in the middle of the face's first `every` pixels
        first = (begin + (every - 1) // 2) // every
        last = first + (end - begin) // every
        data = mx.sym.slice_axis(data, axis=axis, begin=first, end=last, name=f'{name}_face{axis}')
    return data


def uniform_patterns() -> np.ndarray:
    """Bool (58, 8): all rings of eight on which darker and brighter neighbours take turns at most
    once, neighbours in their order round the ring."""
    rings = (np.arange(1 << _NEIGHBOURS)[:, None] >> np.arange(_NEIGHBOURS)) & 1
    turns = (rings != np.roll(rings, 1, axis=1)).sum(axis=1)
    return rings[turns <= 2].astype(bool)


def _ring(build: _Builder, data: 'mx.sym.Symbol', number: int) -> 'mx.sym.Symbol':
    """(N, 8, 112, 112): neighbours less the pixel; those beside it, then the diagonal ones."""
    beside, diagonal, scale = _RINGS[number]
    smooth = build.blurred(data, f'ring{number}', scale)
    maps = []
    for name, apart, places in (
        ('beside', beside, ((1, 2), (2, 1), (1, 0), (0, 1))),  # right, down, left, up
        ('diagonal', diagonal, ((2, 2), (2, 0), (0, 0), (0, 2))),
    ):
        less = np.zeros((4, 1, 3, 3))
        less[:, 0, 1, 1] = -1 / _CLEARLY
        for filter_, (row, column) in enumerate(places):
            less[filter_, 0, row, column] = 1 / _CLEARLY
        maps.append(build.convolution(smooth, f'ring{number}_{name}', less, apart=apart))
    return mx.sym.Concat(*maps, dim=1, name=f'ring{number}')


def _patterns(build: _Builder, data: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    rings = [_ring(build, data, number) for number in range(len(_RINGS))]
    bits = _cut(mx.sym.Concat(*rings, dim=1, name='rings'), 'rings')
    bits = mx.sym.clip(bits, a_min=-1, a_max=1, name='bits')
    # eight agreements are one hit, and a single disagreement none
    patterns = uniform_patterns()
    # from the order round the ring to that of `_ring`
    match = np.where(patterns, 0.5, -0.5)[:, [0, 2, 4, 6, 1, 3, 5, 7]][:, :, None, None]
    match = np.tile(match, (len(_RINGS), 1, 1, 1))
    # an addition: the input's normalisation has the name that a subtraction would get
    excess = build.convolution(bits, 'match', match, len(_RINGS)) + (-3)
    hits = mx.sym.relu(excess, name='hits')
    hits = _pooled(hits, 'patterns_cells', _PATTERN_CELL)
    cells = build.cells(hits, PARTS[0], _PATTERNS, power=1, least=_FEW)
    # round the ring the neighbour at angle a has pi - a in the mirror
    mirrored = patterns[:, (_NEIGHBOURS // 2 - np.arange(_NEIGHBOURS)) % _NEIGHBOURS]
    known = {tuple(pattern): number for number, pattern in enumerate(patterns.tolist())}
    mirrored = np.array([known[tuple(pattern)] for pattern in mirrored.tolist()])
    return build.with_mirror_image(cells, PARTS[0], _PATTERN_CELL, mirrored)


def _pooled(data: 'mx.sym.Symbol', name: str, size: int) -> 'mx.sym.Symbol':
    return mx.sym.Pooling(
        data, pool_type='avg', kernel=(size, size), stride=(size, size), name=name
    )


def wave_filters(scale: float, every: int) -> np.ndarray:
    """Float64 (16, 1, size, size): for every orientation a cosine and a sine under a Gaussian, none
    of which answers to even light. The size is odd if `every` is, even otherwise, so that filters
    asked for every so many pixels lie symmetrically on the face."""
    radius = int(np.ceil(2.5 * scale)) - (0.5 if every % 2 == 0 else 0)
    y, x = np.mgrid[-radius : radius + 1, -radius : radius + 1]
    envelope = np.exp(-0.5 * (x**2 + y**2) / scale**2)
    filters = []
    for number in range(_ORIENTATIONS):
        angle = np.pi * number / _ORIENTATIONS
        phase = (x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / (_WAVE_LENGTH * scale))
        even = envelope * np.cos(phase)
        even -= envelope * (even.sum() / envelope.sum())
        filters += [even, envelope * np.sin(phase)]
    return np.stack(filters)[:, None] / np.sqrt((envelope**2).sum())


def _waves(build: _Builder, data: 'mx.sym.Symbol') -> 'mx.sym.Symbol':
    maps = []
    for number, (scale, every) in enumerate(_WAVES):
        name = f'wave{number}'
        filters = wave_filters(scale, every)
        both = build.convolution(data, name, filters, stride=(every, every))
        both = _cut(both, name, every)
        pairs = np.ones((_ORIENTATIONS, 2, 1, 1))
        squares = build.convolution(both * both, f'{name}_squares', pairs, _ORIENTATIONS)
        length = mx.sym.sqrt(squares, name=f'{name}_length')
        maps.append(_pooled(length, f'{name}_cells', _WAVE_CELL // every))
    cells = mx.sym.Concat(*maps, dim=1, name='waves')
    cells = build.cells(cells, PARTS[1], _ORIENTATIONS, power=2, least=_TINY)
    mirrored = -np.arange(_ORIENTATIONS) % _ORIENTATIONS
    return build.with_mirror_image(cells, PARTS[1], _WAVE_CELL, mirrored)


def _descriptor(build: _Builder) -> list:
    """One symbol (N, channels, rows, columns) for each of PARTS."""
    data = _contrast(build)
    return [_patterns(build, data), _waves(build, data)]


def _network(symbol: 'mx.sym.Symbol', params: dict) -> Network:
    return Network(symbol, {name: mx.nd.array(value) for name, value in params.items()}, {})


def features() -> Network:
    """The descriptor alone: RGB 0..255 -> (N, FEATURES) float32, PARTS one after the other, each in
    the order (channels, rows, columns)."""
    build = _Builder()
    flat = [mx.sym.Flatten(symbol) for symbol in _descriptor(build)]
    return _network(mx.sym.Concat(*flat, dim=1, name='fc1'), build.params)


class Layers(NamedTuple):
    """The linear layers of one part."""

    channels: np.ndarray  # (K, channels), to K values a cell
    weight: np.ndarray  # (D, K x rows x columns), from these in that order to D values
    bias: np.ndarray  # (D,)


def embedding(layers: 'list[Layers]') -> Network:
    """The whole network: the descriptor and the layers of each of PARTS, whose values lie one part
    after the other, each part with a mean square of one."""
    build = _Builder()
    rows = []
    for part, data, own in zip(PARTS, _descriptor(build), layers):
        name = f'{part.name}_embedding'
        data = build.convolution(data, f'{part.name}_channels', own.channels[:, :, None, None])
        row = mx.sym.FullyConnected(mx.sym.Flatten(data), num_hidden=len(own.weight), name=name)
        build.params.update({f'{name}_weight': own.weight, f'{name}_bias': own.bias})
        square = mx.sym.mean(row * row, axis=1, keepdims=True) + _NOTHING
        rows.append(mx.sym.broadcast_div(row, mx.sym.sqrt(square)))
    return _network(mx.sym.Concat(*rows, dim=1, name='fc1'), build.params)
