"""Measure distillation: from the teacher store, from a live teacher, and the stock way.

Noise images that are already in memory, ArcFace plus the angular distance to a ResNet100-SE
teacher with random weights; all sides in turn in one process.
"""

import argparse
import logging
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from ...common import console
from ...common.backend import mx
from ...common.engine import ops
from ...common.engine.engines import fastest
from ...common.engine.mxnet import Embedder, flatten_before_dense
from ...common.engine.network import Network
from ...common.engine.parity import probe_images
from ...common.errors import InputError
from ...common.names import DATA, IMAGE_SHAPE
from ...recognition.graph import embedding_size, training_module
from ...recognition.teacher import StoredTeacher
from ...recognition.teacher_store import Header, TeacherStore, build
from ...recognition.trainer import initializer
from ...symbol import get_symbol
from . import report
from .measure import Timing, faster, in_turn, machine
from .steps import config_of, random_batch, start, stock_module, update

log = logging.getLogger(__name__)

CLASSES = 1000
ALPHA = 7.0
RECORDS = 20_000  # of the store that is made for the measurement
BLOCK = 2_000
CALIBRATION = 16  # images


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--student', default='vargfacenet', help='a name of `vargfacenet info`')
    parser.add_argument('--teacher', default='r100_se', help='a name of `vargfacenet info`')
    parser.add_argument('--batch-size', type=int, default=32)
    parser.add_argument('--seconds', type=float, default=60, help='for each comparison, at least')
    report.add_out(parser, 'all figures')


def random_teacher(name: str) -> Network:
    """A network with random weights that tells faces apart.

    BatchNorm's running statistics are those of a few drawn faces. With the initial ones, values
    grow a hundredfold from layer to layer and rounding decides the embedding.
    """
    images = probe_images(CALIBRATION).transpose(0, 3, 1, 2)
    symbol = get_symbol(name, bn_mom=0.0)  # the averages become those of the last batch
    module = mx.mod.Module(ops.accelerate(symbol, {DATA: images.shape}), [DATA], None)
    module.bind([(DATA, images.shape)], for_training=True)
    module.init_params(initializer())
    module.forward(mx.io.DataBatch([mx.nd.array(images)]), is_train=True)
    module.backward([mx.nd.zeros_like(output) for output in module.get_outputs()])
    mx.nd.waitall()  # MXNet's BatchNorm moves its averages behind the engine's back
    # get_params would hand out the initial averages, since no update was made
    statistics = dict(module._exec_group.execs[0].aux_dict)
    return Network(get_symbol(name), module.get_params()[0], statistics)


def random_store(folder: Path, size: int) -> TeacherStore:
    """A store of random directions, made as `teach` makes one."""
    random = np.random.RandomState(0)
    header = Header('random', '', str(folder), '', RECORDS, size, 'random')
    blocks = (np.zeros((BLOCK, 1, 1, 1), np.uint8) for _ in range(0, RECORDS, BLOCK))
    path = folder / 'store.f16'
    build(
        path,
        header,
        lambda first: blocks,
        lambda images: random.randn(len(images), size).astype(np.float32),
        lambda done: console.progress(RECORDS, 'making a store', 'records'),
    )
    return TeacherStore(path, header)


class Sides:
    """The steps to compare; each makes one update of a student of its own."""

    def __init__(self, args: argparse.Namespace, folder: Path):
        self._network, self._batch_size = args.student, args.batch_size
        self._embedding = get_symbol(args.student)
        self._size = embedding_size(self._embedding)
        self.teacher = random_teacher(args.teacher)
        self._store = random_store(folder, self._size)
        self._random = np.random.RandomState(1)

    def _module(self, teacher: str = ''):
        config = config_of(self._network, {}, self._batch_size, CLASSES, teacher)
        module = training_module(self._embedding, replace(config, alpha=ALPHA), [mx.cpu()])
        return start(module, self._batch_size)

    def plain(self) -> Callable[[], None]:
        """Training without a teacher."""
        module, batch = self._module(), random_batch(self._batch_size, CLASSES)
        return lambda: update(module, batch)

    def _taught(self, module, give: Callable) -> Callable[[], None]:
        """Steps on images whose teacher embeddings `give(batch)` brings each time."""
        batch = random_batch(self._batch_size, CLASSES)
        images = batch.data[0]

        def step() -> None:
            batch.index = self._random.randint(0, RECORDS, self._batch_size)
            batch.mirrored = self._random.rand(self._batch_size) < 0.5
            batch.data = [images, give(batch)]
            update(module, batch)

        return step

    def stored(self) -> Callable[[], None]:
        """Our step, the embeddings out of the store."""
        return self._taught(self._module('teacher'), StoredTeacher(self._store).of_batch)

    def live(self) -> Callable[[], None]:
        """Our step, the embeddings by the teacher in MXNet with our operators."""
        embedder = Embedder(self.teacher, batch_size=self._batch_size)
        return self._taught(
            self._module('teacher'), lambda batch: embedder.embed_batch(batch.data[0])
        )

    def stock(self) -> Callable[[], None]:
        """Stock operators in student and teacher, the teacher in every step."""
        module = stock_module(self._embedding, self._batch_size, CLASSES, ALPHA)
        start(module, self._batch_size)
        symbol, arg_params, aux_params = self.teacher
        teacher = mx.mod.Module(flatten_before_dense(symbol), [DATA], None)
        teacher.bind([(DATA, (self._batch_size, *IMAGE_SHAPE))], for_training=False)
        teacher.set_params(arg_params, aux_params)

        def give(batch) -> 'mx.nd.NDArray':
            teacher.forward(mx.io.DataBatch([batch.data[0]]), is_train=False)
            return teacher.get_outputs()[0]

        return self._taught(module, give)


def teaching_rates(teacher: Network, batch_size: int, seconds: float) -> dict:
    """Images a second of the teacher in MXNet and in the engine that fills the store."""
    engine = fastest(teacher, batch_size=batch_size)
    embedder = Embedder(teacher, batch_size=batch_size)
    images = np.random.RandomState(0).randint(0, 256, (batch_size, 112, 112, 3)).astype(np.uint8)
    times = in_turn(
        {
            'mxnet': lambda: embedder.embed(images),
            'store': lambda: engine.embed(images),
        },
        seconds,
    )
    rates = {name: timing.summary(batch_size) for name, timing in times.items()}
    return {**rates, 'engine': engine.name, 'ratio': vars(faster(times['mxnet'], times['store']))}


def cost(plain: Timing, other: Timing) -> dict:
    """How many times the time of `plain`: the reverse of how much faster it is."""
    return vars(faster(other, plain))


def show(result: dict) -> None:
    rows = [
        ['plain training', result['store']['plain'], '1'],
        ['from the store', result['store']['stored'], report.shown(result['store']['cost'])],
        [
            'live teacher, our operators',
            result['live']['live'],
            report.shown(result['live']['cost']),
        ],
        ['the stock way', result['stock']['stock'], ''],
    ]
    console.table(
        f'distillation, a step of {result["batch_size"]}',
        ['step', 'ms', 'images/s', 'times plain training'],
        [
            [name, f'{1000 * row["seconds_median"]:.1f}', f'{row["per_second"]:.2f}', times]
            for name, row, times in rows
        ],
    )
    log.info(
        'the store is %s times as fast as the stock way', report.shown(result['stock']['ratio'])
    )
    teach = result['teach']
    log.info(
        'filling a store: %.1f images/s with %s, %.1f with mxnet',
        teach['store']['per_second'], teach['engine'], teach['mxnet']['per_second'],
    )  # fmt: skip


def panels(result: dict) -> list:
    sides = [('store', 'plain'), ('store', 'stored'), ('live', 'live'), ('stock', 'stock')]
    rates = [result[part][side]['per_second'] for part, side in sides]
    lines = {'images/s': ([side for _, side in sides], rates)}
    return [('distillation', 'side', 'images/s', lines)]


def run(args: argparse.Namespace) -> dict:
    report.check_out(args.out)
    if args.batch_size < 1 or args.seconds <= 0:
        raise InputError(f'--batch-size {args.batch_size} --seconds {args.seconds}: above 0 both')
    batch_size = args.batch_size
    with tempfile.TemporaryDirectory() as folder:
        sides = Sides(args, Path(folder))
        stored, plain = sides.stored(), sides.plain()
        by_store = in_turn({'plain': plain, 'stored': stored}, args.seconds, slice_seconds=2)
        by_live = in_turn({'plain': plain, 'live': sides.live()}, args.seconds, slice_seconds=2)
        by_stock = in_turn(
            {'stored': stored, 'stock': sides.stock()}, args.seconds, slice_seconds=2
        )
        teach = teaching_rates(sides.teacher, batch_size, args.seconds / 2)

    def summaries(times: dict) -> dict:
        return {name: timing.summary(batch_size) for name, timing in times.items()}

    result = {
        'machine': machine(),
        'student': args.student,
        'teacher': args.teacher,
        'batch_size': batch_size,
        'store': {
            **summaries(by_store),
            'cost': cost(by_store['plain'], by_store['stored']),
        },
        'live': {
            **summaries(by_live),
            'cost': cost(by_live['plain'], by_live['live']),
        },
        'stock': {
            **summaries(by_stock),
            'ratio': vars(faster(by_stock['stock'], by_stock['stored'])),
        },
        'teach': teach,
    }
    show(result)
    return report.write(args.out, result, panels(result))


main = console.command('bench distill', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
