"""The frozen teacher of distillation: one object, opened once, live or as a store."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ..common.backend import mx
from ..common.data.recordio import RecordFile
from ..common.engine import checkpoint
from ..common.engine.mxnet import Embedder
from ..common.engine.network import Network
from ..common.errors import InputError
from .graph import embedding_size
from .teacher_store import Header, TeacherStore, data_hash, teacher_hash


class EmbeddingSource(Protocol):
    """What gives a student the embeddings to distil from."""

    def of_batch(self, batch: 'mx.io.DataBatch') -> 'mx.nd.NDArray':
        """(N, D) float32, any length, of a batch of `FaceRecordIter`."""


class FrozenTeacher:
    """A network that only embeds: BatchNorm with running statistics, no gradients.

    Parameters
    ----------
    network : of the teacher
    devices, batch_size : as the student's
    """

    def __init__(self, network: Network, devices: Sequence['mx.Context'], batch_size: int):
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


class StoredTeacher:
    """The teacher's embeddings out of a store, in place of the teacher."""

    def __init__(self, store: TeacherStore):
        self._store = store

    def of_batch(self, batch: 'mx.io.DataBatch') -> 'mx.nd.NDArray':
        """Embeddings (N, D) of a batch of `FaceRecordIter`, of unit length."""
        return mx.nd.array(self._store.read(batch.index, batch.mirrored))


@dataclass(frozen=True)
class Teacher:
    """A teacher whose files were read and hashed; made by `open_teacher`."""

    name: str  # 'PREFIX,EPOCH' as the user gave it
    network: Network
    digest: str  # of network and weights
    embedding_size: int

    def header(self, data_dir: str) -> Header:
        """What a store of this teacher and a data set must say; reads samples of all the data."""
        with contextlib.closing(RecordFile(Path(data_dir) / 'train.rec')) as records:
            return Header(
                teacher=self.name,
                teacher_hash=self.digest,
                data=str(records.paths.rec),
                data_hash=data_hash(records.paths),
                records=len(records),
                embedding_size=self.embedding_size,
                engine='',
            )

    def check_student(self, student_size: int) -> None:
        """Raise InputError unless the student has embeddings of the teacher's size."""
        if self.embedding_size != student_size:
            raise InputError(
                f'teacher {self.name} has embeddings of {self.embedding_size} values, the student '
                f'of {student_size}; distillation needs equal sizes '
                f'(--network-option emb_size={self.embedding_size})'
            )


def open_teacher(model: str) -> Teacher:
    """The teacher 'PREFIX,EPOCH'; InputError for a bad checkpoint."""
    network = checkpoint.load_embedding(model)
    return Teacher(model, network, teacher_hash(network), embedding_size(network.symbol))
