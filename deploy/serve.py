"""A web page and a JSON API on this machine: compare two photographs, enrol people, identify them.

Pictures stay in memory; what is kept is the embedding of people who are enrolled, and with
--keep-crops their aligned crop. The server answers this machine alone unless --host says otherwise.
"""

import argparse
import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket
from pathlib import Path

from ..common import console
from ..common.engine.options import add_options_or_default
from ..common.errors import InputError
from ..common.extras import need
from ..common.parallel import cpu_count
from .decide import HOW_TO_GET_THRESHOLDS, embedder_from, stored_thresholds
from .faces import add_faces_option
from .gallery import Gallery
from .gallery_file import private_folder
from .sealing import CODEC_HELP, add_key_options, key_for
from .web_access import (
    LOCAL_NAMES,
    Access,
    check_host_name,
    check_token_file,
    is_every_address,
    is_loopback,
    proxy_address,
    read_or_make_token,
)

log = logging.getLogger(__name__)

_MAX_WORKERS = 4  # by default
_GALLERY_SECONDS = 0.05  # to wait for another process that writes; the client may try again


def build_parser(parser: console.Parser) -> None:
    add_options_or_default(parser)
    add_faces_option(parser)
    parser.add_argument(
        '--gallery', type=Path, default=Path('gallery'), metavar='DIR', help='made if needed'
    )
    parser.add_argument('--codec', default='', metavar='NAME', help=CODEC_HELP)
    add_key_options(parser)
    parser.add_argument(
        '--keep-crops', action='store_true', help='keep the crop of who is enrolled, to show it'
    )
    parser.add_argument(
        '--candidates',
        type=int,
        default=0,
        metavar='N',
        help='people below the threshold whom an identification names as well',
    )
    parser.add_argument('--host', default='127.0.0.1', help='address to listen on')
    parser.add_argument('--port', type=int, default=8350, help='0: any that is free')
    parser.add_argument(
        '--allow-host',
        action='append',
        default=[],
        metavar='NAME',
        help='a name that the server goes by, may be given more than once',
    )
    parser.add_argument(
        '--token-file',
        metavar='FILE',
        help='token that requests need, made if there is none; without a file a new one each time, '
        'where --host lets others reach the server',
    )
    parser.add_argument(
        '--proxy',
        action='append',
        default=[],
        metavar='ADDRESS',
        help='of a reverse proxy, whose X-Forwarded-For is believed',
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=min(_MAX_WORKERS, cpu_count()),
        help='processes that look at pictures',
    )


def access_of(args: argparse.Namespace) -> Access:
    """Who may use the server; a token that is new is printed, this once."""
    local = is_loopback(args.host)
    token = ''
    if args.token_file or not local:
        token, new = read_or_make_token(args.token_file)
        if new:
            log.info('token: %s', token)
    elif args.proxy or args.allow_host:
        log.warning(
            '--proxy and --allow-host are for others who reach this server; it asks them for no '
            'token: whoever the proxy lets through may search, enrol and remove (--token-file FILE)'
        )
    names = [*args.allow_host, *(LOCAL_NAMES if local or is_every_address(args.host) else ())]
    hosts = frozenset(name.strip('[]').lower() for name in (*names, args.host))
    return Access(hosts, is_every_address(args.host), token)


def picture_options(args: argparse.Namespace) -> dict:
    """The arguments as JSON has them, for processes that open the model and find faces."""
    return {name: value for name, value in vars(args).items() if not isinstance(value, Path)}


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


def run(args: argparse.Namespace) -> dict:
    need('tornado.web', 'deploy')
    console.check_ranges(
        [('--workers', args.workers, 1, 64), ('--candidates', args.candidates, 0, 100)]
    )
    proxies = frozenset(map(proxy_address, args.proxy))
    for name in args.allow_host:
        check_host_name(name)
    if args.token_file:
        check_token_file(args.token_file)
    key, is_new = key_for(args)
    with contextlib.ExitStack() as stack:
        # what can fail comes before the gallery, which is made if needed
        listener = stack.enter_context(listen(args.host, args.port))
        if is_new:
            private_folder(args.gallery)
        embedder = embedder_from(args)
        if not stored_thresholds(embedder):
            log.warning(
                '%s has no thresholds, so the page shows cosines and no decisions; %s',
                args.model,
                HOW_TO_GET_THRESHOLDS,
            )
        belongs_to = (embedder.embedding_size, embedder.fingerprint)
        gallery = Gallery(args.gallery, *belongs_to, args.codec, key, _GALLERY_SECONDS)
        stack.callback(gallery.close)
        host = f'[{args.host}]' if ':' in args.host else args.host
        url = f'http://{host}:{listener.getsockname()[1]}'
        asyncio.run(_serve(args, embedder, gallery, listener, url, proxies))
    return {'url': url, 'model': args.model, 'gallery': str(args.gallery)}


async def _serve(
    args, embedder, gallery: Gallery, listener: socket.socket, url: str, proxies: frozenset[str]
) -> None:
    """Answer requests until a signal ends it."""
    # Tornado is an extra, which `run` has asked for
    from .picture_pool import PicturePool
    from .service import Service
    from .web_server import Front

    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    access = access_of(args)
    pool = PicturePool(picture_options(args), embedder.fingerprint, args.workers)
    await pool.start()
    service = Service(embedder, gallery, pool, args.candidates, args.keep_crops)
    front = Front(service, access, listener, proxies)
    if not is_loopback(args.host):
        log.warning(
            '--host %s: others reach this server; what they send, faces and token, can be read on '
            'the way unless a reverse proxy with TLS stands in front (docs/serve.md)',
            args.host,
        )
    log.info('%s   (Ctrl-C stops it)', url)
    try:
        await stop.wait()
    finally:
        await front.close()
        await pool.close()
        service.close()


main = console.command('serve', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
