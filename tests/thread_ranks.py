"""Ranks of one process: a thread each, whose collectives meet at a barrier."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from vargfacenet.common.ranks import Ranks


class _Meeting:
    def __init__(self, size):
        self.barrier = threading.Barrier(size, timeout=60)
        self.arrays = [None] * size


class ThreadRanks(Ranks):
    def __init__(self, rank, size, meeting):
        self.rank, self.size, self._meeting = rank, size, meeting

    def _all(self, array):
        self._meeting.arrays[self.rank] = np.array(array)
        self._meeting.barrier.wait()
        arrays = list(self._meeting.arrays)
        self._meeting.barrier.wait()  # none may bring its next array before all have taken these
        return arrays

    def sum(self, array, name):
        return np.sum(self._all(array), axis=0, dtype=array.dtype)

    def max(self, array, name):
        return np.max(self._all(array), axis=0)

    def gather(self, array, name):
        return np.concatenate(self._all(array))

    def broadcast(self, array, name, root=0):
        return self._all(array)[root]


def on_ranks(size, work):
    """[work(ranks) of every rank], all at once; the first error is raised."""
    meeting = _Meeting(size)

    def one(rank):
        try:
            return work(ThreadRanks(rank, size, meeting))
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(one, rank) for rank in range(size)]
    errors = [future.exception() for future in futures if future.exception()]
    errors.sort(key=lambda error: isinstance(error, threading.BrokenBarrierError))
    if errors:
        raise errors[0]
    return [future.result() for future in futures]
