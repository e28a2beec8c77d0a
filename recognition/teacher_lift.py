"""A teacher's embeddings in more dimensions, for a student that has more.

Distillation compares embeddings value by value, so both need one size. A map with orthonormal rows
takes the teacher's D values to the student's D': inner products, and so lengths, distances and
cosines, stay what they are, and the student sees the same teacher on D of its dimensions. Which
dimensions those are does not matter to a network that begins with random weights, so the map is
drawn once and for all: a function of D and D' alone, the same for all generations and seeds.
"""

from typing import Optional

import numpy as np

from ..common.backend import mx
from .teacher import EmbeddingSource, Rows

_SEED = 20191011


def lift_matrix(size: int, wanted: int) -> np.ndarray:
    """(size, wanted) float32 with orthonormal rows, uniform among such (Mezzadri,
    arXiv:math-ph/0609050): the first rows of a random rotation. `wanted` is `size` at least."""
    normal = np.random.RandomState(_SEED).standard_normal((wanted, size))
    columns, triangle = np.linalg.qr(normal)
    # LAPACK leaves the signs open; with a positive diagonal the factors are unique
    return (columns * np.sign(np.diag(triangle))).T.astype(np.float32)


class LiftedRows:
    """`Rows` in more dimensions."""

    def __init__(self, rows: Rows, matrix: np.ndarray):
        self._rows, self._matrix = rows, matrix

    @property
    def replaced(self) -> frozenset[int]:
        """See `Rows`."""
        return self._rows.replaced

    def read(self, positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(N, D') float32, see `Rows`."""
        return self._rows.read(positions, rows) @ self._matrix


class LiftedTeacher:
    """An `EmbeddingSource` in more dimensions.

    Parameters
    ----------
    source : of (N, D) embeddings
    matrix : (D, D') float32 of `lift_matrix`
    """

    def __init__(self, source: EmbeddingSource, matrix: np.ndarray):
        self.rows: Optional[Rows] = source.rows and LiftedRows(source.rows, matrix)
        self._source = source
        self._matrix = mx.nd.array(matrix)

    def of_batch(self, batch: 'mx.io.DataBatch') -> 'mx.nd.NDArray':
        """Embeddings (N, D') of a batch of `FaceRecordIter`."""
        rows = self._source.of_batch(batch)
        return mx.nd.dot(rows, self._matrix.as_in_context(rows.context))


def lifted(source: EmbeddingSource, size: int, wanted: int) -> EmbeddingSource:
    """A source whose embeddings have `wanted` values in place of `size`; itself if they have."""
    return source if size == wanted else LiftedTeacher(source, lift_matrix(size, wanted))
