"""False-identification rates of galleries: laws with known answers, and LFW where it is there."""

import tarfile

import numpy as np
import pytest
from conftest import ROOT
from scipy.stats import beta
from vargfacenet.common.errors import InputError
from vargfacenet.deploy.tail import Tail, far_for, fit_tail, fpir_of, gallery_decision
from vargfacenet.deploy.thresholds import measure_people
from vargfacenet.eval.cross_pairs import cross_pairs

SHARED = ROOT.parent / 'shared' / 'data'
SIZES = (10, 100, 1000)
WITHIN = 1.5


def directions(rng, count, size):
    rows = rng.normal(size=(count, size))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_rates_of_one_comparison_and_of_many():
    assert fpir_of(0.001, 1000) == pytest.approx(1 - 0.999**1000)
    assert far_for(fpir_of(0.02, 7), 7) == pytest.approx(0.02)
    assert far_for(0.01, 1_000_000) == pytest.approx(1.00503e-8, rel=1e-5)


def test_the_tail_of_a_known_law(rng):
    """Cosines of random directions: P(cos > t) follows from the beta law of t^2."""
    size = 32
    tail = fit_tail(cross_pairs(directions(rng, 2000, size), np.arange(2000), 0.02))
    # two million pairs: of the last rate two of them are above, so it is extrapolated
    for far, factor in ((1e-3, 1.1), (1e-4, 1.3), (1e-5, WITHIN), (1e-6, 3)):
        measured = beta.sf(tail.threshold(far) ** 2, 0.5, (size - 1) / 2) / 2
        assert far / factor < measured < factor * far
        assert tail.far(tail.threshold(far)) == pytest.approx(far, rel=1e-6)
    assert tail.shape < 0  # a cosine ends at 1


def test_people_under_two_names_do_not_bend_the_tail(rng):
    size = 32
    rows = directions(rng, 2000, size)
    rows[:4] = rows[4:8] + 0.05 * directions(rng, 4, size)  # four pairs of one person
    rows[:4] /= np.linalg.norm(rows[:4], axis=1, keepdims=True)
    tail = fit_tail(cross_pairs(rows, np.arange(2000), 0.02))
    measured = beta.sf(tail.threshold(1e-5) ** 2, 0.5, (size - 1) / 2) / 2
    assert 1e-5 / 1.5 < measured < 1.5e-5


@pytest.mark.parametrize('faces', SIZES)
def test_strangers_are_named_as_often_as_asked(faces, rng):
    """Synthetic people; the tail tells of galleries what its own set cannot count."""
    size = 32
    row = measure_people(directions(rng, 1500, size), np.arange(1500)).as_dict()
    gallery, strangers = directions(rng, faces, size), directions(rng, 20_000, size)
    highest = np.concatenate([(part @ gallery.T).max(axis=1) for part in np.split(strangers, 20)])
    for fpir in (0.1, 0.02):
        decision = gallery_decision(row['thresholds'], Tail.of(row['tail']), faces, fpir)
        named = np.mean(highest > decision.threshold)
        assert fpir / WITHIN < named < WITHIN * fpir
        assert (decision.fpir, decision.faces) == (fpir, faces)


def test_without_a_tail_the_strictest_threshold_counts_and_says_its_rate():
    known = {'0.1': 0.2, '0.01': 0.4}
    decision = gallery_decision(known, None, 50, 0.01)
    assert decision.threshold == 0.4 and decision.far == 0.01
    assert decision.fpir == pytest.approx(1 - 0.99**50)
    between = gallery_decision(known, None, 1, np.sqrt(0.001))  # half way, over the logarithm
    assert between.threshold == pytest.approx(0.3) and between.fpir == np.sqrt(0.001)
    assert gallery_decision(known, None, 1, 0.5).threshold == 0.2


def test_small_sets_have_no_tail_and_damaged_ones_are_refused(rng):
    assert fit_tail(cross_pairs(directions(rng, 60, 8), np.arange(60), 0.15)) is None
    assert fit_tail(cross_pairs(np.ones((200, 4)) / 2, np.arange(200), 0.15)) is None
    good = {'start': 0.3, 'share': 0.01, 'shape': -0.1, 'scale': 0.03}
    assert Tail.of(None) is None and Tail.of(good) == Tail(**good)
    damaged = ({'scale': 0}, {'shape': float('nan')}, {'share': 2}, {'start': None})
    for wrong in ([], 'x', {}, *({**good, **change} for change in damaged)):
        with pytest.raises(InputError, match='tail'):
            Tail.of(wrong)


@pytest.fixture(scope='module')
def lfw(tmp_path_factory):
    """Embeddings of all of LFW by the published MobileFaceNet, and the names."""
    from vargfacenet import open_model
    from vargfacenet.common.data.image import decode_rgb

    archive, weights = SHARED / 'lfw_112.tar', SHARED / 'y1_ms1m' / 'model-0000.params'
    if not archive.is_file() or not weights.is_file():
        pytest.skip('needs LFW and the published MobileFaceNet y1')
    model = open_model(f'{weights.parent}/model,0')
    names, rows, crops = [], [], []
    with tarfile.open(archive) as tar:
        for member in tar:
            if not member.isfile():
                continue
            names.append(member.name.split('/')[-2])
            crops.append(decode_rgb(tar.extractfile(member).read()))
            if len(crops) == 256:
                rows.append(model.embed(np.stack(crops)))
                crops = []
    rows.append(model.embed(np.stack(crops)))
    rows = np.concatenate(rows)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True), np.array(names)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_strangers_of_lfw_are_named_as_often_as_asked(lfw, rng):
    """Measured on DevTest's 963 people, tried on the other 4,786, who are not among them."""
    rows, names = lfw
    listed = (SHARED / 'lfw' / 'devtest_identities.txt').read_text().split('\n')
    measuring = np.isin(names, listed)
    row = measure_people(rows[measuring], names[measuring]).as_dict()
    rows, names = rows[~measuring], names[~measuring]
    order = rng.permutation(len(names))
    rows = rows[order[np.unique(names[order], return_index=True)[1]]]  # a picture of each
    for faces in SIZES:
        highest = []
        for _ in range(10):
            rows = rows[rng.permutation(len(rows))]
            highest.append((rows[faces:] @ rows[:faces].T).max(axis=1))
        for fpir in (0.1, 0.01):
            decision = gallery_decision(row['thresholds'], Tail.of(row['tail']), faces, fpir)
            named = np.mean(np.concatenate(highest) > decision.threshold)
            print(f'{faces} faces, FPIR {fpir}: {100 * named:.2f} % at {decision.threshold:.3f}')
            assert fpir / WITHIN < named < WITHIN * fpir
