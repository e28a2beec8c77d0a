"""Embed a whole data set with the teacher once, for all students and generations to come.

The embeddings of every record and of its mirror image go to one file beside the `.rec`, which
`vargfacenet distill` finds by itself. A killed run goes on where it was.
"""

import argparse
import logging
import os
import sys
import time

from ..common import console
from ..common.errors import InputError
from .teacher import open_teacher
from .teaching import teach

log = logging.getLogger(__name__)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--data-dir', required=True, help='folder with train.rec, or of people')
    parser.add_argument(
        '--teacher',
        required=True,
        metavar='PREFIX,EPOCH|FILE',
        help='frozen teacher: a checkpoint, an export folder or an .onnx file of anyone',
    )
    parser.add_argument(
        '--input',
        default='',
        metavar='KEY=VALUE,...',
        help='what pixels become for a foreign .onnx file that does not tell, e.g. '
        'mean=127.5,std=128,colour=bgr',
    )
    parser.add_argument('--batch-size', type=int, default=32, help='images per forward pass')


def run(args: argparse.Namespace) -> dict:
    if args.batch_size < 1:
        raise InputError(f'--batch-size {args.batch_size}: must be at least 1')
    started = time.monotonic()
    teacher = open_teacher(args.teacher, args.input)
    store = teach(teacher, teacher.header(args.data_dir), args.batch_size)
    seconds = time.monotonic() - started
    header, size = store.header, os.path.getsize(store.path)
    log.info('%s: %d images, %.1f MB', store.path, header.records, size / 1e6)
    return {
        'store': str(store.path),
        'records': header.records,
        'embedding_size': header.embedding_size,
        'engine': header.engine,
        'bytes': size,
        'seconds': round(seconds, 3),
    }


main = console.command('teach', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
