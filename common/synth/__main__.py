"""Make a synthetic face data set: train.rec and its index to train on, synth.bin to verify on.

The pictures show nobody, and the same seed gives the same pictures.
"""

import argparse
from pathlib import Path

from .. import console
from ..files import exclusive, free_to_write, output_folder
from .dataset import FILES, SynthOptions, check_options, make_dataset

HELP = {
    'identities': 'people to train on',
    'images': 'pictures of each of them',
    'pairs': 'pairs in synth.bin',
    'test_identities': 'people in synth.bin',
    'seed': 'another seed is another data set',
    'size': 'height and width',
    'workers': 'processes that draw',
    'variety': 'wide: more of everything, to train on what is no drawing (plain, wide)',
}


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('out', metavar='OUT', help='folder for train.rec, its index and synth.bin')
    for name, default in SynthOptions._field_defaults.items():
        flag = '--' + name.replace('_', '-')
        parser.add_argument(flag, type=type(default), default=default, help=HELP[name])
    parser.add_argument(
        '--overwrite', action='store_true', help='replace the data set that is in OUT'
    )


def run(args: argparse.Namespace) -> dict:
    for name in FILES:
        free_to_write(Path(args.out) / name, args.overwrite)
    options = SynthOptions(**{name: getattr(args, name) for name in SynthOptions._fields})
    check_options(options)  # before a folder is made
    with exclusive(output_folder(args.out)):
        return make_dataset(args.out, options)


main = console.command('synth', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
