"""Clients that load a running service, well-behaved and other, and count what they get.

    python tests/load_clients.py http://127.0.0.1:8350 photograph.jpg --seconds 120

Nothing but the standard library; only addresses of this machine, at most 256 clients and ten
minutes. Each client keeps its connection, sends a photograph to /api/identify, waits for the
answer and goes on; after a 503 it waits as Retry-After says. Beside them --idle connections say
nothing, and --slow ones send a byte a second of a form. The last line of stdout is JSON.
"""

import argparse
import asyncio
import collections
import contextlib
import ipaddress
import json
import sys
import time
from pathlib import Path
from typing import NamedTuple, Optional
from urllib.parse import urlsplit

MAX_CLIENTS, MAX_SECONDS = 256, 600.0
ANSWER_SECONDS = 30.0  # without an answer, that is a time-out
_BOUNDARY = 'vargfacenet-load-boundary'


class Answered(NamedTuple):
    """One request of one client."""

    client: int
    status: str  # the number, 'timeout' or 'broken'
    seconds: float
    retry_after: Optional[float]


def form(photograph: bytes, **fields: str) -> tuple[bytes, str]:
    """(body, content type) of a form with a photograph."""
    start = f'--{_BOUNDARY}\r\nContent-Disposition: form-data; name='
    parts = [f'{start}"{name}"\r\n\r\n{value}\r\n'.encode() for name, value in fields.items()]
    head = f'{start}"photograph"; filename="x.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'.encode()
    body = b''.join([*parts, head, photograph, f'\r\n--{_BOUNDARY}--\r\n'.encode()])
    return body, f'multipart/form-data; boundary={_BOUNDARY}'


class Connection:
    """A connection that stays open from one request to the next."""

    def __init__(self, host: str, port: int, source: str = ''):
        self._address = (host, port)
        self._source = (source, 0) if source else None
        self._writer = None

    async def request(self, path: str, body: bytes, kind: str) -> tuple[int, dict[str, str]]:
        """(status, headers) of a POST."""
        if self._writer is None or self._writer.is_closing():
            self._reader, self._writer = await asyncio.open_connection(
                *self._address, local_addr=self._source
            )
        head = (
            f'POST {path} HTTP/1.1\r\nHost: {self._address[0]}:{self._address[1]}\r\n'
            f'Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n'
        )
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        lines = (await self._reader.readuntil(b'\r\n\r\n')).decode('latin-1').split('\r\n')
        headers = dict(line.lower().split(': ', 1) for line in lines[1:] if ': ' in line)
        await self._reader.readexactly(int(headers['content-length']))
        if headers.get('connection') == 'close':
            self.close()
        return int(lines[0].split()[1]), headers

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


async def _client(number: int, connection: Connection, request: tuple, end: float, told: list):
    while time.monotonic() < end:
        began, retry = time.monotonic(), None
        try:
            status, headers = await asyncio.wait_for(connection.request(*request), ANSWER_SECONDS)
            retry = float(headers['retry-after']) if 'retry-after' in headers else None
            status = str(status)
        except asyncio.TimeoutError:
            status = 'timeout'
        except (OSError, asyncio.IncompleteReadError):
            status = 'broken'
        told.append(Answered(number, status, time.monotonic() - began, retry))
        if status in ('timeout', 'broken'):
            connection.close()
            await asyncio.sleep(0.1)
        elif status == '503':
            await asyncio.sleep(retry or 0.1)
    connection.close()


async def _silent(host: str, port: int, sends: bytes, end: float) -> None:
    """A connection that sends a byte a second, or nothing, and comes back when it is closed."""
    while time.monotonic() < end:
        with contextlib.suppress(OSError):
            reader, writer = await asyncio.open_connection(host, port)
            place = 0
            while time.monotonic() < end and not reader.at_eof():
                writer.write(sends[place : place + 1])
                place += 1
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(reader.read(1000), 1)
            writer.close()
        await asyncio.sleep(0.1)


def resident(pid: int) -> int:
    """Bytes of memory of a process and its children that are no one else's (Linux)."""
    total = 0
    with contextlib.suppress(OSError):
        for line in Path(f'/proc/{pid}/smaps_rollup').read_text().splitlines():
            if line.startswith('Private_'):
                total += int(line.split()[1]) << 10
        children = Path(f'/proc/{pid}/task/{pid}/children').read_text().split()
        total += sum(resident(int(child)) for child in children)
    return total


async def _watch(pid: int, end: float, memory: list) -> None:
    while pid and time.monotonic() < end:
        memory.append(resident(pid))
        await asyncio.sleep(1)


def _quantile(values: list[float], share: float) -> Optional[float]:
    ordered = sorted(values)
    return round(ordered[min(len(ordered) - 1, int(share * len(ordered)))], 3) if ordered else None


def summary(told: list[Answered], clients: int, seconds: float, memory: list[int]) -> dict:
    """What became of the requests."""
    counts = collections.Counter(answer.status for answer in told)
    served = collections.Counter(answer.client for answer in told if answer.status == '200')
    by_status = collections.defaultdict(list)
    for answer in told:
        by_status[answer.status].append(answer.seconds)
    shares = sorted(served[number] for number in range(clients))
    return {
        'clients': clients,
        'seconds': round(seconds, 1),
        'statuses': dict(counts),
        'answers_per_second': round(counts['200'] / seconds, 1),
        'p50': {status: _quantile(values, 0.5) for status, values in by_status.items()},
        'p99': {status: _quantile(values, 0.99) for status, values in by_status.items()},
        'p99_all': _quantile([answer.seconds for answer in told], 0.99),
        'worst': round(max((answer.seconds for answer in told), default=0), 3),
        'never_answered': shares.count(0),
        'answers_of_a_client': [shares[0], shares[len(shares) // 2], shares[-1]],
        'without_retry_after': sum(a.status == '503' and a.retry_after is None for a in told),
        'memory_mb': [round(value / 2**20) for value in memory[:: max(1, len(memory) // 12)]],
    }


async def load(
    url: str,
    photograph: bytes,
    clients: int,
    seconds: float,
    idle: int = 0,
    slow: int = 0,
    pid: int = 0,
    sources: tuple[str, ...] = ('',),
) -> dict:
    """Load a service and say how it went; see `summary`.

    `sources` are addresses of this machine from which the clients come, in turn.
    """
    parts = urlsplit(url)
    host, port = parts.hostname, parts.port
    if not ipaddress.ip_address(host).is_loopback:
        raise ValueError(f'{host}: only this machine is loaded')
    if not (0 < clients + idle + slow <= MAX_CLIENTS and 0 < seconds <= MAX_SECONDS):
        raise ValueError(f'at most {MAX_CLIENTS} clients and {MAX_SECONDS:.0f} s')
    body, kind = form(photograph)
    began = time.monotonic()
    end = began + seconds
    head = f'POST /api/identify HTTP/1.1\r\nHost: {host}:{port}\r\n'
    slow_bytes = (
        f'{head}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n'.encode() + body
    )
    told: list[Answered] = []
    memory: list[int] = []
    others = [
        *(asyncio.ensure_future(_silent(host, port, b'', end)) for _ in range(idle)),
        *(asyncio.ensure_future(_silent(host, port, slow_bytes, end)) for _ in range(slow)),
        asyncio.ensure_future(_watch(pid, end, memory)),
    ]
    if idle + slow:
        await asyncio.sleep(1)  # they are there first
    await asyncio.gather(
        *(
            _client(
                number,
                Connection(host, port, sources[number % len(sources)]),
                ('/api/identify', body, kind),
                end,
                told,
            )
            for number in range(clients)
        )
    )
    elapsed = time.monotonic() - began
    for other in others:
        other.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    return summary(told, clients, elapsed, memory)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('url')
    parser.add_argument('photograph', type=Path)
    for name, default in (('clients', 64), ('idle', 0), ('slow', 0), ('pid', 0)):
        parser.add_argument(f'--{name}', type=int, default=default)
    parser.add_argument('--seconds', type=float, default=120)
    args = parser.parse_args()
    result = asyncio.run(
        load(
            args.url,
            args.photograph.read_bytes(),
            args.clients,
            args.seconds,
            args.idle,
            args.slow,
            args.pid,
        )
    )
    sys.stdout.write(json.dumps(result) + '\n')


if __name__ == '__main__':
    main()
