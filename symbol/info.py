"""What the networks cost: a table of all of them, or the layers of one.

FLOPs are counted as the organisers of the LFR challenge do: convolutions and fully connected
layers only, for one 112x112 image.
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


def _summary(symbol: mx.sym.Symbol, count: flops.Count) -> dict[str, Any]:
    """One network's numbers; a megabyte is 10**6 bytes."""
    _, (output_shape,), _ = symbol.infer_shape(**{DATA: (1, *IMAGE_SHAPE)})
    return {
        'params': count.params,
        'flops': count.flops,
        'megabytes': round(count.params * _FLOAT32_BYTES / 1e6, 2),
        'embedding_size': output_shape[1],
    }


def all_networks() -> dict[str, dict[str, Any]]:
    """Name -> params, flops, megabytes (float32) and embedding_size, every option at default."""
    symbols = {name: get_symbol(name) for name in list_networks()}
    return {name: _summary(symbol, flops.count(symbol)) for name, symbol in symbols.items()}


def one_network(name: str, options: dict[str, Any]) -> dict[str, Any]:
    """A network's numbers as in `all_networks`, all its options and its layers.

    Raises InputError as get_symbol does.
    """
    symbol = get_symbol(name, **options)
    layers = flops.layers(symbol)
    return {
        'network': name,
        'options': {**network_options(name), **options},
        **_summary(symbol, flops.total(layers)),
        'layers': [dataclasses.asdict(layer) for layer in layers],
    }


def _print_networks(networks: dict[str, dict[str, Any]]) -> None:
    rows = [
        (
            name,
            f'{network["params"]:,}',
            f'{network["flops"]:,}',
            f'{network["megabytes"]:.1f}',
            network['embedding_size'],
        )
        for name, network in networks.items()
    ]
    console.table('Networks', ('network', 'parameters', 'FLOPs', 'MB float32', 'embedding'), rows)


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
