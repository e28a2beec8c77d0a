"""Looking a gallery through without changing it, unlike `Gallery`, which tidies up."""

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ..common.errors import InputError
from ..common.files import PathLike, check_holes
from . import gallery_tables
from .decision_log import LOG, check_log
from .gallery import check_exists
from .gallery_file import (
    DATABASE,
    FORMAT,
    Database,
    is_gallery_file,
    refuse_links,
)
from .gallery_matrix import matrix_name, rows_of
from .gallery_records import decode_face
from .sealing import Seal

_WAIT = 10.0  # seconds for another process that writes


class Inspection(NamedTuple):
    """What `inspect_gallery` found."""

    faces: int
    identities: int
    sealed: bool  # by a key or a codec: rows and records were not looked at
    without_checksums: bool  # an older version wrote it, and its rows have none
    decisions: int  # lines of its log
    open_to_others: list[str]  # files that others can read
    problems: list[str]


def inspect_gallery(folder: PathLike) -> Inspection:
    """Look a gallery through.

    Raises InputError for a database that is damaged, has other tables, or is none, and for links
    and pipes in place of the gallery's files.
    """
    check_exists(folder)
    folder = Path(folder)
    refuse_links(folder)
    path = folder / DATABASE
    try:
        with contextlib.closing(Database(path, _WAIT, read_only=True)) as database:
            state = [text for (text,) in database.execute('PRAGMA integrity_check(20)')]
            # tables and rows of one state: who removes a face and overwrites its row waits
            database.execute('BEGIN')
            meta = gallery_tables.checked_meta(database)
            faces, problems = _content(database, meta, folder)
    except (sqlite3.Error, UnicodeDecodeError) as error:
        if 'readonly' in str(error):  # SQLite would roll the journal back that lies beside it
            raise InputError(
                f'{path}: a change came to no end, by a kill or since it was copied meanwhile; the '
                f'next use of the gallery takes it back, and then it can be checked'
            ) from None
        raise InputError(f'{path} is damaged: {error}') from None
    if state != ['ok']:
        problems += [f'{path}: {text}' for text in state]
    decisions = 0
    if (folder / LOG).is_file():
        decisions, damaged = check_log(folder / LOG)
        problems += damaged
    ours = sorted(file for file in folder.iterdir() if is_gallery_file(file.name))
    sealed = 'codec' in meta
    return Inspection(
        faces=len(faces),
        identities=len({person for _, person in faces}),
        sealed=sealed,
        without_checksums=not sealed and meta['format'] != FORMAT,
        decisions=decisions,
        open_to_others=[str(file) for file in ours if file.stat().st_mode & 0o077],
        problems=problems,
    )


def _content(database: Database, meta: dict, folder: Path) -> tuple[list[tuple], list[str]]:
    """((row, person) of every face, what is wrong with people, pictures and rows)."""
    faces, people, problems = _faces_and_people(database, meta)
    matrix = folder / matrix_name(gallery_tables.generation_of(meta))
    holes = _holes(matrix)
    problems += holes
    checksums = None
    if 'codec' not in meta and meta['format'] == FORMAT:
        problems += _damaged_pictures(database)
        checksums = gallery_tables.read_checksums(database)
    if any(row < 0 or person not in people for row, person in faces):
        problems.append(f'{database.path}: a face has no row or no name')
    elif faces and 'codec' not in meta and not holes:
        named = [(row, people[person]) for row, person in faces]
        problems += _damaged_rows(matrix, int(meta['size']), named, checksums)
    return faces, problems


def _holes(matrix: Path) -> list[str]:
    """What is wrong with a matrix that is longer than what the disk has of it."""
    try:
        if matrix.is_file():
            check_holes(matrix)
    except InputError as error:
        return [str(error)]
    return []


def _damaged_pictures(database: Database) -> list[str]:
    """Records and pictures of faces that are not what was enrolled."""
    columns = f'row, {gallery_tables.RECORD_COLUMN}, {gallery_tables.CROP_COLUMN}'
    problems = []
    for row, record, crop in database.scan(f'SELECT {columns} FROM faces ORDER BY row'):
        try:
            face = decode_face(record)
            damaged = 'picture' if crop and not face.is_of(crop) else ''
        except InputError:
            damaged = 'record'
        if damaged:
            problems.append(f'{database.path}: the {damaged} of row {row} is not what was enrolled')
    return problems


def _faces_and_people(
    database: Database, meta: dict
) -> tuple[list[tuple], dict[Any, str], list[str]]:
    """((row, person) of every face, person -> name, what is wrong with people); names of a sealed
    gallery are ''."""
    if meta['format'] == '1':
        faces = list(database.scan('SELECT row, identity FROM faces ORDER BY row'))
        return faces, {name: name for _, name in faces if isinstance(name, str)}, []
    faces = gallery_tables.read_faces(database)
    if 'codec' in meta:
        numbers = database.scan('SELECT person FROM people ORDER BY person')
        return faces, {number: '' for (number,) in numbers}, []
    people, damaged = gallery_tables.read_people(database, Seal(), faces)
    names = {number: person.name for number, person in people.items()}
    problems = [
        f'{database.path}: the record of person {names[number]} is not what was enrolled'
        for number in sorted(damaged)
    ]
    return faces, names, problems


def _damaged_rows(
    path: Path, size: int, faces: Sequence[tuple[int, str]], checksums: Optional[dict[int, Any]]
) -> list[str]:
    """What is wrong with the rows of the matrix that faces have; an older gallery has no
    checksums."""
    rows = rows_of(path, 4 * size)
    try:
        gallery_tables.check_places(faces, path, len(rows))
    except InputError as error:
        return [str(error)]
    places = [row for row, _ in faces]
    no_unit = ~gallery_tables.is_unit(rows.view(np.float32)[places])
    changed = set()
    if checksums is not None:
        noted = [(row, checksums.get(row)) for row in places]
        changed = {row for row, _ in gallery_tables.damaged_rows(rows, noted)}
    problems = []
    for (row, name), is_no_unit in zip(faces, no_unit):
        if row in changed or is_no_unit:
            what = 'is not what was enrolled' if row in changed else 'is of no unit length'
            problems.append(f'{path}: row {row}, of {name}, {what}')
    return problems
