"""Identification's kernels against the float32 matrix products of this machine.

All look at all pairs of two sets of embeddings, in turn. The kernels, in every form that this CPU
runs, compare every product with a threshold, the others only multiply: all at once, and in blocks
whose products need no new memory.
With --faiss-python, faiss and usearch search as well, in processes of their own.
OPENBLAS_CORETYPE=SkylakeX in the environment makes NumPy's product use AVX-512.
"""

import argparse
import logging
import sys
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Callable, Optional

import numpy as np

from ...common import console
from ...common.backend import mx
from ...common.engine import ops
from ...common.engine.openvino_core import core
from ...common.extras import missing
from ...common.options import integer
from ...common.parallel import cpu_count
from ...common.vectors import unit_rows
from ...eval.search.screen import FORMS, KERNELS, Searcher, forms, pack
from . import against_faiss, report
from .measure import (
    SECONDS,
    Timing,
    check_options,
    faster,
    machine,
    repeated,
    slices_in_turn,
)

log = logging.getLogger(__name__)

_THRESHOLD = 0.3  # at 512 dimensions, above the score of any pair of random vectors
_BLOCK = 2048
PRODUCTS = (
    'MXNet FullyConnected',
    'MXNet FullyConnected in blocks',
    'NumPy product',
    'NumPy product in blocks',
    'OpenVINO MatMul',
)


def _unit(random: np.random.RandomState, rows: int, size: int) -> np.ndarray:
    return unit_rows(random.standard_normal((rows, size))).astype(np.float32)


def _kernel(name: str, form: str, a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    searcher = Searcher(name)
    rows, columns = pack(a, name, columns=False, form=form), pack(b, name, columns=True, form=form)
    thresholds = np.full(len(a), _THRESHOLD)
    return lambda: searcher.search(rows, columns, thresholds)


def _openvino(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    import openvino
    from openvino import opset13

    left = opset13.parameter(a.shape, np.float32)
    product = opset13.matmul(left, opset13.constant(b), False, True)
    hints = {'INFERENCE_PRECISION_HINT': 'f32', 'PERFORMANCE_HINT': 'LATENCY'}
    model = core().compile_model(openvino.Model([product], [left]), 'CPU', hints)
    request = model.create_infer_request()
    return lambda: request.infer([a], share_inputs=True, share_outputs=True)


def _numpy_blocks(a: np.ndarray, b: np.ndarray) -> Callable[[], object]:
    products = np.empty((_BLOCK, _BLOCK), np.float32)

    def multiply() -> None:
        for start in range(0, len(a), _BLOCK):
            rows = a[start : start + _BLOCK]
            for first in range(0, len(b), _BLOCK):
                columns = b[first : first + _BLOCK].T
                np.matmul(rows, columns, out=products[: len(rows), : columns.shape[1]])

    return multiply


def _mxnet_blocks(a: 'mx.nd.NDArray', b: 'mx.nd.NDArray') -> Callable[[], object]:
    rows = [a[start : start + _BLOCK].copy() for start in range(0, len(a), _BLOCK)]
    columns = [b[start : start + _BLOCK].copy() for start in range(0, len(b), _BLOCK)]

    def multiply() -> None:
        for some in rows:
            for others in columns:
                mx.nd.FullyConnected(some, others, num_hidden=len(others), no_bias=True)
        mx.nd.waitall()

    return multiply


def candidates(a: np.ndarray, b: np.ndarray) -> dict[str, Callable[[], object]]:
    """What is measured, by name; each call looks at all pairs of a (N, D) and b (M, D)."""
    found = {
        f'screen {name} {FORMS[form].title}': _kernel(name, form, a, b)
        for name in KERNELS[1:-1]
        for form in forms(name)
    }
    left, right = mx.nd.array(a), mx.nd.array(b)

    def fully_connected() -> None:
        mx.nd.FullyConnected(left, right, num_hidden=len(b), no_bias=True).wait_to_read()

    products = {
        'MXNet FullyConnected': fully_connected,
        'MXNet FullyConnected in blocks': _mxnet_blocks(left, right),
        'NumPy product': lambda: a @ b.T,
        'NumPy product in blocks': _numpy_blocks(a, b),
    }
    if not missing('openvino'):
        products['OpenVINO MatMul'] = _openvino(a, b)
    assert set(products) <= set(PRODUCTS)
    return {**found, **products}


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('--rows', type=int, default=16384, help='N')
    parser.add_argument('--columns', type=int, default=16384, help='M; N x M float32 must fit')
    parser.add_argument('--size', type=int, default=512, help='embedding size')
    parser.add_argument('--seconds', type=float, default=60, help='to measure in all')
    parser.add_argument(
        against_faiss.OPTION,
        metavar='PYTHON',
        help='a Python of an environment of its own with faiss and usearch, which then search too',
    )


def measure(
    a: np.ndarray, b: np.ndarray, seconds: float, python: Optional[str]
) -> tuple[dict[str, Timing], dict]:
    """All candidates in turn; what `against_faiss.check` found, empty without faiss."""
    calls, programs, checked = candidates(a, b), {}, {}
    with ExitStack() as stack:
        if python:
            folder = Path(stack.enter_context(TemporaryDirectory()))
            faiss = against_faiss.write_sides(python, folder, a, b)
            checked = against_faiss.check(faiss, a, b)
            programs = faiss.start(stack, list(checked['differences']), _THRESHOLD)
        for call in calls.values():
            call()
        slices = {name: repeated(call) for name, call in calls.items()}
        slice_seconds = min(0.5, seconds)
        return slices_in_turn({**slices, **programs}, seconds, slice_seconds), checked


def run(arguments: argparse.Namespace) -> dict:
    sizes = dict.fromkeys(('rows', 'columns', 'size'), integer(1))
    check_options(arguments, {**sizes, 'seconds': SECONDS})
    python = arguments.faiss_python
    if python is not None:
        python = against_faiss.check_python(python)
    random = np.random.RandomState(0)
    a = _unit(random, arguments.rows, arguments.size)
    b = _unit(random, arguments.columns, arguments.size)
    operations, threads = 2 * arguments.rows * arguments.columns * arguments.size, cpu_count()
    timings, checked = measure(a, b, arguments.seconds, python)
    best = min((name for name in PRODUCTS if name in timings), key=lambda n: timings[n].median)
    rows = {
        name: {
            'pairs_per_second': arguments.rows * arguments.columns / timing.median,
            'gflops': operations / timing.median / 1e9,
            'ratio': vars(faster(timings[best], timing)),
        }
        for name, timing in timings.items()
    }
    console.table(
        f'{arguments.rows} x {arguments.columns} pairs, {arguments.size} dimensions, {threads} '
        f'threads; the best float32 product is {best}',
        ('', 'pairs/s', 'GFLOPS', 'times the best product'),
        [
            (
                name,
                f'{row["pairs_per_second"]:.3g}',
                f'{row["gflops"]:.0f}',
                report.shown(row['ratio']),
            )
            for name, row in rows.items()
        ],
    )
    peak = ops.peak_gflops(threads, seconds=min(2, arguments.seconds))
    if peak:
        log.info('float32 multiply-adds in registers: %.0f GFLOPS', peak)
    result = {'machine': machine(), 'best_product': best, 'kernels': rows, 'peak_gflops': peak}
    return {**result, 'faiss': checked} if checked else result


main = console.command('bench search', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
