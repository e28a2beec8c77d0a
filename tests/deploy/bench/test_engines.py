"""The bench of the engines: all are measured, figures follow from times, the plot is a picture."""

import json

import cv2
import numpy as np
import pytest
from deploy_models import write_checkpoint
from tiny_network import embed_on_stock_graph
from vargfacenet.common.engine.checkpoint import load_embedding
from vargfacenet.deploy.bench import engines


@pytest.fixture(scope='module')
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp('model'))


@pytest.mark.parametrize('batch_size', [1, 4])
def test_the_original_is_mxnets_own_module(checkpoint, batch_size, rng):
    network = load_embedding(checkpoint)
    images = rng.randint(0, 256, (max(2, batch_size), 112, 112, 3)).astype(np.uint8)
    run = engines.original(network, batch_size)
    for _ in range(2):  # MXNet fails in the second pass if in any
        result = run(images[:batch_size])
        expected = embed_on_stock_graph(*network, images)[:batch_size]
        np.testing.assert_allclose(result, expected, atol=1e-5)


def test_every_engine_is_measured(checkpoint, run_command, tmp_path):
    code, result, errors = run_command(
        'bench', 'engines', '--model', checkpoint, '--batch-size', 4, '--seconds', 0.1,
        '--out', tmp_path / 'b.json',
    )  # fmt: skip
    assert code == 0, errors
    rows = {row['engine']: row for row in result['engines']}
    assert {engines.ORIGINAL, engines.OURS, 'onnxruntime float32', 'onnxruntime int8',
            'OpenVINO float32', 'OpenVINO int8'} <= set(rows)  # fmt: skip
    first = rows[engines.ORIGINAL]
    assert first['times_original_batch_1'] == {'median': 1, 'low': 1, 'high': 1}
    for row in rows.values():
        assert 0 < row['latency_ms_median'] <= row['latency_ms_p95']
        share = row['images_per_second'] * result['flops'] / (1e9 * row['peak_gflops'])
        assert row['share_of_peak'] == pytest.approx(share) and 0 < share < 1
    assert json.loads((tmp_path / 'b.json').read_text()) == result
    assert cv2.imread(str(tmp_path / 'b.png')).shape[1] > 500


@pytest.mark.parametrize('flags', [['--batch-size', '1'], ['--seconds', '0'], ['--out', 'x.txt']])
def test_wrong_options(flags, run_command):
    assert run_command('bench', 'engines', *flags)[0] == 2
