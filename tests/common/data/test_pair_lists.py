import itertools
import tracemalloc
from collections import Counter
from pathlib import Path

import pytest
from vargfacenet.common.data.folders import Identity
from vargfacenet.common.data.pair_lists import _pairs_of, draw_pairs, read_pair_list
from vargfacenet.common.errors import InputError

VIEW_1 = 'abe\t1\t2\nbea\t3\t1\nabe\t1\tbea\t2\ncy\t1\tabe\t3\n'


def pair_list(tmp_path, text):
    (tmp_path / 'pairs.txt').write_text(text)
    return tmp_path / 'pairs.txt'


def test_every_fold_of_view_1_holds_both_kinds(tmp_path):
    """The list has all same pairs first; the protocol's folds are contiguous tenths."""
    same = [f'abe {number} {number + 1}' for number in range(30)]
    different = [f'abe {number} bea {number}' for number in range(30)]
    listed = read_pair_list(pair_list(tmp_path, '\n'.join(['30', *same, *different])))
    for fold in range(10):
        block = listed.pairs[6 * fold : 6 * fold + 6]
        assert [pair.same for pair in block] == 3 * [True] + 3 * [False]
    assert sorted(pair.line for pair in listed.pairs) == list(range(2, 62))


def test_names_may_hold_blanks_between_tabs(tmp_path):
    pairs = read_pair_list(pair_list(tmp_path, '1\nAl B\t1\t2\nAl B\t1\tCy D\t2\n')).pairs
    assert pairs[0][:3] == (2, ('Al B', 1), ('Al B', 2))
    assert pairs[1][1:] == (('Al B', 1), ('Cy D', 2), False)


def test_marks_of_byte_order_and_line_ends_are_no_part_of_names(tmp_path):
    for content in (
        b'\xef\xbb\xbf1\r\nabe\t1\t2\r\nabe\t1\tbea\t1\r\n',
        '1\nabe 1 2\nabe 1 bea 1\n'.encode('utf-16'),
    ):
        (tmp_path / 'pairs.txt').write_bytes(content)
        pairs = read_pair_list(tmp_path / 'pairs.txt').pairs
        assert [pair[1:3] for pair in pairs] == [(('abe', 1), ('abe', 2)), (('abe', 1), ('bea', 1))]


def people(sizes):
    return [
        Identity(f'p{number}', tuple(Path(f'p{number}/{picture}') for picture in range(size)))
        for number, size in enumerate(sizes)
    ]


def test_drawn_pairs_are_balanced_over_people_and_nobody_is_in_two_folds():
    """One person with 200 pictures must not fill the set, as a draw of pictures would let it."""
    listed = draw_pairs(people([200] + [4] * 29 + [1] * 10), 200, seed=1)
    assert listed.folds == 10 and len(listed.pairs) == 200
    who = [{pair.first[0], pair.second[0]} for pair in listed.pairs]
    assert [len(names) == 1 for names in who] == [pair.same for pair in listed.pairs]
    folds = [set().union(*who[start : start + 20]) for start in range(0, 200, 20)]
    assert sum(map(len, folds)) == len(set().union(*folds))
    for start in range(0, 200, 20):
        fold = listed.pairs[start : start + 20]
        same = Counter(pair.first[0] for pair in fold if pair.same)
        assert sum(same.values()) == 10 and max(same.values()) - min(same.values()) <= 1
        of_everybody = Counter(
            name for pair in fold if not pair.same for name in (pair.first[0], pair.second[0])
        )
        assert max(of_everybody.values()) <= min(of_everybody.values()) + 3
    pictures = [frozenset((pair.first[1], pair.second[1])) for pair in listed.pairs]
    assert len(set(pictures)) == 200 and all(len(pair) == 2 for pair in pictures)


@pytest.mark.parametrize('seed', range(5))
def test_people_of_one_picture_take_no_place_from_the_others(seed):
    """Most people of LFW have one picture: they are in no pair of the same person."""
    listed = draw_pairs(people([1] * 30 + [3] * 10), 20, seed, folds=2)
    same = Counter(pair.first[0] for pair in listed.pairs if pair.same)
    assert sum(same.values()) == 10 and max(same.values()) == 1


def test_the_draw_is_a_function_of_the_seed():
    sizes = [3] * 24
    assert draw_pairs(people(sizes), 40, seed=1) == draw_pairs(people(sizes), 40, seed=1)
    assert draw_pairs(people(sizes), 40, seed=1) != draw_pairs(people(sizes), 40, seed=2)
    assert len(draw_pairs(people(sizes), 0, seed=1).pairs) == 120  # 6 same pairs in each fold


def test_what_a_draw_takes_grows_with_the_pictures_not_with_their_pairs():
    """Two million pairs of pictures for each of these people: as tuples alone they are 500 MB."""
    everybody = people([2000] * 4)
    tracemalloc.start()
    listed = draw_pairs(everybody, 400, seed=0, folds=2)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len({(pair.first, pair.second) for pair in listed.pairs}) == 400
    assert peak < 400 * 4 * 2000


@pytest.mark.parametrize('size', [1, 2, 3, 7, 40])
def test_all_pairs_of_a_person_come_once_each(size, rng):
    paths = [Path(str(number)) for number in range(size)]
    drawn = list(_pairs_of(paths, rng))
    assert sorted(drawn) == sorted(itertools.combinations(paths, 2))


def test_every_pair_of_a_person_is_as_likely_as_any_other(rng):
    """Chi-square of which pair comes first and which second, 10 x 9 outcomes."""
    paths, draws = [Path(str(number)) for number in range(5)], 9000
    drawn = Counter(tuple(itertools.islice(_pairs_of(paths, rng), 2)) for _ in range(draws))
    expected = draws / 90
    assert len(drawn) == 90
    assert sum((count - expected) ** 2 / expected for count in drawn.values()) < 137  # p = 0.001


@pytest.mark.parametrize(
    ('sizes', 'count', 'reason'),
    [
        ([3] * 9, 0, '9 people, 9 of them with two pictures or more, are too few for 10 folds'),
        ([1] * 30, 0, '30 people, 0 of them'),
        ([2] * 20, 30, 'must be a multiple of 20 and at most 40'),
        ([2] * 20, 60, 'at most 40'),
    ],
)
def test_too_few_people_for_a_set(sizes, count, reason):
    with pytest.raises(InputError, match=reason):
        draw_pairs(people(sizes), count, seed=0)


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        ('', 'line 1'),
        ('ten\n', 'line 1'),
        ('0\n', 'line 1'),
        ('1 2 3\n', 'line 1'),
        ('3\n' + VIEW_1, '4 pairs; line 1 announces 1 x 2 x 3 = 6'),
        ('2\t2\n' + VIEW_1, '4 pairs; line 1 announces 2 x 2 x 2 = 8'),
        ('2\t1\n' + VIEW_1, "line 3: 'bea.*expected NAME1 I NAME2 J"),
        ('1\nabe 1 2\nabe 1 bea x\n', "line 3: 'abe 1 bea x'"),
        ('1\nabe 1 bea 2\nabe 1 bea 2\n', "line 2: 'abe 1 bea 2'; expected NAME I J"),
    ],
)
def test_malformed_lists(tmp_path, text, reason):
    with pytest.raises(InputError, match=rf'pairs\.txt.*{reason}'):
        read_pair_list(pair_list(tmp_path, text))
