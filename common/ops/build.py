"""Compiles the operators for this machine: `python -m vargfacenet.common.ops.build`.

Silent and instant when the library is up to date. The library's name holds a key of everything it
depends on, so a change of source, MXNet, compiler or CPU leads to a new file, never to a stale one.
"""

import hashlib
import importlib.util
import logging
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Optional

from ..console import set_up_logging
from ..files import PathLike, atomic_path

log = logging.getLogger(__spec__.name)  # __name__ is '__main__' under python -m

FOLDER = Path(__file__).resolve().parent
COMPILERS = ('g++', 'c++', 'clang++')  # after $CXX
FLAGS = (
    '-O3',
    '-march=native',
    '-ffp-contract=off',  # fused, x * scale + shortcut would not round like MXNet's operators
    '-fno-trapping-math',  # without it the gradient loops stay scalar, 4 times slower
    '-fopenmp',
    '-std=c++17',
    '-shared',
    '-fPIC',
)


def library() -> Optional[Path]:
    """Path of the compiled library for this machine, compiled now if it is not there yet.

    Without a compiler, a library that an earlier one made for the same sources, MXNet and CPU will
    do. Returns None, with a warning that says what to install, when there is none or when the
    compiler fails. Several processes may call this at once: each gets a whole library.
    """
    key, compiler = _machine_key(), _compiler()
    if compiler is None:
        ready = [path for folder in _folders() for path in sorted(folder.glob(f'vgops-{key}-*.so'))]
        if not ready:
            log.warning(
                'no C++ compiler: training runs on stock operators, several times slower; '
                'install g++ (Debian, Ubuntu: apt-get install g++) or set CXX. Until then '
                'DNNL_MAX_CPU_ISA=AVX2 in the environment makes it up to 3 times faster'
            )
        return ready[0] if ready else None
    name = f'vgops-{key}-{_digest(_version(compiler))}.so'
    for folder in _folders():
        if (folder / name).is_file():
            return folder / name
    return _compile(compiler, name)


def _compile(compiler: str, name: str) -> Optional[Path]:
    """Compile into the first folder that can be written; None with a warning if that fails."""
    mxnet = _mxnet_folder()
    sources = [str(path) for path in _sources() if path.suffix == '.cc']
    started = time.monotonic()
    try:
        folder = _writable_folder()
        with atomic_path(folder / name) as temporary:
            command = [compiler, *FLAGS, f'-I{mxnet / "include"}', *sources]
            command += [str(mxnet / 'src' / 'lib_api.cc'), '-o', str(temporary)]
            subprocess.run(command, check=True, capture_output=True, text=True)
            temporary.chmod(0o755)
    except (OSError, subprocess.CalledProcessError) as error:
        reason = (getattr(error, 'stderr', None) or str(error)).strip().splitlines()
        log.warning(
            'the operators could not be compiled with %s; training runs on stock operators, '
            'several times slower (%s)',
            compiler,
            next((line for line in reason if 'error' in line), reason[-1]),
        )
        return None
    log.info('compiled the operators in %.0f s: %s', time.monotonic() - started, folder / name)
    return folder / name


def _sources() -> list[Path]:
    return sorted([*FOLDER.glob('*.cc'), *FOLDER.glob('*.h')])


def _folders() -> list[Path]:
    """Where libraries are looked for and put: beside the source, else the user's cache if any."""
    cache = os.environ.get('XDG_CACHE_HOME') or os.path.expanduser('~/.cache')
    return [FOLDER, Path(cache) / 'vargfacenet'] if os.path.isabs(cache) else [FOLDER]


def _writable_folder() -> Path:
    """The first of `_folders` that can be written; raises OSError if none can."""
    folder = next((path for path in _folders() if os.access(path, os.W_OK)), _folders()[-1])
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _machine_key() -> str:
    """Key of the sources, the build flags, the installed MXNet and the CPU's instruction sets."""
    mxnet = _mxnet_folder()
    interface = [mxnet / 'libinfo.py', mxnet / 'include' / 'mxnet' / 'lib_api.h']
    texts = [path.read_text() for path in _sources() + interface]
    return _digest(*texts, *FLAGS, _cpu())


def _mxnet_folder() -> Path:
    """Folder of the installed MXNet, found without the seconds that importing it takes."""
    spec = importlib.util.find_spec('mxnet')
    return Path(spec.submodule_search_locations[0])


def _cpu() -> str:
    """What -march=native depends on: architecture, model and instruction set flags."""
    cpuinfo = Path('/proc/cpuinfo')
    if not cpuinfo.is_file():
        return f'{platform.machine()} {platform.processor()}'
    wanted = ('vendor_id', 'cpu family', 'model', 'stepping', 'flags', 'Features', 'CPU part')
    first_cpu = cpuinfo.read_text().split('\n\n')[0].splitlines()
    lines = [line for line in first_cpu if line.split('\t')[0].split(':')[0].strip() in wanted]
    return '\n'.join([platform.machine(), *lines])


def _compiler() -> Optional[str]:
    """Path of the C++ compiler: $CXX if set, else the first of COMPILERS that is installed."""
    wanted = [os.environ['CXX']] if os.environ.get('CXX') else COMPILERS
    return next(filter(None, map(shutil.which, wanted)), None)


def _version(compiler: PathLike) -> str:
    return subprocess.run([compiler, '--version'], capture_output=True, text=True).stdout


def _digest(*texts: str) -> str:
    return hashlib.sha256('\0'.join(texts).encode()).hexdigest()[:12]


if __name__ == '__main__':
    set_up_logging()
    library()
    sys.exit(0)
