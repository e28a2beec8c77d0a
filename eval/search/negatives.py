"""The search for the highest scores among all negative pairs, in bounded memory."""

from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from .screen import ROW_STEP, Packed, Searcher, exact_scores, pack
from .shorten import Costs, choices, measured_costs, pack_first, principal_axes

_EXCESS = 4.0  # how many times what it is for a search is expected to find, at first
_SHORTENED_PAIRS = 1 << 30  # of a unit, beside which it costs nothing to ask for fewer dimensions
_WORTH = 0.9  # of the cost so far, for which the probes are packed anew


class Highest:
    """The `count` highest of all values added."""

    def __init__(self, count: int, values: Optional[np.ndarray] = None):
        self.count = count
        self._values = np.empty(0, np.float32) if values is None else values

    @property
    def threshold(self) -> float:
        """A value not above this one can be left out."""
        return float(self._values.min()) if len(self._values) >= self.count else -np.inf

    def add(self, values: np.ndarray) -> None:
        self._values = np.concatenate([self._values, values])
        if len(self._values) > self.count:
            self._values = np.partition(self._values, -self.count)[-self.count :]

    @property
    def values(self) -> np.ndarray:
        return self._values


class Unit(NamedTuple):
    """A piece of work: columns start..end - 1 of the distractors, or of the probes themselves."""

    probes: bool
    start: int
    end: int


def work_units(probes: int, distractors: int, probe_pairs: bool, block: int) -> list[Unit]:
    """All units of a run, in order."""
    units = [
        Unit(kind, start, min(start + block, total))
        for kind, total in ((False, distractors), (True, probes if probe_pairs else 0))
        for start in range(0, total, block)
    ]
    return units


@dataclass
class NegativeSearch:
    """Runs units against the packed probes and keeps the highest negative scores.

    The int8 kernel gets the first dimensions alone where the threshold is high enough for that.
    """

    probes: np.ndarray  # (P, D) float32
    labels: np.ndarray
    distractors: np.ndarray  # (M, D)
    distractor_labels: Optional[np.ndarray]
    searcher: Searcher
    highest: Highest
    seen: int = 0  # pairs looked at

    def __post_init__(self):
        self._packed = pack(self.probes, self.searcher.kernel, columns=False)
        self._excess = _EXCESS
        self._axes: Optional[np.ndarray] = None
        self._costs: Optional[Costs] = None

    @property
    def dimensions(self) -> int:
        """How many the probes are packed with now."""
        return self._packed.size

    def run(self, unit: Unit) -> None:
        """Search the unit in slices of probes, which grow with the threshold."""
        source = self.probes if unit.probes else self.distractors
        columns = np.ascontiguousarray(source[unit.start : unit.end], np.float32)
        packed = self._packed_columns(columns)
        rows = unit.end if unit.probes else len(self.probes)  # of the pairs i < j, only those
        start, step = 0, self._step(unit)
        while start < rows:
            end = min(start + step, rows)
            threshold = self.highest.threshold
            slice_ = self._packed.rows(start, end)
            found = self.searcher.search(slice_, packed, np.full(end - start, threshold))
            if found is None:  # more than expected, e.g. where distractors are sorted; a slice of
                step = max(step // 2 // ROW_STEP * ROW_STEP, ROW_STEP)  # ROW_STEP always fits
                continue
            self._learn_excess(len(found[0]), (end - start) * (unit.end - unit.start))
            i, j = found[0] + start, found[1]
            keep = self.is_negative(unit, i, j)
            scores = exact_scores(self.probes, columns, i[keep], j[keep])
            self.highest.add(scores[scores > threshold])
            self.seen += (end - start) * (unit.end - unit.start)
            start, step = end, self._step(unit)

    def _packed_columns(self, columns: np.ndarray) -> Packed:
        """Columns (n, D) as the probes are packed, which this changes if another number of
        dimensions promises much more."""
        pairs, threshold = len(self.probes) * len(columns), self.highest.threshold
        if self.searcher.kernel == 'int8' and pairs >= _SHORTENED_PAIRS and threshold > -np.inf:
            if self._axes is None:
                self._axes = principal_axes(self.probes, columns)
                self._costs = measured_costs(self.searcher, self.probes, columns)
            sides = self.probes, columns
            known = choices(self.searcher, *sides, self._axes, threshold, self._costs)
            now = next(choice for choice in known if choice.size == self._packed.size)
            best = min(known, key=lambda choice: choice.cost)
            if best.cost < _WORTH * now.cost:
                self._packed = self._pack(self.probes, best.size, columns=False)
                self._excess = max(_EXCESS, 2 * best.found * self.seen / self.highest.count)
        return self._pack(columns, self._packed.size, columns=True)

    def _pack(self, embeddings: np.ndarray, size: int, columns: bool) -> Packed:
        if size == self.probes.shape[1]:
            return pack(embeddings, self.searcher.kernel, columns)
        return pack_first(embeddings, self._axes, size, columns)

    def _learn_excess(self, found: int, pairs: int) -> None:
        """The coarser a kernel's rounding, the more pairs it finds that are below the threshold."""
        count = self.highest.count
        if self.seen >= count:
            self._excess = max(_EXCESS, 2 * found * self.seen / (count * pairs))

    def _step(self, unit: Unit) -> int:
        """Rows whose search is expected to fit: as many pairs pass as have passed so far."""
        count, capacity = self.highest.count, self.searcher.capacity
        pairs = capacity if self.seen < count else self.seen * capacity / (self._excess * count)
        rows = min(int(pairs / (unit.end - unit.start)), len(self.probes))
        return max(rows // ROW_STEP * ROW_STEP, ROW_STEP)

    def is_negative(self, unit: Unit, i: np.ndarray, j: np.ndarray) -> np.ndarray:
        """(n,) bool: which of the pairs (probe i, column j of the unit) the protocol counts."""
        if unit.probes:
            other = j + unit.start
            return (i < other) & (self.labels[i] != self.labels[other])
        if self.distractor_labels is None:
            return np.ones(len(i), bool)
        return self.labels[i] != self.distractor_labels[unit.start + j]

    def sample(self, unit: Unit, pairs: int, random: np.random.RandomState) -> np.ndarray:
        """Scores of about `pairs` random negatives of a unit, float32."""
        source = self.probes if unit.probes else self.distractors
        # few rows and columns, many pairs of them: reading single rows of a memory map is slow
        rows = np.sort(random.choice(len(self.probes), min(len(self.probes), 2048), False))
        columns = np.sort(random.choice(len(source), min(len(source), 4096), False))
        i, j = random.randint(len(rows), size=pairs), random.randint(len(columns), size=pairs)
        left, right = (
            np.ascontiguousarray(part, np.float32) for part in (self.probes[rows], source[columns])
        )
        scores = exact_scores(left, right, i, j)
        a, b = rows[i], columns[j]
        if unit.probes:
            a, b = np.minimum(a, b), np.maximum(a, b)
        return scores[self.is_negative(unit, a, b)]
