"""Training batches from a face record file.

Everything random is a function of (seed, epoch, record): the order of an epoch, who is mirrored,
how a crop is shaken. Neither the number of threads nor the sharding changes it, and a run that was
stopped goes on with the very batch it would have seen next (`seek`).
"""

import logging
import weakref
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Optional

import cv2
import numpy as np

from ..common.backend import mx
from ..common.data.left_out import LeftOut
from ..common.data.records import Records, next_crop, open_records, read_labels
from ..common.errors import InputError
from ..common.files import PathLike
from ..common.names import DATA, IMAGE_SHAPE, LABEL
from ..common.parallel import cpu_count
from ..common.registry import unknown_name
from .augmentations import NUM_DRAWS, Augmentations, make_augmentations
from .views import MIRRORED, picture_of, row_of

log = logging.getLogger(__name__)

SHUFFLES = {
    'full': 'any record may follow any other; reads all over the file',
    'blocks': 'runs of records in random order, mixed with many others; for a .rec that is larger '
    'than memory: it is read in long pieces, each once an epoch',
    'people': 'up to four pictures of a person beside each other, for losses that compare the '
    'pictures of a step; the labels are read first, in one pass',
    'none': 'the order of the file',
}
PEOPLE = 'people'
TOGETHER = 4  # pictures of a person, as Hermans et al. draw them (arXiv:1703.07737)
BLOCK = 64  # records that are read in one piece, about 0.5 MB
WINDOW = 512 * BLOCK  # records that 'blocks' mixes: 512 places of the file, about 250 MB

_IMAGES_PER_JOB = 16  # enough that handing a job to a thread costs nothing beside it


def batches_in_epoch(n: int, batch_size: int, num_parts: int = 1) -> int:
    """Full batches per part of `n` records; the rest of the epoch's order is not used."""
    return n // (batch_size * num_parts)


def shuffled(
    n: int, seed: int, epoch: int, shuffle: str, labels: Optional[np.ndarray] = None
) -> np.ndarray:
    """Positions 0..n-1 in the order of one epoch, int64 (n,); see SHUFFLES.

    `labels`, int64 (n,), are for 'people' alone.
    """
    if shuffle not in SHUFFLES:
        raise unknown_name('shuffle', shuffle, SHUFFLES)
    order = np.arange(n)
    if shuffle == 'none':
        return order
    # legacy RandomState: its streams are frozen, so that runs repeat under any NumPy
    random = np.random.RandomState(np.random.MT19937(np.random.SeedSequence([seed, epoch])))
    if shuffle == 'full':
        random.shuffle(order)
        return order
    if shuffle == PEOPLE:
        return _people_together(labels, random)
    blocks = random.permutation(-(-n // BLOCK))
    order = np.concatenate([order[block * BLOCK : (block + 1) * BLOCK] for block in blocks])
    for start in range(0, n, WINDOW):
        random.shuffle(order[start : start + WINDOW])
    return order


def _people_together(labels: np.ndarray, random: np.random.RandomState) -> np.ndarray:
    """All positions in an order of groups: a person's pictures, shuffled, in groups of TOGETHER or
    fewer that differ by one at most; the groups of all people shuffled."""
    order = random.permutation(len(labels))
    order = order[np.argsort(labels[order], kind='stable')]
    _, firsts, person, counts = np.unique(
        labels[order], return_index=True, return_inverse=True, return_counts=True
    )
    groups = -(-counts // TOGETHER)  # of each person
    group = (np.arange(len(order)) - firsts[person]) * groups[person] // counts[person]
    group += (np.cumsum(groups) - groups)[person]
    place = random.permutation(groups.sum())
    return order[np.argsort(place[group], kind='stable')]


def epoch_order(
    n: int,
    seed: int,
    epoch: int,
    shuffle: str = 'full',
    num_parts: int = 1,
    part_index: int = 0,
    batch_size: int = 1,
    labels: Optional[np.ndarray] = None,
) -> np.ndarray:
    """Positions of the records that one part reads in one epoch, batch after batch.

    The k-th batches of all parts together are the k-th batch of batch_size * num_parts that a
    single part would read. Every part gets the same number of full batches; what is left of the
    epoch, fewer than batch_size * num_parts records, is dropped (another few in every epoch).

    Returns
    -------
    int64 (batches * batch_size,), each in 0..n-1 and none twice in all parts
    """
    order = shuffled(n, seed, epoch, shuffle, labels)
    batches = batches_in_epoch(n, batch_size, num_parts)
    shards = order[: batches * num_parts * batch_size].reshape(batches, num_parts, batch_size)
    return shards[:, part_index].ravel()


def record_draws(seed: int, epoch: int, position: int, count: int = NUM_DRAWS) -> np.ndarray:
    """Uniform numbers in [0, 1) for one record in one epoch: float64 (1 + count,).

    The first decides about mirroring, the others belong to the augmentations. More numbers begin
    with the same ones.
    """
    bits = np.random.Philox(key=[seed, epoch], counter=[0, 0, 0, position])
    return np.random.Generator(bits).random(1 + count)


class _Buffer:
    """Where threads put one batch; used again and again."""

    def __init__(self, batch_size: int):
        self.images = np.empty((batch_size, *IMAGE_SHAPE), np.uint8)
        self.labels = np.empty(batch_size, np.float32)
        self.rows = np.empty(batch_size, np.int64)  # see `views`
        self.positions = np.empty(batch_size, np.int64)  # of the records that are in it


@dataclass
class _Pending:
    """A batch that is being decoded."""

    buffer: _Buffer
    jobs: list[Future]


@dataclass(frozen=True)
class _Decoder:
    """What the threads run. It knows nothing of the iterator, so that this can be collected."""

    records: Records
    seed: int
    augmentations: Augmentations
    views: int
    view_seed: int
    allowed: Optional[int]  # records that may be left out, as `LeftOut` has it

    def fill(
        self, buffer: _Buffer, rows: range, epoch: int, positions: np.ndarray
    ) -> dict[int, str]:
        """Read records `positions` into `rows` of `buffer`; position -> reason of those that had
        to be left out."""
        bad: dict[int, str] = {}
        for row, position in zip(rows, positions.tolist()):
            position, label, bgr = self._readable(position, bad)
            buffer.positions[row] = position
            bgr, view = self._changed(bgr, epoch, position, bad)
            red, green, blue = buffer.images[row]
            cv2.split(bgr, [blue, green, red])
            buffer.labels[row] = label
            buffer.rows[row] = view
        return bad

    def _changed(
        self, bgr: np.ndarray, epoch: int, position: int, bad: dict[int, str]
    ) -> tuple[np.ndarray, int]:
        """(picture that an epoch shows of a record's crop, its row as in `views`)."""

        def another(draw: float) -> np.ndarray:
            return self._readable(int(draw * len(self.records)), bad)[2]

        change = self.augmentations
        if self.views:
            row = row_of(change, self.views, self.seed, epoch, position)
            return picture_of(change, bgr, row, self.view_seed, position, another), row
        draws = record_draws(self.seed, epoch, position, change.num_draws)
        mirrored = change.mirrors and bool(draws[0] < 0.5)
        return change.change(bgr, mirrored, draws[1:], another), int(mirrored)

    def _readable(self, position: int, bad: dict[int, str]) -> tuple[int, int, np.ndarray]:
        return next_crop(self.records, position, bad, self.allowed)

    def read_ahead(self, blocks: list[int]) -> None:
        """Tell the system that the records of these blocks will be needed."""
        for block in blocks:
            end = min((block + 1) * BLOCK, len(self.records))
            self.records.will_need(block * BLOCK, end)


def _labels(records: Records, skip: bool) -> np.ndarray:
    if not records.num_classes:
        raise InputError(f'{records.source} does not tell who is who; --shuffle people needs it')
    return read_labels(records, skip)


def _stop(*pools: ThreadPoolExecutor) -> None:
    for pool in pools:
        pool.shutdown(wait=False, cancel_futures=True)


class FaceRecordIter(mx.io.DataIter):
    """Batches of a `.rec` for `mx.mod.Module`, decoded ahead on several threads.

    A batch has data [float32 (N, 3, 112, 112), RGB, 0..255], label [float32 (N,), class], index
    (int64 (N,), positions in the record file), pad 0, rows (int64 (N,): 1 where the picture is
    mirrored, 2 + v where it is view v, else 0), and mirrored (bool (N,)). An epoch is
    `batches_per_epoch` full batches; its last records that fill no batch are dropped. `reset()`
    goes to the next epoch. An error in a picture is raised by `next()` and names the record.

    Parameters
    ----------
    data : what `open_records` opens: a `.rec`, its folder, or a folder of identity folders
    batch_size : records per batch of this part
    shuffle : a name in SHUFFLES; a new order in every epoch, but for 'none'
    num_parts, part_index : how many workers share an epoch, and which one this is
    threads : decoding threads; default: one per CPU
    prefetch : batches decoded ahead
    augment, augment_options : as `augmentations.make_augmentations` takes them
    views, view_seed : with `views` above 0 an epoch shows no fresh pictures but the record, its
        mirror image or one of that many views by the augmentations, see `views.row_of`
    accumulate : batches that make one step; an epoch has a multiple of them, those of an epoch of
        batches that are as many times larger
    left_out : how many records that cannot be read may be left out (default: none, and no error
        names an option); the next readable one takes the place of each, in `index` as well

    Attributes
    ----------
    epoch, batch : the place of the next batch; what `seek` takes
    batches_per_epoch, num_images, num_classes : int
    class_names : tuple of str, () where the data do not tell
    left_out : position -> reason of the records that were left out, of a resumed run all

    Raises
    ------
    InputError for a bad file (see `open_records`), options out of range, or fewer records than one
    batch of all parts.
    """

    def __init__(
        self,
        data: PathLike,
        batch_size: int,
        *,
        shuffle: str = 'full',
        seed: int = 0,
        num_parts: int = 1,
        part_index: int = 0,
        threads: Optional[int] = None,
        prefetch: int = 4,
        augment: str = 'mirror',
        augment_options: Mapping[str, Any] = MappingProxyType({}),
        views: int = 0,
        view_seed: int = 0,
        accumulate: int = 1,
        left_out: Optional[LeftOut] = None,
    ):
        super().__init__(batch_size)
        threads = cpu_count() if threads is None else threads
        if min(batch_size, threads, prefetch) < 1 or seed < 0:
            raise InputError(
                f'batch size {batch_size}, threads {threads}, prefetch {prefetch}, seed {seed}: '
                f'all must be positive (the seed may be 0)'
            )
        if not 0 <= part_index < num_parts:
            raise InputError(f'part {part_index} of {num_parts}: parts count from 0')
        records = open_records(data)
        self.num_images = len(records)
        self.num_classes = records.num_classes
        self.class_names = records.class_names
        steps = batches_in_epoch(self.num_images, batch_size * accumulate, num_parts)
        self.batches_per_epoch = steps * accumulate
        if not self.batches_per_epoch:
            raise InputError(
                f'{records.source}: {self.num_images} images are fewer than one batch of '
                f'{batch_size * accumulate} on {num_parts} worker(s); lower the batch size'
            )
        self._left_out = left_out or LeftOut(None)
        allowed = self._left_out.allowed
        labels = _labels(records, skip=bool(allowed)) if shuffle == PEOPLE else None
        self._order_options = (shuffle, num_parts, part_index, batch_size, labels)
        self._seed = seed
        augmentations = make_augmentations(augment, augment_options)
        self._decoder = _Decoder(records, seed, augmentations, views, view_seed, allowed)
        self.left_out = self._left_out.reasons
        self._free = [_Buffer(batch_size) for _ in range(prefetch)]
        self._pending: deque[_Pending] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix='face-records')
        self._reader = ThreadPoolExecutor(1, thread_name_prefix='read-ahead')
        self._stop = weakref.finalize(self, _stop, self._pool, self._reader)
        self._set_epoch(0)

    @property
    def people_per_batch(self) -> Optional[float]:
        """How many people a batch shows, the mean of this epoch; None but for shuffle 'people'."""
        *_, labels = self._order_options
        if labels is None:
            return None
        shown = np.sort(labels[self._order].reshape(-1, self.batch_size), axis=1)
        return 1 + float((np.diff(shown, axis=1) > 0).sum(axis=1).mean())

    @property
    def provide_data(self) -> list:
        return [mx.io.DataDesc(DATA, (self.batch_size, *IMAGE_SHAPE), np.float32)]

    @property
    def provide_label(self) -> list:
        return [mx.io.DataDesc(LABEL, (self.batch_size,), np.float32)]

    def next(self) -> mx.io.DataBatch:
        """The next batch; StopIteration at the end of the epoch."""
        if self.batch >= self.batches_per_epoch:
            raise StopIteration
        self._submit()
        try:
            for job in self._pending[0].jobs:
                self._left_out.add(job.result())
        except BaseException:  # Ctrl-C as well: threads must not go on filling buffers
            self._drop_pending()
            raise
        pending = self._pending.popleft()
        batch = self._to_batch(pending)
        self._free.append(pending.buffer)
        self.batch += 1
        self._submit()
        return batch

    def reset(self) -> None:
        """Go to the first batch of the next epoch."""
        self.seek(self.epoch + 1, 0)

    def seek(self, epoch: int, batch: int) -> None:
        """Make `batch` of `epoch` the next one, without reading what lies before it.

        `batch` may be `batches_per_epoch`, the end of the epoch. Raises InputError if the place
        does not exist, as happens when the data or the batch size changed.
        """
        if epoch < 0 or not 0 <= batch <= self.batches_per_epoch:
            raise InputError(
                f'no batch {batch} in epoch {epoch}: {self._decoder.records.source} has '
                f'{self.batches_per_epoch} batches of {self.batch_size} per epoch here'
            )
        self._drop_pending()
        if epoch != self.epoch:
            self._set_epoch(epoch)
        self.batch, self._advised = batch, 0

    def close(self) -> None:
        """Stop the threads and close the file; there is no next batch then."""
        self._drop_pending()
        self._pool.shutdown(wait=True)
        self._reader.shutdown(wait=True, cancel_futures=True)
        self._stop.detach()
        self._decoder.records.close()

    def _set_epoch(self, epoch: int) -> None:
        self._order = epoch_order(self.num_images, self._seed, epoch, *self._order_options)
        self.epoch, self.batch = epoch, 0
        self._advised = 0  # windows of the order that the system was told of

    def _submit(self) -> None:
        """Give the threads batches to decode, as many as there are free buffers."""
        while self._free:
            start = (self.batch + len(self._pending)) * self.batch_size
            positions = self._order[start : start + self.batch_size]
            if not positions.size:
                return
            self._read_ahead(start)
            buffer = self._free.pop()
            jobs = []
            for first in range(0, self.batch_size, _IMAGES_PER_JOB):
                rows = range(first, min(first + _IMAGES_PER_JOB, self.batch_size))
                part = positions[rows.start : rows.stop]
                jobs.append(self._pool.submit(self._decoder.fill, buffer, rows, self.epoch, part))
            self._pending.append(_Pending(buffer, jobs))

    def _read_ahead(self, start: int) -> None:
        """With 'blocks', have the system read this window and the next one of the order.

        It reads in the background, piece after piece in the order of the file, so that the
        decoding threads find the records in memory when their turn comes.
        """
        shuffle, num_parts, *_ = self._order_options
        if shuffle != 'blocks':
            return
        window = max(1, WINDOW // num_parts)  # of this part's places
        current = start // window
        for number in range(max(self._advised, current), current + 2):
            blocks = np.unique(self._order[number * window : (number + 1) * window] // BLOCK)
            self._reader.submit(self._decoder.read_ahead, blocks.tolist())
        self._advised = current + 2

    def _drop_pending(self) -> None:
        """Cancel what is being decoded and wait until no thread touches the buffers."""
        for pending in self._pending:
            wait([job for job in pending.jobs if not job.cancel()])
            self._free.append(pending.buffer)
        self._pending.clear()

    def _to_batch(self, pending: _Pending) -> mx.io.DataBatch:
        buffer = pending.buffer
        # bytes are a quarter of the copy; MXNet widens them on its own threads
        images = mx.nd.array(buffer.images, dtype=np.uint8).astype(np.float32)
        batch = mx.io.DataBatch(
            data=[images],
            label=[mx.nd.array(buffer.labels)],
            pad=0,
            index=buffer.positions.copy(),
            provide_data=self.provide_data,
            provide_label=self.provide_label,
        )
        batch.rows = buffer.rows.copy()
        batch.mirrored = batch.rows == MIRRORED
        return batch
