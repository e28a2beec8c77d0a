"""The largest face, coarse to fine, beside what is drawn and what a complete search finds."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import scene
from vargfacenet.common.data.coarse_to_fine import largest_face
from vargfacenet.common.data.detect import FaceDetector
from vargfacenet.common.data.detectors import Detector, Faces
from vargfacenet.common.data.detectors.mtcnn import Mtcnn
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.data.warp import TEMPLATE, estimate_similarity

PHOTOS = os.environ.get('VARGFACENET_TEST_PHOTOS')
YUNET = os.environ.get('VARGFACENET_TEST_YUNET')
SMALLEST = 20
SURE = 0.6


class Squares(Detector):
    """Finds bright squares, surely where they are white, and tells how many pixels it saw."""

    title, smallest, side = 'squares', 10, 2000

    def __init__(self):
        self.seen = 0

    def find(self, image):
        self.seen += image.shape[0] * image.shape[1]
        bright = (image[:, :, 0] > 100).astype(np.uint8)
        _, labels, stats, _ = cv2.connectedComponentsWithStats(bright, connectivity=4)
        boxes = stats[1:, :4].astype(float)
        scores = np.array([image[labels == n, 0].mean() / 255 for n in range(1, len(stats))])
        points = boxes[:, None, :2] + TEMPLATE / 112 * boxes[:, None, 2:]
        large = boxes[:, 2:].min(axis=1, initial=np.inf) >= SMALLEST * 0.9
        return Faces(boxes[large], scores[large], points[large])


def drawn(squares, height=480, width=640):
    """A picture of (x, y, side, brightness)."""
    image = np.zeros((height, width, 3), np.uint8)
    for x, y, side, brightness in squares:
        image[y : y + side, x : x + side] = brightness
    return image


def search(image):
    """(box of the largest or None, count, share of the picture's pixels that were seen)."""
    detector = Squares()
    found = largest_face(detector, image, SMALLEST, SURE)
    box = found.faces.boxes[0] if found.count else None
    if found.count:
        inside = (found.faces.landmarks[0] - box[:2]) / box[2:]
        np.testing.assert_allclose(inside, TEMPLATE / 112, atol=0.02)
    return box, found.count, detector.seen / (image.shape[0] * image.shape[1])


def test_the_largest_of_drawn_squares_is_found(rng):
    """Wherever they are and however large, also beside one of nearly the same size."""
    less = 0
    for _ in range(50):
        largest = int(np.exp(rng.uniform(np.log(SMALLEST + 4), np.log(230))))
        shares = rng.choice([0.2, 0.35, 0.62, 0.8, 0.9, 0.97], rng.randint(0, 4))
        sizes = [largest, *(int(largest * share) for share in shares)]
        cells = rng.permutation(4)[: len(sizes)]  # each in a part of 240x240 of its own
        squares = [
            (
                240 * (cell % 2) + rng.randint(0, 239 - size),
                240 * (cell // 2) + rng.randint(0, 239 - size),
                size,
                255,
            )
            for cell, size in zip(cells, sizes)
        ]
        box, count, seen = search(drawn(squares, 480, 480))
        np.testing.assert_allclose(box, [*squares[0][:2], largest, largest], atol=3)
        sure = [size for size in sizes if size >= max(0.5 * largest, 0.9 * SMALLEST)]
        assert count == len(sure), sizes
        less += seen < 0.5
    assert 5 < less < 30  # a third of them is large enough


def test_a_large_face_takes_a_part_of_the_work():
    """Also at the edge of the picture, and small ones elsewhere do not count."""
    for x, y in ((200, 150), (0, 0), (460, 300)):
        box, count, seen = search(drawn([(x, y, 180, 255), (400, 5, 40, 255)]))
        np.testing.assert_allclose(box, [x, y, 180, 180], atol=2)
        assert count == 1 and seen < 0.4


@pytest.mark.parametrize(
    ('squares', 'count'),
    [
        ([(100, 100, 25, 255)], 1),  # small
        ([(50, 50, 200, 255), (300, 50, 195, 255)], 2),  # two as large
        ([(50, 50, 150, 255), (300, 50, 250, 120)], 1),  # a larger one that may be none
        ([(300, 50, 250, 120)], 0),
        ([], 0),
    ],
)
def test_what_a_coarse_look_cannot_tell_is_searched_completely(squares, count):
    box, found, seen = search(drawn(squares))
    assert found == count and seen > 1
    assert (box is None) == (count == 0)
    if count:
        np.testing.assert_array_equal(box, [*squares[0][:3], squares[0][2]])


def test_a_face_that_is_not_seen_again_is_searched_for():
    class Shy(Squares):
        def find(self, image):
            faces = super().find(image)
            is_cut = abs(image.shape[0] / image.shape[1] - 0.75) > 0.1
            return Faces(*(part[: 0 if is_cut else None] for part in faces))

    detector = Shy()
    found = largest_face(detector, drawn([(200, 150, 180, 255)]), SMALLEST, SURE)
    assert found.count == 1 and found.faces.boxes[0].tolist() == [200, 150, 180, 180]
    assert detector.seen > 480 * 640


def test_a_box_beside_the_picture_is_not_looked_for_in_it():
    class Beside(Squares):
        def find_larger(self, image, times):
            box = [[-400.0, 100, 300, 300]]
            return Faces(np.array(box), np.array([1.0]), np.zeros((1, 5, 2)))

        def find(self, image):
            assert image.shape == (480, 640, 3)  # the complete search, no cut
            return super().find(image)

    found = largest_face(Beside(), drawn([(200, 100, 200, 255)]), SMALLEST, SURE)
    np.testing.assert_array_equal(found.faces.boxes, [[200, 100, 200, 200]])


def test_a_look_of_mtcnn_sees_what_a_complete_search_sees(monkeypatch):
    """The large faces of drawn photographs, with the same points to rounding. Only the third one,
    whose face is not large enough for a coarse look, is searched completely."""
    photographs = [
        np.hstack([scene(0, size=240), np.pad(scene(1, size=80), ((280, 0), (0, 0), (0, 0)))]),
        cv2.resize(scene(2), (640, 640)),
        np.pad(scene(3, size=200), ((300, 0), (0, 200), (0, 0))),
        cv2.warpAffine(scene(4, size=240), cv2.getRotationMatrix2D((210, 210), 15, 1), (420, 420)),
    ]
    detector = FaceDetector(SMALLEST)
    find_larger, times = Mtcnn.find_larger, []

    def recorded(self, image, least):
        times.append(least)
        return find_larger(self, image, least)

    monkeypatch.setattr(Mtcnn, 'find_larger', recorded)
    completely = []
    for photograph in photographs:
        complete = detector.detect(photograph)
        times.clear()
        found = detector.wanted(photograph, 'largest')
        completely.append(1 in times)
        np.testing.assert_allclose(found.faces.landmarks[0], complete.landmarks[0], atol=0.01)
        np.testing.assert_allclose(found.faces.boxes[0], complete.boxes[0], atol=0.01)
    assert completely == [False, False, True, False]


@pytest.mark.skipif(
    not (PHOTOS and YUNET), reason='VARGFACENET_TEST_PHOTOS and _YUNET name no folders'
)
def test_of_real_faces_the_largest_is_the_same():
    """Beside smaller ones, at the edge and turned; points a complete search's, in the crop."""
    faces = [
        cv2.resize(decode_rgb(path.read_bytes())[47:203, 47:203], (300, 300))
        for path in sorted(Path(PHOTOS).rglob('*_0001.jpg'))[:8]
    ]
    photographs = []
    for number, face in enumerate(faces):
        photograph = np.full((480, 640, 3), 110, np.uint8)
        turn = cv2.getRotationMatrix2D((150, 150), (0, 20)[number % 2], 1)
        large = cv2.warpAffine(face, turn, (300, 300), borderMode=cv2.BORDER_REPLICATE)
        photograph[number * 20 : number * 20 + 300, :300] = large
        side = (80, 150, 240, 290)[number % 4]
        photograph[100 : 100 + side, 330 : 330 + side] = cv2.resize(faces[-number], (side, side))
        photographs.append(photograph)
    for name in ('mtcnn', *sorted(map(str, Path(YUNET).glob('*.onnx')))):
        detector, offsets = FaceDetector(SMALLEST, detector=name), []
        for photograph in photographs:
            complete = detector.detect(photograph).landmarks[0]
            found = detector.wanted(photograph, 'largest').faces.landmarks[0]
            linear = estimate_similarity(complete)[:, :2]
            offsets.append(np.linalg.norm((found - complete) @ linear.T, axis=1).mean())
        assert max(offsets) < (0.01 if name == 'mtcnn' else 10), name
        assert np.mean(offsets) < 3, name
