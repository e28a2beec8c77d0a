"""The original network in MXNet's Module against ours in MXNet, onnxruntime and OpenVINO.

Latency at batch 1 and throughput at a larger batch, every engine in turn in one run. A call takes
uint8 crops and gives float32 embeddings, so that each engine's changes of layout and type count.
The original is the authors' symbol as InsightFace binds it; at batch 1 its second forward pass
fails in MXNet 1.9.1, so that it gets two images there, as whoever runs it must do.
"""

import argparse
import json
import logging
import tempfile
import time
from pathlib import Path
from typing import Callable, NamedTuple, Optional

import numpy as np

from ...common import console, flops
from ...common.backend import mx
from ...common.engine import ops
from ...common.engine.contract import Contract, read_contract
from ...common.engine.engines import PRECISIONS, by_rank, open_network
from ...common.engine.network import Network
from ...common.engine.open_model import open_model
from ...common.engine.parity import probe_images
from ...common.errors import InputError
from ...common.extras import missing, need
from ...common.files import atomic_path, atomic_write, output_folder
from ...common.names import DATA, IMAGE_SHAPE, IMAGE_SIZE
from ...common.parallel import cpu_count
from ...symbol import get_symbol
from .. import quantize
from . import measure

log = logging.getLogger(__name__)

ORIGINAL = 'original, MXNet Module'
OURS = 'ours, MXNet'
_CALIBRATION = 64  # drawn faces; the speed of int8 does not depend on what it is calibrated on
_SHORT = {'bfloat16': 'bf16'}
_PEAK_SIDE = 2048  # of the matrices whose product gives the machine's peak
_SLICE_SECONDS = 0.5
_MIN_ROUNDS = 3
_PEAK_SECONDS = 1.0


class Candidate(NamedTuple):
    """One way to run the network; `precision` is that of its arithmetic."""

    precision: str
    single: Callable[[np.ndarray], np.ndarray]  # for a batch of 1
    many: Callable[[np.ndarray], np.ndarray]


def original(network: Network, batch_size: int) -> Callable[[np.ndarray], np.ndarray]:
    """The symbol as it is in MXNet's Module: uint8 (B, 112, 112, 3) -> float32 (B, D)."""
    symbol, arg_params, aux_params = network
    bound = max(batch_size, 2)
    module = mx.mod.Module(symbol, data_names=(DATA,), label_names=None, context=mx.cpu())
    module.bind([(DATA, (bound, *IMAGE_SHAPE))], for_training=False)
    module.set_params(arg_params, aux_params, allow_extra=True)

    def run(images: np.ndarray) -> np.ndarray:
        if len(images) < bound:
            images = np.concatenate([images, images[: bound - len(images)]])
        batch = mx.nd.array(images.transpose(0, 3, 1, 2), dtype=np.float32)
        module.forward(mx.io.DataBatch([batch]), is_train=False)
        return module.get_outputs()[0].asnumpy()[:batch_size]

    return run


def candidates(network: Network, batch_size: int, folder: Path) -> dict[str, Candidate]:
    """Name -> how to run it, of everything that is installed and that this CPU can do."""
    (ours,) = (open_network(kind, network, batch_size=batch_size) for kind in by_rank(Network))
    found = {
        ORIGINAL: Candidate('float32', original(network, 1), original(network, batch_size)),
        OURS: Candidate('float32', ours.embed, ours.embed),
    }
    if missing('onnx') or missing('onnxruntime'):
        log.warning(
            "onnxruntime and OpenVINO are left out: pip install -c requirements.lock '.[deploy]'"
        )
        return found
    from ...common.engine.to_onnx import inference_model

    whole, int8 = folder / 'model.onnx', folder / 'model.int8.onnx'
    need('onnx', 'deploy').save(inference_model(network, input_type='uint8'), str(whole))
    log.info('quantising to int8')
    quantize.quantize_int8(whole, int8, probe_images(_CALIBRATION))
    ways = [
        (kind, path, precision, 'int8' if path == int8 else precision)
        for kind in reversed(by_rank(Contract))
        if kind.available()
        for path, precisions in ((whole, kind.precisions), (int8, PRECISIONS[:1]))
        for precision in precisions
    ]
    for kind, path, precision, told in ways:
        name = f'{kind.title} {_SHORT.get(told, told)}'
        try:
            engine = kind(path, read_contract(path), precision, batch_size=batch_size)
        except InputError as error:
            log.warning('%s is left out: %s', name, error)
            continue
        found[name] = Candidate(told, engine.embed, engine.embed)
    return found


def peaks(seconds: float) -> dict[str, float]:
    """Precision -> FLOP/s of a large matrix product on all CPUs: the best of what is installed.
    Of float32 it is what multiply-adds on registers reach, where they are compiled.
    """
    found = {'float32': 1e9 * (ops.peak_gflops(cpu_count(), seconds) or 0.0)}
    left, right = np.random.RandomState(0).rand(2, _PEAK_SIDE, _PEAK_SIDE).astype(np.float32)
    products = {'numpy': ('float32', lambda: left @ right)}
    arrays = mx.nd.array(left), mx.nd.array(right)
    products['mxnet'] = ('float32', lambda: mx.nd.FullyConnected(
        *arrays, num_hidden=_PEAK_SIDE, no_bias=True).wait_to_read())  # fmt: skip
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
    core = ov.Core()
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


def _time(
    calls: dict[str, Callable[[], object]], seconds: float, what: str
) -> tuple[dict[str, measure.Timing], dict[str, list[float]]]:
    """Timings by round, and the seconds of every single call."""
    every: dict[str, list[float]] = {name: [] for name in calls}

    def recorded(name: str) -> Callable[[], None]:
        def call() -> None:
            started = time.perf_counter()
            calls[name]()
            every[name].append(time.perf_counter() - started)

        return call

    slice_seconds = min(_SLICE_SECONDS, seconds / (_MIN_ROUNDS * len(calls)))
    rounds = round(seconds / (slice_seconds * len(calls)))
    with console.progress(rounds, what, unit='rounds') as bar:
        timings = measure.in_turn(
            {name: recorded(name) for name in calls}, seconds, slice_seconds, _MIN_ROUNDS, bar
        )
    # the first call compiles and fills caches
    return timings, {name: values[1:] for name, values in every.items()}


def _network(args: argparse.Namespace) -> Network:
    """The checkpoint, or the published network with weights as before training."""
    if args.model:
        return open_model(args.model, 'mxnet').network
    symbol = get_symbol('vargfacenet')
    module = mx.mod.Module(symbol, data_names=(DATA,), label_names=None, context=mx.cpu())
    module.bind([(DATA, (2, *IMAGE_SHAPE))], for_training=False)
    mx.random.seed(0)
    module.init_params(mx.init.Mixed(
        ['.*act.*_gamma|.*relu.*_gamma', '.*'],
        [mx.init.Constant(0.25), mx.init.Xavier('gaussian', 'out', 2)],
    ))  # fmt: skip
    return Network(symbol, *module.get_params())


def compare(found: dict[str, Candidate], batch_size: int, seconds: float, work: int) -> list[dict]:
    """One row of figures for each candidate; `work` is the FLOPs of one image."""
    images = np.random.RandomState(0).randint(
        0, 256, (batch_size, IMAGE_SIZE, IMAGE_SIZE, 3)
    ).astype(np.uint8)  # fmt: skip
    one = images[:1]
    singles, latencies = _time(
        {name: lambda run=way.single: run(one) for name, way in found.items()},
        seconds / 2, 'batch 1',
    )  # fmt: skip
    batches, _ = _time(
        {name: lambda run=way.many: run(images) for name, way in found.items()},
        seconds / 2, f'batch {batch_size}',
    )  # fmt: skip
    peak = peaks(min(_PEAK_SECONDS, seconds / 10))
    rows = []
    for name, way in found.items():
        rate = batch_size / batches[name].median
        latency = latencies[name]
        single, many = (
            measure.faster(timings[ORIGINAL], timings[name]) for timings in (singles, batches)
        )
        rows.append({
            'engine': name,
            'precision': way.precision,
            'latency_ms_median': 1e3 * float(np.median(latency)),
            'latency_ms_p95': 1e3 * float(np.percentile(latency, 95)),
            'images_per_second': rate,
            'times_original_batch_1': vars(single),
            'times_original_batch': vars(many),
            'peak_gflops': peak.get(way.precision, np.nan) / 1e9,
            'share_of_peak': rate * work / peak.get(way.precision, np.nan),
        })  # fmt: skip
    return rows


def plot(path: Path, rows: list[dict], batch_size: int) -> None:
    """Two panels of bars: latency at batch 1, throughput at the larger batch."""
    from matplotlib.figure import Figure  # takes a second that nothing else should wait for

    names = [row['engine'] for row in rows][::-1]
    figure = Figure(figsize=(11, 0.45 * len(rows) + 1.4), layout='constrained')
    for axes, key, ratio, title in zip(
        figure.subplots(1, 2, sharey=True),
        ('latency_ms_median', 'images_per_second'),
        ('times_original_batch_1', 'times_original_batch'),
        ('latency at batch 1, ms (less is better)',
         f'images/s at batch {batch_size} (more is better)'),
    ):  # fmt: skip
        values = [row[key] for row in rows][::-1]
        factors = [row[ratio]['median'] for row in rows][::-1]
        colours = ['#9aa5b5' if name == ORIGINAL else '#2563c9' for name in names]
        bars = axes.barh(names, values, color=colours)
        labels = [f'{value:.3g}  ({factor:.1f}x)' for value, factor in zip(values, factors)]
        axes.bar_label(bars, labels, padding=4)
        axes.set_xlim(right=1.35 * max(values))
        axes.set_title(title)
        axes.spines[['top', 'right']].set_visible(False)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=120)


def build_parser(parser: console.Parser) -> None:
    parser.add_argument(
        '--model', metavar='PREFIX,EPOCH', help='checkpoint; the published network without'
    )
    parser.add_argument('--batch-size', type=int, default=32, help='for the throughput')
    parser.add_argument('--seconds', type=float, default=60.0, help='to measure, in all')
    parser.add_argument(
        '--out', type=Path, metavar='FILE.json', help='write the result here, and FILE.png'
    )


def _check_out(out: Optional[Path]) -> None:
    if out is not None:
        if out.suffix != '.json':
            raise InputError(f'--out {out}: expected a name that ends in .json')
        output_folder(out.parent)


def run(args: argparse.Namespace) -> dict:
    if args.batch_size < 2 or not args.seconds > 0:
        raise InputError(
            f'--batch-size {args.batch_size}, --seconds {args.seconds:g}: expected at least 2 '
            f'and more than 0'
        )
    _check_out(args.out)
    network = _network(args)
    count = flops.count(network.symbol)
    with tempfile.TemporaryDirectory() as folder:
        found = candidates(network, args.batch_size, Path(folder))
        rows = compare(found, args.batch_size, args.seconds, count.flops)
    console.table(
        f'{args.model or "vargfacenet"}: {count.flops / 1e6:.0f} MFLOPs, {cpu_count()} CPUs',
        ('engine', 'ms at 1', 'p95', 'times', f'images/s at {args.batch_size}', 'times',
         'share of peak'),
        [(
            row['engine'],
            f'{row["latency_ms_median"]:.1f}',
            f'{row["latency_ms_p95"]:.1f}',
            f'{row["times_original_batch_1"]["median"]:.1f}',
            f'{row["images_per_second"]:.0f}',
            f'{row["times_original_batch"]["median"]:.1f}',
            f'{100 * row["share_of_peak"]:.0f} % of {row["peak_gflops"]:.0f} GFLOPS',
        ) for row in rows],
    )  # fmt: skip
    result = {
        'model': args.model or 'vargfacenet',
        'batch_size': args.batch_size,
        'flops': count.flops,
        'machine': measure.machine(),
        'engines': rows,
    }
    if args.out is not None:
        atomic_write(args.out, json.dumps(result, indent=1) + '\n')
        plot(args.out.with_suffix('.png'), rows, args.batch_size)
        log.info('%s and %s', args.out, args.out.with_suffix('.png'))
    return result


main = console.command('bench engines', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
