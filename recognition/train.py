"""Train a face-recognition network from InsightFace-style .rec data.

Without options it trains VarGFaceNet with ArcFace on synthetic faces, which it makes first. Ctrl-C
saves and stops; --resume goes on exactly where the run was.
"""

import argparse
import contextlib
import logging
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Optional

from ..common import console
from ..common.errors import InputError, RunError
from ..common.synth.dataset import make_dataset
from .config import TrainConfig, add_arguments, resolve, settings
from .trainer import TrainResult, create_kvstore, train

log = logging.getLogger(__name__)


def build_parser(parser: console.Parser) -> None:
    add_arguments(parser)


def make_synthetic_data(args: argparse.Namespace) -> None:
    """Write the synthetic data set where the run would read it and nothing is there yet."""
    folder = Path('datasets/synth')
    chosen = args.dataset in (None, 'synth') and not (args.data_dir or args.config or args.recipe)
    settings(args)  # a wrong option should not cost the time of making the data
    if chosen and not ((folder / 'train.rec').exists() and (folder / 'synth.bin').exists()):
        log.info('no data set was named: making synthetic faces in %s', folder)
        make_dataset(folder)


def print_results(title: str, rows: dict[str, dict]) -> None:
    """Table on stderr: one row a model, accuracy and VAL of every target as columns."""
    names = sorted({name for targets in rows.values() for name in targets})
    columns = ['model']
    for name in names:
        columns += [f'{name} accuracy %', f'{name} VAL % @ FAR']
    cells = []
    for model, targets in rows.items():
        row = [model]
        for name in names:
            result = targets.get(name)
            row += (
                [
                    f'{100 * result.accuracy:.2f} +- {100 * result.accuracy_std:.2f}',
                    f'{100 * result.val:.2f} @ {result.far:.4f}',
                ]
                if result
                else ['-', '-']
            )
        cells.append(row)
    console.table(title, columns, cells)


def report(config: TrainConfig, result: TrainResult) -> dict:
    """Print what a run gave; returns it as the command's result."""
    if result.targets:
        print_results(f'after {result.steps} steps', {config.name: result.targets})
    log.info(
        '%s: %d steps in %s, %.1f images/s; model %s',
        config.name,
        result.steps,
        console.duration(result.seconds),
        result.images_per_second,
        result.model,
    )
    return result.summary()


def connect(config: TrainConfig) -> tuple[Any, int, int]:
    """(kvstore, number of processes, rank): (name, 1, 0) unless the run is distributed.

    Processes other than the first say only warnings, so that a run is shown once.
    """
    kvstore = create_kvstore(config.kvstore)
    if isinstance(kvstore, str):
        return kvstore, 1, 0
    if kvstore.rank:
        console.set_up_logging(logging.WARNING)
    return kvstore, kvstore.num_workers, kvstore.rank


@contextlib.contextmanager
def leaving_at_once(kvstore) -> Iterator[None]:
    """End a distributed process on an error without MXNet's farewell: at exit it waits for the
    other workers, which wait for this one."""
    try:
        yield
    except (InputError, RunError, OSError, KeyboardInterrupt) as error:
        if isinstance(kvstore, str):
            raise
        code = console.report_error('vargfacenet train', error)
        sys.stderr.flush()
        os._exit(code)


def run(args: argparse.Namespace) -> Optional[dict]:
    make_synthetic_data(args)
    config = resolve(args)
    kvstore, num_workers, rank = connect(config)
    with leaving_at_once(kvstore):
        config = resolve(args, num_workers)
        result = train(config, args.resume, args.overwrite, kvstore)
    return report(config, result) if rank == 0 else None


main = console.command('train', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
