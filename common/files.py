"""Writing files whole or not at all."""

import codecs
import contextlib
import csv
import errno
import fcntl
import hashlib
import json
import logging
import os
import re
import shutil
import stat
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Optional, Union

from . import limits
from .errors import InputError

PathLike = Union[str, Path]

log = logging.getLogger(__name__)

_STATUS = Path('/proc/self/status')  # of Linux from 4.7 on with the umask
_asking = threading.Lock()  # for the umask, where asking changes it

_held: set[Path] = set()  # folders that this process keeps
_made: list[Path] = []  # folders that `_make_folder` made, those above others first
_hidden: dict[Path, list[str]] = {}  # folder -> names that begin with a dot, at its first use here

_BLOCK = 512  # bytes, in which the system counts what a file has on the disk
_BYTE_ORDER_MARK = '\ufeff'


@contextlib.contextmanager
def atomic_path(path: PathLike, private: bool = False, new: bool = False) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success it is flushed to disk and renamed, and the
    folder's new entry flushed as well. A `private` file is for its owner alone at any moment; a
    `new` one takes no other's place: FileExistsError where there is one.

    On any error the temporary file is removed and `path` is as it was; an OSError names `path`.
    What a killed command left of the same `path` goes first. The temporary name keeps the suffix,
    since some writers choose the format by it.
    """
    path = Path(path)
    # there when the command began, but another that made it may have failed and taken it back
    _make_folder(path.parent)
    _remove_leftovers(path)
    with naming(path, in_place_of=_temporary_form(path)):
        descriptor, temporary = _locked_temporary(path)
        try:
            yield temporary
            if not private:  # mkstemp creates 0600; a finished file gets what open() would give it
                os.chmod(temporary, 0o666 & ~_umask())
            with open(temporary, 'rb+') as handle:
                os.fsync(handle.fileno())
            if new:
                _move_to_free_name(temporary, path)
            else:
                os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
            os.close(descriptor)
        try:
            sync_folder(path.parent)
        except BaseException:
            if new:
                path.unlink()
            raise


@contextlib.contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """Yield a new folder beside `path`; on success it becomes `path`, where there is nothing or an
    empty folder.

    On any error it is removed. What a killed command left of the same `path` goes first.
    """
    path = Path(path)
    form = re.compile(rf'\.{re.escape(path.name)}\.[a-z0-9_]{{8}}')
    for left in path.absolute().parent.iterdir():
        if form.fullmatch(left.name) and left.is_dir() and not left.is_symlink():
            with contextlib.suppress(InputError), exclusive(left):  # one that is written to stays
                shutil.rmtree(left)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f'.{path.name}.'))
    try:
        with exclusive(temporary):
            temporary.chmod(0o777 & ~_umask())
            yield temporary
            temporary.replace(path)
            sync_folder(path.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _umask() -> int:
    """The permissions that a new file of this process lacks.

    POSIX tells them by changing them alone, for all threads: one that asks meanwhile is told 0, and
    leaves that behind it. Linux tells them without.
    """
    with contextlib.suppress(OSError):
        told = re.search(rb'^Umask:\s*([0-7]+)', _STATUS.read_bytes(), re.MULTILINE)
        if told:
            return int(told[1], 8)
    with _asking:
        umask = os.umask(0)
        os.umask(umask)
    return umask


@contextlib.contextmanager
def naming(path: PathLike, in_place_of: Optional[re.Pattern] = None) -> Iterator[None]:
    """Let an OSError that names no file, as that of a write does, or one whose name without its
    folder is `in_place_of`, name this one."""
    try:
        yield
    except OSError as error:
        named = error.filename
        if named is None or (in_place_of and in_place_of.fullmatch(os.path.basename(str(named)))):
            error.filename = str(path)
        raise


def device_of(path: PathLike) -> str:
    """'DEVICE on MOUNT POINT' of what `path` lies on, '' where the system does not tell."""
    place = Path(path).absolute()
    found = ''
    with contextlib.suppress(OSError):
        for line in Path('/proc/self/mountinfo').read_text().splitlines():
            words, _, about = line.partition(' - ')
            mount = Path(words.split()[4].replace('\\040', ' '))
            if place.is_relative_to(mount) and len(str(mount)) >= len(found.rpartition(' on ')[2]):
                found = f'{about.split()[1]} on {mount}'
    return found


def error_of_disk(path: PathLike, reason: str) -> str:
    """What is said of a disk's error: the file and its device, where room has to be made."""
    device = device_of(path)
    return f'{path}: {reason}{device and f" ({device})"}'


def _temporary_form(path: Path) -> re.Pattern:
    """What the names of temporary files of `atomic_path(path)` are like."""
    return re.compile(rf'\.{re.escape(path.stem)}\.[a-z0-9_]{{8}}{re.escape(path.suffix)}')


def _locked_temporary(path: Path) -> tuple[int, Path]:
    """(descriptor, name) of a new file beside `path`, locked as long as it is being written."""
    while True:
        descriptor, temporary = tempfile.mkstemp(
            dir=path.parent, prefix=f'.{path.stem}.', suffix=path.suffix
        )
        with contextlib.suppress(OSError):  # a file system without locks: leftovers stay there
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if os.fstat(descriptor).st_nlink:
            return descriptor, Path(temporary)
        os.close(descriptor)  # another process took it for a leftover before it was locked


def _remove_leftovers(path: Path) -> None:
    """Remove what killed commands left of `atomic_path(path)`; files that are being written, by
    any process, are locked and stay.

    A folder is listed once a process, since it may hold a million files.
    """
    folder = path.parent.absolute()
    if folder not in _hidden:
        _hidden[folder] = []
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            _hidden[folder] = [entry.name for entry in entries if entry.name.startswith('.')]
    for name in filter(_temporary_form(path).fullmatch, _hidden[folder]):
        with contextlib.suppress(OSError), open(folder / name, 'rb') as handle:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            (folder / name).unlink()


def real_path(path: PathLike) -> Path:
    """A path without links; unlike for `Path.resolve`, a circle of links is no error."""
    return Path(os.path.realpath(path))


def reserve(handle: int, start: int, end: int) -> None:
    """Make an open file `end` bytes long, with room on the disk from `start`, its length or less: a
    full one is an OSError here, and not a signal where the file is mapped. macOS has no such call:
    the file gets the length alone."""
    if hasattr(os, 'posix_fallocate'):
        os.posix_fallocate(handle, start, end - start)
    else:
        os.ftruncate(handle, end)


def sync_folder(folder: PathLike) -> None:
    """Have the names in a folder on the disk: a rename lies in memory until then, and a power cut
    undoes it. Nothing is done for a folder that may be written to and not listed."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except PermissionError:
        return
    try:
        os.fsync(handle)
    except OSError as error:  # file systems that know no such thing say EINVAL
        if error.errno != errno.EINVAL:
            raise
    finally:
        os.close(handle)


def atomic_write(path: PathLike, content: Union[bytes, str]) -> None:
    """Write `content` to `path` through a temporary name.

    Text is written as UTF-8; file names in it that are none keep their bytes.
    """
    if isinstance(content, str):
        content = content.encode('utf-8', 'surrogateescape')
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)


def write_secret(path: PathLike, content: bytes) -> None:
    """Write a new file that only its owner can read, whole and on the disk when this returns;
    nobody sees a part of it, whatever ends the process.

    Raises FileExistsError where there is one, InputError for a place as `output_folder` refuses it,
    and OSError for a disk that does not take it, of which nothing is left.
    """
    output_folder(Path(path).parent)
    with atomic_path(path, private=True, new=True) as temporary:
        temporary.write_bytes(content)


def _move_to_free_name(temporary: Path, path: Path) -> None:
    """Unlike a rename, take no other file's place: FileExistsError where there is one."""
    try:
        os.link(temporary, path)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
        # a file system without links, as that of a memory stick: the name is taken first
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        os.replace(temporary, path)


def read_lines(path: PathLike, what: str) -> list[str]:
    """Lines of a text file that people or other programs wrote, without their ends.

    UTF-8 or UTF-16 with or without a byte-order mark (of UTF-16 with one). Bytes that are no UTF-8
    come back as `os.fsdecode` gives them, so that they still name the file they name.

    Parameters
    ----------
    path : the file
    what : its role, for errors

    Raises
    ------
    InputError for a file that is missing, cannot be read or is no text.
    """
    path = input_file(path, what)
    limits.within(path.stat().st_size, limits.TEXT_BYTES, f'{what} {path}: its size in bytes')
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        text = content.decode('utf-16', 'replace')
    else:
        text = content.decode('utf-8', 'surrogateescape').lstrip(_BYTE_ORDER_MARK)
    if '\0' in text:
        raise InputError(f'{what} {path} is no text; expected lines of text')
    # not str.splitlines, which takes characters for ends that may stand in file names
    return [line.rstrip('\r') for line in text.rstrip('\n').split('\n')] if text else []


def read_csv(path: PathLike, what: str) -> list[list[str]]:
    """The lines of a CSV file as lists of values, whatever system's line ends it has; an empty line
    has none.

    Raises InputError as `read_lines`, and for one that csv cannot split.
    """
    lines = (part for line in read_lines(path, what) for part in line.split('\r'))
    try:
        return list(csv.reader(lines))
    except csv.Error as error:
        raise InputError(f'{what} {path} is no CSV: {error}') from None


def is_file(path: PathLike) -> bool:
    """Whether there is such a file; a name that no file can have is none."""
    try:
        return Path(path).is_file()
    except (OSError, ValueError):  # too long, or a null character
        return False


def free_to_write(path: PathLike, overwrite: bool) -> Path:
    """`output_file(path)` if nothing is there or `overwrite`; otherwise InputError naming it."""
    path = output_file(path)
    if path.exists() and not overwrite:
        raise InputError(f'{path} is there already; choose another place, or say --overwrite')
    return path


def _make_folder(path: Path) -> None:
    """Make `path` and what lies above it; `empty_folders_removed` takes back what stays empty."""
    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    _made.extend(reversed([folder.absolute() for folder in new]))  # also if only some can be made
    path.mkdir(parents=True, exist_ok=True)


def output_folder(path: PathLike) -> Path:
    """Create `path` if needed and prove that files can be written there.

    Raises InputError for a read-only place or a path that is a file, before work starts. Of what is
    made here `empty_folders_removed` takes back what stays empty.
    """
    path = Path(path)
    try:
        _make_folder(path)
        with tempfile.NamedTemporaryFile(dir=path, prefix='.probe.'):
            pass
    except (OSError, ValueError) as error:  # ValueError: a null character
        # 'File exists' would be said of a file where a folder is to be
        exists = isinstance(error, FileExistsError)
        reason = state_of(path) if exists else getattr(error, 'strerror', None) or error
        raise InputError(f'{path}: cannot write here ({reason}); choose another folder') from None
    return path


def output_file(path: PathLike, inputs: Iterable[PathLike] = ()) -> Path:
    """`path` as a Path if a file can be written there, whose folder is made if needed.

    Raises InputError for a folder, a device or the like of that name, for one of the `inputs`, and
    for a place as `output_folder` refuses it: before work starts, since `atomic_path` replaces what
    is there.
    """
    path = Path(path)
    output_folder(path.parent)  # first: what a name is cannot be told below a missing folder
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        mode = stat.S_IFREG
    except (OSError, ValueError) as error:  # too long, or with a null character
        reason = getattr(error, 'strerror', None) or error
        raise InputError(f'{path}: cannot write here ({reason}); choose another file') from None
    if not stat.S_ISREG(mode):
        raise InputError(f'{path} {state_of(path)}; name a file to write')
    if real_path(path) in map(real_path, inputs):
        raise InputError(f'{path} is what is read, and would be replaced; choose another file')
    return path


@contextlib.contextmanager
def empty_folders_removed() -> Iterator[None]:
    """Remove, at the end, the folders that were made for output inside and in which nothing lies:
    what a command leaves that failed, or that wrote nothing there."""
    before = len(_made)
    try:
        yield
    finally:
        while len(_made) > before:
            with contextlib.suppress(OSError, ValueError):  # not empty, gone, or never made
                _made.pop().rmdir()


@contextlib.contextmanager
def exclusive(folder: PathLike) -> Iterator[None]:
    """Keep `folder` for this process while it writes there; the end of the process, by a kill too,
    gives it free. Inside one process it may be taken again.

    Raises InputError at once where another process has it.
    """
    folder = Path(folder).resolve()
    if folder in _held:
        yield
        return
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)  # the folder itself: no file is left
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise InputError(
                f'{folder}: another command is writing there; wait for its end, or choose another '
                f'folder'
            ) from None
        except OSError as error:  # a network file system that cannot
            log.warning('%s: not kept from other commands (%s)', folder, error.strerror)
        _held.add(folder)
        yield
    finally:
        _held.discard(folder)
        os.close(handle)


def state_of(path: PathLike) -> str:
    """What `path` is, to end a message that has named it: 'does not exist', 'is a folder'."""
    path = Path(path)
    if path.is_symlink() and not path.exists():
        return f'is a symbolic link to {os.readlink(path)}, which does not exist'
    kinds = {'a folder': path.is_dir(), 'a file': path.is_file(), 'no ordinary file': path.exists()}
    return next((f'is {kind}' for kind, true in kinds.items() if true), 'does not exist')


def input_file(path: PathLike, what: str) -> Path:
    """`path` as a Path if it is a readable file, otherwise InputError naming it and its role."""
    given, path = path, Path(path)  # which would write an address as https:/host
    if not path.is_file():
        wanted = ', not a file' * path.is_dir()
        raise InputError(f'{what} {given} {state_of(path)}{wanted}')
    if not os.access(path, os.R_OK):
        raise InputError(f'{what} {given} cannot be read (permission denied)')
    return path


def check_holes(path: PathLike) -> None:
    """InputError for a file of holes: one of a few bytes may have a terabyte of zeros to read.

    Neither what the system counts nor where it says that data lie is enough: where it packs files
    there are few blocks, and room that was kept for a file holds no data yet.
    """
    status = os.stat(path)
    size, there = status.st_size, _BLOCK * status.st_blocks
    if size > limits.HOLES + 2 * there:
        there = max(there, _data_bytes(path, size))
    if size > limits.HOLES + 2 * there:
        raise InputError(
            f'{path} is damaged: {size >> 20} MB by its length, of which {there >> 20} MB are on '
            f'the disk; copy it again'
        )


def _data_bytes(path: PathLike, size: int) -> int:
    """How many of a file's bytes lie in no hole, as far as its system tells holes."""
    there = end = 0
    with open(path, 'rb') as handle:
        while end < size:
            try:
                start = os.lseek(handle.fileno(), end, os.SEEK_DATA)
                end = os.lseek(handle.fileno(), start, os.SEEK_HOLE)
            except OSError as error:
                # there are no more data; any other error: it knows of no holes
                return there if error.errno == errno.ENXIO else size
            there += end - start
    return there


def read_json(path: PathLike, what: str) -> Any:
    """What a JSON file holds; InputError where it is missing, too large or no JSON in UTF-8."""
    path = input_file(path, what)
    limits.within(path.stat().st_size, limits.TEXT_BYTES, f'{what} {path}: its size in bytes')
    try:
        return json.loads(path.read_bytes().decode())
    except (ValueError, RecursionError) as error:
        raise InputError(f'{what} {path} is no JSON: {error}') from None


def sha256(path: PathLike) -> str:
    """Hex digest of a file's content, read in blocks of 1 MiB; InputError as `check_holes`."""
    check_holes(path)
    digest = hashlib.sha256()
    with open(path, 'rb') as handle:
        for block in iter(lambda: handle.read(1 << 20), b''):
            digest.update(block)
    return digest.hexdigest()
