import pickle

import pytest
from pictures import decoded, encoded, picture, write_folder
from vargfacenet.common.data.make_bin import read_pair_list
from vargfacenet.common.errors import InputError

VIEW_1 = 'abe\t1\t2\nbea\t3\t1\nabe\t1\tbea\t2\ncy\t1\tabe\t3\n'


@pytest.fixture
def folder(tmp_path, rng):
    return write_folder(tmp_path / 'faces', rng, {'abe': 3, 'bea': 3, 'cy': 1})


def pair_list(tmp_path, text):
    (tmp_path / 'pairs.txt').write_text(text)
    return tmp_path / 'pairs.txt'


def load(path):
    with open(path, 'rb') as handle:
        return pickle.load(handle, encoding='bytes')


def test_view_1(folder, tmp_path, run_command):
    pairs = pair_list(tmp_path, '2\n' + VIEW_1)
    code, result, _ = run_command('make-bin', folder, pairs, tmp_path / 'new' / 'x.bin')
    assert code == 0
    assert result == {
        'pairs': 4,
        'same': 2,
        'different': 2,
        'folds': 10,
        'pictures': 7,
        'kept': 7,
        'reencoded': 0,
        'bin': str(tmp_path / 'new/x.bin'),
    }
    names = ['abe_0001', 'abe_0002', 'abe_0001', 'bea_0002', 'bea_0003', 'bea_0001', 'cy_0001',
             'abe_0003']  # fmt: skip
    files = [(folder / name[:-5] / f'{name}.jpg').read_bytes() for name in names]
    assert load(tmp_path / 'new/x.bin') == (files, [True, False, True, False])


def test_every_fold_of_view_1_holds_both_kinds(tmp_path):
    """The list has all same pairs first; the protocol's folds are contiguous tenths."""
    same = [f'abe {number} {number + 1}' for number in range(30)]
    different = [f'abe {number} bea {number}' for number in range(30)]
    listed = read_pair_list(pair_list(tmp_path, '\n'.join(['30', *same, *different])))
    for fold in range(10):
        block = listed.pairs[6 * fold : 6 * fold + 6]
        assert [pair.same for pair in block] == 3 * [True] + 3 * [False]
    assert sorted(pair.line for pair in listed.pairs) == list(range(2, 62))


def test_view_2_keeps_the_order_of_the_folds(folder, tmp_path, run_command):
    text = '2\t1\nabe\t1\t2\nabe\t1\tcy\t1\nbea 1 2\nbea 1 cy 1\n'
    code, result, _ = run_command('make-bin', folder, pair_list(tmp_path, text), tmp_path / 'x.bin')
    assert (code, result['folds'], result['pairs'], result['same']) == (0, 2, 4, 2)
    assert load(tmp_path / 'x.bin')[1] == [True, False, True, False]


def test_pictures_of_another_size_are_counted_and_resized(folder, tmp_path, rng, run_command):
    (folder / 'cy' / 'cy_0001.jpg').write_bytes(encoded(picture(rng, 250, 250)))
    code, result, _ = run_command(
        'make-bin', folder, pair_list(tmp_path, '2\n' + VIEW_1), tmp_path / 'x.bin'
    )
    assert (code, result['kept'], result['reencoded']) == (0, 6, 1)
    assert {decoded(image).shape for image in load(tmp_path / 'x.bin')[0]} == {(112, 112, 3)}


def test_names_may_hold_blanks_between_tabs(tmp_path):
    pairs = read_pair_list(pair_list(tmp_path, '1\nAl B\t1\t2\nAl B\t1\tCy D\t2\n')).pairs
    assert pairs[0][:3] == (2, ('Al B', 1), ('Al B', 2))
    assert pairs[1][1:] == (('Al B', 1), ('Cy D', 2), False)


def test_a_missing_picture_names_line_and_path(folder, tmp_path, run_command):
    pairs = pair_list(tmp_path, '2\n' + VIEW_1.replace('cy\t1', 'cy\t2'))
    code, _, err = run_command('make-bin', folder, pairs, tmp_path / 'x.bin')
    assert code == 2
    assert f'{pairs} line 5: there is no picture {folder}/cy/cy_0002.jpg' in err
    assert not (tmp_path / 'x.bin').exists()


def test_a_broken_picture_names_line_and_path(folder, tmp_path, run_command):
    (folder / 'bea' / 'bea_0002.jpg').write_bytes(b'oops')
    pairs = pair_list(tmp_path, '2\n' + VIEW_1)
    code, _, err = run_command('make-bin', folder, pairs, tmp_path / 'x.bin')
    assert code == 2 and f'{pairs} line 4: {folder}/bea/bea_0002.jpg: 4 bytes are no' in err
    assert not (tmp_path / 'x.bin').exists()


def test_a_missing_folder(tmp_path, run_command):
    pairs = pair_list(tmp_path, '2\n' + VIEW_1)
    code, _, err = run_command('make-bin', tmp_path / 'none', pairs, tmp_path / 'x.bin')
    assert code == 2 and 'none is no folder' in err


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
