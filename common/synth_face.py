"""Parametric synthetic faces: an identity and a variation in, one aligned picture out.

A face is drawn from the front on a canvas (outline, hair, eyes, brows, nose, mouth, skin marks),
lit through a height map of Gaussian bumps, turned in 2.5 dimensions (every canvas pixel moves by
its height), aligned to the ArcFace five-point template as a detector would do it, and then
photographed: exposure, blur, noise. The pictures are no portraits; they share with photographs
that pose, light and occlusion change pixels more than the identity does.

Lengths are pixels of the 112x112 crop, x to the right from the middle of the face, y down from the
crop's top, z towards the viewer. Colours are RGB, 0..255.
"""

import dataclasses
import functools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Optional

import cv2
import numpy as np

from .image import encode_jpeg
from .names import IMAGE_SIZE
from .warp import estimate_similarity

_MIDDLE = 56.0  # x of the symmetry axis in the crop
_PIVOT_Y = 66.0  # the head turns about this height
_MARGIN = 16.0  # canvas around the crop, so that turning the head shows what lies beside it
_SUPERSAMPLING = 2
_NEUTRAL_LIGHT = 128  # value of the light map that leaves a colour as it is

# palettes from one end of a scale to the other
_SKIN = (
    (252, 222, 200), (240, 198, 168), (214, 164, 128), (172, 118, 84), (118, 78, 54), (78, 52, 40),
)  # fmt: skip
_HAIR = (
    (24, 20, 20), (58, 40, 30), (98, 64, 40), (150, 74, 38), (206, 168, 106), (152, 150, 148),
    (226, 222, 216),
)  # fmt: skip
_IRIS = ((46, 28, 20), (96, 58, 30), (118, 100, 50), (80, 112, 76), (82, 122, 162), (128, 140, 148))
_LIPS = ((206, 138, 126), (188, 94, 94), (160, 62, 76), (122, 62, 58))


def _between(low: float, high: float, neutral: Optional[float] = None, chance: float = 1.0) -> Any:
    """A parameter drawn uniformly from low..high with probability `chance`, else `neutral`."""
    return dataclasses.field(
        default=(low + high) / 2 if neutral is None else neutral,
        metadata={'low': low, 'high': high, 'chance': chance},
    )


def _seed() -> Any:
    return _between(0, 2**31, neutral=0)


@dataclass(frozen=True)
class Identity:
    """What stays with a person; the defaults are the mean face, on the template."""

    # outline: half widths at the temples, cheeks, jaw and chin
    temple_width: float = _between(34.5, 42.5)
    cheek_width: float = _between(37.0, 45.0)
    jaw_width: float = _between(26.0, 38.0)
    chin_width: float = _between(8.0, 20.0)
    chin_y: float = _between(107.0, 119.0)
    ear_size: float = _between(6.0, 11.0)
    ear_out: float = _between(0.0, 5.0)
    # eyes and brows; `eye_x` is half the distance of the pupils
    eye_x: float = _between(16.0, 19.2)
    eye_y: float = _between(50.2, 53.0)
    eye_width: float = _between(5.2, 8.4)
    eye_height: float = _between(2.0, 4.4)
    eye_tilt: float = _between(-1.6, 2.2)
    iris_radius: float = _between(2.4, 3.5)
    iris_tone: float = _between(0.0, 1.0)
    lid_crease: float = _between(0.8, 4.4)
    lashes: float = _between(0.3, 1.6)
    brow_gap: float = _between(7.0, 13.0)
    brow_inner: float = _between(5.0, 10.0)
    brow_length: float = _between(15.0, 21.0)
    brow_thickness: float = _between(0.9, 3.6)
    brow_arch: float = _between(-0.5, 3.5)
    brow_tilt: float = _between(-2.0, 2.5)
    # nose and mouth; the relief values are heights in front of the face
    nose_y: float = _between(68.5, 75.0)
    nose_width: float = _between(5.0, 10.0)
    nose_bend: float = _between(-1.2, 1.2)
    nose_relief: float = _between(6.0, 12.0)
    bridge_width: float = _between(2.4, 5.0)
    bridge_relief: float = _between(1.5, 6.5)
    nostril: float = _between(0.9, 2.2)
    mouth_y: float = _between(89.8, 94.8)
    mouth_width: float = _between(12.2, 17.0)
    upper_lip: float = _between(1.2, 4.4)
    lower_lip: float = _between(1.8, 6.0)
    cupid_bow: float = _between(0.0, 1.6)
    lip_tone: float = _between(0.0, 1.0)
    # relief of the rest
    cheekbone: float = _between(-0.5, 4.5)
    cheek_hollow: float = _between(-4.0, 1.5)
    brow_ridge: float = _between(-0.5, 3.5)
    eye_socket: float = _between(-4.0, -0.5)
    chin_relief: float = _between(0.0, 4.5)
    forehead: float = _between(-1.0, 3.0)
    # skin and hair
    skin_tone: float = _between(0.0, 1.0, neutral=0.25)
    skin_red: float = _between(0.0, 1.0)
    shine: float = _between(0.0, 0.35)
    age: float = _between(0.0, 1.0, neutral=0.2)
    eye_bags: float = _between(0.0, 1.0, neutral=0.2)
    freckles: float = _between(0.3, 1.0, neutral=0.0, chance=0.25)
    mole_seed: float = _seed()
    texture_seed: float = _seed()
    hair_tone: float = _between(0.0, 1.0, neutral=0.3)
    hair_length: float = _between(0.0, 1.0, neutral=0.3)
    hairline_y: float = _between(10.0, 27.0)
    hair_volume: float = _between(0.0, 1.0)
    hair_part: float = _between(-1.0, 1.0, neutral=0.4)
    # weak cues: how often the person wears them
    beard: float = _between(0.4, 1.0, neutral=0.0, chance=0.35)
    glasses: float = _between(0.4, 0.9, neutral=0.05, chance=0.3)


@dataclass(frozen=True)
class Variation:
    """What changes from picture to picture; the defaults are a neutral passport photograph."""

    yaw: float = _between(-28.0, 28.0)  # degrees
    pitch: float = _between(-16.0, 16.0)
    roll: float = _between(-12.0, 12.0)
    misalignment: float = _between(0.0, 1.6, neutral=0.0)  # error of each landmark
    # light: direction (right, down), strength, share that comes from everywhere, colour
    light_x: float = _between(-1.3, 1.3)
    light_y: float = _between(-1.1, 0.5, neutral=-0.3)
    light_strength: float = _between(0.45, 1.0, neutral=0.6)
    ambient: float = _between(0.2, 0.6, neutral=0.5)
    warmth: float = _between(-0.16, 0.16)
    exposure: float = _between(0.7, 1.25, neutral=1.0)
    gamma: float = _between(0.75, 1.35, neutral=1.0)
    grey: float = _between(1.0, 1.0, neutral=0.0, chance=0.1)
    # expression
    smile: float = _between(-0.3, 1.0, neutral=0.0)
    mouth_open: float = _between(0.1, 1.0, neutral=0.0, chance=0.45)
    brow_raise: float = _between(-1.0, 1.0)
    eye_open: float = _between(0.55, 1.15, neutral=1.0)
    blink: float = _between(1.0, 1.0, neutral=0.0, chance=0.04)
    gaze: float = _between(-1.0, 1.0)
    # what people wear; `beard` and `glasses` are compared with the person's habit
    beard: float = _between(0.0, 1.0)
    glasses: float = _between(0.0, 1.0)
    sunglasses: float = _between(1.0, 1.0, neutral=0.0, chance=0.04)
    make_up: float = _between(0.2, 1.0, neutral=0.0, chance=0.2)
    hat: float = _between(1.0, 1.0, neutral=0.0, chance=0.1)
    mask: float = _between(1.0, 1.0, neutral=0.0, chance=0.03)
    hair_length: float = _between(-0.35, 0.35)
    hair_volume: float = _between(-0.5, 0.5)
    hairline: float = _between(-5.0, 5.0)
    hair_tone: float = _between(-0.12, 0.12)
    hair_part: float = _between(-0.6, 0.6)
    occlusion: float = _between(0.3, 1.0, neutral=0.0, chance=0.15)
    # camera
    blur: float = _between(0.3, 1.6, neutral=0.0, chance=0.4)
    low_resolution: float = _between(1.2, 2.6, neutral=1.0, chance=0.25)
    noise: float = _between(0.0, 9.0, neutral=0.0)
    jpeg_quality: float = _between(60.0, 96.0, neutral=95.0)
    seed: float = _seed()


def _sample(kind: type, rng: np.random.Generator) -> Any:
    values = {}
    for field in dataclasses.fields(kind):
        low, high, chance = (field.metadata[key] for key in ('low', 'high', 'chance'))
        # both numbers are always drawn: a changed chance leaves the other parameters alone
        position, luck = rng.random(2)
        values[field.name] = low + (high - low) * position if luck < chance else field.default
    return kind(**values)


def sample_identity(rng: np.random.Generator) -> Identity:
    """A random person."""
    return _sample(Identity, rng)


def sample_variation(rng: np.random.Generator) -> Variation:
    """Random circumstances of one picture."""
    return _sample(Variation, rng)


def person(seed: int, identity: int) -> Identity:
    """Person number `identity` of the data set `seed`."""
    return sample_identity(np.random.default_rng([seed, identity, 0]))


def circumstances(seed: int, identity: int, picture: int) -> Variation:
    """Circumstances of picture number `picture` (0, 1, ...) of that person."""
    return sample_variation(np.random.default_rng([seed, identity, picture + 1]))


# --- curves and the canvas -----------------------------------------------------------------------


@functools.cache
def _catmull_rom(steps: int) -> np.ndarray:
    """(steps, 4) weights of four neighbouring points along the span between the middle two."""
    t = np.arange(steps, dtype=np.float32)[:, None] / steps
    powers = np.hstack([np.ones_like(t), t, t**2, t**3])
    basis = [[0, 2, 0, 0], [-1, 0, 1, 0], [2, -5, 4, -1], [-1, 3, -3, 1]]
    return powers @ (np.array(basis, np.float32) / 2)


def _spline(points: np.ndarray, steps: int) -> np.ndarray:
    """Curve from the second to the last but one of (n + 3, 2) points, (n * steps, 2)."""
    spans = np.concatenate([points[:-3], points[1:-2], points[2:-1], points[3:]], axis=1)
    return (_catmull_rom(steps) @ spans.reshape(-1, 4, 2)).reshape(-1, 2)


def _closed(points, steps: int = 6) -> np.ndarray:
    """Smooth closed curve through the points, (n * steps, 2)."""
    points = np.asarray(points, np.float32)
    return _spline(np.concatenate([points[-1:], points, points[:2]]), steps)


def _open(points, steps: int = 6) -> np.ndarray:
    """Smooth open curve through the points, both ends included."""
    points = np.asarray(points, np.float32)
    curve = _spline(np.concatenate([points[:1], points, points[-1:]]), steps)
    return np.concatenate([curve, points[-1:]])


def _at(points, x: float, y: float, side: int = 1) -> np.ndarray:
    """Points moved by (x, y), then mirrored if `side` is -1."""
    moved = np.array(points, np.float32)
    moved += (x, y)
    moved[:, 0] *= side
    return moved


def _both_sides(points) -> np.ndarray:
    """A right half from top to bottom, closed by its mirror image."""
    points = np.asarray(points, np.float32)
    return np.concatenate([points, points[::-1] * (-1, 1)])


def _mix(first, second, share: float) -> np.ndarray:
    return np.asarray(first, np.float32) * (1 - share) + np.asarray(second, np.float32) * share


def _tone(palette, position: float) -> np.ndarray:
    """Colour at 0..1 along a palette."""
    place = float(np.clip(position, 0, 1)) * (len(palette) - 1)
    index = min(int(place), len(palette) - 2)
    return _mix(palette[index], palette[index + 1], place - index)


class _Canvas:
    """RGBA picture in crop coordinates; what is drawn becomes opaque."""

    def __init__(self, size: int):
        self.scale = _SUPERSAMPLING * size / IMAGE_SIZE
        self.side = 2 * round((IMAGE_SIZE + 2 * _MARGIN) * self.scale / 2)
        self.image = np.zeros((self.side, self.side, 4), np.uint8)
        zero = np.array((_MIDDLE + _MARGIN + 0.5, _MARGIN + 0.5))
        self._origin = (zero * self.scale - 0.5) * 16

    def _pixels(self, points) -> np.ndarray:
        """Crop coordinates as OpenCV's fixed-point pixels with 4 fractional bits."""
        return np.rint(np.asarray(points) * (self.scale * 16) + self._origin).astype(np.int32)

    def fill(self, points, colour) -> None:
        """Fill a polygon, (n, 2)."""
        cv2.fillPoly(self.image, [self._pixels(points)], _opaque(colour), cv2.LINE_AA, 4)

    def lines(self, curves, colour, width: float) -> None:
        """Draw open curves, each (n, 2)."""
        thickness = max(1, round(width * self.scale))
        pixels = [self._pixels(curve) for curve in curves]
        cv2.polylines(self.image, pixels, False, _opaque(colour), thickness, cv2.LINE_AA, 4)

    def ellipse(self, centre, radii, colour, angle: float = 0.0) -> None:
        centre = self._pixels(centre)
        axes = [round(radius * self.scale * 16) for radius in radii]
        cv2.ellipse(
            self.image, centre.tolist(), axes, angle, 0, 360, _opaque(colour), -1, cv2.LINE_AA, 4
        )


def _opaque(colour) -> tuple:
    return (*(float(channel) for channel in colour), 255.0)


# --- drawing -------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """Colours and shapes of one picture, derived once from identity and variation."""

    skin: np.ndarray
    hair: np.ndarray
    lips: np.ndarray
    hair_length: float
    hair_volume: float
    hairline_y: float
    part: float
    smile: float
    eye_height: float
    brow_lift: float


def _look(identity: Identity, variation: Variation) -> _Look:
    skin = _tone(_SKIN, identity.skin_tone) * (1, 1 - 0.07 * identity.skin_red, 1)
    lips = _tone(_LIPS, identity.lip_tone)
    lips = _mix(_mix(lips, skin, 0.35), (196, 30, 60), 0.6 * variation.make_up)
    eye_height = identity.eye_height * variation.eye_open * (1 - 0.2 * max(variation.smile, 0))
    return _Look(
        skin=skin,
        hair=_tone(_HAIR, identity.hair_tone + variation.hair_tone),
        lips=lips,
        hair_length=float(np.clip(identity.hair_length + variation.hair_length, 0, 1)),
        hair_volume=float(np.clip(identity.hair_volume + variation.hair_volume, 0, 1)),
        hairline_y=identity.hairline_y + variation.hairline,
        part=float(np.clip(identity.hair_part + variation.hair_part, -1, 1)),
        smile=variation.smile,
        eye_height=0.35 if variation.blink else eye_height,
        brow_lift=1.8 * variation.brow_raise,
    )


def _face_outline(identity: Identity) -> np.ndarray:
    right = [
        (0, 4),
        (0.62 * identity.temple_width, 10),
        (identity.temple_width, 34),
        (identity.cheek_width, 62),
        (identity.jaw_width, 94),
        (identity.chin_width, identity.chin_y - 3),
        (0.3 * identity.chin_width, identity.chin_y),
    ]
    return _closed(_both_sides(right))


def _draw_behind(canvas: _Canvas, identity: Identity, look: _Look, shirt) -> None:
    """Long hair, neck, shoulders and ears."""
    width = identity.cheek_width + 3 + 9 * look.hair_volume
    if look.hair_length > 0.45:
        bottom = 60 + 75 * look.hair_length
        shape = [(0, -12), (0.8 * width, -2), (width, 40), (width + 3, bottom - 12), (22, bottom)]
        canvas.fill(_closed(_both_sides(shape)), 0.8 * look.hair)
    neck = 0.74 * identity.jaw_width
    canvas.fill([(-neck, 90), (neck, 90), (neck + 4, 140), (-neck - 4, 140)], 0.72 * look.skin)
    canvas.fill(_closed(_both_sides([(neck, 118), (62, 126), (80, 150)])), shirt)
    for side in (-1, 1):
        centre = (side * (identity.cheek_width + identity.ear_out - 1.5), 60)
        radii = (0.5 * identity.ear_size, 1.15 * identity.ear_size)
        canvas.ellipse(centre, radii, 0.86 * look.skin, angle=side * 8)
        canvas.ellipse(centre, (0.5 * radii[0], 0.6 * radii[1]), 0.7 * look.skin, angle=side * 8)


def _draw_skin_marks(canvas: _Canvas, identity: Identity, look: _Look) -> None:
    """Cheek colour, freckles, moles, wrinkles and bags under the eyes."""
    red = _mix(look.skin, (214, 84, 74), 0.08 + 0.16 * identity.skin_red)
    for side in (-1, 1):
        canvas.ellipse((side * 24, 74), (9, 7), _mix(look.skin, red, 0.5))
        canvas.ellipse((side * 24, 74), (6, 4.5), red)
    rng = np.random.default_rng(int(identity.mole_seed))
    for x, y, radius in rng.uniform(
        (-30, 28, 0.4), (30, 108, 0.8), (int(70 * identity.freckles), 3)
    ):
        if abs(y - 68) < 18:
            canvas.ellipse((x, y), (radius, radius), _mix(look.skin, (140, 80, 50), 0.45))
    for x, y, radius in rng.uniform((-32, 24, 0.8), (32, 108, 1.7), (rng.integers(0, 5), 3)):
        canvas.ellipse((x, y), (radius, radius), 0.38 * look.skin)
    crease = (1 - 0.28 * identity.age) * look.skin
    mouth = identity.mouth_width + 4 + 2 * max(look.smile, 0)
    for side in (-1, 1):
        fold = [(identity.nose_width + 3, identity.nose_y), (mouth, 82), (mouth + 0.5, 91)]
        canvas.lines([_open(np.multiply(fold, (side, 1)))], crease, 0.9)
        bag = [(identity.eye_x + dx, identity.eye_y + dy) for dx, dy in ((-6, 4), (0, 7), (7, 4.5))]
        shade = (1 - 0.22 * identity.eye_bags) * look.skin
        canvas.lines([_open(np.multiply(bag, (side, 1)))], shade, 1.2)
    for row in range(int(4 * identity.age)):
        y = 22 + 5 * row
        canvas.lines([_open([(-17, y + 1), (-6, y), (6, y), (17, y + 1)])], crease, 0.6)


def _draw_eyes(canvas: _Canvas, identity: Identity, look: _Look, variation: Variation) -> None:
    width, height, tilt = identity.eye_width, look.eye_height, identity.eye_tilt
    upper = _open([
        (-width, 0.4 * tilt), (-0.4 * width, -height), (0.4 * width, -height), (width, -tilt),
    ])  # fmt: skip
    lower = _open([
        (width, -tilt), (0.3 * width, 0.75 * height), (-0.5 * width, 0.65 * height),
        (-width, 0.4 * tilt),
    ])  # fmt: skip
    lid_colour = _mix(0.88 * look.skin, (90, 60, 90), 0.3 * variation.make_up)
    for side in (-1, 1):
        lid = _at(upper, identity.eye_x, identity.eye_y, side)
        floor = _at(lower, identity.eye_x, identity.eye_y, side)
        crease = _at(lid, 0, -identity.lid_crease)
        canvas.fill(np.concatenate([lid, crease[::-1]]), lid_colour)
        canvas.fill(np.concatenate([lid, floor]), (238, 236, 232))
        if height > 0.6:
            pupil_x = side * identity.eye_x + 1.7 * variation.gaze
            _draw_iris(canvas, identity, (pupil_x, identity.eye_y - 0.1 * height), height)
        canvas.lines([lid], 0.25 * look.skin, identity.lashes * (1 + 0.6 * variation.make_up))
        canvas.lines([floor], 0.7 * look.skin, 0.5)
        canvas.lines([crease], 0.72 * look.skin, 0.6)


def _draw_iris(canvas: _Canvas, identity: Identity, centre, height: float) -> None:
    """Iris, pupil and a reflection, no higher than the lids leave open."""
    colour, radius = _tone(_IRIS, identity.iris_tone), identity.iris_radius
    canvas.ellipse(centre, (radius, min(radius, height)), 0.7 * colour)
    canvas.ellipse(centre, (0.8 * radius, min(0.8 * radius, 0.9 * height)), colour)
    canvas.ellipse(centre, (0.42 * radius, min(0.42 * radius, 0.6 * height)), (12, 10, 10))
    glint = (centre[0] + 0.35 * radius, centre[1] - 0.35 * radius)
    canvas.ellipse(glint, (0.6, 0.6), (250, 250, 250))


def _draw_brows(canvas: _Canvas, identity: Identity, look: _Look) -> None:
    y = identity.eye_y - identity.brow_gap - look.brow_lift
    length, thickness = identity.brow_length, identity.brow_thickness
    top = np.array([(0, -0.6), (0.5, -1.0), (1, -0.1)]) * (length, thickness)
    bottom = np.array([(1, 0.1), (0.5, 0.2), (0, 0.6)]) * (length, thickness)
    shape = np.concatenate([top, bottom])
    along = shape[:, 0] / length
    shape[:, 1] -= identity.brow_tilt * along + 4 * identity.brow_arch * along * (1 - along)
    colour = _mix(0.75 * look.hair, look.skin, 0.15)
    for side in (-1, 1):
        canvas.fill(_closed(_at(shape, identity.brow_inner, y, side)), colour)


def _draw_nose(canvas: _Canvas, identity: Identity, look: _Look) -> None:
    y, width, bend = identity.nose_y + 2.5, identity.nose_width, identity.nose_bend
    wing = _open([(0.75 * width, -5), (width, -2), (width, 0.5), (0.7 * width, 1.8)])
    for side in (-1, 1):
        canvas.lines([_at(wing, side * bend, y, side)], 0.72 * look.skin, 0.7)
        hole = (bend + side * 0.48 * width, y + 1.2)
        canvas.ellipse(
            hole, (identity.nostril, 0.6 * identity.nostril), 0.32 * look.skin, side * -15
        )
    under = [(bend - 0.3 * width, y + 1.8), (bend, y + 2.6), (bend + 0.3 * width, y + 1.8)]
    canvas.lines([_open(under)], 0.74 * look.skin, 0.8)


def _mouth_corner(identity: Identity, variation: Variation) -> tuple:
    """Right mouth corner, moved by smile and opening."""
    x = identity.mouth_width + 2.6 * variation.smile - 1.2 * variation.mouth_open
    return x, identity.mouth_y - 1.8 * variation.smile + 0.8 * variation.mouth_open


def _draw_mouth(canvas: _Canvas, identity: Identity, look: _Look, variation: Variation) -> None:
    corner_x, corner_y = _mouth_corner(identity, variation)
    gap = 5.5 * variation.mouth_open
    middle = identity.mouth_y + 0.2 * identity.upper_lip
    top, bottom = middle - 0.35 * gap, middle + 0.65 * gap
    bow, below = top - identity.upper_lip, bottom + identity.lower_lip - 0.4
    left, right = (-corner_x, corner_y), (corner_x, corner_y)
    near = 0.35 * corner_x
    upper_edge = _open([left, (-near, bow), (0, bow + identity.cupid_bow), (near, bow), right])
    lower_edge = _open([right, (0.45 * corner_x, below), (-0.45 * corner_x, below), left])
    seam_top = _open([right, (0.4 * corner_x, top), (-0.4 * corner_x, top), left])
    seam_bottom = _open([left, (-0.4 * corner_x, bottom), (0.4 * corner_x, bottom), right])
    canvas.fill(np.concatenate([upper_edge, lower_edge]), look.lips)
    canvas.fill(np.concatenate([upper_edge, seam_top]), 0.86 * look.lips)
    if gap > 0.5:
        canvas.fill(np.concatenate([seam_top, seam_bottom]), (66, 22, 26))
        teeth = _at(np.minimum(seam_top, (np.inf, top + 0.55 * gap)), 0, 0.45 * gap)
        canvas.fill(np.concatenate([seam_top, teeth[::-1]]), (232, 226, 214))
    canvas.lines([seam_top], 0.4 * look.lips, 0.6)


def _draw_beard(canvas: _Canvas, identity: Identity, look: _Look, variation: Variation) -> None:
    """Stubble to full beard, when this person wears one today."""
    if variation.beard >= identity.beard:
        return
    strength = 0.25 + 0.6 * identity.beard * (1 - variation.beard)
    colour = _mix(look.skin, 0.8 * look.hair, min(strength, 0.9))
    jaw, chin = identity.jaw_width, identity.chin_y
    outer = [(0, chin + 1), (identity.chin_width, chin - 2), (jaw + 0.5, 94), (jaw + 4.5, 78)]
    inner = [(jaw - 3, 82), (mouth := identity.mouth_width + 5, 90), (mouth - 3, 84), (0, 82.5)]
    canvas.fill(_closed(_both_sides(inner[::-1] + outer[::-1])), colour)


def _draw_glasses(canvas: _Canvas, identity: Identity, variation: Variation) -> None:
    worn = variation.glasses < identity.glasses
    if not (worn or variation.sunglasses):
        return
    rng = np.random.default_rng(int(identity.texture_seed) + 1)
    frame = rng.choice(((30, 26, 26), (110, 70, 40), (150, 150, 156), (40, 50, 90)))
    half_width, half_height, squareness = rng.uniform((10, 7, 2), (13.5, 10.5, 5))
    angle = np.linspace(0, 2 * np.pi, 25)
    unit = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rim = np.sign(unit) * np.abs(unit) ** (2 / squareness) * (half_width, half_height)
    rims = [_at(rim, identity.eye_x, identity.eye_y + 1.5, side) for side in (-1, 1)]
    if variation.sunglasses:
        for rim in rims:
            canvas.fill(rim, (28, 26, 30))
    bridge = [(half_width - identity.eye_x, 51), (0, 49.5), (identity.eye_x - half_width, 51)]
    arms = [[(side * (identity.eye_x + half_width), 50), (side * 47, 52)] for side in (-1, 1)]
    canvas.lines([*rims, _open(bridge), *arms], frame, rng.uniform(0.8, 1.9))


def _draw_hair(canvas: _Canvas, identity: Identity, look: _Look) -> None:
    """Hair in front of the skull, from the crown to the hairline."""
    if look.hair_length < 0.06:
        return
    temple, volume = identity.temple_width, look.hair_volume
    across = np.linspace(-1, 1, 9)
    fringe = look.hairline_y + 13 * np.abs(across) ** 3
    fringe += 9 * look.hair_length * (0.6 - np.abs(across - 0.7 * look.part))
    hairline = np.column_stack([across * (temple - 1.5), fringe])
    tip = (temple + 1, 46 + 26 * look.hair_length)
    crown = [
        (temple + 3 + 6 * volume, 44),
        (temple + 1 + 7 * volume, 14),
        (0.6 * temple, -6 - 8 * volume),
    ]
    top = [*crown, (0, -10 - 8 * volume), *((-x, y) for x, y in crown[::-1])]
    canvas.fill(_closed([(-tip[0], tip[1]), *hairline, tip, *top]), look.hair)
    place = np.linspace(-1, 1, 22)
    start = np.column_stack([0.5 * temple * place, 5 * np.abs(place) - 6 - 7 * volume])
    end = np.column_stack([0.96 * temple * place, np.interp(place, across, fringe) - 1.5])
    bend = (start + end) / 2 + np.column_stack([10 * place - 5 * look.part, 2 * np.abs(place)])
    strands = [_open(strand, 4) for strand in np.stack([start, bend, end], axis=1)]
    canvas.lines(strands[::2], 0.72 * look.hair, 0.6)
    canvas.lines(strands[1::2], np.minimum(1.22 * look.hair + 8, 255), 0.6)


def _draw_cover(canvas: _Canvas, identity: Identity, variation: Variation, colours) -> None:
    """A hat or a medical mask."""
    if variation.hat:
        brim = identity.hairline_y + 2
        crown = [(-46, brim + 4), (-44, -6), (0, -16), (44, -6), (46, brim + 4), (0, brim - 3)]
        canvas.fill(_closed(crown), colours[0])
        canvas.lines([_open([(-49, brim + 6), (0, brim - 2), (49, brim + 6)])], 0.7 * colours[0], 3)
    if variation.mask:
        jaw = identity.jaw_width
        shape = [(0, 68), (20, 72), (jaw + 5, 76), (jaw, 100), (0.4 * jaw, identity.chin_y + 1)]
        canvas.fill(_closed(_both_sides(shape)), _mix(colours[1], (225, 235, 240), 0.7))
        folds = [_open([(-jaw, y), (0, y + 4), (jaw, y)]) for y in (84, 92)]
        canvas.lines(folds, (170, 185, 195), 0.6)


def _draw(identity: Identity, variation: Variation, size: int, colours) -> _Canvas:
    canvas = _Canvas(size)
    look = _look(identity, variation)
    _draw_behind(canvas, identity, look, colours[2])
    canvas.fill(_face_outline(identity), look.skin)
    _draw_skin_marks(canvas, identity, look)
    _draw_beard(canvas, identity, look, variation)
    _draw_eyes(canvas, identity, look, variation)
    _draw_brows(canvas, identity, look)
    _draw_nose(canvas, identity, look)
    _draw_mouth(canvas, identity, look, variation)
    _draw_hair(canvas, identity, look)
    _draw_glasses(canvas, identity, variation)
    _draw_cover(canvas, identity, variation, colours)
    return canvas


# --- relief, pose and light ----------------------------------------------------------------------


def _bumps(identity: Identity) -> np.ndarray:
    """(k, 5) Gaussian bumps of the face: x, y, width, height along y, height above the face."""
    nose_y, nose = identity.nose_y, identity.nose_relief
    one = [
        (identity.nose_bend, nose_y - 0.5, 5.0, 5.5, 0.8 * nose),
        (0, nose_y - 13, identity.bridge_width, 9.0, identity.bridge_relief),
        (0, identity.mouth_y - 3, 9.0, 2.6, 0.5 * identity.upper_lip),
        (0, identity.mouth_y + 4, 8.0, 2.6, 0.45 * identity.lower_lip),
        (0, identity.mouth_y + 9, 8.0, 2.6, -1.6),
        (0, identity.chin_y - 7, 8.0, 5.5, identity.chin_relief),
        (0, 26, 20.0, 10.0, identity.forehead),
    ]
    pairs = [
        (0.8 * identity.nose_width, nose_y + 1, 2.6, 2.8, 0.3 * nose),
        (identity.eye_x, identity.eye_y, 7.0, 5.0, identity.eye_socket),
        (identity.eye_x, identity.eye_y, 3.6, 2.6, 1.2),
        (
            identity.eye_x - 2,
            identity.eye_y - 0.8 * identity.brow_gap,
            9.0,
            3.2,
            identity.brow_ridge,
        ),
        (26, 68, 8.0, 6.0, identity.cheekbone),
        (27, 86, 7.0, 9.0, identity.cheek_hollow),
    ]
    right = np.array(pairs)
    return np.concatenate([np.array(one), right, right * (-1, 1, 1, 1, 1)])


def _head(x, y):
    """Height of the bare head, an elliptic paraboloid."""
    return -(x**2) / 76 - (y - 62) ** 2 / 150


def _relief(identity: Identity, side: int) -> np.ndarray:
    """Height map of the canvas at half its resolution, (side / 2, side / 2) float32."""
    along = (
        (np.arange(side // 2) + 0.5) * ((IMAGE_SIZE + 2 * _MARGIN) / (side // 2)) - _MARGIN - 0.5
    )
    x, y = along[:, None] - _MIDDLE, along[:, None]
    centre_x, centre_y, width, length, height = _bumps(identity).T
    across = np.exp(-0.5 * ((x - centre_x) / width) ** 2)
    down = np.exp(-0.5 * ((y - centre_y) / length) ** 2) * height
    return (down @ across.T + _head(x.T, y)).astype(np.float32)


def _front_landmarks(identity: Identity, variation: Variation) -> np.ndarray:
    """(5, 3) eyes, nose tip and mouth corners of the unturned head, left of the picture first."""
    corner_x, corner_y = _mouth_corner(identity, variation)
    points = np.array([
        (-identity.eye_x, identity.eye_y),
        (identity.eye_x, identity.eye_y),
        (identity.nose_bend, identity.nose_y),
        (-corner_x, corner_y),
        (corner_x, corner_y),
    ])  # fmt: skip
    x, y = points[:, :1], points[:, 1:]
    centre_x, centre_y, width, length, height = _bumps(identity).T
    bumps = np.exp(-0.5 * (((x - centre_x) / width) ** 2 + ((y - centre_y) / length) ** 2)) @ height
    return np.column_stack([points, bumps + _head(x, y)[:, 0]])


def _rotation(variation: Variation) -> np.ndarray:
    """(3, 3) matrix that turns the head: yaw, then pitch, then roll."""
    # Rodrigues' rotation vectors; y points down and z to the viewer
    turns = ((0, variation.yaw, 0), (-variation.pitch, 0, 0), (0, 0, variation.roll))
    yaw, pitch, roll = (cv2.Rodrigues(np.radians(turn))[0] for turn in turns)
    return roll @ pitch @ yaw


def _pose(identity: Identity, variation: Variation) -> tuple:
    """How head coordinates (x, y - pivot, z) reach the crop, and the landmarks there.

    Returns
    -------
    (rotation (3, 3), similarity (2, 3), landmarks (5, 2) in crop coordinates). The similarity is
    estimated from landmarks with an error, as from a detector.
    """
    rotation = _rotation(variation)
    turned = (_front_landmarks(identity, variation) - (0, _PIVOT_Y, 0)) @ rotation[:2].T
    error = np.random.default_rng(int(variation.seed)).standard_normal((5, 2))
    similarity = estimate_similarity(turned + variation.misalignment * error)
    return rotation, similarity, turned @ similarity[:, :2].T + similarity[:, 2]


def landmarks(identity: Identity, variation: Variation, size: int = IMAGE_SIZE) -> np.ndarray:
    """Where the five points are in the rendered picture.

    Returns
    -------
    (5, 2) float64, x and y in pixels: left eye, right eye, nose, left and right mouth corner.
    """
    points = _pose(identity, variation)[2]
    return (points + 0.5) * (size / IMAGE_SIZE) - 0.5


def _light_map(identity: Identity, variation: Variation, relief, rotation) -> np.ndarray:
    """RGBA factors of the light at the relief's resolution, uint8, 128 = unchanged."""
    spacing = (IMAGE_SIZE + 2 * _MARGIN) / len(relief)
    slope_x = cv2.Scharr(relief, cv2.CV_32F, 1, 0, scale=1 / (32 * spacing))
    slope_y = cv2.Scharr(relief, cv2.CV_32F, 0, 1, scale=1 / (32 * spacing))
    direction = np.array((variation.light_x, variation.light_y, 1.0))
    light = (rotation.T @ (direction / np.linalg.norm(direction))).astype(np.float32)
    lean = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    diffuse = np.maximum((light[2] - light[0] * slope_x - light[1] * slope_y) * lean, 0)
    rng = np.random.default_rng(int(identity.texture_seed))
    texture = rng.standard_normal((26, 26), np.float32)
    texture = cv2.resize(texture, relief.shape, interpolation=cv2.INTER_CUBIC)
    shade = variation.ambient + variation.light_strength * diffuse
    shade = shade * (1 + 0.05 * texture) + identity.shine * cv2.pow(diffuse, 10)
    colours = (1 + variation.warmth, 1, 1 - variation.warmth)
    planes = [cv2.convertScaleAbs(shade, alpha=_NEUTRAL_LIGHT * colour) for colour in colours]
    return cv2.merge([*planes, np.full_like(planes[0], _NEUTRAL_LIGHT)])


def _lit(canvas: _Canvas, light: np.ndarray) -> np.ndarray:
    light = cv2.resize(light, (canvas.side, canvas.side), interpolation=cv2.INTER_LINEAR)
    return cv2.multiply(canvas.image, light, scale=1 / _NEUTRAL_LIGHT)


def _turn(image: np.ndarray, relief: np.ndarray, rotation, similarity, size: int) -> np.ndarray:
    """Turn the canvas and cut the crop: (2 * size, 2 * size, 4).

    Each pixel of the crop asks where on the unturned head it comes from. Since its own height
    decides that, the answer is iterated; slopes below 1 and angles below 30 degrees converge.
    """
    grid = (np.arange(size) + 0.5) * (IMAGE_SIZE / size) - 0.5
    x, y = np.meshgrid(grid, grid)
    inverse = np.linalg.inv(rotation[:2, :2]) @ np.linalg.inv(similarity[:, :2])
    x, y = x - similarity[0, 2], y - similarity[1, 2]
    flat_x = (inverse[0, 0] * x + inverse[0, 1] * y).astype(np.float32)
    flat_y = (inverse[1, 0] * x + inverse[1, 1] * y + _PIVOT_Y).astype(np.float32)
    shift = (np.linalg.inv(rotation[:2, :2]) @ rotation[:2, 2]).astype(np.float32)
    scale = len(relief) / (IMAGE_SIZE + 2 * _MARGIN)
    offset_x, offset_y = _MIDDLE + _MARGIN + 0.5, _MARGIN + 0.5
    from_x, from_y = flat_x, flat_y
    for _ in range(4):
        height = cv2.remap(
            relief, (from_x + offset_x) * scale - 0.5, (from_y + offset_y) * scale - 0.5,
            cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE,
        )  # fmt: skip
        from_x, from_y = flat_x - shift[0] * height, flat_y - shift[1] * height
    scale = len(image) / (IMAGE_SIZE + 2 * _MARGIN)
    side = _SUPERSAMPLING * size
    map_x = cv2.resize((from_x + offset_x) * scale - 0.5, (side, side))
    map_y = cv2.resize((from_y + offset_y) * scale - 0.5, (side, side))
    return cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR)


# --- scene and camera ----------------------------------------------------------------------------


def _background(rng: np.random.Generator, side: int) -> np.ndarray:
    """Soft random patches, (side, side, 3) uint8."""
    rows, columns = rng.integers(2, 8, 2)
    brightness = rng.uniform(30, 220) + rng.normal(0, rng.uniform(5, 45), (rows, columns, 1))
    tint = rng.uniform(-35, 35, 3) + rng.normal(0, 10, (rows, columns, 3))
    patches = np.clip(brightness + tint, 0, 255).astype(np.uint8)
    return cv2.resize(patches, (side, side), interpolation=cv2.INTER_CUBIC)


def _compose(head: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Put the RGBA head in front of the background."""
    opacity = cv2.cvtColor(head[..., 3], cv2.COLOR_GRAY2RGB)
    behind = cv2.multiply(background, cv2.bitwise_not(opacity), scale=1 / 255)
    # the canvas is black where nothing is drawn, so its colours already carry their opacity
    return cv2.add(cv2.cvtColor(head, cv2.COLOR_RGBA2RGB), behind)


def _occlude(scene: np.ndarray, amount: float, rng: np.random.Generator) -> None:
    """Something in front of the face that reaches in from the border, in place."""
    side = len(scene)
    angle = rng.uniform(0, 2 * np.pi)
    outwards = np.array((np.cos(angle), np.sin(angle)))
    centre = side / 2 * (1 + outwards * rng.uniform(1.0, 1.3))
    axes = side * (0.15 + 0.3 * amount) * rng.uniform(0.6, 1.2, 2)
    colour = rng.uniform(20, 235, 3)
    cv2.ellipse(
        scene, centre.astype(int).tolist(), axes.astype(int).tolist(), float(rng.uniform(0, 180)),
        0, 360, colour.tolist(), -1, cv2.LINE_AA,
    )  # fmt: skip


def _photograph(scene: np.ndarray, variation: Variation, rng, size: int) -> np.ndarray:
    """What the camera makes of the scene: resolution, exposure, noise."""
    if variation.blur:
        sigma = variation.blur * _SUPERSAMPLING * size / IMAGE_SIZE
        scene = cv2.GaussianBlur(scene, (0, 0), sigma)
    if variation.low_resolution > 1:
        small = max(8, round(size / variation.low_resolution))
        scene = cv2.resize(scene, (small, small), interpolation=cv2.INTER_AREA)
        picture = cv2.resize(scene, (size, size), interpolation=cv2.INTER_LINEAR)
    else:
        picture = cv2.resize(scene, (size, size), interpolation=cv2.INTER_AREA)
    levels = np.linspace(0, 1, 256) ** variation.gamma * variation.exposure * 255
    picture = cv2.LUT(picture, np.clip(levels, 0, 255).astype(np.uint8))
    if variation.grey:
        picture = cv2.cvtColor(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    if variation.noise:
        noise = rng.standard_normal(picture.shape, np.float32) * np.float32(variation.noise)
        picture = cv2.add(picture, noise, dtype=cv2.CV_8U)
    return picture


def render(identity: Identity, variation: Variation, size: int = IMAGE_SIZE) -> np.ndarray:
    """Draw one aligned face.

    Parameters
    ----------
    identity, variation : as from `sample_identity` and `sample_variation`
    size : height and width of the picture

    Returns
    -------
    (size, size, 3) uint8, RGB; the same bytes for the same arguments. JPEG artefacts are left to
    the caller, who encodes with `variation.jpeg_quality`.
    """
    rng = np.random.default_rng(int(variation.seed) + 1)
    background = _background(rng, _SUPERSAMPLING * size)
    canvas = _draw(identity, variation, size, colours=rng.uniform(20, 230, (3, 3)))
    relief = _relief(identity, canvas.side)
    rotation, similarity, _ = _pose(identity, variation)
    lit = _lit(canvas, _light_map(identity, variation, relief, rotation))
    scene = _compose(_turn(lit, relief, rotation, similarity, size), background)
    if variation.occlusion:
        _occlude(scene, variation.occlusion, rng)
    return _photograph(scene, variation, rng, size)


def jpeg_faces(seed: int, identity: int, pictures: Iterable[int], size: int) -> list[bytes]:
    """Pictures of one person as JPEG; picture k depends on (seed, identity, k) only."""
    face = person(seed, identity)
    encoded = []
    for picture in pictures:
        variation = circumstances(seed, identity, picture)
        encoded.append(encode_jpeg(render(face, variation, size), int(variation.jpeg_quality)))
    return encoded
