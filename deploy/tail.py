"""False identifications by a gallery: its size, its rate, its threshold.

A stranger is compared with all n faces of a gallery and named if one of them scores above the
threshold. With the false-accept rate FAR(t) of one comparison that happens with the probability
FPIR(t) = 1 - (1 - FAR(t))^n (Grother, Ngan and Hanaoka, NIST IR 8271). Scores of one stranger
depend on each other, which can only lower it: 1 - (1 - p)^n is concave in p, so that strangers who
are everybody's likeness count for less than their share (Jensen's inequality).

A gallery of 1,000 people at an FPIR of 0.01 needs a FAR of 1e-5, further out than most sets can
count. Beyond what is counted impostor scores follow a generalised Pareto law (Pickands 1975; Coles
2001, chapter 4), which `fit_tail` fits to the highest.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple, Optional

import numpy as np

from ..common.errors import InputError
from ..common.typed import is_number
from ..eval.cross_pairs import CrossPairs

_SHARE = 0.005  # of the impostor pairs that are the tail
_LARGEST_SHARE = 0.05  # of a small set
_FEWEST = 250  # pairs to fit it to
# The highest hundredth of the tail counts as beyond its lowest score, and no more: some pairs of
# one person under two names are in every set (LFW: one in a million).
_CENSORED = 0.01
_MOST = 100_000  # pairs to fit it to; of more, every k-th


def _pareto():
    """scipy's generalised Pareto law, imported when it is asked for: most decisions need none, and
    to load scipy.stats takes longer than to compare two photographs."""
    from scipy.stats import genpareto

    return genpareto


class Tail(NamedTuple):
    """The law of the highest impostor scores."""

    start: float  # cosine from which on it holds
    share: float  # of all impostor pairs above `start`
    shape: float  # xi; below 0 the law ends at start - scale / shape
    scale: float  # sigma, above 0

    def threshold(self, far: float) -> float:
        """The cosine that a share `far` of impostor pairs exceeds; `far` at most `share`."""
        beyond = _pareto().isf(far / self.share, self.shape, loc=self.start, scale=self.scale)
        return float(min(beyond, 1.0))

    def far(self, threshold: float) -> float:
        """The share of impostor pairs above a threshold, at least `start`."""
        law = _pareto().sf(threshold, self.shape, loc=self.start, scale=self.scale)
        return float(self.share * law)

    @classmethod
    def of(cls, stored: Any) -> Optional['Tail']:
        """A tail as export.json keeps it, None for none; InputError for one that is damaged."""
        if stored is None:
            return None
        try:
            tail = cls(*(stored[name] for name in cls._fields))
        except (TypeError, KeyError):
            tail = None
        if tail is None or not (
            all(map(is_number, tail)) and tail.scale > 0 and 0 < tail.share < 1
        ):
            raise InputError('export.json is damaged: its `tail` is none; export the model anew')
        return tail


def fit_tail(pairs: CrossPairs) -> Optional[Tail]:
    """Fit the law to the highest impostor scores, by maximum likelihood with a censored end.

    Returns None for a set of fewer than 5,000 impostor pairs.
    """
    share = max(_SHARE, _FEWEST / max(pairs.impostor_pairs, 1))
    count = int(share * pairs.impostor_pairs)
    if share > _LARGEST_SHARE or count >= len(pairs.scores):
        return None
    start = float(pairs.scores[count])
    excess = pairs.scores[:count].astype(np.float64) - start
    excess = excess[:: -(-count // _MOST)]
    known = excess[int(_CENSORED * len(excess)) :]
    end, beyond = known[0], len(excess) - len(known)
    if not end > 0:  # all of one score
        return None
    shape, scale = _censored_fit(known / end, beyond)
    return Tail(start, count / pairs.impostor_pairs, shape, scale * float(end))


def _censored_fit(known: np.ndarray, beyond: int) -> tuple[float, float]:
    """(shape, scale) of exceedances 0..1, `beyond` more of which are above 1."""

    from scipy.optimize import minimize  # as in `_pareto`

    genpareto = _pareto()

    def loss(parameters: np.ndarray) -> float:
        shape, scale = float(parameters[0]), math.exp(parameters[1])
        with np.errstate(all='ignore'):
            likelihood = genpareto.logpdf(known, shape, scale=scale).sum()
            likelihood += beyond * genpareto.logsf(1.0, shape, scale=scale)
        return -likelihood if np.isfinite(likelihood) else 1e300

    start = [0.0, math.log(known.mean())]  # the exponential law
    found = minimize(loss, start, method='Nelder-Mead', options={'xatol': 1e-4, 'fatol': 1e-4})
    return float(found.x[0]), float(math.exp(found.x[1]))


class GalleryDecision(NamedTuple):
    """What a gallery decides at."""

    threshold: Optional[float]  # None if nothing tells
    fpir: Optional[float]  # share of strangers whom it names; None if it is not known
    faces: int  # that a stranger is compared with
    far: Optional[float]  # of one comparison, None likewise

    def as_dict(self) -> dict[str, Any]:
        return {
            'threshold': self.threshold,
            'fpir': self.fpir,
            'gallery_faces': self.faces,
            'far': self.far,
        }


def far_for(fpir: float, faces: int) -> float:
    """The false-accept rate of one comparison at which `faces` of them give `fpir`."""
    return -math.expm1(math.log1p(-fpir) / faces)


def fpir_of(far: float, faces: int) -> float:
    """The false-identification rate of `faces` comparisons at a false-accept rate."""
    return -math.expm1(faces * math.log1p(-far))


def gallery_decision(
    thresholds: Mapping[str, float], tail: Optional[Tail], faces: int, fpir: float
) -> GalleryDecision:
    """The threshold at which a gallery names a share `fpir` of strangers.

    Parameters
    ----------
    thresholds : FAR as text -> cosine; not empty
    tail : None if the set was too small for one
    faces : in the gallery, one or more
    fpir : 0..1

    Returns
    -------
    GalleryDecision. Where neither tells so low a rate, the strictest threshold that is known
    counts, with the rate that it stands for, which is then above `fpir`.
    """
    far = far_for(fpir, faces)
    known = sorted((float(rate), value) for rate, value in thresholds.items())
    if tail is not None and far <= tail.share:
        return GalleryDecision(tail.threshold(far), fpir, faces, far)
    lowest, strictest = known[0]
    if far < lowest:
        return GalleryDecision(strictest, fpir_of(lowest, faces), faces, lowest)
    rates, values = np.array(known).T
    # between two rates, straight over their logarithm; above the largest, its threshold
    return GalleryDecision(float(np.interp(math.log(far), np.log(rates), values)), fpir, faces, far)
