"""A quality head: the quality of a frame from its embedding, by one sum of products.

Trained by `vargfacenet quality` for the embeddings of one model, and refused for another's.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..common import flops
from ..common.arrays import read_npz
from ..common.errors import InputError
from ..common.files import PathLike, atomic_path, input_file
from ..common.vectors import unit_rows

SUFFIX = '.npz'
_UNIT = 1e-3  # as near to 1 are the lengths of a model that gives rows of unit length


def features(embeddings: np.ndarray) -> np.ndarray:
    """What a head looks at: (N, D) raw embeddings -> (N, D + 1) float64, the embedding at unit
    length and the logarithm of its length before.

    Raises InputError for an embedding without a direction.
    """

    def refusal(bad: np.ndarray) -> InputError:
        return InputError(f'{len(bad)} embeddings are zero or not finite')

    lengths = np.linalg.norm(np.asarray(embeddings, np.float64), axis=1)
    return np.column_stack([unit_rows(embeddings, refusal), np.log(lengths)])


@dataclass(frozen=True)
class QualityHead:
    """quality = features · weight; only differences between frames count.

    A Judge of `frame_quality`.
    """

    weight: np.ndarray  # (D + 1,) float64
    fingerprint: str  # of the model whose embeddings it judges
    people: tuple[str, ...]  # whom it was trained with
    name: str = 'head'
    default_pooling: str = 'softmax'

    def __call__(self, crops: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        judged = features(embeddings)
        if self.weight[-1] and len(judged) and np.abs(judged[:, -1]).max() < _UNIT:
            raise InputError(
                f'{self.name}: was trained with the lengths of embeddings, and these all have '
                f'length 1; take the model without --l2-normalize'
            )
        return (judged @ self.weight).astype(np.float32)

    def count(self) -> flops.Count:
        """A sum of n products is 2n - 1 operations, as the organisers count."""
        return flops.Count(2 * len(self.weight) - 1, len(self.weight))

    def save(self, path: PathLike) -> None:
        """Write it, whole or not at all."""
        with atomic_path(Path(path)) as temporary, open(temporary, 'wb') as file:
            np.savez(
                file,
                weight=self.weight,
                model=np.array(self.fingerprint),
                people=np.array(self.people, str),
            )


def load_head(path: PathLike, model) -> QualityHead:
    """The head in a file, for the embeddings of `model` (with `name`, `fingerprint`,
    `embedding_size`).

    Raises InputError for a file that is none, damaged, or of another model.
    """
    path = input_file(path, 'quality head')
    arrays = read_npz(path)
    if not {'weight', 'model', 'people'} <= arrays.keys() or arrays['weight'].dtype.kind != 'f':
        raise InputError(f'{path} is no quality head; vargfacenet quality trains one')
    weight, fingerprint = np.asarray(arrays['weight'], np.float64), str(arrays['model'])
    if fingerprint != model.fingerprint or weight.shape != (model.embedding_size + 1,):
        raise InputError(
            f'{path} was trained for another model than the one given; train one for it with '
            f'vargfacenet quality'
        )
    if not np.isfinite(weight).all():
        raise InputError(f'{path}: damaged, its weights are not finite')
    people = tuple(map(str, np.atleast_1d(arrays['people'])))
    return QualityHead(weight, fingerprint, people, str(path))
