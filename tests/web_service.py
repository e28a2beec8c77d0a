"""A running web service for tests, and a client that keeps to its OpenAPI document."""

import asyncio
import contextlib
import http.client
import io
import json
import threading
import uuid
from typing import NamedTuple
from urllib.parse import urlencode

import jsonschema
from vargfacenet.common.parallel import cpu_count
from vargfacenet.deploy import serve
from vargfacenet.deploy.gallery import Gallery
from vargfacenet.deploy.openapi import document
from vargfacenet.deploy.picture_pool import PicturePool
from vargfacenet.deploy.service import Service
from vargfacenet.deploy.web_access import Access
from vargfacenet.deploy.web_server import Front

HOSTS = frozenset({'127.0.0.1', 'localhost'})


class LoopThread:
    """An event loop in a thread, for what lives longer than a test."""

    def __init__(self):
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def run(self, work):
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(120)

    def close(self):
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        assert not self._thread.is_alive()
        self.loop.close()


def pool_options(model, *words):
    """What `serve --model MODEL WORDS...` tells its processes."""
    arguments = ['--model', str(model), *words]
    return serve.picture_options(serve.main.parser().parse_args(arguments))


@contextlib.contextmanager
def running_pool(model, fingerprint, workers=None):
    """(loop, pool) of processes that have the model open."""
    thread = LoopThread()
    pool = PicturePool(pool_options(model), fingerprint, workers or min(2, cpu_count()))
    try:
        thread.run(pool.start())
        yield thread, pool
    finally:
        thread.run(pool.close())
        thread.close()


@contextlib.contextmanager
def running_service(thread, pool, embedder, folder, access=None, **options):
    """A Client of a service on a free port."""
    gallery = Gallery(folder, embedder.embedding_size, embedder.fingerprint, wait=0.05)
    service = Service(embedder, gallery, pool, **options)

    async def start():
        return Front(service, access or Access(HOSTS), serve.listen('127.0.0.1', 0))

    front = thread.run(start())
    try:
        yield Client(front, service, gallery)
    finally:
        thread.run(front.close())
        service.close()
        gallery.close()


class Reply(NamedTuple):
    """What a request got."""

    status: int
    headers: dict  # names in small letters
    content: bytes

    @property
    def json(self):
        return json.loads(self.content)


def multipart(fields):
    """(body, content type) of a form; bytes are files."""
    boundary = uuid.uuid4().hex
    body = io.BytesIO()
    for name, value in fields.items():
        file = '; filename="x.png"' if isinstance(value, bytes) else ''
        body.write(
            f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{file}\r\n\r\n'.encode()
        )
        body.write(value if isinstance(value, bytes) else str(value).encode())
        body.write(b'\r\n')
    body.write(f'--{boundary}--\r\n'.encode())
    return body.getvalue(), f'multipart/form-data; boundary={boundary}'


class Client:
    """Asks a running service; every answer is held against the OpenAPI document."""

    def __init__(self, front, service, gallery):
        self.front, self.service, self.gallery = front, service, gallery
        self.port = front.port
        self.url = f'http://127.0.0.1:{front.port}'
        self._document = document()

    def request(self, method, path, body=None, headers=(), **query):
        connection = http.client.HTTPConnection('127.0.0.1', self.port, timeout=60)
        target = f'{path}?{urlencode(query)}' if query else path
        try:
            connection.request(method, target, body, dict(headers))
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            reply = Reply(answer.status, told, answer.read())
        finally:
            connection.close()
        self.check(method, path, reply)
        return reply

    def get(self, path, headers=(), **query):
        return self.request('GET', path, headers=headers, **query)

    def delete(self, path, headers=(), **query):
        return self.request('DELETE', path, headers=headers, **query)

    def post(self, path, headers=(), **fields):
        body, kind = multipart(fields)
        return self.request('POST', path, body, {'Content-Type': kind, **dict(headers)})

    def check(self, method, path, reply):
        """That the document tells of such an answer, and that it is as it says."""
        operation = self._document['paths'].get(path, {}).get(method.lower())
        if operation is None:
            assert reply.status in (200, 304, 401, 403, 404, 405), reply
            return
        response = operation['responses'][str(reply.status)]
        if '$ref' in response:
            response = self._document['components']['responses'][response['$ref'].split('/')[-1]]
        for name in response.get('headers', ()):
            assert name.lower() in reply.headers
        kind = reply.headers['content-type']
        schema = response['content'][kind]['schema']
        if kind == 'application/json':
            content = {**schema, 'components': self._document['components']}
            jsonschema.Draft202012Validator(content).validate(reply.json)
