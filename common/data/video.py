"""Videos that people bring: folders of frames and video files, read frame by frame and sampled.

Nothing is held but the frame at hand. Video files are decoded by the FFmpeg in OpenCV's wheels.
"""

import logging
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Optional, Union

import cv2
import numpy as np

from ..errors import InputError
from ..files import input_file, read_lines
from . import folders
from .image import MAX_PIXELS

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.ts')
)
_FEWER = 0.98  # of the frames that a file promises; containers often promise one or two too many
# a file may name others to read in its place, on other machines as well; FFmpeg prints for itself
os.environ.setdefault('OPENCV_FFMPEG_CAPTURE_OPTIONS', 'protocol_whitelist;file')
os.environ.setdefault('OPENCV_FFMPEG_LOGLEVEL', '-8')


class Video(NamedTuple):
    """A video file, or a folder with frames."""

    path: Path
    frames: tuple[Path, ...] = ()  # in order; empty of a file


class Frame(NamedTuple):
    """One frame that was sampled."""

    number: int  # from 0, of all frames of the video
    name: str  # for messages
    photo: Union[Path, np.ndarray]  # file of a picture, or uint8 (H, W, 3) RGB


class Sampling(NamedTuple):
    """Which frames of a video are looked at; by default all."""

    every: int = 1  # the first of so many
    fps: Optional[float] = None  # so many a second, in place of `every`; of video files alone
    most: Optional[int] = None  # of those no more than so many, spread evenly over the video

    def step(self, rate: float, name: str) -> float:
        """Frames from one sampled to the next; InputError for a video that does not tell `rate`,
        its frames a second.
        """
        if self.fps is None:
            return float(self.every)
        if not (math.isfinite(rate) and rate > 0):
            raise InputError(f'{name}: tells no frame rate; take --every N in place of --fps')
        return max(rate / self.fps, 1.0)


def sampled(number: int, step: float) -> bool:
    """Whether frame `number`, from 0, is the first at or after a multiple of `step` frames."""
    return number == 0 or math.floor(number / step) > math.floor((number - 1) / step)


def spread(count: int, most: Optional[int]) -> list[int]:
    """At most `most` of the numbers 0..count-1, each in the middle of an equal part."""
    if most is None or count <= most:
        return list(range(count))
    return [(2 * part + 1) * count // (2 * most) for part in range(most)]


def _ordered(frames: Iterable[Path]) -> tuple[Path, ...]:
    """By their names, in which frame 10 follows frame 9 whatever digits they have."""

    def key(path: Path) -> list:
        parts = re.split(r'([0-9]+)', path.name)
        return [(int(part), '') if index % 2 else (-1, part) for index, part in enumerate(parts)]

    return tuple(sorted(frames, key=key))


def is_video_file(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES


def find_videos(source: Path) -> list[Video]:
    """The videos of a source, sorted by path.

    Parameters
    ----------
    source : a folder: every folder below it (or itself) that holds pictures, and every video
        file; a video file; or a text file with one folder or video file a line, relative to it

    Raises InputError if there are none, and for a line that is neither.
    """
    if source.is_dir():
        found = folders.find_pictures(source)
        videos = [Video(path) for path in found.others if is_video_file(path)]
        frames: dict[Path, list[Path]] = {}
        for path in found.pictures:
            frames.setdefault(path.parent, []).append(path)
        videos += [Video(folder, _ordered(paths)) for folder, paths in frames.items()]
        folders.warn_of_others(source, [path for path in found.others if not is_video_file(path)])
        videos.sort()
    elif is_video_file(source):
        videos = [Video(input_file(source, 'video'))]
    else:
        lines = read_lines(source, 'folder, video or list of videos')
        videos = [_listed(source.parent / line.strip()) for line in lines if line.strip()]
    if not videos:
        raise InputError(f'{source}: no video files and no folders of frames')
    return videos


def _listed(path: Path) -> Video:
    if path.is_dir():
        frames = [each for each in path.iterdir() if each.is_file() and folders.is_picture(each)]
        frames = [each for each in frames if not folders.is_hidden(each.name)]
        if not frames:
            raise InputError(f'{path}: no frame in this folder')
        return Video(path, _ordered(frames))
    return Video(input_file(path, 'video'))


class FrameReader:
    """The sampled frames of a video, one after the other.

    Attributes
    ----------
    total : frames of the video that were passed so far, sampled or not
    promised : frames that a video file says it has; 0 where it does not say
    """

    def __init__(self, video: Video, sampling: Sampling):
        self._video, self._sampling = video, sampling
        self.total = self.promised = 0

    def __iter__(self) -> Iterator[Frame]:
        """Raises InputError for a file that is no video, and for --fps of a folder."""
        return self._of_folder() if self._video.frames else self._of_file()

    @property
    def cut_off(self) -> bool:
        """Whether far fewer frames than promised could be decoded."""
        return self.total < _FEWER * self.promised - 1

    def _of_folder(self) -> Iterator[Frame]:
        frames = self._video.frames
        if self._sampling.fps is not None:
            raise InputError(
                f'{self._video.path}: a folder of frames tells no time; take --every N in place of '
                f'--fps'
            )
        self.total = len(frames)
        chosen = range(0, len(frames), self._sampling.every)
        for place in spread(len(chosen), self._sampling.most):
            path = frames[chosen[place]]
            yield Frame(chosen[place], str(path), path)

    def _open(self) -> cv2.VideoCapture:
        path = self._video.path
        capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
        width, height = (
            capture.get(each) for each in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT)
        )
        if not capture.isOpened() or width < 1 or height < 1:
            raise InputError(f'{path}: no video that can be read here, or a damaged one')
        if width * height > MAX_PIXELS:
            raise InputError(f'{path}: frames of {width:.0f}x{height:.0f} pixels are too large')
        return capture

    def _of_file(self) -> Iterator[Frame]:
        path, capture = self._video.path, self._open()
        step = self._sampling.step(capture.get(cv2.CAP_PROP_FPS), str(path))
        chosen = None
        if self._sampling.most is not None:
            # counted and not believed: what a container says is often wrong
            count = 0
            while capture.grab():
                count += 1
            numbers = [number for number in range(count) if sampled(number, step)]
            chosen = {numbers[place] for place in spread(len(numbers), self._sampling.most)}
            capture = self._open()
        # above that it is no count: streams without one give -9e18 or so
        promised = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        self.promised = int(promised) if 0 < promised < 2**31 else 0
        while capture.grab():
            number, self.total = self.total, self.total + 1
            if sampled(number, step) if chosen is None else number in chosen:
                there, frame = capture.retrieve()
                if not there:
                    raise InputError(f'{path}: frame {number} cannot be decoded')
                yield Frame(
                    number, f'{path}, frame {number}', cv2.cvtColor(frame, cv2.COLOR_BGR2RGB)
                )
        if not self.total:
            raise InputError(f'{path}: no frame of this video can be decoded')
