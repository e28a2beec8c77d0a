"""What lies in the tables of a gallery's database, and how it is sealed.

`meta` says of which model and format the gallery is and how it is sealed, `people` and `faces` hold
records (`gallery_records`) and pictures, `checksums` are those of the rows of an open gallery. All
functions work inside a transaction of the caller.
"""

import re
import secrets
import zlib
from collections.abc import Iterable
from os import urandom
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ..common.errors import InputError
from ..common.files import check_holes
from .gallery_file import (
    CHECKSUMS,
    DATABASE,
    FORMAT,
    MAX_CROP,
    META,
    RECORDS,
    SLACK,
    TABLES,
    Database,
    short,
)
from .gallery_records import (
    FaceRecord,
    Person,
    checked_name,
    decode_person,
    number_text,
    picture_digest,
    plain_text,
)
from .sealing import AES, CODECS, CROP, FACE, PERSON, SALT_BYTES, Codec, Key, Seal, check_lock

MAX_RECORD = 1 << 16  # bytes of what is kept of a person, or of a face besides its picture
_SAMPLE = b'vargfacenet gallery'  # lies sealed in the database, to know a wrong key at once
_LOCK_WORDS = ('codec', 'key', 'salt', 'sample')
_GENERATION = 'matrix'
UNIT_TOLERANCE = 1e-3  # of a row's length
RECORD_COLUMN = short('record', MAX_RECORD)
CROP_COLUMN = short('crop', MAX_CROP + SLACK)


class Lock(NamedTuple):
    """A seal, and the words by which a gallery remembers it."""

    seal: Seal
    words: dict[str, str]


def new_lock(key: Optional[Key], codec: str) -> Lock:
    """The lock of a new gallery: by a key, a plugin's codec, or none."""
    check_lock(key, codec)
    if key:
        salt = urandom(SALT_BYTES)
        made: Codec = key.codec(salt)
        words = {'codec': AES, 'key': key.derivation, 'salt': salt.hex()}
    elif codec:
        made, words = CODECS.get(codec)(), {'codec': codec}
    else:
        return Lock(Seal(), {})
    return Lock(Seal(made), {**words, 'sample': made.seal(_SAMPLE).hex()})


def codec_of(folder: Path, meta: dict[str, str], wanted: str, key: Optional[Key]):
    """The codec that a gallery was made with, None for none; InputError for another, or another
    key."""
    name = meta.get('codec', '')
    if wanted and wanted != name:
        made = f'with codec {name!r}' if name else 'without a codec'
        raise InputError(
            f'gallery {folder} was made {made}, not with {wanted!r}; enrol in a new one'
        )
    if key and name != AES:
        made = f'sealed by codec {name!r}' if name else 'not sealed'
        raise InputError(
            f'gallery {folder} is {made}: it opens without a key; '
            f'`vargfacenet gallery rekey --new-key-file FILE` seals it'
        )
    if not name:
        return None
    salt, sample = (_from_hex(folder, meta, word) for word in ('salt', 'sample'))
    if name == AES:
        if key is None:
            raise InputError(
                f'gallery {folder} is sealed ({meta.get("key")}); give --key-file or --passphrase'
            )
        if key.derivation != meta.get('key'):
            raise InputError(
                f'gallery {folder} is sealed by {meta.get("key")}, not by {key.derivation}'
            )
        codec = key.codec(salt)
    else:
        codec = CODECS.get(name)()
    if codec.open(sample) != _SAMPLE:
        raise InputError(f'{folder}: the gallery was sealed with another key, or is damaged')
    return codec


def _from_hex(folder: Path, meta: dict[str, str], word: str) -> bytes:
    try:
        return bytes.fromhex(meta.get(word, ''))
    except (TypeError, ValueError):
        raise InputError(f'gallery {folder} is damaged: its {word} is none') from None


def make(database: Database, size: int, fingerprint: str, words: dict[str, str]) -> None:
    """The tables of a new gallery."""
    database.create(META + TABLES)
    meta = {'format': FORMAT, 'size': str(size), 'model': fingerprint, **words}
    for row in meta.items():
        database.execute('INSERT INTO meta VALUES (?, ?)', row)


def checked_meta(database: Database) -> dict[str, Any]:
    """What a gallery says of itself; InputError where it is of no format that is known."""
    meta = database.meta()
    is_size = re.fullmatch(r'[1-9][0-9]{0,4}', str(meta.get('size')))
    if meta.get('format') != database.format() or not is_size:
        raise InputError(f'{database.path} is no gallery of this version')
    if not re.fullmatch(r'[0-9]{1,9}', str(meta.get(_GENERATION, '0'))):
        raise InputError(f'{database.path} is damaged: its matrix has no number')
    return meta


def generation_of(meta: dict[str, Any]) -> int:
    """How often the gallery was sealed anew: its matrix file's number."""
    return int(meta.get(_GENERATION, '0'))


def set_generation(database: Database, generation: int) -> None:
    database.execute('INSERT OR REPLACE INTO meta VALUES (?, ?)', (_GENERATION, str(generation)))


def read_people(
    database: Database, seal: Seal, faces: Iterable[tuple[int, int]] = ()
) -> tuple[dict[int, Person], set[int]]:
    """(number -> person, numbers of those whose record is damaged, or is missing where `faces`,
    (row, number), name them).

    The latter have their `number_text` for a name, by which they can be removed. Raises InputError
    for two people of one name, and for numbers that nobody has.
    """
    people, damaged = {}, set()
    for number, record in database.scan(f'SELECT person, {RECORD_COLUMN} FROM people ORDER BY 1'):
        try:
            person = decode_person(record and seal.open(record, PERSON, 0, number))
        except InputError:
            damaged.add(number)
            person = Person(number_text(number))
        people[number] = person
    missing = {number for _, number in faces} - people.keys()
    if not all(isinstance(number, int) and number > 0 for number in missing | people.keys()):
        raise InputError(
            f'{database.path} is damaged: somebody has no number; copy the gallery again'
        )
    damaged |= missing
    people.update({number: Person(number_text(number)) for number in missing})
    if len({person.name for person in people.values()}) < len(people):
        raise InputError(
            f'{database.path} is damaged: two people have one name; copy the gallery again'
        )
    return people, damaged


def read_faces(database: Database) -> list[tuple[int, int]]:
    """(row, number of the person) of every face, by row."""
    return list(database.scan('SELECT row, person FROM faces ORDER BY row'))


def check_places(faces: Iterable[tuple[int, Any]], path: Path, capacity: int) -> None:
    """Raise InputError where faces, (row, whose it is), have rows that the matrix file of so many
    does not hold, and for a file of holes, which would be searched and fill the memory."""
    places = [row for row, _ in faces]
    if min(places, default=0) < 0:
        raise InputError(
            f'{path.parent / DATABASE} is damaged: a face has no row; copy the gallery again'
        )
    needed = max(places, default=-1) + 1
    if needed > capacity:
        raise InputError(
            f'{path} is cut off: it holds {capacity} rows and the gallery needs {needed}; copy the '
            f'gallery again'
        )
    check_holes(path)


def read_checksums(database: Database) -> dict[int, Any]:
    """Row -> CRC-32 of its bytes, or whatever a stranger put there; of an open gallery."""
    return dict(database.scan('SELECT row, crc32 FROM checksums ORDER BY row'))


def damaged_rows(rows: np.ndarray, noted: Iterable[tuple[int, Any]]) -> set[tuple[int, Any]]:
    """Those of `noted`, (row, its checksum or None), whose row has another one; `rows` are those of
    the matrix file, uint8 (N, width)."""
    width = rows.shape[1]
    content = memoryview(rows.reshape(-1))  # its pieces are cut faster than an array's
    return {
        (row, checksum)
        for row, checksum in noted
        if checksum != zlib.crc32(content[width * row : width * (row + 1)])
    }


def is_unit(rows: np.ndarray) -> np.ndarray:
    """Whether rows, float32 (..., D), are of unit length; NaN is not."""
    with np.errstate(over='ignore', invalid='ignore'):
        return np.abs(np.linalg.norm(rows, axis=-1) - 1) < UNIT_TOLERANCE


def put_checksums(database: Database, places: Iterable[int], rows: Iterable[Any]) -> None:
    """Note the checksums of rows of an open gallery, given as bytes or uint8 (N, width). A seal
    tells by itself that a row was changed."""
    noted = ((place, zlib.crc32(row)) for place, row in zip(places, rows))
    database.connection.executemany('INSERT OR REPLACE INTO checksums VALUES (?, ?)', noted)


def forget_person(database: Database, person: int, rows: Iterable[int]) -> None:
    """Delete all that the tables hold of a person, who has these rows; InputError where the index
    by which faces are found knows of others."""
    places = [(row,) for row in rows]
    database.connection.executemany('DELETE FROM checksums WHERE row = ?', places)
    found = database.execute('DELETE FROM faces WHERE person = ?', (person,)).rowcount
    if found != len(places):
        raise InputError(
            f'{database.path} is damaged: its index finds {found} of the {len(places)} faces of '
            f'person {number_text(person)}; nothing is removed, copy the gallery again'
        )
    database.execute('DELETE FROM people WHERE person = ?', (person,))


def put_person(database: Database, seal: Seal, number: Optional[int], person: Person) -> int:
    """Write a person, a new one if it has no number; returns the number.

    Numbers are drawn, never counted: none comes again, and none tells who came first.
    """
    if number is None:
        number = secrets.randbits(62) + 1
    record = seal.close_record(person.encoded(), PERSON, 0, number)
    database.execute('INSERT OR REPLACE INTO people VALUES (?, ?)', (number, record))
    return number


def put_face(
    database: Database,
    seal: Seal,
    row: int,
    person: int,
    face: FaceRecord,
    crop: Optional[bytes],
) -> None:
    """Write what is kept of a face besides its row of the matrix."""
    record = seal.close_record(face.encoded(), FACE, row, person)
    crop = crop and seal.close(crop, CROP, row, person)
    database.execute('INSERT INTO faces VALUES (?, ?, ?, ?)', (row, person, record, crop))


def seal_anew(database: Database, old: Seal, lock: Lock, generation: int) -> None:
    """Seal all records and pictures by another lock, and remember it; InputError for a sealed face
    that is damaged. Nobody's record is."""
    new = lock.seal
    people, _ = read_people(database, old)
    for number, person in people.items():
        put_person(database, new, number, person)
    query = f'SELECT row, {RECORD_COLUMN}, {CROP_COLUMN} FROM faces WHERE row = ?'
    for row, person in read_faces(database):
        # one by one: a query that goes on while its table changes has no defined end
        _, record, crop = database.execute(query, (row,)).fetchone()
        try:
            content = old.open(record, FACE, row, person).rstrip()
            crop = crop and new.close(old.open(crop, CROP, row, person), CROP, row, person)
        except InputError:
            raise InputError(
                f'{database.path}: what is kept of row {row} is damaged; remove '
                f'{people[person].name} and enrol them anew'
            ) from None
        record = new.close_record(content, FACE, row, person)
        database.execute('UPDATE faces SET record = ?, crop = ? WHERE row = ?', (record, crop, row))
    for word in _LOCK_WORDS:
        database.execute('DELETE FROM meta WHERE key = ?', (word,))
    for word in lock.words.items():
        database.execute('INSERT INTO meta VALUES (?, ?)', word)
    if not new.is_open:
        database.execute('DELETE FROM checksums')
    set_generation(database, generation)


def migrate(database: Database, seal: Seal, codec: Optional[Codec]) -> dict[int, int]:
    """Make of the first format's tables the second's; returns row -> number of the person.

    There, names, sources and times lay open, and what was sealed had no label.
    """
    database.execute('ALTER TABLE faces RENAME TO old')
    database.execute('DROP INDEX faces_by_identity')
    database.create(RECORDS)
    people: dict[str, int] = {}
    places: dict[int, int] = {}
    texts = ', '.join(short(column, MAX_RECORD) for column in ('identity', 'source', 'enrolled'))
    query = f'SELECT row, {texts}, {CROP_COLUMN} FROM old ORDER BY row'
    for row, name, source, enrolled, crop in database.scan(query):
        texts_known = all(isinstance(text, str) for text in (name, source, enrolled))
        if not texts_known or row < 0:
            raise InputError(f'{database.path} is damaged: a face has no row or no name')
        name = checked_name(name)
        if name not in people:
            people[name] = put_person(database, seal, None, Person(name))
        crop = codec.open(crop) if codec and crop else crop or None
        face = FaceRecord(plain_text(source), enrolled, picture_digest(crop) if crop else '')
        put_face(database, seal, row, people[name], face, crop)
        places[row] = people[name]
    database.execute('DROP TABLE old')
    return places


def add_checksums(database: Database, rows: Optional[np.ndarray]) -> None:
    """Bring the tables of the second format up to date: it knew no checksums.

    Parameters
    ----------
    rows : those of the matrix file, uint8 (N, width), of an open gallery, every face's among them;
        None of a sealed one. What is no embedding, as where a copy ends in zeros, gets no checksum
        that would make it whole.
    """
    database.create(CHECKSUMS)
    if rows is not None:
        places = [place for place, _ in read_faces(database)]
        places = [place for place in places if is_unit(rows[place].view(np.float32))]
        put_checksums(database, places, (rows[place] for place in places))
    database.execute("UPDATE meta SET value = ? WHERE key = 'format'", (FORMAT,))
