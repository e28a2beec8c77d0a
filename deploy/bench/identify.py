"""The whole search of `identify` on drawn embeddings, by default of the LFR challenge's size.

They are evenly spread over all directions, or, with --like, as those of a file are: most of their
length in few dimensions, which a search makes use of.
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Optional

import numpy as np

from ...common import console
from ...common.errors import InputError
from ...common.options import integer, positive
from ...common.vectors import unit_rows
from ...eval.embeddings import load_embeddings
from ...eval.identification import tpr_at_fpr
from ...eval.search.screen import KERNELS, choose_kernel, forms
from .measure import check_options, machine

_SIZE = 512
_AT_ONCE = 1 << 15


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--probes', type=int, default=274_000, help='embeddings to identify')
    parser.add_argument('--people', type=int, default=5_700, help='whose these are')
    parser.add_argument('--distractors', type=int, default=1_580_000, help='of other people')
    parser.add_argument('--size', type=int, help=f'of an embedding (default {_SIZE})')
    parser.add_argument(
        '--like',
        metavar='FILE',
        help='embeddings (.npy, .npz) by whose second moments all are drawn; their size is theirs',
    )
    parser.add_argument('--fpr', type=float, default=1e-8, help='of the threshold')
    parser.add_argument('--kernel', choices=KERNELS, default='auto', help='all give one result')


def mixing(like: str) -> np.ndarray:
    """(D, D) float32 by which a row of independent normal numbers gets the second moments of the
    embeddings of a file."""
    embeddings = unit_rows(np.asarray(load_embeddings(like).rows, np.float64))
    squares, axes = np.linalg.eigh(embeddings.T @ embeddings / len(embeddings))
    return (np.sqrt(np.maximum(squares, 0))[:, None] * axes.T).astype(np.float32)


def draw(
    path: Path,
    count: int,
    size: int,
    mix: Optional[np.ndarray],
    seed: int,
    bar: console.ProgressBar,
) -> np.ndarray:
    """(count, size) float32 of unit length, a memory map of a new file."""
    random = np.random.default_rng(seed)
    rows = np.lib.format.open_memmap(path, 'w+', np.float32, (count, size))
    for start in range(0, count, _AT_ONCE):
        block = slice(start, min(start + _AT_ONCE, count))
        drawn = random.standard_normal((block.stop - start, size), np.float32)
        drawn = drawn if mix is None else drawn @ mix
        rows[block] = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
        bar.advance(block.stop - start)
    rows.flush()
    return rows


def _check_space(folder: str, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f'{folder}: {free / 1e9:.1f} GB are free, the embeddings take {needed / 1e9:.1f}; name '
            'another folder by TMPDIR, or fewer --distractors'
        )


def run(arguments: argparse.Namespace) -> dict:
    if arguments.like:
        console.refuse_options(arguments, ['size'], 'not with --like, whose size it is')
    mix = mixing(arguments.like) if arguments.like else None
    if arguments.like:
        arguments.size = len(mix)
    elif arguments.size is None:
        arguments.size = _SIZE
    counts = ('probes', 'people', 'distractors', 'size')
    check_options(arguments, {**dict.fromkeys(counts, integer(1)), 'fpr': positive(1)})
    kernel = choose_kernel(arguments.kernel)
    with tempfile.TemporaryDirectory() as folder:
        total = arguments.probes + arguments.distractors
        _check_space(folder, total * arguments.size * np.dtype(np.float32).itemsize)
        with console.progress(total, 'drawing', 'embeddings') as bar:
            probes, distractors = (
                draw(Path(folder) / f'{name}.npy', count, arguments.size, mix, seed, bar)
                for seed, (name, count) in enumerate(
                    [('probes', arguments.probes), ('distractors', arguments.distractors)]
                )
            )
        labels = np.arange(arguments.probes) % arguments.people
        pairs = arguments.probes * arguments.distractors
        started, cpu_started = time.perf_counter(), time.process_time()
        with console.progress(pairs, 'comparing', 'pairs') as bar:
            result = tpr_at_fpr(
                probes, labels, distractors, (arguments.fpr,), kernel=kernel, progress=bar
            )
        seconds = time.perf_counter() - started
        cpu_seconds = time.process_time() - cpu_started
    found = {
        'pairs': result.negatives,
        'seconds': seconds,
        'cpu_seconds': cpu_seconds,  # of all threads
        'pairs_per_second': result.negatives / seconds,
        'kernel': kernel,
        'form': next(iter(forms(kernel)), ''),
        'dimensions': {'all': arguments.size, 'searched': result.dimensions},
        'fpr': arguments.fpr,
        'threshold': float(result.thresholds[0]),
        'above': int(result.accepted[0]),
        'positives': result.positives,
    }
    console.table(
        f'{arguments.probes} probes among {arguments.distractors} distractors',
        ('pairs', 'seconds', 'CPU seconds', 'pairs/s', 'kernel', 'dimensions', 'threshold'),
        [
            (
                f'{found["pairs"]:.3g}',
                f'{seconds:.1f}',
                f'{cpu_seconds:.1f}',
                f'{found["pairs_per_second"]:.3g}',
                f'{kernel} {found["form"]}'.strip(),
                f'{result.dimensions} of {arguments.size}',
                f'{found["threshold"]:.4f}',
            )
        ],
    )
    return {'machine': machine(), 'like': arguments.like or '', **found}


main = console.command('bench identify', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
