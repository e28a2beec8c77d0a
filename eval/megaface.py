"""MegaFace: feature files, noise removal, and the results of its devkit.

The devkit itself is a closed binary; `identify` computes its figures here. `embed` writes one file
an image (facescrub/PERSON/FILE_ALGO.bin, megaface/A/B/FILE_ALGO.bin), `clean` writes a second tree
with the noisy images of InsightFace's lists taken out, which papers call MegaFace(R), and `summary`
reads the devkit's cmc_*.json.
"""

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..common import console
from ..common.checksums import noted_in_folders
from ..common.data.listed import listed_path, read_list
from ..common.engine.open_model import OpenModel
from ..common.engine.options import HELP, add_options, open_from
from ..common.errors import InputError
from ..common.files import PathLike, exclusive, output_folder, read_json, read_lines, real_path
from .image_list import embed_images, report_missing
from .matrix_file import read_megaface, write_megaface
from .verification import add_flips

log = logging.getLogger(__name__)

FACESCRUB, MEGAFACE = 'facescrub', 'megaface'
_DEPTH = {FACESCRUB: 2, MEGAFACE: 3}  # path parts that name an image within its set
NOISY_EXTRA = 100.0  # the added dimension of a noisy distractor: nothing clean is near it
_JITTER = 0.001
FPR_TARGET = 1e-6


class Cmc(NamedTuple):
    """One result file of the devkit; rates are 0..1."""

    rank_1: float
    tpr: float  # at the FPR nearest to 1e-6
    fpr: float  # that one


def image_names(paths: Sequence[str], kind: str) -> list[str]:
    """The last parts of list lines that name an image: PERSON/FILE or A/B/FILE."""
    depth = _DEPTH[kind]
    parts = [Path(path).parts for path in paths]
    short = next((path for path, part in zip(paths, parts) if len(part) < depth), None)
    if short is not None:
        raise InputError(f'{kind} list: {short!r} has fewer than {depth} path parts')
    return ['/'.join(part[-depth:]) for part in parts]


def read_noises(path: PathLike) -> set[str]:
    """Names of a noise list: '#' lines are skipped; of tab-separated fields the second counts."""
    lines = read_lines(path, 'noise list')
    lines = [line.strip() for line in lines if line.strip() and not line.startswith('#')]
    return {line.split('\t')[1] if '\t' in line else line for line in lines}


def feature_path(folder: Path, kind: str, name: str, algo: str) -> Path:
    return folder / kind / f'{name}_{algo}.bin'


class Listed(NamedTuple):
    """The images of one set: FACESCRUB or MEGAFACE."""

    kind: str
    root: Path  # folder that `paths` are relative to
    paths: list[str]
    names: list[str]  # see `image_names`


def write_embeddings(
    embedders: Sequence[OpenModel], images: Listed, out: Path, algo: str
) -> list[str]:
    """Write one feature file an image: g(image) + g(mirror image) of unit length.

    The embeddings of several networks are concatenated and normalised again. Returns the names of
    the missing images, which get no file, as the devkit expects.
    """
    kind, root, paths, names = images
    targets = [feature_path(out, kind, name, algo) for name in names]
    for folder in sorted({target.parent for target in targets}):
        output_folder(folder)
    missing: list[str] = []
    items = [listed_path(root, path) for path in paths]
    with noted_in_folders(targets), console.progress(len(names), kind) as bar:
        for blocks in zip(*(embed_images(embedder, items) for embedder in embedders)):
            rows = np.hstack([add_flips(block.plain, block.flipped)[0] for block in blocks])
            rows /= np.sqrt(len(embedders))  # each part is of unit length
            for index, row in enumerate(rows):
                name = names[blocks[0].start + index]
                if blocks[0].missing[index]:
                    missing.append(name)
                else:
                    write_megaface(targets[blocks[0].start + index], row)
            bar.advance(len(rows))
    return missing


def clean_probe_features(
    embeddings: np.ndarray, persons: np.ndarray, noisy: np.ndarray, random: np.random.RandomState
) -> np.ndarray:
    """MegaFace(R)'s probes: noisy ones become their person's centre.

    Parameters
    ----------
    embeddings : (N, D) float32
    persons : (N,) anything that numpy.unique takes
    noisy : (N,) bool
    random : for the jitter of +-0.001 that keeps replaced probes apart

    Returns
    -------
    (N, D + 1) float32: clean rows with a zero appended; a noisy row is the sum of the person's
    clean rows, jittered, of unit length.

    Raises
    ------
    InputError for a person with noisy images only.
    """
    rows = np.pad(np.asarray(embeddings, np.float32), ((0, 0), (0, 1)))
    for index in np.flatnonzero(noisy):
        mates = (persons == persons[index]) & ~noisy
        if not mates.any():
            raise InputError(f'facescrub person {persons[index]}: every image is noisy')
        centre = np.asarray(embeddings)[mates].sum(axis=0, dtype=np.float64)
        centre += random.uniform(-_JITTER, _JITTER, len(centre))
        rows[index, :-1] = centre / np.linalg.norm(centre)
    return rows


def clean_distractor_feature(embedding: np.ndarray, noisy: bool) -> np.ndarray:
    """(D,) float32 -> (D + 1,): 0 appended, or 100 to a noisy one so that it is never retrieved."""
    return np.append(embedding, np.float32(NOISY_EXTRA if noisy else 0)).astype(np.float32)


def clean(
    source: Path,
    out: Path,
    algo: str,
    lists: dict[str, list[str]],
    noises: dict[str, set[str]],
    seed: int,
) -> dict[str, int]:
    """Write the cleaned tree; returns how many images of each set were noisy.

    Raises InputError, before anything is written, for a feature file that is missing.
    """
    for kind, names in lists.items():
        gone = [n for n in names if not feature_path(source, kind, n, algo).is_file()]
        if gone:
            raise InputError(
                f'{source}: {len(gone)} of {len(names)} {kind} feature files are missing, e.g. '
                f'{feature_path(source, kind, gone[0], algo)}'
            )
    random = np.random.RandomState(seed)
    counts = dict.fromkeys(lists, 0)
    groups: dict[str, list[str]] = {}
    for name in lists[FACESCRUB]:
        groups.setdefault(name.split('/')[0], []).append(name)
    targets = [
        feature_path(out, kind, name, algo) for kind, names in lists.items() for name in names
    ]
    with noted_in_folders(targets), console.progress(len(targets), 'clean') as bar:
        for names in groups.values():  # a person at a time
            rows = np.stack(
                [read_megaface(feature_path(source, FACESCRUB, n, algo)) for n in names]
            )
            noisy = np.array([Path(name).name in noises[FACESCRUB] for name in names])
            persons = np.array([name.split('/')[0] for name in names])
            for name, row in zip(names, clean_probe_features(rows, persons, noisy, random)):
                _write(feature_path(out, FACESCRUB, name, algo), row)
            counts[FACESCRUB] += int(noisy.sum())
            bar.advance(len(names))
        for name in lists[MEGAFACE]:
            noisy = name in noises[MEGAFACE]
            row = read_megaface(feature_path(source, MEGAFACE, name, algo))
            _write(feature_path(out, MEGAFACE, name, algo), clean_distractor_feature(row, noisy))
            counts[MEGAFACE] += noisy
            bar.advance()
    return counts


def _write(path: Path, row: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_megaface(path, row)


def read_cmc(path: PathLike) -> Cmc:
    """Figures of a devkit result file; InputError for another form."""
    content = read_json(path, 'result file')
    try:
        rank_1 = float(content['cmc'][1][0])
        fpr, tpr = (np.asarray(values, np.float64) for values in content['roc'])
        if fpr.shape != tpr.shape or fpr.ndim != 1 or not np.isfinite([rank_1, *fpr, *tpr]).all():
            raise ValueError('roc is no curve')
        nearest = int(np.argmin(np.abs(fpr - FPR_TARGET)))
        return Cmc(rank_1, float(tpr[nearest]), float(fpr[nearest]))
    except (ValueError, LookupError, TypeError, OverflowError) as error:
        raise InputError(f'{path}: no cmc_*.json of the devkit ({error!r})') from None


def build_parser(parser: console.Parser) -> None:
    commands = parser.add_subparsers(dest='action', required=True, metavar='ACTION')
    lists = argparse.ArgumentParser(add_help=False)
    lists.add_argument('--facescrub', required=True, metavar='LIST', help='lines .../PERSON/FILE')
    lists.add_argument('--megaface', required=True, metavar='LIST', help='lines .../A/B/FILE')
    lists.add_argument('--algo', default='vargfacenet', help='suffix of the feature files')
    lists.add_argument('--out', required=True, type=Path, metavar='DIR', help='feature files')

    embed = commands.add_parser('embed', parents=[lists], help='crops -> feature files')
    add_options(embed, action='append', help=f'{HELP}; embeddings of several are concatenated')
    embed.add_argument('--facescrub-root', type=Path, default=Path('.'), metavar='DIR')
    embed.add_argument('--megaface-root', type=Path, default=Path('.'), metavar='DIR')
    embed.add_argument('--batch-size', type=int, default=64, help='images per forward pass')

    noise = commands.add_parser('clean', parents=[lists], help='take noisy images out')
    noise.add_argument('--features', required=True, type=Path, metavar='DIR', help='of embed')
    noise.add_argument('--facescrub-noises', required=True, metavar='FILE')
    noise.add_argument('--megaface-noises', required=True, metavar='FILE')
    noise.add_argument('--seed', type=int, default=0, help='of the jitter')

    summary = commands.add_parser('summary', help='table of the devkit results')
    summary.add_argument('results', nargs='+', metavar='CMC_JSON', help='cmc_*.json')


def _listed(path: PathLike, root: Optional[Path] = None) -> list[str]:
    return [name for name, *_ in read_list(path, root)]


def _embed(arguments: argparse.Namespace) -> dict:
    sets = []
    for kind in _DEPTH:  # both lists before any work
        root = getattr(arguments, f'{kind}_root')
        if not root.is_dir():
            raise InputError(
                f'--{kind}-root {root} is no folder; the {kind} list names what is in it'
            )
        paths = _listed(getattr(arguments, kind), root)
        sets.append(Listed(kind, root, paths, image_names(paths, kind)))
    embedders = [
        open_from(arguments, arguments.batch_size, 'mxnet', model) for model in arguments.model
    ]
    result = {'out': str(arguments.out), 'algo': arguments.algo}
    for images in sets:
        missing = write_embeddings(embedders, images, arguments.out, arguments.algo)
        kind, count = images.kind, len(images.names)
        if missing:
            log.warning('%s: the devkit stops at a missing file; take these off its list', kind)
        report_missing(missing, count, f'{kind} images')
        result[kind] = {'images': count, 'missing': len(missing)}
    return result


def _clean(arguments: argparse.Namespace) -> dict:
    lists = {kind: image_names(_listed(getattr(arguments, kind)), kind) for kind in _DEPTH}
    noises = {kind: read_noises(getattr(arguments, f'{kind}_noises')) for kind in _DEPTH}
    if real_path(arguments.out) == real_path(arguments.features):
        raise InputError(f'--out {arguments.out} is --features; choose another folder')
    counts = clean(arguments.features, arguments.out, arguments.algo, lists, noises, arguments.seed)
    rows = [(kind, len(lists[kind]), counts[kind]) for kind in lists]
    console.table(f'{arguments.out}: MegaFace(R)', ('set', 'images', 'noisy'), rows)
    return {'out': str(arguments.out), 'noisy': counts}


def _summary(arguments: argparse.Namespace) -> dict:
    results = {path: read_cmc(path) for path in arguments.results}
    rows = [
        (Path(path).name, f'{100 * cmc.rank_1:.4f}', f'{100 * cmc.tpr:.4f}', f'{cmc.fpr:.3g}')
        for path, cmc in results.items()
    ]
    console.table('MegaFace', ('result', 'rank-1 %', 'TPR %', '@ FPR'), rows)
    return {'results': {path: cmc._asdict() for path, cmc in results.items()}}


def run(arguments: argparse.Namespace) -> dict:
    if arguments.action == 'summary':
        return _summary(arguments)
    with exclusive(output_folder(arguments.out)):
        return {'embed': _embed, 'clean': _clean}[arguments.action](arguments)


main = console.command('megaface', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
