"""Identification against a float64 sort of all pairs, for every kernel; ties, resuming, order."""

import numpy as np
import pytest
from vargfacenet.common.errors import InputError
from vargfacenet.eval import identification, pairs
from vargfacenet.eval.identification import tpr_at_fpr
from vargfacenet.eval.pairs import same_identity_pairs
from vargfacenet.eval.ranking import open_set, rank_rates
from vargfacenet.eval.search import screen
from vargfacenet.eval.search.resume import ResumeFile
from vargfacenet.eval.search.screen import KERNELS, ROW_STEP, choose_kernel, pack
from vargfacenet.eval.search.world import World

# a result must not depend on who compares which rows
pytestmark = pytest.mark.usefixtures('two_threads')


def runs_here(kernel):
    try:
        choose_kernel(kernel)
    except InputError:
        return False
    return True


kernels = pytest.mark.parametrize('kernel', [kernel for kernel in KERNELS[1:] if runs_here(kernel)])


def unit(rows):
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return rows.astype(np.float32)


def people(rng, probes=150, distractors=400, size=40, identities=30):
    """(probes, labels, distractors): unit rows around a centre for each identity."""
    labels = rng.randint(0, identities, probes)
    centres = rng.standard_normal((identities, size))
    rows = unit(centres[labels] + 1.2 * rng.standard_normal((probes, size)))
    return rows, labels, unit(rng.standard_normal((distractors, size)))


def tied(rng, probes=90, distractors=200, size=16):
    """Rows of few values: their products are exact and hundreds of pairs have the same score."""
    labels = rng.randint(0, 12, probes)
    rows = rng.randint(-1, 2, (probes, size)).astype(np.float32) / 4
    return rows, labels, rng.randint(-1, 2, (distractors, size)).astype(np.float32) / 4


def brute_force(probes, labels, distractors, probe_pairs, distractor_labels=None):
    """(genuine, negatives): every score by a loop over the definition, negatives descending."""
    a, b = probes.astype(np.float64), distractors.astype(np.float64)
    within = np.float32(a @ a.T)
    genuine, negatives = [], []
    for i in range(len(a)):
        for j in range(i + 1, len(a)):
            if labels[i] == labels[j]:
                genuine.append(within[i, j])
            elif probe_pairs:
                negatives.append(within[i, j])
    across = np.float32(a @ b.T)
    for i in range(len(a)):
        for j in range(len(b)):
            if distractor_labels is None or labels[i] != distractor_labels[j]:
                negatives.append(across[i, j])
    return np.array(genuine), np.sort(np.array(negatives, np.float32))[::-1]


def check(result, genuine, negatives):
    assert (result.positives, result.negatives) == (len(genuine), len(negatives))
    for number, fpr in enumerate(result.fprs):
        count = int(round(fpr * len(negatives), 6))
        threshold = negatives[count] if count < len(negatives) else -np.inf
        assert result.thresholds[number] == threshold
        assert result.accepted[number] == (negatives > threshold).sum() <= fpr * len(negatives)
        assert result.tpr[number] == pytest.approx((genuine > threshold).mean(), abs=1e-12)


FPRS = (1e-4, 1e-3, 0.0123, 0.1, 0.5, 1.0)


@kernels
@pytest.mark.parametrize('make', [people, tied])
@pytest.mark.parametrize('probe_pairs', [False, True])
def test_equals_a_sort_of_all_pairs(rng, kernel, make, probe_pairs):
    probes, labels, distractors = make(rng)
    result = tpr_at_fpr(probes, labels, distractors, FPRS, kernel=kernel, probe_pairs=probe_pairs)
    genuine, negatives = brute_force(probes, labels, distractors, probe_pairs)
    check(result, genuine, negatives)
    assert (result.highest == negatives).all()


@kernels
@pytest.mark.parametrize('order', ['random', 'worst'])
def test_only_the_highest_are_kept(rng, kernel, order, monkeypatch):
    """Small blocks and little memory; in the worst order every block beats the one before."""
    monkeypatch.setattr(identification, 'FULL_ROC_SCORES', 0)
    probes, labels, distractors = people(rng, probes=300, distractors=3000)
    if order == 'worst':
        distractors = distractors[np.argsort((distractors @ probes.T).max(axis=1))]
    result = tpr_at_fpr(
        probes,
        labels,
        distractors,
        (1e-5, 1e-3, 1e-2),
        kernel=kernel,
        block=500,
        capacity=ROW_STEP * 500,
    )
    genuine, negatives = brute_force(probes, labels, distractors, False)
    check(result, genuine, negatives)
    assert (result.highest == negatives[: len(result.highest)]).all()
    assert len(result.highest) == 9001

    curve = result.curve()
    exact = curve['exact']
    assert exact.any() and not exact.all()
    places = np.floor(curve['fpr'] * len(negatives) * (1 + 1e-9)).astype(int)
    thresholds = np.append(negatives, -np.inf)[places]
    tpr = (genuine[:, None] > thresholds).mean(axis=0)
    assert np.abs(curve['tpr'] - tpr)[exact].max() < 1e-12
    assert np.abs(curve['tpr'] - tpr).max() < 0.02  # estimated from a sample


@kernels
def test_shared_identities_are_no_negatives(rng, kernel):
    probes, labels, distractors = people(rng)
    distractor_labels = rng.randint(20, 60, len(distractors))
    result = tpr_at_fpr(
        probes, labels, distractors, FPRS, kernel=kernel, distractor_labels=distractor_labels
    )
    genuine, negatives = brute_force(probes, labels, distractors, False, distractor_labels)
    assert len(negatives) < len(probes) * len(distractors)
    check(result, genuine, negatives)


def test_other_forms_of_arrays(rng, tmp_path):
    """Memory maps, float16, columns of another order."""
    probes, labels, distractors = people(rng)
    expected = tpr_at_fpr(probes, labels, distractors, FPRS)
    np.save(tmp_path / 'd.npy', distractors)
    for form in (np.load(tmp_path / 'd.npy', mmap_mode='r'), np.asfortranarray(distractors)):
        assert (tpr_at_fpr(probes, labels, form, FPRS).highest == expected.highest).all()
    half = distractors.astype(np.float16)
    expected = tpr_at_fpr(probes, labels, half.astype(np.float32), FPRS)
    assert (tpr_at_fpr(probes, labels, half, FPRS).highest == expected.highest).all()


@kernels
def test_rotation_and_order_change_nothing(rng, kernel):
    probes, labels, distractors = people(rng)
    first = tpr_at_fpr(probes, labels, distractors, (0.01,), kernel=kernel)
    order = rng.permutation(len(probes))
    turn, _ = np.linalg.qr(rng.standard_normal((probes.shape[1],) * 2))
    second = tpr_at_fpr(
        unit(probes[order] @ turn),
        labels[order],
        unit(distractors[::-1] @ turn),
        (0.01,),
        kernel=kernel,
    )
    assert second.tpr[0] == pytest.approx(first.tpr[0], abs=2 / first.positives)
    assert second.thresholds[0] == pytest.approx(first.thresholds[0], abs=1e-5)


@kernels
def test_the_error_bound_holds(rng, kernel):
    """What a kernel leaves out at a threshold is below it, for rows that round badly too."""
    size = 75
    a = unit(rng.standard_normal((130, size)) ** 5)
    b = unit(rng.standard_normal((70, size)) ** 5)
    b[:40] = a[:40]
    exact = np.float32(a.astype(np.float64) @ b.T.astype(np.float64))
    searcher = screen.Searcher(kernel)
    rows, columns = pack(a, kernel, columns=False), pack(b, kernel, columns=True)
    bound = screen.error_bound(rows, columns)
    assert bound < {'int8': 0.09}.get(kernel, 0.012)
    for threshold in (-0.5, 0.0, 0.3, 0.999):
        i, j = searcher.search(rows, columns, np.full(len(a), threshold))
        assert (exact[i, j] > threshold - 2 * bound).all()
        left_out = np.ones_like(exact, bool)
        left_out[i, j] = False
        assert (exact[left_out] <= threshold).all()
        assert len(set(zip(i, j))) == len(i)


class Killed(Exception):
    pass


class FlakyFile(ResumeFile):
    """Is killed after its third save."""

    saves = 0

    def save(self, **arrays):
        super().save(**arrays)
        self.saves += 1
        if self.saves == 3:
            raise Killed


def test_goes_on_after_a_kill(rng, tmp_path, monkeypatch):
    monkeypatch.setattr(identification, 'FULL_ROC_SCORES', 0)
    probes, labels, distractors = people(rng)
    arguments = {'fprs': (1e-3,), 'block': 64}
    expected = tpr_at_fpr(probes, labels, distractors, **arguments)
    path = tmp_path / 'run.npz'
    with pytest.raises(Killed):
        tpr_at_fpr(probes, labels, distractors, **arguments, resume=FlakyFile(path, 'a'))
    # what lies before the block where it was is not looked at again
    rest = distractors.copy()
    rest[: 3 * 64] = probes[0]
    result = tpr_at_fpr(probes, labels, rest, **arguments, resume=ResumeFile(path, 'a'))
    assert (result.highest == expected.highest).all()
    with pytest.raises(InputError, match='of another run'):
        tpr_at_fpr(probes, labels, distractors, **arguments, resume=ResumeFile(path, 'b'))
    path.write_bytes(b'no zip')
    with pytest.raises(InputError, match='of another run'):
        ResumeFile(path, 'a').load()


def worlds(size):
    """One World a process; run the last first, so that the first has everybody's arrays."""
    sent = []

    def gather(array):
        sent.append(array)
        return sent

    return [World(rank, size, gather) for rank in reversed(range(size))]


@pytest.mark.parametrize('size', [1, 2, 3])
def test_shares_of_processes_add_up(rng, size):
    probes, labels, distractors = people(rng)
    expected = tpr_at_fpr(probes, labels, distractors, FPRS)
    for world in worlds(size):
        result = tpr_at_fpr(probes, labels, distractors, FPRS, world=world, block=50)
        assert (result is None) == (world.rank > 0)
    assert (result.highest == expected.highest).all()
    assert (result.tpr == expected.tpr).all()


# --- rank-k and open set


@kernels
@pytest.mark.parametrize('make', [people, tied])
def test_ranks_equal_a_loop(rng, kernel, make):
    probes, labels, distractors = make(rng)
    sizes = (1, 10, 77, len(distractors))
    result = rank_rates(
        probes, labels, distractors, sizes, 5, kernel=kernel, block=50, capacity=ROW_STEP * 50
    )
    a, b = probes.astype(np.float64), distractors.astype(np.float64)
    within, across = np.float32(a @ a.T), np.float32(a @ b.T)
    found = np.zeros((len(sizes), 5))
    searches = 0
    for probe in range(len(a)):
        for mate in range(len(a)):
            if probe == mate or labels[probe] != labels[mate]:
                continue
            searches += 1
            for number, size in enumerate(sizes):
                better = sum(score >= within[probe, mate] for score in across[probe, :size])
                for rank in range(1, 6):
                    found[number, rank - 1] += better < rank
    assert result.searches == searches
    assert np.abs(result.rates - found / searches).max() < 1e-12
    assert (np.diff(result.rates, axis=0) <= 0).all()
    assert (np.diff(result.rates, axis=1) >= 0).all()


@kernels
@pytest.mark.parametrize('make', [people, tied])
def test_open_set_equals_a_loop(rng, kernel, make):
    probes, labels, gallery = make(rng)
    gallery[:20] = probes[:20]
    enrolled = np.where(labels[:20] % 2, 5000, labels[:20])  # nobody of an odd number
    gallery_labels = np.concatenate([enrolled, 1000 + np.arange(len(gallery) - 20) // 2])
    probes, labels = probes[20:], labels[20:]
    fpirs = (0.05, 0.3, 1.0)
    result = open_set(gallery, gallery_labels, probes, labels, fpirs, 3, kernel=kernel)
    scores = np.float32(probes.astype(np.float64) @ gallery.T.astype(np.float64))
    impostors = sorted(
        (scores[p].max() for p in range(len(probes)) if labels[p] not in gallery_labels),
        reverse=True,
    )
    assert result.non_mated == len(impostors)
    hits, ranks = np.zeros(3), np.zeros(3)
    for probe, label in enumerate(labels):
        same = gallery_labels == label
        if not same.any():
            continue
        mate, others = scores[probe, same].max(), scores[probe, ~same]
        for number, fpir in enumerate(fpirs):
            count = int(round(fpir * len(impostors), 6) // 1)
            threshold = impostors[count] if count < len(impostors) else -np.inf
            assert result.thresholds[number] == threshold
            hits[number] += mate > threshold and mate > others.max()
        for rank in range(3):
            ranks[rank] += (others >= mate).sum() <= rank
    assert result.tpir == pytest.approx(hits / result.mated, abs=1e-12)
    assert result.ranks == pytest.approx(ranks / result.mated, abs=1e-12)


# --- what cannot be measured


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'fprs': (1e-9,)}, r'smallest that can be measured here is 1.67e-05'),
        ({'fprs': (0.0,)}, 'expected a number above 0'),
        ({'labels': np.zeros(3)}, '3 labels for 150 probes'),
        ({'labels': np.arange(150)}, 'no positive pair'),
        ({'distractor_labels': np.zeros(3)}, '3 labels for 400 distractors'),
        ({'distractor_labels': np.full(400, 'a')}, 'both as numbers or both as text'),
        ({'distractors': np.ones((5, 7), np.float32)}, '40 dimensions, distractors 7'),
        ({'distractors': None, 'labels': np.zeros(150)}, 'no negative pair'),
        ({'kernel': 'gpu'}, "kernel 'gpu'"),
    ],
)
def test_wrong_input(rng, change, message):
    probes, labels, distractors = people(rng)
    arguments = {'labels': labels, 'distractors': distractors, 'fprs': (0.01,), **change}
    with pytest.raises(InputError, match=message):
        tpr_at_fpr(probes, **arguments)


def test_too_many_scores_or_pairs(rng, monkeypatch):
    probes, labels, distractors = people(rng)
    monkeypatch.setattr(pairs, 'MAX_SCORES', 100)
    with pytest.raises(InputError, match=r'up to 0\.00167 is possible'):
        tpr_at_fpr(probes, labels, distractors, (0.01,))
    monkeypatch.setattr(pairs, 'MAX_GENUINE', 10)
    with pytest.raises(InputError, match='more than fit in memory'):
        same_identity_pairs(labels)


@pytest.mark.parametrize('sizes', [(), (0, 10), (10, 10), (10, 5), (401,)])
def test_wrong_numbers_of_distractors(rng, sizes):
    with pytest.raises(InputError, match=r'ascend in 1\.\.400'):
        rank_rates(*people(rng), sizes)
