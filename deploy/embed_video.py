"""Videos to embeddings: frames sampled, their faces found, embedded and pooled, a row a video."""

import argparse
import logging
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple, Optional

import cv2
import numpy as np

from ..common import console
from ..common.data.video import Frame, FrameReader, Sampling, Video
from ..common.errors import InputError
from ..common.parallel import batches, ordered_map
from ..eval.frame_quality import (
    FramePooling,
    add_pooling_options,
    frame_embeddings,
    pooling_from,
)
from .embedder import FaceEmbedder, unit_length
from .picture_reader import NOTHING, Found, PictureReader

log = logging.getLogger(__name__)

_BATCHES_AHEAD = 2
_FRAMES_AHEAD = 4  # of a thread; frames of a video file are held as pixels
_SHOWN = 20  # videos in the table
_LISTED = 100  # videos left out in the JSON result
_NO_FACE, _BROKEN, _SEVERAL = 'no face', 'broken', 'several faces'


def add_video_options(parser: console.Parser) -> None:
    """Add --video and what belongs to it."""
    parser.add_argument(
        '--video',
        action='store_true',
        help='the source holds videos, folders of frames or video files: one row each',
    )
    parser.add_argument(
        '--every', type=int, metavar='N', help='of a video, look at every N-th frame (default: all)'
    )
    parser.add_argument(
        '--fps', type=float, metavar='F', help='of a video file, look at F frames a second'
    )
    parser.add_argument(
        '--most-frames',
        type=int,
        metavar='M',
        help='of those, look at no more than M, spread evenly over the video',
    )
    add_pooling_options(parser)


def check_video_options(args: argparse.Namespace) -> None:
    """Raise InputError for options that do not go together, or are out of range."""
    given = {
        '--every': args.every,
        '--fps': args.fps,
        '--most-frames': args.most_frames,
        '--pooling': args.pooling,
        '--quality': args.quality,
    }
    given = {flag: value for flag, value in given.items() if value is not None}
    if not args.video and given:
        raise InputError(f'{", ".join(given)}: only with --video')
    if not args.video:
        return
    if args.which != 'largest':
        raise InputError('--which all: a video is one person; its largest face a frame is taken')
    if {'--every', '--fps'} <= given.keys():
        raise InputError('--every and --fps: give one of them')
    highest = {'--every': 10**6, '--fps': 1000.0, '--most-frames': 10**6}
    lowest = {'--fps': 1e-3}
    console.check_ranges(
        (flag, given[flag], lowest.get(flag, 1), high)
        for flag, high in highest.items()
        if flag in given
    )


class _Item(NamedTuple):
    """A frame to look at, or, without one, the end of a video."""

    video: int
    frame: Optional[Frame] = None
    total: int = 0  # frames of a video that has ended
    error: str = ''  # why it could not be read, or not to its end
    unread: bool = False  # nothing of it


@dataclass
class _Open:
    """A video whose frames are coming."""

    embeddings: list[np.ndarray] = field(default_factory=list)  # (D,) float32 each
    qualities: list[float] = field(default_factory=list)
    looked_at: int = 0
    left_out: Counter = field(default_factory=Counter)


class _Row(NamedTuple):
    """What became of a video."""

    path: Path
    total: int
    looked_at: int
    used: int
    left_out: Counter


@dataclass
class Videos:
    """The outcome of `embed_videos`."""

    rows: list[_Row] = field(default_factory=list)  # of videos with an embedding, in order
    without: list[str] = field(default_factory=list)  # why each of the others has none
    left_out: Counter = field(default_factory=Counter)  # frames, of all videos
    looked_at: int = 0
    cut_off: int = 0

    def columns(self) -> dict:
        """Of the .npz, beside the embeddings."""
        return {
            'paths': np.array([str(row.path) for row in self.rows], str),
            'labels': np.array([row.path.absolute().parent.name for row in self.rows], str),
            'frames': np.array([row.used for row in self.rows], np.int64),
            'looked_at': np.array([row.looked_at for row in self.rows], np.int64),
            'total_frames': np.array([row.total for row in self.rows], np.int64),
        }


def _items(videos: list[Video], sampling: Sampling, skip_broken: bool) -> Iterator[_Item]:
    for number, video in enumerate(videos):
        reader, error, looked_at = FrameReader(video, sampling), '', 0
        try:
            for frame in reader:
                looked_at += 1
                yield _Item(number, frame)
        except InputError as problem:
            if not skip_broken:
                raise InputError(f'{problem}; --skip-broken leaves such videos out') from None
            error = str(problem)
        if not error and reader.cut_off:
            error = (
                f'{video.path}: only {reader.total} of {reader.promised} frames can be decoded; '
                f'the file is cut off or damaged'
            )
        yield _Item(number, None, reader.total, error, not looked_at)


class _Gatherer:
    """Gathers the frames of each video, and pools them when it ends."""

    def __init__(self, videos: list[Video], pooling: FramePooling, rows: BinaryIO):
        self._videos, self._pooling, self._rows = videos, pooling, rows
        self._open = _Open()
        self.outcome = Videos()

    def add(self, item: _Item, found: Optional[Found], embedding, quality) -> None:
        if item.frame is None:
            self._end(item)
            return
        self._open.looked_at += 1
        if found.error:
            self._open.left_out[_BROKEN if found.broken else _NO_FACE] += 1
            return
        if found.count > 1:
            self._open.left_out[_SEVERAL] += 1
        self._open.embeddings.append(embedding)
        self._open.qualities.append(quality)

    def _end(self, item: _Item) -> None:
        ended, self._open = self._open, _Open()
        path, outcome = self._videos[item.video].path, self.outcome
        outcome.cut_off += bool(item.error) and not item.unread
        outcome.looked_at += ended.looked_at
        outcome.left_out += ended.left_out
        used = len(ended.embeddings)
        if not used:
            why = item.error or f'{path}: no face in {ended.looked_at} frames'
            log.warning('%s; left out', why)
            outcome.without.append(why)
            return
        if item.error:
            log.warning('%s; the frames before count', item.error)
        try:
            pooled = self._pooling.pool(np.stack(ended.embeddings), np.array(ended.qualities))
        except InputError as error:
            raise InputError(f'{path}: {error}') from None
        self._rows.write(pooled.astype('<f4').tobytes())
        row = _Row(path, item.total, ended.looked_at, used, ended.left_out)
        outcome.rows.append(row)


def embed_videos(
    args: argparse.Namespace, videos: list[Video], embedder: FaceEmbedder, rows: BinaryIO
) -> tuple[Videos, FramePooling, float]:
    """Write one embedding a video to `rows`, (D,) float32 of unit length each.

    Frames are decoded and their faces found on threads while the network runs; what stays of a
    frame until its video ends is its embedding.

    Returns
    -------
    (what became of the videos, how they were pooled, frames/s)

    Raises InputError for a video or frame that is broken, unless `skip_broken`, and naming a video
    that the pooling has no embedding for.
    """
    sampling = Sampling(args.every or 1, args.fps, args.most_frames)
    pooling = pooling_from(args, embedder, args.batch_size)
    reader, gatherer = PictureReader(args), _Gatherer(videos, pooling, rows)

    def look(item: _Item) -> tuple[_Item, Optional[Found]]:
        if item.frame is None:
            return item, None
        found = reader.find(item.frame.photo, item.frame.name)
        # the pixels of the frame are not needed any more
        return item._replace(frame=item.frame._replace(photo=Path())), found

    def embed(batch: list) -> tuple[list, np.ndarray, np.ndarray]:
        crops = np.concatenate([NOTHING, *(found.crops for _, found in batch if found)])
        if not len(crops):
            return batch, crops, crops
        raw = frame_embeddings(embedder.raw, crops, args.flip)
        unit_length(raw, embedder.model)  # refuses rows without a direction
        return batch, raw, pooling.judge(crops, raw)

    cv2.setNumThreads(1)  # our threads keep the CPUs busy; OpenCV's own would get in their way
    items = _items(videos, sampling, args.skip_broken)
    looked = batches(ordered_map(look, items, args.workers, _FRAMES_AHEAD), args.batch_size)
    with console.progress(len(videos), 'embed', 'videos') as bar:
        for batch, raw, qualities in ordered_map(embed, looked, 1, _BATCHES_AHEAD):
            _gather(gatherer, batch, iter(zip(raw, qualities)))
            bar.advance(sum(item.frame is None for item, _ in batch))
        rate = gatherer.outcome.looked_at * bar.rate / max(bar.done, 1)
    return gatherer.outcome, pooling, rate


def _gather(gatherer: _Gatherer, batch: Iterable, judged: Iterator) -> None:
    for item, found in batch:
        has_face = found is not None and not found.error
        embedding, quality = next(judged) if has_face else (None, None)
        gatherer.add(item, found, embedding, quality)


def run_videos(
    args: argparse.Namespace, videos: list[Video], embedder: FaceEmbedder, rows: BinaryIO
) -> tuple[dict, dict]:
    """`embed --video`: writes to `rows`; returns (columns of the .npz, JSON result)."""
    outcome, pooling, rate = embed_videos(args, videos, embedder, rows)
    used = sum(row.used for row in outcome.rows)
    title = f'{args.out}: {len(outcome.rows)} of {len(videos)} videos, pooling {pooling.name}'
    table = [
        (
            *(row.path, row.total, row.looked_at, row.used),
            *(row.left_out[why] for why in (_NO_FACE, _BROKEN, _SEVERAL)),
        )
        for row in outcome.rows[:_SHOWN]
    ]
    more = len(outcome.rows) - _SHOWN
    console.table(
        title if more <= 0 else f'{title} (the first {_SHOWN})',
        ('video', 'frames', 'looked at', 'used', 'no face', 'broken', 'several faces'),
        table,
    )
    log.info(
        '%d frames looked at: %d used, %d without a face, %d broken; %d with several faces (of '
        "half of the largest one's side or more), of which the largest was taken; %.1f frames/s",
        *(outcome.looked_at, used, outcome.left_out[_NO_FACE], outcome.left_out[_BROKEN]),
        *(outcome.left_out[_SEVERAL], rate),
    )
    return outcome.columns(), {
        'videos': len(videos),
        'embedded': len(outcome.rows),
        'left_out': len(outcome.without),
        'left_out_videos': outcome.without[:_LISTED],
        'cut_off': outcome.cut_off,
        'frames': outcome.looked_at,
        'frames_used': used,
        'frames_without_face': outcome.left_out[_NO_FACE],
        'frames_broken': outcome.left_out[_BROKEN],
        'frames_with_several_faces': outcome.left_out[_SEVERAL],
        'pooling': pooling.name,
        'quality': pooling.judge.name,
        'frames_per_second': rate,
    }
