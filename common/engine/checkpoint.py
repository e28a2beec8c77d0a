"""Checkpoints: MXNet's pair of files, `PREFIX-symbol.json` and `PREFIX-%04d.params`.

A checkpoint's symbol is the official embedding symbol (output `fc1_output`): no operator of ours
and no loss, so that InsightFace's tools load it. Its parameters may hold the classifier as well
(`fc7_weight`), which those tools skip.
"""

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from ..checksums import forget, noted
from ..errors import InputError, RunError
from ..files import PathLike, atomic_write, device_of, exclusive, free_to_write, output_folder
from ..names import CLASSIFIER_PREFIX, EMBEDDING_OUTPUT
from ..run_files import check_symbol, checkpoint_numbers, numbers_of, state_path, symbol_path
from .model_name import checkpoint_files, params_path, parse_model
from .network import Network, plain_arrays, plain_symbol
from .params_file import read_arrays, write_arrays
from .symbol_file import Symbol, read_symbol

if TYPE_CHECKING:
    from ..backend import mx

# The last weight of the MobileFaceNet that is published for MXNet, and of all networks here.
PUBLISHED_DENSE, DENSE = 'fc1_weight', 'pre_fc1_weight'

Params = dict  # name -> NumPy array or mx.nd.NDArray

_SHOWN_NAMES = 3  # how many differing names an error lists


def load_params(path: PathLike) -> tuple[Params, Params]:
    """(arg_params, aux_params) of a `.params` file, NumPy arrays.

    Raises InputError for a missing, truncated, damaged or foreign file.
    """
    stored = read_arrays(path)
    arg, aux = {}, {}
    for name, value in stored.items():
        if not name.startswith(('arg:', 'aux:')):
            raise InputError(
                f'{path}: names do not start with arg: or aux:; not a Module checkpoint'
            )
        part = arg if name.startswith('arg:') else aux
        part[name[4:]] = value
    return arg, aux


def save_params(path: PathLike, arg_params: Params, aux_params: Params) -> None:
    """Write a `.params` file whole or not at all; RunError where the disk does not take it."""
    stored = {f'arg:{name}': value for name, value in plain_arrays(arg_params).items()}
    stored.update({f'aux:{name}': value for name, value in plain_arrays(aux_params).items()})
    try:
        write_arrays(path, stored)
    except OSError as error:
        free = shutil.disk_usage(Path(path).parent).free
        raise RunError(
            f'{path} could not be written whole ({error.strerror}; {free / 1e6:.0f} MB are free '
            f'on {device_of(path) or "its device"}); nothing was left behind, the checkpoints '
            'before it are as they were'
        ) from None


def save_symbol(prefix: PathLike, symbol: 'mx.sym.Symbol') -> None:
    """Write `PREFIX-symbol.json` whole or not at all."""
    forget(symbol_path(prefix))  # of a run its states have the checksum
    atomic_write(symbol_path(prefix), symbol.tojson())


def embedding_symbol(symbol: 'mx.sym.Symbol', source: str = 'symbol') -> 'mx.sym.Symbol':
    """The part of a symbol that ends in `fc1_output`; heads and losses fall away."""
    outputs = symbol.get_internals().list_outputs()
    if EMBEDDING_OUTPUT not in outputs:
        raise InputError(
            f'{source}: no output {EMBEDDING_OUTPUT!r} among its {len(outputs)} layers'
        )
    return symbol.get_internals()[EMBEDDING_OUTPUT]


def _listed(names) -> str:
    names = sorted(names)
    more = f' and {len(names) - _SHOWN_NAMES} more' if len(names) > _SHOWN_NAMES else ''
    return ', '.join(names[:_SHOWN_NAMES]) + more


def check_match(
    symbol: Union[Symbol, 'mx.sym.Symbol'], arg_params: Params, aux_params: Params, source: str
) -> None:
    """Two-way comparison of a symbol and parameters: names and shapes.

    Names that only the parameters have are allowed when they belong to a classifier (`fc7_*`).

    Raises
    ------
    InputError naming what is only in the network, only in the file, and what differs in shape.
    """
    wanted = plain_symbol(symbol).shapes
    given = {**arg_params, **aux_params}
    missing = wanted.keys() - given.keys()
    extra = {
        name for name in given.keys() - wanted.keys() if not name.startswith(CLASSIFIER_PREFIX)
    }
    reshaped = {
        f'{name} ({given[name].shape} in the file, {wanted[name]} in the network)'
        for name in wanted.keys() & given.keys()
        if tuple(given[name].shape) != tuple(wanted[name])
    }
    problems = [
        f'{len(names)} {what}: {_listed(names)}'
        for what, names in (
            ('only in the network', missing),
            ('only in the file', extra),
            ('of another shape', reshaped),
        )
        if names
    ]
    if problems:
        raise InputError(f'{source} is a checkpoint of another network; ' + '; '.join(problems))


def load_embedding(model: str, symbol: Union[Symbol, 'mx.sym.Symbol', None] = None) -> Network:
    """Load 'PREFIX,EPOCH' as an embedding network.

    Parameters
    ----------
    model : 'PREFIX,EPOCH'
    symbol : the embedding symbol to check the parameters against; by default the saved one

    Returns
    -------
    Network, plain; parameters the symbol does not use (`fc7_weight`) are kept. What the file holds
    in float16 comes as float32, in which all engines compute.

    Raises
    ------
    InputError for missing, truncated or disagreeing files, and for values that are not finite.
    """
    prefix, epoch = parse_model(model)
    if symbol is None:
        check_symbol(prefix, epoch)
        symbol = read_symbol(symbol_path(prefix))
    symbol = plain_symbol(symbol)
    path = params_path(prefix, epoch)
    arg_params, aux_params = load_params(path)
    arguments = symbol.list_arguments()
    if PUBLISHED_DENSE in arg_params and PUBLISHED_DENSE not in arguments and DENSE in arguments:
        arg_params = {**arg_params, DENSE: arg_params[PUBLISHED_DENSE]}
        del arg_params[PUBLISHED_DENSE]
    check_match(symbol, arg_params, aux_params, str(path))
    used = {*symbol.list_arguments(), *symbol.list_auxiliary_states()}
    everything = {**arg_params, **aux_params}
    _check_finite({name: everything[name] for name in everything.keys() & used}, path)
    return Network(symbol, *map(_in_float32, (arg_params, aux_params)))


def _in_float32(params: Params) -> Params:
    return {
        name: value.astype(np.float32) if value.dtype == np.float16 else value
        for name, value in params.items()
    }


def _check_finite(params: Params, path: Path) -> None:
    for name, value in params.items():
        bad = int((~np.isfinite(value)).sum())
        if bad:
            raise InputError(
                f'{path}: {bad} of the {value.size} values of {name} are not finite; the training '
                f'that wrote it has diverged, take an earlier checkpoint'
            )


def save_embedding(prefix: PathLike, epoch: int, network: Network) -> None:
    """Write a slim checkpoint: the embedding symbol and only the parameters it uses.

    MXNet writes the symbol, as it does in a training.
    """
    network = network.in_mxnet()
    symbol = embedding_symbol(network.symbol)
    used_args, used_aux = set(symbol.list_arguments()), set(symbol.list_auxiliary_states())
    save_params(
        params_path(prefix, epoch),
        {name: value for name, value in network.arg_params.items() if name in used_args},
        {name: value for name, value in network.aux_params.items() if name in used_aux},
    )
    save_symbol(prefix, symbol)


def check_free(prefix: PathLike, overwrite: bool) -> None:
    """InputError unless `save_alone` may write PREFIX,0: before work starts.

    Nothing may be there but what `overwrite` replaces, and no checkpoint of another number even
    then, since all of a prefix share its symbol.
    """
    for path in (*checkpoint_files(f'{prefix},0'), state_path(prefix, 0)):
        free_to_write(path, overwrite)
    if newest := max([0, *checkpoint_numbers(prefix), *numbers_of(prefix, 'params')]):
        raise InputError(
            f'{prefix} has other checkpoints (the newest: {newest}), whose network would be lost; '
            'choose another place'
        )


def save_alone(prefix: PathLike, network: Network, overwrite: bool) -> None:
    """Write PREFIX,0, slim, of a network that comes from no training run.

    The checksum of the symbol is in the list of its folder, the parameters carry their own.
    Raises InputError as `check_free`, for what another command has written meanwhile.
    """
    symbol = symbol_path(prefix)
    with exclusive(output_folder(symbol.parent)), noted(symbol):
        check_free(prefix, overwrite)
        state_path(prefix, 0).unlink(missing_ok=True)  # of a training that is replaced
        save_embedding(prefix, 0, network)
