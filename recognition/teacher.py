"""The frozen teacher of angular distillation: live, or its embeddings read from a store."""

from ..common.backend import mx
from ..common.engine import checkpoint
from ..common.engine.mxnet import Embedder
from ..common.errors import InputError
from .teacher_store import TeacherStore


def check_sizes(model: str, teacher_size: int, student_size: int) -> None:
    """Raise InputError unless teacher `model` and student have embeddings of one size."""
    if teacher_size != student_size:
        raise InputError(
            f'teacher {model} has embeddings of {teacher_size} values, the student of '
            f'{student_size}; angular distillation needs equal sizes '
            f'(--network-option emb_size={teacher_size})'
        )


class FrozenTeacher:
    """A checkpoint that only embeds: BatchNorm with running statistics, no gradients.

    Parameters
    ----------
    model : 'PREFIX,EPOCH'
    student_size : embedding size D of the student
    devices, batch_size : as the student's

    Raises
    ------
    InputError for a bad checkpoint or an embedding size that differs from the student's.
    """

    def __init__(self, model: str, student_size: int, devices, batch_size: int):
        self._embedder = Embedder(checkpoint.load_embedding(model), devices, batch_size)
        check_sizes(model, self._embedder.embedding_size, student_size)

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
