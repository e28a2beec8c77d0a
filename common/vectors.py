"""Rows of vectors: what is the same wherever embeddings are made or compared."""

from typing import Callable, Optional

import numpy as np


def unit_rows(
    rows: np.ndarray, refusal: Optional[Callable[[np.ndarray], Exception]] = None
) -> np.ndarray:
    """Rows divided by their L2 norms.

    Parameters
    ----------
    rows : (N, D) float
    refusal : makes the error of rows that have no direction (zero, NaN or infinite) from their
        indices, int64 and ascending. None: a zero row stays zero, one with an infinite value
        becomes NaN.

    Returns
    -------
    (N, D) float64
    """
    rows = np.asarray(rows, np.float64)
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    if refusal is not None:
        bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
        if len(bad):
            raise refusal(bad)
    with np.errstate(invalid='ignore'):  # infinity by infinity
        return rows / np.where(norms == 0, 1, norms)
