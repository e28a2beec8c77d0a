"""Who may use the web service: the names it goes by, pages of other sites, and the token."""

import base64
import hmac
import ipaddress
import re
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Optional

from ..common.errors import InputError
from ..common.files import PathLike, output_file, write_secret
from .service import RequestError

LOCAL_NAMES = ('localhost', '127.0.0.1', '::1')
_MIN_TOKEN = 16  # characters; ours have 43
_HOST_NAME = re.compile(r'[A-Za-z0-9_]([A-Za-z0-9_.-]{0,251}[A-Za-z0-9_.])?')
_SAFE = ('GET', 'HEAD')
_OTHER_SITES = ('cross-site', 'same-site')


class Access(NamedTuple):
    """What a request must have.

    A page of another site can make its visitors' browsers send requests here (Origin and
    Sec-Fetch-Site tell), and can point its own name at this machine's address (Host tells). Whoever
    reaches the port of a server that is open to others needs the token, as `Authorization: Bearer
    TOKEN`, or as the password of whatever user, which browsers ask for.
    """

    hosts: frozenset[str]  # names and addresses the server goes by, in small letters
    any_address: bool = False  # numbers are none of the names that others can point here
    token: str = ''  # '' for none

    def check(self, method: str, headers: Mapping[str, str]) -> None:
        """RequestError for a request that is to be refused."""
        host = headers.get('Host', '')
        name = host_name(host)
        if name not in self.hosts and not (self.any_address and _is_address(name)):
            raise RequestError(f'this server is not {name!r}', 403)
        origin = headers.get('Origin')
        # a link to the page is all right wherever it is
        link = method in _SAFE and headers.get('Sec-Fetch-Mode', 'navigate') == 'navigate'
        foreign = origin and origin.partition('://')[2] != host
        if not link and (foreign or headers.get('Sec-Fetch-Site') in _OTHER_SITES):
            raise RequestError('requests from pages of other sites are refused', 403)
        if self.token and not self._has_token(headers.get('Authorization', '')):
            raise RequestError('the token is missing or wrong', 401)

    def _has_token(self, authorization: str) -> bool:
        kind, _, given = authorization.partition(' ')
        if kind.lower() == 'basic':
            try:
                given = base64.b64decode(given, validate=True).decode().partition(':')[2]
            except ValueError:  # no base64, no ASCII, or no UTF-8 in it
                return False
        elif kind.lower() != 'bearer':
            return False
        return hmac.compare_digest(given.strip().encode(), self.token.encode())


def host_name(host: str) -> str:
    """The name or address of a Host header, without its port."""
    return re.sub(r':\d+$', '', host).strip('[]').lower()


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def check_host_name(name: str) -> None:
    """Raise InputError for an --allow-host that no Host header can name."""
    if not (_HOST_NAME.fullmatch(name) or _is_address(name.strip('[]'))):
        raise InputError(
            f'--allow-host {name!r}: expected a name such as faces.example.org or an address, '
            f'without a port'
        )


def proxy_address(text: str) -> str:
    """The address of a --proxy as a connection tells it; InputError for anything else."""
    try:
        return str(ipaddress.ip_address(text.strip('[]')))
    except ValueError:
        raise InputError(f'--proxy {text!r}: expected an address such as 127.0.0.1') from None


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == 'localhost'


def is_every_address(host: str) -> bool:
    """Whether it stands for all addresses of this machine."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return False


def read_or_make_token(path: Optional[PathLike]) -> tuple[str, bool]:
    """(token, whether it is new): that of a file, which is made if there is none.

    InputError for a file that others can read, or that holds no token.
    """
    if path is None:
        return secrets.token_urlsafe(32), True
    if Path(path).exists():  # its folder may be one that nothing can be written to
        return _read_token(Path(path)), False
    token = secrets.token_urlsafe(32)
    try:
        write_secret(path, f'{token}\n'.encode())
    except FileExistsError:  # another process was faster
        return _read_token(Path(path)), False
    except OSError as error:
        raise InputError(f'--token-file {path}: {error.strerror}') from None
    return token, True


def check_token_file(path: PathLike) -> None:
    """Raise InputError where `read_or_make_token` would, without making a file."""
    path = Path(path)
    if path.is_file():
        _read_token(path)
    elif path.is_dir() or not path.exists():
        output_file(path)
    else:  # a pipe, which can be read once
        _check_private(path)


def _check_private(path: Path) -> None:
    if path.stat().st_mode & 0o077:
        raise InputError(f'--token-file {path}: others can read it; chmod 600 {path}')


def _read_token(path: Path) -> str:
    try:
        _check_private(path)
        token = path.read_text(encoding='ascii').strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f'--token-file {path}: {error}') from None
    if len(token) < _MIN_TOKEN or not token.isprintable() or ' ' in token:
        raise InputError(
            f'--token-file {path}: expected one line of at least {_MIN_TOKEN} characters; '
            f'remove it, and a new token is made'
        )
    return token
