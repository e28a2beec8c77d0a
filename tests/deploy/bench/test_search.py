"""The benchmark of identification's kernels: runs, small, and its figures hold together."""

import pytest
from vargfacenet.common.errors import InputError
from vargfacenet.deploy.bench.search import PRODUCTS
from vargfacenet.eval.search.screen import choose_kernel


def runs_here(kernel):
    try:
        return choose_kernel(kernel) == kernel
    except InputError:
        return False


def test_every_kernel_beside_every_product(run_command):
    code, result, errors = run_command(
        'bench', 'search', '--rows', 500, '--columns', 700, '--size', 64, '--seconds', 0.1
    )
    assert code == 0, errors
    rows = result['kernels']
    kernels = {f'screen {name}' for name in ('bf16', 'int8', 'float32') if runs_here(name)}
    assert set(rows) - set(PRODUCTS) == kernels
    assert rows[result['best_product']]['ratio']['median'] == 1
    for row in rows.values():
        assert row['gflops'] == pytest.approx(2 * 64 * row['pairs_per_second'] / 1e9)
    assert result['best_product'] in errors


def test_wrong_sizes(run_command):
    code, _, errors = run_command('bench', 'search', '--rows', 0)
    assert code == 2 and '--rows 0: must be positive' in errors
