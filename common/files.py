"""Writing files whole or not at all."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Union

from .errors import InputError

PathLike = Union[str, Path]


@contextlib.contextmanager
def atomic_path(path: PathLike) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed.

    On any error the temporary file is removed and `path` is as it was. The temporary name keeps
    the suffix, since some writers choose the format by it.
    """
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(
        dir=path.parent, prefix=f'.{path.stem}.', suffix=path.suffix
    )
    # mkstemp creates 0600; a finished file gets what open() would have given it
    umask = os.umask(0)
    os.umask(umask)
    os.fchmod(descriptor, 0o666 & ~umask)
    os.close(descriptor)
    temporary = Path(temporary)
    try:
        yield temporary
        with open(temporary, 'rb+') as handle:
            os.fsync(handle.fileno())
        os.replace(temporary, path)
    except OSError as error:
        if error.filename is None:  # of a write; the user should know which file
            error.filename = str(path)
        raise
    finally:
        temporary.unlink(missing_ok=True)


def atomic_write(path: PathLike, content: Union[bytes, str]) -> None:
    """Write `content` to `path` through a temporary name (text as UTF-8)."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def output_folder(path: PathLike) -> Path:
    """Create `path` if needed and prove that files can be written there.

    Raises InputError for a read-only place or a path that is a file, before work starts.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path, prefix='.probe.'):
            pass
    except OSError as error:
        raise InputError(
            f'{path}: cannot write here ({error.strerror}); choose another output folder'
        ) from None
    return path


def input_file(path: PathLike, what: str) -> Path:
    """`path` as a Path if it is a readable file, otherwise InputError naming it and its role."""
    path = Path(path)
    if not path.is_file():
        state = 'is a folder, not a file' if path.is_dir() else 'does not exist'
        raise InputError(f'{what} {path} {state}')
    if not os.access(path, os.R_OK):
        raise InputError(f'{what} {path} cannot be read (permission denied)')
    return path


def sha256(path: PathLike) -> str:
    """Hex digest of a file's content, read in blocks of 1 MiB."""
    digest = hashlib.sha256()
    with open(path, 'rb') as handle:
        for block in iter(lambda: handle.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
