"""Embeddings from anywhere: an .npz of them distils like a store."""

import contextlib
import logging
from pathlib import Path
from typing import Optional

import numpy as np

from ..common.arrays import read_npz
from ..common.data.records import Records, open_records
from ..common.errors import InputError
from ..common.files import PathLike, input_file

log = logging.getLogger(__name__)

SUFFIX = '.npz'
_ARRAYS = 'embeddings (N, D), and records (N,) or names (N,); mirrored (N, D) if there are such'


class TeacherFile:
    """Teacher embeddings of a data set from an .npz file, checked and in the order of the set.

    Parameters
    ----------
    path : .npz with `embeddings` float (N, D); `records` int (N,), the number of each row's picture
        in the order of the data set from 0, or `names` (N,), for a folder of crops their paths in
        it; and perhaps `mirrored` (N, D), those of the mirror images. Without these, a mirrored
        picture has its picture's embedding.
    data_dir : what `open_records` opens; every picture must have a row, rows of others are unused

    Raises
    ------
    InputError for arrays that are missing or of other shapes, values that are not finite, rows
    without direction, pictures without a row and pictures with two.
    """

    replaced: frozenset[int] = frozenset()  # see `Rows`: there is a row of every picture

    def __init__(self, path: PathLike, data_dir: PathLike):
        self.path = input_file(path, 'file of embeddings')
        arrays = _load(self.path)
        with contextlib.closing(open_records(data_dir)) as records:
            rows = _row_of_picture(self.path, arrays, records)
        self._rows = _directions(self.path, arrays['embeddings'])[rows]
        self.embedding_size = self._rows.shape[1]
        mirrored: Optional[np.ndarray] = arrays.get('mirrored')
        if mirrored is None:
            log.info(
                '%s holds no mirrored embeddings: a mirrored image is taught as itself', self.path
            )
            self._mirrored = self._rows
        else:
            if mirrored.shape != arrays['embeddings'].shape:
                raise InputError(
                    f'{self.path}: mirrored {mirrored.shape}, embeddings '
                    f'{arrays["embeddings"].shape}; expected one shape'
                )
            self._mirrored = _directions(self.path, mirrored)[rows]

    def read(self, positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(N, D) float32 of pictures, or of their mirror images where `rows` is 1 or True."""
        return np.where(rows[:, None], self._mirrored[positions], self._rows[positions])


def _load(path: Path) -> dict[str, np.ndarray]:
    wanted = {'embeddings', 'mirrored', 'records', 'names'}
    arrays = {name: array for name, array in read_npz(path).items() if name in wanted}
    if 'embeddings' not in arrays or not arrays.keys() & {'records', 'names'}:
        raise InputError(f'{path} holds {", ".join(arrays) or "nothing"}; expected {_ARRAYS}')
    return arrays


def _row_of_picture(path: Path, arrays: dict, records: Records) -> np.ndarray:
    """int64 (pictures,): the row of every picture of the data set."""
    if 'records' in arrays:
        numbers = arrays['records']
        if numbers.ndim != 1 or numbers.dtype.kind not in 'iu':
            raise InputError(f'{path}: records are {numbers.dtype} {numbers.shape}, not int (N,)')
        keys, wanted = numbers.tolist(), range(len(records))
    else:
        if records.source.is_file():
            raise InputError(
                f'{path}: the pictures of {records.source} have numbers, not names; give them as '
                f'`records` (N,), from 0 in the order of the file'
            )
        keys = [str(name) for name in arrays['names'].ravel()]
        names = (Path(records.name(position)) for position in range(len(records)))
        wanted = [name.relative_to(records.source).as_posix() for name in names]
    count = len(arrays['embeddings'])
    if len(keys) != count:
        raise InputError(f'{path}: {len(keys)} names or numbers for {count} embeddings')
    row = {key: number for number, key in enumerate(keys)}
    if len(row) != len(keys):
        raise InputError(f'{path}: {len(keys) - len(row)} pictures have two rows')
    missing = [key for key in wanted if key not in row]
    if missing:
        raise InputError(
            f'{path} has no embedding of {len(missing)} of the {len(records)} pictures of '
            f'{records.source}, the first of them {missing[0]}'
        )
    return np.array([row[key] for key in wanted], np.int64)


def _directions(path: Path, embeddings: np.ndarray) -> np.ndarray:
    """float32 (N, D); InputError for rows without direction."""
    if embeddings.ndim != 2 or embeddings.dtype.kind != 'f':
        raise InputError(
            f'{path}: embeddings are {embeddings.dtype} {embeddings.shape}, not float (N, D)'
        )
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise InputError(f'{path}: row {bad[0]} has the length {lengths[bad[0]]}: no direction')
    return embeddings.astype(np.float32)
