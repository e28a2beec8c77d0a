"""The processes of one job, and what they say to each other: a few collective operations.

Every rank calls the same ones in the same order, with arrays of one shape. A rank is a process;
rank 0 is the one that reads the command line for all, writes files and prints results.
"""

import json
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Callable, ClassVar, Optional, TypeVar

import numpy as np

Result = TypeVar('Result')


class Ranks:
    """Base of the ways to reach the other ranks. `name` says what is sent, as in `docs/scale.md`;
    what follows a colon tells apart what may be under way at the same time.

    Attributes
    ----------
    rank : of this one, from 0
    size : number of all
    sent : name -> bytes of the arrays that this rank gave
    """

    rank: int
    size: int
    sent: Mapping[str, int]

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        """Sum of every rank's array, the same in all ranks."""
        raise NotImplementedError

    def max(self, array: np.ndarray, name: str) -> np.ndarray:
        """Largest of every rank's, element by element, the same in all ranks."""
        raise NotImplementedError

    def gather(self, array: np.ndarray, name: str) -> np.ndarray:
        """Every rank's (B, ...) in the order of ranks, (size * B, ...)."""
        raise NotImplementedError

    def broadcast(self, array: np.ndarray, name: str, root: int = 0) -> np.ndarray:
        """The array of the rank `root`; the others give one of its shape and type."""
        raise NotImplementedError

    def sum_in_place(self, arrays: Sequence, name: str) -> None:
        """Put sums over the ranks into float32 NDArrays of MXNet."""
        raise NotImplementedError

    def told(self, value: Callable[[], Any], name: str) -> Any:
        """What rank 0's `value()` returns, which JSON can write; the others do not call it."""
        text = json.dumps(value()).encode() if self.rank == 0 else b''
        length = self.broadcast(np.array([len(text)], np.int64), f'{name} length')
        content = np.frombuffer(text.ljust(int(length[0]), b'\0'), np.uint8)
        return json.loads(self.broadcast(content, name).tobytes())

    def share(self, arrays: Mapping[Any, Optional[np.ndarray]], name: str) -> dict:
        """Rank 0's arrays by numbers or words, some of them None; the others' are not looked at."""

        def about() -> list:
            return [
                (key, None if array is None else (array.shape, array.dtype.str))
                for key, array in arrays.items()
            ]

        shared = {}
        for key, form in self.told(about, f'{name} by key'):
            if form is not None:
                given = arrays[key] if self.rank == 0 else np.empty(*form)
                form = self.broadcast(given, name)
            shared[key] = form
        return shared

    def in_turn(self, work: Callable[[], Result], name: str) -> Result:
        """`work()` in rank 0, and after that in the others: an error that all would have is told
        once, and what rank 0 writes is there for them."""
        if self.rank == 0:
            result = work()
            self.wait(name)
            return result
        self.wait(name)
        return work()

    def wait(self, name: str) -> None:
        """Return when all ranks are here."""
        self.sum(np.zeros(1, np.float32), name)


class SingleRank(Ranks):
    """One rank, which is all there are."""

    rank, size = 0, 1
    sent: ClassVar = MappingProxyType({})

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        return array

    def max(self, array: np.ndarray, name: str) -> np.ndarray:
        return array

    def gather(self, array: np.ndarray, name: str) -> np.ndarray:
        return array

    def broadcast(self, array: np.ndarray, name: str, root: int = 0) -> np.ndarray:
        return array

    def sum_in_place(self, arrays: Sequence, name: str) -> None:
        """The sums are what is there."""
