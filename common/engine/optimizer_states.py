"""The optimizer's state in a file: what a resumed run needs besides the weights.

It is a `.params` file (see `params_file`) with an array for every parameter, named by the
parameter's number; where the optimizer keeps several for one (multi-precision), by `NUMBER.INDEX`.
A parameter without any state has no array. Before, it was MXNet's pickle, which runs what it
names: such files are read by our own machine (see `unpickle`).
"""

import re
from typing import Any, Optional, Union

import numpy as np

from ..errors import InputError
from ..files import PathLike, input_file
from ..unpickle import Budget, Functions, unpickle
from .params_file import FILE_START, array_of_bytes, read_arrays, write_arrays

State = Optional[Union[np.ndarray, tuple]]


def write_states(path: PathLike, states: dict[int, State]) -> None:
    """Write the state of every parameter by its number, whole or not at all."""
    arrays = {}
    for number, state in sorted(states.items()):
        if isinstance(state, tuple):
            parts = enumerate(state)
            arrays.update((f'{number}.{i}', part) for i, part in parts if part is not None)
        elif state is not None:
            arrays[str(number)] = state
    write_arrays(path, arrays)


def read_states(path: PathLike) -> dict[int, State]:
    """What `write_states` wrote, or MXNet's `Updater.get_states`; parts that were None are left
    out, and are None in a tuple.

    Raises InputError for a missing, damaged or foreign file, and for a pickle that asks for more
    than arrays.
    """
    path = input_file(path, 'optimizer state')
    with open(path, 'rb') as handle:
        is_ours = handle.read(len(FILE_START)) == FILE_START
    if not is_ours:
        return _read_pickle(path)
    states: dict[int, Any] = {}
    for name, array in read_arrays(path).items():
        match = re.fullmatch(r'(\d{1,6})(?:\.(\d))?', name)
        if not match:
            raise InputError(f'{path}: {name[:40]!r} is no number of a parameter')
        number, part = match.groups()
        if part is None:
            states[int(number)] = array
        else:
            parts = states.setdefault(int(number), {})
            if not isinstance(parts, dict):
                raise InputError(f'{path}: parameter {number} has two forms of state')
            parts[int(part)] = array
    return {number: _whole(state) for number, state in states.items()}


def _whole(state: Any) -> State:
    if not isinstance(state, dict):
        return state
    return tuple(state.get(index) for index in range(max(state) + 1))


class _Array:
    """mx.nd.NDArray: its state is a dictionary with the bytes that MXNet saves."""

    def __init__(self, budget: Budget):
        self._budget = budget
        self.array: Optional[np.ndarray] = None

    def set_state(self, state: Any) -> None:
        if not isinstance(state, dict) or state.keys() != {'handle'}:
            raise InputError('holds an array whose content is not plain bytes')
        self.array = array_of_bytes(self._budget.take(state['handle']))


def _allowed(budget: Budget) -> Functions:
    def array(_handle: None) -> _Array:
        return _Array(budget)

    return {
        ('mxnet.ndarray.ndarray', 'NDArray'): array,
        ('builtins', 'bytearray'): budget.take,
        ('__builtin__', 'bytearray'): budget.take,
    }


def _read_pickle(path: PathLike) -> dict[int, State]:
    content = unpickle(path, _allowed, 'which no optimizer state needs')
    if not isinstance(content, dict) or not all(type(number) is int for number in content):
        raise InputError(f'{path}: expected the state of every parameter by its number')
    states = {}
    for number, state in content.items():
        parts = state if isinstance(state, tuple) else (state,)
        if not all(part is None or getattr(part, 'array', None) is not None for part in parts):
            raise InputError(f'{path}: the state of parameter {number} is no array')
        arrays = tuple(None if part is None else part.array for part in parts)
        states[number] = arrays if isinstance(state, tuple) else arrays[0]
    return states
