"""Margin losses on cosines that were computed elsewhere: logits of them, and gradients back.

The graph sees, of every image, the cosine of its own class in column 0 and those of other classes
behind it; its label is therefore 0. So a loss whose negatives look at the target works on a rank
that does not hold the target's centre.
"""

from collections.abc import Mapping
from typing import NamedTuple, Optional

import numpy as np

from ...common.backend import mx
from ...common.errors import InputError
from ..losses import LOSSES, ClassificationLoss, Head
from ..losses.cosine import CosineLoss

_COSINE, _EMBEDDING, _LABEL = 'cosine', 'embedding', 'label'


def check_loss(loss: ClassificationLoss, name: str) -> None:
    """InputError for a loss that is no function of cosines, naming those that are."""
    if not isinstance(loss, CosineLoss):
        known = [each for each in LOSSES if issubclass(LOSSES.get(each), CosineLoss)]
        raise InputError(
            f'--head partial-fc: --loss {name} is no function of cosines of class centres, so that '
            f'it cannot take a part of them; choose one of {", ".join(known)}, or their rows in '
            'the loss table'
        )


class Values(NamedTuple):
    """What a loss makes of the cosines."""

    target: np.ndarray  # (N,) float32, logits of the images' own classes
    others: Optional[np.ndarray]  # (N, n), of the other columns, where the loss changes them
    penalty: np.ndarray  # (N,)


class MarginGraph:
    """A loss of `CosineLoss` bound to arrays.

    Parameters
    ----------
    loss : one that looks at cosines
    embedding_size : D
    """

    def __init__(self, loss: CosineLoss, embedding_size: int):
        self._loss, self._size = loss, embedding_size
        self._shape: tuple = ()
        self._executor = None
        self._state_names: list[str] = []
        self._has_penalty = False
        self.states: dict[str, np.ndarray] = {}  # arrays that the loss carries along

    @property
    def scale(self) -> float:
        """Factor of the cosines that the loss leaves as they are."""
        return self._loss.s

    def forward(self, embedding: np.ndarray, target: np.ndarray, others: np.ndarray) -> Values:
        """Logits of (N, k) target cosines and (N, n * k) of the other classes, k centres a class.

        The states of the loss are after this call those after the step.
        """
        alone = self._loss.margin_on_target_alone
        cosine = target if alone else np.concatenate([target, others], axis=1)
        executor = self._bound(cosine.shape, len(embedding))
        feeds = {_COSINE: cosine, _EMBEDDING: embedding, _LABEL: np.zeros(len(embedding))}
        feeds.update(self.states)
        for name, array in executor.arg_dict.items():
            array[:] = feeds[name]
        executor.forward(is_train=True)
        values, *rest = (output.asnumpy() for output in executor.outputs)
        penalty = rest.pop(0) if self._has_penalty else np.zeros(len(embedding), np.float32)
        self.states = dict(zip(self._state_names, rest))
        return Values(values[:, 0], None if alone else values[:, 1:], penalty)

    def backward(
        self, target: np.ndarray, others: np.ndarray, penalty: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Gradients of the newest `Values` -> those of (target, others, embedding).

        `others` is written over where the loss leaves the other cosines as they are.
        """
        alone = self._loss.margin_on_target_alone
        values = target[:, None] if alone else np.concatenate([target[:, None], others], axis=1)
        given = [values, penalty] if self._has_penalty else [values]
        gradients = [mx.nd.array(each) for each in given]
        gradients += [mx.nd.zeros_like(each) for each in self._executor.outputs[len(gradients) :]]
        self._executor.backward(gradients)
        found = {
            name: self._executor.grad_dict[name].asnumpy()
            for name in (_COSINE, _EMBEDDING)
            if name in self._executor.arg_dict
        }
        k = self._loss.centres_per_class
        embedding = found.get(_EMBEDDING, np.zeros((len(target), self._size), np.float32))
        if alone:
            others *= np.float32(self.scale)
            return found[_COSINE], others, embedding
        return found[_COSINE][:, :k], found[_COSINE][:, k:], embedding

    def _bound(self, shape: tuple, images: int):
        """The executor for cosines of a shape; the newest one is kept."""
        if shape == self._shape:
            return self._executor
        k = self._loss.centres_per_class
        head = Head(
            mx.sym.Variable(_EMBEDDING),
            mx.sym.Variable(_LABEL),
            num_classes=shape[1] // k,
            embedding_size=self._size,
            batch_size=images,
        )
        logits = self._loss.of_cosines(mx.sym.Variable(_COSINE), head)
        self._has_penalty = logits.penalty is not None
        self._state_names = list(logits.states)
        outputs = [self._loss.s * logits.values]
        outputs += [logits.penalty] if self._has_penalty else []
        symbol = mx.sym.Group([*outputs, *logits.states.values()])
        shapes = {_COSINE: shape, _EMBEDDING: (images, self._size), _LABEL: (images,)}
        names = symbol.list_arguments()
        learning = {name: 'write' for name in names if name in (_COSINE, _EMBEDDING)}
        self._executor = symbol.simple_bind(
            mx.cpu(),
            grad_req={name: learning.get(name, 'null') for name in names},
            **{name: shapes[name] for name in names if name in shapes},
        )
        self._shape = shape
        self.states = self.states or self._first_states(symbol.attr_dict())
        return self._executor

    def _first_states(self, attributes: Mapping[str, dict]) -> dict[str, np.ndarray]:
        """The states' values before the first step, as their variables say."""
        states = {}
        for name in self._state_names:
            array = self._executor.arg_dict[name]
            mx.init.Zero()(mx.init.InitDesc(name, attributes.get(name)), array)
            states[name] = array.asnumpy()
        return states
