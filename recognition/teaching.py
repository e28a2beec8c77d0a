"""Making a teacher store: all embeddings of a data set in the fastest engine that agrees."""

import contextlib
import functools
import logging
import os
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Callable, Optional

import numpy as np

from ..common import console
from ..common.data.left_out import LeftOut
from ..common.data.records import Records, next_crop, open_records
from ..common.data.store_file import PLAIN_ROWS
from ..common.engine.engines import fastest
from ..common.engine.network import Network
from ..common.errors import InputError
from ..common.files import exclusive
from ..common.parallel import batches, ordered_map
from ..common.ranks import Ranks, SingleRank
from .augmentations import Augmentations
from .teacher import Teacher
from .teacher_store import (
    Header,
    TeacherStore,
    build,
    left_out_path,
    read_header,
    store_path,
    stores_beside,
)
from .views import Views, picture_of

log = logging.getLogger(__name__)

BLOCK = 256  # images between two points where a killed run goes on


def _crop(records: Records, left_out: LeftOut, position: int) -> np.ndarray:
    """uint8 (112, 112, 3) BGR of a record, or of the one that takes its place in training too;
    InputError naming the record if it may not be left out."""
    bad: dict[int, str] = {}
    _, _, crop = next_crop(records, position, bad, left_out.allowed)
    left_out.add(bad)
    return crop


def _pictures(
    records: Records, views: Optional[Views], left_out: LeftOut, position: int
) -> np.ndarray:
    """uint8 (rows, 112, 112, 3) RGB: a record's crop, its mirror image and its views."""
    bgr = _crop(records, left_out, position)
    if views is None:
        rows = [bgr, bgr[:, ::-1]]
    else:

        def another(draw: float) -> np.ndarray:
            return _crop(records, left_out, int(draw * len(records)))

        rows = [
            picture_of(views.augmentations, bgr, row, views.seed, position, another)
            for row in range(PLAIN_ROWS + views.count)
        ]
    return np.stack(rows)[..., ::-1]


def block_size(views: Optional[Views]) -> int:
    """Records that are embedded together."""
    return BLOCK if views is None else max(1, BLOCK * PLAIN_ROWS // (PLAIN_ROWS + views.count))


def _blocks(
    records: Records, views: Optional[Views], left_out: LeftOut, positions: Iterable[int]
) -> Iterator[np.ndarray]:
    """`_pictures` of some records, some at a time, made ahead on all CPUs."""
    size = block_size(views)
    pictures_of = functools.partial(_pictures, records, views, left_out)
    made = ordered_map(pictures_of, positions)
    with contextlib.closing(made):
        yield from map(np.stack, batches(made, size))


def _embedded_by_all(
    ranks: Ranks,
    blocks: Callable[[Iterable[int]], Iterator[np.ndarray]],
    embed: Callable[[np.ndarray], np.ndarray],
    header: Header,
    size: int,
    first: int,
) -> Iterator[np.ndarray]:
    """Embeddings (n, rows, D) float32 of all records from `first` on, in every rank: of R blocks of
    `size` records rank r embeds the r-th."""
    count, offset = header.records, ranks.rank * size
    starts = range(first, count, size * ranks.size)

    def mine(start: int) -> range:
        return range(min(start + offset, count), min(start + offset + size, count))

    with contextlib.closing(blocks(at for start in starts for at in mine(start))) as made:
        for start in starts:
            given = np.zeros((size, header.rows, header.embedding_size), np.float32)
            here = given[: len(mine(start))]
            if len(here):
                images = next(made)
                here[:] = embed(images.reshape(-1, *images.shape[2:])).reshape(here.shape)
            yield ranks.gather(given, 'teacher embeddings')[: count - start]


def _engine_of(teacher: Teacher, batch_size: int):
    """What embeds for a store: the fastest engine that agrees, or that of a foreign model."""
    if isinstance(teacher.model, Network):
        return fastest(teacher.model, batch_size=batch_size)
    return teacher.model.engine


def teach(
    teacher: Teacher,
    header: Header,
    views: Optional[Views] = None,
    batch_size: int = 32,
    skip_corrupt: int = 0,
    ranks: Optional[Ranks] = None,
) -> Optional[TeacherStore]:
    """Make the store of a teacher and a data set beside the latter, unless it is there.

    Parameters
    ----------
    header : `teacher.header(data_dir, views)`
    views : that it is to hold beside the pictures and their mirror images
    skip_corrupt : records that cannot be read and are left out, at most, over all parts of a job
        that was killed; they have the embeddings of the next readable one, and are listed beside
        the store. In one rank alone.
    ranks : that share the work and all read the data; the first one writes the store, and is alone
        in having it in the end

    Raises
    ------
    InputError for a data set that cannot be read, and for a store there that is cut off.
    RunError for an image whose embedding has no direction.
    """
    ranks = ranks or SingleRank()
    with contextlib.closing(open_records(header.data)) as records:
        path = store_path(header)
        if ranks.told(path.is_file, 'store'):
            log.info('%s is there already', path)
            return None if ranks.rank else TeacherStore(path, header)
        engine = _engine_of(teacher, batch_size)
        anew = not path.with_suffix('.part').is_file()
        left_out = LeftOut(skip_corrupt, left_out_path(path), anew)
        blocks = functools.partial(_blocks, records, views, left_out)
        size = block_size(views)

        def embedded(first: int) -> Iterator[np.ndarray]:
            """Of all records from rank 0's `first` on."""
            first = ranks.told(lambda: first, 'first record')
            return _embedded_by_all(ranks, blocks, engine.embed, header, size, first)

        if ranks.rank:
            for _ in embedded(0):
                pass
            return None
        with exclusive(path.parent):
            if path.is_file():  # another command has made it meanwhile
                embedded(header.records)
                return TeacherStore(path, header)
            left_out.begin()
            build(
                path,
                replace(header, engine=engine.name),
                embedded,
                lambda done: console.progress(len(records), f'teaching {path.name}', start=done),
            )
    return TeacherStore(path, header)


def store_of_centres(teacher: Teacher, data_dir: str, wanted: str) -> TeacherStore:
    """The store whose class centres a loss needs, made now if it is missing.

    Raises
    ------
    InputError for a store of another teacher or data set.
    """
    header = teacher.header(data_dir)
    return teach(teacher, header) if wanted == 'auto' else TeacherStore(wanted, header)


def find_store(
    header: Header, augmentations: Optional[Augmentations] = None
) -> Optional[TeacherStore]:
    """A store that lies beside a data set: one with views by `augmentations`, with the most of
    them, or without `augmentations` any; None if there is none. Those with other views are named.

    `header` is `teacher.header(data_dir)`.
    """
    found, others = [], []
    for path, here in stores_beside(header):
        if augmentations is None:
            found.append(TeacherStore(path, header))
        elif here.views and here.augmentation == str(augmentations):
            views = Views(augmentations, here.views, here.view_seed)
            found.append(TeacherStore(path, replace(header, **views.header_fields())))
        elif here.views:
            others.append(f'{path} holds views by {here.augmentation}')
    if others and not found:
        log.info('%s; here it is %s', '; '.join(others), augmentations)
    return max(found, key=lambda store: store.header.views, default=None)


def choose_views(
    teacher: Teacher,
    data_dir: str,
    augmentations: Augmentations,
    wanted: str,
    count: Optional[int],
) -> Optional[Views]:
    """The views that a run shows, or None for ever new pictures.

    Parameters
    ----------
    augmentations : that make the views
    wanted : 'auto', 'live' or the file of a store
    count : of the views; None is as many as a store has, if there is one

    Raises
    ------
    InputError for a store without views.
    """
    if count == 0 or (count is None and wanted == 'live'):
        return None
    if wanted in ('auto', 'live'):
        store = find_store(teacher.header(data_dir), augmentations)
        kept = store and store.header
    else:
        kept = read_header(wanted)
        if not kept.views:
            raise InputError(
                f'--teacher-store {wanted} with --augment {",".join(augmentations.names)}: the '
                'store has the embeddings of an image and its mirror image only; use --augment '
                'mirror, or make one with `vargfacenet teach --views K`'
            )
    if kept:
        return Views(augmentations, count or kept.views, kept.view_seed)
    return Views(augmentations, count) if count else None


def choose_store(
    teacher: Teacher,
    data_dir: str,
    views: Optional[Views],
    wanted: str,
    images: int,
) -> Optional[TeacherStore]:
    """The store to distil from, made now if it has to be, or None for the live teacher.

    Parameters
    ----------
    views : that the run shows beside pictures and their mirror images, if any
    wanted : 'auto', 'live' or the file of a store
    images : that the run will look at

    Raises
    ------
    InputError for a store of another teacher or data set, or without these views.
    """
    if wanted == 'live':
        return None
    plain = teacher.header(data_dir)  # reads samples of all the data: once
    header = replace(plain, **views.header_fields()) if views else plain
    if wanted != 'auto':
        return TeacherStore(wanted, header)
    path = store_path(header)
    if not path.is_file():
        found = find_store(plain, views and views.augmentations)
        if found and (
            not views
            or (found.header.views >= views.count and found.header.view_seed == views.seed)
        ):
            return found
        would_take = header.rows * header.records
        if images < would_take:
            log.info(
                'live teacher: this run looks at %d images, a store would take %d',
                *(images, would_take),
            )
            return None
        size = header.file_bytes
        if not os.access(path.parent, os.W_OK) or shutil.disk_usage(path.parent).free < 1.1 * size:
            gigabytes = f'{size / 1e9:.1f} GB'
            log.info('live teacher: no store of %s can be written in %s', gigabytes, path.parent)
            return None
    return teach(teacher, header, views)
