import contextlib
import io
import os
import re
import struct
import sys
import time

import cv2
import numpy as np
import pytest
from pictures import decoded, encoded, jpeg, picture
from PIL import ExifTags, Image
from vargfacenet.common.backend import mx
from vargfacenet.common.data import image as image_module
from vargfacenet.common.data.image import (
    centre_crop,
    decode_bgr,
    decode_rgb,
    encode_jpeg,
    has_picture_start,
    jpeg_crop,
    read_picture,
    resize_cubic,
    resize_short_side,
)
from vargfacenet.common.errors import InputError


def test_a_lossless_picture_comes_back_in_rgb_order(rng):
    rgb = picture(rng, 30, 40)
    content = encoded(rgb, '.png')
    np.testing.assert_array_equal(decode_rgb(content), rgb)
    np.testing.assert_array_equal(decode_bgr(content), rgb[..., ::-1])


def test_a_pure_red_jpeg_stays_red():
    red = np.zeros((16, 16, 3), np.uint8)
    red[..., 0] = 255
    mean = decoded(encode_jpeg(red)).reshape(-1, 3).mean(0)
    np.testing.assert_allclose(mean, (255, 0, 0), atol=3)
    np.testing.assert_allclose(decode_rgb(encode_jpeg(red)).reshape(-1, 3).mean(0), mean)


def test_grey_pictures_get_three_equal_channels(rng):
    grey = picture(rng)[..., 0]
    rgb = decode_rgb(encoded(grey, '.png'))
    np.testing.assert_array_equal(rgb, np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.bmp', '.webp'])
@pytest.mark.parametrize('share', [0.0, 0.01, 0.5, 0.9])
def test_cut_off_pictures_are_refused(rng, suffix, share):
    content = encoded(picture(rng), suffix)
    with pytest.raises(InputError, match='bytes'):
        decode_rgb(content[: int(len(content) * share)])


def test_a_jpeg_without_its_last_byte_is_refused_and_one_with_more_is_not(rng):
    content = jpeg(rng)
    with pytest.raises(InputError, match='cut off'):
        decode_rgb(content[:-1])
    np.testing.assert_array_equal(decode_rgb(content + b'\0' * 5), decoded(content))


def test_a_thumbnail_inside_a_cut_off_jpeg_does_not_hide_it(rng):
    content, thumbnail = jpeg(rng), encoded(picture(rng, 16, 16))
    segment = b'\xff\xe1' + (len(thumbnail) + 2).to_bytes(2, 'big') + thumbnail
    whole = content[:2] + segment + content[2:]
    np.testing.assert_array_equal(decode_rgb(whole), decoded(content))
    with pytest.raises(InputError, match='cut off'):
        decode_rgb(whole[:-20])


@pytest.mark.parametrize('behind', [b'', b'\xff\xd8'])
def test_a_jpeg_of_a_hundred_thousand_scans_is_refused_at_once(rng, behind):
    """It was searched to its end for each, and decoding goes through the picture as often.

    A megabyte took a minute with what looks like another picture at its end.
    """
    rgb = rng.randint(0, 256, (64, 64, 3)).astype(np.uint8)
    _, usual = cv2.imencode('.jpg', rgb, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])
    usual = usual.tobytes()
    assert usual.count(b'\xff\xda') > 5 and decode_rgb(usual).shape == rgb.shape
    scan = b'\xff\xda\0\x08\x01\x01\0\0\x3f\0'
    last = usual[usual.rindex(b'\xff\xda') : -2]
    assert decode_rgb(usual[:-2] + 500 * last + usual[-2:]).shape == rgb.shape
    started = time.process_time()
    with pytest.raises(InputError, match='JPEG of more than 1000 scans'):
        decode_rgb(usual[:-2] + 100_000 * scan + behind + usual[-2:])
    assert time.process_time() - started < 1  # 0.01 here


@pytest.mark.parametrize('place', ['before the scan', 'behind the scan'])
def test_a_second_size_does_not_hide_the_first(place):
    """A JPEG of 700 bytes took 6 GB: OpenCV goes by the first frame header, we went by the last."""
    size = struct.Struct('>HH')
    whole = encode_jpeg(np.zeros((16, 16, 3), np.uint8))
    start = whole.index(b'\xff\xc0')
    small = whole[start : start + 19]
    large = small[:5] + size.pack(32_700, 32_700) + small[9:]
    rest = whole[start + 19 : -2]
    frames = large + small + rest if place == 'before the scan' else large + rest + small
    # a start marker behind it all has the reader go through the whole file
    evil = whole[:start] + frames + b'\xff\xd9' + b'\xff\xd8' + bytes(16) + b'\xff\xd9'
    with pytest.raises(InputError, match='of 32700x32700 has more than 100 million pixels'):
        decode_rgb(evil)


def test_what_follows_the_end_of_a_jpeg_is_left_alone(rng):
    """Telephones put a video there, in which any marker may stand."""
    content = jpeg(rng)
    for tail in (b'junk\xff\xda and more', b'\xff\xd8\xff\xe1\0\x10', rng.bytes(300_000)):
        np.testing.assert_array_equal(decode_rgb(content + tail), decoded(content))
        with pytest.raises(InputError, match='cut off'):
            decode_rgb(content[:-40] + b'\0' * 8)
    filled = content[:2] + b'\xff\xff\xff' + content[2:]  # filling before a marker is allowed
    np.testing.assert_array_equal(decode_rgb(filled + tail), decoded(content))
    progressive = cv2.imencode('.jpg', picture(rng), [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    np.testing.assert_array_equal(decode_rgb(progressive + tail), decoded(progressive))
    scans = [place for place in range(len(progressive)) if progressive[place:][:2] == b'\xff\xda']
    assert len(scans) > 2
    for place in scans[1:]:
        with pytest.raises(InputError, match='cut off'):
            decode_rgb(progressive[:place])


def saved(rgb, kind, **options):
    file = io.BytesIO()
    Image.fromarray(rgb).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize('kind', ['GIF', 'AVIF', 'JPEG2000', 'PPM', 'TIFF', 'WEBP', 'BMP', 'PNG'])
def test_every_kind_is_known_by_its_first_bytes_and_decoded(rng, kind):
    rgb = picture(rng, 40, 60)
    content = saved(rgb, kind, quality=100, lossless=True)
    assert has_picture_start(content[:32])
    difference = np.abs(decode_rgb(content).astype(int) - rgb)
    assert difference.mean() < (12 if kind == 'GIF' else 3)  # GIF has 256 colours
    with pytest.raises(InputError):
        decode_rgb(content[:30])


def test_words_do_not_start_like_a_picture():
    for text in (b'BMW is a car and this is a text file', b'P1 is a name', b'', b'II', b'RIFF'):
        assert not has_picture_start(text[:32])


@pytest.mark.parametrize('largest', [1, 15, 100, 254, 255, 256, 1023, 4095, 65534, 65535])
@pytest.mark.parametrize('form', [b'%d', b'%08d'])
@pytest.mark.parametrize('kind', ['P2', 'P3', 'P5', 'P6'])
def test_the_largest_number_of_a_pnm_is_white(kind, form, largest, rng):
    """Which OpenCV knows of 8 and 16 whole bits alone: cameras write 10 and 12."""
    shape = (3, 4, 3) if kind in ('P3', 'P6') else (3, 4)
    numbers = rng.randint(0, largest + 1, shape)
    numbers[0, 0], numbers[2, 3] = 0, largest
    if kind in ('P2', 'P3'):
        body = ' '.join(map(str, numbers.ravel())).encode() + b'\n'
    else:
        body = numbers.astype('>u2' if largest > 255 else 'u1').tobytes()
    content = b'%s # a camera\n4 3\n%s\n%s' % (kind.encode(), form % largest, body)
    expected = 255 * numbers / largest
    if kind in ('P2', 'P5'):
        expected = expected[..., None].repeat(3, axis=2)
    # OpenCV rounds some down, and divides 16 bits by 256
    assert np.abs(decode_rgb(content) - expected).max() <= 1


def test_a_pgm_is_a_grey_picture(rng):
    grey = picture(rng)[..., 0]
    content = b'P5 112 112 255\n' + grey.tobytes()
    np.testing.assert_array_equal(decode_rgb(content), np.repeat(grey[..., None], 3, axis=2))


@pytest.mark.parametrize('kind', ['JPEG', 'WEBP', 'AVIF', 'PNG'])
def test_an_orientation_is_applied_and_not_left_in_a_record(rng, kind):
    lying = np.zeros((112, 112, 3), np.uint8)
    lying[:, 80:] = 255  # white on the right
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6  # to be turned clockwise: white at the bottom
    content = saved(lying, kind, exif=exif)
    for encoded_picture in (content, jpeg_crop(content)[0]):
        turned = decode_rgb(encoded_picture).astype(int)
        assert turned[90:].mean() > 240 and turned[:70].mean() < 15
    assert not jpeg_crop(content)[1]


def test_heic_is_called_by_its_name(monkeypatch):
    """What telephones make is told apart from what is no picture at all."""
    monkeypatch.setitem(sys.modules, 'pillow_heif', None)  # what import does not find
    image_module._heif_is_read.cache_clear()
    try:
        for brand in (b'heic', b'mif1'):
            with pytest.raises(InputError, match=r'HEIC .*pip install pillow-heif.* JPEG'):
                decode_rgb(b'\0\0\0\x18ftyp' + brand + b'\0\0\0\0mif1heic')
    finally:  # the other tests ask anew
        image_module._heif_is_read.cache_clear()


def test_what_reads_other_kinds_is_shown_no_picture(monkeypatch):
    shown = []
    Image.init()
    monkeypatch.setattr(Image, 'ID', ['STRANGER', *Image.ID])
    monkeypatch.setitem(Image.OPEN, 'STRANGER', (lambda *_: shown.append('opened'), None))
    for content in (b'8BPS\0\1', b'GIF89a', encoded(np.zeros((4, 4, 3), np.uint8), '.png')):
        with contextlib.suppress(InputError):
            decode_rgb(content)
    assert not shown


def test_text_is_no_picture():
    with pytest.raises(InputError, match='no picture'):
        decode_rgb(b'<html>not found</html>')


@pytest.mark.parametrize('shape', [(128, 128), (250, 200), (60, 90), (112, 300)])
def test_resizing_equals_mxnets_resize_short(rng, shape):
    rgb = rng.randint(0, 256, (*shape, 3)).astype(np.uint8)
    expected = mx.image.resize_short(mx.nd.array(rgb, dtype='uint8'), 112).asnumpy()
    np.testing.assert_array_equal(resize_short_side(rgb, 112), expected)


def test_resizing_is_mxnets_bit_for_bit_at_all_sizes(rng):
    """Noise and smooth pictures, larger and smaller, rows that are no multiple of a vector."""
    for round_ in range(200):
        height, width, new_height, new_width = rng.randint(5, 260, 4)
        rgb = rng.randint(0, 256, (height, width, 3)).astype(np.uint8)
        if round_ % 2:
            rgb = cv2.GaussianBlur(rgb, (0, 0), 3)
        expected = mx.image.imresize(mx.nd.array(rgb, dtype='uint8'), new_width, new_height, 2)
        resized = resize_cubic(rgb, int(new_width), int(new_height))
        np.testing.assert_array_equal(resized, expected.asnumpy(), str(rgb.shape))


def test_centre_crop_leaves_equal_borders():
    image = np.arange(6 * 9 * 3).reshape(6, 9, 3)
    np.testing.assert_array_equal(centre_crop(image, 3), image[1:4, 3:6])


def test_a_right_sized_colour_jpeg_is_kept_byte_for_byte(rng):
    content = jpeg(rng)
    assert jpeg_crop(content) == (content, True)


@pytest.mark.parametrize(
    'make',
    [
        lambda rgb: encoded(rgb, '.png'),
        lambda rgb: encoded(rgb[..., 0]),
        lambda rgb: encoded(cv2.resize(rgb, (224, 224))),
    ],
    ids=['png', 'grey jpeg', 'large jpeg'],
)
def test_other_pictures_become_such_a_jpeg(rng, make):
    content = make(picture(rng))
    crop, kept = jpeg_crop(content, quality=95)
    assert not kept
    assert jpeg_crop(crop) == (crop, True)
    source = cv2.resize(decoded(content), (112, 112), interpolation=cv2.INTER_AREA)
    assert np.abs(decoded(crop).astype(int) - source).mean() < 3


def test_a_wide_picture_is_cut_in_the_middle(rng):
    wide = np.zeros((112, 200, 3), np.uint8)
    wide[:, 44:156] = picture(rng)
    crop, kept = jpeg_crop(encoded(wide, '.png'))
    assert not kept
    assert np.abs(decoded(crop).astype(int) - wide[:, 44:156]).mean() < 3


def test_opencv_never_sees_a_jpeg_2000(monkeypatch, rng):
    """Its decoder in 4.10 and 4.11 has CVE-2025-53644."""
    handle = io.BytesIO()
    shown = rng.randint(0, 256, (8, 8, 3)).astype(np.uint8)
    Image.fromarray(shown).save(handle, 'JPEG2000', irreversible=False)
    monkeypatch.setattr(cv2, 'imdecode', None)
    np.testing.assert_array_equal(decode_rgb(handle.getvalue()), shown)


def test_a_file_that_no_picture_needs_is_not_read(tmp_path):
    """A terabyte of holes takes no room on the disk, and would take all of the memory."""
    path = tmp_path / 'a.jpg'
    path.write_bytes(b'\xff\xd8\xff')
    assert read_picture(path) == b'\xff\xd8\xff'
    os.truncate(path, 1 << 40)
    with pytest.raises(InputError, match='its size in bytes is announced as 1099511627776'):
        read_picture(path)


@pytest.mark.parametrize('side', [256, 257])  # the tags of width and height
@pytest.mark.parametrize(('kind', 'value'), [(7, 8), (2, 8), (9, -8), (11, 0x41000000)])
def test_sides_of_a_tiff_that_are_no_numbers(rng, side, kind, value):
    """Bytes, a text, a number below zero, a float; found by fuzzing."""
    image = rng.randint(0, 60000, (8, 8, 3)).astype(np.uint16)  # of which Pillow opens no TIFF
    content = cv2.imencode('.tiff', image)[1].tobytes()
    assert decode_rgb(content).shape == (8, 8, 3)
    entry = next(
        match.start()
        for match in re.finditer(re.escape(struct.pack('<H', side)), content)
        if content[match.start() + 2 : match.start() + 8] in (b'\3\0\1\0\0\0', b'\4\0\1\0\0\0')
    )
    changed = struct.pack('<HHIi', side, kind, 1 if kind in (9, 11) else 4, value)
    with pytest.raises(InputError, match='no picture'):
        decode_rgb(content[:entry] + changed + content[entry + 12 :])
