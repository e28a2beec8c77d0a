"""What the networks cost: a table of all of them, or the layers of one.

FLOPs are those of one 112x112 image, by two conventions: the LFR challenge's organisers count
convolutions and fully connected layers only, MixFaceNet's authors batch norms, activations and
poolings as well.
"""

import argparse
import dataclasses
import sys
from typing import Any

from ..common import console, flops
from ..common.backend import mx
from ..common.errors import InputError
from ..common.names import DATA, IMAGE_SHAPE
from . import get_symbol, list_networks, network_options, parse_options

_FLOAT32_BYTES = 4
# the two conventions of flops.py, as the tables name them
ORGANISERS = 'LFR organisers'
AUTHORS = 'MixFaceNet authors'


def _summary(symbol: mx.sym.Symbol, layers: list[flops.Layer]) -> dict[str, Any]:
    """One network's numbers; a megabyte is 10**6 bytes."""
    _, (output_shape,), _ = symbol.infer_shape(**{DATA: (1, *IMAGE_SHAPE)})
    count = flops.total(layers)
    return {
        'params': count.params,
        'flops': count.flops,
        'flops_all': sum(layer.flops_all for layer in layers),
        'megabytes': round(count.params * _FLOAT32_BYTES / 1e6, 2),
        'embedding_size': output_shape[1],
    }


def all_networks() -> dict[str, dict[str, Any]]:
    """Name -> params, flops, flops_all, megabytes (float32) and embedding_size, every option at
    its default.
    """
    symbols = {name: get_symbol(name) for name in list_networks()}
    return {name: _summary(symbol, flops.layers(symbol)) for name, symbol in symbols.items()}


def one_network(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """A network's numbers as in `all_networks`, all its options and its layers.

    Raises InputError as get_symbol does.
    """
    symbol = get_symbol(name, **options)
    layers = flops.layers(symbol)
    return {
        'network': name,
        'options': {**network_options(name), **options},
        **_summary(symbol, layers),
        'layers': [dataclasses.asdict(layer) for layer in layers],
    }


def _print_networks(networks: dict[str, dict[str, Any]]) -> None:
    rows = [
        (
            name,
            f'{network["params"]:,}',
            f'{network["flops"]:,}',
            _truncated_millions(network['flops_all']),
            f'{network["megabytes"]:.1f}',
            network['embedding_size'],
        )
        for name, network in networks.items()
    ]
    columns = (
        'network',
        'parameters',
        f'FLOPs, {ORGANISERS}',
        f'MFLOPs, {AUTHORS}',
        'MB float32',
        'embedding',
    )
    console.table('Networks', columns, rows)


def _truncated_millions(flop_count: int) -> str:
    """Cut off after one decimal, as MixFaceNet's authors publish 161,988,532 as 161.9."""
    return f'{flop_count // 100_000 / 10:,.1f}'


def _millions(flop_count: int) -> str:
    return f'{flop_count / 1e6:,.3f}' if flop_count else ''


def _print_layers(network: dict[str, Any]) -> None:
    rows = [
        (
            layer['name'],
            layer['operator'],
            'x'.join(str(size) for size in layer['output_shape'][1:]),
            f'{layer["params"]:,}',
            _millions(layer['flops']),
        )
        for layer in network['layers']
    ]
    rows.append(('total', '', '', f'{network["params"]:,}', _millions(network['flops'])))
    options = ', '.join(f'{option}={value}' for option, value in network['options'].items())
    columns = ('layer', 'operator', 'output', 'params', 'MFLOPs')
    console.table(f'{network["network"]}: {options}', columns, rows)


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'network', nargs='?', help='show the layers of this network; without it, all networks'
    )
    parser.add_argument(
        '--option',
        action='append',
        default=[],
        metavar='OPTION=VALUE',
        help='set an option of the network, e.g. use_se=false (repeatable)',
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


def run(arguments: argparse.Namespace) -> dict[str, Any]:
    """The dict of `one_network`, or of `all_networks` under 'networks'."""
    if arguments.network:
        result = one_network(arguments.network, parse_options(arguments.network, arguments.option))
        _print_layers(result)
        return result
    if arguments.option:
        raise InputError(f'{arguments.option[0]}: an option needs a network to set it on')
    networks = all_networks()
    _print_networks(networks)
    return {'networks': networks}


main = console.command('info', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
