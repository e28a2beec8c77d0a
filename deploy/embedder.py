"""FaceEmbedder: crops and photographs to embeddings, on the fastest engine that is installed."""

import os
from collections.abc import Sequence
from typing import NamedTuple, Union

import numpy as np

from ..common.data import detect
from ..common.data.detect import CROP_FACE, MIN_FACE, FaceDetector, is_aligned_crop
from ..common.data.detectors import DEFAULT, detector_kind
from ..common.data.image import decode_rgb, has_crop_size, read_picture
from ..common.data.warp import crop
from ..common.engine.engines import AUTO
from ..common.engine.open_model import OpenModel, open_model
from ..common.errors import InputError
from ..common.files import PathLike, input_file
from ..common.names import IMAGE_SIZE
from ..common.registry import unknown_name
from ..common.vectors import unit_rows

WHICH = ('largest', 'all')
CANDIDATE = 0.4  # score of what may be a face

Photo = Union[np.ndarray, bytes, PathLike]


class Faces(NamedTuple):
    """The faces of one photograph, largest first; n may be 0."""

    embeddings: np.ndarray  # (n, D) float32, unit length
    boxes: np.ndarray  # (n, 4) float64: x, y, width, height in pixels of the photograph
    scores: np.ndarray  # (n,) float64, the detector's confidence 0..1
    crops: np.ndarray  # (n, 112, 112, 3) uint8 RGB, aligned


class FaceFinder:
    """Finds and aligns the faces of photographs. One object serves one thread at a time.

    Parameters
    ----------
    min_face : side of the smallest face to find, in pixels
    detector, many : as for FaceDetector
    """

    def __init__(self, min_face: int = MIN_FACE, detector: str = DEFAULT, many: bool = False):
        self._min_face, self._many = min_face, many
        self._detector = FaceDetector(min_face, detector=detector, many=many)
        self._crop_detector = None

    def is_crop(self, image: np.ndarray) -> bool:
        """Whether a picture is an aligned crop already; see `is_aligned_crop`.

        MTCNN tells, whatever finds faces in photographs: others see few that fill a picture.
        """
        if not has_crop_size(image):
            return False
        if self._crop_detector is None:
            self._crop_detector = FaceDetector(max(CROP_FACE, self._min_face), many=self._many)
        return is_aligned_crop(image, self._crop_detector)

    def candidates(self, image: np.ndarray) -> detect.Faces:
        """What may be faces, however small and doubtful; their landmarks are not to be used."""
        kind, _ = detector_kind(self._detector.name)
        finder = FaceDetector(kind.smallest, CANDIDATE, self._detector.name)
        return finder.wanted(image, 'all', slice(0)).faces

    def wanted(self, image: np.ndarray, which: str, exact: slice = slice(None)) -> detect.Wanted:
        """As FaceDetector.wanted."""
        return self._detector.wanted(image, which, exact)


class FaceEmbedder:
    """Embeds faces with an exported model or a checkpoint. One object serves one thread at a time.

    Parameters
    ----------
    model : the folder of an export, an `.onnx` file, or a checkpoint PREFIX,EPOCH
    backend : 'openvino', 'onnxruntime', 'mxnet', or 'auto': the first of them that is installed
    precision : of OpenVINO's arithmetic, 'float32' or 'bfloat16' (cosine 0.9999 to float32 and
        twice as fast, on CPUs that have it)
    batch_size : images at once, at most; memory grows with it
    min_face : side of the smallest face to find in photographs, in pixels
    device, preprocessing : as for `open_model`

    Attributes
    ----------
    model : as it was given
    backend : what runs it
    embedding_size : D
    fingerprint : hex digest of the checkpoint's weights; embeddings of two models do not compare
    weights : file that the weights come from
    record : content of export.json, {} for a model without one
    preprocessing : what pixels become before the model
    finder : finds the faces of photographs

    Raises
    ------
    InputError for files that are missing, damaged, or of another contract, and for a backend that
    is not installed or cannot run this kind of file.
    """

    def __init__(
        self,
        model: PathLike,
        backend: str = AUTO,
        precision: str = 'float32',
        batch_size: int = 32,
        min_face: int = MIN_FACE,
        device: str = 'cpu',
        preprocessing: str = '',
        detector: str = DEFAULT,
    ):
        opened = open_model(model, backend, precision, device, batch_size, preprocessing)
        self._use(opened, min_face, detector)

    @classmethod
    def of(
        cls,
        opened: OpenModel,
        min_face: int = MIN_FACE,
        detector: str = DEFAULT,
        many: bool = False,
    ) -> 'FaceEmbedder':
        """The embedder of a model that is open; `many` as of FaceDetector."""
        embedder = cls.__new__(cls)
        embedder._use(opened, min_face, detector, many)
        return embedder

    def _use(self, opened: OpenModel, min_face: int, detector: str, many: bool = False) -> None:
        self._opened = opened
        self.model = opened.name
        self.backend = type(opened.engine).name
        self.record = opened.record
        self.weights = opened.weights
        self.fingerprint = opened.fingerprint
        self.embedding_size = opened.embedding_size
        self.preprocessing = opened.preprocessing
        self.finder = FaceFinder(min_face, detector, many)

    def embed(self, images: np.ndarray) -> np.ndarray:
        """Embeddings of aligned crops.

        Parameters
        ----------
        images : (N, 112, 112, 3) uint8, RGB; any N

        Returns
        -------
        (N, D) float32, rows of unit length.

        Raises
        ------
        InputError for another dtype or shape, and for a model whose embeddings are not finite or
        zero.
        """
        return unit_length(self.raw(images), self.model)

    def raw(self, images: np.ndarray) -> np.ndarray:
        """(N, D) float32 as the model gives them, of any length; otherwise as `embed`."""
        return self._opened.embed(images)

    def __repr__(self) -> str:
        return f'FaceEmbedder({str(self.model)!r}, {self.backend!r}, {self.embedding_size} values)'

    def embed_photos(self, photos: Sequence[Photo], which: str = 'largest') -> list[Faces]:
        """Find, align and embed the faces of photographs.

        Parameters
        ----------
        photos : each a path, the bytes of a picture file, or a (H, W, 3) uint8 RGB array
        which : 'largest' (at most one face of each) or 'all'

        Returns
        -------
        one Faces for each photograph, in order; of no rows where there is no face.

        Raises
        ------
        InputError naming the photograph that is missing, no picture or too large.
        """
        if which not in WHICH:
            raise unknown_name('choice of faces', which, WHICH)
        if isinstance(photos, (str, bytes, os.PathLike)) or getattr(photos, 'ndim', 4) == 3:
            raise InputError('photos is one photograph; expected a list of them')
        found, crops = [], []
        for photo in photos:
            image = read_photo(photo)
            found.append(self.finder.wanted(image, which).faces)
            crops.append(cut_out(image, found[-1].landmarks))
        # faces of all photographs fill the batches together
        rows = iter(self.embed(np.concatenate(crops)) if crops else ())
        return [
            Faces(
                np.array([next(rows) for _ in cut], np.float32).reshape(-1, self.embedding_size),
                faces.boxes,
                faces.scores,
                cut,
            )
            for faces, cut in zip(found, crops)
        ]


def cut_out(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Aligned crops (n, 112, 112, 3) uint8 RGB of the faces with landmarks (n, 5, 2)."""
    crops = [crop(image, points) for points in landmarks]
    return np.array(crops, np.uint8).reshape(-1, IMAGE_SIZE, IMAGE_SIZE, 3)


def unit_length(embeddings: np.ndarray, model: str) -> np.ndarray:
    """(N, D) float32 rows divided by their lengths; InputError naming `model` for rows that have
    no direction.
    """

    def refusal(bad: np.ndarray) -> InputError:
        return InputError(
            f'model {model} gives no usable embedding for {len(bad)} of {len(embeddings)} images '
            f'(all zero, or not finite); export it anew from a checkpoint that verifies'
        )

    return unit_rows(embeddings, refusal).astype(np.float32)


def read_photo(photo: Photo) -> np.ndarray:
    """A photograph as (H, W, 3) uint8 RGB; see FaceEmbedder.embed_photos."""
    if isinstance(photo, np.ndarray):
        if photo.dtype != np.uint8 or photo.ndim != 3 or photo.shape[2] != 3 or not photo.size:
            raise InputError(
                f'photograph of {photo.dtype} {photo.shape}: expected uint8 (H, W, 3) RGB'
            )
        return photo
    if isinstance(photo, bytes):
        return decode_rgb(photo)
    path = input_file(photo, 'photograph')
    try:
        return decode_rgb(read_picture(path))
    except InputError as error:
        raise InputError(f'{path}: {error}') from None
