"""1:1 identification among distractors, exactly: TPR at FPR (`ranking.py` has rank-k and 1:N).

Scores are dot products of unit-length embeddings in float64, rounded to float32. A comparison is
accepted iff its score is above the threshold.

The search is blockwise: beside the inputs, which may be memory maps, it holds the packed probes,
one block of distractors and the highest scores. Letters: P probes, M distractors, D size.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Optional

import numpy as np

from ..common.console import ProgressBar
from .pairs import (
    accepted_counts,
    check_sizes,
    count_negatives,
    hits_by_person,
    same_identity_pairs,
)
from .rates import threshold_at
from .search.negatives import Highest, NegativeSearch, Unit, work_units
from .search.resume import ResumeFile
from .search.screen import (
    BLOCK,
    CAPACITY,
    ROW_STEP,
    Searcher,
    as_float32,
    choose_kernel,
    exact_scores,
)
from .search.world import ALONE, World

log = logging.getLogger(__name__)

FULL_ROC_SCORES = 1 << 22  # up to so many negatives, all are kept and the whole ROC is exact
SAMPLED_PAIRS = 1 << 20  # that stand for the part of the ROC above the kept scores


@dataclass(frozen=True, eq=False)
class TprResult:
    """TPR at FPR; rates are 0..1, scores cosines."""

    fprs: tuple[float, ...]  # as asked for
    tpr: np.ndarray  # (F,) float64
    thresholds: np.ndarray  # (F,) float32: accepted iff above; -inf accepts everything
    accepted: np.ndarray  # (F,) int64 negatives above the threshold, at most FPR x negatives
    positives: int
    negatives: int
    genuine: np.ndarray  # (positives,) float32, ascending
    highest: np.ndarray  # (K,) float32, the K highest negative scores, descending
    sampled: np.ndarray  # (S,) float32 of random negatives, descending; empty if `highest` is all
    kernel: str
    dimensions: int  # that the kernel looked at in the end
    pairs_per_second: float
    hits: np.ndarray  # (F, I) int64: positive pairs of every identity above each threshold
    totals: np.ndarray  # (I,) int64: of all its positive pairs

    def curve(self, points: int = 200) -> dict[str, np.ndarray]:
        """The ROC at logarithmically spaced FPRs from 1 / negatives to 1.

        Returns
        -------
        dict of fpr, tpr, threshold (float64) and exact (bool). Points above the FPR that `highest`
        reaches are estimated from `sampled`.
        """
        fprs = np.logspace(-np.log10(self.negatives), 0, points)
        places = np.minimum(np.floor(fprs * self.negatives * (1 + 1e-9)), self.negatives)
        exact = places < len(self.highest)
        exact |= len(self.highest) == self.negatives
        thresholds = np.empty(points)
        for index, place in enumerate(places.astype(np.int64)):
            if exact[index]:
                thresholds[index] = threshold_at(self.highest, place)
            else:
                sampled_place = int(place / self.negatives * len(self.sampled))
                thresholds[index] = threshold_at(self.sampled, sampled_place)
        return {
            'fpr': fprs,
            'tpr': rate_above(self.genuine, thresholds),
            'threshold': thresholds,
            'exact': exact,
        }

    def histogram(self, bins: int = 100) -> dict[str, np.ndarray]:
        """Shares of genuine and of (sampled) negative scores in equal bins over -1..1."""
        edges = np.linspace(-1, 1, bins + 1)
        negatives = self.sampled if len(self.sampled) else self.highest
        shares = {
            name: np.histogram(values.clip(-1, 1), edges)[0] / max(len(values), 1)
            for name, values in (('genuine', self.genuine), ('impostor', negatives))
        }
        return {'edges': edges, **shares}


def rate_above(ascending: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of ascending scores above each threshold."""
    return 1 - np.searchsorted(ascending, thresholds, side='right') / len(ascending)


def tpr_at_fpr(
    probes: np.ndarray,
    labels: np.ndarray,
    distractors: Optional[np.ndarray] = None,
    fprs: Sequence[float] = (1e-8,),
    *,
    distractor_labels: Optional[np.ndarray] = None,
    probe_pairs: Optional[bool] = None,
    kernel: str = 'auto',
    resume: Optional[ResumeFile] = None,
    world: World = ALONE,
    progress: Optional[ProgressBar] = None,
    block: int = BLOCK,
    capacity: int = CAPACITY,
) -> Optional[TprResult]:
    """TPR at given FPRs, 1:1 among distractors: the LFR challenge's measure.

    Positives are all pairs of probes of one identity. Negatives are all probes x distractors and,
    with `probe_pairs`, the probe pairs of different identities. For an FPR f of N negatives, the
    threshold is the (floor(f N) + 1)-th highest negative score; TPR is the share of positives
    above it. Thresholds are scores of pairs, found by looking at all of them.

    Parameters
    ----------
    probes : (P, D) float, unit length; checked by `embeddings.check_embeddings`
    labels : (P,) identity of each
    distractors : (M, D) float, unit length, in any order; may be a memory map. None: probe pairs
        alone
    fprs : each above 1 / N
    distractor_labels : (M,), if identities of the probes can occur among the distractors; such
        pairs are no negatives
    probe_pairs : default: only where there are no distractors
    kernel : one of `screen.KERNELS`; all give the same result
    resume : file that the run goes on from, and is kept in after every block
    world : processes that share the distractors; each calls this with the same arguments
    progress : advanced by the pairs looked at in this process
    block, capacity : distractors and found pairs held at a time

    Returns
    -------
    TprResult, in the first process of the world; None in the others.

    Raises
    ------
    InputError for sizes that do not match, without positives or negatives, and for an FPR that
    cannot be measured, naming the smallest that can.
    """
    if distractors is None:
        distractors = probes[:0]
    probe_pairs = not len(distractors) if probe_pairs is None else probe_pairs
    plan = _plan(probes, labels, distractors, distractor_labels, probe_pairs, fprs)
    probes = as_float32(probes)
    searcher, highest = Searcher(choose_kernel(kernel), capacity), Highest(plan.keep)
    search = NegativeSearch(probes, labels, distractors, distractor_labels, searcher, highest)
    units = work_units(len(probes), len(distractors), probe_pairs, min(block, capacity // ROW_STEP))
    rate = _run_units(search, units[world.rank :: world.size], resume, progress)
    descending = _gathered(world, search.highest.values, plan.keep)
    return _result(fprs, plan, search, descending, rate) if world.is_first else None


class _Plan(NamedTuple):
    """What is looked at and kept, known before the search."""

    positives: tuple[np.ndarray, np.ndarray]  # rows of the probes of one identity
    across: int  # negatives, probes x distractors
    within: int  # negatives among the probes
    counts: np.ndarray  # negatives that each FPR accepts
    keep: int  # highest scores that are kept

    @property
    def negatives(self) -> int:
        return self.across + self.within


def _plan(
    probes: np.ndarray,
    labels: np.ndarray,
    distractors: np.ndarray,
    distractor_labels: Optional[np.ndarray],
    probe_pairs: bool,
    fprs: Sequence[float],
) -> _Plan:
    check_sizes(probes, labels, distractors, distractor_labels)
    positives = same_identity_pairs(labels)
    across, within = count_negatives(labels, len(distractors), distractor_labels, probe_pairs)
    negatives = across + within
    counts = accepted_counts(fprs, negatives)
    keep = negatives if negatives <= FULL_ROC_SCORES else min(int(counts.max()) + 1, negatives)
    return _Plan(positives, across, within, counts, keep)


def _gathered(world: World, values: np.ndarray, keep: int) -> np.ndarray:
    """The `keep` highest scores of all processes, descending."""
    highest = Highest(keep)
    for part in world.gather(values):
        highest.add(part)
    descending = np.sort(highest.values)[::-1]
    assert len(descending) == keep or not world.is_first, (len(descending), keep)
    return descending


def _result(
    fprs: Sequence[float],
    plan: _Plan,
    search: NegativeSearch,
    descending: np.ndarray,
    rate: float,
) -> TprResult:
    """Thresholds that accept at most `plan.counts` of the negatives, and the TPR above them."""
    scores = exact_scores(search.probes, search.probes, *plan.positives)
    genuine = np.sort(scores)
    whole = plan.keep == plan.negatives
    thresholds = np.array([threshold_at(descending, count) for count in plan.counts], np.float32)
    above = (scores > threshold for threshold in thresholds)
    hits, totals = hits_by_person(search.labels, plan.positives[0], above)
    return TprResult(
        fprs=tuple(fprs),
        tpr=rate_above(genuine, thresholds),
        thresholds=thresholds,
        accepted=np.searchsorted(-descending, -thresholds, side='left'),
        positives=len(genuine),
        negatives=plan.negatives,
        genuine=genuine,
        highest=descending,
        sampled=descending[:0] if whole else _sample(search, plan.across, plan.within),
        kernel=search.searcher.kernel,
        dimensions=search.dimensions,
        pairs_per_second=rate,
        hits=hits,
        totals=totals,
    )


def _sample(search: NegativeSearch, across: int, within: int) -> np.ndarray:
    """About SAMPLED_PAIRS random negative scores, descending; both kinds in their proportion."""
    random = np.random.RandomState(0)
    scores = []
    for probes, total, negatives in (
        (False, len(search.distractors), across),
        (True, len(search.probes), within),
    ):
        if negatives:
            pairs = SAMPLED_PAIRS * negatives // (across + within)
            scores.append(search.sample(Unit(probes, 0, total), pairs, random))
    return np.sort(np.concatenate(scores))[::-1]


def _run_units(
    search: NegativeSearch,
    units: list[Unit],
    resume: Optional[ResumeFile],
    progress: Optional[ProgressBar],
) -> float:
    """Run what is left of the units; returns pairs per second."""
    done = 0
    state = resume.load() if resume else None
    if state is not None:
        done, search.seen = int(state['done']), int(state['seen'])
        search.highest.add(state['highest'])
        log.info('going on after block %d of %d', done, len(units))
        if progress:
            progress.advance(search.seen)
            progress.start = progress.done
    started, before = time.monotonic(), search.seen
    for number, unit in enumerate(units[done:], done + 1):
        pairs = search.seen
        search.run(unit)
        if progress:
            progress.advance(search.seen - pairs, f'threshold {search.highest.threshold:.4f}')
        if resume:
            resume.save(done=number, seen=search.seen, highest=search.highest.values)
    return (search.seen - before) / max(time.monotonic() - started, 1e-9)
