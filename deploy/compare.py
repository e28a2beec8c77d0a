"""Compare the faces of two photographs: their cosine and whether it is one person.

The decision is made at the threshold for a chosen false-accept rate. Thresholds belong to a model
and to faces like those it will see: `vargfacenet export --people` or `--pairs` stores them with the
model; --pairs measures them here, --threshold sets one. In a photograph with several faces the
largest counts. A picture of 112x112 whose face lies on the template is taken for an aligned crop.
"""

import argparse
from pathlib import Path

from ..common import console
from ..common.engine.engines import AUTO, ENGINES, PRECISIONS
from ..common.engine.export_record import read_record, weights_name
from ..common.engine.model_name import resolve
from ..common.engine.open_model import ONNX, SLIM
from ..common.engine.options import add_options_or_default
from ..common.files import input_file
from .decide import (
    Decision,
    add_threshold_options,
    check_threshold_options,
    choose_threshold,
    embedder_from,
)
from .decision_log import check_log_path
from .decision_notes import note_comparison
from .faces import add_faces_option, cosine_of, face_of

_SOON = 'onnxruntime'  # answers with two pictures before OpenVINO, faster with many, is ready


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('photographs', nargs=2, metavar='PHOTO', help='two pictures')
    add_options_or_default(parser)
    add_faces_option(parser)
    add_threshold_options(parser)
    parser.add_argument(
        '--log',
        metavar='FILE',
        help='append the decision, without names, scores and pictures (docs/privacy.md)',
    )


def _engine(args: argparse.Namespace) -> str:
    """What 'auto' is for two pictures, which start-up takes longer than."""
    plain = (args.engine, args.precision, args.device) == (AUTO, PRECISIONS[0], 'cpu')
    few = plain and not args.pairs
    if few and ENGINES.get(_SOON).available() and not _measured_elsewhere(args.model):
        return _SOON
    return args.engine


def _measured_elsewhere(model: str) -> bool:
    """Whether the thresholds of this very file were measured in other engines alone.

    Those of a float32 file do not count: engines agree in float32 to rounding, in int8 they do not.
    """
    path = resolve(model)
    name = weights_name(path)
    rows = read_record(path).get('verification', ())
    if name in (ONNX, weights_name(SLIM)):
        return False
    engines = {row['engine'] for row in rows if row['file'] == name}
    return bool(engines) and _SOON not in engines


def run(args: argparse.Namespace) -> dict:
    for path in args.photographs:  # before a model is loaded and speaks
        input_file(path, 'photograph')
    check_threshold_options(args)
    if args.log:
        check_log_path(args.log)
    args.engine = _engine(args)
    embedder = embedder_from(args)
    threshold, far = choose_threshold(args, embedder)
    first, second = (face_of(embedder, path, args.faces) for path in args.photographs)
    cosine = cosine_of(first.face, second.face)
    same = None if threshold is None else cosine > threshold
    note_comparison(args.log, 'compare', args.model, Decision(threshold, far), same)
    words = {True: 'the same person', False: 'different people', None: 'no decision'}
    row = (
        words[same],
        f'{cosine:.4f}',
        '' if threshold is None else f'{threshold:.4f}',
        '' if far is None else f'{far:g}',
    )
    console.table(
        ' and '.join(Path(path).name for path in args.photographs),
        ('decision', 'cosine', 'threshold', 'FAR'),
        [row],
    )
    return {
        'cosine': cosine,
        'threshold': threshold,
        'far': far,
        'same': same,
        'pictures': [first.summary(), second.summary()],
        'model': args.model,
        'backend': embedder.backend,
    }


main = console.command('compare', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
