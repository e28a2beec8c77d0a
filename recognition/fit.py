"""Fit a hand-made descriptor to crops of labelled people: a face model without training.

The descriptor is `symbol/textures.py`'s. What two linear layers make of each of its parts follows
in closed form from pictures of people: those values of a cell that tell people apart best (linear
discriminant analysis), the mean face, the directions in which faces vary, and how far pictures of
one person lie apart in each, by which it is divided (within-class covariance normalisation: Hatch,
Kajarekar and Stolcke, Interspeech 2006). The same pictures give the same model.
"""

import argparse
import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Union

import numpy as np
from scipy.linalg import eigh

from ..common import console
from ..common.data.left_out import LeftOut
from ..common.data.records import UNLABELLED, Records, open_records, read_crop, read_labels
from ..common.engine import checkpoint
from ..common.engine.mxnet import Embedder
from ..common.errors import InputError
from ..common.memory import free_memory
from ..common.parallel import batches, ordered_map
from ..symbol import textures
from ..symbol.textures import PARTS, Layers

log = logging.getLogger(__name__)

_BATCH = 32  # images per forward pass
_LEAST = 1e-12  # of the largest variance: below it a direction is rounding
_MEMORY = 2 * 4 * textures.FEATURES  # bytes of a picture, its features and what is made of them


def principal_directions(covariance: np.ndarray, count: int) -> np.ndarray:
    """(count, D) float64 of unit length, those of the most variance first."""
    _, vectors = np.linalg.eigh(covariance)
    return vectors.T[::-1][:count]


def principal_directions_of(rows: np.ndarray, count: int) -> np.ndarray:
    """The same of centred float32 rows (N, D); zeros for those beyond the directions in which the
    rows differ."""
    if len(rows) >= rows.shape[1]:
        return principal_directions((rows.T @ rows).astype(np.float64), count)
    # the products of few rows with each other have the same eigenvalues, in a smaller matrix
    rows = rows.astype(np.float64)
    values, vectors = np.linalg.eigh(rows @ rows.T)
    values, vectors = values[::-1][:count], vectors.T[::-1][:count]
    lengths = np.sqrt(np.where(values > _LEAST * values[0], values, np.inf))
    return vectors @ rows / lengths[:, None]


def within_class_covariance(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Float64 (D, D): how rows (N, D) of one label vary about their mean, over all labels.

    Raises InputError where no label has two rows.
    """
    classes, of_row, counts = np.unique(labels, return_inverse=True, return_counts=True)
    freedom = repeats(labels)
    means = np.zeros((len(classes), rows.shape[1]))
    np.add.at(means, of_row, rows)
    rest = rows - (means / counts[:, None])[of_row]
    return rest.T @ rest / freedom


def shrunk(covariance: np.ndarray, shrinkage: float) -> np.ndarray:
    """A covariance (D, D) whose diagonal has `shrinkage` times its mean more."""
    size = len(covariance)
    return covariance + shrinkage * np.trace(covariance) / size * np.eye(size)


def discriminant_directions(
    features: np.ndarray, labels: np.ndarray, count: int, shrinkage: float
) -> np.ndarray:
    """(count, channels) float64: of the values of a cell those sums in which pictures differ most,
    each of them divided by how far pictures of one person lie apart in it.

    Parameters
    ----------
    features : float32 (N, channels, rows, columns)
    labels : (N,)
    count : at most channels
    shrinkage : of the covariance within a person, as in `shrunk`

    Raises InputError where pictures of a person do not differ.
    """
    channels = features.shape[1]
    total, within = np.zeros((channels, channels)), np.zeros((channels, channels))
    for cell in np.moveaxis(features.reshape(len(features), channels, -1), 2, 0):
        rows = cell.astype(np.float64)
        within += within_class_covariance(rows, labels)
        rows -= rows.mean(axis=0)
        total += rows.T @ rows
    if np.trace(within) <= _LEAST * np.trace(total):
        raise InputError('pictures of a person do not differ; are they copies of each other?')
    _, vectors = eigh(total, shrunk(within, shrinkage))
    return vectors.T[::-1][:count]


def repeats(labels: np.ndarray) -> int:
    """How many labels (N,) have been there before; InputError if none."""
    count = len(labels) - len(np.unique(labels))
    if not count:
        raise InputError('nobody has two pictures: nothing tells how pictures of a person differ')
    return count


def fit_layers(
    features: np.ndarray, labels: np.ndarray, channels: int, size: int, shrinkage: float
) -> Layers:
    """The layers of a part that follow from its features of labelled pictures.

    Parameters
    ----------
    features : float32 (N, channels, rows, columns) of a part of the descriptor
    labels : (N,), who is in each picture
    channels : K, values of a cell that are kept
    size : D of the embedding, at most N - 1 and at most K x rows x columns
    shrinkage : of both covariances within a person, of a cell and of a face, as in `shrunk`

    Raises
    ------
    InputError for pictures that do not span `size` dimensions, that are of nobody twice, or that do
    not differ where they are of one person.
    """
    count, values = features.shape[:2]
    basis = discriminant_directions(features, labels, channels, shrinkage)
    data = np.einsum('kc,ncp->nkp', basis.astype(np.float32), features.reshape(count, values, -1))
    data = data.reshape(count, -1)
    mean = data.mean(axis=0, dtype=np.float64)
    data -= mean.astype(np.float32)
    directions = principal_directions_of(data, size)
    rows = (data @ directions.T.astype(np.float32)).astype(np.float64)
    variances = (rows**2).sum(axis=0)
    if len(variances) < size or variances.min() <= _LEAST * variances.max():
        raise InputError(f'{count} pictures do not span {size} dimensions; give more of them')
    within = shrunk(within_class_covariance(rows, labels), shrinkage)
    whiten = np.linalg.cholesky(np.linalg.inv(within)).T
    weight = whiten @ directions
    return Layers(basis, weight, -weight @ mean)


def some_of_each(labels: np.ndarray, images: int) -> np.ndarray:
    """Positions of the first `images` pictures of every label but UNLABELLED, ascending."""
    order = np.argsort(labels, kind='stable')
    order = order[labels[order] != UNLABELLED]
    starts = np.flatnonzero(np.diff(labels[order], prepend=UNLABELLED))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[place < images])


def features_of(
    records: Records, positions: np.ndarray, left_out: LeftOut
) -> tuple[np.ndarray, np.ndarray]:
    """(float32 (N, FEATURES) of pictures of a data set, int64 (N,) their positions):
    of all `positions` but those that cannot be read and may be left out."""

    def read(position: int) -> tuple[int, Union[np.ndarray, str]]:
        try:
            return position, read_crop(records, position)[1]
        except InputError as error:
            return position, str(error)

    def readable() -> Iterator[tuple[int, np.ndarray]]:
        for position, crop in ordered_map(read, positions.tolist()):
            bar.advance()
            if isinstance(crop, str):
                left_out.add({position: crop})
            else:
                yield position, crop

    embedder = Embedder(textures.features(), batch_size=_BATCH)
    features = np.empty((len(positions), textures.FEATURES), np.float32)
    read_ones = []
    with console.progress(len(positions), 'describing') as bar:
        for part in batches(readable(), _BATCH):
            there, crops = zip(*part)
            features[len(read_ones) :][: len(part)] = embedder.embed(np.stack(crops)[..., ::-1])
            read_ones += there
    return features[: len(read_ones)], np.array(read_ones, np.int64)


def kept_channels(channels: int) -> tuple[int, ...]:
    """How many values of a cell each part keeps: half as many of waves, whose cells are four times
    as many as those of patterns."""
    return channels, max(1, channels // 2)


def fit(
    features: np.ndarray, labels: np.ndarray, channels: int, size: int, shrinkage: float
) -> list[Layers]:
    """`fit_layers` of each of PARTS, from features (N, FEATURES); `size` values of all together."""
    layers, start = [], 0
    for part, kept in zip(PARTS, kept_channels(channels)):
        own = features[:, start : start + part.size]
        own = own.reshape(-1, part.channels, part.rows, part.columns)
        layers.append(fit_layers(own, labels, kept, size // len(PARTS), shrinkage))
        start += part.size
    return layers


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--data-dir', required=True, help='folder with train.rec, or of people')
    parser.add_argument('--out', required=True, metavar='PREFIX', help='write PREFIX,0')
    parser.add_argument('--images', type=int, default=4, help='pictures of every person, at most')
    parser.add_argument(
        '--emb-size',
        type=int,
        default=768,
        help='length of the embedding, half of it for each part',
    )
    parser.add_argument(
        '--channels',
        type=int,
        default=40,
        help='values of a cell that are kept of patterns, and half as many of waves',
    )
    parser.add_argument(
        '--shrinkage',
        type=float,
        default=0.3,
        help='how much the variation within a person is taken for alike in all directions',
    )
    parser.add_argument(
        '--skip-corrupt',
        type=int,
        default=0,
        metavar='N',
        help='leave out up to N pictures that cannot be read, and name them',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the files that are there')


def check(args: argparse.Namespace) -> None:
    """InputError for what is wrong with the options alone."""
    most_channels = min(PARTS[0].channels, 2 * PARTS[1].channels + 1)
    console.check_ranges([('--channels', args.channels, 1, most_channels)])
    kept = zip(PARTS, kept_channels(args.channels))
    most = len(PARTS) * min(count * part.rows * part.columns for part, count in kept)
    console.check_ranges(
        [
            ('--images', args.images, 2, 10_000),
            ('--emb-size', args.emb_size, len(PARTS), most),
            ('--shrinkage', args.shrinkage, 1e-6, 1e6),
            ('--skip-corrupt', args.skip_corrupt, 0, 10**9),
        ]
    )
    if args.emb_size % len(PARTS):
        raise InputError(f'--emb-size {args.emb_size}: an even number, half of it for each part')
    checkpoint.check_free(args.out, args.overwrite)


def labels_of(records: Records, left_out: LeftOut) -> np.ndarray:
    """int64 (pictures,), UNLABELLED for those that cannot be read, which are left out."""
    if not records.num_classes:
        raise InputError(f'{records.source}: pictures without labels; expected folders of people')
    labels = read_labels(records, skip=True)
    for position in np.flatnonzero(labels == UNLABELLED).tolist():
        try:
            labels[position] = read_crop(records, position)[0]
        except InputError as error:
            left_out.add({position: str(error)})
    return labels


def chosen(records: Records, args: argparse.Namespace, labels: np.ndarray) -> np.ndarray:
    """Positions of the pictures that are looked at, of a set with `labels`.

    What is wrong with their number shows here, before any is looked at: InputError for fewer than
    there are values, for nobody twice, and for more than memory has room for.
    """
    positions = some_of_each(labels, args.images)
    labels = labels[positions]
    size = args.emb_size // len(PARTS)
    if len(positions) <= size:
        most = len(PARTS) * max(len(positions) - 1, 0)
        smaller = f', or an --emb-size of at most {most}' if most else ''
        raise InputError(
            f'{args.data_dir}: {len(positions)} pictures for --emb-size {args.emb_size}; more '
            f'pictures than half as many are needed{smaller}'
        )
    if (again := repeats(labels)) < size:
        log.warning(
            'only %d pictures are further ones of somebody: how pictures of a person differ in %d '
            'directions is a guess',
            *(again, size),
        )
    if (needed := _MEMORY * len(positions)) > free_memory():
        raise InputError(
            f'{args.data_dir}: {len(positions)} pictures would take {needed / 1e9:.1f} GB, '
            f'{free_memory() / 1e9:.1f} are free; some 6,000 are enough: give a folder of fewer '
            'people, or a smaller --images'
        )
    return positions


def run(args: argparse.Namespace) -> dict:
    check(args)
    left_out = LeftOut(args.skip_corrupt)
    with contextlib.closing(open_records(args.data_dir)) as records:
        labels = labels_of(records, left_out)
        features, positions = features_of(records, chosen(records, args, labels), left_out)
    there, labels = len(labels), labels[positions]
    layers = fit(features, labels, args.channels, args.emb_size, args.shrinkage)
    network = textures.embedding(layers)
    checkpoint.save_alone(args.out, network, args.overwrite)
    _, counts = np.unique(labels, return_counts=True)
    result = {
        'model': f'{args.out},0',
        'pictures': len(positions),
        'people': len(counts),
        'people_of_one_picture': int((counts == 1).sum()),
        'pictures_beyond_images': there - len(positions) - len(left_out.reasons),
        'left_out': len(left_out.reasons),
        'params': sum(array.size for array in network.arg_params.values()),
    }
    log.info(
        '%s: %d values from %d pictures of %d people; %d of these have one picture, which tells '
        'nothing of how pictures of a person differ; not looked at: %d pictures beyond --images '
        '%d, %d that cannot be read',
        *(result['model'], args.emb_size, result['pictures'], result['people']),
        *(result['people_of_one_picture'], result['pictures_beyond_images'], args.images),
        result['left_out'],
    )
    return result


main = console.command('fit', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
