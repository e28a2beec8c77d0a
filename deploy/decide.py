"""Decisions: thresholds of an export, the face of a photograph that counts.

The decision is made at the threshold for a chosen false-accept rate. Thresholds belong to a model
and to faces like those it will see: `vargfacenet export --pairs` stores them with the model.
"""

import argparse
import logging
from typing import NamedTuple, Optional

import numpy as np

from ..common.console import Parser
from ..common.engine.options import open_from
from ..common.errors import InputError
from ..eval.datasets import load_bin
from .embedder import FaceEmbedder, read_photo
from .thresholds import pair_cosines, threshold_at_far

log = logging.getLogger(__name__)

DEFAULT_FAR = 0.01


def embedder_from(args: argparse.Namespace) -> FaceEmbedder:
    """The embedder of the options of `common/engine/options`."""
    return FaceEmbedder.of(open_from(args))


def stored_thresholds(embedder: FaceEmbedder) -> dict[str, float]:
    """FAR as text -> cosine, from export.json: those of the embedder's file in its engine, of the
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


def add_threshold_options(parser: Parser, of_what: str = '') -> None:
    """The options of `choose_threshold`; `of_what` says what the rate is of."""
    parser.add_argument(
        '--far',
        type=float,
        help=f'false-accept rate{of_what}, by default {DEFAULT_FAR:g} or the lowest that is stored',
    )
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
    """The largest face of a (H, W, 3) uint8 RGB picture; NoFace if there is none.

    An aligned crop is taken as it is; a 112x112 photograph is none.
    """
    if embedder.is_crop(image):
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
