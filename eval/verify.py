"""10-fold 1:1 verification of a checkpoint on .bin targets.

Each target's images and their mirror images are embedded, added and compared in pairs
(`verification.py`). The JSON result holds one entry per target under `targets`.
"""

import argparse
import hashlib
import logging
import time
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..common import console
from ..common.data.pair_lists import read_pair_list
from ..common.engine.open_model import OpenModel
from ..common.engine.options import add_options, open_from
from ..common.errors import InputError
from .datasets import load_bin
from .report.statistics import pair_identities
from .results import VERIFICATION, check_results_path, save_results
from .roc import check_plot_path, plot_roc
from .targets import resolve_targets
from .verification import VerificationResult, verify

log = logging.getLogger(__name__)

_HARDEST = 12  # pairs of each kind that --save keeps as pictures


class Verified(NamedTuple):
    """One target, verified."""

    result: VerificationResult
    xnorm: float
    rate: float  # images per second; mirror images count too
    images: np.ndarray  # (2P, 112, 112, 3) uint8


def verify_target(embedder: OpenModel, name: str, path: Path, folds: int) -> Verified:
    """Verify one .bin file."""
    images, issame = load_bin(path)
    with console.progress(2 * len(images), name) as bar:
        started = time.monotonic()
        try:
            result, xnorm = verify(embedder, images, issame, folds, bar)
        except InputError as error:
            raise InputError(f'target {path}: {error}') from error
        seconds = time.monotonic() - started
    log.info(
        '%s: accuracy %.5f +- %.5f, VAL %.5f +- %.5f @ FAR %.5f, XNorm %.3f',
        name,
        result.accuracy,
        result.accuracy_std,
        result.val,
        result.val_std,
        result.far,
        xnorm,
    )
    return Verified(result, xnorm, 2 * len(images) / seconds, images)


def entry(verified: Verified) -> dict:
    """A target's part of the JSON result.

    `threshold` is the protocol's, a squared distance d of unit vectors, below which a pair is
    accepted; `threshold_cosine` is the same as a cosine, 1 - d / 2, above which it is.
    """
    return {
        **verified.result.summary(),
        'threshold_cosine': 1 - verified.result.threshold / 2,
        'fold_accuracies': verified.result.fold_accuracies,
        'xnorm': verified.xnorm,
        'images_per_second': verified.rate,
    }


def read_identities(path: Path, issame: np.ndarray) -> np.ndarray:
    """(P, 2) names of a pair list that the target was made of; InputError if it is another one."""
    pairs = read_pair_list(path).pairs
    if [pair.same for pair in pairs] != issame.tolist():
        raise InputError(f'{path}: {len(pairs)} pairs that are not the {len(issame)} of the target')
    return np.array([(pair.first[0], pair.second[0]) for pair in pairs])


def saved_arrays(verified: Verified, identities: Optional[np.ndarray]) -> dict[str, np.ndarray]:
    """What the report needs of a target: scores, decisions, identities, the hardest pairs."""
    result, images = verified.result, verified.images
    named = identities is not None
    if not named:
        identities = pair_identities(images, result.issame)
    hardest = {}
    for kind, sign, pairs in (
        ('accepts', 1, ~result.issame),  # false accepts: different people at a small distance
        ('rejects', -1, result.issame),
    ):
        order = np.argsort(sign * result.distances + np.where(pairs, 0, np.inf), kind='stable')
        hardest[kind] = order[: min(_HARDEST, pairs.sum())]
    return {
        'distances': result.distances,
        'issame': result.issame,
        'fold_accuracies': result.fold_accuracies,
        'fold_thresholds': result.fold_thresholds,
        'identities': np.unique(identities, return_inverse=True)[1].reshape(-1, 2),
        'identities_named': np.array(named),
        'pairs_digest': np.array(hashlib.sha256(images.tobytes()).hexdigest()),
        **{f'hardest_{kind}': pairs for kind, pairs in hardest.items()},
        **{
            f'images_{kind}': images.reshape(-1, 2, *images.shape[1:])[pairs]
            for kind, pairs in hardest.items()
        },
    }


def _row(name: str, target: dict) -> tuple:
    return (
        name,
        target['pairs'],
        '{accuracy:.5f} +- {accuracy_std:.5f}'.format(**target),
        '{val:.5f} +- {val_std:.5f} @ {far:.5f}'.format(**target),
        f'{target["xnorm"]:.3f}',
        f'{target["threshold"]:.3f}',
        f'{target["threshold_cosine"]:.3f}',
        f'{target["images_per_second"]:.1f}',
    )


def build_parser(parser: console.Parser) -> None:
    add_options(parser)
    parser.add_argument(
        '--target',
        required=True,
        action='append',
        metavar='BIN',
        help='.bin file or name in --data-dir; several with commas or by repeating the option',
    )
    parser.add_argument('--data-dir', metavar='DIR', help='folder of targets given by name')
    parser.add_argument('--batch-size', type=int, default=64, help='images per forward pass')
    parser.add_argument('--folds', type=int, default=10, help='folds of the pairs')
    parser.add_argument('--save', metavar='NPZ', help='results for vargfacenet report')
    parser.add_argument(
        '--pair-list',
        type=Path,
        metavar='FILE',
        help='LFW pair list that the one target was made of: who is in the pairs, for --save',
    )
    parser.add_argument('--plot', metavar='FILE', help='write ROC curves (.png, .pdf or .svg)')


def run(arguments: argparse.Namespace) -> dict:
    # everything that can be wrong with the options is found before the model is loaded
    targets = resolve_targets(arguments.target, arguments.data_dir)
    if arguments.plot:
        check_plot_path(arguments.plot)
    if arguments.save:
        check_results_path(arguments.save)
    if arguments.pair_list and (len(targets) > 1 or not arguments.save):
        raise InputError('--pair-list is for --save with one target')
    embedder = open_from(arguments, arguments.batch_size, 'mxnet')

    results, entries, saved = {}, {}, {}
    for name, path in targets.items():
        verified = verify_target(embedder, name, path, arguments.folds)
        results[name], entries[name] = verified.result, entry(verified)
        if arguments.save:
            names = arguments.pair_list
            people = read_identities(names, verified.result.issame) if names else None
            arrays = saved_arrays(verified, people)
            saved.update({f'{name}/{key}': value for key, value in arrays.items()})
    console.table(
        f'{arguments.model}: verification, {arguments.folds} folds',
        (
            'target',
            'pairs',
            'accuracy',
            'VAL @ FAR',
            'XNorm',
            'distance² <',
            'cosine >',
            'images/s',
        ),
        [_row(name, target) for name, target in entries.items()],
    )
    if arguments.plot:
        plot_roc(arguments.plot, results)
        log.info('ROC curves: %s', arguments.plot)
    if arguments.save:
        about = {'model': arguments.model, 'folds': arguments.folds, 'targets': entries}
        save_results(arguments.save, VERIFICATION, about, saved)
        log.info('results: %s', arguments.save)
    return {'model': arguments.model, 'folds': arguments.folds, 'targets': entries}


main = console.command('verify', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
