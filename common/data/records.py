"""The one way to a training set: a `.rec`, or a folder of identity folders with crops.

`open_records` alone knows how either lies in a folder. What it returns has the interface of
`Records`, and everything that trains, teaches or distils goes through it. Another kind of source is
a function in `SOURCES`.
"""

import hashlib
import os
from pathlib import Path
from typing import Callable, Optional, Protocol

import numpy as np

from ..errors import InputError
from ..files import PathLike, state_of
from ..names import IMAGE_SIZE
from ..registry import Registry
from .folders import find_identities, find_pictures, identity_folders, warn_of_others
from .image import check_crop, decode_bgr, has_crop_size, read_picture
from .left_out import not_allowed
from .recordio import RecordFile, record_paths

TRAIN_REC = 'train.rec'
UNLABELLED = -1  # label of every picture of a set without identities
_SAMPLES = 1024  # pictures that a digest reads
_LOOKED_AT = 5  # by which photographs are known


class Records(Protocol):
    """Random access to the pictures of a training set, from any number of threads.

    Attributes
    ----------
    num_images : int
    num_classes : int, 0 for a set without labels
    class_names : names of the classes in order, () where nothing tells them
    source : the file or folder, for messages
    """

    num_images: int
    num_classes: int
    class_names: tuple[str, ...]
    source: Path

    def __len__(self) -> int: ...

    def read(self, position: int) -> tuple[int, bytes]:
        """(class label, encoded picture) of picture `position`; label UNLABELLED without classes.

        Raises InputError naming a damaged one.
        """

    def name(self, position: int) -> str:
        """How errors call picture `position`."""

    def will_need(self, start: int, end: int) -> None:
        """Have the system read pictures `start` to `end` - 1 in the background; only a hint."""

    def digest(self) -> str:
        """Hash that another data set, or a changed one, does not have."""

    def close(self) -> None:
        """Close the files; no thread may be reading."""


# Functions (path, picture size) -> Records, or None for what is not of their kind; they are asked
# before a `.rec` or folders are looked for.
SOURCES: Registry[Callable[[Path, int], Optional[Records]]] = Registry('training source')


class FolderRecords:
    """FOLDER/<identity>/<crop>: identities numbered by their sorted names, pictures by theirs.

    A folder of crops without identity folders is one set without labels. Pictures are 112x112, in
    any form that `decode_rgb` reads.

    Parameters
    ----------
    folder : the folder

    Attributes
    ----------
    labels : int64 (num_images,)

    Raises
    ------
    InputError if there are no pictures, or for an identity folder without any.
    """

    def __init__(self, folder: PathLike):
        self.source = Path(folder)
        if identity_folders(self.source):
            identities = find_identities(self.source)
            self.class_names = tuple(identity.name for identity in identities)
            self._paths = [path for identity in identities for path in identity.paths]
            counts = [len(identity.paths) for identity in identities]
            self.labels = np.repeat(np.arange(len(identities)), counts)
        else:
            found = find_pictures(self.source)
            if not found.pictures:
                raise InputError(
                    f'{self.source} holds neither {TRAIN_REC} nor crops; expected a record file, '
                    f'or FOLDER/<identity>/<picture>'
                )
            warn_of_others(self.source, found.others)
            self.class_names = ()
            self._paths = found.pictures
            self.labels = np.full(len(self._paths), UNLABELLED)
        self.num_classes = len(self.class_names)
        self.num_images = len(self._paths)

    def __len__(self) -> int:
        return self.num_images

    def read(self, position: int) -> tuple[int, bytes]:
        """See `Records`."""
        if not 0 <= position < self.num_images:
            raise IndexError(f'image {position} of {self.num_images}')
        try:
            return int(self.labels[position]), read_picture(self._paths[position])
        except InputError as error:
            raise InputError(f'{self.name(position)}: {error}') from None

    def name(self, position: int) -> str:
        """See `Records`."""
        return str(self._paths[position])

    def will_need(self, start: int, end: int) -> None:
        """See `Records`."""
        if not hasattr(os, 'posix_fadvise'):
            return
        for path in self._paths[start:end]:
            with open(path, 'rb') as handle:
                os.posix_fadvise(handle.fileno(), 0, 0, os.POSIX_FADV_WILLNEED)

    def digest(self) -> str:
        """Hash of all names and sizes, and of the content of 1,024 pictures spread over the set."""
        content = hashlib.sha256()
        for path in self._paths:
            name = os.fsencode(path.relative_to(self.source))
            content.update(name + b'\0%d\0' % path.stat().st_size)
        last = self.num_images - 1
        for position in np.unique(np.linspace(0, last, _SAMPLES).astype(int)).tolist():
            content.update(self.read(position)[1])
        return content.hexdigest()

    def close(self) -> None:
        """Nothing is kept open."""


def side_file(source: PathLike, suffix: str) -> Path:
    """Where a file that belongs to a set lies: beside its `.rec`, or in its folder.

    `source` is `Records.source`; the file is called train or as the `.rec` is, and `suffix`.
    """
    source = Path(source)
    if source.is_dir():
        return source / f'train{suffix}'
    return source.with_name(source.stem + suffix)


def record_file(folder: Path) -> Path:
    """The `.rec` in a folder: train.rec, or the only one; train.rec if there is none.

    Raises InputError if there are several and none is train.rec.
    """
    if (folder / TRAIN_REC).is_file() or not folder.is_dir():
        return folder / TRAIN_REC
    found = sorted(folder.glob('*.rec'))
    if len(found) > 1:
        names = ', '.join(path.name for path in found)
        raise InputError(f'{folder} holds {names} and no {TRAIN_REC}; name the file itself')
    return found[0] if found else folder / TRAIN_REC


def open_records(data_dir: PathLike, size: int = IMAGE_SIZE) -> Records:
    """Open a training set.

    Parameters
    ----------
    data_dir : a folder with a `.rec` (and its `property`), the `.rec` itself (its suffix may be
        left out), or a folder of identity folders with crops; a folder of crops alone is a set
        without labels; or what a function in SOURCES knows
    size : picture size that `property` must state

    Raises
    ------
    InputError for what is none of these, and as RecordFile and FolderRecords do.
    """
    path = Path(data_dir)
    for open_source in SOURCES.newest_first():
        records = open_source(path, size)
        if records is not None:
            return records
    if not path.is_dir() and (path.suffix == '.rec' or record_paths(path).rec.is_file()):
        return RecordFile(path, size)
    if not path.is_dir():
        state = 'is of no known kind' if path.exists() else state_of(path)
        raise InputError(
            f'training data {path} {state}; expected a folder with {TRAIN_REC}, or of '
            f'identity folders with crops'
        )
    rec = record_file(path)
    return RecordFile(rec, size) if rec.is_file() else FolderRecords(path)


def read_labels(records: Records, skip: bool = False) -> np.ndarray:
    """int64 (pictures,): the class of every picture; of a record file, reads all of them once.

    Raises InputError for a picture that cannot be read; with `skip` it has the label UNLABELLED.
    """
    if isinstance(records, FolderRecords):  # whose folders tell
        return records.labels
    labels = np.full(len(records), UNLABELLED, np.int64)
    for position in range(len(records)):
        try:
            labels[position] = records.read(position)[0]
        except InputError:
            if not skip:
                raise
    return labels


def read_crop(records: Records, position: int) -> tuple[int, np.ndarray]:
    """(class label, uint8 (112, 112, 3) BGR) of picture `position`.

    Raises InputError naming one that is damaged, of another size or on a disk that fails.
    """
    try:
        label, encoded = records.read(position)
    except OSError as error:
        raise InputError(f'{records.name(position)}: {error.strerror}') from None
    try:
        bgr = decode_bgr(encoded)
    except InputError as error:
        raise InputError(f'{records.name(position)}: {error}') from None
    check_crop(bgr, records.name(position))
    return label, bgr


def check_crops(records: Records) -> None:
    """InputError for a set of photographs where crops belong: before any work, by the size of a few
    pictures spread over it. What cannot be read is left to whoever reads it."""
    other = ''
    for position in np.unique(np.linspace(0, len(records) - 1, _LOOKED_AT).astype(int)).tolist():
        try:
            bgr = decode_bgr(records.read(position)[1])
        except (InputError, OSError):
            continue
        if has_crop_size(bgr):
            return
        height, width = bgr.shape[:2]
        other = other or f'{records.name(position)} has {width}x{height} pixels'
    if other:
        raise InputError(
            f'{records.source} holds no aligned crops, which have {IMAGE_SIZE}x{IMAGE_SIZE}: '
            f'{other}; `vargfacenet align {records.source} crops` makes crops of photographs'
        )


def next_crop(
    records: Records, position: int, bad: dict[int, str], allowed: Optional[int]
) -> tuple[int, int, np.ndarray]:
    """(position, label, uint8 BGR) of a picture, or of the first readable one after it: who takes
    the place of a bad one depends on the data alone, so that a resumed run sees it too.

    Parameters
    ----------
    bad : takes position -> reason of each that cannot be read
    allowed : how many may be in `bad`, as `LeftOut` has it; InputError with the reason of one more,
        or of the last of all
    """
    while True:
        try:
            label, bgr = read_crop(records, position)
        except InputError as error:
            bad[position] = str(error)
        else:
            return position, label, bgr
        if len(bad) > (allowed or 0):
            raise not_allowed(bad[position], allowed)
        if len(bad) == len(records):
            raise InputError(bad[position])
        position = (position + 1) % len(records)
