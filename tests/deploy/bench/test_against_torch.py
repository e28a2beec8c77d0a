"""PyTorch as the yardstick: TORCH_PYTHON names a Python that has it, if ours has not."""

import argparse
import contextlib
import importlib.util
import json
import os
import sys

import numpy as np
import pytest
from vargfacenet.common.engine import ops
from vargfacenet.common.errors import RunError
from vargfacenet.deploy.bench import against_torch, child
from vargfacenet.deploy.bench.measure import Timing
from vargfacenet.recognition import configure

PYTHON = os.environ.get('TORCH_PYTHON') or (
    sys.executable if importlib.util.find_spec('torch') else ''
)
needs_torch = pytest.mark.skipif(not PYTHON, reason='needs PyTorch; TORCH_PYTHON may name one')
SMALL = ['--network-option', 'multiplier=0.25']
READY = 'import sys, json\nprint("[]", flush=True)\nfor line in sys.stdin: '


@needs_torch
@pytest.mark.parametrize('precision', ops.PRECISIONS)
def test_the_same_network_is_trained(run_command, tmp_path, monkeypatch, precision):
    """Embeddings and loss are checked by the command itself, in float32; one form is enough to
    time."""
    monkeypatch.setattr(configure, 'lacks_bfloat16', lambda: '')
    plain = {name: against_torch.FORMS[name] for name in ('float32 channels_last',)}
    monkeypatch.setattr(against_torch, 'FORMS', plain)
    out = tmp_path / 'torch.json'
    options = ['--batches', '2', '--seconds', '0.1', '--classes', 20, '--out', out]
    against = ['--against', 'torch', '--torch-python', PYTHON, '--precision', precision]
    code, result, errors = run_command('bench', 'train', *SMALL, *options, *against)
    assert code == 0, errors
    assert result['precision'] == precision
    assert result['check']['embedding_difference'] <= 1e-5
    assert result['check']['loss_difference'] <= 1e-4
    assert [row['form'] for row in result['rows']] == list(plain)
    for row in (*result['rows'], result['best']):
        assert row['ratio']['low'] <= row['ratio']['median'] <= row['ratio']['high']
        assert row['torch']['per_second'] > 0 < row['ours']['per_second']
        assert row['ours']['precision'] == precision  # of the arrays of the process that trained
    assert json.loads(out.read_text())['best'] == result['best']
    assert f'PyTorch {result["check"]["torch"]}' in errors


@needs_torch
@pytest.mark.parametrize('options', [{'use_se': False}, {'head_pooling': True, 'emb_size': 32}])
def test_options_of_the_network_are_written_out(options, tmp_path):
    expected, torch = start(tmp_path, {'multiplier': 0.25, **options})
    against_torch.check(torch, expected)


@needs_torch
def test_another_network_is_noticed(tmp_path):
    expected, torch = start(tmp_path, {'multiplier': 0.25})
    with np.load(tmp_path / 'start.npz') as file:
        arrays = dict(file)
    arrays['embed_convx_bn.weight'][0] *= 1.01
    np.savez(tmp_path / 'start.npz', **arrays)
    with pytest.raises(RunError, match='does not train the same network'):
        against_torch.check(torch, expected)


def start(folder, options):
    path = str(folder / 'start.npz')
    step = {'network': 'vargfacenet', 'options': options, 'classes': 20}
    expected = child.run(against_torch.write_start, path=path, **step)
    return expected, against_torch.Torch(PYTHON, against_torch.torch_options(path, **step))


def test_forms_that_this_machine_cannot_run_say_why(monkeypatch):
    monkeypatch.setattr(against_torch, 'machine', lambda: {'vector_units': ['avx2']})
    monkeypatch.setattr(against_torch.shutil, 'which', lambda _: None)
    forms, left_out = against_torch.choose_forms('float32', True)
    assert forms == ['float32', 'float32 channels_last']
    assert {*forms, *left_out} == set(against_torch.FORMS)
    assert 'bfloat16' in left_out['bfloat16 autocast channels_last']
    monkeypatch.setattr(against_torch, 'machine', lambda: {'vector_units': ['amx_bf16']})
    monkeypatch.setattr(against_torch.shutil, 'which', lambda _: '/usr/bin/g++')
    assert against_torch.choose_forms('float32', True) == (list(against_torch.FORMS), {})


def compiled(vector_units, precision, monkeypatch):
    """The compiled forms that are measured unless all are; of the others, why not."""
    monkeypatch.setattr(against_torch, 'machine', lambda: {'vector_units': vector_units})
    monkeypatch.setattr(against_torch.shutil, 'which', lambda _: '/usr/bin/g++')
    forms, left_out = against_torch.choose_forms(precision, False)
    assert {*forms, *left_out} == set(against_torch.FORMS)
    assert [*forms] == [name for name in against_torch.FORMS if name in forms]
    return [name for name in forms if against_torch.FORMS[name]['compiled']], left_out


def test_one_form_is_compiled_that_of_our_precision(monkeypatch):
    single, half = 'float32 channels_last compiled', 'bfloat16 autocast channels_last compiled'
    for precision, wanted, other in (('float32', single, half), ('bfloat16', half, single)):
        forms, left_out = compiled(['avx512_bf16'], precision, monkeypatch)
        assert forms == [wanted] and [*left_out] == [other]
        assert '--every-form' in left_out[other]
        assert compiled(['avx2'], precision, monkeypatch)[0] == [single]


def test_the_best_is_measured_again_where_the_batches_differ(monkeypatch):
    def row(form, batch, theirs, ours):
        sides = {'torch': {'per_second': theirs}, 'ours': {'per_second': ours}}
        return {'form': form, 'batches': {'torch': batch, 'ours': batch}, **sides}

    rows = [row('float32', 16, 9, 20), row('float32', 32, 8, 30)]
    asked = []

    def in_turn(torch, worker, form, batch, seconds):
        asked.append((worker.batch, form, batch))
        return Timing((1.0,)), Timing((0.5,)), 'float32'

    @contextlib.contextmanager
    def ours(batch):
        yield argparse.Namespace(batch=batch)

    monkeypatch.setattr(against_torch, 'in_turn', in_turn)
    best = against_torch._best(rows, None, ours, 1)
    assert asked == [(32, 'float32', 16)]
    assert best['batches'] == {'torch': 16, 'ours': 32}
    assert best['ratio']['median'] == pytest.approx(4)  # 64 and 16 images a second
    assert against_torch._best(rows[1:], None, ours, 1) is rows[1]
    assert len(asked) == 1


def test_a_form_is_blamed_for_its_own_end_alone():
    def program(name, code):
        return child.Program([sys.executable, '-c', READY + code], name)

    calls, ends = 'print("[1.0]", flush=True)', 'raise SystemExit("out of memory")'
    left_out = {}
    with program('ours', ends) as ours, pytest.raises(RunError, match='ours: out of memory'):
        theirs = argparse.Namespace(worker=lambda form, batch: program('PyTorch', calls))
        against_torch._measured(theirs, ours, 'float32', 2, 0.1, left_out)
    assert left_out == {}
    with program('ours', calls) as ours:
        theirs = argparse.Namespace(worker=lambda form, batch: program('PyTorch', ends))
        assert against_torch._measured(theirs, ours, 'float32', 2, 0.1, left_out) == []
    assert left_out == {'float32': 'PyTorch: out of memory'}


def test_a_program_is_told_when_to_call():
    words = [sys.executable, '-c', f'{READY}print(json.dumps([float(line)] * 2), flush=True)']
    with child.Program(words, 'echo') as program:
        assert program(0.5) == [0.5, 0.5]
    with pytest.raises(RunError, match='echo: no such thing'):
        child.Program([sys.executable, '-c', 'raise SystemExit("no such thing")'], 'echo')
    with pytest.raises(RunError, match="echo: its answer is no JSON: 'hello'"):
        child.Program(['/bin/echo', 'hello'], 'echo')
    with pytest.raises(RunError, match="true: its answer is no JSON: ''"):
        child.program('true', name='true')
    with child.Program(['/bin/echo', '"OpenVINO"'], 'echo') as program:
        assert program.about == 'OpenVINO'


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        ([], '--against torch needs --torch-python'),
        (['--torch-python', ''], "--torch-python '': expected a Python with PyTorch"),
        (['--torch-python', 'echo'], "--torch-python 'echo': expected a Python with PyTorch"),
        (['--torch-python', 'no/python'], "--torch-python 'no/python'"),
        (['--torch-python', 'false'], "--torch-python 'false': expected a Python with PyTorch"),
        (['--torch-python', sys.executable, '--network', 'y1'], 'measures vargfacenet'),
    ],
)
def test_wrong_input_is_one_line(words, message, run_command):
    code, _, errors = run_command('bench', 'train', '--against', 'torch', *words)
    assert code == 2 and message in errors and len(errors.strip().splitlines()) == 1


@pytest.mark.skipif(importlib.util.find_spec('torch') is not None, reason='needs no PyTorch')
def test_a_python_without_torch_says_so(run_command):
    words = ['--against', 'torch', '--torch-python', sys.executable, *SMALL, '--classes', 20]
    code, _, errors = run_command('bench', 'train', *words)
    assert code == 2 and 'pip install torch' in errors
