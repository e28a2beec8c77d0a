"""Named things: networks, losses, presets. One way to add one and one error for a wrong name."""

import difflib
import importlib
import pkgutil
import sys
from collections.abc import Iterable, Iterator
from types import ModuleType
from typing import Callable, Generic, TypeVar

from .errors import InputError

T = TypeVar('T')


def nearest(name: str, known: Iterable[str], cutoff: float = 0.4) -> str:
    """The known name most like `name`; '' if none is as much like it as `cutoff`, 0..1."""
    return next(iter(difflib.get_close_matches(str(name), known, n=1, cutoff=cutoff)), '')


def unknown_name(kind: str, name: str, known: Iterable[str]) -> InputError:
    """The error for a name nobody knows: lists the known ones and suggests the nearest."""
    known = sorted(known)
    near = nearest(name, known)
    hint = f' (did you mean {near!r}?)' if near else ''
    return InputError(f'unknown {kind} {name!r}; known: {", ".join(known)}{hint}')


def import_all(package: ModuleType) -> None:
    """Import every module of a package, so that each registers what it holds: a new one is one
    file in the folder."""
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f'{package.__name__}.{module.name}')


class Registry(Generic[T]):
    """Maps names to values of one kind.

    >>> LOSSES = Registry('loss')
    >>> @LOSSES.register('arcface')
    ... def arcface(): ...
    >>> LOSSES.get('arcfase')
    Traceback (most recent call last):
    vargfacenet.common.errors.InputError: unknown loss 'arcfase'; known: arcface ...
    """

    registered = 0  # how often anything was registered anywhere

    def __init__(self, kind: str):
        self._kind = kind
        self._items: dict[str, T] = {}
        self._files: dict[str, str] = {}

    def register(self, name: str) -> Callable[[T], T]:
        """Decorator that files a value under `name`.

        A second value of the name is an error, unless the same source file gives it: a user's
        file, or a notebook's cell, may run again.
        """
        file = sys._getframe(1).f_code.co_filename

        def add(item: T) -> T:
            if name in self._items and self._files.get(name) != file:
                raise KeyError(f'{self._kind} {name!r} is registered twice')
            self._items[name], self._files[name] = item, file
            Registry.registered += 1
            return item

        return add

    def get(self, name: str) -> T:
        """The value of `name`; raises InputError with the nearest known name otherwise."""
        if name not in self._items:
            raise unknown_name(self._kind, name, self._items)
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __contains__(self, name: str) -> bool:
        return name in self._items

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._items)

    def newest_first(self) -> list[T]:
        """All values, what was registered last before others: who adds one comes first."""
        return list(reversed(self._items.values()))
