"""Sets of pictures of known people whose every pair is compared: `.npz` files of `make-pairs`.

A pair set (`pair_sets.py`) holds two pictures for each pair. A few thousand pictures make millions
of pairs, so here each picture is stored once, with whose it is; the pairs follow from that.

    pictures   (B,) uint8, the JPEG files one after the other
    ends       (N,) int64, where each of them ends
    people     (N,) int64, 0..P-1
    names      (P,) text
    impostors  (K, 2) int32, pairs of different people that were drawn; absent where all count
"""

from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..arrays import read_npz, write_npz
from ..errors import InputError
from ..files import PathLike, input_file
from .image import refuse_picture

SUFFIX = '.npz'
_ARRAYS = {'pictures', 'ends', 'people', 'names'}


class PeopleSet(NamedTuple):
    """Pictures of people, and which pairs of different people are compared."""

    pictures: list[bytes]  # (N,) encoded
    people: np.ndarray  # (N,) int64, 0..P-1
    names: list[str]  # (P,)
    impostors: Optional[np.ndarray]  # (K, 2) int64, rows of pictures; None: all pairs

    @property
    def genuine_pairs(self) -> int:
        sizes = np.bincount(self.people)
        return int((sizes * (sizes - 1) // 2).sum())


def impostor_pairs(people: np.ndarray) -> int:
    """How many pairs of different people (N,) pictures make."""
    sizes = np.bincount(people).astype(object)  # Python's integers, which do not overflow
    return int((len(people) ** 2 - (sizes**2).sum()) // 2)


def draw_impostors(people: np.ndarray, count: int, seed: int) -> np.ndarray:
    """`count` different pairs of different people, each as likely as any other.

    Parameters
    ----------
    people : (N,) int
    count : at most half of all such pairs, so that drawing ends soon

    Returns
    -------
    (count, 2) int32, the smaller row first, in ascending order
    """
    random, size = np.random.RandomState(seed), len(people)
    codes = np.empty(0, np.int64)
    while len(codes) < count:
        first, second = random.randint(0, size, (2, 2 * (count - len(codes)) + 16))
        low, high = np.minimum(first, second), np.maximum(first, second)
        new = (low.astype(np.int64) * size + high)[people[low] != people[high]]
        together = np.concatenate([codes, new])
        _, places = np.unique(together, return_index=True)  # the first draw of each stays
        codes = together[np.sort(places)][:count]
    return np.column_stack(np.divmod(np.sort(codes), size)).astype(np.int32)


def write_people_set(path: PathLike, people_set: PeopleSet) -> None:
    """Write a set, whole or not at all."""
    arrays = {
        'pictures': np.frombuffer(b''.join(people_set.pictures), np.uint8),
        'ends': np.cumsum([len(picture) for picture in people_set.pictures]),
        'people': people_set.people,
        'names': np.array(people_set.names),
    }
    if people_set.impostors is not None:
        arrays['impostors'] = people_set.impostors.astype(np.int32)
    write_npz(path, arrays)


def read_people_set(path: PathLike) -> PeopleSet:
    """Read what `write_people_set` wrote; InputError for any other file, and for damage."""
    if Path(path).suffix == '.bin':
        raise InputError(f'{path} is no set of people; a .bin is for --target')
    refuse_picture(path, 'a set of people, which make-pairs writes')
    arrays = read_npz(input_file(path, 'set of people'))
    if not _ARRAYS <= arrays.keys() <= _ARRAYS | {'impostors'}:
        raise InputError(f'{path} is no set of people; vargfacenet make-pairs writes them')
    ends, people, names = (arrays[key] for key in ('ends', 'people', 'names'))
    impostors = arrays.get('impostors')
    kinds = (ends.dtype.kind, people.dtype.kind, names.dtype.kind)
    sizes = len({ends.shape, people.shape}) == 1 and ends.ndim == names.ndim == 1 <= len(ends)
    starts = np.append(0, ends[:-1]) if sizes else ends
    whole = (
        kinds == ('i', 'i', 'U')
        and sizes
        and (starts < ends).all()
        and arrays['pictures'].dtype == np.uint8
        and arrays['pictures'].shape == (ends[-1],)
        and np.array_equal(np.unique(people), np.arange(len(names)))
    )
    if whole and impostors is not None:
        whole = impostors.dtype.kind == 'i' and impostors.ndim == 2 and impostors.shape[1] == 2
        whole = whole and 0 <= impostors.min(initial=0) <= impostors.max(initial=0) < len(people)
        whole = whole and bool((people[impostors[:, 0]] != people[impostors[:, 1]]).all())
    if not whole:
        raise InputError(f'{path} is damaged: its arrays do not belong together')
    content = arrays['pictures'].tobytes()
    pictures = [content[start:end] for start, end in zip(starts.tolist(), ends.tolist())]
    drawn = None if impostors is None else impostors.astype(np.int64)
    return PeopleSet(pictures, people.astype(np.int64), names.tolist(), drawn)


def check_kinds(people: np.ndarray, what: str) -> None:
    """InputError where pictures make no pair of one person, or none of different people."""
    sizes = np.bincount(people)
    if len(sizes) < 2 or max(sizes) < 2:
        raise InputError(
            f'{what}: {len(people)} pictures of {len(sizes)} people make no pairs of both kinds; '
            f'it takes two people, and two pictures of one of them'
        )
