"""Who may use the web service; forged requests and rebound names in a real browser."""

import base64
import contextlib
import http.server
import os
import re
import socket
import stat
import threading
import time

import pytest
from deploy_models import encoded_crop as crop
from vargfacenet.common.errors import InputError
from vargfacenet.deploy import serve, web_access
from vargfacenet.deploy.service import RequestError
from vargfacenet.deploy.web_access import Access, check_token_file, read_or_make_token
from web_service import HOSTS

TOKEN = 'a-token-of-a-test-that-is-long'


@pytest.fixture
def guarded(start_service):
    return start_service(access=Access(HOSTS, token=TOKEN))


def basic(password, user='anybody'):
    return f'Basic {base64.b64encode(f"{user}:{password}".encode()).decode()}'


def test_a_token_opens_everything_and_nothing_opens_without(guarded):
    paths = [('GET', '/'), ('GET', '/static/app.js'), ('GET', '/api/info')]
    paths += [('GET', '/openapi.json'), ('GET', '/nothing'), ('POST', '/api/identify')]
    wrong = ['', 'Bearer', f'Bearer {TOKEN}x', f'Bearer {TOKEN[:-1]}', basic('x'), 'Basic ?']
    wrong += [TOKEN, f'Digest {TOKEN}', basic('', TOKEN), 'Basic /w==', 'Basic ä', 'Bearer ä']
    for method, path in paths:
        for given in wrong:
            headers = {'Authorization': given} if given else {}
            answer = guarded.request(method, path, headers=headers)
            assert answer.status == 401 and set(answer.json) == {'error'}
            assert answer.headers['www-authenticate'].startswith('Basic ')
    for given in (f'Bearer {TOKEN}', f'bearer {TOKEN}', basic(TOKEN), basic(TOKEN, '')):
        assert guarded.get('/api/info', {'Authorization': given}).status == 200
    answer = guarded.post('/api/embed', {'Authorization': f'Bearer {TOKEN}'}, photograph=crop(1))
    assert answer.status == 200
    assert guarded.get('/healthz').status == 200


def access_of(*words):
    return serve.access_of(serve.main.parser().parse_args(['--model', 'x', *map(str, words)]))


def test_an_open_server_has_a_token_and_its_names(tmp_path, capsys):
    serve.console.set_up_logging()
    assert access_of().token == '' and access_of('--host', '::1').hosts >= {'::1'}
    path = tmp_path / 'token'
    opened = access_of('--host', '0.0.0.0', '--allow-host', 'Faces.Example', '--token-file', path)
    assert opened.token == path.read_text().strip() and len(opened.token) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert capsys.readouterr().err.split() == ['token:', opened.token]
    assert access_of('--host', '0.0.0.0', '--token-file', path).token == opened.token
    assert capsys.readouterr().err == ''  # it is printed once
    assert access_of('--token-file', path).token == opened.token  # on this machine alone as well
    assert capsys.readouterr().err == ''
    for words in (('--proxy', '127.0.0.1'), ('--allow-host', 'faces.example')):
        access_of(*words, '--token-file', path)
        assert capsys.readouterr().err == ''
        assert access_of(*words).token == ''  # which the proxy may ask for itself
        assert 'it asks them for no token' in capsys.readouterr().err.replace('\n', ' ')
    token = {'Authorization': f'Bearer {opened.token}'}
    for host in ('faces.example', 'FACES.example:8350', '192.168.1.5:8350', '[fe80::1]:80'):
        opened.check('GET', {'Host': host, **token})
    for host in ('evil.example', '', 'faces.example.evil', '1.2.3'):
        with pytest.raises(RequestError, match='this server is not'):
            opened.check('GET', {'Host': host, **token})
    one = access_of('--host', '192.168.1.5')
    assert one.token != opened.token and one.hosts == {'192.168.1.5'}
    with pytest.raises(RequestError):
        one.check('GET', {'Host': '192.168.1.6', 'Authorization': f'Bearer {one.token}'})


@pytest.mark.parametrize('content', ['short', '', 'with a blank in it somewhere', 'ä' * 30])
def test_token_files_that_hold_none(content, tmp_path):
    path = tmp_path / 'token'
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(InputError, match='token'):
        read_or_make_token(path)


def test_a_pipe_that_others_can_read_is_refused_before_anything_is_made(tmp_path):
    os.mkfifo(tmp_path / 'pipe', 0o644)
    with pytest.raises(InputError, match='others can read it'):
        check_token_file(tmp_path / 'pipe')
    (tmp_path / 'pipe').chmod(0o600)
    check_token_file(tmp_path / 'pipe')  # and leaves it to be read, once


def test_token_files_that_others_can_read(tmp_path):
    path = tmp_path / 'token'
    path.write_text(TOKEN)
    path.chmod(0o640)
    with pytest.raises(InputError, match='others can read it'):
        read_or_make_token(path)
    with pytest.raises(InputError, match=r'cannot write here \(is a file'):
        read_or_make_token(path / 'token')


def test_a_token_is_read_where_nothing_can_be_written(tmp_path, monkeypatch):
    path = tmp_path / 'token'
    path.write_text(TOKEN)
    path.chmod(0o600)
    monkeypatch.setattr(web_access, 'write_secret', lambda *_: pytest.fail('it writes'))
    assert read_or_make_token(path) == (TOKEN, False)


def test_two_that_make_a_token_have_one(tmp_path, monkeypatch):
    """The other made it after this one saw that there is none."""
    path, write = tmp_path / 'token', web_access.write_secret

    def slower(path, content):
        monkeypatch.setattr(web_access, 'write_secret', write)
        other.append(read_or_make_token(path))
        write(path, content)

    other = []
    monkeypatch.setattr(web_access, 'write_secret', slower)
    assert read_or_make_token(path) == (other[0][0], False)
    assert other[0][1]


def test_requests_of_other_sites(client):
    assert client.get('/api/info', {'Host': 'evil.example'}).status == 403
    here = client.url
    for origin in ('http://evil.example', 'http://[bad', 'null', '127.0.0.1', f'{here}1'):
        answer = client.delete('/api/identities', {'Origin': origin}, name='Ada')
        assert answer.status == 403 and 'other sites' in answer.json['error']
        assert client.get('/api/info', {'Origin': origin, 'Sec-Fetch-Mode': 'cors'}).status == 403
    assert client.delete('/api/identities', {'Origin': here}, name='Ada').status == 404
    for site in ('cross-site', 'same-site'):
        answer = client.get('/api/info', {'Sec-Fetch-Site': site, 'Sec-Fetch-Mode': 'no-cors'})
        assert answer.status == 403
        link = {'Sec-Fetch-Site': site, 'Sec-Fetch-Mode': 'navigate'}
        assert client.get('/', link).status == 200
        assert client.post('/api/enrol', link, name='x', photograph=crop(1)).status == 403
    assert client.get('/api/info', {'Sec-Fetch-Site': 'same-origin'}).status == 200


class _Stranger(http.server.BaseHTTPRequestHandler):
    """A site that is not ours; its page is what a test has chosen."""

    page = ''

    def do_GET(self):
        page = self.page.encode()
        self.send_response(200)
        self.send_header('Content-Type', 'text/html')
        self.send_header('Content-Length', str(len(page)))
        self.end_headers()
        self.wfile.write(page)

    def log_message(self, *_):
        pass


@pytest.fixture
def stranger():
    """URL of a page of another site, whose text the test chooses: stranger(page)."""
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), _Stranger)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()

    def show(page, host='127.0.0.1'):
        _Stranger.page = page
        return f'http://{host}:{server.server_port}/'

    yield show
    server.shutdown()
    server.server_close()
    thread.join(10)


def told(browser, seconds=15):
    """What the page has written into its title, once it has."""
    end = time.monotonic() + seconds
    while not browser.title.startswith('told:') and time.monotonic() < end:
        time.sleep(0.1)
    return browser.title


_FORGED = """<form method="post" enctype="multipart/form-data" target="answer" id="f"
 action="URL/api/enrol"><input name="name" value="Eve"><input name="force" value="1">
 <input type="file" name="photograph" id="p"></form>
<iframe name="answer" id="answer"></iframe><img src="URL/api/thumbnail?name=Ada" id="i">
<script>
const bytes = Uint8Array.from(atob('PICTURE'), (c) => c.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], 'x.png', { type: 'image/png' }));
document.getElementById('p').files = transfer.files;
document.getElementById('f').submit();
const ways = [
  ['URL/api/info', {}], ['URL/api/info', { mode: 'no-cors' }],
  ['URL/api/identities?name=Ada', { method: 'DELETE' }],
  ['URL/api/enrol', { method: 'POST', mode: 'no-cors', body: new FormData(document.forms[0]) }],
];
Promise.all(ways.map(([url, how]) =>
  fetch(url, { credentials: 'include', ...how })
    .then((answer) => answer.text()).then((text) => text.length, () => 'refused')))
  .then((lengths) => setTimeout(() => {
    const image = document.getElementById('i').naturalWidth;
    document.title = `told: ${lengths} ${image}`;
  }, 1500));
</script>"""


@pytest.mark.parametrize('host', ['localhost', '127.0.0.1'])  # cross-site, and same-site
def test_pages_of_other_sites_do_nothing_in_a_browser(host, start_service, browser, stranger):
    """Forms, fetches, pictures and frames of a page of another site, with the user's rights."""
    client = start_service(keep_crops=True)
    client.post('/api/enrol', name='Ada', photograph=crop(1))
    browser.get(client.url)
    assert browser.title == 'VarGFaceNet'
    picture = base64.b64encode(crop(2)).decode()
    page = _FORGED.replace('URL', client.url).replace('PICTURE', picture)
    browser.get(stranger(page, host))
    # nothing that the page could read, and no picture
    assert re.fullmatch(r'told: refused,(refused|0),refused,(refused|0) 0', told(browser))
    assert client.get('/api/info').json['identities'] == {'Ada': 1}


def test_the_page_is_shown_in_no_frame(client, browser, stranger):
    browser.get(stranger(f'<title>told: x</title><iframe src="{client.url}/" id="f"></iframe>'))
    browser.switch_to.frame('f')
    assert 'VarGFaceNet' not in browser.page_source
    browser.switch_to.default_content()
    lines = [entry['message'] for entry in browser.get_log('browser')]
    assert any('frame' in line for line in lines), lines


class _Rebinding:
    """A name whose address changes: the first connections get the stranger's page, later ones
    reach the service, as if the name led to this machine now.
    """

    def __init__(self, page, port):
        self._page = page.encode()
        self._port = port
        self.rebound = threading.Event()
        self._listener = socket.create_server(('127.0.0.1', 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self):
        self._listener.close()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            request = connection.recv(1 << 16)
            if request.startswith(b'GET / ') and not self.rebound.is_set():
                head = f'Content-Type: text/html\r\nContent-Length: {len(self._page)}'
                connection.sendall(
                    f'HTTP/1.1 200 OK\r\n{head}\r\nConnection: close\r\n\r\n'.encode() + self._page
                )
                return
            self.rebound.set()
            with socket.create_connection(('127.0.0.1', self._port)) as service:
                service.sendall(request)
                service.settimeout(2)
                while part := service.recv(1 << 16):
                    connection.sendall(part)


def test_a_name_that_is_pointed_here_gets_nothing(client, start_browser):
    """DNS rebinding: a page of evil.example asks its own name, which has become this server."""
    page = """<title>evil</title><script>
    setTimeout(() => fetch('/api/info').then((answer) => answer.text().then((text) => {
      document.title = `told: ${answer.status} ${text}`; })), 300);</script>"""
    rebinding = _Rebinding(page, client.port)
    browser = start_browser('host-resolver-rules=MAP evil.example 127.0.0.1')
    browser.get(f'http://evil.example:{rebinding.port}/')
    assert '403' in told(browser) and "this server is not 'evil.example'" in browser.title
    assert rebinding.rebound.is_set()
    rebinding.close()


def test_a_browser_that_has_the_token_shows_the_page(start_service, start_browser):
    from selenium.webdriver.common.by import By

    client = start_service(access=Access(HOSTS, token=TOKEN))
    browser = start_browser()
    browser.get(f'{client.url}/')
    assert browser.title != 'VarGFaceNet'
    browser.get(f'http://x:{TOKEN}@127.0.0.1:{client.port}/')  # as if typed when it asked
    browser.get(f'{client.url}/')
    assert browser.title == 'VarGFaceNet'
    for _ in range(100):
        if 'openvino' in browser.find_element(By.ID, 'model').text:
            break
        time.sleep(0.1)
    assert 'openvino' in browser.find_element(By.ID, 'model').text  # of /api/info
