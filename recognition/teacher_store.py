"""The teacher's embeddings of a whole data set in one memory-mapped file, paid for once.

With mirroring as the only augmentation a record has exactly two teacher embeddings, its own and
its mirror image's. The store holds both for every record, and on request those of some augmented
views (see `views`), at unit length, float16: distillation looks at directions alone (VarGFaceNet
Eq. 4 and 5). All students and generations share it.

The file lies beside the `.rec`; `common/data/store_file` tells its form. While it is being made
it is called `.part`; `done` in its header counts the records that are safely on the disk.
"""

import contextlib
import glob
import hashlib
import logging
import os
import zlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Callable

import numpy as np

from ..common.console import ProgressBar
from ..common.data.left_out import LeftOut
from ..common.data.records import side_file
from ..common.data.store_file import (
    HEADER_BYTES,
    NO_CHECKSUM,
    Header,
    header_bytes,
    read_header,
)
from ..common.engine.network import Network
from ..common.errors import InputError, RunError
from ..common.files import PathLike, exclusive, naming, sync_folder
from ..common.vectors import unit_rows

log = logging.getLogger(__name__)


def teacher_hash(network: Network) -> str:
    """Hash of a network and the weights and running statistics it uses, whatever their order."""
    symbol = network.symbol
    content = hashlib.sha256(symbol.tojson().encode())
    used = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    for name, value in sorted(network.params.items()):
        if name not in used:
            continue
        content.update(f'{name} {value.shape}'.encode())
        content.update(np.ascontiguousarray(value.asnumpy()))
    return content.hexdigest()


def store_path(header: Header) -> Path:
    """Where the store of a teacher and a data set lies, or would lie."""
    return side_file(header.data, f'.teacher-{header.key}.f16')


def left_out_path(store: Path) -> Path:
    """Where the records are listed that a store has no embeddings of their own of."""
    return store.with_suffix('.left-out.json')


def stores_beside(header: Header) -> Iterator[tuple[Path, Header]]:
    """Stores of the header's teacher and data set, whatever views they hold."""
    name = glob.escape(side_file(header.data, '').name)
    for path in sorted(side_file(header.data, '').parent.glob(f'{name}.teacher-*.f16')):
        with contextlib.suppress(InputError):  # no store
            here = read_header(path)
            if (here.teacher_hash, here.data_hash) == (header.teacher_hash, header.data_hash):
                yield path, here


def _write_header(handle, header: Header) -> None:
    content = header_bytes(header)
    handle.seek(0)
    handle.write(content)
    handle.flush()
    os.fsync(handle.fileno())


class TeacherStore:
    """A finished store, opened and checked.

    Parameters
    ----------
    path : the file
    expected : header of the teacher and the data set in use; hashes and sizes must agree, and so
        must the augmentation and its seed where it has views. More views than it has do no harm.

    Attributes
    ----------
    replaced : records that could not be read, which have the embeddings of the next readable one

    Raises
    ------
    InputError naming what the store was made for if that is another teacher, data set,
    preprocessing or augmentation, and for a file that is unfinished, cut off or no store.
    """

    def __init__(self, path: PathLike, expected: Header):
        self.path = Path(path)
        self.header = header = read_header(path)
        if header.teacher_hash != expected.teacher_hash:
            raise InputError(
                f'{path} was made by another teacher, {header.teacher}, not {expected.teacher}; '
                f'make one with `vargfacenet teach --teacher {expected.teacher}`'
            )
        if header.data_hash != expected.data_hash or header.records != expected.records:
            raise InputError(
                f'{path} was made for another data set, {header.data} ({header.records} images), '
                f'not {expected.data} ({expected.records} images)'
            )
        if header.preprocessing != expected.preprocessing:
            raise InputError(
                f'{path} was made with another preprocessing, {header.preprocessing!r}; '
                f'here it is {expected.preprocessing!r}'
            )
        _check_views(self.path, header, expected)
        if header.done < header.records:
            raise InputError(
                f'{path} is unfinished, {header.done} of {header.records} images; go on with '
                f'`vargfacenet teach`'
            )
        size = self.path.stat().st_size
        if size != header.file_bytes:
            raise InputError(f'{path} has {size} bytes, not {header.file_bytes}; delete it')
        self.replaced = frozenset(LeftOut(None, left_out_path(self.path)).reasons)
        shape = (header.records, header.rows, header.embedding_size)
        self._rows = np.memmap(self.path, '<f2', 'r', HEADER_BYTES, shape)

    def read(self, positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Unit-length embeddings of records, their mirror images and their views.

        Parameters
        ----------
        positions : int (N,), of the record file
        rows : int (N,), 0 is the record, 1 its mirror image, 2 + v its view v; or bool (N,),
            whether mirrored

        Returns
        -------
        (N, D) float32
        """
        return self._rows[positions, rows.astype(np.intp)].astype(np.float32)


def _check_views(path: Path, header: Header, expected: Header) -> None:
    """InputError unless a store has the views that are asked for."""
    if header.views < expected.views:
        raise InputError(
            f'{path} holds {header.views} augmented views of every image, not {expected.views}; '
            f'make them with `vargfacenet teach --views {expected.views}`'
        )
    for what, has, wanted in (
        ('views by', header.augmentation, expected.augmentation),
        ('views of seed', header.view_seed, expected.view_seed),
    ):
        if expected.views and has != wanted:
            raise InputError(
                f'{path} holds {what} {has}, here it is {wanted}; make others with `vargfacenet '
                'teach --views`, or give the same --augment and --augment-option'
            )


def _unit_rows(embeddings: np.ndarray, first: int, header: Header) -> np.ndarray:
    """(n * rows, D) float32 -> float16 (n, rows, D) of unit length; RunError naming the first
    record, counted from `first`, with an embedding that has none."""

    def refusal(bad: np.ndarray) -> RunError:
        return RunError(
            f'the teacher gives no direction for image {first + bad[0] // header.rows} of '
            f'{header.data}: its embedding '
            f'has length {np.linalg.norm(embeddings[bad[0]])}'
        )

    rows = unit_rows(embeddings, refusal).astype('<f2')
    return rows.reshape(-1, header.rows, header.embedding_size)


def build(
    path: Path,
    header: Header,
    embedded: Callable[[int], Iterator[np.ndarray]],
    bar: Callable[[int], contextlib.AbstractContextManager[ProgressBar]],
) -> None:
    """Make the store at `path`, or go on with the one that a killed process left.

    Parameters
    ----------
    path : where the finished store goes
    header : of the teacher and the data set; `done` is ignored
    embedded : first record -> iterator of float32 (n, rows, D), all rows of the records from there
        on
    bar : records done before -> progress bar

    Raises
    ------
    RunError for an embedding without direction; what was made before it stays.
    InputError if another command is writing in its folder.
    """
    part = path.with_suffix('.part')
    with exclusive(path.parent), naming(part):
        if path.is_file():  # another process has made it meanwhile
            return
        done, header = _done_before(part, header)
        with open(part, 'r+b' if done else 'w+b') as handle, bar(done) as progress:
            if not done:
                handle.truncate(header.file_bytes)
                header = replace(header, done=0, crc32=0)
                _write_header(handle, header)
            row_bytes = 2 * header.rows * header.embedding_size
            for embeddings in embedded(done):
                rows = _unit_rows(embeddings.reshape(-1, header.embedding_size), done, header)
                handle.seek(HEADER_BYTES + done * row_bytes)
                handle.write(rows)
                handle.flush()
                os.fsync(handle.fileno())  # before the header says that they are there
                done += len(embeddings)
                if header.crc32 != NO_CHECKSUM:
                    header = replace(header, crc32=zlib.crc32(rows, header.crc32))
                _write_header(handle, replace(header, done=done))
                progress.advance(len(embeddings))
        if done != header.records:
            raise RunError(f'{part}: {done} of {header.records} images came')
        os.replace(part, path)
        sync_folder(path.parent)


def _done_before(part: Path, header: Header) -> tuple[int, Header]:
    """Records that an earlier process left in `part`, 0 if it cannot be gone on with; the header.

    Another engine may have made them: all agree with MXNet, and the header names both.
    """
    try:
        before = read_header(part)
    except InputError:
        return 0, header
    free = {'done': 0, 'crc32': 0, 'teacher': '', 'data': '', 'engine': ''}
    same = replace(before, **free) == replace(header, **free)
    if not same or part.stat().st_size != header.file_bytes:
        log.info('%s is of no use here and starts anew', part)
        return 0, header
    if before.done:
        log.info('going on with %s: %d images are done', part, before.done)
    header = replace(header, crc32=before.crc32)
    engines = [before.engine, header.engine]
    if before.done and header.engine not in before.engine.split(', '):
        header = replace(header, engine=', '.join(engines))
    return before.done, header
