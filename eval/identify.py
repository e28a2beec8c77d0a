"""Identification of probes among distractors: TPR at FPR, rank-k, open-set TPIR at FPIR.

Embeddings come from .npy, .npz or LFR feature files, or from a checkpoint and image lists. All
pairs are compared, exactly and in bounded memory; a long run resumes, several processes share it.
"""

import argparse
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..common import console
from ..common.engine.options import HELP, add_options, open_from
from ..common.errors import InputError
from ..common.files import output_folder
from .embeddings import (
    Embeddings,
    check_embeddings,
    composed,
    count_duplicates,
    load_embeddings,
    without_rows,
)
from .identification import TprResult, tpr_at_fpr
from .pairs import MAX_SCORES, count_negatives, count_same
from .ranking import OpenSetResult, RankResult, check_rank_sizes, open_set, rank_rates
from .rates import allowed
from .results import IDENTIFICATION, check_results_path, save_results
from .search.resume import ResumeFile
from .search.screen import KERNELS
from .search.world import World, current_world

log = logging.getLogger(__name__)

PROTOCOLS = ('lfr', 'megaface', 'open-set')
FPRS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3)
_COARSE_FPRS = (1e-2, 1e-1)  # where there are fewer than a thousand negatives
FPIRS = (1e-2, 1e-1)
_DEFAULT_SCORES = 1 << 20  # default FPRs need no more highest scores than this
_MEGAFACE_FPR = 1e-6
_SETS = ('probes', 'distractors', 'gallery')
_OF_PROTOCOLS = {  # options and the protocols that look at them
    ('gallery', 'gallery_labels', 'fpir'): ('open-set',),
    ('sizes',): ('megaface',),
    ('ranks',): ('megaface', 'open-set'),
    ('fpr', 'probe_pairs', 'resume'): ('lfr', 'megaface'),
}
_OF_LISTS = {'root': Path('.'), 'features': Path('features'), 'batch_size': 64}  # and defaults
_RANKS = 10


class Part(NamedTuple):
    """One of the three sets of a run, checked."""

    embeddings: Embeddings
    keys: np.ndarray  # (N,) uint64, of the rows
    missing: int  # zero rows that were left out
    lost: int  # pairs of one identity that they were in


def read_identities(path: Path, root: Path) -> tuple[list[str], np.ndarray]:
    """Paths and identities of an image list: `PATH [IDENTITY]`, by default the picture's folder."""
    # here, since a run on stored embeddings needs none of it
    from ..common.data.listed import read_list

    listed = read_list(path, root)
    identities = [rest[0] if rest else Path(name).parent.name for name, *rest in listed]
    return [name for name, *_ in listed], composed(np.array(identities))


def _embed(
    arguments: argparse.Namespace, lists: dict[str, Path], world: World
) -> dict[str, Embeddings]:
    """Embed image lists into feature files, in the first process; the others wait for them."""
    # here, since a run on stored embeddings needs none of it
    from .features import check_some_there, image_rows, write_features
    from .image_list import report_missing
    from .matrix_file import read_matrix

    listed = {name: read_identities(path, arguments.root) for name, path in lists.items()}
    for name, (paths, _) in listed.items():
        check_some_there(arguments.root, paths, str(lists[name]))
    output_folder(arguments.features)
    if world.is_first:
        embedder = open_from(arguments, arguments.batch_size, 'mxnet')
        for name, (paths, _) in listed.items():
            out = arguments.features / f'{name}.bin'
            rows = image_rows(embedder, arguments.root, paths)
            missing = write_features(out, rows, paths, embedder.embedding_size)
            report_missing(missing, len(paths), name)
    world.gather(np.zeros(1, np.float32))
    return {
        name: Embeddings(read_matrix(arguments.features / f'{name}.bin'), identities)
        for name, (_, identities) in listed.items()
    }


def _load(arguments: argparse.Namespace, world: World) -> dict[str, Part]:
    """The sets that were given, checked."""
    paths = {name: getattr(arguments, name) for name in _SETS if getattr(arguments, name)}
    if arguments.model:
        loaded = _embed(arguments, paths, world)
    else:
        labels = {name: getattr(arguments, f'{name.rstrip("s")}_labels') for name in paths}
        loaded = {name: load_embeddings(path, labels[name]) for name, path in paths.items()}
    parts = {}
    for name, embeddings in loaded.items():
        if embeddings.labels is None and name != 'distractors':
            raise InputError(
                f'{name} {paths[name]}: identities are needed; give --{name.rstrip("s")}-labels'
            )
        skip = arguments.skip_zero or bool(arguments.model)
        check = check_embeddings(embeddings.rows, f'{name} {paths[name]}', skip)
        if len(check.zero):
            log.warning('%s: %d zero rows are left out', name, len(check.zero))
        if len(check.zero) == len(embeddings.rows):
            raise InputError(f'{name} {paths[name]}: every row is zero')
        kept = without_rows(embeddings, check.zero)
        lost = 0
        if name == 'probes':
            lost = count_same(embeddings.labels) - count_same(kept.labels)
        parts[name] = Part(kept, np.delete(check.keys, check.zero), len(check.zero), lost)
    _check_label_kinds(parts)
    return parts


def _check_label_kinds(parts: dict[str, Part]) -> None:
    """InputError where some labels are text and some numbers, none of which would be equal."""
    labels = {name: part.embeddings.labels for name, part in parts.items()}
    texts = {name: each.dtype.kind == 'U' for name, each in labels.items() if each is not None}
    if len(set(texts.values())) > 1:
        kinds = ', '.join(f'{name} {"text" if text else "numbers"}' for name, text in texts.items())
        raise InputError(f'labels are of two kinds ({kinds}); give all as text or all as numbers')


def _warn_duplicates(parts: dict[str, Part]) -> int:
    """How many distractors equal a probe or a gallery row; a warning if there are any."""
    if 'distractors' not in parts:
        return 0
    keys = parts['distractors'].keys
    others = np.concatenate([part.keys for name, part in parts.items() if name != 'distractors'])
    count = count_duplicates(others, keys)
    if count:
        log.warning(
            '%d of %d distractors are equal to a probe or gallery embedding; they are counted as '
            'distractors all the same',
            count,
            len(keys),
        )
    return count


def default_fprs(negatives: int) -> tuple[float, ...]:
    """Those of FPRS that can be measured without keeping many scores; of few negatives what can."""
    counts = {fpr: allowed(fpr, negatives) for fpr in FPRS}
    fprs = [
        f
        for f, count in counts.items()
        if count and (count <= _DEFAULT_SCORES or negatives <= MAX_SCORES)
    ]
    coarse = tuple(fpr for fpr in _COARSE_FPRS if allowed(fpr, negatives))
    return tuple(fprs) or coarse or (1.0,)


def _rows(part: Optional[Part]) -> tuple[Optional[np.ndarray], Optional[np.ndarray]]:
    return part.embeddings if part else (None, None)


def _resume_file(
    arguments: argparse.Namespace, parts: dict[str, Part], fprs: Sequence[float], world: World
) -> Optional[ResumeFile]:
    if not arguments.resume:
        return None
    path = Path(arguments.resume)
    if world.size > 1:
        path = path.with_name(f'{path.stem}-{world.rank}of{world.size}{path.suffix}')
    path = check_results_path(path)
    digest = hashlib.sha256()
    for name, part in parts.items():
        digest.update(name.encode() + part.keys.tobytes())
        labels = part.embeddings.labels
        digest.update(b'' if labels is None else labels.tobytes())
    key = f'{digest.hexdigest()} {list(fprs)} {arguments.probe_pairs} {world.rank} {world.size}'
    return ResumeFile(path, key)


def _verify_pairs(
    arguments: argparse.Namespace, parts: dict[str, Part], world: World, default: Sequence[float]
) -> Optional[TprResult]:
    """Protocol lfr; None in all but the first process."""
    probes, labels = _rows(parts['probes'])
    distractors, distractor_labels = _rows(parts.get('distractors'))
    count = 0 if distractors is None else len(distractors)
    probe_pairs = arguments.probe_pairs or not count
    negatives = sum(count_negatives(labels, count, distractor_labels, probe_pairs))
    fprs = tuple(arguments.fpr or default or default_fprs(negatives))
    resume = _resume_file(arguments, parts, fprs, world)
    with console.progress(negatives // world.size, 'identify', 'pairs') as bar:
        result = tpr_at_fpr(
            probes,
            labels,
            distractors,
            fprs,
            distractor_labels=distractor_labels,
            probe_pairs=probe_pairs,
            kernel=arguments.kernel,
            resume=resume,
            world=world,
            progress=bar,
        )
    if resume:
        resume.remove()
    return result


def _tpr_entry(result: TprResult) -> dict:
    console.table(
        f'{result.positives:,} positive pairs, {result.negatives:,} negative pairs '
        f'({result.kernel}, {result.pairs_per_second:.3g} pairs/s)',
        ('FPR', 'TPR %', 'threshold', 'negatives accepted'),
        [
            (f'{fpr:g}', f'{100 * tpr:.4f}', f'{threshold:.6f}', f'{accepted:,}')
            for fpr, tpr, threshold, accepted in zip(
                result.fprs, result.tpr, result.thresholds, result.accepted
            )
        ],
    )
    return {
        'positives': result.positives,
        'negatives': result.negatives,
        'tpr': {f'{fpr:g}': value for fpr, value in zip(result.fprs, result.tpr)},
        'threshold': {f'{fpr:g}': value for fpr, value in zip(result.fprs, result.thresholds)},
        'accepted': {f'{fpr:g}': value for fpr, value in zip(result.fprs, result.accepted)},
        'kernel': result.kernel,
        'pairs_per_second': result.pairs_per_second,
    }


def _default_sizes(distractors: int) -> list[int]:
    sizes = [10**power for power in range(1, 7) if 10**power <= distractors]
    return sizes if 10**6 in sizes or distractors in sizes else [*sizes, distractors]


def _megaface(
    arguments: argparse.Namespace, parts: dict[str, Part], sizes: Sequence[int], world: World
) -> RankResult:
    """Protocol megaface: rank-k for growing numbers of distractors; in every process."""
    probes, labels = _rows(parts['probes'])
    distractors, _ = _rows(parts['distractors'])
    with console.progress(len(probes) * max(sizes), 'ranks', 'pairs') as bar:
        return rank_rates(
            probes,
            labels,
            distractors,
            sizes,
            arguments.ranks,
            kernel=arguments.kernel,
            world=world,
            progress=bar,
        )


def _rank_entry(ranks: RankResult) -> dict:
    shown = [rank for rank in (1, 5, 10) if rank <= ranks.rates.shape[1]]
    console.table(
        f'Rank-k of {ranks.searches:,} searches',
        ('distractors', *(f'rank-{rank} %' for rank in shown)),
        [
            (f'{size:,}', *(f'{100 * rates[rank - 1]:.4f}' for rank in shown))
            for size, rates in zip(ranks.distractors, ranks.rates)
        ],
    )
    return {'distractors': ranks.distractors, 'rank_rates': ranks.rates, 'searches': ranks.searches}


def _open_set(
    arguments: argparse.Namespace, parts: dict[str, Part], world: World
) -> Optional[OpenSetResult]:
    """Protocol open-set; distractors are further probes of nobody in the gallery. None in all but
    the first process."""
    gallery, gallery_labels = _rows(parts['gallery'])
    probes, labels = _rows(parts['probes'])
    if 'distractors' in parts:
        distractors, _ = _rows(parts['distractors'])
        nobody = [f'distractor {index}' for index in range(len(distractors))]
        probes = np.concatenate([probes[:], distractors[:]])
        labels = np.concatenate([labels.astype(str), nobody])
        gallery_labels = gallery_labels.astype(str)
    with console.progress(len(probes) * len(gallery), 'open set', 'pairs') as bar:
        result = open_set(
            gallery,
            gallery_labels,
            probes,
            labels,
            arguments.fpir or FPIRS,
            arguments.ranks,
            kernel=arguments.kernel,
            world=world,
            progress=bar,
        )
    if not world.is_first:
        return None
    console.table(
        f'{result.mated:,} mated and {result.non_mated:,} non-mated probes, '
        f'{len(gallery):,} in the gallery; rank-1 {100 * result.ranks[0]:.2f} %',
        ('FPIR', 'TPIR %', 'threshold'),
        [
            (f'{fpir:g}', f'{100 * tpir:.4f}', f'{threshold:.6f}')
            for fpir, tpir, threshold in zip(result.fpirs, result.tpir, result.thresholds)
        ],
    )
    return result


def _open_entry(result: OpenSetResult) -> dict:
    return {
        'tpir': {f'{fpir:g}': value for fpir, value in zip(result.fpirs, result.tpir)},
        'ranks': result.ranks,
        'mated': result.mated,
        'non_mated': result.non_mated,
    }


def _words(numbers: Sequence[float]) -> str:
    return ' '.join(f'{number:g}' for number in numbers)


def build_parser(parser: console.Parser) -> None:
    for name, text in (
        ('probes', 'embeddings to identify (.npy, .npz, LFR feature file)'),
        ('distractors', 'embeddings of people who are not among them'),
        ('gallery', 'embeddings of enrolled people, for protocol open-set'),
    ):
        parser.add_argument(
            f'--{name}',
            type=Path,
            metavar='FILE',
            required=name == 'probes',
            help=f'{text}; with --model, an image list',
        )
        parser.add_argument(
            f'--{name.rstrip("s")}-labels',
            type=Path,
            metavar='FILE',
            help='identities, .npy or one a line; default: those of the .npz',
        )
    parser.add_argument('--protocol', choices=PROTOCOLS, default='lfr', help='what to measure')
    parser.add_argument(
        '--fpr',
        type=float,
        nargs='+',
        help=f'FPRs of lfr (default: of {_words(FPRS)} what the pairs can tell) and megaface '
        f'(default: {_MEGAFACE_FPR:g})',
    )
    parser.add_argument(
        '--fpir', type=float, nargs='+', help=f'FPIRs of open-set (default: {_words(FPIRS)})'
    )
    parser.add_argument(
        '--sizes',
        type=int,
        nargs='+',
        help='numbers of distractors of megaface (default: 10 100 1000 ... 1000000, or all)',
    )
    parser.add_argument(
        '--ranks', type=int, help=f'ranks 1..k of megaface, open-set (default: {_RANKS})'
    )
    parser.add_argument(
        '--probe-pairs', action='store_true', help='pairs of different probes are negatives too'
    )
    parser.add_argument(
        '--skip-zero', action='store_true', help='leave zero rows (missing images) out'
    )
    parser.add_argument('--kernel', choices=KERNELS, default='auto', help='all give one result')
    parser.add_argument('--resume', metavar='NPZ', help='keep the state here, and go on from it')
    parser.add_argument('--save', metavar='NPZ', help='results for vargfacenet report')
    add_options(parser, required=False, help=f'{HELP}; for image lists')
    parser.add_argument('--root', type=Path, help='folder of listed images (default: .)')
    parser.add_argument(
        '--features', type=Path, help='folder for their embeddings (default: features)'
    )
    parser.add_argument('--batch-size', type=int, help='images per forward pass (default: 64)')


def _check(arguments: argparse.Namespace) -> None:
    """What can be wrong with the options, before anything is read; fills in their defaults."""
    for names, protocols in _OF_PROTOCOLS.items():
        if arguments.protocol not in protocols:
            console.refuse_options(
                arguments, names, f'only with --protocol {" or ".join(protocols)}'
            )
    labels = {name: f'{name.rstrip("s")}_labels' for name in _SETS}
    if arguments.model:
        console.refuse_options(arguments, labels.values(), 'a list has its own; leave it out')
    else:
        console.refuse_options(arguments, _OF_LISTS, 'only with --model, which embeds image lists')
    for name, option in labels.items():
        if not getattr(arguments, name):
            console.refuse_options(arguments, [option], f'only with --{name}')
    for name, default in {**_OF_LISTS, 'ranks': _RANKS}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, default)
    rates = [('--fpr', arguments.fpr), ('--fpir', arguments.fpir)]
    for flag, rate in ((flag, rate) for flag, given in rates for rate in given or ()):
        if not 0 < rate <= 1:
            raise InputError(f'{flag} {rate:g}: expected a share above 0, at most 1')
    console.check_ranges([('--batch-size', arguments.batch_size, 1, 4096)])
    inputs = [each for each in map(vars(arguments).get, _SETS) if each]
    for path in filter(None, (arguments.save, arguments.resume)):
        check_results_path(path, inputs)
    needed = {'megaface': 'distractors', 'open-set': 'gallery'}.get(arguments.protocol)
    if needed and not getattr(arguments, needed):
        raise InputError(f'protocol {arguments.protocol} needs --{needed}')
    if arguments.ranks < 1:
        raise InputError(f'--ranks {arguments.ranks}: expected at least 1')


def _save(
    path: str,
    result: dict,
    pairs: Optional[TprResult],
    ranks: Optional[RankResult],
    opened: Optional[OpenSetResult],
) -> None:
    """What the report needs: curves, and the hits of every identity for intervals."""
    arrays = {}
    for name, kind in (('tpr', pairs), ('rank', ranks), ('tpir', opened)):
        if kind is not None:
            arrays.update({f'{name}_hits': kind.hits, f'{name}_totals': kind.totals})
    if opened is not None:
        arrays.update(rank1_hits=opened.rank1_hits, rank1_totals=opened.totals)
    if pairs is not None:
        arrays.update({f'curve_{name}': value for name, value in pairs.curve().items()})
        arrays.update({f'histogram_{name}': value for name, value in pairs.histogram().items()})
    if 'megaface' in result:
        arrays['distractors'] = np.array(result['megaface']['distractors'])
        arrays['rank_rates'] = result['megaface']['rank_rates']
    save_results(path, IDENTIFICATION, result, arrays)
    log.info('results: %s', path)


def run(arguments: argparse.Namespace) -> Optional[dict]:
    """The result, in the first of several processes; None in the others."""
    _check(arguments)
    world = current_world()
    parts = _load(arguments, world)
    result = {
        'protocol': arguments.protocol,
        'probes': len(parts['probes'].keys),
        'distractors': len(parts['distractors'].keys) if 'distractors' in parts else 0,
        'missing': {name: part.missing for name, part in parts.items()},
        'lost': {'positives': parts['probes'].lost},
        'duplicates': _warn_duplicates(parts),
        'processes': world.size,
    }
    pairs = ranks = opened = None
    if arguments.protocol == 'open-set':
        opened = _open_set(arguments, parts, world)
        if opened is None:
            return None
        result['open_set'] = _open_entry(opened)
    else:
        megaface = arguments.protocol == 'megaface'
        if megaface:  # before the work begins
            sizes = arguments.sizes or _default_sizes(result['distractors'])
            check_rank_sizes(sizes, result['distractors'])
        default = ()
        if megaface and len(parts['probes'].keys) * result['distractors'] >= 1 / _MEGAFACE_FPR:
            default = (_MEGAFACE_FPR,)
        pairs = _verify_pairs(arguments, parts, world, default)
        ranks = _megaface(arguments, parts, sizes, world) if megaface else None
        if pairs is None:
            return None
        result['pairs'] = _tpr_entry(pairs)
        if ranks:
            result['megaface'] = _rank_entry(ranks)
    if arguments.save:
        _save(arguments.save, result, pairs, ranks, opened)
    return result


main = console.command('identify', build_parser, run, _check)

if __name__ == '__main__':
    raise SystemExit(main())
