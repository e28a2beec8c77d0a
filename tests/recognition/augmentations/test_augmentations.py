import numpy as np
import pytest
from pictures import picture
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.common.options import defaults_of
from vargfacenet.recognition.augmentations import (
    AUGMENTATIONS,
    COMBINATIONS,
    NUM_DRAWS,
    Augmentation,
    Augmentations,
    make_augmentations,
    parse_augmentation_options,
)
from vargfacenet.recognition.augmentations.colour import hue_matrix
from vargfacenet.recognition.augmentations.mild import colour_matrix, mild, shake_matrix

# `cv2.transform` of bytes reckons in 1/1024: half a grey level, and 3 * 255 * 0.5 / 1024
TRANSFORM = 0.88
MIDDLE = np.full(NUM_DRAWS, 0.5)  # the draws that change nothing


@pytest.fixture
def bgr(rng):
    return picture(rng)


def test_middle_draws_change_nothing_or_mirror(bgr):
    np.testing.assert_array_equal(mild(bgr, False, MIDDLE), bgr)
    np.testing.assert_array_equal(mild(bgr, True, MIDDLE), bgr[:, ::-1])


def alone(name, **options):
    """One augmentation, on every crop unless said otherwise."""
    kind = AUGMENTATIONS.get(name)
    if 'probability' in defaults_of(kind):
        options = {'probability': 1.0, **options}
    return make_augmentations(name, {f'{name}.{key}': value for key, value in options.items()})


def no_other(draw):
    raise AssertionError('only a mixture looks at another crop')


@pytest.mark.parametrize('name', AUGMENTATIONS.names())
def test_every_augmentation_keeps_shape_and_type_and_its_input(bgr, rng, name):
    other = picture(rng)
    before = bgr.copy()
    augmentations = alone(name)
    for mirrored in {False, augmentations.mirrors}:
        draws = 0.1 + 0.8 * rng.random_sample(NUM_DRAWS)
        result = augmentations.change(bgr, mirrored, draws, lambda _: other)
        assert result.shape == bgr.shape and result.dtype == np.uint8
        if augmentations.storable:  # a store has the crop and its mirror image
            np.testing.assert_array_equal(result, bgr[:, ::-1] if mirrored else bgr)
        else:
            assert (result != bgr).mean() > (0.01 if name == 'erasing' else 0.1)
        again = augmentations.change(bgr, mirrored, draws, lambda _: other)
        np.testing.assert_array_equal(result, again)
    np.testing.assert_array_equal(bgr, before)


def test_few_mirror_and_two_can_be_stored():
    kinds = {name: AUGMENTATIONS.get(name) for name in AUGMENTATIONS}
    assert {name for name in kinds if kinds[name].mirrors} == {'mild', 'mirror'}
    assert {name for name in kinds if kinds[name].storable} == {'mirror', 'none'}


SOMETIMES = [
    name for name in AUGMENTATIONS if 'probability' in defaults_of(AUGMENTATIONS.get(name))
]


@pytest.mark.parametrize('name', SOMETIMES)
def test_as_many_crops_change_as_are_asked_for(bgr, rng, name):
    other = picture(rng)
    augmentations = alone(name, probability=0.3)
    draws = rng.random_sample((400, NUM_DRAWS))
    results = (augmentations.change(bgr, False, row, lambda _: other) for row in draws)
    changed = sum(not np.array_equal(result, bgr) for result in results)
    assert abs(changed - 120) < 4 * np.sqrt(400 * 0.3 * 0.7)
    never = alone(name, probability=0.0)
    assert all(never.change(bgr, False, row, lambda _: other) is bgr for row in draws[:50])


# --- several


def test_several_are_one_after_the_other_each_with_draws_of_its_own(bgr, rng):
    both = make_augmentations('mirror,jitter,jpeg', {'jpeg.probability': 1.0})
    draws = rng.random_sample(both.num_draws)
    assert both.num_draws == 3 * NUM_DRAWS and both.mirrors and not both.storable
    step = alone('jitter', probability=0.8).change(
        bgr[:, ::-1], False, draws[NUM_DRAWS : 2 * NUM_DRAWS], no_other
    )
    step = alone('jpeg').change(np.ascontiguousarray(step), False, draws[2 * NUM_DRAWS :], no_other)
    np.testing.assert_array_equal(both.change(bgr, True, draws, no_other), step)


def test_a_crop_is_mirrored_once(bgr):
    """mirror and mild both can; mild's middle draws do nothing else."""
    both = make_augmentations('mirror,mild')
    middle = np.full(both.num_draws, 0.5)
    np.testing.assert_array_equal(both.change(bgr, True, middle, no_other), bgr[:, ::-1])


def test_strong_is_a_name_for_all():
    strong = make_augmentations('strong')
    assert strong.names == COMBINATIONS.get('strong') and strong.mirrors and not strong.mixes
    others = {'mild', 'none', 'mixing', 'cutmix'}
    assert {*strong.names, *others} == set(AUGMENTATIONS)
    assert str(strong) == str(make_augmentations(','.join(strong.names)))
    assert str(strong) != str(make_augmentations('strong', {'jitter.hue': 0.1}))


def test_options_are_read_and_checked():
    words = ['blur.length=9', 'blur.sigma=1']
    options = parse_augmentation_options('mirror,blur', words)
    assert options == {'blur.length': 9, 'blur.sigma': 1.0}
    augmentations = make_augmentations('mirror,blur', options)
    assert augmentations.parts[1].length == 9
    assert str(augmentations) == 'mirror,blur(sigma=1.0 length=9 probability=0.2)'
    assert make_augmentations('mirror,blur', augmentations.options) == augmentations


@pytest.mark.parametrize(
    ('text', 'words', 'message'),
    [
        ('mirror,jiter', [], "unknown augmentation 'jiter'.*did you mean 'jitter'"),
        ('', [], 'names nothing'),
        ('blur,mirror,blur', [], 'blur comes twice'),
        ('strong,blur', [], 'blur comes twice'),
        ('mirror', ['blur.sigma=1'], r"'blur\.sigma=1': expected NAME.KEY.*\(mirror\)"),
        ('blur', ['sigma=1'], "'sigma=1': expected NAME.KEY"),
        ('blur', ['blur.sigma'], 'expected OPTION=VALUE'),
        ('blur', ['blur.size=1'], "unknown blur option 'size'"),
        ('blur', ['blur.sigma=x'], "blur: sigma must be a number above 0.*not 'x'"),
        ('blur', ['blur.probability=1.5'], 'probability must be a number from 0 to 1, not 1.5'),
        ('blur', ['blur.probability=nan'], 'probability must be a number from 0 to 1, not nan'),
        ('mirror', ['mirror.x=1'], 'mirror has no options'),
        ('erasing', ['erasing.smallest=0.5'], 'smallest 0.5 is above largest 0.25'),
    ],
)
def test_what_is_wrong_is_named(text, words, message):
    with pytest.raises(InputError, match=message):
        make_augmentations(text, parse_augmentation_options(text, words))


# --- each by itself


def test_grey_keeps_luma(bgr):
    grey = alone('grey').change(bgr, False, MIDDLE, no_other)
    np.testing.assert_allclose(
        grey, (bgr @ (0.114, 0.587, 0.299))[..., None].repeat(3, 2), atol=TRANSFORM
    )


def test_hue_turns_as_an_angle_does_and_leaves_grey_and_luma():
    luma = np.array([0.114, 0.587, 0.299])
    for one, other in ((0.3, -0.8), (2.0, 1.5)):
        np.testing.assert_allclose(
            hue_matrix(one) @ hue_matrix(other), hue_matrix(one + other), atol=1e-12
        )
        np.testing.assert_allclose(hue_matrix(one) @ np.ones(3), np.ones(3), atol=1e-12)
        np.testing.assert_allclose(luma @ hue_matrix(one), luma, atol=1e-12)
    np.testing.assert_allclose(hue_matrix(2 * np.pi), np.eye(3), atol=1e-12)
    red = hue_matrix(-2 * np.pi / 3) @ (0.0, 0.0, 255.0)
    assert red.argmax() == 1  # a third of a turn makes of red green


def test_jitter_changes_one_thing_at_a_time(bgr):
    jitter = AUGMENTATIONS.get('jitter')(brightness=40, contrast=0.3, saturation=0.4, hue=0.2)
    for number, expected in enumerate(
        [
            bgr + 40.0,
            127.5 + 1.3 * (bgr - 127.5),
            1.4 * bgr - 0.4 * (bgr @ (0.114, 0.587, 0.299))[..., None],
            bgr @ hue_matrix(0.2).T,
        ]
    ):
        draws = MIDDLE.copy()
        draws[number] = 1.0  # its limit
        result = jitter.change(bgr, False, draws)
        np.testing.assert_allclose(result, expected.clip(0, 255), atol=TRANSFORM)


def test_affine_is_shake_after_shear(rng):
    affine = AUGMENTATIONS.get('affine')(shift=3, scale=0.2, rotation=0.3, shear=0.1)
    for _ in range(20):
        draws = rng.random_sample(5)
        matrix = affine.matrix(draws, 112)
        shake = shake_matrix(draws[:4], False, 112, 3, 0.2, 0.3)
        centre = np.array([55.5, 55.5])
        np.testing.assert_allclose(matrix @ (*centre, 1), shake @ (*centre, 1), atol=1e-9)
        right, down = matrix[:, 0], matrix[:, 1]
        np.testing.assert_allclose(right, shake[:, 0], atol=1e-12)
        np.testing.assert_allclose(
            down, shake[:, 1] + 0.1 * (2 * draws[4] - 1) * shake[:, 0], atol=1e-12
        )


def test_a_point_becomes_a_line_of_motion_or_a_round_spot():
    point = np.zeros((112, 112, 3), np.uint8)
    point[56, 56] = 255
    blur = AUGMENTATIONS.get('blur')(sigma=2.0, length=9, probability=1.0)
    level = blur.change(point, False, np.array([0, 0.9, 1 - 1e-9, 0, 0, 0, 0, 0]))
    rows, columns = np.nonzero(level[..., 0])
    assert set(rows) == {56} and columns.min() <= 52 and columns.max() >= 60
    slanted = blur.change(point, False, np.array([0, 0.9, 1 - 1e-9, 0.25, 0, 0, 0, 0]))
    rows, columns = np.nonzero(slanted[..., 0])
    assert len(rows) > 4 and len(set(zip(rows, columns))) == len(set(rows))  # one a row
    spot = blur.change(255 - point, False, np.array([0, 0.1, 1 - 1e-9, 0, 0, 0, 0, 0]))
    spot = 255 - spot[..., 0].astype(float)
    np.testing.assert_array_equal(spot, spot.T)
    # a Gaussian of sigma 2 has its maximum 1 / (2 pi sigma^2)
    assert spot.max() == pytest.approx(255 / (2 * np.pi * 4), abs=1)


def detail(bgr):
    """Energy of the finest detail: differences of neighbours."""
    return float(np.square(np.diff(bgr.astype(float), axis=1)).mean())


def test_downscaling_loses_detail_as_it_is_told(rng):
    noise = rng.randint(0, 256, (112, 112, 3)).astype(np.uint8)
    downscale = AUGMENTATIONS.get('downscale')(smallest=0.25, probability=1.0)
    draws = np.array([0, 0, 0.5, 0.3, 0, 0, 0, 0])  # down by areas, up linearly
    small = downscale.change(noise, False, draws)
    assert detail(small) < 0.02 * detail(noise)
    draws[1] = 1 - 1e-9  # nothing is taken away
    np.testing.assert_array_equal(downscale.change(noise, False, draws), noise)


def test_jpeg_of_low_quality_is_farther_from_the_crop(bgr):
    jpeg = AUGMENTATIONS.get('jpeg')(lowest=10, probability=1.0)
    far, near = (
        np.abs(jpeg.change(bgr, False, np.array([0, draw, *[0] * 6])) - bgr.astype(float)).mean()
        for draw in (0, 1 - 1e-9)
    )
    assert 0 < near < 0.6 * far


def test_erasing_fills_rectangles_of_the_areas_and_aspects_asked_for(rng):
    erasing = AUGMENTATIONS.get('erasing')(probability=1.0)
    crop = np.full((112, 112, 3), 300 % 256, np.uint8)
    areas, wide = [], 0
    for _ in range(400):
        draws = rng.random_sample(NUM_DRAWS)
        result = erasing.change(crop, False, draws)
        changed = (result != crop).any(axis=2)
        rows, columns = np.flatnonzero(changed.any(1)), np.flatnonzero(changed.any(0))
        h, w = np.ptp(rows) + 1, np.ptp(columns) + 1
        assert changed.sum() == h * w and len(np.unique(result[changed], axis=0)) == 1
        areas.append(h * w / 112**2)
        wide += w > h
    assert 0.018 < min(areas) < 0.03 and 0.22 < max(areas) < 0.26
    assert abs(wide - 200) < 45


def test_mixing_is_a_weighted_sum(bgr, rng):
    other = picture(rng)
    mixing = alone('mixing')
    asked = []

    def another(draw):
        asked.append(draw)
        return other

    draws = np.array([0.7, 0.2, 0.25, *[0] * 5])
    result = mixing.change(bgr, False, draws, another)
    assert asked == [0.7]
    np.testing.assert_allclose(result, 0.75 * bgr + 0.25 * other, atol=0.51)


def test_cutmix_is_a_rectangle_of_another_picture(bgr, rng):
    other = picture(rng)
    cutmix = alone('cutmix', edge=0)

    def another(draw):
        assert draw == 0.7
        return other

    # a quarter of the area is half of each side, here rows 28 to 84 and columns 56 to 112 (cut)
    draws = np.array([0.7, 0.2, 0.25, 0.5, 0.75, *[0] * 3])
    expected = bgr.copy()
    expected[28:84, 56:112] = other[28:84, 56:112]
    np.testing.assert_array_equal(cutmix.change(bgr, False, draws, another), expected)

    # with an edge, each pixel has the share that its neighbourhood has of the rectangle
    soft = alone('cutmix', edge=3).change(bgr, False, draws, another)
    inside = np.zeros((112, 112))
    inside[28:84, 56:112] = 1
    padded = np.pad(inside, 3, mode='edge')
    for row, column in [(27, 80), (31, 100), (50, 53), (83, 57), (60, 111), (5, 5)]:
        share = padded[row : row + 7, column : column + 7].mean()
        pixel = share * other[row, column] + (1 - share) * bgr[row, column].astype(float)
        np.testing.assert_allclose(soft[row, column], pixel, atol=0.51)

    kept = alone('cutmix', probability=0.5)
    np.testing.assert_array_equal(kept.change(bgr, False, np.full(8, 0.7), another), bgr)


def test_cutmix_takes_all_shares_alike(rng):
    """Rectangles within the crop have uniform shares of its area."""
    black, white = np.zeros((112, 112, 3), np.uint8), np.full((112, 112, 3), 255, np.uint8)
    cutmix = alone('cutmix', edge=0)
    for share in (0.01, 0.25, 0.5, 0.81):
        draws = np.array([0, 0, share, 0.5, 0.5, 0, 0, 0])
        result = cutmix.change(black, False, draws, lambda draw: white)
        assert abs((result == 255).mean() - share) < 0.02


# --- mild


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


@pytest.mark.parametrize(
    ('change', 'told'),
    [
        (lambda bgr: bgr / 255, r'augmentation mine gave float64 \(112, 112, 3\)'),
        (lambda bgr: bgr[:50], r'augmentation mine gave uint8 \(50, 112, 3\)'),
        (lambda bgr: None, r'augmentation mine gave NoneType \(\)'),
    ],
)
def test_what_is_no_crop_is_named(change, told, bgr):
    """OpenCV would leave the row of another picture where it was, without a word."""

    class Mine(Augmentation):
        def change(self, bgr, mirrored, draws):
            return change(bgr)

    mine = Augmentations(('mine',), (Mine(),))
    with pytest.raises(RunError, match=told):
        mine.change(bgr, False, MIDDLE, no_other)
