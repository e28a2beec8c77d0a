"""Train a face-recognition network from InsightFace-style .rec data.

Without options it trains VarGFaceNet with ArcFace on synthetic faces, which it makes first. Ctrl-C
saves and stops; --resume goes on exactly where the run was.
"""

import argparse
import logging
import sys
from typing import Any, Optional

from ..common import console
from .config import TrainConfig, add_arguments
from .configure import configure, settings
from .processes import connect, join, leaving_at_once
from .results import print_results
from .synthetic import make_if_missing
from .trainer import TrainResult, start_of, train

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


def run(args: argparse.Namespace) -> Optional[dict]:
    ranks = connect()
    if ranks.rank:
        console.set_up_logging(logging.WARNING)  # a run is shown once
    with leaving_at_once('vargfacenet train', ranks.size > 1):
        values = ranks.in_turn(lambda: _settings(args), 'settings')
        processes = join(values['kvstore'], ranks)
    with leaving_at_once('vargfacenet train', processes.size > 1):
        if processes.rank:
            console.set_up_logging(logging.WARNING)
        config = ranks.in_turn(lambda: configure(values, processes.size), 'configuration')
        result = train(config, start_of(args), processes)
        return report(config, result) if processes.is_first else None


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    values = settings(args)
    make_if_missing(values)
    return values


main = console.command('train', build_parser, run, settings)

if __name__ == '__main__':
    sys.exit(main())
