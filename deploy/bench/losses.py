"""Measure what a step of every loss costs beside one of ArcFace: heads alone, on given embeddings.

Forward, backward and update, all losses in turn in one process. `compiled` says whether the loss
has an operator of the project's; ArcFace and ArcNegFace are measured on stock operators as well.
"""

import argparse
import sys
from typing import Any

from ...common import console
from ...common.engine import ops
from ...common.options import integer
from ...recognition import presets
from ...recognition.losses import LOSSES, ClassificationLoss, make_loss
from . import report
from .measure import SECONDS, check_options, faster, in_turn, machine
from .steps import loss_step

BASE = 'arcface'
STOCK = ', stock operators'


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--classes', type=int, default=10000, help='of the heads')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--embedding-size', type=int, default=512)
    parser.add_argument('--seconds', type=float, default=60, help='to measure, about')


def candidates() -> dict[str, tuple[ClassificationLoss, dict[str, Any]]]:
    """What is measured -> the loss, and what else `loss_step` is told."""
    rows = {name: (row.loss, row.loss_options) for name, row in presets.loss.items()}
    covered = {*rows, *(loss for loss, _ in rows.values())}
    rows.update({name: (name, {}) for name in LOSSES if name not in covered})
    found = {name: (make_loss(loss, options), {}) for name, (loss, options) in rows.items()}
    for name in (BASE, 'arcnegface'):
        found[name + STOCK] = found[name][0], {'compiled': False}
    found[BASE + ' --label-smoothing 0.1'] = found[BASE][0], {'smoothing': 0.1}
    found[BASE + ' --regular-face 1'] = found[BASE][0], {'exclusive': 1.0}
    return found


def is_compiled(loss: ClassificationLoss, more: dict[str, Any]) -> bool:
    """Whether the loss has an operator of its own, and may use it."""
    own = type(loss).compiled is not ClassificationLoss.compiled
    return own and more.get('compiled', True) and ops.available()


def show(rows: list[dict], classes: int) -> None:
    cells = [
        [
            row['loss'],
            'yes' if row['compiled'] else 'no',
            f'{1000 * row["seconds_median"]:.1f}',
            report.shown(row['ratio']),
        ]
        for row in rows
    ]
    title = f'losses at {classes:,} classes: forward, backward, update'
    console.table(title, ['loss', 'compiled', 'ms', f'times the time of {BASE}'], cells)


def run(args: argparse.Namespace) -> dict:
    sizes_from = {'classes': integer(2), 'batch_size': integer(2), 'embedding_size': integer(1)}
    check_options(args, {**sizes_from, 'seconds': SECONDS})
    sizes = (args.classes, args.batch_size, args.embedding_size)
    found = candidates()
    steps = {name: loss_step(*sizes, loss, **more) for name, (loss, more) in found.items()}
    times = in_turn(steps, args.seconds, slice_seconds=min(0.5, args.seconds / 50))
    rows = [
        {
            'loss': name,
            'compiled': is_compiled(*found[name]),
            **timing.summary(),
            'ratio': vars(faster(timing, times[BASE])),
        }
        for name, timing in times.items()
    ]
    show(rows, args.classes)
    head = dict(zip(('classes', 'batch_size', 'embedding_size'), sizes))
    return {'machine': machine(), **head, 'losses': rows}


main = console.command('bench losses', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
