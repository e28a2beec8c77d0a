"""Verification against golden numbers of the reference evaluation, and against laws."""

import json
import logging
import time

import numpy as np
import pytest
from conftest import DATA
from vargfacenet.common.errors import InputError
from vargfacenet.eval.metrics import squared_distances
from vargfacenet.eval.verification import add_flips, evaluate, verify

CASES = json.loads((DATA / 'verification.json').read_text())['cases']


def golden_case(case):
    """(embeddings, embeddings of flips, issame) by the recipe in verification.json."""
    pairs, size, noise = case['n_pairs'], case['dim'], case['noise']
    random = np.random.RandomState(case['seed'])
    people = random.standard_normal((2 * pairs, size))
    issame = np.arange(pairs) // (pairs // 20) % 2 == 0
    first, second = people[0::2], people[1::2].copy()
    second[issame] = first[issame]
    plain = np.empty((2 * pairs, size))
    plain[0::2] = first + noise * random.standard_normal((pairs, size))
    plain[1::2] = second + noise * random.standard_normal((pairs, size))
    flipped = plain + 0.3 * noise * random.standard_normal((2 * pairs, size))
    scale = case['scale']
    return (scale * plain).astype(np.float32), (scale * flipped).astype(np.float32), issame


def random_pairs(rng, pairs=100, size=8, noise=0.7):
    """Unit-length (2P, D) embeddings of noisy pairs, every other one the same person."""
    rows = rng.standard_normal((2 * pairs, size))
    issame = np.arange(pairs) % 2 == 0
    rows[1::2][issame] = rows[0::2][issame] + noise * rng.standard_normal((issame.sum(), size))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), issame


def numbers(result):
    return [result.accuracy, result.accuracy_std, result.val, result.val_std, result.far]


@pytest.mark.parametrize('case', CASES, ids=lambda case: f'seed{case["seed"]}')
def test_golden_cases(case):
    plain, flipped, issame = golden_case(case)
    assert issame.sum() == case['n_same']
    embeddings, xnorm = add_flips(plain, flipped)
    result = evaluate(embeddings, issame)

    assert xnorm == pytest.approx(case['xnorm'], abs=1e-6)
    np.testing.assert_allclose(embeddings[0, :4], case['embedding_head'], atol=1e-6)
    np.testing.assert_allclose(squared_distances(embeddings)[:4], case['dist_head'], atol=1e-6)
    expected = [case[key] for key in ('acc', 'std', 'val', 'val_std', 'far')]
    np.testing.assert_allclose(numbers(result), expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.fold_accuracies, case['accuracy_per_fold'], atol=1e-6)
    np.testing.assert_allclose(result.fold_thresholds, case['best_threshold_per_fold'], atol=1e-6)
    assert result.threshold == pytest.approx(np.mean(case['best_threshold_per_fold']), abs=1e-6)
    for index, tpr, fpr in case['tpr_at']:
        assert result.tpr[index] == pytest.approx(tpr, abs=1e-6)
        assert result.fpr[index] == pytest.approx(fpr, abs=1e-6)


@pytest.mark.parametrize('number', [0, 1])
def test_golden_arrays(number):
    stored = np.load(DATA / f'verif_case{number}.npz')
    embeddings, xnorm = add_flips(stored['emb'], stored['emb_flip'])
    result = evaluate(embeddings, stored['issame'])
    assert xnorm == pytest.approx(float(stored['xnorm']), abs=1e-6)
    np.testing.assert_allclose(result.fold_accuracies, stored['accuracy'], atol=1e-6)
    expected = [stored[key] for key in ('val', 'val_std', 'far')]
    np.testing.assert_allclose(numbers(result)[2:], expected, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.tpr, stored['tpr'], atol=1e-6)
    np.testing.assert_allclose(result.fpr, stored['fpr'], atol=1e-6)


def test_lfw_size_takes_well_under_a_second(rng):
    embeddings, issame = random_pairs(rng, pairs=6000, size=512)
    started = time.process_time()  # a busy machine does not stretch it
    evaluate(embeddings, issame)
    assert time.process_time() - started < 1  # measured: 0.05 s on one core


def test_rotation_changes_nothing(rng):
    embeddings, issame = random_pairs(rng)
    rotation, _ = np.linalg.qr(rng.standard_normal((8, 8)))
    before, after = evaluate(embeddings, issame), evaluate(embeddings @ rotation, issame)
    assert before.accuracy < 1  # a case that is too easy would prove nothing
    np.testing.assert_allclose(numbers(after), numbers(before), atol=1e-12)
    np.testing.assert_allclose(after.tpr, before.tpr, atol=1e-12)


def test_swapping_the_images_of_each_pair_changes_nothing(rng):
    embeddings, issame = random_pairs(rng)
    swapped = embeddings.reshape(-1, 2, 8)[:, ::-1].reshape(-1, 8)
    assert numbers(evaluate(swapped, issame)) == numbers(evaluate(embeddings, issame))


def test_perfect_separation(rng):
    issame = np.arange(40) % 2 == 0
    angle = np.where(issame, 0, rng.uniform(1, 3, 40))
    embeddings = np.zeros((80, 2))
    embeddings[0::2, 0] = 1
    embeddings[1::2] = np.stack((np.cos(angle), np.sin(angle)), axis=1)
    result = evaluate(embeddings, issame)
    assert (result.accuracy, result.accuracy_std) == (1.0, 0.0)
    assert (result.val, result.val_std) == (1.0, 0.0)
    # the nearest different pair alone is more than 1 in 1000 of so few
    assert result.far <= 1 / 20


def test_folds_of_one_kind_are_reported(rng, caplog, monkeypatch):
    """Same pairs first: each half is one fold, so its kind is known to one fold only."""
    monkeypatch.setattr(logging.getLogger('vargfacenet'), 'propagate', True)
    embeddings, issame = random_pairs(rng, pairs=20)
    order = np.argsort(~issame, kind='stable')
    embeddings = embeddings.reshape(20, 2, -1)[order].reshape(40, -1)
    with caplog.at_level(logging.WARNING):
        result = evaluate(embeddings, issame[order], folds=2)
    assert '2 of 2 folds hold only same or only different pairs' in caplog.text
    assert np.isfinite(numbers(result)).all()


def broken(embeddings, issame):
    """What is wrong -> (embeddings, issame, folds)."""
    nan, zero, scaled = embeddings.copy(), embeddings.copy(), embeddings.copy()
    nan[7, 2] = np.nan
    zero[12] = 0
    scaled[3] *= 2
    return {
        '39 embeddings do not form pairs': (embeddings[:39], issame[:20], 10),
        '40 embeddings for 19 pairs; expected 38': (embeddings, issame[:19], 10),
        'row 7 (pair 3) is not finite': (nan, issame, 10),
        'row 12 (pair 6) is zero': (zero, issame, 10),
        'row 3 (pair 1) is not of unit length': (scaled, issame, 10),
        '20 pairs cannot be split into 21 folds': (embeddings, issame, 21),
        '1 folds': (embeddings, issame, 1),
        'all 20 pairs are same pairs': (embeddings, np.ones(20, bool), 10),
        'all 20 pairs are different pairs': (embeddings, np.zeros(20, bool), 10),
        'expected booleans of shape (P,)': (embeddings, np.arange(20), 10),
        'expected (2P, D)': (embeddings[0], issame, 10),
    }


@pytest.mark.parametrize('message', broken(np.ones((40, 4)), np.ones(20, bool)))
def test_bad_input_is_named(rng, message):
    embeddings, issame, folds = broken(*random_pairs(rng, pairs=20))[message]
    with pytest.raises(InputError) as error:
        evaluate(embeddings, issame, folds)
    assert message in str(error.value)


class MeanColour:
    """A real, tiny embedder: mean colours of an image's left and right half."""

    calls = 0

    def embed(self, images, progress=None):
        self.calls += 1
        images = images.astype(np.float32)
        halves = [images[:, :, :56].mean(axis=(1, 2)), images[:, :, 56:].mean(axis=(1, 2))]
        return np.concatenate(halves, axis=1)


def test_verify_adds_mirror_images(rng):
    images = rng.randint(0, 256, (40, 112, 112, 3)).astype(np.uint8)
    images[:, :, :56] //= 2  # left and right differ
    issame = np.arange(20) % 3 == 0
    result, xnorm = verify(MeanColour(), images, issame)
    # by hand: a mirror image swaps the halves
    left = images[:, :, :56].mean(axis=(1, 2))
    right = images[:, :, 56:].mean(axis=(1, 2))
    total = np.concatenate((left + right, right + left), axis=1)
    expected = evaluate(total / np.linalg.norm(total, axis=1, keepdims=True), issame)
    assert numbers(result) == pytest.approx(numbers(expected))
    norm = np.sqrt((left**2).sum(axis=1) + (right**2).sum(axis=1))
    assert xnorm == pytest.approx(norm.mean(), rel=1e-5)


def test_verify_checks_pairs_before_embedding():
    embedder = MeanColour()
    with pytest.raises(InputError, match='all 20 pairs are same'):
        verify(embedder, np.zeros((40, 112, 112, 3), np.uint8), np.ones(20, bool))
    assert embedder.calls == 0


def test_verify_names_the_image_without_direction():
    images = np.full((40, 112, 112, 3), 9, np.uint8)
    images[5] = 0
    with pytest.raises(InputError, match=r'row 5 \(pair 2\) is zero'):
        verify(MeanColour(), images, np.arange(20) % 2 == 0)
