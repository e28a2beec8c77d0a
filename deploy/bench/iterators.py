"""Iterators over training records, to be measured: InsightFace's, rebuilt, MXNet's, and ours."""

from collections.abc import Callable, Iterator
from contextlib import closing

import numpy as np

from ...common.backend import mx
from ...common.data.recordio import RecordFile, RecordPaths, RecordWriter, record_paths
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


def write_ungrouped(paths: RecordPaths, prefix: str, most: int) -> RecordPaths:
    """The first pictures of a record file, at most `most`, as im2rec would have written them:
    InsightFace's identity records, which are no pictures, end MXNet's own iterator."""
    copy = record_paths(prefix)
    records = RecordFile(paths.rec)
    with closing(records), RecordWriter(copy.rec, copy.idx) as writer:
        for row in range(min(most, len(records))):
            writer.write(row, *records.read(row))
    return copy


def image_record_batches(
    paths: RecordPaths, batch_size: int, threads: int
) -> Iterator['mx.nd.NDArray']:
    """MXNet's ImageRecordIter, in C++: pictures shuffled and mirrored, decoded by threads."""
    batches = mx.io.ImageRecordIter(
        path_imgrec=str(paths.rec),
        path_imgidx=str(paths.idx),
        data_shape=IMAGE_SHAPE,
        batch_size=batch_size,
        shuffle=True,
        rand_mirror=True,
        preprocess_threads=threads,
        verbose=False,
    )
    while True:
        for batch in batches:
            yield batch.data[0]
        batches.reset()


def our_batches(paths: RecordPaths, batch_size: int, **options) -> Iterator['mx.io.DataBatch']:
    """Batches of our iterator without end."""
    batches = FaceRecordIter(paths.rec, batch_size, **options)
    while True:
        try:
            yield batches.next()
        except StopIteration:
            batches.reset()


ITERATORS = {'stock': stock_batches, 'mxnet': image_record_batches, 'ours': our_batches}


def taking(rec: str, batch_size: int, kind: str, **options) -> Callable[[], None]:
    """A call that takes some batches of a record file and waits until the last is whole.

    Parameters
    ----------
    kind : of ITERATORS
    options : what that one takes, such as `threads`
    """
    batches = ITERATORS[kind](record_paths(rec), batch_size, **options)

    def take() -> None:
        for _ in range(BATCHES_A_CALL):
            next(batches)
        mx.nd.waitall()

    return take
