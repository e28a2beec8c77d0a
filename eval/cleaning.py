"""What is probably wrong in a training set, found by embedding: the same picture twice, one person
under two names, pictures in the wrong folder.

An own score is a picture's cosine to the mean direction of the other pictures of its class, a class
being what the set calls one person. Letters: N pictures, D embedding size, C classes.
"""

import functools
import tempfile
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from ..common import console
from ..common.data.records import Records, read_crop
from ..common.engine.open_model import OpenModel
from ..common.errors import InputError
from ..common.files import naming, reserve
from ..common.parallel import batches, ordered_map
from ..common.vectors import unit_rows
from .search.screen import BLOCK, ROW_STEP, Searcher, choose_kernel, exact_scores, pack

MAX_PAIRS = 1 << 20  # that one search may give; more is no list that anybody reads
OWN_QUANTILE = 0.1  # nine tenths of the pictures are more like their class than this score
STRANGER_QUANTILE = 0.9999  # of pictures against classes of other people
_STRANGERS = 1 << 18  # random pairs that tell it
_EMBED_BLOCK = 1024


@dataclass
class People:
    """An embedded set."""

    records: Records
    rows: np.ndarray  # (N, D) float32, unit length; in a file
    labels: np.ndarray  # (N,) int64, class numbers; -1 of a set without classes
    positions: np.ndarray  # (N,) int64, of the pictures in `records`
    bad: list[str]  # pictures that could not be read, with the reason

    def name(self, index: int) -> str:
        return self.records.name(int(self.positions[index]))

    def class_name(self, label: int) -> str:
        names = self.records.class_names
        return names[label] if 0 <= label < len(names) else str(label)

    def crop(self, index: int) -> np.ndarray:
        return _crop(self.records, int(self.positions[index]))[1]

    def content(self, index: int) -> bytes:
        return self.records.read(int(self.positions[index]))[1]


def _crop(records: Records, position: int) -> tuple[int, np.ndarray]:
    """(label, uint8 (112, 112, 3) RGB); InputError naming the picture."""
    label, bgr = read_crop(records, position)
    return label, bgr[:, :, ::-1]


def embed_people(model: OpenModel, records: Records) -> People:
    """Embed all pictures of a set; those that cannot be read are left out and named.

    Raises InputError where none is left, and for embeddings without direction.
    """

    def read(position: int):
        try:
            return (position, *_crop(records, position))
        except InputError as error:
            return str(error)

    count, bad, kept, labels = len(records), [], [], []
    shape = (count, model.embedding_size)
    with naming(tempfile.gettempdir()):
        handle = tempfile.TemporaryFile()  # noqa: SIM115  (the memory map keeps it)
        # a full disk is an error here, not a SIGBUS at some picture
        reserve(handle.fileno(), 0, 4 * count * model.embedding_size)
    rows = np.memmap(handle, np.float32, 'r+', shape=shape)
    crops = ordered_map(read, range(count))
    with console.progress(count, f'embedding {records.source}') as bar:
        for block in batches(crops, _EMBED_BLOCK):
            good = [found for found in block if not isinstance(found, str)]
            bad += [found for found in block if isinstance(found, str)]
            if good:
                raw = model.embed(np.stack([image for _, _, image in good]))
                refusal = functools.partial(_refusal, model.name, records, good)
                rows[len(kept) : len(kept) + len(good)] = unit_rows(raw, refusal)
                kept += [position for position, _, _ in good]
                labels += [label for _, label, _ in good]
            bar.advance(len(block))
    if not kept:
        raise InputError(f'{records.source}: no picture can be read; the first: {bad[0]}')
    return People(records, rows[: len(kept)], np.array(labels), np.array(kept), bad)


def _refusal(model: str, records: Records, good: list, rows: np.ndarray) -> InputError:
    return InputError(
        f'model {model} gives {records.name(good[rows[0]][0])} an embedding without direction'
    )


class Pairs(NamedTuple):
    """Pairs of rows and their cosines."""

    i: np.ndarray  # int64
    j: np.ndarray
    scores: np.ndarray  # float32


def pairs_above(rows: np.ndarray, others: Optional[np.ndarray], threshold: float) -> Pairs:
    """All pairs (i of `rows`, j of `others`) whose cosine is at least `threshold`; without
    `others` all pairs i < j of `rows`. Highest first.

    Parameters
    ----------
    rows, others : (N, D), (M, D) float32, unit length

    Raises
    ------
    InputError for more than MAX_PAIRS.
    """
    searcher = Searcher(choose_kernel())
    source = rows if others is None else others
    parts, total = [], 0
    for first in range(0, len(source), BLOCK):
        columns = np.ascontiguousarray(source[first : first + BLOCK], np.float32)
        packed = pack(columns, searcher.kernel, columns=True)
        end = len(rows) if others is not None else first + len(columns)
        start, step = 0, BLOCK // ROW_STEP * ROW_STEP
        while start < end:
            block = np.ascontiguousarray(rows[start : min(start + step, end)], np.float32)
            thresholds = np.full(len(block), np.nextafter(np.float32(threshold), np.float32(-2)))
            found = searcher.search(pack(block, searcher.kernel, columns=False), packed, thresholds)
            if found is None:
                step = max(step // 2 // ROW_STEP * ROW_STEP, ROW_STEP)
                continue
            i, j = found
            if others is None:
                later = i + start < j + first
                i, j = i[later], j[later]
            scores = exact_scores(block, columns, i, j)
            good = scores >= np.float32(threshold)
            parts.append((i[good] + start, j[good] + first, scores[good]))
            total += int(good.sum())
            if total > MAX_PAIRS:
                raise InputError(
                    f'more than {MAX_PAIRS} pairs have a cosine of {threshold:.3f} or more; ask '
                    f'for a higher one'
                )
            start += len(block)
    i, j, scores = (np.concatenate(part) for part in zip(*parts))
    order = np.lexsort((j, i, -scores))
    return Pairs(i[order], j[order], scores[order])


@dataclass
class Classes:
    """The classes of a set, seen by their embeddings."""

    labels: np.ndarray  # (C,) int64 ascending, those with pictures
    centres: np.ndarray  # (C, D) float32, unit length
    code: np.ndarray  # (N,) int64, index into `labels` of every picture
    own: np.ndarray  # (N,) own scores; NaN for the only picture of a class
    typical: np.ndarray  # (C,) index of the picture nearest to the centre


def classes_of(people: People) -> Classes:
    """Centres and own scores, a block of rows at a time."""
    labels, code, counts = np.unique(people.labels, return_inverse=True, return_counts=True)
    sums = np.zeros((len(labels), people.rows.shape[1]))
    blocks = [slice(start, start + BLOCK) for start in range(0, len(code), BLOCK)]
    for part in blocks:
        np.add.at(sums, code[part], people.rows[part].astype(np.float64))
    centres = unit_rows(sums)
    own, to_centre = np.empty(len(code)), np.empty(len(code))
    for part in blocks:
        rows = people.rows[part].astype(np.float64)
        own[part] = np.einsum('nd,nd->n', unit_rows(sums[code[part]] - rows), rows)
        to_centre[part] = np.einsum('nd,nd->n', centres[code[part]], rows)
    own[counts[code] == 1] = np.nan
    order = np.lexsort((-to_centre, code))
    typical = order[np.searchsorted(code[order], np.arange(len(labels)))]
    return Classes(labels, centres.astype(np.float32), code, own, typical)


def stranger_score(people: People, classes: Classes) -> float:
    """The STRANGER_QUANTILE of cosines of pictures and the centres of other classes."""
    if len(classes.labels) < 2:
        return -1.0
    random = np.random.RandomState(0)
    i = np.sort(random.randint(len(classes.code), size=_STRANGERS))
    other = random.randint(1, len(classes.labels), size=_STRANGERS)
    j = (classes.code[i] + other) % len(classes.labels)
    return float(np.quantile(exact_scores(people.rows, classes.centres, i, j), STRANGER_QUANTILE))


def same_person_score(people: People, classes: Classes) -> float:
    """The cosine from which two classes may be one person, told by the set itself: what nine
    tenths of its pictures have with their own class, and hardly any with another.

    Raises InputError for a set whose classes have one picture each.
    """
    own = classes.own[np.isfinite(classes.own)]
    if not len(own):
        raise InputError(
            f'{people.records.source}: no class has two pictures, so that the set does not tell '
            f'how alike those of one person are; give --same-person'
        )
    return max(float(np.quantile(own, OWN_QUANTILE)), stranger_score(people, classes))


class Finding(NamedTuple):
    """One line of the list; the second picture is what speaks against the first."""

    kind: str
    cosine: float
    own: float  # of the first picture; NaN where it does not matter
    first: int  # index of a picture
    second: int


DUPLICATE, SAME_PERSON, MISLABELLED = 'duplicate', 'same person', 'mislabelled'


def duplicates(people: People, other: Optional[People], threshold: float) -> list[Finding]:
    """Pictures that are (nearly) the same, within a set or between two."""
    pairs = pairs_above(people.rows, None if other is None else other.rows, threshold)
    values = zip(pairs.scores.tolist(), pairs.i.tolist(), pairs.j.tolist())
    return [Finding(DUPLICATE, score, np.nan, i, j) for score, i, j in values]


def same_people(classes: Classes, other: Optional[Classes], threshold: float) -> list[Finding]:
    """Classes that are probably one person, shown by their most typical pictures."""
    pairs = pairs_above(classes.centres, None if other is None else other.centres, threshold)
    second = classes if other is None else other
    values = zip(pairs.scores.tolist(), pairs.i.tolist(), pairs.j.tolist())
    return [
        Finding(SAME_PERSON, score, np.nan, int(classes.typical[i]), int(second.typical[j]))
        for score, i, j in values
    ]


def mislabelled(people: People, classes: Classes, threshold: float, margin: float) -> list[Finding]:
    """Pictures that are more like another class than like their own, by `margin` and with
    `threshold` at least; the class's most typical picture is the second. Most certain first.

    Only of classes with several pictures; a class that is wrong as a whole is the same person as
    another.
    """
    doubtful = np.flatnonzero(classes.own < 1 - margin)
    if not len(doubtful):
        return []
    # what is as near to another class as is asked for; own class and near ones fall away
    pairs = pairs_above(people.rows[doubtful], classes.centres, threshold)
    i = doubtful[pairs.i]
    other = (classes.code[i] != pairs.j) & (pairs.scores >= classes.own[i] + margin)
    best: dict[int, Finding] = {}
    for picture, label, score in zip(i[other], pairs.j[other], pairs.scores[other]):
        found = Finding(
            MISLABELLED,
            float(score),
            float(classes.own[picture]),
            int(picture),
            int(classes.typical[label]),
        )
        best.setdefault(int(picture), found)  # highest first
    return sorted(best.values(), key=lambda found: found.own - found.cosine)


def is_identical(people: People, other: People, found: Finding) -> bool:
    """Whether the files of the two pictures are the same, byte for byte."""
    return people.content(found.first) == other.content(found.second)
