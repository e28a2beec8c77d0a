"""Drawing of a synthetic face from the front, with curves and polygons on a canvas.

Lengths are pixels of the 112x112 crop, x to the right from the middle of the face, y down from the
crop's top. Colours are RGB, 0..255.
"""

import functools
from dataclasses import dataclass

import cv2
import numpy as np

from ..names import IMAGE_SIZE
from .traits import Identity, Variation

MIDDLE = 56.0  # x of the symmetry axis in the crop
MARGIN = 16.0  # canvas around the crop, so that turning the head shows what lies beside it
SUPERSAMPLING = 2

# palettes from one end of a scale to the other
_SKIN = (
    (252, 222, 200),
    (240, 198, 168),
    (214, 164, 128),
    (172, 118, 84),
    (118, 78, 54),
    (78, 52, 40),
)
_HAIR = (
    (24, 20, 20),
    (58, 40, 30),
    (98, 64, 40),
    (150, 74, 38),
    (206, 168, 106),
    (152, 150, 148),
    (226, 222, 216),
)
_IRIS = ((46, 28, 20), (96, 58, 30), (118, 100, 50), (80, 112, 76), (82, 122, 162), (128, 140, 148))
_LIPS = ((206, 138, 126), (188, 94, 94), (160, 62, 76), (122, 62, 58))


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


class Canvas:
    """RGBA picture in crop coordinates; what is drawn becomes opaque."""

    def __init__(self, size: int):
        self.scale = SUPERSAMPLING * size / IMAGE_SIZE
        self.side = 2 * round((IMAGE_SIZE + 2 * MARGIN) * self.scale / 2)
        self.image = np.zeros((self.side, self.side, 4), np.uint8)
        zero = np.array((MIDDLE + MARGIN + 0.5, MARGIN + 0.5))
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


def _draw_behind(canvas: Canvas, identity: Identity, look: _Look, shirt) -> None:
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


def _draw_skin_marks(canvas: Canvas, identity: Identity, look: _Look) -> None:
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


def _draw_eyes(canvas: Canvas, identity: Identity, look: _Look, variation: Variation) -> None:
    width, height, tilt = identity.eye_width, look.eye_height, identity.eye_tilt
    outer, inner = (-width, 0.4 * tilt), (width, -tilt)
    upper = _open([outer, (-0.4 * width, -height), (0.4 * width, -height), inner])
    lower = _open([inner, (0.3 * width, 0.75 * height), (-0.5 * width, 0.65 * height), outer])
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


def _draw_iris(canvas: Canvas, identity: Identity, centre, height: float) -> None:
    """Iris, pupil and a reflection, no higher than the lids leave open."""
    colour, radius = _tone(_IRIS, identity.iris_tone), identity.iris_radius
    canvas.ellipse(centre, (radius, min(radius, height)), 0.7 * colour)
    canvas.ellipse(centre, (0.8 * radius, min(0.8 * radius, 0.9 * height)), colour)
    canvas.ellipse(centre, (0.42 * radius, min(0.42 * radius, 0.6 * height)), (12, 10, 10))
    glint = (centre[0] + 0.35 * radius, centre[1] - 0.35 * radius)
    canvas.ellipse(glint, (0.6, 0.6), (250, 250, 250))


def _draw_brows(canvas: Canvas, identity: Identity, look: _Look) -> None:
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


def _draw_nose(canvas: Canvas, identity: Identity, look: _Look) -> None:
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


def mouth_corner(identity: Identity, variation: Variation) -> tuple:
    """Right mouth corner, moved by smile and opening."""
    x = identity.mouth_width + 2.6 * variation.smile - 1.2 * variation.mouth_open
    return x, identity.mouth_y - 1.8 * variation.smile + 0.8 * variation.mouth_open


def _draw_mouth(canvas: Canvas, identity: Identity, look: _Look, variation: Variation) -> None:
    corner_x, corner_y = mouth_corner(identity, variation)
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


def _draw_beard(canvas: Canvas, identity: Identity, look: _Look, variation: Variation) -> None:
    """Stubble to full beard, when this person wears one today."""
    if variation.beard >= identity.beard:
        return
    strength = 0.25 + 0.6 * identity.beard * (1 - variation.beard)
    colour = _mix(look.skin, 0.8 * look.hair, min(strength, 0.9))
    jaw, chin = identity.jaw_width, identity.chin_y
    outer = [(0, chin + 1), (identity.chin_width, chin - 2), (jaw + 0.5, 94), (jaw + 4.5, 78)]
    inner = [(jaw - 3, 82), (mouth := identity.mouth_width + 5, 90), (mouth - 3, 84), (0, 82.5)]
    canvas.fill(_closed(_both_sides(inner[::-1] + outer[::-1])), colour)


def _draw_glasses(canvas: Canvas, identity: Identity, variation: Variation) -> None:
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


def _draw_hair(canvas: Canvas, identity: Identity, look: _Look) -> None:
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
    canvas.lines(strands[::2], 0.84 * look.hair, 0.6)
    canvas.lines(strands[1::2], np.minimum(1.1 * look.hair + 5, 255), 0.6)


def _draw_cover(canvas: Canvas, identity: Identity, variation: Variation, colours) -> None:
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


def draw(identity: Identity, variation: Variation, size: int, colours) -> Canvas:
    """A face seen from the front in even light, on a transparent canvas for a crop of `size`.

    `colours` are three RGB colours, of hat, mask and shirt.
    """
    canvas = Canvas(size)
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
