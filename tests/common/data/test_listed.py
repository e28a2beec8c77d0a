"""Lists in the spellings of other systems and programs name the same people and pictures."""

import unicodedata

import pytest
from pictures import write_folder
from vargfacenet.common.data.folders import find_identities, find_pictures
from vargfacenet.common.data.label_lists import read_label_list
from vargfacenet.common.data.listed import listed_path, read_list, read_people
from vargfacenet.common.data.pair_lists import read_pair_list
from vargfacenet.common.data.pair_sets import read_pairs
from vargfacenet.common.data.people_sets import read_people_set
from vargfacenet.common.errors import InputError

NFC = 'Jos\xe9 R\xedos'
NFD = unicodedata.normalize('NFD', NFC)
COMMA = 'Downey, Robert'


@pytest.fixture
def folder(tmp_path, rng):
    return write_folder(
        tmp_path / 'faces', rng, {'Ann': 1, 'Bob': 1, COMMA: 1, NFC: 1, '0000045': 1}
    )


def named(folder, text, **options):
    path = folder.parent / 'list.txt'
    path.write_bytes(text.encode())
    return [entry.name for entry in read_people(path, '--exclude', folder, **options)]


@pytest.mark.parametrize(
    ('read', 'expected'),
    [
        (read_list, 'a folder, or a list with a path a line'),
        (read_label_list, 'a folder, or a list with a path a line'),
        (read_pair_list, 'a pair list'),
        (read_pairs, 'a verification .bin, which make-bin writes'),
        (read_people_set, 'a set of people, which make-pairs writes'),
        (lambda path: read_people(path, '--exclude', path.parent), 'for --exclude a file'),
    ],
)
def test_a_picture_is_none_of_these(folder, read, expected):
    with pytest.raises(
        InputError, match=rf'Ann_0001\.jpg is a picture by its name; expected {expected}'
    ):
        read(folder / 'Ann' / 'Ann_0001.jpg')


@pytest.mark.parametrize(
    ('text', 'names'),
    [
        ('Ann/1.jpg Bob/1.jpg 0\n', ['Ann', 'Bob']),
        ('0 Ann/1.jpg Bob/1.jpg\n', ['Ann', 'Bob']),
        ('Ann/1.jpg,Bob/1.jpg,1\n', ['Ann', 'Bob']),
        ('Ann/1.jpg\tBob/1.jpg\t1\n', ['Ann', 'Bob']),
        ('Ann,1,Bob,2\n', ['Ann', 'Bob']),
        ('Ann 1 Bob 2\n', ['Ann', 'Bob']),
        ('2\nAnn\t1\nBob\t4\n', ['Ann', 'Bob']),  # LFW's people of a view
        ('10\t300\nAnn\t1\t2\n', ['Ann']),
        ('1\nAnn 1 2\nAnn 1 Bob 2\n', ['Ann', 'Ann', 'Bob']),
        (f'{COMMA}\n{NFD} 3\n', [COMMA, NFC]),
        (f'"{COMMA}",5\n', [COMMA]),
        (f'{NFD}/a b.png\n{COMMA}/1.jpg 2\n', [NFC, COMMA]),
        ('2\n1\nAnn\n2\nBob\n0000045\n', ['Ann', 'Bob', '0000045']),  # folds of View 2
        ('0000045\n', ['0000045']),
        ('0000045\t1\t2\n', ['0000045']),
    ],
)
def test_everybody_in_a_list_is_found(folder, text, names):
    assert named(folder, text) == names


@pytest.mark.parametrize(
    ('text', 'shown'),
    [
        ('Ann/1.jpg Nobody/1.jpg 0\n', '(Nobody/1.jpg)'),
        ('Ann,1,Nobody,2\n', '(Nobody)'),
        ('Ann\n124\n', '(124)'),  # as many lines do not follow it
        ('Ann\n²\n', '(²)'),  # a digit that is no number
        ('1\nAnn\n124\nBob\n', '(124)'),
        ('0000045\n0000046\n', '(0000046)'),  # no count: everybody is a number
        ('# test people\nAnn\n', '(# test people)'),
        ('', 'names nobody'),
        ('\n \n', 'names nobody'),
    ],
)
def test_a_name_of_nobody_stops(folder, text, shown):
    with pytest.raises(InputError, match='say --allow-unknown') as error:
        named(folder, text)
    assert shown in str(error.value)
    found = named(folder, text, allow_unknown=True)
    assert found == [name for name in ('0000045', 'Ann', 'Bob') if name in text]


def test_both_forms_of_a_name_are_that_name(folder):
    (folder / NFD).mkdir()
    assert named(folder, f'{NFC}\n') == sorted([NFC, NFD])


def test_the_target_of_a_link_is_the_person(folder, tmp_path):
    links = tmp_path / 'links'
    links.mkdir()
    (links / 'A').symlink_to(folder / 'Ann')
    assert named(links, f'{folder}/Ann/Ann_0001.jpg\n') == ['A']


def test_a_folder_is_no_second_person_by_a_link(folder, caplog):
    (folder / 'Annie').symlink_to(folder / 'Ann')
    names = [identity.name for identity in find_identities(folder)]
    assert names == sorted(['Ann', 'Bob', COMMA, NFC, '0000045'])
    assert '1 links to folders that are there already are left out' in caplog.text


def test_links_to_nothing_are_counted(folder, caplog):
    (folder / 'Gone').symlink_to('/no/such/folder')
    (folder / 'Ann' / 'gone.jpg').symlink_to('/no/such/picture.jpg')
    assert len(find_identities(folder)) == 5
    assert (
        '2 files are no pictures that can be read here and are left out (links to nothing 2)'
        in (caplog.text)
    )
    assert len(find_pictures(folder).others) == 2


@pytest.mark.parametrize('name', [NFC, NFD, f'{NFC}/{NFD}', 'Ann\\x', 'M\udcfcller', 'a\\b'])
def test_a_path_in_other_spellings(tmp_path, name):
    for path in (f'{NFC}/{NFC}', 'Ann/x', 'M\udcfcller', 'a\\b'):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b'')
    assert listed_path(tmp_path, name).exists()
    assert listed_path(tmp_path, str(tmp_path / name)).exists()


def test_a_path_of_nothing_stays_as_it_is_written(tmp_path):
    for name in ('no/such.jpg', f'{NFD}.jpg', 'no\\such', '\xe9' * 300):
        assert listed_path(tmp_path, name) == tmp_path / name


def test_names_of_an_image_list_may_hold_blanks_before_a_label(folder):
    path = folder / 'list.txt'
    path.write_text(f'{NFD}/{NFC}_0001.jpg 7\nAnn/Ann_0001.jpg 7 8\nno such.jpg 7\n')
    assert read_list(path, folder) == [
        [f'{NFD}/{NFC}_0001.jpg', '7'],
        ['Ann/Ann_0001.jpg', '7', '8'],
        ['no such.jpg 7'],
    ]


@pytest.mark.parametrize(
    'form',
    [
        '{path} {label}',
        '{path}\t{label}',
        '{path},{label}',
        '"{path}",{label}',
        '{label} {path}',
        '0\t{label}.000000\t{path}',
        '1\t{path}\t{label}',
        '1\t{path}\t{label}\t30\t40',
    ],
)
@pytest.mark.parametrize('spelling', [str, lambda path: unicodedata.normalize('NFD', path)])
def test_labels_of_paths_with_blanks_and_accents(folder, form, spelling):
    paths = {'3': f'{NFC}/{NFC}_0001.jpg', '4': 'Ann/Ann_0001.jpg'}
    path = folder / 'list.txt'
    lines = [form.format(path=spelling(name), label=label) for label, name in paths.items()]
    path.write_text('\n'.join(lines))
    found = {identity.name: identity.paths for identity in read_label_list(path)}
    assert found == {label: (folder / name,) for label, name in paths.items()}


def test_a_comma_in_a_name_is_no_separator_where_the_picture_is_there(folder):
    path = folder / 'list.txt'
    path.write_text(f'{COMMA}/{COMMA}_0001.jpg 1\nAnn/Ann_0001.jpg,2\n')
    assert [identity.name for identity in read_label_list(path)] == ['1', '2']


def test_labels_that_only_look_like_numbers_are_words(folder):
    path = folder / 'list.txt'
    labels = ['1_2', '12', '1e1', '10', '007', '7', 'nan', '3.0', '3']
    path.write_text(''.join(f'Ann/Ann_0001.jpg {label}\n' for label in labels))
    assert [identity.name for identity in read_label_list(path)] == sorted({*labels} - {'3.0'})


def test_pictures_that_are_listed_twice_are_said(folder, caplog):
    path = folder / 'list.txt'
    path.write_text('Ann/Ann_0001.jpg 0\nAnn/Ann_0001.jpg 1\nBob/Bob_0001.jpg 1\n')
    read_label_list(path)
    assert '1 pictures are listed more than once, 1 of them under several labels' in caplog.text
