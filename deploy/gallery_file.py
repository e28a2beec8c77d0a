"""A gallery's files: who may read them, its database's tables, and how far it is trusted.

A file of a stranger may hold triggers, views, and trees of pages that never end. So the tables are
compared with ours before any is read, functions in a schema are off, texts have a highest length,
and SQLite stops after more work than a database of that size can need.
"""

import contextlib
import logging
import os
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..common.errors import InputError
from ..common.files import PathLike, output_folder, real_path
from .decision_log import HEAD, LOG
from .gallery_matrix import is_matrix

log = logging.getLogger(__name__)

DATABASE = 'gallery.sqlite'
FORMAT = '3'
WITHOUT_CHECKSUMS = '2'  # the format before
MAX_CROP = 1 << 20  # bytes of an encoded crop
SLACK = 1 << 10  # bytes by which a seal makes it longer, at most
META = 'CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);'
CHECKSUMS = 'CREATE TABLE checksums (row INTEGER PRIMARY KEY, crc32 INTEGER NOT NULL);'
RECORDS = """
CREATE TABLE people (person INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE faces (
    row INTEGER PRIMARY KEY, person INTEGER NOT NULL, record BLOB NOT NULL, crop BLOB
);
CREATE INDEX faces_by_person ON faces (person);
"""
TABLES = RECORDS + CHECKSUMS
OLD_TABLES = """
CREATE TABLE faces (
    row INTEGER PRIMARY KEY, identity TEXT NOT NULL, source TEXT NOT NULL,
    enrolled TEXT NOT NULL, crop BLOB
);
CREATE INDEX faces_by_identity ON faces (identity);
"""
_STEP = 10_000  # SQLite's instructions between two looks at the sum
_ALLOWED = 20_000_000  # instructions of one access, half a second; and so many for each byte:
_ALLOWED_PER_BYTE = 8
_LONGEST = 504  # bytes of its path: SQLite takes 512, with the name that it gives a journal
_OF_A_VOLUME = 'lost+found'  # made with the file system, in a folder that is one of its own
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def is_gallery_file(name: str) -> bool:
    """Whether a file's name is one that a gallery gives."""
    journals = (f'{DATABASE}-{kind}' for kind in ('wal', 'shm', 'journal'))
    return name in (DATABASE, LOG, HEAD, *journals) or is_matrix(name)


def holds_gallery(folder: PathLike) -> bool:
    """Whether there is a gallery in a folder; False for what can be no folder's name."""
    return os.path.isfile(Path(folder) / DATABASE)


def private_folder(path: PathLike) -> Path:
    """A gallery's folder, made if needed, that its owner alone can read, and so its files.

    A folder that is there and holds other things keeps its mode, which a warning says. Raises
    InputError for one that cannot be written or whose path is too long, for one that holds other
    things and no gallery, such as a data set, and for links in place of the gallery's files.
    """
    path = Path(path)
    _check_length(path)
    existed = os.path.isdir(path)  # Path's own fails for a name that is too long
    folder = output_folder(path)
    if not existed:
        folder.chmod(0o700)
        return folder
    refuse_links(folder)
    opened = [path for path in folder.iterdir() if is_gallery_file(path.name) and _shut(path)]
    others = sorted(path.name for path in folder.iterdir() if not is_gallery_file(path.name))
    seen = [name for name in others if not name.startswith('.') and name != _OF_A_VOLUME]
    if seen and not holds_gallery(folder):
        raise InputError(
            f'{folder} holds other files ({seen[0]}) and no gallery; name a new or empty folder'
        )
    if folder.stat().st_mode & _OTHERS:
        if others:
            log.warning(
                "%s holds other files (%s), so others keep their access to it; the gallery's files "
                'are for their owner alone',
                folder,
                others[0],
            )
        elif _shut(folder, 0o700):
            opened.append(folder)
    if opened:
        log.info('%s: others could read it; now its owner alone can', folder)
    return folder


def _check_length(folder: Path) -> None:
    """InputError for a folder in which SQLite cannot open the database."""
    length = max(
        len(os.fsencode(place / DATABASE)) for place in (folder.absolute(), real_path(folder))
    )
    if length > _LONGEST:
        room = len(f'/{DATABASE}')
        raise InputError(
            f"{folder}: its path has {length - room} bytes, and that of a gallery's folder may "
            f'have {_LONGEST - room}; choose another folder'
        )


def refuse_links(folder: Path) -> None:
    """InputError where one of the gallery's files is none: rows and logs are written, and what a
    change of the key leaves is overwritten, which would hit whatever a stranger's link names."""
    for path in folder.iterdir():
        if is_gallery_file(path.name):
            with contextlib.suppress(FileNotFoundError):  # a journal, by now
                if not stat.S_ISREG(path.lstat().st_mode):
                    raise InputError(
                        f"{path} is a link or no file; a gallery's files lie in its own folder"
                    )


def _shut(path: Path, mode: int = 0o600) -> bool:
    """Take a file from others; False where they have no access, or where it is not ours."""
    try:
        if not path.stat().st_mode & _OTHERS:
            return False
        path.chmod(mode)
    except FileNotFoundError:  # a journal, by now
        return False
    except PermissionError:
        log.warning('%s can be read by others, and only its owner can change that', path)
        return False
    return True


def make_private(path: Path) -> None:
    """Make an empty file that only its owner can read, unless there is one.

    It is never open under its name: closing it would take SQLite's locks from this process.
    """
    if path.exists():
        return
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix='.gallery.')
    os.close(handle)
    try:
        with contextlib.suppress(FileExistsError):  # another process was faster
            os.link(temporary, path)
    except OSError:  # a file system without links
        with contextlib.suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    finally:
        os.unlink(temporary)


class Database:
    """An SQLite database that is not trusted.

    Parameters
    ----------
    path : of its file
    seconds : to wait for another process that writes
    read_only : for looking only

    Raises sqlite3.OperationalError for a file that cannot be opened.
    """

    def __init__(self, path: Path, seconds: float, read_only: bool = False):
        self.path = path
        uri = f'{path.absolute().as_uri()}?mode={"ro" if read_only else "rw"}'
        self.connection = sqlite3.connect(
            uri,
            uri=True,
            timeout=seconds,
            isolation_level=None,  # transactions are begun by the gallery alone
            check_same_thread=False,
        )
        self._done = self._allowed = 0
        self.allow(0)
        self.connection.set_progress_handler(self._is_too_much, _STEP)
        self.connection.execute('PRAGMA trusted_schema = OFF')
        self.connection.execute('PRAGMA cell_size_check = ON')
        self.connection.execute('PRAGMA temp_store = MEMORY')  # nothing of faces in /tmp

    def allow(self, more: int) -> None:
        """Begin an access that may take as much work as the file's size allows, and `more`."""
        try:
            size = self.path.stat().st_size
        except OSError:
            size = 0
        self._done, self._allowed = 0, _ALLOWED + _ALLOWED_PER_BYTE * size + more

    def _is_too_much(self) -> bool:
        self._done += _STEP
        return self._done > self._allowed

    @property
    def was_too_much(self) -> bool:
        """Whether the last access was stopped."""
        return self._done > self._allowed

    def execute(self, statement: str, values: tuple = ()) -> sqlite3.Cursor:
        return self.connection.execute(statement, values)

    def scan(self, query: str, values: tuple = ()) -> Iterator[tuple]:
        """Rows of a query in the order of their first column, which is a key.

        Raises InputError for keys that do not rise, as where a tree of pages runs in a circle, and
        for more content than the file holds.
        """
        last, total = None, 0
        limit = 2 * self.path.stat().st_size + MAX_CROP
        for row in self.connection.execute(query, values):
            total += sum(len(value) for value in row if isinstance(value, (bytes, str)))
            if not isinstance(row[0], int) or (last is not None and row[0] <= last):
                raise InputError(f'{self.path} is damaged: its rows are not in order')
            if total > limit:
                raise InputError(f'{self.path} is damaged: its rows overlap')
            last = row[0]
            yield row

    def layout(self) -> list[tuple]:
        """What is in the database: tables, indices, views, triggers, as their texts say."""
        query = (
            'SELECT type, name, tbl_name, CASE WHEN length(sql) < 1000 THEN sql END '
            'FROM sqlite_master LIMIT 20'
        )
        return sorted(self.connection.execute(query).fetchall(), key=repr)

    def format(self) -> str:
        """'' for an empty database, else '1' to '3'; InputError for other tables than ours."""
        found = self.layout()
        known = {
            '': '',
            '1': META + OLD_TABLES,
            WITHOUT_CHECKSUMS: META + RECORDS,
            FORMAT: META + TABLES,
        }
        for name, tables in known.items():
            if found == _layout_of(tables):
                return name
        # a trigger of a stranger would make of a removal what he likes
        raise InputError(f'{self.path} is no gallery: it has other tables than ours')

    def meta(self) -> dict[str, Any]:
        """What the gallery says of itself."""
        query = 'SELECT key, value FROM meta WHERE length(value) < 1000 LIMIT 20'
        return dict(self.connection.execute(query))

    def create(self, tables: str) -> None:
        for statement in tables.split(';'):
            self.connection.execute(statement)

    def close(self) -> None:
        self.connection.close()


def short(column: str, limit: int) -> str:
    """SQL for a column that is NULL where it is too long: then it is not read at all."""
    return f'CASE WHEN length({column}) <= {limit} THEN {column} END'


def _layout_of(tables: str) -> list[tuple]:
    with contextlib.closing(sqlite3.connect(':memory:')) as database:
        for statement in tables.split(';'):
            database.execute(statement)
        query = 'SELECT type, name, tbl_name, sql FROM sqlite_master'
        return sorted(database.execute(query).fetchall(), key=repr)
