"""C++ of the project, compiled at set-up and whenever it is missing.

A library is compiled for this CPU, or in several forms of which each CPU can choose. Silent and
instant when it is up to date. Its name holds a key of everything it depends on, so a change of
source, headers, compiler or, without forms, CPU leads to a new file, never to a stale one.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional

from .files import PathLike, atomic_path
from .parallel import cpu_fields, ordered_map

log = logging.getLogger(__name__)

HEADERS = Path(__file__).resolve().parent / 'cpp'  # what all libraries share
COMPILERS = ('g++', 'c++', 'clang++')  # after $CXX
FLAGS = (
    '-O3',
    '-march=native',
    '-ffp-contract=off',  # fused, x * scale + shortcut would not round like MXNet's operators
    '-fno-trapping-math',  # without it the gradient loops stay scalar, 4 times slower
    '-fopenmp',
    '-std=c++17',
    '-shared',
    # MXNet, once Horovod has loaded it for all, must not lend its versions of our functions
    '-Wl,-Bsymbolic',
    '-fvisibility-inlines-hidden',
    '-fPIC',
)
FOR_ANY_CPU = tuple(flag for flag in FLAGS if not flag.startswith('-march'))


class Outside(NamedTuple):
    """What a library takes from an installed package."""

    headers: Path  # folder
    compiled: tuple[Path, ...]  # source files that go into the library
    key: tuple[Path, ...]  # files that change whenever the interface does


class Form(NamedTuple):
    """Files of a library's folder, compiled for CPUs that have what its flags name.

    To them VARGFACENET_FORM is the form's name, and `vargfacenet` a namespace of its own.
    """

    name: str
    files: tuple[str, ...]
    flags: tuple[str, ...] = ()


class Sources(NamedTuple):
    """What a library is compiled from: the `*.cc` of a folder, where it goes as well."""

    name: str  # the library's name begins with it
    what: str  # in words, for messages
    folder: Path
    without: str  # what happens where there is no library, for warnings
    until: str = ''  # what helps until there is one
    outside: Optional[Callable[[], Outside]] = None
    forms: tuple[Form, ...] = ()  # the first for any CPU; without any, it is for this one


def library(sources: Sources) -> Optional[Path]:
    """Path of the compiled library for this machine, compiled now if it is not there yet.

    Without a compiler, a library that an earlier one made for the same key will do.
    Returns None, with a warning that says what to install, when there is none or when the compiler
    fails. Several processes may call this at once: each gets a whole library.
    """
    key, compiler = machine_key(sources), _compiler()
    folders = _folders(sources)
    if compiler is None:
        pattern = f'{sources.name}-{key}-*.so'
        ready = [path for folder in folders for path in sorted(folder.glob(pattern))]
        if not ready:
            log.warning(
                'no C++ compiler: %s; install g++ (Debian, Ubuntu: apt-get install g++) or set '
                'CXX.%s',
                sources.without,
                sources.until,
            )
        return ready[0] if ready else None
    name = f'{sources.name}-{key}-{_digest(_version(compiler))}.so'
    for folder in folders:
        if (folder / name).is_file():
            return folder / name
    return _compile(sources, compiler, name)


def loaded(sources: Sources) -> Optional[ctypes.CDLL]:
    """The library that `library` finds or makes, loaded; None, after one warning, where there is
    none. A call of its functions releases the interpreter lock."""
    path = library(sources)
    if path is None:
        return None
    try:
        return ctypes.CDLL(str(path))
    except OSError as error:
        log.warning('%s could not be loaded; %s (%s)', path, sources.without, error)
        return None


def _compile(sources: Sources, compiler: str, name: str) -> Optional[Path]:
    """Compile into the first folder that can be written; None with a warning if that fails."""
    log.info('compiling the %s%s, once', sources.what, '' if sources.forms else ' for this CPU')
    started = time.monotonic()
    try:
        folder = _writable_folder(sources)
        with atomic_path(folder / name) as temporary, tempfile.TemporaryDirectory() as objects:
            headers, compiled = [HEADERS], sorted(sources.folder.glob('*.cc'))
            if sources.outside is not None:
                outside = sources.outside()
                headers.append(outside.headers)
                compiled += outside.compiled
            flags = FOR_ANY_CPU if sources.forms else FLAGS
            command = [compiler, *flags, *(f'-I{folder}' for folder in headers)]
            if sources.forms:
                compiled = _objects(sources, command, Path(objects))
            _run([*command, *map(str, compiled), '-o', str(temporary)])
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning(
            'the %s could not be compiled with %s; %s (%s)',
            sources.what,
            compiler,
            sources.without,
            _reason(error),
        )
        return None
    seconds = time.monotonic() - started
    log.info('compiled the %s in %.0f s: %s', sources.what, seconds, folder / name)
    return folder / name


def _objects(sources: Sources, command: list[str], folder: Path) -> list[Path]:
    """Every file of every form, compiled into `folder`; forms whose instructions an older compiler
    does not know are left out, and told."""
    unknown = [form.name for form in sources.forms if not _knows(command[0], form.flags)]
    if unknown:
        log.info(
            '%s does not know %s: CPUs that have it will use the next best form of the %s',
            *(command[0], ', '.join(unknown), sources.what),
        )
    jobs = [
        (form, file) for form in sources.forms if form.name not in unknown for file in form.files
    ]

    def compiled(job: tuple[Form, str]) -> Path:
        form, file = job
        own = [f'-DVARGFACENET_FORM={form.name}', f'-Dvargfacenet=vargfacenet_{form.name}']
        made = folder / f'{form.name}-{file}.o'
        source = str(sources.folder / file)
        _run([*command, *form.flags, *own, '-c', source, '-o', str(made)])
        return made

    return list(ordered_map(compiled, jobs))


def _knows(compiler: str, flags: tuple[str, ...]) -> bool:
    """Whether a compiler takes flags, asked with an empty file. In an error it names the one that
    it does not take; what fails otherwise, as where there is no memory left, is a
    CalledProcessError. (Clang that crashes lists its arguments, but in no error.)"""
    words = [compiler, *flags, '-Werror', '-fsyntax-only', '-x', 'c++', os.devnull]
    done = subprocess.run(words, capture_output=True, text=True)
    errors = ' '.join(line for line in done.stderr.splitlines() if 'error:' in line)
    if done.returncode > 0 and any(flag in errors for flag in flags):
        return False
    done.check_returncode()
    return True


def _run(command: list[str]) -> None:
    subprocess.run(command, check=True, capture_output=True, text=True)


def _reason(error: Exception) -> str:
    """The line of a compiler's output that tells most."""
    output = (getattr(error, 'stderr', None) or '').strip()
    lines = (output or str(error)).splitlines()
    return next((line for line in lines if 'error' in line), lines[-1])


def _folders(sources: Sources) -> list[Path]:
    """Where libraries are looked for and put: beside the source, else the user's cache if any."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    beside = sources.folder
    return [beside, Path(cache) / 'vargfacenet'] if os.path.isabs(cache) else [beside]


def _writable_folder(sources: Sources) -> Path:
    """The first of `_folders` that can be written; raises OSError if none can."""
    folders = _folders(sources)
    folder = next((path for path in folders if os.access(path, os.W_OK)), folders[-1])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def machine_key(sources: Sources) -> str:
    """Key of the sources, the build flags, what lies outside and, where the library is for it
    alone, the CPU's instruction sets."""
    patterns = ((sources.folder, '*.cc'), (sources.folder, '*.h'), (HEADERS, '*.h'))
    files = [path for folder, pattern in patterns for path in sorted(folder.glob(pattern))]
    if sources.outside is not None:
        files += sources.outside().key
    if sources.forms:
        made_for = (*FOR_ANY_CPU, repr(sources.forms), platform.machine())
    else:
        made_for = (*FLAGS, _cpu())
    return _digest(*(path.read_text() for path in files), *made_for)


def _cpu() -> str:
    """What -march=native depends on: architecture, model and instruction set flags."""
    told = cpu_fields()
    if not told:
        return f'{platform.machine()} {platform.processor()}'
    wanted = ('vendor_id', 'cpu family', 'model', 'stepping', 'flags', 'Features', 'CPU part')
    lines = [f'{key}: {told[key]}' for key in wanted if key in told]
    return '\n'.join([platform.machine(), *lines])


def _compiler() -> Optional[str]:
    """Path of the C++ compiler: $CXX if set, else the first of COMPILERS that is installed."""
    wanted = [os.environ['CXX']] if os.environ.get('CXX') else COMPILERS
    return next(filter(None, map(shutil.which, wanted)), None)


def _version(compiler: PathLike) -> str:
    return subprocess.run([compiler, '--version'], capture_output=True, text=True).stdout


def _digest(*texts: str) -> str:
    return hashlib.sha256('\0'.join(texts).encode()).hexdigest()[:12]
