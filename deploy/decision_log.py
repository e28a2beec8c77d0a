"""An append-only log of what was decided, without biometric data: who asked what with which
threshold, and what came of it, one JSON object a line.

Every line carries the hash of all before it, so a line that is changed, or taken out, shows. The
file beside it says how many lines there were, so a cut at the end shows as well. Both show damage
and haste; who may write here can make a log anew, which only a copy elsewhere tells.
"""

import contextlib
import fcntl
import hashlib
import json
import os
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..common.errors import InputError, RunError
from ..common.files import PathLike, check_holes, output_file

LOG = 'decisions.jsonl'
_HEAD = '.head'
HEAD = LOG + _HEAD
_START = '0' * 64  # what the first line follows
_CHAIN = 'chain'
_BEGINNING = b'{"time": "'  # of every line
_TAIL = 1 << 16  # bytes in which the last line is looked for; a line is shorter


class LogState(NamedTuple):
    """What `check_log` found."""

    lines: int
    problems: list[str]


def head_path(path: PathLike) -> Path:
    """The file that says how many lines a log has."""
    return Path(f'{path}{_HEAD}')


def check_log_path(path: PathLike) -> None:
    """Raise InputError where no log can be kept, before anything is decided: lines are added to
    whatever file is there."""
    for each in map(output_file, (path, head_path(path))):
        if each.exists() and not os.access(each, os.W_OK):
            raise InputError(f'{each}: cannot write here (permission denied); choose another log')
    if os.path.isfile(path):
        with open(path, 'rb') as file:
            start = file.read(len(_BEGINNING))
        # what a power cut has left of a line is followed by the next
        lines = start.split(b'\n')
        if start.startswith(b'\n') or not all(map(_BEGINNING.startswith, lines)):
            raise InputError(f'{path} is no log of decisions; choose another file')


def append(path: PathLike, what: str, **fields: Any) -> None:
    """Add a line: the time (UTC), `what` was done, and what else is to be known of it.

    The line is on the disk when this returns; processes and threads take turns. Raises RunError
    where it cannot be written: then nobody should act on the decision; ValueError for one that
    could not be read again.
    """
    path = Path(path)
    try:
        handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            _append(handle, path, what, fields)
        finally:
            os.close(handle)
    except OSError as error:
        raise RunError(f'{path}: the decision cannot be logged ({error.strerror})') from None


def _append(handle: int, path: Path, what: str, fields: dict) -> None:
    known = _read_head(head_path(path))
    size = os.fstat(handle).st_size
    tail = os.pread(handle, _TAIL, max(size - _TAIL, 0))
    last = tail.rstrip(b'\n').rpartition(b'\n')[2]
    before = _chain_of(last) or (known.chain if known else _START)
    time = datetime.now(timezone.utc).isoformat(timespec='milliseconds')
    content = {'time': time, 'what': what, **fields}
    line = _line_of(content, _link(before, content)) + b'\n'
    if len(line) > _TAIL:
        raise ValueError(f'a line of {len(line)} characters; at most {_TAIL} are read')
    if tail and not tail.endswith(b'\n'):  # a power cut has torn the last one
        line = b'\n' + line
    try:
        _write_all(handle, line)
        os.fsync(handle)
    except OSError:
        with contextlib.suppress(OSError):  # of no file that could be shorter
            os.ftruncate(handle, size)
        raise
    lines = _lines_with_the_new(path, known, before)
    if lines:
        _write_head(head_path(path), lines, _link(before, content))


def _lines_with_the_new(path: Path, known: Optional['_Head'], before: str) -> int:
    """How many lines a log has now; 0 where it is not the one its head knows, which then stays as
    it is for `check_log` to tell."""
    if known and known.chain == before:
        return known.lines + 1
    chains = [chain for chain in map(_chain_of, _lines(path)) if chain]
    return len(chains) if known is None or known.chain in chains else 0


def check_log(path: PathLike) -> LogState:
    """Read a log through: is every line as it was written, and is none missing?

    A line behind the last that the head knows is no fault: a kill comes between the two.
    """
    path = Path(path)
    problems: list[str] = []
    head = _read_head(head_path(path))
    before, lines, at_head = _START, 0, head is None
    for number, line in enumerate(_lines(path), 1):
        entry = _entry_of(line)
        if entry is None:
            problems.append(f'{path} line {number} is damaged')
            continue
        chain = entry.pop(_CHAIN)
        if line != _line_of(entry, chain):  # an entry that is there twice, of which one counts
            problems.append(f'{path} line {number} is not as it was written')
        if chain != _link(before, entry):
            problems.append(f'{path} line {number} does not follow the one before it')
        before, lines = chain, lines + 1
        if head and lines == head.lines:
            at_head = chain == head.chain
    if head is None:
        problems.append(f'{head_path(path)} is missing or damaged')
    elif lines < head.lines:
        problems.append(f'{path} is cut off: it has {lines} lines and had {head.lines}')
    elif not at_head:
        problems.append(f'{path} is not the log that {head_path(path).name} tells of')
    return LogState(lines, problems)


def entries(path: PathLike, person: str) -> Iterator[dict]:
    """The lines of a log that name a person by its number."""
    path = Path(path)
    if path.is_file():
        for line in _lines(path):
            entry = _entry_of(line)
            people = entry and entry.get('people')
            if isinstance(people, list) and person in people:
                yield entry


def _lines(path: Path) -> Iterator[bytes]:
    check_holes(path)
    try:
        with open(path, 'rb') as file:
            while True:
                line = file.readline(_TAIL)
                if not line:
                    return
                yield line.rstrip(b'\n')
    except OSError as error:
        raise InputError(f'{path}: {error.strerror}') from None


def _link(before: str, content: dict) -> str:
    """The hash of a line and all before it."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.sha256(f'{before}\n{text}'.encode()).hexdigest()


def _line_of(content: dict, chain: str) -> bytes:
    """A line of a log, without its end."""
    return json.dumps({**content, _CHAIN: chain}).encode()


def _entry_of(line: bytes) -> Optional[dict]:
    """What a line says, its hash among it; None for one that is damaged."""
    try:
        entry = json.loads(line)
        json.dumps(entry)  # so that it can be written again: nested as deep, that fails earlier
        whole = isinstance(entry[_CHAIN], str)
    except (ValueError, TypeError, KeyError, RecursionError):
        return None
    return entry if whole else None


def _chain_of(line: bytes) -> Optional[str]:
    """The hash that a line carries, None for one that is damaged."""
    entry = _entry_of(line)
    return entry and entry[_CHAIN]


class _Head(NamedTuple):
    lines: int
    chain: str


def _read_head(path: Path) -> Optional[_Head]:
    if not path.is_file():  # a pipe would be waited for
        return None
    try:
        with open(path, 'rb') as file:
            count, chain = file.read(200).decode().split()
        return _Head(int(count), chain)
    except (OSError, ValueError):
        return None


def _write_head(path: Path, lines: int, chain: str) -> None:
    """Of one length, in one call, so that a kill leaves the old or the new one."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        _write_all(handle, f'{lines:020d} {chain}\n'.encode())
    finally:
        os.close(handle)


def _write_all(handle: int, content: bytes) -> None:
    while content:
        content = content[os.write(handle, content) :]
