"""Iterators over training records, to be measured: InsightFace's, rebuilt, and ours."""

from collections.abc import Callable, Iterator

import numpy as np

from ...common.backend import mx
from ...common.data.recordio import RecordPaths, record_paths
from ...common.names import IMAGE_SHAPE
from ...recognition.data import FaceRecordIter

BATCHES_A_CALL = 8


def stock_batches(paths: RecordPaths, batch_size: int) -> Iterator['mx.nd.NDArray']:
    """InsightFace's Python iterator, rebuilt: one thread, an NDArray per image, shuffled."""
    records = mx.recordio.MXIndexedRecordIO(str(paths.idx), str(paths.rec), 'r')
    header, _ = mx.recordio.unpack(records.read_idx(0))
    grouped = header.flag > 0
    keys = list(range(1, int(header.label[0]))) if grouped else list(records.keys)
    random = np.random.RandomState(0)
    while True:
        random.shuffle(keys)
        for start in range(0, len(keys) - batch_size + 1, batch_size):
            batch = mx.nd.empty((batch_size, *IMAGE_SHAPE))
            labels = mx.nd.empty((batch_size,))
            for row, key in enumerate(keys[start : start + batch_size]):
                header, encoded = mx.recordio.unpack(records.read_idx(key))
                image = mx.image.imdecode(encoded)  # RGB
                if random.rand() < 0.5:
                    image = mx.nd.flip(image, axis=1)
                batch[row][:] = mx.nd.transpose(image.astype('float32'), axes=(2, 0, 1))
                labels[row][:] = header.label
            yield batch


def our_batches(paths: RecordPaths, batch_size: int, **options) -> Iterator['mx.io.DataBatch']:
    """Batches of our iterator without end."""
    batches = FaceRecordIter(paths.rec, batch_size, **options)
    while True:
        try:
            yield batches.next()
        except StopIteration:
            batches.reset()


def taking(rec: str, batch_size: int, threads: int = 0) -> Callable[[], None]:
    """A call that takes some batches of a record file and waits until the last is whole.

    `threads` are those of our iterator; 0 is the stock one.
    """
    paths = record_paths(rec)
    if threads:
        batches = our_batches(paths, batch_size, threads=threads)
    else:
        batches = stock_batches(paths, batch_size)

    def take() -> None:
        for _ in range(BATCHES_A_CALL):
            next(batches)
        mx.nd.waitall()

    return take
