"""What hosts of one job say to each other of their ranks, over Horovod's rendezvous server.

The server has no secret: whoever reaches its port can disturb the job. It listens on the address
that the other hosts use, or on this machine alone.
"""

import json
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from typing import Any, Optional

from ..child import how_it_ended
from ..errors import InputError, RunError
from ..extras import need
from .local import End, Stop, after_others
from .places import MEETING, Place

BEAT = 1.0  # seconds between two words of a host
_SILENCE = 20.0  # seconds after which a host that says nothing is lost
_SCOPE = 'launch'


class HostLost(RunError):
    """Hosts that were there are silent."""

    def __init__(self, *names: str):
        who = f'hosts {", ".join(names)} have' if names[1:] else f'host {names[0]} has'
        super().__init__(f'{who} not been heard of for {_SILENCE:.0f} s')
        self.names = names


def _word(kind: str, host: str, attempt: int) -> str:
    """The key of a host's word: a launcher that is late with those of an attempt that is over does
    not disturb the next one."""
    return f'{kind}-{host}-{attempt}'


class Server:
    """The rendezvous server, which also keeps words of the hosts under keys."""

    def __init__(self, address: str, port: int, places: Sequence[Place]):
        http = need('horovod.runner.http.http_server', 'dist')
        try:
            self._server = http.RendezvousHTTPServer((address, port), http.RendezvousHandler, 0)
        except OSError as error:
            raise InputError(f'--address {address} --port {port}: {error.strerror}') from None
        self._server.daemon_threads = True
        self._server.init(places)
        self.address, self.port = address, self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def put(self, key: str, value: Any) -> None:
        with self._server.cache_lock:
            self._server.cache.setdefault(_SCOPE, {})[key] = json.dumps(value).encode()

    def get(self, key: str) -> Any:
        """A value; None where there is none."""
        with self._server.cache_lock:
            value = self._server.cache.get(_SCOPE, {}).get(key)
        return None if value is None else json.loads(value)

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class Client:
    """The way from another host to the server."""

    def __init__(self, address: str):
        self._url = f'http://{address}/{_SCOPE}/'
        self._heard = time.monotonic()

    def get(self, key: str) -> Any:
        """A value; None where there is none, or nobody answers."""
        return self._ask(urllib.request.Request(self._url + key))

    def put(self, key: str, value: Any) -> None:
        content = json.dumps(value).encode()
        self._ask(urllib.request.Request(self._url + key, content, method='PUT'))

    def _ask(self, request: urllib.request.Request) -> Any:
        content = b''
        try:
            with urllib.request.urlopen(request, timeout=BEAT) as answer:
                content = answer.read()
        except urllib.error.HTTPError:  # no such key
            pass
        except OSError:
            return None
        self._heard = time.monotonic()
        return json.loads(content) if content else None

    @property
    def lost(self) -> bool:
        return time.monotonic() - self._heard > _SILENCE


class OtherHosts:
    """The hosts beside the first one, as it sees them.

    Parameters
    ----------
    names : of all of them
    server : where they leave their words
    shells : those that were started to have a host join, by its name
    attempt : how often the job was started before
    """

    def __init__(
        self,
        names: Sequence[str],
        server: Server,
        shells: Mapping[str, subprocess.Popen],
        attempt: int = 0,
    ):
        self._names, self._server, self._shells = list(names), server, shells
        self._attempt = attempt
        self._started = time.monotonic()
        self._heard: dict[str, tuple[int, float]] = {}  # host -> (its newest word, when)

    def _get(self, kind: str, name: str) -> Any:
        return self._server.get(_word(kind, name, self._attempt))

    def _ends(self) -> list[End]:
        """What hosts have told, one a host, of ranks that have not ended well."""
        told = (self._get('end', name) for name in self._names)
        return [End(**each) for each in told if each]

    def failed(self) -> Optional[End]:
        """A rank there that has not ended well, of several the likeliest cause. RunError for a host
        that has not come, HostLost for one that is silent, unless a rank was killed elsewhere:
        other ranks end of either."""
        end = min(self._ends(), key=after_others, default=None)
        if end is None or end.may_follow:
            silent = {name: self._silence(name) for name in self._names}
            if max(silent.values(), default=0.0) > _SILENCE:
                # what was lost at the same moment may have spoken a little later
                raise HostLost(*(name for name in silent if silent[name] > _SILENCE - 2 * BEAT))
        return end

    def _silence(self, name: str) -> float:
        """For how many seconds a host has said nothing though not all has ended there; RunError for
        one that has not come."""
        if self._get('end', name) or self._get('done', name):
            return 0.0
        now, word = time.monotonic(), self._get('beat', name)
        if word is None:
            self._check_coming(name, now)
            return 0.0
        if self._heard.get(name, (None,))[0] != word:
            self._heard[name] = word, now
        return now - self._heard[name][1]

    def _check_coming(self, name: str, now: float) -> None:
        """RunError for a host that has not come in time, or whose shell has failed; one that has
        ended well may have left the launcher there behind."""
        shell = self._shells.get(name)
        if shell and shell.poll():
            raise RunError(
                f'host {name} has not come: {shell.args[0]}: {how_it_ended(shell.returncode)}'
            )
        if now - self._started > MEETING:
            raise RunError(f'host {name} has not come in {MEETING:.0f} s')

    def done(self) -> bool:
        return all(self._get('done', name) for name in self._names)

    def cause(self, end: End, stop: Stop) -> End:
        """What led to an end: a rank that was killed on another host, else one that aborted, or
        `end` itself. HostLost for a host that is silent: how long that takes to show is waited for,
        unless all hosts have told how they ended, or somebody asks to stop."""
        until = time.monotonic() + _SILENCE + 2 * BEAT
        while end.may_follow and self._heard and not stop.number and time.monotonic() < until:
            found = self.failed()
            if found and found.killed and not found.may_follow:
                return found
            if self.done():
                break
            time.sleep(BEAT)
        aborted = [each for each in self._ends() if each.killed] if end.code == 1 else []
        return aborted[0] if aborted else end

    def let_go(self) -> None:
        """Tell them that it is over, and give them the time to hear it."""
        self._server.put('stop', True)
        until = time.monotonic() + 3 * BEAT
        while self._heard and time.monotonic() < until and not self.done():
            time.sleep(0.1)


class FirstHost:
    """The first host, as another one sees it."""

    def __init__(self, client: Client, name: str, attempt: int):
        self._client, self._name, self._attempt = client, name, attempt
        self._words, self._told = 0, 0.0

    def _put(self, kind: str, value: Any) -> None:
        self._client.put(_word(kind, self._name, self._attempt), value)

    def failed(self) -> Optional[End]:
        """Say that this host lives; RunError where the first one is silent or has ended the job."""
        if time.monotonic() - self._told > BEAT:
            self._told, self._words = time.monotonic(), self._words + 1
            self._put('beat', self._words)
            if self._client.get('stop'):
                raise RunError('the first host has ended the job')
        if self._client.lost:
            raise RunError(f'the first host has not been heard of for {_SILENCE:.0f} s')
        return None

    def done(self) -> bool:
        return True

    def tell(self, end: Optional[End]) -> None:
        """Say how the ranks of this host ended."""
        if end:
            self._put('end', vars(end))
        self._put('done', True)
