"""Measure the training step: stock operators or PyTorch against ours, memory, growth, a profile;
or ours in bfloat16 against float32.

Noise images that are already in memory, ArcFace, SGD with momentum; every side in a process of its
own, a stock side and ours in turn. The stock way is measured under every setting of `stock.py`:
what MXNet does as it is imported, and what suits it best.
"""

import argparse
import logging
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple, Optional

from ...common import console
from ...common.engine import ops
from ...common.flops import count
from ...common.options import integer
from ...common.parallel import cpu_count
from ...recognition.configure import check_bfloat16
from ...symbol import get_symbol, parse_options
from . import against_torch, child, precision, report, stock
from .measure import (
    SECONDS,
    Timing,
    check_numbers,
    check_options,
    faster,
    machine,
    slices_in_turn,
)
from .measured import measure_step, profile_step
from .steps import training_step

log = logging.getLogger(__name__)

WIDE = 'vargfacenet'  # the network whose widths are measured
_MULTIPLIERS, _ROUNDS = '0.25,0.5,1,1.25', 3
_BATCHES = {'stock': '16,32,64', 'torch': '32'}
_SECONDS = {'stock': 40, 'torch': 12}
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
    parser.add_argument('--network-option', action='append', default=[], metavar='KEY=VALUE')
    parser.add_argument(
        '--batches',
        help='images a step (default {stock}, --against torch {torch})'.format(**_BATCHES),
    )
    parser.add_argument(
        '--multipliers', help=f'widths; {WIDE} and --against stock alone (default {_MULTIPLIERS})'
    )
    parser.add_argument('--classes', type=int, default=1000, help='of the ArcFace head')
    parser.add_argument(
        '--seconds',
        type=float,
        help='for each batch size, of PyTorch for each of its forms, at least '
        '(default {stock}, --against torch {torch})'.format(**_SECONDS),
    )
    parser.add_argument(
        '--rounds',
        type=int,
        help=f'processes of each setting, in turn; of --against stock (default {_ROUNDS})',
    )
    parser.add_argument(
        '--against',
        choices=('stock', 'torch'),
        default='stock',
        help="what to measure against: MXNet's own operators, with memory, widths, settings and a "
        'profile; or the step alone against PyTorch',
    )
    parser.add_argument(
        '--precision',
        choices=ops.PRECISIONS,
        default=ops.FLOAT32,
        help='bfloat16: our step alone, against the same in float32, on a CPU with AVX512_BF16; '
        'with --against torch, of ours',
    )
    parser.add_argument(
        '--torch-python',
        metavar='PYTHON',
        help='for --against torch: a Python of an environment of its own with PyTorch',
    )
    parser.add_argument(
        against_torch.EVERY_FORM,
        action='store_true',
        help='of --against torch: compile the form of the other precision as well, which takes '
        'minutes for each batch size',
    )
    report.add_out(parser, 'all figures')


class Step(NamedTuple):
    """What is trained."""

    network: str
    options: dict
    classes: int

    def worker(
        self,
        batch_size: int,
        stock: bool,
        environment: Optional[child.Environment] = None,
        precision: str = ops.FLOAT32,
    ) -> child.Worker:
        """A process that makes training steps."""
        how = {'batch_size': batch_size, 'stock': stock, 'precision': precision}
        return child.Worker(training_step, environment, **self._asdict(), **how)


def in_turn(
    step: Step, setting: str, batch: int, ours: child.Worker, seconds: float
) -> tuple[Timing, Timing]:
    """Stock operators under a setting, and ours, in turn."""
    with step.worker(batch, True, stock.environments()[setting]) as theirs:
        workers = {'stock': theirs, 'ours': ours}
        times = slices_in_turn(workers, seconds, slice_seconds=min(2, seconds))
    return times['stock'], times['ours']


def compare(step: Step, batch: int, seconds: float) -> dict:
    """Both sides at one batch size, the stock one under each of its settings."""
    rows = {}
    with step.worker(batch, False) as worker:
        for setting in stock.environments():
            theirs, ours = in_turn(step, setting, batch, worker, seconds)
            ratio = faster(theirs, ours)
            log.info('batch %d: %s as fast as stock operators %s', batch, ratio, setting)
            rows[setting] = {
                'stock': theirs.summary(batch),
                'ours': ours.summary(batch),
                'ratio': vars(ratio),
            }
    return rows


def compare_best(step: Step, compared: dict, seconds: float) -> dict:
    """Each side at the batch size that suits it best, stock also under the best setting, in turn.

    Returns
    -------
    dict of 'default' (stock as it is imported) and 'best' (under its best setting): setting,
    batches, images_per_second, ratio
    """

    def rate(key: tuple[int, str], side: str) -> float:
        batch, setting = key
        return compared[batch][setting][side]['per_second']

    keys = [(batch, setting) for batch, rows in compared.items() for setting in rows]
    our_batch, _ = max(keys, key=lambda key: rate(key, 'ours'))
    rows = {}
    for name, known in (('default', (stock.DEFAULT,)), ('best', stock.environments())):
        batch, setting = max(
            (key for key in keys if key[1] in known), key=lambda key: rate(key, 'stock')
        )
        if rows and rows['default']['setting'] == setting:
            rows[name] = rows['default']  # the same two sides at the same batch sizes
            continue
        with step.worker(our_batch, False) as worker:
            theirs, ours = in_turn(step, setting, batch, worker, seconds)
        rows[name] = {
            'setting': setting,
            'batches': {'stock': batch, 'ours': our_batch},
            'images_per_second': {
                'stock': batch / theirs.median,
                'ours': our_batch / ours.median,
            },
            'ratio': vars(faster(theirs, ours, batch, our_batch)),
        }
    return rows


def grow(step: Step, batches: list, setting: str) -> list[dict]:
    """Speed and memory of both sides at every batch size, a process each."""
    rows = []
    for batch in batches:
        row = {'batch': batch, **step.options}
        for side, environment, rounds in (
            ('stock', stock.environments()[setting], 2),
            ('ours', None, 5),
        ):
            found = child.run(
                measure_step,
                environment,
                **step._asdict(),
                batch_size=batch,
                stock=side == 'stock',
                rounds=rounds,
            )
            row[side] = {
                'images_per_second': batch / Timing(tuple(found['seconds'])).median,
                'bytes': found['bytes'],
            }
        rows.append(row)
        memory = [row[side]['bytes'] / 1e9 for side in ('ours', 'stock')]
        log.info('batch %d %s: %.2f GB, stock %.2f GB', batch, step.options or '', *memory)
    return rows


def try_settings(step: Step, batch: int, rounds: int) -> dict:
    """Our step under every one of SETTINGS, a process each, all in turn, against the default."""
    settings = {'default': {}, **SETTINGS, 'one thread': {'OMP_NUM_THREADS': '1'}}
    seconds: dict[str, list] = {name: [] for name in settings}
    memory = {}
    options = {**step._asdict(), 'batch_size': batch, 'stock': False, 'rounds': 5}
    for _ in range(rounds):
        for name, environment in settings.items():
            found = child.run(measure_step, environment, **options)
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


def in_processes(step: Step, batch: int) -> dict:
    """A process with one thread for each CPU, all at the same time: what they make together."""
    count = cpu_count()
    options = {**step._asdict(), 'batch_size': batch, 'stock': False, 'rounds': 12}
    with ThreadPoolExecutor(count) as pool:
        started = [
            pool.submit(child.run, measure_step, {'OMP_NUM_THREADS': '1'}, **options)
            for _ in range(count)
        ]
        times = [Timing(tuple(process.result()['seconds'])) for process in started]
    return {'count': count, 'images_per_second': sum(batch / timing.median for timing in times)}


def show_speed(batches: dict, best: dict) -> None:
    rows = [
        (
            batch,
            setting,
            f'{row["stock"]["per_second"]:.2f}',
            f'{row["ours"]["per_second"]:.1f}',
            report.shown(row['ratio']),
        )
        for batch, settings in batches.items()
        for setting, row in settings.items()
    ]
    for title, row in (('best batches', best['default']), ('best of all', best['best'])):
        rates, sizes = row['images_per_second'], row['batches']
        rows.append(
            (
                f'{title} ({sizes["stock"]}, {sizes["ours"]})',
                row['setting'],
                f'{rates["stock"]:.2f}',
                f'{rates["ours"]:.1f}',
                report.shown(row['ratio']),
            )
        )
    columns = ('batch', 'stock MXNet', 'stock images/s', 'ours images/s', 'times as fast')
    console.table('training step, each side in a process of its own', columns, rows)


def show_growth(growth: list[dict]) -> None:
    columns = (
        'batch',
        'stock images/s',
        'ours images/s',
        'stock GB',
        'ours GB',
        'ours MB an image',
    )
    rows = [
        (
            f'{row["batch"]} x{row.get("multiplier", "")}'.rstrip('x').rstrip(),
            *(f'{row[side]["images_per_second"]:.1f}' for side in ('stock', 'ours')),
            *(f'{row[side]["bytes"] / 1e9:.2f}' for side in ('stock', 'ours')),
            f'{row["ours"]["bytes"] / row["batch"] / 1e6:.0f}',
        )
        for row in growth
    ]
    console.table('growth with batch and width, a process each', columns, rows)


def show_settings(result: dict) -> None:
    batch, processes = result['settings_batch'], result['processes']
    console.table(
        f'settings of the process, batch {batch}',
        ('setting', 'times the speed', 'GB'),
        [
            (name, report.shown(row['ratio']), f'{row["bytes"] / 1e9:.2f}')
            for name, row in result['settings'].items()
        ],
    )
    count, rate = processes['count'], processes['images_per_second']
    log.info(
        '%d processes with a thread each, batch %d: %.1f images/s together', count, batch, rate
    )


def show_profile(profile: dict) -> None:
    total = sum(ms for ms, _ in profile['operators'].values())
    console.table(
        f'where a step of {profile["batch"]} goes: {total:.0f} ms',
        ('operator', 'ms', '%', 'calls'),
        [
            (name, f'{ms:.1f}', f'{100 * ms / total:.1f}', f'{calls:.0f}')
            for name, (ms, calls) in list(profile['operators'].items())[:PROFILE_ROWS]
        ],
    )


def show(result: dict) -> None:
    show_speed(result['batches'], result['best'])
    show_growth(result['growth'])
    show_settings(result)
    show_profile(result['profile'])
    reached, peak = result['gflops'], result['peak_gflops']
    if peak:
        share = 100 * reached / peak
        text = '%.0f GFLOPS of %.0f, %.0f %% of the float32 peak of this machine'
        log.info(text, reached, peak, share)


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


def run_against_torch(args: argparse.Namespace, step: Step, batches: list[int]) -> dict:
    python = against_torch.check_python(step.network, step.options, args.torch_python)

    def ours(batch_size: int) -> child.Worker:
        return step.worker(batch_size, False, precision=args.precision)

    result = {'precision': args.precision}
    result |= against_torch.measure(
        python, step._asdict(), ours, batches, args.seconds, args.precision, args.every_form
    )
    against_torch.show(result)
    return report.write(args.out, result, against_torch.panels(result))


def run_precisions(args: argparse.Namespace, step: Step, batches: list[int]) -> dict:
    def ours(batch_size: int, kind: str) -> child.Worker:
        return step.worker(batch_size, False, precision=kind)

    measured = precision.measure(ours, step._asdict(), batches, args.seconds)
    result = {**step._asdict(), **measured}
    precision.show(result)
    return report.write(args.out, result, precision.panels(result))


def read_others(args: argparse.Namespace) -> tuple[list[float], int]:
    """(--multipliers, --rounds), or their defaults; InputError where the measurement has no use for
    what was given."""
    options = {'torch': ['torch_python', 'every_form'], 'stock': ['multipliers', 'rounds']}
    for against, names in options.items():
        if args.against != against:
            console.refuse_options(args, names, f'only with --against {against}')
    if args.precision != ops.FLOAT32:
        console.refuse_options(args, ['multipliers', 'rounds'], 'only with --precision float32')
        check_bfloat16()
    if args.network != WIDE:
        console.refuse_options(args, ['multipliers'], f'only with --network {WIDE}')
    multipliers = _MULTIPLIERS if args.multipliers is None else args.multipliers
    args.rounds = _ROUNDS if args.rounds is None else args.rounds
    check_options(args, {'rounds': integer(1)})
    return check_numbers(multipliers, '--multipliers', float), args.rounds


def run(args: argparse.Namespace) -> dict:
    report.check_out(args.out)
    args.seconds = _SECONDS[args.against] if args.seconds is None else args.seconds
    batches = check_numbers(
        _BATCHES[args.against] if args.batches is None else args.batches, '--batches'
    )
    multipliers, rounds = read_others(args)
    check_options(args, {'classes': integer(1), 'seconds': SECONDS})
    step = Step(args.network, parse_options(args.network, args.network_option), args.classes)
    if args.against == 'torch':
        return run_against_torch(args, step, batches)
    if args.precision != ops.FLOAT32:
        return run_precisions(args, step, batches)
    symbol = get_symbol(step.network, **step.options)
    compared = {batch: compare(step, batch, args.seconds) for batch in batches}
    best = compare_best(step, compared, args.seconds)
    setting = best['best']['setting']
    growth = [{'series': 'batch', **row} for row in grow(step, batches, setting)]
    if args.network == WIDE:
        for multiplier in multipliers:
            wider = step._replace(options={**step.options, 'multiplier': multiplier})
            rows = growth[:1] if wider == step else grow(wider, batches[:1], setting)
            growth += [{**row, 'series': 'width'} for row in rows]
    settings = try_settings(step, batches[0], rounds)
    processes = in_processes(step, batches[0])
    operators = {'MXNET_EXEC_BULK_EXEC_TRAIN': '0'}
    profile = child.run(profile_step, operators, **step._asdict(), batch_size=batches[-1], rounds=3)
    rate = best['best']['images_per_second']['ours']
    result = {
        'machine': machine(),
        'network': args.network,
        'options': step.options,
        'classes': args.classes,
        'batches': compared,
        'best': best,
        'growth': growth,
        'settings_batch': batches[0],
        'settings': settings,
        'processes': processes,
        'profile': {'batch': batches[-1], **profile},
        'gflops': TRAINING_PASSES * count(symbol).flops * rate / 1e9,
        'peak_gflops': ops.peak_gflops(cpu_count(), seconds=min(2, args.seconds)),
    }
    show(result)
    return report.write(args.out, result, panels(result))


main = console.command('bench train', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
