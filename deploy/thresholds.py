"""Cosine thresholds for a decision at a chosen false-accept rate."""

import numpy as np

from ..common.errors import InputError
from ..eval.rates import allowed, threshold_at

FARS = (1e-1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def pair_cosines(embeddings: np.ndarray) -> np.ndarray:
    """(2P, D) unit vectors, pair i in rows 2i and 2i+1 -> (P,) float64."""
    embeddings = np.asarray(embeddings, np.float64)
    return np.einsum('pd,pd->p', embeddings[0::2], embeddings[1::2])


def threshold_at_far(cosine: np.ndarray, issame: np.ndarray, far: float) -> float:
    """The lowest threshold at which at most a share `far` of the different pairs is accepted.

    Parameters
    ----------
    cosine : (P,) float
    issame : (P,) bool
    far : 0..1

    Returns
    -------
    float; a pair is taken for one person iff its cosine is *greater*.

    Raises
    ------
    InputError if there are fewer than 1/far different pairs, which say nothing about that rate.
    """
    different = np.sort(np.asarray(cosine)[~np.asarray(issame, bool)])[::-1]
    if not 0 < far < 1:
        raise InputError(f'FAR {far:g}: expected a share between 0 and 1')
    count = allowed(far, len(different))
    if count < 1:
        raise InputError(
            f'{len(different)} different pairs cannot tell a FAR of {far:g}; at least '
            f'{int(np.ceil(1 / far))} are needed, or take a FAR of {1 / max(len(different), 1):g}'
        )
    return threshold_at(different, count)


def thresholds(cosine: np.ndarray, issame: np.ndarray) -> dict[str, float]:
    """Thresholds at those of FARs that the pairs can tell, by the rate as text ('0.01')."""
    different = int(np.count_nonzero(~np.asarray(issame, bool)))
    return {
        f'{far:g}': threshold_at_far(cosine, issame, far) for far in FARS if allowed(far, different)
    }
