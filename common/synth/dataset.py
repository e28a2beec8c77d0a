"""A synthetic face data set: train.rec and its index to train on, synth.bin to verify on.

Picture k of identity i is the same whenever the seed is, whatever the other options say, and the
pairs of synth.bin are of identities that no training set has. How a face comes about is told in
face.py.
"""

import logging
import multiprocessing
import os
import threading
from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Callable, NamedTuple

import cv2
import numpy as np

from .. import console
from ..child import ctrl_c_held_off
from ..data.pair_sets import write_pairs
from ..data.recordio import write_face_records
from ..errors import InputError, RunError
from ..files import PathLike, output_folder
from ..names import IMAGE_SIZE
from ..parallel import cpu_count, ordered_map
from .face import jpeg_faces
from .traits import VARIETIES

log = logging.getLogger(__name__)

FILES = ('train.rec', 'synth.bin')  # of a data set, beside index and property
FOLDS = 10
TEST_START = 1_000_000_000  # number of the first identity in synth.bin; training starts at 0
_MOST_RECORDS = 1 << 24  # of a .rec, whose labels are float32
_SMALL_JOB = 400  # pictures that one process draws sooner than another has started


class SynthOptions(NamedTuple):
    """What a synthetic data set consists of; the defaults train in minutes on two cores."""

    identities: int = 200  # people to train on
    images: int = 20  # pictures of each of them
    pairs: int = 600  # in synth.bin
    test_identities: int = 100  # people in synth.bin
    seed: int = 0
    size: int = IMAGE_SIZE  # height and width
    workers: int = cpu_count()  # processes that draw
    variety: str = 'plain'  # of people and circumstances, one of traits.VARIETIES


DEFAULTS = SynthOptions()


class Task(NamedTuple):
    """Arguments of `jpeg_faces`."""

    seed: int
    identity: int
    pictures: Iterable[int]
    size: int
    variety: str = 'plain'


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
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context('spawn'),
        initializer=_start_worker,
    )

    def paint(task: Task) -> list[bytes]:
        with ctrl_c_held_off():  # the pool starts a process when it is given work
            drawn = pool.submit(jpeg_faces, *task)
        return drawn.result()

    try:
        yield paint
    except BrokenProcessPool:
        # one that was being started while the pool ended the others is not ended, and is waited for
        for process in set(multiprocessing.active_children()) - others:
            process.kill()
        raise RunError('a drawing process died (out of memory?); try fewer --workers') from None
    finally:
        pool.shutdown(cancel_futures=True)


def _painted(tasks: Iterable[Task], paint, workers: int, bar) -> Iterator[list[bytes]]:
    """Encoded pictures of each task in order; only a few tasks ahead are kept."""
    # threads merely wait for the processes; two each, so that none of those runs dry
    for encoded in ordered_map(paint, tasks, threads=1 if workers == 1 else 2 * workers):
        bar.advance(len(encoded))
        yield encoded


def check_options(options: SynthOptions) -> None:
    """Raise InputError for an option out of range, named as the command line names it."""
    for flag, value, low, high in (
        ('--identities', options.identities, 1, _MOST_RECORDS),
        ('--images', options.images, 1, _MOST_RECORDS),
        ('--pairs', options.pairs, 2 * FOLDS, 10_000_000),
        ('--test-identities', options.test_identities, 2, _MOST_RECORDS),
        ('--seed', options.seed, 0, 2**63 - 1),
        ('--size', options.size, 32, 512),
        ('--workers', options.workers, 1, 256),
    ):
        if not low <= value <= high:
            raise InputError(f'{flag} {value}: must be {low}..{high}')
    if options.variety not in VARIETIES:
        raise InputError(f'--variety {options.variety}: one of {", ".join(VARIETIES)}')
    if options.pairs % (2 * FOLDS):
        raise InputError(
            f'--pairs {options.pairs}: must be a multiple of {2 * FOLDS}, '
            f'so that each of the {FOLDS} folds is half same and half different'
        )
    records = options.identities * (options.images + 1) + 1
    if records > _MOST_RECORDS:
        raise InputError(
            f'--identities {options.identities} with --images {options.images} need {records} '
            f'records; a .rec counts to {_MOST_RECORDS}'
        )


def make_dataset(folder: PathLike, options: SynthOptions = DEFAULTS) -> dict:
    """Draw a data set into `folder`, with a progress bar.

    Returns
    -------
    dict of counts and of the paths written: rec, idx, property, bin

    Raises
    ------
    InputError for options out of range, RunError if a drawing process dies.
    """
    check_options(options)
    out = output_folder(folder)
    pairs = draw_pairs(options.pairs, options.test_identities, options.seed)
    training = (
        Task(options.seed, identity, range(options.images), options.size, options.variety)
        for identity in range(options.identities)
    )
    testing = (
        Task(options.seed, identity, (picture,), options.size, options.variety)
        for pair in pairs
        for identity, picture in (pair.first, pair.second)
    )
    total = options.identities * options.images + 2 * options.pairs
    workers = 1 if total <= _SMALL_JOB else options.workers
    with _painter(workers) as paint, console.progress(total, 'synth') as bar:
        written = write_face_records(
            out / FILES[0], _painted(training, paint, workers, bar), options.size
        )
        images = [encoded for (encoded,) in _painted(testing, paint, workers, bar)]
        write_pairs(out / FILES[1], images, [pair.same for pair in pairs])
        rate = bar.rate
    log.info(
        '%s: %d pictures of %d people to train on, %d pairs of %d others to verify on',
        *(folder, written.num_images, written.num_classes, len(pairs), options.test_identities),
    )
    return {
        'identities': written.num_classes,
        'images': written.num_images,
        'pairs': len(pairs),
        'same': sum(pair.same for pair in pairs),
        'test_identities': options.test_identities,
        'seed': options.seed,
        'size': options.size,
        'variety': options.variety,
        'images_per_second': round(rate, 1),
        'rec': str(written.paths.rec),
        'idx': str(written.paths.idx),
        'property': str(written.paths.property),
        'bin': str(out / FILES[1]),
    }
