"""`check` finds every flipped bit in what carries a checksum, and leaves what is whole alone."""

import json
import os
import shutil
import sqlite3
import tempfile
from pathlib import Path

import numpy as np
import pytest
from conftest import DATA, registered_for_now
from deploy_models import portrait, write_checkpoint
from pair_sets import pair_images, write_bin
from pictures import encoded, write_folder
from vargfacenet.__main__ import main
from vargfacenet.common import plugins
from vargfacenet.common.checked_json import write_checked
from vargfacenet.common.checksums import noted_in_folders
from vargfacenet.common.data.failed_pairs import FailedPair, write_failed
from vargfacenet.common.data.left_out import LeftOut
from vargfacenet.common.data.recordio import write_face_records
from vargfacenet.deploy.checks import counted, find
from vargfacenet.deploy.export import main as export
from vargfacenet.deploy.gallery import Gallery
from vargfacenet.eval.matrix_file import new_matrix, write_megaface


@pytest.fixture(scope='module')
def everything(tmp_path_factory):
    """A folder with one of each kind that commands write."""
    folder = tmp_path_factory.mktemp('everything')
    data = folder / 'data'
    for place in (data, folder / 'lists', folder / 'rows'):
        place.mkdir()
    faces = [[encoded(portrait(i, k)) for k in range(4)] for i in range(4)]
    write_face_records(data / 'train', faces)
    random = np.random.RandomState(2)
    write_bin(data / 'pairs.bin', *pair_images(random))
    write_failed(data / 'pairs.bin', [FailedPair(3, 'a/1.jpg', 'a/2.jpg', True)])
    LeftOut(1, folder / 'lists' / 'left-out-0.json').add({4: 'record 5 is cut off'})
    write_checked(folder / 'lists' / 'results.json', {'arms': {'a': 1.5}, 'title': 'Two losses'})
    with noted_in_folders([folder / 'rows' / '1.jpg_m.bin']):
        write_megaface(folder / 'rows' / '1.jpg_m.bin', np.ones(8, np.float32))
    write_folder(folder / 'people', random, {'Ada': 3, 'Bob': 2})
    made = folder / 'made'
    made.mkdir()
    model = write_checkpoint(made)
    assert main(['teach', '--data-dir', str(data), '--teacher', model]) == 0
    options = ['--data-dir', data, '--models-root', folder, '--name', 'run', '--steps', '4']
    options += ['--per-batch-size', '4', '--frequent', '2', '--verbose', '2', '--ckpt', '2']
    options += ['--network', 'small']
    from vargfacenet.symbol import NETWORKS

    with registered_for_now(NETWORKS):
        plugins.run_file(DATA / 'small_network.py')
        assert main(['train', *map(str, options)]) == 0
    assert export(['--model', model, '--out', str(folder / 'export')]) == 0
    rows = np.eye(3, 8, dtype=np.float32)
    gallery = Gallery(folder / 'gallery', 8, 'model')
    gallery.enrol(['Ada', 'Ada', 'Bob'], rows)
    gallery.close()
    with new_matrix(folder / 'rows' / 'features.bin', 3, 8) as matrix:
        matrix[:] = rows
    np.savez(folder / 'rows' / 'features.npz', embeddings=rows, labels=np.array(['a', 'b', 'c']))
    return folder


@pytest.fixture
def copy(everything, tmp_path):
    return shutil.copytree(everything, tmp_path / 'copy')


def check(folder, capsys):
    """(exit code, {path below the folder: item of the result})"""
    capsys.readouterr()
    code = main(['check', str(folder)])
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    return code, {item['path'].removeprefix(f'{folder}/'): item for item in result['items']}


def flip(path, position, bit=0):
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def test_what_commands_write_is_known_and_whole(everything, capsys):
    code, items = check(everything, capsys)
    assert code == 0 and not any(item['problems'] for item in items.values())
    store = next(path.name for path in (everything / 'data').glob('*.f16'))
    assert {path: (item['kind'], item['content']) for path, item in items.items()} == {
        'data/pairs.bin': ('pair set', '20 pairs, 10 of one person'),
        'data/train.rec': ('data set', '16 images of 4 classes'),
        f'data/{store}': ('teacher store', '16 images, 32 numbers each'),
        'export': ('export', '6 files'),
        'rows/features.npz': ('arrays', 'float32 (3, 8)'),
        'rows/features.bin': ('features', 'float32 (3, 8)'),
        'rows/1.jpg_m.bin': ('features', 'float32 (8, 1)'),
        'data/pairs.failed.txt': ('file', '20 bytes'),
        'lists/left-out-0.json': ('JSON', '1 entries'),
        'lists/results.json': ('JSON', '2 entries'),
        'gallery': ('gallery', '3 faces of 2 identities'),
        'made/model': ('checkpoint', '1 checkpoints'),
        'people': ('pictures', '5 images of 2 classes'),
        'run': ('history', '2 rows'),
        'run/model': ('run', '2 checkpoints'),
    }


FLIPPED = [
    'data/pairs.failed.txt',
    'rows/1.jpg_m.bin',
    'lists/left-out-0.json',
    'lists/results.json',
    'run/model-0001.params',
    'run/model-0002.states',
    'run/model-0001.json',
    'run/model-symbol.json',
    'run/history.jsonl',
    'export/export.json',
    'export/model-0000.params',
    'export/model-symbol.json',
    'data/train.teacher-*.f16',
    'data/train.rec',
    'data/train.idx',
    'data/property',
    'rows/features.bin',
    'data/pairs.bin',
    'rows/features.npz',
]


@pytest.mark.parametrize('name', FLIPPED)
def test_every_flipped_bit_is_noticed(copy, name, capsys, rng):
    """Ten bits all over a file; those of the archive's directory that mean nothing are spared."""
    path = next(copy.glob(name))
    whole = path.read_bytes()
    first, last = 0, len(whole)
    if path.suffix == '.npz':
        first = whole.index(b'\x93NUMPY')
        last = whole.index(b'PK\3\4', 4)
    if path.suffix == '.json' and b'"crc32"' in whole:
        last = whole.index(b'"crc32"')
    if path.name == 'history.jsonl':
        last = whole.index(b'\n')  # a last line that is broken was cut off by a kill
    alone = copy.parent / 'alone'
    shutil.copytree(path.parent, alone)
    for position in rng.randint(first, last, 10):
        path = alone / path.name
        path.write_bytes(whole)
        flip(path, position, rng.randint(8))
        code, items = check(alone, capsys)
        problems = [text for item in items.values() for text in item['problems']]
        assert code == 1 and problems, position
        assert any(str(alone) in text for text in problems)


@pytest.mark.parametrize(
    ('name', 'damage'),
    [
        ('data/train.idx', b'no index'),
        ('data/property', b'4,112'),
        ('data/checksums.json', b'{'),
        ('run/model-symbol.json', b'{'),
        ('run/model-symbol.json', None),
        ('run/model-0001.json', b'{'),
    ],
)
def test_a_damage_is_told_once(copy, name, damage, capsys, caplog):
    """One problem of one item, and no line of the log beside it; None is a change that is read."""
    path = copy / name
    path.write_bytes(path.read_bytes() + b' \n' if damage is None else damage)
    code, items = check(path.parent, capsys)
    problems = [text for item in items.values() for text in item['problems']]
    assert code == 1 and len(problems) == 1, problems
    assert str(path.parent) in problems[0]


def test_a_symbol_that_a_list_tells_of_is_compared(copy, capsys):
    """Of a checkpoint that is no run's."""
    symbol = copy / 'made' / 'model-symbol.json'
    with noted_in_folders([symbol]):
        pass
    assert check(symbol.parent, capsys)[0] == 0
    symbol.write_bytes(symbol.read_bytes() + b' \n')
    code, items = check(symbol.parent, capsys)
    assert code == 1 and 'was changed or damaged' in items['model']['problems'][0]


def test_bad_records_are_all_named(copy, capsys):
    content = bytearray((copy / 'data' / 'train.rec').read_bytes())
    index = (copy / 'data' / 'train.idx').read_text().splitlines()
    offsets = dict(tuple(map(int, line.split())) for line in index)
    for key in (3, 9):
        start = offsets[key] + 8 + 24
        content[start : start + 200] = bytes(200)  # a JPEG without its head
    start = offsets[12] + 8
    content[start + 4 : start + 8] = np.float32(77).tobytes()  # its label
    content[start + 16 : start + 24] = bytes(8)  # and no checksum, as in files of others
    (copy / 'data' / 'train.rec').write_bytes(content)
    code, items = check(copy / 'data', capsys)
    problems = items['train.rec']['problems']
    assert code == 1 and len(problems) == 3
    for key, text in zip((3, 9, 12), problems):
        assert f'record {key}' in text
    assert 'label 77' in problems[2]


def test_copies_are_told_and_are_no_damage(copy, capsys):
    people = copy / 'people'
    shutil.copy(people / 'Ada' / 'Ada_0001.jpg', people / 'Bob' / 'Bob_0009.jpg')
    shutil.copy(people / 'Ada' / 'Ada_0002.jpg', people / 'Ada' / 'Ada_0009.jpg')
    code, items = check(people.parent, capsys)
    remarks = ' '.join(items['people']['remarks'])
    assert code == 0
    assert '1 pictures are there twice in one class' in remarks
    assert 'Ada_0001.jpg' in remarks and 'Bob_0009.jpg' in remarks


def test_a_gallery_is_looked_at_and_not_changed(copy, capsys):
    gallery = copy / 'gallery'
    before = {path: path.read_bytes() for path in gallery.iterdir()}
    assert check(gallery, capsys)[0] == 0
    assert {path: path.read_bytes() for path in gallery.iterdir()} == before
    matrix = gallery / 'embeddings.f32'
    flip(matrix, 32 + 7, 5)  # of an exponent in the second row
    code, items = check(gallery, capsys)
    assert code == 1 and 'row 1, of Ada' in items[str(gallery)]['problems'][0]
    matrix.write_bytes(before[matrix][:40])
    assert 'cut off' in check(gallery, capsys)[1][str(gallery)]['problems'][0]
    matrix.write_bytes(before[matrix])
    with sqlite3.connect(gallery / 'gallery.sqlite') as database:
        database.execute('CREATE TRIGGER lie AFTER DELETE ON faces BEGIN SELECT 1; END')
    assert 'other tables' in check(gallery, capsys)[1][str(gallery)]['problems'][0]


def test_missing_files_and_folders(copy, capsys, tmp_path):
    (copy / 'export' / 'model-folded-0000.params').unlink()
    (copy / 'run' / 'model-0002.json').unlink()
    code, items = check(copy, capsys)
    assert code == 1
    assert 'model-folded-0000.params is missing' in items['export']['problems'][0]
    assert 'left by a kill' in ' '.join(items['run/model']['remarks'])
    (tmp_path / 'empty').mkdir()
    assert main(['check', str(tmp_path / 'empty')]) == 2
    assert main(['check', str(tmp_path / 'nowhere')]) == 2


def test_json_that_cannot_be_read_stops_nothing(tmp_path, capsys):
    """A link to nothing and a pipe are of other kinds; a file that fails is a problem."""
    write_checked(tmp_path / 'whole.json', {'a': 1})
    (tmp_path / 'dangling.json').symlink_to(tmp_path / 'nowhere')
    os.mkfifo(tmp_path / 'pipe.json')  # opening it would wait for who writes
    assert [path.name for path in find(tmp_path)[1]] == ['dangling.json', 'pipe.json']
    assert check(tmp_path, capsys)[0] == 0
    (tmp_path / 'failing.json').symlink_to('/proc/self/mem')  # a file whose first byte is an error
    code, items = check(tmp_path, capsys)
    assert code == 1 and not items['whole.json']['problems']
    assert 'failing.json: Input/output error' in items['failing.json']['problems'][0]


PIPES = """
train.rec pairs.bin model-0001.params model-0001.json model-0001.states model-symbol.json a.npz
a.npy history.jsonl gallery.sqlite export.json checksums.json decisions.jsonl
train.teacher-abc.f16 1.jpg
"""


@pytest.mark.parametrize('name', PIPES.split())
def test_a_pipe_is_never_opened_whatever_it_is_called(name, tmp_path, capsys):
    write_checked(tmp_path / 'whole.json', {'a': 1})
    os.mkfifo(tmp_path / name)
    assert find(tmp_path)[1] == [tmp_path / name]
    code, items = check(tmp_path, capsys)
    assert code == 0 and list(items) == ['whole.json']


def test_a_folder_that_cannot_be_listed_is_damage(capsys):
    with tempfile.TemporaryDirectory() as place:  # whose parents anybody may enter
        folder = Path(place)
        folder.chmod(0o755)
        write_checked(folder / 'whole.json', {'a': 1})
        (folder / 'closed').mkdir(0o700 if os.geteuid() == 0 else 0)
        (folder / 'link').symlink_to('closed')  # which is not followed
        ours = os.geteuid()
        try:
            if ours == 0:  # whom no mode keeps out
                os.seteuid(65534)
            code, items = check(folder, capsys)
            itself, (closed,) = check(folder / 'closed', capsys)[0], find(folder / 'closed')[0]
        finally:
            os.seteuid(ours)
            (folder / 'closed').chmod(0o700)
    assert code == itself == 1 and not items['whole.json']['problems']
    assert 'Permission denied' in items['closed']['problems'][0]
    assert list(items) == ['whole.json', 'closed'] and closed.path == folder / 'closed'


def test_logs_of_tensorboard_are_called_so():
    """Their names end with the machine's, which looks like a suffix."""
    names = ('events.out.tfevents.17.box', 'events.out.tfevents.18.other', 'a.txt', 'README')
    assert counted([Path(name) for name in names]) == '2 .tfevents, 1 .txt, 1 README'
