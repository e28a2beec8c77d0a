"""What an augmentation is, and several of them one after the other."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from types import MappingProxyType
from typing import Any, Callable

import numpy as np

from ...common.errors import InputError, RunError
from ...common.options import Rule, check, defaults_of, parse, rules_of
from ...common.registry import Registry, unknown_name

NUM_DRAWS = 8  # of every augmentation

PROBABILITY = Rule(lambda value: 0 <= value <= 1, 'a number from 0 to 1')


class Augmentation:
    """Base of all augmentations: a frozen dataclass of options, made by `common.options.option`,
    and the change to a crop that they lead to.

    Attributes
    ----------
    mirrors : whether half of the crops are to be mirrored, which `change` then does
    storable : whether a crop has no other view than itself and its mirror image, so that a
        teacher's embeddings of all views can be stored
    mixes : whether it mixes two crops: `mix` is called in place of `change`
    """

    mirrors = False
    storable = False
    mixes = False

    def change(self, bgr: np.ndarray, mirrored: bool, draws: np.ndarray) -> np.ndarray:
        """A changed crop, uint8 (H, W, 3); `bgr` itself stays as it is.

        Parameters
        ----------
        bgr : uint8 (H, W, 3)
        mirrored : whether to mirror it; False where `mirrors` is
        draws : NUM_DRAWS uniform numbers in [0, 1), which decide everything else
        """
        raise NotImplementedError

    def mix(self, bgr: np.ndarray, other: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """A crop made of two, uint8 (H, W, 3); `draws` has one number less than in `change`."""
        raise NotImplementedError


AUGMENTATIONS: Registry[type[Augmentation]] = Registry('augmentation')
# name -> names of the augmentations that it stands for, in this order
COMBINATIONS: Registry[tuple[str, ...]] = Registry('combination')


def augmentation(name: str, *, mirrors: bool = True, storable: bool = False) -> Callable:
    """Decorator that registers a function (bgr, mirrored, draws) -> bgr, see `Augmentation`, as an
    augmentation without options."""
    register = AUGMENTATIONS.register(name)

    def add(function: Callable) -> Callable:
        attributes = {'mirrors': mirrors, 'storable': storable, 'change': staticmethod(function)}
        register(dataclass(frozen=True)(type(name, (Augmentation,), attributes)))
        return function

    return add


@dataclass(frozen=True)
class Augmentations:
    """Augmentations one after the other; the first that mirrors does so for all."""

    names: tuple[str, ...]
    parts: tuple[Augmentation, ...]

    def __str__(self) -> str:
        """Names and all options: equal texts make equal pictures of equal draws."""
        texts = []
        for name, part in zip(self.names, self.parts):
            options = ' '.join(f'{key}={value}' for key, value in asdict(part).items())
            texts.append(f'{name}({options})' if options else name)
        return ','.join(texts)

    @property
    def mirrors(self) -> bool:
        return any(part.mirrors for part in self.parts)

    @property
    def storable(self) -> bool:
        return all(part.storable for part in self.parts)

    @property
    def mixes(self) -> bool:
        return any(part.mixes for part in self.parts)

    @property
    def num_draws(self) -> int:
        """How many numbers `change` is to be given."""
        return NUM_DRAWS * len(self.parts)

    @property
    def options(self) -> dict[str, Any]:
        """All options as NAME.KEY -> value, as `make_augmentations` takes them."""
        return {
            f'{name}.{key}': value
            for name, part in zip(self.names, self.parts)
            for key, value in asdict(part).items()
        }

    def change(
        self,
        bgr: np.ndarray,
        mirrored: bool,
        draws: np.ndarray,
        another: Callable[[float], np.ndarray],
    ) -> np.ndarray:
        """A changed crop.

        Parameters
        ----------
        bgr, mirrored, draws : as `Augmentation.change`, with `num_draws` numbers
        another : uniform number in [0, 1) -> crop of the picture of the data set at that share

        Raises
        ------
        RunError for an augmentation that gives no uint8 array of the crop's shape.
        """
        shape = bgr.shape
        for number, part in enumerate(self.parts):
            own = draws[number * NUM_DRAWS : (number + 1) * NUM_DRAWS]
            if part.mixes:
                bgr = part.mix(bgr, another(own[0]), own[1:])
            else:
                bgr = part.change(bgr, mirrored and part.mirrors, own)
                mirrored = mirrored and not part.mirrors
            if not isinstance(bgr, np.ndarray) or (bgr.shape, bgr.dtype) != (shape, np.uint8):
                given = f'{getattr(bgr, "dtype", type(bgr).__name__)} {np.shape(bgr)}'
                raise RunError(
                    f'augmentation {self.names[number]} gave {given}; expected uint8 {shape}'
                )
        return bgr


def names_of(text: str) -> tuple[str, ...]:
    """'mirror,jitter' -> ('mirror', 'jitter'), combinations resolved; InputError for unknown names
    and for one that comes twice."""
    names: list[str] = []
    for name in filter(None, (word.strip() for word in text.split(','))):
        if name not in AUGMENTATIONS and name not in COMBINATIONS:
            raise unknown_name('augmentation', name, {*AUGMENTATIONS, *COMBINATIONS})
        names += COMBINATIONS.get(name) if name in COMBINATIONS else [name]
    twice = [name for name in names if names.count(name) > 1]
    if twice or not names:
        raise InputError(
            f'--augment {text!r}: ' + (f'{twice[0]} comes twice' if twice else 'names nothing')
        )
    return tuple(names)


def _split(word: str, names: tuple[str, ...]) -> tuple[str, str]:
    """'jitter.hue' -> ('jitter', 'hue'), the first being one of `names`."""
    name, dot, key = word.partition('.')
    if not dot or name not in names:
        raise InputError(
            f'augmentation option {word!r}: expected NAME.KEY=VALUE, NAME one of --augment '
            f'({", ".join(names)})'
        )
    return name, key


def parse_augmentation_options(text: str, words: Iterable[str]) -> dict[str, Any]:
    """['jitter.hue=0.1'] -> {'jitter.hue': 0.1}; InputError as `make_augmentations`."""
    names = names_of(text)
    by_name: dict[str, list[str]] = {name: [] for name in names}
    for word in words:
        name, key = _split(word, names)
        by_name[name].append(key)
    options = {}
    for name, own in by_name.items():
        kind = AUGMENTATIONS.get(name)
        read = parse('augmentation', name, own, defaults_of(kind), rules_of(kind))
        options.update({f'{name}.{key}': value for key, value in read.items()})
    return options


def make_augmentations(
    text: str, options: Mapping[str, Any] = MappingProxyType({})
) -> Augmentations:
    """The augmentations of --augment.

    Parameters
    ----------
    text : comma-separated names of AUGMENTATIONS and COMBINATIONS
    options : NAME.KEY -> value

    Raises
    ------
    InputError for unknown names and options, values that an option's rule refuses and a name that
    comes twice.
    """
    names = names_of(text)
    by_name: dict[str, dict] = {name: {} for name in names}
    for word, value in options.items():
        name, key = _split(word, names)
        by_name[name][key] = value
    parts = []
    for name, values in by_name.items():
        kind = AUGMENTATIONS.get(name)
        parts.append(kind(**check('augmentation', name, values, defaults_of(kind), rules_of(kind))))
    return Augmentations(names, tuple(parts))
