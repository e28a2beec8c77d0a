"""The frames of videos: what says how good one is, and how they become one embedding."""

import argparse
from pathlib import Path
from typing import Callable, NamedTuple, Protocol

import numpy as np

from ..common import flops
from ..common.console import Parser
from ..common.engine.engines import AUTO
from ..common.engine.open_model import OpenModel
from ..common.engine.options import open_from
from ..common.errors import InputError
from ..common.vectors import unit_rows
from .pooling import MEAN, POOLINGS, SAFE
from .quality_head import SUFFIX as HEAD_SUFFIX
from .quality_head import load_head

_UNIT = 1e-3  # as near to 1 are the lengths of a model that gives rows of unit length


class Judge(Protocol):
    """What gives frames their qualities."""

    name: str
    default_pooling: str  # unless the user chooses another

    def __call__(self, crops: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        """(N, 112, 112, 3) uint8 RGB and their raw (N, D) embeddings -> (N,) float32."""

    def count(self) -> flops.Count:
        """Of one frame, beside what the embedding costs."""


class Norms:
    """The length of a frame's embedding is its quality: nothing more to compute."""

    name = 'norm'
    default_pooling = MEAN

    def __call__(self, crops: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        return np.linalg.norm(embeddings, axis=1)

    def count(self) -> flops.Count:
        return flops.Count(0, 0)


class QualityNetwork:
    """A network of one output a picture, such as `qan_quality`.

    Raises InputError for a model of more outputs.
    """

    default_pooling = SAFE

    def __init__(self, model: OpenModel):
        if model.embedding_size != 1:
            raise InputError(
                f'--quality {model.name}: {model.embedding_size} outputs a picture; a quality '
                f'network such as qan_quality has one'
            )
        self.name, self._model = model.name, model

    def __call__(self, crops: np.ndarray, embeddings: np.ndarray) -> np.ndarray:
        return self._model.embed(crops)[:, 0]

    def count(self) -> flops.Count:
        return self._model.count()


def add_pooling_options(parser: Parser) -> None:
    """Add --pooling and --quality."""
    parser.add_argument(
        '--pooling',
        choices=POOLINGS.names(),
        help=f"how a video's frames become one embedding; by default {MEAN}, with a quality "
        f'network {SAFE}, with a trained head softmax',
    )
    parser.add_argument(
        '--quality',
        metavar='MODEL',
        help='what gives frames their qualities: a network of one output, such as qan_quality, or '
        'a head .npz of vargfacenet quality; by default the length of the embedding is the quality',
    )


class FramePooling(NamedTuple):
    """How the frames of a video become one embedding; made by `pooling_from`."""

    name: str  # in POOLINGS
    judge: Judge

    @property
    def uses_lengths(self) -> bool:
        """Whether it counts how long embeddings are."""
        return self.name == 'norm' or (self.name != MEAN and isinstance(self.judge, Norms))

    def pool(self, embeddings: np.ndarray, qualities: np.ndarray) -> np.ndarray:
        """One embedding of unit length, (D,) float64, from raw ones (F, D) and qualities (F,).

        Raises InputError where the pooling is not defined, and for lengths that tell nothing.
        """
        if self.uses_lengths and np.abs(np.linalg.norm(embeddings, axis=1) - 1).max() < _UNIT:
            raise InputError(
                f'--pooling {self.name}: all embeddings have length 1, which tells nothing of the '
                f'frames; take the model without --l2-normalize, a --quality or --pooling {MEAN}'
            )

        def refusal(_: np.ndarray) -> InputError:
            return InputError(
                f'--pooling {self.name} gives no embedding for {len(embeddings)} frames of '
                f'qualities {qualities.min():g} to {qualities.max():g}; --pooling {SAFE} does'
            )

        pooled = POOLINGS.get(self.name)(
            np.asarray(embeddings, np.float32), np.asarray(qualities, np.float32)
        )
        return unit_rows(pooled[None], refusal)[0]


class Embeds(Protocol):
    """The model whose embeddings are judged: an OpenModel, or what stands before one."""

    fingerprint: str
    embedding_size: int


def judge_from(
    args: argparse.Namespace,
    quality: str,
    model: Embeds,
    batch_size: int,
    checkpoint_engine: str = AUTO,
) -> Judge:
    """What a --quality names, for the embeddings of `model`; otherwise as `open_from`."""
    if Path(quality).suffix == HEAD_SUFFIX:
        return load_head(quality, model)
    return QualityNetwork(open_from(args, batch_size, checkpoint_engine, quality))


def pooling_from(
    args: argparse.Namespace, model: Embeds, batch_size: int, checkpoint_engine: str = AUTO
) -> FramePooling:
    """What the options of `add_pooling_options` say; otherwise as `judge_from`."""
    judge = Norms()
    if args.quality:
        judge = judge_from(args, args.quality, model, batch_size, checkpoint_engine)
    return FramePooling(args.pooling or judge.default_pooling, judge)


def frame_embeddings(
    embed: Callable[[np.ndarray], np.ndarray], crops: np.ndarray, flip: bool
) -> np.ndarray:
    """Raw (N, D) float32 of the crops of frames; with `flip` the mean of a crop's embedding and
    its mirror image's.

    Parameters
    ----------
    embed : (N, 112, 112, 3) uint8 RGB -> (N, D) float32
    """
    embeddings = embed(crops)
    if not flip:
        return embeddings
    return (embeddings + embed(np.ascontiguousarray(crops[:, :, ::-1]))) / 2


class JudgedFrames:
    """Embeds frames and judges them at once, for what calls a model's `embed`.

    Rows are [embedding | quality by each judge], (N, D + J) float32. With `flip` the embedding is
    the mean of the frame's and its mirror image's.
    """

    def __init__(self, model: OpenModel, *judges: Judge, flip: bool = False):
        self._model, self._judges, self._flip = model, judges, flip
        self.batch_size = model.batch_size
        self.embedding_size = model.embedding_size + len(judges)

    def embed(self, crops: np.ndarray) -> np.ndarray:
        embeddings = frame_embeddings(self._model.embed, crops, self._flip)
        qualities = [judge(crops, embeddings) for judge in self._judges]
        return np.column_stack([embeddings, *qualities]).astype(np.float32)
