"""Parametric synthetic faces: an identity and a variation in, one aligned picture out.

A face is drawn from the front (draw.py) as its parameters say (traits.py), lit through
a height map of Gaussian bumps, turned in 2.5 dimensions (every canvas pixel moves by its height),
aligned to the ArcFace five-point template as a detector would do it, and then photographed:
exposure, blur, noise. The pictures are no portraits; they share with photographs that pose, light
and occlusion change pixels more than the identity does.

Lengths are pixels of the 112x112 crop, x to the right from the middle of the face, y down from the
crop's top, z towards the viewer. Colours are RGB, 0..255.
"""

from collections.abc import Iterable

import cv2
import numpy as np

from ..data.image import encode_jpeg
from ..data.warp import estimate_similarity
from ..names import IMAGE_SIZE
from .draw import MARGIN, MIDDLE, SUPERSAMPLING, Canvas, draw, mouth_corner
from .traits import Identity, Variation, at_the_time, sample_identity, sample_variation

_PIVOT_Y = 66.0  # the head turns about this height
_NEUTRAL_LIGHT = 128  # value of the light map that leaves a colour as it is
_OWN_GRID = 12  # random numbers along the canvas for a person's own shapes, 12 pixels apart
_BEND_X, _BEND_Y, _LUMPS, _FINE_SPOTS, _SPOTS = range(5)  # kinds of a person's own maps


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
    """Height of the bare head, an elliptic paraboloid; x and y broadcast."""
    return -(x**2) / 76 - (y - 62) ** 2 / 150


def _own_map(identity: Identity, kind: int, side: int) -> np.ndarray:
    """Smooth random map of a person over the canvas, (side, side) float32, about standard normal;
    maps of another `kind` are independent."""
    rng = np.random.default_rng([int(identity.own_seed), kind])
    grid = rng.standard_normal((_OWN_GRID, _OWN_GRID), np.float32)
    return cv2.resize(grid, (side, side), interpolation=cv2.INTER_CUBIC)


def _bend_maps(identity: Identity, side: int) -> tuple:
    """How far the person's own bend moves what is at a pixel of the canvas, in x and in y."""
    pixels = identity.bend * side / (IMAGE_SIZE + 2 * MARGIN)
    return tuple(pixels * _own_map(identity, kind, side) for kind in (_BEND_X, _BEND_Y))


def _bent(image: np.ndarray, identity: Identity) -> np.ndarray:
    """A picture or height map of the whole canvas with the person's own bend of all shapes."""
    if not identity.bend:
        return image
    side = len(image)
    along = np.arange(side, dtype=np.float32)
    move_x, move_y = _bend_maps(identity, side)
    x, y = along - move_x, along[:, None] - move_y
    return cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _at_points(canvas_map: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Values of a map of the canvas, one entry a pixel of the crop, at (n, 2) head coordinates."""
    place = np.add(points, (MIDDLE + MARGIN, MARGIN)).astype(np.float32)
    return cv2.remap(canvas_map, place[:, None], None, cv2.INTER_LINEAR)[:, 0]


def _bent_points(points: np.ndarray, identity: Identity) -> np.ndarray:
    """Where (n, 2) points of the head are after `_bent`."""
    moved = points
    if identity.bend:
        maps = _bend_maps(identity, IMAGE_SIZE + int(2 * MARGIN))
        for _ in range(4):  # _bent asks where a pixel comes from; this is the way back
            moved = points + np.column_stack([_at_points(one, moved) for one in maps])
    return moved


def _spotted(image: np.ndarray, identity: Identity) -> np.ndarray:
    """The RGBA canvas with the person's own spots and shades of the skin."""
    if not identity.spots:
        return image
    side = len(image)
    shades = [_own_map(identity, kind, side) for kind in (_SPOTS, _SPOTS + 1, _SPOTS + 2)]
    fine = np.random.default_rng([int(identity.own_seed), _FINE_SPOTS])
    fine = cv2.resize(fine.standard_normal((48, 48), np.float32), (side, side))
    shared = shades[0] + 0.7 * fine
    planes = [
        cv2.convertScaleAbs(1 + identity.spots * (shared + 0.4 * own), alpha=_NEUTRAL_LIGHT)
        for own in (0 * fine, *shades[1:])
    ]
    factors = cv2.merge([*planes, np.full_like(planes[0], _NEUTRAL_LIGHT)])
    return cv2.multiply(image, factors, scale=1 / _NEUTRAL_LIGHT)


def _along(count: int) -> np.ndarray:
    """Where `count` values along the canvas lie, in crop coordinates, (count,) float64."""
    return (np.arange(count) + 0.5) * ((IMAGE_SIZE + 2 * MARGIN) / count) - MARGIN - 0.5


def _relief(identity: Identity, side: int) -> np.ndarray:
    """Height map of the canvas at half its resolution, (side / 2, side / 2) float32."""
    along = _along(side // 2)
    x, y = along[:, None] - MIDDLE, along[:, None]
    centre_x, centre_y, width, length, height = _bumps(identity).T
    across = np.exp(-0.5 * ((x - centre_x) / width) ** 2)
    down = np.exp(-0.5 * ((y - centre_y) / length) ** 2) * height
    relief = (down @ across.T + _head(x.T, y)).astype(np.float32)
    if identity.lumps:
        relief += identity.lumps * _own_map(identity, _LUMPS, side // 2)
    return _bent(relief, identity)


def _front_landmarks(identity: Identity, variation: Variation) -> np.ndarray:
    """(5, 3) eyes, nose tip and mouth corners of the unturned head, left of the picture first."""
    corner_x, corner_y = mouth_corner(identity, variation)
    eye_x, eye_y = identity.eye_x, identity.eye_y
    eyes, mouth = [(-eye_x, eye_y), (eye_x, eye_y)], [(-corner_x, corner_y), (corner_x, corner_y)]
    points = np.array([*eyes, (identity.nose_bend, identity.nose_y), *mouth])
    x, y = points[:, :1], points[:, 1:]
    centre_x, centre_y, width, length, height = _bumps(identity).T
    bumps = np.exp(-0.5 * (((x - centre_x) / width) ** 2 + ((y - centre_y) / length) ** 2)) @ height
    height = bumps + _head(x, y)[:, 0]
    if identity.lumps:
        lumps = _own_map(identity, _LUMPS, IMAGE_SIZE + int(2 * MARGIN))
        height = height + identity.lumps * _at_points(lumps, points)
    return np.column_stack([_bent_points(points, identity), height])


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


def _deepened(relief: np.ndarray, variation: Variation) -> np.ndarray:
    """The height map that light falls on: a smile lifts cheeks, all but the bare head is deeper."""
    lift = variation.cheeks * max(variation.smile, 0.0)
    if not lift and variation.depth == 1:
        return relief
    along = _along(len(relief))
    x, y = np.abs(along - MIDDLE), along[:, None]
    cheek = np.exp(-0.5 * (((x - 23) / 7) ** 2 + ((y - 74) / 6) ** 2))
    # the fold beside it runs outwards from the nose
    fold = np.exp(-0.5 * (((x - 17 + 0.35 * (82 - y)) / 2.5) ** 2 + ((y - 82) / 8) ** 2))
    head = _head(x, y)
    raised = relief - head + lift * (cheek - 0.7 * fold)
    return (head + variation.depth * raised).astype(np.float32)


def _in_hollows(relief: np.ndarray, variation: Variation, spacing: float) -> np.ndarray:
    """By what light is multiplied where the face around a place is higher or lower than it."""
    around = cv2.GaussianBlur(
        relief, (0, 0), variation.hollow_size / spacing, borderType=cv2.BORDER_REFLECT
    )
    return np.exp(np.clip(variation.hollows * (relief - around), -1.5, 0.6))


def _light_map(identity: Identity, variation: Variation, relief, rotation) -> np.ndarray:
    """RGBA factors of the light at the relief's resolution, uint8, 128 = unchanged."""
    spacing = (IMAGE_SIZE + 2 * MARGIN) / len(relief)
    lit = _deepened(relief, variation)
    slope_x = cv2.Scharr(lit, cv2.CV_32F, 1, 0, scale=1 / (32 * spacing))
    slope_y = cv2.Scharr(lit, cv2.CV_32F, 0, 1, scale=1 / (32 * spacing))
    direction = np.array((variation.light_x, variation.light_y, 1.0))
    light = (rotation.T @ (direction / np.linalg.norm(direction))).astype(np.float32)
    lean = 1 / np.sqrt(slope_x**2 + slope_y**2 + 1)
    diffuse = np.maximum((light[2] - light[0] * slope_x - light[1] * slope_y) * lean, 0)
    rng = np.random.default_rng(int(identity.texture_seed))
    texture = rng.standard_normal((26, 26), np.float32)
    texture = cv2.resize(texture, relief.shape, interpolation=cv2.INTER_CUBIC)
    shade = variation.ambient + variation.light_strength * diffuse
    shade = shade * (1 + 0.05 * texture) + identity.shine * cv2.pow(diffuse, 10)
    if variation.hollows:
        shade = shade * _in_hollows(relief, variation, spacing)
    colours = (1 + variation.warmth, 1, 1 - variation.warmth)
    planes = [cv2.convertScaleAbs(shade, alpha=_NEUTRAL_LIGHT * colour) for colour in colours]
    return cv2.merge([*planes, np.full_like(planes[0], _NEUTRAL_LIGHT)])


def _lit(canvas: Canvas, light: np.ndarray) -> np.ndarray:
    """The canvas under a light map, RGBA."""
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
    scale = len(relief) / (IMAGE_SIZE + 2 * MARGIN)
    offset_x, offset_y = MIDDLE + MARGIN + 0.5, MARGIN + 0.5
    from_x, from_y = flat_x, flat_y
    for _ in range(4):
        x, y = (from_x + offset_x) * scale - 0.5, (from_y + offset_y) * scale - 0.5
        height = cv2.remap(relief, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        from_x, from_y = flat_x - shift[0] * height, flat_y - shift[1] * height
    scale = len(image) / (IMAGE_SIZE + 2 * MARGIN)
    side = SUPERSAMPLING * size
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
    centre, axes = centre.astype(int).tolist(), axes.astype(int).tolist()
    angle = float(rng.uniform(0, 180))
    cv2.ellipse(scene, centre, axes, angle, 0, 360, colour.tolist(), -1, cv2.LINE_AA)


def _photograph(scene: np.ndarray, variation: Variation, rng, size: int) -> np.ndarray:
    """What the camera makes of the scene: resolution, exposure, noise."""
    if variation.blur:
        sigma = variation.blur * SUPERSAMPLING * size / IMAGE_SIZE
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
    background = _background(rng, SUPERSAMPLING * size)
    identity = at_the_time(identity, variation)
    canvas = draw(identity, variation, size, colours=rng.uniform(20, 230, (3, 3)))
    canvas.image = _bent(_spotted(canvas.image, identity), identity)
    relief = _relief(identity, canvas.side)
    rotation, similarity, _ = _pose(identity, variation)
    lit = _lit(canvas, _light_map(identity, variation, relief, rotation))
    scene = _compose(_turn(lit, relief, rotation, similarity, size), background)
    if variation.occlusion:
        _occlude(scene, variation.occlusion, rng)
    return _photograph(scene, variation, rng, size)


def person(seed: int, identity: int, variety: str = 'plain') -> Identity:
    """Person number `identity` of the data set `seed`."""
    return sample_identity(np.random.default_rng([seed, identity, 0]), variety)


def circumstances(seed: int, identity: int, picture: int, variety: str = 'plain') -> Variation:
    """Circumstances of picture number `picture` (0, 1, ...) of that person."""
    return sample_variation(np.random.default_rng([seed, identity, picture + 1]), variety)


def jpeg_faces(
    seed: int, identity: int, pictures: Iterable[int], size: int, variety: str = 'plain'
) -> list[bytes]:
    """Pictures of one person as JPEG; picture k depends on (seed, identity, k, variety) only."""
    face = person(seed, identity, variety)
    encoded = []
    for picture in pictures:
        variation = circumstances(seed, identity, picture, variety)
        encoded.append(encode_jpeg(render(face, variation, size), int(variation.jpeg_quality)))
    return encoded
