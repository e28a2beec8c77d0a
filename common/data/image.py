"""Encoded pictures and uint8 RGB arrays: decoding, encoding, resizing (OpenCV inside, never BGR
outside).

OpenCV releases the interpreter lock while it decodes, so the functions are meant to be called from
several threads; its own thread pool is left as it is (112x112 is too small for it to be used).
Importing this module turns OpenCV's own log off: what it could not decode is in our errors.
"""

import io
import struct
import warnings
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from ..errors import InputError
from ..names import IMAGE_SIZE

cv2.setLogLevel(0)
# what counts of its warnings (sizes, damaged EXIF) is told in our own words, or of no matter
warnings.filterwarnings('ignore', module=r'PIL\.')

_JPEG_START = b'\xff\xd8'
_JPEG_SCAN = b'\xff\xda'
_JPEG_END = b'\xff\xd9'
_PNG_START = b'\x89PNG'
_PNG_END = b'IEND'

_KINDS = ('JPEG', 'MPO', 'PNG', 'WEBP', 'BMP', 'TIFF')
_TIFF_STARTS = (b'II*\0', b'MM\0*')
_UNSIGNED = 1  # sample format of a TIFF
_BROKEN = (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error)  # Pillow's
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # of an EXIF orientation

MAX_PIXELS = 100_000_000  # of a photograph: 300 MB once decoded


def is_jpeg(encoded: bytes) -> bool:
    return encoded[:2] == _JPEG_START


def _decode(encoded: bytes, flags: int) -> np.ndarray:
    """cv2.imdecode (channels BGR) with InputError for whatever it cannot decode in full."""
    # OpenCV fills the missing part of a cut-off JPEG with grey and reports nothing. 0xff inside
    # the scan data is escaped, so the end marker must follow the last start-of-scan marker.
    if is_jpeg(encoded) and encoded.rfind(_JPEG_END) < max(encoded.rfind(_JPEG_SCAN), 0):
        raise InputError(f'JPEG of {len(encoded)} bytes is cut off')
    if encoded[:4] == _PNG_START and _PNG_END not in encoded:
        raise InputError(f'PNG of {len(encoded)} bytes is cut off')  # libpng would print a line
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), flags)
    except cv2.error:  # no bytes at all, or a header that announces an absurd size
        image = None
    if image is None:
        raise InputError(f'{len(encoded)} bytes are no picture that OpenCV can decode')
    return image


def decode_bgr(encoded: bytes) -> np.ndarray:
    """`decode_rgb` in OpenCV's own channel order, for callers that convert later anyway."""
    return _decode(encoded, cv2.IMREAD_COLOR)


def decode_rgb(encoded: bytes) -> np.ndarray:
    """Decode a picture file's bytes (JPEG, PNG, BMP, WebP ...).

    Returns
    -------
    uint8 (H, W, 3), RGB; grey pictures get three equal channels, transparency is dropped, an EXIF
    orientation is applied.

    Raises
    ------
    InputError if the bytes are no picture or a cut-off JPEG or PNG. Damage inside a JPEG's scan
    data cannot be told from an ugly picture and passes.
    """
    return cv2.cvtColor(decode_bgr(encoded), cv2.COLOR_BGR2RGB)


class _Header(NamedTuple):
    """What a picture file says of itself."""

    kind: str  # as Pillow calls it
    width: int
    height: int
    usual: bool  # unsigned numbers of at most 16 bits


def _read_header(encoded: bytes) -> _Header:
    """InputError for what is none of our kinds of picture; nothing is decoded."""
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if image.format not in _KINDS:
                raise _no_picture(encoded)
            return _Header(image.format, *image.size, image.mode != 'F')
    except Image.DecompressionBombError:
        raise _too_large('') from None
    except _BROKEN:
        if encoded[:4] not in _TIFF_STARTS:
            raise _no_picture(encoded) from None
    # Pillow opens no TIFF of three channels with more than 8 bits, and OpenCV does
    file = io.BytesIO(encoded)
    try:
        tags = TiffImagePlugin.ImageFileDirectory_v2(file.read(8))
        file.seek(tags.next)
        tags.load(file)
        usual = set(tags.get(TiffImagePlugin.SAMPLEFORMAT, ())) <= {_UNSIGNED}
        usual &= max(tags[TiffImagePlugin.BITSPERSAMPLE]) <= 16
        width, height = tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH]
    except _BROKEN:
        raise _no_picture(encoded) from None
    return _Header('TIFF', width, height, usual)


def decode_photo(encoded: bytes) -> np.ndarray:
    """`decode_rgb` for pictures of unknown origin: JPEG, PNG, WebP, BMP or TIFF, of at most
    MAX_PIXELS, and none of floating-point or signed numbers, whose range nobody tells. InputError
    for others.

    The header tells, so that a small file that unpacks to gigabytes costs nothing. An EXIF
    orientation is applied in WebP as well, where OpenCV leaves it out.
    """
    header = _read_header(encoded)
    if header.width * header.height > MAX_PIXELS:
        raise _too_large(f' of {header.width}x{header.height}')
    if not header.usual:
        raise InputError('the picture holds numbers of an unknown range; save it with 8 bits')
    return _decode_webp(encoded) if header.kind == 'WEBP' else decode_rgb(encoded)


def _too_large(size: str) -> InputError:
    return InputError(
        f'the picture{size} has more than {MAX_PIXELS // 10**6} million pixels; make it smaller'
    )


def _no_picture(encoded: bytes) -> InputError:
    return InputError(f'{len(encoded)} bytes are no picture (JPEG, PNG, WebP, BMP or TIFF)')


def _decode_webp(encoded: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(encoded)) as image:
        try:
            pixels = image.convert('RGB')
        except _BROKEN as error:
            raise InputError(f'WebP of {len(encoded)} bytes cannot be decoded: {error}') from None
        try:
            orientation = image.getexif().get(ExifTags.Base.Orientation)
        except _BROKEN:  # damage there is none of the picture
            orientation = None
    turn = _TURNS.get(orientation)
    return np.array(pixels if turn is None else pixels.transpose(turn))


def encode_jpeg(rgb: np.ndarray, quality: int = 95) -> bytes:
    """JPEG bytes of a uint8 (H, W, 3) RGB array; `quality` 1..100."""
    _, encoded = cv2.imencode(
        '.jpg', cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality]
    )
    return encoded.tobytes()


_CUBIC_A = np.float32(-0.75)  # OpenCV's bicubic
_WEIGHT_SCALE = 2048  # its weights are whole numbers of this fraction
_VECTOR = 8  # pixels and channels that its rows are taken in


def _cubic_taps(length: int, target: int) -> tuple[np.ndarray, np.ndarray]:
    """Where each of `target` samples of a line of `length` pixels comes from.

    Returns
    -------
    (places, weights): int64 (4, target), repeated at the ends; int32 (4, target), of _WEIGHT_SCALE
    """
    # doubles until here and single precision from here on, as in OpenCV
    centre = ((np.arange(target) + 0.5) * (1 / (target / length)) - 0.5).astype(np.float32)
    first = np.floor(centre).astype(np.int64)
    x = centre - first.astype(np.float32)
    a, y = _CUBIC_A, 1 - x
    weights = [
        ((a * (x + 1) - 5 * a) * (x + 1) + 8 * a) * (x + 1) - 4 * a,
        ((a + 2) * x - (a + 3)) * x * x + 1,
        ((a + 2) * y - (a + 3)) * y * y + 1,
    ]
    weights.append(1 - weights[0] - weights[1] - weights[2])
    places = np.clip(first + np.arange(-1, 3)[:, None], 0, length - 1)
    return places, np.rint(np.stack(weights) * _WEIGHT_SCALE).astype(np.int32)


def resize_cubic(image: np.ndarray, width: int, height: int) -> np.ndarray:
    """Bicubic resize, bit for bit as `mx.image.imresize(image, width, height, interp=2)`.

    InsightFace's readers resize so. opencv-python of today rounds one pixel in a hundred to the
    other side, and where it has vector code for the processor another one.

    Parameters
    ----------
    image : uint8 (H, W, 3)

    Returns
    -------
    uint8 (height, width, 3)
    """
    rows, row_weights = _cubic_taps(image.shape[0], height)
    columns, column_weights = _cubic_taps(image.shape[1], width)
    needed, rows = np.unique(rows, return_inverse=True)
    rows = rows.reshape(4, height)
    source = image[needed].astype(np.int32)
    across = sum(source[:, columns[tap]] * column_weights[tap, :, None] for tap in range(4))
    across = across.reshape(len(needed), width * 3)
    # Down a column the bulk is in single precision, the rest of a row in whole numbers.
    bulk = width * 3 // _VECTOR * _VECTOR
    fine = across[:, :bulk].astype(np.float32)
    fractions = row_weights.astype(np.float32) * np.float32(_WEIGHT_SCALE**-2)
    down = fine[rows[0]] * fractions[0, :, None]
    for tap in range(1, 4):
        down += fine[rows[tap]] * fractions[tap, :, None]
    coarse = across[:, bulk:]
    rest = sum(coarse[rows[tap]] * row_weights[tap, :, None] for tap in range(4))
    rest = (rest + _WEIGHT_SCALE**2 // 2) // _WEIGHT_SCALE**2
    resized = np.concatenate([np.rint(down), rest], axis=1).clip(0, 255)
    return resized.astype(np.uint8).reshape(height, width, 3)


def resize_short_side(image: np.ndarray, size: int) -> np.ndarray:
    """Bicubic resize so that the shorter side is `size`; the longer one is rounded down.

    `image` is uint8 (H, W, 3); returned unchanged when it already fits.
    """
    height, width = image.shape[:2]
    short = min(height, width)
    if short == size:
        return image
    return resize_cubic(image, size * width // short, size * height // short)


def centre_crop(image: np.ndarray, size: int) -> np.ndarray:
    """The middle size x size pixels; no side of `image` may be shorter."""
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return np.ascontiguousarray(image[top : top + size, left : left + size])


def jpeg_crop(encoded: bytes, size: int = IMAGE_SIZE, quality: int = 95) -> tuple[bytes, bool]:
    """A picture file's bytes as a size x size colour JPEG.

    Returns
    -------
    (JPEG bytes, kept): `kept` means that the input was such a JPEG already and is returned byte
    for byte; otherwise the short side was resized, the middle cut out and encoded anew.

    Raises
    ------
    InputError as in `decode_rgb`.
    """
    image = _decode(encoded, cv2.IMREAD_ANYCOLOR)  # leaves a grey picture in one channel
    if is_jpeg(encoded) and image.shape == (size, size, 3):
        return encoded, True
    if image.ndim == 2:
        rgb = cv2.cvtColor(image, cv2.COLOR_GRAY2RGB)
    else:
        rgb = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    return encode_jpeg(centre_crop(resize_short_side(rgb, size), size), quality), False
