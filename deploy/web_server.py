"""The web service over HTTP, on Tornado: routes, guards, errors as JSON, limits of time and size.

Slow and silent clients cost a connection each and nothing else: headers, bodies and answers have
their time, bodies their place (`Uploads`), requests their turn (`FairQueue`).
"""

import asyncio
import contextlib
import json
import logging
import random
import socket
import time
from collections import Counter
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from http.client import responses
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from tornado import httpserver, httputil, web

from ..common.errors import InputError
from .fair_queue import Client, Overloaded
from .gallery import GalleryBusy, GalleryDamaged, UnknownIdentity
from .openapi import document
from .picture_pool import WorkerLost
from .service import MAX_REQUEST, DoubtfulEnrolment, RequestError, Service
from .uploads import Uploads
from .web_access import Access

log = logging.getLogger(__name__)

WEB = Path(__file__).parent / 'web'
HEADER_SECONDS = 15.0  # for the headers of a request, from the end of the one before
BODY_SECONDS = 15.0  # for a body, and a second more for each
BODY_RATE = 128 << 10  # bytes
DRAIN_SECONDS = 10.0  # in which who was refused may finish sending, to read why
ANSWER_SECONDS = 30.0  # to take an answer
MAX_CONNECTIONS = 500  # a process may have 1,024 files open
MAX_UPLOADS = 256 << 20  # bytes of bodies in memory
MAX_HEADERS = 16 << 10  # bytes
MAX_UNASKED = 64 << 10  # bytes of a body outside of the API, where nobody has use for it
RETRY_SECONDS = (1, 3)  # for whoever gets a 503; if all had the same, all would come at once
SMALL = 1 << 20  # bytes of a body that is parsed at once, and not in another thread
# a form has up to five parts; Tornado takes a second of the loop for a hundred with long headers
_FORM = httputil.ParseBodyConfig(
    multipart=httputil.ParseMultipartConfig(max_parts=16, max_part_header_size=4 << 10),
    urlencoded=httputil.ParseUrlEncodedConfig(max_arguments=16),
)
_NO_LIMIT = 1 << 62
_DIGITS = 18  # of a length; more are too many, and int() fails on thousands
_HEADERS = {
    'Content-Security-Policy': "default-src 'self'; img-src 'self' data: blob:; object-src 'none'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    'X-Frame-Options': 'DENY',
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Cross-Origin-Opener-Policy': 'same-origin',
    'Cache-Control': 'no-store',
}


class Form(NamedTuple):
    """What a request brings."""

    fields: Mapping[str, str]  # of the form, or of the query
    files: Mapping[str, bytes]
    client: Client

    def field(self, name: str) -> str:
        return self.fields.get(name, '')

    def file(self, name: str) -> bytes:
        return self.files.get(name, b'')


Function = Callable[[Service, Form], Awaitable]
ROUTES: dict[str, dict[str, Function]] = {
    '/api/info': {'GET': lambda service, form: service.info()},
    '/api/compare': {
        'POST': lambda service, form: service.compare(
            form.file('first'),
            form.file('second'),
            form.field('far'),
            (form.field('first_face'), form.field('second_face')),
            form.client,
        )
    },
    '/api/embed': {
        'POST': lambda service, form: service.embed(
            form.file('photograph'), form.field('face'), form.client
        )
    },
    '/api/identify': {
        'POST': lambda service, form: service.identify(
            form.file('photograph'),
            form.field('far'),
            form.field('fpir'),
            form.field('face'),
            form.client,
        )
    },
    '/api/enrol': {
        'POST': lambda service, form: service.enrol(
            form.field('name'), form.file('photograph'), form.field('force') == '1', form.client
        )
    },
    # not in the path, where '.' and '//' have a meaning of their own
    '/api/identities': {'DELETE': lambda service, form: service.remove(form.field('name'))},
    '/api/undo': {'POST': lambda service, form: service.undo(form.field('undo'))},
    '/api/thumbnail': {'GET': lambda service, form: service.thumbnail(form.field('name'))},
}


class _Guarded(web.RequestHandler):
    """Headers of every answer, who may ask, and errors as one JSON object."""

    def initialize(self, front: 'Front'):
        self._front = front

    def set_default_headers(self) -> None:
        self.clear_header('Server')
        for name, value in _HEADERS.items():
            self.set_header(name, value)

    def compute_etag(self) -> None:
        return None

    def guard(self) -> None:
        self._front.access.check(self.request.method, self.request.headers)

    def prepare(self) -> None:
        self.guard()

    def log_exception(self, *_) -> None:
        pass  # `write_error` does, of those that are faults of the server

    def write_error(self, status: int, **failure) -> None:
        error = failure['exc_info'][1] if 'exc_info' in failure else None
        self.send_json(*error_answer(error, f'{self.request.method} {self.request.path}'))

    def send_json(self, content: dict, status: int = 200) -> None:
        """Write an answer whose length is told."""
        body = json.dumps(content, ensure_ascii=False, allow_nan=False).encode()
        self.set_status(status)
        self.set_header('Content-Type', 'application/json')
        self.set_header('Content-Length', len(body))
        if status == 503:
            self.set_header('Retry-After', random.randint(*RETRY_SECONDS))
        if status == 401:
            self.set_header('WWW-Authenticate', 'Basic realm="VarGFaceNet", charset="UTF-8"')
        self.write(body)


def error_answer(error: Optional[BaseException], where: str) -> tuple[dict, int]:
    """(JSON, status) for what went wrong; `where` begins the line in the log of a fault."""
    if isinstance(error, DoubtfulEnrolment):
        return {'error': str(error), 'doubtful': True}, error.status
    if isinstance(error, RequestError):
        return {'error': str(error)}, error.status
    if isinstance(error, Overloaded):
        return {'error': 'too many requests at once; try again'}, 503
    if isinstance(error, GalleryBusy):  # whose own words tell where it lies
        return {'error': 'another process is writing to the gallery; try again'}, 503
    for kind, status in ((UnknownIdentity, 404), (InputError, 400)):
        if isinstance(error, kind) and not isinstance(error, GalleryDamaged):
            return {'error': str(error)}, status
    if isinstance(error, web.HTTPError):
        return {'error': f'{where}: {responses[error.status_code]}'}, error.status_code
    if not isinstance(error, WorkerLost):  # which is in the log already
        log.error('%s', ' '.join(f'{where}: {type(error).__name__}: {error}'.split()))
    return {'error': 'the server failed; its log says why'}, 500


@web.stream_request_body
class _Api(_Guarded):
    """One address of the API."""

    def initialize(self, front: 'Front', functions: dict[str, Function]):
        super().initialize(front)
        self._functions = functions
        self._chunks: list[bytes] = []
        self._size = 0
        self._refused = False
        self._job: Optional[asyncio.Task] = None
        self._told: Optional[asyncio.Task] = None

    async def prepare(self) -> None:
        connection, headers = self.request.connection, self.request.headers
        connection.set_max_body_size(_NO_LIMIT)  # of its own limit Tornado says nothing in JSON
        told = headers.get('Content-Length', '')
        length = int(told[:_DIGITS]) if told.isdecimal() else MAX_REQUEST
        connection.set_body_timeout(BODY_SECONDS + min(length, MAX_REQUEST) / BODY_RATE)
        try:
            self.guard()
            if self.request.method not in self._functions:
                raise RequestError(f'this address takes {", ".join(self._functions)}', 405)
            if length > MAX_REQUEST:
                raise _too_large()
        except RequestError as error:
            if headers.get('Expect'):
                raise  # nothing more is sent before we answer
            self._refuse(error)
        else:
            self._front.uploads.begin(self, lambda: self._refuse(Overloaded()))

    def data_received(self, chunk: bytes) -> None:
        if self._refused:
            return
        self._size += len(chunk)
        if self._size > MAX_REQUEST:
            self._front.uploads.end(self)
            self._refuse(_too_large())
        else:
            self._chunks.append(chunk)
            self._front.uploads.add(self, len(chunk))

    def _refuse(self, error: Exception) -> None:
        """Say now what is wrong, and let the client send the rest, or it could not read this."""
        self._refused = True
        self._chunks.clear()
        self.request.connection.set_body_timeout(DRAIN_SECONDS)
        where = f'{self.request.method} {self.request.path}'
        self.send_json(*error_answer(error, where))
        self._told = asyncio.ensure_future(_quietly(self.flush()))

    async def _reply(self) -> None:
        if self._refused:
            return await self._finish()
        self._front.uploads.complete(self)
        self._peer().busy = True
        # the rest is a task of its own so that it ends when the client goes
        self._job = asyncio.ensure_future(self._answer())
        try:
            answer = await self._job
        except asyncio.CancelledError:
            return None
        finally:
            self._front.uploads.end(self)
        if isinstance(answer, bytes):
            self.set_header('Content-Type', 'image/jpeg')
            self.write(answer)
        else:
            self.send_json(answer)
        self._peer().served = time.monotonic()
        return await self._finish()

    def _peer(self) -> '_Peer':
        return self._front.server.peer(self.request.connection.stream)

    async def _answer(self):
        form = await self._read_form()
        return await self._functions[self.request.method](self._front.service, form)

    get = post = delete = _reply

    async def _read_form(self) -> Form:
        try:
            query = {name: values[-1].decode() for name, values in self.request.arguments.items()}
        except UnicodeDecodeError as error:
            raise RequestError(f'the address is no UTF-8: {error}') from None
        chunks, self._chunks = self._chunks, []
        kind = self.request.headers.get('Content-Type', '')
        if self._size < SMALL:
            fields, files = parsed_form(kind, chunks)
        else:
            loop = asyncio.get_running_loop()
            fields, files = await loop.run_in_executor(None, parsed_form, kind, chunks)
        client = Client(self._front.address(self.request), self._peer().served)
        return Form({**query, **fields}, files, client)

    async def _finish(self) -> None:
        """Send the answer; who does not take it loses the connection."""
        stream = self.request.connection.stream
        try:
            await asyncio.wait_for(asyncio.shield(_quietly(self.finish())), ANSWER_SECONDS)
        except asyncio.TimeoutError:
            stream.close()

    def on_connection_close(self) -> None:
        super().on_connection_close()
        if self._job:
            self._job.cancel()
        self.on_finish()

    def on_finish(self) -> None:
        self._front.uploads.end(self)
        self._peer().busy = False


async def _quietly(sent: Awaitable) -> None:
    """Wait until something is sent, or the client is gone."""
    with contextlib.suppress(Exception):  # of a closed connection; which depends on the moment
        await sent


def _too_large() -> RequestError:
    return RequestError(f'more than {MAX_REQUEST >> 20} MB; make the photographs smaller', 413)


def parsed_form(kind: str, chunks: list[bytes]) -> tuple[dict[str, str], dict[str, bytes]]:
    """(fields, files) of a body; RequestError for one that is no form."""
    content = b''.join(chunks)
    if not content:
        return {}, {}
    arguments: dict[str, list[bytes]] = {}
    files: dict[str, list] = {}
    headers = httputil.HTTPHeaders()
    try:
        httputil.parse_body_arguments(kind, content, arguments, files, headers, config=_FORM)
        fields = {name: values[-1].decode() for name, values in arguments.items()}
    except (httputil.HTTPInputError, UnicodeDecodeError, ValueError) as error:
        raise RequestError(f'the body is no form: {error}') from None
    if not fields and not files:
        raise RequestError(
            f'a body of {kind[:80] or "no type"}: expected multipart/form-data with the fields'
        )
    return fields, {name: values[-1].body for name, values in files.items()}


class _Static(_Guarded, web.StaticFileHandler):
    """The page."""

    def initialize(self, front: 'Front', **settings):
        _Guarded.initialize(self, front)
        web.StaticFileHandler.initialize(self, **settings)

    def validate_absolute_path(self, root: str, absolute_path: str) -> Optional[str]:
        try:
            return super().validate_absolute_path(root, absolute_path)
        except (OSError, ValueError):  # a name that no file can have
            raise web.HTTPError(404) from None


class _Plain(_Guarded):
    """What is known without looking anything up."""

    def initialize(self, front: 'Front', content: Callable[[], tuple[dict, int]], guarded: bool):
        super().initialize(front)
        self._content = content
        self._checked = guarded

    def prepare(self) -> None:
        if self._checked:
            self.guard()

    def get(self) -> None:
        self.send_json(*self._content())


class _Unknown(_Guarded):
    def prepare(self) -> None:
        self.guard()
        raise RequestError(f'{self.request.path}: there is no such address', 404)


@dataclass
class _Peer:
    """Who is at the other end of a connection."""

    address: str
    busy: bool = False  # waits for an answer
    served: float = 0.0  # when it had the last one, monotonic


class _Server(httpserver.HTTPServer):
    """Tornado's server with a bounded number of connections.

    If all are taken, the oldest on which nobody waits for an answer is closed, of the address that
    has most of them.
    """

    def initialize(self, *arguments, **settings):
        self._peers: dict[object, _Peer] = {}  # of connections, the oldest first
        super().initialize(*arguments, **settings)

    def peer(self, stream) -> _Peer:
        """Who is at the other end; of a connection that is closed, nobody."""
        return self._peers.get(stream) or _Peer('')

    def handle_stream(self, stream, address) -> None:
        if len(self._peers) >= MAX_CONNECTIONS and not self._make_room():
            stream.close()
            return
        self._peers[stream] = _Peer(address[0])
        super().handle_stream(stream, address)

    def on_close(self, server_conn) -> None:
        self._peers.pop(server_conn.stream, None)
        super().on_close(server_conn)

    def _make_room(self) -> bool:
        """Close a connection; False if all wait for answers."""
        waiting = {stream: peer for stream, peer in self._peers.items() if not peer.busy}
        if not waiting:
            return False
        (greediest, _), *_ = Counter(peer.address for peer in waiting.values()).most_common(1)
        oldest = next(stream for stream, peer in waiting.items() if peer.address == greediest)
        del self._peers[oldest]
        oldest.close()
        return True


class Front:
    """The server of a service; made and used in one event loop.

    Parameters
    ----------
    service : what answers
    access : who may ask
    listener : a socket that takes connections; it is closed with the server
    proxies : addresses of reverse proxies, which tell in X-Forwarded-For whose request it is
    """

    def __init__(
        self,
        service: Service,
        access: Access,
        listener: socket.socket,
        proxies: frozenset[str] = frozenset(),
    ):
        self.service = service
        self.access = access
        self.uploads = Uploads(MAX_UPLOADS)
        self._proxies = proxies
        self.port = listener.getsockname()[1]
        application = web.Application(
            [
                *(
                    (path, _Api, {'front': self, 'functions': functions})
                    for path, functions in ROUTES.items()
                ),
                ('/healthz', _Plain, self._plain(self._health, False)),
                ('/openapi.json', _Plain, self._plain(lambda: (document(), 200), True)),
                ('/()', _Static, {'front': self, 'path': WEB, 'default_filename': 'index.html'}),
                ('/static/(.*)', _Static, {'front': self, 'path': WEB}),
            ],
            default_handler_class=_Unknown,
            default_handler_args={'front': self},
            log_function=lambda handler: None,
        )
        self.server = _Server(
            application,
            idle_connection_timeout=HEADER_SECONDS,
            max_header_size=MAX_HEADERS,
            # of all addresses but those of the API, which set their own: Tornado reads a body
            # before it asks anybody, for ever and a megabyte of it if nobody says otherwise
            body_timeout=BODY_SECONDS,
            max_body_size=MAX_UNASKED,
            max_buffer_size=1 << 20,
            chunk_size=1 << 16,
        )
        listener.setblocking(False)
        self.server.add_socket(listener)

    def address(self, request) -> str:
        """The address whose request it is."""
        address = request.remote_ip
        if address in self._proxies:
            return request.headers.get('X-Forwarded-For', address).split(',')[-1].strip()
        return address

    async def close(self) -> None:
        """Take no more connections, and end those that are there."""
        self.server.stop()
        await self.server.close_all_connections()

    def _plain(self, content: Callable[[], tuple[dict, int]], guarded: bool) -> dict:
        return {'front': self, 'content': content, 'guarded': guarded}

    def _health(self) -> tuple[dict, int]:
        health = self.service.health()
        well = health['workers'] > 0
        return {'status': 'ok' if well else 'no workers', **health}, 200 if well else 503
