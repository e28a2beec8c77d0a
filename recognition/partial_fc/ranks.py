"""What the ranks of a run say to each other: three collective operations.

Every rank calls the same ones in the same order, with arrays of one shape.
"""

import numpy as np


class Ranks:
    """Base of the ways to reach the other ranks.

    Attributes
    ----------
    rank : of this one, from 0
    size : number of all
    """

    rank: int
    size: int

    def sum(self, array: np.ndarray) -> np.ndarray:
        """Sum of every rank's array, the same in all ranks."""
        raise NotImplementedError

    def max(self, array: np.ndarray) -> np.ndarray:
        """Largest of every rank's, element by element, the same in all ranks."""
        raise NotImplementedError

    def gather(self, array: np.ndarray) -> np.ndarray:
        """Every rank's (B, ...) in the order of ranks, (size * B, ...)."""
        raise NotImplementedError


class SingleRank(Ranks):
    """One rank, which is all there are."""

    rank, size = 0, 1

    def sum(self, array: np.ndarray) -> np.ndarray:
        return array

    def max(self, array: np.ndarray) -> np.ndarray:
        return array

    def gather(self, array: np.ndarray) -> np.ndarray:
        return array
