"""Pairs per second of every kernel beside this machine's matrix products and its peak.

    python -m vargfacenet.eval.screen_bench

All are measured in turn, several rounds in one run, and the median counts: other work on the
machine then slows all of them alike. OPENBLAS_CORETYPE=SkylakeX in the environment makes NumPy's
product use AVX-512. The kernels compare every product with a threshold, the others only multiply.
"""

import argparse
import time
from typing import Callable

import numpy as np

from ..common import console
from ..common.backend import cpu_count, mx
from ..common.errors import InputError
from .screen import KERNELS, Searcher, choose_kernel, native_peak, pack

_THRESHOLD = 0.3  # at 512 dimensions, above the score of any pair of random vectors


def _unit(random: np.random.RandomState, rows: int, size: int) -> np.ndarray:
    x = random.standard_normal((rows, size)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def _kernel(name: str, a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    searcher = Searcher(name)
    rows, columns = pack(a, name, columns=False), pack(b, name, columns=True)
    thresholds = np.full(len(a), _THRESHOLD)
    return lambda: searcher.search(rows, columns, thresholds)


def candidates(a: np.ndarray, b: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is measured, by name; each call looks at all pairs of a (N, D) and b (M, D)."""
    found = {}
    for name in KERNELS[1:3]:
        try:
            found[f'screen {name}'] = _kernel(choose_kernel(name), a, b)
        except InputError:
            continue
    left, right = mx.nd.array(a), mx.nd.array(b)

    def fully_connected() -> None:
        mx.nd.FullyConnected(left, right, num_hidden=len(b), no_bias=True).wait_to_read()

    found['MXNet FullyConnected'] = fully_connected
    found['NumPy product'] = lambda: a @ b.T
    return found


def measure(functions: dict[str, Callable], rounds: int) -> dict[str, float]:
    """Median seconds of each, in turn; one call of each before does not count."""
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for number in range(rounds + 1):
        for name, function in functions.items():
            started = time.perf_counter()
            function()
            if number:
                seconds[name].append(time.perf_counter() - started)
    return {name: float(np.median(values)) for name, values in seconds.items()}


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--rows', type=int, default=16384, help='N')
    parser.add_argument('--columns', type=int, default=16384, help='M; N x M float32 must fit')
    parser.add_argument('--size', type=int, default=512, help='embedding size')
    parser.add_argument('--rounds', type=int, default=5, help='measurements of each')


def run(arguments: argparse.Namespace) -> dict:
    random = np.random.RandomState(0)
    a = _unit(random, arguments.rows, arguments.size)
    b = _unit(random, arguments.columns, arguments.size)
    functions = candidates(a, b)
    operations, threads = 2 * arguments.rows * arguments.columns * arguments.size, cpu_count()
    if any(name.startswith('screen') for name in functions):
        rounds = int(operations / native_peak(1, threads)) + 1  # as much work as the others have
        functions['peak'] = lambda: native_peak(rounds, threads)
    seconds = measure(functions, arguments.rounds)
    gflops = {name: operations / value / 1e9 for name, value in seconds.items()}
    products = max(gflops['MXNet FullyConnected'], gflops['NumPy product'])
    rows = [
        (
            name,
            f'{value * 1e9 / (2 * arguments.size):.3g}',
            f'{value:.0f}',
            f'{value / products:.2f}',
        )
        for name, value in gflops.items()
    ]
    console.table(
        f'{arguments.rows} x {arguments.columns}, {arguments.size} dimensions, {threads} threads',
        ('', 'pairs/s', 'GFLOPS', 'times the best product'),
        rows,
    )
    return {'gflops': gflops, 'times_best_product': {n: v / products for n, v in gflops.items()}}


main = console.command('screen-bench', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
