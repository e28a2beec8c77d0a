"""Embed a whole data set with the teacher once, for all students and generations to come.

The embeddings of every record and of its mirror image go to one file beside the `.rec`, which
`vargfacenet distill` finds by itself. A killed run goes on where it was.
"""

import argparse
import contextlib
import functools
import logging
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..common import console
from ..common.data.recordio import RecordFile
from ..common.engine import checkpoint
from ..common.engine.engines import fastest
from ..common.engine.network import Network
from ..common.errors import InputError
from ..common.parallel import ordered_map
from .data import decode_crop
from .graph import embedding_size
from .teacher_store import Header, TeacherStore, build, data_hash, store_path, teacher_hash

log = logging.getLogger(__name__)

BLOCK = 256  # images between two points where a killed run goes on


def expected_header(teacher: str, network: Network, records: RecordFile) -> Header:
    """What the store of a teacher ('PREFIX,EPOCH', its loaded network) and a data set must say."""
    return Header(
        teacher=teacher,
        teacher_hash=teacher_hash(network),
        data=str(records.paths.rec),
        data_hash=data_hash(records.paths),
        records=len(records),
        embedding_size=embedding_size(network.symbol),
        engine='',
    )


def open_store(path: str, teacher: str, data_dir: str) -> TeacherStore:
    """The finished store at `path`; InputError unless it is this teacher's of this data set."""
    with contextlib.closing(RecordFile(Path(data_dir) / 'train.rec')) as records:
        header = expected_header(teacher, checkpoint.load_embedding(teacher), records)
    return TeacherStore(path, header)


def find_store(teacher: str, data_dir: str) -> Path:
    """Where the store of a teacher and a data set lies, or would lie."""
    with contextlib.closing(RecordFile(Path(data_dir) / 'train.rec')) as records:
        header = expected_header(teacher, checkpoint.load_embedding(teacher), records)
        return store_path(records.paths, header)


def _crop(records: RecordFile, position: int) -> np.ndarray:
    """uint8 (112, 112, 3) RGB; InputError naming the record."""
    _, encoded = records.read(position)
    return decode_crop(records, position, encoded)[:, :, ::-1]


def _blocks(records: RecordFile, first: int) -> Iterator[np.ndarray]:
    """All crops from record `first` on, BLOCK at a time, decoded ahead on all CPUs."""
    crops = ordered_map(functools.partial(_crop, records), range(first, len(records)))
    with contextlib.closing(crops):
        while block := [image for _, image in zip(range(BLOCK), crops)]:
            yield np.stack(block)


def teach(teacher: str, data_dir: str, batch_size: int = 32) -> tuple[Path, Header]:
    """Make the store of a teacher and a data set, unless it is there; its path and header.

    Raises
    ------
    InputError for a bad teacher or data set, and for a store there that is cut off.
    RunError for an image whose embedding has no direction.
    """
    network = checkpoint.load_embedding(teacher)
    with contextlib.closing(RecordFile(Path(data_dir) / 'train.rec')) as records:
        header = expected_header(teacher, network, records)
        path = store_path(records.paths, header)
        if path.is_file():
            log.info('%s is there already', path)
            return path, TeacherStore(path, header).header
        engine = fastest(network, batch_size=batch_size)
        header = Header(**{**vars(header), 'engine': engine.name})
        build(
            path,
            header,
            functools.partial(_blocks, records),
            engine.embed,
            lambda done: console.progress(len(records), f'teaching {path.name}', start=done),
        )
    return path, TeacherStore(path, header).header


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--data-dir', required=True, help='folder with train.rec')
    parser.add_argument('--teacher', required=True, metavar='PREFIX,EPOCH', help='frozen teacher')
    parser.add_argument('--batch-size', type=int, default=32, help='images per forward pass')


def run(args: argparse.Namespace) -> dict:
    if args.batch_size < 1:
        raise InputError(f'--batch-size {args.batch_size}: must be at least 1')
    started = time.monotonic()
    path, header = teach(args.teacher, args.data_dir, args.batch_size)
    seconds = time.monotonic() - started
    log.info('%s: %d images, %.1f MB', path, header.records, os.path.getsize(path) / 1e6)
    return {
        'store': str(path),
        'records': header.records,
        'embedding_size': header.embedding_size,
        'engine': header.engine,
        'bytes': os.path.getsize(path),
        'seconds': round(seconds, 3),
    }


main = console.command('teach', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
