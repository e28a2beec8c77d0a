"""Embed pictures or videos, one, a folder of them or a list: FOLDER|LIST|FILE -> feats.npz.

Aligned crops of 112x112 are taken as they are; in all other pictures the largest face, or with
`--which all` every face, is found and aligned first; where none is found the picture is turned.
Decoding and detecting go on in threads while the network runs. The .npz holds a row a face:
`embeddings` float32 (N, D) of unit length, `paths` (N,), `labels` (N,), the name of the picture's
folder or what the list says behind it, `boxes` (N, 4), `scores` (N,) and `input`, what pixels
became before the model; pictures without a face are left out and listed in the JSON result. With
`--video` a row is a video: see `embed_video`.
"""

import argparse
import io
import logging
import shutil
import tempfile
import zipfile
from pathlib import Path
from typing import BinaryIO, NamedTuple

import cv2
import numpy as np

from ..common import console
from ..common.data import folders
from ..common.data.image import IMAGE_SUFFIXES
from ..common.data.listed import listed_path, read_list
from ..common.data.video import find_videos
from ..common.engine.options import add_options_or_default
from ..common.errors import InputError
from ..common.files import atomic_path, input_file, naming, output_file
from ..common.parallel import batches, cpu_count, ordered_map
from .decide import embedder_from
from .embed_video import add_video_options, check_video_options, run_videos
from .embedder import WHICH, FaceEmbedder, unit_length
from .faces import add_faces_option
from .picture_reader import NOTHING, Found, PictureReader

log = logging.getLogger(__name__)

_BATCHES_AHEAD = 2  # of crops, embedded or waiting for it
_SHOWN = 100  # names of pictures without a face, and of turned ones, in the JSON result


def find_pictures(source: Path) -> list[tuple[Path, str]]:
    """Pictures and their labels, each that of its folder's name.

    Those below a folder, sorted, a picture alone, or those that a list names: lines `PATH [LABEL]`,
    relative to the list's folder. Raises InputError if there are none.
    """
    if source.is_dir():
        found = folders.find_pictures(source)
        folders.warn_of_others(source, found.others)
        listed = [(path, []) for path in found.pictures]
    elif source.suffix.lower() in IMAGE_SUFFIXES:
        listed = [(input_file(source, 'picture'), [])]
    else:
        input_file(source, 'folder, picture or list of pictures')
        lines = read_list(source, source.parent)
        listed = [(listed_path(source.parent, name), rest) for name, *rest in lines]
    if not listed:
        raise InputError(f'{source}: no pictures ({" ".join(sorted(IMAGE_SUFFIXES))})')
    return [(path, rest[0] if rest else path.absolute().parent.name) for path, rest in listed]


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
    parser.add_argument('source', type=Path, metavar='FOLDER|LIST|FILE', help='pictures or videos')
    add_options_or_default(parser)
    parser.add_argument('--out', type=Path, required=True, metavar='FILE', help='.npz to write')
    add_faces_option(parser)
    add_video_options(parser)
    parser.add_argument(
        '--which', choices=WHICH, default='largest', help='face to take if there are several'
    )
    parser.add_argument(
        '--flip',
        action='store_true',
        help="add the mirror image's embedding, as verify and identify --model do; twice the work",
    )
    parser.add_argument(
        '--skip-broken', action='store_true', help='leave out pictures that cannot be decoded'
    )
    parser.add_argument('--batch-size', type=int, default=32, help='pictures per forward pass')
    parser.add_argument('--workers', type=int, default=cpu_count(), help='threads that read')


def _check(args: argparse.Namespace) -> None:
    ranges = [
        ('--batch-size', args.batch_size, 1, 4096),
        ('--workers', args.workers, 1, 256),
    ]
    console.check_ranges(ranges)
    if args.out.suffix != '.npz':
        raise InputError(f'--out {args.out}: expected a name that ends in .npz')
    output_file(args.out)


class _Tally(NamedTuple):
    """What came of the pictures; faces without their crops."""

    kept: list[tuple[Found, str]]  # with its label
    without: list[str]
    several: list[str]
    turned: list[str]

    def add(self, found: Found, label: str) -> None:
        if found.error:
            log.warning('%s; left out', found.error)
            self.without.append(str(found.path))
            return
        if found.count > 1:
            self.several.append(str(found.path))
        if found.turned:
            self.turned.append(str(found.path))
        self.kept.append((found, label))

    def columns(self) -> dict:
        faces = [(found.path, label) for found, label in self.kept for _ in found.scores]
        return {
            'paths': np.array([str(path) for path, _ in faces], str),
            'labels': np.array([label for _, label in faces], str),
            'boxes': np.concatenate([np.empty((0, 4)), *(found.boxes for found, _ in self.kept)]),
            'scores': np.concatenate([np.empty(0), *(found.scores for found, _ in self.kept)]),
        }


def _embedded(embedder: FaceEmbedder, crops: np.ndarray, flip: bool) -> np.ndarray:
    """(N, D) float32 of unit length; with `flip` the sums with those of the mirror images."""
    raw = embedder.raw(crops)
    if flip:
        raw = raw + embedder.raw(np.ascontiguousarray(crops[:, :, ::-1]))
    return unit_length(raw, embedder.model)


def _embed_all(
    args: argparse.Namespace, listed: list[tuple[Path, str]], embedder, rows
) -> tuple[_Tally, float]:
    """Write the embeddings of all faces to `rows`; what came of the pictures, pictures/s."""

    def embed(batch: list[Found]) -> tuple[list[Found], np.ndarray]:
        crops = np.concatenate([found.crops for found in batch])
        batch = [found._replace(crops=NOTHING) for found in batch]
        return batch, _embedded(embedder, crops, args.flip) if len(crops) else crops

    cv2.setNumThreads(1)  # our threads keep the CPUs busy; OpenCV's own would get in their way
    tally = _Tally([], [], [], [])
    paths, labels = [path for path, _ in listed], (label for _, label in listed)
    in_batches = batches(ordered_map(PictureReader(args), paths, args.workers), args.batch_size)
    with console.progress(len(paths), 'embed') as bar:
        # one batch is embedded while the next is found, however large they are
        for batch, embeddings in ordered_map(embed, in_batches, 1, _BATCHES_AHEAD):
            rows.write(embeddings.tobytes())
            for found, label in zip(batch, labels):
                tally.add(found, label)
            bar.advance(len(batch))
        return tally, bar.rate


def _run_pictures(
    args: argparse.Namespace, listed: list[tuple[Path, str]], embedder: FaceEmbedder, rows: BinaryIO
) -> tuple[dict, dict]:
    """Embeds all pictures; returns (columns of the .npz, JSON result)."""
    tally, rate = _embed_all(args, listed, embedder, rows)
    if tally.several and args.which == 'largest':
        log.warning(
            "several faces (of half of the largest one's side or more) in %d pictures, such as %s; "
            'the largest was taken (--which all takes every one)',
            len(tally.several),
            tally.several[0],
        )
    if tally.turned:
        log.warning(
            'in %d pictures, such as %s, a face was found only with the picture turned by 90 '
            'degrees or more',
            *(len(tally.turned), tally.turned[0]),
        )
    log.info('%s: %d of %d pictures, %.1f images/s', args.out, len(tally.kept), len(listed), rate)
    columns = tally.columns()
    return columns, {
        'images': len(listed),
        'embedded': len(tally.kept),
        'faces': len(columns['scores']),
        'several': len(tally.several),
        'turned': len(tally.turned),
        'turned_paths': tally.turned[:_SHOWN],
        'left_out': len(tally.without),
        'left_out_paths': tally.without[:_SHOWN],
        'images_per_second': rate,
    }


def run(args: argparse.Namespace) -> dict:
    _check(args)
    check_video_options(args)
    work = run_videos if args.video else _run_pictures
    found = (find_videos if args.video else find_pictures)(args.source)
    embedder = embedder_from(args)
    with naming(args.out), tempfile.TemporaryFile(dir=args.out.parent) as rows:
        columns, result = work(args, found, embedder, rows)
        if not rows.tell():
            reasons = result.get('left_out_videos') or result['left_out_paths']
            raise InputError(
                f'none of {len(found)} {"videos" if args.video else "pictures"} has a face that '
                f'can be embedded, so {args.out} is not written; the first: {reasons[0]}'
            )
        columns['input'] = np.array(embedder.preprocessing)
        write_features(args.out, rows, embedder.embedding_size, columns)
    return {
        'out': str(args.out),
        **result,
        'embedding_size': embedder.embedding_size,
        'backend': embedder.backend,
        'model': args.model,
        'input': embedder.preprocessing,
    }


main = console.command('embed', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
