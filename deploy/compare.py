"""Compare the faces of two photographs: their cosine and whether it is one person.

The decision is made at the threshold for a chosen false-accept rate. Thresholds belong to a model
and to faces like those it will see: `vargfacenet export --pairs` stores them with the model;
--pairs measures them here, --threshold sets one. In a photograph with several faces the largest
counts. A picture of 112x112 is taken as it is, for an aligned crop.
"""

import argparse
import logging
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..common import console
from ..common.errors import InputError
from ..common.names import IMAGE_SIZE
from ..eval.datasets import load_bin
from . import embedder as embedders
from .embedder import FaceEmbedder, read_photo
from .thresholds import pair_cosines, threshold_at_far

log = logging.getLogger(__name__)

DEFAULT_FAR = 0.01


def stored_thresholds(embedder: FaceEmbedder) -> dict[str, float]:
    """FAR as text -> cosine, from export.json: those of the embedder's file in its run time, of the
    float32 ONNX file where that was not measured; {} without.
    """
    rows = embedder.record.get('verification', ())
    for wanted in ((embedder.weights.name, embedder.backend), ('model.onnx', embedder.backend)):
        for row in rows:
            if (row['file'], row['engine']) == wanted:
                return row['thresholds']
    return rows[0]['thresholds'] if rows else {}


def default_far(thresholds: dict[str, float]) -> Optional[str]:
    """Which of `stored_thresholds` counts when nobody has chosen one; None without any."""
    usual = f'{DEFAULT_FAR:g}'
    return usual if usual in thresholds else min(thresholds, key=float, default=None)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('photographs', nargs=2, metavar='PHOTO', help='two pictures')
    embedders.add_options(parser)
    parser.add_argument(
        '--far', type=float,
        help=f'false-accept rate, by default {DEFAULT_FAR:g} or the lowest that is stored',
    )  # fmt: skip
    parser.add_argument('--pairs', metavar='BIN', help='verification .bin to measure it on')
    parser.add_argument('--threshold', type=float, help='cosine above which it is one person')


class Decision(NamedTuple):
    """The cosine above which it is one person, and the false-accept rate that it stands for."""

    threshold: Optional[float]  # None if nothing tells
    far: Optional[float]  # None if it is not known


def choose_threshold(args: argparse.Namespace, embedder: FaceEmbedder) -> Decision:
    """The threshold of the options `threshold`, `pairs` and `far`, which count in this order.

    Raises InputError for a FAR that the pairs or the export cannot tell.
    """
    if args.far is not None and not 0 < args.far < 1:
        raise InputError(f'--far {args.far:g}: expected a share between 0 and 1')
    if args.threshold is not None:
        if not -1 <= args.threshold <= 1:
            raise InputError(f'--threshold {args.threshold:g}: a cosine is -1..1')
        return Decision(args.threshold, None)
    if args.pairs:
        images, issame = load_bin(args.pairs)
        far = DEFAULT_FAR if args.far is None else args.far
        return Decision(threshold_at_far(pair_cosines(embedder.embed(images)), issame, far), far)
    known = stored_thresholds(embedder)
    if not known:
        log.warning(
            'no decision: %s has no thresholds; export it with --pairs, or give --pairs or '
            '--threshold',
            embedder.model,
        )
        return Decision(None, None)
    far = default_far(known) if args.far is None else f'{args.far:g}'
    if far not in known:
        raise InputError(
            f'--far {far}: the export has thresholds for {", ".join(known)}; take one of them, or '
            f'measure with --pairs'
        )
    return Decision(known[far], float(far))


class Face(NamedTuple):
    """The face of a picture that counts."""

    embedding: np.ndarray  # (D,) float32, unit length
    crop: np.ndarray  # (112, 112, 3) uint8 RGB
    count: int  # faces in the picture


class NoFace(InputError):
    """A picture in which no face is found."""

    def __init__(self):
        super().__init__(
            'no face found; take a photograph where it is larger and seen from the front'
        )


def find_face(embedder: FaceEmbedder, image: np.ndarray) -> Face:
    """The largest face of a (H, W, 3) uint8 RGB picture; NoFace if there is none."""
    if image.shape[:2] == (IMAGE_SIZE, IMAGE_SIZE):
        return Face(embedder.embed(image[None])[0], image, 1)
    faces = embedder.embed_photos([image], which='all')[0]
    if not len(faces.scores):
        raise NoFace()
    return Face(faces.embeddings[0], faces.crops[0], len(faces.scores))


def face_of(embedder: FaceEmbedder, path: str) -> Face:
    """The largest face of a picture file; InputError if there is none in it."""
    image = read_photo(path)
    try:
        face = find_face(embedder, image)
    except NoFace as error:
        raise InputError(f'{path}: {error}') from None
    if face.count > 1:
        log.warning('%s: %d faces; the largest counts', path, face.count)
    return face


def run(args: argparse.Namespace) -> dict:
    embedder = embedders.from_options(args)
    threshold, far = choose_threshold(args, embedder)
    first, second = (face_of(embedder, path) for path in args.photographs)
    cosine = float(np.dot(first.embedding.astype(np.float64), second.embedding))
    same = None if threshold is None else cosine > threshold
    words = {True: 'the same person', False: 'different people', None: 'no decision'}
    console.table(
        ' and '.join(Path(path).name for path in args.photographs),
        ('decision', 'cosine', 'threshold', 'FAR'),
        [(
            words[same],
            f'{cosine:.4f}',
            '' if threshold is None else f'{threshold:.4f}',
            '' if far is None else f'{far:g}',
        )],
    )  # fmt: skip
    return {
        'cosine': cosine,
        'threshold': threshold,
        'far': far,
        'same': same,
        'faces': [first.count, second.count],
        'model': args.model,
        'backend': embedder.backend,
    }


main = console.command('compare', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
