import pickle

import pytest
from pictures import decoded, encoded, picture, scene, write_folder
from vargfacenet.common.data.failed_pairs import read_failed

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
    same, different = ['abe_0001', 'abe_0002'], ['abe_0001', 'bea_0002']
    names = [*same, *different, 'bea_0003', 'bea_0001', 'cy_0001', 'abe_0003']
    files = [(folder / name[:-5] / f'{name}.jpg').read_bytes() for name in names]
    assert load(tmp_path / 'new/x.bin') == (files, [True, False, True, False])


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


def test_a_missing_picture_names_line_and_path(folder, tmp_path, run_command):
    pairs = pair_list(tmp_path, '2\n' + VIEW_1.replace('cy\t1', 'cy\t2'))
    code, _, err = run_command('make-bin', folder, pairs, tmp_path / 'x.bin')
    assert code == 2
    assert f'{pairs} line 5: there is no picture {folder}/cy/cy_0002.jpg' in err
    assert not (tmp_path / 'x.bin').exists()


@pytest.mark.parametrize(
    ('text', 'told'),
    [
        ('2\n' + VIEW_1, '4 pairs; `train` takes a set from 10 on, `verify` with as many --folds'),
        ('abe/abe_0001.jpg abe/abe_0002.jpg 1\n' * 12, 'all pairs are same pairs'),
        ('abe/abe_0001.jpg abe/abe_0002.jpg 1\nabe/abe_0001.jpg cy/cy_0001.jpg 0\n' * 5, ''),
    ],
)
def test_a_set_that_little_can_be_done_with_is_told(text, told, folder, tmp_path, run_command):
    words = ('make-bin', folder, pair_list(tmp_path, text), tmp_path / 'x.bin')
    code, _, err = run_command(*words)
    assert code == 0 and told in err and ('verify' in err) is bool(told)


def test_a_broken_picture_names_line_and_path(folder, tmp_path, run_command):
    (folder / 'bea' / 'bea_0002.jpg').write_bytes(b'oops')
    pairs = pair_list(tmp_path, '2\n' + VIEW_1)
    code, _, err = run_command('make-bin', folder, pairs, tmp_path / 'x.bin')
    assert code == 2 and f'{pairs} line 4: {folder}/bea/bea_0002.jpg: 4 bytes are no' in err
    assert not (tmp_path / 'x.bin').exists()


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--root', '.'), '--root . goes with a LIST'),
        (('--pairs', 5, '--folds', 2), '--pairs and --folds: for pairs that are drawn'),
        (('--seed', 1), '--seed: for pairs that are drawn'),
        (('--people', 'pairs.txt'), '--people: for pairs that are drawn'),
    ],
)
def test_options_that_would_be_ignored(words, message, folder, tmp_path, run_command):
    code, _, err = run_command('make-bin', folder, 'pairs.txt', tmp_path / 'o' / 'x.bin', *words)
    assert code == 2 and message in err and err.count('\n') == 1
    assert not (tmp_path / 'o').exists()


def test_a_missing_folder(tmp_path, run_command):
    pairs = pair_list(tmp_path, '2\n' + VIEW_1)
    code, _, err = run_command('make-bin', tmp_path / 'none', pairs, tmp_path / 'x.bin')
    assert code == 2 and 'none is no folder' in err


def test_an_existing_pair_set_is_not_replaced_unasked(folder, tmp_path, run_command):
    (tmp_path / 'x.bin').write_bytes(b'precious')
    words = ('make-bin', folder, pair_list(tmp_path, '2\n' + VIEW_1), tmp_path / 'x.bin')
    code, _, err = run_command(*words)
    assert code == 2 and 'x.bin is there already' in err
    assert (tmp_path / 'x.bin').read_bytes() == b'precious'
    assert run_command(*words, '--overwrite')[0] == 0


def test_pictures_of_other_suffixes_and_numbers_are_found(folder, tmp_path, rng, run_command):
    """Whatever aligns or converts pictures seldom keeps LFW's names."""
    for old, new in (('abe_0001', 'abe_1'), ('abe_0002', '2'), ('bea_0003', 'Bea-00003')):
        name = old[:3]
        (folder / name / f'{old}.jpg').rename(folder / name / f'{new}.jpg')
    rgb = picture(rng)
    (folder / 'cy' / 'cy_0001.jpg').unlink()
    (folder / 'cy' / 'cy_0001.png').write_bytes(encoded(rgb, '.png'))
    pairs = pair_list(tmp_path, '2\n' + VIEW_1)
    code, result, _ = run_command('make-bin', folder, pairs, tmp_path / 'x.bin')
    assert (code, result['pictures'], result['reencoded']) == (0, 7, 1)
    (folder / 'cy' / 'x1.jpg').write_bytes(encoded(rgb))
    code, _, err = run_command('make-bin', folder, pairs, tmp_path / 'y.bin')
    assert code == 2 and 'are both picture 1 of cy' in err


def test_pairs_without_a_face_are_left_out_and_listed(folder, tmp_path, run_command):
    """abe 3 and bea 3 gave no crop: the third and the fourth pair cannot be compared."""
    (folder / 'bea' / 'bea_0003.jpg').unlink()
    (folder / 'abe' / 'abe_0003.jpg').unlink()
    pairs = pair_list(tmp_path, '2\n' + VIEW_1)
    code, _, err = run_command('make-bin', folder, pairs, tmp_path / 'x.bin')
    assert code == 2 and 'there is no picture' in err
    words = ('make-bin', folder, pairs, tmp_path / 'x.bin', '--overwrite')
    code, result, err = run_command(*words, '--skip-missing')
    assert (code, result['pairs'], result['failed']) == (0, 2, 2) and '2 pairs are left out' in err
    assert [(p.number, p.same) for p in read_failed(tmp_path / 'x.bin')] == [
        (2, True),
        (3, False),
    ]
    assert load(tmp_path / 'x.bin')[1] == [True, False]
    (folder / 'bea' / 'bea_0003.jpg').write_bytes((folder / 'bea' / 'bea_0001.jpg').read_bytes())
    (folder / 'abe' / 'abe_0003.jpg').write_bytes((folder / 'abe' / 'abe_0001.jpg').read_bytes())
    assert run_command(*words)[1]['pairs'] == 4
    assert not read_failed(tmp_path / 'x.bin')  # it was the former set's


def test_lists_of_paths(folder, tmp_path, run_command):
    names = ['abe/abe_0001.jpg', 'abe/abe_0002.jpg', 'bea/bea_0001.jpg', 'cy/cy_0001.jpg']
    files = [(folder / name).read_bytes() for name in names]
    text = f'{names[0]} {names[1]} 1\n1,{names[2]},{names[2]}\n{names[0]}\t{names[3]}\t0\n'
    code, result, _ = run_command('make-bin', folder, pair_list(tmp_path, text), tmp_path / 'x.bin')
    assert (code, result['pairs'], result['same'], result['pictures']) == (0, 3, 2, 4)
    images, same = load(tmp_path / 'x.bin')
    expected = {True: [files[:2], [files[2], files[2]]], False: [[files[0], files[3]]]}
    for place, is_same in enumerate(same):
        assert images[2 * place : 2 * place + 2] in expected[is_same]


def test_a_set_of_ones_own_people(tmp_path, rng, run_command):
    folder = write_folder(tmp_path / 'faces', rng, {f'p{number}': 3 for number in range(8)})
    options = ('--pairs', 16, '--folds', 4, '--seed', 5)
    code, result, _ = run_command('make-bin', folder, tmp_path / 'x.bin', *options)
    assert (code, result['pairs'], result['same'], result['folds']) == (0, 16, 8, 4)
    people = {path.read_bytes(): path for path in folder.rglob('*.jpg')}
    images, same = load(tmp_path / 'x.bin')
    shown = [people[image] for image in images]
    for place, is_same in enumerate(same):
        first, second = shown[2 * place : 2 * place + 2]
        assert first != second and (first.parent == second.parent) is is_same
    listed = (tmp_path / 'x.pairs.txt').read_text().splitlines()
    assert len(listed) == 16 and result['list'] == str(tmp_path / 'x.pairs.txt')
    # the list makes a set of the same pairs, and a list with labels the set of the folder
    made = run_command('make-bin', folder, tmp_path / 'x.pairs.txt', tmp_path / 'y.bin')
    assert made[0] == 0 and load(tmp_path / 'y.bin') != load(tmp_path / 'x.bin')
    assert sorted(load(tmp_path / 'y.bin')[0]) == sorted(images)
    lines = [f'{path.relative_to(folder)} {path.parent.name}' for path in sorted(people.values())]
    (tmp_path / 'z.lst').write_text('\n'.join(lines))
    words = ('make-bin', tmp_path / 'z.lst', tmp_path / 'z.bin', '--root', folder, *options)
    assert run_command(*words)[0] == 0
    assert load(tmp_path / 'z.bin') == (images, same)


def test_pairs_of_some_people(tmp_path, rng, run_command):
    folder = write_folder(tmp_path / 'faces', rng, {f'p{number}': 3 for number in range(8)})
    chosen = {'p1', 'p3', 'p4', 'p6'}
    (tmp_path / 'test.txt').write_text('\n'.join(sorted(chosen)))
    options = ('--people', tmp_path / 'test.txt', '--folds', 2)
    code, result, _ = run_command('make-bin', folder, tmp_path / 'x.bin', *options)
    assert code == 0 and result['pictures'] == 12
    people = {path.read_bytes(): path.parent.name for path in folder.rglob('*.jpg')}
    assert {people[image] for image in load(tmp_path / 'x.bin')[0]} == chosen
    (tmp_path / 'test.txt').write_text('p1\nnobody')
    code, _, err = run_command('make-bin', folder, tmp_path / 'y.bin', *options)
    assert code == 2 and 'nobody' in err and err.count('\n') == 1


def test_photographs_are_warned_of(tmp_path, run_command):
    for name in ('a', 'b'):
        (tmp_path / 'faces' / name).mkdir(parents=True)
        for number in (1, 2):
            path = tmp_path / 'faces' / name / f'{name}_000{number}.jpg'
            path.write_bytes(encoded(scene(number)))
    pairs = pair_list(tmp_path, '1\na 1 2\na 1 b 1\n')
    code, _, err = run_command('make-bin', tmp_path / 'faces', pairs, tmp_path / 'x.bin')
    assert code == 0 and 'vargfacenet align' in err
    code, _, err = run_command('make-rec', tmp_path / 'faces', tmp_path / 'out')
    assert code == 0 and 'vargfacenet align' in err
