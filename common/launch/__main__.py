"""Run one command as several ranks, on this machine or on several; a rank that fails ends all.

Other hosts are reached by ssh, or somebody starts there the line that is printed here. What
follows the options is the command, train if none is named, and its options.
"""

import argparse
import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

from .. import console
from ..child import how_it_ended, module_words
from ..errors import InputError, RunError
from ..extras import need
from ..parallel import cpu_count
from ..registry import nearest, unknown_name
from .local import FAREWELL, End, LocalRanks, Stop
from .places import (
    HERE,
    Host,
    Place,
    check_own_name,
    interface_of,
    own_address,
    parse_hosts,
    places_of,
)
from .remote import Client, FirstHost, HostLost, OtherHosts, Server

PROG = 'train_multi'
COMMANDS = ('train', 'distill', 'teach', 'identify')
TRAINING = ('train', 'distill')
SCRIPT = Path(__file__).resolve().parents[2] / 'recognition' / 'train_multi.sh'

_LOOK = 0.1  # seconds between two looks at the ranks
_SETTLES = 1.0  # seconds after which a rank that broke the connection should be seen ended as well
_MOST_RANKS = 9999  # of a host
_LAST_PORT = 65535
_ALIKE = 0.8  # of a misspelt option and ours; no option of a command is so near to one of ours
_SHELL = 'ssh'
_HELP = {'-h', '--help'}
_OF_BOTH = {*_HELP, '--json'}
_WRONG_INPUT = 2  # exit code


def build_parser() -> console.Parser:
    parser = console.Parser(prog=PROG, description=(__doc__ or '').strip())
    add = parser.add_argument
    add(
        *('-np', '--processes'),
        dest='size',
        default='',
        metavar='N',
        help='number of ranks; auto: one a CPU of this machine, which alone is slower than one '
        'process with as many threads',
    )
    add('-H', dest='hosts', default='', metavar='HOST:SLOTS,...', help='hosts; the first is this')
    add('--elastic', action='store_true', help='go on without a rank that was killed')
    add('--address', default='', help='of this host, for the others (default: found by -H)')
    add('--port', type=int, default=0, help='of the rendezvous (default: a free one)')
    add('--remote-shell', help=f'how others are reached ({_SHELL}); "": a person starts them')
    add('--join', default='', metavar='ADDRESS:PORT', help='run the ranks of this host of a job')
    add('--host', default='', help='with --join: the name of this host in -H')
    parser.usage = '%(prog)s -np N [options] [COMMAND] [options of the command]'
    parser.epilog = f'COMMAND: {", ".join(COMMANDS)}'
    return parser


def size_of(text: str, hosts: str) -> int:
    """The number of ranks that -np asks for; InputError for what is none."""
    if text == 'auto' and hosts:
        raise InputError('-np auto is for this machine alone; with -H give the number of ranks')
    try:
        size = cpu_count() if text == 'auto' else int(text)
    except ValueError:
        size = 0
    if not 1 <= size <= _MOST_RANKS:
        raise InputError(f'-np {text}: give the number of ranks, up to {_MOST_RANKS}, or auto')
    return size


def split(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """(the launcher's words, those of the command): the latter begin at the first other one.

    Raises InputError for no command, and for a misspelt option of ours, or one behind the command.
    """
    words = list(words)
    actions = build_parser()._actions
    # option -> whether it stands alone, without a value
    own = {word: action.nargs == 0 for action in actions for word in action.option_strings}
    place = 0
    while place < len(words) and words[place].partition('=')[0] in own:
        alone = '=' in words[place] or own[words[place]]
        place += 1 if alone else 2
    command = words[place:]
    if not command or command[0].startswith('-'):
        command = [TRAINING[0], *command]
    elif command[0] not in COMMANDS:
        raise unknown_name('command', command[0], COMMANDS)
    for word in (word.partition('=')[0] for word in command if word.startswith('--')):
        near = '' if word in _OF_BOTH else nearest(word, own.keys() - _OF_BOTH, _ALIKE)
        if word == '--kvstore':
            raise InputError('--kvstore: ranks talk through Horovod; leave it out')
        if near == word:
            raise InputError(f'{word} is an option of {PROG}; say it before {command[0]}')
        if near:
            raise InputError(f'{word}: no such option; did you mean {near}?')
    return words[:place], command


def check_command(command: Sequence[str], stop: Stop) -> int:
    """Exit code of a look at the command's options, which needs no data: what is wrong with them is
    told once, and before ranks are started. Like a rank it has a session of its own.

    Raises console.Interrupted once asked to stop, and RunError where a signal has ended the look.
    """
    words = module_words('vargfacenet.common.launch.check', *command)
    with subprocess.Popen(words, stdin=subprocess.DEVNULL, start_new_session=True) as look:
        while look.poll() is None:
            if stop.number:
                look.kill()
                raise console.Interrupted(stop.number)
            time.sleep(_LOOK)
    if look.returncode < 0:
        raise RunError(f'a look at the options of {command[0]}: {how_it_ended(look.returncode)}')
    return look.returncode


def watch(ranks: LocalRanks, others: Union[OtherHosts, FirstHost], stop: Stop) -> Optional[End]:
    """Wait for the end of all ranks; how one ended that did not end well, the first that was seen.

    Once asked to stop, or with a rank that was, the others have a minute to end likewise.
    """
    told = 0
    while True:
        failed = ranks.failed() or others.failed()
        if failed and failed.may_follow and not stop.number:
            time.sleep(_SETTLES)
            failed = ranks.failed() or others.failed()
        if failed and not failed.stopped and not stop.number:
            return failed
        if ranks.done() and (failed or others.done()):
            return failed
        if stop.number and not told:
            told = stop.number
            ranks.tell_first(told)
        if failed and not stop.number:
            stop.ask(failed.code - 128)
            told = stop.number  # the rank has told the others
        if stop.overdue:
            if stop.asked < 2:
                late = ', '.join(ranks.running() or ['a rank of another host'])
                sys.stderr.write(f'{PROG}: {late} had not stopped after {FAREWELL:.0f} s\n')
            return failed or End('the job', 128 + stop.number)
        time.sleep(_LOOK)


def program(command: Sequence[str]) -> list[str]:
    """What a rank runs."""
    kvstore = ['--kvstore', 'horovod'] if command[0] in TRAINING else []
    return module_words('vargfacenet', *command, *kvstore)


def coordinate(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Run a job whose rank 0 is here; with --elastic again, without what was lost."""
    hosts = parse_hosts(options.hosts or f'{HERE}:{options.size}')
    places = places_of(hosts, options.size)
    if options.remote_shell is not None and places[-1].hostname == places[0].hostname:
        raise InputError(f'--remote-shell {options.remote_shell}: all ranks are on this host')
    if options.elastic and '--overwrite' in command:
        raise InputError(
            '--elastic goes on by --resume, which --overwrite contradicts; give another --name'
        )
    stop, attempt = Stop(), 0
    with stop.at_signals():
        code = check_command(command, stop)
        if code or _HELP & {*command}:  # wrong, or its help is all that is wanted
            return code
        while True:
            try:
                return _attempt(options, command, places, stop, attempt)
            except (_Failure, HostLost) as error:
                if not options.elastic or stop.number:
                    raise
                places = _places_left(error, places)
                loss = error if isinstance(error, HostLost) else error.end
                words = ['--resume', '--batch-may-change'] if command[0] in TRAINING else []
                command = [*command, *(word for word in words if word not in command)]
                left = f'{len(places)} of {options.size} ranks'
                sys.stderr.write(f'{PROG}: {loss}; starting again with {left}\n')
            attempt += 1


def _places_left(error: Union['_Failure', HostLost], places: Sequence[Place]) -> list[Place]:
    """The places without that of the rank that was killed, or without those of hosts that are
    silent; `error` where it is no such loss, or nobody is left on the first host."""
    counts = Counter(place.hostname for place in places)
    if isinstance(error, HostLost):
        for name in error.names:
            counts[name] = 0
    elif error.end.killed:
        counts[error.end.host] -= 1
    else:
        raise error
    if not counts[places[0].hostname]:
        raise error
    return places_of(
        [Host(name, count) for name, count in counts.items() if count], sum(counts.values())
    )


def _attempt(
    options: argparse.Namespace,
    command: Sequence[str],
    places: Sequence[Place],
    stop: Stop,
    attempt: int,
) -> int:
    """Run the job once."""
    names = list(dict.fromkeys(place.hostname for place in places))
    mine = [place for place in places if place.hostname == names[0]]
    address = options.address or (own_address(names[1]) if names[1:] else '127.0.0.1')
    interface = interface_of(address)
    if names[1:]:
        check_own_name(address)
    with contextlib.ExitStack() as stack:
        server = Server(address, options.port, places)
        stack.callback(server.close)
        server.put('plan', {'places': places, 'command': command, 'attempt': attempt})
        shells = {}
        for name in names[1:]:
            shell = _SHELL if options.remote_shell is None else options.remote_shell
            shell = _invite(name, shell, server, command)
            if shell:
                shells[name] = shell
                stack.callback(shell.terminate)
        others = OtherHosts(names[1:], server, shells, attempt)
        stack.callback(others.let_go)
        ranks = LocalRanks(mine, program(command), address, server.port, interface)
        stack.callback(ranks.kill)
        end = watch(ranks, others, stop)
        if end and options.elastic:
            end = others.cause(end, stop)
        if end and not end.stopped and not end.told:
            raise _Failure(end, command, len(places))
        return end.exit_code if end else 0


class _Failure(RunError):
    """A rank has ended all."""

    def __init__(self, end: End, command: Sequence[str], size: int):
        rest = '; the others were stopped' if size > 1 else ''
        # wrong input stays wrong, and mostly shows before there is a checkpoint
        resumes = command[0] in TRAINING and end.code != _WRONG_INPUT
        super().__init__(f'{end}{rest}{"; --resume goes on from the newest checkpoint" * resumes}')
        self.end, self.exit_code = end, end.exit_code


def _invite(
    name: str, shell: str, server: Server, command: Sequence[str]
) -> Optional[subprocess.Popen]:
    """Have a host join, by a shell there, which is returned, or by a person who is told how."""
    join = ['--join', f'{server.address}:{server.port}', '--host', name]
    line = shlex.join([str(SCRIPT), *join, *command])
    if not shell:
        sys.stderr.write(f'{PROG}: start on {name}: {line}\n')
        return None
    words = [*shlex.split(shell), name, f'cd {shlex.quote(os.getcwd())} && exec {line}']
    try:
        return subprocess.Popen(words, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    except OSError as error:
        raise InputError(f'--remote-shell {shell}: {error.strerror}') from None


def join(options: argparse.Namespace, command: Sequence[str]) -> int:
    """Run the ranks of this host of a job that another one coordinates."""
    address, _, port = options.join.rpartition(':')
    if not address or not re.fullmatch(r'\d{1,5}', port) or not 0 < int(port) <= _LAST_PORT:
        raise InputError(f'--join {options.join}: expected ADDRESS:PORT, as the first host says it')
    client = Client(options.join)
    plan = client.get('plan')
    if plan is None:
        raise InputError(f'--join {options.join}: nobody has started a job there')
    if plan['command'] != command:
        raise InputError(f'--join {options.join}: that job is {shlex.join(plan["command"])}')
    places = [Place(*place) for place in plan['places']]
    mine = [place for place in places if place.hostname == options.host]
    if not mine or mine[0].rank == 0:
        raise InputError(f'--host {options.host}: no rank of that job is for a host of this name')
    here = own_address(address)
    check_own_name(here)
    first = FirstHost(client, options.host, plan['attempt'])
    stop, end = Stop(), None
    with stop.at_signals():
        interface = interface_of(here)
        ranks = LocalRanks(mine, program(command), address, int(port), interface)
        try:
            end = watch(ranks, first, stop)
        finally:
            ranks.kill()
            first.tell(end)
    return end.exit_code if end else 0


def check_options(options: argparse.Namespace) -> None:
    """InputError for a port that is none, and for an option that another one leaves without use."""
    console.check_ranges([('--port', options.port, 0, _LAST_PORT)])
    if options.host and not options.join:
        raise InputError(f'--host {options.host}: belongs to --join')
    if not options.join:
        return
    for flag, given in (
        ('-np', options.size),
        ('-H', options.hosts),
        ('--elastic', options.elastic),
        ('--address', options.address),
        ('--port', options.port),
        ('--remote-shell', options.remote_shell is not None),
    ):
        if given:
            raise InputError(f'{flag}: the first host says it; leave it out with --join')


def run(argv: Optional[Sequence[str]] = None) -> int:
    words, command = split(sys.argv[1:] if argv is None else argv)
    options = build_parser().parse_args(words)
    check_options(options)
    if 'json' in options:
        command.append('--json')
    need('horovod', 'dist')
    if options.join:
        return join(options, command)
    options.size = size_of(options.size, options.hosts)
    return coordinate(options, command)


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Exit code of the first rank that failed, 128 and the signal's number for one that a signal
    ended; otherwise as every command's."""
    console.set_up_logging()
    try:
        return run(argv)
    except (InputError, RunError, OSError, KeyboardInterrupt) as error:
        code = console.report_error(PROG, error)
        return getattr(error, 'exit_code', code)


if __name__ == '__main__':
    sys.exit(main())
