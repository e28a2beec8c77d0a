"""Embed a folder or a list of pictures: FOLDER|LIST -> feats.npz.

Pictures of 112x112 are aligned crops and are taken as they are; in all others the largest face is
found and aligned first. Decoding and detecting go on in threads while the network runs. The .npz
holds `embeddings` float32 (N, D) of unit length, `paths` (N,), `boxes` (N, 4) and `scores` (N,);
pictures without a face are left out and listed in the JSON result.
"""

import argparse
import io
import logging
import shutil
import tempfile
import threading
import zipfile
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..common import console
from ..common.data.image import IMAGE_SUFFIXES
from ..common.engine.options import add_options
from ..common.errors import InputError
from ..common.files import atomic_path, input_file, output_folder
from ..common.names import IMAGE_SIZE
from ..common.parallel import cpu_count, ordered_map
from .decide import embedder_from
from .embedder import SMALLEST_FACE, FaceFinder, read_photo

log = logging.getLogger(__name__)

FACES = ('auto', 'crop', 'detect')
_SHOWN = 100  # names of pictures without a face in the JSON result


class Found(NamedTuple):
    """The face of one picture; `crop` is None where there is none, `error` says why."""

    path: str
    crop: Optional[np.ndarray]
    box: np.ndarray
    score: float
    error: str = ''


def find_pictures(source: Path) -> list[Path]:
    """Pictures below a folder, sorted, or those a text file lists, one path a line (relative to
    the file's folder). Raises InputError if there are none.
    """
    if source.is_dir():
        paths = sorted(path for path in source.rglob('*') if path.suffix.lower() in IMAGE_SUFFIXES)
    else:
        try:
            text = input_file(source, 'folder or list of pictures').read_text('utf-8-sig')
        except UnicodeDecodeError:
            raise InputError(f'{source} is no list: expected text, one path a line') from None
        paths = [source.parent / line.strip() for line in text.splitlines() if line.strip()]
    if not paths:
        raise InputError(f'{source}: no pictures ({" ".join(sorted(IMAGE_SUFFIXES))})')
    return paths


class _Reader:
    """Reads pictures and finds their faces, from several threads, each with its own detector."""

    def __init__(self, faces: str, min_face: int, skip_broken: bool):
        self._faces = faces
        self._min_face = min_face
        self._skip_broken = skip_broken
        self._threads = threading.local()

    def __call__(self, path: Path) -> Found:
        nowhere = np.full(4, np.nan)
        try:
            image = read_photo(path)
            square = image.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE)
            if self._faces == 'crop' and not square:
                height, width = image.shape[:2]
                raise InputError(f'{path}: {width}x{height} pixels; an aligned crop has 112x112')
        except InputError as error:
            if not self._skip_broken:
                raise InputError(f'{error}; --skip-broken leaves such pictures out') from None
            return Found(str(path), None, nowhere, np.nan, str(error))
        if square and self._faces != 'detect':
            return Found(str(path), image, np.array([0.0, 0, IMAGE_SIZE, IMAGE_SIZE]), 1.0)
        if not hasattr(self._threads, 'finder'):
            self._threads.finder = FaceFinder(self._min_face)
        boxes, scores, crops = self._threads.finder.find(image, 'largest')
        if not len(crops):
            return Found(str(path), None, nowhere, np.nan, f'{path}: no face found')
        return Found(str(path), crops[0], boxes[0], float(scores[0]))


def _batches(items: Iterable, size: int) -> Iterator[list]:
    items = iter(items)
    while batch := list(islice(items, size)):
        yield batch


def write_features(path: Path, rows: io.BufferedIOBase, size: int, columns: dict) -> None:
    """Write an .npz whose `embeddings` come from a file of float32 rows, however many there are.

    Parameters
    ----------
    path : .npz to write, whole or not at all
    rows : binary file of N x size float32
    size : D
    columns : name -> array for the other members
    """
    count = rows.seek(0, io.SEEK_END) // (4 * size)
    rows.seek(0)
    header = {'descr': '<f4', 'fortran_order': False, 'shape': (count, size)}
    with atomic_path(path) as temporary, zipfile.ZipFile(temporary, 'w') as archive:
        with archive.open('embeddings.npy', 'w', force_zip64=True) as member:
            np.lib.format.write_array_header_1_0(member, header)
            shutil.copyfileobj(rows, member, 1 << 20)
        for name, column in columns.items():
            with archive.open(f'{name}.npy', 'w', force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(column), allow_pickle=False)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('source', type=Path, metavar='FOLDER|LIST', help='pictures')
    add_options(parser)
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='.npz to write')
    parser.add_argument(
        '--faces', choices=FACES, default='auto',
        help='crop: all are aligned crops; detect: find the face in all; auto: by their size',
    )  # fmt: skip
    parser.add_argument('--min-face', type=int, default=20, help='smallest face, in pixels')
    parser.add_argument(
        '--skip-broken', action='store_true', help='leave out pictures that cannot be decoded'
    )
    parser.add_argument('--batch-size', type=int, default=32, help='pictures per forward pass')
    parser.add_argument('--workers', type=int, default=cpu_count(), help='threads that read')


def run(args: argparse.Namespace) -> dict:
    console.check_ranges((
        ('--batch-size', args.batch_size, 1, 4096),
        ('--workers', args.workers, 1, 256),
        ('--min-face', args.min_face, SMALLEST_FACE, 10_000),
    ))  # fmt: skip
    if args.out.suffix != '.npz':
        raise InputError(f'--out {args.out}: expected a name that ends in .npz')
    paths = find_pictures(args.source)
    output_folder(args.out.parent)
    embedder = embedder_from(args)
    kept, without = [], []
    reader = _Reader(args.faces, args.min_face, args.skip_broken)
    with tempfile.TemporaryFile(dir=args.out.parent) as rows:
        with console.progress(len(paths), 'embed') as bar:
            found = ordered_map(reader, paths, args.workers)
            for batch in _batches(found, args.batch_size):
                faces = [face for face in batch if face.crop is not None]
                for face in batch:
                    if face.crop is None:
                        log.warning('%s; left out', face.error)
                        without.append(face.path)
                if faces:
                    crops = np.stack([face.crop for face in faces])
                    rows.write(embedder.embed(crops).tobytes())
                kept += [face._replace(crop=None) for face in faces]
                bar.advance(len(batch))
            rate = bar.rate
        columns = {
            'paths': np.array([face.path for face in kept], str),
            'boxes': np.array([face.box for face in kept], np.float64).reshape(-1, 4),
            'scores': np.array([face.score for face in kept], np.float64),
        }
        write_features(args.out, rows, embedder.embedding_size, columns)
    log.info('%s: %d of %d pictures, %.1f images/s', args.out, len(kept), len(paths), rate)
    return {
        'out': str(args.out),
        'images': len(paths),
        'embedded': len(kept),
        'left_out': len(without),
        'left_out_paths': without[:_SHOWN],
        'embedding_size': embedder.embedding_size,
        'images_per_second': rate,
        'backend': embedder.backend,
        'model': args.model,
        'input': embedder.preprocessing,
    }


main = console.command('embed', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
