"""What this machine's arithmetic can do at most, by precision."""

import time
from collections.abc import Callable

import numpy as np

from ...common.backend import mx
from ...common.engine import openvino_core, ops
from ...common.extras import missing, need
from ...common.parallel import cpu_count

_PEAK_SIDE = 2048  # of the matrices whose product gives the machine's peak


def peaks(seconds: float) -> dict[str, float]:
    """Precision -> FLOP/s of a large matrix product on all CPUs: the best of what is installed.
    Of float32 it is what multiply-adds on registers reach, where they are compiled.
    """
    found = {'float32': 1e9 * (ops.peak_gflops(cpu_count(), seconds) or 0.0)}
    left, right = np.random.RandomState(0).rand(2, _PEAK_SIDE, _PEAK_SIDE).astype(np.float32)
    products = {'numpy': ('float32', lambda: left @ right)}
    arrays = mx.nd.array(left), mx.nd.array(right)

    def fully_connected() -> None:
        mx.nd.FullyConnected(*arrays, num_hidden=_PEAK_SIDE, no_bias=True).wait_to_read()

    products['mxnet'] = ('float32', fully_connected)
    if not missing('openvino'):
        products.update(_openvino_products(left, right))
    if not missing('onnx') and not missing('onnxruntime'):
        products['onnxruntime int8'] = ('int8', _int8_product(left))
    for precision, call in products.values():
        call()
        best, end = np.inf, time.perf_counter() + seconds
        while time.perf_counter() < end:
            started = time.perf_counter()
            call()
            best = min(best, time.perf_counter() - started)
        found[precision] = max(found.get(precision, 0.0), 2 * _PEAK_SIDE**3 / best)
    return found


def _openvino_products(left: np.ndarray, right: np.ndarray) -> dict[str, tuple]:
    ov = need('openvino', 'deploy')
    ops = ov.opset13
    core = openvino_core.core()
    data = ops.parameter(left.shape, np.float32)
    model = ov.Model([ops.matmul(data, ops.constant(right), False, False)], [data])
    products = {}
    hints = {'float32': 'f32'}
    if 'BF16' in core.get_property('CPU', 'OPTIMIZATION_CAPABILITIES'):
        hints['bfloat16'] = 'bf16'
    for precision, hint in hints.items():
        request = core.compile_model(
            model, 'CPU', {'INFERENCE_PRECISION_HINT': hint, 'INFERENCE_NUM_THREADS': cpu_count()}
        ).create_infer_request()
        request.set_input_tensor(ov.Tensor(left, shared_memory=True))
        products[f'openvino {precision}'] = (precision, request.infer)
    return products


def _int8_product(left: np.ndarray) -> Callable[[], object]:
    onnx, ort = need('onnx', 'deploy'), need('onnxruntime', 'deploy')
    helper, kinds = onnx.helper, onnx.TensorProto
    weight = onnx.numpy_helper.from_array((left * 100).astype(np.int8), 'weight')
    shape = list(left.shape)
    graph = helper.make_graph(
        [helper.make_node('MatMulInteger', ['data', 'weight'], ['product'])],
        'product',
        [helper.make_tensor_value_info('data', kinds.UINT8, shape)],
        [helper.make_tensor_value_info('product', kinds.INT32, shape)],
        [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid('', 13)])
    model.ir_version = 8
    options = ort.SessionOptions()
    options.intra_op_num_threads = cpu_count()
    session = ort.InferenceSession(
        model.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    data = (left * 255).astype(np.uint8)
    return lambda: session.run(None, {'data': data})
