"""The frozen teacher of distillation: one object, opened once, live or as a store."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Protocol, Union

import numpy as np

from ..common.backend import mx
from ..common.data.records import check_crops, open_records
from ..common.engine.mxnet import Embedder
from ..common.engine.network import Network
from ..common.engine.open_model import OpenModel, open_model
from ..common.errors import InputError
from ..common.files import PathLike
from .teacher_store import Header, teacher_hash
from .views import Views


class Rows(Protocol):
    """Embeddings of the pictures of one data set, such as a `TeacherStore`.

    Attributes
    ----------
    replaced : numbers of pictures that could not be read, whose rows are another picture's
    """

    replaced: frozenset[int]

    def read(self, positions: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """(N, D) float32 of pictures, by their numbers, and `rows` of them, see `views`."""


class EmbeddingSource(Protocol):
    """What gives a student the embeddings to distil from.

    Attributes
    ----------
    rows : the embeddings of all pictures and their mirror images; None if nobody has them
    """

    rows: Optional[Rows]

    def of_batch(self, batch: 'mx.io.DataBatch') -> 'mx.nd.NDArray':
        """(N, D) float32, any length, of a batch of `FaceRecordIter`."""


class FrozenTeacher:
    """A network that only embeds: BatchNorm with running statistics, no gradients.

    Parameters
    ----------
    network : of the teacher
    devices, batch_size : as the student's
    rows : see `EmbeddingSource`
    """

    def __init__(
        self,
        network: Network,
        devices: Sequence['mx.Context'],
        batch_size: int,
        rows: Optional[Rows] = None,
    ):
        self.rows = rows
        self._embedder = Embedder(network, devices, batch_size)

    def __call__(self, images: 'mx.nd.NDArray') -> 'mx.nd.NDArray':
        """(N, 3, 112, 112) float32 RGB 0..255 -> (N, D) float32, not normalised."""
        return self._embedder.embed_batch(images)

    def of_batch(self, batch: 'mx.io.DataBatch') -> 'mx.nd.NDArray':
        """Embeddings (N, D) of a batch of `FaceRecordIter`."""
        return self(batch.data[0])

    def params(self) -> dict:
        """All parameters and running statistics by name, as they are on the device now."""
        return self._embedder.params()


class EngineTeacher:
    """A model that an engine other than the student's runs, such as a foreign ONNX file."""

    def __init__(self, model: OpenModel, rows: Optional[Rows] = None):
        self.rows = rows
        self._model = model

    def of_batch(self, batch: 'mx.io.DataBatch') -> 'mx.nd.NDArray':
        """Embeddings (N, D) of a batch of `FaceRecordIter`, whose values are whole numbers."""
        images = batch.data[0].astype(np.uint8).asnumpy().transpose(0, 2, 3, 1)
        return mx.nd.array(self._model.embed(images))


class StoredTeacher:
    """The teacher's embeddings out of a store or a file, in place of the teacher."""

    def __init__(self, rows: Rows):
        self.rows = rows

    def of_batch(self, batch: 'mx.io.DataBatch') -> 'mx.nd.NDArray':
        """Embeddings (N, D) of a batch of `FaceRecordIter`."""
        return mx.nd.array(self.rows.read(batch.index, batch.rows))


@dataclass(frozen=True)
class Teacher:
    """A teacher whose files were read and hashed; made by `open_teacher`."""

    name: str  # what it was opened by
    model: Union[Network, OpenModel]
    digest: str  # of network, weights and preprocessing
    embedding_size: int

    def header(self, data_dir: PathLike, views: Optional[Views] = None) -> Header:
        """What a store of this teacher, a data set and perhaps `views` of it must say; reads
        samples of all the data. InputError for photographs in the place of crops."""
        with contextlib.closing(open_records(data_dir)) as records:
            check_crops(records)
            return Header(
                teacher=self.name,
                teacher_hash=self.digest,
                data=str(records.source),
                data_hash=records.digest(),
                records=len(records),
                embedding_size=self.embedding_size,
                engine='',
                **(views.header_fields() if views else {}),
            )

    def live(
        self, devices: Sequence['mx.Context'], batch_size: int, rows: Optional[Rows] = None
    ) -> EmbeddingSource:
        """The teacher itself as the source of embeddings; in MXNet as the student, if it can."""
        if isinstance(self.model, Network):
            return FrozenTeacher(self.model, devices, batch_size, rows)
        return EngineTeacher(self.model, rows)

    def embedder(self, devices: Sequence['mx.Context']) -> Union[Embedder, OpenModel]:
        """What embeds pictures: uint8 (N, 112, 112, 3) RGB -> float32 (N, D)."""
        return Embedder(self.model, devices) if isinstance(self.model, Network) else self.model

    def check_student(self, student_size: int, lift: bool = False) -> None:
        """As `check_sizes`."""
        check_sizes(self.name, self.embedding_size, student_size, lift)


def check_sizes(teacher: str, teacher_size: int, student_size: int, lift: bool = False) -> None:
    """Raise InputError, with what to do, unless both have embeddings of one size, or with `lift`
    the student larger ones."""
    if lift and student_size <= teacher_size:
        raise InputError(
            f'--teacher-lift: the student has embeddings of {student_size} values, teacher '
            f'{teacher} of {teacher_size}, so there is nothing to lift; leave it out'
        )
    if teacher_size != student_size and not lift:
        larger = ', or --teacher-lift' if student_size > teacher_size else ''
        raise InputError(
            f'teacher {teacher} has embeddings of {teacher_size} values, the student of '
            f'{student_size}; distillation needs equal sizes '
            f'(--network-option emb_size={teacher_size}{larger})'
        )


def open_teacher(model: str, preprocessing: str = '') -> Teacher:
    """Open a teacher.

    Parameters
    ----------
    model : a checkpoint PREFIX,EPOCH, the folder of an export, or an .onnx file, ours or another's
    preprocessing : of a foreign .onnx file, see `open_model`

    Raises
    ------
    InputError for a bad model, and as `open_model`.
    """
    opened = _open(model, preprocessing)
    name = f'{model} --input {preprocessing}' if preprocessing else model
    if isinstance(opened, Network):
        return Teacher(name, opened, teacher_hash(opened), opened.embedding_size)
    return Teacher(name, opened, opened.fingerprint, opened.embedding_size)


def _open(model: str, preprocessing: str) -> Union[Network, OpenModel]:
    opened = open_model(model, preprocessing=preprocessing, checkpoint_engine='mxnet')
    # a checkpoint is wanted for its network: the student's devices bind it, the store hashes it
    return opened if opened.network is None else opened.network.in_mxnet()
