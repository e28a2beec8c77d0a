"""The kernels' library: compiled for every kind of CPU, exact a hair below any score."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from vargfacenet.common import native
from vargfacenet.common.errors import InputError
from vargfacenet.eval.search import screen

PROGRAM = """
import numpy as np
from vargfacenet.common.console import set_up_logging
from vargfacenet.eval.search import screen
from vargfacenet.eval.identification import tpr_at_fpr
set_up_logging()
random = np.random.RandomState(0)
rows = random.standard_normal((60, 24))
rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
result = tpr_at_fpr(rows[:30], np.arange(30) // 3, rows[30:], (0.01, 0.1))
print(result.kernel, result.tpr.tolist(), result.thresholds.tolist())
"""


def run(folder, **environment):
    """(stdout, stderr) of PROGRAM with a copy of the package that has no compiled library."""
    target = folder / 'vargfacenet'
    ignored = shutil.ignore_patterns('*.so', '__pycache__')
    for part in ('common', 'eval'):
        shutil.copytree(ROOT / part, target / part, ignore=ignored)
    (target / '__init__.py').touch()
    environment = {**os.environ, 'PYTHONPATH': str(folder), 'XDG_CACHE_HOME': '', **environment}
    done = subprocess.run(
        [sys.executable, '-c', PROGRAM], env=environment, cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split(' ', 1), done.stderr


def test_without_a_compiler_numpy_gives_the_same(tmp_path):
    (kernel, numbers), stderr = run(tmp_path / 'a', PATH='', CXX='')
    assert kernel == 'numpy'
    assert stderr.count('\n') == 1
    assert 'no C++ compiler: identification runs on NumPy' in stderr
    (kernel, same_numbers), _ = run(tmp_path / 'b')
    assert kernel == screen.choose_kernel()
    assert same_numbers == numbers


def test_a_kernel_that_is_not_here(monkeypatch):
    monkeypatch.setattr(screen, '_native', lambda: None)
    assert screen.choose_kernel() == 'numpy'
    with pytest.raises(InputError, match='does not run on this machine; it has numpy'):
        screen.choose_kernel('bf16')


def cpu_flags():
    text = Path('/proc/cpuinfo').read_text()
    return set(next(line for line in text.splitlines() if line.startswith('flags')).split())


# what each adds to the one before it, as /proc/cpuinfo spells it
CPUS = {
    'x86-64-v2': set(),
    'haswell': {'avx2', 'fma'},
    'alderlake': {'avx2', 'fma', 'avx_vnni'},
    'skylake-avx512': {'avx512f', 'avx512bw', 'avx512vl'},
    'icelake-server': {'avx512f', 'avx512bw', 'avx512vl', 'avx512_vnni'},
}


@pytest.fixture(params=CPUS)
def compiled(request, tmp_path, monkeypatch):
    """The kernels as they are compiled for a CPU, loaded in place of this machine's."""
    compiler = native._compiler()
    if compiler is None:
        pytest.skip('no C++ compiler')
    path = tmp_path / 'kernels.so'
    flags = [flag for flag in native.FLAGS if not flag.startswith('-march')]
    sources = map(str, screen.SOURCES.folder.glob('*.cc'))
    command = [compiler, *flags, f'-march={request.param}', f'-I{native.HEADERS}', *sources]
    subprocess.run([*command, '-o', str(path)], check=True)
    if not CPUS[request.param] <= cpu_flags():
        pytest.skip(f'compiles; this CPU is no {request.param}')
    monkeypatch.setattr(native, 'library', lambda sources: path)
    screen._native.cache_clear()
    yield request.param
    screen._native.cache_clear()


def awkward(rng, size):
    """(40, size) rows that round badly, with some of no and of tiny length."""
    rows = rng.standard_normal((40, size)) ** rng.choice([1, 3, 7], (40, 1))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[0], rows[1:4] = 0, 1e-30 * rows[1:4]
    return rows.astype(np.float32)


def test_every_pair_is_found_at_a_threshold_a_hair_below_its_score(compiled, rng):
    """By every kernel, also where the rounding of a row and the other side conspire."""
    assert screen.choose_kernel() == {'x86-64-v2': 'float32'}.get(compiled, 'int8')
    for size in (1, 15, 16, 75, 512):
        a, b = awkward(rng, size), awkward(rng, size)
        # almost half a step off every integer, and on the other side the very direction of what is
        # lost, for the ranges of rows and of columns
        for n, (one, other, levels) in enumerate(
            ((a, b, 31), (b, a, 63), (a, b, 127), (b, a, 127)), start=2
        ):
            place = slice(4 * n, 4 * n + 4)
            one[place] = (rng.randint(-levels + 1, levels, (4, size)) + 0.49) / levels
            one[place, 0] = 1
            other[place] = one[place] * levels - np.rint(one[place] * levels)
            other[4 * n + 2 : 4 * n + 4] *= -1
        exact = np.float32(a.astype(np.float64) @ b.astype(np.float64).T)
        for kernel in screen.KERNELS[1:]:
            try:
                searcher = screen.Searcher(screen.choose_kernel(kernel))
            except InputError:
                continue
            rows = screen.pack(a, kernel, columns=False)
            for column in range(len(b)):
                columns = screen.pack(b[column:], kernel, columns=True)
                below = np.nextafter(exact[:, column], np.float32(-np.inf))
                found = set(zip(*map(list, searcher.search(rows, columns, below))))
                assert {(i, 0) for i in range(len(a))} <= found, (kernel, size, column)


def test_int8_looks_again_at_few_pairs(rng):
    """Of unit rows at a threshold that one pair in a thousand reaches."""
    try:
        searcher = screen.Searcher(screen.choose_kernel('int8'))
    except InputError:
        pytest.skip('no int8 kernel on this CPU')
    rows = rng.standard_normal((2000, 128))
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    a, b = rows[:1000], rows[1000:]
    packed = screen.pack(a, 'int8', columns=False), screen.pack(b, 'int8', columns=True)
    threshold = np.quantile(a @ b.T, 0.999)
    i, _ = searcher.search(*packed, np.full(len(a), threshold))
    assert 1000 <= len(i) <= 20_000


def test_more_dimensions_than_bytes_can_sum():
    if screen._native() is None or not screen._native().has_int8:
        pytest.skip('no int8 kernel on this CPU')
    with pytest.raises(InputError, match="choose the kernel 'float32'"):
        screen.pack(np.ones((1, 1 << 16), np.float32), 'int8', columns=False)
