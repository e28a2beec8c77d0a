"""Making a teacher store: all embeddings of a data set in the fastest engine that agrees."""

import contextlib
import functools
import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from typing import Optional

import numpy as np

from ..common import console
from ..common.data.records import Records, decode_crop, open_records
from ..common.engine.engines import fastest
from ..common.engine.network import Network
from ..common.errors import InputError
from ..common.files import exclusive
from ..common.parallel import ordered_map
from .augmentations import make_augmentations
from .teacher import Teacher
from .teacher_store import Header, TeacherStore, build, store_path

log = logging.getLogger(__name__)

BLOCK = 256  # images between two points where a killed run goes on


def _crop(records: Records, position: int) -> np.ndarray:
    """uint8 (112, 112, 3) RGB; InputError naming the record."""
    _, encoded = records.read(position)
    return decode_crop(records, position, encoded)[:, :, ::-1]


def _blocks(records: Records, first: int) -> Iterator[np.ndarray]:
    """All crops from record `first` on, BLOCK at a time, decoded ahead on all CPUs."""
    crops = ordered_map(functools.partial(_crop, records), range(first, len(records)))
    with contextlib.closing(crops):
        while block := [image for _, image in zip(range(BLOCK), crops)]:
            yield np.stack(block)


def teach(teacher: Teacher, header: Header, batch_size: int = 32) -> TeacherStore:
    """Make the store of a teacher and a data set beside the latter, unless it is there.

    Parameters
    ----------
    header : `teacher.header(data_dir)`

    Raises
    ------
    InputError for a data set that cannot be read, and for a store there that is cut off.
    RunError for an image whose embedding has no direction.
    """
    with contextlib.closing(open_records(header.data)) as records:
        path = store_path(header)
        if path.is_file():
            log.info('%s is there already', path)
            return TeacherStore(path, header)
        if isinstance(teacher.model, Network):
            engine = fastest(teacher.model, batch_size=batch_size)
        else:
            engine = teacher.model.engine
        with exclusive(path.parent):
            build(
                path,
                replace(header, engine=engine.name),
                functools.partial(_blocks, records),
                engine.embed,
                lambda done: console.progress(len(records), f'teaching {path.name}', start=done),
            )
    return TeacherStore(path, header)


def store_of_centres(teacher: Teacher, data_dir: str, wanted: str, loss: str) -> TeacherStore:
    """The store whose class centres `loss` needs, made now if it is missing.

    Raises
    ------
    InputError for a live teacher, and for a store of another teacher or data set.
    """
    if wanted == 'live':
        raise InputError(
            f"--teacher-store live with --distill {loss}: the teacher's class centres are means "
            'over all pictures, which a store holds; leave --teacher-store out'
        )
    header = teacher.header(data_dir)
    return teach(teacher, header) if wanted == 'auto' else TeacherStore(wanted, header)


def choose_store(
    teacher: Teacher, data_dir: str, augment: str, wanted: str, images: int
) -> Optional[TeacherStore]:
    """The store to distil from, made now if it has to be, or None for the live teacher.

    Parameters
    ----------
    augment : name of the run's augmentation
    wanted : 'auto', 'live' or the file of a store
    images : that the run will look at

    Raises
    ------
    InputError for a store of another teacher or data set, or asked for with an augmentation that
    gives a record more than two embeddings.
    """
    if wanted == 'live':
        return None
    if not make_augmentations(augment).storable:
        if wanted != 'auto':
            raise InputError(
                f'--teacher-store {wanted} with --augment {augment}: a store has the '
                f'embeddings of an image and its mirror image only; use --augment mirror'
            )
        log.info('live teacher: --augment %s shows it ever new images', augment)
        return None
    header = teacher.header(data_dir)
    if wanted != 'auto':
        return TeacherStore(wanted, header)
    path = store_path(header)
    if not path.is_file():
        if images < 2 * header.records:
            reason = f'this run looks at {images} images, a store would take {2 * header.records}'
            log.info('live teacher: %s', reason)
            return None
        size = header.file_bytes
        if not os.access(path.parent, os.W_OK) or shutil.disk_usage(path.parent).free < 1.1 * size:
            gigabytes = f'{size / 1e9:.1f} GB'
            log.info('live teacher: no store of %s can be written in %s', gigabytes, path.parent)
            return None
    return teach(teacher, header)
