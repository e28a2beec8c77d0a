"""What networks cost and what models are: a table of all networks, one's layers, a model's files.

FLOPs are those of one 112x112 image, by two conventions: the LFR challenge's organisers count
convolutions and fully connected layers only, MixFaceNet's authors batch norms, activations and
poolings as well. A model (PREFIX,EPOCH, an .onnx file, the folder of an export) is described
without MXNet.
"""

import argparse
import sys
from collections.abc import Mapping
from typing import Any

from ..common import console
from ..common.errors import InputError
from .describe import describe, is_model


def build_parser(parser: console.Parser) -> None:
    parser.add_argument(
        'network',
        nargs='?',
        metavar='NETWORK|MODEL',
        help='show the layers of this network, or what is known of this model (PREFIX,EPOCH, '
        'FILE.onnx or the folder of an export); without it, all networks',
    )
    parser.add_argument(
        '--option',
        action='append',
        default=[],
        metavar='OPTION=VALUE',
        help='set an option of the network, e.g. use_se=false (repeatable)',
    )
    parser.add_argument(
        '--table',
        nargs='?',
        const='text',
        choices=('text', 'markdown'),
        help='all networks with published accuracies (percent; IJB: TAR at FAR 1e-4)',
    )
    parser.add_argument(
        '--results',
        default='',
        metavar='FILE',
        help='for --table: how fast networks are here, from `bench networks --out FILE`',
    )
    parser.add_argument(
        '--study',
        default='',
        metavar='FILE',
        help="for --table: networks trained and tested here, from a study's results.json",
    )
    for option in ('multiplier', 'emb_size'):
        parser.add_argument(
            f'--{option.replace("_", "-")}',
            dest='option',
            action='append',
            type=f'{option}={{}}'.format,
            metavar='VALUE',
            help=f'short for --option {option}=VALUE',
        )


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ', '.join(f'{key} {_text(item)}' for key, item in value.items())
    return f'{value:,}' if type(value) is int else str(value)


def show(described: Mapping[str, Any]) -> None:
    """A model's facts as a table, and its accuracies and thresholds as another."""
    facts = {**described, **described.get('training', {})}
    rows = [
        (key.replace('_', ' '), _text(value))
        for key, value in facts.items()
        if key not in ('model', 'training', 'verification') and value not in ('', None)
    ]
    console.table(str(described['model']), ('what', 'value'), rows, prose=True)
    measured = [
        (
            f'{row["file"]} in {row["engine"]}',
            '' if row['accuracy'] is None else f'{100 * row["accuracy"]:.2f}',
            ', '.join(f'{cosine:.3f} at {far}' for far, cosine in row['thresholds'].items()),
        )
        for row in described.get('verification', ())
    ]
    if measured:
        columns = ('file', 'accuracy %', 'cosine above which it is one person, at FAR')
        console.table('Measured when it was exported', columns, measured)


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """What `describe` says of a model; of networks what `symbol.info` does."""
    model = arguments.network
    if model and is_model(model):
        if arguments.table or arguments.option or arguments.results or arguments.study:
            raise InputError(f'{model} is a model, which has no options; leave them out')
        described = describe(model)
        show(described)
        return described
    from ..symbol.info import networks  # builds symbols, in MXNet

    return networks(
        *(arguments.network, arguments.option, arguments.table),
        *(arguments.results, arguments.study),
    )


main = console.command('info', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
