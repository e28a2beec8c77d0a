"""The launcher's own parts, without ranks."""

import importlib
import os
import signal
import subprocess
import sys
import time

import pytest
from conftest import ROOT, needs_mxnet
from ranks_launched import NETWORK, needs_horovod
from vargfacenet.__main__ import COMMANDS
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.common.launch import __main__ as launcher
from vargfacenet.common.launch import check, local, remote
from vargfacenet.common.launch.local import End, LocalRanks, Stop
from vargfacenet.common.launch.places import MEETING, Host, environment, places_of
from vargfacenet.common.parallel import cpu_count

PLACES = places_of([Host('a', 1), Host('b', 1)], 2)


@pytest.fixture
def others():
    """Makes the other hosts of a job, of whose shells one is given."""
    server = remote.Server('127.0.0.1', 0, PLACES)
    yield lambda shells: remote.OtherHosts(['b'], server, shells), server
    server.close()


def until(done, seconds=300):
    end = time.monotonic() + seconds
    while not done():
        assert time.monotonic() < end
        time.sleep(0.01)


def ended(code):
    process = subprocess.Popen([sys.executable, '-c', f'raise SystemExit({code})'])
    process.wait()
    return process


@needs_horovod
def test_a_host_that_does_not_come_is_named(others, monkeypatch):
    make, server = others
    with pytest.raises(RunError, match=r'^host b has not come: .*python.*exit code 255$'):
        make({'b': ended(255)}).failed()
    waiting = make({'b': ended(0)})  # it may have left the launcher there
    assert waiting.failed() is None
    now = time.monotonic()
    monkeypatch.setattr(time, 'monotonic', lambda: now + MEETING + 1)
    with pytest.raises(RunError, match=r'^host b has not come in 600 s$'):
        waiting.failed()
    server.put('beat-b-0', 1)
    assert make({'b': ended(255)}).failed() is None  # its own word says that it is there


@needs_horovod
def test_the_cause_of_an_end_may_lie_on_another_host(others, monkeypatch):
    """Rank 0 has lost the others, and ends with an error of its own."""
    make, server = others
    monkeypatch.setattr(remote, '_SILENCE', 0.2)
    monkeypatch.setattr(remote, 'BEAT', 0.05)
    end, hosts = End('rank 0 on a', 1, 'a'), make({})
    assert hosts.cause(end, Stop()) is end  # nobody was there
    server.put('beat-b-0', 1)
    assert hosts.failed() is None
    with pytest.raises(remote.HostLost, match='host b'):
        hosts.cause(end, Stop())
    for code, cause in ((-signal.SIGKILL, 'rank 1 on b'), (1, 'rank 0 on a')):
        server.put('end-b-0', vars(End('rank 1 on b', code, 'b')))
        assert hosts.cause(end, Stop()).who == cause


class ThreeHosts:
    """The words that b and c leave for a, and a clock. A host beats until it is silent or has told
    how it ended.

    Parameters
    ----------
    ends : host -> (second, exit code of its rank)
    silent : host -> second
    stopped : second of a Ctrl-C
    """

    def __init__(self, ends, silent, stopped):
        self.now, self.stop = 100.0, Stop()
        self._ends, self._silent, self._stopped = ends, silent, stopped

    def monotonic(self):
        return self.now

    def sleep(self, seconds):
        self.now += seconds
        if self.now >= 100 + self._stopped:
            self.stop.ask(signal.SIGINT)

    def get(self, key):
        kind, host, _ = key.split('-')
        second, code = self._ends.get(host, (1e9, 0))
        over = self.now >= 100 + second
        if kind == 'beat':
            return int(min(self.now, 100 + self._silent.get(host, 1e9)))
        if kind == 'end' and over:
            return vars(End(f'rank 1 on {host}', code, host))
        return True if kind == 'done' and over else None


KILL, ABORT = -signal.SIGKILL, -signal.SIGABRT


@pytest.mark.parametrize('names', ['bc', 'cb'])
@pytest.mark.parametrize(
    ('code', 'ends', 'silent', 'stopped', 'cause', 'seconds'),
    [
        (1, {'b': (0, 1), 'c': (0, KILL)}, {}, 1e9, ('c', KILL), 0),
        (1, {'b': (0, 1), 'c': (3, KILL)}, {}, 1e9, ('c', KILL), 3),
        (1, {'b': (0, ABORT), 'c': (3, KILL)}, {}, 1e9, ('c', KILL), 3),
        (ABORT, {'b': (0, 1), 'c': (3, KILL)}, {}, 1e9, ('c', KILL), 3),
        (1, {'b': (0, 1)}, {'c': 0}, 1e9, 'c is lost', 22),
        (1, {'b': (0, ABORT)}, {'c': 0}, 1e9, 'c is lost', 22),
        (1, {'b': (0, 1), 'c': (1, 1)}, {}, 1e9, ('a', 1), 1),
        (1, {'b': (0, 1), 'c': (1, ABORT)}, {}, 1e9, ('c', ABORT), 1),
        (1, {'b': (0, 1)}, {}, 1e9, ('a', 1), 22),  # c has a fault that is not seen
        (1, {'b': (0, 1)}, {'c': 0}, 2, ('a', 1), 2),
        (2, {'b': (0, 1)}, {'c': 0}, 1e9, ('a', 2), 0),  # wrong input follows from nothing
        (KILL, {'b': (0, 1)}, {'c': 0}, 1e9, ('a', KILL), 0),
        (130, {'b': (0, 1)}, {'c': 0}, 1e9, ('a', 130), 0),
    ],
)
def test_the_cause_is_looked_for_on_all_hosts(
    names, code, ends, silent, stopped, cause, seconds, monkeypatch
):
    """A rank of a has ended with `code`; b's and c's words lead to the cause, in any order."""
    hosts = ThreeHosts(ends, silent, stopped)
    monkeypatch.setattr(remote, 'time', hosts)
    others = remote.OtherHosts(list(names), hosts, {})
    hosts.now = 99.0
    assert others.failed() is None  # both are there
    hosts.now = 100.0
    end = End('rank 3 on a', code, 'a')
    if cause == 'c is lost':
        with pytest.raises(remote.HostLost, match=r'^host c has not been heard of'):
            others.cause(end, hosts.stop)
    else:
        found = others.cause(end, hosts.stop)
        assert (found.host, found.code) == cause
    assert hosts.now - 100 <= seconds


@pytest.mark.parametrize('names', ['bc', 'cb'])
def test_a_survivor_is_not_taken_for_the_cause(names, monkeypatch):
    """Without a rank of the first host that has ended."""
    for ends, silent, code in (
        ({'b': (0, 1), 'c': (0, KILL)}, {}, KILL),
        ({'b': (0, 1), 'c': (0, 2)}, {}, 2),
        ({'b': (0, 1)}, {'c': 0}, None),
    ):
        hosts = ThreeHosts(ends, silent, 1e9)
        monkeypatch.setattr(remote, 'time', hosts)
        others = remote.OtherHosts(list(names), hosts, {})
        assert others.failed().code == (1 if code is None else code)
        hosts.now += 21
        if code is None:
            with pytest.raises(remote.HostLost, match=r'^host c '):
                others.failed()
        else:
            assert (others.failed().host, others.failed().code) == ('c', code)


@pytest.mark.parametrize(
    ('silent', 'lost'),
    [
        ({'b': 0, 'c': 0.9}, ('b', 'c')),
        ({'b': 0.9, 'c': 0}, ('b', 'c')),
        ({'b': 0, 'c': 9}, ('b',)),
    ],
)
def test_hosts_that_are_lost_at_once_are_left_out_together(silent, lost, monkeypatch):
    hosts = ThreeHosts({}, silent, 1e9)
    monkeypatch.setattr(remote, 'time', hosts)
    others = remote.OtherHosts(['b', 'c'], hosts, {})
    with pytest.raises(remote.HostLost) as error:
        while hosts.now < 200:
            assert others.failed() is None
            hosts.sleep(0.1)
    assert error.value.names == lost and 120 < hosts.now < 122
    left = launcher._places_left(error.value, places_of([Host(name, 2) for name in 'abc'], 6))
    assert left == places_of(
        [Host(name, 2) for name in 'abc' if name not in lost], 6 - 2 * len(lost)
    )


def test_ranks_wait_for_each_other_as_long_as_the_launcher_does():
    said = environment(PLACES[0], '127.0.0.1', 1, 'lo')
    assert float(said['HOROVOD_GLOO_TIMEOUT_SECONDS']) == MEETING


def test_number_of_ranks():
    assert launcher.size_of('auto', '') == cpu_count()
    assert launcher.size_of('3', 'a:2,b:1') == 3
    for wrong, hosts in (('auto', 'a:2'), ('0', ''), ('', ''), ('two', ''), ('10000', '')):
        with pytest.raises(InputError, match='-np'):
            launcher.size_of(wrong, hosts)


@pytest.mark.parametrize(
    ('words', 'told'),
    [
        ('-np 2 --port 99999 train', '--port 99999: must be 0..65535'),
        ('-np 2 --port -1', '--port -1: must be'),
        ('--join a:99999 --host b', '--join a:99999: expected ADDRESS:PORT'),
        ('--join a:0 --host b', '--join a:0: expected ADDRESS:PORT'),
        ('--join a:1 --host b -np 2', '-np: the first host says it'),
        ('--join a:1 --host b --elastic', '--elastic: the first host says it'),
        ('-np 2 --host b', '--host b: belongs to --join'),
        ('-np 2 --remote-shell ssh train', '--remote-shell ssh: all ranks are on this host'),
        ('-np 2 nope', "unknown command 'nope'; known: distill"),
        ('-np 2 trian', "did you mean 'train'?"),
        ('-np 2 --elastic 3 train', "unknown command '3'"),
        ('-np 2 --elastc train', '--elastc: no such option; did you mean --elastic?'),
        ('-np 2 train --elastic', '--elastic is an option of train_multi; say it before train'),
        ('-np 2 train --kvstore local', '--kvstore: ranks talk through Horovod'),
    ],
)
def test_wrong_words_are_one_line_and_start_nothing(words, told, monkeypatch, capsys):
    monkeypatch.setattr(launcher, 'need', lambda *_: None)  # Horovod is not looked for before
    monkeypatch.setattr(launcher.subprocess, 'Popen', None)
    assert launcher.main(words.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('train_multi: ') and told in line


@needs_mxnet
@pytest.mark.parametrize(
    ('words', 'told'),
    [
        ('train --loss arcfase', "unknown loss 'arcfase'"),
        ('train --lr 0', '--lr 0.0: must be'),
        ('train --epoch 3', 'did you mean --epochs by --epoch?'),
        ('distill --teacher t,1 --ckpt 0', '--ckpt 0 keeps no weights'),
        ('teach --teacher t,1 --data-dir d --views 2', '--views and --augment belong together'),
        ('identify --probes p.npz --protocol open-set', 'protocol open-set needs --gallery'),
    ],
)
def test_options_of_a_command_are_looked_at_without_data(words, told, capsys):
    """Nothing that is named here exists."""
    command, *rest = words.split()
    assert check.main(command, rest) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f'vargfacenet {command}: ') and told in line


@needs_mxnet
def test_a_name_that_no_disk_takes_is_one_line(capsys):
    assert check.main('distill', ['--teacher', 't,1', '--teacher-store', 300 * 's']) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(f'{300 * "s"}: File name too long')


WAITING = """
import pathlib, time
pathlib.Path({flag!r}).touch()
time.sleep(600)
"""
WITHOUT_HOROVOD = """
import sys
from vargfacenet.common.launch import __main__ as launcher
launcher.need = lambda *_: None
sys.exit(launcher.main(sys.argv[1:]))
"""


@needs_mxnet
@pytest.mark.usefixtures('default_signals')
@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_stop_during_the_look_at_the_options_is_one_line(number, tmp_path):
    """Ctrl-C on a terminal goes to the whole group of processes."""
    flag, plugin = tmp_path / 'flag', tmp_path / 'plugin.py'
    plugin.write_text(WAITING.format(flag=str(flag)))
    process = subprocess.Popen(
        [sys.executable, '-c', WITHOUT_HOROVOD, '-np', '2', 'train', '--data-dir', 'd'],
        env={**os.environ, 'VARGFACENET_PLUGINS': str(plugin)},
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        until(flag.exists)
        os.killpg(process.pid, number)
        _, errors = process.communicate(timeout=30)  # the look holds the pipe while it lives
    finally:
        process.kill()
    assert process.returncode == 128 + number
    assert errors.splitlines() == ['train_multi: interrupted']


@needs_mxnet
@pytest.mark.parametrize(
    ('words', 'code', 'told'),
    [
        (['--loss', 'arcfase'], 2, "vargfacenet train: unknown loss 'arcfase'"),
        (['--data-dir', 'd', '--help'], 0, None),
    ],
)
def test_dist_train_looks_at_the_options_before_it_starts_roles(words, code, told, tmp_path):
    """Silently but for what is wrong: what is logged meanwhile, the workers log again."""
    plugin = tmp_path / 'plugin.py'
    warn = '\nimport logging\nlogging.getLogger("vargfacenet").warning("a word")\n'
    plugin.write_text(NETWORK.read_text() + warn)
    environment = {'VARGFACENET_VENV': sys.prefix, 'VARGFACENET_PLUGINS': str(plugin)}
    process = subprocess.Popen(
        ['bash', ROOT / 'recognition' / 'dist_train.sh', '2', *words],
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        output, errors = process.communicate(timeout=300)
    except subprocess.TimeoutExpired:  # roles that were started wait for each other
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == code, errors
    assert [line.partition(';')[0] for line in errors.splitlines()] == [told] * bool(told)
    assert output.count('usage: vargfacenet train') == (code == 0)  # nor do workers say it


def test_a_look_that_a_signal_ends_is_named(monkeypatch):
    words = [sys.executable, '-c', 'import os; os.kill(os.getpid(), 9)']
    monkeypatch.setattr(launcher, 'module_words', lambda *_: words)
    with pytest.raises(RunError, match=r'look at the options of train: .* SIGKILL$'):
        launcher.check_command(['train'], Stop())


@needs_mxnet
@pytest.mark.parametrize('command', launcher.COMMANDS)
def test_no_option_of_a_command_is_taken_for_one_of_the_launcher(command):
    module, _ = COMMANDS[command]
    parser = importlib.import_module(f'vargfacenet.{module}').main.parser()
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for flag in flags - launcher._OF_BOTH - {'--kvstore'}:
        assert launcher.split(['-np', '2', command, flag])[1] == [command, flag]


def test_wrong_input_is_no_reason_to_resume():
    said = str(launcher._Failure(End('rank 1 on a', 2, 'a'), ['train'], 2))
    assert said == 'rank 1 on a ended with exit code 2; the others were stopped'
    assert '--resume goes on' in str(launcher._Failure(End('rank 1 on a', -9, 'a'), ['train'], 2))


def test_what_is_left_of_a_job():
    """Four ranks on a, three on b: one is killed, then b is silent, then a rank ends by itself."""
    places = places_of([Host('a', 4), Host('b', 5)], 7)
    killed = launcher._Failure(End('rank 5 on b', -9, 'b'), ['train'], 7)
    left = launcher._places_left(killed, places)
    assert left == places_of([Host('a', 4), Host('b', 2)], 6)
    alone = launcher._places_left(remote.HostLost('b'), left)
    assert alone == places_of([Host('a', 4)], 4)
    wrong = launcher._Failure(End('rank 5 on b', 2, 'b'), ['train'], 7)
    with pytest.raises(launcher._Failure, match='exit code 2'):
        launcher._places_left(wrong, places)
    last = launcher._Failure(End('rank 0 on a', -9, 'a'), ['train'], 2)
    with pytest.raises(launcher._Failure, match='SIGKILL'):  # nobody is left on the first host
        launcher._places_left(last, places_of([Host('a', 1), Host('b', 1)], 2))


DEAF = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
if os.environ['HOROVOD_RANK'] == '1':
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(sys.argv[1] + os.environ['HOROVOD_RANK'], 'w').close()
time.sleep(60)
"""


def test_a_rank_that_does_not_stop_is_named(tmp_path, monkeypatch, capsys):
    command = [sys.executable, '-c', DEAF, str(tmp_path / 'up-')]
    places = places_of([Host('here', 2)], 2)
    ranks = LocalRanks(places, command, '127.0.0.1', 1, 'lo')
    try:
        until(lambda: len(list(tmp_path.glob('up-*'))) == 2)
        stop = Stop()
        stop.ask(signal.SIGTERM)
        ranks.tell_first(signal.SIGTERM)
        until(lambda: ranks.running() == ['rank 1 on here'])
        monkeypatch.setattr(local, 'FAREWELL', 0.0)
        end = launcher.watch(ranks, remote.OtherHosts([], None, {}), stop)
    finally:
        ranks.kill()
    assert end.exit_code == 128 + signal.SIGTERM
    told = capsys.readouterr().err
    assert told.startswith('train_multi: rank 1 on here had not stopped after')


@pytest.mark.parametrize(
    ('ends', 'first'),
    [
        ((1, -signal.SIGKILL), 1),  # told by rank 0, at the broken connection
        ((-signal.SIGABRT, -signal.SIGKILL), 1),
        ((-signal.SIGABRT, 2), 1),
        ((1, 2), 1),
        ((2, -signal.SIGABRT), 0),
        ((-signal.SIGKILL, -signal.SIGKILL), 0),
        ((0, 3), 1),
    ],
)
def test_of_ranks_that_ended_the_cause_is_named(ends, first):
    """All have ended before the launcher looks."""
    code = (
        'import os, signal, sys\n'
        'end = int(sys.argv[1:][int(os.environ["HOROVOD_RANK"])])\n'
        'os.kill(os.getpid(), -end) if end < 0 else sys.exit(end)\n'
    )
    command = [sys.executable, '-c', code, *(str(int(end)) for end in ends)]
    ranks = LocalRanks(places_of([Host('here', 2)], 2), command, '127.0.0.1', 1, 'lo')
    try:
        until(ranks.done)
        assert ranks.failed() == End(f'rank {first} on here', ends[first], 'here')
    finally:
        ranks.kill()


@pytest.mark.parametrize('code', [2, -signal.SIGKILL])
def test_who_is_seen_ended_first_is_not_taken_for_the_cause(code):
    """A rank leaves the connection before it is gone: another one may end of that before it."""
    source = (
        'import os, sys, time\n'
        'if os.environ["HOROVOD_RANK"] == "1":\n'
        '    sys.exit(1)\n'
        'time.sleep(0.5)\n'
        'end = int(sys.argv[1])\n'
        'os.kill(os.getpid(), -end) if end < 0 else sys.exit(end)\n'
    )
    command = [sys.executable, '-c', source, str(int(code))]
    ranks = LocalRanks(places_of([Host('here', 2)], 2), command, '127.0.0.1', 1, 'lo')
    try:
        end = launcher.watch(ranks, remote.OtherHosts([], None, {}), Stop())
        assert end == End('rank 0 on here', code, 'here')
    finally:
        ranks.kill()
