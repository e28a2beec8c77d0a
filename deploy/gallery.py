"""A gallery of known faces on disk: enrol, identify, remove.

Two files in a folder: `gallery.sqlite` knows who has which rows, `embeddings.f32` holds the rows, a
plain float32 matrix that is searched where it lies (memory-mapped). A row counts only once the
database names it, and it is on disk before the database does, so a crash at any moment leaves the
gallery as it was before or after the change. What is removed is overwritten.

A codec of `CODECS` seals the rows and the pictures; the rows are then opened into memory. Names,
sources and times are never sealed.
"""

import contextlib
import os
import re
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Protocol

import numpy as np

from ..common.errors import InputError, RunError
from ..common.files import PathLike, output_folder
from ..common.registry import Registry

DATABASE = 'gallery.sqlite'
MATRIX = 'embeddings.f32'
FORMAT = '1'
MAX_NAME = 200  # characters of an identity's name
_GROWTH = 1024  # rows by which the matrix file grows at least
_UNIT_TOLERANCE = 1e-3
_LOCK_SECONDS = 10.0  # to wait for another process that writes

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE faces (
    row INTEGER PRIMARY KEY, identity TEXT NOT NULL, source TEXT NOT NULL,
    enrolled TEXT NOT NULL, crop BLOB
);
CREATE INDEX faces_by_identity ON faces (identity);
"""


class UnknownIdentity(InputError):
    """Nobody of that name is in the gallery."""


class GalleryBusy(RunError):
    """Another process has kept the gallery for itself for too long; nothing was changed."""


class Match(NamedTuple):
    """An identity and its best face's cosine to the probe, -1..1."""

    identity: str
    cosine: float
    source: str  # where that face came from


class Codec(Protocol):
    """Seals what a gallery keeps of faces; there is none in the project, a plugin brings it."""

    def seal(self, content: bytes) -> bytes:
        """What goes to the disk; of contents of one length always of one length."""

    def open(self, sealed: bytes) -> bytes:
        """The content again; InputError for another key and for what somebody has changed."""


# name -> function that makes the codec; it finds its key itself and raises InputError without one
CODECS: Registry[Callable[[], Codec]] = Registry('gallery codec')
CODEC_HELP = "how a new gallery seals its faces: a plugin's codec (docs/extending.md)"
_SAMPLE = b'vargfacenet gallery'  # lies sealed in the database, to know a wrong key at once


class Gallery:
    """Known faces on disk; usable from several threads, and by several processes at once.

    Parameters
    ----------
    folder : made if it does not exist
    embedding_size : D
    fingerprint : of the model (FaceEmbedder.fingerprint); a gallery belongs to one model.
        Without these two the gallery must exist, and its model is not asked for.
    codec : name in CODECS for a new gallery, '' for none; an old one remembers its own

    Raises
    ------
    InputError for a folder that cannot be written, a gallery of another model, codec or key, a
    damaged one, and one that does not exist when no model is given. Every method may raise
    GalleryBusy, after ten seconds, and RunError for a disk that fails; reading waits for changes in
    this object and for the moment in which another process completes one.
    """

    def __init__(
        self,
        folder: PathLike,
        embedding_size: Optional[int] = None,
        fingerprint: Optional[str] = None,
        codec: str = '',
    ):
        if fingerprint is None:
            check_exists(folder)
        self.folder = output_folder(folder)
        self._lock = threading.RLock()
        self._matrix_file = -1
        self._version = None
        try:
            self._database = sqlite3.connect(
                self.folder / DATABASE,
                timeout=_LOCK_SECONDS,
                isolation_level=None,  # transactions are begun by _transaction alone
                check_same_thread=False,
            )
        except sqlite3.OperationalError as error:
            raise InputError(f'{self.folder / DATABASE} is no gallery: {error}') from None
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            self._open(embedding_size, fingerprint, codec)
            on_error.pop_all()

    def close(self) -> None:
        """Close the files; the object is of no use afterwards."""
        self._database.close()
        if self._matrix_file >= 0:
            os.close(self._matrix_file)
            self._matrix_file = -1

    def __len__(self) -> int:
        """Number of faces."""
        with self._access():
            return self._database.execute('SELECT count(*) FROM faces').fetchone()[0]

    def identities(self) -> dict[str, int]:
        """Name -> number of faces, sorted by name."""
        with self._access():
            query = 'SELECT identity, count(*) FROM faces GROUP BY identity ORDER BY identity'
            return dict(self._database.execute(query))

    def enrol(
        self,
        identities: Sequence[str],
        embeddings: np.ndarray,
        sources: Optional[Sequence[str]] = None,
        crops: Optional[Sequence[bytes]] = None,
    ) -> None:
        """Add faces; all of them or, on any error, none.

        Parameters
        ----------
        identities : N names, one for each face
        embeddings : (N, D) float, rows of unit length
        sources : N texts, such as file names; what is no Unicode in them becomes '?'
        crops : N encoded pictures to show, kept in the database

        Raises
        ------
        InputError for names that are empty or too long, and rows of another length than 1.
        """
        names = [checked_name(name) for name in identities]
        rows = self._checked_rows(embeddings, len(names))
        # a file's name need not be text, and the database keeps nothing else
        sources = [
            source.encode(errors='replace').decode() for source in sources or [''] * len(names)
        ]
        crops = [crop and self._sealed(crop) for crop in crops or [None] * len(names)]
        now = datetime.now(timezone.utc).isoformat(timespec='seconds')
        with self._change():
            places = self._unused(len(names))
            self._write_rows(places, self._sealed_rows(rows))
            self._database.executemany(
                'INSERT INTO faces VALUES (?, ?, ?, ?, ?)',
                [
                    (int(place), name, source, now, crop)
                    for place, name, source, crop in zip(places, names, sources, crops)
                ],
            )

    def remove(self, identity: str) -> int:
        """Forget all faces of an identity; returns how many. UnknownIdentity if there are none."""
        identity = checked_name(identity)
        with self._change():
            query = 'SELECT row FROM faces WHERE identity = ?'
            places = [row for (row,) in self._database.execute(query, (identity,))]
            if not places:
                raise UnknownIdentity(f'the gallery has no identity {identity!r}')
            self._database.execute('DELETE FROM faces WHERE identity = ?', (identity,))
        self._tidy()
        return len(places)

    def identify(self, embedding: np.ndarray, top: int = 5) -> list[Match]:
        """The identities most like a face, best first.

        Parameters
        ----------
        embedding : (D,) float of unit length
        top : how many at most

        Returns
        -------
        list of Match, one for each identity; empty for an empty gallery.
        """
        probe = self._checked_rows(np.asarray(embedding)[None], 1)[0]
        # rows and names of one state: who removes a face and enrols another in its row waits
        with self._access(), self._transaction('DEFERRED'):
            self._refresh()
            cosine = self._matrix @ probe
            cosine[self._codes < 0] = -np.inf
            best = self._best_rows(cosine, top)
            query = 'SELECT identity, source FROM faces WHERE row = ?'
            return [
                Match(identity, float(np.clip(cosine[row], -1, 1)), source)
                for row in best
                for identity, source in self._database.execute(query, (int(row),))
            ]

    def crop(self, identity: str) -> Optional[bytes]:
        """The encoded picture of an identity's first face, None if there is none."""
        with self._access():
            query = 'SELECT crop FROM faces WHERE identity = ? ORDER BY row LIMIT 1'
            found = self._database.execute(query, (identity,)).fetchone()
        crop = found[0] if found else None
        return self._codec.open(crop) if self._codec and crop else crop

    def has_crop(self, identity: str, crop: bytes) -> bool:
        """Whether an identity has a face whose encoded picture is this one, byte for byte."""
        with self._access():
            query = 'SELECT crop FROM faces WHERE identity = ? AND crop IS NOT NULL'
            found = self._database.execute(query, (identity,)).fetchall()
        opened = (self._codec.open(kept) if self._codec else kept for (kept,) in found)
        return crop in opened

    def _best_rows(self, cosine: np.ndarray, top: int) -> list[int]:
        """Rows of the best face of each of the `top` best identities, best first."""
        known = int(np.count_nonzero(self._codes >= 0))
        count = min(known, max(4 * top, 32))
        while count:
            rows = np.argpartition(-cosine, count - 1)[:count]
            rows = rows[np.argsort(-cosine[rows], kind='stable')]
            _, first = np.unique(self._codes[rows], return_index=True)
            if len(first) >= top or count == known:
                return [int(row) for row in rows[np.sort(first)[:top]]]
            count = min(known, 4 * count)
        return []

    def _open(self, size: Optional[int], fingerprint: Optional[str], codec: str) -> None:
        with self._access():
            self._database.execute('PRAGMA trusted_schema = OFF')
            self._database.execute('PRAGMA secure_delete = ON')
            self._database.execute('PRAGMA synchronous = FULL')
            self._prepare(size, fingerprint, codec)
            self._matrix_file = os.open(self.folder / MATRIX, os.O_RDWR | os.O_CREAT, 0o666)
            self._refresh()
        self._tidy()

    def _prepare(self, size: Optional[int], fingerprint: Optional[str], codec: str) -> None:
        """Make the tables of a new gallery, check those of an old one; size and codec are known
        afterwards."""
        wanted = {'format': FORMAT, 'size': str(size), 'model': fingerprint}
        if not self._has_tables():
            if fingerprint is None:
                raise InputError(f'{self.folder / DATABASE} is no gallery: it has no tables')
            sealed = {}
            if codec:
                sealed = {'codec': codec, 'sample': CODECS.get(codec)().seal(_SAMPLE).hex()}
            with self._transaction():
                if not self._has_tables():  # another process may have been faster
                    for statement in _TABLES.split(';'):
                        self._database.execute(statement)
                    rows = {**wanted, **sealed}.items()
                    self._database.executemany('INSERT INTO meta VALUES (?, ?)', rows)
        if self._schema(self._database) != self._expected_schema():
            # a trigger of a stranger would make of a removal what he likes
            raise InputError(
                f'{self.folder / DATABASE} is no gallery: it has other tables than ours'
            )
        meta = dict(self._database.execute('SELECT key, value FROM meta LIMIT 9'))
        if fingerprint is not None and any(meta.get(key) != wanted[key] for key in wanted):
            raise InputError(
                f'gallery {self.folder} was made with another model (embeddings of '
                f'{meta.get("size")} numbers, fingerprint {meta.get("model", "")[:12]}; this one: '
                f'{size}, {fingerprint[:12]}); take that model or another gallery'
            )
        size_text = str(meta.get('size'))
        if meta.get('format') != FORMAT or not re.fullmatch(r'[1-9][0-9]{0,4}', size_text):
            raise InputError(f'{self.folder / DATABASE} is no gallery of this version')
        self._size = int(size_text)
        self._codec = self._known_codec(meta, codec)
        self._width = len(self._sealed(bytes(4 * self._size)))  # bytes of a row

    def _known_codec(self, meta: dict[str, str], wanted: str) -> Optional[Codec]:
        """The codec that a gallery was made with; InputError for another, or another key."""
        name = meta.get('codec', '')
        if wanted and wanted != name:
            made = f'with codec {name!r}' if name else 'without a codec'
            raise InputError(
                f'gallery {self.folder} was made {made}, not with {wanted!r}; enrol in a new one'
            )
        if not name:
            return None
        codec = CODECS.get(name)()
        try:
            sample = bytes.fromhex(meta.get('sample', ''))
        except (TypeError, ValueError):
            raise InputError(f'{self.folder / DATABASE} is damaged: its sample is none') from None
        codec.open(sample)
        return codec

    def _sealed(self, content: bytes) -> bytes:
        return self._codec.seal(content) if self._codec else content

    def _sealed_rows(self, rows: np.ndarray) -> np.ndarray:
        """float32 (N, D) as they lie on the disk, uint8 (N, width)."""
        sealed = b''.join(self._sealed(row.tobytes()) for row in rows)
        return np.frombuffer(sealed, np.uint8).reshape(len(rows), self._width)

    @staticmethod
    def _schema(database: sqlite3.Connection) -> list[tuple]:
        query = 'SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name LIMIT 99'
        return database.execute(query).fetchall()

    @classmethod
    def _expected_schema(cls) -> list[tuple]:
        with contextlib.closing(sqlite3.connect(':memory:')) as database:
            for statement in _TABLES.split(';'):
                database.execute(statement)
            return cls._schema(database)

    def _has_tables(self) -> bool:
        query = "SELECT count(*) FROM sqlite_master WHERE name IN ('meta', 'faces')"
        return self._database.execute(query).fetchone()[0] == 2

    @contextlib.contextmanager
    def _access(self) -> Iterator[None]:
        """The database for one thread at a time, and its errors as ours."""
        path = self.folder / DATABASE
        with self._lock:
            try:
                yield
            except sqlite3.OperationalError as error:
                if 'locked' in str(error):  # the error's code is new in Python 3.11
                    raise GalleryBusy(f'another process is writing to {path}; try again') from None
                raise RunError(f'{path}: {error}') from None
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:  # others are our fault
                    raise
                raise InputError(f'{path} is no gallery: {error}') from None
            except UnicodeDecodeError as error:  # of a text in it, or of SQLite's message
                raise InputError(f'{path} is damaged: {error}') from None
            except OSError as error:
                raise RunError(f'{self.folder / MATRIX}: {error.strerror}') from None

    @contextlib.contextmanager
    def _transaction(self, kind: str = 'IMMEDIATE') -> Iterator[None]:
        self._database.execute(f'BEGIN {kind}')
        try:
            yield
            self._database.execute('COMMIT')
        except BaseException:
            if self._database.in_transaction:  # a full disk has ended it already
                self._database.execute('ROLLBACK')
            raise

    @contextlib.contextmanager
    def _change(self) -> Iterator[None]:
        """A change of the gallery: no other thread or process makes one meanwhile."""
        with self._access(), self._transaction():
            # what others changed; sees the database as it is inside the transaction
            self._refresh()
            yield
        self._version = None

    def _refresh(self) -> None:
        """Map the matrix and number the identities anew if anything has changed."""
        version = self._database.execute('PRAGMA data_version').fetchone()[0]
        if version == self._version:
            return
        rows = self._database.execute('SELECT row, identity FROM faces').fetchall()
        # all rows of the file count, so that those of removed faces are seen wherever they are
        capacity = os.fstat(self._matrix_file).st_size // self._width
        if not all(row >= 0 and isinstance(identity, str) for row, identity in rows):
            raise InputError(f'{self.folder / DATABASE} is damaged: a face has no row or no name')
        last = max((row for row, _ in rows), default=-1)
        if last >= capacity:
            raise InputError(
                f'{self.folder / MATRIX} is cut off: it holds {capacity} rows and the gallery '
                f'needs {last + 1}; copy the gallery again'
            )
        names: dict[str, int] = {}
        self._codes = np.full(capacity, -1, np.int64)
        for row, identity in rows:
            self._codes[row] = names.setdefault(identity, len(names))
        self._raw = self._map(capacity)
        if self._codec:
            self._matrix = np.zeros((capacity, self._size), np.float32)
            for row, _ in rows:
                content = self._codec.open(self._raw[row].tobytes())
                self._matrix[row] = np.frombuffer(content, np.float32)
        else:
            self._matrix = self._raw.view(np.float32)
        self._version = version

    def _map(self, rows: int) -> np.ndarray:
        """The matrix file, uint8 (rows, width)."""
        if not rows:
            return np.empty((0, self._width), np.uint8)
        return np.memmap(self.folder / MATRIX, np.uint8, 'r+', shape=(rows, self._width))

    def _unused(self, count: int) -> np.ndarray:
        """Rows that no face has, the first ones."""
        free = np.flatnonzero(self._codes < 0)[:count]
        end = len(self._codes)
        return np.concatenate([free, np.arange(end, end + count - len(free))])

    def _write_rows(self, places: np.ndarray, rows: np.ndarray) -> None:
        """Put rows, uint8 (N, width), into the matrix file and on the disk."""
        if not len(places):
            return
        width = self._width
        needed = width * (int(places.max()) + 1)
        if os.fstat(self._matrix_file).st_size < needed:
            os.ftruncate(self._matrix_file, needed + width * _GROWTH)
        # neighbours go in one write
        for run in np.split(np.arange(len(places)), np.flatnonzero(np.diff(places) != 1) + 1):
            _write_all(self._matrix_file, rows[run].tobytes(), width * int(places[run[0]]))
        os.fsync(self._matrix_file)

    def _tidy(self) -> None:
        """Overwrite rows of removed faces, also those that a crash has left.

        While another process writes, they stay until the next removal or opening: nobody waits for
        this.
        """
        with contextlib.suppress(GalleryBusy), self._access():
            self._database.execute('PRAGMA busy_timeout = 0')
            try:
                self._refresh()
                stale = np.flatnonzero(self._codes < 0)
                if len(stale) and self._raw[stale].any():
                    # an enrolment by another process may take these rows, or have filled them
                    with self._transaction():
                        self._version = None
                        self._refresh()
                        stale = np.flatnonzero(self._codes < 0)
                        self._write_rows(stale, np.zeros((len(stale), self._width), np.uint8))
            finally:
                self._database.execute(f'PRAGMA busy_timeout = {1000 * _LOCK_SECONDS:.0f}')

    def _checked_rows(self, embeddings: np.ndarray, count: int) -> np.ndarray:
        rows = np.ascontiguousarray(embeddings, np.float32)
        if rows.shape != (count, self._size):
            raise InputError(f'embeddings {rows.shape}: expected {(count, self._size)}')
        lengths = np.linalg.norm(rows, axis=1)
        if not np.all(np.abs(lengths - 1) < _UNIT_TOLERANCE):
            raise InputError('embeddings are not of unit length; divide each row by its L2 norm')
        return rows


class Inspection(NamedTuple):
    """What `inspect_gallery` found."""

    faces: int
    identities: int
    sealed: bool  # by a codec: rows were not looked at
    problems: list[str]


def inspect_gallery(folder: PathLike) -> Inspection:
    """Look a gallery through without changing it, unlike `Gallery`, which tidies up.

    Raises InputError for a database that is damaged, has other tables, or is none.
    """
    check_exists(folder)
    path = Path(folder) / DATABASE
    try:
        with contextlib.closing(
            sqlite3.connect(f'{path.absolute().as_uri()}?mode=ro', uri=True)
        ) as database:
            database.execute('PRAGMA trusted_schema = OFF')
            if Gallery._schema(database) != Gallery._expected_schema():
                raise InputError(f'{path} is no gallery: it has other tables than ours')
            state = [text for (text,) in database.execute('PRAGMA integrity_check(20)')]
            meta = dict(database.execute('SELECT key, value FROM meta LIMIT 9'))
            faces = database.execute('SELECT row, identity FROM faces').fetchall()
    except (sqlite3.Error, UnicodeDecodeError) as error:
        raise InputError(f'{path} is damaged: {error}') from None
    problems = [] if state == ['ok'] else [f'{path}: {text}' for text in state]
    sealed = 'codec' in meta
    if not re.fullmatch(r'[1-9][0-9]{0,4}', str(meta.get('size'))):
        problems.append(f'{path} is no gallery of this version')
    elif not all(type(row) is int and row >= 0 and isinstance(name, str) for row, name in faces):
        problems.append(f'{path}: a face has no row or no name')
    elif faces and not sealed:
        problems += _damaged_rows(Path(folder) / MATRIX, int(meta['size']), faces)
    return Inspection(len(faces), len({name for _, name in faces}), sealed, problems)


def _damaged_rows(path: Path, size: int, faces: Sequence[tuple[int, str]]) -> list[str]:
    """What is wrong with the rows of the matrix that faces have."""
    width = 4 * size
    capacity = path.stat().st_size // width if path.is_file() else 0
    needed = max(row for row, _ in faces) + 1
    if needed > capacity:
        return [f'{path} is cut off: it holds {capacity} rows and the gallery needs {needed}']
    matrix = np.memmap(path, np.float32, 'r', shape=(capacity, size))
    lengths = np.linalg.norm(matrix[[row for row, _ in faces]], axis=1)
    bad = np.flatnonzero(~(np.abs(lengths - 1) < _UNIT_TOLERANCE))  # NaN as well
    return [
        f'{path}: row {faces[index][0]}, of {faces[index][1]}, is of no unit length'
        for index in bad
    ]


def check_exists(folder: PathLike) -> None:
    """Raise InputError unless a folder holds a gallery."""
    if not (Path(folder) / DATABASE).is_file():
        raise InputError(f'{folder} holds no gallery; `vargfacenet gallery enrol` makes one')


def checked_name(name: str) -> str:
    """A name without the blanks around it; InputError for one that no identity can have."""
    name = name.strip()
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InputError(
            f'identity {name[:40]!r}: expected a name of 1 to {MAX_NAME} printable characters'
        )
    return name


def _write_all(handle: int, content: bytes, offset: int) -> None:
    """os.pwrite writes at most 2 GiB at once."""
    view = memoryview(content)
    while view:
        written = os.pwrite(handle, view, offset)
        view, offset = view[written:], offset + written
