"""Fit a hand-made descriptor to crops of labelled people: a face model without training.

The descriptor is `symbol/gradients.py`'s. What two linear layers make of it follows in closed form
from pictures of people: a basis of the values of a cell, the mean face, the directions in which
faces vary, and how far pictures of one person lie apart in each, by which it is divided
(within-class covariance normalisation: Hatch, Kajarekar and Stolcke, Interspeech 2006). The same
pictures give the same model.
"""

import argparse
import contextlib
import logging
import sys
from typing import NamedTuple

import numpy as np

from ..common import console
from ..common.checksums import noted
from ..common.data.records import Records, decode_crop, open_records, read_labels
from ..common.engine import checkpoint
from ..common.engine.model_name import checkpoint_files
from ..common.engine.mxnet import Embedder
from ..common.errors import InputError
from ..common.files import exclusive, free_to_write, output_folder
from ..common.memory import free_memory
from ..common.run_files import checkpoint_numbers, state_path, symbol_path
from ..symbol import gradients

log = logging.getLogger(__name__)

_BATCH = 32  # images per forward pass
_LEAST = 1e-12  # of the largest variance: below it a direction is rounding
_MEMORY = 1.6 * 4 * gradients.FEATURES  # bytes of a picture, its features and what is made of them


class Layers(NamedTuple):
    """The two linear layers, see `gradients.embedding`."""

    channels: np.ndarray
    weight: np.ndarray
    bias: np.ndarray


def principal_directions(covariance: np.ndarray, count: int) -> np.ndarray:
    """(count, D) float64 of unit length, those of the most variance first."""
    _, vectors = np.linalg.eigh(covariance)
    return vectors.T[::-1][:count]


def within_class_covariance(rows: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Float64 (D, D): how rows (N, D) of one label vary about their mean, over all labels.

    Raises InputError where no label has two rows, or where they do not differ.
    """
    classes, of_row, counts = np.unique(labels, return_inverse=True, return_counts=True)
    freedom = repeats(labels)
    means = np.zeros((len(classes), rows.shape[1]))
    np.add.at(means, of_row, rows)
    rest = rows - (means / counts[:, None])[of_row]
    if np.square(rest).sum() <= _LEAST * np.square(rows).sum():
        raise InputError('pictures of a person do not differ; are they copies of each other?')
    return rest.T @ rest / freedom


def repeats(labels: np.ndarray) -> int:
    """How many labels (N,) have been there before; InputError if none."""
    count = len(labels) - len(np.unique(labels))
    if not count:
        raise InputError('nobody has two pictures: nothing tells how pictures of a person differ')
    return count


def fit_layers(
    features: np.ndarray, labels: np.ndarray, channels: int, size: int, shrinkage: float
) -> Layers:
    """The layers that follow from the features of labelled pictures.

    Parameters
    ----------
    features : float32 (N, CHANNELS, rows, columns) of the descriptor
    labels : (N,), who is in each picture
    channels : K, values of a cell that are kept
    size : D of the embedding, at most N - 1 and at most K x rows x columns
    shrinkage : of the within-class covariance, what is added to its diagonal as a share of its mean

    Raises
    ------
    InputError for pictures that do not span `size` dimensions, or of nobody twice.
    """
    count, values = features.shape[:2]
    second = np.zeros((values, values))
    for row in features.reshape(count, values, -1):
        second += row @ row.T
    basis = principal_directions(second, channels)
    data = np.einsum('kc,ncp->nkp', basis.astype(np.float32), features.reshape(count, values, -1))
    data = data.reshape(count, -1)
    mean = data.mean(axis=0, dtype=np.float64)
    data -= mean.astype(np.float32)
    directions = principal_directions((data.T @ data).astype(np.float64), size)
    rows = (data @ directions.T.astype(np.float32)).astype(np.float64)
    variances = (rows**2).sum(axis=0)
    if len(variances) < size or variances.min() <= _LEAST * variances.max():
        raise InputError(f'{count} pictures do not span {size} dimensions; give more of them')
    within = within_class_covariance(rows, labels)
    within += shrinkage * np.trace(within) / size * np.eye(size)
    whiten = np.linalg.cholesky(np.linalg.inv(within)).T
    weight = whiten @ directions
    return Layers(basis, weight, -weight @ mean)


def some_of_each(labels: np.ndarray, images: int) -> np.ndarray:
    """Positions of the first `images` pictures of every label, ascending."""
    order = np.argsort(labels, kind='stable')
    starts = np.flatnonzero(np.diff(labels[order], prepend=-1))
    place = np.arange(len(order)) - np.repeat(starts, np.diff(starts, append=len(order)))
    return np.sort(order[place < images])


def features_of(records: Records, positions: np.ndarray) -> np.ndarray:
    """Float32 (N, CHANNELS, rows, columns) of pictures of a data set."""
    embedder = Embedder(gradients.features(), batch_size=_BATCH)
    features = np.empty((len(positions), gradients.FEATURES), np.float32)
    with console.progress(len(positions), 'describing') as bar:
        for start in range(0, len(positions), _BATCH):
            part = positions[start : start + _BATCH]
            crops = [decode_crop(records, p, records.read(p)[1]) for p in part.tolist()]
            features[start : start + _BATCH] = embedder.embed(np.stack(crops)[..., ::-1])
            bar.advance(len(part))
    return features.reshape(-1, gradients.CHANNELS, *gradients.MAP)


def build_parser(parser: argparse.ArgumentParser) -> None:
    parser.add_argument('--data-dir', required=True, help='folder with train.rec, or of people')
    parser.add_argument('--out', required=True, metavar='PREFIX', help='write PREFIX,0')
    parser.add_argument('--images', type=int, default=4, help='pictures of every person, at most')
    parser.add_argument('--emb-size', type=int, default=512, help='length of the embedding')
    parser.add_argument('--channels', type=int, default=24, help='values of a cell that are kept')
    parser.add_argument(
        '--shrinkage',
        type=float,
        default=0.1,
        help='how much the variation within a person is taken for alike in all directions',
    )
    parser.add_argument('--overwrite', action='store_true', help='replace the files that are there')


def check(args: argparse.Namespace) -> None:
    """InputError for what is wrong with the options alone."""
    console.check_ranges(
        [
            ('--images', args.images, 2, 10_000),
            ('--channels', args.channels, 1, gradients.CHANNELS),
            ('--emb-size', args.emb_size, 1, args.channels * gradients.MAP[0] * gradients.MAP[1]),
            ('--shrinkage', args.shrinkage, 1e-6, 1e6),
        ]
    )
    for path in (*checkpoint_files(f'{args.out},0'), state_path(args.out, 0)):
        free_to_write(path, args.overwrite)
    if others := [number for number in checkpoint_numbers(args.out) if number]:
        raise InputError(
            f'{args.out} is a run with checkpoints (the newest: {others[-1]}), whose network would '
            'be lost; choose another place'
        )


def chosen(records: Records, args: argparse.Namespace) -> tuple[np.ndarray, np.ndarray]:
    """(positions of the pictures that are looked at, their labels).

    What is wrong with their number shows here, before any is looked at: InputError for fewer than
    there are values, for nobody twice, and for more than memory has room for.
    """
    if not records.num_classes:
        raise InputError(f'{args.data_dir}: pictures without labels; expected folders of people')
    labels = read_labels(records)
    positions = some_of_each(labels, args.images)
    labels = labels[positions]
    if len(positions) <= args.emb_size:
        raise InputError(
            f'{args.data_dir}: {len(positions)} pictures for --emb-size {args.emb_size}; more '
            'pictures than values are needed'
        )
    if (again := repeats(labels)) < args.emb_size:
        log.warning(
            'only %d pictures are further ones of somebody: how pictures of a person differ in %d '
            'directions is a guess',
            *(again, args.emb_size),
        )
    if (needed := _MEMORY * len(positions)) > free_memory():
        raise InputError(
            f'{args.data_dir}: {len(positions)} pictures would take {needed / 1e9:.1f} GB, '
            f'{free_memory() / 1e9:.1f} are free; some 6,000 are enough: give a folder of fewer '
            'people, or a smaller --images'
        )
    return positions, labels


def run(args: argparse.Namespace) -> dict:
    check(args)
    with contextlib.closing(open_records(args.data_dir)) as records:
        positions, labels = chosen(records, args)
        features = features_of(records, positions)
    layers = fit_layers(features, labels, args.channels, args.emb_size, args.shrinkage)
    network = gradients.embedding(*layers)
    path = symbol_path(args.out)
    with exclusive(output_folder(path.parent)), noted(path):  # the parameters carry their own
        state_path(args.out, 0).unlink(missing_ok=True)  # of a training that was replaced
        checkpoint.save_embedding(args.out, 0, network)
    people, count = len(np.unique(labels)), sum(array.size for array in network.arg_params.values())
    log.info(
        '%s,0: %d values from %d pictures of %d people',
        *(args.out, args.emb_size, len(positions), people),
    )
    return {
        'model': f'{args.out},0',
        'pictures': len(positions),
        'people': people,
        'params': count,
    }


main = console.command('fit', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
