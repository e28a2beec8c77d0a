"""Compiling a library: once, atomically, without a compiler and without MXNet."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
from vargfacenet.common import native
from vargfacenet.common.engine.ops.build import OPERATORS

COMPILERS = [name for name in native.COMPILERS if shutil.which(name)]
needs_compiler = pytest.mark.skipif(not COMPILERS, reason='needs a C++ compiler')


@pytest.fixture
def package(tmp_path):
    """A copy of the package's common part without a compiled library."""
    pytest.importorskip('mxnet')  # the operators are compiled with its interface
    target = tmp_path / 'vargfacenet'
    ignored = shutil.ignore_patterns('*.so', '__pycache__')
    shutil.copytree(ROOT / 'common', target / 'common', ignore=ignored)
    (target / '__init__.py').touch()
    return target


def start(package, **environment):
    environment = {
        **os.environ,
        'PYTHONPATH': str(package.parent),
        'XDG_CACHE_HOME': str(package.parent / 'cache'),
        **environment,
    }
    return subprocess.Popen(
        [sys.executable, '-m', 'vargfacenet.common.engine.ops.build'],
        env=environment,
        cwd=package.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(package, **environment):
    """(exit code, stdout, stderr) of the command."""
    process = start(package, **environment)
    stdout, stderr = process.communicate()
    return process.returncode, stdout, stderr


def files(package):
    return sorted(
        path.name for path in (package / 'common' / 'engine' / 'ops').iterdir() if path.is_file()
    )


def test_without_a_compiler_it_warns_and_succeeds(package):
    before = files(package)
    code, stdout, stderr = run(package, PATH='', CXX='')
    assert (code, stdout) == (0, '')
    assert len(stderr.splitlines()) == 1
    assert 'no C++ compiler' in stderr
    assert 'install g++' in stderr
    assert files(package) == before


def test_a_failing_compiler_is_named_and_leaves_nothing(package):
    compiler = package / 'broken'
    compiler.write_text("#!/bin/sh\necho 'vgops.cc:1: error: broken on purpose' >&2\nexit 1\n")
    compiler.chmod(0o755)
    before = files(package)
    code, stdout, stderr = run(package, CXX=str(compiler))
    assert (code, stdout) == (0, '')
    beginning, warning = stderr.splitlines()
    assert beginning.startswith('compiling')
    assert str(compiler) in warning and 'broken on purpose' in warning
    assert files(package) == before


@needs_compiler
@pytest.mark.slow
def test_it_compiles_once_even_when_two_start_together(package):
    before = set(files(package))
    processes = [start(package) for _ in range(2)]
    for process in processes:
        stdout, stderr = process.communicate()
        assert (process.returncode, stdout) == (0, ''), stderr
    (library,) = set(files(package)) - before
    compiled = (package / 'common' / 'engine' / 'ops' / library).stat()
    assert run(package) == (0, '', '')
    assert (package / 'common' / 'engine' / 'ops' / library).stat().st_mtime == compiled.st_mtime
    # A machine that lost its compiler goes on with what it has.
    assert run(package, PATH='', CXX='') == (0, '', '')


@needs_compiler
@pytest.mark.slow
@pytest.mark.skipif(os.geteuid() == 0, reason='root can write everywhere')
def test_a_read_only_installation_uses_the_cache(package):
    folder = package / 'common' / 'engine' / 'ops'
    folder.chmod(0o555)
    try:
        code, _, stderr = run(package)
    finally:
        folder.chmod(0o755)
    assert code == 0, stderr
    assert list((package.parent / 'cache' / 'vargfacenet').glob('vgops-*.so'))


WITHOUT_MXNET = """
import runpy, sys
sys.modules['mxnet'] = None  # importing it fails, as where it is not installed
sys.argv = ['build']
runpy.run_module(MODULE, run_name='__main__')
"""


@needs_compiler
def test_without_mxnet_the_kernels_compile_and_the_operators_are_left_alone(package):
    for folder in ('eval', 'recognition'):
        ignored = shutil.ignore_patterns('*.so', '__pycache__')
        shutil.copytree(ROOT / folder, package / folder, ignore=ignored)
    environment = {**os.environ, 'PYTHONPATH': str(package.parent)}
    for module in (
        'common.engine.ops.build',
        'eval.search.screen',
        'recognition.kernels.sample',
    ):
        program = f"MODULE = 'vargfacenet.{module}'\n{WITHOUT_MXNET}"
        done = subprocess.run(
            [sys.executable, '-c', program],
            env=environment,
            cwd=package.parent,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
    made = {path.name.split('-')[0] for path in package.rglob('*.so')}
    assert made == {'vgscreen', 'vgcentres'}


KEY = (
    'from vargfacenet.common.native import machine_key; '
    'from vargfacenet.common.engine.ops.build import OPERATORS; print(machine_key(OPERATORS))'
)


@pytest.mark.parametrize('changed', ['engine/ops/vgops.cc', 'cpp/simd.h'])
def test_another_source_is_another_library(package, changed):
    def key():
        environment = {**os.environ, 'PYTHONPATH': str(package.parent)}
        command = [sys.executable, '-c', KEY]
        return subprocess.run(
            command, env=environment, cwd=package.parent, capture_output=True, check=True
        ).stdout

    first = key()
    assert key() == first
    with open(package / 'common' / changed, 'a') as source:
        source.write('// changed\n')
    assert key() != first


LOAD = (
    'from vargfacenet.common.engine import ops; assert not ops.available() and not ops.available()'
)


@needs_compiler
def test_a_damaged_library_is_named_and_not_used(package):
    """In a process of its own, since a library that is loaded stays so."""
    environment = {**os.environ, 'PYTHONPATH': str(package.parent), 'PATH': '', 'CXX': ''}
    name = f'vgops-{native.machine_key(OPERATORS)}-0.so'
    (package / 'common' / 'engine' / 'ops' / name).write_bytes(b'not a library')
    done = subprocess.run(
        [sys.executable, '-c', LOAD],
        env=environment,
        cwd=package.parent,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count('could not be loaded') == 1
    assert name in done.stderr
