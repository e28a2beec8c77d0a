import cv2
import numpy as np
import pytest
from pictures import decoded, encoded, scene, with_border
from vargfacenet.common.data.detect import (
    WHICH,
    FaceDetector,
    Faces,
    looks_aligned,
    warn_if_unaligned,
)
from vargfacenet.common.data.detectors import DETECTORS
from vargfacenet.common.synth.face import jpeg_faces, landmarks, person, render
from vargfacenet.common.synth.traits import Variation


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


def test_the_largest_the_central_or_all_are_wanted(detector, monkeypatch):
    boxes = np.array([(150, 0, 20, 20), (80, 40, 30, 30), (0, 0, 50, 60)], float)
    points = np.arange(30.0).reshape(3, 5, 2)
    faces = Faces(boxes, np.array([0.97, 0.99, 0.95]), points)
    monkeypatch.setattr(DETECTORS.get('mtcnn'), 'find', lambda self, image: faces)
    monkeypatch.setattr(DETECTORS.get('mtcnn'), 'find_larger', lambda self, image, times: faces)

    def wanted(which, height, width):
        found = detector.wanted(np.zeros((height, width, 3), np.uint8), which)
        return found.faces.landmarks.tolist(), found.count

    # the smallest has less than half of the largest one's side
    assert wanted('largest', 100, 200) == ([points[2].tolist()], 2)
    assert wanted('centre', 100, 200) == ([points[1].tolist()], 3)
    assert wanted('all', 100, 200) == (points[::-1].tolist(), 3)
    # 200 high and 60 wide: now the largest is nearest to the middle
    assert wanted('centre', 200, 60) == ([points[2].tolist()], 3)
    faces = Faces(np.empty((0, 4)), np.empty(0), np.empty((0, 5, 2)))
    for which in WHICH:
        assert wanted(which, 100, 200) == ([], 0)


def test_a_large_photograph_is_searched_made_smaller(detector):
    """What is found is told in pixels of the photograph."""
    photograph = scene(0, size=640)  # 1120 pixels a side
    large = cv2.resize(photograph, None, fx=3, fy=3)
    found, enlarged = detector.detect(photograph), detector.detect(large)
    assert len(found.scores) == len(enlarged.scores) == 1
    np.testing.assert_allclose(enlarged.landmarks, 3 * found.landmarks, atol=60)
    np.testing.assert_allclose(enlarged.boxes, 3 * found.boxes, atol=90)


def test_aligned_crops_are_told_from_other_pictures_of_faces(detector):
    crops = [decoded(jpeg_faces(0, identity, (0,), 112)[0]) for identity in range(16)]
    photographs = [with_border(crop)[0] for crop in crops]
    for pictures, expected in (
        (crops, True),
        ([cv2.resize(crop, (224, 224)) for crop in crops], True),
        (photographs, False),
        ([cv2.resize(photograph, (112, 112)) for photograph in photographs], False),
        ([np.hstack([np.zeros_like(p), p, np.zeros_like(p)]) for p in photographs], False),
    ):
        told = [looks_aligned(encoded(picture, '.png'), detector) for picture in pictures]
        assert told.count(expected) >= 12 and told.count(not expected) <= 3
    assert looks_aligned(encoded(np.zeros((112, 112, 3), np.uint8)), detector) is None


def test_photographs_among_crops_are_warned_of(tmp_path, caplog):
    crops = [decoded(jpeg_faces(0, identity, (0,), 112)[0]) for identity in range(10)]
    paths = [tmp_path / f'{number}.jpg' for number in range(11)]
    for path, crop in zip(paths, crops):
        path.write_bytes(encoded(crop))
    paths[10].write_bytes(b'broken')
    assert warn_if_unaligned('faces', paths) <= 1 and caplog.text == ''
    for path, crop in list(zip(paths, crops))[:5]:
        path.write_bytes(encoded(with_border(crop)[0]))
    assert warn_if_unaligned('faces', paths) >= 4
    assert 'faces: ' in caplog.text and 'vargfacenet align' in caplog.text
