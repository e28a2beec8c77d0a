import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import blank, decoded, encoded, scene
from PIL import Image
from vargfacenet.common.data import align
from vargfacenet.common.data.detect import FaceDetector
from vargfacenet.common.data.warp import TEMPLATE
from vargfacenet.common.synth.face import person, render
from vargfacenet.common.synth.traits import Variation

CROPS = ['anna/1.jpg', 'anna/deep/2.jpg', 'both.jpg']
PHOTOS = os.environ.get('VARGFACENET_TEST_PHOTOS')


@pytest.fixture
def folder(tmp_path):
    """Identity folders and a picture beside them."""
    for name, picture in {
        'anna/1.png': scene(0),
        'anna/deep/2.jpg': scene(3),
        'both.jpg': scene(0, 1),
        'wall.bmp': blank(),
    }.items():
        path = tmp_path / 'photos' / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(picture, path.suffix))
    (tmp_path / 'photos' / 'notes.txt').write_text('no picture')
    return tmp_path / 'photos'


def files_in(out):
    return sorted(path.relative_to(out).as_posix() for path in out.rglob('*') if path.is_file())


def test_a_folder_becomes_a_folder_of_crops(folder, tmp_path, run_command):
    out = tmp_path / 'crops'
    code, result, errors = run_command('align', folder, out, '--min-size', 60)
    assert code == 0 and '3 of 4 pictures' in errors
    keys = ('images', 'found', 'not_found', 'several', 'unreadable', 'faces')
    assert [result[key] for key in keys] == [4, 3, 1, 1, 0, 3]
    assert files_in(out) == [*CROPS, 'crops.txt', 'not_found.txt']
    assert (out / 'not_found.txt').read_text() == 'wall.bmp\n'
    assert (out / 'crops.txt').read_text().splitlines() == CROPS
    assert result['other_files'] == 1 and '1 files are no pictures' in errors
    assert '.txt 1' in errors
    # the crop of an aligned face is that face again, up to what the detector is wrong by
    again = decoded((out / 'anna/1.jpg').read_bytes()).astype(int)
    face = render(person(0, 0), Variation())
    assert again.shape == (112, 112, 3)
    assert np.abs(again - face)[30:100, 25:85].mean() < 18
    assert np.abs(again[..., ::-1] - face)[30:100, 25:85].mean() > 25  # channels exchanged


def test_all_faces_of_a_picture_are_numbered(folder, tmp_path, run_command):
    out = tmp_path / 'crops'
    code, result, _ = run_command('align', folder, out, '--min-size', 60, '--which', 'all')
    assert code == 0 and (result['faces'], result['found']) == (4, 3)
    crops = ['anna/1_0.jpg', 'anna/deep/2_0.jpg', 'both_0.jpg', 'both_1.jpg']
    assert files_in(out) == [*crops, 'crops.txt', 'not_found.txt']


def test_threads_do_not_change_the_crops(folder, tmp_path, run_command):
    for workers in (1, 3):
        out = tmp_path / str(workers)
        assert run_command('align', folder, out, '--min-size', 60, '--workers', workers)[0] == 0
    for name in files_in(tmp_path / '1'):
        assert (tmp_path / '1' / name).read_bytes() == (tmp_path / '3' / name).read_bytes()


def test_a_broken_picture_stops_the_run_unless_it_may_be_skipped(folder, tmp_path, run_command):
    (folder / 'broken.jpg').write_bytes(encoded(scene(0))[:5000])
    code, _, errors = run_command('align', folder, tmp_path / 'a', '--min-size', 60)
    assert code == 2 and 'broken.jpg' in errors and '--skip-broken' in errors
    (tmp_path / 'alone').mkdir()
    (tmp_path / 'alone' / 'broken.jpg').write_bytes(encoded(scene(0))[:5000])
    assert run_command('align', tmp_path / 'alone', tmp_path / 'none')[0] == 2
    assert not (tmp_path / 'none').exists()
    options = ('--min-size', 60, '--skip-broken')
    code, result, errors = run_command('align', folder, tmp_path / 'b', *options)
    assert code == 0 and 'broken.jpg' in errors
    assert [result[key] for key in ('images', 'found', 'not_found', 'unreadable')] == [5, 3, 1, 1]
    assert (tmp_path / 'b' / 'not_found.txt').read_text() == 'wall.bmp\n'


def test_crops_of_an_earlier_run_do_not_stay(folder, tmp_path, run_command):
    """Otherwise a picture that was removed, or whose face is not found any more, still trains."""
    out = tmp_path / 'crops'
    assert run_command('align', folder, out, '--min-size', 60)[0] == 0
    (folder / 'anna' / '1.png').unlink()
    code, _, errors = run_command('align', folder, out, '--min-size', 60)
    assert code == 2 and 'holds 3 pictures already' in errors
    assert '--overwrite to remove' in errors and 'does not go on but begins again' in errors
    assert [name for name in files_in(out) if name.endswith('.jpg')] == CROPS
    again = ('--min-size', 60, '--which', 'all', '--overwrite')
    assert run_command('align', folder, out, *again)[0] == 0
    kept = ['anna/deep/2_0.jpg', 'both_0.jpg', 'both_1.jpg']
    assert [name for name in files_in(out) if name.endswith('.jpg')] == kept


def test_a_crop_is_listed_before_it_is_there(folder, tmp_path, run_command, monkeypatch):
    """Otherwise --overwrite does not know the crops of a run that was killed."""
    out, write = tmp_path / 'crops', align.atomic_write

    def write_two(path, content):
        if len(list(out.rglob('*.jpg'))) == 2:
            assert len((out / 'crops.txt').read_text().splitlines()) == 3
            raise KeyboardInterrupt
        write(path, content)

    monkeypatch.setattr(align, 'atomic_write', write_two)
    options = ('--min-size', 60, '--workers', 1)
    run_command('align', folder, out, *options)
    assert set((out / 'crops.txt').read_text().splitlines()) == set(CROPS)
    monkeypatch.undo()
    assert run_command('align', folder, out, *options, '--overwrite')[0] == 0
    assert files_in(out) == [*CROPS, 'crops.txt', 'not_found.txt']


def test_overwriting_removes_nothing_that_align_did_not_write(folder, tmp_path, run_command):
    out = tmp_path / 'crops'
    out.mkdir()
    (out / 'holiday.jpg').write_bytes(encoded(blank()))
    (tmp_path / 'precious.jpg').write_bytes(b'')
    (out / 'link').symlink_to(tmp_path)
    names = ('../precious.jpg', f'{tmp_path}/precious.jpg', 'link/precious.jpg', 'holiday.txt')
    (out / 'crops.txt').write_text('\n'.join(names))
    code, _, errors = run_command('align', folder, out, '--min-size', 60, '--overwrite')
    assert code == 2 and 'holiday.jpg' in errors
    assert (out / 'holiday.jpg').is_file() and (tmp_path / 'precious.jpg').is_file()


def test_folders_behind_links_are_aligned_and_loops_end(tmp_path, run_command):
    photos, disk = tmp_path / 'photos', tmp_path / 'disk'
    (disk / 'deep').mkdir(parents=True)
    photos.mkdir()
    (disk / 'deep' / '1.png').write_bytes(encoded(scene(0), '.png'))
    (photos / 'anna').symlink_to(disk)
    (disk / 'back').symlink_to(photos)
    (photos / 'one.png').symlink_to(disk / 'deep' / '1.png')
    code, result, errors = run_command('align', photos, tmp_path / 'out', '--min-size', 60)
    assert (code, result['images'], result['found']) == (0, 2, 2)
    assert '1 links to folders that are there already are left out' in errors
    assert (tmp_path / 'out' / 'anna' / 'deep' / '1.jpg').is_file()


def test_names_that_are_no_utf8_and_pictures_without_a_suffix(tmp_path, run_command):
    photos = tmp_path / 'photos'
    person_folder = photos / os.fsdecode(b'M\xfcller')
    person_folder.mkdir(parents=True)
    (person_folder / 'IMG.1').write_bytes(encoded(scene(0)))
    (person_folder / '2.png').write_bytes(encoded(blank(), '.png'))
    code, result, _ = run_command('align', photos, tmp_path / 'out', '--min-size', 60)
    assert (code, result['found'], result['not_found']) == (0, 1, 1)
    assert (tmp_path / 'out' / 'not_found.txt').read_bytes() == b'M\xfcller/2.png\n'
    assert (tmp_path / 'out' / 'crops.txt').read_bytes() == b'M\xfcller/IMG.1.jpg\n'


def test_a_picture_that_unpacks_to_gigabytes_is_refused_from_its_header(tmp_path, run_command):
    photos = tmp_path / 'photos'
    photos.mkdir()
    Image.new('1', (15000, 15000)).save(photos / 'x.png')
    code, _, errors = run_command('align', photos, tmp_path / 'out')
    assert code == 2 and 'more than 100 million pixels' in errors


def with_orientation(jpeg, orientation):
    """The JPEG with an EXIF segment that holds nothing but the orientation tag."""
    entry = b'\x01\x12\x00\x03\x00\x00\x00\x01' + bytes((0, orientation, 0, 0))
    tiff = b'MM\x00\x2a\x00\x00\x00\x08\x00\x01' + entry + b'\x00\x00\x00\x00'
    body = b'Exif\x00\x00' + tiff
    return jpeg[:2] + b'\xff\xe1' + (len(body) + 2).to_bytes(2, 'big') + body + jpeg[2:]


def test_the_orientation_a_camera_notes_is_honoured(tmp_path, run_command):
    photos = tmp_path / 'photos'
    photos.mkdir()
    lying = encoded(np.rot90(scene(0)))  # to be turned by 90 degrees clockwise: orientation 6
    (photos / 'lying.jpg').write_bytes(with_orientation(lying, 6))
    (photos / 'upright.png').write_bytes(encoded(np.rot90(decoded(lying), -1), '.png'))
    out = tmp_path / 'out'
    code, result, _ = run_command('align', photos, out, '--min-size', 60)
    assert code == 0 and result['found'] == 2
    assert (out / 'lying.jpg').read_bytes() == (out / 'upright.jpg').read_bytes()


def test_pictures_that_would_share_a_crop_are_refused(tmp_path, run_command):
    for name in ('a.jpg', 'a.png'):
        (tmp_path / 'photos').mkdir(exist_ok=True)
        (tmp_path / 'photos' / name).write_bytes(encoded(blank(), Path(name).suffix))
    code, _, errors = run_command('align', tmp_path / 'photos', tmp_path / 'out')
    assert code == 2 and errors.count('\n') == 1 and 'a.jpg' in errors and 'a.png' in errors


def test_wrong_folders_give_one_line(tmp_path, run_command):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'file').write_text('in the way')
    (tmp_path / 'photos').mkdir()
    (tmp_path / 'photos' / 'a.png').write_bytes(encoded(blank(), '.png'))
    for folder, out, words in (
        ('missing', 'out', 'is no folder'),
        ('empty', 'out', 'no pictures'),
        ('photos', 'photos/crops', 'choose a folder outside'),
        ('photos', 'photos', 'choose a folder outside'),
        ('photos', 'file', 'cannot write here'),
    ):
        code, _, errors = run_command('align', tmp_path / folder, tmp_path / out)
        assert code == 2 and errors.count('\n') == 1 and words in errors


@pytest.mark.parametrize(
    'option',
    [('--min-size', 5), ('--min-score', 1.5), ('--quality', 0), ('--workers', 0), ('--which', 'x')],
)
def test_wrong_options_give_one_line(tmp_path, run_command, option):
    code, _, errors = run_command('align', tmp_path, tmp_path / 'out', *option)
    assert code == 2 and errors.count('\n') == 1 and str(option[1]) in errors


@pytest.mark.skipif(not PHOTOS, reason='VARGFACENET_TEST_PHOTOS names no folder of photographs')
def test_photographs_end_up_on_the_template(tmp_path, run_command):
    code, result, _ = run_command('align', PHOTOS, tmp_path / 'out', '--which', 'centre')
    assert code == 0 and result['found'] >= 0.95 * result['images']
    detector = FaceDetector(min_size=60)
    offsets = []
    for path in sorted((tmp_path / 'out').rglob('*.jpg')):
        face = cv2.copyMakeBorder(decoded(path.read_bytes()), *[40] * 4, cv2.BORDER_REPLICATE)
        offsets += [points - 40 - TEMPLATE for points in detector.detect(face).landmarks[:1]]
    assert len(offsets) > 0.8 * result['found']
    assert np.abs(offsets).mean() < 3
