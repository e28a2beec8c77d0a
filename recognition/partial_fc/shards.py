"""Class centres that are spread over ranks, as one array: saved, resumed, adopted through rank 0.

All ranks call these functions together. Only rank 0 needs the files.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ...common.errors import InputError
from ...common.ranks import Ranks
from .centres import Centres
from .centres_file import (
    CENTRES,
    MOMENTA,
    read_blocks,
    read_states,
    shape_of,
    write_centres,
)
from .sampling import Shard, shard_of

_SENT = 1 << 14  # rows that travel together: 32 MB of 512 values


class Sharding(NamedTuple):
    """How C classes are spread over ranks."""

    ranks: Ranks
    num_classes: int
    padded: bool  # as `sampling.shard_of`

    @property
    def shards(self) -> list[Shard]:
        size = self.ranks.size
        return [shard_of(self.num_classes, rank, size, self.padded) for rank in range(size)]

    @property
    def mine(self) -> Shard:
        return self.shards[self.ranks.rank]

    @property
    def rows(self) -> int:
        """Of all ranks, those beyond the classes included."""
        return sum(shard.rows for shard in self.shards)

    def whole(self, array: np.ndarray) -> Iterator[np.ndarray]:
        """Rows of all ranks in the order of classes, in blocks; `array` is this rank's."""
        for rank, shard in enumerate(self.shards):
            for start in range(0, shard.rows, _SENT):
                count = min(_SENT, shard.rows - start)
                own = rank == self.ranks.rank
                block = (
                    array[start : start + count]
                    if own
                    else np.empty_like(array, shape=(count, array.shape[1]))
                )
                yield self.ranks.broadcast(block, 'centres', rank)


def save(path: Path, centres: Centres, sharding: Sharding, states: dict) -> None:
    """Write centres and momenta of all ranks, in rank 0, whole or not at all."""
    parts = {CENTRES: centres.weights, MOMENTA: centres.momenta}
    if sharding.ranks.rank == 0:
        shape = sharding.rows, centres.width
        blocks = {name: sharding.whole(array) for name, array in parts.items()}
        write_centres(path, blocks, shape, centres.dtype, sharding.num_classes, states)
        return
    for array in parts.values():
        for _ in sharding.whole(array):
            pass


def resume(path: Path, centres: Centres, sharding: Sharding) -> dict[str, np.ndarray]:
    """Fill this rank's centres and momenta from a file; the loss's states.

    Rows beyond the classes are taken where the file has as many of them as these ranks; otherwise
    they stay as they are.

    Raises
    ------
    InputError for a file that is missing, damaged or of another run.
    """
    ranks, mine = sharding.ranks, sharding.mine

    def read() -> dict[str, np.ndarray]:
        _check(path, centres, sharding)
        return read_states(path)

    states = ranks.share(read() if ranks.rank == 0 else {}, 'states')
    rows = ranks.told(lambda: shape_of(path, padding=True)[0], 'rows of centres')
    rows = rows if rows == sharding.rows else sharding.num_classes
    for name, array in ((CENTRES, centres.weights), (MOMENTA, centres.momenta)):
        blocks = read_blocks(path, name) if ranks.rank == 0 else None
        for start, block in _from_first(ranks, blocks, rows, centres.width, array.dtype):
            low, high = _overlap(start, len(block), mine)
            array[low - mine.start : high - mine.start] = block[low - start : high - start]
    return states


def _check(path: Path, centres: Centres, sharding: Sharding) -> None:
    wanted = sharding.num_classes, centres.width
    if shape_of(path) != wanted:
        raise InputError(f'{path} has centres of {shape_of(path)}, this run {wanted}')
    _, first = next(read_blocks(path, CENTRES))
    if first.dtype != centres.weights.dtype:
        raise InputError(f'{path} has {first.dtype} centres, this run {centres.weights.dtype}')


def adopt(
    centres: Centres,
    sharding: Sharding,
    found: Optional[tuple[tuple[int, int], Iterator[tuple[int, np.ndarray]]]],
    rows: Optional[np.ndarray],
    random: np.random.Generator,
) -> int:
    """Put centres of another run in their places in all ranks; how many were taken.

    Parameters
    ----------
    found : ((classes, width), blocks as of `read_blocks`) in rank 0, or None for nothing
    rows : int64, this run's class of each of the other's, -1 for none, in rank 0. None: the same
    """
    ranks, mine = sharding.ranks, sharding.mine
    shape = ranks.told(lambda: found and found[0], 'shape of adopted centres')
    if shape is None:
        return 0
    rows = ranks.share({'rows': rows}, 'rows of adopted centres')['rows']
    blocks = found[1] if ranks.rank == 0 else None
    taken = 0
    for start, block in _from_first(ranks, blocks, *shape, np.dtype(np.float32)):
        wanted = (
            np.arange(start, start + len(block)) if rows is None else rows[start:][: len(block)]
        )
        places = np.where(wanted < sharding.num_classes, wanted, -1) - mine.start
        held = (wanted >= 0) & (places >= 0) & (places < mine.rows)
        centres.write(places[held], block[held], np.zeros_like(block[held]), random)
        taken += int(held.sum())
    return int(ranks.sum(np.array([taken], np.int64), 'adopted centres')[0])


def _from_first(
    ranks: Ranks, blocks, rows: int, width: int, dtype: np.dtype
) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, block) of `rows` rows that rank 0 reads, in all ranks."""
    start = 0
    while start < rows:
        sent = None
        if ranks.rank == 0:
            _, sent = next(blocks)
            sent = sent[: rows - start].astype(dtype, copy=False)
        count = ranks.told(lambda sent=sent: len(sent), 'rows of a block')
        given = sent if ranks.rank == 0 else np.empty((count, width), dtype)
        yield start, ranks.broadcast(given, 'centres')
        start += count


def _overlap(start: int, count: int, shard: Shard) -> tuple[int, int]:
    """First and last but one of the rows start, ..., start + count - 1 that a shard holds."""
    low = min(max(start, shard.start), start + count)
    return low, max(low, min(start + count, shard.start + shard.rows))
