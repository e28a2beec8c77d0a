"""What training would take on many machines: bytes of a step, memory a rank, the slowest part.

Nothing is trained. What this machine multiplies and copies in a second is measured, unless it is
given; docs/scale.md has the formulas.
"""

import argparse
import math
import sys
import time

import numpy as np

from ..common import console
from ..common.errors import InputError
from ..common.flops import count
from ..common.names import DATA, IMAGE_SHAPE
from ..symbol import get_symbol, parse_options
from . import cost, presets
from .config import HEADS, PARTIAL_FC, SETTINGS, flag_of
from .graph import embedding_size
from .losses import ClassificationLoss, make_loss
from .partial_fc import DENSE, check_loss, check_room

_SIDE = 1024  # of the matrices that are multiplied, or so
_COPIED = 1 << 26  # bytes
_MEASURE = 0.3  # seconds
_MOST = 1e12  # of anything that is counted; what comes of it can still be read
_OF_PARTIAL_FC = {
    'sample_rate': 'share of the classes that a step looks at',
    'partial_fc_update': 'whose centres a step moves',
    'centres_dtype': 'how centres are stored',
}


def build_parser(parser: console.Parser) -> None:
    job = parser.add_argument_group('the job')
    job.add_argument('--classes', type=float, required=True, metavar='C', help='e.g. 1e8')
    job.add_argument('--ranks', type=float, required=True, metavar='R', help='processes in all')
    job.add_argument('--batch', type=float, required=True, metavar='B', help='images a rank')
    job.add_argument('--head', default=PARTIAL_FC, choices=HEADS)
    for name, about in _OF_PARTIAL_FC.items():
        field = SETTINGS[name]
        job.add_argument(
            flag_of(name),
            type=field.type,
            choices=field.metadata.get('choices'),
            help=f'of --head {PARTIAL_FC}: {about} (default {field.default})',
        )
    job.add_argument('--loss', default='arcface', help='whose centres a class has')
    job.add_argument('--network', default='vargfacenet')
    job.add_argument('--network-option', action='append', default=[], metavar='KEY=VALUE')
    machine = parser.add_argument_group('a rank and its machine')
    machine.add_argument(
        '--images-per-second', type=float, help='of the network in training (default: not counted)'
    )
    machine.add_argument('--gflops', type=float, help='of a matrix product (default: measured)')
    machine.add_argument('--gbytes', type=float, help='of memory a second (default: measured)')
    machine.add_argument('--gbit', type=float, default=10.0, help='of the network, a rank')
    machine.add_argument('--latency', type=float, default=5e-5, help='of the network, seconds')


def whole(name: str, value: float) -> int:
    """An option that counts something; InputError for less than one, or a part of one, and for more
    than anybody has."""
    if not 1 <= value <= _MOST or value != int(value):
        raise InputError(f'--{name} {value:g}: expected a whole number from 1 to {_MOST:g}')
    return int(value)


def of_partial_fc(args: argparse.Namespace) -> argparse.Namespace:
    """The options of PartialFC, or what `train` takes without them; InputError for those of another
    head, and out of range."""
    if args.head != PARTIAL_FC:
        console.refuse_options(args, _OF_PARTIAL_FC, f'only with --head {PARTIAL_FC}')
    values = {}
    for name in _OF_PARTIAL_FC:
        value, rule = getattr(args, name), SETTINGS[name].metadata.get('rule')
        if value is not None and rule and not rule.test(value):
            raise InputError(f'{flag_of(name)} {value:g}: must be {rule.expected}')
        values[name] = SETTINGS[name].default if value is None else value
    return argparse.Namespace(**values)


def loss_of(name: str) -> ClassificationLoss:
    """A loss, or a row of the loss table."""
    row = presets.loss.get(name)
    return make_loss(*((row.loss, row.loss_options) if row else (name, {})))


def read_job(args: argparse.Namespace) -> tuple[cost.Job, int]:
    """The job, and the bytes of all layers' outputs for one image."""
    chosen = of_partial_fc(args)
    loss = loss_of(args.loss)
    if not loss.centres_per_class:
        raise InputError(f'--loss {args.loss} has no class centres; choose another one')
    options = parse_options(args.network, args.network_option)
    symbol = get_symbol(args.network, **options)
    job = cost.Job(
        classes=whole('classes', args.classes),
        ranks=whole('ranks', args.ranks),
        batch=whole('batch', args.batch),
        params=count(symbol).params,
        embedding_size=embedding_size(symbol),
        centres_per_class=loss.centres_per_class,
        sample_rate=chosen.sample_rate,
        dense=chosen.partial_fc_update == DENSE,
        partial_fc=args.head == PARTIAL_FC,
        centre_bytes=np.dtype(chosen.centres_dtype).itemsize,
        moves_others=not getattr(loss, 'margin_on_target_alone', True),
    )
    if job.partial_fc:
        check_loss(loss, args.loss)
        check_room(job.sample_rate, job.classes, job.ranks, job.images, job.dense)
    _, shapes, _ = symbol.get_internals().infer_shape(**{DATA: (1, *IMAGE_SHAPE)})
    outputs = symbol.get_internals().list_outputs()
    layers = sum(
        math.prod(shape) for name, shape in zip(outputs, shapes) if name.endswith('_output')
    )
    return job, 4 * layers


def per_second(work, amount: float) -> float:
    """How much of `amount`, which each call does, a second does: the best of some calls."""
    best, until = math.inf, time.monotonic() + _MEASURE
    while time.monotonic() < until:
        started = time.perf_counter()
        work()
        best = min(best, time.perf_counter() - started)
    return amount / best


def read_speeds(args: argparse.Namespace) -> cost.Speeds:
    """What is given, and for the rest what this machine does."""
    for name in ('images_per_second', 'gflops', 'gbytes', 'gbit', 'latency'):
        value = getattr(args, name)
        if value is not None and not 1 / _MOST <= value <= _MOST:
            flag = '--' + name.replace('_', '-')
            raise InputError(f'{flag} {value:g}: must be from {1 / _MOST:g} to {_MOST:g}')
    if args.gflops is None:
        square = np.ones((_SIDE, _SIDE), np.float32)
        out = np.empty_like(square)
        args.gflops = 1e-9 * per_second(lambda: np.matmul(square, square, out=out), 2 * _SIDE**3)
    if args.gbytes is None:
        source = np.ones(_COPIED, np.uint8)
        target = np.empty_like(source)
        args.gbytes = 1e-9 * per_second(lambda: np.copyto(target, source), 2 * _COPIED)
    return cost.Speeds(
        images=args.images_per_second,
        flops=1e9 * args.gflops,
        memory_bytes=1e9 * args.gbytes,
        wire_bytes=1e9 / 8 * args.gbit,
        latency=args.latency,
    )


def run(args: argparse.Namespace) -> dict:
    (job, layers), speeds = read_job(args), read_speeds(args)
    sent = {each.name: each.sent(job.ranks) for each in cost.exchanges(job)}
    held, spent = cost.memory(job, layers), cost.seconds(job, speeds)
    title = f'{job.classes:,} classes on {job.ranks:,} ranks of {job.batch:,} images'
    rows = [
        (name, f'{value / 1e6:,.3f}')
        for name, value in [*sent.items(), ('all', sum(sent.values()))]
    ]
    console.table(f'{title}: a rank sends in a step', ('what', 'MB'), rows)
    rows = [
        (name, f'{value / 1e9:,.2f}')
        for name, value in [*held.items(), ('all', sum(held.values()))]
    ]
    console.table(
        f'a rank holds {job.rows:,} classes, samples {job.sampled:,}', ('what', 'GB'), rows
    )
    rows = [
        (name, 'not known' if value is None else f'{value:,.3f}') for name, value in spent.items()
    ]
    console.table('time of a step, part after part', ('what', 's'), rows)
    slowest = cost.largest(spent)
    missing = [name for name, value in spent.items() if value is None]
    note = ' (not counted: the network; give --images-per-second)' if missing else ''
    sys.stderr.write(f'slowest part: {slowest}{note}\n')
    return {
        'sent_bytes': sent,
        'memory_bytes': held,
        'seconds': spent,
        'slowest': slowest,
        'speeds': speeds._asdict(),
        'job': vars(job),
    }


main = console.command('plan', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
