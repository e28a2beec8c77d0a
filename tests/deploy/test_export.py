"""Exports: the files, what they hold, and that a bad one never stays."""

import itertools
import json
import os
import shutil
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
from conftest import DATA, ROOT
from deploy_models import EMBEDDING_SIZE, portraits, write_checkpoint
from tiny_network import embed_on_stock_graph, reference_params, tiny_symbol
from vargfacenet.common.backend import mx
from vargfacenet.common.checked_json import write_checked
from vargfacenet.common.data.image import encode_jpeg
from vargfacenet.common.data.pair_sets import write_pairs
from vargfacenet.common.engine import checkpoint, parity
from vargfacenet.common.engine.engines import ENGINES
from vargfacenet.common.engine.network import Network
from vargfacenet.common.engine.open_model import open_model
from vargfacenet.common.engine.parity import cosines
from vargfacenet.common.engine.to_onnx import inference_model, to_onnx
from vargfacenet.common.errors import RunError
from vargfacenet.common.files import sha256
from vargfacenet.common.run_files import state_path
from vargfacenet.deploy import export, quantize
from vargfacenet.eval.frame_quality import QualityNetwork
from vargfacenet.symbol import get_symbol, list_networks

ALL_FILES = {
    'model-symbol.json',
    'model-0000.params',
    'model-folded-symbol.json',
    'model-folded-0000.params',
    'model.onnx',
    'model.fp16.onnx',
    'model.int8.onnx',
    'MODEL_CARD.md',
    'export.json',
}


FAST = (
    'vargfacenet',
    'vargnet',
    'y1',
    'r18_se',
    'r50',
    'shufflemixfacenet_xs',
)  # one of each family and size


@pytest.fixture
def trained(tmp_path):
    """A checkpoint of a small network with a classifier, as training leaves it."""
    model = write_checkpoint(tmp_path)
    _, arg_params, aux_params = checkpoint.load_embedding(model).in_mxnet()
    arg_params['fc7_weight'] = mx.nd.ones((7, EMBEDDING_SIZE))
    checkpoint.save_params(tmp_path / 'model-0003.params', arg_params, aux_params)
    return model


@pytest.fixture
def pairs(tmp_path):
    """A pair set of drawn people: 40 pictures, half of the pairs the same picture twice."""
    faces = [encode_jpeg(face) for face in portraits(40)]
    same = [number % 2 == 0 for number in range(20)]
    shown = []
    for number, is_same in enumerate(same):
        shown += [faces[2 * number], faces[2 * number + (0 if is_same else 1)]]
    write_pairs(tmp_path / 'pairs.bin', shown, same)
    return tmp_path / 'pairs.bin'


@pytest.fixture
def few_pictures(monkeypatch):
    """An export is compared with its checkpoint on 8 pictures at batches of 1, 3 and 8, not on 32
    at 1, 7 and 32 as users have it: MXNet takes most of the time of larger networks.

    All engines and files are compared; `test_the_full_network_fits` does it as users have it.
    """
    monkeypatch.setattr(parity, 'BATCHES', (1, 3, 8))
    monkeypatch.setattr(export, '_PROBES', 8)


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_the_export_holds_the_embedding_alone(trained, run_command, tmp_path):
    code, result, _ = run_command('export', '--model', trained, '--out', tmp_path / 'slim')
    assert code == 0
    # loaded with MXNet's own function, as InsightFace's tools do
    symbol, arg_params, aux_params = mx.model.load_checkpoint(str(tmp_path / 'slim' / 'model'), 0)
    assert symbol.list_outputs() == ['fc1_output']
    assert set(arg_params) == set(symbol.list_arguments()) - {'data'}
    assert set(aux_params) == set(symbol.list_auxiliary_states())
    _, full_args, _ = checkpoint.load_embedding(trained).in_mxnet()
    for name, value in arg_params.items():
        np.testing.assert_array_equal(value.asnumpy(), full_args[name].asnumpy())
    count = sum(value.size for value in arg_params.values())
    assert result['params'] == count
    # float32 weights and little else
    assert 4 * count < result['bytes'] < 4 * count + 200 * (len(arg_params) + len(aux_params))


def test_all_files_and_their_record(trained, pairs, run_command, tmp_path, monkeypatch):
    out, synced = tmp_path / 'out', set()

    def fsync(handle, real=os.fsync):
        synced.add(os.fstat(handle).st_ino)
        real(handle)

    monkeypatch.setattr(os, 'fsync', fsync)
    flags = ['--fp16', '--calibrate', pairs, '--pairs', pairs, '--input-type', 'uint8']
    flags += ['--l2-normalize']
    code, result, _ = run_command('export', '--model', trained, '--out', out, *flags)
    assert code == 0 and files(out) == ALL_FILES
    # a power cut behind the renames finds no empty file
    assert {(out / name).stat().st_ino for name in ALL_FILES} <= synced
    record = json.loads((out / 'export.json').read_text())
    assert set(record['files']) == ALL_FILES - {'export.json'}
    for name, file in record['files'].items():
        assert file == {'bytes': (out / name).stat().st_size, 'sha256': sha256(out / name)}
    assert record['source_sha256']['model-0003.params'] == sha256(tmp_path / 'model-0003.params')
    assert record['input']['type'] == 'uint8' and record['output']['unit_length'] is True
    checked = {(row['file'], row['engine']) for row in record['parity']}
    networks = ('model-0000.params', 'model-folded-0000.params')
    graphs = ('model.onnx', 'model.fp16.onnx', 'model.int8.onnx')
    expected = {*itertools.product(networks, ['mxnet'])}
    expected |= {*itertools.product(graphs, ['onnxruntime', 'openvino'])}
    assert checked == expected
    assert {row['pairs'] for row in record['verification']} == {20}
    assert result['parity'] == record['parity']
    # the file of its own, in another's hands
    session = onnxruntime.InferenceSession(str(out / 'model.onnx'))
    (data,) = session.get_inputs()
    assert (data.name, data.type, data.shape) == ('data', 'tensor(uint8)', ['N', 3, 112, 112])
    faces = np.ascontiguousarray(portraits(3).transpose(0, 3, 1, 2))
    rows = session.run(['embedding'], {'data': faces})[0]
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    # int8 weights, and not float ones beside them
    assert (out / 'model.int8.onnx').stat().st_size < 0.6 * (out / 'model.onnx').stat().st_size


def test_a_compact_export_is_a_checkpoint_in_float16(trained, pairs, run_command, tmp_path):
    out = tmp_path / 'compact'
    flags = ['--pairs', pairs, '--usual-far', 0.2, '--usual-fpir', 0.1]
    code, result, _ = run_command('export', '--model', trained, '--out', out, '--compact', *flags)
    assert code == 0 and files(out) == {
        *('model-symbol.json', 'model-0000.params', 'MODEL_CARD.md', 'export.json')
    }
    original = checkpoint.load_embedding(trained)
    stored, _ = checkpoint.load_params(out / 'model-0000.params')
    loaded = checkpoint.load_embedding(f'{out / "model"},0')
    for name, value in stored.items():
        assert value.dtype == np.float16 and loaded.params[name].dtype == np.float32
        # ten bits behind the first: half of the last one, or of the smallest number there is
        bound = np.maximum(np.abs(original.params[name]) / 2**11, 2.0**-25)
        assert (np.abs(loaded.params[name] - original.params[name]) <= bound).all()
    count = sum(value.size for value in loaded.params.values())
    assert result['bytes'] < 2 * count + 200 * len(loaded.params)
    symbol, _, _ = mx.model.load_checkpoint(str(out / 'model'), 0)
    assert symbol.list_outputs() == ['fc1_output']
    faces = portraits(4)
    ways = [(trained, 'mxnet'), *((out, engine) for engine in ENGINES.names())]
    rows = [open_model(model, engine).embed(faces) for model, engine in ways]
    assert min(cosines(rows[0], row).min() for row in rows[1:]) > 0.9999
    for row in rows[2:]:  # all engines compute in float32
        np.testing.assert_allclose(row, rows[1], atol=1e-4 * np.abs(rows[1]).max())
    assert [row['file'] for row in result['verification']] == ['model-0000.params']
    assert result['usual_rates'] == {'far': 0.2, 'fpir': 0.1}
    _, told, _ = run_command('info', out)
    assert told['sha256'] == sha256(out / 'model-0000.params')


def test_a_second_export_leaves_nothing_of_the_first(trained, run_command, tmp_path):
    out = tmp_path / 'out'
    run_command('export', '--model', trained, '--out', out, '--fp16')
    (out / 'notes.txt').write_text('mine')
    assert run_command('export', '--model', trained, '--out', out)[0] == 0
    assert files(out) == ALL_FILES - {'model.fp16.onnx', 'model.int8.onnx'} | {'notes.txt'}


def test_a_run_that_goes_on_is_exported_as_it_was(trained, run_command, tmp_path, monkeypatch):
    """Its newest checkpoint is read once, and the record tells of that one."""
    prefix, _ = trained.split(',')
    params, read, loads = tmp_path / 'model-0003.params', checkpoint.read_arrays, []
    digest, state = sha256(params), state_path(prefix, 3)
    write_checked(state, {'config': {'network': 'tiny'}, 'state': {'step': 7}})

    def counted(path):
        arrays = read(path)
        if path.parent == tmp_path:
            loads.append(path.name)
            shutil.copy(params, tmp_path / 'model-0004.params')
            shutil.copy(state, state_path(prefix, 4))
        return arrays

    monkeypatch.setattr(checkpoint, 'read_arrays', counted)
    out = tmp_path / 'out'
    code, result, _ = run_command('export', '--model', f'{prefix},latest', '--out', out)
    assert code == 0 and loads == ['model-0003.params']
    assert result['source'] == trained
    assert 'tiny' in (out / 'MODEL_CARD.md').read_text()
    assert result['source_sha256']['model-0003.params'] == digest


@pytest.mark.parametrize('change', ['replaced', 'written over', 'gone', 'another state'])
def test_a_checkpoint_that_is_replaced_while_it_is_read(
    change, trained, run_command, tmp_path, monkeypatch
):
    """Its record would tell of weights, or of a training, that are not those of the files."""
    prefix, _ = trained.split(',')
    params, read = tmp_path / 'model-0003.params', checkpoint.read_arrays

    def changed(path):
        arrays = read(path)
        if change == 'gone':
            params.unlink()
        elif change == 'written over':
            params.write_bytes(params.read_bytes()[::-1])
        elif change == 'replaced':
            shutil.copy(params, tmp_path / 'other')
            os.replace(tmp_path / 'other', params)
        else:
            write_checked(
                state_path(prefix, 3), {'config': {'network': 'tiny'}, 'state': {'step': 7}}
            )
        return arrays

    monkeypatch.setattr(checkpoint, 'read_arrays', changed)
    code, _, errors = run_command('export', '--model', trained, '--out', tmp_path / 'out')
    assert code == 2 and f'{trained} was replaced while it was read' in errors
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('epoch', [0, 3])
def test_checkpoints_are_not_replaced(epoch, trained, run_command, tmp_path):
    """Training writes the names of an export: model-symbol.json, model-0000.params."""
    if epoch == 0:
        (tmp_path / 'model-0003.params').rename(tmp_path / 'model-0000.params')
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = f'{tmp_path}/model,{epoch}'
    code, _, errors = run_command('export', '--model', model, '--out', tmp_path)
    assert code == 2 and 'take another folder' in errors and 'model-symbol.json' in errors
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_only_the_files_of_an_export_are_replaced(trained, run_command, tmp_path):
    out = tmp_path / 'out'
    export_again = ('export', '--model', trained, '--out', out)
    assert run_command(*export_again)[0] == 0
    assert run_command(*export_again)[0] == 0
    assert run_command('export', '--model', out / 'model,0', '--out', out)[0] == 2  # from itself
    params = out / 'model-0000.params'
    exported = params.read_bytes()
    params.write_bytes((tmp_path / 'model-0003.params').read_bytes())  # as training there would
    code, _, errors = run_command(*export_again)
    assert code == 2 and 'holds model-0000.params, which may be a checkpoint' in errors
    params.write_bytes(exported)
    (out / 'export.json').unlink()
    assert run_command(*export_again)[0] == 2
    for name in ('model-symbol.json', 'model-0000.params'):
        (out / name).unlink()
    assert run_command(*export_again)[0] == 0


@pytest.mark.parametrize('existing', [False, True])
@pytest.mark.parametrize('kind', ['float32', 'folded', 'float16', 'int8'])
def test_a_file_that_is_off_is_not_left_behind(
    kind, existing, trained, pairs, run_command, tmp_path, monkeypatch
):
    out = tmp_path / 'out'
    if existing:
        run_command('export', '--model', trained, '--out', out)
        before = {path.name: path.read_bytes() for path in out.iterdir()}
    name = {
        'float32': 'MAX_DIFFERENCE',
        'folded': 'MIN_COSINE',
        'float16': 'MIN_COSINE_HALF',
        'int8': 'MEAN_COSINE_INT8',
    }[kind]
    # no file is as good as this
    monkeypatch.setattr(parity, name, -1 if kind == 'float32' else 2)
    monkeypatch.setattr(parity, 'MAX_ROUNDING', -1)
    code, _, errors = run_command(
        'export', '--model', trained, '--out', out, '--fp16', '--calibrate', pairs
    )
    assert 'too far from the checkpoint' in errors
    helps = {'int8': 'Calibrate on faces', 'float16': 'without --compact or --fp16'}
    assert helps.get(kind, 'train it further, and export that') in errors
    if kind in ('int8', 'float16'):  # the files that passed stay
        record = json.loads((out / 'export.json').read_text())
        left = ALL_FILES - {'model.int8.onnx' if kind == 'int8' else 'model.fp16.onnx'}
        assert code == 0 and files(out) == left == {*record['files'], 'export.json'}
        assert {row['file'] for row in record['parity']} < left
        return
    assert code == 1
    if existing:
        assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    else:
        assert not out.exists()


def test_the_check_sees_a_wrong_embedding():
    images, expected = portraits(32), np.eye(32, 8, dtype=np.float32) + 1

    def run(pixels):
        rows = expected[: len(pixels)].copy()
        rows[-1, 0] += 0.01
        return rows

    good = parity.compare('f', 'e', lambda pixels: expected[: len(pixels)], images, expected)
    assert good.difference == 0 and good.min_cosine == pytest.approx(1)
    bad = parity.compare('f', 'e', run, images, expected)
    assert bad.difference == pytest.approx(0.005, rel=1e-4)  # 0.01 of 2
    with pytest.raises(Exception, match=r'largest relative difference 0\.005, allowed 1e-05'):
        parity.check(bad, 'float32')
    with pytest.raises(Exception, match='finite'):
        parity.compare('f', 'e', lambda pixels: np.nan * run(pixels), images, expected)


@pytest.mark.parametrize(
    ('exact', 'rounding', 'good'),
    [(2.9e-5, 1e-5, True), (3.1e-5, 1e-5, False), (9e-6, 1e-7, True), (1.1e-4, 1e-4, False)],
)
def test_a_float32_file_may_round_as_the_checkpoint_does(exact, rounding, good):
    far = parity.Parity('f', 'e', 5e-5, 1, 1)
    with pytest.raises(RunError, match='checkpoint in MXNet'):
        parity.check(far, 'float32')
    far = replace(far, exact_difference=exact, rounding=rounding)
    if good:
        parity.check(far, 'float32')
    else:
        with pytest.raises(RunError, match='checkpoint in float64'):
            parity.check(far, 'float32')


@pytest.mark.parametrize('words', [(), ('--l2-normalize',)])
@pytest.mark.parametrize('wrong', [False, True])
def test_a_network_that_magnifies_rounding(wrong, words, run_command, tmp_path, monkeypatch):
    """Its last BatchNorm takes off nearly all of what comes, as of faces that look alike to it."""
    images, symbol = parity.probe_images(32), tiny_symbol()
    arg_params, aux_params = reference_params(symbol)
    before = symbol.get_internals()['pre_fc1_output']
    of = [
        {k: v for k, v in params.items() if k in names}
        for params, names in (
            (arg_params, before.list_arguments()),
            (aux_params, before.list_auxiliary_states()),
        )
    ]
    features = embed_on_stock_graph(before, *of, images).astype(np.float64)
    arg_params['pre_fc1_bias'] += 300 * np.abs(features).max()
    aux_params['fc1_moving_mean'][:] = features.mean(0) + arg_params['pre_fc1_bias'].asnumpy()
    aux_params['fc1_moving_var'][:] = features.var(0)
    checkpoint.save_embedding(tmp_path / 'model', 0, Network(symbol, arg_params, aux_params))
    if wrong:
        whole = export.parity.onnx_engines

        def off(path):
            return {
                name: lambda images, run=run: run(images) * (1 + 1e-3 * (np.arange(16) == 3))
                for name, run in whole(path).items()
            }

        monkeypatch.setattr(export.parity, 'onnx_engines', off)
    model = f'{tmp_path}/model,0'
    code, result, errors = run_command(
        'export', '--model', model, '--out', tmp_path / 'out', *words
    )
    assert 'comparing with float64' in errors
    assert code == (1 if wrong else 0), errors
    if wrong:
        assert 'too far from the checkpoint in float64' in errors
        return
    rows = [row for row in result['parity'] if row['file'] == 'model.onnx']
    assert max(row['difference'] for row in rows) > parity.MAX_DIFFERENCE
    compared = [row for row in rows if 'rounding' in row]
    assert compared and all(row['exact_difference'] < row['rounding'] < 1e-4 for row in compared)


@pytest.mark.parametrize('damage, message', [('missing', 'does not exist'), ('cut', 'no whole')])
def test_a_damaged_checkpoint_leaves_nothing_behind(
    damage, message, trained, run_command, tmp_path
):
    path = tmp_path / 'model-0003.params'
    if damage == 'missing':
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:5000])
    code, _, errors = run_command('export', '--model', trained, '--out', tmp_path / 'slim')
    assert code == 2
    assert message in errors and str(path) in errors
    assert not (tmp_path / 'slim').exists()


def test_symbols_and_parameters_that_disagree(trained, run_command, tmp_path):
    _, arg_params, aux_params = checkpoint.load_embedding(trained).in_mxnet()
    arg_params.pop('pre_fc1_weight')
    checkpoint.save_params(tmp_path / 'model-0003.params', arg_params, aux_params)
    code, _, errors = run_command('export', '--model', trained, '--out', tmp_path / 'x')
    assert code == 2 and '1 only in the network: pre_fc1_weight' in errors


def test_a_symbol_of_a_newer_mxnet(trained, run_command, tmp_path):
    path = tmp_path / 'model-symbol.json'
    graph = json.loads(path.read_text())
    graph['attrs']['mxnet_version'] = ['int', 20000]
    graph['nodes'][1]['op'] = '_npx_embedding_of_tomorrow'
    path.write_text(json.dumps(graph))
    code, _, errors = run_command('export', '--model', trained, '--out', tmp_path / 'x')
    assert code == 2 and 'written by MXNet 2.0.0' in errors and len(errors.splitlines()) == 1


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--calibrate', 'nowhere.rec'], 'calibration set: record file nowhere.rec does not exist'),
        (['--calibrate', 'nowhere'], 'calibration set: training data nowhere does not exist'),
        (['--calibrate', 'nowhere.bin'], 'nowhere.bin does not exist'),
        (['--pairs', 'nowhere.bin'], 'pair set nowhere.bin does not exist'),
        (['--calibrate', 'model-symbol.json'], 'model-symbol.json is of no known kind'),
        (['--calibrate', 'nowhere', '--calibrate-images', '0'], '--calibrate-images 0'),
        (['--calibrate-images', '9'], '--calibrate-images: only with --calibrate'),
        (['--compact', '--fp16'], '--compact writes no ONNX file'),
        (['--usual-far', '1'], '--usual-far 1: expected a share'),
    ],
)
def test_wrong_options(flags, message, trained, run_command, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, errors = run_command('export', '--model', trained, '--out', 'x', *flags)
    assert code == 2 and message in errors and not (tmp_path / 'x').exists()


def test_without_the_extra(trained, run_command, tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'missing', lambda package: package == 'openvino')
    code, _, errors = run_command('export', '--model', trained, '--out', tmp_path / 'x')
    assert code == 0 and 'no ONNX file is written, which takes openvino; ' in errors
    assert files(tmp_path / 'x') == {name for name in ALL_FILES if 'onnx' not in name}
    monkeypatch.setattr(export, 'need', lambda *_: (_ for _ in ()).throw(export.InputError('need')))
    assert run_command('export', '--model', trained, '--out', tmp_path / 'y', '--fp16')[0] == 2
    assert not (tmp_path / 'y').exists()


@pytest.mark.parametrize(
    'network',
    [
        name if name in FAST else pytest.param(name, marks=pytest.mark.slow)
        for name in list_networks()
    ],
)
def test_every_network_exports(network, few_pictures, run_command, tmp_path):
    options = {'emb_size': 32}
    if network.startswith('r'):
        options['width'] = 0.125
    elif network.startswith('varg'):
        options['multiplier'] = 0.25
    elif 'mixfacenet' in network:
        options.update(width=0.5, gdw_size=32)
    elif network.startswith('polyface'):
        options.update(blocks_a=1, blocks_b=1, blocks_c=1)
    symbol = get_symbol(network, **options)
    arg_params, aux_params = reference_params(symbol)
    checkpoint.save_embedding(tmp_path / 'model', 0, Network(symbol, arg_params, aux_params))
    code, result, errors = run_command(
        'export', '--model', f'{tmp_path}/model,0', '--out', tmp_path / 'out'
    )
    assert code == 0, errors
    for row in result['parity']:
        if row['file'] == 'model.onnx':
            assert row['difference'] <= parity.MAX_DIFFERENCE
    for name in ('model-symbol.json', 'model-folded-symbol.json'):
        nodes = json.loads((tmp_path / 'out' / name).read_text())['nodes']
        assert not {'Dropout', 'SoftmaxOutput'} & {node['op'] for node in nodes}


def test_a_network_of_one_number_a_picture(run_command, tmp_path, rng):
    """Such as qan_quality: its export judges frames in every engine; a cosine tells nothing."""
    symbol = tiny_symbol(1)
    weights = reference_params(symbol)
    checkpoint.save_embedding(tmp_path / 'model', 0, Network(symbol, *weights))
    words = ('export', '--model', f'{tmp_path}/model,0', '--out', tmp_path / 'out')
    calibrate = ('--calibrate', DATA / 'tiny_verif.bin')
    for flags in (calibrate, ('--fp16',), ('--l2-normalize',)):
        code, _, errors = run_command(*words, *flags)
        assert code == 2 and 'one number a picture' in errors
        assert not (tmp_path / 'out').exists()
    code, _, errors = run_command(*words)
    assert code == 0, errors
    crops = rng.randint(0, 256, (3, 112, 112, 3), np.uint8)
    expected = embed_on_stock_graph(symbol, *weights, crops)
    for engine in ('onnxruntime', 'openvino'):
        judge = QualityNetwork(open_model(tmp_path / 'out', engine))
        np.testing.assert_allclose(judge(crops, crops), expected[:, 0], rtol=1e-4)


def test_the_full_network_fits(run_command, tmp_path):
    """At most 21 MB in float32 and 6.5 MB in int8; the reference's numbers through the files, which
    the export has compared at every batch size of its own."""
    assert parity.BATCHES == (1, 7, 32)
    golden = json.loads((DATA / 'net_vargfacenet.json').read_text())
    symbol = get_symbol('vargfacenet')
    arg_params, aux_params = reference_params(symbol, golden['seed'])
    checkpoint.save_embedding(tmp_path / 'model', 0, Network(symbol, arg_params, aux_params))
    place = ['--model', f'{tmp_path}/model,0', '--out', tmp_path / 'out']
    calibrate = ['--calibrate', DATA / 'tiny_verif.bin']
    code, result, errors = run_command('export', *place, *calibrate)
    assert code == 0, errors
    assert result['files']['model.onnx']['bytes'] <= 21_000_000
    assert result['files']['model.int8.onnx']['bytes'] <= 6_500_000
    expected = np.array(golden['embedding'], np.float32)
    random = np.random.RandomState(golden['seed'])
    data = random.randint(0, 256, (len(expected), 3, 112, 112)).astype(np.float32)
    session = onnxruntime.InferenceSession(str(tmp_path / 'out' / 'model.onnx'))
    rows = session.run(None, {'data': data})[0]
    assert np.abs(rows - expected).max() <= 1e-5 * np.abs(expected).max()


def test_calibration_images_are_spread_over_the_set(pairs, tmp_path):
    images = quantize.calibration_images(pairs, 4)
    everything = quantize.calibration_images(pairs, 1000)
    assert images.shape == (4, 112, 112, 3) and len(everything) == 40
    np.testing.assert_array_equal(images, everything[[0, 13, 26, 39]])


def squeeze_network():
    """A PReLU over 1x1 maps whose slopes differ, as in SE blocks and before the last layer."""
    x = (mx.sym.Variable('data') - 127.5) * 0.0078125
    x = mx.sym.Convolution(x, kernel=(3, 3), stride=(4, 4), num_filter=16, name='conv0')
    x = mx.sym.LeakyReLU(x, act_type='prelu', name='relu0')
    x = mx.sym.Pooling(x, global_pool=True, pool_type='avg', kernel=(1, 1), name='pool')
    x = mx.sym.Convolution(x, kernel=(1, 1), num_filter=24, name='conv1')
    x = mx.sym.LeakyReLU(x, act_type='prelu', name='relu1')
    symbol = mx.sym.FullyConnected(x, num_hidden=12, name='fc1')
    arg_params, aux_params = reference_params(symbol)
    arg_params['relu1_gamma'] = mx.nd.array(np.linspace(-1, 1, 24))
    return Network(symbol, arg_params, aux_params)


def test_int8_of_one_image_and_of_several(tmp_path):
    """OpenVINO's mistake with a PReLU over 1x1 maps (see quantize._flatten_prelus) shows at one."""
    images = portraits(7)
    whole, int8 = tmp_path / 'model.onnx', tmp_path / 'model.int8.onnx'
    onnx.save(to_onnx(squeeze_network()), str(whole))
    quantize.quantize_int8(whole, int8, images)
    expected = parity.onnx_engines(whole)['onnxruntime'](images)
    for run in parity.onnx_engines(int8).values():
        for size in (1, 7, 1):
            assert cosines(run(images[:size]), expected[:size]).min() > 0.99


def test_other_prelus_stay_as_they_are(tmp_path):
    """One slope array for maps of two sizes, and a PReLU over the pixels."""
    slope = mx.sym.Variable('shared_gamma', shape=(16,))
    x = mx.sym.LeakyReLU(mx.sym.Variable('data') - 127.5, act_type='prelu', name='relu0')
    x = mx.sym.Convolution(x, kernel=(3, 3), stride=(4, 4), num_filter=16, name='conv0')
    x = mx.sym.LeakyReLU(x, slope, act_type='prelu', name='relu1')
    x = mx.sym.Pooling(x, global_pool=True, pool_type='avg', kernel=(1, 1), name='pool')
    x = mx.sym.Convolution(x, kernel=(1, 1), num_filter=16, name='conv1')
    x = mx.sym.LeakyReLU(x, slope, act_type='prelu', name='relu2')
    symbol = mx.sym.FullyConnected(x, num_hidden=12, name='fc1')
    whole, int8 = tmp_path / 'model.onnx', tmp_path / 'model.int8.onnx'
    onnx.save(to_onnx(Network(symbol, *reference_params(symbol))), str(whole))
    images = portraits(4)
    quantize.quantize_int8(whole, int8, images)
    expected = parity.onnx_engines(whole)['onnxruntime'](images)
    for run in parity.onnx_engines(int8).values():
        assert cosines(run(images), expected).min() > 0.99
    graph = onnx.load(str(int8)).graph
    assert {t.name for t in graph.initializer} <= {n for node in graph.node for n in node.input}


def test_nothing_is_quantised_between_a_layer_and_its_prelu(tmp_path):
    whole, int8 = tmp_path / 'model.onnx', tmp_path / 'model.int8.onnx'
    onnx.save(to_onnx(squeeze_network()), str(whole))
    quantize.quantize_int8(whole, int8, portraits(3))
    nodes = onnx.load(str(int8)).graph.node
    makers = {name: node for node in nodes for name in node.output}
    assert [node.op_type for node in nodes].count('QuantizeLinear') == 3  # two Conv, one Gemm
    for node in nodes:
        if node.op_type in ('Conv', 'Gemm'):
            assert all(makers[name].op_type == 'DequantizeLinear' for name in node.input)
        elif node.op_type == 'PRelu':
            assert makers[node.input[0]].op_type in ('Conv', 'Flatten')


def sensitive_network():
    """One depthwise layer reads a channel a thousand times as large as the others, which 8 bits of
    one range for all cannot tell apart; the rest is harmless."""
    x = (mx.sym.Variable('data') - 127.5) * 0.0078125
    x = mx.sym.Convolution(x, kernel=(3, 3), stride=(4, 4), num_filter=16, name='conv0')
    x = mx.sym.Convolution(x, kernel=(1, 1), num_filter=16, name='wide')
    x = mx.sym.Convolution(x, kernel=(7, 7), num_group=16, num_filter=16, name='sensitive')
    x = mx.sym.Convolution(x, kernel=(1, 1), num_filter=32, name='conv1')
    symbol = mx.sym.FullyConnected(x, num_hidden=12, name='fc1')
    arg_params, aux_params = reference_params(symbol)
    factors = np.ones((16, 1, 1, 1), np.float32)
    factors[3] = 1000
    arg_params['wide_weight'] *= mx.nd.array(factors)
    arg_params['wide_bias'] *= mx.nd.array(factors.ravel())
    arg_params['sensitive_weight'] /= mx.nd.array(factors)
    return Network(symbol, arg_params, aux_params)


def test_the_layer_that_costs_most_returns_to_float(tmp_path):
    images = portraits(32)
    whole, int8 = tmp_path / 'model.onnx', tmp_path / 'model.int8.onnx'
    onnx.save(to_onnx(sensitive_network()), str(whole))
    all_int8 = quantize.quantize_int8(whole, tmp_path / 'all.onnx', images, min_cosine=-1)
    assert all_int8.kept_float == () and all_int8.cosine < 0.99
    result = quantize.quantize_int8(whole, int8, images)
    assert result.kept_float == ('sensitive',)
    assert int8.stat().st_size <= 1.1 * (tmp_path / 'all.onnx').stat().st_size
    expected = parity.onnx_engines(whole)['onnxruntime'](images)
    for run in parity.onnx_engines(int8).values():
        assert cosines(run(images), expected).mean() >= 0.995
    layer = next(node for node in onnx.load(str(int8)).graph.node if node.name == 'sensitive')
    assert layer.input[1] == 'sensitive_weight'


def test_int8_normalises_first(tmp_path):
    """InsightFace's package reads from the names of the first 8 nodes whether a file does, and two
    converters stop at shapes of inner values with an open batch size."""
    whole, int8 = tmp_path / 'model.onnx', tmp_path / 'model.int8.onnx'
    onnx.save(to_onnx(squeeze_network()), str(whole))
    quantize.quantize_int8(whole, int8, portraits(3))
    graph = onnx.load(str(int8)).graph
    names = [node.name for node in graph.node[:8]]
    assert any(name.startswith(('Sub', '_minus')) for name in names)
    assert any(name.startswith(('Mul', '_mul')) for name in names)
    assert not graph.value_info


Y1 = ROOT.parent / 'shared' / 'data' / 'y1_ms1m' / 'model-0000.params'


@pytest.mark.skipif(not Y1.is_file(), reason='needs the published MobileFaceNet y1')
@pytest.mark.slow
def test_int8_of_a_published_network(tmp_path):
    """Its 7x7 depthwise layer reads values far apart: as a whole in int8 its cosine is 0.93."""
    whole, int8 = tmp_path / 'model.onnx', tmp_path / 'model.int8.onnx'
    onnx.save(inference_model(checkpoint.load_embedding(f'{Y1.parent}/model,0')), str(whole))
    images = portraits(64)
    result = quantize.quantize_int8(whole, int8, images)
    assert 'conv_6dw7_7_batchnorm' in result.kept_float and len(result.kept_float) < 6
    expected = parity.onnx_engines(whole)['onnxruntime'](images)
    for run in parity.onnx_engines(int8).values():
        assert cosines(run(images), expected).mean() >= 0.995


def test_what_a_killed_export_left_is_removed(trained, run_command, tmp_path):
    left = tmp_path / 'export' / '.export.abcd1234'
    left.mkdir(parents=True)
    (left / 'model.onnx').write_bytes(b'half')
    out = tmp_path / 'export'
    assert run_command('export', '--model', trained, '--out', out)[0] == 0
    assert (out / 'export.json').is_file() and not left.exists()
