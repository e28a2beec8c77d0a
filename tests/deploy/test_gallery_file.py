"""A gallery's files: for their owner alone, of strangers harmless, of older versions kept."""

import contextlib
import os
import shutil
import sqlite3
import stat
import struct
import time
import types
import zlib

import numpy as np
import pytest
from conftest import registered_for_now
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.deploy import decision_log, gallery_check, gallery_tables
from vargfacenet.deploy import gallery as gallery_module
from vargfacenet.deploy.gallery import CODECS, DATABASE, Gallery, GalleryBusy
from vargfacenet.deploy.gallery_check import inspect_gallery
from vargfacenet.deploy.gallery_file import Database
from vargfacenet.deploy.gallery_matrix import MATRIX
from vargfacenet.deploy.gallery_records import Terms
from vargfacenet.deploy.sealing import Key

SIZE = 16
MODEL = 'a' * 64
KEY = Key('file', bytes(32))
# as the first format was written
OLD_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE faces (
    row INTEGER PRIMARY KEY, identity TEXT NOT NULL, source TEXT NOT NULL,
    enrolled TEXT NOT NULL, crop BLOB
);
CREATE INDEX faces_by_identity ON faces (identity);
"""
# and the second, which knew no checksums
SECOND_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE people (person INTEGER PRIMARY KEY, record BLOB NOT NULL);
CREATE TABLE faces (
    row INTEGER PRIMARY KEY, person INTEGER NOT NULL, record BLOB NOT NULL, crop BLOB
);
CREATE INDEX faces_by_person ON faces (person);
"""


def unit(rng, count):
    rows = rng.randn(count, SIZE).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture(params=[0, 0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder):
    return {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}


def test_files_are_for_their_owner_alone(umask, tmp_path, rng):
    folder = tmp_path / 'new' / 'g'
    gallery = Gallery(folder, SIZE, MODEL)
    gallery.enrol(['a'], unit(rng, 1))
    gallery._database.execute('BEGIN IMMEDIATE')
    gallery._database.execute('DELETE FROM faces')
    during = modes(folder)
    gallery._database.execute('ROLLBACK')
    gallery.close()
    log = (decision_log.LOG, decision_log.HEAD)
    assert during == dict.fromkeys((DATABASE, f'{DATABASE}-journal', MATRIX, *log), 0o600)
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize(
    'name', ['embeddings.7.f32', MATRIX, decision_log.LOG, decision_log.HEAD, DATABASE]
)
def test_a_strangers_links_lead_nowhere(name, tmp_path, rng):
    """Each was written to, made private or overwritten with zeros as a file of the gallery."""
    with contextlib.closing(Gallery(tmp_path / 'people', SIZE, MODEL)) as gallery:
        gallery.enrol(['Ada'], unit(rng, 1))
    precious = tmp_path / 'precious'
    precious.write_bytes(b'x' * 4096)
    precious.chmod(0o644)
    (tmp_path / 'people' / name).unlink(missing_ok=True)
    (tmp_path / 'people' / name).symlink_to(precious)
    with pytest.raises(InputError, match='is a link or no file'):
        Gallery(tmp_path / 'people')
    assert precious.read_bytes() == b'x' * 4096 and precious.stat().st_mode & 0o777 == 0o644


@pytest.mark.parametrize(
    'name', [MATRIX, decision_log.HEAD, DATABASE + '-journal', 'embeddings.7.f32']
)
def test_a_pipe_in_place_of_a_file_is_not_waited_for(name, tmp_path, rng):
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL)) as gallery:
        gallery.enrol(['Ada'], unit(rng, 1))
        gallery.note('enrol', people=[1])
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    for look in (Gallery, inspect_gallery):
        with pytest.raises(InputError, match='is a link or no file'):
            look(tmp_path)


@pytest.mark.parametrize('name', [MATRIX, decision_log.LOG])
@pytest.mark.parametrize('key', [None, Key('file', bytes(32))])
def test_a_terabyte_of_holes_is_not_read(name, key, tmp_path, rng):
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL, key=key)) as gallery:
        gallery.enrol(['Ada'], unit(rng, 1))
        gallery.note('enrol', people=[1])
    os.truncate(tmp_path / name, 1 << 40)
    said = '1048576 MB by its length, of which 0 MB are on the disk'
    if name == MATRIX:  # its other problems are told as well
        (problem,) = inspect_gallery(tmp_path).problems
        assert said in problem
    else:
        with pytest.raises(InputError, match=said):
            inspect_gallery(tmp_path)
    if name == MATRIX:
        with pytest.raises(InputError, match=said):
            Gallery(tmp_path, key=key)
        return
    with contextlib.closing(Gallery(tmp_path, key=key)) as gallery:
        assert gallery.identities() == {'Ada': 1}
        with pytest.raises(InputError, match=said):
            list(decision_log.entries(gallery.log_path, '1'))


@pytest.mark.parametrize('fault', ['nobody', 'no row'])
def test_holes_are_told_of_whoever_is_in_a_gallery(fault, tmp_path, rng):
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL)) as gallery:
        gallery.enrol(['Ada'], unit(rng, 1))
        if fault == 'nobody':
            gallery.remove('Ada')
    if fault == 'no row':
        with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as database, database:
            database.execute('UPDATE faces SET row = -1')
    os.truncate(tmp_path / MATRIX, 1 << 40)
    problems = inspect_gallery(tmp_path).problems
    assert any('of which 0 MB are on the disk' in problem for problem in problems)
    assert any('has no row or no name' in problem for problem in problems) == (fault == 'no row')
    with pytest.raises(InputError):
        Gallery(tmp_path)


def test_a_gallery_that_others_could_read_is_shut(tmp_path, rng, caplog):
    caplog.set_level('INFO')
    Gallery(tmp_path / 'g', SIZE, MODEL).close()
    for path in (tmp_path / 'g', *(tmp_path / 'g').iterdir()):
        path.chmod(0o755)
    assert str(tmp_path / 'g' / DATABASE) in inspect_gallery(tmp_path / 'g').open_to_others
    Gallery(tmp_path / 'g', SIZE, MODEL).close()
    assert set(modes(tmp_path / 'g').values()) == {0o600}
    assert stat.S_IMODE((tmp_path / 'g').stat().st_mode) == 0o700
    assert caplog.text.count('others could read it') == 1
    assert not inspect_gallery(tmp_path / 'g').open_to_others
    # the folder of somebody's other things keeps its mode, and becomes no gallery
    (tmp_path / 'mixed').mkdir()
    (tmp_path / 'mixed' / '.hidden').touch()
    Gallery(tmp_path / 'mixed', SIZE, MODEL).close()
    (tmp_path / 'mixed').chmod(0o755)
    (tmp_path / 'mixed' / 'letter.txt').write_text('x')
    Gallery(tmp_path / 'mixed', SIZE, MODEL).close()
    assert 'holds other files (.hidden)' in caplog.text
    (tmp_path / 'mixed' / DATABASE).rename(tmp_path / 'mixed' / 'other')
    with pytest.raises(InputError, match=r'holds other files \(letter.txt\) and no gallery'):
        Gallery(tmp_path / 'mixed', SIZE, MODEL)
    (tmp_path / 'mixed' / 'other').rename(tmp_path / 'mixed' / DATABASE)
    assert stat.S_IMODE((tmp_path / 'mixed').stat().st_mode) == 0o755
    assert modes(tmp_path / 'mixed')[DATABASE] == 0o600


@pytest.mark.parametrize(('name', 'is_refused'), [('lost+found', False), ('lost', True)])
def test_a_volume_of_its_own(name, is_refused, tmp_path, rng):
    (tmp_path / name).mkdir()
    refused = pytest.raises(InputError, match='holds other files')
    with refused if is_refused else contextlib.nullcontext():
        Gallery(tmp_path, SIZE, MODEL).close()
    assert (tmp_path / DATABASE).exists() is not is_refused


FOREVER = 'WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n)'


@pytest.mark.parametrize(
    'statements',
    [
        # a removal that puts everybody back
        'CREATE TRIGGER back AFTER DELETE ON faces BEGIN INSERT INTO faces VALUES '
        '(old.row, old.person, old.record, old.crop); END',
        f'DROP TABLE faces; CREATE VIEW faces AS {FOREVER} '
        'SELECT x AS row, 1 AS person, NULL AS record, NULL AS crop FROM n',
        f'CREATE VIEW more AS {FOREVER} SELECT x FROM n',
        'CREATE TABLE more (x)',
        "CREATE INDEX more ON faces (abs(row)) WHERE record > 'x'",
        'ALTER TABLE faces ADD COLUMN more GENERATED ALWAYS AS (row + 1)',
        'DROP INDEX faces_by_person',
        'ALTER TABLE people RENAME COLUMN record TO other',
    ],
)
@pytest.mark.parametrize('use', [Gallery, inspect_gallery])
def test_a_strangers_tables_are_refused(use, statements, tmp_path, rng):
    gallery = Gallery(tmp_path, SIZE, MODEL)
    gallery.enrol(['a', 'b'], unit(rng, 2))
    gallery.close()
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.executescript(statements)
    database.close()
    started = time.process_time()
    with pytest.raises(InputError, match='other tables than ours'):
        use(tmp_path)
    assert time.process_time() - started < 5


def interior_pages(content, size, kind):
    """Numbers of the pages of a database that are the inner nodes of trees of a kind."""
    numbers = range(2, len(content) // size + 1)
    return [number for number in numbers if content[(number - 1) * size] == kind]


def with_an_endless_tree(path, kind):
    """Make every child of an inner page the next inner page: 40 to the sixth leaves and more."""
    with sqlite3.connect(path) as database:
        (size,) = database.execute('PRAGMA page_size').fetchone()
        roots = [root for (root,) in database.execute('SELECT rootpage FROM sqlite_master')]
    database.close()
    content = bytearray(path.read_bytes())
    inner = interior_pages(content, size, kind)
    # the largest tree's root first
    start = next(root for root in reversed(roots) if root in inner)
    chain = [start, *[number for number in inner if number not in roots][:15]]
    assert len(chain) > 6
    for number, following in zip(chain, chain[1:]):
        page = (number - 1) * size
        (cells,) = struct.unpack_from('>H', content, page + 3)
        struct.pack_into('>I', content, page + 8, following)
        for cell in range(cells):
            (place,) = struct.unpack_from('>H', content, page + 12 + 2 * cell)
            struct.pack_into('>I', content, page + place, following)
    path.write_bytes(content)


@pytest.mark.parametrize(('kind', 'message'), [(2, 'malformed|more work'), (5, 'damaged')])
def test_a_tree_of_pages_that_never_ends(kind, message, tmp_path, rng):
    """Kind 2 is the index by which a removal finds its faces, 5 a table that is read on opening."""
    path = tmp_path / 'g' / DATABASE
    path.parent.mkdir(mode=0o700)
    with sqlite3.connect(path) as database:
        database.execute('PRAGMA page_size = 512')
        database.executescript(SECOND_TABLES)
        meta = {'format': '2', 'size': str(SIZE), 'model': MODEL}
        database.executemany('INSERT INTO meta VALUES (?, ?)', meta.items())
        record = b'{"name": "a", "basis": "", "purpose": "", "expires": "", "recorded": ""}'
        database.execute('INSERT INTO people VALUES (1, ?)', (record,))
        face = b'{"source": "", "enrolled": "", "picture": ""}'
        rows = ((row, 1, face) for row in range(12_000))
        database.executemany('INSERT INTO faces VALUES (?, ?, ?, NULL)', rows)
    database.close()
    (path.parent / MATRIX).write_bytes(np.tile(unit(rng, 1), (12_000, 1)).tobytes())
    Gallery(path.parent).close()
    with_an_endless_tree(path, kind)
    started = time.process_time()
    with pytest.raises(InputError, match=message):
        gallery = Gallery(path.parent)
        try:
            gallery.remove('a')
        finally:
            gallery.close()
    assert time.process_time() - started < 5


def test_work_is_bounded(tmp_path):
    Gallery(tmp_path, SIZE, MODEL).close()
    database = Database(tmp_path / DATABASE, 1.0)
    with pytest.raises(sqlite3.OperationalError, match='interrupted'):
        database.execute(f'{FOREVER} SELECT count(*) FROM n').fetchone()
    assert database.was_too_much
    (trusted,) = database.execute('PRAGMA trusted_schema').fetchone()
    assert trusted == 0
    database.close()


@pytest.mark.parametrize(
    ('statement', 'message'),
    [
        ('UPDATE people SET record = (SELECT min(record) FROM people)', 'two people have one name'),
        ('UPDATE faces SET person = 0', 'somebody has no number'),
        ("UPDATE faces SET person = 'Ada'", 'somebody has no number'),
        (
            'UPDATE people SET person = -1 WHERE rowid = (SELECT min(person) FROM people)',
            'no number',
        ),
        ('UPDATE faces SET row = -1 WHERE row = 0', 'a face has no row'),
        ('UPDATE faces SET row = 99999999 WHERE row = 0', 'is cut off'),
        ("UPDATE meta SET value = '-1' WHERE key = 'size'", 'of this version'),
        ("UPDATE meta SET value = '2' WHERE key = 'format'", 'of this version'),
        ("INSERT INTO meta VALUES ('matrix', '../x')", 'has no number'),
        ("INSERT INTO meta VALUES ('codec', 'none')", "unknown gallery codec 'none'"),
        ("INSERT INTO meta VALUES ('codec', 'aes-256-gcm')", 'give --key-file'),
    ],
)
def test_contents_that_no_gallery_has(statement, message, tmp_path, rng):
    gallery = Gallery(tmp_path, SIZE, MODEL)
    gallery.enrol(['a', 'b'], unit(rng, 2))
    gallery.close()
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.execute(statement)
    database.close()
    with pytest.raises(InputError, match=message):
        Gallery(tmp_path, SIZE, MODEL)


class Xor:
    """A codec that tells of a wrong key by nothing, so small that anybody can undo it."""

    def seal(self, content):
        return b'++' + bytes(byte ^ 0x5A for byte in content)

    def open(self, sealed):
        return bytes(byte ^ 0x5A for byte in sealed[2:])


@pytest.fixture
def xor():
    with registered_for_now(CODECS):
        CODECS.register('xor')(Xor)
        yield


def of_the_first_format(folder, faces, seal):
    """A gallery of faces, row -> (name, embedding), sealed by the codec xor."""
    meta = {'format': '1', 'size': str(SIZE), 'model': MODEL, 'codec': 'xor'}
    meta['sample'] = seal(b'vargfacenet gallery').hex()
    with sqlite3.connect(folder / DATABASE) as database:
        database.executescript(OLD_TABLES)
        database.executemany('INSERT INTO meta VALUES (?, ?)', meta.items())
        known = [(row, name, '', '', None) for row, (name, _) in faces.items()]
        database.executemany('INSERT INTO faces VALUES (?, ?, ?, ?, ?)', known)
    database.close()
    empty = bytes(len(seal(bytes(4 * SIZE))))
    rows = (faces.get(row) for row in range(max(faces) + 1))
    (folder / MATRIX).write_bytes(b''.join(seal(r[1].tobytes()) if r else empty for r in rows))


@pytest.mark.parametrize('codec', ['', 'xor'])
def test_a_gallery_of_the_first_format_opens_as_before(codec, xor, tmp_path, rng, caplog):
    caplog.set_level('INFO')
    rows = unit(rng, 3)
    seal = Xor().seal if codec else bytes
    meta = {'format': '1', 'size': str(SIZE), 'model': MODEL}
    if codec:
        meta.update(codec=codec, sample=seal(b'vargfacenet gallery').hex())
    crop = seal(b'a picture of somebody')
    with sqlite3.connect(tmp_path / DATABASE) as database:
        for statement in OLD_TABLES.split(';'):
            database.execute(statement)
        database.executemany('INSERT INTO meta VALUES (?, ?)', meta.items())
        faces = [
            (0, 'Ada', '1.jpg', '2026-01-02T03:04:05+00:00', crop),
            (2, 'Bob', '2.jpg', '2026-01-02T03:04:06+00:00', None),
            (3, 'Ada', '3.jpg', '2026-01-02T03:04:07+00:00', None),
        ]
        database.executemany('INSERT INTO faces VALUES (?, ?, ?, ?, ?)', faces)
    database.close()
    sealed = [seal(row.tobytes()) for row in rows]
    empty = bytes(len(sealed[0]))
    (tmp_path / MATRIX).write_bytes(b''.join([sealed[0], empty, sealed[1], sealed[2], empty]))
    assert inspect_gallery(tmp_path).faces == 3
    for _ in range(2):
        gallery = Gallery(tmp_path, SIZE, MODEL)
        assert gallery.identities() == {'Ada': 2, 'Bob': 1}
        found = [gallery.identify(row, 1)[0][:3] for row in rows]
        assert [(name, source) for name, _, source in found] == [
            ('Ada', '1.jpg'),
            ('Bob', '2.jpg'),
            ('Ada', '3.jpg'),
        ]
        assert min(cosine for _, cosine, _ in found) > 0.99999
        assert gallery.crop('Ada') == b'a picture of somebody' and gallery.crop('Bob') is None
        _, person, kept = gallery.person('Ada')
        assert person.terms == ('', '', '') and kept[1].record.enrolled.endswith('04:07+00:00')
        gallery.close()
    assert caplog.text.count('newer form') == 1
    gallery = Gallery(tmp_path)
    assert gallery.remove('Bob') == 1
    gallery.enrol(['Eve'], rows[1:2], crops=[b'another'])
    gallery.close()
    content = b''.join(path.read_bytes() for path in tmp_path.iterdir())
    if codec:  # the rows went into a new file, and names are sealed now
        assert not (tmp_path / MATRIX).exists() and b'Ada' not in content
    assert inspect_gallery(tmp_path).problems == []


def test_a_damaged_gallery_of_the_first_format_stays_as_it_is(tmp_path):
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.executescript(OLD_TABLES)
        meta = {'format': '1', 'size': str(SIZE), 'model': MODEL}
        database.executemany('INSERT INTO meta VALUES (?, ?)', meta.items())
        database.execute("INSERT INTO faces VALUES (0, x'41', '', '', NULL)")
    database.close()
    before = (tmp_path / DATABASE).read_bytes()
    with pytest.raises(InputError, match='no row or no name'):
        Gallery(tmp_path, SIZE, MODEL)
    assert (tmp_path / DATABASE).read_bytes() == before


def flip(path, bit):
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def checksums(folder):
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as database:
        return dict(database.execute('SELECT row, crc32 FROM checksums'))


def test_every_flipped_bit_of_a_row_is_named_and_the_row_matches_nobody(tmp_path, rng, caplog):
    """A low bit of a mantissa changes no cosine that anybody would see."""
    rows = unit(rng, 3)
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL)) as gallery:
        gallery.enrol(['Ada', 'Bob', 'Ada'], rows)
    assert checksums(tmp_path) == {row: zlib.crc32(rows[row]) for row in range(3)}
    for bit in rng.permutation(3 * 32 * SIZE)[:100]:
        row = bit // (32 * SIZE)
        name = ('Ada', 'Bob', 'Ada')[row]
        flip(tmp_path / MATRIX, bit)
        (problem,) = inspect_gallery(tmp_path).problems
        assert f'row {row}, of {name}, is not what was enrolled' in problem
        caplog.clear()
        with contextlib.closing(Gallery(tmp_path)) as gallery:
            assert f'1 rows are not what was enrolled and match nobody, of {name};' in caplog.text
            found = gallery.identify(rows[row])
            assert {match.identity for match in found} == {'Ada', 'Bob'} - ({name} & {'Bob'})
            assert all(match.cosine < 0.99 for match in found)
            with pytest.raises(InputError, match='sealed they would seem whole'):
                gallery.rekey()
        flip(tmp_path / MATRIX, bit)
    flip(tmp_path / MATRIX, 0)
    with contextlib.closing(Gallery(tmp_path)) as gallery:  # what the warning says
        gallery.remove('Ada')
        gallery.enrol(['Ada', 'Eve'], rows[[0, 2]])
        assert gallery.identify(rows[0], 1)[0][:2] == ('Ada', pytest.approx(1))
    assert inspect_gallery(tmp_path).problems == []


def test_a_row_without_its_checksum_and_one_that_another_process_wrote(tmp_path, rng, caplog):
    rows = unit(rng, 3)
    gallery = Gallery(tmp_path, SIZE, MODEL)
    gallery.enrol(['Ada', 'Bob'], rows[:2])
    other, writer = Gallery(tmp_path), Gallery(tmp_path)
    writer.enrol(['Eve'], rows[2:])
    flip(tmp_path / MATRIX, 2 * 32 * SIZE + 5)
    assert {match.identity for match in gallery.identify(rows[2])} == {'Ada', 'Bob'}
    assert caplog.text.count('of Eve;') == 1
    assert other.remove('Bob') == 1
    assert list(checksums(tmp_path)) == [0, 2]  # of nobody who is gone
    gallery.identify(rows[2])
    assert caplog.text.count('of Eve;') == 2  # once by either
    for each in (gallery, other, writer):
        each.close()
    with sqlite3.connect(tmp_path / DATABASE) as database:
        database.execute('DELETE FROM checksums')
    database.close()
    (first, _) = inspect_gallery(tmp_path).problems
    assert 'row 0, of Ada, is not what was enrolled' in first


def of_the_second_format(folder, rows):
    """A gallery that has two faces of Ada, in rows 0 and 2."""
    with sqlite3.connect(folder / DATABASE) as database:
        database.executescript(SECOND_TABLES)
        meta = {'format': '2', 'size': str(SIZE), 'model': MODEL}
        database.executemany('INSERT INTO meta VALUES (?, ?)', meta.items())
        record = b'{"name": "Ada", "basis": "", "purpose": "", "expires": "", "recorded": ""}'
        database.execute('INSERT INTO people VALUES (9, ?)', (record,))
        face = b'{"source": "a.jpg", "enrolled": "", "picture": ""}'
        faces = [(0, 9, face, None), (2, 9, face, b'a crop')]
        database.executemany('INSERT INTO faces VALUES (?, ?, ?, ?)', faces)
    database.close()
    content = b''.join([rows[0].tobytes(), bytes(4 * SIZE), rows[1].tobytes()])
    (folder / MATRIX).write_bytes(content)


def test_a_gallery_of_the_second_format_gets_checksums(tmp_path, rng, caplog):
    caplog.set_level('INFO')
    rows = unit(rng, 2)
    of_the_second_format(tmp_path, rows)
    found = inspect_gallery(tmp_path)
    assert found.without_checksums and found.problems == []
    for _ in range(2):
        with contextlib.closing(Gallery(tmp_path, SIZE, MODEL)) as gallery:
            assert gallery.identities() == {'Ada': 2} and gallery.crop('Ada') is None
            assert gallery.person('Ada')[2][1].crop == b'a crop'
    assert caplog.text.count('newer form') == 1 and not inspect_gallery(tmp_path).without_checksums
    assert checksums(tmp_path) == {0: zlib.crc32(rows[0]), 2: zlib.crc32(rows[1])}


@pytest.mark.parametrize('left', [None, 0, 1, 2.5])
@pytest.mark.parametrize('make', ['first, sealed', 'second'])
def test_an_older_gallery_whose_matrix_is_cut_off_comes_back_with_it(
    make, left, xor, tmp_path, rng, caplog
):
    """Its missing rows would have got no checksum, and have matched nobody ever after."""
    rows = unit(rng, 2)
    if make == 'second':
        of_the_second_format(tmp_path, rows)
    else:
        of_the_first_format(tmp_path, {0: ('Ada', rows[0]), 2: ('Ada', rows[1])}, Xor().seal)
    matrix = tmp_path / MATRIX
    whole, database = matrix.read_bytes(), (tmp_path / DATABASE).read_bytes()
    matrix.write_bytes(whole[: int((left or 0) * len(whole) / 3)])
    if left is None:
        matrix.unlink()
    with pytest.raises(
        InputError, match=rf'cut off: it holds {int(left or 0)} rows and .* needs 3'
    ):
        Gallery(tmp_path, SIZE, MODEL)
    assert (tmp_path / DATABASE).read_bytes() == database
    matrix.write_bytes(whole)
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL)) as gallery:
        assert [gallery.identify(row, 1)[0].cosine > 0.99999 for row in rows] == [True, True]
    assert 'match nobody' not in caplog.text and inspect_gallery(tmp_path).problems == []


def test_an_older_gallery_whose_matrix_ends_in_zeros(tmp_path, rng, caplog):
    """As a copy that was broken off; a checksum of the zeros would have made them whole."""
    rows = unit(rng, 2)
    of_the_second_format(tmp_path, np.stack([rows[0], np.zeros_like(rows[0])]))
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL)) as gallery:
        assert '1 rows are not what was enrolled and match nobody, of Ada;' in caplog.text
        assert gallery.identify(rows[0], 1)[0].cosine > 0.99999
        _, second = gallery.person('Ada')[2]
        assert second.damaged == ('embedding',)
    (problem,) = inspect_gallery(tmp_path).problems
    assert 'row 2, of Ada, is not what was enrolled' in problem


def meanwhile(monkeypatch, change):
    """Let another process change a gallery between two looks of one who opens it."""
    codec_of, done = gallery_tables.codec_of, []

    def found(*args):
        codec = codec_of(*args)
        if not done:
            done.append(change())
        return codec

    monkeypatch.setattr(gallery_tables, 'codec_of', found)


def test_an_older_gallery_that_is_sealed_anew_while_it_gets_checksums(tmp_path, rng, monkeypatch):
    """Its rows lie in another file then."""
    rows = unit(rng, 2)
    of_the_second_format(tmp_path, rows)

    def rekey():
        (tmp_path / MATRIX).rename(tmp_path / 'embeddings.1.f32')
        with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as database, database:
            database.execute("INSERT INTO meta VALUES ('matrix', '1')")

    meanwhile(monkeypatch, rekey)
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL)) as gallery:
        assert gallery.identify(rows[1], 1)[0].cosine > 0.99999
    assert checksums(tmp_path) == {0: zlib.crc32(rows[0]), 2: zlib.crc32(rows[1])}


def test_a_gallery_that_is_sealed_while_it_is_opened(tmp_path, rng, monkeypatch):
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL)) as gallery:
        gallery.enrol(['Ada'], unit(rng, 1))
        meanwhile(monkeypatch, lambda: gallery.rekey(KEY))
        with pytest.raises(RunError, match='sealed anew meanwhile; open it again'):
            Gallery(tmp_path)


def draw_the_same_numbers(monkeypatch, rng):
    """The numbers of people, in every run."""
    drawn = types.SimpleNamespace(randbits=lambda bits: int(rng.randint(1 << bits)))
    monkeypatch.setattr(gallery_tables, 'secrets', drawn)


def flipped(content):
    """In an open record of a person this bit is one of the name."""
    return content[:11] + bytes([content[11] ^ 1]) + content[12:]


def damage_one(folder, table, column, where, damage):
    """Change a content in the database, as a failing disk does."""
    with contextlib.closing(sqlite3.connect(folder / DATABASE)) as database, database:
        query = f'SELECT {column} FROM {table} WHERE {where}'
        (content,) = database.execute(query).fetchone()
        database.execute(f'UPDATE {table} SET {column} = ? WHERE {where}', (damage(content),))


@pytest.mark.parametrize(
    'damage', [flipped, lambda content: b'\xff', lambda content: bytes(100_000)]
)
@pytest.mark.parametrize('key', [None, KEY])
def test_a_person_whose_record_is_damaged(damage, key, tmp_path, rng, caplog):
    """All others go on; this one is named by the number in the log, and can be removed."""
    rows = unit(rng, 3)
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL, key=key)) as gallery:
        gallery.enrol(['Ada', 'Bob', 'Bob'], rows)
        number = gallery.person('Bob')[0]
    damage_one(tmp_path, 'people', 'record', f'person = {int(number, 16)}', damage)
    caplog.clear()
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL, key=key)) as gallery:
        assert f'numbers for names: {number};' in caplog.text and str(tmp_path) in caplog.text
        assert gallery.identities() == {'Ada': 1, number: 2} and len(gallery) == 3
        assert [match.identity for match in gallery.identify(rows[1])] == ['Ada']
        with pytest.raises(InputError, match='sealed they would seem whole'):
            gallery.rekey()
        with pytest.raises(InputError, match=f'remove {number} first'):
            gallery.enrol([number], rows[1:2], terms=Terms('consent'))
        if not key:
            (problem,) = inspect_gallery(tmp_path).problems
            assert f'the record of person {number} is not what was enrolled' in problem
        assert gallery.remove(number) == 2
        gallery.enrol(['Bob'], rows[1:2])
        assert gallery.identify(rows[1], 1)[0].identity == 'Bob'
        gallery.rekey()
    assert inspect_gallery(tmp_path).problems == []


@pytest.mark.parametrize('key', [None, KEY])
def test_a_person_whose_number_is_damaged(key, tmp_path, rng, caplog):
    """Of an open gallery the name is still there, and nobody's."""
    rows = unit(rng, 3)
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL, key=key)) as gallery:
        gallery.enrol(['Ada', 'Bob', 'Bob'], rows)
        number = gallery.person('Bob')[0]
    bob = int(number, 16)
    with contextlib.closing(sqlite3.connect(tmp_path / DATABASE)) as database, database:
        database.execute('UPDATE people SET person = ? WHERE person = ?', (bob ^ 2, bob))
    if not key:
        (problem,) = inspect_gallery(tmp_path).problems
        assert f'the record of person {number} is not what was enrolled' in problem
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL, key=key)) as gallery:
        assert number in caplog.text and gallery.identities() == {'Ada': 1, number: 2}
        assert [match.identity for match in gallery.identify(rows[1])] == ['Ada']
        assert gallery.remove(number) == 2
        gallery.enrol(['Bob'], rows[1:2])
        assert gallery.identify(rows[1], 1)[0].identity == 'Bob'


def test_a_face_that_the_index_does_not_find_is_not_called_removed(tmp_path, rng, monkeypatch):
    """As where a bit of the face's person flips: the index has the number of before."""
    draw_the_same_numbers(monkeypatch, rng)
    rows = unit(rng, 2)
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL)) as gallery:
        gallery.enrol(['Ada', 'Bob'], rows)
        number = int(gallery.person('Bob')[0], 16)
    path = tmp_path / DATABASE
    content, old = path.read_bytes(), struct.pack('>q', number)
    places = [at for at in range(len(content)) if content.startswith(old, at)]
    ((before, place),) = [  # in a face it stands before its record, as in an index it does not
        (content, at) for at in places if content[at + 8 : at + 10] == b'{"'
    ]
    path.write_bytes(before[: place + 7] + bytes([before[place + 7] ^ 2]) + before[place + 8 :])
    with contextlib.closing(Gallery(tmp_path)) as gallery:
        assert gallery.identify(rows[0], 1)[0].identity == 'Ada'
        with pytest.raises(InputError, match='its index finds 0 of the 1 faces'):
            gallery.remove(f'{number ^ 2:016x}')
    assert inspect_gallery(tmp_path).problems


@pytest.mark.parametrize('key', [None, KEY])
@pytest.mark.parametrize('column', ['record', 'crop'])
def test_a_face_whose_record_or_picture_is_damaged(column, key, tmp_path, rng, caplog):
    """The row is whole, and so is the identification; what is missing is said, once."""
    rows, crops = unit(rng, 3), [rng.bytes(100) for _ in range(3)]
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL, key=key)) as gallery:
        gallery.enrol(['Ada', 'Bob', 'Ada'], rows, list('abc'), crops)
        whole = gallery.person('Ada')[2]
    damage_one(tmp_path, 'faces', column, 'row = 0', flipped)
    lost = ('record', 'picture') if column == 'record' else ('picture',)
    if column == 'record' and key:
        lost = ('record',)  # a sealed picture tells by itself that it is whole
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL, key=key)) as gallery:
        for _ in range(2):
            source = '' if 'record' in lost else 'a'
            assert gallery.identify(rows[0], 1)[0][:3] == ('Ada', pytest.approx(1), source)
            first, second = gallery.person('Ada')[2]
            picture = None if 'picture' in lost else crops[0]
            assert gallery.crop('Ada') == first.crop == picture and first.damaged == lost
            assert gallery.crop('Bob') == crops[1] and not gallery.has_picture('Ada', 'x')
        assert np.array_equal(first.embedding, rows[0]) and first.record.source == source
        assert repr(second) == repr(whole[1]) and second.damaged == ()
    for part in lost:
        assert caplog.text.count(f'the {part} of row 0, of Ada, is not what') == 1
    if not key:
        (problem,) = inspect_gallery(tmp_path).problems
        assert f'the {lost[0]} of row 0 is not what was enrolled' in problem


def test_a_change_that_came_to_no_end_is_no_damage(tmp_path, rng):
    """`check`, which writes nothing, called it a damaged database that it may not write to."""
    gallery = Gallery(tmp_path / 'a', SIZE, MODEL)
    gallery.enrol([f'p{number}' for number in range(50)], unit(rng, 50))
    database = gallery._database
    database.execute('PRAGMA cache_size = 1')  # pages go to the disk before the end
    database.execute('BEGIN IMMEDIATE')
    for table in ('people', 'faces'):
        database.execute(f'UPDATE {table} SET record = zeroblob(900)')
    shutil.copytree(tmp_path / 'a', tmp_path / 'b')  # as a kill leaves it
    database.execute('ROLLBACK')
    gallery.close()
    assert (tmp_path / 'b' / f'{DATABASE}-journal').stat().st_size > 0
    with pytest.raises(InputError, match=r'a change came to no end.* the next use .* takes it'):
        inspect_gallery(tmp_path / 'b')
    Gallery(tmp_path / 'b').close()
    assert inspect_gallery(tmp_path / 'b')[:2] == (50, 50)
    assert inspect_gallery(tmp_path / 'b').problems == []


def test_a_gallery_is_looked_through_in_one_state(tmp_path, rng, monkeypatch):
    """A row that was removed and overwritten meanwhile was called damaged."""
    refused = []
    with contextlib.closing(Gallery(tmp_path, SIZE, MODEL, wait=0.1)) as gallery:
        gallery.enrol(['Ada', 'Bob'], unit(rng, 2))

        def remove_first(read):
            def reading(*args):
                try:
                    gallery.remove('Ada')
                except GalleryBusy as error:
                    refused.append(error)
                return read(*args)

            return reading

        for name in ('read_people', 'read_checksums', 'damaged_rows'):
            reading = {name: remove_first(getattr(gallery_tables, name))}
            tables = types.SimpleNamespace(**{**vars(gallery_tables), **reading})
            monkeypatch.setattr(gallery_check, 'gallery_tables', tables)
            found = inspect_gallery(tmp_path)
            assert found.problems == [] and found.faces == 2 and len(refused) == 1
            refused.clear()
        assert gallery.remove('Ada') == 1


def everything(folder):
    """All that a gallery tells of its people."""
    with contextlib.closing(Gallery(folder, SIZE, MODEL)) as gallery:
        known = {name: gallery.person(name) for name in gallery.identities()}
        return repr(known), [gallery.identify(row) for row in np.eye(SIZE)]


def test_a_flipped_bit_of_the_database_is_noticed_or_changes_nothing(
    tmp_path, rng, caplog, monkeypatch
):
    """A name of other letters would be another person's."""
    folder = tmp_path / 'g'
    # and the same times, so the same file and the same bits, in every run
    draw_the_same_numbers(monkeypatch, rng)
    monkeypatch.setattr(gallery_module, 'now', lambda: '2026-01-02T03:04:05+00:00')
    with contextlib.closing(Gallery(folder, SIZE, MODEL)) as gallery:
        terms = ('consent', 'a door', '2099-01-01')
        crops = [rng.bytes(200) for _ in range(3)]
        gallery.enrol(['Ada', 'Bob', 'Ada'], unit(rng, 3), list('abc'), crops, terms=Terms(*terms))
    path = folder / DATABASE
    whole, before = path.read_bytes(), everything(folder)
    used = np.flatnonzero(np.frombuffer(whole, np.uint8))  # most of the file is empty
    noticed = 0
    for byte in rng.choice(used, 250, replace=False):
        bit = 8 * byte + rng.randint(8)
        flip(path, bit)
        caplog.clear()
        try:
            found = inspect_gallery(folder).problems
            after = everything(folder)
        except (InputError, RunError):
            noticed += 1
        else:
            assert found or after == before, f'bit {bit} of {whole.hex()}'
            noticed += bool(found)
        for left in folder.glob(f'{DATABASE}-*'):
            left.unlink()
        path.write_bytes(whole)
    assert noticed > 200
