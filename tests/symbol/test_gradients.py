"""The hand-made descriptor: against its definition in NumPy, and laws that it must keep."""

import numpy as np
import pytest
from deploy_models import portrait
from vargfacenet.common.engine.mxnet import Embedder
from vargfacenet.symbol import gradients


@pytest.fixture(scope='module')
def describe():
    embedder = Embedder(gradients.features(), batch_size=2)
    shape = (-1, gradients.CHANNELS, *gradients.MAP)
    return lambda images: embedder.embed(np.asarray(images)).reshape(shape)


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


def half_map(rgb):
    """Float64 (CHANNELS, rows, all columns) of one picture, from the words of the definition."""
    grey = (rgb @ np.array([0.299, 0.587, 0.114]) - 127.5) / 128
    difference = grey - blurred(grey, 8)
    contrast = difference / np.sqrt(blurred(difference**2, 8) + 2.4e-4)
    channels = []
    for scale in (0, 1, 2, 3.5):
        smooth = blurred(contrast, scale) if scale else contrast
        right = smooth[14:110, 15:99] - smooth[14:110, 13:97]
        down = smooth[15:111, 14:98] - smooth[13:109, 14:98]
        length, angle = np.hypot(right, down), np.arctan2(down, right)
        cells = []
        for number in range(12):
            edges = length * np.maximum(np.cos(angle - number * np.pi / 6) - 0.88, 0)
            means = np.pad(edges.reshape(16, 6, 14, 6).mean(axis=(1, 3)), 1)
            means = (means[:-2] + 2 * means[1:-1] + means[2:]) / 4
            cells.append((means[:, :-2] + 2 * means[:, 1:-1] + means[:, 2:]) / 4)
        channels.append(np.sqrt(cells / np.sqrt(np.square(cells).sum(axis=0) + 1e-3)))
    return np.concatenate(channels)


def test_it_is_what_its_definition_says(describe):
    face = portrait(3)
    left, mirrored = half_map(face.astype(float)), half_map(face[:, ::-1].astype(float))
    (features,) = describe([face])
    # derivatives of a blurred picture that ends at the border differ near it alone, which is cut
    np.testing.assert_allclose(features, (left + mirrored)[:, :, :7], atol=2e-4)


def test_a_mirror_image_has_the_same(describe):
    face = portrait(1)
    one, other = describe([face, face[:, ::-1]])
    np.testing.assert_allclose(one, other, atol=1e-5)


def test_light_hardly_changes_it(describe):
    """Half the contrast and 40 grey levels more leave what other people's faces change by far."""
    face = portrait(1)
    plain, pale, other = describe([face, face // 2 + 40, portrait(2)])
    assert np.abs(plain - pale).mean() < 0.2 * np.abs(plain - other).mean()


def test_linear_layers_follow_in_the_stated_order(describe):
    rng = np.random.default_rng(0)
    channels = rng.standard_normal((5, gradients.CHANNELS)).astype(np.float32)
    weight = rng.standard_normal((7, 5 * np.prod(gradients.MAP))).astype(np.float32)
    bias = rng.standard_normal(7).astype(np.float32)
    network = gradients.embedding(channels, weight, bias)
    assert network.embedding_size == 7
    face = portrait(4)
    (features,) = describe([face])
    values = np.tensordot(channels.astype(float), features, 1).ravel()
    (row,) = Embedder(network, batch_size=1).embed(face[None])
    np.testing.assert_allclose(row, weight @ values + bias, rtol=1e-4, atol=2e-3)
