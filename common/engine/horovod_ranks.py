"""Ranks that talk through Horovod: Gloo, or what else it was built with."""

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import horovod.mxnet as horovod
import numpy as np

from ..backend import mx
from ..errors import RunError
from ..ranks import Ranks

_BUCKET = 1 << 22  # values: smaller arrays travel together, up to 16 MB at a time
_GRACE = 5.0  # seconds in which the launcher ends a rank that has lost the others


@contextlib.contextmanager
def _reaching(rank: int) -> Iterator[None]:
    """RunError for a Horovod that cannot reach the others."""
    try:
        yield
    except (mx.MXNetError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines() or ['no reason given']
        # the launcher knows who was first, and ends this one before it says anything
        time.sleep(_GRACE)
        raise RunError(f'rank {rank} has lost the other ranks: {reason[-1]}') from None


class HorovodRanks(Ranks):
    """The ranks of a job that `common/launch` or horovodrun has started.

    Each call waits for its result: with one array under way at a time, sums are added up in the
    same order in every run, and a resumed run goes on bit for bit. Only what operators of a graph
    sum or gather may come from several threads.
    """

    def __init__(self):
        self.rank = -1
        with _reaching(-1):
            horovod.init()
        self.rank, self.size = horovod.rank(), horovod.size()
        self.sent: Counter = Counter()
        self._counting = threading.Lock()

    def sum(self, array: np.ndarray, name: str) -> np.ndarray:
        return self._all_reduce(array, name, horovod.Sum)

    def max(self, array: np.ndarray, name: str) -> np.ndarray:
        return self._all_reduce(array, name, horovod.Max)

    def gather(self, array: np.ndarray, name: str) -> np.ndarray:
        self._count(name, array)
        with _reaching(self.rank):
            return horovod.allgather(_given(array), name=name).asnumpy()

    def broadcast(self, array: np.ndarray, name: str, root: int = 0) -> np.ndarray:
        if not array.size:
            return array
        self.sent[name] += array.nbytes
        with _reaching(self.rank):
            return horovod.broadcast(_given(array), root, name=name).asnumpy().reshape(array.shape)

    def sum_in_place(self, arrays: Sequence, name: str) -> None:
        for number, bucket in enumerate(_buckets(arrays)):
            label = f'{name} {number}'
            self.sent[name] += sum(4 * array.size for array in bucket)
            with _reaching(self.rank):
                if len(bucket) == 1:
                    horovod.allreduce_(bucket[0], op=horovod.Sum, name=label).wait_to_read()
                    continue
                # through NumPy: hundreds of slices and assignments of MXNet take 100 ms
                flat = np.concatenate([array.asnumpy().ravel() for array in bucket])
                found = horovod.allreduce(_given(flat), op=horovod.Sum, name=label).asnumpy()
                ends = np.cumsum([array.size for array in bucket])[:-1]
                for array, part in zip(bucket, np.split(found, ends)):
                    array[:] = part.reshape(array.shape)

    def _count(self, name: str, array: np.ndarray) -> None:
        """What stands before a colon is the name that a run's result has."""
        with self._counting:
            self.sent[name.partition(':')[0]] += array.nbytes

    def _all_reduce(self, array: np.ndarray, name: str, operation) -> np.ndarray:
        self._count(name, array)
        with _reaching(self.rank):
            found = horovod.allreduce(_given(array), op=operation, name=name)
            return found.asnumpy().reshape(array.shape)


def _given(array: np.ndarray) -> 'mx.nd.NDArray':
    """As MXNet takes it, which knows no array without dimensions."""
    return mx.nd.array(np.atleast_1d(array), dtype=array.dtype)


def _buckets(arrays: Sequence) -> Iterator[list]:
    """The arrays in their order, small ones together, none of more than `_BUCKET` values unless it
    is one array alone."""
    bucket, values = [], 0
    for array in arrays:
        if bucket and values + array.size > _BUCKET:
            yield bucket
            bucket, values = [], 0
        bucket.append(array)
        values += array.size
    if bucket:
        yield bucket
