"""Python files of users, outside the tree, that add to the registries before a command runs.

`VARGFACENET_PLUGINS=mine.py:other.py` names them, for every command; `docs/extending.md` shows what
such a file can hold. They are code and run with the rights of who starts the command.
"""

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from .errors import InputError
from .files import PathLike, input_file, real_path
from .registry import Registry

VARIABLE = 'VARGFACENET_PLUGINS'

_loaded: set[Path] = set()


def run_file(path: PathLike, what: str = 'plugin') -> dict[str, Any]:
    """Run a Python file; its names and what they stand for.

    Raises
    ------
    InputError for a file that does not exist and for whatever its code raises.
    """
    path = input_file(path, what)
    name = f'_vargfacenet_file_{path.stem}'
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    if spec is None:
        raise InputError(f'{what} {path}: expected a Python file, .py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        # not spec.loader.exec_module: it would leave a __pycache__ beside the user's file
        exec(compile(path.read_bytes(), str(path), 'exec'), module.__dict__)
    except Exception as error:  # whatever the user's code raises is their input
        raise InputError(f'{path}: {type(error).__name__}: {error}') from None
    return vars(module)


def load_plugins() -> None:
    """Run the files that VARGFACENET_PLUGINS names, each once a process; InputError as `run_file`
    and for a file that registers nothing."""
    for word in filter(None, os.environ.get(VARIABLE, '').split(os.pathsep)):
        path = real_path(word)
        if path in _loaded:
            continue
        registered = Registry.registered
        run_file(path, f'{VARIABLE}: plugin')
        if Registry.registered == registered:
            raise InputError(f'{VARIABLE}: {path} registers nothing')
        _loaded.add(path)
