"""The hand-made descriptor: against its definition in NumPy, and laws that it must keep."""

import numpy as np
import pytest
from deploy_models import portrait
from vargfacenet.common.engine.mxnet import Embedder
from vargfacenet.symbol import textures
from vargfacenet.symbol.textures import PARTS, Layers


@pytest.fixture(scope='module')
def describe():
    """Features of pictures, an array (N, channels, rows, columns) for each part."""
    embedder = Embedder(textures.features(), batch_size=2)

    def described(images):
        parts = np.split(embedder.embed(np.asarray(images)), [PARTS[0].size], axis=1)
        return [rows.reshape(-1, *part[1:]) for part, rows in zip(PARTS, parts)]

    return described


def blurred(picture, scale):
    """Float64 (H, W): every pixel the weighted sum of all, of nothing beyond the border."""
    for axis in (0, 1):
        places = np.arange(picture.shape[axis])
        distance = places[:, None] - places
        weight = np.exp(-0.5 * (distance / scale) ** 2) * (abs(distance) <= np.ceil(3 * scale))
        width = np.arange(-np.ceil(3 * scale), np.ceil(3 * scale) + 1)
        weight /= np.exp(-0.5 * (width / scale) ** 2).sum()
        picture = weight @ picture if axis == 0 else picture @ weight
    return picture


def contrast(rgb):
    """Float64 (112, 112) of one picture (112, 112, 3)."""
    grey = (rgb @ np.array([0.299, 0.587, 0.114]) - 127.5) / 128
    difference = grey - blurred(grey, 8)
    return difference / np.sqrt(blurred(difference**2, 8) + 2.4e-4)


def mixed(cells):
    """Cells (C, rows, columns), a quarter of each neighbour's in either way, nothing beyond."""
    cells = np.pad(cells, ((0, 0), (1, 1), (1, 1)))
    cells = (cells[:, :-2] + 2 * cells[:, 1:-1] + cells[:, 2:]) / 4
    return (cells[:, :, :-2] + 2 * cells[:, :, 1:-1] + cells[:, :, 2:]) / 4


def patterns(rgb):
    """Float64 (174, 8, 7) of one picture: the share of every pattern, in the order of the numbers
    whose bit i says that the neighbour at i eighths of a turn, right over down, is brighter."""
    turns = ((0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1), (-1, 0), (-1, 1))
    rings = [[number >> i & 1 for i in range(8)] for number in range(256)]
    rings = [ring for ring in rings if sum(ring[i] != ring[i - 1] for i in range(8)) <= 2]
    channels = []
    for beside, diagonal, scale in ((2, 1, 0.7), (4, 3, 1.2), (6, 4, 2)):
        smooth = np.pad(blurred(contrast(rgb), scale), 6)  # a neighbour beyond the border is 0
        bits = []
        for number, (down, right) in enumerate(turns):
            apart = diagonal if number % 2 else beside
            moved = np.roll(smooth, (-down * apart, -right * apart), (0, 1)) - smooth
            bits.append(np.clip(moved[20:116, 20:104] / 0.15, -1, 1))
        cells = []
        for ring in rings:
            agree = sum(bit if brighter else -bit for bit, brighter in zip(bits, ring))
            hits = np.maximum(agree - 6, 0) / 2
            cells.append(hits.reshape(8, 12, 7, 12).mean(axis=(1, 3)))
        cells = mixed(np.array(cells))
        channels.append(np.sqrt(cells / (cells.sum(axis=0) + 0.01)))
    return np.concatenate(channels)


def waves(rgb):
    """Float64 (24, 16, 14) of one picture: how strong waves of each direction are."""
    field = np.pad(contrast(rgb), 16)
    channels = []
    for scale, every in ((2, 2), (3, 3), (4.5, 3)):
        radius = np.ceil(2.5 * scale) - (0 if every % 2 else 0.5)
        place = np.arange(-radius, radius + 1)
        x, y = place, place[:, None]
        envelope = np.exp(-(x**2 + y**2) / (2 * scale**2))
        first = int(16 + 14 + (every - 1) / 2 - radius)  # so that its middle is that of `every`
        views = np.lib.stride_tricks.sliding_window_view(field, envelope.shape)
        views = views[first : first + 96 : every, first : first + 84 : every]
        cells = []
        for number in range(8):
            angle = np.pi * number / 8
            wave = np.exp(2j * np.pi * (x * np.cos(angle) + y * np.sin(angle)) / (2.2 * scale))
            wave = envelope * (wave - (envelope * wave).sum() / envelope.sum())
            wave /= np.sqrt((envelope**2).sum())
            strong = abs(np.tensordot(views, wave, 2))
            side = 6 // every
            cells.append(strong.reshape(16, side, 14, side).mean(axis=(1, 3)))
        cells = mixed(np.array(cells))
        channels.append(np.sqrt(cells / np.sqrt(np.square(cells).sum(axis=0) + 1e-3)))
    return np.concatenate(channels)


@pytest.mark.parametrize('number, definition', [(0, patterns), (1, waves)])
def test_it_is_what_its_definition_says(describe, number, definition):
    face = portrait(3)
    left, mirrored = definition(face.astype(float)), definition(face[:, ::-1].astype(float))
    (features,) = describe([face])[number]
    expected = (left + mirrored)[:, :, : features.shape[2]]
    np.testing.assert_allclose(features, expected, atol=2e-4)


def test_a_mirror_image_has_the_same(describe):
    face = portrait(1)
    for one, other in describe([face, face[:, ::-1]]):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_light_hardly_changes_it(describe):
    """Half the contrast and 40 grey levels more leave what other people's faces change by far."""
    face = portrait(1)
    for plain, pale, other in describe([face, face // 2 + 40, portrait(2)]):
        assert np.abs(plain - pale).mean() < 0.25 * np.abs(plain - other).mean()


def test_even_light_is_no_wave():
    for scale, every in ((2, 2), (3, 3), (4.5, 3)):
        sums = textures.wave_filters(scale, every).sum(axis=(1, 2, 3))
        np.testing.assert_allclose(sums, 0, atol=1e-12)


def test_linear_layers_follow_in_the_stated_order(describe):
    rng = np.random.default_rng(0)
    layers = [
        Layers(
            rng.standard_normal((kept, part.channels)).astype(np.float32),
            rng.standard_normal((7, kept * part.rows * part.columns)).astype(np.float32),
            rng.standard_normal(7).astype(np.float32),
        )
        for part, kept in zip(PARTS, (5, 3))
    ]
    network = textures.embedding(layers)
    assert network.embedding_size == 14
    face = portrait(4)
    (row,) = Embedder(network, batch_size=1).embed(face[None])
    for given, (features,), own in zip(np.split(row, 2), describe([face]), layers):
        values = np.tensordot(own.channels.astype(float), features, 1).ravel()
        values = own.weight @ values + own.bias
        values /= np.sqrt(np.square(values).mean())
        np.testing.assert_allclose(given, values, rtol=1e-4, atol=2e-3)
