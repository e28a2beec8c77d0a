"""Make a synthetic face data set: train.rec and its index to train on, synth.bin to verify on.

Picture k of identity i is the same whenever the seed is, whatever the other options say, and the
pairs of synth.bin are of identities that no training set has. How a face comes about is told in
synth_face.py.
"""

import argparse
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Callable, NamedTuple

import cv2
import numpy as np

from . import console
from .backend import cpu_count
from .errors import InputError, RunError
from .files import output_folder
from .names import IMAGE_SIZE
from .pairset import write_pairs
from .parallel import ordered_map
from .recordio import write_face_records
from .synth_face import jpeg_faces

log = logging.getLogger(__name__)

FOLDS = 10
TEST_START = 1_000_000_000  # number of the first identity in synth.bin; training starts at 0
_MOST_RECORDS = 1 << 24  # of a .rec, whose labels are float32
_SMALL_JOB = 400  # pictures that one process draws sooner than another has started


class Task(NamedTuple):
    """Arguments of `jpeg_faces`."""

    seed: int
    identity: int
    pictures: Iterable[int]
    size: int


class Pair(NamedTuple):
    """Two pictures, each (identity, picture), and whether they show one person."""

    first: tuple[int, int]
    second: tuple[int, int]
    same: bool


def draw_pairs(pairs: int, identities: int, seed: int) -> list[Pair]:
    """Pairs of test identities for ten contiguous folds, each half same and half different.

    Parameters
    ----------
    pairs : a multiple of 20
    identities : how many people there are, numbered from TEST_START; at least 2
    seed : of the data set

    No picture is used twice.
    """
    rng = np.random.default_rng([seed, TEST_START])
    fold = pairs // FOLDS
    drawn = []
    for start in range(0, pairs, fold):
        for number, same in enumerate(rng.permutation(fold) < fold // 2, start):
            first = int(rng.integers(identities))
            # an offset of 1 .. identities-1 is somebody else, equally likely each
            other = first if same else (first + int(rng.integers(1, identities))) % identities
            pictures = (TEST_START + first, 2 * number), (TEST_START + other, 2 * number + 1)
            drawn.append(Pair(*pictures, bool(same)))
    return drawn


def _start_worker() -> None:
    # Ctrl-C reaches all processes of a terminal; the first one ends the others
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # a pool's process waits for work for ever if the first one is killed
    threading.Thread(target=_end_with_parent, daemon=True).start()
    cv2.setNumThreads(1)


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


@contextmanager
def _painter(workers: int) -> Iterator[Callable[[Task], list[bytes]]]:
    """`jpeg_faces` on a task, in one of `workers` processes; 1 means this process.

    Processes are spawned, since a fork of a process with MXNet's threads in it may hang.
    """
    if workers == 1:
        yield lambda task: jpeg_faces(*task)
        return
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=_start_worker,
    )
    try:
        yield lambda task: pool.submit(jpeg_faces, *task).result()
    except BrokenProcessPool:
        raise RunError('a drawing process died (out of memory?); try fewer --workers') from None
    finally:
        pool.shutdown(cancel_futures=True)


def _painted(tasks: Iterable[Task], paint, workers: int, bar) -> Iterator[list[bytes]]:
    """Encoded pictures of each task in order; only a few tasks ahead are kept."""
    # threads merely wait for the processes; two each, so that none of those runs dry
    for encoded in ordered_map(paint, tasks, threads=1 if workers == 1 else 2 * workers):
        bar.advance(len(encoded))
        yield encoded


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('out', metavar='OUT', help='folder for train.rec, its index and synth.bin')
    parser.add_argument('--identities', type=int, default=200, help='people to train on')
    parser.add_argument('--images', type=int, default=20, help='pictures of each of them')
    parser.add_argument('--pairs', type=int, default=600, help='pairs in synth.bin')
    parser.add_argument('--test-identities', type=int, default=100, help='people in synth.bin')
    parser.add_argument('--seed', type=int, default=0, help='another seed is another data set')
    parser.add_argument('--size', type=int, default=IMAGE_SIZE, help='height and width')
    parser.add_argument('--workers', type=int, default=cpu_count(), help='processes that draw')


def _check(args: argparse.Namespace) -> None:
    for flag, value, low, high in (
        ('--identities', args.identities, 1, _MOST_RECORDS),
        ('--images', args.images, 1, _MOST_RECORDS),
        ('--pairs', args.pairs, 2 * FOLDS, 10_000_000),
        ('--test-identities', args.test_identities, 2, _MOST_RECORDS),
        ('--seed', args.seed, 0, 2**63 - 1),
        ('--size', args.size, 32, 512),
        ('--workers', args.workers, 1, 256),
    ):
        if not low <= value <= high:
            raise InputError(f'{flag} {value}: must be {low}..{high}')
    if args.pairs % (2 * FOLDS):
        raise InputError(
            f'--pairs {args.pairs}: must be a multiple of {2 * FOLDS}, '
            f'so that each of the {FOLDS} folds is half same and half different'
        )
    records = args.identities * (args.images + 1) + 1
    if records > _MOST_RECORDS:
        raise InputError(
            f'--identities {args.identities} with --images {args.images} need {records} records; '
            f'a .rec counts to {_MOST_RECORDS}'
        )


def run(args: argparse.Namespace) -> dict:
    _check(args)
    out = output_folder(args.out)
    pairs = draw_pairs(args.pairs, args.test_identities, args.seed)
    training = (
        Task(args.seed, identity, range(args.images), args.size)
        for identity in range(args.identities)
    )
    testing = (
        Task(args.seed, identity, (picture,), args.size)
        for pair in pairs
        for identity, picture in (pair.first, pair.second)
    )
    total = args.identities * args.images + 2 * args.pairs
    workers = 1 if total <= _SMALL_JOB else args.workers
    with _painter(workers) as paint, console.progress(total, 'synth') as bar:
        written = write_face_records(
            out / 'train', _painted(training, paint, workers, bar), args.size
        )
        images = [encoded for (encoded,) in _painted(testing, paint, workers, bar)]
        write_pairs(out / 'synth.bin', images, [pair.same for pair in pairs])
        rate = bar.rate
    log.info('%s: %d pictures of %d people', args.out, written.num_images, written.num_classes)
    return {
        'identities': written.num_classes,
        'images': written.num_images,
        'pairs': len(pairs),
        'same': sum(pair.same for pair in pairs),
        'test_identities': args.test_identities,
        'seed': args.seed,
        'size': args.size,
        'images_per_second': round(rate, 1),
        'rec': str(written.paths.rec),
        'idx': str(written.paths.idx),
        'property': str(written.paths.property),
        'bin': str(out / 'synth.bin'),
    }


main = console.command('synth', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
