"""Measure distillation: from the teacher store, from a live teacher, and the stock way.

Noise images that are already in memory, ArcFace plus the angular distance to a ResNet100-SE
teacher with random weights; every side in a process of its own, two in turn, and the stock way
under the setting of MXNet that suits it best.
"""

import argparse
import logging
import sys
import tempfile
from contextlib import ExitStack

from ...common import console
from ...common.options import integer
from ...symbol import network_options
from . import report
from .child import Worker
from .distilling import (
    live_step,
    plain_step,
    stock_step,
    stored_step,
    teaching_step,
)
from .measure import SECONDS, Timing, check_options, faster, machine, slices_in_turn
from .stock import Variant, environments, fastest

log = logging.getLogger(__name__)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--student', default='vargfacenet', help='a name of `vargfacenet info`')
    parser.add_argument('--teacher', default='r100_se', help='a name of `vargfacenet info`')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--seconds', type=float, default=60, help='for each comparison, at least')
    report.add_out(parser, 'all figures')


def teaching_rates(teacher: str, batch_size: int, seconds: float) -> dict:
    """Images a second of the teacher in MXNet and in the engine that fills the store."""
    options = {'teacher': teacher, 'batch_size': batch_size}
    with ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker(teaching_step, **options, live=name == 'mxnet'))
            for name in ('mxnet', 'store')
        }
        engine = workers['store'].about
        times = slices_in_turn(workers, seconds)
    rates = {name: timing.summary(batch_size) for name, timing in times.items()}
    return {**rates, 'engine': engine, 'ratio': vars(faster(times['mxnet'], times['store']))}


def cost(plain: Timing, other: Timing) -> dict:
    """How many times the time of `plain`: the reverse of how much faster it is."""
    return vars(faster(other, plain))


def show(result: dict) -> None:
    rows = [
        ['plain training', result['store']['plain'], '1'],
        ['from the store', result['store']['stored'], report.shown(result['store']['cost'])],
        [
            'live teacher, our operators',
            result['live']['live'],
            report.shown(result['live']['cost']),
        ],
        [f'the stock way, MXNet {result["stock"]["setting"]}', result['stock']['stock'], ''],
    ]
    console.table(
        f'distillation, a step of {result["batch_size"]}',
        ['step', 'ms', 'images/s', 'times plain training'],
        [
            [name, f'{1000 * row["seconds_median"]:.1f}', f'{row["per_second"]:.2f}', times]
            for name, row, times in rows
        ],
    )
    log.info(
        'the store is %s times as fast as the stock way', report.shown(result['stock']['ratio'])
    )
    teach = result['teach']
    rates = [teach[side]['per_second'] for side in ('store', 'mxnet')]
    log.info('filling a store with %s: %.1f images/s; with mxnet %.1f', teach['engine'], *rates)


def panels(result: dict) -> list:
    sides = [('store', 'plain'), ('store', 'stored'), ('live', 'live'), ('stock', 'stock')]
    rates = [result[part][side]['per_second'] for part, side in sides]
    lines = {'images/s': ([side for _, side in sides], rates)}
    return [('distillation', 'side', 'images/s', lines)]


def run(args: argparse.Namespace) -> dict:
    report.check_out(args.out)
    check_options(args, {'batch_size': integer(1), 'seconds': SECONDS})
    for network in (args.student, args.teacher):
        network_options(network)  # an unknown one is an error
    batch_size = args.batch_size
    student = {'student': args.student, 'batch_size': batch_size}
    both = {**student, 'teacher': args.teacher}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        plain = stack.enter_context(Worker(plain_step, **student))
        stored = stack.enter_context(Worker(stored_step, **student, folder=folder))
        by_store = slices_in_turn({'plain': plain, 'stored': stored}, args.seconds, 2)
        with Worker(live_step, **both) as live:
            by_live = slices_in_turn({'plain': plain, 'live': live}, args.seconds, 2)
        variants = {name: Variant(known, both) for name, known in environments().items()}
        setting, worker = fastest(stock_step, variants)
        with worker:
            by_stock = slices_in_turn({'stored': stored, 'stock': worker}, args.seconds, 2)
    teach = teaching_rates(args.teacher, batch_size, args.seconds / 2)

    def summaries(times: dict) -> dict:
        return {name: timing.summary(batch_size) for name, timing in times.items()}

    result = {
        'machine': machine(),
        'student': args.student,
        'teacher': args.teacher,
        'batch_size': batch_size,
        'store': {
            **summaries(by_store),
            'cost': cost(by_store['plain'], by_store['stored']),
        },
        'live': {
            **summaries(by_live),
            'cost': cost(by_live['plain'], by_live['live']),
        },
        'stock': {
            'setting': setting,
            **summaries(by_stock),
            'ratio': vars(faster(by_stock['stock'], by_stock['stored'])),
        },
        'teach': teach,
    }
    show(result)
    return report.write(args.out, result, panels(result))


main = console.command('bench distill', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
