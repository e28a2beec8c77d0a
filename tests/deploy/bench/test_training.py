"""The benchmarks of training: each runs, small, and what it says holds together."""

import json
import time

import numpy as np
import pytest
from conftest import DATA, registered_for_now
from vargfacenet.common.backend import mx
from vargfacenet.common.data.recordio import record_paths
from vargfacenet.common.engine import ops
from vargfacenet.common.parallel import cpu_count
from vargfacenet.deploy.bench import data, distilling, iterators, steps, stock, train
from vargfacenet.recognition import configure, presets
from vargfacenet.recognition.losses import Head, class_loss, make_loss
from vargfacenet.symbol import NETWORKS, get_symbol

WIDE = DATA / 'wide_network.py'


def check_files(result, out):
    assert json.loads(out.read_text())['machine']['cpu'] == result['machine']['cpu']
    assert out.with_suffix('.png').stat().st_size > 5000


def numpy_gflops():
    """What a matrix product of NumPy reaches, the best of some."""
    a, seconds = np.ones((512, 512), np.float32), []
    for _ in range(10):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    return 2 * 512**3 / min(seconds) / 1e9


@pytest.fixture
def wide(monkeypatch):
    """Name of a network of a few layers whose width is an option, as VarGFaceNet's is; here, and
    in the processes that measure, by a plugin."""
    monkeypatch.setenv('VARGFACENET_PLUGINS', str(WIDE))
    monkeypatch.setattr(train, 'WIDE', 'wide')
    with registered_for_now(NETWORKS):
        yield 'wide'


def test_train(wide, run_command, tmp_path, monkeypatch):
    out = tmp_path / 'train.json'
    monkeypatch.setattr(train, 'SETTINGS', {'bound': {'OMP_PROC_BIND': 'true'}})
    options = ['--network', wide, '--batches', '32', '--multipliers', '0.5', '--seconds', 0.02]
    options += ['--classes', 20, '--rounds', 1, '--out', out]
    code, result, errors = run_command('bench', 'train', *options)
    assert code == 0
    assert {'default', 'bound'} <= set(result['settings'])
    assert result['processes']['count'] == cpu_count()
    check_files(result, out)
    assert set(result['batches']) == {'32'}
    for row in (*result['batches']['32'].values(), *result['best'].values()):
        assert row['ratio']['low'] <= row['ratio']['median'] <= row['ratio']['high']
    assert set(result['batches']['32']) == set(stock.environments())
    assert result['best']['default']['setting'] == stock.DEFAULT
    assert [row['series'] for row in result['growth']] == ['batch', 'width']
    assert [row.get('multiplier') for row in result['growth']] == [None, 0.5]
    for row in result['growth']:
        assert row['ours']['bytes'] > 5e6 and row['stock']['images_per_second'] > 0
    assert any(name.endswith('Convolution') for name in result['profile']['operators'])
    # two operations a product: 32 filters of 3 x 7 x 7, 8 x 3 x 3 and 32 numbers at 14 x 14 places,
    # and 2 x 2 x 32 numbers into 16; what else is counted is little
    operations = 2 * (14 * 14 * 32 * (3 * 49 + 8 * 9 + 32) + 128 * 16)
    rate = result['best']['best']['images_per_second']['ours']
    assert result['gflops'] == pytest.approx(3 * operations * rate / 1e9, rel=0.02)
    if ops.available():
        # it need not be above `gflops`: other work may take the cores while it is measured. At most
        # two products of 16 numbers, two operations each, in a cycle of a core of 6 GHz
        assert numpy_gflops() / 10 < result['peak_gflops'] < 64 * 6 * cpu_count()
        assert '_backward_vg_grouped' in result['profile']['operators']
    assert 'times as fast' in errors


@pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')
def test_train_in_both_precisions(wide, run_command, tmp_path, monkeypatch):
    """What a CPU without bfloat16 is refused, for it would be slower: that it runs and is told."""
    monkeypatch.setattr(configure, 'lacks_bfloat16', lambda: '')
    out = tmp_path / 'precision.json'
    options = ['--network', wide, '--batches', '8', '--seconds', 0.02, '--classes', 20]
    code, result, errors = run_command(
        'bench', 'train', *options, '--precision', 'bfloat16', '--out', out
    )
    assert code == 0
    check_files(result, out)
    assert set(result['batches']) == {'8'}
    for batch, row in result['batches'].items():
        for precision in ops.PRECISIONS:
            timing = row[precision]
            assert timing['per_second'] == pytest.approx(int(batch) / timing['seconds_median'])
            assert timing['bytes'] > 5e6
        assert row['ratio']['low'] <= row['ratio']['median'] <= row['ratio']['high']
    assert 'times as fast' in errors


@pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')
def test_a_process_trains_in_the_precision_it_is_told(wide):
    step = train.Step(wide, {'multiplier': 0.5}, 20)
    for precision in ops.PRECISIONS:
        with step.worker(2, False, precision=precision) as worker:
            assert worker.about == precision


def test_head(run_command, tmp_path):
    out = tmp_path / 'head.json'
    words = ['--classes', '50,20000', '--batch-size', 8, '--rounds', 1]
    code, result, _ = run_command('bench', 'head', *words, '--out', out)
    assert code == 0
    check_files(result, out)
    large = result['heads'][1]
    # weights, gradients, momenta and two arrays of N x C at least; the stock head has more of each
    floor = 3 * 4 * 512 * 20000
    assert large['stock']['setting'] in stock.environments() and floor < large['stock']['bytes']
    if ops.available():
        assert floor < large['ours']['bytes'] < large['stock']['bytes']


def test_head_with_partial_fc(run_command, tmp_path):
    out = tmp_path / 'partial.json'
    words = ['--classes', '50,20000', '--batch-size', 8, '--rounds', 1, '--rates', '1,0.1']
    code, result, errors = run_command('bench', 'head', '--partial-fc', *words, '--out', out)
    assert code == 0
    check_files(result, out)
    large = result['heads'][1]
    assert set(large['heads']) == {'full', '1', '0.1'}
    floor = 2 * 4 * 512 * 20000  # centres and momenta
    for rate in ('1', '0.1'):
        assert floor < large['heads'][rate]['bytes']
        assert large['heads'][rate]['ratio']['median'] > 0
    assert 'times as fast as full' in errors


def test_losses(run_command):
    words = ['--classes', 30, '--batch-size', 4, '--embedding-size', 16, '--seconds', 0.1]
    code, result, errors = run_command('bench', 'losses', *words)
    assert code == 0
    rows = {row['loss']: row for row in result['losses']}
    assert set(presets.loss) <= rows.keys()
    assert {row['compiled'] for name, row in rows.items() if 'stock' in name} == {False}
    compiled = {'arcface', 'cosface', 'arcnegface', 'arcface --label-smoothing 0.1'}
    assert all(rows[name]['compiled'] == ops.available() for name in compiled)
    assert not any(rows[name]['compiled'] for name in ('softmax', 'adaface', 'triplet'))
    assert all(row['seconds_median'] > 0 for row in rows.values())
    assert rows['arcface']['ratio']['median'] == 1 and 'times the time of arcface' in errors


def test_the_store_of_random_directions(tmp_path, monkeypatch):
    monkeypatch.setattr(distilling, 'RECORDS', 30)
    monkeypatch.setattr(distilling, 'BLOCK', 10)
    rows = distilling.random_store(tmp_path, 8).read(np.arange(30), np.arange(30) % 2)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-3)
    assert len(np.unique(rows, axis=0)) == 30


@pytest.mark.slow
def test_distill(run_command, tmp_path):
    out = tmp_path / 'distill.json'
    options = ['--student', 'y1', '--teacher', 'y1', '--batch-size', 2, '--seconds', 0.1]
    options += ['--out', out]
    code, result, errors = run_command('bench', 'distill', *options)
    assert code == 0
    check_files(result, out)
    assert result['stock']['setting'] in stock.environments()
    for part, side in (('store', 'plain'), ('live', 'live'), ('stock', 'stock')):
        row = result[part][side]
        assert row['per_second'] == pytest.approx(2 / row['seconds_median'])
    cost = result['live']['cost']
    assert 0 < cost['low'] <= cost['median'] <= cost['high']
    assert result['teach']['engine'] in errors


def test_data(wide, run_command, tmp_path, monkeypatch):
    small = {'PEOPLE': 4, 'FACES': 4, 'COPIES': 20, 'TRAINING_BATCH': 4}
    for name, value in {**small, 'NETWORK': wide, 'NETWORK_OPTIONS': {'multiplier': 0.5}}.items():
        monkeypatch.setattr(data, name, value)
    monkeypatch.setattr(stock, '_TRIAL_SECONDS', 0.02)
    out = tmp_path / 'data.json'
    options = ['--batch-size', 16, '--seconds', 0.02, '--threads', '1', '--index-records', 3000]
    options += ['--out', out]
    code, result, errors = run_command('bench', 'data', *options)
    assert code == 0, errors
    check_files(result, out)
    assert set(result['warm']) == {'stock', data.MXNET, 'threads 1'}
    assert result['warm'][data.MXNET]['setting'].endswith('threads')
    assert result['cold']['full']['per_second'] > 0 < result['cold']['ratio']['median']
    assert result['start']['images'] == 3000


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['train', '--batches', '0'], "--batches '0'"),
        (['train', '--seconds', '-1'], '--seconds -1'),
        (['train', '--out', 'table.txt'], 'ends in .json'),
        (['head', '--classes', 'many'], "--classes 'many'"),
        (['head', '--rounds', '0'], '--rounds 0'),
        (['head', '--rates', '0.1'], '--rates: only with --partial-fc'),
        (['head', '--centres-dtype', 'float16'], '--centres-dtype: only with --partial-fc'),
        (['head', '--partial-fc', '--rates', 'nan'], "--rates 'nan'"),
        (['train', '--seconds', 'nan'], '--seconds nan'),
        (['train', '--torch-python', ''], '--torch-python: only with --against torch'),
        (['train', '--every-form'], '--every-form: only with --against torch'),
        (['train', '--network', 'y1', '--multipliers', '1'], 'only with --network vargfacenet'),
        (['train', '--against', 'torch', '--rounds', '2'], '--rounds: only with --against stock'),
        (['train', '--precision', 'bfloat16', '--rounds', '2'], 'only with --precision float32'),
        (['distill', '--batch-size', '0'], '--batch-size 0'),
        (['distill', '--seconds', 'inf'], '--seconds inf: must be a number above 0, at most 1e+06'),
        (['distill', '--teacher', 'nope'], "unknown network 'nope'"),
        (['distill', '--student', 'nope'], "unknown network 'nope'"),
        (['data', '--seconds', 'nan'], '--seconds nan'),
        (['data', '--index-records', '0'], '--index-records 0: must be'),
        (['data', '--data-dir', 'nowhere'], 'nowhere/train.rec does not exist'),
        (['losses', '--classes', '1'], '--classes 1: must be an integer, at least 2'),
        (['losses', '--seconds', 'nan'], '--seconds nan'),
        (['engines', '--seconds', 'inf'], '--seconds inf'),
        (['networks', '--seconds', 'nan'], '--seconds nan'),
        (['photo', '--model', 'none,1', '--seconds', 'nan'], '--seconds nan'),
        (['photo', '--model', 'none,1', '--min-face', '0'], '--min-face 0'),
        (['photo', '--model', 'none,1', '--detector', 'nope'], 'nope'),
        (['search', '--seconds', 'nan'], '--seconds nan'),
        (['losses', '--seconds', '0'], '--seconds 0'),
        (['speed'], "unknown command 'speed'"),
    ],
)
def test_wrong_input_is_one_line(words, message, run_command):
    code, _, errors = run_command('bench', *words)
    assert code == 2
    assert message in errors
    assert len(errors.strip().splitlines()) == 1


def test_the_stock_head_has_our_numbers(rng):
    """The baseline trains the same loss: what differs is time and memory."""
    classes, size, n = 30, 16, 6
    embedding, label = mx.sym.Variable('embedding'), mx.sym.Variable('label')
    arrays = {
        'embedding': mx.nd.array(rng.randn(n, size)),
        'fc7_weight': mx.nd.array(rng.randn(classes, size)),
        'label': mx.nd.array(rng.randint(0, classes, n)),
    }
    stock = mx.sym.SoftmaxOutput(steps.one_hot_logits(embedding, label, classes, size), label)
    head = Head(embedding, label, classes, size)
    ours = class_loss(make_loss('margin', steps.ARCFACE), head).loss
    found = []
    for symbol in (stock, mx.sym.MakeLoss(ours)):
        gradients = {name: array.zeros_like() for name, array in arrays.items()}
        executor = symbol.bind(mx.cpu(), dict(arrays), gradients)
        executor.forward(is_train=True)
        executor.backward()
        found.append([gradients[name].asnumpy() for name in ('embedding', 'fc7_weight')])
    for theirs, our in zip(*found):
        np.testing.assert_allclose(our, theirs, rtol=1e-3, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize('kind', ['stock', 'mxnet'])
def test_the_other_iterators_deliver_the_pictures_of_the_file(kind, tmp_path):
    """Each image of a batch is a record's, mirrored or not."""
    from vargfacenet.common.data.image import decode_rgb
    from vargfacenet.common.data.recordio import RecordFile, write_face_records
    from vargfacenet.common.synth.face import jpeg_faces

    write_face_records(tmp_path / 'train', (jpeg_faces(0, i, range(4), 112) for i in range(3)))
    records = RecordFile(tmp_path / 'train')
    pictures = [decode_rgb(records.read(i)[1]).transpose(2, 0, 1) for i in range(12)]
    paths = record_paths(tmp_path / 'train')
    if kind == 'mxnet':
        paths = iterators.write_ungrouped(paths, str(tmp_path / 'plain'), 100)
        batch = next(iterators.image_record_batches(paths, 12, 2)).asnumpy()
    else:
        batch = next(iterators.stock_batches(paths, 12)).asnumpy()
    left = list(range(12))
    for image in batch:
        found = [
            i
            for i in left
            if np.array_equal(image, pictures[i]) or np.array_equal(image, pictures[i][:, :, ::-1])
        ]
        assert found
        left.remove(found[0])
    assert not left


def test_the_stock_graph_has_no_operator_of_ours():
    symbol = steps.stock_symbol(get_symbol('vargfacenet', multiplier=0.25), 10, alpha=7.0)
    names = {node['op'] for node in json.loads(symbol.tojson())['nodes']}
    assert not any(name.startswith('vg_') for name in names)
    assert {'one_hot', 'SoftmaxOutput', 'LeakyReLU'} <= names
