import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import decoded, encoded
from vargfacenet.common.data.align import FaceDetector, Faces, choose
from vargfacenet.common.data.warp import TEMPLATE
from vargfacenet.common.synth.face import landmarks, person, render
from vargfacenet.common.synth.traits import Variation

PHOTOS = os.environ.get('VARGFACENET_TEST_PHOTOS')


def with_border(face):
    """A face continued on all sides, by less than would show a second one in the mirror."""
    border = 3 * len(face) // 8
    return cv2.copyMakeBorder(face, *[border] * 4, cv2.BORDER_REFLECT_101), border


def scene(*people, size=160):
    """A photograph: synthetic faces side by side."""
    faces = [render(person(0, identity), Variation(), size) for identity in people]
    return np.hstack([with_border(face)[0] for face in faces])


def blank():
    return np.full((120, 160, 3), 128, np.uint8)


@pytest.fixture(scope='module')
def detector():
    return FaceDetector(min_size=60)


def test_the_detector_finds_the_landmarks_in_the_template_order(detector):
    errors = []
    for identity in range(6):
        variation = Variation(yaw=5.0 * (identity - 3))
        photograph, border = with_border(render(person(0, identity), variation, 160))
        faces = detector.detect(photograph)
        assert faces.boxes.shape[1:] == (4,) and faces.landmarks.shape[1:] == (5, 2)
        assert faces.scores[0] >= 0.9
        truth = landmarks(person(0, identity), variation, 160) + border
        errors.append(np.abs(faces.landmarks[0] - truth).mean())
        x, y, width, height = faces.boxes[0]
        assert (truth > (x, y)).all() and (truth < (x + width, y + height)).all()
    assert np.mean(errors) < 3  # pixels of a face 160 wide; swapped points would make it > 10


def test_the_detector_takes_rgb():
    """Faces are found less surely when red and blue are exchanged."""
    detector = FaceDetector(min_size=60, min_score=0.5)

    def total(reverse):
        pictures = [scene(identity, size=112) for identity in range(12)]
        found = [
            detector.detect(picture[..., ::-1] if reverse else picture) for picture in pictures
        ]
        return sum(faces.scores.max(initial=0) for faces in found)

    assert total(reverse=False) > total(reverse=True) + 0.5


@pytest.mark.parametrize('shape', [(1, 1), (1, 300), (11, 11), (120, 160)])
def test_pictures_without_a_face_give_empty_arrays(detector, shape):
    faces = detector.detect(np.full((*shape, 3), 128, np.uint8))
    assert [part.shape for part in faces] == [(0, 4), (0,), (0, 5, 2)]


def test_small_faces_are_found_only_if_asked_for():
    photograph = scene(4, size=64)  # the face is about 50 pixels high
    assert len(FaceDetector(min_size=20).detect(photograph).scores) == 1
    assert len(FaceDetector(min_size=100).detect(photograph).scores) == 0


def test_choose_takes_the_largest_the_central_or_all():
    boxes = np.array([(0, 0, 50, 60), (80, 40, 30, 30), (150, 0, 20, 20)], float)
    points = np.arange(30.0).reshape(3, 5, 2)
    faces = Faces(boxes, np.array([0.95, 0.99, 0.97]), points)
    np.testing.assert_array_equal(choose(faces, 'largest', (100, 200, 3)), points[:1])
    np.testing.assert_array_equal(choose(faces, 'centre', (100, 200, 3)), points[1:2])
    np.testing.assert_array_equal(choose(faces, 'all', (100, 200, 3)), points)
    # 200 high and 100 wide: now the first is nearest to the middle
    np.testing.assert_array_equal(choose(faces, 'centre', (200, 60, 3)), points[:1])
    nobody = Faces(np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2)))
    for which in ('largest', 'centre', 'all'):
        assert choose(nobody, which, (100, 200, 3)).shape == (0, 5, 2)


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
    assert files_in(out) == ['anna/1.jpg', 'anna/deep/2.jpg', 'both.jpg', 'not_found.txt']
    assert (out / 'not_found.txt').read_text() == 'wall.bmp\n'
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
    assert files_in(out) == [*crops, 'not_found.txt']


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
    options = ('--min-size', 60, '--skip-broken')
    code, result, errors = run_command('align', folder, tmp_path / 'b', *options)
    assert code == 0 and 'broken.jpg' in errors
    assert [result[key] for key in ('images', 'found', 'not_found', 'unreadable')] == [5, 3, 1, 1]
    assert (tmp_path / 'b' / 'not_found.txt').read_text() == 'wall.bmp\n'


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
        ('photos', 'photos/crops', 'choose an output folder outside'),
        ('photos', 'photos', 'choose an output folder outside'),
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
