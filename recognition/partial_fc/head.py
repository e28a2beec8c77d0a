"""One step of PartialFC: a margin loss over a sample of the classes, and the centres' update.

R ranks with B images each; rank r holds n of the C class centres and samples m of them. Arrays of
all N = R * B images are the same in every rank, those of (N, m) cosines are its own. Beside the
centres it holds a few arrays of N x m numbers.
"""

from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from ...common.errors import InputError
from ...common.ranks import Ranks, SingleRank
from ..losses.cosine import CosineLoss
from . import products
from .centres import Centres
from .margins import MarginGraph
from .sampling import columns_of, sample_rows, shard_of

SPARSE, DENSE = 'sparse', 'dense'
UPDATES = (SPARSE, DENSE)

_LEAST_PROBABILITY = 1e-30  # of the target, in the loss alone
# what random numbers are for; not 0, since NumPy takes [a, b, 0, 0] for [a, b], of which the
# centres' first values are
_DRAWS, _ROUNDING = 1, 2


@dataclass(frozen=True)
class Settings:
    """What a head is.

    `update`: sparse is the MXNet original: shards of one size, padded; where the images have more
    classes than the sample has room for, the smallest stay; what is not sampled keeps its momentum
    and does not decay. dense is the newer form: no padding, all of the images' classes stay,
    momentum and decay act on all centres.
    """

    num_classes: int  # C
    embedding_size: int  # D
    sample_rate: float = 1.0  # m = int(n * rate)
    update: str = SPARSE
    mom: float = 0.9
    wd: float = 5e-4
    seed: int = 0
    filter_above: float = 1.0  # negatives with a larger cosine do not count; 1: all count


class Step(NamedTuple):
    """What a step gives this rank."""

    loss: np.ndarray  # (B,) float32, of its own images
    correct: np.ndarray  # (B,) float32, 1 where no sampled class has a larger logit than the own
    gradient: np.ndarray  # (B, D) float32: of the sum of all images' losses, divided by R
    filtered: int  # negatives' cosines on this rank that did not count
    cosines: int  # of so many, those of the images' own classes included


class _Forward(NamedTuple):
    """What the way back needs of the way there."""

    rows: Optional[np.ndarray]  # sampled rows, ascending; None: all
    own: np.ndarray  # images whose own class is in this rank's sample
    columns: np.ndarray  # and where it is
    factors: np.ndarray  # (m * k,) 1 / length of the sampled centres
    probability: np.ndarray  # (N, m)


class PartialFC:
    """The head of one rank.

    Parameters
    ----------
    loss : a loss of cosines
    settings : what it is
    centres : of this rank's shard, `PartialFC.shard(...)` rows of centres_per_class * D values
    ranks : the way to the others

    Raises
    ------
    InputError where the sample rate leaves no class.
    """

    def __init__(
        self,
        loss: CosineLoss,
        settings: Settings,
        centres: Centres,
        ranks: Optional[Ranks] = None,
    ):
        self.settings, self.centres = settings, centres
        self._ranks = ranks or SingleRank()
        self._k = loss.centres_per_class
        self._margins = MarginGraph(loss, settings.embedding_size)
        self.shard = shard_of(
            settings.num_classes,
            self._ranks.rank,
            self._ranks.size,
            padded=settings.update == SPARSE,
        )
        self.count = int(self.shard.rows * settings.sample_rate)
        if not self.count:
            raise InputError(
                f'--sample-rate {settings.sample_rate:g} of {self.shard.rows} classes is less than '
                'one; raise it'
            )

    @property
    def states(self) -> dict[str, np.ndarray]:
        """Arrays that the loss carries from step to step; empty before the first."""
        return self._margins.states

    @states.setter
    def states(self, values: dict[str, np.ndarray]) -> None:
        self._margins.states = dict(values)

    def step(
        self,
        embedding: np.ndarray,
        label: np.ndarray,
        lr: float,
        number: int,
        rows: Optional[np.ndarray] = None,
    ) -> Step:
        """Loss and gradient of a batch, and the update of the centres.

        Parameters
        ----------
        embedding : (B, D) float32, of any length
        label : (B,) class numbers, of all C classes
        lr : learning rate of the centres
        number : of the step: what is drawn is a function of (seed, number, rank)
        rows : int64, ascending, C-contiguous: sampled rows in place of drawn ones
        """
        embedding = self._ranks.gather(np.ascontiguousarray(embedding, np.float32), 'embeddings')
        label = self._ranks.gather(np.asarray(label).astype(np.int64), 'labels')
        length = products.lengths(embedding)[:, None]
        unit = embedding / length
        local = label - self.shard.start
        if rows is None:
            rows = self._sample(local, number)
        loss, correct, filtered, forward = self._forward(embedding, unit, local, rows)
        cosine, direct = self._backward(forward)
        gradient = self._update(forward, unit, cosine, lr, number)
        along = np.einsum('nd,nd->n', gradient, unit)[:, None] * unit  # changes the length alone
        gradient = (gradient - along) / length + direct
        mine = self._mine(len(label))
        gradient = self._ranks.sum(gradient, 'embedding gradients')[mine] / np.float32(
            self._ranks.size
        )
        return Step(loss[mine], correct[mine], gradient, filtered, forward.probability.size)

    def _mine(self, images: int) -> slice:
        """Where this rank's images are among all."""
        own = images // self._ranks.size
        return slice(self._ranks.rank * own, (self._ranks.rank + 1) * own)

    def _random(self, number: int, use: int) -> np.random.Generator:
        return np.random.default_rng([self.settings.seed, number, self._ranks.rank, use])

    def _sample(self, local: np.ndarray, number: int) -> Optional[np.ndarray]:
        """The rows of a step; None is all of them."""
        if self.settings.sample_rate == 1:
            return None
        positives = local[(local >= 0) & (local < self.shard.rows)]
        all_positives = self.settings.update == DENSE
        random = self._random(number, _DRAWS)
        return sample_rows(positives, self.shard.rows, self.count, all_positives, random)

    def _forward(
        self, embedding: np.ndarray, unit: np.ndarray, local: np.ndarray, rows
    ) -> tuple[np.ndarray, np.ndarray, int, _Forward]:
        """(loss, correct) of all images, what was filtered, and what the way back needs."""
        columns = columns_of(local, rows, self.shard.rows)
        own = np.flatnonzero(columns >= 0)
        columns = columns[own]
        cosine, factors = products.cosines(unit, self.centres, rows)
        # of every image the cosines of its own class, and whether some rank has sampled it
        target = np.zeros((len(unit), self._k + 1), np.float32)
        target[own, : self._k] = cosine.reshape(len(unit), -1, self._k)[own, columns]
        target[own, self._k] = 1
        target = self._ranks.sum(target, 'target cosines')
        sampled, target = target[:, self._k] > 0, np.ascontiguousarray(target[:, : self._k])
        out = self._too_near(cosine, own, columns)
        values = self._margins.forward(embedding, target, cosine)
        logits = values.others
        if logits is None:  # those of other classes are s times their cosines
            logits = np.multiply(cosine, np.float32(self._margins.scale), out=cosine)
        if out is not None:
            logits[out] = -np.inf
        logits[own, columns] = values.target[own]
        top = self._ranks.max(logits.max(axis=1), 'largest logits')
        logits -= top[:, None]
        probability = np.exp(logits, out=logits)
        total = self._ranks.sum(probability.sum(axis=1), 'softmax sums')
        probability /= total[:, None]
        found = np.where(sampled, np.exp(np.minimum(values.target - top, 0)) / total, 0)
        loss = values.penalty - np.log(found + np.float32(_LEAST_PROBABILITY))
        correct = (sampled & (values.target >= top)).astype(np.float32)
        filtered = 0 if out is None else int(out.sum())
        return loss, correct, filtered, _Forward(rows, own, columns, factors, probability)

    def _too_near(
        self, cosine: np.ndarray, own: np.ndarray, columns: np.ndarray
    ) -> Optional[np.ndarray]:
        """(N, m) bool: negatives that do not count; None where all do."""
        if self.settings.filter_above >= 1:
            return None
        nearest = cosine.reshape(len(cosine), -1, self._k).max(axis=2)
        out = nearest > self.settings.filter_above
        out[own, columns] = False
        return out

    def _backward(self, forward: _Forward) -> tuple[np.ndarray, np.ndarray]:
        """Gradients of the sum of losses: (N, m * k) of the cosines, and (N, D) of the embeddings
        by other ways than through them."""
        own, columns, logits = forward.own, forward.columns, forward.probability
        images = len(logits)
        target = np.zeros(images, np.float32)
        target[own] = logits[own, columns] - 1
        logits[own, columns] = 0  # that of the target goes through its own column
        penalty = np.zeros(images, np.float32)
        penalty[self._mine(images)] = 1  # every rank has it of all images: counted once
        target, others, embedding = self._margins.backward(target, logits, penalty)
        others = np.ascontiguousarray(others)
        target = self._ranks.sum(target, 'target gradients')
        others.reshape(images, -1, self._k)[own, columns] += target[own]
        return others, embedding

    def _update(
        self, forward: _Forward, unit: np.ndarray, cosine: np.ndarray, lr: float, number: int
    ) -> np.ndarray:
        """Update the sampled centres (of a dense update all); the gradient (N, D) of `unit`."""
        settings, random = self.settings, self._random(number, _ROUNDING)
        move = products.Move(lr, settings.mom, settings.wd)
        rows = forward.rows
        found = products.update(unit, cosine, forward.factors, self.centres, rows, move, random)
        if rows is not None and settings.update == DENSE:
            products.decay_others(self.centres, rows, move, random)
        return found
