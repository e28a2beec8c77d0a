"""Cosine thresholds for decisions at a chosen false-accept rate, from all pairs of a set.

Every picture of a verification `.bin`, or of a folder of people, is compared with every other.
"""

from typing import Any, Callable, NamedTuple, Optional

import numpy as np

from ..common.data.detect import warn_if_unaligned
from ..common.data.image import decode_rgb, square_crop
from ..common.data.records import open_records
from ..common.errors import InputError
from ..common.files import PathLike
from ..common.parallel import ordered_map
from ..eval.cross_pairs import (
    CrossPairs,
    cross_pairs,
    threshold_intervals,
    thresholds_at,
    true_accept_rate,
)
from ..eval.datasets import load_bin
from .pair_people import pair_people
from .tail import fit_tail

# 1, 2 and 5 in every decade, as far as ten billion pairs can tell
FARS = tuple(float(f'{digit}e{power}') for power in range(-1, -11, -1) for digit in (5, 2, 1))[2:]
MOST_IMAGES = 10_000  # of a folder of people: 50 million pairs
_LOOKED_AT = 8  # times as many, at most, of a larger one
_KEPT = 0.15  # of the impostor pairs: for the largest of FARS, and what intervals need beyond


def pair_cosines(embeddings: np.ndarray) -> np.ndarray:
    """(2P, D) unit vectors, pair i in rows 2i and 2i+1 -> (P,) float64."""
    embeddings = np.asarray(embeddings, np.float64)
    return np.einsum('pd,pd->p', embeddings[0::2], embeddings[1::2])


class Measured(NamedTuple):
    """All pairs of a set of pictures, and what was assumed of them."""

    pairs: CrossPairs
    joined: int = 0  # people of a pair set that likeness joined, and no mark
    level: Optional[float] = None  # cosine above which it did; of scores above nothing is known

    def threshold(self, far: float) -> float:
        """The lowest threshold at which at most a share `far` of the impostor pairs is accepted.

        A pair is taken for one person iff its cosine is *greater*.

        Raises
        ------
        InputError for a rate below one in all pairs, or one whose threshold would lie where pairs
        without a mark count as pairs of one person.
        """
        if not 0 < far < 1:
            raise InputError(f'FAR {far:g}: expected a share between 0 and 1')
        found = thresholds_at(self.pairs, [far])
        total = self.pairs.impostor_pairs
        if not found:
            raise InputError(
                f'{total:,} pairs of different people cannot tell a FAR of {far:g}; at least '
                f'{int(np.ceil(1 / far)):,} are needed, or take a FAR of {1 / max(total, 1):.1g}'
            )
        if self.level is not None and found[far] >= self.level:
            raise InputError(
                f'a pair set does not say who is in it, and at a FAR of {far:g} pairs of different '
                f'people are as alike as those of one; take a higher FAR, or a folder of people'
            )
        return found[far]

    def thresholds(self) -> dict[float, float]:
        """FAR -> threshold for those of FARS that the set can tell."""
        limit = np.inf if self.level is None else self.level
        found = thresholds_at(self.pairs, FARS)
        return {far: value for far, value in found.items() if value < limit}

    def as_dict(self) -> dict[str, Any]:
        """What export.json keeps: thresholds by the rate as text ('0.01'), and how sure it is."""
        found = self.thresholds()
        intervals = threshold_intervals(self.pairs, list(found)) if found else ()
        tail = fit_tail(self.pairs)
        return {
            'thresholds': {f'{far:g}': value for far, value in found.items()},
            'intervals': {f'{far:g}': row.tolist() for far, row in zip(found, intervals)},
            'true_accepts': {
                f'{far:g}': true_accept_rate(self.pairs, value) for far, value in found.items()
            }
            if len(self.pairs.genuine)
            else {},
            'pictures': len(self.pairs.identities),
            'people': self.pairs.people,
            'impostor_pairs': self.pairs.impostor_pairs,
            'genuine_pairs': len(self.pairs.genuine),
            'joined_people': self.joined,
            'joined_above': self.level,
            'tail': tail and tail._asdict(),
        }


def measure_people(embeddings: np.ndarray, identities: np.ndarray) -> Measured:
    """All pairs of pictures of people who are known.

    Parameters
    ----------
    embeddings : (N, D) float, rows of unit length
    identities : (N,), equal for pictures of one person
    """
    return Measured(cross_pairs(embeddings, identities, _KEPT))


def measure_pair_set(
    images: np.ndarray, issame: np.ndarray, embeddings: np.ndarray, share: float = _KEPT
) -> Measured:
    """All pairs of the pictures of a `.bin`; who is in it as `pair_people` tells.

    Parameters
    ----------
    images, issame : (2P, ...) uint8 and (P,) bool, as `load_bin` gives them
    embeddings : (2P, D) float, rows of unit length
    share : of the impostor pairs that are kept, at least the highest rate that is asked for
    """
    people = pair_people(images, issame, embeddings)
    pairs = cross_pairs(embeddings[people.pictures], people.identities, share)
    # of one person as the marks say: people joined by likeness would flatter
    marked = pair_cosines(embeddings)[np.asarray(issame, bool)]
    pairs = pairs._replace(genuine=np.sort(marked), genuine_people=None)
    return Measured(pairs, people.joined, people.level)


def load_people(folder: PathLike, most: int = MOST_IMAGES) -> tuple[np.ndarray, np.ndarray, int]:
    """Crops of a folder of people or a `.rec`, and whose they are.

    Of more than `most` pictures some are drawn: as many people as possible, equally many of each.

    Returns
    -------
    images : (N, 112, 112, 3) uint8 RGB
    identities : (N,) int64
    total : pictures in the folder

    Raises
    ------
    InputError as `open_records`, for a set without identities, one person, or a broken picture.
    """
    records = open_records(folder)
    try:
        if records.num_classes < 2:
            raise InputError(f'{folder}: thresholds need pictures of at least two people')
        # of a large set those that are looked at are drawn first, since reading all takes minutes
        drawn = np.random.RandomState(0).permutation(len(records))[: _LOOKED_AT * most]
        labels = np.array([records.read(int(position))[0] for position in drawn])
        spread = _spread(labels, most)
        chosen = drawn[spread]
        warn_if_unaligned(folder, chosen, lambda row: records.read(int(row))[1])
        images = np.stack(list(ordered_map(lambda row: _crop(records, int(row)), chosen)))
    finally:
        records.close()
    return images, labels[spread], len(records)


def _crop(records, position: int) -> np.ndarray:
    name = records.name(position)
    try:
        image = decode_rgb(records.read(position)[1])
    except InputError as error:
        raise InputError(f'{name}: {error}') from None
    return square_crop(image, name)


def _spread(labels: np.ndarray, most: int) -> np.ndarray:
    """At most `most` positions in `labels`: everybody's first picture, then their second ..."""
    random = np.random.RandomState(0)
    order = random.permutation(len(labels))
    by_person = order[np.argsort(labels[order], kind='stable')]
    sizes = np.unique(labels, return_counts=True)[1]
    turn = np.concatenate([np.arange(size) for size in sizes])
    # a random order within a turn
    taken = np.lexsort((random.rand(len(labels)), turn))[:most]
    return np.sort(by_person[taken])


def measure_file(
    embed: Callable[[np.ndarray], np.ndarray], path: PathLike, far: Optional[float]
) -> Measured:
    """`measure_pair_set` of a `.bin` file, for rates up to `far`.

    Parameters
    ----------
    embed : uint8 crops -> float rows of unit length
    """
    images, issame = load_bin(path)
    return measure_pair_set(images, issame, embed(images), max(far or 0, _KEPT))
