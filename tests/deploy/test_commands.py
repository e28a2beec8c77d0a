"""embed, compare and gallery from the command line, and thresholds by counting."""

import contextlib
import json
import os
import shutil
import sqlite3
from datetime import date

import cv2
import numpy as np
import pytest
from conftest import needs_mxnet
from deploy_models import export_folder, portrait, portraits
from pictures import encoded, scene
from vargfacenet.common.checked_json import write_checked
from vargfacenet.common.data.image import encode_jpeg
from vargfacenet.common.data.pair_sets import write_pairs
from vargfacenet.common.engine.open_model import open_model
from vargfacenet.deploy import FaceEmbedder, gallery
from vargfacenet.deploy.decide import default_far, stored_thresholds
from vargfacenet.deploy.gallery_records import Terms
from vargfacenet.eval.verification import add_flips, embed_both


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return export_folder(tmp_path_factory.mktemp('export'), thresholds={'0.1': 0.5, '0.01': 0.9})


@pytest.fixture
def folder(tmp_path):
    """Crops of seven people as PNG in folders, and two files that are none."""
    for number in range(7):
        path = tmp_path / 'photos' / f'p{number % 3}' / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(cv2.imencode('.png', portrait(number)[..., ::-1])[1].tobytes())
    (tmp_path / 'photos' / 'notes.txt').write_text('no picture')
    return tmp_path / 'photos'


def sorted_pictures(folder):
    return sorted(folder.rglob('*.png'))


def test_embed_a_folder(folder, model, run_command, tmp_path):
    out = tmp_path / 'feats.npz'
    code, result, _ = run_command(
        'embed', folder, '--model', model, '--out', out, '--batch-size', 2
    )
    assert code == 0 and result['embedded'] == result['images'] == 7 and result['left_out'] == 0
    stored = np.load(out)
    assert stored['paths'].tolist() == [str(path) for path in sorted_pictures(folder)]
    order = [int(path.stem) for path in sorted_pictures(folder)]
    expected = FaceEmbedder(model).embed(portraits(7)[order])
    np.testing.assert_allclose(stored['embeddings'], expected, atol=1e-6)
    assert stored['embeddings'].dtype == np.float32
    assert stored['boxes'].shape == (7, 4) and stored['scores'].tolist() == [1] * 7


def test_flipped_embeddings_are_those_of_the_protocols(folder, model, run_command, tmp_path):
    """What identify and verify make of a model and the same crops."""
    out = tmp_path / 'feats.npz'
    assert run_command('embed', folder, '--model', model, '--out', out, '--flip')[0] == 0
    order = [int(path.stem) for path in sorted_pictures(folder)]
    expected, _ = add_flips(*embed_both(open_model(model), portraits(7)[order]))
    rows = np.load(out)['embeddings']
    np.testing.assert_allclose(rows, expected, atol=1e-6)
    plain = FaceEmbedder(model).embed(portraits(7)[order])
    assert np.abs(rows - plain).max() > 1e-3


def test_embed_a_list_and_leave_out_what_is_broken(folder, model, run_command, tmp_path):
    listed = tmp_path / 'list.txt'
    blank = tmp_path / 'blank.png'
    blank.write_bytes(cv2.imencode('.png', np.full((80, 90, 3), 50, np.uint8))[1].tobytes())
    pictures = sorted_pictures(folder)
    listed.write_text(f'{pictures[0]}\nblank.png\n\nphotos/notes.txt\n{pictures[1]}\n')
    arguments = ['embed', listed, '--model', model, '--out', tmp_path / 'f.npz']
    code, _, errors = run_command(*arguments)
    assert code == 2 and 'notes.txt' in errors and '--skip-broken' in errors
    assert not (tmp_path / 'f.npz').exists()
    code, result, errors = run_command(*arguments, '--skip-broken')
    assert code == 0 and result['embedded'] == 2 and result['left_out'] == 2
    assert result['left_out_paths'] == [str(blank), str(folder / 'notes.txt')]
    assert 'no face found' in errors and 'no picture' in errors
    assert len(np.load(tmp_path / 'f.npz')['embeddings']) == 2


def test_embed_takes_one_picture(folder, model, run_command, tmp_path):
    (first, *_), out = sorted_pictures(folder), tmp_path / 'f.npz'
    code, result, _ = run_command('embed', first, '--model', model, '--out', out)
    assert (code, result['images'], result['embedded']) == (0, 1, 1)
    stored = np.load(out)
    assert stored['paths'].tolist() == [str(first)] and stored['labels'].tolist() == ['p0']
    np.testing.assert_allclose(
        stored['embeddings'], FaceEmbedder(model).embed(portraits(1)), atol=1e-6
    )
    code, _, errors = run_command(
        'embed', tmp_path / 'gone.jpg', '--model', model, '--out', tmp_path / 'g.npz'
    )
    assert code == 2 and 'picture' in errors and 'gone.jpg does not exist' in errors


def test_embed_turns_a_picture_as_compare_does(model, run_command, tmp_path):
    (tmp_path / 'photos').mkdir()
    upright, turned, nobody = (tmp_path / 'photos' / f'{name}.png' for name in 'abc')
    image = np.pad(scene(1, size=240), ((0, 0), (0, 70), (0, 0)), 'edge')  # not square
    upright.write_bytes(encoded(image, '.png'))
    turned.write_bytes(encoded(np.ascontiguousarray(np.rot90(image, -1)), '.png'))
    nobody.write_bytes(encoded(np.full((80, 90, 3), 50, np.uint8), '.png'))
    out = tmp_path / 'f.npz'
    code, result, errors = run_command('embed', tmp_path / 'photos', '--model', model, '--out', out)
    assert (code, result['embedded'], result['turned'], result['left_out']) == (0, 2, 1, 1)
    assert result['turned_paths'] == [str(turned)]
    assert 'in 1 pictures, such as' in errors and 'b.png, a face was found only with' in errors
    stored = np.load(out)
    assert stored['embeddings'][0] @ stored['embeddings'][1] > 0.999
    x, y, wide, high = stored['boxes'][0]
    assert stored['boxes'][1] == pytest.approx([len(image) - y - high, x, high, wide], abs=1)
    code, result, _ = run_command('compare', upright, turned, '--model', model)
    assert result['pictures'][1]['turned'] == 90
    assert result['cosine'] == pytest.approx(np.dot(*stored['embeddings']), abs=1e-5)


def test_a_list_may_say_who_is_in_a_picture(folder, model, run_command, tmp_path):
    first, second = sorted_pictures(folder)[:2]
    (tmp_path / 'list.txt').write_text(f'{first} ann\n{second}\n{first}\tbob lee\n')
    arguments = ['embed', tmp_path / 'list.txt', '--model', model, '--out', tmp_path / 'f.npz']
    assert run_command(*arguments, '--faces', 'crop')[0] == 0
    stored = np.load(tmp_path / 'f.npz')
    assert stored['labels'].tolist() == ['ann', second.parent.name, 'bob lee']
    assert stored['paths'].tolist() == [str(first), str(second), str(first)]


def test_embed_takes_what_the_owner_of_a_folder_sees(folder, model, run_command, tmp_path):
    """Hidden files and folders are no photographs; folders behind links are, whatever they hold."""
    (folder / '._0.png').write_bytes(b'\0\5\26\7Mac OS X')
    for name in ('__MACOSX', '.thumbnails', 'album.jpg'):
        (folder / name).mkdir()
    for name in ('__MACOSX', '.thumbnails'):
        shutil.copy(folder / 'p0' / '0.png', folder / name / '0.png')
    disk = tmp_path / 'disk'
    disk.mkdir()
    shutil.copy(folder / 'p0' / '0.png', disk / 'without_suffix')
    (folder / 'linked').symlink_to(disk)
    arguments = ['embed', folder, '--model', model, '--out', tmp_path / 'f.npz']
    code, result, errors = run_command(*arguments, '--faces', 'crop')
    assert (code, result['images'], result['embedded']) == (0, 8, 8)
    assert '1 files are no pictures' in errors
    labels = np.load(tmp_path / 'f.npz')['labels'].tolist()
    assert labels == ['linked', *['p0'] * 3, *['p1'] * 2, *['p2'] * 2]


def test_further_faces_of_a_picture_are_said_and_can_be_taken(model, run_command, tmp_path):
    (tmp_path / 'photos').mkdir()
    group, alone = tmp_path / 'photos' / 'group.png', tmp_path / 'photos' / 'small.png'
    group.write_bytes(encoded(np.hstack([scene(0, size=240), scene(1, size=240)]), '.png'))
    alone.write_bytes(encoded(cv2.resize(scene(0), (112, 112)), '.png'))  # a crop by its size
    out = tmp_path / 'f.npz'
    arguments = ['embed', tmp_path / 'photos', '--model', model, '--out', out]
    code, result, errors = run_command(*arguments)
    assert (code, result['embedded'], result['faces'], result['several']) == (0, 2, 2, 1)
    assert (
        'several faces (of half' in errors and 'in 1 pictures' in errors and 'group.png' in errors
    )
    assert np.load(out)['boxes'][1].max() < 112  # the face in it, not the whole picture
    code, result, errors = run_command(*arguments, '--which', 'all')
    assert (code, result['embedded'], result['faces']) == (0, 2, 3) and 'several' not in errors
    stored = np.load(out)
    assert stored['paths'].tolist() == [str(group), str(group), str(alone)]
    assert len(stored['embeddings']) == len(stored['boxes']) == len(stored['scores']) == 3
    code, result, _ = run_command('compare', alone, alone, '--model', model, '--threshold', 0.9)
    assert code == 0 and result['cosine'] > 0.999
    assert run_command(*arguments, '--faces', 'crop')[0] == 2


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--out', 'f.npy'], 'ends in .npz'),
        (['--out', 'f.npz', '--batch-size', '0'], '--batch-size 0'),
        (['--out', 'f.npz', '--workers', '0'], '--workers 0'),
        (['--out', 'f.npz', '--faces', 'crop'], '80x90 pixels; an aligned crop has 112x112'),
    ],
)
def test_embed_with_wrong_options(flags, message, model, run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'p').mkdir()
    picture = np.zeros((90, 80, 3), np.uint8)
    (tmp_path / 'p' / 'a.png').write_bytes(cv2.imencode('.png', picture)[1].tobytes())
    code, _, errors = run_command('embed', 'p', '--model', model, *flags)
    assert code == 2 and message in errors and not list(tmp_path.glob('*.np*'))


def test_what_compare_is_given_is_shown_as_it_is(folder, model, run_command):
    first, second = folder / 'p0' / '0.png', folder / 'p1' / 'a\nb.png'
    shutil.copy(folder / 'p1' / '1.png', second)
    code, _, errors = run_command('compare', first, second, '--model', model)
    assert code == 0 and '0.png and a\\nb.png\n' in errors
    code, _, errors = run_command('compare', first, 'https://host/a.jpg', '--model', model)
    assert code == 2 and 'photograph https://host/a.jpg does not exist' in errors


def test_compare_at_the_stored_thresholds(folder, model, run_command):
    first, second = folder / 'p0' / '0.png', folder / 'p1' / '1.png'
    cosine = float(np.dot(*FaceEmbedder(model).embed(portraits(2)).astype(np.float64)))
    for far, threshold in ((0.1, 0.5), (0.01, 0.9)):
        code, result, _ = run_command('compare', first, second, '--model', model, '--far', far)
        assert code == 0 and result['threshold'] == threshold
        assert result['cosine'] == pytest.approx(cosine, abs=1e-6)
        assert result['same'] is (cosine > threshold)
    code, _, errors = run_command('compare', first, second, '--model', model, '--far', 1e-6)
    assert code == 2 and 'thresholds for 0.1, 0.01' in errors
    result = run_command('compare', first, first, '--model', model, '--threshold', 0.99)[1]
    assert result['same'] is True and result['far'] is None
    assert run_command('compare', first, second, '--model', model, '--threshold', 2)[0] == 2


@needs_mxnet
def test_compare_without_thresholds_and_with_pairs(folder, model, run_command, tmp_path):
    network, first = f'{model}/model,0', folder / 'p0' / '0.png'
    plain = model.parent / 'model,3'
    _, result, errors = run_command('compare', first, first, '--model', plain)
    assert result['same'] is None and 'no decision' in errors
    faces = [encode_jpeg(face) for face in portraits(40)]
    write_pairs(tmp_path / 'pairs.bin', faces, [False] * 19 + [True])
    measured = ['--pairs', tmp_path / 'pairs.bin', '--far', 0.2]
    result = run_command('compare', first, first, '--model', network, *measured)[1]
    assert result['same'] is True and -1 < result['threshold'] < 1


@pytest.mark.parametrize('what', ['missing', 'no picture', 'no face'])
def test_compare_with_a_bad_photograph(what, folder, model, run_command, tmp_path):
    path = tmp_path / 'x.png'
    if what == 'no picture':
        path.write_bytes(b'hello')
    elif what == 'no face':
        path.write_bytes(cv2.imencode('.png', np.full((300, 300, 3), 9, np.uint8))[1].tobytes())
    code, _, errors = run_command('compare', folder / 'p0' / '0.png', path, '--model', model)
    assert code == 2 and 'x.png' in errors and len(errors.strip().splitlines()[-1]) < 200
    assert what != 'no face' or 'take a photograph that shows one: this is of one tone' in errors


def test_the_gallery_command(folder, model, run_command, tmp_path):
    place = ['--gallery', tmp_path / 'people', '--model', model]
    assert run_command('gallery', 'list', *place[:2])[0] == 2
    assert run_command('gallery', 'identify', folder / 'a.jpg', *place)[0] == 2
    assert not (tmp_path / 'people').exists()
    pictures = [folder / f'p{number % 3}' / f'{number}.png' for number in range(7)]
    assert run_command('gallery', 'enrol', 'Ada', *pictures[:2], *place)[1]['enrolled'] == 2
    run_command('gallery', 'enrol', 'Grace', pictures[2], *place)
    result = run_command('gallery', 'identify', pictures[2], *place, '--threshold', 0.99)[1]
    assert result['matches'][0]['name'] == 'Grace' and result['matches'][0]['same'] is True
    assert [match['name'] for match in result['matches']] == ['Grace', 'Ada']
    assert run_command('gallery', 'remove', 'Ada', *place[:2])[1]['removed'] == 2
    assert run_command('gallery', 'list', *place[:2])[1]['identities'] == {'Grace': 1}
    assert run_command('gallery', 'identify', pictures[0], *place, '--top', 0)[0] == 2


def test_whose_time_is_over_is_told_before_a_photograph_is_looked_at(
    folder, model, run_command, tmp_path
):
    place = ['--gallery', tmp_path / 'people', '--model', model]
    no_picture = folder / 'notes.txt'
    run_command('gallery', 'enrol', 'Grace', folder / 'p0' / '0.png', *place)
    with contextlib.closing(gallery.Gallery(tmp_path / 'people')) as opened:
        row = np.eye(32, dtype=np.float32)[:1]
        terms = Terms(expires='2020-01-02')
        opened.enrol(['Ada'], row, terms=terms, today=date(2020, 1, 1))
    code, _, errors = run_command('gallery', 'enrol', 'Ada', no_picture, *place)
    assert code == 2 and "Ada's expiry 2020-01-02: this day is over" in errors
    code, _, errors = run_command('gallery', 'identify', no_picture, *place)
    assert code == 2 and 'no picture' in errors and 'the time of 1 people is over' in errors


@pytest.mark.parametrize('wrong', ['name', 'photograph', 'face'])
def test_a_failing_enrolment_makes_no_gallery(wrong, folder, model, run_command, tmp_path):
    blank = tmp_path / 'blank.png'
    blank.write_bytes(cv2.imencode('.png', np.full((80, 90, 3), 50, np.uint8))[1].tobytes())
    photographs = {'photograph': [folder / 'notes.txt'], 'face': [blank]}.get(wrong, [])
    enrol = ['enrol', ' ' if wrong == 'name' else 'Ada', folder / 'p0' / '0.png', *photographs]
    place = ['--gallery', tmp_path / 'new', '--model', model]
    code, _, errors = run_command('gallery', *enrol, *place)
    assert code == 2 and not (tmp_path / 'new').exists()
    assert {
        'name': 'expected a name',
        'photograph': 'no picture',
        'face': 'take a photograph that shows one',
    }[wrong] in errors


def test_gallery_names_with_blanks_and_files_that_are_no_unicode(
    folder, model, run_command, tmp_path
):
    place = ['--gallery', tmp_path / 'people', '--model', model]
    odd = tmp_path / os.fsdecode(b'b\xff.png')
    odd.write_bytes((folder / 'p0' / '0.png').read_bytes())
    code, result, errors = run_command('gallery', 'enrol', ' Ada ', odd, *place)
    assert code == 0 and result['faces'] == 1, errors
    code, _, errors = run_command('gallery', 'remove', '\udcff\udcfe', *place[:2])
    assert code == 2 and 'expected a name' in errors
    assert run_command('gallery', 'remove', ' Ada ', *place[:2])[1]['removed'] == 1


def test_the_gallery_command_while_another_process_writes(
    folder, model, run_command, tmp_path, monkeypatch
):
    monkeypatch.setattr(gallery, '_LOCK_SECONDS', 0.2)
    place = ['--gallery', tmp_path / 'people', '--model', model]
    picture = folder / 'p0' / '0.png'
    run_command('gallery', 'enrol', 'Ada', picture, *place)
    other = sqlite3.connect(tmp_path / 'people' / gallery.DATABASE, isolation_level=None)
    other.execute('BEGIN IMMEDIATE')
    assert run_command('gallery', 'list', *place[:2])[1]['identities'] == {'Ada': 1}
    assert run_command('gallery', 'identify', picture, *place)[0] == 0
    enrol = ('gallery', 'enrol', 'Grace', picture, *place, '--force')
    code, _, errors = run_command(*enrol)
    assert code == 1 and 'another process is writing' in errors and 'no gallery' not in errors
    other.close()
    assert run_command(*enrol)[0] == 0


def test_the_false_accept_rate_that_nobody_has_chosen():
    assert default_far({'0.1': 0.2, '0.001': 0.4, '1e-05': 0.5}) == '0.001'
    assert default_far({'0.1': 0.2, '0.05': 0.3}) == '0.05'  # a small set tells no lower one
    assert default_far({}) is None
    assert default_far({'0.1': 0.2, '0.001': 0.4}, 0.1) == '0.1'


def test_an_export_names_the_rates_that_are_usual_for_it(folder, run_command, tmp_path):
    model = export_folder(tmp_path, thresholds={'0.2': 0.3, '0.1': 0.5, '0.001': 0.9})
    record = json.loads((model / 'export.json').read_text())
    record['usual_rates'] = {'far': 0.1, 'fpir': 0.2}
    write_checked(model / 'export.json', record)
    picture, place = folder / 'p0' / '0.png', ['--model', model]
    _, result, _ = run_command('compare', picture, picture, *place)
    assert (result['far'], result['threshold']) == (0.1, 0.5)
    place += ['--gallery', tmp_path / 'people']
    assert run_command('gallery', 'enrol', 'Ada', picture, *place)[0] == 0
    _, result, _ = run_command('gallery', 'identify', picture, *place)
    # of one face FPIR and FAR are the same
    assert (result['fpir'], round(result['threshold'], 9)) == (0.2, 0.3)
    record['usual_rates'] = {'far': 2.0}
    write_checked(model / 'export.json', record)
    code, _, errors = run_command('compare', picture, picture, *place[:2])
    assert code == 2 and 'is no record of an export' in errors


def test_a_person_under_two_names_is_told_at_the_rate_of_the_export(folder, run_command, tmp_path):
    model = export_folder(tmp_path, thresholds={'0.2': -0.99, '0.01': 0.9999})
    place = ['--model', model, '--gallery', tmp_path / 'people']
    first, other = folder / 'p0' / '0.png', folder / 'p1' / '1.png'
    assert run_command('gallery', 'enrol', 'Ada', first, *place)[0] == 0
    code, _, errors = run_command('gallery', 'enrol', 'Eve', other, *place)
    assert code == 0, errors
    assert run_command('gallery', 'remove', 'Eve', *place[2:])[0] == 0
    record = json.loads((model / 'export.json').read_text())
    record['usual_rates'] = {'fpir': 0.2}
    write_checked(model / 'export.json', record)
    code, _, errors = run_command('gallery', 'enrol', 'Eve', other, *place)
    assert code == 2 and "looks like 'Ada'" in errors


def test_a_list_with_a_byte_order_mark(folder, model, run_command, tmp_path):
    lines = f'{folder / "p0" / "0.png"}\n'
    (tmp_path / 'list.txt').write_bytes(b'\xef\xbb\xbf' + lines.encode())
    place = ('--model', model, '--out', tmp_path / 'f.npz')
    assert run_command('embed', tmp_path / 'list.txt', *place)[1]['embedded'] == 1


def test_the_lowest_stored_rate_counts_without_the_usual_one(folder, run_command, tmp_path):
    model = export_folder(tmp_path, thresholds={'0.1': 0.5, '0.05': 0.6})
    pictures = [folder / 'p0' / '0.png'] * 2
    _, result, _ = run_command('compare', *pictures, '--model', model)
    assert (result['far'], result['threshold']) == (0.05, 0.6)
    assert run_command('compare', *pictures, '--model', model, '--far', 2)[0] == 2


@needs_mxnet
def test_every_file_has_its_own_thresholds(tmp_path):
    out = export_folder(tmp_path)
    record = json.loads((out / 'export.json').read_text())
    record['verification'] = [
        {'file': file, 'engine': engine, 'thresholds': {'0.1': number / 10}}
        for number, (file, engine) in enumerate(
            (file, engine)
            for file in ('model.onnx', 'model.int8.onnx')
            for engine in ('openvino', 'onnxruntime')
        )
    ]
    for name in ('model.int8.onnx', 'model.fp16.onnx'):  # the content does not matter here
        shutil.copy(out / 'model.onnx', out / name)
        record['files'][name] = record['files']['model.onnx']
    write_checked(out / 'export.json', record)
    for name, backend, wanted in (
        ('', 'openvino', 0.0),
        ('', 'onnxruntime', 0.1),
        ('', 'mxnet', 0.0),
        ('model.int8.onnx', 'openvino', 0.2),
        ('model.int8.onnx', 'onnxruntime', 0.3),
        ('model.fp16.onnx', 'onnxruntime', 0.1),
    ):
        assert stored_thresholds(FaceEmbedder(out / name, backend)) == {'0.1': wanted}
    del record['verification'][:2]
    write_checked(out / 'export.json', record)
    for name in ('', 'model.fp16.onnx'):  # int8's are not theirs
        assert stored_thresholds(FaceEmbedder(out / name, 'onnxruntime')) == {}
