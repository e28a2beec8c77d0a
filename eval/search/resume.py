"""A file that a long evaluation goes on from after a kill."""

from pathlib import Path
from typing import Any, Optional

import numpy as np

from ...common.arrays import read_npz, write_npz
from ...common.errors import InputError
from ...common.files import PathLike


class ResumeFile:
    """Arrays saved by name, tied to what they were computed from.

    Parameters
    ----------
    path : .npz file; need not exist
    key : text of everything the arrays depend on
    """

    def __init__(self, path: PathLike, key: str):
        self.path, self._key = Path(path), key

    def load(self) -> Optional[dict[str, np.ndarray]]:
        """What `save` wrote last, or None before that.

        Raises InputError for a file of another run, or one that is no resume file.
        """
        if not self.path.is_file():
            return None
        try:
            state = read_npz(self.path)
        except InputError:
            state = {}
        if str(state.pop('key', '')) != self._key:
            raise InputError(
                f'{self.path} is of another run (other embeddings or options); delete it to start '
                f'anew, or choose another name'
            )
        return state

    def save(self, **arrays: Any) -> None:
        """Replace the file, whole or not at all."""
        write_npz(self.path, {'key': self._key, **arrays})

    def remove(self) -> None:
        """Nothing is left to go on with."""
        self.path.unlink(missing_ok=True)
