"""The benchmark of identification's kernels: runs, small, and its figures hold together."""

import importlib.util
import os
import sys

import numpy as np
import pytest
from vargfacenet.common.errors import RunError
from vargfacenet.deploy.bench import against_faiss
from vargfacenet.deploy.bench.search import PRODUCTS
from vargfacenet.eval.search.screen import FORMS, forms

PYTHON = os.environ.get('FAISS_PYTHON') or (
    sys.executable if importlib.util.find_spec('faiss') else ''
)
needs_faiss = pytest.mark.skipif(not PYTHON, reason='needs faiss; FAISS_PYTHON may name one')
SMALL = ('--rows', 500, '--columns', 700, '--size', 64, '--seconds', 0.1)


def test_every_kernel_beside_every_product(run_command):
    code, result, errors = run_command('bench', 'search', *SMALL)
    assert code == 0, errors
    rows = result['kernels']
    kernels = {
        f'screen {kernel} {form.title}'
        for name, form in FORMS.items()
        for kernel in form.kernels
        if name in forms(kernel)
    }
    assert set(rows) - set(PRODUCTS) == kernels
    assert rows[result['best_product']]['ratio']['median'] == 1
    for row in rows.values():
        assert row['gflops'] == pytest.approx(2 * 64 * row['pairs_per_second'] / 1e9)
    assert result['best_product'] in errors


def test_wrong_sizes(run_command):
    code, _, errors = run_command('bench', 'search', '--rows', 0)
    assert code == 2 and '--rows 0: must be an integer above 0' in errors


@needs_faiss
def test_faiss_and_usearch_beside_them(run_command):
    code, result, errors = run_command('bench', 'search', *SMALL, '--faiss-python', PYTHON)
    assert code == 0, errors
    names = result['faiss']['differences']
    assert len(names) == 3 and names.keys() < result['kernels'].keys()
    assert max(names.values()) <= against_faiss.MAX_DIFFERENCE
    assert all(result['kernels'][name]['ratio']['median'] > 0 for name in names)
    assert set(result['faiss']['versions']) == {'faiss', 'usearch'}


@needs_faiss
def test_other_scores_are_noticed(tmp_path, rng):
    a, b = (rng.randn(count, 16).astype(np.float32) for count in (70, 90))
    faiss = against_faiss.write_sides(PYTHON, tmp_path, a, b)
    with pytest.raises(RunError, match='best scores differ'):
        against_faiss.check(faiss, a, 1.001 * b)


def test_a_python_without_faiss(run_command):
    code, _, errors = run_command('bench', 'search', *SMALL, '--faiss-python', 'no/python')
    assert code == 2 and "--faiss-python 'no/python': expected a Python with faiss" in errors
    for other in ('', '/bin/echo', '/bin/cat', '/etc/passwd'):  # no program, or none that is Python
        code, _, errors = run_command('bench', 'search', *SMALL, '--faiss-python', other)
        assert code == 2 and len(errors.splitlines()) == 1
        assert f'--faiss-python {other!r}: expected a Python with faiss' in errors
    if sys.executable != PYTHON:
        code, _, errors = run_command('bench', 'search', *SMALL, '--faiss-python', sys.executable)
        assert code == 2 and 'has no faiss, usearch: expected' in errors
        assert 'pip install faiss-cpu usearch' in errors
