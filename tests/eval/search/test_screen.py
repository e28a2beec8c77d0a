"""The kernels' library: forms for every kind of CPU in one, exact a hair below any score."""

import ctypes
import functools
import logging
import os
import platform
import re
import shutil
import subprocess
import sys
from itertools import cycle

import numpy as np
import pytest
from conftest import ROOT
from vargfacenet.common import native
from vargfacenet.common.errors import InputError
from vargfacenet.common.parallel import cpu_fields
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


def run(folder, compiled='*.so', **environment):
    """(stdout, stderr) of PROGRAM with a copy of the package, which has its libraries where
    `compiled` is no pattern of theirs."""
    target = folder / 'vargfacenet'
    # what another process compiles this moment begins with a dot
    ignored = shutil.ignore_patterns(compiled, '.*.so', '__pycache__')
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
    # the library that is there; `library` and `compiled` below see it compiled from nothing
    (kernel, same_numbers), _ = run(tmp_path / 'b', compiled='')
    assert kernel == screen.choose_kernel()
    assert same_numbers == numbers


def test_a_kernel_that_is_not_here(monkeypatch):
    monkeypatch.setattr(screen, '_native', lambda: None)
    assert screen.choose_kernel() == 'numpy'
    with pytest.raises(InputError, match='does not run on this machine; it has numpy'):
        screen.choose_kernel('bf16')


@pytest.fixture
def library():
    """Path of the compiled kernels."""
    if native._compiler() is None:
        pytest.skip('no C++ compiler')
    return native.library(screen.SOURCES)


KERNEL_FORMS = [(kernel, form) for form, of in screen.FORMS.items() for kernel in of.kernels]


@pytest.fixture(params=KERNEL_FORMS, ids=lambda param: '-'.join(param))
def kernel_form(request):
    """(kernel, form) of those that this CPU runs."""
    kernel, form = request.param
    if form not in screen.forms(kernel):
        pytest.skip(f'this CPU has no {screen.FORMS[form].title}')
    return request.param


def test_one_library_has_every_form(library):
    """That the compiler knows; and this CPU runs those whose instructions Linux tells of, which is
    asked another way."""
    names = subprocess.run(['nm', '-D', library], check=True, capture_output=True, text=True).stdout
    compiler = native._compiler()
    forms = {form.name for form in screen.SOURCES.forms if native._knows(compiler, form.flags)}
    assert {form.name for form in screen.SOURCES.forms} == set(
        screen.FORMS if platform.machine() == 'x86_64' else [screen.BASE]
    )
    for kernel, form in KERNEL_FORMS:
        assert (f' T vgs_{form}_screen_{kernel}\n' in names) == (form in forms), (kernel, form)
    flags = set(cpu_fields().get('flags', '').split())
    runs = {form for form in forms if set(screen.FORMS[form].needs) <= flags}
    assert set(screen._native().runs) == runs


def test_forms_share_no_function(library):
    """The linker keeps one of several functions of a name, perhaps that of a CPU that has more."""
    names = subprocess.run(['nm', '-C', library], check=True, capture_output=True, text=True).stdout
    defined = [line[17:].split(' ', 1) for line in names.splitlines() if line[0] != ' ']
    start_up = ['_init', '_fini', 'frame_dummy', 'deregister_tm_clones', 'register_tm_clones']
    start_up += ['__do_global_dtors_aux', 'DW.ref.__gxx_personality_v0']
    ours = {name for kind, name in defined if kind in 'tTwWvV' and name not in start_up}
    of_a_form = re.compile(r'vargfacenet_(\w+?)::|vgs_(' + '|'.join(screen.FORMS) + ')_')
    assert ours and not [name for name in ours if not of_a_form.search(name)]


def test_another_form_by_the_environment(monkeypatch):
    runs = screen._native().runs if screen._native() else ()
    for form in runs:
        monkeypatch.setenv(screen.FORM, form)
        kernels = [kernel for kernel in screen.KERNELS[1:-1] if screen.forms(kernel)]
        assert sorted(kernels) == sorted(screen.FORMS[form].kernels)
        assert screen.choose_kernel() == kernels[0]
        assert screen.forms(kernels[0]) == (form,)
    monkeypatch.setenv(screen.FORM, 'sse9')
    if runs[1:]:
        with pytest.raises(InputError, match='VARGFACENET_SEARCH_FORM=sse9: this machine runs avx'):
            screen.choose_kernel()


@pytest.fixture
def compiled(tmp_path, monkeypatch):
    """Compiles some of the forms, by a compiler or a script in its place; the library or None."""
    if native._compiler() is None:
        pytest.skip('no C++ compiler')
    monkeypatch.setattr(native, '_writable_folder', lambda sources: tmp_path)
    base = native.Form(screen.BASE, ('cpu.cc', 'float32.cc'))

    def compiled(*forms, compiler=None):
        compiler = compiler or native._compiler()
        sources = screen.SOURCES._replace(forms=(base, *forms))
        return native._compile(sources, str(compiler), 'kernels.so')

    return compiled


def test_a_form_that_the_compiler_does_not_know_is_left_out_and_told(compiled, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    path = compiled(native.Form('avx2048', ('int8.cc',), ('-mavx2048',)))
    assert 'does not know avx2048' in caplog.text
    assert ctypes.CDLL(str(path)).vgs_base_cpu_has(b'avx2048') == 0
    # what this CPU could run is not there: the next best serves
    monkeypatch.setattr(screen, 'loaded', lambda sources: ctypes.CDLL(str(path)))
    monkeypatch.setattr(screen, '_native', functools.cache(screen._native.__wrapped__))
    assert screen._native().runs == (screen.BASE,) and screen.choose_kernel() == 'float32'
    rows = np.eye(3, 5, dtype=np.float32)
    np.testing.assert_array_equal(
        screen.exact_scores(rows, rows, np.array([0, 1]), np.array([0, 2])), [1, 0]
    )
    monkeypatch.setenv(screen.FORM, 'avx2')
    with pytest.raises(InputError, match='SEARCH_FORM=avx2: this machine runs base'):
        screen.choose_kernel()


AVX2 = native.Form('avx2', ('int8.cc',), ('-mavx2', '-mfma'))


def failing_compiler(folder, words, fails):
    """A script that is the compiler, but for command lines of a pattern, where it `fails`."""
    script = folder / 'c++'
    script.write_text(
        f'#!/bin/sh\ncase "$*" in {words}) {fails};; esac\nexec {native._compiler()} "$@"\n'
    )
    script.chmod(0o755)
    return script


def test_a_compiler_that_fails_leaves_no_library(compiled, tmp_path, caplog):
    """One that was killed for want of memory, say, at a single form: the next start tries again."""
    script = failing_compiler(tmp_path, '*int8.cc*', 'echo "error: Killed" >&2; exit 1')
    assert compiled(AVX2, compiler=script) is None
    assert not (tmp_path / 'kernels.so').exists() and 'error: Killed' in caplog.text


@pytest.mark.parametrize(
    ('fails', 'reason'),
    [
        ('kill -9 $$', 'SIGKILL'),
        ('echo "c++: fatal error: Killed signal terminated program cc1plus" >&2; exit 1', 'Killed'),
        ('echo "error: /tmp/x.s: No space left on device" >&2; exit 1', 'No space left'),
        ('echo "0. Program arguments: clang++ -mavx2 -mfma" >&2; exit 1', 'Program arguments'),
    ],
)
def test_a_compiler_that_fails_as_it_is_asked_has_not_said_no(
    fails, reason, compiled, tmp_path, caplog
):
    """Whether it knows a form. Were that taken for a no, a library without the form would stay."""
    script = failing_compiler(tmp_path, '*-mavx2*-fsyntax-only*', fails)
    assert compiled(AVX2, compiler=script) is None
    assert not (tmp_path / 'kernels.so').exists() and reason in caplog.text


def test_a_number_that_is_not_finite_is_refused(rng):
    rows = rng.standard_normal((4, 8)).astype(np.float32)
    rows[2, 3] = np.nan
    kernels = [kernel for kernel in screen.KERNELS[1:-1] if screen.forms(kernel)]
    for kernel in [*kernels, 'numpy']:
        with pytest.raises(InputError, match='NaN or infinite'):
            screen.pack(rows, kernel, columns=True)


def awkward(rng, size):
    """(40, size) rows that round badly, with some of no and of tiny length."""
    rows = rng.standard_normal((40, size)) ** rng.choice([1, 3, 7], (40, 1))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows[0], rows[1:4] = 0, 1e-30 * rows[1:4]
    return rows.astype(np.float32)


def test_every_pair_is_found_at_a_threshold_a_hair_below_its_score(kernel_form, rng):
    """Also where the rounding of a row and the other side conspire."""
    check_that_every_pair_is_found(*kernel_form, rng)


def check_that_every_pair_is_found(kernel, form, rng):
    searcher = screen.Searcher(kernel)
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
        rows = screen.pack(a, kernel, columns=False, form=form)
        for column in range(len(b)):
            columns = screen.pack(b[column:], kernel, columns=True, form=form)
            below = np.nextafter(exact[:, column], np.float32(-np.inf))
            found = set(zip(*map(list, searcher.search(rows, columns, below))))
            assert {(i, 0) for i in range(len(a))} <= found, (size, column)
            # and by itself in its panel of at most twelve rows, whose others are far from passing
            alone, first = np.full_like(below, 1e4), column % 12
            alone[first::12] = below[first::12]
            found = set(zip(*map(list, searcher.search(rows, columns, alone))))
            assert {(i, 0) for i in range(first, len(a), 12)} <= found, (size, column)


# AVX-VNNI's instruction as AVX-512 VNNI spells it
EVEX = """
#include <immintrin.h>
#define __AVXVNNI__ 1
static inline __m256i dots(__m256i sums, __m256i a, __m256i b) {
  asm("%{evex%} vpdpbusd %2, %1, %0" : "+x"(sums) : "x"(a), "x"(b));
  return sums;
}
#define _mm256_dpbusd_avx_epi32 dots
"""


def test_the_form_of_avx_vnni_where_a_cpu_has_avx512_vnni_alone(tmp_path, monkeypatch, rng):
    """No CPU at hand has the instruction; this one has it under another name."""
    there = screen.FORMS['avx512_vnni'].needs
    if native._compiler() is None or 'avx512_vnni' not in screen.forms('int8'):
        pytest.skip('no compiler, or no AVX-512 VNNI')
    (tmp_path / 'evex.h').write_text(EVEX)
    flags = ('-mavx2', '-mfma', '-include', str(tmp_path / 'evex.h'))
    renamed = native.Form('avx_vnni', ('int8.cc',), flags)
    sources = screen.SOURCES._replace(forms=(screen.SOURCES.forms[0], renamed))
    monkeypatch.setattr(screen, 'SOURCES', sources)
    form = screen.FORMS['avx_vnni']._replace(needs=there)
    monkeypatch.setattr(screen, 'FORMS', {**screen.FORMS, 'avx_vnni': form})
    monkeypatch.setattr(native, '_folders', lambda sources: [tmp_path])
    screen._native.cache_clear()
    try:
        assert screen.forms('int8') == ('avx_vnni',)
        check_that_every_pair_is_found('int8', 'avx_vnni', rng)
    finally:
        screen._native.cache_clear()


def pairs_near(rng, threshold, size, count=500):
    """(count, size) unit rows a, b float32: a_i b_i is within 1e-7 of the threshold, on both sides
    of it and many times on it."""
    a = unit(rng.standard_normal((count, size)))
    other = rng.standard_normal((count, size))
    other = unit(other - (other * a).sum(axis=1, keepdims=True) * a)
    cosine = threshold + rng.choice([-1e-7, -3e-8, 0, 3e-8, 1e-7], (count, 1))
    b = cosine * a + np.sqrt(1 - cosine**2) * other
    return a.astype(np.float32), b.astype(np.float32)


def unit(rows):
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize('size', [33, 128, 512])
def test_pairs_within_1e_7_of_the_threshold_are_told_apart(kernel_form, size, rng):
    """The kernel finds what is above, and the exact scores of what it finds say the same of every
    pair as float64 products of all pairs do; among other rows, where most are far away."""
    kernel, form = kernel_form
    threshold = np.float32(0.35)
    a, b = pairs_near(rng, threshold, size)
    exact = np.float32(np.einsum('id,jd->ij', a.astype(np.float64), b.astype(np.float64)))
    near = np.abs(exact - threshold) <= 2e-7
    assert near.sum() >= len(a) * 0.9  # they are what they should be, above and not above
    assert 0.2 < (exact > threshold)[near].mean() < 0.8
    rows, columns = (screen.pack(part, kernel, columns=part is b, form=form) for part in (a, b))
    i, j = screen.Searcher(kernel).search(rows, columns, np.full(len(a), threshold))
    above = screen.exact_scores(a, b, i, j) > threshold
    assert set(zip(i[above], j[above])) == set(zip(*np.nonzero(exact > threshold)))


def test_every_form_has_the_same_exact_scores(rng):
    """Bit by bit, so that it does not matter where a run goes on."""
    a, b = (rng.standard_normal((50, 77)).astype(np.float32) for _ in range(2))
    i, j = (rng.randint(50, size=400) for _ in range(2))
    expected = None
    for form in screen.forms('float32'):
        scores = np.empty(len(i), np.float32)
        screen._function(form, 'exact')(a, b, 77, i, j, len(i), scores)
        expected = scores if expected is None else expected
        np.testing.assert_array_equal(scores, expected)
        wide = (a[i].astype(np.float64) * b[j].astype(np.float64)).sum(axis=1)
        np.testing.assert_allclose(scores, wide, rtol=1e-6, atol=1e-6)


RESULTS = """
import json, sys
import numpy as np
from vargfacenet.eval import identification
from vargfacenet.eval.search import negatives
identification.FULL_ROC_SCORES, negatives._SHORTENED_PAIRS = 10, 1
rows = np.load(sys.argv[1])
result = identification.tpr_at_fpr(
    rows[:300], np.arange(300) // 3, rows[300:], (1e-4, 1e-3), block=200, capacity=50_000,
    kernel=sys.argv[2],
)
told = {name: np.asarray(value).tolist() for name, value in vars(result).items()}
print(json.dumps({**told, 'kernel': '', 'pairs_per_second': 0}))
"""


def test_one_result_of_all_forms_and_numbers_of_threads(rng, tmp_path):
    """In processes of their own; also with every score twice and pairs that are almost alike."""
    a, b = pairs_near(rng, 0.35, 64, 300)
    np.save(tmp_path / 'rows.npy', np.concatenate([a, b, b, a[:100]]))

    def result(kernel, **environment):
        command = [sys.executable, '-c', RESULTS, str(tmp_path / 'rows.npy'), kernel]
        environment = {**os.environ, **environment}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    expected = result('numpy')
    assert expected.count('[') > 5
    for threads, (kernel, form) in zip(cycle('13'), KERNEL_FORMS):
        if form in screen.forms(kernel):
            told = result(kernel, **{screen.FORM: form, 'OMP_NUM_THREADS': threads})
            assert told == expected, (kernel, form, threads)


def test_int8_looks_again_at_few_pairs(rng):
    """Of unit rows at a threshold that one pair in a thousand reaches."""
    rows = unit(rng.standard_normal((2000, 128))).astype(np.float32)
    a, b = rows[:1000], rows[1000:]
    threshold = np.quantile(a @ b.T, 0.999)
    for form in screen.forms('int8'):
        packed = [screen.pack(part, 'int8', columns=part is b, form=form) for part in (a, b)]
        i, _ = screen.Searcher('int8').search(*packed, np.full(len(a), threshold))
        assert 1000 <= len(i) <= (5_000 if 'vnni' in form else 20_000), form


def test_more_dimensions_than_bytes_can_sum():
    if not screen.forms('int8'):
        pytest.skip('no int8 kernel on this CPU')
    with pytest.raises(InputError, match="choose the kernel 'float32'"):
        screen.pack(np.ones((1, 1 << 16), np.float32), 'int8', columns=False)
