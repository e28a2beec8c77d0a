"""Measure the training step: stock operators against ours, memory, growth, and where time goes.

Noise images that are already in memory, ArcFace, SGD with momentum; both sides in turn in one
process, memory and profile in processes of their own.
"""

import argparse
import logging
import sys
from concurrent.futures import ThreadPoolExecutor

from ...common import console
from ...common.engine import ops
from ...common.errors import InputError
from ...common.flops import count
from ...common.parallel import cpu_count
from ...recognition.config import key_value
from ...symbol import get_symbol
from . import child, report
from .measure import Timing, check_numbers, faster, in_turn, machine
from .steps import training_step

log = logging.getLogger(__name__)

TRAINING_PASSES = 3  # forward, and two products of the same size backward
PROFILE_ROWS = 14
# What is said to make MXNet faster, or its memory smaller, by the environment.
SETTINGS = {
    'threads bound to CPUs': {'OMP_PROC_BIND': 'true'},
    'threads never spin': {'GOMP_SPINCOUNT': '0'},
    'threads spin ten times longer': {'GOMP_SPINCOUNT': '100000'},
    'large pages': {'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=1'},
    'forward computed again in backward': {'MXNET_BACKWARD_DO_MIRROR': '1'},  # stock operators
    'naive engine': {'MXNET_ENGINE_TYPE': 'NaiveEngine'},
    'operators one by one': {'MXNET_EXEC_BULK_EXEC_TRAIN': '0'},
}


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--network', default='vargfacenet', help='a name of `vargfacenet info`')
    parser.add_argument(
        '--network-option', type=key_value, action='append', default=[], metavar='KEY=VALUE'
    )
    parser.add_argument('--batches', default='16,32,64', help='images a step')
    parser.add_argument('--multipliers', default='0.25,0.5,1,1.25', help='widths; vargfacenet only')
    parser.add_argument('--classes', type=int, default=1000, help='of the ArcFace head')
    parser.add_argument('--seconds', type=float, default=40, help='for each batch size, at least')
    parser.add_argument('--rounds', type=int, default=3, help='processes of each setting, in turn')
    report.add_out(parser, 'all figures')


def compare(network: str, options: dict, batch: int, classes: int, seconds: float) -> dict:
    """Both sides at one batch size, in turn."""
    steps = {
        'stock': training_step(network, options, batch, classes, stock=True),
        'ours': training_step(network, options, batch, classes, stock=False),
    }
    times = in_turn(steps, seconds, slice_seconds=2)
    ratio = faster(times['stock'], times['ours'])
    log.info('batch %d: %s as fast as stock operators', batch, ratio)
    return {
        **{side: timing.summary(batch) for side, timing in times.items()},
        'ratio': vars(ratio),
    }


def compare_best(network: str, options: dict, best: dict, classes: int, seconds: float) -> dict:
    """Each side at the batch size that suits it best, in turn."""
    steps = {
        side: training_step(network, options, best[side], classes, stock=side == 'stock')
        for side in ('stock', 'ours')
    }
    times = in_turn(steps, seconds, slice_seconds=2)
    ratio = faster(times['stock'], times['ours'], best['stock'], best['ours'])
    rates = {side: best[side] / timing.median for side, timing in times.items()}
    return {'batches': best, 'images_per_second': rates, 'ratio': vars(ratio)}


def grow(network: str, options: dict, batches: list, classes: int) -> list[dict]:
    """Speed and memory of both sides at every batch size, a process each."""
    rows = []
    for batch in batches:
        row = {'batch': batch, **options}
        for side in ('stock', 'ours'):
            rounds = 2 if side == 'stock' else 5
            found = child.run(
                'step', network=network, options=options, batch_size=batch, classes=classes,
                stock=side == 'stock', rounds=rounds,
            )  # fmt: skip
            row[side] = {
                'images_per_second': batch / Timing(tuple(found['seconds'])).median,
                'bytes': found['bytes'],
            }
        rows.append(row)
        log.info(
            'batch %d %s: %.2f GB, stock %.2f GB',
            batch, options or '', row['ours']['bytes'] / 1e9, row['stock']['bytes'] / 1e9,
        )  # fmt: skip
    return rows


def try_settings(network: str, options: dict, batch: int, classes: int, rounds: int) -> dict:
    """Our step under every one of SETTINGS, a process each, all in turn, against the default."""
    settings = {'default': {}, **SETTINGS, 'one thread': {'OMP_NUM_THREADS': '1'}}
    seconds: dict[str, list] = {name: [] for name in settings}
    memory = {}
    for _ in range(rounds):
        for name, environment in settings.items():
            found = child.run(
                'step', environment, network=network, options=options, batch_size=batch,
                classes=classes, stock=False, rounds=5,
            )  # fmt: skip
            seconds[name].append(Timing(tuple(found['seconds'])).median)
            memory[name] = found['bytes']
    default = Timing(tuple(seconds['default']))
    return {
        name: {
            'environment': settings[name],
            'ratio': vars(faster(default, Timing(tuple(values)))),
            'bytes': memory[name],
        }
        for name, values in seconds.items()
    }


def in_processes(network: str, options: dict, batch: int, classes: int) -> dict:
    """A process with one thread for each CPU, all at the same time: what they make together."""
    count = cpu_count()
    with ThreadPoolExecutor(count) as pool:
        started = [
            pool.submit(
                child.run, 'step', {'OMP_NUM_THREADS': '1'}, network=network, options=options,
                batch_size=batch, classes=classes, stock=False, rounds=12,
            )
            for _ in range(count)
        ]  # fmt: skip
        times = [Timing(tuple(process.result()['seconds'])) for process in started]
    return {'count': count, 'images_per_second': sum(batch / timing.median for timing in times)}


def show(result: dict) -> None:
    rows = []
    for batch, row in result['batches'].items():
        rows.append(
            [
                batch,
                f'{row["stock"]["per_second"]:.2f}',
                f'{row["ours"]["per_second"]:.1f}',
                report.shown(row['ratio']),
            ]
        )
    best = result['best']
    rows.append(
        [
            'best of each',
            f'{best["images_per_second"]["stock"]:.2f}',
            f'{best["images_per_second"]["ours"]:.1f}',
            report.shown(best['ratio']),
        ]
    )
    console.table(
        'training step', ['batch', 'stock images/s', 'ours images/s', 'times as fast'], rows
    )
    rows = [
        [
            f'{row["batch"]} x{row.get("multiplier", "")}'.rstrip('x').rstrip(),
            *(f'{row[side]["images_per_second"]:.1f}' for side in ('stock', 'ours')),
            *(f'{row[side]["bytes"] / 1e9:.2f}' for side in ('stock', 'ours')),
            f'{row["ours"]["bytes"] / row["batch"] / 1e6:.0f}',
        ]
        for row in result['growth']
    ]
    console.table(
        'growth with batch and width, a process each',
        ['batch', 'stock images/s', 'ours images/s', 'stock GB', 'ours GB', 'ours MB an image'],
        rows,
    )
    console.table(
        f'settings of the process, batch {result["settings_batch"]}',
        ['setting', 'times the speed', 'GB'],
        [
            [name, report.shown(row['ratio']), f'{row["bytes"] / 1e9:.2f}']
            for name, row in result['settings'].items()
        ],
    )
    log.info(
        '%d processes with a thread each, batch %d: %.1f images/s together',
        result['processes']['count'], result['settings_batch'],
        result['processes']['images_per_second'],
    )  # fmt: skip
    profile = result['profile']
    total = sum(ms for ms, _ in profile['operators'].values())
    console.table(
        f'where a step of {profile["batch"]} goes: {total:.0f} ms',
        ['operator', 'ms', '%', 'calls'],
        [
            [name, f'{ms:.1f}', f'{100 * ms / total:.1f}', f'{calls:.0f}']
            for name, (ms, calls) in list(profile['operators'].items())[:PROFILE_ROWS]
        ],
    )
    if result['peak_gflops']:
        log.info(
            '%.0f GFLOPS of %.0f, %.0f %% of the float32 peak of this machine',
            result['gflops'], result['peak_gflops'], 100 * result['gflops'] / result['peak_gflops'],
        )  # fmt: skip


def panels(result: dict) -> list:
    """Speed and memory over batch and over width, for the picture."""
    growth = result['growth']
    by_batch = [row for row in growth if row['series'] == 'batch']
    by_width = [row for row in growth if row['series'] == 'width']
    found = []
    for label, key, rows in (('batch', 'batch', by_batch), ('width', 'multiplier', by_width)):
        if not rows:
            continue
        x = [row[key] for row in rows]
        for title, unit, pick in (
            (f'speed by {label}', 'images/s', lambda side: side['images_per_second']),
            (f'memory by {label}', 'GB', lambda side: side['bytes'] / 1e9),
        ):
            lines = {side: (x, [pick(row[side]) for row in rows]) for side in ('stock', 'ours')}
            found.append((title, label, unit, lines))
    return found


def run(args: argparse.Namespace) -> dict:
    report.check_out(args.out)
    batches = check_numbers(args.batches, '--batches')
    multipliers = check_numbers(args.multipliers, '--multipliers', float)
    for option in ('classes', 'seconds', 'rounds'):
        if getattr(args, option) <= 0:
            raise InputError(f'--{option} {getattr(args, option)}: must be above 0')
    options = dict(args.network_option)
    symbol = get_symbol(args.network, **options)
    compared = {
        batch: compare(args.network, options, batch, args.classes, args.seconds)
        for batch in batches
    }
    best = {
        side: max(batches, key=lambda batch: compared[batch][side]['per_second'])
        for side in ('stock', 'ours')
    }
    best = compare_best(args.network, options, best, args.classes, args.seconds)
    growth = [
        {'series': 'batch', **row} for row in grow(args.network, options, batches, args.classes)
    ]
    if args.network == 'vargfacenet':
        for multiplier in multipliers:
            wider = {**options, 'multiplier': multiplier}
            rows = grow(args.network, wider, batches[:1], args.classes)
            growth += [{'series': 'width', **row} for row in rows]
    settings = try_settings(args.network, options, batches[0], args.classes, args.rounds)
    processes = in_processes(args.network, options, batches[0], args.classes)
    profile = child.run(
        'profile', {'MXNET_EXEC_BULK_EXEC_TRAIN': '0'}, network=args.network, options=options,
        batch_size=batches[-1], classes=args.classes, rounds=3,
    )  # fmt: skip
    rate = best['images_per_second']['ours']
    result = {
        'machine': machine(),
        'network': args.network,
        'options': options,
        'classes': args.classes,
        'batches': compared,
        'best': best,
        'growth': growth,
        'settings_batch': batches[0],
        'settings': settings,
        'processes': processes,
        'profile': {'batch': batches[-1], **profile},
        'gflops': TRAINING_PASSES * count(symbol).flops * rate / 1e9,
        'peak_gflops': ops.peak_gflops(cpu_count(), seconds=2),
    }
    show(result)
    return report.write(args.out, result, panels(result))


main = console.command('bench train', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
