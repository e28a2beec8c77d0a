"""A gallery of known faces on disk: enrol, identify, remove.

Two files in a folder: `gallery.sqlite` knows who has which rows, `embeddings.f32` holds the rows, a
plain float32 matrix that is searched where it lies (memory-mapped; of many faces some bytes of each
come first, see `gallery_search`). A row counts only once the database names it, and it is on disk
before the database does, so a crash at any moment leaves the gallery as it was before or after the
change. What is removed is overwritten. Both are for their owner alone, and `decisions.jsonl` beside
them tells what was done. A row that is not what was enrolled, as its checksum tells, is named and
matches nobody; so is somebody whose record is not.

With a key, or a plugin's codec, rows, pictures, names and all else that is known of people are
sealed; the rows are then opened into memory.
"""

import contextlib
import logging
import sqlite3
import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ..common.errors import InputError, RunError
from ..common.files import PathLike, error_of_disk
from . import decision_log, gallery_tables
from .gallery_file import (
    DATABASE,
    FORMAT,
    MAX_CROP,
    WITHOUT_CHECKSUMS,
    Database,
    holds_gallery,
    make_private,
    private_folder,
)
from .gallery_matrix import (
    MATRIX,
    MatrixFile,
    matrix_name,
    private_rows,
    rows_of,
    wipe,
    write_matrix,
)
from .gallery_records import (
    UNKNOWN,
    FaceRecord,
    Person,
    Terms,
    check_not_over,
    checked_name,
    checked_terms,
    decode_face,
    now,
    number_text,
    picture_digest,
    plain_text,
)
from .gallery_search import Rows
from .sealing import CODECS as CODECS  # plugins take it from here
from .sealing import CROP, FACE, ROW, Codec, Key, Seal, check_lock

log = logging.getLogger(__name__)

_LOCK_SECONDS = 10.0  # to wait for another process that writes
_WORK_PER_FACE = 1000  # instructions of SQLite, at most
_NAMED = 5  # people whose rows are damaged
_PEOPLE_A_LINE = 1000  # of the log, whose lines have a highest length
EMBEDDING, RECORD, PICTURE = 'embedding', 'record', 'picture'  # of a face


class UnknownIdentity(InputError):
    """Nobody of that name is in the gallery."""


class GalleryDamaged(InputError):
    """What lies in a gallery's files is not what was written there."""


class GalleryBusy(RunError):
    """Another process has kept the gallery for itself for too long; nothing was changed."""


class Match(NamedTuple):
    """An identity and its best face's cosine to the probe, -1..1."""

    identity: str
    cosine: float
    source: str  # where that face came from
    person: str  # the number by which logs know the identity


class KeptFace(NamedTuple):
    """All that a gallery keeps of a face."""

    embedding: Optional[np.ndarray]  # float32 (D,); None where it is damaged
    record: FaceRecord
    crop: Optional[bytes]
    damaged: tuple[str, ...]  # of EMBEDDING, RECORD, PICTURE: what is left out


class Gallery:
    """Known faces on disk; usable from several threads, and by several processes at once.

    Parameters
    ----------
    folder : made if it does not exist
    embedding_size : D
    fingerprint : of the model (FaceEmbedder.fingerprint); a gallery belongs to one model.
        Without these two the gallery must exist, and its model is not asked for.
    codec : name in CODECS for a new gallery, '' for none; an old one remembers its own
    key : seals a new gallery, and opens one that was made with it
    wait : seconds for another process that writes, by default ten; opening takes its ten

    Raises
    ------
    InputError for a folder that cannot be written or whose path is too long, a gallery of another
    model, codec or key, a damaged one, and one that does not exist when no model is given. This and
    every method may raise GalleryBusy, after `wait`, and RunError for a disk that is full or fails,
    and where another process has changed the key; reading waits for changes in this object and for
    the moment in which another process completes one.
    """

    def __init__(
        self,
        folder: PathLike,
        embedding_size: Optional[int] = None,
        fingerprint: Optional[str] = None,
        codec: str = '',
        key: Optional[Key] = None,
        wait: Optional[float] = None,
    ):
        if fingerprint is None:
            check_exists(folder)
        check_lock(key, codec)  # before there is a file
        self.folder = private_folder(folder)
        self._lock = threading.RLock()
        self._wait = _LOCK_SECONDS if wait is None else wait
        self._file: Optional[MatrixFile] = None
        self._version: Optional[tuple] = None
        path = self.folder / DATABASE
        try:
            make_private(path)
            self._database = Database(path, _LOCK_SECONDS)
        except (sqlite3.Error, OSError) as error:
            raise InputError(f'{path} is no gallery: {error}') from None
        with contextlib.ExitStack() as on_error:
            on_error.callback(self.close)
            self._open(embedding_size, fingerprint, codec, key)
            on_error.pop_all()

    def close(self) -> None:
        """Close the files; the object is of no use afterwards."""
        self._database.close()
        if self._file is not None:
            self._file.close()

    def __len__(self) -> int:
        """Number of faces."""
        with self._state():
            return int(np.count_nonzero(self._codes >= 0))

    def identities(self) -> dict[str, int]:
        """Name -> number of faces, sorted by name."""
        with self._state():
            counts = Counter(self._codes[self._codes >= 0].tolist())
            names = {self._people[self._order[code]].name: n for code, n in counts.items()}
        return dict(sorted(names.items()))

    @property
    def log_path(self) -> Path:
        """Where what is decided and changed is logged (`decision_log`)."""
        return self.folder / decision_log.LOG

    @property
    def is_sealed(self) -> bool:
        """Whether a key or a codec is needed to read it."""
        return not self._seal.is_open

    def enrol(
        self,
        identities: Sequence[str],
        embeddings: np.ndarray,
        sources: Optional[Sequence[str]] = None,
        crops: Optional[Sequence[Optional[bytes]]] = None,
        digests: Optional[Sequence[str]] = None,
        terms: Terms = UNKNOWN,
        today: Optional[date] = None,
    ) -> None:
        """Add faces; all of them or, on any error, none.

        Parameters
        ----------
        identities : N names, one for each face
        embeddings : (N, D) float, rows of unit length
        sources : N texts, such as file names; what is no Unicode in them becomes '?'
        crops : N encoded pictures to show, kept in the database; without them none is
        digests : N of `picture_digest`, by which a picture is known again; those of `crops` follow
        terms : by what right the faces are kept; fields that say nothing leave what is known
        today : the day on which they are enrolled

        Raises
        ------
        InputError for names that are empty or too long, rows of another length than 1, crops of
        more than a megabyte, people whose last day, as given or as known, is over, and what is
        given for fewer or more faces than there are.
        """
        names = [checked_name(name) for name in identities]
        rows = self._checked_rows(embeddings, len(names))
        _check_counts(len(names), sources=sources, crops=crops, digests=digests)
        terms, today = checked_terms(*terms), today or date.today()
        crops = [crop or None for crop in crops or [None] * len(names)]
        if any(crop and len(crop) > MAX_CROP for crop in crops):
            raise InputError(f'a crop has more than {MAX_CROP} bytes; encode it as JPEG')
        digests = digests or [crop and picture_digest(crop) for crop in crops]
        faces = [
            FaceRecord(plain_text(source), now(), digest or '')
            for source, digest in zip(sources or [''] * len(names), digests)
        ]
        try:
            with self._change('enrol', len(names)) as noted:
                numbers = {
                    name: self._written_person(name, terms, today) for name in dict.fromkeys(names)
                }
                people = [numbers[name] for name in names]
                places = self._unused(len(names)).tolist()
                sealed = self._sealed_rows(rows, places, people)
                self._file.write(np.asarray(places, np.int64), sealed)
                if not self.is_sealed:
                    gallery_tables.put_checksums(self._database, places, sealed)
                for place, person, face, crop in zip(places, people, faces, crops):
                    gallery_tables.put_face(self._database, self._seal, place, person, face, crop)
                noted.update(people=list(numbers.values()), faces=len(names))
        finally:
            # rows of an enrolment that failed, and what a removal could not overwrite; what is
            # wrong with that changes nothing of what became of this one, and comes again
            with contextlib.suppress(InputError, RunError):
                self._tidy()

    def check_enrol(self, identity: str, terms: Terms = UNKNOWN) -> None:
        """InputError for a person whom `enrol` would refuse whatever the faces are: one whose last
        day is over, or whose record is damaged."""
        with self._state():
            self._terms_after(checked_name(identity), checked_terms(*terms), date.today())

    def remove(self, identity: str) -> int:
        """Forget all faces of an identity; returns how many. UnknownIdentity if there are none."""
        identity = checked_name(identity)
        with self._change('remove') as noted:
            person = self._number(identity)
            places = self._places(person)
            self._forget(person)
            noted.update(people=[person], faces=len(places))
        self._tidy()
        return len(places)

    def expired(self, today: Optional[date] = None) -> list[str]:
        """Names of the people whose time is over; `identify` does not know them any more."""
        today = today or date.today()
        with self._state():
            return sorted(p.name for p in self._people.values() if p.has_expired(today))

    def expire(self, today: Optional[date] = None) -> list[str]:
        """Forget the people whose time is over, and return their names."""
        today = today or date.today()
        with self._change('expire') as noted:
            over = {n: p.name for n, p in self._people.items() if p.has_expired(today)}
            for person in over:
                self._forget(person)
            if over:
                noted.update(people=list(over))
        self._tidy()
        return sorted(over.values())

    def person(self, identity: str) -> tuple[str, Person, list[KeptFace]]:
        """(number in logs, what is known, faces) of an identity: all that is kept of it.

        What is damaged of a face is left out, which a warning says.
        """
        with self._state():
            person = self._number(checked_name(identity))
            found = [
                self._kept_face(row, person, record, crop)
                for row, record, crop in self._faces_of(person)
            ]
            return number_text(person), self._people[person], found

    def identify(self, embedding: np.ndarray, top: int = 5) -> list[Match]:
        """The identities most like a face, best first.

        Parameters
        ----------
        embedding : (D,) float of unit length
        top : how many at most

        Returns
        -------
        list of Match, one for each identity; empty for an empty gallery. People whose time is over
        are not among them.
        """
        probe = self._checked_rows(np.asarray(embedding)[None], 1)[0]
        with self._state():
            return [self._match(row, cosine) for row, cosine in self._rows.best(probe, top)]

    def crop(self, identity: str) -> Optional[bytes]:
        """The encoded picture of an identity's first face, None if there is none, or if it is
        damaged, which a warning says."""
        with self._state():
            person = self._ids.get(identity)
            kept = self._faces_of(person) if person else ()
            for row, record, crop in kept:
                return self._kept_face(row, person, record, crop).crop
        return None

    def has_picture(self, identity: str, digest: str) -> bool:
        """Whether an identity has a face of the picture with this `picture_digest`."""
        with self._state():
            person = self._ids.get(identity)
            kept = self._faces_of(person) if person else ()
            faces = (self._face_record(row, person, record) for row, record, _ in kept)
            return any(face is not None and face.picture == digest for face in faces)

    def note(self, what: str, people: Iterable[Any] = (), **fields: Any) -> None:
        """Add a line to the gallery's log, people by their numbers; of more than a thousand of them
        several lines, each with its `part`. RunError if it cannot be."""
        numbers = [number_text(person) if isinstance(person, int) else person for person in people]
        starts = range(0, max(len(numbers), 1), _PEOPLE_A_LINE)
        for part, start in enumerate(starts, 1):
            which = {'part': f'{part} of {len(starts)}'} if len(starts) > 1 else {}
            some = numbers[start : start + _PEOPLE_A_LINE]
            decision_log.append(self.log_path, what, people=some, **which, **fields)

    def rekey(self, key: Optional[Key] = None, codec: str = '') -> None:
        """Seal everything anew, by another key or the same, and destroy what there was.

        An open gallery is sealed by this. A kill at any moment leaves the old state or the new one.
        Other processes that have the gallery open must open it again.
        """
        lock = gallery_tables.new_lock(key, codec)
        with self._change('rekey') as noted:
            faces = np.flatnonzero(self._codes >= 0)
            if self._damaged or self._unreadable:
                people = {self._person_of(row) for row in self._damaged} | self._unreadable
                raise InputError(
                    f'gallery {self.folder}: rows or records of {self._names_of(people)} are '
                    f'damaged, and sealed they would seem whole; remove these people and enrol '
                    f'them anew'
                )
            self._database.allow(_WORK_PER_FACE * (len(faces) + len(self._people)))
            generation = gallery_tables.generation_of(self._meta) + 1
            self._write_matrix(generation, lock.seal)
            gallery_tables.seal_anew(self._database, self._seal, lock, generation)
            if lock.seal.is_open:
                rows = (self._matrix[row] for row in faces)
                gallery_tables.put_checksums(self._database, faces.tolist(), rows)
            meta = gallery_tables.checked_meta(self._database)
            noted.update(people=())
        with self._access():
            self._use(lock.seal, meta)
        self._tidy()

    def _match(self, row: int, cosine: float) -> Match:
        person = self._person_of(row)
        query = f'SELECT {gallery_tables.RECORD_COLUMN} FROM faces WHERE row = ?'
        (record,) = self._database.execute(query, (row,)).fetchone()
        face = self._face_record(row, person, record) or FaceRecord()
        cosine = float(np.clip(cosine, -1, 1))
        return Match(self._people[person].name, cosine, face.source, number_text(person))

    def _face_record(self, row: int, person: int, record: Optional[bytes]) -> Optional[FaceRecord]:
        """A face's record; None where it is damaged, which a warning says."""
        try:
            return decode_face(record and self._seal.open(record, FACE, row, person))
        except InputError:
            self._warn_of_face(RECORD, row, person)
            return None

    def _kept_face(self, row: int, person: int, record, crop) -> KeptFace:
        face = self._face_record(row, person, record)
        picture = self._picture(row, person, face, crop) if crop else None
        is_whole = row not in self._damaged
        state = ((EMBEDDING, is_whole), (RECORD, face), (PICTURE, picture or not crop))
        return KeptFace(
            np.array(self._matrix[row]) if is_whole else None,
            face or FaceRecord(),
            picture,
            tuple(what for what, there in state if not there),
        )

    def _picture(
        self, row: int, person: int, face: Optional[FaceRecord], crop: bytes
    ) -> Optional[bytes]:
        """A face's picture; None where it is not the one that was enrolled, or where nothing tells,
        which a warning says."""
        try:
            picture = self._seal.open(crop, CROP, row, person)
        except InputError:
            picture = b''
        if picture and (face.is_of(picture) if face else self.is_sealed):
            return picture
        self._warn_of_face(PICTURE, row, person)
        return None

    def _warn_of_face(self, what: str, row: int, person: int) -> None:
        """Say once what of a face is damaged."""
        if (what, row, person) in self._said:
            return
        self._said.add((what, row, person))
        log.warning(
            '%s: the %s of row %d, of %s, is not what was enrolled and is left out; remove this '
            'person and enrol them anew, or copy the gallery again',
            *(self.folder, what, row, self._people[person].name),
        )

    def _person_of(self, row: int) -> int:
        """The number of the person who has a row."""
        return self._order[self._codes[row]]

    def _faces_of(self, person: int) -> list[tuple[int, bytes, Optional[bytes]]]:
        """(row, record, crop) of a person's faces, the latter two as they lie on the disk."""
        columns = f'row, {gallery_tables.RECORD_COLUMN}, {gallery_tables.CROP_COLUMN}'
        query = f'SELECT {columns} FROM faces WHERE person = ? ORDER BY row'
        return list(self._database.scan(query, (person,)))

    def _number(self, identity: str) -> int:
        if identity not in self._ids:
            raise UnknownIdentity(f'the gallery has no identity {identity!r}')
        return self._ids[identity]

    def _places(self, person: int) -> np.ndarray:
        return np.flatnonzero(self._codes == self._order.index(person))

    def _forget(self, person: int) -> None:
        gallery_tables.forget_person(self._database, person, self._places(person).tolist())

    def _terms_after(self, name: str, terms: Terms, today: date) -> Terms:
        """A person's terms once faces are enrolled under new ones; InputError as `check_enrol`."""
        number = self._ids.get(name)
        if number in self._unreadable:
            raise InputError(
                f'{name} is the number of somebody whose record is damaged; remove {name} first'
            )
        known = self._people[number].terms if number else UNKNOWN
        updated = known.updated(terms)
        check_not_over(updated, today, '' if terms.expires else name)
        return updated

    def _written_person(self, name: str, terms: Terms, today: date) -> int:
        """The number of a person, who is written if new, or if the terms are; InputError as
        `check_enrol`."""
        updated = self._terms_after(name, terms, today)
        number = self._ids.get(name)
        known = self._people[number] if number else Person(name)
        if number is None or updated != known.terms:
            person = Person(name, updated, now() if any(terms) else known.recorded)
            number = gallery_tables.put_person(self._database, self._seal, number, person)
        return number

    def _open(self, size: Optional[int], fingerprint: Optional[str], codec: str, key) -> None:
        with self._access():
            self._database.execute('PRAGMA secure_delete = ON')
            self._database.execute('PRAGMA synchronous = FULL')
            self._prepare(size, fingerprint, codec, key)
            self._refresh()
        self._tidy()

    def _prepare(self, size, fingerprint: Optional[str], codec: str, key: Optional[Key]) -> None:
        """Make the tables of a new gallery, check those of an old one; size and seal are known
        afterwards."""
        database = self._database
        if not database.format():
            if fingerprint is None:
                raise InputError(f'{database.path} is no gallery: it has no tables')
            words = gallery_tables.new_lock(key, codec).words
            with self._transaction():
                if not database.format():  # another process may have been faster
                    gallery_tables.make(database, size, fingerprint, words)
        meta = gallery_tables.checked_meta(database)
        if fingerprint is not None and (meta['size'], meta.get('model')) != (
            str(size),
            fingerprint,
        ):
            raise InputError(
                f'gallery {self.folder} was made with another model (embeddings of '
                f'{meta["size"]} numbers, fingerprint {meta.get("model", "")[:12]}; this one: '
                f'{size}, {fingerprint[:12]}); name that one by --model, or take another gallery'
            )
        self._size = int(meta['size'])
        found = gallery_tables.codec_of(self.folder, meta, codec, key)
        if meta['format'] == FORMAT:
            self._use(Seal(found), meta)
        else:
            self._bring_up_to_date(meta, Seal(found), found)
            self._prepare(size, fingerprint, codec, key)

    def _use(self, seal: Seal, meta: dict[str, Any]) -> None:
        """Take a seal, what the gallery said of itself when it had it, and the files that belong
        to them."""
        self._seal = seal
        self._meta = meta
        if self._file is not None:
            self._file.close()
        generation = gallery_tables.generation_of(meta)
        self._file = MatrixFile(self.folder, generation, self._width_of(seal))
        self._version = None
        self._whole: set[tuple[int, Any]] = set()  # (row, checksum) of rows that had it
        self._damaged: list[int] = []  # rows that have another, or that do not open
        self._unreadable: set[int] = set()  # people whose record is damaged
        self._said: set[tuple[str, int, int]] = set()  # (what, row, person) that was named

    def _width_of(self, seal: Seal) -> int:
        """Bytes of a row of the matrix file."""
        return len(seal.close(bytes(4 * self._size), ROW, 0, 0))

    def _bring_up_to_date(self, meta: dict, seal: Seal, codec: Optional[Codec]) -> None:
        """Write the tables of a gallery of an older format anew; of the first one also the rows if
        they are sealed. Nothing is done where another process was faster, so that it is not what
        `meta` says any more; InputError for a matrix that is cut off, and all stays as it is."""
        database = self._database
        with self._transaction():
            if gallery_tables.checked_meta(database) != meta:
                return
            if meta['format'] != WITHOUT_CHECKSUMS:
                self._migrate(seal, codec)
            path = self.folder / matrix_name(gallery_tables.generation_of(database.meta()))
            rows = rows_of(path, self._width_of(seal))
            # a row that is missing would get no checksum, and match nobody when it is there again
            gallery_tables.check_places(gallery_tables.read_faces(database), path, len(rows))
            gallery_tables.add_checksums(database, rows if seal.is_open else None)
        log.info('%s: its tables have a newer form now; all that it holds is kept', self.folder)

    def _migrate(self, seal: Seal, codec: Optional[Codec]) -> None:
        """From the first format to the second."""
        people = gallery_tables.migrate(self._database, seal, codec)
        if codec:
            path = self.folder / MATRIX
            raw = rows_of(path, len(codec.seal(bytes(4 * self._size))))
            gallery_tables.check_places(people.items(), path, len(raw))
            sealed = (
                (row, seal.close(codec.open(raw[row].tobytes()), ROW, row, person))
                for row, person in people.items()
            )
            write_matrix(self.folder, 1, sealed)
            gallery_tables.set_generation(self._database, 1)

    def _write_matrix(self, generation: int, seal: Seal) -> None:
        """All rows, sealed anew, in a file of their own."""
        rows = np.flatnonzero(self._codes >= 0).tolist()
        sealed = (
            (row, seal.close(self._matrix[row].tobytes(), ROW, row, self._person_of(row)))
            for row in rows
        )
        write_matrix(self.folder, generation, sealed)

    def _sealed_rows(self, rows: np.ndarray, places: list[int], people: list[int]) -> np.ndarray:
        """float32 (N, D) as they lie on the disk, uint8 (N, width)."""
        sealed = b''.join(
            self._seal.close(row.tobytes(), ROW, place, person)
            for row, place, person in zip(rows, places, people)
        )
        return np.frombuffer(sealed, np.uint8).reshape(len(rows), self._file.width)

    @contextlib.contextmanager
    def _access(self, more: int = 0) -> Iterator[None]:
        """The database for one thread at a time, and its errors as ours.

        `more` is work that it may take beyond what its size tells.
        """
        path = self._database.path
        with self._lock:
            self._database.allow(more)
            try:
                yield
            except sqlite3.OperationalError as error:
                if self._database.was_too_much:
                    raise GalleryDamaged(
                        f'{path} is damaged: it takes more work than its size can need'
                    ) from None
                if 'locked' in str(error):  # the error's code is new in Python 3.11
                    raise GalleryBusy(f'another process is writing to {path}; try again') from None
                raise RunError(error_of_disk(path, str(error))) from None
            except sqlite3.DatabaseError as error:
                if type(error) is not sqlite3.DatabaseError:  # others are our fault
                    raise
                raise GalleryDamaged(f'{path} is no gallery: {error}') from None
            except UnicodeDecodeError as error:  # of a text in it, or of SQLite's message
                raise GalleryDamaged(f'{path} is damaged: {error}') from None
            except OSError as error:
                where = error.filename or self.folder / MATRIX
                raise RunError(error_of_disk(where, error.strerror)) from None

    @contextlib.contextmanager
    def _transaction(
        self, kind: str = 'IMMEDIATE', undone: Callable[[], None] = lambda: None
    ) -> Iterator[None]:
        """A transaction; `undone` is called where it has come to no end."""
        self._database.execute(f'BEGIN {kind}')
        try:
            yield
            self._database.execute('COMMIT')
        except BaseException as error:
            is_open = self._database.connection.in_transaction  # a full disk has ended it already
            if is_open:
                self._database.execute('ROLLBACK')
            if is_open or isinstance(error, sqlite3.Error):  # else Ctrl-C came during COMMIT
                undone()
            raise

    @contextlib.contextmanager
    def _change(self, what: str, faces: int = 0) -> Iterator[dict[str, Any]]:
        """A change of the gallery, of so many faces: no other thread or process makes one
        meanwhile.

        What the log is to say of it, as of `note`, goes into the dictionary; without any it says
        nothing. It stands there before the change is made, so that none is made that nobody knows
        of; one that cannot be completed then is followed by a line that it is undone.
        """
        noted: dict[str, Any] = {}
        is_logged = False

        def undone() -> None:
            if is_logged:
                try:
                    self.note(f'{what} undone', **noted)
                except RunError as error:
                    log.warning('%s; the log may tell of a change, %s, that is undone', error, what)

        with self._access(_WORK_PER_FACE * faces):
            try:
                with self._transaction(undone=undone):
                    # what others changed; sees the database as it is inside the transaction
                    self._refresh()
                    yield noted
                    if noted:
                        is_logged = True
                        self.note(what, **noted)
            finally:  # also of one that failed: its rows may have made the file longer
                self._version = None

    @contextlib.contextmanager
    def _state(self) -> Iterator[None]:
        """The gallery as it is now, in memory and in the database, for this thread: who removes a
        face and enrols another in its row waits."""
        with self._access(), self._transaction('DEFERRED'):
            self._refresh()
            yield

    def _refresh(self) -> None:
        """Map the matrix and read the people anew if anything has changed, or a day has gone by."""
        version = (self._database.execute('PRAGMA data_version').fetchone()[0], date.today())
        if version == self._version:
            return
        if self._database.connection.in_transaction:
            self._read_anew(version)
        else:  # rows and their checksums of one state: who takes a row for another face waits
            with self._transaction('DEFERRED'):
                self._read_anew(version)

    def _read_anew(self, version: tuple) -> None:
        try:
            self._read(version)
        except InputError as error:  # of the tables: nobody has given anything here
            raise GalleryDamaged(str(error)) from None

    def _read(self, version: tuple) -> None:
        if gallery_tables.checked_meta(self._database) != self._meta:
            raise RunError(f'gallery {self.folder} was sealed anew meanwhile; open it again')
        faces = gallery_tables.read_faces(self._database)
        people, unreadable = gallery_tables.read_people(self._database, self._seal, faces)
        # all rows of the file count, so that those of removed faces are seen wherever they are
        self._raw = self._file.mapped()
        capacity = len(self._raw)
        gallery_tables.check_places(faces, self._file.path, capacity)
        self._people, self._order = people, list(people)
        self._ids = {person.name: number for number, person in people.items()}
        self._codes = np.full(capacity, -1, np.int64)
        codes = {number: code for code, number in enumerate(people)}
        for row, person in faces:
            self._codes[row] = codes[person]
        if self.is_sealed:
            self._matrix, damaged = self._opened(faces)
        else:
            self._matrix = self._raw.view(np.float32)
            damaged = self._changed([row for row, _ in faces])
        self._note_damage(damaged, unreadable)
        hidden = [
            codes[number]
            for number, person in people.items()
            if number in unreadable or person.has_expired(version[1])
        ]
        off = (self._codes < 0) | np.isin(self._codes, hidden)
        off[self._damaged] = True
        self._rows = Rows(self._matrix, np.flatnonzero(~off), self._codes)
        self._version = version

    def _changed(self, places: list[int]) -> list[int]:
        """Those of an open gallery's rows that have another checksum; whole ones are looked at
        once."""
        checksums = gallery_tables.read_checksums(self._database)
        noted = [(place, checksums.get(place)) for place in places]
        new = [pair for pair in noted if pair not in self._whole]
        damaged = gallery_tables.damaged_rows(self._raw, new)
        self._whole.update(pair for pair in new if pair not in damaged)
        return sorted(row for row, _ in damaged)

    def _note_damage(self, rows: list[int], people: set[int]) -> None:
        """Remember damaged rows, and people whose record is damaged, and name them if there are new
        ones."""
        if not set(rows).issubset(self._damaged):
            log.warning(
                '%s: %d rows are not what was enrolled and match nobody, of %s; remove these '
                'people and enrol them anew, or copy the gallery again',
                *(self._file.path, len(rows), self._names_of(map(self._person_of, rows))),
            )
        if not people.issubset(self._unreadable):
            log.warning(
                '%s: the records of %d people are damaged: they match nobody, and have their '
                'numbers for names: %s; remove these people and enrol them anew, or copy the '
                'gallery again',
                *(self._database.path, len(people), self._names_of(people)),
            )
        self._damaged, self._unreadable = rows, people

    def _names_of(self, people: Iterable[int]) -> str:
        """The names of people, the first of them."""
        names = sorted({self._people[person].name for person in people})
        return ', '.join(names[:_NAMED]) + (' ...' if len(names) > _NAMED else '')

    def _opened(self, faces: list[tuple[int, int]]) -> tuple[np.ndarray, list[int]]:
        """(the rows of a sealed gallery, float32 (rows of the file, D), those that do not open)."""
        matrix = private_rows(len(self._raw), self._size)
        damaged = []
        for row, person in faces:
            try:
                content = self._seal.open(self._raw[row].tobytes(), ROW, row, person)
                matrix[row] = np.frombuffer(content, np.float32)
            except InputError:
                damaged.append(row)
        return matrix, damaged

    def _unused(self, count: int) -> np.ndarray:
        """Rows that no face has, the first ones."""
        free = np.flatnonzero(self._codes < 0)[:count]
        end = len(self._codes)
        return np.concatenate([free, np.arange(end, end + count - len(free))])

    def _tidy(self) -> None:
        """Overwrite rows of removed faces, and matrix files of former keys, also those that a crash
        has left.

        While another process writes, they stay until the next change or opening: nobody waits for
        this.
        """
        with contextlib.suppress(GalleryBusy), self._access():
            self._database.execute('PRAGMA busy_timeout = 0')
            try:
                self._refresh()
                stale = np.flatnonzero(self._codes < 0)
                if self._file.others() or (len(stale) and self._raw[stale].any()):
                    # an enrolment by another process may take these rows, or have filled them
                    with self._transaction():
                        self._version = None
                        self._refresh()
                        stale = np.flatnonzero(self._codes < 0)
                        self._file.write(stale, np.zeros((len(stale), self._file.width), np.uint8))
                        for path in self._file.others():
                            wipe(path)
            finally:
                self._database.execute(f'PRAGMA busy_timeout = {1000 * self._wait:.0f}')

    def _checked_rows(self, embeddings: np.ndarray, count: int) -> np.ndarray:
        rows = np.ascontiguousarray(embeddings, np.float32)
        if rows.shape != (count, self._size):
            raise InputError(f'embeddings {rows.shape}: expected {(count, self._size)}')
        if not np.all(gallery_tables.is_unit(rows)):
            raise InputError('embeddings are not of unit length; divide each row by its L2 norm')
        return rows


def _check_counts(faces: int, **given: Optional[Sequence]) -> None:
    """InputError for a list that is not of so many faces; None and an empty one tell of none."""
    for what, values in given.items():
        if values and len(values) != faces:
            raise InputError(f'{len(values)} {what} for {faces} faces; expected one for each')


def check_exists(folder: PathLike) -> None:
    """Raise InputError unless a folder holds a gallery."""
    if not holds_gallery(folder):
        raise InputError(f'{folder} holds no gallery; `vargfacenet gallery enrol` makes one')
