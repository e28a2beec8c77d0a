"""Feature file of the LFR challenge (ICCV 2019, trillionpairs) from a checkpoint.

The image track takes one crop a line of the list: g(image) + g(mirror image), of unit length. The
video track takes one folder of frames a line, which `--pooling` makes one embedding of unit length;
`--flip` adds mirror images there too. FLOPs are those of one pass, as in the challenge. Rows are in
the order of the list; a missing one is zero, and counted.
"""

import argparse
import logging
import time
from pathlib import Path
from typing import NamedTuple, Optional

from ..common import console, flops
from ..common.data.listed import read_list
from ..common.engine.export_record import model_files
from ..common.engine.open_model import OpenModel
from ..common.engine.options import add_options, open_from
from ..common.errors import InputError
from ..common.files import output_file
from .features import check_some_there, image_rows, video_rows, write_features
from .frame_quality import FramePooling, add_pooling_options, pooling_from
from .image_list import report_missing

log = logging.getLogger(__name__)

_FLOAT32_BYTES = 4


class Budget(NamedTuple):
    """What a track allows; FLOPs as the organisers count them, sizes in 2**20 bytes."""

    flops: int
    megabytes: Optional[float]


# G is 2**30 here: the light track's winner, VarGFaceNet, counts 1,022,388,952
BUDGETS = {'light': Budget(2**30, 20.0), 'large': Budget(30 * 2**30, None)}
IMAGE_ROWS, VIDEO_ROWS = 1_862_120, 203_848  # of the challenge's own lists


def check_budget(count: flops.Count, budget: str) -> dict:
    """Compare a network with a track's rule.

    Returns
    -------
    dict with flops, megabytes (float32 parameters), their limits and `within_budget`
    """
    rule = BUDGETS[budget]
    megabytes = count.params * _FLOAT32_BYTES / 2**20
    fits = count.flops <= rule.flops and (rule.megabytes is None or megabytes <= rule.megabytes)
    return {
        'budget': budget,
        'flops': count.flops,
        'flops_limit': rule.flops,
        'megabytes': round(megabytes, 2),
        'megabytes_limit': rule.megabytes,
        'within_budget': fits,
    }


def _count(embedder: OpenModel, pooling: Optional[FramePooling]) -> flops.Count:
    """Of one picture or frame: the embedding, and what judges the frame."""
    counts = [embedder.count()] + ([pooling.judge.count()] if pooling else [])
    return flops.Count(sum(one.flops for one in counts), sum(one.params for one in counts))


def build_parser(parser: console.Parser) -> None:
    add_options(parser)
    parser.add_argument(
        '--list', required=True, metavar='FILE', help="the challenge's filelist.txt"
    )
    parser.add_argument('--root', required=True, type=Path, metavar='DIR', help='what it names')
    parser.add_argument('--out', required=True, type=Path, metavar='FILE', help='feature file')
    parser.add_argument('--track', choices=('image', 'video'), default='image', help='kind of list')
    add_pooling_options(parser)
    parser.add_argument(
        '--flip',
        action='store_true',
        help="of video frames, the mean with the mirror image's embedding, as in QAN++",
    )
    parser.add_argument('--budget', choices=sorted(BUDGETS), default='light', help='rule to check')
    parser.add_argument('--batch-size', type=int, default=64, help='images per forward pass')


def _read_names(arguments: argparse.Namespace) -> list[str]:
    """The names of the list, once the options are found right."""
    console.check_ranges([('--batch-size', arguments.batch_size, 1, 4096)])
    models = filter(None, (arguments.model, arguments.quality))
    read = [path for model in models for path in model_files(model)]
    output_file(arguments.out, (arguments.list, *read))
    names = [name for name, *_ in read_list(arguments.list, arguments.root)]
    if not arguments.root.is_dir():
        raise InputError(
            f'--root {arguments.root} is no folder; {arguments.list} names what is in it'
        )
    is_video = arguments.track == 'video'
    if not is_video:
        console.refuse_options(
            arguments,
            ('pooling', 'quality', 'flip'),
            'only with --track video; the image track always mirrors',
        )
    check_some_there(arguments.root, names, arguments.list, is_video)
    return names


def _warn_of_budget(arguments: argparse.Namespace, rule: dict) -> None:
    if not rule['within_budget']:
        log.warning(
            '%s: %.4g FLOPs and %.1f MB are more than the %s track allows (%.4g FLOPs%s)',
            arguments.model,
            rule['flops'],
            rule['megabytes'],
            arguments.budget,
            rule['flops_limit'],
            '' if rule['megabytes_limit'] is None else f', {rule["megabytes_limit"]:g} MB',
        )


def run(arguments: argparse.Namespace) -> dict:
    names = _read_names(arguments)
    video = arguments.track == 'video'
    embedder = open_from(arguments, arguments.batch_size, 'mxnet')
    pooling = pooling_from(arguments, embedder, arguments.batch_size, 'mxnet') if video else None
    rule = check_budget(_count(embedder, pooling), arguments.budget)
    _warn_of_budget(arguments, rule)
    expected = VIDEO_ROWS if video else IMAGE_ROWS
    if len(names) != expected:
        log.info("%d rows; the challenge's own list has %d", len(names), expected)
    source = (embedder, arguments.root, names)
    rows = video_rows(*source, pooling, arguments.flip) if video else image_rows(*source)
    started = time.monotonic()
    missing = write_features(arguments.out, rows, names, embedder.embedding_size)
    seconds = time.monotonic() - started
    report_missing(missing, len(names), 'rows')
    console.table(
        f'{arguments.out}: {arguments.track} track',
        ('', 'value'),
        [
            ('rows', f'{len(names):,}'),
            ('missing rows (zero)', f'{len(missing):,}'),
            ('embedding size', embedder.embedding_size),
            ('FLOPs', f'{rule["flops"]:,} of {rule["flops_limit"]:,}'),
            ('MB float32', f'{rule["megabytes"]} of {rule["megabytes_limit"] or "any"}'),
            ('rows/s', f'{len(names) / seconds:.1f}'),
        ],
    )
    return {
        'out': str(arguments.out),
        'track': arguments.track,
        'rows': len(names),
        'columns': embedder.embedding_size,
        'missing': len(missing),
        'missing_names': missing[:1000],
        'rows_per_second': len(names) / seconds,
        'flip': arguments.flip or not video,
        'pooling': pooling and pooling.name,
        'quality': pooling and pooling.judge.name,
        **rule,
    }


main = console.command('lfr', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
