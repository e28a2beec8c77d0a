"""IJB-B and IJB-C: 1:1 verification and 1:N identification of templates, as InsightFace does it.

The sets are NIST's (Whitelam et al. 2017, Maze et al. 2018).

Faces are warped by the set's five points and embedded with their mirror images into one file on
disk; templates are pooled from it, so memory does not grow with the number of images.
"""

import argparse
import logging
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np
from scipy.integrate import trapezoid  # NumPy 2.4 has lost trapz

from ..common import console
from ..common.data.image import decode_rgb, read_picture
from ..common.data.listed import listed_path
from ..common.data.warp import crop
from ..common.engine.export_record import model_files
from ..common.engine.open_model import OpenModel
from ..common.engine.options import add_options, open_from
from ..common.errors import InputError
from ..common.files import PathLike, input_file, output_file, read_lines
from .image_list import embed_images, report_missing
from .matrix_file import new_matrix, read_matrix
from .rates import nearest_points, roc_points
from .template import MODES, PUBLISHED, pool_templates

log = logging.getLogger(__name__)

FARS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1)
POOLED_FARS = (1e-2, 1e-1)
FPIRS = (1e-2, 1e-1)
RANKS = (1, 5, 10)
_PAIRS_PER_BLOCK = 1 << 16
_PROBES_PER_BLOCK = 1024
_BATCH_SIZE = 64
GALLERIES = {'ijbb': ('S1', 'S2'), 'ijbc': ('G1', 'G2')}


class Meta(NamedTuple):
    """The images of a set, in the order of its files."""

    names: list[str]
    landmarks: np.ndarray  # (N, 5, 2) float64, x and y in pixels
    scores: np.ndarray  # (N,) float64, of the face detector, 0..1
    templates: np.ndarray  # (N,) int64
    medias: np.ndarray  # (N,) int64


class OneToOne(NamedTuple):
    """1:1 result of one pooling mode."""

    tar: np.ndarray  # (len(FARS),) float64
    far: np.ndarray  # (len(FARS),) float64: the ROC point nearest to each of FARS
    auc: float


class PooledSearch(NamedTuple):
    """Closed-set 1:N with both galleries as one."""

    ranks: np.ndarray  # (len(RANKS),) float64
    thresholds: np.ndarray  # (len(fars),) float64
    tpir: np.ndarray  # (len(fars),) float64


class OpenSetSearch(NamedTuple):
    """Open-set 1:N in one gallery; hits are numbers of mated probes."""

    hits: np.ndarray  # (len(RANKS),) int64
    mated: int
    thresholds: np.ndarray  # (len(fpirs),) float64
    tpir: np.ndarray  # (len(fpirs),) float64


def _table(path: Path, columns: int) -> list[list[str]]:
    lines = read_lines(path, 'IJB list')
    rows = [line.split() for line in lines if line.strip()]
    bad = next((number for number, row in enumerate(rows, 1) if len(row) != columns), None)
    if bad is not None or not rows:
        raise InputError(f'{path} line {bad or 1}: expected {columns} columns')
    return rows


def _numbers(path: Path, rows: list[list[str]], start: int, kind: type) -> np.ndarray:
    try:
        return np.array([row[start:] for row in rows]).astype(kind)
    except (ValueError, OverflowError) as error:
        raise InputError(f'{path}: {error}') from None


def read_meta(folder: PathLike, name: str) -> Meta:
    """Read NAME_face_tid_mid.txt and NAME_name_5pts_score.txt, which list the same images.

    Raises InputError naming the file, and the first image where the two differ.
    """
    tid_path = Path(folder) / f'{name}_face_tid_mid.txt'
    point_path = Path(folder) / f'{name}_name_5pts_score.txt'
    tids, points = _table(tid_path, 3), _table(point_path, 12)
    names = [row[0] for row in tids]
    other = [row[0] for row in points]
    if names != other:
        equal = (a == b for a, b in zip(names, other))
        line = next((line for line, same in enumerate(equal, 1) if not same), 'the last one')
        raise InputError(
            f'{tid_path.name} ({len(names)} rows) and {point_path.name} ({len(other)} rows) must '
            f'list the same images; they differ from line {line} on'
        )
    ids = _numbers(tid_path, tids, 1, np.int64)
    values = _numbers(point_path, points, 1, np.float64)  # landmarks may be NaN: no face found
    if not np.isfinite(values[:, 10]).all():
        raise InputError(f'{point_path}: a score is not finite')
    return Meta(names, values[:, :10].reshape(-1, 5, 2), values[:, 10], ids[:, 0], ids[:, 1])


def read_pairs(folder: PathLike, name: str) -> np.ndarray:
    """(P, 3) int64 of NAME_template_pair_label.txt: template, template, 1 for the same person."""
    path = Path(folder) / f'{name}_template_pair_label.txt'
    input_file(path, 'IJB pair list')
    try:
        # read as it is parsed: the 15.7 million lines of IJB-C would take a gigabyte as texts
        pairs = np.loadtxt(path, np.int64, ndmin=2, encoding='utf-8-sig')
    except (ValueError, OverflowError) as error:
        raise InputError(f'{path}: {error}') from None
    if pairs.shape[1] != 3 or not np.isin(pairs[:, 2], (0, 1)).all():
        raise InputError(f'{path}: expected lines TEMPLATE TEMPLATE 0|1')
    if len(np.unique(pairs[:, 2])) < 2:
        raise InputError(f'{path}: all {len(pairs)} pairs are of one kind; both are needed')
    return pairs


def read_subjects(path: PathLike) -> tuple[np.ndarray, np.ndarray]:
    """(templates, subjects) int64 of a gallery or probe .csv: ascending templates, once each."""
    lines = read_lines(path, 'IJB list')
    try:
        rows = np.loadtxt(lines, np.int64, delimiter=',', skiprows=1, usecols=(0, 1), ndmin=2)
    except (ValueError, OverflowError) as error:
        raise InputError(f'{path}: {error}') from None
    templates, first = np.unique(rows[:, 0], return_index=True)
    return templates, rows[first, 1]


def write_features(embedder: OpenModel, images: Path, meta: Meta, out: Path) -> list[str]:
    """Write [g(image) | g(mirror image)], raw, as as a file (N, 2D); returns what is missing."""

    def load(index: int) -> Optional[np.ndarray]:
        try:
            picture = decode_rgb(read_picture(listed_path(images, meta.names[index])))
            return crop(picture, meta.landmarks[index])
        except InputError:  # the lists hold zeros or NaN where no face was found
            return None

    count, size = len(meta.names), embedder.embedding_size
    missing: list[str] = []
    with console.progress(count, 'IJB') as bar, new_matrix(out, count, 2 * size) as features:
        for block in embed_images(embedder, range(count), load):
            rows = slice(block.start, block.start + len(block.plain))
            features[rows, :size], features[rows, size:] = block.plain, block.flipped
            missing += [meta.names[block.start + index] for index in np.flatnonzero(block.missing)]
            bar.advance(len(block.plain))
        if len(missing) == count:
            raise InputError(f'{images}: none of the {count} images is there, e.g. {missing[0]}')
    return missing


def rows_of(templates: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Index of every template in the ascending `known`; InputError for one without images."""
    index = np.searchsorted(known, templates).clip(max=len(known) - 1)
    unknown = known[index] != templates
    if unknown.any():
        raise InputError(f'template {templates[unknown][0]} is listed but has no image')
    return index


def pair_scores(pooled: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(P,) float64 dot products of rows of (T, D), a block of pairs at a time."""
    scores = np.empty(len(first))
    for start in range(0, len(first), _PAIRS_PER_BLOCK):
        block = slice(start, start + _PAIRS_PER_BLOCK)
        scores[block] = np.einsum('pd,pd->p', pooled[first[block]], pooled[second[block]])
    return scores


def one_to_one(scores: np.ndarray, same: np.ndarray) -> OneToOne:
    """TAR at the ROC points whose FPR is nearest to FARS.

    The points are the distinct scores without those on a straight line between their neighbours,
    scikit-learn's default, which published numbers depend on.
    """
    roc = roc_points(scores, same)
    nearest = nearest_points(roc, FARS)
    return OneToOne(roc.tpr[nearest], roc.fpr[nearest], float(trapezoid(roc.tpr, roc.fpr)))


def search_pooled(
    gallery: np.ndarray,
    gallery_subjects: np.ndarray,
    probes: np.ndarray,
    probe_subjects: np.ndarray,
    fars: tuple = POOLED_FARS,
) -> PooledSearch:
    """1:N with one gallery of all subjects (InsightFace's ijb_1n).

    The rank-k rate is the share of probes whose mate is among the k highest scores. TPIR is the
    share whose mate scores above the ceil(Q * FAR)-th highest of all non-mate scores.

    Parameters
    ----------
    gallery, probes : (G, D), (Q, D) float64, unit length
    gallery_subjects, probe_subjects : (G,), (Q,); every probe's subject occurs in the gallery once

    Raises
    ------
    InputError for a probe whose subject is in the gallery not once.
    """
    mates = gallery_subjects[None] == probe_subjects[:, None]
    if (mates.sum(axis=1) != 1).any():
        subject = probe_subjects[mates.sum(axis=1) != 1][0]
        raise InputError(f'subject {subject} of a probe is not in the gallery exactly once')
    keep = max(int(np.ceil(len(probes) * max(fars))), 1)
    highest, mate_scores, ranks = np.empty(0), [], []
    for start in range(0, len(probes), _PROBES_PER_BLOCK):
        block = slice(start, start + _PROBES_PER_BLOCK)
        scores = probes[block] @ gallery.T
        mate = scores[mates[block]]
        mate_scores.append(mate)
        others = scores[~mates[block]]
        ranks.append((others.reshape(len(mate), -1) >= mate[:, None]).sum(axis=1))
        highest = np.sort(np.append(highest, others))[::-1][:keep]
    mate_scores, ranks = np.concatenate(mate_scores), np.concatenate(ranks)
    # a decimal FAR times Q must not be rounded up by the last bit of its binary form
    wanted = [max(int(np.ceil(round(len(probes) * far, 9))), 1) for far in fars]
    thresholds = np.array([highest[min(number, len(highest)) - 1] for number in wanted])
    return PooledSearch(
        np.array([(ranks < rank).mean() for rank in RANKS]),
        thresholds,
        (mate_scores > thresholds[:, None]).mean(axis=1),
    )


def search_open_set(
    gallery: np.ndarray,
    gallery_subjects: np.ndarray,
    probes: np.ndarray,
    probe_subjects: np.ndarray,
    fpirs: tuple = FPIRS,
) -> OpenSetSearch:
    """1:N in one gallery, where probes of other subjects must be refused (InsightFace's ijb_evals).

    The threshold of an FPIR f is element max(int(n f) - 1, 0), from 0, of the n non-mated probes'
    highest scores in descending order. TPIR is the share of mated probes whose mate scores above
    every other gallery template and above the threshold. Arguments as in `search_pooled`.
    """
    mated = np.isin(probe_subjects, gallery_subjects)
    if mated.all() or not mated.any():
        raise InputError('an open-set search needs probes of the gallery and of nobody in it')
    best_other, mate_scores, ranks = [], [], []
    for start in range(0, len(probes), _PROBES_PER_BLOCK):
        block = slice(start, start + _PROBES_PER_BLOCK)
        scores = probes[block] @ gallery.T
        mates = gallery_subjects[None] == probe_subjects[block, None]
        mate = np.where(mates, scores, -np.inf).max(axis=1)
        others = np.where(mates, -np.inf, scores)
        mate_scores.append(mate)
        best_other.append(others.max(axis=1))
        ranks.append((others >= mate[:, None]).sum(axis=1))
    mate_scores, best_other = np.concatenate(mate_scores), np.concatenate(best_other)
    ranks = np.concatenate(ranks)[mated]
    highest = np.sort(best_other[~mated])[::-1]
    places = [max(int(len(highest) * fpir) - 1, 0) for fpir in fpirs]
    thresholds = highest[places]
    identified = mate_scores[mated] > np.maximum(best_other[mated], thresholds[:, None])
    return OpenSetSearch(
        np.array([(ranks < rank).sum() for rank in RANKS]),
        int(mated.sum()),
        thresholds,
        identified.mean(axis=1),
    )


def _search(folder: Path, name: str, known: np.ndarray, pooled: np.ndarray) -> Optional[dict]:
    """Both 1:N variants, if the set's gallery and probe lists are there."""
    probe_path = folder / f'{name}_1N_probe_mixed.csv'
    paths = [folder / f'{name}_1N_gallery_{gallery}.csv' for gallery in GALLERIES[name]]
    if not probe_path.is_file():
        log.warning('%s is not there; 1:N is left out', probe_path)
        return None
    probe_templates, probe_subjects = read_subjects(probe_path)
    probes = pooled[rows_of(probe_templates, known)]
    galleries = [read_subjects(path) for path in paths]
    embeddings = [pooled[rows_of(templates, known)] for templates, _ in galleries]
    subjects = [subjects for _, subjects in galleries]
    closed = search_pooled(np.vstack(embeddings), np.concatenate(subjects), probes, probe_subjects)
    opened = [
        search_open_set(gallery, subject, probes, probe_subjects)
        for gallery, subject in zip(embeddings, subjects)
    ]
    hits = sum(search.hits for search in opened)
    return {
        'probes': len(probes),
        'gallery': [len(subject) for subject in subjects],
        'pooled_rank': dict(zip(map(str, RANKS), closed.ranks)),
        'pooled_tpir': {f'{far:g}': value for far, value in zip(POOLED_FARS, closed.tpir)},
        'open_set_rank': dict(zip(map(str, RANKS), hits / len(probes))),
        'open_set_tpir': {
            f'{fpir:g}': value
            for fpir, value in zip(FPIRS, np.mean([search.tpir for search in opened], axis=0))
        },
    }


def _print(title: str, verification: dict, search: Optional[dict]) -> None:
    rows = [
        (mode, *(f'{100 * value:.2f}' for value in result['tar'].values()), f'{result["auc"]:.6f}')
        for mode, result in verification.items()
    ]
    columns = ('pooling', *(f'TAR % @ {far:g}' for far in FARS), 'AUC')
    console.table(f'{title}: 1:1', columns, rows)
    if search:
        rows = [
            (
                label,
                *(
                    f'{100 * value:.2f}'
                    for value in (*search[f'{key}_rank'].values(), *search[f'{key}_tpir'].values())
                ),
            )
            for label, key in (('galleries pooled', 'pooled'), ('open set', 'open_set'))
        ]
        columns = ('', *(f'rank-{rank} %' for rank in RANKS), *(f'TPIR % @ {f:g}' for f in FPIRS))
        console.table(f'{title}: 1:N, N1D1F1', columns, rows)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--set', choices=sorted(GALLERIES), default='ijbc', help='which one')
    parser.add_argument('--meta', required=True, type=Path, metavar='DIR', help="the set's lists")
    parser.add_argument('--images', type=Path, metavar='DIR', help="the set's loose_crop folder")
    add_options(parser, required=False)
    parser.add_argument(
        '--features',
        required=True,
        type=Path,
        metavar='FILE',
        help='embeddings [g | g of the mirror image], a feature file; written with --model, '
        'read without',
    )
    parser.add_argument(
        '--batch-size', type=int, help=f'images per forward pass (default: {_BATCH_SIZE})'
    )


def _check(arguments: argparse.Namespace) -> None:
    if not arguments.model:
        console.refuse_options(
            arguments, ('images', 'batch_size'), 'only with --model, which makes the features'
        )
        return
    if arguments.images is None or not arguments.images.is_dir():
        raise InputError(f'--images {arguments.images}: --model needs the folder of pictures')
    if arguments.batch_size is None:
        arguments.batch_size = _BATCH_SIZE
    console.check_ranges([('--batch-size', arguments.batch_size, 1, 4096)])
    output_file(arguments.features, model_files(arguments.model))


def _features(arguments: argparse.Namespace, meta: Meta) -> tuple[np.ndarray, Optional[int]]:
    """The feature file, made first if there is a model, and the number of missing images."""
    missing = None
    if arguments.model:
        embedder = open_from(arguments, arguments.batch_size, 'mxnet')
        names = write_features(embedder, arguments.images, meta, arguments.features)
        report_missing(names, len(meta.names))
        missing = len(names)
    features = read_matrix(arguments.features)
    if len(features) != len(meta.names) or features.shape[1] % 2:
        raise InputError(
            f'{arguments.features}: {features.shape[0]} x {features.shape[1]} features for '
            f'{len(meta.names)} images; expected {len(meta.names)} rows of 2 x D'
        )
    return features, missing


def run(arguments: argparse.Namespace) -> dict:
    _check(arguments)
    meta = read_meta(arguments.meta, arguments.set)
    pairs = read_pairs(arguments.meta, arguments.set)
    known = np.unique(meta.templates)
    first, second = rows_of(pairs[:, 0], known), rows_of(pairs[:, 1], known)
    features, missing = _features(arguments, meta)
    verification, search = {}, None
    with console.progress(len(MODES), f'{arguments.set} pooling', 'modes') as bar:
        for mode in MODES:
            known, pooled = pool_templates(features, meta.scores, meta.templates, meta.medias, mode)
            result = one_to_one(pair_scores(pooled, first, second), pairs[:, 2] == 1)
            verification[mode.name] = {
                'tar': {f'{far:g}': value for far, value in zip(FARS, result.tar)},
                'far': {f'{far:g}': value for far, value in zip(FARS, result.far)},
                'auc': result.auc,
            }
            if mode == PUBLISHED:
                search = _search(arguments.meta, arguments.set, known, pooled)
            bar.advance()
    _print(arguments.set, verification, search)
    return {
        'set': arguments.set,
        'images': len(meta.names),
        'missing': missing,
        'templates': len(known),
        'pairs': len(pairs),
        'verification': verification,
        'search': search,
    }


main = console.command('ijb', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
