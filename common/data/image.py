"""Encoded pictures and uint8 RGB arrays: decoding, encoding, resizing (OpenCV inside, never BGR
outside).

OpenCV releases the interpreter lock while it decodes, so the functions are meant to be called from
several threads; its own thread pool is left as it is (112x112 is too small for it to be used).
Importing this module turns OpenCV's own log off: what it could not decode is in our errors.
"""

import functools
import io
import operator
import os
import re
import stat
import struct
import warnings
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

from .. import limits
from ..errors import InputError
from ..files import PathLike
from ..names import IMAGE_SIZE

if hasattr(cv2, 'setLogLevel'):  # its name up to OpenCV 4.10
    cv2.setLogLevel(0)
else:
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
# what counts of its warnings (sizes, damaged EXIF) is told in our own words, or of no matter
warnings.filterwarnings('ignore', module=r'PIL\.')

MAX_PIXELS = 100_000_000  # of a picture: 300 MB once decoded

# kinds as Pillow calls them; OpenCV decodes the first ones, Pillow the others
_BY_OPENCV = ('JPEG', 'MPO', 'PNG', 'BMP', 'DIB', 'TIFF', 'PPM')
# a crafted JPEG 2000 may write anywhere in OpenCV 4.10 and 4.11 (CVE-2025-53644)
_BY_PILLOW = ('WEBP', 'GIF', 'AVIF', 'HEIF', 'JPEG2000')
_KIND_WORDS = 'JPEG, PNG, WebP, BMP, TIFF, GIF, PNM, JPEG 2000 or AVIF'

_SUFFIXES = {
    'JPEG': ('.jpg', '.jpeg', '.jpe', '.jfif', '.jif'),
    'PNM': ('.pbm', '.pgm', '.ppm', '.pnm'),
    'BMP': ('.bmp', '.dib'),
    'TIFF': ('.tif', '.tiff'),
    'JPEG 2000': ('.jp2', '.j2k'),
    'HEIF': ('.heic', '.heif'),
    'others': ('.png', '.webp', '.gif', '.avif'),
}
IMAGE_SUFFIXES = frozenset(suffix for suffixes in _SUFFIXES.values() for suffix in suffixes)
# cameras' raw files, many of them TIFF by their first bytes, and what nothing here decodes
_RAW_SUFFIXES = ('.cr2', '.cr3', '.nef', '.arw', '.dng', '.raf', '.orf', '.rw2')
_UNREADABLE_SUFFIXES = (*_RAW_SUFFIXES, '.jxl', '.psd', '.svg')

_STARTS = (
    b'\xff\xd8\xff',
    b'\x89PNG\r\n\x1a\n',
    b'GIF87a',
    b'GIF89a',
    b'II*\0',
    b'MM\0*',
    b'\0\0\0\x0cjP  \r\n',
    b'\xff\x4f\xff\x51',
)
_HEIF_BRANDS = (b'heic', b'heix', b'heif', b'mif1', b'msf1')

_JPEG_START = b'\xff\xd8'
_JPEG_END = 0xD9
_JPEG_WHOLE = b'\xff\xd9'
_JPEG_SCAN, _JPEG_SCAN_START = 0xDA, b'\xff\xda'
_MOST_SCANS = 1000  # of a JPEG, usually 1 to 12; the whole picture is gone through for each
_JPEG_ALONE = {0x01, 0xFF, *range(0xD0, 0xD9)}  # markers without a length, and filling
_JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
# in the data of a scan 0xff is followed by zero or a restart marker; filling bytes are more 0xff
_MARKER = re.compile(rb'\xff[^\x00\xd0-\xd7\xff]')
_EXIF = b'Exif\0'
_EXIF_PLACE = 1 << 16  # it stands in one of the first segments
_PNG_END = b'IEND'
# kind, width, height and the largest number; PBM (P1, P4) has none
_PNM_HEADER = re.compile(rb'P[2356](?:(?:\s|#[^\r\n]*[\r\n])+0*(\d{1,5})\b){3}')
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


@functools.lru_cache(maxsize=1)
def _opened_kinds() -> list[str]:
    """Those of our kinds that Pillow opens here. Left alone it shows a file to the readers of forty
    others as well, those of Photoshop and of old games among them."""
    _heif_is_read()
    Image.init()
    return [kind for kind in _BY_OPENCV + _BY_PILLOW if kind in Image.OPEN]


@functools.lru_cache(maxsize=1)
def _heif_is_read() -> bool:
    """Whether the optional package is there; it adds HEIC to what Pillow opens."""
    try:
        import pillow_heif
    except ImportError:
        return False
    pillow_heif.register_heif_opener()
    return True


def is_unreadable_kind(suffix: str) -> bool:
    """Whether files with this suffix (lower case) are pictures that nothing here decodes."""
    return suffix in _UNREADABLE_SUFFIXES or (suffix in _SUFFIXES['HEIF'] and not _heif_is_read())


def has_picture_start(start: bytes) -> bool:
    """Whether a file that starts so (32 bytes tell) is a picture that can be read here."""
    if start.startswith(_STARTS) or (start[:4] == b'RIFF' and start[8:12] == b'WEBP'):
        return True
    if start[4:8] == b'ftyp':
        return start[8:12] in (b'avif', b'avis') or (
            start[8:12] in _HEIF_BRANDS and _heif_is_read()
        )
    if start[:2] == b'BM':  # words start so as well; the length of the second header is at byte 14
        return len(start) > 17 and struct.unpack_from('<I', start, 14)[0] in (12, 40, 52, 108, 124)
    return re.match(rb'P[1-6]\s+(#|\d)', start) is not None


def is_jpeg(encoded: bytes) -> bool:
    return encoded[:2] == _JPEG_START


class _Header(NamedTuple):
    """What a picture file says of itself."""

    kind: str  # as Pillow calls it
    width: int
    height: int
    usual: bool = True  # unsigned numbers of at most 16 bits
    channels: int = 0  # of a JPEG


def _read_jpeg(encoded: bytes) -> _Header:
    """Walk a JPEG's segments and scans up to its end marker.

    What follows the end is of no matter: telephones put a video there. OpenCV fills the missing
    part of a cut-off file with grey and reports nothing, so InputError is raised for it here.
    """
    header, scans, place, size = None, 0, 2, len(encoded)
    following = -1  # where another picture begins, if one does, in what is behind `place`
    while True:
        # a segment ends where the next marker stands; a scan's data have to be searched for it
        if scans or encoded[place : place + 1] != b'\xff':
            match = _MARKER.search(encoded, place)
            place = match.start() if match else size
        if size < place + 10:
            if scans and encoded[place : place + 2] == _JPEG_WHOLE:
                return header
            raise InputError(f'JPEG of {size} bytes is cut off')
        marker, high, low = encoded[place + 1], encoded[place + 2], encoded[place + 3]
        if marker in _JPEG_ALONE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker == _JPEG_END:
            if scans:
                return header
            raise InputError(f'JPEG of {size} bytes ends before its picture')
        if marker in _JPEG_FRAMES and header is None:  # libjpeg takes the first, or none
            height, width, channels = struct.unpack_from('>HHB', encoded, place + 5)
            header = _Header('JPEG', width, height, channels=channels)
        place += 2 + (high << 8) + low
        if marker == _JPEG_SCAN and header:
            scans += 1
            if 0 <= following < place or scans == 1:
                following = encoded.find(_JPEG_START, place)
            # the usual file, without looking at every byte: its end is the end of this picture
            is_last = following < 0 and encoded.endswith(_JPEG_WHOLE)
            if is_last:
                scans += encoded.count(_JPEG_SCAN_START, place)
            if scans > _MOST_SCANS:
                raise InputError(f'JPEG of more than {_MOST_SCANS} scans; save it again')
            if is_last:
                return header


def _read_header(encoded: bytes, max_pixels: int) -> _Header:
    """InputError for what is none of our kinds of picture; nothing is decoded."""
    if is_jpeg(encoded):
        return _read_jpeg(encoded)
    try:
        with Image.open(io.BytesIO(encoded), formats=_opened_kinds()) as image:
            return _Header(image.format, *image.size, image.mode != 'F')
    except Image.DecompressionBombError:
        raise _too_large('', max_pixels) from None
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
        # a tag may be of any type, and whole numbers of it below zero
        sides = (tags[TiffImagePlugin.IMAGEWIDTH], tags[TiffImagePlugin.IMAGELENGTH])
        width, height = map(operator.index, sides)
        if min(width, height) < 1:
            raise ValueError
    except _BROKEN:
        raise _no_picture(encoded) from None
    return _Header('TIFF', width, height, usual)


def _decode(encoded: bytes, max_pixels: int = MAX_PIXELS) -> tuple[np.ndarray, _Header]:
    """(uint8 (H, W, 3) BGR, what the file says of itself); see `decode_rgb`."""
    header = _read_header(encoded, max_pixels)
    if header.width * header.height > max_pixels:
        raise _too_large(f' of {header.width}x{header.height}', max_pixels)
    if not header.usual:
        raise InputError('the picture holds numbers of an unknown range; save it with 8 bits')
    if header.kind == 'PNG' and _PNG_END not in encoded:
        raise InputError(f'PNG of {len(encoded)} bytes is cut off')  # libpng would print a line
    if header.kind in _BY_PILLOW:
        return _decode_by_pillow(encoded, header.kind), header
    largest = _unheeded_maximum(encoded) if header.kind == 'PPM' else 0
    how = cv2.IMREAD_UNCHANGED if largest else cv2.IMREAD_COLOR
    try:
        image = cv2.imdecode(np.frombuffer(encoded, np.uint8), how)
    except cv2.error:  # a damaged header
        image = None
    if image is None:
        raise InputError(f'{len(encoded)} bytes of {header.kind} are damaged or cut off')
    return _scaled(image, largest) if largest else image, header


def _unheeded_maximum(encoded: bytes) -> int:
    """The number that is white in a PNM file, where OpenCV takes no notice of it; else 0."""
    match = _PNM_HEADER.match(encoded)
    if not match:
        return 0
    largest = int(match[1])
    heeded = largest in (255, 65535) or (encoded[1:2] in b'23' and largest < 255)
    return 0 if heeded else largest


def _scaled(numbers: np.ndarray, largest: int) -> np.ndarray:
    """uint8 (H, W, 3) of numbers of which `largest` is white, and black is 0."""
    table = np.arange(np.iinfo(numbers.dtype).max + 1) * (255 / largest)
    image = np.rint(table.clip(0, 255)).astype(np.uint8)[numbers]
    return cv2.cvtColor(image, cv2.COLOR_GRAY2BGR) if image.ndim == 2 else image


def read_picture(path: PathLike) -> bytes:
    """The bytes of a picture's file; InputError for one that cannot be read or is longer than any
    picture, and for a pipe, a device or the like, which may have no end, or no beginning until
    somebody writes to it."""
    try:
        with open(path, 'rb', opener=_without_waiting) as handle:
            status = os.fstat(handle.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise InputError('it is no ordinary file')
            limits.within(status.st_size, limits.PICTURE_BYTES, 'its size in bytes')
            return handle.read()
    except OSError as error:  # a picture is lost like a broken one: rights, a disk that fails
        raise InputError(f'it cannot be read ({error.strerror})') from None


def _without_waiting(path: PathLike, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)


def decode_bgr(encoded: bytes) -> np.ndarray:
    """`decode_rgb` in OpenCV's own channel order, for callers that convert later anyway."""
    return _decode(encoded)[0]


def decode_rgb(encoded: bytes, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """Decode a picture file's bytes: JPEG, PNG, WebP, BMP, TIFF, GIF (its first picture), PNM,
    JPEG 2000, AVIF, and HEIC where pillow-heif is installed.

    The header tells the size, so that a small file that unpacks to gigabytes costs nothing.

    Returns
    -------
    uint8 (H, W, 3), RGB; grey pictures get three equal channels, transparency is dropped, an EXIF
    orientation is applied.

    Raises
    ------
    InputError if the bytes are no picture, a cut-off one, one of more than `max_pixels`, or one of
    floating-point or signed numbers, whose range nobody tells. Damage inside a JPEG's scan data
    cannot be told from an ugly picture and passes; what follows its end is left alone.
    """
    bgr = _decode(encoded, max_pixels)[0]
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB, bgr)


def _too_large(size: str, max_pixels: int) -> InputError:
    return InputError(
        f'the picture{size} has more than {max_pixels // 10**6} million pixels; make it smaller'
    )


def _no_picture(encoded: bytes) -> InputError:
    if encoded[4:8] == b'ftyp' and encoded[8:12] in _HEIF_BRANDS and not _heif_is_read():
        return InputError(
            'HEIC is read where pillow-heif is installed (pip install pillow-heif); or save the '
            'picture as JPEG'
        )
    return InputError(f'{len(encoded)} bytes are no picture ({_KIND_WORDS})')


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(ExifTags.Base.Orientation, 1)
    except _BROKEN:  # damage there is none of the picture
        return 1


def _decode_by_pillow(encoded: bytes, kind: str) -> np.ndarray:
    """BGR; OpenCV knows the kind not at all, or leaves its EXIF orientation out."""
    with Image.open(io.BytesIO(encoded), formats=[kind]) as image:
        try:
            pixels = image.convert('RGB')
        except _BROKEN as error:
            raise InputError(f'{kind} of {len(encoded)} bytes cannot be decoded: {error}') from None
        turn = _TURNS.get(_orientation(image))
    bgr = np.array(pixels if turn is None else pixels.transpose(turn))
    return cv2.cvtColor(bgr, cv2.COLOR_RGB2BGR, bgr)


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


def has_crop_size(image: np.ndarray) -> bool:
    """Whether a picture (H, W, 3) may be an aligned crop by its size, 112x112."""
    return image.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE)


def refuse_picture(path: PathLike, expected: str) -> None:
    """InputError for a picture, by its name, where something else is `expected`: it would be called
    damaged, or no text."""
    if Path(path).suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(f'{path} is a picture by its name; expected {expected}')


def check_crop(image: np.ndarray, name: str = '') -> None:
    """InputError that begins with `name` for a picture that is no aligned crop by its size."""
    if not has_crop_size(image):
        height, width = image.shape[:2]
        raise InputError(
            f'{name}: ' * bool(name) + f'{width}x{height} pixels; an aligned crop has '
            f'{IMAGE_SIZE}x{IMAGE_SIZE} (`vargfacenet align` makes them)'
        )


def square_crop(image: np.ndarray, name: str) -> np.ndarray:
    """A crop of another size as 112x112; as in InsightFace, one that is 112 wide stays as it is.

    Raises InputError as `check_crop` for a picture that is not square.
    """
    fits = image.shape[1] == IMAGE_SIZE
    square = image if fits else resize_short_side(image, IMAGE_SIZE)
    if not has_crop_size(square):
        check_crop(image, name)
    return square


def middle_crop(image: np.ndarray, size: int = IMAGE_SIZE) -> np.ndarray:
    """Any picture as size x size: its short side resized to `size`, the middle of the long one."""
    return centre_crop(resize_short_side(image, size), size)


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
    bgr, header = _decode(encoded)
    if (
        header[:3] == ('JPEG', size, size)
        and header.channels == 3
        and not (_EXIF in encoded[:_EXIF_PLACE] and _is_turned(encoded))
    ):
        return encoded, True
    rgb = cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)
    return encode_jpeg(middle_crop(rgb, size), quality), False


def _is_turned(encoded: bytes) -> bool:
    """Whether an EXIF orientation says so; readers of records differ in whether they look."""
    with Image.open(io.BytesIO(encoded), formats=['JPEG']) as image:
        return _orientation(image) != 1
