import numpy as np
import pytest
from pictures import picture
from vargfacenet.recognition.augmentations import AUGMENTATIONS, NUM_DRAWS
from vargfacenet.recognition.augmentations.mild import colour_matrix, mild, shake_matrix

MIDDLE = np.full(NUM_DRAWS, 0.5)  # the draws that change nothing


@pytest.fixture
def bgr(rng):
    return picture(rng)


def test_middle_draws_change_nothing_or_mirror(bgr):
    np.testing.assert_array_equal(mild(bgr, False, MIDDLE), bgr)
    np.testing.assert_array_equal(mild(bgr, True, MIDDLE), bgr[:, ::-1])


@pytest.mark.parametrize('name', AUGMENTATIONS.names())
def test_every_augmentation_keeps_shape_and_type_and_its_input(bgr, rng, name):
    before = bgr.copy()
    for mirrored in (False, True):
        draws = rng.random_sample(NUM_DRAWS)
        change, _, storable = AUGMENTATIONS.get(name)
        result = change(bgr, mirrored, draws)
        assert result.shape == bgr.shape and result.dtype == np.uint8
        if storable:  # a store has the crop and its mirror image
            np.testing.assert_array_equal(result, bgr[:, ::-1] if mirrored else bgr)
        else:
            assert (result != bgr).mean() > 0.5
        np.testing.assert_array_equal(result, change(bgr, mirrored, draws))
    np.testing.assert_array_equal(bgr, before)


def test_none_is_the_one_that_does_not_mirror():
    mirrors = {name: AUGMENTATIONS.get(name).mirrors for name in AUGMENTATIONS}
    assert mirrors == {'mild': True, 'mirror': True, 'none': False}


def test_a_whole_pixel_shift_moves_the_picture_and_reflects_the_border(bgr):
    draws = MIDDLE.copy()
    draws[:2] = (0.75, 1 / 3)  # half of 6 pixels to the right, a third of 6 up
    expected = np.pad(bgr, ((0, 2), (3, 0), (0, 0)), mode='reflect')[2:, :-3]
    np.testing.assert_array_equal(mild(bgr, False, draws), expected)


def test_shaking_is_a_similarity_within_its_limits(rng):
    """Corners move as a complex number z does under a z + b, |a| and arg a within the limits."""
    corners = np.array([[0, 0], [111, 0], [0, 111], [111, 111]], float)
    for _ in range(200):
        draws = rng.random_sample(4)
        matrix = shake_matrix(draws, False, 112)
        moved = corners @ matrix[:, :2].T + matrix[:, 2]
        z, w = corners @ (1, 1j), moved @ (1, 1j)
        factor = (w[3] - w[0]) / (z[3] - z[0])
        np.testing.assert_allclose(w, factor * (z - z.mean()) + w.mean(), atol=1e-9)
        assert abs(abs(factor) - 1) <= 0.06 and abs(np.angle(factor)) <= 0.1
        shift = w.mean() - z.mean()
        assert abs(shift.real) <= 6 and abs(shift.imag) <= 6
        np.testing.assert_allclose(abs(factor), 1 + 0.06 * (2 * draws[2] - 1))


def test_mirroring_comes_before_shaking(rng):
    draws = rng.random_sample(4)
    flip = np.array([[-1, 0, 111], [0, 1, 0], [0, 0, 1]])
    expected = np.vstack([shake_matrix(draws, False, 112), [0, 0, 1]]) @ flip
    np.testing.assert_allclose(shake_matrix(draws, True, 112), expected[:2], atol=1e-9)


def colours(draws, bgr):
    return np.append(bgr, 1.0) @ colour_matrix(np.array(draws)).T


def test_colour_changes_one_at_a_time():
    bgr = np.array([10.0, 120.0, 200.0])
    grey = 0.114 * 10 + 0.587 * 120 + 0.299 * 200
    np.testing.assert_allclose(colours((0.5, 0.5, 0.5, 0.5), bgr), bgr)
    np.testing.assert_allclose(colours((1.0, 0.5, 0.5, 0.5), bgr), bgr + 25)
    np.testing.assert_allclose(colours((0.5, 1.0, 0.5, 0.5), bgr), 127.5 + 1.2 * (bgr - 127.5))
    np.testing.assert_allclose(colours((0.5, 0.5, 0.0, 0.5), bgr), grey + 0.6 * (bgr - grey))
    np.testing.assert_allclose(colours((0.5, 0.5, 0.9, 0.05), bgr), [grey] * 3)
