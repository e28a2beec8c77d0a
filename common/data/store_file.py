"""The file of a teacher store: a header, and a data set's embeddings by one teacher.

It lies beside the `.rec` as `train.teacher-KEY.f16`. KEY is a hash of the teacher's network and
weights, of the data set and of the preprocessing, so that another teacher or data set gets another
file. It is a header of HEADER_BYTES, JSON padded with spaces, and behind it float16
(records, 2 + views, D), little-endian: [i, 0] is record i, [i, 1] its mirror image, [i, 2 + v] its
augmented view v, all of unit length.
The header has the CRC-32 of the rows, and one of itself.
"""

import hashlib
import json
import zlib
from dataclasses import asdict, dataclass

from ..errors import InputError
from ..files import PathLike, input_file
from ..typed import from_values

HEADER_BYTES = 4096
KIND = 'vargfacenet teacher store'
PREPROCESSING = 'RGB 0..255 112x112, image and mirror image, unit length, version 1'
PLAIN_ROWS = 2  # a record and its mirror image
NO_CHECKSUM = -1  # of stores that were made before there was one


@dataclass(frozen=True)
class Header:
    """What a store says of itself."""

    teacher: str  # 'PREFIX,EPOCH' as it was called when the store was made
    teacher_hash: str
    data: str  # the record file
    data_hash: str
    records: int
    embedding_size: int
    engine: str  # that computed the embeddings
    done: int = 0  # records that are on the disk
    crc32: int = NO_CHECKSUM  # of the rows up to `done`
    preprocessing: str = PREPROCESSING
    views: int = 0  # augmented views of every record
    augmentation: str = ''  # that made them, with all options; '' without views
    view_seed: int = 0
    kind: str = KIND

    @property
    def key(self) -> str:
        """Twelve hexadecimal digits that name teacher, data set, preprocessing and views."""
        views = (self.augmentation, str(self.view_seed), str(self.views)) if self.views else ()
        return _digest(self.teacher_hash, self.data_hash, self.preprocessing, *views)[:12]

    @property
    def rows(self) -> int:
        """Embeddings of a record."""
        return PLAIN_ROWS + self.views

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + 2 * self.rows * self.records * self.embedding_size


def _digest(*texts: str) -> str:
    return hashlib.sha256('\0'.join(texts).encode()).hexdigest()


_OWN = 'header_crc32'


def _own_checksum(values: dict) -> int:
    # not checked_json's, which leaves out the key crc32: here it is the rows' and belongs to it
    return zlib.crc32(json.dumps(values, sort_keys=True).encode())


def header_bytes(header: Header) -> bytes:
    """HEADER_BYTES as they stand in the file; InputError where the paths in it are too long."""
    values = asdict(header)
    text = json.dumps({**values, _OWN: _own_checksum(values)}).encode()
    if len(text) > HEADER_BYTES:
        raise InputError(f"{header.data}, {header.teacher}: paths too long for a store's header")
    return text.ljust(HEADER_BYTES)


def read_header(path: PathLike) -> Header:
    """Header of a store; InputError for a file that is none."""
    path = input_file(path, 'teacher store')
    with open(path, 'rb') as handle:
        text = handle.read(HEADER_BYTES)
    own, values = None, None
    try:
        values = json.loads(text.decode())
        own = values.pop(_OWN, None) if isinstance(values, dict) else None
        header = from_values(Header, values, 'header')
    except (ValueError, RecursionError):
        header = None
    size = header and (
        *(header.records, header.embedding_size, header.done, header.views, header.view_seed),
        header.file_bytes,
    )
    if not header or header.kind != KIND or min(size) < 0 or header.file_bytes > 1 << 62:
        raise InputError(f'{path} is no teacher store; make one with `vargfacenet teach`')
    if own is not None and own != _own_checksum(values):  # older stores have none
        raise InputError(f'{path} was damaged after it was written: its header; delete it')
    return header
