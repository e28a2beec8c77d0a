"""faiss and usearch over the same embeddings, in processes of an environment of their own.

Before anything is timed, the best scores of some rows must be those of a matrix product.
"""

import logging
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ...common.errors import RunError
from ...common.parallel import cpu_count
from . import child, foreign, stock

log = logging.getLogger(__name__)

OPTION = '--faiss-python'
MAX_DIFFERENCE = 1e-5  # of scores of unit vectors
_PROGRAM = Path(__file__).with_name('faiss_search.py')
_CHECKED_ROWS = 64


class Faiss(NamedTuple):
    """Where they run, and on what."""

    python: str
    options: dict

    def words(self, what: str, **more) -> list[str]:
        return foreign.words(self.python, _PROGRAM, what, {**self.options, **more})

    def start(self, stack: ExitStack, names: list[str], threshold: float) -> dict:
        """Name -> a process that searches, ended with `stack`."""
        environment = stock.environments()[stock.DEFAULT]
        return {
            name: stack.enter_context(
                child.Program(
                    self.words('search', name=name, threshold=threshold), name, environment
                )
            )
            for name in names
        }


def check_python(python: str) -> str:
    """The program behind --faiss-python; InputError for one that cannot run them."""
    modules = ('faiss', 'usearch', 'numpy')
    return foreign.check_python(OPTION, python, 'faiss and usearch', 'faiss-cpu usearch', modules)


def write_sides(python: str, folder: Path, a: np.ndarray, b: np.ndarray) -> Faiss:
    """The two sets of embeddings, float32 (N, D) and (M, D), as files of a folder."""
    paths = {'rows': str(folder / 'rows.npy'), 'columns': str(folder / 'columns.npy')}
    for path, side in zip(paths.values(), (a, b)):
        np.save(path, side)
    return Faiss(python, {**paths, 'threads': cpu_count()})


def check(faiss: Faiss, a: np.ndarray, b: np.ndarray) -> dict:
    """Versions, and by the name of each search how far its best scores are from those of a matrix
    product; RunError where that is too far."""
    words = faiss.words('check', count=_CHECKED_ROWS)
    found = child.program(*words, name=str(_PROGRAM))
    expected = (a[:_CHECKED_ROWS].astype(np.float64) @ b.T.astype(np.float64)).max(axis=1)
    differences = {}
    for name, best in found['best'].items():
        differences[name] = float(np.abs(np.array(best) - expected).max())
        if not differences[name] <= MAX_DIFFERENCE:
            raise RunError(f'{name}: best scores differ by {differences[name]:.1e} from ours')
    log.info('best scores within %.1e of a matrix product', max(differences.values()))
    return {'versions': found['versions'], 'differences': differences}
