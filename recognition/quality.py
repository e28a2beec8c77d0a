"""Train a quality head: what weights the frames of a video, from their embeddings alone.

The network is frozen. Videos of known people, VIDEOS/<person>/<video>/<frame>, are embedded once,
and the head, one weight a dimension, is fitted by the set-to-set loss of `set_loss` with L-BFGS: a
few seconds, and the same head each time. How much the weights are held back (the decay) is chosen
on people that the head was not fitted to, in three parts of them.
"""

import argparse
import logging
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ..common import console
from ..common.engine.options import add_options, open_from
from ..common.errors import InputError
from ..common.files import output_file
from ..eval.quality_head import SUFFIX, QualityHead, features
from ..eval.video_sets import VideoSet, check_video_set, embed_video_set
from .set_loss import MOST_SCALE, FrameSets, set_loss

log = logging.getLogger(__name__)

DECAYS = (0.1, 1.0, 10.0, 100.0)  # of the squared weights, of columns of deviation 1
_PARTS = 3
_STEPS = 100
_FEWEST = 2 * _PARTS  # people


class _Examples(NamedTuple):
    """What a head is fitted to."""

    sets: FrameSets
    columns: np.ndarray  # (F, D + 1) float64, of mean 0 and deviation 1 (0 where constant)


def _some(videos: VideoSet, columns: np.ndarray, people: np.ndarray) -> _Examples:
    """The videos of some people, numbers of `videos.names`."""
    taken = np.isin(videos.people, people)
    frames = taken[videos.owner]
    owner = videos.owner[frames]
    starts = np.flatnonzero(np.diff(owner, prepend=-1))
    units = features(videos.embeddings[frames])[:, :-1]
    return _Examples(FrameSets(units, starts, videos.people[taken]), columns[frames])


def fit(examples: _Examples, scale: float, decay: float) -> np.ndarray:
    """(D + 1,) weights that minimise set_loss + decay |weights|^2, from zero: the plain mean."""
    from scipy.optimize import minimize

    def objective(weight: np.ndarray) -> tuple[float, np.ndarray]:
        loss, by_quality = set_loss(examples.sets, examples.columns @ weight, scale)
        slope = examples.columns.T @ by_quality + 2 * decay * weight
        return loss + decay * float(weight @ weight), slope

    start = np.zeros(examples.columns.shape[1])
    return minimize(objective, start, jac=True, method='L-BFGS-B', options={'maxiter': _STEPS}).x


def choose_decay(
    videos: VideoSet, columns: np.ndarray, scale: float, seed: int
) -> tuple[float, dict[float, float], float]:
    """The decay whose heads have the lowest loss for people they were not fitted to.

    Returns
    -------
    (decay, mean loss of the held-out parts by decay, that of the plain mean)
    """
    shuffled = np.random.RandomState(seed).permutation(_with_pairs(videos))
    losses, plain = dict.fromkeys(DECAYS, 0.0), 0.0
    for part in range(_PARTS):
        held_out = _some(videos, columns, shuffled[part::_PARTS])
        others = np.delete(shuffled, np.s_[part::_PARTS])
        fitted = _some(videos, columns, others)
        plain += set_loss(held_out.sets, np.zeros(len(held_out.columns)), scale)[0] / _PARTS
        for decay in DECAYS:
            qualities = held_out.columns @ fit(fitted, scale, decay)
            losses[decay] += set_loss(held_out.sets, qualities, scale)[0] / _PARTS
    return min(losses, key=losses.get), losses, plain


def _with_pairs(videos: VideoSet) -> np.ndarray:
    """Numbers of the people with two videos or more."""
    return np.flatnonzero(np.bincount(videos.people) >= 2)


def train_head(
    videos: VideoSet, fingerprint: str, scale: float, seed: int
) -> tuple[QualityHead, dict]:
    """A head for the model of `fingerprint`, and what is known of its training."""
    if len(_with_pairs(videos)) < _FEWEST:
        raise InputError(
            f'{len(_with_pairs(videos))} people have two videos; at least {_FEWEST} are needed'
        )
    raw = features(videos.embeddings)
    deviation = raw.std(axis=0)
    # rows of a model that gives unit length differ by rounding alone
    deviation[deviation < 1e-6] = np.inf
    columns = (raw - raw.mean(axis=0)) / deviation
    decay, losses, plain = choose_decay(videos, columns, scale, seed)
    weight = fit(_some(videos, columns, _with_pairs(videos)), scale, decay) / deviation
    head = QualityHead(weight, fingerprint, videos.names)
    return head, {
        'decay': decay,
        'held_out_loss': losses[decay],
        'held_out_loss_by_decay': {f'{value:g}': loss for value, loss in losses.items()},
        'held_out_loss_of_the_mean': plain,
    }


def build_parser(parser: console.Parser) -> None:
    parser.add_argument(
        'videos', type=Path, metavar='VIDEOS', help='crops, VIDEOS/<person>/<video>/<frame>'
    )
    add_options(parser)
    parser.add_argument(
        '--out', type=Path, required=True, metavar='HEAD.npz', help='the head to write'
    )
    parser.add_argument('--scale', type=float, default=32.0, help='of the cosines in the loss')
    parser.add_argument('--seed', type=int, default=0, help='draws the three parts')
    parser.add_argument('--batch-size', type=int, default=32, help='frames per forward pass')


def run(args: argparse.Namespace) -> dict:
    ranges = [
        ('--scale', args.scale, 1.0, MOST_SCALE),
        ('--seed', args.seed, 0, 2**32 - 1),
        ('--batch-size', args.batch_size, 1, 4096),
    ]
    console.check_ranges(ranges)
    if args.out.suffix != SUFFIX:
        raise InputError(f'--out {args.out}: expected a name that ends in {SUFFIX}')
    output_file(args.out)
    check_video_set(args.videos)
    model = open_from(args, args.batch_size)
    videos = embed_video_set(model, args.videos)
    head, known = train_head(videos, model.fingerprint, args.scale, args.seed)
    head.save(args.out)
    log.info(
        '%s: %d videos of %d people; loss of people not fitted to %.4f, of the mean %.4f',
        *(args.out, len(videos.people), len(videos.names)),
        *(known['held_out_loss'], known['held_out_loss_of_the_mean']),
    )
    return {
        'out': str(args.out),
        'people': len(videos.names),
        'videos': len(videos.people),
        'frames': len(videos.owner),
        'scale': args.scale,
        **known,
        'model': args.model,
    }


main = console.command('quality', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
