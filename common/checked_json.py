"""JSON files with a checksum of what is in them, `crc32`, so that damage is noticed on reading.

It is that of the content, whatever the order of its keys and the blanks between them. Whoever
changes such a file on purpose takes that line out.
"""

import json
import zlib
from collections.abc import Mapping
from typing import Any

from .errors import InputError
from .files import PathLike, atomic_write, read_json

CRC32 = 'crc32'


def checksum(content: Mapping[str, Any]) -> int:
    """CRC-32 of an object's content, of what else it holds."""
    rest = {key: value for key, value in content.items() if key != CRC32}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def is_whole(content: Mapping[str, Any]) -> bool:
    """Whether an object has its checksum or none, as those of others and of older versions."""
    return CRC32 not in content or content[CRC32] == checksum(content)


def write_checked(path: PathLike, content: Mapping[str, Any], allow_nan: bool = True) -> None:
    """Write an object of plain numbers and texts with its checksum, whole or not at all;
    ValueError for NaN and infinity, which are no JSON, unless `allow_nan`."""
    # as it will be read: a key that is a number becomes a text
    plain = json.loads(json.dumps(content, allow_nan=allow_nan))
    atomic_write(path, json.dumps({**plain, CRC32: checksum(plain)}, indent=1) + '\n')


def read_checked(path: PathLike, what: str, advice: str = 'make it again') -> Any:
    """What `write_checked` wrote, without the checksum, or another JSON file.

    InputError as `read_json`, and where the checksum is another: `advice` says what helps then.
    """
    content = read_json(path, what)
    if not isinstance(content, dict):
        return content
    if not is_whole(content):
        raise InputError(
            f'{what} {path} was changed or damaged after it was written: its checksum does not '
            f'agree; {advice}, or take out its line "{CRC32}" if it was changed on purpose'
        )
    content.pop(CRC32, None)
    return content
