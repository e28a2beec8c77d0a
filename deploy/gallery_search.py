"""The rows of a gallery that are most like a face.

They are multiplied with it where they lie. Of many that are searched again and again, bytes are
kept in memory as well, a quarter of the rows' size: the int8 kernel (`eval/search/screen.py`) reads
those, and only rows that may be among the best are multiplied.
"""

from typing import Optional

import numpy as np

from ..eval.search.screen import BLOCK, Packed, Searcher, exact_scores, forms, pack
from .gallery_matrix import private_rows

# Rows; of 10,000 the kernel hardly gained on one CPU, and on another a product took 2.6 times less
PACKED_FROM = 50_000
# Searches by products before rows are packed: about as many as gain by the kernel what packing
# takes (23 to 27, docs/search.md). So a gallery that is opened for one search, or that changes
# between few, pays nothing, and who stops at the worst moment has paid about that much too much.
PACKED_AFTER = 24
_SAMPLE = 2048  # rows that tell what the best score at least
_FOUND = 1 << 16  # rows that a search may find


class Rows:
    """The rows of a gallery's matrix that are searched.

    Parameters
    ----------
    matrix : (N, D) float32; stays as it is, and may be a memory map
    searched : (M,) int64, rows of it, ascending
    codes : (N,) int64, whose face a row is
    """

    def __init__(self, matrix: np.ndarray, searched: np.ndarray, codes: np.ndarray):
        self._matrix, self._searched, self._codes = matrix, searched, codes
        self._are_many = len(searched) >= PACKED_FROM and bool(forms('int8'))
        self._searches = 0  # so far
        self._packed: Optional[list[Packed]] = None

    def best(self, probe: np.ndarray, top: int) -> list[tuple[int, float]]:
        """(row, cosine) of the best face of each of the `top` best people, best first.

        Parameters
        ----------
        probe : (D,) float32, unit length
        """
        by_kernel = self._are_many and self._searches >= PACKED_AFTER
        self._searches += 1
        near = self._near(probe, top) if by_kernel else None
        if near is None:
            near = self._searched, (self._matrix @ probe)[self._searched]
        rows, cosine = near
        best = best_of_each(cosine, self._codes[rows], top)
        return [(int(rows[place]), float(cosine[place])) for place in best]

    def _near(self, probe: np.ndarray, top: int) -> Optional[tuple[np.ndarray, np.ndarray]]:
        """Rows and their cosines, among which are all that score as high as the `top`-th best
        person of a sample of the rows or higher; None if that would be too many."""
        sample = self._searched[:: -(-len(self._searched) // _SAMPLE)]
        cosine = self._scores(probe, sample)
        people = best_of_each(cosine, self._codes[sample], top)
        if len(people) < top:
            return None
        threshold = np.nextafter(cosine[people[-1]], np.float32(-np.inf))
        if self._packed is None:
            blocks = range(0, len(self._searched), BLOCK)
            parts = (self._searched[start : start + BLOCK] for start in blocks)
            self._packed = [_packed(self._matrix, part) for part in parts]
        searcher, row = Searcher('int8', _FOUND), pack(probe[None], 'int8', columns=False)
        found = []
        for number, columns in enumerate(self._packed):
            pairs = searcher.search(row, columns, np.array([threshold]))
            if pairs is None:
                return None
            found.append(pairs[1] + number * BLOCK)
        rows = self._searched[np.sort(np.concatenate(found))]
        return rows, self._scores(probe, rows)

    def _scores(self, probe: np.ndarray, rows: np.ndarray) -> np.ndarray:
        return exact_scores(probe[None], self._matrix, np.zeros(len(rows), np.int64), rows)


def _packed(matrix: np.ndarray, places: np.ndarray) -> Packed:
    """Rows of a matrix for the kernel, in memory that no core dump holds, like those of a sealed
    gallery; nor do they stay where they were on the way."""
    rows = private_rows(len(places), matrix.shape[1])
    np.take(matrix, places, axis=0, out=rows, mode='clip')  # 'raise' has a buffer
    packed = pack(rows, 'int8', columns=True)
    data = private_rows(1, -(-len(packed.data) // 4)).view(np.uint8)[0, : len(packed.data)]
    data[:] = packed.data
    packed.data.fill(0)
    return packed._replace(data=data)


def best_of_each(cosine: np.ndarray, codes: np.ndarray, top: int) -> np.ndarray:
    """Places of the highest of `cosine` (M,) of each of the `top` best people, best first; int64,
    fewer if `codes` (M,) are of fewer people."""
    count = min(len(cosine), max(4 * top, 32))
    while count:
        places = np.argpartition(-cosine, count - 1)[:count]
        places = places[np.argsort(-cosine[places], kind='stable')]
        _, first = np.unique(codes[places], return_index=True)
        if len(first) >= top or count == len(cosine):
            return places[np.sort(first)[:top]]
        count = min(len(cosine), 4 * count)
    return np.empty(0, np.int64)
