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
from typing import Any, Optional

from ..common import console
from ..common.errors import InputError, RunError
from .config import TrainConfig, add_arguments, configure, settings
from .results import print_results
from .synthetic import make_if_missing
from .trainer import TrainResult, create_kvstore, train

log = logging.getLogger(__name__)


def build_parser(parser: console.Parser) -> None:
    add_arguments(parser)


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
    values = settings(args)
    make_if_missing(values)
    kvstore, num_workers, rank = connect(configure(values))
    with leaving_at_once(kvstore):
        config = configure(values, num_workers)
        result = train(config, args.resume, args.overwrite, kvstore)
    return report(config, result) if rank == 0 else None


main = console.command('train', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
