"""Two hosts train together, and notice a link that is cut: network namespaces with a cable between
them, no ssh."""

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ranks_launched import LAUNCHER, finish, launch, needs_horovod, start, wait_for
from vargfacenet.common.data.store_file import HEADER_BYTES
from vargfacenet.common.history import read_history
from vargfacenet.common.launch.places import MEETING
from vargfacenet.eval.matrix_file import write_matrix

FIRST, SECOND = 'vgf-first', 'vgf-second'
ADDRESS, PORT = '10.77.16.1', 29516


def ip(*words):
    subprocess.run(['ip', *words], check=True, capture_output=True)


def may_make_networks():
    if not shutil.which('ip') or os.geteuid():
        return False
    return not subprocess.run(['unshare', '-n', 'true'], capture_output=True).returncode


pytestmark = [
    needs_horovod,
    pytest.mark.slow,
    pytest.mark.skipif(not may_make_networks(), reason='needs to make networks, as root'),
]


@pytest.fixture
def hosts():
    """Two network namespaces that reach each other."""
    ends = {FIRST: 'vgf-cable-1', SECOND: 'vgf-cable-2'}
    with contextlib.ExitStack() as stack:
        for name in ends:
            ip('netns', 'add', name)
            stack.callback(ip, 'netns', 'delete', name)
        ip('link', 'add', ends[FIRST], 'type', 'veth', 'peer', 'name', ends[SECOND])
        for number, (name, end) in enumerate(ends.items(), 1):
            ip('link', 'set', end, 'netns', name)
            ip('-n', name, 'address', 'add', f'10.77.16.{number}/24', 'dev', end)
            ip('-n', name, 'link', 'set', end, 'up')
            ip('-n', name, 'link', 'set', 'lo', 'up')
            # what `ip netns exec` shows as /etc/hosts there
            folder = Path('/etc/netns') / name
            folder.mkdir(parents=True)
            stack.callback(shutil.rmtree, folder)
            (folder / 'hosts').write_text(f'10.77.16.{number} {socket.gethostname()}\n')
        yield ends


@pytest.fixture
def options(patterns, tmp_path):
    words = ['train', '--data-dir', patterns, '--models-root', tmp_path, '--network', 'small']
    words += ['--target', '', '--lr', 0.02, '--loss-option', 's=16', '--per-batch-size', 8]
    return [*words, '--head', 'partial-fc', '--frequent', 1, '--verbose', 2, '--ckpt', 1]


def on_both(words, late=0):
    """Launchers on both hosts; the second one comes when the first one is there, `late` seconds
    after it."""
    inside = {name: ['ip', 'netns', 'exec', name, *LAUNCHER] for name in (FIRST, SECOND)}
    here = ['-np', 2, '-H', 'first:1,second:1', '--address', ADDRESS, '--port', PORT]
    first = start(*here, '--remote-shell', '', *words, program=inside[FIRST])
    told = first.stderr.readline()
    assert told.startswith('train_multi: start on second: ')
    assert f'--join {ADDRESS}:{PORT} --host second' in told
    join = ['--join', f'{ADDRESS}:{PORT}', '--host', 'second']
    time.sleep(late)
    return first, start(*join, *words, program=inside[SECOND])


def losses(folder):
    return np.array([row['loss'] for row in read_history(folder) if 'loss' in row])


def test_two_hosts_train_as_two_ranks_of_one(hosts, options, tmp_path):
    """The second one later than Gloo waits by itself: a person may be typing."""
    first, second = on_both([*options, '--name', 'hosts', '--steps', 6], late=35)
    assert finish(first)[0] == 0
    assert finish(second, result=False)[0] == 0
    code, _, errors = launch('-np', 2, *options, '--name', 'one', '--steps', 6)
    assert code == 0, errors
    np.testing.assert_array_equal(losses(tmp_path / 'hosts'), losses(tmp_path / 'one'))


def test_two_hosts_teach_and_identify_as_one_process(
    hosts, options, patterns, tmp_path, run_command
):
    """The same store to the byte, and the same rates."""
    code, model, errors = launch('-np', 1, *options, '--name', 'teacher', '--steps', 2)
    assert code == 0, errors
    words = ['teach', '--teacher', model['model'], '--batch-size', 8, '--data-dir']
    contents = []
    for name in ('alone', 'hosts'):
        data = tmp_path / name
        shutil.copytree(patterns, data)
        if name == 'hosts':
            first, second = on_both([*words, data])
            code, result, errors = finish(first)
            assert finish(second, result=False)[0] == 0
        else:
            code, result, errors = launch('-np', 1, *words, data)
        assert code == 0, errors
        contents.append(Path(result['store']).read_bytes()[HEADER_BYTES:])
    assert contents[0] == contents[1] and any(contents[0])

    random = np.random.default_rng(0)
    labels = random.integers(0, 20, 100)
    probes = random.standard_normal((20, 16))[labels] + random.standard_normal((100, 16))
    probes, others = (
        (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        for rows in (probes, random.standard_normal((700, 16)))
    )
    np.savez(tmp_path / 'probes.npz', embeddings=probes, labels=labels)
    write_matrix(tmp_path / 'distractors.bin', others)
    words = ['identify', '--probes', tmp_path / 'probes.npz']
    words += ['--distractors', tmp_path / 'distractors.bin']
    first, second = on_both(words)
    code, result, errors = finish(first)
    assert code == 0, errors
    assert finish(second, result=False)[0] == 0
    code, alone, errors = run_command(*words)
    assert code == 0, errors
    for found in (result, alone):
        del found['pairs']['pairs_per_second']
    assert result['pairs'] == alone['pairs'] and 0 < result['pairs']['tpr']['0.001'] < 1


def test_a_cut_cable_ends_both_within_a_minute(hosts, options, tmp_path):
    first, second = on_both([*options, '--name', 'cut', '--steps', 100_000])
    wait_for(tmp_path / 'cut' / 'model-0001.json')
    cut(tmp_path, hosts)
    since = time.monotonic()
    code, _, errors = finish(first, 100)
    assert code == 1
    assert 'second has not been heard of for 20 s' in errors or 'lost the other ranks' in errors
    code, _, errors = finish(second, 100, result=False)
    assert code == 1
    assert 'the first host has not been heard of' in errors or 'lost the other ranks' in errors
    assert time.monotonic() - since < 60
    assert list((tmp_path / 'cut').glob('model-*.json'))  # what --resume goes on from


# what `ssh HOST LINE` would do, without ssh: this Python's launcher on the other host
SHELL = """#!{python}
import os, shlex, sys
words = shlex.split(sys.argv[2].partition(' && exec ')[2])[1:]
os.execvp('ip', ['ip', 'netns', 'exec', '{second}', *{launcher!r}, *words])
"""


@pytest.fixture
def shell(tmp_path):
    """A --remote-shell that leads to the second host."""
    path = tmp_path / 'shell'
    path.write_text(SHELL.format(python=sys.executable, second=SECOND, launcher=LAUNCHER))
    path.chmod(0o755)
    return path


def process_on_second(folder, rank=None, name='second'):
    """Number of a rank's process, or of the launcher of host `name`, that a job with its runs in
    `folder` has in the second network."""
    for path in Path('/proc').glob('[0-9]*/cmdline'):
        try:
            words = path.read_bytes().split(b'\0')
            variables = (path.parent / 'environ').read_bytes().split(b'\0')
        except OSError:
            continue
        joined = b'--join' in words and name.encode() in words
        wanted = joined if rank is None else b'HOROVOD_RANK=%d' % rank in variables
        if wanted and str(folder).encode() in words:
            return int(path.parent.name)
    raise AssertionError('no such process on the second host')


def cut(folder, ends):
    ip('-n', SECOND, 'link', 'set', ends[SECOND], 'down')


def kill_rank(folder, ends):
    os.kill(process_on_second(folder, rank=2), signal.SIGKILL)


def kill_host(folder, ends):
    os.kill(process_on_second(folder), signal.SIGKILL)


LOST = 'host second has not been heard of for 20 s; starting again with 1 of 3 ranks'


@pytest.mark.parametrize(
    ('harm', 'left', 'told'),
    [
        (
            kill_rank,
            2,
            'rank 2 on second was killed by SIGKILL; starting again with 2 of 3 ranks',
        ),
        (kill_host, 1, LOST),
        (cut, 1, LOST),
    ],
)
def test_an_elastic_job_goes_on_without_what_another_host_lost(
    harm, left, told, hosts, options, shell, tmp_path, go
):
    """One rank on the first host, two on the second: one of these dies, or the launcher there, and
    its ranks with it, which resets their connections, or the cable is cut and nothing is heard."""
    inside = ['ip', 'netns', 'exec', FIRST, *LAUNCHER]
    here = ['-np', 3, '-H', 'first:1,second:2', '--address', ADDRESS, '--port', PORT]
    words = [*options, '--name', 'elastic', '--steps', 12]
    first = start(*here, '--elastic', '--remote-shell', shell, *words, program=inside)
    wait_for(tmp_path / 'elastic' / 'model-0001.json')
    harm(tmp_path, hosts)
    go.touch()
    code, result, errors = finish(first)
    assert code == 0, errors
    assert f'train_multi: {told}' in errors.splitlines()
    assert result['steps'] == 12
    (state,) = (tmp_path / 'elastic').glob('model-0*.json')
    assert json.loads(state.read_text())['config']['num_workers'] == left


def test_an_elastic_job_of_three_hosts_goes_on_without_one(hosts, options, shell, tmp_path, go):
    """The launcher of the third dies: the rank of the second, which shares a network with it, ends
    at the broken connection, and this is told before the third is missed."""
    inside = ['ip', 'netns', 'exec', FIRST, *LAUNCHER]
    here = ['-np', 3, '-H', 'first:1,second:1,third:1', '--address', ADDRESS, '--port', PORT]
    words = [*options, '--name', 'elastic', '--steps', 12]
    first = start(*here, '--elastic', '--remote-shell', shell, *words, program=inside)
    wait_for(tmp_path / 'elastic' / 'model-0001.json')
    os.kill(process_on_second(tmp_path, name='third'), signal.SIGKILL)
    go.touch()
    code, result, errors = finish(first)
    assert code == 0, errors
    told = 'host third has not been heard of for 20 s; starting again with 2 of 3 ranks'
    assert f'train_multi: {told}' in errors.splitlines()
    assert result['steps'] == 12


def test_a_host_whose_shell_fails_is_named(hosts, options):
    inside = ['ip', 'netns', 'exec', FIRST, *LAUNCHER]
    here = ['-np', 2, '-H', 'first:1,second:1', '--address', ADDRESS, '--remote-shell', 'false']
    begun = time.monotonic()
    code, _, errors = launch(*here, *options, '--name', 'alone', program=inside)
    assert code == 1
    (line,) = errors.splitlines()
    assert line == (
        'train_multi: host second has not come: false: the process ended with exit code 1'
    )
    assert time.monotonic() - begun < MEETING / 2  # it did not wait for the host


def test_a_name_that_leads_nowhere_is_told(hosts, options):
    Path('/etc/netns', FIRST, 'hosts').write_text(f'127.0.1.1 {socket.gethostname()}\n')
    here = ['-np', 2, '-H', 'first:1,second:1', '--address', ADDRESS, '--port', PORT]
    code, _, errors = launch(*here, *options, program=['ip', 'netns', 'exec', FIRST, *LAUNCHER])
    assert code == 2
    (line,) = errors.splitlines()
    assert 'leads to 127.0.1.1' in line and f'put the line "{ADDRESS} ' in line
