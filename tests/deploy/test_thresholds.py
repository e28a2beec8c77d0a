"""Thresholds from all pairs: against loops by the definition, and laws that they must keep."""

import json

import cv2
import numpy as np
import pytest
from deploy_models import export_folder, portrait
from pictures import encoded, scene
from vargfacenet.common.data.image import encode_jpeg
from vargfacenet.common.data.pair_sets import write_pairs
from vargfacenet.common.errors import InputError
from vargfacenet.deploy.pair_people import _joined, pair_people
from vargfacenet.deploy.quantize import calibration_images
from vargfacenet.deploy.thresholds import (
    FARS,
    _spread,
    load_people,
    measure_pair_set,
    measure_people,
    pair_cosines,
)
from vargfacenet.eval.cross_pairs import RatesByPeople, cross_pairs, threshold_intervals


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def people_rows(rng, people, pictures, size=64, spread=0.5):
    """Rows of `people` with `pictures` each, around a direction of their own, and their labels."""
    centres = np.repeat(unit(rng.normal(size=(people, size))), pictures, axis=0)
    rows = centres + spread * unit(rng.normal(size=centres.shape))
    return unit(rows), np.repeat(np.arange(people), pictures)


def by_loop(rows, labels):
    """Impostor and genuine cosines in float64, by the definition."""
    different, same = [], []
    for i in range(len(rows)):
        for j in range(i):
            (same if labels[i] == labels[j] else different).append(float(rows[i] @ rows[j]))
    return np.sort(different)[::-1], np.sort(same)


def test_every_pair_counts_once(rng):
    rows, labels = people_rows(rng, 37, 3)
    labels = labels[np.argsort(rng.rand(len(labels)))]
    different, same = by_loop(rows, labels)
    pairs = cross_pairs(rows, [f'p{label}' for label in labels], 0.3)
    assert pairs.impostor_pairs == len(different) and pairs.people == 37
    np.testing.assert_allclose(pairs.scores, different[: len(pairs.scores)], atol=1e-6)
    np.testing.assert_allclose(pairs.genuine, same, atol=1e-6)
    assert len(pairs.scores) == int(0.3 * len(different)) + 1
    first, second = pairs.pictures.T
    again = np.einsum('nd,nd->n', rows[first], rows[second])
    np.testing.assert_allclose(again, pairs.scores, atol=1e-6)
    assert (labels[first] != labels[second]).all()


def test_blocks_do_not_matter(rng, monkeypatch):
    rows, labels = people_rows(rng, 60, 2)
    whole = cross_pairs(rows, labels, 0.02)
    monkeypatch.setattr('vargfacenet.eval.cross_pairs._BLOCK', 7)
    parts = cross_pairs(rows, labels, 0.02)
    np.testing.assert_allclose(parts.scores, whole.scores, atol=1e-6)
    np.testing.assert_allclose(parts.genuine, whole.genuine, atol=1e-6)


def test_a_threshold_accepts_no_more_than_its_share(rng):
    rows, labels = people_rows(rng, 120, 2)
    measured = measure_people(rows, labels)
    different, _ = by_loop(rows.astype(np.float32).astype(np.float64), labels)
    for far, threshold in measured.thresholds().items():
        assert np.sum(different > threshold + 1e-6) <= far * len(different)
        assert np.sum(different > threshold - 1e-6) >= np.floor(far * len(different))
    assert measured.threshold(0.01) == measured.thresholds()[0.01]


def test_thresholds_say_only_what_the_pairs_can_tell(rng):
    rows, labels = people_rows(rng, 30, 2)  # 1,740 impostor pairs
    measured = measure_people(rows, labels)
    assert list(measured.thresholds()) == [0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001]
    with pytest.raises(InputError, match=r'1,740 pairs .* cannot tell a FAR of 0\.0005'):
        measured.threshold(0.0005)
    for far in (0, 1, -1):
        with pytest.raises(InputError, match='between 0 and 1'):
            measured.threshold(far)
    assert FARS[0] == 0.1 and FARS[-1] == 1e-10 and 2e-5 in FARS and len(FARS) == 28


def test_intervals_are_as_wide_as_other_people_would_make_them(rng):
    """95 % intervals hold the threshold of endless people in about 95 % of sets."""
    far, hits, widths = 0.01, 0, []
    size = 16
    # cosines of random directions: t with P(cos > t) = far, from the beta law of t^2
    from scipy.stats import beta

    truth = float(np.sqrt(beta.isf(2 * far, 0.5, (size - 1) / 2)))
    for _ in range(60):
        rows = unit(rng.normal(size=(80, size)))
        pairs = cross_pairs(rows, np.arange(80), 0.1)
        ((low, high),) = threshold_intervals(pairs, [far], 200)
        hits += low <= truth <= high
        widths.append(high - low)
    assert hits >= 50 and 0.01 < np.mean(widths) < 0.2


def test_thinned_pairs_give_the_same_interval(rng, monkeypatch):
    rows, labels = people_rows(rng, 300, 1)
    pairs = cross_pairs(rows, labels, 0.15)
    whole = threshold_intervals(pairs, [0.1, 0.01], 200)
    monkeypatch.setattr('vargfacenet.eval.cross_pairs._CARRIERS', 2000)
    np.testing.assert_allclose(threshold_intervals(pairs, [0.1, 0.01], 200), whole, atol=0.004)


def test_true_accepts_of_drawn_people_equal_a_loop_over_their_pairs(rng):
    rows, labels = people_rows(rng, 40, 3, spread=0.9)
    rows = rows.astype(np.float32)
    rates = RatesByPeople(cross_pairs(rows, labels, 1.0), [0.05, 0.01])
    for seed in range(5):
        drawn = np.random.RandomState(seed).multinomial(40, np.full(40, 1 / 40))
        same, different = [], []
        for i in range(len(rows)):
            for j in range(i):
                times = drawn[labels[i]]
                if labels[i] == labels[j]:
                    same += [rows[i] @ rows[j]] * times
                else:
                    different += [rows[i] @ rows[j]] * (times * drawn[labels[j]])
        different = np.sort(different)[::-1]
        for far, got in zip((0.05, 0.01), rates.true_accepts(drawn)):
            # as many as may be accepted; of equal scores all or none
            threshold = different[int(far * len(different) + 1e-9)]
            assert got == pytest.approx(np.mean(np.array(same) > threshold + 1e-7), abs=1e-9)


def test_drawn_impostors_are_compared_and_no_others(rng):
    rows, labels = people_rows(rng, 30, 2)
    drawn = np.array([(i, j) for i in range(60) for j in range(i) if labels[i] != labels[j]])
    some = drawn[rng.permutation(len(drawn))[:500]]
    pairs = cross_pairs(rows, labels, 0.1, some)
    expected = np.sort(np.einsum('pd,pd->p', rows[some[:, 0]], rows[some[:, 1]]))[::-1]
    assert pairs.impostor_pairs == 500 and len(pairs.scores) == 51
    np.testing.assert_allclose(pairs.scores, expected[:51], atol=1e-6)
    assert len(pairs.genuine) == 30 and pairs.part == pytest.approx(500 / len(drawn))
    everyone = np.ones(30)
    assert RatesByPeople(pairs, [0.05]).thresholds(everyone)[0] == pairs.scores[25]


@pytest.fixture
def pair_set(rng):
    """Forty people of four pictures; pairs name two of each, and two others as different."""
    rows, labels = people_rows(rng, 40, 4, size=256, spread=0.4)
    images = rng.randint(0, 255, (160, 4, 4, 3)).astype(np.uint8)
    by_person = np.arange(160).reshape(40, 4)
    same = by_person[:, :2]
    different = np.stack([by_person[:, 2], np.roll(by_person[:, 3], 1)], axis=1)
    order = np.concatenate([same, different]).reshape(-1)
    issame = np.arange(80) < 40
    return images[order], issame, rows[order], labels[order]


def test_people_of_a_pair_set_are_found_by_marks_bytes_and_likeness(pair_set):
    images, issame, rows, labels = pair_set
    people = pair_people(images, issame, rows)
    # everybody's marked pair and their two other pictures are one person, and nobody else's
    assert len(np.unique(people.identities)) == 40 and people.joined == 80
    assert len(set(zip(people.identities.tolist(), labels[people.pictures].tolist()))) == 40
    twice = np.concatenate([images, images[:2]])
    again = pair_people(twice, np.append(issame, True), np.concatenate([rows, rows[:2]]))
    assert len(again.pictures) == 160  # equal bytes are one picture


def test_a_weak_model_joins_nobody(pair_set, rng):
    images, issame, rows, _ = pair_set
    weak = unit(rows + 2 * unit(rng.normal(size=rows.shape)))  # likeness drowned
    people = pair_people(images, issame, weak)
    assert people.joined == 0 and len(np.unique(people.identities)) == 120
    # what no mark tells then counts as of different people
    measured = measure_pair_set(images, issame, weak)
    assert measured.pairs.impostor_pairs == 160 * 159 // 2 - 40
    assert len(measured.pairs.genuine) == 40


def test_a_mark_counts_more_than_likeness():
    """Through others as well: of 0-1, 1-2 and 2-3 the second would join whom a mark tells apart."""
    alike = np.array([[0, 1], [1, 2], [2, 3]])
    together = _joined(alike, np.array([[0, 3]]))
    assert together[0] == together[1] == together[2] != together[3]
    together = _joined(alike, np.array([[2, 0]]))
    assert together[0] == together[1] != together[2] == together[3]
    assert len(set(_joined(alike, np.empty((0, 2), np.int64)).tolist())) == 1


def test_hidden_pairs_of_one_person_do_not_raise_thresholds(pair_set):
    images, issame, rows, labels = pair_set
    truth = measure_people(rows, labels).thresholds()
    found = measure_pair_set(images, issame, rows)
    for far in (0.01, 0.001):
        assert found.thresholds()[far] == pytest.approx(truth[far], abs=1e-6)
    assert found.level is not None and max(found.thresholds().values()) < found.level


def test_pair_cosines_by_the_definition():
    rows = np.array([[0.6, 0.8], [0.8, 0.6], [1, 0], [0, -1]])
    assert pair_cosines(rows) == pytest.approx([0.96, 0])


def test_of_many_pictures_everybody_gives_some(rng):
    labels = np.repeat(np.arange(10), [50, 1, 1, 1, 1, 1, 1, 1, 1, 2])
    chosen = _spread(labels[rng.permutation(60)], 12)
    assert len(chosen) == len(set(chosen)) == 12
    labels = labels[np.argsort(rng.rand(60))]
    counts = np.bincount(labels[_spread(labels, 12)], minlength=10)
    assert counts.min() == 1 and counts.max() == 2
    assert sorted(_spread(labels, 99)) == list(range(60))


@pytest.fixture
def crops(tmp_path):
    """Five drawn people with three crops each, in folders."""
    for person in range(5):
        folder = tmp_path / 'crops' / f'person{person}'
        folder.mkdir(parents=True)
        for picture in range(3):
            image = portrait(person, picture)[..., ::-1]
            (folder / f'{picture}.png').write_bytes(cv2.imencode('.png', image)[1].tobytes())
    return tmp_path / 'crops'


def test_export_measures_a_folder_of_people(crops, run_command, tmp_path):
    out = export_folder(tmp_path, '--people', crops)
    (row,) = json.loads((out / 'export.json').read_text())['verification']
    assert (row['file'], row['pictures'], row['people']) == ('model.onnx', 15, 5)
    assert (row['impostor_pairs'], row['genuine_pairs']) == (90, 15)
    assert list(row['thresholds']) == list(row['intervals']) == ['0.1', '0.05', '0.02']
    for far, (low, high) in row['intervals'].items():
        assert low <= high and low - 1e-3 <= row['thresholds'][far]
    assert row['tail'] is None and row['norm'] > 0  # 90 pairs have no tail
    pictures = [crops / 'person0' / '0.png'] * 2
    _, result, _ = run_command('compare', *pictures, '--model', out)
    assert result['far'] == 0.02 and result['threshold'] == row['thresholds']['0.02']


def test_a_folder_without_people(crops):
    with pytest.raises(InputError, match='at least two people'):
        load_people(crops / 'person0')
    big = np.zeros((200, 100, 3), np.uint8)
    (crops / 'person0' / '9.png').write_bytes(cv2.imencode('.png', big)[1].tobytes())
    with pytest.raises(InputError, match=r'9\.png.*aligned crop'):
        load_people(crops)


def test_compare_measures_pairs_at_a_rate_that_they_can_tell(crops, run_command, tmp_path):
    model = export_folder(tmp_path)
    faces = [encode_jpeg(portrait(person)) for person in range(40)]
    write_pairs(tmp_path / 'pairs.bin', faces, [False] * 19 + [True])
    first = crops / 'person0' / '0.png'
    common = ('compare', first, first, '--model', model, '--pairs', tmp_path / 'pairs.bin')
    _, result, _ = run_command(*common)
    assert result['far'] == 0.002  # of 779 pairs
    code, _, errors = run_command(*common, '--far', 1e-6)
    assert code == 2 and '779 pairs' in errors


def test_what_calibrates_and_what_thresholds_come_from_is_looked_at_too(tmp_path, caplog):
    """Photographs of 250x250 in folders were cut to their middle without a word."""
    for person in range(2):
        for number in range(4):
            path = tmp_path / 'photos' / str(person) / f'{number}.jpg'
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(scene(person + 2 * number, size=250)))
    for look in (lambda folder: calibration_images(folder, 6), load_people):
        caplog.clear()
        look(tmp_path / 'photos')
        assert 'are no aligned crops but photographs' in caplog.text
