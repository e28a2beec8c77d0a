"""Parameters of a network from a PyTorch state_dict and back.

The function stays the same to rounding where the two implementations differ: another input scale
goes into the first convolution, another epsilon into the running variances, and a gamma that is
fixed here into the layer before it.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

import numpy as np

from ..common.backend import mx
from ..common.engine.network import Network
from ..common.engine.torch_file import Tensor
from ..common.errors import InputError
from ..common.names import DATA, IMAGE_SHAPE
from . import get_symbol
from .options import NETWORKS, Family
from .torch_layout import TorchLayout

log = logging.getLogger(__name__)

_SHOWN = 3  # names in a message
_COUNTER = 'num_batches_tracked'  # of PyTorch's batch norms; nothing here needs it


def from_torch(
    name: str, states: Mapping[str, Mapping[str, Tensor]], options: Mapping[str, Any], source: str
) -> Network:
    """The network `name` with the parameters of a PyTorch file.

    Parameters
    ----------
    name : a registered network
    states : as `torch_file.read_states` gives them; the one that fits best is taken
    options : of the network; those that the file's shapes tell need not be given
    source : the file, for messages

    Raises
    ------
    InputError if keys are missing or left over, or shapes differ, naming some of them.
    """
    family = NETWORKS.get(name)
    layout = family.torch
    wanted = _wanted_keys(family, name, options)
    state, tensors = _best(states, wanted)
    sizes = {
        option: tensors[key].shape[0] // divisor
        for option, (key, divisor) in layout.sizes.items()
        if key in tensors and tensors[key].shape and option not in options
    }
    symbol = get_symbol(name, **{**layout.options, **sizes, **options})
    shapes = _shapes(symbol)
    _check(layout, shapes, tensors, f'{source}{f" ({state})" if state else ""}', name)
    values = {}
    for parameter, shape in shapes.items():
        tensor = tensors.get(layout.key(parameter))
        if tensor is None:
            values[parameter] = np.full(shape, layout.absent[parameter])
        else:
            values[parameter] = tensor.array().astype(np.float64).reshape(shape)
        if not np.isfinite(values[parameter]).all():
            raise InputError(f'{source}: {layout.key(parameter)} has values that are not finite')
    _to_ours(symbol, layout, values)
    arrays = {key: mx.nd.array(value.astype(np.float32)) for key, value in values.items()}
    auxiliary = set(symbol.list_auxiliary_states())
    return Network(
        symbol,
        {key: value for key, value in arrays.items() if key not in auxiliary},
        {key: value for key, value in arrays.items() if key in auxiliary},
    )


def to_torch(network: Network) -> tuple[str, dict[str, np.ndarray]]:
    """(name of the network whose layout it is, state_dict) of a network.

    A network of another family, or with parts that the family's PyTorch implementation does not
    have, keeps its own names, and the name is ''.
    """
    shapes = _shapes(network.symbol)
    values = {name: network.params[name].asnumpy().astype(np.float64) for name in shapes}
    name = _same_layers(network.symbol)
    layout = NETWORKS.get(name).torch if name else TorchLayout()
    _to_theirs(network.symbol, layout, values)
    state = {
        layout.key(parameter): value.reshape(layout.shape(parameter, value.shape))
        for parameter, value in values.items()
        if parameter not in layout.absent
    }
    return name, {key: value.astype(np.float32) for key, value in state.items()}


def _same_layers(symbol: 'mx.sym.Symbol') -> str:
    """The registered network with a PyTorch layout whose parameters have the same names, whatever
    their sizes are; '' without one. Of several, one that is the same to the letter comes first.
    """
    found = []
    for name in NETWORKS.names():
        layout = NETWORKS.get(name).torch
        for options in ({}, layout.options) if layout != TorchLayout() else ():
            candidate = get_symbol(name, **options)
            if (
                symbol.list_arguments() == candidate.list_arguments()
                and symbol.list_auxiliary_states() == candidate.list_auxiliary_states()
            ):
                found.append((candidate.tojson() != symbol.tojson(), name))
    return min(found)[1] if found else ''


def _shapes(symbol: 'mx.sym.Symbol') -> dict[str, tuple[int, ...]]:
    """Name -> shape of all parameters and running statistics."""
    arguments, _, auxiliary = symbol.infer_shape(**{DATA: (1, *IMAGE_SHAPE)})
    shapes = dict(zip(symbol.list_arguments(), arguments))
    shapes.update(zip(symbol.list_auxiliary_states(), auxiliary))
    shapes.pop(DATA)
    return shapes


def _wanted_keys(family: Family, name: str, options: Mapping[str, Any]) -> set[str]:
    symbol = get_symbol(name, **{**family.torch.options, **options})
    names = [*symbol.list_arguments(), *symbol.list_auxiliary_states()]
    names.remove(DATA)
    return {family.torch.key(name) for name in names}


def _best(
    states: Mapping[str, Mapping[str, Tensor]], wanted: set[str]
) -> tuple[str, dict[str, Tensor]]:
    """(path, tensors) of the state_dict with the most of the wanted keys, without its prefix."""
    best, most, left = ('', {}), -1, 0
    for path, tensors in states.items():
        for prefix in _prefixes(tensors, wanted):
            found = sum(prefix + key in tensors for key in wanted)
            if found > most:
                kept = {
                    key[len(prefix) :]: value
                    for key, value in tensors.items()
                    if key.startswith(prefix)
                }
                best, most = (path, kept), found
                left = len(tensors) - len(kept)
    if left:
        log.warning('%d tensors outside of %r are left out', left, best[0] or 'the network')
    return best


def _prefixes(tensors: Mapping[str, Tensor], wanted: set[str]) -> set[str]:
    """What may stand before the keys, such as 'module.' of data parallel training."""
    prefixes = {''}
    for key in tensors:
        parts = key.split('.')
        prefixes.update(
            '.'.join(parts[:count]) + '.'
            for count in range(1, len(parts))
            if '.'.join(parts[count:]) in wanted
        )
    return prefixes


def _check(
    layout: TorchLayout,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Mapping[str, Tensor],
    source: str,
    name: str,
) -> None:
    """Two-way comparison of names and shapes, as for checkpoints of MXNet."""
    wanted = {layout.key(key): layout.shape(key, shape) for key, shape in shapes.items()}
    optional = {layout.key(key) for key in layout.absent}
    parts = {key.split('.')[0] for key in wanted}
    ignored = {key for key in tensors.keys() - wanted.keys() if key.startswith(layout.unused)}
    given = {key for key in tensors.keys() - ignored if not key.endswith(_COUNTER)}
    missing = wanted.keys() - given - optional
    foreign = {key for key in given - wanted.keys() if key.split('.')[0] not in parts}
    extra = given - wanted.keys() - foreign
    reshaped = {
        f'{key} ({tensors[key].shape} in the file, {wanted[key]} in the network)'
        for key in wanted.keys() & given
        if tensors[key].shape != wanted[key]
    }
    problems = [
        f'{len(keys)} {what}: {_listed(keys)}'
        for what, keys in (
            ('only in the network', missing),
            ('only in the file', extra),
            ('of another shape', reshaped),
        )
        if keys
    ]
    if problems:
        raise InputError(f'{source} does not hold network {name}; ' + '; '.join(problems))
    if foreign:
        shown = _listed(foreign)
        log.warning('%d tensors are no part of %s and left out: %s', len(foreign), name, shown)


def _listed(keys: set[str]) -> str:
    more = f' and {len(keys) - _SHOWN} more' if len(keys) > _SHOWN else ''
    return ', '.join(sorted(keys)[:_SHOWN]) + more


# --- what differs between the implementations


def _nodes(symbol: 'mx.sym.Symbol') -> list[dict]:
    """Nodes of the graph with `inputs` as the nodes themselves."""
    nodes = json.loads(symbol.tojson())['nodes']
    for node in nodes:
        node['inputs'] = [nodes[index] for index, *_ in node['inputs']]
    return nodes


def _to_ours(symbol: 'mx.sym.Symbol', layout: TorchLayout, values: dict[str, np.ndarray]) -> None:
    """Change float64 parameters of the PyTorch network in place so that ours does the same."""
    for node in _nodes(symbol):
        if node['op'] == 'BatchNorm':
            eps = float(node['attrs']['eps'])
            if layout.bn_eps is not None:
                values[f'{node["name"]}_moving_var'] += layout.bn_eps - eps
            if node['attrs'].get('fix_gamma', 'True') == 'True':
                _move_gamma(node, eps, values)
    _scale_input(symbol, layout, values, inverse=False)


def _to_theirs(symbol: 'mx.sym.Symbol', layout: TorchLayout, values: dict[str, np.ndarray]) -> None:
    """The inverse of `_to_ours`, but for a gamma that was moved."""
    for node in _nodes(symbol):
        if node['op'] == 'BatchNorm':
            name, eps = node['name'], float(node['attrs']['eps'])
            if layout.bn_eps is not None:
                values[f'{name}_moving_var'] += eps - layout.bn_eps
            if node['attrs'].get('fix_gamma', 'True') == 'True':
                values[f'{name}_gamma'][:] = 1
            layer = node['inputs'][0]
            bias = f'{layer["name"]}_bias'
            if bias in layout.absent and bias in values:
                values[f'{name}_moving_mean'] -= values[bias]
    _scale_input(symbol, layout, values, inverse=True)


def _move_gamma(norm: dict, eps: float, values: dict[str, np.ndarray]) -> None:
    """A gamma that is not 1 of a batch norm that has it fixed goes into the layer before.

    gamma * (w x + b - mean) / deviation = (w' x + b' - mean') / 1
    """
    name, layer = norm['name'], norm['inputs'][0]['name']
    gamma, variance = values[f'{name}_gamma'], values[f'{name}_moving_var']
    if (gamma == 1).all():
        return
    scale = gamma / np.sqrt(variance + eps)
    weight = values[f'{layer}_weight']
    weight *= scale.reshape(-1, *[1] * (weight.ndim - 1))
    if f'{layer}_bias' in values:
        values[f'{layer}_bias'] *= scale
    values[f'{name}_moving_mean'] *= scale
    variance[:] = 1 - eps
    gamma[:] = 1


def _scale_input(
    symbol: 'mx.sym.Symbol', layout: TorchLayout, values: dict[str, np.ndarray], inverse: bool
) -> None:
    """The first convolution takes over what the scales of the input differ by.

    Exact also at the border: what pads the convolution is zero on both sides.
    """
    if layout.input_scale is None:
        return
    nodes = _nodes(symbol)
    scaled = next(node for node in nodes if node['op'] == '_mul_scalar')
    first = next(node for node in nodes if scaled in node['inputs'])
    factor = layout.input_scale / float(scaled['attrs']['scalar'])
    values[f'{first["name"]}_weight'] *= 1 / factor if inverse else factor
