"""Measure the margin head: one-hot labels and arrays of unit centres against one operator.

Forward, backward and update of ArcFace on given embeddings; a process for every figure, since
memory counts, both sides in turn.
"""

import argparse
import logging
import sys
from collections.abc import Callable

import numpy as np

from ...common import console
from ...common.backend import mx
from ...common.engine import ops
from ...common.errors import InputError, RunError
from ...common.names import LABEL
from ...recognition.losses import class_loss
from . import child, report
from .measure import Timing, check_numbers, faster, machine
from .steps import ARCFACE, one_hot_logits, start, update

log = logging.getLogger(__name__)

EMBEDDING = 'embedding'


def head_step(classes: int, batch_size: int, size: int, stock: bool) -> Callable[[], None]:
    """A function that makes one step of a head alone on embeddings that are in memory."""
    embedding, label = mx.sym.Variable(EMBEDDING), mx.sym.Variable(LABEL)
    if stock:
        symbol = mx.sym.SoftmaxOutput(one_hot_logits(embedding, label, classes, size), label)
    else:
        loss, correct = class_loss(
            'margin', embedding, label, classes, size, ARCFACE, compiled=ops.available()
        )
        symbol = mx.sym.Group([mx.sym.MakeLoss(loss), mx.sym.BlockGrad(correct)])
    module = mx.mod.Module(symbol, [EMBEDDING], [LABEL], context=mx.cpu())
    shapes = [(EMBEDDING, (batch_size, size))], [(LABEL, (batch_size,))]
    module.bind(*shapes, for_training=True, inputs_need_grad=True)
    start(module, batch_size)
    random = np.random.RandomState(0)
    batch = mx.io.DataBatch(
        [mx.nd.array(random.randn(batch_size, size))],
        [mx.nd.array(random.randint(0, classes, batch_size))],
    )

    return lambda: update(module, batch)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--classes', default='1000,10000,93431,1000000', help='to measure')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--embedding-size', type=int, default=512)
    parser.add_argument('--rounds', type=int, default=3, help='processes of each side, in turn')
    report.add_out(parser, 'all figures')


def compare(classes: int, args: argparse.Namespace) -> dict:
    """Both sides with one number of classes; a side that does not fit says so."""
    seconds: dict[str, list] = {'stock': [], 'ours': []}
    sizes: dict[str, int] = {}
    failed: dict[str, str] = {}
    for _ in range(args.rounds):
        for side in [side for side in seconds if side not in failed]:
            try:
                found = child.run(
                    'head', classes=classes, batch_size=args.batch_size,
                    size=args.embedding_size, stock=side == 'stock', rounds=3,
                )  # fmt: skip
            except RunError as error:
                failed[side] = str(error)
                log.info('%d classes, %s: %s', classes, side, error)
                continue
            seconds[side].append(Timing(tuple(found['seconds'])).median)
            sizes[side] = max(found['bytes'], sizes.get(side, 0))
    row = {'classes': classes, 'failed': failed}
    for side, values in seconds.items():
        if values and side not in failed:
            row[side] = {**Timing(tuple(values)).summary(), 'bytes': sizes[side]}
    if not failed:
        times = (Timing(tuple(seconds[side])) for side in ('stock', 'ours'))
        row['ratio'] = vars(faster(*times))
    return row


def show(rows: list[dict]) -> None:
    cells = []
    for row in rows:
        line = [f'{row["classes"]:,}']
        for side in ('stock', 'ours'):
            known = side in row
            line.append(f'{1000 * row[side]["seconds_median"]:.1f}' if known else 'does not fit')
            line.append(f'{row[side]["bytes"] / 1e6:,.0f}' if known else '-')
        ratio = row.get('ratio')
        line.append(
            f'{ratio["median"]:.1f} ({ratio["low"]:.1f}-{ratio["high"]:.1f})' if ratio else '-'
        )
        cells.append(line)
    console.table(
        'margin head: forward, backward, update',
        ['classes', 'stock ms', 'stock MB', 'ours ms', 'ours MB', 'times as fast'],
        cells,
    )


def panels(rows: list[dict]) -> list:
    found = []
    for title, unit, pick in (
        ('time by classes', 'ms', lambda side: 1000 * side['seconds_median']),
        ('memory by classes', 'GB', lambda side: side['bytes'] / 1e9),
    ):
        lines = {}
        for side in ('stock', 'ours'):
            known = [row for row in rows if side in row]
            lines[side] = [row['classes'] for row in known], [pick(row[side]) for row in known]
        found.append((title, 'classes', unit, lines))
    return found


def run(args: argparse.Namespace) -> dict:
    report.check_out(args.out)
    classes = check_numbers(args.classes, '--classes')
    for option in ('batch_size', 'embedding_size', 'rounds'):
        if getattr(args, option) < 1:
            name = option.replace('_', '-')
            raise InputError(f'--{name} {getattr(args, option)}: must be at least 1')
    with console.progress(len(classes), 'heads', 'sizes') as bar:
        rows = []
        for number in classes:
            rows.append(compare(number, args))
            bar.advance()
    show(rows)
    result = {'machine': machine(), 'batch_size': args.batch_size, 'heads': rows}
    return report.write(args.out, result, panels(rows))


main = console.command('bench head', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
