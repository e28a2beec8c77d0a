"""Verification of videos, with every pooling side by side: TAR at a FAR, and how sure it is.

VIDEOS/<person>/<video>/<frame> are embedded once. Every pair of videos is compared by the cosine of
what a pooling makes of them: pairs of a person are genuine, all others are impostors. Intervals are
a bootstrap over people, and so are those of the differences to the mean and to the single frame of
the longest embedding, from the same draws. A head that was trained with one of these people is
refused.
"""

import argparse
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..common import console
from ..common.engine.options import add_options, open_from
from ..common.errors import InputError
from .frame_quality import FramePooling, Judge, Norms, judge_from
from .pooling import MEAN, POOLINGS
from .quality_head import QualityHead
from .report.statistics import REPLICATES, Interval, RateAtFar, bootstrap
from .video_sets import VideoSet, check_video_set, embed_video_set

log = logging.getLogger(__name__)

_UNSAFE = 'qan++'  # its safe form is the same wherever it is defined
_WITHOUT_QUALITY = (MEAN, 'norm')
_BEST = 'best'


class Arm(NamedTuple):
    """One way to pool, and the pairs that it makes."""

    pooling: FramePooling
    distances: np.ndarray  # (P,) float64, squared

    @property
    def title(self) -> str:
        if self.pooling.name in _WITHOUT_QUALITY:
            return self.pooling.name
        return f'{self.pooling.name}, {self.pooling.judge.name}'


def pool_all(videos: VideoSet, pooling: FramePooling, judge: int) -> np.ndarray:
    """(V, D) float64 of unit length; `judge` is the column of the qualities."""
    bounds = videos.bounds()
    return np.stack(
        [
            pooling.pool(videos.embeddings[start:end], videos.qualities[start:end, judge])
            for start, end in zip(bounds, bounds[1:])
        ]
    )


def all_arms(videos: VideoSet, judges: list[Judge]) -> list[Arm]:
    """The mean, the best frame by the first judge, then every pooling with every judge that it can
    use.
    """
    first, second = np.triu_indices(len(videos.people), 1)
    arms = []
    for column, judge in enumerate(judges):
        others = [name for name in POOLINGS.names() if name not in (MEAN, _BEST, _UNSAFE)]
        for name in (MEAN, _BEST, *others):
            if column and name in _WITHOUT_QUALITY:
                continue
            pooled = pool_all(videos, FramePooling(name, judge), column)
            distances = 2 - 2 * (pooled @ pooled.T)[first, second]
            arms.append(Arm(FramePooling(name, judge), distances))
    return arms


def measure(
    arms: list[Arm], people: np.ndarray, far: float, replicates: int, seed: int
) -> list[list[Interval]]:
    """TAR of each arm at FAR, its difference to the first arm, and that to the second, each with
    its interval over people.
    """
    first, second = np.triu_indices(len(people), 1)
    identities = np.stack([people[first], people[second]], axis=1)
    issame = people[first] == people[second]
    rates = [RateAtFar(arm.distances, issame, far) for arm in arms]

    def statistic(weights: np.ndarray) -> np.ndarray:
        tars = np.array([rate(weights) for rate in rates])
        return np.concatenate([tars, tars - tars[0], tars - tars[1]])

    intervals = bootstrap(statistic, identities, issame, replicates, seed)
    return [intervals[start : start + len(arms)] for start in range(0, 3 * len(arms), len(arms))]


def refuse_known_people(videos: VideoSet, judge: Judge) -> None:
    """InputError for a head that was trained with people of the test."""
    both = sorted(set(videos.names) & set(judge.people)) if isinstance(judge, QualityHead) else []
    if both:
        raise InputError(
            f'{judge.name} was trained with {len(both)} of these people, such as {both[0]}; '
            f'measure on others'
        )


def build_parser(parser: console.Parser) -> None:
    parser.add_argument(
        'videos', type=Path, metavar='VIDEOS', help='crops, VIDEOS/<person>/<video>/<frame>'
    )
    add_options(parser)
    parser.add_argument(
        '--quality',
        action='append',
        default=[],
        metavar='MODEL',
        help='a network of one output or a head .npz that gives qualities, beside the lengths of '
        'embeddings; may be repeated',
    )
    parser.add_argument('--far', type=float, default=0.01, help='false-accept rate')
    parser.add_argument('--replicates', type=int, default=REPLICATES, help='of the bootstrap')
    parser.add_argument('--seed', type=int, default=0, help='of the bootstrap')
    parser.add_argument('--batch-size', type=int, default=32, help='frames per forward pass')


def _percent(interval: Interval, sign: str = '') -> str:
    value, low, high = (f'{100 * each:{sign}.1f}' for each in interval)
    return f'{value} [{low}, {high}]'


def _check(args: argparse.Namespace) -> None:
    ranges = [
        ('--far', args.far, 1e-9, 0.999),
        ('--replicates', args.replicates, 10, 10**6),
        ('--seed', args.seed, 0, 2**32 - 1),
        ('--batch-size', args.batch_size, 1, 4096),
    ]
    console.check_ranges(ranges)
    check_video_set(args.videos)


def run(args: argparse.Namespace) -> dict:
    _check(args)
    model = open_from(args, args.batch_size)
    judges = [Norms()]
    judges += [judge_from(args, quality, model, args.batch_size) for quality in args.quality]
    videos = embed_video_set(model, args.videos, *judges)
    for judge in judges:
        refuse_known_people(videos, judge)
    arms = all_arms(videos, judges)
    measured = measure(arms, videos.people, args.far, args.replicates, args.seed)
    sizes = np.bincount(videos.people)
    genuine = int((sizes * (sizes - 1) // 2).sum())
    impostors = len(arms[0].distances) - genuine
    console.table(
        f'{len(videos.people)} videos of {len(videos.names)} people, {len(videos.owner)} frames: '
        f'{genuine} genuine and {impostors} impostor pairs',
        (
            'pooling, quality',
            f'TAR % at FAR {args.far:g}',
            f'minus {arms[0].title}',
            f'minus {arms[1].title}',
        ),
        [
            (arm.title, _percent(tar), _percent(to_mean, '+'), _percent(to_best, '+'))
            for arm, tar, to_mean, to_best in zip(arms, *measured)
        ],
    )
    return {
        'videos': len(videos.people),
        'people': len(videos.names),
        'frames': len(videos.owner),
        'genuine_pairs': genuine,
        'impostor_pairs': impostors,
        'far': args.far,
        'arms': [
            {
                'pooling': arm.pooling.name,
                'quality': arm.pooling.judge.name,
                'tar': list(tar),
                'minus_mean': list(to_mean),
                'minus_best': list(to_best),
            }
            for arm, tar, to_mean, to_best in zip(arms, *measured)
        ],
        'model': args.model,
    }


main = console.command('verify-videos', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
