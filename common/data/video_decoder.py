"""The process that decodes a video file for `video`, by the FFmpeg in OpenCV's wheels.

    video_decoder '[PATH, EVERY, FPS, MOST]'

It sends a frame (`common/child`) for each picture, and one without a picture, or with an error,
at the end. What a damaged or hostile file breaks, it breaks here: memory and the time for each
picture are limited.
"""

import json
import os
import signal
import sys
from collections.abc import Iterator
from typing import BinaryIO, Callable

import cv2
import numpy as np

from ..child import frame, limit_memory
from ..errors import InputError
from ..limits import VIDEO_PIXELS, within
from ..parallel import cpu_count
from .video import Sampling, sampled, spread
from .video_form import check_form, code_of, is_known

MEMORY = 2 << 30  # bytes: each of FFmpeg's threads holds pictures, those of 8K have 53 MB
FRAME_SECONDS = 60  # for one picture; the largest take less than one
_THREADS = 8
_SETTINGS = {
    # a file may name others to read in its place, on other machines as well
    'OPENCV_FFMPEG_CAPTURE_OPTIONS': 'protocol_whitelist;file',
    'OPENCV_FFMPEG_LOGLEVEL': '-8',
    'OPENCV_FFMPEG_THREADS': str(min(cpu_count(), _THREADS)),
}


def _open(path: str) -> cv2.VideoCapture:
    capture = cv2.VideoCapture(path, cv2.CAP_FFMPEG)
    width, height = (
        capture.get(each) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
    )
    if not capture.isOpened() or width < 1 or height < 1:
        raise InputError('no video that can be read here, or a damaged one')
    within(int(width * height), VIDEO_PIXELS, f'its picture of {width:.0f}x{height:.0f} pixels')
    return capture


def _chosen(path: str, step: float, most: int, alarm: Callable[[int], object]) -> set[int]:
    """The frames to look at, of a video that is counted and not believed: what a container says of
    its length is often wrong.
    """
    capture, count = _open(path), 0
    while capture.grab():
        count += 1
        alarm(FRAME_SECONDS)
    numbers = [number for number in range(count) if sampled(number, step)]
    return {numbers[place] for place in spread(len(numbers), most)}


def messages(
    path: str, sampling: Sampling, alarm: Callable[[int], object] = signal.alarm
) -> Iterator[list[bytes]]:
    """A frame for each sampled picture, and one for the end.

    Parameters
    ----------
    path : of a video file
    sampling : which pictures to send
    alarm : called with the seconds that the next step may take, 0 for any number; as it is, the
        process ends where a step takes longer

    Raises InputError for what is no video, for a picture that cannot be decoded, and for pictures
    of several sizes.
    """
    alarm(FRAME_SECONDS)
    capture = _open(path)
    codec = code_of(capture)
    if is_known(codec):
        check_form(path, codec, lambda: alarm(FRAME_SECONDS))
    step = sampling.step(capture.get(cv2.CAP_PROP_FPS), 'it')
    chosen = None if sampling.most is None else _chosen(path, step, sampling.most, alarm)
    # above that it is no count: streams without one give -9e18 or so
    promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
    told = {
        'promised': int(promised) if 0 < promised < 2**31 else 0,
        'unknown': '' if is_known(codec) else codec,
    }
    total = 0
    while capture.grab():
        number, total = total, total + 1
        if sampled(number, step) if chosen is None else number in chosen:
            there, picture = capture.retrieve()
            if not there:
                raise InputError(f'frame {number} cannot be decoded')
            within(picture.size // 3, VIDEO_PIXELS, f'the number of pixels of frame {number}')
            picture = cv2.cvtColor(picture, cv2.COLOR_BGR2RGB)
            alarm(0)  # who reads may take their time
            about = {**told, 'total': total, 'number': number, 'shape': picture.shape}
            yield frame(about, [np.ravel(picture)])
        alarm(FRAME_SECONDS)
    if not total:
        raise InputError('no frame of this video can be decoded')
    yield frame({**told, 'total': total})


def serve(path: str, sampling: Sampling, sink: BinaryIO) -> None:
    try:
        for parts in messages(path, sampling):
            sink.writelines(parts)
            sink.flush()
    except InputError as error:
        sink.writelines(frame({'error': str(error)}))
    except (MemoryError, RuntimeError, cv2.error):  # of NumPy, of C++
        sink.writelines(frame({'error': 'decoding it takes too much memory'}))


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started this
    os.environ.update(_SETTINGS)
    limit_memory(MEMORY)
    path, *sampling = json.loads(sys.argv[1])
    try:
        with os.fdopen(os.dup(1), 'wb') as sink:
            os.dup2(2, 1)  # what libraries print belongs to no message
            serve(path, Sampling(*sampling), sink)
    except BrokenPipeError:  # who reads has seen enough
        pass


if __name__ == '__main__':
    main()
