"""The teacher's class centres, out of its store: what some distillation losses classify by."""

import contextlib
import logging

import numpy as np

from ..common.data.records import UNLABELLED, open_records, read_labels
from ..common.files import PathLike
from ..common.vectors import unit_rows
from .teacher import Rows

log = logging.getLogger(__name__)

_BLOCK = 4096  # pictures whose embeddings are in memory at a time


def labels_of(data_dir: PathLike, rows: Rows, skip: bool = False) -> np.ndarray:
    """int64 (pictures,): the class of every picture of a data set, UNLABELLED where `rows` have the
    embeddings of another picture in its place; reads all of the set once.

    Raises InputError for a picture that cannot be read; with `skip` it is UNLABELLED as well.
    """
    with contextlib.closing(open_records(data_dir)) as records:
        labels = read_labels(records, skip)
    return np.where(np.isin(np.arange(len(labels)), [*rows.replaced]), UNLABELLED, labels)


def class_centres(rows: Rows, labels: np.ndarray, num_classes: int) -> np.ndarray:
    """Direction of the mean of a class's embeddings, those of mirror images included.

    The embeddings are taken at unit length (MarginDistillation, arXiv:2003.02586; ProxylessKD,
    arXiv:2011.00265). The result depends on nothing but the arguments, to the last bit.

    Parameters
    ----------
    rows : the teacher's embeddings of all pictures
    labels : int (pictures,), class numbers from 0; UNLABELLED ones do not count
    num_classes : C

    Returns
    -------
    (C, D) float32 of unit length; a class without pictures has zeros, and the log says how many
    """
    order = np.argsort(labels, kind='stable')
    order = order[labels[order] != UNLABELLED]
    sums = np.zeros(0)
    for start in range(0, len(order), _BLOCK):
        positions = order[start : start + _BLOCK]
        classes, firsts = np.unique(labels[positions], return_index=True)
        for mirrored in (False, True):
            embeddings = rows.read(positions, np.full(len(positions), mirrored))
            if start == 0 and not mirrored:
                sums = np.zeros((num_classes, embeddings.shape[1]))
            sums[classes] += np.add.reduceat(unit_rows(embeddings), firsts)
    empty = num_classes - len(np.unique(labels[order]))
    if empty:
        log.warning('%d of %d classes have no picture, and so no centre', empty, num_classes)
    return unit_rows(sums).astype(np.float32)
