import json
import pickle

import numpy as np
import pytest
from conftest import DATA
from pictures import encoded, picture
from vargfacenet.common.data.pair_sets import write_pairs
from vargfacenet.common.errors import InputError
from vargfacenet.eval.datasets import load_bin


def test_the_reference_readers_pixels():
    """tiny_verif.bin read by InsightFace's load_bin: means of all, some pixels and their mirror."""
    expected = json.loads((DATA / 'tiny_verif.json').read_text())
    images, issame = load_bin(DATA / 'tiny_verif.bin')
    count, channels, height, width = expected['shape']
    assert images.shape == (count, height, width, channels) and images.dtype == np.uint8
    assert issame.dtype == bool and issame.tolist() == expected['issame']
    means = images.mean(axis=(1, 2), dtype=np.float64)
    np.testing.assert_allclose(means, expected['per_image_channel_means'], atol=2e-5)
    for image, channel, row, column, value, mirrored in expected['probe']:
        assert images[image, row, column, channel] == value
        assert images[image, row, ::-1][column, channel] == mirrored


@pytest.mark.parametrize('threads', [1, 3])
def test_lossless_pictures_come_back_as_they_were(tmp_path, rng, threads):
    pixels = [picture(rng) for _ in range(40)]
    write_pairs(tmp_path / 'x.bin', [encoded(rgb, '.png') for rgb in pixels], [True] * 20)
    np.testing.assert_array_equal(load_bin(tmp_path / 'x.bin', threads)[0], pixels)


def write(path, pictures):
    path.write_bytes(pickle.dumps((pictures, [True] * (len(pictures) // 2))))
    return path


def test_a_broken_picture_is_named_by_its_number(tmp_path, rng):
    good = encoded(picture(rng))
    for bad in (good[:300], b'', b'text'):
        path = write(tmp_path / 'x.bin', [good, good, good, bad])
        with pytest.raises(InputError, match=r'x\.bin image 3: .* bytes'):
            load_bin(path)


@pytest.mark.parametrize('shape', [(112, 130), (130, 112), (60, 70)])
def test_a_picture_that_is_not_square_is_named(tmp_path, rng, shape):
    height, width = shape
    path = write(tmp_path / 'x.bin', [encoded(picture(rng)), encoded(picture(rng, *shape))])
    with pytest.raises(
        InputError, match=rf'x\.bin image 1: {width}x{height} pixels; an aligned crop has 112x112'
    ):
        load_bin(path)


def test_odd_images(tmp_path, rng):
    path = tmp_path / 'x.bin'
    path.write_bytes(pickle.dumps(([encoded(picture(rng))] * 3, [True])))
    with pytest.raises(InputError, match='3 images for 1 pairs; expected 2'):
        load_bin(path)
