"""1:1 verification of a model: 10-fold on .bin targets, and all pairs of sets of people.

Images and their mirror images are embedded, added and compared in pairs (`verification.py`,
`all_pairs.py`). The JSON result holds one entry per target under `targets`, and one per set of
people under `all_pairs`.
"""

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..common import console
from ..common.arrays import digest_of
from ..common.data.failed_pairs import FailedPair, read_failed
from ..common.data.pair_lists import read_pair_list
from ..common.engine.open_model import OpenModel
from ..common.engine.options import add_options, open_from
from ..common.errors import InputError
from ..common.files import sha256
from .all_pairs import FARS, AllPairs, embed_set, entry_of, measure
from .datasets import load_bin
from .report.statistics import pair_identities
from .results import VERIFICATION, check_results_path, save_results
from .roc import check_plot_path, plot_roc
from .targets import resolve_sets, resolve_targets
from .verification import VerificationResult, verify

log = logging.getLogger(__name__)

_FOLDS = 10
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


def read_identities(
    path: Path, issame: np.ndarray, failed: Sequence[FailedPair] = ()
) -> np.ndarray:
    """(P, 2) names of a pair list that the target was made of, without the pairs that failed.

    Raises InputError if it is another one.
    """
    left_out = {pair.number for pair in failed}
    listed = enumerate(read_pair_list(path).pairs)
    pairs = [pair for number, pair in listed if number not in left_out]
    if [pair.same for pair in pairs] != issame.tolist():
        raise InputError(f'{path}: {len(pairs)} pairs that are not the {len(issame)} of the target')
    return np.array([(pair.first[0], pair.second[0]) for pair in pairs])


def saved_arrays(
    verified: Verified, identities: Optional[np.ndarray], failed: Sequence[FailedPair] = ()
) -> dict[str, np.ndarray]:
    """What the report needs of a target: scores, decisions, identities, the hardest pairs, and how
    many genuine and impostor pairs gave no score."""
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
    names, numbers = np.unique(identities, return_inverse=True)
    same = sum(pair.same for pair in failed)
    return {
        'distances': result.distances,
        'issame': result.issame,
        'fold_accuracies': result.fold_accuracies,
        'fold_thresholds': result.fold_thresholds,
        'identities': numbers.reshape(-1, 2),
        'identities_named': np.array(named),
        **({'names': names.astype(str)} if named else {}),
        'failed': np.array([same, len(failed) - same]),
        'pairs_digest': np.array(digest_of(images, result.issame)),
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
        action='append',
        default=[],
        metavar='BIN',
        help='.bin file or name in --data-dir; several with commas or by repeating the option',
    )
    parser.add_argument(
        '--pairs',
        action='append',
        default=[],
        metavar='NPZ',
        help='set of make-pairs, all pairs of which are compared; may be repeated',
    )
    parser.add_argument('--data-dir', metavar='DIR', help='folder of targets given by name')
    parser.add_argument('--batch-size', type=int, default=64, help='images per forward pass')
    parser.add_argument('--folds', type=int, help=f'folds of the pairs (default: {_FOLDS})')
    parser.add_argument('--save', metavar='NPZ', help='results for vargfacenet report')
    parser.add_argument(
        '--pair-list',
        type=Path,
        metavar='FILE',
        help='LFW pair list that the one target was made of: who is in the pairs, for --save',
    )
    parser.add_argument('--plot', metavar='FILE', help='write ROC curves (.png, .pdf or .svg)')


def _check(arguments: argparse.Namespace) -> tuple[dict[str, Path], dict[str, Path]]:
    """(targets, sets of people) by name; what can be wrong with the options is found here."""
    if not arguments.target and not arguments.pairs:
        raise InputError('nothing to verify on: give --target or --pairs')
    if arguments.plot:
        check_plot_path(arguments.plot)
    if arguments.save:
        check_results_path(arguments.save, arguments.pairs)
    if not arguments.target:
        console.refuse_options(arguments, ('folds', 'data_dir', 'plot'), 'only with --target')
    if arguments.folds is None:
        arguments.folds = _FOLDS
    console.check_ranges([('--folds', arguments.folds, 2, 1000)])
    targets = resolve_targets(arguments.target, arguments.data_dir) if arguments.target else {}
    sets = resolve_sets(arguments.pairs, targets)
    if arguments.pair_list and (len(targets) != 1 or not arguments.save):
        raise InputError('--pair-list is for --save with one target')
    if arguments.pair_list:
        read_pair_list(arguments.pair_list)  # a wrong one is named before anything is embedded
    return targets, sets


def _verify_targets(
    embedder: OpenModel, targets: dict[str, Path], arguments: argparse.Namespace
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """(entry of each target, arrays to save)."""
    results, entries, saved = {}, {}, {}
    for name, path in targets.items():
        verified = verify_target(embedder, name, path, arguments.folds)
        results[name], entries[name] = verified.result, entry(verified)
        if arguments.save:
            names, failed = arguments.pair_list, read_failed(path)
            same = verified.result.issame
            people = read_identities(names, same, failed) if names else None
            arrays = saved_arrays(verified, people, failed)
            saved.update({f'{name}/{key}': value for key, value in arrays.items()})
    if targets:
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
    return entries, saved


def _verify_sets(
    embedder: OpenModel, sets: dict[str, Path], model: str
) -> tuple[dict[str, dict], dict[str, np.ndarray]]:
    """The same for sets of people."""
    entries, saved = {}, {}
    for name, path in sets.items():
        embedded: AllPairs = embed_set(embedder, name, path)
        entries[name] = entry_of(measure(embedded))
        arrays = {
            'embeddings': embedded.embeddings,
            'identities': embedded.people,
            'pairs_digest': np.array(embedded.digest),
        }
        if embedded.impostors is not None:
            arrays['impostors'] = embedded.impostors
        saved.update({f'{name}/{key}': value for key, value in arrays.items()})
    if sets:
        console.table(
            f'{model}: all pairs, TAR % [95 % over people]',
            ('set', 'people', 'genuine', 'impostor', *(f'@ FAR {far:g}' for far in FARS)),
            [_set_row(name, each) for name, each in entries.items()],
        )
    return entries, saved


def _set_row(name: str, each: dict) -> tuple:
    cells = []
    for far in FARS:
        tar = each['tar'].get(f'{far:g}')
        cells.append(
            '{:.1f} [{:.1f}, {:.1f}]'.format(*(100 * tar[key] for key in ('value', 'low', 'high')))
            if tar
            else 'too few pairs'
        )
    counts = (each['people'], each['genuine_pairs'], each['impostor_pairs'])
    return (name, *(f'{count:,}' for count in counts), *cells)


def run(arguments: argparse.Namespace) -> dict:
    targets, sets = _check(arguments)  # before the model is loaded
    embedder = open_from(arguments, arguments.batch_size, 'mxnet')
    entries, saved = _verify_targets(embedder, targets, arguments)
    set_entries, set_arrays = _verify_sets(embedder, sets, arguments.model)
    about = {'model': arguments.model, 'folds': arguments.folds, 'targets': entries}
    if sets:
        about['all_pairs'] = set_entries
    if arguments.save:
        # of the file, not the fingerprint: that is the same for all files of an export
        model = {'sha256': sha256(embedder.weights), 'engine': embedder.engine_name}
        save_results(arguments.save, VERIFICATION, {**model, **about}, {**saved, **set_arrays})
        log.info('results: %s', arguments.save)
    return about


main = console.command('verify', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
