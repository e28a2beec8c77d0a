"""Sealed galleries: what lies on the disk, whose key opens it, and what a kill leaves."""

import collections
import contextlib
import errno
import hashlib
import hmac
import io
import multiprocessing
import os
import pty
import random
import resource
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time

import numpy as np
import pytest
from conftest import ROOT
from vargfacenet.common.data.image import encode_jpeg
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.common.files import write_secret
from vargfacenet.deploy import sealing
from vargfacenet.deploy.gallery import DATABASE, Gallery
from vargfacenet.deploy.gallery_matrix import MATRIX
from vargfacenet.deploy.gallery_records import Terms
from vargfacenet.deploy.sealing import Key, make_key, read_key, read_passphrase
from vargfacenet.deploy.web_access import read_or_make_token

SIZE = 32
MODEL = 'a' * 64
KEY, OTHER = Key('file', bytes(range(32))), Key('file', bytes(32))
TERMS = Terms('signed consent', 'door of house nine')
NAMES = ('Ada Lovelace', 'Grace Hopper', 'Mary Somerville')
SOURCE = 'photographs/of-somebody.jpg'


def unit(rng, count, size=SIZE):
    rows = rng.randn(count, size).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def pictures(rng, count):
    return [encode_jpeg(rng.randint(0, 256, (112, 112, 3)).astype(np.uint8)) for _ in range(count)]


def filled(folder, rng, key):
    rows, crops = unit(rng, 3), pictures(rng, 3)
    gallery = Gallery(folder, SIZE, MODEL, key=key)
    gallery.enrol(NAMES, rows, [SOURCE] * 3, crops, terms=TERMS)
    gallery.note('identify', people=[gallery.identify(rows[0])[0].person], outcome='match')
    return gallery, rows, crops


def leaks(folder, rows, crops, names=NAMES):
    """What of faces and people can be read in the files of a folder, by kind."""
    content = b'\0'.join(path.read_bytes() for path in sorted(folder.rglob('*')) if path.is_file())
    templates = rows.tobytes()
    secrets = {
        'template': [templates[start : start + 16] for start in range(0, len(templates), 16)],
        'crop': [b'JFIF', *(crop[start : start + 64] for crop in crops for start in (0, 700))],
        'name': [name.encode() for name in names],
        'terms': [text.encode() for text in TERMS if text],
        'source': [SOURCE.encode()],
    }
    return {kind for kind, texts in secrets.items() if any(text in content for text in texts)}


def test_nothing_of_a_sealed_gallery_can_be_read(tmp_path, rng):
    for key, expected in (
        (None, {'template', 'crop', 'name', 'terms', 'source'}),
        (KEY, set()),
    ):
        folder = tmp_path / str(key is None)
        gallery, rows, crops = filled(folder, rng, key)
        gallery.close()
        assert leaks(folder, rows, crops) == expected


def test_a_sealed_gallery_answers_as_an_open_one(tmp_path, rng):
    state = rng.get_state()
    found = []
    for key in (None, KEY):
        rng.set_state(state)
        gallery, rows, crops = filled(tmp_path / str(key is None), rng, key)
        gallery.close()
        gallery = Gallery(tmp_path / str(key is None), key=key)
        matches = gallery.identify(rows[1], 3)
        assert gallery.crop(NAMES[2]) == crops[2] and gallery.crop('nobody') is None
        _, person, faces = gallery.person(NAMES[0])
        assert person.terms == TERMS and faces[0].record.source == SOURCE
        np.testing.assert_array_equal(faces[0].embedding, rows[0])
        found.append(([match[:3] for match in matches], gallery.identities()))
        gallery.close()
    assert found[0] == found[1] and found[0][0][0][:1] == (NAMES[1],)


def test_the_key_is_derived_as_the_standards_say():
    """scrypt by hashlib (RFC 7914), HKDF by two lines of HMAC (RFC 5869, one block)."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    salt, secret = os.urandom(16), b'twelve words or five, as you like'
    key = hashlib.scrypt(secret, salt=salt, n=1 << 17, r=8, p=1, maxmem=1 << 28, dklen=32)
    sealed = Key('passphrase', secret).codec(salt).seal(b'content')
    assert AESGCM(key).decrypt(sealed[:12], sealed[12:], None) == b'content'
    extracted = hmac.digest(salt, KEY.secret, 'sha256')
    key = hmac.digest(extracted, b'vargfacenet gallery\x01', 'sha256')
    sealed = KEY.codec(salt).seal(b'content')
    assert AESGCM(key).decrypt(sealed[:12], sealed[12:], None) == b'content'


def test_two_galleries_of_one_key_have_nothing_in_common(tmp_path, rng):
    """Unlinkable: the same faces under the same key, and no 16 bytes that are in both."""
    rows = unit(rng, 3)
    contents = []
    for folder in ('a', 'b'):
        gallery = Gallery(tmp_path / folder, SIZE, MODEL, key=KEY)
        gallery.enrol(NAMES, rows)
        gallery.close()
        contents.append((tmp_path / folder / MATRIX).read_bytes()[: 3 * gallery._file.width])
    first = {contents[0][start : start + 16] for start in range(len(contents[0]) - 15)}
    assert not any(contents[1][start : start + 16] in first for start in range(len(contents[1])))


def test_only_its_key_opens_a_gallery(tmp_path, rng):
    gallery, _, _ = filled(tmp_path / 'g', rng, KEY)
    gallery.close()
    for key, message in (
        (None, r'is sealed .* give --key-file or --passphrase'),
        (OTHER, 'another key'),
        (Key('passphrase', b'x' * 20), 'sealed by HKDF-SHA256 of a key file, not by scrypt'),
    ):
        with pytest.raises(InputError, match=message):
            Gallery(tmp_path / 'g', key=key)
    gallery, _, _ = filled(tmp_path / 'plain', rng, None)
    gallery.close()
    with pytest.raises(InputError, match=r'is not sealed: .* rekey'):
        Gallery(tmp_path / 'plain', key=KEY)


def test_a_row_that_is_moved_to_another_person_does_not_open(tmp_path, rng, caplog):
    """Who can write and has no key makes nobody look like somebody else."""
    gallery, rows, _ = filled(tmp_path / 'g', rng, KEY)
    width = gallery._file.width
    gallery.close()
    path = tmp_path / 'g' / MATRIX
    content = path.read_bytes()
    moved = content[width : 2 * width] + content[:width] + content[2 * width :]
    for changed, lost in ((moved, NAMES[:2]), (bytes(width) + content[width:], NAMES[:1])):
        path.write_bytes(changed)
        caplog.clear()
        with contextlib.closing(Gallery(tmp_path / 'g', key=KEY)) as gallery:
            assert f'{len(lost)} rows are not what was enrolled' in caplog.text
            assert f'of {", ".join(lost)}; remove these people' in caplog.text
            found = {match.identity for row in rows for match in gallery.identify(row)}
            assert found == set(NAMES) - set(lost)
            (face,) = gallery.person(NAMES[0])[2]
            assert face.embedding is None and face.damaged == ('embedding',)
            with pytest.raises(InputError, match='sealed they would seem whole'):
                gallery.rekey(OTHER)


def test_a_sealed_face_that_is_damaged_is_not_sealed_anew(tmp_path, rng):
    gallery, rows, _ = filled(tmp_path / 'g', rng, KEY)
    gallery._database.execute('UPDATE faces SET record = zeroblob(300) WHERE row = 1')
    with pytest.raises(InputError, match=f'of row 1 is damaged; remove {NAMES[1]}'):
        gallery.rekey(OTHER)
    gallery.remove(NAMES[1])
    gallery.rekey(OTHER)
    gallery.close()
    with contextlib.closing(Gallery(tmp_path / 'g', key=OTHER)) as gallery:
        assert gallery.identify(rows[0], 1)[0].identity == NAMES[0]


@pytest.mark.parametrize('first', [None, KEY])
def test_sealing_anew(first, tmp_path, rng):
    folder = tmp_path / 'g'
    gallery, rows, crops = filled(folder, rng, first)
    gallery.remove(NAMES[1])
    other = Gallery(folder, key=first)
    old = {path.name: path.read_bytes() for path in folder.iterdir()}
    gallery.rekey(OTHER)
    assert gallery.identify(rows[2], 1)[0].identity == NAMES[2]
    with pytest.raises(RunError, match='sealed anew meanwhile; open it again'):
        other.identify(rows[0])
    other.close()
    gallery.enrol(['Emmy'], unit(rng, 1))
    gallery.close()
    assert leaks(folder, rows, crops) == set()
    assert not (folder / MATRIX).exists()
    new = b''.join(path.read_bytes() for path in folder.iterdir())
    parts = {old[MATRIX][start : start + 16] for start in range(0, 3 * SIZE * 4, 16)}
    assert not any(part in new for part in parts - {bytes(16)})
    with pytest.raises(InputError):
        Gallery(folder, key=first)
    gallery = Gallery(folder, key=OTHER)
    assert (
        gallery._database.execute('SELECT * FROM checksums').fetchall() == []
    )  # they tell of rows
    assert gallery.identities() == {NAMES[0]: 1, 'Emmy': 1, NAMES[2]: 1}
    assert gallery.crop(NAMES[0]) == crops[0] and gallery.identify(rows[0])[0].cosine > 0.99999
    _, person, _ = gallery.person(NAMES[2])
    assert person.terms == TERMS
    gallery.rekey()  # open from now on, and its rows have checksums
    gallery.close()
    gallery = Gallery(folder)
    assert len(gallery._database.execute('SELECT * FROM checksums').fetchall()) == 3
    assert gallery.identify(rows[2], 1)[0].identity == NAMES[2]
    gallery.close()


WORK = """
import random, sys
import numpy as np
from vargfacenet.deploy.gallery import Gallery
from vargfacenet.deploy.sealing import Key
folder, key, crop = sys.argv[1], bytes.fromhex(sys.argv[2]), bytes.fromhex(sys.argv[3])
rows = np.load(sys.argv[4])
gallery = Gallery(folder, rows.shape[1], 'a' * 64, key=Key('file', key) if key else None)
if key:
    print('ready', flush=True)
for turn in range(10**9):
    names = [f'secret-name-{random.randrange(40)}' for _ in range(4)]
    chosen = random.sample(range(len(rows)), 4)
    gallery.enrol(names, rows[chosen], ['photographs/of-somebody.jpg'] * 4, [crop] * 4)
    gallery.remove(random.choice(names))
    if key and turn % 5 == 4:
        gallery.rekey(Key('file', key))
    if not key and not turn:
        print('ready', flush=True)  # there is something to be found
"""


def killed(folder, key, rows, crop):
    """Change a gallery in another process, and kill it at a random moment."""
    np.save(folder.parent / 'rows.npy', rows)
    secret = key.secret.hex() if key else ''
    script = [sys.executable, '-c', WORK, folder, secret, crop.hex(), folder.parent / 'rows.npy']
    environment = {**os.environ, 'TMPDIR': str(folder / '.tmp'), 'SQLITE_TMPDIR': str(folder)}
    child = subprocess.Popen(
        list(map(str, script)), stdout=subprocess.PIPE, cwd=ROOT.parent, env=environment
    )
    assert child.stdout.readline() == b'ready\n'
    time.sleep(random.uniform(0.01, 0.5))
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    child.stdout.close()


def check_kills(tmp_path, rng, times):
    rows, crops = unit(rng, 200, 64), pictures(rng, 1)
    folder = tmp_path / 'sealed'
    (folder / '.tmp').mkdir(parents=True)
    for _ in range(times):
        killed(folder, KEY, rows, crops[0])
        assert leaks(folder, rows, crops, ['secret-name']) == set()
        gallery = Gallery(folder, key=KEY)  # whole, as every kept face and record opens
        for name, count in gallery.identities().items():
            assert len(gallery.person(name)[2]) == count
        gallery.close()
    assert leaks(folder, rows, crops, ['secret-name']) == set()


def test_a_kill_leaves_nothing_that_can_be_read(tmp_path, rng):
    check_kills(tmp_path, rng, 3)
    # and the same in an open gallery is found, so the search finds what there is
    (tmp_path / 'open' / '.tmp').mkdir(parents=True)
    rows, crops = unit(rng, 200, 64), pictures(rng, 1)
    killed(tmp_path / 'open', None, rows, crops[0])
    assert {'template', 'name'} <= leaks(tmp_path / 'open', rows, crops, ['secret-name'])


@pytest.mark.slow
def test_fifty_kills(tmp_path, rng):
    check_kills(tmp_path, rng, 50)


def test_key_files(tmp_path, caplog):
    make_key(tmp_path / 'key')
    assert stat.S_IMODE((tmp_path / 'key').stat().st_mode) == 0o600
    key = read_key(tmp_path / 'key', tmp_path / 'gallery')
    assert len(key.secret) == 32 and key.secret != read_key_of_new(tmp_path / 'second')
    with pytest.raises(InputError, match='never replaced'):
        make_key(tmp_path / 'key')
    with pytest.raises(InputError, match='lies in the gallery'):
        read_key(tmp_path / 'key', tmp_path)
    (tmp_path / 'short').write_bytes(b'hunter2')
    with pytest.raises(InputError, match='7 bytes; expected 32'):
        read_key(tmp_path / 'short')
    with pytest.raises(InputError, match='does not exist'):
        read_key(tmp_path / 'none')
    assert not caplog.text
    (tmp_path / 'key').chmod(0o640)
    read_key(tmp_path / 'key')
    assert 'can be read by others' in caplog.text


def read_key_of_new(path):
    make_key(path)
    return read_key(path).secret


def test_passphrases(monkeypatch):
    monkeypatch.delenv(sealing.PASSPHRASE, raising=False)
    monkeypatch.setattr('sys.stdin', io.StringIO())
    with pytest.raises(InputError, match='no passphrase'):
        read_passphrase(is_new=False)
    monkeypatch.setenv(sealing.PASSPHRASE, 'short')
    assert read_passphrase(is_new=False).secret == b'short'
    with pytest.raises(InputError, match='soon guessed'):
        read_passphrase(is_new=True)
    monkeypatch.setenv(sealing.PASSPHRASE, 'correct horse battery staple')
    assert read_passphrase(is_new=True).kind == 'passphrase'
    for words in (
        b'p\xe4ssw\xf6rter von frueher',
        'pässwörter von heute'.encode(),
    ):  # Latin-1, UTF-8
        monkeypatch.setenv(sealing.PASSPHRASE, os.fsdecode(words))
        assert read_passphrase(is_new=True).secret == words


@pytest.mark.parametrize(
    ('typed', 'message'),
    [
        (b'\4', 'no passphrase was given'),  # Ctrl-D
        (b'p\xe4ssw\xf6rter\n', f'set {sealing.PASSPHRASE}, which takes any bytes'),  # Latin-1
    ],
)
def test_a_passphrase_that_is_not_given_at_the_terminal(typed, message, monkeypatch, tmp_path):
    main, terminal = pty.openpty()
    words = [sys.executable, '-m', 'vargfacenet', 'gallery', 'list', '--gallery', str(tmp_path)]
    Gallery(tmp_path, SIZE, MODEL).close()
    monkeypatch.delenv(sealing.PASSPHRASE, raising=False)
    monkeypatch.setenv('PYTHONIOENCODING', 'utf-8:strict')  # as getpass opens a terminal
    with subprocess.Popen(
        [*words, '--passphrase'],
        stdin=terminal,
        stdout=terminal,
        stderr=subprocess.PIPE,
        start_new_session=True,  # without the terminal of whoever runs this
        cwd=ROOT.parent,
    ) as process:
        asked = b''
        while not asked.endswith(b'gallery: '):  # what is typed before is thrown away
            asked += os.read(process.stderr.fileno(), 1000) or pytest.fail(asked.decode())
        os.write(main, typed)
        told = process.stderr.read().decode().splitlines()
    assert process.returncode == 2 and told[-1].endswith(message), told
    assert 'Traceback' not in ''.join(told)
    for handle in (main, terminal):
        os.close(handle)


def test_a_secret_that_the_disk_does_not_take_leaves_no_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20, limits[1]))
    try:
        with pytest.raises(InputError, match='key: cannot write here'):
            make_key(tmp_path / 'key')
        with pytest.raises(InputError, match='token: File too large'):
            read_or_make_token(tmp_path / 'token')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not os.listdir(tmp_path)


_KILLED = """
import resource, signal, sys
from vargfacenet.deploy.sealing import make_key
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # kills whoever writes more
for limit in (resource.RLIMIT_CORE, resource.RLIMIT_FSIZE):
    resource.setrlimit(limit, (0, 0))
make_key(sys.argv[1])
"""


def test_a_kill_in_the_middle_leaves_no_key_without_its_bytes(tmp_path):
    done = subprocess.run([sys.executable, '-B', '-c', _KILLED, tmp_path / 'key'], cwd=ROOT.parent)
    assert done.returncode == -signal.SIGXFSZ
    assert not (tmp_path / 'key').exists()
    assert len(read_key_of_new(tmp_path / 'key')) == 32
    assert os.listdir(tmp_path) == ['key']
    assert stat.S_IMODE((tmp_path / 'key').stat().st_mode) == 0o600


def test_a_secret_is_seen_whole_or_not_at_all(tmp_path):
    path, content = tmp_path / 'secret', bytes(16 << 20)
    writer = threading.Thread(target=write_secret, args=(path, content))
    writer.start()
    while writer.is_alive() and not path.exists():
        pass
    assert path.stat().st_size == len(content)
    writer.join()


def _tokens_in_step(folder, barrier, found):
    for number in range(_TURNS):
        barrier.wait()
        found.put((number, read_or_make_token(f'{folder}/{number}')))


_TURNS = 100


def test_servers_that_start_at_once_have_one_token(tmp_path):
    context = multiprocessing.get_context('fork')
    barrier, found = context.Barrier(3), context.SimpleQueue()
    servers = [
        context.Process(target=_tokens_in_step, args=(tmp_path, barrier, found)) for _ in range(3)
    ]
    for server in servers:
        server.start()
    for server in servers:
        server.join(60)
        assert server.exitcode == 0
    tokens, new = collections.defaultdict(set), collections.Counter()
    while not found.empty():
        number, (token, is_new) = found.get()
        tokens[number].add(token)
        new[number] += is_new
    assert all(len(each) == 1 for each in tokens.values()) and new == dict.fromkeys(tokens, 1)
    assert len(tokens) == _TURNS == len(os.listdir(tmp_path))


def test_a_key_in_a_folder_that_is_not_listed():
    with tempfile.TemporaryDirectory() as folder:  # that of tmp_path is root's
        if os.geteuid() == 0:
            os.chown(folder, _NOBODY, _NOBODY)
        os.chmod(folder, 0o300)
        try:
            if os.getuid() == 0:
                os.seteuid(_NOBODY)
            with pytest.raises(PermissionError):
                os.listdir(folder)
            assert len(read_key_of_new(f'{folder}/key')) == 32
        finally:
            os.seteuid(os.getuid())
            os.chmod(folder, 0o700)


_NOBODY = 65534


def test_a_disk_without_links_takes_a_key_once(monkeypatch, tmp_path):
    def link(*names):
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, 'link', link)
    secret = read_key_of_new(tmp_path / 'key')
    with pytest.raises(InputError, match='is there already'):
        make_key(tmp_path / 'key')
    assert read_key(tmp_path / 'key').secret == secret and os.listdir(tmp_path) == ['key']


@pytest.mark.slow
def test_a_sealed_gallery_of_a_hundred_thousand_is_searched_as_fast(tmp_path, rng):
    rows = unit(rng, 100_000, 512)
    galleries = [Gallery(tmp_path / str(key is None), 512, MODEL, key=key) for key in (None, KEY)]
    for gallery in galleries:
        gallery.enrol([f'p{number // 2}' for number in range(len(rows))], rows)
        gallery.identify(rows[0])
    seconds = np.empty((2, 100))
    for turn in range(100):
        for which in (0, 1) if turn % 2 else (1, 0):
            started = time.perf_counter()
            match = galleries[which].identify(rows[turn], 5)[0]
            seconds[which, turn] = time.perf_counter() - started
            assert match.identity == f'p{turn // 2}'
    for gallery in galleries:
        gallery.close()
    plain, sealed = np.median(seconds, axis=1)
    print(f'open {1e3 * plain:.1f} ms, sealed {1e3 * sealed:.1f} ms: {sealed / plain:.3f} times')
    assert sealed < 1.1 * plain


def test_other_files_do_not_get_the_database(tmp_path, rng):
    gallery, _, _ = filled(tmp_path / 'g', rng, KEY)
    gallery.close()
    assert {path.name for path in (tmp_path / 'g').iterdir()} == {
        DATABASE,
        MATRIX,
        'decisions.jsonl',
        'decisions.jsonl.head',
    }
