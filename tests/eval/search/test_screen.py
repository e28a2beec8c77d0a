"""The kernels' library: compiled beside its source, and what happens without a compiler."""

import os
import shutil
import subprocess
import sys

import pytest
from conftest import ROOT
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
