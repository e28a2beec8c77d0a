"""The best rows of a gallery, packed or not, are those of products in float64."""

import numpy as np
import pytest
from vargfacenet.deploy import gallery_search
from vargfacenet.deploy.gallery import Gallery
from vargfacenet.deploy.gallery_search import Rows, best_of_each
from vargfacenet.deploy.sealing import Key
from vargfacenet.eval.search.screen import forms

# a result must not depend on who compares which rows
pytestmark = pytest.mark.usefixtures('two_threads')

SIZE = 48


@pytest.fixture
def small(monkeypatch):
    """Sizes of which a test can have more: packed from 200 rows on, in blocks of 512, at once."""
    if not forms('int8'):
        pytest.skip('no int8 kernel on this CPU')
    sizes = {'PACKED_FROM': 200, 'PACKED_AFTER': 0, '_SAMPLE': 100, 'BLOCK': 512}
    for name, value in sizes.items():
        monkeypatch.setattr(gallery_search, name, value)


def people_rows(rng, count, people):
    """(matrix, codes): many rows of a few people, some twice, some of nobody or not searched, and
    those of no use: zeros and what is no number."""
    rows = rng.standard_normal((people, SIZE))[rng.randint(people, size=count)]
    rows = rows + rng.choice([0.0, 0.3, 2.0], (count, 1)) * rng.standard_normal((count, SIZE))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    rows[count // 2 : count // 2 + 40] = rows[:40]
    codes = rng.randint(people, size=count)
    codes[::7] = -1
    rows[::14], rows[7::14] = np.nan, 0
    return rows, codes


def by_loop(rows, codes, probe, top):
    """[(cosine, person)] of the best face of each person, best first."""
    best = {}
    for row, code in zip(rows.astype(np.float64), codes.tolist()):
        if code >= 0:
            best[code] = max(best.get(code, -2.0), float(row @ probe))
    return sorted(((cosine, code) for code, cosine in best.items()), reverse=True)[:top]


@pytest.mark.parametrize('top', [1, 5, 30, 1000])
def test_the_best_face_of_every_one_of_the_best_people(small, top, rng):
    matrix, codes = people_rows(rng, 1500, 60)
    rows = Rows(matrix, np.flatnonzero(codes >= 0), codes)
    for probe in (matrix[1], matrix[702], -matrix[3], rng.standard_normal(SIZE)):
        probe = (probe / np.linalg.norm(probe)).astype(np.float32)
        found = rows.best(probe, top)
        expected = by_loop(matrix, codes, probe.astype(np.float64), top)
        assert len({codes[row] for row, _ in found}) == len(found) == len(expected)
        np.testing.assert_allclose(
            [cosine for _, cosine in found], [cosine for cosine, _ in expected], atol=1e-6
        )
        for row, cosine in found:
            assert matrix[row] @ probe == pytest.approx(cosine, abs=1e-6)
    assert (rows._packed is not None) == (top < 60)  # as soon as that can help


def test_rows_are_packed_for_those_who_search_again_and_again(small, monkeypatch, rng):
    """What is found is the same before and after; fewer rows are never packed."""
    monkeypatch.setattr(gallery_search, 'PACKED_AFTER', 3)
    matrix, codes = people_rows(rng, 1500, 60)
    searched = np.flatnonzero(codes >= 0)
    rows, found = Rows(matrix, searched, codes), []
    for number in range(5):
        assert (rows._packed is not None) == (number > 3)
        found.append(rows.best(matrix[1], 5))
    assert rows._packed is not None
    cosines = [[cosine for _, cosine in each] for each in found]
    np.testing.assert_allclose(cosines, [cosines[0]] * 5, atol=1e-6)
    few = Rows(matrix, searched[:199], codes)
    for _ in range(5):
        few.best(matrix[1], 5)
    assert few._packed is None


def test_more_than_can_be_found_is_multiplied(small, monkeypatch, rng):
    monkeypatch.setattr(gallery_search, '_FOUND', 10)
    matrix = np.repeat(people_rows(rng, 90, 2)[0][1:2], 600, axis=0)
    rows = Rows(matrix, np.arange(600), np.arange(600) // 300)
    assert rows.best(matrix[0], 1)[0][1] == pytest.approx(1, abs=1e-6)


def test_nobody_at_all():
    rows, nobody = np.empty((0, SIZE), np.float32), np.empty(0, np.int64)
    assert Rows(rows, nobody, nobody).best(np.ones(SIZE, np.float32), 3) == []
    assert len(best_of_each(np.empty(0, np.float32), nobody, 3)) == 0


@pytest.mark.parametrize('key', [None, Key('file', bytes(range(32)))])
def test_a_large_gallery_sees_every_change_and_forgets_whom_it_removes(small, key, tmp_path, rng):
    rows = rng.standard_normal((400, SIZE))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    gallery = Gallery(tmp_path / 'g', SIZE, 'a' * 64, key=key)
    names = [f'p{number}' for number in range(400)]
    gallery.enrol(names[:399], rows[:399])
    assert gallery.identify(rows[7], 2)[0].identity == 'p7'
    assert gallery._rows._packed is not None
    gallery.enrol(names[399:], rows[399:])
    assert gallery.identify(rows[399], 2)[0].identity == 'p399'
    gallery.remove('p7')
    assert gallery._rows._packed is None  # what was packed of the face is gone as well
    assert gallery.identify(rows[7], 5)[0].cosine < 0.9
    gallery.close()
