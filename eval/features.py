"""Embeddings of image lists as a feature file: of crops with their mirror images, or of videos."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..common import console
from ..common.data.folders import pictures_in
from ..common.data.listed import listed_path
from ..common.engine.open_model import OpenModel
from ..common.errors import InputError
from .frame_quality import FramePooling, JudgedFrames
from .image_list import embed_images
from .matrix_file import new_matrix
from .verification import add_flips

log = logging.getLogger(__name__)

_BATCHES_A_PART = 64  # of videos' frames, whose last batch alone is not full


class Rows(NamedTuple):
    """Consecutive rows of the feature file."""

    start: int
    values: np.ndarray  # (n, D) float64, unit length; zero where missing
    missing: np.ndarray  # (n,) bool


def image_rows(embedder: OpenModel, root: Path, names: list[str]) -> Iterator[Rows]:
    """g(image) + g(mirror image) of unit length: one row a name, a batch at a time."""
    for block in embed_images(embedder, [listed_path(root, name) for name in names]):
        rows, _ = add_flips(block.plain, block.flipped)
        yield Rows(block.start, rows, block.missing)


def video_rows(
    embedder: OpenModel, root: Path, names: list[str], pooling: FramePooling, flip: bool = False
) -> Iterator[Rows]:
    """The frames of a folder pooled, of unit length.

    With `flip` a frame's embedding is the mean of its own and its mirror image's.

    One row a name; missing is one without any picture. Batches go over the folders' ends, since
    most videos have fewer frames than a batch. Frames that are no pictures are left out, and
    counted in one warning at the end.

    Raises InputError naming the video whose frames the pooling has no embedding for.
    """
    total, unreadable = 0, 0
    judged = JudgedFrames(embedder, pooling.judge, flip=flip)
    for start, folders in _parts(root, names, _BATCHES_A_PART * embedder.batch_size):
        frames = [frame for folder in folders for frame in folder]
        owner = np.repeat(np.arange(len(folders)), [len(folder) for folder in folders])
        rows = np.zeros((len(frames), judged.embedding_size), np.float32)
        there = np.ones(len(frames), bool)
        for block in embed_images(judged, frames, flip=False):
            part = slice(block.start, block.start + len(block.plain))
            rows[part], there[part] = block.plain, ~block.missing
        total += len(frames)
        unreadable += int((~there).sum())
        values = np.zeros((len(folders), embedder.embedding_size))
        missing = np.ones(len(folders), bool)
        for index in np.unique(owner[there]):
            mine = rows[there & (owner == index)]
            try:
                values[index] = pooling.pool(mine[:, :-1], mine[:, -1])
            except InputError as error:
                raise InputError(f'{names[start + index]}: {error}') from None
            missing[index] = False
        yield Rows(start, values, missing)
    if unreadable:
        log.warning('%d of %d frames are no pictures and are left out', unreadable, total)


def _parts(root: Path, names: list[str], frames: int) -> Iterator[tuple[int, list[list[Path]]]]:
    """Consecutive folders with `frames` frames or a little more together: (first, their frames)."""
    start, folders, held = 0, [], 0
    for name in names:
        folders.append(pictures_in(listed_path(root, name)))
        held += len(folders[-1])
        if held >= frames:
            yield start, folders
            start, folders, held = start + len(folders), [], 0
    if folders:
        yield start, folders


def check_some_there(root: Path, names: list[str], listed: str, videos: bool = False) -> None:
    """Raise InputError if no picture of a list, or no folder of frames, is there, before anything
    is embedded."""
    is_one, what = (os.path.isdir, 'folders') if videos else (os.path.isfile, 'pictures')
    if not any(is_one(listed_path(root, name)) for name in names):
        raise InputError(
            f'{listed}: none of the {len(names)} {what} of the list is there, e.g. {names[0]}; '
            f'is --root right?'
        )


def write_features(out: Path, rows: Iterator[Rows], names: list[str], columns: int) -> list[str]:
    """Write the feature file as its rows come; returns the names of missing rows.

    Raises InputError, without a file, when all of them are missing.
    """
    missing: list[str] = []
    total = len(names)
    with console.progress(total, out.name, 'rows') as bar, new_matrix(out, total, columns) as file:
        for start, values, gone in rows:
            file[start : start + len(values)] = values
            missing += [names[start + index] for index in np.flatnonzero(gone)]
            bar.advance(len(values))
        if len(missing) == total:
            raise InputError(
                f'none of the {total} names of the list has a picture, e.g. {names[0]}; '
                f'is --root right?'
            )
    return missing
