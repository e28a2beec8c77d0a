"""What the networks cost: a table of all of them, or the layers of one.

FLOPs are those of one 112x112 image, by two conventions: the LFR challenge's organisers count
convolutions and fully connected layers only, MixFaceNet's authors batch norms, activations and
poolings as well.
"""

import dataclasses
import sys
from collections.abc import Sequence
from typing import Any, Optional

from ..common import console, flops
from ..common.backend import mx
from ..common.errors import InputError
from ..common.files import read_json
from ..common.names import DATA, IMAGE_SHAPE
from . import get_symbol, list_networks, network_options, parse_options
from .published import PUBLISHED

_FLOAT32_BYTES = 4
_INT8_OVERHEAD = 8  # bytes a filter: its bias and its scale
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


def measured(words: list[str]) -> dict[str, dict[str, Any]]:
    """The fastest engine at batch 1 of each network, from 'NETWORK=FILE' words.

    A file is what `bench engines --out FILE` wrote for that network.

    Returns
    -------
    name -> {'engine', 'latency_ms', 'machine'}

    Raises
    ------
    InputError for an unknown network and for a file of another kind.
    """
    found = {}
    for word in words:
        name, _, path = word.partition('=')
        network_options(name)  # an unknown one is an error
        result = read_json(path, 'results file')
        try:
            rows = [(float(row['latency_ms_median']), row['engine']) for row in result['engines']]
            latency, engine = min(rows)
            found[name] = {'engine': engine, 'latency_ms': latency, 'machine': result['machine']}
        except (ValueError, KeyError, TypeError):
            raise InputError(f'{path} is no result of `bench engines --out`') from None
    return found


TABLE_COLUMNS = (
    'network',
    'M params',
    f'MFLOPs, {ORGANISERS}',
    f'MFLOPs, {AUTHORS}',
    'MB float32',
    'MB int8',
    'ms here',
    'LFW',
    'CFP-FP',
    'AgeDB-30',
    'IJB-B',
    'IJB-C',
    'trained on',
    'source',
)


def table_rows(
    networks: dict[str, dict[str, Any]], latencies: dict[str, dict[str, Any]]
) -> list[tuple[str, ...]]:
    """One row of TABLE_COLUMNS a network; what is not known is empty."""
    rows = []
    for name, network in networks.items():
        here = latencies.get(name)
        published = PUBLISHED.get(name)
        rows.append(
            (
                name,
                f'{network["params"] / 1e6:.2f}',
                f'{network["flops"] / 1e6:,.1f}',
                _truncated_millions(network['flops_all']),
                f'{network["megabytes"]:.1f}',
                f'{network["megabytes_int8"]:.1f}',
                f'{here["latency_ms"]:.1f} ({here["engine"]})' if here else '',
                *('' if value is None else str(value) for value in published or [None] * 7),
            )
        )
    return rows


def markdown(rows: list[tuple[str, ...]]) -> str:
    """The table in Markdown."""
    lines = [TABLE_COLUMNS, ['---', *['---:'] * 11, '---', '---'], *rows]
    return '\n'.join(f'| {" | ".join(line)} |' for line in lines) + '\n'


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


def _table(form: str, results: list[str]) -> dict[str, Any]:
    latencies = measured(results)
    networks = all_networks()
    rows = table_rows(networks, latencies)
    if form == 'markdown':
        sys.stderr.write(markdown(rows))
    else:
        console.table('Networks', TABLE_COLUMNS, rows)
    for name, network in networks.items():
        published = PUBLISHED.get(name)
        network['published'] = published._asdict() if published else None
        network['measured'] = latencies.get(name)
    return {'networks': networks}


def networks(
    name: Optional[str] = None,
    options: Sequence[str] = (),
    table: Optional[str] = None,
    results: Sequence[str] = (),
) -> dict[str, Any]:
    """Print and return what one network costs, or all.

    Parameters
    ----------
    name : a network; its layers are printed
    options : 'option=value' of it
    table : 'text' or 'markdown': all networks, with what is published
    results : for the table, as of `measured`

    Returns
    -------
    The dict of `one_network`, or of `all_networks` under 'networks'; with a table also what is
    published and what the results files measured.

    Raises
    ------
    InputError for what does not go together, and as `one_network` and `measured`.
    """
    if table:
        if name or options:
            raise InputError('--table shows all networks as they are; leave the network out')
        return _table(table, list(results))
    if results:
        raise InputError('--results belongs to --table')
    if name:
        result = one_network(name, parse_options(name, options))
        _print_layers(result)
        return result
    if options:
        raise InputError(f'{options[0]}: an option needs a network to set it on')
    found = all_networks()
    _print_networks(found)
    return {'networks': found}
