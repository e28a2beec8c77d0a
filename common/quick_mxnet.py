"""Import MXNet 1.9.1 in a fourth of its time: what few need is made, or read, when it is called.

As it is imported MXNet writes the Python source of a function for each of its operators in each of
its namespaces and compiles it, several thousand in all, and those of `nd` and `sym` again when a
library of operators is loaded. A network needs a few dozen. And it loads packages that nothing here
calls, as GluonCV does, of which the learning rates alone are wanted. Neither can be said by an
option, so what their modules call while they are imported is put in their way.
"""

import contextlib
import ctypes
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import types
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Callable

_BASE = 'mxnet.base'
_MAKERS = ('_init_op_module', '_init_np_op_module')  # of _BASE: what makes a namespace's functions
_UTILS = 'gluoncv.utils'  # of which the learning rates are a module that needs none of the others
# package -> modules that are read when something of them is asked for
_LATER = {
    'mxnet': (
        *('cv2', 'mxnet.contrib.onnx', 'mxnet.gluon', 'mxnet.test_utils'),
        *('requests', 'scipy.sparse', 'scipy.stats'),
    ),
    'mxboard': ('requests',),
    'gluoncv': (
        *('gluoncv.data', 'gluoncv.loss', 'gluoncv.model_zoo', 'gluoncv.nn', _UTILS),
        'requests',
    ),
}
# MXNet and mxboard compare versions by it; setuptools has one of its own, which loads all the rest
# of it
_VERSIONS = ('distutils.version', 'distutils')

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


class _SparseMatrix(type):
    """What MXNet holds every array against; there is none before scipy.sparse is loaded."""

    def __instancecheck__(cls, value: object) -> bool:
        loaded = sys.modules.get('scipy.sparse')
        return loaded is not None and isinstance(value, loaded.csr_matrix)


class _Later(types.ModuleType):
    """Stands for a module that is imported when something of it is asked for: by another thread
    at once, by `thread` when that has imported what it was made for."""

    def __init__(self, name: str):
        super().__init__(name)
        self.thread = threading.get_ident()
        if name == 'scipy.sparse':
            kind = _SparseMatrix('csr_matrix', (), {})
            self.csr = types.SimpleNamespace(csr_matrix=kind)

    def __getattr__(self, name: str):
        if threading.get_ident() == self.thread:
            raise AttributeError(f'module {self.__name__!r} is imported later')
        self.give_way()
        module = importlib.import_module(self.__name__)
        for part, value in self._parts.items():
            setattr(module, part, value)
        return getattr(module, name)

    @property
    def _parts(self) -> dict[str, types.ModuleType]:
        """Modules of a package that are imported already: nothing else makes them its own."""
        return {k: value for k, value in vars(self).items() if isinstance(value, types.ModuleType)}

    def give_way(self) -> None:
        """Let whoever imports the module import it."""
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
            parent, _, own = self.__name__.rpartition('.')
            if parent == 'scipy':  # of MXNet and GluonCV it stays a part
                delattr(sys.modules[parent], own)


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """For the thread that made it alone: _BASE with its loader, and what stands for modules."""

    def __init__(self, later: Collection[str]):
        self._later, self._thread = later, threading.get_ident()
        self.made: list[_Later] = []

    def find_spec(self, name: str, path=None, target=None):
        if threading.get_ident() != self._thread:
            return None
        if name in self._later:
            spec = importlib.machinery.ModuleSpec(name, self)
            if name == _UTILS:
                found = importlib.machinery.PathFinder.find_spec(name, path)
                spec.submodule_search_locations = found.submodule_search_locations
            return spec
        if name == 'distutils':
            return importlib.machinery.PathFinder.find_spec(name)
        if name != _BASE:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        spec.loader = _Loader(name, spec.origin)
        return spec

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> _Later:
        self.made.append(_Later(spec.name))
        return self.made[-1]

    def exec_module(self, module: _Later) -> None:
        """There is nothing to execute yet."""


def _load_library_of_onnx() -> None:
    """For a rank, before Horovod makes the symbols of MXNet's library everybody's, those of its
    protobuf too: onnx, loaded after that, takes them for its own and crashes."""
    found = importlib.util.find_spec('onnx')
    for folder in (found and found.submodule_search_locations) or ():
        for path in Path(folder).glob('onnx_cpp2py_export.*'):
            ctypes.CDLL(str(path))


@contextlib.contextmanager
def quick_import(package: str) -> Iterator[None]:
    """`import mxnet`, gluoncv or mxboard inside it is quick; where the package is imported already
    nothing happens.

    The functions of mx.nd, mx.sym, mx.np and mx.npx take and return what they always do; their
    signatures and texts for `help` are not there.
    """
    if package in sys.modules:
        yield
        return
    if package == 'mxnet' and 'HOROVOD_SIZE' in os.environ:
        _load_library_of_onnx()
    finder = _Finder(_LATER[package])
    others = [name for name in _VERSIONS if name not in sys.modules]
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for module in finder.made:
            module.thread = 0
            if not module._parts:
                module.give_way()
        for name in others:
            sys.modules.pop(name, None)
