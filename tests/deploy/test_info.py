"""`info MODEL`: what a checkpoint, an export and an ONNX file are, against counts by hand."""

import hashlib
import json

import pytest
from deploy_models import EMBEDDING_SIZE, export_folder
from vargfacenet.common.checked_json import write_checked
from vargfacenet.common.engine.export_record import RECORD

# the network of `tiny_network`: 28x28 of 3x3 on 3 channels without bias, 7x7 of 3x3 on 8 channels
# in two groups without bias (the organisers' rule: of all 16 channels, halved), 3x3x16 to the
# embedding, with bias
FLOPS = 28 * 28 * 16 * (2 * 27 - 1) + 49 * 16 * (2 * 16 * 9 - 1) // 2 + EMBEDDING_SIZE * 2 * 144
PARAMS = (
    *(27 * 16, 2 * 16, 16),  # convolution, batch norm, slopes
    9 * 8 * 16,  # group convolution
    *(144 * EMBEDDING_SIZE, EMBEDDING_SIZE, 2 * EMBEDDING_SIZE),
)


@pytest.fixture(scope='module')
def export(tmp_path_factory):
    out = export_folder(tmp_path_factory.mktemp('info'), thresholds={'0.001': 0.25})
    record = json.loads((out / RECORD).read_text())
    write_checked(out / RECORD, {**record, 'trained_on': 'drawn people'})
    return out


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_export_and_its_files(export, run_command):
    record = json.loads((export / RECORD).read_text())
    code, whole, errors = run_command('info', export)
    assert code == 0
    assert (whole['kind'], whole['flops'], whole['params']) == ('export', FLOPS, sum(PARAMS))
    assert whole['embedding_size'] == EMBEDDING_SIZE
    assert (whole['trained_on'], whole['licence']) == ('drawn people', '')
    assert whole['files'] == {
        path.name: path.stat().st_size for path in export.iterdir() if path.name in record['files']
    }
    assert '0.250 at 0.001' in errors
    code, file, _ = run_command('info', export / 'model.onnx')
    assert (code, file['kind'], file['embedding_size']) == (0, 'ONNX file', EMBEDDING_SIZE)
    # the checkpoint that both were made of
    (digest,) = (d for name, d in record['source_sha256'].items() if name.endswith('.params'))
    assert whole['source_sha256'] == file['source_sha256'] == digest
    assert whole['sha256'] == file['sha256'] == sha256(export / 'model.onnx') != digest
    code, slim, _ = run_command('info', f'{export / "model"},0')
    assert (code, slim['kind'], slim['flops']) == (0, 'checkpoint', FLOPS)
    assert slim['source_sha256'] == digest
    assert slim['sha256'] == sha256(export / 'model-0000.params')
    assert slim['verification'] == whole['verification']
    assert slim['params'] == sum(PARAMS)


def test_a_file_of_nobody_known(export, run_command, tmp_path):
    foreign = tmp_path / 'foreign.onnx'
    foreign.write_bytes((export / 'model.onnx').read_bytes())
    code, result, errors = run_command('info', foreign)
    assert code == 0
    assert result['sha256'] == sha256(foreign)
    assert 'NCHW of N' in result['input'] and 'verification' not in result
    assert 'embedding size' in errors


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('{}/none,3',), 'does not exist'),
        (('{}/none.onnx',), 'does not exist'),
        (('{}',), 'is no export folder'),
        (('{}/none.onnx', '--option', 'a=1'), 'has no options'),
    ],
)
def test_wrong_models(tmp_path, run_command, words, message):
    code, _, errors = run_command('info', *(word.format(tmp_path) for word in words))
    assert code == 2
    assert message in errors and len(errors.splitlines()) == 1
