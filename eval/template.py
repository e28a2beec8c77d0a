"""Templates: one embedding from the images and videos of a person (IJB protocols)."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from ..common.vectors import unit_rows

_ROWS_PER_BLOCK = 1 << 14


class Mode(NamedTuple):
    """How images become a template; named like N1D1F1, the published setting."""

    norm: bool  # N1 keeps the norm of an embedding, N0 makes each of unit length first
    detector: bool  # D1 weights with the face detector's score
    flip: bool  # F1 adds the mirror image's embedding

    @property
    def name(self) -> str:
        return f'N{self.norm:d}D{self.detector:d}F{self.flip:d}'


MODES = tuple(Mode(n, d, f) for n in (True, False) for d in (True, False) for f in (True, False))
PUBLISHED = Mode(norm=True, detector=True, flip=True)


def _blocks(boundaries: np.ndarray, rows: int) -> Iterator[slice]:
    """Slices of whole templates with about `_ROWS_PER_BLOCK` rows each."""
    start = 0
    for end in np.append(boundaries[1:], rows):
        if end - start >= _ROWS_PER_BLOCK or end == rows:
            yield slice(start, end)
            start = end


def pool_templates(
    features: np.ndarray,
    scores: np.ndarray,
    templates: np.ndarray,
    medias: np.ndarray,
    mode: Mode,
) -> tuple[np.ndarray, np.ndarray]:
    """Pool image embeddings into templates.

    A media (video) is the mean of its images, a template the sum of its media, of unit length.

    Parameters
    ----------
    features : (N, 2D) float, raw [g(image) | g(mirror image)]; may be a memory map, of which a
        block of rows is read at a time
    scores : (N,) float, of the face detector
    templates, medias : (N,) int, what each image belongs to
    mode : see Mode

    Returns
    -------
    (known, pooled): (T,) the template ids, ascending; (T, D) float64 of unit length. A template
    whose images are all missing (zero rows) stays zero.
    """
    size = features.shape[1] // 2
    order = np.lexsort((medias, templates))
    templates, medias = templates[order], medias[order]
    known, boundaries = np.unique(templates, return_index=True)
    pooled = np.zeros((len(known), size))
    for block in _blocks(boundaries, len(order)):
        rows = order[block]
        x = np.asarray(features[rows], np.float64)
        x = x[:, :size] + x[:, size:] if mode.flip else x[:, :size]
        if not mode.norm:
            x = unit_rows(x)
        if mode.detector:
            x = x * scores[rows, None]
        template, media = templates[block], medias[block]
        new_template = np.append(True, template[1:] != template[:-1])
        media_starts = np.flatnonzero(new_template | np.append(True, media[1:] != media[:-1]))
        counts = np.diff(np.append(media_starts, len(x)))
        means = np.add.reduceat(x, media_starts, axis=0) / counts[:, None]
        template_starts = np.flatnonzero(new_template[media_starts])
        at = np.searchsorted(known, template[0])
        sums = np.add.reduceat(means, template_starts, axis=0)
        pooled[at : at + len(sums)] = sums
    return known, unit_rows(pooled)
