"""Import MXNet 1.9.1 in less than half of its time: its operators are made when they are called.

As it is imported MXNet writes the Python source of a function for each of its operators in each of
its namespaces and compiles it, several thousand in all, and those of `nd` and `sym` again when a
library of operators is loaded. A network needs a few dozen. And it loads scipy.stats for two
modules that nothing here uses. Neither can be said by an option, so what MXNet's own modules call
while they are imported is put in their way.
"""

import contextlib
import importlib
import importlib.machinery
import sys
import threading
from collections.abc import Iterator
from typing import Callable

_BASE = 'mxnet.base'
_MAKERS = ('_init_op_module', '_init_np_op_module')  # of _BASE: what makes a namespace's functions
_LATER = 'scipy.stats'
_LATER_NAMES = {'mxnet.contrib.quantization': 'stats', 'mxnet.test_utils': 'ss'}  # of _LATER

Make = Callable[[object, str, str], Callable]  # of (handle, name of the operator, of the function)


def _made_when_called(make: Make) -> Make:
    def make_later(handle, name: str, function_name: str) -> Callable:
        made = None

        def operator(*args, **kwargs):
            nonlocal made
            if made is None:
                made = make(handle, name, function_name)
            return made(*args, **kwargs)

        operator.__name__ = operator.__qualname__ = function_name
        operator.__doc__ = f"MXNet's operator {name}: mxnet.apache.org/versions/1.9.1/api/python"
        return operator

    return make_later


def _with_later_functions(maker: Callable) -> Callable:
    """A function of _MAKERS whose last argument, which makes one function, makes it when it is
    called."""

    def maker_of_later(*names, make_op_func: Make = None, **named):
        if make_op_func is None:
            *names, make_op_func = names
        return maker(*names, make_op_func=_made_when_called(make_op_func), **named)

    return maker_of_later


class _Loader(importlib.machinery.SourceFileLoader):
    """Of _BASE."""

    def exec_module(self, module) -> None:
        super().exec_module(module)
        for name in _MAKERS:
            if hasattr(module, name):  # other versions are refused by who imports them
                setattr(module, name, _with_later_functions(getattr(module, name)))


class _Finder:
    """Finds _BASE with its loader, and no _LATER, in the thread that made it alone."""

    def __init__(self):
        self._thread = threading.get_ident()

    def find_spec(self, name: str, path=None, target=None):
        if threading.get_ident() != self._thread or name not in (_BASE, _LATER):
            return None
        if name == _LATER:
            raise ModuleNotFoundError(f'{name} is imported later', name=name)
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = _Loader(name, spec.origin)
        return spec


class _Later:
    """A module that is imported when something of it is asked for."""

    def __getattr__(self, name: str):
        return getattr(importlib.import_module(_LATER), name)


@contextlib.contextmanager
def quick_import() -> Iterator[None]:
    """`import mxnet` inside it is quick; where MXNet is imported already nothing happens.

    The functions of mx.nd, mx.sym, mx.np and mx.npx take and return what they always do; their
    signatures and texts for `help` are not there.
    """
    if 'mxnet' in sys.modules:
        yield
        return
    finder = _Finder()
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
    for module, name in _LATER_NAMES.items():
        if module in sys.modules and getattr(sys.modules[module], name, '') is None:
            setattr(sys.modules[module], name, _Later())
