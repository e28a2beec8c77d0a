"""Where the classification loss of a run is computed: in the module's graph, or by PartialFC
beside it, on a part of the classes."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import numpy as np

from ..common.backend import mx
from ..common.data.recordio import CLASSES, read_class_names
from ..common.engine import checkpoint
from ..common.engine.model_name import params_path, parse_model
from ..common.errors import RunError
from ..common.names import CLASSIFIER_WEIGHT
from ..common.ranks import Ranks
from .config import PARTIAL_FC, TrainConfig
from .cost import Job, cosine_bytes
from .graph import CLASS_LOSS, CORRECT, NUM_OUTPUTS, TOTAL_LOSS, embedding_size
from .losses import make_loss
from .partial_fc import DENSE, Centres, PartialFC, Settings, shards
from .partial_fc.centres import BLOCK
from .partial_fc.centres_file import CENTRES, centres_path, read_blocks, shape_of
from .partial_fc.head import SPARSE

log = logging.getLogger(__name__)


class GraphHead:
    """The whole loss is in the graph."""

    def __init__(self, module: 'mx.mod.Module'):
        self._module = module

    def forward_backward(self, batch, lr: float, step: int) -> None:
        """One pass; `lr` and `step`, counted from 1, are those of the update it belongs to."""
        self._module.forward_backward(batch)

    def outputs(self) -> list:
        """The `NUM_OUTPUTS` outputs of the newest pass, (N,) each, on their device."""
        return self._module.get_outputs()[:NUM_OUTPUTS]

    def begin(self, pretrained: str, class_names: Sequence[str]) -> None:
        """Start anew: what there is are parameters of the module."""

    def resume(self, prefix: Path, number: int) -> None:
        """Go on from a checkpoint, likewise."""

    def save(self, prefix: Path, number: int) -> None:
        """Write what of a checkpoint is the head's alone: nothing."""


class PartialFCHead(GraphHead):
    """The classification loss is PartialFC's: the graph ends in the embedding, and takes its
    gradient. The centres are spread over the ranks, which call every method together."""

    def __init__(
        self,
        module: 'mx.mod.Module',
        embedding: 'mx.sym.Symbol',
        config: TrainConfig,
        ranks: Ranks,
    ):
        super().__init__(module)
        loss = make_loss(config.loss, config.loss_options)
        settings = Settings(
            num_classes=config.num_classes,
            embedding_size=embedding_size(embedding),
            sample_rate=config.sample_rate,
            update=config.partial_fc_update,
            mom=config.mom,
            wd=config.wd,
            seed=config.seed,
            filter_above=config.interclass_filter,
        )
        width = loss.centres_per_class * settings.embedding_size
        self._sharding = shards.Sharding(ranks, config.num_classes, settings.update == SPARSE)
        rows, folder = self._sharding.mine.rows, config.run_folder
        job = Job(
            classes=config.num_classes,
            ranks=ranks.size,
            batch=config.per_batch_size,
            params=0,
            embedding_size=settings.embedding_size,
            centres_per_class=loss.centres_per_class,
            sample_rate=config.sample_rate,
            dense=settings.update == DENSE,
            moves_others=not loss.margin_on_target_alone,
        )
        self._centres = Centres(rows, width, config.centres_dtype, folder, cosine_bytes(job))
        self._head = PartialFC(loss, settings, self._centres, ranks)
        self._seed = config.seed
        self._newest: list = []
        self._filtered = self._cosines = 0  # since the last checkpoint
        log.info(
            'PartialFC: %d of %d classes a step%s, centres and momenta take %.3g GB%s',
            *(self._head.count, rows, f' on each of {ranks.size} ranks' * (ranks.size > 1)),
            2e-9 * self._centres.weights.nbytes,
            self._centres.on_disk * f' of files in {folder}, since memory has no room for them',
        )

    def forward_backward(self, batch, lr: float, step: int) -> None:
        module = self._module
        module.forward(batch, is_train=True)
        outputs = module.get_outputs()
        label = batch.label[0]
        found = self._head.step(outputs[-1].asnumpy(), label.asnumpy(), lr, step)
        self._filtered += found.filtered
        self._cosines += found.cosines
        # a loss of the graph, a distillation's, is its own source of gradients
        gradients = [mx.nd.zeros_like(output) for output in outputs[:-1]]
        device = outputs[-1].context
        # that of the sum of this rank's losses, as of all other gradients of the graph
        gradient = found.gradient * np.float32(self._sharding.ranks.size)
        module.backward([*gradients, mx.nd.array(gradient, ctx=device)])
        loss, correct = (mx.nd.array(each, ctx=device) for each in (found.loss, found.correct))
        newest = outputs[:NUM_OUTPUTS]
        newest[TOTAL_LOSS] = newest[TOTAL_LOSS] + loss
        newest[CORRECT], newest[CLASS_LOSS] = correct, loss
        self._newest = newest

    def outputs(self) -> list:
        return self._newest

    def save(self, prefix: Path, number: int) -> None:
        """Write PREFIX-%04d.centres; RunError for a centre that is not finite."""
        for start in range(0, self._centres.rows, BLOCK):
            if not np.isfinite(self._centres.weights[start : start + BLOCK]).all():
                raise RunError(
                    f'a class centre from {start} on is not finite; the last good checkpoint stays'
                )
        if self._head.settings.filter_above < 1:
            log.info(
                '--interclass-filter %g: %d of %d cosines were left out since the last checkpoint',
                *(self._head.settings.filter_above, self._filtered, self._cosines),
            )
            self._filtered = self._cosines = 0
        path = centres_path(prefix, number)
        shards.save(path, self._centres, self._sharding, self._head.states)

    def resume(self, prefix: Path, number: int) -> None:
        """Go on with the centres of a checkpoint."""
        self._centres.start(self._seed, self._sharding.mine.start)
        path = centres_path(prefix, number)
        self._head.states = shards.resume(path, self._centres, self._sharding)

    def begin(self, pretrained: str, class_names: Sequence[str]) -> None:
        """Random centres, and those of `pretrained` where it knows the identities: by the names
        of classes.txt where both runs have one, else where both have as many classes."""
        self._centres.start(self._seed, self._sharding.mine.start)
        if not pretrained:
            return
        found = rows = None
        if self._sharding.ranks.rank == 0:
            found, rows = self._find(pretrained, tuple(class_names))
        random = np.random.default_rng(self._seed)
        taken = shards.adopt(self._centres, self._sharding, found, rows, random)
        classes = self._sharding.num_classes
        log.info(
            '%d of %d class centres are from %s, %d start from random values',
            *(taken, classes, pretrained, classes - taken),
        )

    def _find(self, model: str, names: tuple[str, ...]) -> tuple:
        """What `shards.adopt` takes: another run's centres, or None, and their classes here."""
        prefix, epoch = parse_model(model)
        path = centres_path(prefix, epoch)
        if path.is_file():
            (classes, width), blocks = shape_of(path), read_blocks(path, CENTRES)
        else:
            arg_params, _ = checkpoint.load_params(params_path(prefix, epoch))
            weight = arg_params.get(CLASSIFIER_WEIGHT)
            per_class = self._centres.width // self._head.settings.embedding_size
            if weight is None or len(weight) % per_class:
                return None, None
            weight = weight.reshape(len(weight) // per_class, -1)
            (classes, width), blocks = weight.shape, iter([(0, weight)])
        if width != self._centres.width:
            log.info('the centres of %s have %d values, here %d', model, width, self._centres.width)
            return None, None
        rows = self._rows_of(read_class_names(Path(prefix).with_name(CLASSES), classes), names)
        if rows is None and classes != self._sharding.num_classes:
            return None, None
        return ((classes, width), blocks), rows

    def _rows_of(self, theirs: tuple[str, ...], ours: tuple[str, ...]) -> Optional[np.ndarray]:
        """This run's row of each class of another; None where one of the two has no names."""
        if not theirs or not ours:
            return None
        rows = {name: row for row, name in enumerate(ours)}
        return np.array([rows.get(name, -1) for name in theirs])


def make_head(
    module: 'mx.mod.Module', embedding: 'mx.sym.Symbol', config: TrainConfig, ranks: Ranks
) -> GraphHead:
    """The head that `config` asks for, without values yet."""
    if config.head == PARTIAL_FC:
        return PartialFCHead(module, embedding, config, ranks)
    return GraphHead(module)
