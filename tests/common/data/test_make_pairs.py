"""make-pairs: what is in the set, against the folder; draws, against the definition."""

from collections import Counter

import numpy as np
import pytest
from pictures import write_folder
from vargfacenet.common.data.people_sets import (
    PeopleSet,
    draw_impostors,
    impostor_pairs,
    read_people_set,
    write_people_set,
)
from vargfacenet.common.errors import InputError


@pytest.fixture
def folder(tmp_path, rng):
    return write_folder(tmp_path / 'faces', rng, {'abe': 4, 'bea': 2, 'cy': 1, 'dee': 3})


def test_every_picture_is_there_once_with_its_person(folder, tmp_path, run_command):
    code, result, _ = run_command('make-pairs', folder, tmp_path / 'new' / 'all.npz')
    assert code == 0
    assert (result['people'], result['pictures'], result['drawn']) == (4, 10, False)
    assert result['genuine_pairs'] == 6 + 1 + 3 and result['impostor_pairs'] == 45 - 10
    got = read_people_set(tmp_path / 'new' / 'all.npz')
    files = sorted(folder.rglob('*.jpg'))
    assert got.pictures == [path.read_bytes() for path in files]
    assert [got.names[person] for person in got.people] == [path.parent.name for path in files]
    assert got.impostors is None and got.genuine_pairs == 10


def test_people_and_numbers_of_pictures_can_be_limited(folder, tmp_path, run_command):
    (tmp_path / 'some.txt').write_text('abe 4\ndee 3\n')
    words = ['--people', tmp_path / 'some.txt', '--max-images', 2]
    code, result, _ = run_command('make-pairs', folder, tmp_path / 'a.npz', *words)
    assert (code, result['people'], result['pictures'], result['genuine_pairs']) == (0, 2, 4, 2)
    got = read_people_set(tmp_path / 'a.npz')
    assert got.names == ['abe', 'dee']
    own = {path.read_bytes() for path in (folder / 'abe').iterdir()}
    assert set(got.pictures[:2]) <= own and not own & set(got.pictures[2:])
    run_command('make-pairs', folder, tmp_path / 'b.npz', *words)
    assert (tmp_path / 'a.npz').read_bytes() == (tmp_path / 'b.npz').read_bytes()
    (tmp_path / 'some.txt').write_text('abe\nzoe\n')
    code, _, err = run_command('make-pairs', folder, tmp_path / 'c.npz', *words)
    assert code == 2 and '1 names have no folder' in err


def test_one_person_is_no_set(folder, tmp_path, run_command):
    (tmp_path / 'some.txt').write_text('abe\n')
    code, _, err = run_command(
        'make-pairs', folder, tmp_path / 'a.npz', '--people', tmp_path / 'some.txt'
    )
    assert code == 2 and 'no pairs of both kinds' in err and not (tmp_path / 'a.npz').exists()
    code, _, err = run_command('make-pairs', folder, tmp_path / 'a.bin')
    assert code == 2 and '.npz' in err


def test_many_impostors_are_drawn(folder, tmp_path, run_command):
    words = ['--impostors', 9, '--seed', 3]
    _, result, _ = run_command('make-pairs', folder, tmp_path / 'a.npz', *words)
    assert (result['impostor_pairs'], result['drawn'], result['genuine_pairs']) == (9, True, 10)
    got = read_people_set(tmp_path / 'a.npz')
    first, second = got.impostors.T
    assert (got.people[first] != got.people[second]).all() and (first < second).all()
    assert len(set(map(tuple, got.impostors.tolist()))) == 9
    _, result, _ = run_command('make-pairs', folder, tmp_path / 'b.npz', '--impostors', 18)
    assert not result['drawn']  # more than half of them: all are compared


def test_every_pair_is_as_likely():
    people = np.array([0, 0, 0, 1, 1, 2])
    pairs = [(i, j) for i in range(6) for j in range(i + 1, 6) if people[i] != people[j]]
    assert impostor_pairs(people) == len(pairs) == 11
    counts = Counter()
    for seed in range(3000):
        counts.update(map(tuple, draw_impostors(people, 4, seed).tolist()))
    expected = 3000 * 4 / 11
    assert set(counts) == set(pairs)
    # a binomial count is within 4.5 deviations but for one draw in 10,000 of the 11
    deviation = np.sqrt(3000 * 4 / 11 * (1 - 4 / 11))
    assert all(abs(count - expected) < 4.5 * deviation for count in counts.values())


def test_damage_is_named(folder, tmp_path, run_command):
    path = tmp_path / 'a.npz'
    write_people_set(path, PeopleSet([b'abc', b'de'], np.array([0, 1]), ['x', 'y'], None))
    assert read_people_set(path).pictures == [b'abc', b'de']
    whole = dict(np.load(path))
    for name, value in (
        ('ends', np.array([3, 6])),
        ('ends', np.array([3, 3])),
        ('people', np.array([0, 2])),
        ('people', np.array([0.0, 1.0])),
        ('names', np.array(['x'])),
        ('impostors', np.array([[0, 2]])),
        ('impostors', np.array([[0, 0]])),
        ('more', np.array([1])),
    ):
        np.savez(path, **{**whole, name: value})
        with pytest.raises(InputError, match=r'a\.npz'):
            read_people_set(path)
