"""A web page and a JSON API on this machine: compare two photographs, enrol people, identify them.

Pictures stay in memory; what is kept is the embedding of people who are enrolled, and the aligned
crop with --keep-crops. The server answers this machine alone unless --host says otherwise.
"""

import argparse
import base64
import contextlib
import errno
import io
import ipaddress
import logging
import os
import re
import socket
import threading
from pathlib import Path
from typing import NamedTuple, Optional

import numpy as np

from ..common import console
from ..common.data.image import decode_rgb, encode_jpeg
from ..common.engine.options import add_options
from ..common.errors import InputError
from ..common.extras import need
from ..common.limits import WEB_PIXELS
from .decide import (
    DEFAULT_FPIR,
    HOW_TO_GET_THRESHOLDS,
    Decision,
    check_fpir,
    decide_for_gallery,
    default_far,
    embedder_from,
    stored_thresholds,
)
from .decision_notes import note_comparison, note_identification
from .embedder import FaceEmbedder
from .enrolment import enrolment_doubts
from .faces import Face, NoFace, add_faces_option, find_face
from .gallery import Gallery, GalleryBusy, UnknownIdentity
from .gallery_file import DATABASE
from .gallery_records import checked_name, picture_digest
from .sealing import CODEC_HELP, add_key_options, key_of
from .tail import GalleryDecision, fpir_of

log = logging.getLogger(__name__)

WEB = Path(__file__).parent / 'web'
MAX_REQUEST = 40 << 20  # bytes: two photographs
_MAX_BODY = 2 * MAX_REQUEST  # bytes: of more waitress reads nothing, and says so in plain text
_MAX_CONNECTIONS = 30  # each may have such a body in memory
TOP = 5
FPIRS = (0.1, 0.01, 0.001)  # that the page offers
_HEADERS = {
    'Content-Security-Policy': "default-src 'self'; img-src 'self' data: blob:",
    'X-Content-Type-Options': 'nosniff',
    'Referrer-Policy': 'no-referrer',
    'Cache-Control': 'no-store',
}


class RequestError(Exception):
    """What a request gets in place of an answer: a message and an HTTP status."""

    def __init__(self, message: str, status: int = 400):
        super().__init__(message)
        self.status = status


class DoubtfulEnrolment(RequestError):
    """A face that is enrolled only if the request insists."""

    def __init__(self, doubts: list[str]):
        super().__init__(f'not enrolled: {"; ".join(doubts)}', 409)


class Answer(NamedTuple):
    """A cosine and what follows from it; `same` is None without a threshold."""

    cosine: float
    same: Optional[bool]


class Service:
    """What the API does, without HTTP. Usable from several threads.

    Parameters
    ----------
    embedder : its export's thresholds decide
    gallery : of the same model
    faces : what pictures are, as for `find_face`
    keep_crops : whether the gallery gets the pictures of people who are enrolled

    Methods take encoded pictures, and as `far` one of `thresholds`, or '' for that of `info`. They
    raise RequestError, and what Gallery raises.
    """

    def __init__(
        self,
        embedder: FaceEmbedder,
        gallery: Gallery,
        faces: str = 'auto',
        keep_crops: bool = False,
    ):
        self._embedder = embedder
        self._gallery = gallery
        self._keep_crops = keep_crops
        self._faces = faces
        # the embedder serves one thread at a time, and one large picture is enough in memory
        self._lock = threading.Lock()
        self.thresholds = stored_thresholds(embedder)
        self.far = default_far(self.thresholds)

    def info(self) -> dict:
        """What the page shows before anything is asked."""
        return {
            'model': self._embedder.model,
            'backend': self._embedder.backend,
            'thresholds': self.thresholds,
            'far': self.far,
            'fpirs': list(FPIRS) if self.thresholds else [],
            'fpir': DEFAULT_FPIR,
            'max_bytes': MAX_REQUEST,
            'identities': self._gallery.identities(),
        }

    def compare(self, first: bytes, second: bytes, far: str) -> dict:
        """Cosine and decision for two photographs, with the crops that were compared."""
        threshold = self._threshold(far)
        faces = [self._face(first, 'first photograph'), self._face(second, 'second photograph')]
        cosine = float(np.dot(faces[0].embedding.astype(np.float64), faces[1].embedding))
        answer = self._answer(cosine, threshold)
        decision = Decision(threshold, float(far or self.far) if self.thresholds else None)
        note_comparison(
            self._gallery.log_path, 'serve compare', self._embedder.model, decision, answer.same
        )
        return {
            'faces': [_shown(face) for face in faces],
            'threshold': threshold,
            **answer._asdict(),
        }

    def enrol(self, name: str, photograph: bytes, force: bool = False) -> dict:
        """Add the one face of a photograph to the gallery.

        A poor picture, and one of somebody who seems to be there under another name, is a
        DoubtfulEnrolment unless `force` is true.
        """
        name = checked_name(name)
        face = self._face(photograph, 'photograph')
        if face.count > 1:
            raise RequestError(
                f'the photograph shows {face.count} faces; enrol from one of a single person', 422
            )
        decision = decide_for_gallery(self._embedder, len(self._gallery), DEFAULT_FPIR)
        doubts = enrolment_doubts(self._gallery, name, face, decision and decision.threshold)
        if doubts and not force:
            raise DoubtfulEnrolment(doubts)
        crop = encode_jpeg(face.crop)
        self._gallery.enrol(
            [name],
            face.embedding[None],
            ['web page'],
            [crop] if self._keep_crops else None,
            [picture_digest(crop)],
        )
        return {
            'name': name,
            'face': face.summary(),
            'doubts': doubts,
            'identities': self._gallery.identities(),
        }

    def identify(self, photograph: bytes, far: str = '', fpir: str = '') -> dict:
        """The people of the gallery most like the largest face of a photograph.

        `fpir` is the share of strangers who may be named, by default DEFAULT_FPIR; `far`, in its
        place, the rate of one comparison.
        """
        decision = self._gallery_decision(far, fpir)
        applied = decision.as_dict()
        face = self._face(photograph, 'photograph')
        matches = self._gallery.identify(face.embedding, TOP)
        note_identification(self._gallery, 'serve identify', decision, matches)
        return {
            'face': _shown(face),
            **applied,
            'matches': [
                {
                    'name': match.identity,
                    'crop': self._stored_crop(match.identity),
                    **self._answer(match.cosine, applied['threshold'])._asdict(),
                }
                for match in matches
            ],
        }

    def remove(self, name: str) -> dict:
        """Forget a person."""
        self._gallery.remove(name)
        return {'identities': self._gallery.identities()}

    def _face(self, content: bytes, what: str) -> Face:
        if not content:
            raise RequestError(f'the {what} is missing; choose a picture file')
        with self._lock:
            try:
                return find_face(self._embedder, decode_rgb(content, WEB_PIXELS), self._faces)
            except InputError as error:
                status = 422 if isinstance(error, NoFace) else 400
                raise RequestError(f'{what}: {error}', status) from None

    def _threshold(self, far: str) -> Optional[float]:
        if not self.thresholds:
            return None
        far = far or self.far
        if far not in self.thresholds:
            raise RequestError(f'far {far!r}: choose one of {", ".join(self.thresholds)}')
        return self.thresholds[far]

    def _gallery_decision(self, far: str, fpir: str) -> GalleryDecision:
        """The threshold of an identification, and the rates that belong to it."""
        faces = len(self._gallery)
        if far:
            threshold = self._threshold(far)
            known = threshold is not None
            share = fpir_of(float(far), max(faces, 1)) if known else None
            return GalleryDecision(threshold, share, faces, float(far) if known else None)
        try:
            wanted = check_fpir(float(fpir) if fpir else None)
        except ValueError:
            raise RequestError(f'fpir {fpir!r}: expected a number between 0 and 1') from None
        decision = decide_for_gallery(self._embedder, faces, wanted)
        return decision or GalleryDecision(None, None, faces, None)

    def _answer(self, cosine: float, threshold: Optional[float]) -> Answer:
        return Answer(cosine, None if threshold is None else cosine > threshold)

    def _stored_crop(self, name: str) -> Optional[str]:
        crop = self._gallery.crop(name)
        return crop and _encoded_url(crop)


def _shown(face: Face) -> dict:
    return {'crop': _data_url(face.crop), **face.summary()}


def _data_url(image: np.ndarray) -> str:
    return _encoded_url(encode_jpeg(image))


def _encoded_url(jpeg: bytes) -> str:
    return f'data:image/jpeg;base64,{base64.b64encode(jpeg).decode()}'


def make_app(service: Service, allowed_hosts: Optional[set[str]] = None):
    """The Flask application of a service.

    Parameters
    ----------
    service : what answers
    allowed_hosts : names that a browser may know this server by, None for any. A page of another
        site can point its own name at this machine's address; the name in the request tells.
    """
    flask = need('flask', 'deploy')
    wrappers = need('flask.wrappers', 'deploy')

    class MemoryRequest(wrappers.Request):
        """Uploads stay in memory; by default large ones go to a temporary file."""

        def _get_file_stream(self, *_, **__):
            return io.BytesIO()

    app = flask.Flask(__name__, static_folder=str(WEB), static_url_path='/static')
    app.request_class = MemoryRequest
    app.config['MAX_CONTENT_LENGTH'] = app.config['MAX_FORM_MEMORY_SIZE'] = MAX_REQUEST
    app.json.sort_keys = False
    _add_guards(app, flask.request, allowed_hosts)
    _add_routes(app, flask.request, service)
    _add_errors(app, flask.request)
    return app


def _add_guards(app, request, allowed_hosts: Optional[set[str]]) -> None:
    """Refuse what pages of other sites send, and tell browsers to be strict."""

    @app.before_request
    def check_origin():
        host = re.sub(r':\d+$', '', request.host).strip('[]').lower()
        if allowed_hosts is not None and host not in allowed_hosts:
            raise RequestError(f'this server is not {host!r}', 403)
        origin = request.headers.get('Origin')
        if request.method != 'GET' and origin and origin.partition('://')[2] != request.host:
            raise RequestError('requests from pages of other sites are refused', 403)

    @app.after_request
    def add_headers(response):
        response.headers.update(_HEADERS)
        return response


def _add_routes(app, request, service: Service) -> None:
    """The page and the API."""

    def upload(name: str) -> bytes:
        return request.files[name].read() if name in request.files else b''

    def chosen_far() -> str:
        return request.form.get('far', '')

    @app.get('/')
    def page():
        return app.send_static_file('index.html')

    @app.get('/api/info')
    def info():
        return service.info()

    @app.post('/api/compare')
    def compare():
        return service.compare(upload('first'), upload('second'), chosen_far())

    @app.post('/api/identify')
    def identify():
        return service.identify(upload('photograph'), chosen_far(), request.form.get('fpir', ''))

    @app.post('/api/enrol')
    def enrol():
        return service.enrol(
            request.form.get('name', ''),
            upload('photograph'),
            request.form.get('force', '') == '1',
        )

    @app.delete('/api/identities')
    def remove():
        # not in the path, where '.' and '//' have a meaning of their own
        return service.remove(request.args.get('name', ''))


def _add_errors(app, request) -> None:
    """Every error is one JSON object with a message."""
    exceptions = need('werkzeug.exceptions', 'deploy')

    @app.errorhandler(RequestError)
    def refused(error):
        doubtful = isinstance(error, DoubtfulEnrolment)
        return {'error': str(error), **({'doubtful': True} if doubtful else {})}, error.status

    def answer_with(status: int):
        return lambda error: ({'error': str(error)}, status)

    for kind, status in ((InputError, 400), (UnknownIdentity, 404), (GalleryBusy, 503)):
        app.register_error_handler(kind, answer_with(status))

    @app.errorhandler(exceptions.RequestEntityTooLarge)
    def too_large(_):
        return {'error': f'more than {MAX_REQUEST >> 20} MB; make the photographs smaller'}, 413

    @app.errorhandler(exceptions.HTTPException)
    def http_error(error):
        return {'error': f'{request.method} {request.path}: {error.description}'}, error.code

    @app.errorhandler(Exception)
    def failed(error):
        line = f'{request.method} {request.path}: {type(error).__name__}: {error}'
        log.error('%s', ' '.join(line.split()))
        return {'error': 'the server failed; its log says why'}, 500


def build_parser(parser: console.Parser) -> None:
    add_options(parser)
    add_faces_option(parser)
    parser.add_argument(
        '--gallery', type=Path, default=Path('gallery'), metavar='DIR', help='made if needed'
    )
    parser.add_argument('--codec', default='', metavar='NAME', help=CODEC_HELP)
    add_key_options(parser)
    parser.add_argument(
        '--keep-crops', action='store_true', help='keep the pictures of people who are enrolled'
    )
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on')
    parser.add_argument('--port', type=int, default=8350, help='0: any that is free')


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections; InputError says which of the two it cannot have."""
    if not 0 <= port <= 65535:
        raise InputError(f'--port {port}: must be 0..65535')
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = found[0]
        return socket.create_server(address, family=family)
    except (OSError, UnicodeError) as error:  # the latter for what cannot be a host's name
        if getattr(error, 'errno', None) in (errno.EADDRINUSE, errno.EACCES):
            reason = os.strerror(error.errno)
            message = f'cannot listen on {host} port {port} ({reason}); take another --port'
        else:
            message = (
                f'--host {host!r} is no address of this machine; take 127.0.0.1, or 0.0.0.0 for '
                f'all of its addresses'
            )
    raise InputError(message)


def make_server(app, listener: socket.socket):
    """The waitress server that answers a socket's connections with an application."""
    return need('waitress', 'deploy').create_server(
        app,
        sockets=[listener],
        threads=4,
        connection_limit=_MAX_CONNECTIONS,
        max_request_body_size=_MAX_BODY,
        # below these sizes waitress keeps bodies in memory, above in temporary files
        inbuf_overflow=2 * _MAX_BODY,
        outbuf_overflow=2 * _MAX_BODY,
        ident=None,
    )


def run(args: argparse.Namespace) -> dict:
    need('waitress', 'deploy')
    need('flask', 'deploy')
    with contextlib.ExitStack() as stack:
        # what can fail comes before the gallery, which is made if needed
        listener = stack.enter_context(listen(args.host, args.port))
        embedder = embedder_from(args, many=True)
        if not stored_thresholds(embedder):
            log.warning(
                '%s has no thresholds, so the page shows cosines and no decisions; %s',
                args.model,
                HOW_TO_GET_THRESHOLDS,
            )
        key = key_of(args, args.gallery, not (args.gallery / DATABASE).is_file())
        model = (embedder.embedding_size, embedder.fingerprint)
        gallery = Gallery(args.gallery, *model, args.codec, key)
        stack.callback(gallery.close)
        hosts = {'localhost', '127.0.0.1', '::1', args.host} if is_loopback(args.host) else None
        service = Service(embedder, gallery, args.faces, args.keep_crops)
        server = make_server(make_app(service, hosts), listener)
        if hosts is None:
            log.warning('--host %s: everyone who reaches this machine can use the page', args.host)
        host = f'[{args.host}]' if ':' in args.host else args.host
        url = f'http://{host}:{server.effective_port}'
        log.info('%s   (Ctrl-C stops it)', url)
        server.run()  # returns after Ctrl-C
    return {'url': url, 'model': args.model, 'gallery': str(args.gallery)}


main = console.command('serve', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
