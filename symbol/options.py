"""What a network can be told: its options, their checks, and the registry of all networks."""

import dataclasses
import numbers
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Callable

from ..common.backend import mx
from ..common.errors import InputError
from ..common.registry import Registry, unknown_name

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


@dataclass(frozen=True)
class Network:
    """One registered network: `build(options)` returns its embedding symbol."""

    build: Callable[[LayerOptions], mx.sym.Symbol]
    defaults: LayerOptions

    def options(self) -> dict[str, Any]:
        """Option -> default."""
        return dataclasses.asdict(self.defaults)


NETWORKS: Registry[Network] = Registry('network')


Rule = tuple[Callable[[Any], bool], str]  # test of a value, what it must be


def _integer(low: int, high: int) -> Rule:
    def test(value: Any) -> bool:
        is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
        return is_integer and low <= value <= high

    return test, f'an integer from {low} to {high}'


def _real(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)


def _positive(high: float) -> Rule:
    return lambda value: _real(value) and 0 < value <= high, f'a number above 0, at most {high:g}'


_SHARE = (
    lambda value: _real(value) and 0 <= value < 1,
    'a number from 0 up to, not including, 1',
)
_FLAG = (lambda value: isinstance(value, bool), 'true or false')

RULES: dict[str, Rule] = {
    'act_type': (lambda value: value in ACTIVATIONS, f'one of {", ".join(ACTIVATIONS)}'),
    'bn_eps': _positive(1.0),
    'bn_mom': _SHARE,
    'dropout': _SHARE,
    'emb_size': _integer(1, 65536),
    'factor': _integer(1, 64),
    'group_base': _integer(1, 1024),
    'head_pooling': _FLAG,
    'multiplier': _positive(64.0),
    'se_ratio': _integer(1, 1024),
    'use_se': _FLAG,
    'width': _positive(64.0),
}


def resolve(name: str, network: Network, given: dict[str, Any]) -> LayerOptions:
    """The network's defaults with the `given` options in their place.

    Raises InputError for an option that the network does not have (with the nearest one that it
    has) and for a value of the wrong type or range.
    """
    defaults = network.options()
    values = {}
    for option, value in given.items():
        if option not in defaults:
            raise unknown_name(f'{name} option', option, defaults)
        is_valid, expected = RULES[option]
        if not is_valid(value):
            raise InputError(f'network {name}: {option} must be {expected}, not {value!r}')
        # multiplier=1 and 1.0, or a NumPy number, must give the same symbol text
        values[option] = type(defaults[option])(value)
    return dataclasses.replace(network.defaults, **values)


_FLAG_WORDS = {'true': True, 'yes': True, '1': True, 'false': False, 'no': False, '0': False}


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
    defaults = NETWORKS.get(name).options()
    options = {}
    for word in words:
        option, equals, text = word.partition('=')
        if not equals:
            raise InputError(f'network option {word!r}: expected OPTION=VALUE')
        if option not in defaults:
            raise unknown_name(f'{name} option', option, defaults)
        if option in options:
            raise InputError(f'network option {option} is given twice')
        kind = type(defaults[option])
        try:
            options[option] = _FLAG_WORDS[text.lower()] if kind is bool else kind(text)
        except (KeyError, ValueError):
            raise InputError(
                f'network {name}: {option} must be {RULES[option][1]}, not {text!r}'
            ) from None
    return options
