"""Measure the margin head: one-hot labels and arrays of unit centres against one operator.

Forward, backward and update of ArcFace on given embeddings; a process for every figure, since
memory counts, both sides in turn, and of stock MXNet the setting that suits it best.
"""

import argparse
import logging
import sys

from ...common import console
from ...common.errors import InputError, RunError
from ...common.options import integer
from ...recognition.partial_fc import DTYPES
from . import child, partial_fc, report, stock
from .measure import Timing, check_numbers, check_options, faster, machine
from .measured import measure_head

log = logging.getLogger(__name__)

OURS = 'ours'
_RATES = '1,0.1,0.01'


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--classes', default='1000,10000,93431,1000000', help='to measure')
    parser.add_argument('--batch-size', type=int, default=64)
    parser.add_argument('--embedding-size', type=int, default=512)
    parser.add_argument('--rounds', type=int, default=3, help='processes of each side, in turn')
    parser.add_argument(
        '--partial-fc', action='store_true', help='PartialFC in place of stock MXNet, by --rates'
    )
    parser.add_argument('--rates', help=f'sample rates of --partial-fc (default {_RATES})')
    parser.add_argument(
        '--centres-dtype',
        choices=DTYPES,
        help=f'how --partial-fc stores them (default {DTYPES[0]})',
    )
    report.add_out(parser, 'all figures')


def compare(classes: int, args: argparse.Namespace) -> dict:
    """Both sides with one number of classes; a side that does not fit says so.

    The stock side is measured under every setting of `stock.py`; the row has the fastest of them.
    """
    sides = {**stock.environments(), OURS: None}
    seconds: dict[str, list] = {name: [] for name in sides}
    sizes: dict[str, int] = {}
    failed: dict[str, str] = {}
    options = {'classes': classes, 'batch_size': args.batch_size, 'size': args.embedding_size}
    for _ in range(args.rounds):
        for name in [name for name in sides if name not in failed]:
            try:
                found = child.run(
                    measure_head, sides[name], **options, stock=name != OURS, rounds=3
                )
            except RunError as error:
                failed[name] = str(error)
                log.info('%d classes, %s: %s', classes, name, error)
                continue
            seconds[name].append(Timing(tuple(found['seconds'])).median)
            sizes[name] = max(found['bytes'], sizes.get(name, 0))
    times = {name: Timing(tuple(values)) for name, values in seconds.items() if name not in failed}
    row = {'classes': classes, 'failed': failed}
    theirs = min(times.keys() - {OURS}, key=lambda name: times[name].median, default=None)
    for side, name in (('stock', theirs), ('ours', OURS)):
        if name in times:
            row[side] = {**times[name].summary(), 'bytes': sizes[name], 'setting': name}
    if 'stock' in row and 'ours' in row:
        row['ratio'] = vars(faster(times[theirs], times[OURS]))
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
        line.append(row['stock']['setting'] if 'stock' in row else '-')
        cells.append(line)
    console.table(
        'margin head: forward, backward, update',
        ['classes', 'stock ms', 'stock MB', 'ours ms', 'ours MB', 'times as fast', 'stock MXNet'],
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


def read_rates(args: argparse.Namespace) -> list[float]:
    """What --rates says, or the default; InputError for what is no share."""
    rates = check_numbers(_RATES if args.rates is None else args.rates, '--rates', float)
    if max(rates) > 1:
        raise InputError(f'--rates {args.rates}: a share of the classes is at most 1')
    return rates


def measure_partial_fc(classes: list[int], rates: list[float], args: argparse.Namespace) -> dict:
    dtype = args.centres_dtype or DTYPES[0]
    options = {'batch_size': args.batch_size, 'size': args.embedding_size}
    rows = []
    with console.progress(len(classes), 'heads', 'sizes') as bar:
        for number in classes:
            rows.append(partial_fc.compare(number, rates, dtype, options, args.rounds))
            bar.advance()
    partial_fc.show(rows, dtype)
    result = {'machine': machine(), **options, 'centres_dtype': dtype, 'heads': rows}
    return report.write(args.out, result, partial_fc.panels(rows))


def run(args: argparse.Namespace) -> dict:
    report.check_out(args.out)
    classes = check_numbers(args.classes, '--classes')
    check_options(args, dict.fromkeys(('batch_size', 'embedding_size', 'rounds'), integer(1)))
    if args.partial_fc:
        return measure_partial_fc(classes, read_rates(args), args)
    console.refuse_options(args, ('rates', 'centres_dtype'), 'only with --partial-fc')
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
