"""Files are written whole or not at all."""

import contextlib
import errno
import fcntl
import os
import subprocess
import sys
import time
import types
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, scene
from vargfacenet.common import checksums, files
from vargfacenet.common.errors import InputError
from vargfacenet.deploy.gallery import Gallery
from vargfacenet.eval.matrix_file import new_matrix, read_matrix


def test_an_error_leaves_the_old_file_and_no_temporary_one(tmp_path):
    path = tmp_path / 'result.json'
    files.atomic_write(path, 'old')
    with pytest.raises(ZeroDivisionError), files.atomic_path(path) as temporary:
        temporary.write_text('half of the n')
        1 / 0  # noqa: B018
    assert path.read_text() == 'old'
    assert os.listdir(tmp_path) == ['result.json']


def test_a_finished_file_has_ordinary_permissions(tmp_path):
    files.atomic_write(tmp_path / 'ours', b'x')
    (tmp_path / 'plain').write_bytes(b'x')
    assert (tmp_path / 'ours').stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_nobody_else_opens_what_is_being_written(tmp_path):
    """Whoever has a file open reads on when it is shut."""
    modes = []
    for private in (False, True):
        with files.atomic_path(tmp_path / 'ours', private) as temporary:
            temporary.write_bytes(b'x')
            modes.append(temporary.stat().st_mode & 0o777)
        modes.append((tmp_path / 'ours').stat().st_mode & 0o777)
    (tmp_path / 'plain').write_bytes(b'x')
    assert modes == [0o600, (tmp_path / 'plain').stat().st_mode & 0o777, 0o600, 0o600]


@pytest.mark.parametrize('told', [True, False])
def test_threads_that_write_at_once_leave_the_umask_as_it_is(told, tmp_path, monkeypatch):
    """With and without a system that tells it; every call that changes it takes its time."""
    change = os.umask

    def slow_change(mask):
        before = change(mask)
        time.sleep(2e-3)
        return before

    before = change(0o027)
    try:
        monkeypatch.setattr(files.os, 'umask', slow_change)
        if not told:
            monkeypatch.setattr(files, '_STATUS', tmp_path / 'absent')
        with ThreadPoolExecutor(4) as pool:
            paths = [tmp_path / str(number) for number in range(24)]
            list(pool.map(lambda path: files.atomic_write(path, b''), paths))
    finally:
        left = change(before)
    assert left == 0o027
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o640}


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='needs /dev/full')
def test_a_full_disk_is_one_line(monkeypatch, capsys):
    """/dev/full takes no byte: what a full disk answers, through the command frame."""
    from vargfacenet.common import console

    def run(args):
        with open('/dev/full', 'wb', buffering=0) as handle:
            handle.write(b'x')
        return {}

    assert console.command('test', lambda parser: None, run)([]) == 1
    assert os.strerror(errno.ENOSPC) in capsys.readouterr().err


def test_output_folder_must_be_writable(tmp_path):
    assert files.output_folder(tmp_path / 'a' / 'b').is_dir()
    (tmp_path / 'file').write_text('')
    with pytest.raises(InputError, match='cannot write here'):
        files.output_folder(tmp_path / 'file' / 'below')
    with pytest.raises(InputError, match='cannot write here'):
        files.output_folder('/proc/nowhere')


def test_input_file_names_its_role(tmp_path):
    with pytest.raises(InputError, match=r'pair list .* does not exist'):
        files.input_file(tmp_path / 'none', 'pair list')
    with pytest.raises(InputError, match='is a folder'):
        files.input_file(tmp_path, 'pair list')


def test_a_folder_is_kept_until_the_process_ends_even_by_a_kill(tmp_path):
    program = (
        'import sys, time\n'
        'from vargfacenet.common.files import exclusive\n'
        'with exclusive(sys.argv[1]), exclusive(sys.argv[1]):\n'
        '    print("kept", flush=True)\n'
        '    time.sleep(60)\n'
    )
    other = subprocess.Popen(
        [sys.executable, '-c', program, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert other.stdout.readline() == 'kept\n'
        taken = pytest.raises(InputError, match='another command is writing there')
        with taken, files.exclusive(tmp_path):
            raise AssertionError
    finally:
        other.kill()
        other.wait()
        other.stdout.close()
    with files.exclusive(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_leftovers_of_the_dead_go_and_files_of_the_living_stay(tmp_path):
    target, left = tmp_path / 'rows.bin', tmp_path / '.rows.abcd_123.bin'
    others = [tmp_path / '.rows.abcd_123.npz', tmp_path / '.rows2.abcd_123.bin', target]
    for path in (left, *others):
        path.write_bytes(b'x')
    with files.atomic_path(target) as living:
        assert living.exists() and not left.exists()
        living.write_bytes(b'new')
        files._hidden.clear()  # another process comes, and finds the one that is being written
        files.atomic_write(target, b'other')
        assert living.exists()
    assert target.read_bytes() == b'new' and all(path.exists() for path in others)


def test_csv_of_any_system_and_none_that_is_no_csv(tmp_path):
    path = tmp_path / 'groups.csv'
    for end in ('\n', '\r\n', '\r'):
        path.write_bytes(end.join(['person,group', 'Ada,"a, b"', '']).encode())
        rows = [row for row in files.read_csv(path, 'groups') if row]
        assert rows == [['person', 'group'], ['Ada', 'a, b']]
    path.write_text('person,group\nAda,"' + 200_000 * 'a')
    with pytest.raises(InputError, match=r'groups\.csv is no CSV: field larger'):
        files.read_csv(path, 'groups')


@pytest.mark.parametrize('command', ['synth', 'align', 'make-rec', 'clean', 'megaface'])
def test_commands_that_write_a_folder_keep_it(command, tmp_path, run_command):
    """Two at once would each leave a part of what the other needs."""
    photos, out = tmp_path / 'photos', tmp_path / 'out'
    for name in ('a', 'b'):
        (photos / name).mkdir(parents=True)
        (photos / name / '1.png').write_bytes(encoded(scene(0)))
    out.mkdir()
    lists = [f'--{name}{what}=.' for name in ('facescrub', 'megaface') for what in ('', '-root')]
    words = {
        'synth': [out, '--identities', 1, '--images', 1],
        'align': [photos, out],
        'make-rec': [photos, out],
        'clean': [photos, '--out', out, '--model', 'absent,1'],
        'megaface': ['embed', '--model', 'absent,1', '--out', out, '--algo', 'x', *lists],
    }[command]
    other = os.open(out, os.O_RDONLY)  # a lock of its own, as of another process
    try:
        fcntl.flock(other, fcntl.LOCK_EX)
        code, _, errors = run_command(command, *words)
        assert code == 2 and 'another command is writing there' in errors
    finally:
        os.close(other)
    assert list(out.iterdir()) == []


def test_a_folder_is_whole_or_not_there(tmp_path):
    target, left, living = (tmp_path / name for name in ('all', '.all.abcd_123', '.all.abcd_456'))
    for folder in (left, living):
        folder.mkdir()
        (folder / 'frame').touch()
    handle = os.open(living, os.O_RDONLY)  # another process writes there
    fcntl.flock(handle, fcntl.LOCK_EX)
    try:
        with pytest.raises(ZeroDivisionError), files.atomic_folder(target):
            assert living.exists() and not left.exists()
            1 / 0  # noqa: B018
        assert os.listdir(tmp_path) == [living.name]
        with files.atomic_folder(target) as made:
            (made / 'one').touch()
    finally:
        os.close(handle)
    assert sorted(os.listdir(tmp_path)) == [living.name, 'all'] and os.listdir(target) == ['one']
    (tmp_path / 'plain').mkdir()
    assert target.stat().st_mode == (tmp_path / 'plain').stat().st_mode


def test_what_was_reserved_goes_after_a_kill(tmp_path):
    """A feature file gets all its room at first; a kill leaves it, the next run gives it back."""
    program = (
        'import sys, time\n'
        'from vargfacenet.eval.matrix_file import new_matrix\n'
        'with new_matrix(sys.argv[1], 1000, 256):\n'
        '    print("reserved", flush=True)\n'
        '    time.sleep(60)\n'
    )
    words = [sys.executable, '-c', program, str(tmp_path / 'features.bin')]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout.readline() == 'reserved\n'
        other.kill()
    (left,) = tmp_path.iterdir()
    assert left.name.startswith('.features.') and left.stat().st_blocks * 512 >= 1000 * 1024
    with new_matrix(tmp_path / 'features.bin', 1, 2):
        assert not left.exists()
    assert sorted(os.listdir(tmp_path)) == ['checksums.json', 'features.bin']


def test_what_a_path_is(tmp_path):
    """A dangling link is there, and a file in place of a folder is no 'File exists'."""
    link, pipe, file = tmp_path / 'link', tmp_path / 'pipe', tmp_path / 'file'
    link.symlink_to('nowhere')
    os.mkfifo(pipe)
    file.touch()
    said = {
        tmp_path / 'nothing': 'does not exist',
        link: 'is a symbolic link to nowhere, which does not exist',
        pipe: 'is no ordinary file',
        tmp_path: 'is a folder',
        file: 'is a file',
    }
    assert {path: files.state_of(path) for path in said} == said
    with pytest.raises(InputError, match=r'^photo .*link is a symbolic link to nowhere, which'):
        files.input_file(link, 'photo')
    for path, reason in ((file, 'is a file'), (link, 'is a symbolic link to nowhere')):
        with pytest.raises(InputError, match=rf'cannot write here \({reason}'):
            files.output_folder(path)


def test_a_circle_of_links_has_an_end(tmp_path):
    """Of which `Path.resolve` makes a RuntimeError up to Python 3.12."""
    (tmp_path / 'circle').symlink_to('circle')
    assert files.real_path(tmp_path / 'circle') == files.real_path(tmp_path) / 'circle'
    (tmp_path / 'link').symlink_to('folder')
    (tmp_path / 'folder').mkdir()
    assert files.real_path(tmp_path / 'link') == (tmp_path / 'link').resolve()
    with pytest.raises(InputError, match='cannot write here'):
        files.output_folder(tmp_path / 'circle')


def test_an_error_names_the_file_that_was_asked_for(tmp_path):
    (tmp_path / 'a.npz').mkdir()
    for path in (tmp_path / 'a.npz', Path('/proc/a.npz')):
        with pytest.raises(OSError, match=r'npz') as error:
            files.atomic_write(path, 'x')
        assert error.value.filename == str(path)
    assert os.listdir(tmp_path) == ['a.npz']
    # another file's error keeps its name
    with pytest.raises(FileNotFoundError) as error, files.atomic_path(tmp_path / 'b') as temporary:
        (temporary.parent / 'other').read_bytes()
    assert error.value.filename == str(tmp_path / 'other')


def test_empty_folders_that_were_made_go_and_others_stay(tmp_path):
    (tmp_path / 'mine').mkdir()
    with pytest.raises(ZeroDivisionError), files.empty_folders_removed():
        files.output_folder(tmp_path / 'mine')
        files.output_file(tmp_path / 'full' / 'empty' / 'deep' / 'x')
        files.output_file(tmp_path / 'taken' / 'x')
        (tmp_path / 'full' / 'y').touch()
        (tmp_path / 'taken').rmdir()  # by another command, which failed
        files.atomic_write(tmp_path / 'taken' / 'x', 'all the same')
        1 / 0  # noqa: B018
    left = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob('*')}
    assert left == {'mine', 'full', 'full/y', 'taken', 'taken/x'}


def test_names_that_no_file_can_have_leave_no_folder_behind(tmp_path):
    long = 300 * 'x'
    for name in (f'new/{long}', 'new/a\0b', f'new/{long}/deep'):
        with pytest.raises(InputError), files.empty_folders_removed():
            files.output_folder(tmp_path / name)
        with pytest.raises(InputError), files.empty_folders_removed():
            files.output_file(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_folder_made_for_a_file_that_failed_goes_with_it(tmp_path):
    made = files.atomic_path(tmp_path / 'a' / 'b' / 'file')
    with pytest.raises(ZeroDivisionError), files.empty_folders_removed(), made:
        raise ZeroDivisionError
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize('is_packed', [False, True])
def test_a_file_that_is_packed_on_its_disk_is_none_of_holes(is_packed, tmp_path, monkeypatch):
    """As file systems that compress give few blocks, and some none before a file is on the disk."""
    monkeypatch.setattr(files.limits, 'HOLES', 1 << 20)
    path, stat_of = tmp_path / 'file', os.stat
    with open(path, 'wb') as file:
        file.write(b'1' * (1 << 20))
        file.seek(2 << 20)
        file.write(b'1' * (1 << 20))
    if is_packed:

        def packed(*words, **options):
            size = stat_of(*words, **options).st_size
            return types.SimpleNamespace(st_size=size, st_blocks=8)

        monkeypatch.setattr(os, 'stat', packed)
    files.check_holes(path)  # 3 MB, two of which are there
    os.truncate(path, 5 << 20)
    files.check_holes(path)
    os.truncate(path, 6 << 20)
    with pytest.raises(InputError, match='6 MB by its length, of which 2 MB are on the disk'):
        files.check_holes(path)


def test_room_that_is_kept_for_a_file_is_no_hole(tmp_path, monkeypatch):
    monkeypatch.setattr(files.limits, 'HOLES', 1 << 20)
    path = tmp_path / 'file'
    with open(path, 'wb') as file:
        os.posix_fallocate(file.fileno(), 0, 8 << 20)
    files.check_holes(path)


def test_files_that_grow_are_made_where_no_room_can_be_kept(tmp_path, monkeypatch):
    """macOS, on which galleries and files of embeddings are written as well."""
    monkeypatch.delattr(os, 'posix_fallocate')
    rows = np.eye(2, 32, dtype=np.float32)
    with new_matrix(tmp_path / 'a.bin', *rows.shape) as matrix:
        matrix[:] = rows
    np.testing.assert_array_equal(read_matrix(tmp_path / 'a.bin'), rows)
    gallery = Gallery(tmp_path / 'people', 32, 'model')
    gallery.enrol(['Ada', 'Bob'], rows)
    gallery.rekey()
    gallery.enrol(['Cy'] * 2, -rows)
    gallery.close()
    with contextlib.closing(Gallery(tmp_path / 'people', 32, 'model')) as again:
        found = [again.identify(row)[0].identity for row in (*rows, *-rows)]
    assert found == ['Ada', 'Bob', 'Cy', 'Cy']


def test_what_is_written_here_is_not_refused_when_it_is_noted(tmp_path, monkeypatch):
    """Rows of zeros may stay holes; the list tells of them, and whoever reads it is told."""
    monkeypatch.setattr(files.limits, 'HOLES', 1 << 20)
    path = tmp_path / 'file'
    with checksums.noted(path), open(path, 'wb') as file:
        file.truncate(8 << 20)
    assert checksums.listed(tmp_path) == {'file': zlib.crc32(bytes(8 << 20))}
    with pytest.raises(InputError, match='of which 0 MB are on the disk'):
        checksums.agrees(path)


def test_what_is_read_is_not_replaced(tmp_path):
    (tmp_path / 'list.txt').write_text('a\n')
    (tmp_path / 'link').symlink_to(tmp_path)
    assert files.output_file(tmp_path / 'out', [tmp_path / 'list.txt']) == tmp_path / 'out'
    for other in (tmp_path / 'list.txt', tmp_path / 'link' / 'list.txt'):
        with pytest.raises(InputError, match='is what is read'):
            files.output_file(other, ['-', tmp_path / 'list.txt'])
