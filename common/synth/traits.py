"""What a synthetic face is made of: the parameters of a person and of one picture of them.

Lengths are pixels of the 112x112 crop, x to the right from the middle of the face, y down from the
crop's top. How the parameters become pixels is told in draw.py and face.py.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

VARIETIES = ('plain', 'wide')


def _between(
    low: float,
    high: float,
    neutral: Optional[float] = None,
    chance: float = 1.0,
    wide: Optional[tuple[float, float, float]] = None,
) -> Any:
    """A parameter drawn uniformly from low..high with probability `chance`, else `neutral`;
    `wide` are low, high and chance of the wide variety where they differ."""
    plain = (low, high, chance)
    return dataclasses.field(
        default=(low + high) / 2 if neutral is None else neutral,
        metadata={'plain': plain, 'wide': wide or plain},
    )


def _wide_only(low: float, high: float) -> Any:
    """A parameter of the wide variety, 0 elsewhere."""
    return _between(low, high, neutral=0.0, chance=0.0, wide=(low, high, 1.0))


def _seed() -> Any:
    return _between(0, 2**31, neutral=0)


@dataclass(frozen=True)
class Identity:
    """What stays with a person; the defaults are the mean face, on the template."""

    # outline: half widths at the temples, cheeks, jaw and chin
    temple_width: float = _between(34.5, 42.5, wide=(32.0, 40.0, 1.0))
    cheek_width: float = _between(37.0, 45.0, wide=(34.5, 42.0, 1.0))
    jaw_width: float = _between(26.0, 38.0, wide=(25.0, 35.0, 1.0))
    chin_width: float = _between(8.0, 20.0)
    chin_y: float = _between(107.0, 119.0)
    ear_size: float = _between(6.0, 11.0)
    ear_out: float = _between(0.0, 5.0)
    # eyes and brows; `eye_x` is half the distance of the pupils
    eye_x: float = _between(16.0, 19.2)
    eye_y: float = _between(50.2, 53.0)
    eye_width: float = _between(5.2, 8.4, wide=(6.8, 9.6, 1.0))
    eye_height: float = _between(2.0, 4.4, wide=(2.2, 4.6, 1.0))
    eye_tilt: float = _between(-1.6, 2.2)
    iris_radius: float = _between(2.4, 3.5)
    iris_tone: float = _between(0.0, 1.0)
    lid_crease: float = _between(0.8, 4.4)
    lashes: float = _between(0.3, 1.6)
    brow_gap: float = _between(7.0, 13.0, wide=(6.0, 11.0, 1.0))
    brow_inner: float = _between(5.0, 10.0)
    brow_length: float = _between(15.0, 21.0)
    brow_thickness: float = _between(0.9, 3.6, wide=(1.4, 5.0, 1.0))
    brow_arch: float = _between(-0.5, 3.5)
    brow_tilt: float = _between(-2.0, 2.5)
    # nose and mouth; the relief values are heights in front of the face
    nose_y: float = _between(68.5, 75.0)
    nose_width: float = _between(5.0, 10.0, wide=(7.0, 11.5, 1.0))
    nose_bend: float = _between(-1.2, 1.2)
    nose_relief: float = _between(6.0, 12.0, wide=(7.0, 13.0, 1.0))
    bridge_width: float = _between(2.4, 5.0)
    bridge_relief: float = _between(1.5, 6.5, wide=(2.5, 8.0, 1.0))
    nostril: float = _between(0.9, 2.2)
    mouth_y: float = _between(89.8, 94.8)
    mouth_width: float = _between(12.2, 17.0)
    upper_lip: float = _between(1.2, 4.4, wide=(1.6, 5.4, 1.0))
    lower_lip: float = _between(1.8, 6.0, wide=(2.6, 7.0, 1.0))
    cupid_bow: float = _between(0.0, 1.6)
    lip_tone: float = _between(0.0, 1.0)
    # relief of the rest
    cheekbone: float = _between(-0.5, 4.5)
    cheek_hollow: float = _between(-4.0, 1.5)
    brow_ridge: float = _between(-0.5, 3.5, wide=(0.0, 5.0, 1.0))
    eye_socket: float = _between(-4.0, -0.5, wide=(-6.5, -1.5, 1.0))
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
    # what no parameter above tells: an own bend of all shapes (standard deviation in pixels), own
    # lumps of the relief (the same), own spots and shades of the skin (share of its colour)
    bend: float = _wide_only(0.3, 1.3)
    lumps: float = _wide_only(0.2, 1.2)
    spots: float = _wide_only(0.01, 0.04)
    own_seed: float = _seed()


@dataclass(frozen=True)
class Variation:
    """What changes from picture to picture; the defaults are a neutral passport photograph."""

    # pose in degrees: to the right of the picture, down, clockwise
    yaw: float = _between(-28.0, 28.0, wide=(-32.0, 32.0, 1.0))
    pitch: float = _between(-16.0, 16.0, wide=(-20.0, 20.0, 1.0))
    roll: float = _between(-12.0, 12.0)
    # error of each landmark
    misalignment: float = _between(0.0, 1.6, neutral=0.0, wide=(0.0, 2.4, 1.0))
    # light: direction (right, down), strength, share that comes from everywhere, colour
    light_x: float = _between(-1.3, 1.3, wide=(-2.0, 2.0, 1.0))
    light_y: float = _between(-1.1, 0.5, neutral=-0.3, wide=(-1.8, 0.4, 1.0))
    light_strength: float = _between(0.45, 1.0, neutral=0.6)
    ambient: float = _between(0.2, 0.6, neutral=0.5, wide=(0.12, 0.62, 1.0))
    warmth: float = _between(-0.16, 0.16, wide=(-0.25, 0.25, 1.0))
    exposure: float = _between(0.7, 1.25, neutral=1.0, wide=(0.6, 1.25, 1.0))
    gamma: float = _between(0.75, 1.35, neutral=1.0, wide=(0.65, 1.5, 1.0))
    grey: float = _between(1.0, 1.0, neutral=0.0, chance=0.1, wide=(1.0, 1.0, 0.25))
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
    sunglasses: float = _between(1.0, 1.0, neutral=0.0, chance=0.04, wide=(1.0, 1.0, 0.03))
    make_up: float = _between(0.2, 1.0, neutral=0.0, chance=0.2)
    hat: float = _between(1.0, 1.0, neutral=0.0, chance=0.1, wide=(1.0, 1.0, 0.12))
    mask: float = _between(1.0, 1.0, neutral=0.0, chance=0.03, wide=(1.0, 1.0, 0.01))
    hair_length: float = _between(-0.35, 0.35, wide=(-0.7, 0.7, 1.0))
    hair_volume: float = _between(-0.5, 0.5, wide=(-0.8, 0.8, 1.0))
    hairline: float = _between(-5.0, 5.0, wide=(-8.0, 8.0, 1.0))
    hair_tone: float = _between(-0.12, 0.12, wide=(-0.35, 0.35, 1.0))
    hair_part: float = _between(-0.6, 0.6, wide=(-1.5, 1.5, 1.0))
    occlusion: float = _between(0.3, 1.0, neutral=0.0, chance=0.15, wide=(0.3, 1.0, 0.15))
    # camera
    blur: float = _between(0.3, 1.6, neutral=0.0, chance=0.4, wide=(0.3, 2.0, 0.5))
    low_resolution: float = _between(1.2, 2.6, neutral=1.0, chance=0.25, wide=(1.2, 3.0, 0.3))
    noise: float = _between(0.0, 9.0, neutral=0.0, wide=(0.0, 6.0, 1.0))
    jpeg_quality: float = _between(60.0, 96.0, neutral=95.0, wide=(30.0, 96.0, 1.0))
    seed: float = _seed()
    # years between two pictures: wrinkles, weight (pixels of half a face), tan
    ageing: float = _wide_only(-0.3, 0.3)
    weight: float = _wide_only(-2.0, 2.0)
    tan: float = _wide_only(-0.12, 0.12)
    # what light makes of the relief: how many times as deep as it is, by how much darker a hollow
    # is than a rise (share for every pixel of depth, its size in pixels), and how far a smile lifts
    # the cheeks beside a fold (pixels)
    depth: float = _between(1.0, 1.0, wide=(0.8, 2.2, 1.0))
    hollows: float = _wide_only(0.0, 0.5)
    hollow_size: float = _between(6.0, 6.0, wide=(3.6, 9.6, 1.0))
    cheeks: float = _wide_only(4.0, 4.0)


def _sample(kind: type, rng: np.random.Generator, variety: str) -> Any:
    values = {}
    for field in dataclasses.fields(kind):
        low, high, chance = field.metadata[variety]
        # both numbers are always drawn: a changed chance leaves the other parameters alone
        position, luck = rng.random(2)
        values[field.name] = low + (high - low) * position if luck < chance else field.default
    return kind(**values)


def sample_identity(rng: np.random.Generator, variety: str = 'plain') -> Identity:
    """A random person of one of VARIETIES."""
    return _sample(Identity, rng, variety)


def sample_variation(rng: np.random.Generator, variety: str = 'plain') -> Variation:
    """Random circumstances of one picture, of one of VARIETIES."""
    return _sample(Variation, rng, variety)


def at_the_time(identity: Identity, variation: Variation) -> Identity:
    """The person as they are in one picture: older, heavier or tanned."""
    return dataclasses.replace(
        identity,
        age=min(max(identity.age + variation.ageing, 0.0), 1.0),
        skin_tone=min(max(identity.skin_tone + variation.tan, 0.0), 1.0),
        cheek_width=identity.cheek_width + variation.weight,
        jaw_width=identity.jaw_width + variation.weight,
        chin_width=max(identity.chin_width + variation.weight, 1.0),
    )
