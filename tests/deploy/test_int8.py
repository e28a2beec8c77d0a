"""int8 as `export` makes it of weights that were trained for some steps.

Random weights would tell nothing: all faces come out nearly the same, and deep networks magnify
rounding as no trained one does. Prints a row like those in docs/networks.md (`pytest -s`).
"""

import json

import pytest
from conftest import needs_mxnet

pytestmark = needs_mxnet
onnx = pytest.importorskip('onnx')
pytest.importorskip('onnxruntime')
pytest.importorskip('openvino')

from vargfacenet.deploy import quantize  # noqa: E402

TRAIN = ['--loss', 'softmax', '--lr', 0.05, '--steps', 30, '--per-batch-size', 8, '--target', '']


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    """A training set of drawn faces."""
    from vargfacenet.common.synth.__main__ import main

    folder = tmp_path_factory.mktemp('faces') / 'data'
    assert main([str(folder), '--identities', '24', '--images', '6', '--pairs', '20']) == 0
    return folder


@pytest.mark.parametrize(('name', 'options'), [('r18_se', ['width=0.25', 'bn_mom=0.8'])])
@pytest.mark.slow
def test_int8_of_a_network_that_has_learned(name, options, faces, tmp_path, run_command):
    chosen = [word for option in options for word in ('--network-option', option)]
    where = ['--data-dir', faces, '--models-root', tmp_path, '--name', 'run']
    code, _, errors = run_command('train', *where, '--network', name, *chosen, *TRAIN)
    assert code == 0, errors
    (params,) = (tmp_path / 'run').glob('*.params')
    model = f'{tmp_path}/run/model,{int(params.stem.rsplit("-", 1)[1])}'
    words = ['--calibrate', faces, '--calibrate-images', 48, '--out', tmp_path / 'export']
    code, _, errors = run_command('export', '--model', model, *words)
    assert code == 0, errors
    record = json.loads((tmp_path / 'export' / 'export.json').read_text())
    cosines = {
        row['engine']: row['mean_cosine'] for row in record['parity'] if 'int8' in row['file']
    }
    assert len(cosines) == 2, errors  # the file is kept, and both engines ran it
    images = quantize.calibration_images(faces, 48)
    all_int8 = quantize.quantize_int8(
        tmp_path / 'export' / 'model.onnx', tmp_path / 'all.onnx', images, min_cosine=-1
    )
    size = record['files']['model.int8.onnx']['bytes']
    growth = size / (tmp_path / 'all.onnx').stat().st_size
    shown = ' | '.join(f'{value:.4f}' for value in (all_int8.cosine, *cosines.values()))
    kept = ', '.join(record['int8_kept_float']) or 'none'
    print(f'\n| `{name}` {" ".join(options)} | {shown} | {growth:.2f} | {kept} |')
    assert min(cosines.values()) >= quantize.MIN_COSINE and growth <= 1.1
