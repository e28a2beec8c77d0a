"""Whether the pictures of a video file keep their size and form.

OpenCV converts all pictures as the first one says. After a change it gives the last picture again,
or mixes the two, and tells nobody (opencv/opencv issues 27116 and 29699). So what each codec says
of its pictures is compared from packet to packet, before anything is decoded.
"""

import re
from typing import Callable

import cv2

from ..errors import InputError

_LOOKED_AT = 1 << 16  # bytes of a packet; its headers come first
_NAL_END = rb'(?=\x00\x00[\x00\x01]|\Z)'
# what tells the size, by OpenCV's code of the codec: sizes as they stand where they stand on whole
# bytes, else the header around them
_HEADERS = {
    'h264': rb'\x00\x00\x01[\x07\x27\x47\x67](.+?)' + _NAL_END,  # sequence parameter sets
    'hevc': rb'\x00\x00\x01\x42(.+?)' + _NAL_END,
    'mpg1': rb'\x00\x00\x01\xb3(.{3})',  # sequence headers: 12 bits each
    'mpg2': rb'\x00\x00\x01\xb3(.{3})',
    'fmp4': rb'\x00\x00\x01[\x20-\x2f](.+?)(?=\x00\x00\x01|\Z)',  # video object layers
    'mjpg': rb'\xff[\xc0-\xc2]..\x08(.{4})',  # frame headers
    'mpng': rb'\A\x89PNG.{12}(.{8})',
    'vp80': rb'\A.{3}\x9d\x01\x2a(.{4})',  # key frames
    'vp90': rb'\A.\x49\x83\x42(.{5})',
    'av01': rb'\A(?:\x12\x00)?(\x0a.{10})',  # sequence headers
}
_PATTERNS = {codec: re.compile(header, re.DOTALL) for codec, header in _HEADERS.items()}


def code_of(capture: cv2.VideoCapture) -> str:
    """OpenCV's code of a video's codec, four characters in small letters."""
    code = int(capture.get(cv2.CAP_PROP_FOURCC)) & 0xFFFFFFFF
    return code.to_bytes(4, 'little').decode('latin-1').lower()


def headers_of(codec: str, packet: bytes) -> list[bytes]:
    """What a packet says of the size of its pictures, each once, [] where it says nothing, or the
    codec is none of those that are known here.

    One says the same several times: of both fields of an interlaced picture, or to whoever starts
    to read there.
    """
    pattern = _PATTERNS.get(codec)
    found = pattern.findall(packet[:_LOOKED_AT]) if pattern else []
    if codec == 'vp90':  # the size ends in the middle of a byte
        found = [each[:-1] + bytes([each[-1] & 0xF0]) for each in found]
    return list(dict.fromkeys(found))


def is_known(codec: str) -> bool:
    """Whether `check_form` can look at the pictures of a codec."""
    return codec in _PATTERNS


def check_form(path: str, codec: str, alarm: Callable[[], object]) -> None:
    """InputError for a video file whose pictures change their size or form, of a codec that
    `is_known`; `alarm` is called before each packet."""
    packets = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    before, number = [], 0
    while packets.grab():
        alarm()
        there, packet = packets.retrieve()
        # FFmpeg tells of an empty packet that it is there
        found = headers_of(codec, packet.tobytes()) if there and packet is not None else []
        if before and found and found != before:
            raise InputError(
                f'the size or form of its pictures changes at picture {number}; cut it there, or '
                f'convert it to one size'
            )
        before, number = found or before, number + 1
