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


def whole(like, words, run_command):
    """What `bench identify` says of 120 probes and 40,000 distractors, two blocks, and the scores
    of all pairs, which are drawn here as there."""
    words = ['--probes', 120, '--people', 30, '--distractors', 40_000, '--fpr', 1e-5, *words]
    code, result, errors = run_command('bench', 'identify', *words)
    assert code == 0, errors
    mix = np.eye(64, dtype=np.float32)
    if like is not None:
        squares, axes = np.linalg.eigh(like.T.astype(np.float64) @ like / len(like))
        mix = (axes * np.sqrt(np.maximum(squares, 0))).T.astype(np.float32)
    sides = []
    for seed, count in enumerate((120, 40_000)):
        random, rows = np.random.default_rng(seed), []
        for start in range(0, count, 32768):
            drawn = random.standard_normal((min(32768, count - start), len(mix)), np.float32)
            rows.append(drawn if like is None else drawn @ mix)
        rows = np.concatenate(rows).astype(np.float64)
        sides.append(rows / np.linalg.norm(rows, axis=1, keepdims=True))
    return result, (sides[0] @ sides[1].T).ravel()


def check_whole(result, scores):
    highest = np.sort(scores)[::-1]
    assert result['pairs'] == len(scores) == 4_800_000
    assert result['threshold'] == pytest.approx(highest[48], abs=1e-6)  # a hundred-thousandth
    assert result['above'] == 48
    assert result['positives'] == 30 * 6  # of four pictures of each
    assert result['pairs_per_second'] == pytest.approx(len(scores) / result['seconds'])
    assert result['dimensions'] == {'all': 64, 'searched': 64}
    assert result['form'] in FORMS or result['kernel'] == 'numpy'


def test_the_whole_search_is_that_of_all_pairs(run_command):
    check_whole(*whole(None, ['--size', 64], run_command))


def test_the_whole_search_of_embeddings_like_others(run_command, tmp_path, rng):
    like = rng.randn(200, 64) * np.linspace(3, 0.1, 64) + 0.2
    like = (like / np.linalg.norm(like, axis=1, keepdims=True)).astype(np.float32)
    np.save(tmp_path / 'like.npy', like)
    result, scores = whole(like, ['--like', tmp_path / 'like.npy'], run_command)
    check_whole(result, scores)
    assert np.sort(scores)[-49] > 0.62  # evenly spread, 0.53


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--people', 0], '--people 0: must be an integer above 0'),
        (['--size', 0], '--size 0: must be an integer above 0'),
        (['--fpr', 2], '--fpr 2.0: must be a number above 0, at most 1'),
        (['--like', 'nowhere.npy'], 'nowhere.npy'),
        (['--like', 'x.npy', '--size', 3], '--size: not with --like'),
        (['--distractors', 10**15], 'GB are free, the embeddings take'),
    ],
)
def test_wrong_words_of_the_whole_search(words, message, run_command):
    code, _, errors = run_command('bench', 'identify', *words)
    assert code == 2 and message in errors and len(errors.splitlines()) == 1


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
