"""FaceEmbedder: crops and photographs to embeddings, on the fastest run time that is installed."""

import argparse
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Union

import numpy as np

from ..common.console import Parser
from ..common.data.detect import FaceDetector
from ..common.data.image import decode_rgb
from ..common.data.warp import crop
from ..common.engine import engines
from ..common.engine.checkpoint import load_embedding, params_path, parse_model
from ..common.engine.fold import fold_batch_norms
from ..common.errors import InputError
from ..common.extras import missing
from ..common.files import PathLike, input_file, sha256
from ..common.registry import unknown_name
from ..common.vectors import unit_rows

log = logging.getLogger(__name__)

BACKENDS = ('openvino', 'onnxruntime', 'mxnet')  # as 'auto' tries them; the first is the fastest
WHICH = ('largest', 'all')
RECORD = 'export.json'  # what an export's folder says of itself
SMALLEST_FACE = 12  # pixels: what the detector's first network looks at

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
    """

    def __init__(self, min_face: int = 20):
        if min_face < SMALLEST_FACE:
            raise InputError(
                f'min_face {min_face}: the detector finds faces from {SMALLEST_FACE} on'
            )
        self._detector = FaceDetector(min_face)

    def find(self, image: np.ndarray, which: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(boxes, scores, crops), as in Faces, of a (H, W, 3) uint8 RGB photograph."""
        faces = self._detector.detect(image)
        count = len(faces.scores) if which == 'all' else min(1, len(faces.scores))
        crops = [crop(image, landmarks) for landmarks in faces.landmarks[:count]]
        return (
            faces.boxes[:count],
            faces.scores[:count],
            np.array(crops, np.uint8).reshape(-1, 112, 112, 3),
        )


class FaceEmbedder:
    """Embeds faces with an exported model or a checkpoint. One object serves one thread at a time.

    Parameters
    ----------
    model : the folder of an export, an `.onnx` file of one, or a checkpoint PREFIX,EPOCH
    backend : 'openvino', 'onnxruntime', 'mxnet', or 'auto': the first of them that is installed
    precision : of OpenVINO's arithmetic, 'float32' or 'bfloat16' (cosine 0.9999 to float32 and
        twice as fast, on CPUs that have it)
    batch_size : images at once, at most; memory grows with it
    min_face : side of the smallest face to find in photographs, in pixels

    Attributes
    ----------
    embedding_size : D
    fingerprint : hex digest of the checkpoint's weights; embeddings of two models do not compare
    weights : file that the weights come from
    record : content of export.json, {} for a model without one

    Raises
    ------
    InputError for files that are missing, damaged, or of another contract, and for a backend that
    is not installed or cannot run this kind of file.
    """

    def __init__(
        self,
        model: PathLike,
        backend: str = 'auto',
        precision: str = 'float32',
        batch_size: int = 32,
        min_face: int = 20,
    ):
        if backend not in (*BACKENDS, 'auto'):
            raise unknown_name('backend', backend, (*BACKENDS, 'auto'))
        if precision not in engines.PRECISIONS:
            raise unknown_name('precision', precision, engines.PRECISIONS)
        if batch_size < 1:
            raise InputError(f'batch size {batch_size}: expected at least 1')
        self.model = str(model)
        self.backend = _installed() if backend == 'auto' else backend
        if precision == 'bfloat16' and self.backend != 'openvino':
            raise InputError(f'precision bfloat16 needs backend openvino, not {self.backend}')
        self.record = _record(self.model)
        self._engine, self.weights = _engine(self.model, self.backend, precision, batch_size)
        self.fingerprint = _fingerprint(self.record, self.weights)
        self.embedding_size = self._engine.embedding_size
        self._finder = FaceFinder(min_face)

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
        return unit_length(self._engine.embed_batch(np.asarray(images)), self.model)

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
        found = [self._finder.find(read_photo(photo), which) for photo in photos]
        # faces of all photographs fill the batches together
        crops = [crops for _, _, crops in found]
        rows = iter(self.embed(np.concatenate(crops)) if crops else ())
        return [
            Faces(
                np.array([next(rows) for _ in crops], np.float32).reshape(-1, self.embedding_size),
                boxes,
                scores,
                crops,
            )
            for boxes, scores, crops in found
        ]


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


def add_options(parser: Parser) -> None:
    """The options of commands that embed."""
    parser.add_argument(
        '--model', required=True, metavar='MODEL',
        help='folder of an export, an .onnx file of one, or a checkpoint PREFIX,EPOCH',
    )  # fmt: skip
    parser.add_argument(
        '--backend', choices=('auto', *BACKENDS), default='auto',
        help='what runs it; auto: the first of them that is installed, OpenVINO is the fastest',
    )  # fmt: skip
    parser.add_argument(
        '--precision', choices=engines.PRECISIONS, default='float32',
        help="bfloat16: OpenVINO's, faster where the CPU has it",
    )  # fmt: skip


def from_options(args: argparse.Namespace) -> FaceEmbedder:
    """The embedder of `add_options`."""
    embedder = FaceEmbedder(args.model, args.backend, args.precision)
    log.info('%s in %s, %s', args.model, embedder.backend, args.precision)
    return embedder


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
        return decode_rgb(path.read_bytes())
    except InputError as error:
        raise InputError(f'{path}: {error}') from None


def _installed() -> str:
    absent = {'openvino': missing('openvino'), 'onnxruntime': missing('onnxruntime')}
    return next(name for name in BACKENDS if not absent.get(name, False))


def _record(model: str) -> dict:
    """The export.json that tells of `model`, {} if there is none."""
    folder = Path(model) if Path(model).is_dir() else Path(model).parent
    path = folder / RECORD
    if not path.is_file():
        return {}
    try:
        record = json.loads(path.read_text())
        files = {**record['files']}
        # a checkpoint or a foreign .onnx may lie beside an export
        if folder != Path(model) and _weights_name(model) not in files:
            return {}
        whole = all({'sha256'} <= file.keys() for file in files.values())
        whole &= any(name.endswith('.params') for name, _ in record['source_sha256'].items())
        for row in record['verification']:
            whole &= {'file', 'engine'} < row.keys() and isinstance(row['thresholds'], dict)
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise InputError(f'{path} is no record of an export; export the model anew, elsewhere')
    return record


def _fingerprint(record: dict, weights: Path) -> str:
    """Digest of the checkpoint's weights, the same for all files of its export."""
    digest = sha256(weights)
    if not record:
        return digest
    if record['files'].get(weights.name, {}).get('sha256') != digest:
        raise InputError(
            f'{weights} is not the file that {RECORD} beside it tells of; export the model '
            f'anew, elsewhere'
        )
    return next(
        digest for name, digest in record['source_sha256'].items() if name.endswith('.params')
    )


def _weights_name(model: str) -> str:
    if model.endswith('.onnx') or ',' not in model:
        return Path(model).name
    prefix, epoch = parse_model(model)
    return params_path(prefix, epoch).name


def _engine(
    model: str, backend: str, precision: str, batch_size: int
) -> tuple[engines.Engine, Path]:
    """The engine for a model and the file that its weights come from."""
    path = Path(model)
    if path.is_dir():
        name = 'model,0' if backend == 'mxnet' else 'model.onnx'
        if not (path / _weights_name(name)).is_file():
            missed = f'model {model} has no {_weights_name(name)}'
            if (path / RECORD).is_file():
                raise InputError(
                    f"{missed}: it was exported without the packages of the extra 'deploy'; "
                    f'export it with them, or take --backend mxnet'
                )
            raise InputError(
                f'{missed} and is no export folder; expected one, an .onnx file, or a checkpoint '
                f'PREFIX,EPOCH such as {path / "model"},9'
            )
        return _engine(str(path / name), backend, precision, batch_size)
    if path.suffix == '.onnx':
        if backend == 'mxnet':
            raise InputError(
                f'{model}: MXNet runs no ONNX files; give the export folder or take another backend'
            )
        return _onnx_engine(path, backend, precision, batch_size), path
    if ',' not in model:
        raise InputError(
            f'model {model}: no such export folder; expected one, an .onnx file, or a checkpoint '
            f'PREFIX,EPOCH'
        )
    prefix, epoch = parse_model(model)
    network = load_embedding(model)
    weights = params_path(prefix, epoch)
    if backend == 'mxnet':
        return engines.MXNetEngine(network, batch_size=batch_size), weights
    from ..common.engine.to_onnx import to_onnx  # needs a package of the extra

    content = to_onnx(fold_batch_norms(network), input_type='uint8').SerializeToString()
    return _onnx_engine(content, backend, precision, batch_size), weights


def _onnx_engine(
    model: engines.Model, backend: str, precision: str, batch_size: int
) -> engines.Engine:
    if backend == 'onnxruntime':
        return engines.OnnxRuntimeEngine(model, batch_size)
    return engines.OpenVinoEngine(model, batch_size, precision)
