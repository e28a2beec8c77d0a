"""The command: all protocols against the functions, files, several processes, wrong input."""

import json
import os
import shutil
import subprocess
import sys

import cv2
import numpy as np
import pytest
from conftest import ROOT
from tiny_network import reference_params, tiny_symbol
from vargfacenet.common.engine.checkpoint import save_embedding
from vargfacenet.common.engine.network import Network
from vargfacenet.eval.embeddings import load_embeddings
from vargfacenet.eval.identification import tpr_at_fpr
from vargfacenet.eval.identify import FPRS, default_fprs
from vargfacenet.eval.matrix_file import read_matrix, write_matrix
from vargfacenet.eval.ranking import open_set, rank_rates
from vargfacenet.eval.results import load_results

# a result must not depend on who compares which rows
pytestmark = pytest.mark.usefixtures('two_threads')

SIZE = 32


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.fixture
def data(rng):
    labels = rng.randint(0, 25, 120)
    centres = rng.standard_normal((25, SIZE))
    probes = unit(centres[labels] + 1.2 * rng.standard_normal((120, SIZE)))
    return probes, labels, unit(rng.standard_normal((900, SIZE)))


@pytest.fixture
def folder(tmp_path, data):
    probes, labels, distractors = data
    np.savez(tmp_path / 'probes.npz', embeddings=probes, labels=labels)
    write_matrix(tmp_path / 'distractors.bin', distractors)
    return tmp_path


def inputs(folder):
    return '--probes', folder / 'probes.npz', '--distractors', folder / 'distractors.bin'


def test_lfr(folder, data, run_command):
    save = folder / 'out' / 'identify.npz'
    code, result, err = run_command('identify', *inputs(folder), '--save', save)
    assert code == 0, err
    expected = tpr_at_fpr(*data, (1e-5, 1e-4, 1e-3))
    pairs = result['pairs']
    assert list(pairs['tpr']) == ['1e-05', '0.0001', '0.001']
    assert list(pairs['tpr'].values()) == expected.tpr.tolist()
    assert (pairs['positives'], pairs['negatives']) == (expected.positives, 120 * 900)
    assert 'negative pairs' in err
    saved = load_results(save)
    assert (saved.kind, saved.about['pairs']['negatives']) == ('identification', 120 * 900)
    assert (saved.arrays['curve_tpr'] == expected.curve()['tpr']).all()


@pytest.mark.parametrize(
    ('negatives', 'fprs'),
    [(9, (1.0,)), (10, (0.1,)), (270, (0.01, 0.1)), (1000, (1e-3,)), (2 * 10**9, FPRS[:-1])],
)
def test_fprs_are_those_that_can_be_measured(negatives, fprs):
    assert default_fprs(negatives) == fprs  # 1e-3 of 2e9 would be two million scores


def test_megaface(folder, data, run_command):
    code, result, err = run_command(
        'identify', *inputs(folder), '--protocol', 'megaface', '--ranks', 3, '--fpr', 0.001
    )
    assert code == 0, err
    expected = rank_rates(*data, (10, 100, 900), 3)
    assert result['megaface']['distractors'] == [10, 100, 900]
    assert np.abs(np.array(result['megaface']['rank_rates']) - expected.rates).max() < 1e-12
    assert 'rank-1 %' in err


def test_open_set(folder, data, run_command):
    probes, labels, distractors = data
    first = np.unique(labels, return_index=True)[1]
    np.savez(folder / 'gallery.npz', embeddings=probes[first], labels=labels[first])
    rest = np.setdiff1d(np.arange(120), first)
    np.savez(folder / 'rest.npz', embeddings=probes[rest], labels=labels[rest])
    options = ['--protocol', 'open-set', '--gallery', folder / 'gallery.npz']
    options += ['--probes', folder / 'rest.npz', '--distractors', folder / 'distractors.bin']
    code, result, err = run_command('identify', *options)
    assert code == 0, err
    expected = open_set(
        probes[first],
        labels[first],
        np.concatenate([probes[rest], distractors]),
        np.concatenate([labels[rest], 1000 + np.arange(900)]),
    )
    assert list(result['open_set']['tpir'].values()) == expected.tpir.tolist()
    assert (result['open_set']['mated'], result['open_set']['non_mated']) == (len(rest), 900)


def test_images_of_a_model(folder, run_command, rng):
    symbol = tiny_symbol()
    save_embedding(folder / 'model', 1, Network(symbol, *reference_params(symbol)))
    for name, count, per in (('p', 12, 3), ('d', 20, 1)):
        lines = []
        for index in range(count):
            path = folder / 'images' / f'{name}{index // per}' / f'{index}.png'
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), rng.randint(0, 256, (112, 112, 3), np.uint8))
            lines.append(str(path.relative_to(folder / 'images')))
        (folder / f'{name}.txt').write_text('\n'.join(lines))
    (folder / 'images' / 'd4' / '4.png').unlink()
    options = ['--model', f'{folder / "model"},1', '--root', folder / 'images']
    options += ['--probes', folder / 'p.txt', '--distractors', folder / 'd.txt']
    options += ['--features', folder / 'features', '--batch-size', 8, '--fpr', 0.1]
    code, result, err = run_command('identify', *options)
    assert code == 0, err
    assert result['missing'] == {'probes': 0, 'distractors': 1}
    assert result['pairs']['negatives'] == 12 * 19
    assert result['pairs']['positives'] == 4 * 3
    assert '1 of 20 distractors' in err and 'd4/4.png' in err
    assert read_matrix(folder / 'features' / 'probes.bin').shape == (12, 16)
    # a list without a picture is refused before the first is embedded
    (folder / 'd.txt').write_text('nobody/1.png nobody')
    options[options.index('--features') + 1] = folder / 'other'
    code, _, err = run_command('identify', *options)
    assert code == 2 and 'd.txt: none of the 1 pictures of the list is there' in err
    assert not (folder / 'other').exists()


def imports(program):
    done = subprocess.run([sys.executable, '-c', program], capture_output=True)
    return done.returncode == 0


def horovod(folder, processes):
    if not imports('import horovod.mxnet as h; h.init()'):
        pytest.skip('needs Horovod: VARGFACENET_EXTRAS=dist source common/setup_env.sh')
    script = [ROOT / 'eval' / 'identify.sh', *(folder / name for name in FILES)]
    return script, {'PROCESSES': str(processes), 'STATE': str(folder / 'state.npz')}


def mpi(folder, processes):
    if not shutil.which('mpirun') or not imports('from mpi4py import MPI'):
        pytest.skip('needs mpirun and mpi4py')
    probes, distractors, labels = (folder / name for name in FILES)
    launcher = ['mpirun', '--allow-run-as-root', '--oversubscribe', '-np', str(processes)]
    options = ['--probes', probes, '--distractors', distractors, '--probe-labels', labels]
    state = ['--resume', folder / 'state.npz']
    return [*launcher, 'vargfacenet', 'identify', *options, *state], {}


FILES = ('probes.bin', 'distractors.bin', 'labels.txt')


@pytest.mark.slow
@pytest.mark.parametrize('processes', [1, 2, 3])
@pytest.mark.parametrize('launcher', [horovod, mpi])
def test_processes_share_the_work(folder, data, launcher, processes):
    """One JSON line, the same answer; a state file a process, removed at the end."""
    np.savetxt(folder / 'labels.txt', data[1], '%d')
    write_matrix(folder / 'probes.bin', data[0])
    command, environment = launcher(folder, processes)
    done = subprocess.run(
        [*command, '--protocol', 'megaface', '--fpr', '1e-4', '0.01'],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split('<stdout>:')[-1] for line in done.stdout.splitlines() if '{' in line]
    (result,) = map(json.loads, lines)
    expected = tpr_at_fpr(*data, (1e-4, 0.01))
    assert result['processes'] == processes
    assert list(result['pairs']['tpr'].values()) == expected.tpr.tolist()
    assert list(result['pairs']['threshold'].values()) == expected.thresholds.tolist()
    ranks = rank_rates(*data, (10, 100, 900))
    assert np.abs(np.array(result['megaface']['rank_rates']) - ranks.rates).max() < 1e-12
    assert not list(folder.glob('state*'))


def test_resume_file_of_other_embeddings(folder, run_command):
    state = folder / 'state.npz'
    np.savez(state, key='other', done=1)
    code, _, err = run_command('identify', *inputs(folder), '--resume', state)
    assert code == 2
    assert 'of another run' in err


def test_duplicates_are_warned_of(folder, data, run_command):
    distractors = data[2].copy()
    distractors[:3] = data[0][:3]
    write_matrix(folder / 'distractors.bin', distractors)
    code, result, err = run_command('identify', *inputs(folder))
    assert code == 0
    assert result['duplicates'] == 3
    assert '3 of 900 distractors are equal' in err


def test_zero_rows(folder, data, run_command):
    data[2][5] = 0
    write_matrix(folder / 'distractors.bin', data[2])
    code, _, err = run_command('identify', *inputs(folder))
    assert code == 2
    assert '1 of 900 rows are zero' in err and ': 5;' in err
    code, result, err = run_command('identify', *inputs(folder), '--skip-zero')
    assert code == 0
    assert result['missing'] == {'probes': 0, 'distractors': 1}
    assert result['pairs']['negatives'] == 120 * 899


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (('--fpr', '1e-9'), 'smallest that can be measured here is 9.26e-06'),
        (('--protocol', 'open-set'), 'needs --gallery'),
        (('--save', 'x.txt'), 'ends in .npz'),
        (('--protocol', 'megaface', '--ranks', '0'), 'at least 1'),
        (('--ranks', '0'), 'only with --protocol megaface or open-set'),
        (('--probe-labels', 'no.txt'), 'no.txt does not exist'),
        (('--kernel', 'gpu'), 'invalid choice'),
        (('--protocol', 'megaface', '--sizes', '1000'), 'ascend in 1..900'),
    ],
)
def test_wrong_options(folder, run_command, words, message):
    code, _, err = run_command('identify', *inputs(folder), *words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_results_do_not_replace_a_set(folder, run_command):
    before = (folder / 'probes.npz').read_bytes()
    code, _, err = run_command('identify', *inputs(folder), '--save', folder / 'probes.npz')
    assert code == 2 and 'probes.npz is what is read' in err
    assert (folder / 'probes.npz').read_bytes() == before


def test_labels_of_two_kinds_are_refused(folder, data, run_command):
    """No text is equal to a number: nobody would be found."""
    np.savez(folder / 'gallery.npz', embeddings=data[0][:25], labels=np.arange(25).astype(str))
    words = ['--protocol', 'open-set', '--gallery', folder / 'gallery.npz']
    code, _, err = run_command('identify', '--probes', folder / 'probes.npz', *words)
    assert code == 2 and 'labels are of two kinds (probes numbers, gallery text)' in err


def test_labels_in_two_forms_of_unicode_are_one(tmp_path):
    names = np.array(['Jos\xe9', 'Jose\u0301', 'Ann'])
    np.savez(tmp_path / 'a.npz', embeddings=np.eye(3, dtype=np.float32), labels=names)
    (tmp_path / 'labels.txt').write_text('\n'.join(names))
    for labels in (None, tmp_path / 'labels.txt'):
        found = load_embeddings(tmp_path / 'a.npz', labels).labels
        assert found.tolist() == ['Jos\xe9', 'Jos\xe9', 'Ann']


def test_labels_are_needed(folder, data, run_command):
    np.save(folder / 'probes.npy', data[0])
    code, _, err = run_command('identify', '--probes', folder / 'probes.npy')
    assert code == 2 and 'give --probe-labels' in err
    np.save(folder / 'labels.npy', data[1][:-1])
    code, _, err = run_command(
        'identify', '--probes', folder / 'probes.npy', '--probe-labels', folder / 'labels.npy'
    )
    assert code == 2 and 'labels of shape (119,) for 120 embeddings' in err
    np.save(folder / 'labels.npy', np.zeros(120))
    code, _, err = run_command(
        'identify', '--probes', folder / 'probes.npy', '--probe-labels', folder / 'labels.npy'
    )
    assert code == 2 and 'there is no negative pair' in err
