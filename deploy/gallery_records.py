"""What a gallery keeps of a person and of a face besides its embedding, and how it is written."""

import hashlib
import json
import unicodedata
import zlib
from datetime import date, datetime, timezone
from typing import Any, NamedTuple, Optional

from ..common.errors import InputError

MAX_NAME = 200  # characters of an identity's name
_CHECKSUM = b', "crc32": '
MAX_TEXT = 1000  # characters of a legal basis, a purpose, a source


class Terms(NamedTuple):
    """By what right a person's face is kept; '' is not known."""

    basis: str = ''  # consent or another legal basis
    purpose: str = ''
    expires: str = ''  # YYYY-MM-DD, the last day

    def updated(self, new: 'Terms') -> 'Terms':
        """These with those of `new` that say something."""
        return Terms(*(later or earlier for earlier, later in zip(self, new)))


UNKNOWN = Terms()


class Person(NamedTuple):
    """Somebody in a gallery."""

    name: str
    terms: Terms = UNKNOWN
    recorded: str = ''  # when the terms were given, UTC

    def has_expired(self, today: date) -> bool:
        return bool(self.terms.expires) and date.fromisoformat(self.terms.expires) < today

    def encoded(self) -> bytes:
        return _encoded({'name': self.name, **self.terms._asdict(), 'recorded': self.recorded})


class FaceRecord(NamedTuple):
    """What is kept of a face besides embedding and picture; '' is not known."""

    source: str = ''  # where it came from
    enrolled: str = ''  # when, UTC
    picture: str = ''  # `picture_digest`, '' if not known

    def encoded(self) -> bytes:
        return _encoded(self._asdict())

    def is_of(self, crop: bytes) -> bool:
        """Whether a picture is the one that was enrolled, as far as that is known."""
        return not self.picture or picture_digest(crop) == self.picture


def now() -> str:
    """The time as records have it."""
    return datetime.now(timezone.utc).isoformat(timespec='seconds')


def picture_digest(encoded: bytes) -> str:
    """The SHA-256 of an encoded crop: it tells that a picture is there already, without it."""
    return hashlib.sha256(encoded).hexdigest()


def number_text(person: int) -> str:
    """A person's number as logs have it."""
    return f'{person:016x}'


def decode_person(content: bytes) -> Person:
    """InputError for what `Person.encoded` did not write."""
    fields = _decoded(content, ('name', *Terms._fields, 'recorded'))
    name, *terms, recorded = fields.values()
    return Person(checked_name(name), checked_terms(*terms), recorded)


def decode_face(content: bytes) -> FaceRecord:
    """InputError for what `FaceRecord.encoded` did not write."""
    return FaceRecord(**_decoded(content, FaceRecord._fields))


def checked_name(name: str) -> str:
    """A name without the blanks around it, in Unicode's composed form, so that it is one person's
    whatever system it was typed on; InputError for one that no identity can have.
    """
    name = unicodedata.normalize('NFC', name.strip())
    if not name or len(name) > MAX_NAME or not name.isprintable():
        raise InputError(
            f'identity {name[:40]!r}: expected a name of 1 to {MAX_NAME} printable characters'
        )
    return name


def checked_terms(basis: str = '', purpose: str = '', expires: str = '') -> Terms:
    """Terms; InputError for texts that are too long, and for what is no date."""
    for what, text in (('legal basis', basis), ('purpose', purpose)):
        if len(text) > MAX_TEXT or not text.isprintable():
            raise InputError(
                f'{what} {text[:40]!r}: expected at most {MAX_TEXT} printable characters'
            )
    if expires:
        try:
            expires = date.fromisoformat(expires).isoformat()
        except ValueError:
            raise InputError(f'expiry {expires[:40]!r}: expected a date YYYY-MM-DD') from None
    return Terms(basis, purpose, expires)


def check_not_over(terms: Terms, today: date, known_of: str = '') -> None:
    """InputError for terms of `checked_terms` whose last day was before `today`: nobody would be
    recognised by what is enrolled under them. `known_of` is whose they are, where the day was not
    given but known."""
    if terms.expires and date.fromisoformat(terms.expires) < today:
        whose, how = (f"{known_of}'s ", ' with --expires') if known_of else ('', '')
        raise InputError(
            f'{whose}expiry {terms.expires}: this day is over, and from the day after it nobody is '
            f'recognised; give today, {today}, or a later day{how}'
        )


def plain_text(text: str) -> str:
    """A text as a record can have it: what is no Unicode becomes '?', a long one is cut."""
    return text.encode(errors='replace').decode()[:MAX_TEXT]


def _encoded(fields: dict[str, str]) -> bytes:
    """JSON whose last entry is the checksum of all before it."""
    text = json.dumps(fields).encode()
    return b'%s%s%d}' % (text[:-1], _CHECKSUM, zlib.crc32(text))


def _decoded(content: Optional[bytes], names: tuple[str, ...]) -> dict[str, Any]:
    """The fields of a record, in the order of `names`; those of older galleries have no checksum.

    A changed bit of the checksum's name makes of it an entry that no record has.
    """
    try:
        text, entry, checksum = content.rstrip().rpartition(_CHECKSUM)
        text = text + b'}' if entry else content
        if entry and checksum != b'%d}' % zlib.crc32(text):
            raise ValueError
        fields = json.loads(text)
        found = {name: fields[name] for name in names}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise InputError('the gallery is damaged: a record cannot be read') from None
    if len(fields) > len(found) or not all(isinstance(value, str) for value in found.values()):
        raise InputError('the gallery is damaged: a record cannot be read')
    return found
