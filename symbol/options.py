"""What a network can be told: its options, their checks, and the registry of all networks."""

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Callable

from ..common.backend import mx
from ..common.options import FLAG, SHARE, Rule, check, integer, one_of, parse, positive
from ..common.registry import Registry
from .torch_layout import TorchLayout

# PReLU has its own operator with a learned slope a channel; the others are fixed functions
ACTIVATIONS = ('elu', 'gelu', 'leaky', 'prelu', 'relu', 'selu', 'softrelu')


@dataclass(frozen=True)
class LayerOptions:
    """Options that every network has: its activation and its batch normalisation.

    Attributes
    ----------
    act_type : one of ACTIVATIONS
    bn_eps : added to the variance
    bn_mom : share of the old running statistics that a training step keeps
    """

    act_type: str = 'prelu'
    bn_eps: float = 2e-5
    bn_mom: float = 0.9


# of options that more than one family has; a family's own stand in its record
RULES: dict[str, Rule] = {
    'act_type': one_of(ACTIVATIONS),
    'bn_eps': positive(1.0),
    'bn_mom': SHARE,
    'dropout': SHARE,
    'emb_size': integer(1, 65536),
    'factor': integer(1, 64),
    'group_base': integer(1, 1024),
    'head_pooling': FLAG,
    'multiplier': positive(64.0),
    'se_ratio': integer(1, 1024),
    'use_se': FLAG,
    'width': positive(64.0),
}


@dataclass(frozen=True)
class Family:
    """What builds a registered network: `build(options)` returns its embedding symbol.

    Attributes
    ----------
    build : gets the options, an object of the class of `defaults`
    defaults : every option of the network with its default
    rules : option -> Rule, for options that RULES does not have or that differ here
    torch : names of its parameters in PyTorch files
    """

    build: Callable[[Any], mx.sym.Symbol]
    defaults: Any
    rules: Mapping[str, Rule] = field(default_factory=dict)
    torch: TorchLayout = field(default_factory=TorchLayout)

    def options(self) -> dict[str, Any]:
        """Option -> default."""
        return dataclasses.asdict(self.defaults)

    def rule(self, option: str) -> Rule:
        """The rule of one of its options."""
        return self.rules.get(option) or RULES[option]


NETWORKS: Registry[Family] = Registry('network')


def resolve(name: str, family: Family, given: dict[str, Any]) -> Any:
    """The family's defaults with the `given` options in their place.

    Raises InputError for an option that the network does not have (with the nearest one that it
    has) and for a value of the wrong type or range.
    """
    values = check('network', name, given, family.options(), {**RULES, **family.rules})
    return dataclasses.replace(family.defaults, **values)


def parse_options(name: str, words: Iterable[str]) -> dict[str, Any]:
    """Options of network `name` from the command line.

    Parameters
    ----------
    name : a registered network
    words : 'option=value' each, e.g. 'multiplier=1.0', 'use_se=false'

    Returns
    -------
    dict for get_symbol(name, **options), every value of its option's type

    Raises
    ------
    InputError for an unknown network or option, a word without '=', an option given twice or a
    value that cannot be read.
    """
    family = NETWORKS.get(name)
    return parse('network', name, words, family.options(), {**RULES, **family.rules})
