"""Sealing what a gallery keeps: AES-256-GCM under a key file or a passphrase, or a plugin's codec.

A gallery's own key is derived from the user's secret and the gallery's salt, so two galleries of
one secret have nothing in common. Each sealed content starts with a label of its place: a row that
somebody moved to another person does not open there.
"""

import argparse
import functools
import getpass
import logging
import os
import stat
import struct
import sys
from pathlib import Path
from typing import Callable, NamedTuple, Optional, Protocol

from ..common.console import Parser
from ..common.errors import InputError
from ..common.extras import need
from ..common.files import PathLike, input_file, real_path, write_secret
from ..common.registry import Registry
from .gallery_file import holds_gallery

log = logging.getLogger(__name__)

AES = 'aes-256-gcm'  # the codec of a key file or a passphrase
NEW = 'new-'  # begins the names of the options for a key from now on
PASSPHRASE = 'VARGFACENET_PASSPHRASE'  # environment variable
KEY_BYTES = 32
SALT_BYTES = 16
LABEL_BYTES = 16
ROW, FACE, CROP, PERSON = range(4)  # kinds of contents
_NONCE_BYTES = 12
_SCRYPT = {'n': 1 << 17, 'r': 8, 'p': 1}  # 128 MiB and about half a second
_DERIVATIONS = {
    'file': 'HKDF-SHA256 of a key file',
    'passphrase': 'scrypt of a passphrase, n = 2^17, r = 8, p = 1',
}
_PURPOSE = b'vargfacenet gallery'
_PAD = 256  # lengths of records are multiples of it, since a name's length tells of the name
_SHORTEST_PASSPHRASE = 12


class Codec(Protocol):
    """Seals what a gallery keeps of faces: the door for keys that are kept elsewhere."""

    def seal(self, content: bytes) -> bytes:
        """What goes to the disk; of contents of one length always of one length."""

    def open(self, sealed: bytes) -> bytes:
        """The content again; InputError for another key and for what somebody has changed."""


# name -> function that makes the codec; it finds its key itself and raises InputError without one
CODECS: Registry[Callable[[], Codec]] = Registry('gallery codec')
CODEC_HELP = "how a new gallery is sealed: a plugin's codec (docs/extending.md)"


class AesGcm:
    """AES-256-GCM with a random nonce before every content."""

    def __init__(self, key: bytes):
        aead = need('cryptography.hazmat.primitives.ciphers.aead', 'deploy')
        self._invalid = need('cryptography.exceptions', 'deploy').InvalidTag
        self._cipher = aead.AESGCM(key)

    def seal(self, content: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, content, None)

    def open(self, sealed: bytes) -> bytes:
        try:
            return self._cipher.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], None)
        except (self._invalid, ValueError):  # the latter for what is too short to hold a nonce
            raise InputError('the gallery was sealed with another key, or is damaged') from None


class Key(NamedTuple):
    """What a user has to open a gallery."""

    kind: str  # of _DERIVATIONS
    secret: bytes

    @property
    def derivation(self) -> str:
        """How a gallery's key follows from the secret, as the gallery remembers it."""
        return _DERIVATIONS[self.kind]

    def codec(self, salt: bytes) -> AesGcm:
        """The codec of the gallery with this salt."""
        return AesGcm(_derived(self.kind, self.secret, salt))


@functools.lru_cache(maxsize=4)  # a command may open its gallery twice
def _derived(kind: str, secret: bytes, salt: bytes) -> bytes:
    """The key of a gallery, 32 bytes."""
    if kind == 'passphrase':
        scrypt = need('cryptography.hazmat.primitives.kdf.scrypt', 'deploy').Scrypt
        return scrypt(salt=salt, length=KEY_BYTES, **_SCRYPT).derive(secret)
    hashes = need('cryptography.hazmat.primitives.hashes', 'deploy')
    hkdf = need('cryptography.hazmat.primitives.kdf.hkdf', 'deploy').HKDF
    derive = hkdf(algorithm=hashes.SHA256(), length=KEY_BYTES, salt=salt, info=_PURPOSE)
    return derive.derive(secret)


class Seal:
    """A codec with labels; without a codec contents stay as they are."""

    def __init__(self, codec: Optional[Codec] = None):
        self._codec = codec

    @property
    def is_open(self) -> bool:
        """Whether contents lie there as they are."""
        return self._codec is None

    def close(self, content: bytes, kind: int, row: int, person: int) -> bytes:
        """Seal a content for its place."""
        if self._codec is None:
            return content
        return self._codec.seal(_label(kind, row, person) + content)

    def open(self, sealed: bytes, kind: int, row: int, person: int) -> bytes:
        """The content; InputError where it was sealed for another place or by another key."""
        if self._codec is None:
            return sealed
        content = self._codec.open(sealed)
        if content[:LABEL_BYTES] != _label(kind, row, person):
            raise InputError('the gallery is damaged: a sealed content is not in its place')
        return content[LABEL_BYTES:]

    def close_record(self, content: bytes, kind: int, row: int, person: int) -> bytes:
        """Seal a text whose length is not to be seen; blanks are added behind it."""
        if self._codec is None:
            return content
        return self.close(content.ljust(-(-len(content) // _PAD) * _PAD), kind, row, person)


def _label(kind: int, row: int, person: int) -> bytes:
    return struct.pack('<QQ', kind << 56 | row, person)


def read_key(path: PathLike, gallery: Optional[PathLike] = None) -> Key:
    """The key of a file of 32 random bytes, as `make_key` writes it.

    Raises InputError for another length, and for a key that lies in the folder of the gallery,
    where whoever copies that has it. A warning says where others can read the file.
    """
    path = input_file(path, 'key file')
    size = path.stat().st_size
    if size != KEY_BYTES:
        raise InputError(
            f'key file {path}: {size} bytes; expected {KEY_BYTES} random ones '
            f'(`vargfacenet gallery make-key FILE` makes such a file)'
        )
    if gallery is not None and real_path(gallery) in real_path(path).parents:
        raise InputError(
            f'key file {path} lies in the gallery, and whoever copies that has the key; move it'
        )
    if path.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        log.warning('key file %s can be read by others; chmod 600 makes it yours alone', path)
    return Key('file', path.read_bytes())


def make_key(path: PathLike) -> None:
    """Write a new key file that only its owner can read; InputError if there is a file."""
    try:
        write_secret(path, os.urandom(KEY_BYTES))
    except FileExistsError:
        raise InputError(f'{path} is there already; a key is never replaced') from None
    except OSError as error:
        raise InputError(f'{path}: cannot write here ({error.strerror})') from None


def read_passphrase(is_new: bool, variable: str = PASSPHRASE) -> Key:
    """A passphrase from the environment, else asked for at the terminal, a new one twice."""
    text = os.environ.get(variable, '')
    if not text:
        if not sys.stdin.isatty():
            raise InputError(f'no passphrase: set {variable}, or use a terminal, which asks for it')
        try:
            text = getpass.getpass('passphrase of the gallery: ')
            if is_new and getpass.getpass('once more: ') != text:
                raise InputError('the two passphrases differ')
        except EOFError:
            raise InputError('no passphrase was given') from None
        except UnicodeDecodeError:
            raise InputError(
                f'the passphrase that was typed is no text in the encoding of this terminal; set '
                f'{variable}, which takes any bytes'
            ) from None
    if is_new and len(text) < _SHORTEST_PASSPHRASE:
        raise InputError(
            f'a passphrase of {len(text)} characters is soon guessed; take at least '
            f'{_SHORTEST_PASSPHRASE}, such as five words'
        )
    return Key('passphrase', text.encode('utf-8', 'surrogateescape'))  # whatever its bytes are


def add_key_options(parser: Parser, prefix: str = '', whose: str = 'of the gallery') -> None:
    """The options of `key_of`."""
    group = parser.add_mutually_exclusive_group()
    group.add_argument(
        f'--{prefix}key-file',
        type=Path,
        metavar='FILE',
        help=f'key {whose}: templates, names and crops cannot be read without it '
        f'(`gallery make-key` makes one)',
    )
    group.add_argument(
        f'--{prefix}passphrase',
        action='store_true',
        help=f'a passphrase in place of it, from {variable_of(prefix)} or asked for',
    )


def variable_of(prefix: str) -> str:
    """The environment variable of a passphrase option."""
    return f'{PASSPHRASE}_NEW' if prefix else PASSPHRASE


def key_of(
    args: argparse.Namespace, gallery: PathLike, is_new: bool, prefix: str = ''
) -> Optional[Key]:
    """The key of the options of `add_key_options`, None if neither is given."""
    name = prefix.replace('-', '_')
    path = getattr(args, f'{name}key_file')
    if path is not None:
        return read_key(path, gallery)
    if getattr(args, f'{name}passphrase'):
        return read_passphrase(is_new, variable_of(prefix))
    return None


def check_lock(key: Optional[Key], codec: str) -> None:
    """Raise InputError for a codec that is not known, or one beside a key."""
    if key and codec:
        raise InputError('a key file or a passphrase seals a gallery, or a codec; give one of them')
    if codec:
        CODECS.get(codec)


def key_for(args: argparse.Namespace) -> tuple[Optional[Key], bool]:
    """(key of the options of a command that makes its gallery where none is, whether it will).

    Raises InputError as `key_of` and `check_lock`.
    """
    is_new = not holds_gallery(args.gallery)
    key = key_of(args, args.gallery, is_new)
    check_lock(key, args.codec)
    return key, is_new
