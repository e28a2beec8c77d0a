"""Decisions: the threshold of a comparison, and of a gallery.

Two faces are compared at the threshold for a chosen false-accept rate, a gallery names people at
one for a false-identification rate, which depends on its size. Thresholds belong to a model and to
faces like those it will see: `vargfacenet export --people` or `--pairs` stores them with the model.
"""

import argparse
import logging
from typing import NamedTuple, Optional

from ..common.console import Parser
from ..common.engine.options import open_from
from ..common.errors import InputError
from ..common.files import input_file
from .embedder import FaceEmbedder
from .tail import GalleryDecision, Tail, fpir_of, gallery_decision
from .thresholds import measure_file

log = logging.getLogger(__name__)

DEFAULT_FAR = 0.001
DEFAULT_FPIR = 0.01
HOW_TO_GET_THRESHOLDS = (
    'export the checkpoint with --people FOLDER (crops of your people in folders) or --pairs BIN, '
    'and take the export as --model'
)


def embedder_from(args: argparse.Namespace, many: bool = False) -> FaceEmbedder:
    """The embedder of the options of `common/engine/options` and `faces`; `many` as of
    FaceDetector."""
    return FaceEmbedder.of(open_from(args), args.min_face, args.detector, many)


def stored_row(embedder: FaceEmbedder) -> dict:
    """What export.json measured: of the embedder's file in its engine, else in another, else of
    the float32 ONNX file; {} without, since another file's thresholds are not its own.
    """
    rows = embedder.record.get('verification', ())
    file, engine = embedder.weights.name, embedder.backend
    for wanted in ((file, engine), (file, None), ('model.onnx', engine), ('model.onnx', None)):
        for row in rows:
            if row['file'] == wanted[0] and wanted[1] in (row['engine'], None):
                return row
    return {}


def stored_thresholds(embedder: FaceEmbedder) -> dict[str, float]:
    """FAR as text -> cosine, of `stored_row`; {} without."""
    return stored_row(embedder).get('thresholds', {})


class Rates(NamedTuple):
    """What counts when nobody has chosen a rate."""

    far: float = DEFAULT_FAR
    fpir: float = DEFAULT_FPIR


def usual_rates(embedder: FaceEmbedder) -> Rates:
    """Those that export.json names (`export --usual-far`), else the usual ones."""
    return Rates(**embedder.record.get('usual_rates', {}))


def default_far(thresholds: dict[str, float], usual: float = DEFAULT_FAR) -> Optional[str]:
    """Which of `stored_thresholds` counts when nobody has chosen one: that of `usual`, else the
    lowest; None without any."""
    known = f'{usual:g}'
    return known if known in thresholds else min(thresholds, key=float, default=None)


def add_threshold_options(
    parser: Parser,
    otherwise: str = f"by default the export's, which is {DEFAULT_FAR:g} or the lowest stored",
) -> None:
    """The options of `choose_threshold`; `otherwise` says what counts without --far."""
    parser.add_argument(
        '--far',
        type=float,
        help=f'false-accept rate of one comparison, {otherwise}',
    )
    parser.add_argument(
        '--pairs', metavar='BIN', help='verification .bin to measure the threshold on'
    )
    parser.add_argument('--threshold', type=float, help='cosine above which it is one person')


def check_threshold_options(args: argparse.Namespace) -> None:
    """Raise InputError for options of `choose_threshold` that are out of range, name no file or
    exclude each other: before a model is opened."""
    if args.threshold is not None and (args.far is not None or args.pairs):
        raise InputError('--threshold chooses the cosine itself; leave out --far and --pairs')
    if args.far is not None and not 0 < args.far < 1:
        raise InputError(f'--far {args.far:g}: expected a share between 0 and 1')
    if args.threshold is not None and not -1 <= args.threshold <= 1:
        raise InputError(f'--threshold {args.threshold:g}: a cosine is -1..1')
    if args.pairs:
        input_file(args.pairs, 'pair set')


class Decision(NamedTuple):
    """The cosine above which it is one person, and the false-accept rate that it stands for."""

    threshold: Optional[float]  # None if nothing tells
    far: Optional[float]  # None if it is not known


def choose_threshold(args: argparse.Namespace, embedder: FaceEmbedder) -> Decision:
    """The threshold of the options `threshold`, `pairs` and `far`.

    Raises InputError as `check_threshold_options`, and for a FAR that the pairs or the export
    cannot tell.
    """
    check_threshold_options(args)
    if args.threshold is not None:
        return Decision(args.threshold, None)
    if args.pairs:
        measured = measure_file(embedder.embed, args.pairs, args.far)
        usual = usual_rates(embedder).far
        lowest = min(measured.thresholds(), default=usual)
        far = max(usual, lowest) if args.far is None else args.far
        return Decision(measured.threshold(far), far)
    known = stored_thresholds(embedder)
    if not known:
        log.warning(
            'no decision: %s has no thresholds; %s, or give --pairs or --threshold',
            embedder.model,
            HOW_TO_GET_THRESHOLDS,
        )
        return Decision(None, None)
    usual = usual_rates(embedder).far
    far = default_far(known, usual) if args.far is None else f'{args.far:g}'
    if far not in known:
        raise InputError(
            f'--far {far}: the export has thresholds for {", ".join(known)}; take one of them, or '
            f'measure with --pairs'
        )
    return Decision(known[far], float(far))


def check_fpir(fpir: Optional[float], usual: float = DEFAULT_FPIR) -> float:
    """A false-identification rate, `usual` for None; InputError for one that is none."""
    if fpir is None:
        return usual
    if not 0 < fpir < 1:
        raise InputError(f'FPIR {fpir:g}: expected a share between 0 and 1')
    return fpir


def decide_for_gallery(
    embedder: FaceEmbedder, faces: int, fpir: float
) -> Optional[GalleryDecision]:
    """The threshold at which a gallery of `faces` names a share `fpir` of strangers.

    None for a model without thresholds. Where what was measured does not reach so far, a warning
    says so and the decision which rate holds.
    """
    row = stored_row(embedder)
    if not row.get('thresholds'):
        return None
    decision = gallery_decision(row['thresholds'], Tail.of(row.get('tail')), max(faces, 1), fpir)
    if decision.fpir > fpir:
        log.warning(
            'the thresholds of %s tell no false-identification rate below %.2g for a gallery of '
            '%d face%s; %s of more people',
            embedder.model,
            decision.fpir,
            faces,
            's' * (faces != 1),
            HOW_TO_GET_THRESHOLDS,
        )
    return decision


def check_gallery_options(args: argparse.Namespace) -> None:
    """Raise InputError for options of `choose_for_gallery`, as `check_threshold_options`."""
    check_threshold_options(args)
    check_fpir(args.fpir)
    single = (args.threshold, args.pairs, args.far)
    if args.fpir is not None and any(value is not None for value in single):
        raise InputError('--fpir chooses the threshold; leave out --threshold, --pairs and --far')


def choose_for_gallery(
    args: argparse.Namespace, embedder: FaceEmbedder, faces: int
) -> Optional[GalleryDecision]:
    """The decision of a gallery by the options `threshold`, `pairs`, `far` and `fpir`.

    With one of the first three it is that of one comparison, and the rate of the gallery follows
    from it where it is known.
    """
    check_gallery_options(args)
    fpir = check_fpir(args.fpir, usual_rates(embedder).fpir)
    if args.threshold is None and args.pairs is None and args.far is None:
        decision = decide_for_gallery(embedder, faces, fpir)
        if decision is None:
            choose_threshold(args, embedder)  # says why
        return decision
    threshold, far = choose_threshold(args, embedder)
    if threshold is None:
        return None
    share = None if far is None else fpir_of(far, max(faces, 1))
    return GalleryDecision(threshold, share, faces, far)
