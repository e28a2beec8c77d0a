"""Measure the data iterator by threads against InsightFace's and MXNet's own; start-up.

Without --data-dir it makes record files of its own from a few hundred drawn faces.
"""

import argparse
import logging
import os
import sys
import tempfile
import time
from contextlib import ExitStack, closing
from pathlib import Path

import numpy as np

from ...common import console
from ...common.data.recordio import RecordFile, RecordPaths, record_paths, write_face_records
from ...common.data.records import record_file
from ...common.files import input_file
from ...common.names import IMAGE_SIZE
from ...common.options import integer
from ...common.parallel import cpu_count
from ...common.synth.face import jpeg_faces
from ...recognition.data import FaceRecordIter
from . import child, report
from .iterators import BATCHES_A_CALL, taking, write_ungrouped
from .measure import (
    SECONDS,
    Timing,
    check_numbers,
    check_options,
    faster,
    in_turn,
    machine,
    slices_in_turn,
)
from .measured import measure_index
from .steps import training_step
from .stock import Variant, fastest

log = logging.getLogger(__name__)

PEOPLE, FACES, COPIES = 50, 8, 200  # of the record file made here: 80,000 records
NETWORK, NETWORK_OPTIONS = 'vargfacenet', {}  # that trains on the images
TRAINING_BATCH = 32
INSIGHTFACE_RECORDS = 5_800_000  # as many as MS1M has
MXNET = 'ImageRecordIter'
_MXNET_THREADS = 4  # unless it is told otherwise


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--data-dir', default='', help='folder with a .rec (default: made here)')
    parser.add_argument('--batch-size', type=int, default=128)
    parser.add_argument('--threads', default='1,2', help='decoding threads to measure')
    parser.add_argument('--seconds', type=float, default=20, help='of measuring each comparison')
    parser.add_argument(
        '--index-records', type=int, default=INSIGHTFACE_RECORDS, help='of the start-up measurement'
    )
    report.add_out(parser, 'all figures')


def make_records(folder: Path) -> Path:
    """A record file of 80,000 records: 400 drawn faces, 200 times over."""
    people = [jpeg_faces(0, person, range(FACES), IMAGE_SIZE) for person in range(PEOPLE)]
    return write_face_records(folder / 'train', (faces * COPIES for faces in people)).paths.rec


def compare(paths: RecordPaths, args: argparse.Namespace, threads: list[int], folder: Path) -> dict:
    """InsightFace's iterator, MXNet's with the threads that suit it best, and ours by threads;
    everything in memory, a process each.

    A turn is long beside the few batches that iterators hold ready when it begins.
    """
    options = {'rec': str(paths.rec), 'batch_size': args.batch_size}
    ungrouped = write_ungrouped(paths, str(folder / 'ungrouped'), PEOPLE * FACES * COPIES)
    copied = {**options, 'rec': str(ungrouped.rec), 'kind': 'mxnet'}
    variants = {
        f'{number} threads': Variant({}, {**copied, 'threads': number})
        for number in (_MXNET_THREADS, cpu_count())
    }
    with ExitStack() as stack:
        workers = {'stock': stack.enter_context(child.Worker(taking, **options, kind='stock'))}
        setting, worker = fastest(taking, variants)
        workers[MXNET] = stack.enter_context(worker)
        for number in threads:
            ours = child.Worker(taking, **options, kind='ours', threads=number)
            workers[f'threads {number}'] = stack.enter_context(ours)
        times = slices_in_turn(workers, args.seconds, slice_seconds=min(3, args.seconds))
    images = BATCHES_A_CALL * args.batch_size
    rows = {name: timing.summary(images) for name, timing in times.items()}
    for name, timing in times.items():
        rows[name]['ratio'] = vars(faster(times['stock'], timing))
        rows[name]['ratio_mxnet'] = vars(faster(times[MXNET], timing))
    rows[MXNET]['setting'] = setting
    return rows


def drop_cache(path: Path) -> None:
    """Have the system forget what it holds of a file, where it offers that."""
    with open(path, 'rb') as handle:
        os.fsync(handle.fileno())
        if hasattr(os, 'posix_fadvise'):
            os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def cold_epochs(paths: RecordPaths, batch_size: int, rounds: int = 4) -> dict:
    """Whole epochs from the disk by way of shuffling: in turn, each as often first as second."""
    seconds: dict[str, list[float]] = {'full': [], 'blocks': []}
    images = 0
    for number in range(rounds):
        for shuffle in sorted(seconds, reverse=bool(number % 2)):
            batches = FaceRecordIter(paths.rec, batch_size, shuffle=shuffle)
            drop_cache(paths.rec)
            started = time.perf_counter()
            images = batch_size * sum(1 for _ in batches)
            seconds[shuffle].append(time.perf_counter() - started)
            batches.close()
    times = {shuffle: Timing(tuple(values)) for shuffle, values in seconds.items()}
    return {
        'megabytes': paths.rec.stat().st_size / 1e6,
        **{shuffle: timing.summary(images) for shuffle, timing in times.items()},
        'ratio': vars(faster(times['full'], times['blocks'])),
    }


def write_long_index(paths: RecordPaths, folder: Path, records: int) -> None:
    """A data set whose index has `records` lines, over and over those of a short record file."""
    offsets = np.loadtxt(paths.idx, dtype=np.int64, ndmin=2)
    with closing(RecordFile(paths.rec)) as file:
        count = min(file.num_images, 1000) if file.grouped else file.num_images
    images = np.sort(offsets[:, 1])[:count]  # they are in front in both layouts
    long = record_paths(folder / 'train')
    os.symlink(paths.rec.resolve(), long.rec)
    os.symlink(paths.property.resolve(), long.property)
    lines = np.empty((records, 2), np.int64)
    lines[:, 0] = np.arange(1, records + 1)  # no key 0: every record is an image
    lines[:, 1] = np.resize(images, records)
    with open(long.idx, 'w') as handle:
        for start in range(0, records, 1 << 18):
            part = lines[start : start + (1 << 18)]
            handle.write(''.join(f'{key}\t{offset}\n' for key, offset in part.tolist()))


def measure_start(paths: RecordPaths, records: int, folder: Path) -> dict:
    """Seconds from command to the end of the first step, and the memory of the index."""
    write_long_index(paths, folder, records)
    found = child.run(measure_index, data_dir=str(folder))
    started = time.perf_counter()
    words = ['--data-dir', str(folder), '--models-root', str(folder / 'models'), '--target', '']
    words += ['--steps', '1', '--per-batch-size', '16', '--ckpt', '0', '--network', NETWORK]
    for option in NETWORK_OPTIONS.items():
        words += ['--network-option', '='.join(map(str, option))]
    child.command('vargfacenet', 'train', *words)
    return {'records': records, 'seconds_to_first_step': time.perf_counter() - started, **found}


def show(result: dict) -> None:
    console.table(
        'data iterator, everything in memory',
        ['iterator', 'images/s', 'times stock', f'times {MXNET}', 'times the training step'],
        [
            [
                f'{name}, {row["setting"]}' if 'setting' in row else name,
                f'{row["per_second"]:,.0f}',
                report.shown(row['ratio']),
                report.shown(row['ratio_mxnet']),
                f'{row["per_second"] / result["training_images_per_second"]:.0f}',
            ]
            for name, row in result['warm'].items()
        ],
    )
    cold = result['cold']
    console.table(
        f'an epoch from the disk, {cold["megabytes"]:.0f} MB that the system has forgotten',
        ['shuffle', 'images/s', 'times full'],
        [
            ['full', f'{cold["full"]["per_second"]:,.0f}', '1'],
            ['blocks', f'{cold["blocks"]["per_second"]:,.0f}', report.shown(cold['ratio'])],
        ],
    )
    start = result['start']
    log.info(
        'start-up with %d records: %.1f s to the end of the first step; index %.0f MB, opened in '
        '%.1f s (peak while reading %.0f MB)',
        start['records'],
        start['seconds_to_first_step'],
        start['bytes'] / 1e6,
        start['seconds'],
        start['peak_bytes'] / 1e6,
    )


def panels(result: dict) -> list:
    warm = result['warm']
    others = {'stock': 'stock (one thread)', MXNET: f'{MXNET} ({warm[MXNET]["setting"]})'}
    ours = {int(name.split()[1]): row for name, row in warm.items() if name not in others}
    threads = list(ours)
    lines = {'ours': (threads, [row['per_second'] for row in ours.values()])}
    for name, label in others.items():
        lines[label] = threads, [warm[name]['per_second']] * len(threads)
    return [('iterator by threads', 'threads', 'images/s', lines)]


def run(args: argparse.Namespace) -> dict:
    report.check_out(args.out)
    threads = check_numbers(args.threads, '--threads')
    check_options(args, {'batch_size': integer(1), 'index_records': integer(1), 'seconds': SECONDS})
    with tempfile.TemporaryDirectory() as temporary:
        if args.data_dir:
            rec = input_file(record_file(Path(args.data_dir)), 'training data')
        else:
            log.info('drawing %d faces', PEOPLE * FACES)
            rec = make_records(Path(temporary))
        paths = record_paths(rec)
        step = training_step(NETWORK, NETWORK_OPTIONS, TRAINING_BATCH, 1000, stock=False)
        seconds = args.seconds / 2
        training = in_turn({'training': step}, seconds, min(0.5, seconds))['training']
        result = {
            'machine': machine(),
            'batch_size': args.batch_size,
            'training_images_per_second': TRAINING_BATCH / training.median,
            'warm': compare(paths, args, threads, Path(temporary)),
            'cold': cold_epochs(paths, args.batch_size),
        }
        folder = Path(temporary) / 'long'
        folder.mkdir()
        result['start'] = measure_start(paths, args.index_records, folder)
    show(result)
    return report.write(args.out, result, panels(result))


main = console.command('bench data', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
