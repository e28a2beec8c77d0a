"""Turns, memory and time of the web service: what one client does costs the others nothing."""

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from deploy_models import encoded_crop as crop
from deploy_models import export_folder
from load_clients import load
from vargfacenet.common.checked_json import read_checked, write_checked
from vargfacenet.common.child import frame, read_frame
from vargfacenet.common.engine.export_record import RECORD
from vargfacenet.common.errors import InputError
from vargfacenet.deploy import FaceEmbedder, picture_pool, picture_worker, web_server
from vargfacenet.deploy.fair_queue import Client, FairQueue, Overloaded
from vargfacenet.deploy.picture_pool import PATIENCE_SECONDS, WorkerLost
from vargfacenet.deploy.service import MAX_REQUEST, RequestError
from vargfacenet.deploy.uploads import Uploads
from web_service import pool_options, running_pool

HEALTH = 'GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n'
linux = pytest.mark.skipif(sys.platform != 'linux', reason='Linux limits memory and tells it')


async def _turns(queue, *clients):
    """Tasks that wait for a turn, in this order; the queue's one server is taken."""
    await queue.wait(Client('first'))
    tasks = [asyncio.ensure_future(queue.wait(client)) for client in clients]
    await asyncio.sleep(0)
    return tasks


async def _served_in_order(queue, tasks):
    order = []
    for _ in tasks:
        queue.done()
        await asyncio.sleep(0)
        order += [n for n, task in enumerate(tasks) if task.done() and n not in order]
    return order


def test_addresses_have_their_turns_one_by_one():
    """Five requests of a greedy address are before the two of others, and do not delay them."""

    async def check():
        queue = FairQueue(1, 99, 60)
        tasks = await _turns(queue, *[Client('greedy')] * 5, Client('b'), Client('c'))
        assert len(queue) == 7
        assert await _served_in_order(queue, tasks) == [0, 5, 6, 1, 2, 3, 4]
        queue.done()
        await asyncio.wait_for(queue.wait(Client('d')), 1)  # its server is free again

    asyncio.run(check())


def test_of_one_address_who_has_waited_longest_is_next():
    async def check():
        queue = FairQueue(1, 99, 60)
        tasks = await _turns(queue, *[Client('a', served) for served in (3, 9, 0, 5)])
        assert await _served_in_order(queue, tasks) == [2, 0, 3, 1]

    asyncio.run(check())


def test_a_full_queue_and_one_that_is_too_slow():
    async def check():
        queue = FairQueue(1, 3, 0.2)
        tasks = await _turns(queue, *[Client('greedy')] * 3)
        with pytest.raises(Overloaded):
            await queue.wait(Client('greedy'))
        modest = asyncio.ensure_future(queue.wait(Client('modest')))
        await asyncio.sleep(0.01)
        assert isinstance(tasks[2].exception(), Overloaded) and len(queue) == 3
        queue.done()
        await tasks[0]
        for late in (tasks[1], modest):
            with pytest.raises(Overloaded):
                await late
        assert len(queue) == 0

    asyncio.run(check())


def test_who_goes_away_leaves_no_turn_behind():
    async def check():
        queue = FairQueue(1, 9, 60)
        tasks = await _turns(queue, *[Client(name) for name in 'abc'])
        tasks[0].cancel()
        await asyncio.sleep(0)
        assert len(queue) == 2
        queue.done()  # the turn of b, who goes at this moment
        tasks[1].cancel()
        await asyncio.wait_for(tasks[2], 1)

    asyncio.run(check())


def test_the_largest_unfinished_upload_has_to_go():
    refused = []
    uploads = Uploads(100)
    for name in ('slow', 'small', 'done'):
        uploads.begin(name, lambda name=name: refused.append(name))
    uploads.add('done', 60)
    uploads.complete('done')
    uploads.add('slow', 30)
    uploads.add('small', 10)
    assert uploads.total == 100 and not refused
    uploads.add('small', 1)
    assert refused == ['slow'] and uploads.total == 71
    uploads.end('done')
    uploads.end('small')
    assert uploads.total == 0


def connect(client, text='', source='127.0.0.1'):
    connection = socket.create_connection(('127.0.0.1', client.port), 20, (source, 0))
    connection.sendall(text.encode())
    return connection


def closed_after(connection):
    """Seconds until the server closes a connection, and what it has sent."""
    started, received = time.monotonic(), b''
    while True:
        part = connection.recv(1 << 16)
        if not part:
            return time.monotonic() - started, received
        received += part


def head(length, path='/api/identify', host='127.0.0.1', more=''):
    return f'POST {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: {length}\r\n{more}\r\n'


def test_who_says_nothing_or_too_slowly_is_sent_away(start_service, monkeypatch):
    monkeypatch.setattr(web_server, 'HEADER_SECONDS', 0.5)
    monkeypatch.setattr(web_server, 'BODY_SECONDS', 0.5)
    client = start_service()
    silent, half = connect(client), connect(client, 'GET /api/info HT')
    body, idle = connect(client, head(100) + 'x'), connect(client, HEALTH)
    elsewhere = [connect(client, head(100, path) + 'x') for path in ('/', '/static/app.js', '/no')]
    chunks = 'GET /healthz HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n9\r\nx'
    for connection in (silent, half, body, *elsewhere, connect(client, chunks), idle):
        with connection:
            connection.settimeout(12)  # not the 15 that are usual
            seconds, received = closed_after(connection)
        assert seconds < 12
    assert received.startswith(b'HTTP/1.1 200')  # it was answered, and sent away for its silence


def test_idle_and_slow_clients_cost_nobody_anything(client):
    """Sixty connections that say nothing, or stop in their body, stopped the server before."""
    others = [connect(client, text) for text in ['', head(1000) + 'half a'] * 30]
    started = time.monotonic()
    assert client.post('/api/identify', photograph=crop(1)).status == 200
    assert time.monotonic() - started < 12  # nor until the others are sent away
    for other in others:
        other.close()


def test_when_connections_are_used_up_the_greediest_loses_its_oldest(start_service, monkeypatch):
    monkeypatch.setattr(web_server, 'MAX_CONNECTIONS', 8)
    client = start_service()
    modest = connect(client, source='127.0.0.2')
    greedy = [connect(client) for _ in range(12)]
    assert client.get('/healthz').status == 200  # takes one more
    assert [closed_after(connection)[1] for connection in greedy[:6]] == [b''] * 6
    modest.sendall(HEALTH.encode())
    assert modest.recv(100).startswith(b'HTTP/1.1 200')
    for connection in (modest, *greedy):
        connection.close()


def test_what_is_too_large_is_told_at_once_and_while_it_is_sent(client):
    with connect(client, head(99_999_999)) as connection:  # and no byte of them
        assert connection.recv(1000).startswith(b'HTTP/1.1 413 ')
    with connect(client, head(99_999_999, more='Expect: 100-continue\r\n')) as connection:
        assert connection.recv(1000).startswith(b'HTTP/1.1 413 ')
    for size in (MAX_REQUEST + 1, 2 * MAX_REQUEST + 1):
        kind = {'Content-Type': 'multipart/form-data; boundary=x'}
        answer = client.request('POST', '/api/compare', bytes(size), kind)
        assert answer.status == 413 and '40 MB' in answer.json['error']

    def pieces():
        for _ in range(MAX_REQUEST // (1 << 20) + 1):
            yield bytes(1 << 20)

    answer = client.request('POST', '/api/compare', pieces())  # whose length is not told
    assert answer.status == 413
    assert client.front.uploads.total == 0


def test_an_address_without_use_for_a_body_keeps_none_in_memory(client):
    """It would be a megabyte of each of 500 connections, whoever sends it."""
    for path in ('/', '/static/app.js', '/healthz', '/openapi.json', '/no'):
        with connect(client, head(100_000, path, host='strange')) as connection:
            connection.settimeout(5)
            assert closed_after(connection)[1].startswith(b'HTTP/1.1 400 ')
        with connect(client, head(60_000, path) + 'x' * 60_000) as connection:
            assert connection.recv(100).startswith((b'HTTP/1.1 405 ', b'HTTP/1.1 404 '))


def test_bodies_beyond_the_memory_for_them_get_503(start_service, monkeypatch):
    monkeypatch.setattr(web_server, 'MAX_UPLOADS', 3 << 20)
    client = start_service()
    half = connect(client, head(4 << 20) + 'x' * (2 << 20))
    for _ in range(100):
        if client.front.uploads.total >= 2 << 20:
            break
        time.sleep(0.05)
    noise = np.random.RandomState(0).randint(0, 256, (700, 700, 3)).astype(np.uint8)
    picture = cv2.imencode('.png', noise)[1].tobytes()  # 1.5 MB without a face
    assert client.post('/api/identify', photograph=picture).status == 422
    assert half.recv(1000).startswith(b'HTTP/1.1 503 ')
    half.close()


@pytest.mark.parametrize(
    ('text', 'status'),
    [
        ('GET /api/info HTTP/1.1\r\nHost: [:.:]\r\n\r\n', 403),
        ('GET /api/info HTTP/1.1\r\nHost: [\r\n\r\n', 403),
        ('GET /api/info HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n', 200),
        ('GET /api/info HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: x\r\n\r\n', 400),
        (head(5, more='Transfer-Encoding: chunked\r\n') + '0\r\n\r\n', 400),
        (head(5, more='Content-Length: 6\r\n') + 'x' * 6, 400),
        (head('5x'), 400),
        (head('9' * 5000), 413),
        ('GET /api/thumbnail?name=%ff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n', 400),
        ('GET /static/%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n', 404),
        (f'GET /static/{"a" * 5000} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n', 404),
        (f'GET /api/info HTTP/1.1\r\nx: {"y" * 20_000}\r\n\r\n', None),
        ('no HTTP at all\r\n\r\n', 400),
    ],
)
def test_what_no_browser_sends(text, status, client):
    with connect(client, text) as connection:
        answer = connection.recv(1000)
    assert answer.startswith(f'HTTP/1.1 {status} '.encode()) if status else answer == b''


def _body(parts, header=b''):
    head = b'Content-Disposition: form-data; name="a"' + header
    return b'--B\r\n%s\r\n\r\nx\r\n' % head * parts + b'--B--\r\n'


@pytest.mark.parametrize(
    ('kind', 'body', 'message'),
    [
        ('multipart/form-data; boundary=B', _body(17), 'too many parts'),
        ('multipart/form-data; boundary=B', _body(1, b';' * 5000), 'part header too large'),
        ('application/x-www-form-urlencoded', b'a&' * 500_000, 'number of fields exceeded'),
    ],
)
def test_forms_that_take_long_are_refused(kind, body, message):
    with pytest.raises(RequestError, match=message):
        web_server.parsed_form(kind, [body])


@pytest.mark.parametrize(
    'header',
    [
        b';' * 4000,
        b"; filename*=punycode''a-" + b'9z' * 1900,
        b''.join(b'; f*%d="a"' % number for number in range(350)),
        b'\r\nX:y' * 700,
    ],
)
def test_no_small_form_takes_long(header):
    """It is read where all connections are served; a hundred parts took a second."""
    started = time.process_time()
    with contextlib.suppress(RequestError):
        web_server.parsed_form('multipart/form-data; boundary=B', [_body(15, header)])
    assert time.process_time() - started < 0.3  # 0.07 at most here


@linux
def test_a_worker_that_dies_is_replaced(web_pool, client):
    before = web_pool.pool.pids
    os.kill(before[0], signal.SIGKILL)
    # by another, unless it is given to this one in the moment of its death
    assert client.post('/api/embed', photograph=crop(1)).status in (200, 500)
    for _ in range(300):
        if before[0] not in web_pool.pool.pids and len(web_pool.pool.pids) == len(before):
            break
        time.sleep(0.1)
    assert len(web_pool.pool.pids) == len(before)
    assert client.post('/api/embed', photograph=crop(1)).status == 200


def make_other(model):
    """Have a folder tell that it is of other weights."""
    record = read_checked(model / RECORD, 'record')
    record['source_sha256'] = dict.fromkeys(record['source_sha256'], '0' * 64)
    write_checked(model / RECORD, record)


def test_a_process_that_starts_anew_takes_no_other_model(tmp_path):
    """Its embeddings were compared with those of the model before, after an export to its place."""
    model = export_folder(tmp_path)
    fingerprint = FaceEmbedder(model).fingerprint
    make_other(model)
    with (
        pytest.raises(InputError, match='is another model than when the server was started'),
        running_pool(model, fingerprint, 1),
    ):
        pass


@linux
def test_a_server_whose_processes_do_not_start_is_not_called_busy(tmp_path, monkeypatch):
    """Until the model that it was started with lies there again."""
    monkeypatch.setattr(picture_pool, 'AGAIN_SECONDS', 0.1)
    model = export_folder(tmp_path)
    record = (model / RECORD).read_bytes()
    with running_pool(model, FaceEmbedder(model).fingerprint, 1) as (thread, pool):

        def answer():
            with contextlib.suppress(Overloaded):  # while the first start is under way
                try:
                    return len(thread.run(pool.look([crop(1)], Client()))[0].faces)
                except WorkerLost as error:
                    return str(error)
            return ''

        def wait_for(expected):
            for _ in range(100):
                found = answer()
                if found == expected:
                    return
                time.sleep(0.1)
            raise AssertionError(found)

        make_other(model)
        os.kill(pool.pids[0], signal.SIGKILL)
        wait_for('no process for pictures starts')
        assert {answer() for _ in range(5)} == {'no process for pictures starts'}
        (model / RECORD).write_bytes(record)
        wait_for(1)


def test_a_process_for_which_there_is_no_room_does_not_start(monkeypatch):
    monkeypatch.setattr(picture_pool, 'module_words', lambda module: [os.devnull])
    worker = picture_pool.Worker({})
    with pytest.raises(InputError, match=r'a process for pictures does not start: .*denied'):
        asyncio.run(worker.start())
    assert not worker.alive and not worker.starts


@linux
def test_a_picture_that_takes_too_much_memory_is_refused(web_pool, tmp_path, monkeypatch):
    """24 million pixels of 16 bits, in a process that may have 100 MB more."""
    code = (
        'import sys\n'
        'from vargfacenet.deploy import picture_worker\n'
        'picture_worker.MEMORY = 100 << 20\n'
        'picture_worker.main()\n'
    )
    large = cv2.imencode('.png', np.zeros((4000, 6000), np.uint16) + 9)[1].tobytes()
    options = dict.fromkeys(('input',), '')
    options.update(model=web_pool.model, engine='auto', precision='float32', device='cpu')
    with subprocess.Popen(
        [sys.executable, '-c', code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as worker:

        def ask(content, *pictures):
            worker.stdin.write(b''.join(frame(content, pictures)))
            worker.stdin.flush()
            return read_frame(worker.stdout)[0]

        first = {**pool_options(web_pool.model), 'fingerprint': web_pool.embedder.fingerprint}
        assert ask(first)['ready']
        job = {'which': [(None, 1)]}
        (refused,) = ask(job, large)['results']
        assert refused['kind'] in (picture_worker.NO_PICTURE, picture_worker.TOO_LARGE)
        (seen,) = ask(job, crop(1))['results']  # and the next is looked at
        assert len(seen['faces']) == 1
        worker.stdin.close()


def test_a_client_that_goes_away_gives_its_turn_back(web_pool, client):
    for _ in range(6):
        body = b'x' * 100
        connect(client, head(len(body)) + body.decode()).close()
    assert client.post('/api/identify', photograph=crop(1)).status == 200
    for _ in range(100):
        if not web_pool.pool.waiting and not client.front.uploads.total:
            break
        time.sleep(0.05)
    assert web_pool.pool.waiting == 0 and client.front.uploads.total == 0


def test_more_clients_than_can_be_served(client):
    """A few seconds of it; the two minutes are below."""
    for name in range(3):
        client.post('/api/enrol', name=f'P{name}', photograph=crop(name), force='1')
    started = time.monotonic()
    assert client.post('/api/identify', photograph=crop(1)).status == 200
    alone = time.monotonic() - started
    sources = ('127.0.0.1', '127.0.0.2')
    result = asyncio.run(load(client.url, crop(1), 24, 4, idle=20, slow=20, sources=sources))
    assert set(result['statuses']) <= {'200', '503'} and result['statuses']['200'] > 8, result
    assert result['without_retry_after'] == 0, result
    # more on a machine that does other things as well, but not without end: `alone` grows with the
    # very fault that is looked for, and nobody waits 12 s for a page
    assert result['p99_all'] < min(max(4, PATIENCE_SECONDS + 20 * alone), 12), result


@pytest.mark.slow
@linux
def test_64_clients_for_two_minutes(web_pool, tmp_path):
    """Only answers and 503s, p99 under two seconds, and no memory that grows; 20 idle and 20 slow
    connections are there as well. VARGFACENET_LOAD_MODEL and _PICTURE: a real model and a
    photograph."""
    model = os.environ.get('VARGFACENET_LOAD_MODEL', web_pool.model)
    picture = os.environ.get('VARGFACENET_LOAD_PICTURE')
    photograph = Path(picture).read_bytes() if picture else crop(1)
    command = [sys.executable, '-m', 'vargfacenet', 'serve', '--model', model, '--port', '0']
    server = subprocess.Popen(
        [*command, '--gallery', str(tmp_path / 'g')], stderr=subprocess.PIPE, text=True
    )
    try:
        url = next(line for line in server.stderr if line.startswith('http://')).split()[0]
        asyncio.run(load(url, photograph, 8, 5))  # what is made on first use is made
        result = asyncio.run(load(url, photograph, 64, 120, idle=20, slow=20, pid=server.pid))
    finally:
        server.terminate()
        server.wait(20)
    print(json.dumps(result))
    assert set(result['statuses']) <= {'200', '503'} and result['never_answered'] == 0, result
    assert result['p99_all'] < 2, result
    memory = result['memory_mb']
    assert max(memory[len(memory) // 2 :]) < 1.1 * max(memory[: len(memory) // 2]) + 10, memory
