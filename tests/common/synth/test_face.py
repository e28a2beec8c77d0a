from dataclasses import fields, replace

import numpy as np
import pytest
from vargfacenet.common.data.warp import TEMPLATE
from vargfacenet.common.synth.face import circumstances, landmarks, person, render
from vargfacenet.common.synth.traits import (
    Identity,
    Variation,
    sample_identity,
    sample_variation,
)

NEUTRAL = Variation()


def brightness(picture, rows, columns):
    return picture[rows, columns].mean()


@pytest.mark.parametrize('size', [32, 56, 112, 160])
def test_pictures_have_the_size_asked_for(size):
    picture = render(person(0, 1), circumstances(0, 1, 0), size)
    assert picture.shape == (size, size, 3) and picture.dtype == np.uint8
    assert picture.std() > 10


def test_rendering_is_a_function_of_its_arguments():
    face, variation = person(1, 2), circumstances(1, 2, 3)
    np.testing.assert_array_equal(render(face, variation), render(face, variation))
    assert (person(1, 2), circumstances(1, 2, 3)) == (face, variation)


def test_person_and_circumstances_come_from_different_random_numbers():
    # a seed sequence is padded with zeros, so that [s, i] and [s, i, 0] are the same one
    assert person(4, 7) == sample_identity(np.random.default_rng([4, 7]))
    assert circumstances(4, 7, 0) != sample_variation(np.random.default_rng([4, 7]))
    assert len({circumstances(4, 7, picture) for picture in range(50)}) == 50
    assert person(4, 7) != person(4, 8) != person(5, 7)


def test_samples_stay_in_their_ranges_and_reach_both_halves():
    people = [person(0, identity) for identity in range(200)]
    widths = np.array([face.cheek_width for face in people])
    assert 37 <= widths.min() < 39 and 43 < widths.max() <= 45
    share = np.mean([face.beard > 0 for face in people])
    assert 0.25 < share < 0.45  # the chance is 0.35


def test_the_mean_face_is_on_the_template():
    np.testing.assert_allclose(landmarks(Identity(), NEUTRAL), TEMPLATE, atol=0.1)
    doubled = (TEMPLATE + 0.5) * 2 - 0.5
    np.testing.assert_allclose(landmarks(Identity(), NEUTRAL, size=224), doubled, atol=0.2)


def test_people_looking_straight_are_near_the_template():
    points = np.array([landmarks(person(0, identity), NEUTRAL) for identity in range(100)])
    assert np.abs(points - TEMPLATE).max() < 6
    assert np.abs(points.mean(axis=0) - TEMPLATE).max() < 1


def test_eyes_and_lips_are_drawn_where_the_landmarks_say():
    face = Identity(skin_tone=0.1, iris_tone=0.0, lip_tone=0.7)
    picture = render(face, NEUTRAL, 224).astype(float)
    points = np.rint(landmarks(face, NEUTRAL, 224)).astype(int)
    cheek = picture[160, 70].mean()
    for x, y in points[:2]:
        assert picture[y - 1 : y + 2, x - 1 : x + 2].mean() < 0.4 * cheek  # the pupil
    mouth_y, mouth_x = points[3:].mean(axis=0)[::-1].astype(int)
    red, green, _ = picture[mouth_y - 3 : mouth_y + 6, mouth_x - 10 : mouth_x + 10].mean((0, 1))
    skin_red, skin_green, _ = picture[160, 70]
    assert red / green > 1.15 * skin_red / skin_green


def test_turning_left_mirrors_turning_right():
    left = landmarks(Identity(), replace(NEUTRAL, yaw=-20.0))
    right = landmarks(Identity(), replace(NEUTRAL, yaw=20.0))
    middle = TEMPLATE[:, 0].mean()
    mirrored = right[[1, 0, 2, 4, 3]] * (-1, 1) + (2 * middle, 0)
    np.testing.assert_allclose(left, mirrored, atol=0.5)
    assert left[2, 0] < middle - 3 and right[2, 0] > middle + 3  # the nose leads


def test_nodding_moves_the_nose_between_eyes_and_mouth():
    up = landmarks(Identity(), replace(NEUTRAL, pitch=-15.0))
    down = landmarks(Identity(), replace(NEUTRAL, pitch=15.0))
    assert up[2, 1] < TEMPLATE[2, 1] - 1 and down[2, 1] > TEMPLATE[2, 1] + 1


def test_alignment_takes_the_roll_out_and_leaves_the_light_where_it_was():
    rolled = landmarks(Identity(), replace(NEUTRAL, roll=12.0))
    np.testing.assert_allclose(rolled, landmarks(Identity(), NEUTRAL), atol=1e-6)
    strong = replace(NEUTRAL, light_x=-0.6, light_y=-1.0, light_strength=1.0)
    upright, turned = (render(Identity(), replace(strong, roll=roll)) for roll in (0.0, 12.0))
    assert np.abs(upright.astype(int) - turned)[30:110, 20:90].max() > 20


def test_light_brightens_the_side_it_comes_from():
    rows, left, right = slice(60, 85), slice(22, 45), slice(67, 90)
    for light_x in (-1.2, 1.2):
        picture = render(Identity(), replace(NEUTRAL, light_x=light_x))
        difference = brightness(picture, rows, right) - brightness(picture, rows, left)
        assert np.sign(difference) == np.sign(light_x) and abs(difference) > 15
    above = render(Identity(), replace(NEUTRAL, light_y=-1.1))
    below = render(Identity(), replace(NEUTRAL, light_y=0.5))
    forehead, chin = slice(32, 40), slice(100, 108)
    middle = slice(46, 66)
    assert brightness(above, forehead, middle) - brightness(above, chin, middle) > (
        brightness(below, forehead, middle) - brightness(below, chin, middle) + 10
    )


CHANGES = {
    'smile': 1.0,
    'mouth_open': 1.0,
    'brow_raise': 1.0,
    'blink': 1.0,
    'gaze': 1.0,
    'glasses': 0.0,
    'sunglasses': 1.0,
    'hat': 1.0,
    'mask': 1.0,
    'make_up': 1.0,
    'hair_length': 0.35,
    'hairline': 5.0,
    'hair_part': -0.6,
    'occlusion': 1.0,
    'blur': 1.5,
    'low_resolution': 2.0,
    'noise': 8.0,
    'warmth': 0.1,
    'exposure': 0.8,
    'gamma': 1.3,
    'grey': 1.0,
    'yaw': 20.0,
    'pitch': 10.0,
    'misalignment': 1.5,
    'beard': 0.0,
    'ambient': 0.3,
    'light_strength': 0.9,
    'eye_open': 0.6,
    'hair_tone': 0.1,
    'hair_volume': 0.4,
    'seed': 9.0,
    'ageing': 0.3,
    'weight': 2.0,
    'tan': 0.12,
    'depth': 2.2,
    'hollows': 0.5,
}


@pytest.mark.parametrize(('name', 'value'), CHANGES.items())
def test_every_circumstance_changes_the_picture(name, value):
    face = Identity(beard=0.8, glasses=0.5)
    plain = render(face, NEUTRAL).astype(int)
    assert np.abs(render(face, replace(NEUTRAL, **{name: value})) - plain).max() > 20


def test_grey_pictures_have_three_equal_channels():
    picture = render(person(0, 0), replace(NEUTRAL, grey=1.0))
    assert (picture == picture[..., :1]).all()


def test_pictures_of_one_person_are_nearer_than_those_of_two():
    """With a neutral pose and light the pixels tell people apart; only then, see test_synth."""
    rng = np.random.default_rng(8)
    calm = [
        replace(NEUTRAL, smile=smile, gaze=gaze, noise=4.0, seed=float(seed))
        for smile, gaze, seed in zip(
            rng.uniform(-0.3, 1, 40), rng.uniform(-1, 1, 40), rng.integers(0, 2**31, 40)
        )
    ]
    rows = np.array(
        [
            render(person(0, number // 2), variation, 56)[8:48, 8:48].ravel().astype(float)
            for number, variation in enumerate(calm)
        ]
    )
    distances = np.linalg.norm(rows[:, None] - rows[None], axis=2)
    genuine = distances[np.arange(0, 40, 2), np.arange(1, 40, 2)]
    impostor = distances[0::2, 0::2][np.triu_indices(20, 1)]
    assert genuine.mean() < 0.6 * impostor.mean()


def test_the_wide_variety_varies_more_and_leaves_the_plain_one_alone():
    plain, wide = (
        [circumstances(0, 0, picture, variety) for picture in range(200)]
        for variety in ('plain', 'wide')
    )
    for name in ('yaw', 'light_x', 'light_y', 'gamma', 'hair_tone', 'jpeg_quality'):
        few, many = (np.ptp([getattr(one, name) for one in kind]) for kind in (plain, wide))
        assert many > 1.1 * few
    assert all(
        one.tan == one.weight == one.ageing == one.hollows == one.cheeks == 0 for one in plain
    )
    assert all(one.depth == 1 for one in plain)
    some, same = person(3, 4), person(3, 4, 'wide')
    for field in fields(Identity):
        alike = field.metadata['wide'] == field.metadata['plain']
        assert (getattr(same, field.name) == getattr(some, field.name)) == alike


def test_a_smile_lifts_cheeks_into_the_light_from_above():
    smiling = replace(NEUTRAL, smile=1.0, light_y=-1.1, light_strength=1.0, ambient=0.2)
    still, lifted = (
        render(Identity(), replace(smiling, cheeks=pixels)).astype(float) for pixels in (0.0, 6.0)
    )
    change = (lifted / still).mean(axis=2)
    for columns in (slice(30, 36), slice(76, 82)):
        assert change[66:70, columns].mean() > 1.05 and change[77:81, columns].mean() < 0.95
    calm = replace(smiling, smile=0.0)
    np.testing.assert_array_equal(
        render(Identity(), calm), render(Identity(), replace(calm, cheeks=6.0))
    )


def test_a_deeper_relief_turns_slopes_further_from_the_light():
    """The sides of the nose get darker; the bare forehead stays as it is."""
    flat, deep = (
        render(Identity(), replace(NEUTRAL, light_strength=0.5, depth=depth)).astype(float)
        for depth in (1.0, 2.0)
    )
    change = (deep / flat).mean(axis=2)
    for columns in (slice(49, 52), slice(60, 63)):
        assert change[60:76, columns].mean() < 0.93
    np.testing.assert_allclose(change[30:36, 44:68], 1, atol=0.03)


def test_hollows_are_darker_than_what_is_raised():
    face = Identity(eye_socket=-6.0)
    even, dark = (
        render(face, replace(NEUTRAL, hollows=share)).astype(float) for share in (0.0, 0.2)
    )
    change = (dark / even).mean(axis=2)
    for columns in (slice(34, 44), slice(68, 78)):
        assert change[52:56, columns].mean() < 0.9
    assert change[70:74, 54:58].mean() > 1.1  # the tip of the nose


def test_landmarks_follow_a_persons_own_bend():
    straight = Identity(skin_tone=0.1, iris_tone=0.0, own_seed=5.0)
    bent = replace(straight, bend=2.5)
    moved = landmarks(bent, NEUTRAL, 224) - landmarks(straight, NEUTRAL, 224)
    assert np.abs(moved).max() > 2
    picture = render(bent, NEUTRAL, 224).astype(float)
    cheek = picture[160, 70].mean()
    for x, y in np.rint(landmarks(bent, NEUTRAL, 224)[:2]).astype(int):
        assert picture[y - 1 : y + 2, x - 1 : x + 2].mean() < 0.45 * cheek  # the pupil


@pytest.mark.parametrize(('name', 'value'), [('bend', 1.3), ('lumps', 1.2), ('spots', 0.11)])
def test_people_differ_by_their_own_shapes_and_shades(name, value):
    first, second = (Identity(**{name: value}, own_seed=seed) for seed in (1.0, 2.0))
    pictures = [render(one, NEUTRAL).astype(int) for one in (first, second, Identity())]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(pictures[one] - pictures[other]).max() > 20
