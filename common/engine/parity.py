"""Whether exported files give the embeddings of the network they come from.

Every file is loaded anew from the disk and run as its users would run it; the reference is the
checkpoint in MXNet. Where a float32 file is farther from that than rounding takes most networks,
both are compared with the network in float64: some networks magnify rounding, MXNet's as well.
"""

import functools
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

import numpy as np

from ..data.image import decode_rgb
from ..errors import RunError
from ..extras import need
from ..names import DATA, IMAGE_SIZE
from ..parallel import cpu_count
from ..synth.face import jpeg_faces
from ..vectors import unit_rows
from .openvino_core import core

BATCHES = (1, 7, 32)
MAX_DIFFERENCE = 1e-5  # float32: of the largest value
# Of a network that magnifies rounding: of what MXNet's own float32 is away from float64. Its stock
# operators are 4 times as far away as ours for one ShuffleMixFaceNet-XS, and half as far for one S.
ROUNDINGS = 3
MAX_ROUNDING = 1e-4  # and of the largest value, at most
MIN_COSINE = 0.9999  # folded: of every image
MIN_COSINE_HALF = 0.999  # float16: of every image
MEAN_COSINE_INT8 = 0.99  # int8: mean over the images

_PROBES = 4
_PROBE_SEED = 20191011

Run = Callable[[np.ndarray], np.ndarray]  # uint8 (N, 112, 112, 3) -> float32 (N, D)


@dataclass(frozen=True)
class Parity:
    """A file against the checkpoint, over all images and batch sizes."""

    file: str
    engine: str
    difference: float  # largest, relative to the largest value of the reference
    min_cosine: float
    mean_cosine: float
    # where `difference` alone does not tell: the same to the network in float64, and what MXNet's
    # float32 is away from that
    exact_difference: Optional[float] = None
    rounding: Optional[float] = None

    def as_dict(self) -> dict:
        return {name: value for name, value in asdict(self).items() if value is not None}


@functools.cache
def probe_images(count: int = _PROBES) -> np.ndarray:
    """uint8 (count, 112, 112, 3) RGB: synthetic faces of different people, always the same.

    Drawn once a process, and not to be written to.
    """
    faces = [jpeg_faces(_PROBE_SEED, person, [0], IMAGE_SIZE)[0] for person in range(count)]
    images = np.stack([decode_rgb(face) for face in faces])
    images.flags.writeable = False
    return images


def cosines(embeddings: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Cosine of every row to the same row of `others`: (N, D), (N, D) -> (N,) float64."""
    embeddings, others = np.asarray(embeddings, np.float64), np.asarray(others, np.float64)
    lengths = np.linalg.norm(embeddings, axis=1) * np.linalg.norm(others, axis=1)
    return np.einsum('nd,nd->n', embeddings, others) / np.maximum(lengths, 1e-300)


def difference(rows: np.ndarray, wanted: np.ndarray) -> float:
    """Largest difference of two (N, D), relative to the largest value of the second."""
    return float(np.abs(rows - wanted).max() / np.abs(wanted).max())


def compare(file: str, engine: str, run: Run, images: np.ndarray, expected: np.ndarray) -> Parity:
    """Run `images`, uint8 (32, 112, 112, 3), in each of BATCHES and compare with `expected`.

    `expected` are the reference's raw embeddings (32, D); a file whose embeddings have unit length
    is compared with their directions. Raises RunError for another shape or numbers that are not
    finite.
    """
    differences, cosine = [], []
    for size in BATCHES:
        result = run(images[:size])
        wanted = expected[:size]
        if result.shape != wanted.shape or not np.isfinite(result).all():
            raise RunError(
                f'{file} in {engine} gives {result.shape} for {size} images, finite: '
                f'{np.isfinite(result).all()}; expected {wanted.shape} finite numbers'
            )
        if np.allclose(np.linalg.norm(result, axis=1), 1, atol=1e-3):
            wanted = unit_rows(wanted)
        differences.append(difference(result, wanted))
        cosine.append(cosines(result, wanted))
    cosine = np.concatenate(cosine)
    return Parity(file, engine, max(differences), float(cosine.min()), float(cosine.mean()))


def onnx_engines(path: Path) -> dict[str, Run]:
    """Name -> function for each of onnxruntime and OpenVINO (float32 arithmetic).

    As a user would call them, with a dynamic batch: nothing of our engines is in between.
    """
    onnx, ort = need('onnx', 'deploy'), need('onnxruntime', 'deploy')
    model = onnx.load(str(path))
    onnx.checker.check_model(model, full_check=True)
    element = model.graph.input[0].type.tensor_type.elem_type
    dtype = onnx.helper.tensor_dtype_to_np_dtype(element)
    options = ort.SessionOptions()
    # threads that wait for work would take as much of the CPU again
    options.add_session_config_entry('session.intra_op.allow_spinning', '0')
    session = ort.InferenceSession(str(path), options, providers=['CPUExecutionProvider'])
    compiled = core().compile_model(
        str(path), 'CPU', {'INFERENCE_PRECISION_HINT': 'f32', 'INFERENCE_NUM_THREADS': cpu_count()}
    )

    def layout(images: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(images.transpose(0, 3, 1, 2), dtype)

    return {
        'onnxruntime': lambda images: session.run(None, {DATA: layout(images)})[0],
        'openvino': lambda images: compiled({DATA: layout(images)})[0],
    }


def check(parity: Parity, kind: str) -> None:
    """Raise RunError if a file is too far off; `kind` is float32, folded, float16 or int8."""
    name, value, bound = {
        'float32': ('largest relative difference', parity.difference, MAX_DIFFERENCE),
        'folded': ('smallest cosine', parity.min_cosine, MIN_COSINE),
        'float16': ('smallest cosine', parity.min_cosine, MIN_COSINE_HALF),
        'int8': ('mean cosine', parity.mean_cosine, MEAN_COSINE_INT8),
    }[kind]
    source = 'the checkpoint in MXNet'
    if kind == 'float32' and parity.exact_difference is not None:
        bound = min(max(ROUNDINGS * parity.rounding, MAX_DIFFERENCE), MAX_ROUNDING)
        value = parity.exact_difference
        source = f'the checkpoint in float64 (MXNet is off by {parity.rounding:.1e})'
    good = value <= bound if kind == 'float32' else value >= bound
    if not good:
        raise RunError(
            f'{parity.file} in {parity.engine} is too far from {source}: {name} '
            f'{value:.6g}, allowed {bound:.3g}{_advice(kind)}'
        )


def _advice(kind: str) -> str:
    """The end of a message: what helps against a file that is too far off."""
    if kind == 'int8':
        return '. Calibrate on faces like those to come (--calibrate)'
    if kind == 'float16':
        return (
            '. Its numbers in float16 make another network of it: export it in float32, without '
            '--compact or --fp16, or train it further; one of a few steps is often rounded so'
        )
    return (
        '. The network magnifies the rounding of float32, as one of a few steps of training often '
        'does: train it further, and export that'
    )
