"""Network builders: embedding symbols by name.

Every module of this folder that is not named in NO_FAMILY is a family of networks and registers
itself when it is imported; a new family is one new file. A file anywhere else can do the same with
`NETWORKS.register(name)(Family(build, defaults))`.
"""

import importlib
import pkgutil
from typing import Any

from ..common.backend import mx
from .options import NETWORKS, Family, LayerOptions, parse_options, resolve

__all__ = [
    'NETWORKS',
    'Family',
    'LayerOptions',
    'get_symbol',
    'list_networks',
    'network_options',
    'parse_options',
]

# what families are made of, and commands
NO_FAMILY = (
    'blocks',
    'convert',
    'info',
    'network_table',
    'options',
    'published',
    'textures',
    'torch_layout',
    'torch_params',
)

for _module in pkgutil.iter_modules(__path__):
    if _module.name not in NO_FAMILY:
        importlib.import_module(f'.{_module.name}', __name__)


def get_symbol(name: str, **options: Any) -> mx.sym.Symbol:
    """The embedding symbol of a network.

    Parameters
    ----------
    name : one of list_networks()
    options : see network_options(name); what is not given has its default

    Returns
    -------
    Symbol with the one output `fc1_output`, (N, emb_size) float32, not unit length, for the input
    `data`, (N, 3, 112, 112) float32 RGB 0..255 (the network normalises it).

    Raises
    ------
    InputError for an unknown network, an unknown option or a value it cannot have.
    """
    family = NETWORKS.get(name)
    return family.build(resolve(name, family, options))


def list_networks() -> list[str]:
    """Names of all networks, sorted."""
    return NETWORKS.names()


def network_options(name: str) -> dict[str, Any]:
    """Option -> default of a network; raises InputError for an unknown one."""
    return NETWORKS.get(name).options()
