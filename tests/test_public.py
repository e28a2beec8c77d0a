"""The short public API, and the commands that run where MXNet is not installed."""

import json
import os
import subprocess
import sys
import textwrap

import cv2
import numpy as np
import onnx
import pytest
import vargfacenet
from conftest import DATA, WITHOUT_MXNET, needs_mxnet
from deploy_models import export_folder, portraits
from vargfacenet.__main__ import COMMANDS
from vargfacenet.common.engine.open_model import open_model
from vargfacenet.eval.verification import verify

# What `import` finds of it in a process that runs this first.
_HIDE_MXNET = 'import sys; sys.modules.update(mxnet=None, gluoncv=None, mxboard=None)\n'


@needs_mxnet
def test_public_names_are_the_modules_own():
    assert set(vargfacenet.__all__) <= set(dir(vargfacenet))
    assert vargfacenet.open_model is open_model
    assert vargfacenet.verify is verify
    assert 'vargfacenet' in vargfacenet.list_networks()
    code = "import vargfacenet; print('y1' in vargfacenet.symbol.list_networks())"
    assert subprocess.check_output([sys.executable, '-c', code], text=True) == 'True\n'
    with pytest.raises(AttributeError, match='no_such_name'):
        vargfacenet.no_such_name  # noqa: B018


def test_importing_is_quick_and_brings_nothing():
    code = (
        'import sys, time; start = time.process_time(); import vargfacenet; '
        'print(time.process_time() - start, len(sys.modules), "numpy" in sys.modules)'
    )
    seconds, modules, numpy = min(
        (
            subprocess.check_output([sys.executable, '-c', code], text=True).split()
            for _ in range(3)
        ),
        key=lambda words: float(words[0]),
    )
    assert float(seconds) < 0.3 and int(modules) < 300 and numpy == 'False'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """An export, a foreign form of it, and pictures."""
    folder = tmp_path_factory.mktemp('no_mxnet')
    out = export_folder(folder, thresholds={'0.01': 0.3})
    foreign = onnx.load(str(out / 'model.onnx'))
    for node in foreign.graph.node:
        node.input[:] = ['input.1' if name == 'data' else name for name in node.input]
    foreign.graph.input[0].name = 'input.1'
    onnx.save(foreign, str(folder / 'foreign.onnx'))
    (folder / 'crops').mkdir()
    for number, image in enumerate(portraits(4)):
        cv2.imwrite(f'{folder}/crops/{number}.png', image[..., ::-1])
    names = [f'crops/{number}.png' for number in range(4)]
    (folder / 'list.txt').write_text('\n'.join(names) + '\n')
    people = [f'{name} person{number // 2}' for number, name in enumerate(names)]
    (folder / 'people.txt').write_text('\n'.join(people) + '\n')
    kinds = {'facescrub': 'people/person{0}/{0}.png', 'megaface': 'a/b/{0}.png'}
    for kind, form in kinds.items():
        paths = [form.format(number) for number in range(2)]
        for path, image in zip(paths, portraits(2)):
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / path), image[..., ::-1])
        (folder / f'{kind}.txt').write_text('\n'.join(paths) + '\n')
    return folder


RUNS = {
    'embed': 'embed crops --model export --out feats.npz',
    'embed foreign': 'embed crops --model foreign.onnx --out other.npz',
    'compare': 'compare crops/0.png crops/1.png --model export',
    'enrol': 'gallery enrol --gallery g --model export Ann crops/0.png',
    'identify in a gallery': 'gallery identify --gallery g --model export crops/0.png',
    'verify': 'verify --model export --target PAIRS --save verify.npz',
    'verify foreign': 'verify --model foreign.onnx --target PAIRS',
    'report': 'report verify.npz --out page.html',
    'identify': 'identify --model export --probes people.txt --distractors list.txt --fpr 0.5',
    'lfr': 'lfr --model foreign.onnx --list list.txt --root . --out lfr.bin',
    'megaface': 'megaface embed --model export --facescrub facescrub.txt --megaface megaface.txt '
    '--out megaface',
}


CHECKPOINT_RUNS = {
    'embed': 'embed crops --model export/model,0 --out checkpoint.npz',
    'verify': 'verify --model export/model,0 --target PAIRS',
    'lfr': 'lfr --model export/model,0 --list list.txt --root . --out lfr2.bin',
}
IN_MXNET = 'compare crops/0.png crops/1.png --model export/model,0 --engine mxnet'


@pytest.fixture(scope='module')
def outcomes(folder):
    """{words: (exit code, last line as JSON, stderr)} of these commands, one after the other in a
    process where MXNet cannot be imported."""
    code = _HIDE_MXNET + textwrap.dedent("""
        import contextlib, io, json
        from vargfacenet.__main__ import main
        for line in sys.stdin.read().splitlines():
            out, errors = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(errors):
                code = main(line.split())
            assert sys.modules['mxnet'] is None
            last = (out.getvalue().splitlines() or [None])[-1]
            print(json.dumps([code, last, errors.getvalue()]))
    """)
    commands = [*RUNS.values(), *CHECKPOINT_RUNS.values(), IN_MXNET]
    done = subprocess.run(
        [sys.executable, '-c', code],
        input='\n'.join(commands).replace('PAIRS', str(DATA / 'tiny_verif.bin')),
        capture_output=True,
        text=True,
        cwd=folder,
        env=dict(os.environ, MPLBACKEND='agg'),
    )
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return {
        words: (code, result and json.loads(result), errors)
        for words, (code, result, errors) in zip(commands, lines)
    }


@pytest.mark.parametrize('name', RUNS)
def test_a_command_runs_without_mxnet(name, folder, outcomes):
    code, result, errors = outcomes[RUNS[name]]
    assert code == 0, errors
    assert result
    if name == 'embed foreign':
        with np.load(folder / 'feats.npz') as ours, np.load(folder / 'other.npz') as others:
            np.testing.assert_allclose(ours['embeddings'], others['embeddings'], atol=1e-6)
    if name == 'lfr':
        assert result['flops'] > 0 and result['within_budget'] is True


def test_help_needs_no_mxnet():
    code = _HIDE_MXNET + textwrap.dedent("""
        from vargfacenet.__main__ import main
        for command in sys.argv[1:]:
            try:
                main([command, '--help'])
            except SystemExit as end:
                assert not end.code
    """)
    words = [words.split()[0] for words in RUNS.values()] + ['ijb', 'serve', 'align']
    assert set(words) <= set(COMMANDS)
    subprocess.run([sys.executable, '-c', code, *words], check=True, capture_output=True)


@pytest.mark.parametrize('name', CHECKPOINT_RUNS)
def test_a_checkpoint_runs_without_mxnet(name, folder, outcomes):
    code, result, errors = outcomes[CHECKPOINT_RUNS[name]]
    assert code == 0, errors
    if name == 'embed':
        # there, the export is from a machine with MXNet, which compared model.onnx with it
        reference = ('export',) if WITHOUT_MXNET else ('export/model,0', 'mxnet')
        expected = open_model(folder / reference[0], *reference[1:]).embed(portraits(4))
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
        with np.load(folder / 'checkpoint.npz') as found:
            np.testing.assert_allclose(found['embeddings'], expected, rtol=0, atol=1e-5)
    if name == 'lfr':
        record = json.loads((folder / 'export' / 'export.json').read_text())
        assert result['flops'] == record['flops']


def test_mxnet_where_it_is_not_is_one_line(outcomes):
    code, _, errors = outcomes[IN_MXNET]
    assert code == 2 and errors.strip().count('\n') == 0
    assert 'MXNet is not installed' in errors
