"""Export a checkpoint: the slim embedding symbol and parameters, without classifier and losses.

What is written, DIR/model-symbol.json and DIR/model-0000.params, loads with the authors' symbol, in
InsightFace's tools and with mx.model.load_checkpoint.
"""

import argparse
import logging
import sys

from ..common import checkpoint, console, flops
from ..common.files import output_folder, sha256

log = logging.getLogger(__name__)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--model', required=True, metavar='PREFIX,EPOCH', help='the checkpoint')
    parser.add_argument('--out', required=True, metavar='DIR', help='folder for the export')


def run(args: argparse.Namespace) -> dict:
    symbol, arg_params, aux_params = checkpoint.load_embedding(args.model)
    prefix = output_folder(args.out) / 'model'
    checkpoint.save_embedding(prefix, 0, symbol, arg_params, aux_params)
    params = checkpoint.params_path(prefix, 0)
    count = flops.count(symbol)
    console.table(
        f'{args.model} -> {prefix},0',
        ('file', 'MB', 'parameters', 'MFLOPs'),
        [(params.name, f'{params.stat().st_size / 1e6:.2f}', f'{count.params:,}',
          f'{count.flops / 1e6:.1f}')],
    )  # fmt: skip
    return {
        'model': f'{prefix},0',
        'source': args.model,
        'sha256': {path.name: sha256(path) for path in (checkpoint.symbol_path(prefix), params)},
        'bytes': params.stat().st_size,
        'params': count.params,
        'flops': count.flops,
    }


main = console.command('export', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
