"""What the networks cost: a table of all of them, or the layers of one.

FLOPs are those of one 112x112 image, by two conventions: the LFR challenge's organisers count
convolutions and fully connected layers only, MixFaceNet's authors batch norms, activations and
poolings as well.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any, Optional

from ..common import console, flops
from ..common.backend import mx
from ..common.errors import InputError
from ..common.names import DATA, IMAGE_SHAPE
from . import get_symbol, list_networks, network_options, parse_options
from .network_table import (
    AUTHORS,
    ORGANISERS,
    Speeds,
    millions_cut_off,
    print_table,
    read_speeds,
    read_trained,
)
from .published import PUBLISHED

_FLOAT32_BYTES = 4
_INT8_OVERHEAD = 8  # bytes a filter: its bias and its scale


def _summary(symbol: mx.sym.Symbol, layers: list[flops.Layer]) -> dict[str, Any]:
    """One network's numbers; a megabyte is 10**6 bytes."""
    _, (output_shape,), _ = symbol.infer_shape(**{DATA: (1, *IMAGE_SHAPE)})
    count = flops.total(layers)
    return {
        'params': count.params,
        'flops': count.flops,
        'flops_all': sum(layer.flops_all for layer in layers),
        'megabytes': round(count.params * _FLOAT32_BYTES / 1e6, 2),
        'megabytes_int8': round(_int8_bytes(layers) / 1e6, 2),
        'embedding_size': output_shape[1],
    }


def _int8_bytes(layers: list[flops.Layer]) -> int:
    """Bytes of the parameters with 8-bit weights and batch norms folded; a file has some more."""
    total = 0
    for layer in layers:
        if layer.operator in ('Convolution', 'FullyConnected'):
            total += layer.params + _INT8_OVERHEAD * layer.output_shape[1]
        elif layer.operator != 'BatchNorm':
            total += _FLOAT32_BYTES * layer.params
    return total


def all_networks() -> dict[str, dict[str, Any]]:
    """Name -> params, flops, flops_all, megabytes (float32), megabytes_int8 and embedding_size,
    every option at its default.
    """
    return {name: _cost_of(name, {}) for name in list_networks()}


def _cost_of(name: str, options: dict[str, Any]) -> dict[str, Any]:
    symbol = get_symbol(name, **options)
    return _summary(symbol, flops.layers(symbol))


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
            f'{network["flops"] / 1e6:,.1f}',
            millions_cut_off(network['flops_all']),
            f'{network["megabytes"]:.1f}',
            network['embedding_size'],
        )
        for name, network in networks.items()
    ]
    columns = (
        'network',
        'parameters',
        f'MFLOPs, {ORGANISERS}',
        f'MFLOPs, {AUTHORS}',
        'MB float32',
        'embedding',
    )
    console.table('Networks', columns, rows)


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


def _table(form: str, results: str, study: str) -> dict[str, Any]:
    speeds = read_speeds(results) if results else Speeds('', 1, {})
    trained = read_trained(study) if study else []
    networks = all_networks()
    costs = {row.arm: _cost_of(row.network, row.options) for row in trained}
    print_table(form, networks, speeds, trained, costs)
    for name, network in networks.items():
        published = PUBLISHED.get(name)
        network['published'] = published._asdict() if published else None
        network['measured'] = speeds.networks.get(name)
    arms = {row.arm: {**row._asdict(), **costs[row.arm]} for row in trained}
    return {'networks': networks, 'cpu': speeds.cpu, 'trained': arms}


def networks(
    name: Optional[str] = None,
    options: Sequence[str] = (),
    table: Optional[str] = None,
    results: str = '',
    study: str = '',
) -> dict[str, Any]:
    """Print and return what one network costs, or all.

    Parameters
    ----------
    name : a network; its layers are printed
    options : 'option=value' of it
    table : 'text' or 'markdown': all networks, with what is published
    results : for the table, a file of `bench networks`
    study : for the table, the results.json of a study

    Returns
    -------
    The dict of `one_network`, or of `all_networks` under 'networks'; with a table also what is
    published and what the files measured.

    Raises
    ------
    InputError for what does not go together, for files of another kind, and as `one_network`.
    """
    if table:
        if name or options:
            raise InputError('--table shows all networks as they are; leave the network out')
        return _table(table, results, study)
    if results or study:
        raise InputError(f'{"--results" if results else "--study"} belongs to --table')
    if name:
        result = one_network(name, parse_options(name, options))
        _print_layers(result)
        return result
    if options:
        raise InputError(f'{options[0]}: an option needs a network to set it on')
    found = all_networks()
    _print_networks(found)
    return {'networks': found}
