"""Videos that people bring: folders of frames and video files, read frame by frame and sampled.

Nothing is held but the frame at hand. Video files are decoded by another process, `video_decoder`.
"""

import json
import logging
import math
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, Optional, Union

import numpy as np

from ..child import how_it_ended, module_words, read_frame
from ..errors import InputError
from ..files import input_file, read_lines
from . import folders
from .image import IMAGE_SUFFIXES
from .listed import listed_path

log = logging.getLogger(__name__)

VIDEO_SUFFIXES = frozenset(
    ('.mp4', '.m4v', '.mov', '.avi', '.mkv', '.webm', '.mpg', '.mpeg', '.wmv', '.flv', '.ts')
)
_FEWER = 0.98  # of the frames that a file promises; containers often promise one or two too many
_unknown_codecs: set[str] = set()  # that this process has told of
_DECODER = f'{__package__}.video_decoder'


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
        files = {path for path in found.others if is_video_file(path) and path.is_file()}
        videos = [Video(path) for path in files]
        frames: dict[Path, list[Path]] = {}
        for path in found.pictures:
            frames.setdefault(path.parent, []).append(path)
        videos += [Video(folder, _ordered(paths)) for folder, paths in frames.items()]
        folders.warn_of_others(source, [path for path in found.others if path not in files])
        videos.sort()
    elif is_video_file(source):
        videos = [Video(input_file(source, 'video'))]
    elif source.suffix.lower() in IMAGE_SUFFIXES:
        raise InputError(
            f'{source} is a picture by its name, and no video: give a video file '
            f'({" ".join(sorted(VIDEO_SUFFIXES))}), a folder of frames, or a list of these with a '
            'path a line'
        )
    else:
        lines = read_lines(source, 'folder, video or list of videos')
        names = [line.strip() for line in lines if line.strip()]
        videos = [_listed(listed_path(source.parent, name)) for name in names]
    if not videos:
        raise InputError(f'{source}: no video files and no folders of frames')
    return videos


def _listed(path: Path) -> Video:
    try:
        is_folder = path.is_dir()
    except (OSError, ValueError):  # a name that no file can have
        raise InputError(f'{path}: no folder and no video') from None
    if is_folder:
        frames = [each for each in path.iterdir() if each.is_file() and folders.is_picture(each)]
        frames = [each for each in frames if not folders.is_hidden(each.name)]
        if not frames:
            raise InputError(f'{path}: no frame in this folder')
        return Video(path, _ordered(frames))
    return Video(input_file(path, 'video'))


def _tell_unknown(path: Path, codec: str) -> None:
    """Say, once for each codec, that nobody looks whether its pictures keep their size."""
    if codec and codec not in _unknown_codecs:
        _unknown_codecs.add(codec)
        log.warning(
            '%s, and others of codec %s: whether the size of the pictures changes is not looked at',
            *(path, codec.strip('\0 ') or 'that is not told'),
        )


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

    def _of_file(self) -> Iterator[Frame]:
        path = self._video.path
        words = module_words(_DECODER, json.dumps([str(path), *self._sampling]))
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        ) as process:
            try:
                while message := read_frame(process.stdout):
                    content, parts = message
                    if 'error' in content:
                        raise InputError(f'{path}: {content["error"]}')
                    self.promised, self.total = content['promised'], content['total']
                    _tell_unknown(path, content['unknown'])
                    if not parts:
                        return
                    number = content['number']
                    pixels = np.frombuffer(parts[0], np.uint8).reshape(content['shape'])
                    yield Frame(number, f'{path}, frame {number}', pixels)
            finally:
                process.kill()  # of no effect where it has ended
        raise InputError(f'{path}: damaged, or made to do harm: {how_it_ended(process.returncode)}')
