"""Network builders: embedding symbols by name."""

from typing import Any

from ..common.backend import mx
from . import mobilefacenet, resnet, vargfacenet, vargnet  # noqa: F401  (each registers itself)
from .options import NETWORKS, parse_options, resolve

__all__ = ['get_symbol', 'list_networks', 'network_options', 'parse_options']


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
    network = NETWORKS.get(name)
    return network.build(resolve(name, network, options))


def list_networks() -> list[str]:
    """Names of all networks, sorted."""
    return NETWORKS.names()


def network_options(name: str) -> dict[str, Any]:
    """Option -> default of a network; raises InputError for an unknown one."""
    return NETWORKS.get(name).options()
