"""The first dimensions of rotated embeddings find what all of them find."""

import numpy as np
import pytest
from vargfacenet.common.errors import InputError
from vargfacenet.eval import identification
from vargfacenet.eval.identification import tpr_at_fpr
from vargfacenet.eval.search import negatives, screen, shorten


@pytest.fixture(scope='module', autouse=True)
def _int8():
    try:
        screen.choose_kernel('int8')
    except InputError:
        pytest.skip('no int8 kernel on this CPU')


def decaying(rng, count, size, power=0.5):
    """(count, size) float32 of unit length, most of it in few directions, none of them an axis."""
    rows = rng.standard_normal((count, size)) / np.arange(1, size + 1) ** power
    rows = rows @ np.linalg.qr(rng.standard_normal((size, size)))[0]
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


ZEN_2 = shorten.Costs(0.19, 0.0123, 75.0, 0.0)


def test_the_axes_keep_scores_and_gather_length(rng):
    rows = decaying(rng, 500, 48)
    axes = shorten.principal_axes(rows)
    np.testing.assert_allclose(axes.T @ axes, np.eye(48), atol=1e-12)
    singular = np.linalg.svd(rows.astype(np.float64), compute_uv=False)  # as much as can be
    np.testing.assert_allclose(((rows @ axes) ** 2).sum(axis=0), singular**2, rtol=1e-6)


@pytest.mark.parametrize('size', [17, 64, 130])
def test_every_pair_is_found_at_a_threshold_a_hair_below_its_score(size, rng):
    """Also where what is left out points the same way on both sides, is everything, or nothing."""
    a, b = decaying(rng, 40, size), decaying(rng, 40, size)
    axes = shorten.principal_axes(a, b)
    first = 16
    rest = rng.standard_normal(size - first)
    for n, share in enumerate((0.0, 1e-4, 0.5, 1.0), start=2):
        for rows, sign in ((a, 1), (b, 1 if n % 2 else -1)):
            whole = np.zeros((4, size))
            whole[:, :first] = np.sqrt(1 - share) * np.eye(4, first)
            whole[:, first:] = sign * np.sqrt(share) * rest / np.linalg.norm(rest)
            rows[4 * n : 4 * n + 4] = whole @ axes.T * rng.choice([1e-3, 1, 20])
    a[0] = b[1] = 0
    exact = np.float32(a.astype(np.float64) @ b.astype(np.float64).T)
    searcher = screen.Searcher('int8')
    for kept in range(first, size, 16):
        rows = shorten.pack_first(a, axes, kept, columns=False)
        for column in range(len(b)):
            columns = shorten.pack_first(b[column:], axes, kept, columns=True)
            below = np.nextafter(exact[:, column], np.float32(-np.inf))
            found = set(zip(*map(list, searcher.search(rows, columns, below))))
            assert {(i, 0) for i in range(len(a))} <= found, (kept, column)


def test_the_choice_tells_how_many_are_looked_at_again(rng):
    a, b = decaying(rng, 400, 128), decaying(rng, 500, 128)
    axes = shorten.principal_axes(a, b)
    exact = a.astype(np.float64) @ b.T.astype(np.float64)
    threshold = np.quantile(exact, 0.9999)
    searcher = screen.Searcher('int8')
    known = shorten.choices(searcher, a, b, axes, threshold, ZEN_2)
    assert [choice.size for choice in known] == list(range(16, 129, 16))
    rotated = a @ axes, b @ axes
    for choice in known[:-1]:
        first, rest = (
            [part[:, cut] for part in rotated] for cut in np.split(np.arange(128), [choice.size])
        )
        lengths = [np.linalg.norm(part, axis=1) for part in rest]
        needed = (first[0] @ first[1].T + np.outer(*lengths) > threshold).mean()
        assert needed <= choice.found <= 1  # what the rounding to bytes lets through comes on top
    assert known[-2].found < 0.01 and known[-1].found < 0.01
    # of rows in which nothing decays all of every pair is looked at
    flat = rng.standard_normal((400, 128)).astype(np.float32)
    flat /= np.linalg.norm(flat, axis=1, keepdims=True)
    known = shorten.choices(searcher, flat, flat, np.eye(128), 0.2, ZEN_2)
    assert min(known, key=lambda choice: choice.cost).size == 128


@pytest.mark.parametrize('size', [8, 130])
def test_what_is_timed_makes_costs(size, rng):
    """Of sets of any size; the law of a search is that more dimensions never cost less."""
    rows = decaying(rng, 300, size)
    costs = shorten.measured_costs(screen.Searcher('int8'), rows[:100], rows)
    assert all(np.isfinite(costs)) and min(costs) >= 0
    assert costs.again > 0 and costs.rotated > 0


def test_what_is_left_out_is_never_reckoned_too_short(rng):
    """Where the first dimensions hold all but what float64 can hardly tell from nothing."""
    for share in (0.0, 1e-20, 1e-16, 1e-8, 1.0):
        rows = decaying(rng, 64, 128).astype(np.float64)
        axes = shorten.principal_axes(rows)
        rotated = rows @ axes
        rotated[:, 32:] *= np.sqrt(share)
        packed = shorten.pack_first(rotated @ axes.T, axes, 32, columns=False)
        assert (packed.rests[:64] >= np.linalg.norm(rotated[:, 32:], axis=1)).all()
        assert (packed.rests[:64] <= np.linalg.norm(rotated[:, 32:], axis=1) + 3e-6).all()


def test_a_search_takes_the_shortcut_and_gives_the_same(rng, monkeypatch):
    """Thresholds and rates to the bit, with ties, however often the dimensions change."""
    monkeypatch.setattr(identification, 'FULL_ROC_SCORES', 10)
    monkeypatch.setattr(negatives, '_SHORTENED_PAIRS', 1)
    # these sets are small, so nothing is counted for rotations
    monkeypatch.setattr(negatives, 'measured_costs', lambda *sets: ZEN_2)
    sizes = []
    pack_first = shorten.pack_first

    def noted(embeddings, axes, size, columns):
        sizes.append(size)
        return pack_first(embeddings, axes, size, columns)

    monkeypatch.setattr(negatives, 'pack_first', noted)
    rows = decaying(rng, 2600, 160)
    rows[700:900] = rows[500:700]  # every score twice
    rows[10:20] = rows[1000:1010]  # probes among the distractors
    labels = np.arange(600) // 3
    runs = [
        tpr_at_fpr(rows[:600], labels, rows[600:], (1e-5, 1e-4), kernel=kernel, block=300)
        for kernel in ('int8', 'numpy')
    ]
    assert sizes and min(sizes) < 160
    assert runs[0].dimensions < 160 == runs[1].dimensions
    how = {'kernel': '', 'pairs_per_second': 0, 'dimensions': 0}
    one, other = ({**vars(run), **how} for run in runs)
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)
