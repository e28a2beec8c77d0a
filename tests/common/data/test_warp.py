import json

import numpy as np
import pytest
from conftest import DATA
from vargfacenet.common.data.warp import TEMPLATE, crop, estimate_similarity
from vargfacenet.common.errors import InputError


@pytest.fixture(scope='module')
def golden():
    return json.loads((DATA / 'align.json').read_text())


def stored_picture():
    """The picture whose warps are stored, by the formula in the file."""
    y, x = np.mgrid[0:160, 0:140]
    channels = (x * 1.7 + y * 0.3) % 256, (y * 1.5) % 256, ((x + y) * 0.9) % 256
    return np.stack(channels, axis=2).astype(np.uint8)


def random_similarity(rng):
    angle, scale = rng.uniform(-np.pi, np.pi), np.exp(rng.uniform(-2, 2))
    cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
    x, y = rng.uniform(-500, 500, 2)
    return np.array([[cosine, -sine, x], [sine, cosine, y]])


def least_squares(points):
    """The same transform as a linear system in (a, b, x, y), solved by NumPy."""
    rows, values = [], []
    for (x, y), (to_x, to_y) in zip(points, TEMPLATE):
        rows += [(x, -y, 1, 0), (y, x, 0, 1)]
        values += [to_x, to_y]
    a, b, x, y = np.linalg.lstsq(np.array(rows), np.array(values), rcond=None)[0]
    return np.array([[a, -b, x], [b, a, y]])


def test_matrices_and_warps_equal_the_stored_ones(golden):
    np.testing.assert_allclose(TEMPLATE, golden['template_112'], atol=1e-5)
    picture = stored_picture()
    for case in golden['cases']:
        landmarks = np.array(case['landmarks'])
        np.testing.assert_allclose(estimate_similarity(landmarks), case['M'], rtol=0, atol=1e-5)
        warped = crop(picture, landmarks).astype(float)
        np.testing.assert_allclose(warped.mean(axis=(0, 1)), case['warped_mean'], atol=0.05)
        for row, column, value in case['warped_probe']:
            np.testing.assert_allclose(warped[row, column], value, atol=1)


def test_every_similarity_transform_is_recovered(rng):
    for _ in range(50):
        truth = random_similarity(rng)
        # landmarks that `truth` maps onto the template
        landmarks = (TEMPLATE - truth[:, 2]) @ np.linalg.inv(truth[:, :2]).T
        np.testing.assert_allclose(estimate_similarity(landmarks), truth, rtol=1e-9, atol=1e-9)


def test_noisy_landmarks_get_the_least_squares_transform(rng):
    for _ in range(50):
        landmarks = rng.uniform(0, 200, (5, 2))
        np.testing.assert_allclose(
            estimate_similarity(landmarks), least_squares(landmarks), rtol=1e-7, atol=1e-7
        )


def test_mirrored_landmarks_do_not_mirror_the_crop():
    mirrored = TEMPLATE * (-1, 1) + (112, 0)
    linear = estimate_similarity(mirrored)[:, :2]
    assert np.linalg.det(linear) > 0
    np.testing.assert_allclose(linear @ linear.T, np.eye(2) * np.linalg.det(linear), atol=1e-12)


def test_a_face_on_the_template_is_cut_out_unchanged(rng):
    picture = rng.randint(0, 256, (140, 150, 3)).astype(np.uint8)
    np.testing.assert_array_equal(crop(picture, TEMPLATE + (20, 10)), picture[10:122, 20:132])  # noqa: RUF005


def test_what_lies_outside_the_picture_is_black():
    white = np.full((112, 112, 3), 255, np.uint8)
    shifted = crop(white, TEMPLATE - (30, 0))
    assert (shifted[:, :30] == 0).all() and (shifted[:, 30:] == 255).all()


@pytest.mark.parametrize(
    ('landmarks', 'words'),
    [
        (np.full((5, 2), 7.0), 'same point'),
        (TEMPLATE[:4], 'five points'),
        (np.full((5, 2), np.nan), 'five points'),
    ],
)
def test_impossible_landmarks_are_refused(landmarks, words):
    with pytest.raises(InputError, match=words):
        estimate_similarity(landmarks)
