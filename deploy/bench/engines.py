"""The original network in MXNet's Module against ours in MXNet, onnxruntime and OpenVINO.

Latency at batch 1 and throughput at a larger batch: a process for every engine and batch size, all
in turn. A call takes uint8 crops and gives float32 embeddings, so that each engine's changes of
layout and type count. The original is the authors' symbol in MXNet as a user has it, under those
settings that suit it best here; its rows name them.
"""

import argparse
import json
import logging
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...common import console, flops
from ...common.engine.open_model import open_model
from ...common.errors import InputError
from ...common.files import atomic_path, atomic_write
from ...common.options import integer
from ...common.parallel import cpu_count
from ...symbol import parse_options
from . import measure, report
from .candidates import ORIGINAL, Candidate, candidates, untrained
from .peaks import peaks
from .stock import Variant, fastest
from .ways import embedding_call

log = logging.getLogger(__name__)

_SLICE_SECONDS = 0.5
_MIN_ROUNDS = 3
_PEAK_SECONDS = 1.0


# of a row: where a median is, what follows its name, and the ratio of the rounds
LATENCY = ('latency_ms', '_median', 'times_original_batch_1')
THROUGHPUT = ('images_per_second', '', 'times_original_batch')


class Timed(NamedTuple):
    """What was measured of a candidate."""

    timing: measure.Timing
    settings: str


def time_all(found: Mapping[str, Candidate], batch_size: int, seconds: float) -> dict[str, Timed]:
    """Every candidate at one batch size, a process each, in turn; what cannot run is left out."""
    settings, workers = {}, {}
    with ExitStack() as stack:
        with console.progress(len(found), f'starting, batch {batch_size}', unit='engines') as bar:
            for name, candidate in found.items():
                variants = {
                    setting: Variant(variables, {**options, 'batch_size': batch_size})
                    for setting, (variables, options) in candidate.variants.items()
                }
                bar.advance()
                try:
                    settings[name], worker = fastest(embedding_call, variants)
                except InputError as error:
                    log.warning('%s is left out: %s', name, error)
                    continue
                workers[name] = stack.enter_context(worker)
        slice_seconds = min(_SLICE_SECONDS, seconds / (_MIN_ROUNDS * len(workers)))
        rounds = round(seconds / (slice_seconds * len(workers)))
        with console.progress(rounds, f'batch {batch_size}', unit='rounds') as bar:
            timings = measure.slices_in_turn(workers, seconds, slice_seconds, _MIN_ROUNDS, bar)
    return {name: Timed(timing, settings[name]) for name, timing in timings.items()}


def compare(
    found: Mapping[str, Candidate], batch_size: int, seconds: float, work: int
) -> list[dict]:
    """One row of figures for each candidate; `work` is the FLOPs of one image."""
    singles = time_all(found, 1, seconds / 2)
    batches = time_all({name: found[name] for name in singles}, batch_size, seconds / 2)
    peak = peaks(min(_PEAK_SECONDS, seconds / 10))
    rows = []
    for name in batches:
        precision = found[name].precision
        single, many = singles[name], batches[name]
        rate = batch_size / many.timing.median
        seconds = np.array(many.timing.seconds)
        row = {
            'engine': name,
            'precision': precision,
            'settings_batch_1': single.settings,
            'settings_batch': many.settings,
            # of the rounds, as the ratios are; p95 is of single calls
            'latency_ms_median': 1e3 * single.timing.median,
            'latency_ms_low': 1e3 * min(single.timing.seconds),
            'latency_ms_high': 1e3 * max(single.timing.seconds),
            'latency_ms_p95': 1e3 * float(np.percentile(single.timing.calls, 95)),
            'images_per_second': rate,
            'images_per_second_low': batch_size / float(seconds.max()),
            'images_per_second_high': batch_size / float(seconds.min()),
            'times_original_batch_1': vars(measure.faster(singles[ORIGINAL].timing, single.timing)),
            'times_original_batch': vars(measure.faster(batches[ORIGINAL].timing, many.timing)),
            'peak_gflops': peak.get(precision, np.nan) / 1e9,
            'share_of_peak': rate * work / peak.get(precision, np.nan),
        }
        rows.append(row)
    return rows


def times(row: dict, rows: list[dict], panel: tuple[str, str, str]) -> str:
    """'2.6 (2.4-2.9)' times the original: the ratio of the two medians, and the range of the
    rounds' ratios, in which it always lies."""
    key, middle, ratio = panel
    original = next(each for each in rows if each['engine'] == ORIGINAL)
    factor = row[key + middle] / original[key + middle]
    factor = 1 / factor if panel == LATENCY else factor
    return f'{factor:.3g} ({row[ratio]["low"]:.3g}-{row[ratio]["high"]:.3g})'


def plot(path: Path, rows: list[dict], batch_size: int) -> None:
    """Two panels of bars: latency at batch 1, throughput at the larger batch.

    Bars are medians of the rounds, lines across them the lowest and highest round; what is written
    beside them is the ratio of the bars that one sees.
    """
    from matplotlib.figure import Figure  # takes a second that nothing else should wait for

    names = [row['engine'] for row in rows][::-1]
    figure = Figure(figsize=(13, 0.5 * len(rows) + 1.8), layout='constrained')
    panels = (
        (
            'latency_ms',
            '_median',
            'times_original_batch_1',
            'latency at batch 1, ms, less is better',
        ),
        (
            'images_per_second',
            '',
            'times_original_batch',
            f'images/s at batch {batch_size}, more is better',
        ),
    )
    for axes, (key, middle, ratio, title) in zip(figure.subplots(1, 2, sharey=True), panels):
        values, lows, highs = (
            np.array([row[f'{key}{part}'] for row in rows][::-1])
            for part in (middle, '_low', '_high')
        )
        colours = ['#9aa5b5' if name == ORIGINAL else '#0072b2' for name in names]
        axes.barh(names, values, color=colours)
        spread = [values - lows, highs - values]
        axes.errorbar(values, names, xerr=spread, fmt='none', ecolor='#1c2430', capsize=3)
        for place, (value, high, row) in enumerate(zip(values, highs, rows[::-1])):
            text = f'{value:,.0f}' if value >= 100 else f'{value:.3g}'
            if row['engine'] != ORIGINAL:
                text += f',  {times(row, rows, (key, middle, ratio))} times'
            axes.annotate(
                text, (high, place), (6, 0), textcoords='offset points', va='center', fontsize=9
            )
        axes.set_xlim(0, 1.75 * max(highs))
        axes.set_title(title, fontsize=11)
        axes.spines[['top', 'right']].set_visible(False)
    figure.suptitle(
        f'Medians and range of rounds in turn; times {ORIGINAL}: ratio of the medians (range of '
        "the rounds' ratios)",
        fontsize=10,
    )
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def build_parser(parser: console.Parser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument('--model', metavar='PREFIX,EPOCH', help='a checkpoint')
    which.add_argument(
        '--network',
        default='vargfacenet',
        metavar='NAME',
        help='a network with weights as before training (default: %(default)s)',
    )
    parser.add_argument(
        '--network-option',
        action='append',
        default=[],
        metavar='OPTION=VALUE',
        help='an option of --network (repeatable)',
    )
    parser.add_argument('--batch-size', type=int, default=32, help='for the throughput')
    parser.add_argument('--seconds', type=float, default=60.0, help='to measure, in all')
    report.add_out(parser, 'the result')


def show(model: str, batch_size: int, work: int, rows: list[dict]) -> None:
    columns = ('engine', 'ms at 1', 'p95', 'times', f'images/s at {batch_size}', 'times')
    cells = [
        (
            row['engine'],
            f'{row["latency_ms_median"]:.1f}',
            f'{row["latency_ms_p95"]:.1f}',
            times(row, rows, LATENCY),
            f'{row["images_per_second"]:.0f}',
            times(row, rows, THROUGHPUT),
            f'{100 * row["share_of_peak"]:.0f} % of {row["peak_gflops"]:.0f} GFLOPS',
        )
        for row in rows
    ]
    title = f'{model}: {work / 1e6:.0f} MFLOPs, {cpu_count()} CPUs'
    console.table(title, (*columns, 'share of peak'), cells)
    console.table(
        f'settings, those of {ORIGINAL} the fastest of all tried',
        ('engine', 'at batch 1', f'at batch {batch_size}'),
        [(row['engine'], row['settings_batch_1'], row['settings_batch']) for row in rows],
    )


def run(args: argparse.Namespace) -> dict:
    measure.check_options(args, {'batch_size': integer(2), 'seconds': measure.SECONDS})
    report.check_out(args.out, args.model)
    if args.model and args.network_option:
        raise InputError('--network-option: a checkpoint has its own; leave it out')
    if args.model:
        network = open_model(args.model, 'mxnet').network
    else:
        network = untrained(args.network, parse_options(args.network, args.network_option))
    work = flops.count(network.symbol).flops
    with tempfile.TemporaryDirectory() as folder:
        found = candidates(network, Path(folder), only_speed=not args.model)
        rows = compare(found, args.batch_size, args.seconds, work)
    model = args.model or ' '.join([args.network, *args.network_option])
    show(model, args.batch_size, work, rows)
    result = {
        'model': model,
        'batch_size': args.batch_size,
        'flops': work,
        'machine': measure.machine(),
        'engines': rows,
    }
    if args.out:
        picture = Path(args.out).with_suffix('.png')
        atomic_write(args.out, json.dumps(result, indent=1) + '\n')
        plot(picture, rows, args.batch_size)
        log.info('%s and %s', args.out, picture)
    return result


main = console.command('bench engines', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
