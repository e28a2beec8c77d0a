"""Embed a whole data set with the teacher once, for all students and generations to come.

The embeddings of every record and of its mirror image go to one file beside the `.rec`, which
`vargfacenet distill` finds by itself; with --views those of augmented pictures as well. A killed
run goes on where it was.
"""

import argparse
import logging
import os
import sys
import time
from typing import Optional

from ..common import console
from ..common.data.left_out import LeftOut
from ..common.errors import InputError
from ..common.ranks import Ranks
from .augmentations import AUGMENTATIONS, COMBINATIONS
from .processes import connect, leaving_at_once
from .teacher import Teacher, open_teacher
from .teacher_store import Header, TeacherStore, left_out_path
from .teaching import teach
from .views import Views, read_views

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
    parser.add_argument(
        '--views',
        type=int,
        default=0,
        metavar='K',
        help='embed K augmented views of every picture as well, for `distill` with the same '
        '--augment and --augment-option; 0: none',
    )
    parser.add_argument(
        '--augment',
        default='',
        metavar='NAME,...',
        help='what makes the views: '
        + ', '.join(
            [
                *(name for name in AUGMENTATIONS if not AUGMENTATIONS.get(name).storable),
                *COMBINATIONS,
            ]
        ),
    )
    parser.add_argument(
        '--augment-option',
        action='append',
        default=[],
        metavar='NAME.KEY=VALUE',
        help='an option of an augmentation, several times if need be; `distill --help` lists them',
    )
    parser.add_argument('--seed', type=int, default=0, help='of the views (default 0)')
    parser.add_argument('--batch-size', type=int, default=32, help='images per forward pass')
    parser.add_argument(
        '--skip-corrupt',
        type=int,
        default=0,
        metavar='N',
        help='leave out up to N records that cannot be read, and name them; give it to `distill` '
        'too',
    )


def read_job(args: argparse.Namespace, ranks: Ranks) -> tuple[Teacher, Header, Optional[Views]]:
    """The teacher, what its store is of, and the views that it is to hold."""
    if ranks.size > 1 and args.skip_corrupt:
        raise InputError('--skip-corrupt counts in one process; leave it out, or use one')
    views = check(args)
    teacher = open_teacher(args.teacher, args.input)
    return teacher, teacher.header(args.data_dir, views), views


def check(args: argparse.Namespace) -> Optional[Views]:
    """The views of a store; InputError for what is wrong with the options alone."""
    if args.batch_size < 1 or args.skip_corrupt < 0:
        raise InputError(
            f'--batch-size {args.batch_size} --skip-corrupt {args.skip_corrupt}: must be at least '
            '1, and not negative'
        )
    return read_views(args)


def run(args: argparse.Namespace) -> Optional[dict]:
    ranks = connect()
    started = time.monotonic()
    with leaving_at_once('vargfacenet teach', ranks.size > 1):
        if ranks.rank:
            console.set_up_logging(logging.WARNING)  # a job is shown once
        teacher, header, views = ranks.in_turn(lambda: read_job(args, ranks), 'job')
        store = teach(teacher, header, views, args.batch_size, args.skip_corrupt, ranks)
    return report(args, store, time.monotonic() - started) if store else None


def report(args: argparse.Namespace, store: TeacherStore, seconds: float) -> dict:
    """Say what was made; returns it as the command's result."""
    left_out = LeftOut(args.skip_corrupt, left_out_path(store.path)).reasons
    header, size = store.header, os.path.getsize(store.path)
    log.info('%s: %d images, %.1f MB', store.path, header.records, size / 1e6)
    return {
        'store': str(store.path),
        'records': header.records,
        'embedding_size': header.embedding_size,
        'views': header.views,
        'augmentation': header.augmentation,
        'engine': header.engine,
        'left_out': len(left_out),
        'bytes': size,
        'seconds': round(seconds, 3),
    }


main = console.command('teach', build_parser, run, check)

if __name__ == '__main__':
    sys.exit(main())
