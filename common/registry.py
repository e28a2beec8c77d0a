"""Named things: networks, losses, presets. One way to add one and one error for a wrong name."""

import difflib
from collections.abc import Iterable
from typing import Callable, Generic, TypeVar

from .errors import InputError

T = TypeVar('T')


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name nobody knows: lists the known ones and suggests the nearest."""
    known = sorted(known)
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f' (did you mean {near[0]!r}?)' if near else ''
    return InputError(f'unknown {kind} {name!r}; known: {", ".join(known)}{hint}')


class Registry(Generic[T]):
    """Maps names to values of one kind.

    >>> LOSSES = Registry('loss')
    >>> @LOSSES.register('arcface')
    ... def arcface(): ...
    >>> LOSSES.get('arcfase')
    Traceback (most recent call last):
    vargfacenet.common.errors.InputError: unknown loss 'arcfase'; known: arcface ...
    """

    def __init__(self, kind: str):
        self._kind = kind
        self._items: dict[str, T] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a value under `name`; a second value of the name is an error."""

        def add(item: T) -> T:
            if name in self._items:
                raise KeyError(f'{self._kind} {name!r} is registered twice')
            self._items[name] = item
            return item

        return add

    def get(self, name: str) -> T:
        """The value of `name`; raises InputError with the nearest known name otherwise."""
        if name not in self._items:
            raise unknown_name(self._kind, name, self._items)
        return self._items[name]

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._items)
