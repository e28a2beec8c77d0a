"""Steps of distillation to measure, each made in a process of its own: with a stored teacher, a
live one, and the stock way. Noise images that are already in memory, ArcFace plus the angular
distance to a teacher with random weights."""

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
from ...common.names import DATA, IMAGE_SHAPE, IMAGE_SIZE
from ...recognition.graph import embedding_size, training_module
from ...recognition.teacher import StoredTeacher
from ...recognition.teacher_store import Header, TeacherStore, build
from ...recognition.trainer import initializer
from ...symbol import get_symbol
from .steps import config_of, random_batch, start, stock_module, update

CLASSES = 1000
ALPHA = 7.0
RECORDS = 20_000  # of the store that is made for the measurement
BLOCK = 2_000
CALIBRATION = 16  # images

Step = Callable[[], None]


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
    blocks = (
        random.randn(BLOCK, header.rows, size).astype(np.float32) for _ in range(0, RECORDS, BLOCK)
    )
    path = folder / 'store.f16'
    build(
        path,
        header,
        lambda first: blocks,
        lambda done: console.progress(RECORDS, 'making a store', 'records'),
    )
    return TeacherStore(path, header)


def our_module(student: str, batch_size: int, teacher: str = '') -> 'mx.mod.Module':
    """The training graph of a run, with the teacher's distance if there is a teacher."""
    config = config_of(student, {}, batch_size, CLASSES, teacher)
    module = training_module(get_symbol(student), replace(config, alpha=ALPHA), [mx.cpu()])
    return start(module, batch_size)


def taught(module: 'mx.mod.Module', batch_size: int, give: Callable) -> Step:
    """Steps on images whose teacher embeddings `give(batch)` brings each time."""
    batch = random_batch(batch_size, CLASSES)
    images = batch.data[0]
    random = np.random.RandomState(1)

    def step() -> None:
        batch.index = random.randint(0, RECORDS, batch_size)
        batch.rows = random.randint(0, 2, batch_size)
        batch.data = [images, give(batch)]
        update(module, batch)

    return step


def plain_step(student: str, batch_size: int) -> Step:
    """Training without a teacher."""
    module, batch = our_module(student, batch_size), random_batch(batch_size, CLASSES)
    return lambda: update(module, batch)


def teaching_step(teacher: str, batch_size: int, live: bool) -> Step:
    """A call by which the teacher embeds a batch of noise: as in a step, or as for the store, and
    then it is `about` the engine."""
    network = random_teacher(teacher)
    shape = (batch_size, IMAGE_SIZE, IMAGE_SIZE, 3)
    images = np.random.RandomState(0).randint(0, 256, shape).astype(np.uint8)
    embedder = Embedder(network, batch_size=batch_size) if live else fastest(network, batch_size)

    def step() -> None:
        embedder.embed(images)

    if not live:
        step.about = embedder.name
    return step


def stored_step(student: str, batch_size: int, folder: str) -> Step:
    """Our step, the embeddings out of a store that is made in `folder`."""
    store = random_store(Path(folder), embedding_size(get_symbol(student)))
    module = our_module(student, batch_size, 'teacher')
    return taught(module, batch_size, StoredTeacher(store).of_batch)


def live_step(student: str, batch_size: int, teacher: str) -> Step:
    """Our step, the embeddings by the teacher in MXNet with our operators."""
    embedder = Embedder(random_teacher(teacher), batch_size=batch_size)
    module = our_module(student, batch_size, 'teacher')
    return taught(module, batch_size, lambda batch: embedder.embed_batch(batch.data[0]))


def stock_step(student: str, batch_size: int, teacher: str) -> Step:
    """Stock operators in student and teacher, the teacher in every step."""
    module = start(stock_module(get_symbol(student), batch_size, CLASSES, ALPHA), batch_size)
    network = random_teacher(teacher)
    frozen = mx.mod.Module(flatten_before_dense(network.symbol), [DATA], None)
    frozen.bind([(DATA, (batch_size, *IMAGE_SHAPE))], for_training=False)
    frozen.set_params(network.arg_params, network.aux_params)

    def give(batch) -> 'mx.nd.NDArray':
        frozen.forward(mx.io.DataBatch([batch.data[0]]), is_train=False)
        return frozen.get_outputs()[0]

    return taught(module, batch_size, give)
