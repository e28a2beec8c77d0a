"""The command on a saved checkpoint and generated pair sets."""

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from conftest import ROOT
from deploy_models import export_folder
from pair_sets import PAIRS, pair_images, write_bin
from pictures import decoded, encoded, picture
from tiny_network import embed_on_stock_graph, reference_params, tiny_symbol
from vargfacenet.common.data.people_sets import PeopleSet, write_people_set
from vargfacenet.common.engine.checkpoint import save_embedding
from vargfacenet.common.engine.network import Network
from vargfacenet.eval.datasets import load_bin
from vargfacenet.eval.report.statistics import held_out_correct
from vargfacenet.eval.results import load_results
from vargfacenet.eval.verification import evaluate


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Checkpoint model-0003 and the pair sets lfw.bin and cfp_fp.bin."""
    path = tmp_path_factory.mktemp('verify')
    symbol = tiny_symbol()
    save_embedding(path / 'model', 3, Network(symbol, *reference_params(symbol)))
    random = np.random.RandomState(7)
    for name in ('lfw', 'cfp_fp'):
        write_bin(path / f'{name}.bin', *pair_images(random))
    return path


@pytest.fixture
def model(folder):
    return f'{folder / "model"},3'


def test_numbers_equal_a_plain_executor(folder, model, run_command, tmp_path):
    images, issame = pair_images(np.random.RandomState(3))
    write_bin(tmp_path / 'own.bin', images, issame)
    code, result, _ = run_command(
        'verify', '--model', model, '--target', tmp_path / 'own.bin', '--batch-size', 16
    )
    assert code == 0

    symbol = tiny_symbol()
    params = reference_params(symbol)
    rows = [
        embed_on_stock_graph(symbol, *params, each).astype(np.float64)
        for each in (images, images[:, :, ::-1])
    ]
    total = rows[0] + rows[1]
    expected = evaluate(total / np.linalg.norm(total, axis=1, keepdims=True), issame)
    got = result['targets']['own']
    assert expected.accuracy > 0.7
    for name in ('pairs', 'accuracy', 'accuracy_std', 'val', 'val_std', 'far', 'threshold'):
        assert got[name] == pytest.approx(getattr(expected, name), abs=1e-9), name
    assert got['fold_accuracies'] == pytest.approx(expected.fold_accuracies.tolist())
    assert got['xnorm'] == pytest.approx(np.linalg.norm(rows, axis=-1).mean(), rel=1e-5)
    assert got['images_per_second'] > 0
    # a pair is accepted by the one threshold iff it is by the other
    unit = total / np.linalg.norm(total, axis=1, keepdims=True)
    cosine = (unit[0::2] * unit[1::2]).sum(axis=1)
    accepted = ((unit[0::2] - unit[1::2]) ** 2).sum(axis=1) < got['threshold']
    assert np.array_equal(cosine > got['threshold_cosine'], accepted) and 0 < accepted.sum() < 40


@pytest.mark.parametrize('form', ['names', 'commas of paths', 'repeated', 'mixed'])
def test_forms_of_targets(folder, model, run_command, form):
    lfw, cfp = folder / 'lfw.bin', folder / 'cfp_fp.bin'
    targets = {
        'names': ['--data-dir', folder, '--target', 'lfw,cfp_fp'],
        'commas of paths': ['--target', f'{lfw},{cfp}'],
        'repeated': ['--target', lfw, '--target', cfp],
        'mixed': ['--data-dir', folder, '--target', 'lfw', '--target', cfp],
    }[form]
    code, result, err = run_command('verify', '--model', model, *targets, '--folds', 5)
    assert code == 0
    assert list(result['targets']) == ['lfw', 'cfp_fp']
    assert (result['model'], result['folds']) == (model, 5)
    assert len(result['targets']['lfw']['fold_accuracies']) == 5
    accuracy = '{accuracy:.5f} +- {accuracy_std:.5f}'.format(**result['targets']['cfp_fp'])
    assert accuracy in err


def test_files_of_one_name_keep_their_paths(folder, model, run_command, tmp_path):
    other = tmp_path / 'lfw.bin'
    shutil.copy(folder / 'cfp_fp.bin', other)
    first = folder / 'lfw.bin'
    code, result, _ = run_command('verify', '--model', model, '--target', f'{first},{other}')
    assert code == 0
    assert list(result['targets']) == [str(first), str(other)]


def test_file_with_a_comma_in_its_name(folder, model, run_command, tmp_path):
    path = tmp_path / 'a,b.bin'
    shutil.copy(folder / 'lfw.bin', path)
    code, result, _ = run_command('verify', '--model', model, '--target', path)
    assert (code, list(result['targets'])) == (0, ['a,b'])


def test_plot_shows_each_target(folder, model, run_command, tmp_path):
    """Two curves differ from one, and the picture is whole."""
    pictures = []
    for targets in ('lfw', 'lfw,cfp_fp'):
        path = tmp_path / 'plots' / f'{targets}.png'
        arguments = ('--data-dir', folder, '--target', targets, '--plot', path)
        code, _, _ = run_command('verify', '--model', model, *arguments)
        assert code == 0
        pictures.append(cv2.imread(str(path)))
    assert pictures[0].shape == pictures[1].shape
    assert min(pictures[0].shape[:2]) > 400
    assert (pictures[0] != pictures[1]).any()


BAD = {
    'missing target': ('--target', 'FOLDER/none.bin', 'none.bin does not exist'),
    'missing second target': ('--target', 'FOLDER/lfw.bin,FOLDER/x.bin', 'x.bin does not exist'),
    'picture as target': ('--target', __file__, 'is a file that does not end in .bin; make-bin'),
    'folder as target': ('--target', 'FOLDER', 'is no .bin file'),
    'name without folder': ('--target', 'lfw', 'needs --data-dir'),
    'set of people as target': ('--target', 'FOLDER/all.npz', 'make-pairs is for --pairs'),
    'target as set of people': ('--pairs', 'FOLDER/lfw.bin', 'a .bin is for --target'),
    'empty target': ('--target', ',', 'expected a .bin file'),
    'twice': ('--target', 'FOLDER/lfw.bin,FOLDER/lfw.bin', 'is given twice'),
    'cut target': ('--target', 'FOLDER/cut.bin', 'cut.bin'),
    'too many folds': ('--target', 'FOLDER/lfw.bin', '--folds', '21', 'lfw.bin: 20 pairs'),
    'no batch': ('--target', 'FOLDER/lfw.bin', '--batch-size', '0', 'batch size 0'),
    'device': ('--target', 'FOLDER/lfw.bin', '--devices', 'tpu', "--devices 'tpu'"),
    'plot': ('--target', 'FOLDER/lfw.bin', '--plot', 'roc.doc', 'roc.doc: expected'),
    'model form': (
        '--target',
        'FOLDER/lfw.bin',
        '--model',
        'm',
        'an .onnx file, or a checkpoint PREFIX,EPOCH',
    ),
    'no model': ('--target', 'FOLDER/lfw.bin', '--model', 'FOLDER/none,1', 'none-symbol.json'),
    'no epoch': ('--target', 'FOLDER/lfw.bin', '--model', 'FOLDER/model,4', 'model-0004.params'),
}


@pytest.mark.parametrize('what', BAD)
def test_bad_input_is_one_line(folder, model, run_command, what):
    *arguments, message = (word.replace('FOLDER', str(folder)) for word in BAD[what])
    (folder / 'cut.bin').write_bytes((folder / 'lfw.bin').read_bytes()[:5000])
    code, _, err = run_command('verify', '--model', model, *arguments)
    assert code == 2
    assert message in err
    assert len(err.strip().splitlines()) == 1


def test_target_is_looked_for_before_the_model(folder, run_command):
    arguments = ('--model', folder / 'none,1', '--target', folder / 'none.bin')
    code, _, err = run_command('verify', *arguments)
    assert code == 2
    assert 'target' in err and 'none.bin does not exist' in err


@pytest.fixture
def script(tmp_path):
    """verify.sh beside a setup_env.sh that takes the running environment instead of making one."""
    program = Path(sys.executable).parent / 'vargfacenet'
    if not program.exists():
        pytest.skip('the console script is not installed')
    (tmp_path / 'common').mkdir()
    (tmp_path / 'eval').mkdir()
    (tmp_path / 'common' / 'setup_env.sh').write_text(f'PATH="{program.parent}:$PATH"\n')
    return shutil.copy(ROOT / 'eval' / 'verify.sh', tmp_path / 'eval')


def test_script_verifies_every_set_of_a_folder(folder, model, script, tmp_path):
    sets = tmp_path / 'two sets'
    sets.mkdir()
    for name in ('lfw.bin', 'cfp_fp.bin'):
        shutil.copy(folder / name, sets)
    done = subprocess.run(['bash', script, model, sets], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert '"lfw"' in done.stdout and '"cfp_fp"' in done.stdout


def test_script_says_what_is_missing(script, tmp_path):
    usage = subprocess.run(['bash', script, 'm,1'], capture_output=True, text=True)
    assert (usage.returncode, 'usage:' in usage.stderr) == (2, True)
    empty = subprocess.run(['bash', script, 'm,1', tmp_path], capture_output=True, text=True)
    assert (empty.returncode, 'no .bin file in' in empty.stderr) == (2, True)


# --- results for the report


def saved(path, name='lfw'):
    results = load_results(path)
    assert results.kind == 'verification'
    return {key.split('/')[1]: value for key, value in results.arrays.items() if name in key}


def pictures(folder):
    """(P, 2, 112, 112, 3) and issame of the set lfw."""
    images, issame = load_bin(folder / 'lfw.bin')
    return images.reshape(PAIRS, 2, 112, 112, 3), issame


def test_the_saved_hash_is_of_the_file_that_was_measured(folder, run_command, tmp_path):
    """All files of an export have the fingerprint of their checkpoint; their hashes differ."""
    files = export_folder(tmp_path)
    path = tmp_path / 'r.npz'
    for file in (files / 'model.onnx', files / 'model-0000.params'):
        model = file if file.suffix == '.onnx' else f'{files / "model"},0'
        target = ('--target', folder / 'lfw.bin', '--save', path)
        code, _, err = run_command('verify', '--model', model, *target)
        assert code == 0, err
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        assert load_results(path).about['sha256'] == digest


def test_saved_results(folder, model, run_command, tmp_path):
    path = tmp_path / 'new' / 'r.npz'
    code, result, err = run_command(
        'verify', '--model', model, '--data-dir', folder, '--target', 'lfw,cfp_fp', '--save', path
    )
    assert code == 0, err
    arrays = saved(path)
    images, issame = pictures(folder)
    assert (arrays['issame'] == issame).all()
    right = held_out_correct(arrays['distances'], issame, arrays['fold_thresholds'])
    assert right.mean() == pytest.approx(result['targets']['lfw']['accuracy'])
    for kind, same, direction in (('accepts', False, 1), ('rejects', True, -1)):
        hardest = arrays[f'hardest_{kind}']
        assert (issame[hardest] == same).all()
        scores = direction * arrays['distances']
        assert scores[hardest].tolist() == sorted(scores[issame == same])[: len(hardest)]
        assert (arrays[f'images_{kind}'] == images[hardest]).all()
    assert not arrays['identities_named']


def test_names_of_a_pair_list(folder, model, run_command, tmp_path):
    """View 2 of one fold: the drawn set alternates, so its pairs are sorted by kind first."""
    images, issame = pictures(folder)
    order = np.argsort(~issame, kind='stable')
    write_bin(tmp_path / 'a.bin', np.concatenate(images[order]), issame[order])
    half = PAIRS // 2
    lines = [f'Ann 1 {number}' for number in range(half)]
    lines += [f'Ann 1 Bob{number} 1' for number in range(half)]
    names = tmp_path / 'pairs.txt'
    names.write_text('\n'.join([f'1 {half}', *lines]))
    words = ('verify', '--model', model, '--target', tmp_path / 'a.bin', '--pair-list', names)
    code, _, err = run_command(*words, '--save', tmp_path / 'r.npz')
    assert code == 0, err
    arrays = saved(tmp_path / 'r.npz', 'a/')
    assert len(np.unique(arrays['identities'])) == 1 + half
    assert (np.diff(arrays['identities'], axis=1).ravel() == 0).tolist() == arrays[
        'issame'
    ].tolist()
    assert arrays['identities_named']
    code, _, err = run_command(*words)
    assert code == 2 and '--pair-list is for --save' in err
    names.write_text('\n'.join([f'1 {half - 1}', *lines[: half - 1], *lines[half:-1]]))
    code, _, err = run_command(*words, '--save', tmp_path / 'r.npz')
    assert code == 2 and 'not the 20 of the target' in err


def test_all_pairs_of_people_equal_a_loop(model, run_command, tmp_path):
    rng = np.random.RandomState(5)
    people = np.repeat(np.arange(30), 3)
    pictures = [encoded(picture(rng)) for _ in people]
    names = [f'p{number}' for number in range(30)]
    write_people_set(tmp_path / 'crowd.npz', PeopleSet(pictures, people, names, None))
    save = tmp_path / 'saved.npz'
    code, result, err = run_command(
        'verify', '--model', model, '--pairs', tmp_path / 'crowd.npz', '--save', save
    )
    assert code == 0 and result['targets'] == {} and 'too few pairs' in err

    images = np.stack([decoded(content) for content in pictures])
    symbol = tiny_symbol()
    params = reference_params(symbol)
    total = sum(
        embed_on_stock_graph(symbol, *params, each).astype(np.float64)
        for each in (images, images[:, :, ::-1])
    )
    rows = total / np.linalg.norm(total, axis=1, keepdims=True)
    same, different = [], []
    for i in range(90):
        for j in range(i):
            (same if people[i] == people[j] else different).append(rows[i] @ rows[j])
    entry = result['all_pairs']['crowd']
    assert (entry['people'], entry['pictures']) == (30, 90)
    assert (entry['genuine_pairs'], entry['impostor_pairs']) == (len(same), len(different))
    assert list(entry['tar']) == ['0.001']  # 3,915 pairs cannot tell 1e-4
    threshold = np.sort(different)[::-1][3]  # three of 3,915 may be accepted
    got = entry['tar']['0.001']
    assert got['threshold_cosine'] == pytest.approx(threshold, abs=1e-5)
    assert got['value'] == pytest.approx(np.mean(np.array(same) > threshold), abs=0.012)
    assert got['low'] <= got['value'] <= got['high']
    arrays = load_results(save).arrays
    np.testing.assert_allclose(arrays['crowd/embeddings'], rows, atol=1e-4)
    assert arrays['crowd/identities'].tolist() == people.tolist()


def test_nothing_to_verify_on_is_said(model, run_command):
    code, _, err = run_command('verify', '--model', model)
    assert code == 2 and '--target or --pairs' in err
