"""Packages that only some jobs need; setup.py lists them as extras."""

import importlib
import importlib.util
from types import ModuleType

from .errors import InputError


def how_to_install(extra: str) -> str:
    """The command that installs an extra, at the versions and hashes of requirements.lock."""
    return f'VARGFACENET_EXTRAS={extra} source common/setup_env.sh'


def need(module: str, extra: str) -> ModuleType:
    """Import a module of an extra.

    Raises InputError that says which extra to install if the package is missing.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise InputError(
            f'the package {error.name!r} is not installed; it comes with the extra {extra!r}: '
            f'{how_to_install(extra)}'
        ) from None


def missing(module: str) -> bool:
    """Whether a module is not installed; does not import it."""
    return importlib.util.find_spec(module) is None
