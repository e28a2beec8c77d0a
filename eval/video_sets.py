"""Videos of known people, FOLDER/<person>/<video>/<frame>: their frames' embeddings."""

import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..common import console
from ..common.data.video import find_videos
from ..common.engine.open_model import OpenModel
from ..common.errors import InputError
from .frame_quality import Judge, JudgedFrames
from .image_list import embed_images

log = logging.getLogger(__name__)


class VideoSet(NamedTuple):
    """The frames of all videos, one video after the other."""

    embeddings: np.ndarray  # (F, D) float32, raw
    qualities: np.ndarray  # (F, J) float32, by each judge
    owner: np.ndarray  # (F,) int64, the video of each frame: 0, 0, ..., V - 1
    people: np.ndarray  # (V,) int64, whose video it is, 0..P-1
    names: tuple[str, ...]  # (P,)

    def bounds(self) -> np.ndarray:
        """(V + 1,): the frames of video v are bounds[v] .. bounds[v + 1] - 1."""
        return np.searchsorted(self.owner, np.arange(len(self.people) + 1))


def check_video_set(folder: Path) -> None:
    """Raise InputError, before a model is loaded, if there is no such folder."""
    if not folder.is_dir():
        raise InputError(f'{folder} is no folder; expected FOLDER/<person>/<video>/<frame>')


def embed_video_set(model: OpenModel, folder: Path, *judges: Judge) -> VideoSet:
    """Embed and judge all frames, aligned crops of 112x112.

    Raises InputError if no person has two videos, or there is one person; frames that are no
    pictures are left out and counted.
    """
    check_video_set(folder)
    videos = [video for video in find_videos(folder) if video.path.parent.parent == folder]
    owners = [video.path.parent.name for video in videos]
    names, people = np.unique(np.array(owners, str), return_inverse=True)
    if len(names) < 2 or np.bincount(people).max() < 2:
        raise InputError(
            f'{folder}: {len(videos)} videos of {len(names)} people; expected '
            f'FOLDER/<person>/<video>/<frame> with two videos or more of a person, and two people'
        )
    frames = [path for video in videos for path in video.frames]
    owner = np.repeat(np.arange(len(videos)), [len(video.frames) for video in videos])
    judged = JudgedFrames(model, *judges)
    rows = np.zeros((len(frames), judged.embedding_size), np.float32)
    missing = np.zeros(len(frames), bool)
    with console.progress(len(frames), 'embed', 'frames') as bar:
        for block in embed_images(judged, frames, flip=False):
            part = slice(block.start, block.start + len(block.plain))
            rows[part], missing[part] = block.plain, block.missing
            bar.advance(len(block.plain))
    if missing.any():
        first = frames[int(np.argmax(missing))]
        log.warning(
            '%d of %d frames are no pictures, such as %s; left out',
            *(missing.sum(), len(frames), first),
        )
    rows, owner = rows[~missing], owner[~missing]
    if len(np.unique(owner)) < len(videos):
        raise InputError(f'{folder}: a video has no frame that can be read')
    size = model.embedding_size
    return VideoSet(rows[:, :size], rows[:, size:], owner, people, tuple(map(str, names)))
