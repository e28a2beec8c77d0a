"""Full disks, signals, power cuts and dead processes, in the commands as users run them."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import unittest.mock
from pathlib import Path

import numpy as np
import pytest
from child_processes import blocks_ctrl_c, children
from conftest import ROOT
from deploy_models import portrait, write_checkpoint
from pair_sets import pair_images, write_bin
from pictures import corrupted, encoded, write_folder
from vargfacenet.__main__ import main
from vargfacenet.common import files
from vargfacenet.common.checked_json import read_checked
from vargfacenet.common.data.recordio import write_face_records
from vargfacenet.common.data.store_file import HEADER_BYTES
from vargfacenet.common.errors import RunError
from vargfacenet.deploy.bench.child import Worker
from vargfacenet.deploy.bench.child import command as child_command

NO_SPACE = 'No space left on device'
NOTICED = 10.0  # seconds until whoever waits for a dead process says so


@pytest.fixture(scope='module')
def inputs(tmp_path_factory):
    """A training set, a pair set, crops and a checkpoint."""
    folder = tmp_path_factory.mktemp('inputs')
    data = folder / 'data'
    data.mkdir()
    faces = [[encoded(portrait(i, k)) for k in range(4)] for i in range(4)]
    write_face_records(data / 'train', faces)
    write_bin(data / 'pairs.bin', *pair_images(np.random.RandomState(2)))
    write_folder(folder / 'people', np.random.RandomState(3), {'Ada': 3, 'Bob': 2})
    (folder / 'model').mkdir()
    write_checkpoint(folder / 'model')
    return folder


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 2 MB in memory, for whoever may mount one."""
    place = tmp_path / 'small'
    place.mkdir()
    mount = ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', str(place)]
    if not shutil.which('mount') or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip('may not mount a disk')
    yield place
    subprocess.run(['umount', str(place)], check=True)


def fill(disk, left):
    """Leave `left` bytes of a disk free."""
    with open(disk / 'full', 'wb', buffering=0) as handle:
        free = os.statvfs(disk)
        handle.write(bytes(max(free.f_bavail * free.f_bsize - left, 0)))


def words_of(command, inputs, disk):
    model = ['--model', f'{inputs}/model/model,3']
    if command == 'verify':
        pairs = ['--target', f'{inputs}/data/pairs.bin', '--save', f'{disk}/verify.npz']
        return ['verify', *model, *pairs]
    if command == 'embed':
        out = ['--out', f'{disk}/rows.npz', '--faces', 'crop']
        return ['embed', f'{inputs}/people', *model, *out]
    if command == 'teach':
        shutil.copytree(inputs / 'data', disk / 'data', ignore=lambda *_: ['pairs.bin'])
        return ['teach', '--data-dir', f'{disk}/data', '--teacher', f'{inputs}/model/model,3']
    if command == 'export':
        return ['export', *model, '--out', f'{disk}/export']
    photograph = f'{inputs}/face.jpg'
    Path(photograph).write_bytes(encoded(portrait(0, size=250)))
    return ['gallery', 'enrol', 'Ada', photograph, '--gallery', f'{disk}/people', *model]


@pytest.mark.parametrize('command', ['verify', 'embed', 'teach', 'export', 'gallery'])
def test_a_full_disk_is_one_line_with_file_and_device(command, inputs, small_disk, capsys):
    words = words_of(command, inputs, small_disk)
    fill(small_disk, 4096)
    before = set(small_disk.rglob('*'))
    assert main(words) in (1, 2)
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith(f'vargfacenet {command}') and str(small_disk) in line
    said = 'gallery.sqlite: database or disk is full' if command == 'gallery' else NO_SPACE
    assert said in line and f'tmpfs on {small_disk}' in line
    left = {path for path in small_disk.rglob('*') if path.is_file()} - before
    if command == 'teach':  # goes on with what it has
        left = {path for path in left if path.suffix != '.part'}
    if command != 'gallery':  # an empty one
        assert not left
    (small_disk / 'full').unlink()
    assert main(words) == 0


def test_teach_leaves_nothing_among_photographs(inputs, tmp_path, run_command):
    photo = tmp_path / 'photos' / 'Ada' / '1.jpg'
    photo.parent.mkdir(parents=True)
    photo.write_bytes(encoded(portrait(0, size=250)))
    words = ['teach', '--data-dir', tmp_path / 'photos', '--teacher', f'{inputs}/model/model,3']
    code, _, errors = run_command(*words)
    assert code == 2 and f'`vargfacenet align {tmp_path}/photos crops`' in errors
    assert [path.name for path in (tmp_path / 'photos').iterdir()] == ['Ada']


def test_clean_says_where_there_is_no_room_for_embeddings(
    inputs, small_disk, tmp_path, monkeypatch, run_command
):
    faces = write_folder(tmp_path / 'faces', np.random.RandomState(4), {'Ada': 20, 'Bob': 20})
    words = ['clean', faces, '--model', f'{inputs}/model/model,3', '--out', tmp_path / 'out']
    monkeypatch.setattr('tempfile.tempdir', str(small_disk))
    fill(small_disk, 4096)  # 40 rows of 32 numbers take two pages
    code, _, errors = run_command(*words)
    assert code == 1 and f'{small_disk}: {NO_SPACE}' in errors and not (tmp_path / 'out').exists()
    (small_disk / 'full').unlink()
    assert run_command(*words)[0] == 0


FILLED = """
import os, sys
import numpy as np
from vargfacenet.common.errors import RunError
from vargfacenet.deploy.gallery import Gallery

folder, size = sys.argv[1], int(sys.argv[2])
gallery, rows = Gallery(folder, size, 'model'), np.eye(size, dtype=np.float32)
gallery.enrol(['Ada', 'Bob', 'Cy'], rows[:3])
gallery.remove('Bob')
with open(folder + '/../full', 'wb', buffering=0) as handle:
    handle.write(bytes(1 << 22))  # as much of it as there is room for
for opened in (gallery, Gallery(folder, size, 'model')):
    assert opened.identify(rows[0])[0].identity == 'Ada'
    try:
        opened.enrol(['Dan'] * 2000, np.repeat(rows[3:4], 2000, axis=0))
    except RunError as error:
        assert folder in str(error)
    assert opened.identities() == {'Ada': 1, 'Cy': 1}
print('whole')
"""


@pytest.mark.parametrize('size', [32, 768])
def test_a_gallery_on_a_full_disk_in_memory_can_be_read(size, small_disk):
    """Also those of its rows that nobody has: they are looked at, and a mapped byte without room
    ended the process by SIGBUS."""
    words = [sys.executable, '-c', FILLED, f'{small_disk}/people', str(size)]
    done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0 and done.stdout == 'whole\n', (done.returncode, done.stderr[-800:])


def test_the_device_of_a_path(tmp_path):
    assert files.device_of('/proc/self/status').endswith(' on /proc')
    assert files.device_of(tmp_path / 'no' / 'such').rpartition(' on ')[2] in map(
        str, [tmp_path, *tmp_path.parents]
    )


# --- power cuts


@pytest.mark.skipif(not shutil.which('strace'), reason='needs strace')
@pytest.mark.parametrize('what', ['atomic', 'teach'])
def test_a_folder_is_on_the_disk_after_a_rename(what, inputs, tmp_path):
    """In the order of the system calls: file synced, renamed, folder synced."""
    if what == 'atomic':
        target = tmp_path / 'result.json'
        program = (
            'from vargfacenet.common.files import atomic_write\n'
            f'atomic_write({str(target)!r}, "x")\n'
        )
        words = ['-c', program]
    else:
        data = shutil.copytree(inputs / 'data', tmp_path / 'data')
        words = ['-m', 'vargfacenet', 'teach', '--data-dir', str(data)]
        words += ['--teacher', f'{inputs}/model/model,3']
    trace = tmp_path / 'trace'
    calls = 'trace=fsync,rename,renameat,renameat2'
    strace = ['strace', '-f', '-y', '-o', str(trace), '-e', calls]
    done = subprocess.run([*strace, sys.executable, *words], cwd=ROOT.parent, capture_output=True)
    if b'PTRACE' in done.stderr or b'ptrace' in done.stderr:
        pytest.skip('may not trace')
    assert done.returncode == 0, done.stderr
    folder = (target if what == 'atomic' else data / 'x').parent
    seen = []
    for line in trace.read_text().splitlines():
        match = re.search(r'(fsync|rename\w*)\((.*)', line)
        if not match or str(folder) not in match[2]:
            continue
        if match[1] != 'fsync':
            seen.append('rename')
        else:
            seen.append('folder' if f'<{folder}>' in match[2] else 'file')
    assert seen[-3:] == ['file', 'rename', 'folder']


# --- signals

LONG = """
import sys, time
from vargfacenet.common import console
from vargfacenet.common.files import atomic_path
def run(args):
    with atomic_path(sys.argv[1]) as temporary:
        temporary.write_text('half')
        print('begun', flush=True)
        time.sleep(60)
raise SystemExit(console.command('long', lambda parser: None, run)([]))
"""


@pytest.mark.parametrize('number', [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_signal_ends_any_command_and_takes_back_what_is_half_written(
    number, tmp_path, default_signals
):
    run = subprocess.Popen(
        [sys.executable, '-c', f'__doc__ = ""\n{LONG}', str(tmp_path / 'out')],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout.readline() == 'begun\n'
    run.send_signal(number)
    _, errors = run.communicate(timeout=NOTICED)
    assert run.returncode == 128 + number
    assert errors == 'vargfacenet long: interrupted\n'
    assert not list(tmp_path.iterdir())


def test_nohup_keeps_its_meaning(tmp_path):
    run = subprocess.Popen(
        ['nohup', sys.executable, '-c', LONG.replace('sleep(60)', 'sleep(1)'), str(tmp_path / 'o')],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert run.stdout.readline() == 'begun\n'
    run.send_signal(signal.SIGHUP)
    run.communicate(timeout=30)
    assert run.returncode == 0 and (tmp_path / 'o').read_text() == 'half'


# --- processes that die


def runs(pid):
    """Whether there is such a process and it is not dead, merely waited for by nobody."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0] not in 'ZX'
    except (FileNotFoundError, ProcessLookupError):
        return False


def killed_soon(count_before, started):
    """Kill one of our children a moment after it has begun; appends when that was."""

    def kill():
        while len(new := [pid for pid in children() if pid not in count_before]) < 1:
            time.sleep(0.05)
        time.sleep(1)
        started.append(time.monotonic())
        os.kill(new[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_a_dead_measuring_process_is_noticed():
    with pytest.raises(RunError):  # while it makes or calls
        started = []
        killed_soon(set(children()), started)
        child_command('timeit', '-n', '1', '-r', '1', 'import time; time.sleep(60)')
    assert time.monotonic() - started[0] < NOTICED
    before = set(children())
    # something to call, from a module that all can import
    worker = Worker(unittest.mock.Mock, about=None)
    try:
        (pid,) = set(children()) - before
        os.kill(pid, signal.SIGKILL)
        begun = time.monotonic()
        with pytest.raises(RunError):
            worker(1.0)
        assert time.monotonic() - begun < NOTICED
    finally:
        worker.close()


def drawing_processes(run):
    """Numbers of the processes that draw for a `synth`, as soon as there are some."""

    def draws(pid):
        try:
            return b'spawn_main' in Path(f'/proc/{pid}/cmdline').read_bytes()
        except OSError:
            return False

    until = time.monotonic() + 120
    while not (found := [pid for pid in children(run.pid) if draws(pid)]):
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.01)
    return found


def synth(out):
    return subprocess.Popen(
        [sys.executable, '-m', 'vargfacenet', 'synth', str(out), '--workers', '2'],
        cwd=ROOT.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def test_a_dead_drawing_process_is_noticed(tmp_path):
    run = synth(tmp_path / 'out')
    os.kill(drawing_processes(run)[0], signal.SIGKILL)
    _, errors = run.communicate(timeout=NOTICED)
    assert run.returncode == 1 and 'a drawing process died' in errors
    assert not list((tmp_path / 'out').glob('*.rec'))


def test_ctrl_c_while_drawing_processes_start_is_one_line(tmp_path, default_signals):
    """It reaches them as well, in their first imports, where they could only print a traceback."""
    run = synth(tmp_path / 'out')
    started = drawing_processes(run)
    assert all(map(blocks_ctrl_c, started)) and not blocks_ctrl_c(run.pid)
    os.killpg(run.pid, signal.SIGINT)
    _, errors = run.communicate(timeout=NOTICED)
    assert run.returncode == 128 + signal.SIGINT
    assert 'Traceback' not in errors and errors.endswith('vargfacenet synth: interrupted\n')
    assert not list((tmp_path / 'out').glob('*.rec'))
    assert not any(map(runs, started))


# --- records that cannot be read


def test_teach_leaves_out_what_cannot_be_read(inputs, tmp_path, capsys):
    """The next readable record's embeddings take its place, and the count goes on after a stop."""
    bad = corrupted(inputs / 'data', tmp_path / 'bad', (6, 11))
    words = ['teach', '--data-dir', str(bad), '--teacher', f'{inputs}/model/model,3']
    assert main(words) == 2
    line = capsys.readouterr().err
    assert 'record 6' in line
    assert line.count('--skip-corrupt N leaves up to N such records out') == 1
    assert main([*words, '--skip-corrupt', '1']) == 2
    assert main([*words, '--skip-corrupt', '2']) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out.splitlines()[-1])
    assert result['left_out'] == 2 and 'left out, 2 of at most 2' in shown.err
    store = Path(result['store'])
    listed = read_checked(store.with_suffix('.left-out.json'), 'left-out list')
    assert list(listed) == ['5', '10'] and 'record 11' in listed['10']
    rows = np.fromfile(store, '<f2', offset=HEADER_BYTES).reshape(16, 2, -1)
    np.testing.assert_array_equal(rows[[5, 10]], rows[[6, 11]])
    assert main(['check', str(bad)]) == 1  # names the records, and nothing of the store


@pytest.mark.slow
def test_a_dead_rank_ends_the_others(inputs, tmp_path):
    """Two processes train; one is killed, and the script that waits ends the rest."""
    words = ['bash', str(ROOT / 'recognition' / 'dist_train.sh'), '2', '--data-dir']
    words += [str(inputs / 'data'), '--models-root', str(tmp_path), '--per-batch-size', '4']
    words += ['--network', 'r18_se', '--network-option', 'width=0.125', '--steps', '100000']
    run = subprocess.Popen(
        [*words, '--frequent', '1', '--name', 'run'],
        env={**os.environ, 'VARGFACENET_VENV': sys.prefix, 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    history = tmp_path / 'run' / 'history.jsonl'
    until = time.monotonic() + 120
    while not (history.exists() and history.stat().st_size):
        assert run.poll() is None and time.monotonic() < until
        time.sleep(0.1)
    started = children(run.pid)
    assert len(started) == 4  # scheduler, server, two workers
    os.kill(started[-1], signal.SIGKILL)
    _, errors = run.communicate(timeout=NOTICED)
    assert run.returncode == 128 + signal.SIGKILL
    assert 'a process ended with exit code 137; stopping the others' in errors
    time.sleep(0.5)
    assert not any(map(runs, started))
