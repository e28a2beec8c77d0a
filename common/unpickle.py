"""Pickles of strangers, read by a machine that cannot run anything.

Python's own reader calls whatever a pickle names, and takes memory for whatever it announces. This
one knows the opcodes that plain data need, calls only the functions it is given, and makes no room
before it has seen the bytes that fill it.
"""

import contextlib
import mmap
import os
import pickletools
from collections.abc import Iterator, Mapping
from typing import Any, Callable, Optional

from .errors import InputError
from .files import PathLike

_SHOWN = 60  # characters of a name in a message
_COPIES = 4
_MARK = object()
_VALUES = frozenset(  # opcodes whose argument is the value
    (
        'INT',
        'BININT',
        'BININT1',
        'BININT2',
        'LONG',
        'LONG1',
        'LONG4',
        'FLOAT',
        'BINFLOAT',
        'BINBYTES',
        'SHORT_BINBYTES',
        'BINBYTES8',
        'UNICODE',
        'SHORT_BINUNICODE',
        'BINUNICODE',
        'BINUNICODE8',
    )
)
_CONSTANTS = {'NONE': None, 'NEWTRUE': True, 'NEWFALSE': False, 'EMPTY_TUPLE': ()}
_TUPLES = {'TUPLE1': 1, 'TUPLE2': 2, 'TUPLE3': 3}


class Named:
    """A function that a pickle names, before it calls it."""

    def __init__(self, module: str, name: str):
        self.key = (module, name)


class Budget:
    """Bytes that may still be copied: a pickle that has every array once needs about its own size,
    twice where it writes bytes as text."""

    def __init__(self, left: int):
        self._left = left

    def take(self, content: Any) -> bytes:
        """`content` as bytes; InputError where it is nothing of the kind, or too much in all."""
        if not isinstance(content, (bytes, bytearray)):
            raise InputError('holds an array whose content is not plain bytes')
        self._left -= len(content)
        if self._left < 0:
            raise InputError('its arrays take more memory than the file has bytes')
        return bytes(content)


Functions = Mapping[tuple[str, str], Callable[..., Any]]
Persistent = Optional[Callable[[Any], Any]]


class _Machine:
    """The stack and the memo of a pickle, one method a kind of opcode."""

    def __init__(self, functions: Functions, refusal: str, persistent: Persistent = None):
        self._functions, self._refusal = functions, refusal
        self._persistent = persistent
        self.stack: list = []
        self._memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        if opcode in _VALUES:
            self.stack.append(argument)
        elif opcode in _CONSTANTS:
            self.stack.append(_CONSTANTS[opcode])
        elif opcode in _TUPLES:
            count = _TUPLES[opcode]
            self.stack[-count:] = [tuple(self._last(count))]
        elif opcode in ('STRING', 'BINSTRING', 'SHORT_BINSTRING'):  # of Python 2: bytes
            self.stack.append(argument.encode('latin-1'))
        elif opcode in ('PUT', 'BINPUT', 'LONG_BINPUT'):
            self._memo[argument] = self.stack[-1]
        elif opcode in ('GET', 'BINGET', 'LONG_BINGET'):
            self.stack.append(self._memo[argument])
        else:
            method = getattr(self, f'op_{opcode.lower()}', None)
            if method is None:
                raise InputError(f'has the opcode {opcode}, which no plain data need')
            method(argument)

    def _last(self, count: int) -> list:
        """The last values, without taking them; a mark among them is damage."""
        values = self.stack[-count:] if count else []
        if len(values) < count or any(value is _MARK for value in values):
            raise IndexError('the stack is too short')
        return values

    def _pop(self) -> Any:
        (value,) = self._last(1)
        self.stack.pop()
        return value

    def _marked(self) -> list:
        """Takes what lies above the last mark."""
        position = len(self.stack) - 1
        while self.stack[position] is not _MARK:
            position -= 1
            if position < 0:
                raise IndexError('a mark is missing')
        values = self.stack[position + 1 :]
        del self.stack[position:]
        return values

    # --- opcodes by name

    def op_proto(self, _version: int) -> None:
        pass

    op_frame = op_stop = op_proto

    def op_mark(self, _argument: None) -> None:
        self.stack.append(_MARK)

    def op_pop_mark(self, _argument: None) -> None:
        self._marked()

    def op_memoize(self, _argument: None) -> None:
        self._memo[len(self._memo)] = self.stack[-1]

    def op_bytearray8(self, argument: bytes) -> None:
        self.stack.append(bytes(argument))

    def op_empty_list(self, _argument: None) -> None:
        self.stack.append([])

    def op_empty_dict(self, _argument: None) -> None:
        self.stack.append({})

    def op_tuple(self, _argument: None) -> None:
        self.stack.append(tuple(self._marked()))

    def op_list(self, _argument: None) -> None:
        self.stack.append(self._marked())

    def op_dict(self, _argument: None) -> None:
        pairs = self._marked()
        self.stack.append({})
        self._set(pairs)

    def op_append(self, _argument: None) -> None:
        self._extend([self._pop()])

    def op_appends(self, _argument: None) -> None:
        self._extend(self._marked())

    def op_setitem(self, _argument: None) -> None:
        pair = self._last(2)
        del self.stack[-2:]
        self._set(pair)

    def op_setitems(self, _argument: None) -> None:
        self._set(self._marked())

    def op_global(self, argument: str) -> None:
        self._name(*argument.split(' ', 1))

    def op_stack_global(self, _argument: None) -> None:
        module, name = self._last(2)
        del self.stack[-2:]
        self._name(module, name)

    def op_reduce(self, _argument: None) -> None:
        function, arguments = self._last(2)
        del self.stack[-2:]
        if not isinstance(function, Named) or not isinstance(arguments, tuple):
            raise InputError('calls something that is no function')
        self.stack.append(self._functions[function.key](*arguments))

    def op_binpersid(self, _argument: None) -> None:
        identifier = self._pop()
        if self._persistent is None:
            raise InputError('refers to something outside of its pickle')
        self.stack.append(self._persistent(identifier))

    def op_build(self, _argument: None) -> None:
        state = self._pop()
        (target,) = self._last(1)
        target.set_state(state)  # of our stand-ins only: nothing else has such a method

    # --- what they share

    def _extend(self, values: list) -> None:
        (target,) = self._last(1)
        if not isinstance(target, list):
            raise InputError('appends to something that is no list')
        target += values

    def _set(self, pairs: list) -> None:
        (target,) = self._last(1)
        if not isinstance(target, dict) or len(pairs) % 2:
            raise InputError('sets an item of something that is no dictionary')
        for key, value in zip(pairs[::2], pairs[1::2]):
            if not isinstance(key, (int, str)):  # a nested tuple may take for ever to hash
                raise InputError('has a dictionary whose keys are neither numbers nor names')
            target[key] = value

    def _name(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise InputError('names something by no text')
        if (module, name) not in self._functions:
            asked = f'{module}.{name}'[:_SHOWN]
            raise InputError(
                f'its pickle asks for {asked}, {self._refusal}; refused, since it could run any '
                f'code'
            )
        self.stack.append(Named(module, name))


def unpickle(path: PathLike, functions: Callable[[Budget], Functions], refusal: str) -> Any:
    """The plain data of a pickle of any protocol.

    Parameters
    ----------
    path : a file
    functions : given a Budget for what they copy, what stands in for each (module, name) that the
        pickle may call. What they return has `set_state` where the pickle gives it a state.
    refusal : why another name is refused: 'which no pair set needs'

    Returns
    -------
    Lists, tuples, dictionaries, numbers, texts, bytes (also where Python 2 wrote a `str`), None and
    what the functions return. A value may hold another many times over: it may be followed only
    where that does no harm.

    Raises
    ------
    InputError for anything else, and for a file that is cut off or damaged.
    """
    with damage_reported(path), open(path, 'rb') as handle, mapped(handle) as content:
        return read_pickle(content, functions(Budget(_COPIES * len(content))), refusal)


def read_pickle(
    content: Any, functions: Functions, refusal: str, persistent: Persistent = None
) -> Any:
    """`unpickle` of a pickle that begins at the position of `content`, which is then behind it.

    Parameters
    ----------
    content : an open file in memory, `mapped` or BytesIO
    functions, refusal : as for `unpickle`
    persistent : given an identifier, what it stands for outside of the pickle
    """
    machine = _Machine(functions, refusal, persistent)
    for opcode, argument, _ in pickletools.genops(content):
        machine.step(opcode.name, argument)
    (value,) = machine.stack
    return value


@contextlib.contextmanager
def damage_reported(path: PathLike) -> Iterator[None]:
    """What a damaged pickle at `path` fails with, as InputError with the path."""
    try:
        yield
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
    except (ValueError, TypeError, AttributeError, LookupError) as error:
        # a damaged pickle fails in any of a dozen ways, none of which is of use to the reader
        reason = ' '.join(str(error).split())[:200]
        raise InputError(
            f'{path} is no whole pickle ({type(error).__name__}: {reason}); copy it again'
        ) from None


def mapped(handle: Any) -> mmap.mmap:
    """The file's bytes; unlike a file it takes no memory for more bytes than it has.

    Raises InputError for an empty file.
    """
    if not os.fstat(handle.fileno()).st_size:
        raise InputError('the file is empty')
    return mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ)
