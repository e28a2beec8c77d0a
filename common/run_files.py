"""Files of a training run by checkpoint, as others than the training read them.

PREFIX-%04d.json holds the configuration and the state of checkpoint number %d, and is written last,
so its presence is the proof that the checkpoint was written whole. It carries a checksum of its
own, as the parameters and the optimizer's state do.
"""

import json
import re
import zlib
from pathlib import Path

from .errors import InputError
from .files import PathLike, read_json

_CHECKSUM = 'crc32'


def state_path(prefix: PathLike, number: int) -> Path:
    return Path(f'{prefix}-{number:04d}.json')


def checkpoint_numbers(prefix: PathLike) -> list[int]:
    """Numbers of all complete checkpoints, ascending."""
    prefix = Path(prefix)
    pattern = re.compile(re.escape(prefix.name) + r'-(\d{4,})\.json')
    found = (pattern.fullmatch(path.name) for path in prefix.parent.glob('*.json'))
    return sorted(int(match.group(1)) for match in found if match)


def checksum(content: dict) -> int:
    """CRC-32 of a state file's content, of what else it holds, in one order and spacing."""
    rest = {key: value for key, value in content.items() if key != _CHECKSUM}
    return zlib.crc32(json.dumps(rest, sort_keys=True).encode())


def read_state(prefix: PathLike, number: int) -> tuple[dict, dict]:
    """(configuration, state) of checkpoint `number`; InputError for a damaged file."""
    path = state_path(prefix, number)
    content = read_json(path, 'state of a training run')
    parts = [content.get(key) for key in ('config', 'state')] if isinstance(content, dict) else []
    known = bool(parts) and content.keys() <= {'config', 'state', _CHECKSUM}
    if not known or not all(isinstance(part, dict) for part in parts):
        raise InputError(f'{path} is no state of a training run; remove it')
    if content.get(_CHECKSUM, checksum(content)) != checksum(content):  # older runs have none
        raise InputError(f'{path} was damaged after it was written: its checksum does not agree')
    return parts[0], parts[1]
