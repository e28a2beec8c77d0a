"""MegaFace: noise removal against the golden files and loops, the commands on drawn images."""

import json

import cv2
import numpy as np
import pytest
from conftest import DATA
from tiny_network import embed_on_stock_graph, reference_params, tiny_symbol
from vargfacenet.common.engine.checkpoint import save_embedding
from vargfacenet.common.engine.network import Network
from vargfacenet.common.errors import InputError
from vargfacenet.eval.matrix_file import read_megaface
from vargfacenet.eval.megaface import (
    clean_distractor_feature,
    clean_probe_features,
    image_names,
    read_cmc,
    read_noises,
)

PERSONS = {'Ann': 3, 'Bob': 2}


def test_extra_dimension_equals_the_reference():
    raw = read_megaface(DATA / 'megaface_raw_512.bin')
    for noisy, name in ((False, 'clean'), (True, 'noise')):
        expected = read_megaface(DATA / f'megaface_{name}_513.bin')
        assert (clean_distractor_feature(raw, noisy) == expected).all()
    rows = clean_probe_features(raw[None], np.array(['a']), np.array([False]), None)
    assert (rows[0] == read_megaface(DATA / 'megaface_clean_513.bin')).all()


def test_a_noisy_probe_becomes_its_persons_centre(rng):
    embeddings = rng.standard_normal((6, 8)).astype(np.float32)
    persons = np.array(['a', 'b', 'a', 'a', 'b', 'a'])
    noisy = np.array([False, False, True, False, False, True])
    rows = clean_probe_features(embeddings, persons, noisy, np.random.RandomState(0))
    centre = embeddings[0].astype(np.float64) + embeddings[3]
    centre /= np.linalg.norm(centre)
    assert np.abs(rows[2, :-1] - centre).max() < 2e-3
    assert (rows[2] != rows[5]).any()  # jittered
    assert np.linalg.norm(rows[2]) == pytest.approx(1, abs=1e-6)
    assert (rows[~noisy, :-1] == embeddings[~noisy]).all() and not rows[:, -1].any()


def test_a_person_of_noise_only_is_named():
    with pytest.raises(InputError, match='person a: every image is noisy'):
        clean_probe_features(np.eye(2), np.array(['a', 'b']), np.array([True, False]), None)


def test_lists(tmp_path):
    assert image_names(['x/y/Ann/1.png'], 'facescrub') == ['Ann/1.png']
    assert image_names(['x/12/3/1.png'], 'megaface') == ['12/3/1.png']
    with pytest.raises(InputError, match='fewer than 3'):
        image_names(['a/1.png'], 'megaface')
    (tmp_path / 'noises.txt').write_text('# a comment\nAnn_1.png\n7\t12/3/1.png\n\n')
    assert read_noises(tmp_path / 'noises.txt') == {'Ann_1.png', '12/3/1.png'}


@pytest.fixture
def folder(tmp_path, rng):
    """Crops, lists and noise lists of two people and three distractors, and a checkpoint."""
    symbol = tiny_symbol()
    save_embedding(tmp_path / 'model', 1, Network(symbol, *reference_params(symbol)))
    probes = [f'crops/{who}/{who}_{i}.png' for who, n in PERSONS.items() for i in range(n)]
    distractors = [f'crops/1/{i}/a.png' for i in range(3)]
    for name, paths in (('facescrub', probes), ('megaface', distractors)):
        (tmp_path / f'{name}.txt').write_text('\n'.join(paths))
        for path in paths:
            (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(tmp_path / path), rng.randint(0, 256, (112, 112, 3), np.uint8))
    (tmp_path / 'fn.txt').write_text('# noisy\nAnn_1.png\n')
    (tmp_path / 'mn.txt').write_text('1\t1/2/a.png\n')
    return tmp_path


def lists(folder):
    return ('--facescrub', folder / 'facescrub.txt', '--megaface', folder / 'megaface.txt')


def embed(folder, run_command):
    options = ['--model', f'{folder / "model"},1', *lists(folder), '--facescrub-root', folder]
    options += ['--megaface-root', folder, '--out', folder / 'raw', '--batch-size', 2]
    return run_command('megaface', 'embed', *options)


def clean(folder, run_command, out='clean'):
    options = [*lists(folder), '--features', folder / 'raw', '--out', folder / out]
    options += ['--facescrub-noises', folder / 'fn.txt', '--megaface-noises', folder / 'mn.txt']
    return run_command('megaface', 'clean', *options)


def test_embed_and_clean(folder, run_command):
    code, result, err = embed(folder, run_command)
    assert code == 0, err
    assert result['facescrub'] == {'images': 5, 'missing': 0}
    raw = read_megaface(folder / 'raw' / 'facescrub' / 'Ann' / 'Ann_0.png_vargfacenet.bin')
    image = cv2.imread(str(folder / 'crops/Ann/Ann_0.png'))[None, :, :, ::-1]
    symbol = tiny_symbol()
    total = sum(
        embed_on_stock_graph(symbol, *reference_params(symbol), each)[0].astype(np.float64)
        for each in (image, image[:, :, ::-1])
    )
    assert np.abs(raw - total / np.linalg.norm(total)).max() < 1e-5

    code, result, err = clean(folder, run_command)
    assert code == 0, err
    assert result['noisy'] == {'facescrub': 1, 'megaface': 1}
    files = sorted(path.relative_to(folder / 'clean') for path in (folder / 'clean').rglob('*.bin'))
    assert files == sorted(
        path.relative_to(folder / 'raw') for path in (folder / 'raw').rglob('*.bin')
    )
    row = read_megaface(folder / 'clean' / 'megaface' / '1' / '2' / 'a.png_vargfacenet.bin')
    assert row.shape == (17,) and row[-1] == 100
    same = read_megaface(folder / 'clean' / 'facescrub' / 'Ann' / 'Ann_0.png_vargfacenet.bin')
    assert (same[:-1] == raw).all()


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'megaface.txt': 'crops/a.png'}, "megaface list: 'crops/a.png' has fewer than 3"),
        ({'facescrub.txt': ''}, 'facescrub.txt is empty'),
        ({'crops/Ann/Ann_0.png': None}, 'Ann_0.png: 50x50 pixels'),
    ],
)
def test_a_refused_job_leaves_nothing(change, message, folder, run_command):
    for name, text in change.items():
        if text is None:
            cv2.imwrite(str(folder / name), np.zeros((50, 50, 3), np.uint8))
        else:
            (folder / name).write_text(text)
    code, _, err = embed(folder, run_command)
    assert code == 2 and message in err and err.count('\n') == 1, err
    assert not (folder / 'raw').exists()


def test_missing_images_are_counted_and_missing_features_refused(folder, run_command):
    (folder / 'crops/Bob/Bob_0.png').unlink()
    code, result, err = embed(folder, run_command)
    assert code == 0
    assert result['facescrub'] == {'images': 5, 'missing': 1}
    assert 'Bob_0.png' in err and 'devkit stops' in err
    code, _, err = clean(folder, run_command)
    assert code == 2
    assert '1 of 5 facescrub feature files are missing' in err
    assert not list((folder / 'clean').rglob('*.bin'))
    code, _, err = clean(folder, run_command, out='raw')
    assert code == 2 and 'choose another folder' in err


def test_summary(tmp_path, run_command):
    path = tmp_path / 'cmc_facescrub_megaface_x_1000000_1.json'
    roc = [[0, 4e-7, 9e-7, 1e-5], [0.1, 0.8, 0.85, 0.9]]
    path.write_text(json.dumps({'cmc': [[0, 1], [0.91, 0.95]], 'roc': roc}))
    assert read_cmc(path) == (0.91, 0.85, 9e-7)
    code, result, err = run_command('megaface', 'summary', path)
    assert code == 0
    assert result['results'][str(path)]['rank_1'] == 0.91
    assert '91.0000' in err
    path.write_text('{}')
    code, _, err = run_command('megaface', 'summary', path)
    assert code == 2 and 'no cmc_*.json' in err
