"""How PyTorch files name the parameters of a network."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Callable, Optional

# what follows a layer's name here -> what follows its module's there
KINDS = {
    'weight': 'weight',
    'bias': 'bias',
    'gamma': 'weight',  # of a batch norm, or the slopes of a PReLU
    'beta': 'bias',
    'moving_mean': 'running_mean',
    'moving_var': 'running_var',
}


@dataclass(frozen=True)
class TorchLayout:
    """The names of a PyTorch implementation, and where its arithmetic differs from ours.

    Without arguments: our own names, for networks of which there is no other implementation.

    Attributes
    ----------
    module : name of a layer here -> path of its module there
    options : network options that the implementation's network has
    sizes : network option -> (key, divisor): the option is the first length of that tensor,
        divided
    input_scale : what it multiplies (pixel - 127.5) with; None where both do the same
    bn_eps : what it adds to every variance; None where both do the same
    absent : name of a parameter that it does not have -> the value that changes nothing
    unused : starts of keys that a network without the layer does not need
    pointwise : parameters of a fully connected layer here that are a 1x1 convolution there
    """

    module: Callable[[str], str] = str
    options: Mapping[str, Any] = field(default_factory=dict)
    sizes: Mapping[str, tuple[str, int]] = field(default_factory=dict)
    input_scale: Optional[float] = None
    bn_eps: Optional[float] = None
    absent: Mapping[str, float] = field(default_factory=dict)
    unused: tuple[str, ...] = ()
    pointwise: tuple[str, ...] = ()

    def key(self, name: str) -> str:
        """Key in a state_dict of the parameter `name`, e.g. `conv0_weight` -> `conv1.weight`."""
        kind = next(kind for kind in KINDS if name.endswith(f'_{kind}'))
        return f'{self.module(name[: -len(kind) - 1])}.{KINDS[kind]}'

    def shape(self, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape there of the parameter `name`, which has `shape` here."""
        return (*shape, 1, 1) if name in self.pointwise else tuple(shape)
