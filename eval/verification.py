"""10-fold 1:1 verification of embeddings and of networks (LFW, CFP-FP, AgeDB-30 ... protocol)."""

import logging
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Optional

import numpy as np

from ..common.console import ProgressBar
from ..common.errors import InputError
from ..common.vectors import unit_rows
from .metrics import k_fold_accuracy, squared_distances, val_at_far

if TYPE_CHECKING:
    from ..common.engine.engines import Engine

log = logging.getLogger(__name__)

FAR_TARGET = 1e-3
_UNIT_TOLERANCE = 1e-2  # embeddings stored as float16 are unit to about 1e-3


@dataclass(frozen=True, eq=False)
class VerificationResult:
    """What a verification run measured. Rates are 0..1, thresholds squared distances 0..4."""

    accuracy: float  # mean over folds, each at the threshold chosen on the other folds
    accuracy_std: float  # population deviation over folds
    val: float  # accepted same pairs at the threshold for FAR 1e-3, mean over folds
    val_std: float
    far: float  # accepted different pairs at that threshold, mean over folds
    threshold: float  # mean of the folds' accuracy thresholds; same iff distance < threshold
    pairs: int
    fold_accuracies: np.ndarray  # (K,) float64
    fold_thresholds: np.ndarray  # (K,) float64
    tpr: np.ndarray  # (400,) float64 over metrics.ACCURACY_THRESHOLDS, mean over folds
    fpr: np.ndarray  # (400,) float64
    distances: np.ndarray  # (P,) float64, squared
    issame: np.ndarray  # (P,) bool

    def summary(self) -> dict:
        """The single numbers, as plain values by name; what commands report."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.type in (int, float)
        }


def check_pairs(rows: int, issame: np.ndarray, folds: int) -> np.ndarray:
    """`issame` as (P,) bool if `rows` images and `folds` folds fit it, otherwise InputError."""
    issame = np.asarray(issame)
    if issame.ndim != 1 or not (issame.dtype == bool or np.isin(issame, (0, 1)).all()):
        raise InputError(f'issame {issame.dtype} {issame.shape}: expected booleans of shape (P,)')
    if rows % 2:
        raise InputError(f'{rows} embeddings do not form pairs; expected an even number')
    if rows != 2 * len(issame):
        raise InputError(
            f'{rows} embeddings for {len(issame)} pairs; expected {2 * len(issame)}'
            f' (pair i in rows 2i and 2i+1)'
        )
    if folds < 2:
        raise InputError(f'{folds} folds: at least 2 are needed to choose thresholds')
    if len(issame) < folds:
        raise InputError(f'{len(issame)} pairs cannot be split into {folds} folds; use fewer folds')
    issame = issame.astype(bool)
    if issame.all() or not issame.any():
        kind = 'same' if issame.all() else 'different'
        raise InputError(f'all {len(issame)} pairs are {kind} pairs; both kinds are needed')
    return issame


def _check_rows(embeddings: np.ndarray) -> None:
    """Raise InputError that names the first row that is not finite, zero or not of unit length."""
    norm = np.sqrt(np.einsum('nd,nd->n', embeddings, embeddings))
    for bad, what in (
        (~np.isfinite(norm), 'not finite (NaN or infinite); was the training run diverging?'),
        (norm == 0, 'zero and has no direction; is the network or the image empty?'),
        (np.abs(norm - 1) > _UNIT_TOLERANCE, 'not of unit length; divide each row by its L2 norm'),
    ):
        if bad.any():
            row = int(bad.argmax())
            raise InputError(
                f'embedding in row {row} (pair {row // 2}) is {what} '
                f'[{int(bad.sum())} of {len(embeddings)} rows]'
            )


def _warn_one_sided_folds(issame: np.ndarray, folds: int) -> None:
    one_sided = sum(part.all() or not part.any() for part in np.array_split(issame, folds))
    if one_sided:
        log.warning(
            '%d of %d folds hold only same or only different pairs: VAL and FAR are means over '
            'the folds that have such pairs',
            one_sided,
            folds,
        )


def evaluate(embeddings: np.ndarray, issame: np.ndarray, folds: int = 10) -> VerificationResult:
    """K-fold accuracy and VAL at FAR 1e-3 of embedded pairs.

    Parameters
    ----------
    embeddings : (2P, D) float, flip-added and of unit length; pair i is rows 2i and 2i+1
    issame : (P,) bool
    folds : K, 2..P contiguous folds

    Returns
    -------
    VerificationResult

    Raises
    ------
    InputError for rows that do not form the P pairs, rows that are NaN, zero or not of unit length
    (named), fewer pairs than folds, and pairs of only one kind.
    """
    embeddings = np.asarray(embeddings, np.float64)
    if embeddings.ndim != 2:
        raise InputError(f'embeddings of shape {embeddings.shape}: expected (2P, D)')
    issame = check_pairs(len(embeddings), issame, folds)
    _check_rows(embeddings)
    _warn_one_sided_folds(issame, folds)

    distance = squared_distances(embeddings)
    by_fold = k_fold_accuracy(distance, issame, folds)
    at_far = val_at_far(distance, issame, folds, FAR_TARGET)
    return VerificationResult(
        accuracy=float(by_fold.accuracy.mean()),
        accuracy_std=float(by_fold.accuracy.std()),
        val=at_far.val,
        val_std=at_far.val_std,
        far=at_far.far,
        threshold=float(by_fold.threshold.mean()),
        pairs=len(issame),
        fold_accuracies=by_fold.accuracy,
        fold_thresholds=by_fold.threshold,
        tpr=by_fold.tpr,
        fpr=by_fold.fpr,
        distances=distance,
        issame=issame,
    )


def add_flips(plain: np.ndarray, flipped: np.ndarray) -> tuple[np.ndarray, float]:
    """Combine the embeddings of images and of their mirror images.

    Parameters
    ----------
    plain, flipped : (N, D) float, raw network outputs (not normalised)

    Returns
    -------
    (embeddings, xnorm): (N, D) float64, sums of unit length (a zero sum stays zero), and XNorm,
    the mean L2 norm of the 2N raw rows.
    """
    plain, flipped = np.asarray(plain, np.float64), np.asarray(flipped, np.float64)
    norms = [np.linalg.norm(rows, axis=1) for rows in (plain, flipped)]
    xnorm = float(np.mean(norms))
    return unit_rows(plain + flipped), xnorm  # infinite rows become NaN, which `evaluate` names


def embed_both(
    embedder: 'Engine', images: np.ndarray, progress: Optional[ProgressBar] = None
) -> tuple[np.ndarray, np.ndarray]:
    """Raw embeddings (N, D) float32 of images (N, 112, 112, 3) uint8 and of their mirror images."""
    return embedder.embed(images, progress), embedder.embed(images[:, :, ::-1], progress)


def verify_rows(
    plain: np.ndarray, flipped: np.ndarray, issame: np.ndarray, folds: int = 10
) -> tuple[VerificationResult, float]:
    """`verify` of what `embed_both` gave."""
    embeddings, xnorm = add_flips(plain, flipped)
    return evaluate(embeddings, issame, folds), xnorm


def verify(
    embedder: 'Engine',
    images: np.ndarray,
    issame: np.ndarray,
    folds: int = 10,
    progress: Optional[ProgressBar] = None,
) -> tuple[VerificationResult, float]:
    """Embed images and their mirror images, add, and evaluate the pairs.

    Parameters
    ----------
    embedder : its `embed` takes uint8 images and returns raw (N, D) float32
    images : (2P, 112, 112, 3) uint8, RGB; pair i is images 2i and 2i+1
    issame : (P,) bool
    folds : K, 2..P
    progress : advanced by the images done, 4P in all

    Returns
    -------
    (VerificationResult, xnorm): xnorm is the mean L2 norm of the 4P raw embeddings.

    Raises
    ------
    InputError as `evaluate`; what needs no embedding is checked before embedding starts.
    """
    issame = check_pairs(len(images), issame, folds)
    return verify_rows(*embed_both(embedder, images, progress), issame, folds)
