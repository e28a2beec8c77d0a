"""Files of a training run by checkpoint, as others than the training read them.

PREFIX-%04d.json holds the configuration and the state of checkpoint number %d, and is written last,
so its presence is the proof that the checkpoint was written whole. It carries a checksum of its
own, as the parameters and the optimizer's state do, and that of PREFIX-symbol.json, whose format
has no place for one.
"""

import re
import zlib
from pathlib import Path

from .checked_json import read_checked
from .checksums import check
from .errors import InputError
from .files import PathLike, input_file

SYMBOL_CHECKSUM = 'symbol_crc32'


def symbol_path(prefix: PathLike) -> Path:
    return Path(f'{prefix}-symbol.json')


def state_path(prefix: PathLike, number: int) -> Path:
    return Path(f'{prefix}-{number:04d}.json')


def numbers_of(prefix: PathLike, suffix: str) -> list[int]:
    """NUMBER of all files PREFIX-NUMBER.suffix, ascending."""
    prefix = Path(prefix)
    pattern = re.compile(re.escape(prefix.name) + rf'-(\d{{4,}})\.{suffix}')
    found = (pattern.fullmatch(path.name) for path in prefix.parent.glob(f'*.{suffix}'))
    return sorted(int(match.group(1)) for match in found if match)


def checkpoint_numbers(prefix: PathLike) -> list[int]:
    """Numbers of all complete checkpoints, ascending."""
    return numbers_of(prefix, 'json')


def read_state(prefix: PathLike, number: int) -> tuple[dict, dict]:
    """(configuration, state) of checkpoint `number`; InputError for a damaged file."""
    content = _content(prefix, number)
    return content['config'], content['state']


def _content(prefix: PathLike, number: int) -> dict:
    path = state_path(prefix, number)
    content = read_checked(path, 'state of a training run', 'remove it')
    parts = [content.get(key) for key in ('config', 'state')] if isinstance(content, dict) else []
    known = bool(parts) and content.keys() <= {'config', 'state', SYMBOL_CHECKSUM}
    if not known or not all(isinstance(part, dict) for part in parts):
        raise InputError(f'{path} is no state of a training run; remove it')
    return content


def symbol_checksum(prefix: PathLike) -> int:
    """CRC-32 of PREFIX-symbol.json; InputError where it is missing."""
    return zlib.crc32(input_file(symbol_path(prefix), 'symbol').read_bytes())


def check_symbol(prefix: PathLike, number: int) -> None:
    """InputError where PREFIX-symbol.json is not the file of checkpoint `number` any more.

    Of a checkpoint that is no training run's the list of its folder tells; nothing is known of
    those of others, and of older runs.
    """
    if not state_path(prefix, number).is_file():
        check(symbol_path(prefix))
        return
    if _content(prefix, number).get(SYMBOL_CHECKSUM, symbol_checksum(prefix)) != symbol_checksum(
        prefix
    ):
        raise InputError(
            f'{symbol_path(prefix)} was changed or damaged after it was written: its checksum in '
            f'{state_path(prefix, number).name} does not agree'
        )
