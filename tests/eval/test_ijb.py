"""IJB: every golden number of the reference implementation, and the command on a drawn set."""

import codecs
import json

import cv2
import numpy as np
import pytest
from conftest import DATA
from tiny_network import embed_on_stock_graph, reference_params, tiny_symbol
from vargfacenet.common.data.warp import TEMPLATE
from vargfacenet.common.engine.checkpoint import save_embedding
from vargfacenet.common.engine.network import Network
from vargfacenet.common.errors import InputError
from vargfacenet.eval import ijb, template
from vargfacenet.eval.ijb import FARS, one_to_one, pair_scores, search_open_set, search_pooled
from vargfacenet.eval.matrix_file import read_matrix, write_matrix
from vargfacenet.eval.template import MODES, PUBLISHED, pool_templates

CASE = np.load(DATA / 'ijb_case.npz')
EXPECTED = json.loads((DATA / 'ijb_case.json').read_text())


def pooled(mode, features=None):
    features = CASE['img_feats'] if features is None else features
    return pool_templates(features, CASE['face_scores'], CASE['templates'], CASE['medias'], mode)


def test_templates_equal_the_reference():
    known, embeddings = pooled(PUBLISHED)
    assert (known == CASE['n1d1f1_unique_templates']).all()
    assert np.abs(embeddings - CASE['n1d1f1_template_feats']).max() < 1e-7


def test_blocks_of_rows_change_nothing(monkeypatch):
    _, whole = pooled(PUBLISHED)
    monkeypatch.setattr(template, '_ROWS_PER_BLOCK', 10)
    _, parts = pooled(PUBLISHED)
    assert (whole == parts).all()


@pytest.mark.parametrize('mode', MODES, ids=lambda mode: mode.name)
def test_one_to_one_of_every_pooling(mode):
    known, embeddings = pooled(mode)
    first, second = (ijb.rows_of(CASE[name], known) for name in ('p1', 'p2'))
    result = one_to_one(pair_scores(embeddings, first, second), CASE['label'])
    expected = EXPECTED['one_to_one'][mode.name]
    points = [expected['tar_at_far'][f'1e-{power}'] for power in (6, 5, 4, 3, 2, 1)]
    assert list(zip(result.far, result.tar)) == [tuple(point) for point in points]
    assert len(points) == len(FARS)
    assert result.auc == pytest.approx(expected['auc'], abs=1e-12)


def search_arguments(part=slice(None)):
    """Gallery and probe embeddings with subjects; the golden embeddings are sorted by template."""
    arguments = []
    for who in ('gallery', 'probe'):
        rows = np.argsort(np.argsort(CASE[f'{who}_templates']))  # place of each list row
        rows, subjects = CASE[f'{who}_feats'][rows], CASE[f'{who}_subjects']
        arguments += [rows[part], subjects[part]] if who == 'gallery' else [rows, subjects]
    return arguments


def test_search_with_pooled_galleries():
    result = search_pooled(*search_arguments())
    assert result.ranks.tolist() == [0.6625, 0.875, 0.9125]
    assert result.tpir.tolist() == [0.1625, 0.475]
    assert result.thresholds == pytest.approx([0.7066323853, 0.5722937779], abs=1e-9)


@pytest.mark.parametrize(('name', 'part'), [('g1', slice(0, 20)), ('g2', slice(20, 40))])
def test_open_set_search(name, part):
    fpirs = EXPECTED['one_to_N_two_galleries_ijb_evals']['mean']['fars']
    result = search_open_set(*search_arguments(part), fpirs)
    expected = EXPECTED['one_to_N_two_galleries_ijb_evals'][name]
    assert result.hits.tolist() == [expected[f'top{rank}'] for rank in (1, 5, 10)]
    assert result.mated == expected['n_mated']
    assert result.thresholds == pytest.approx(expected['thresholds'], abs=1e-9)
    assert result.tpir == pytest.approx(expected['tpir'], abs=1e-12)


def test_search_in_blocks_is_the_same(monkeypatch):
    whole = search_pooled(*search_arguments())
    monkeypatch.setattr(ijb, '_PROBES_PER_BLOCK', 7)
    parts = search_pooled(*search_arguments())
    assert all((a == b).all() for a, b in zip(whole, parts))


def write_lists(folder):
    """The golden case as the files of a set named ijbb."""
    names = [f'{index}.png' for index in range(len(CASE['templates']))]
    points = ' '.join(f'{value:.4f}' for value in (TEMPLATE + 20).ravel())
    rows = zip(names, CASE['templates'], CASE['medias'], CASE['face_scores'])
    tids, scores = [], []
    for name, tid, media, score in rows:
        tids.append(f'{name} {tid} {media}\n')
        scores.append(f'{name} {points} {score}\n')
    (folder / 'ijbb_face_tid_mid.txt').write_text(''.join(tids))
    (folder / 'ijbb_name_5pts_score.txt').write_text(''.join(scores))
    pairs = zip(CASE['p1'], CASE['p2'], CASE['label'])
    (folder / 'ijbb_template_pair_label.txt').write_text(
        ''.join(f'{a} {b} {same}\n' for a, b, same in pairs)
    )
    gallery = list(zip(CASE['gallery_templates'], CASE['gallery_subjects']))
    probes = zip(CASE['probe_templates'], CASE['probe_subjects'])
    for name, part in (
        ('gallery_S1', gallery[:20]),
        ('gallery_S2', gallery[20:]),
        ('probe_mixed', probes),
    ):
        rows = ''.join(f'{tid},{subject},x\n' for tid, subject in part)
        (folder / f'ijbb_1N_{name}.csv').write_text('TEMPLATE_ID,SUBJECT_ID,FILENAME\n' + rows)
    return names


def test_command_on_the_golden_features(tmp_path, run_command):
    write_lists(tmp_path)
    write_matrix(tmp_path / 'features.bin', CASE['img_feats'])
    code, result, err = run_command(
        'ijb', '--set', 'ijbb', '--meta', tmp_path, '--features', tmp_path / 'features.bin'
    )
    assert code == 0, err
    for mode, expected in EXPECTED['one_to_one'].items():
        assert result['verification'][mode]['auc'] == pytest.approx(expected['auc'], abs=1e-9)
        assert result['verification'][mode]['tar']['0.1'] == expected['tar_at_far']['1e-1'][1]
    mean = EXPECTED['one_to_N_two_galleries_ijb_evals']['mean']
    search = result['search']
    assert search['pooled_rank'] == {'1': 0.6625, '5': 0.875, '10': 0.9125}
    assert search['open_set_rank'] == {'1': mean['top1'], '5': mean['top5'], '10': mean['top10']}
    assert search['open_set_tpir'] == {'0.01': mean['tpir'][0], '0.1': mean['tpir'][2]}
    assert 'N0D0F0' in err


def test_byte_order_marks_are_no_part_of_the_lists(tmp_path, run_command):
    write_lists(tmp_path)
    write_matrix(tmp_path / 'features.bin', CASE['img_feats'])
    arguments = [
        'ijb',
        '--set',
        'ijbb',
        '--meta',
        tmp_path,
        '--features',
        tmp_path / 'features.bin',
    ]
    _, expected, _ = run_command(*arguments)
    for path in tmp_path.glob('ijbb_*'):
        path.write_bytes(codecs.BOM_UTF8 + path.read_bytes().replace(b'\n', b'\r\n'))
    assert run_command(*arguments)[1] == expected


def test_pictures_are_warped_and_embedded(tmp_path, run_command, rng):
    """Landmarks lie 20 pixels off the template, so the crop is the picture without a 20 px edge."""
    names = write_lists(tmp_path)
    symbol = tiny_symbol()
    params = reference_params(symbol)
    save_embedding(tmp_path / 'model', 1, Network(symbol, *params))
    pictures = tmp_path / 'loose_crop'
    pictures.mkdir()
    images = rng.randint(0, 256, (len(names), 150, 140, 3), np.uint8)
    for name, image in zip(names[:-1], images):  # the last one is missing
        cv2.imwrite(str(pictures / name), image[:, :, ::-1])
    features = tmp_path / 'out' / 'features.bin'
    options = ['--set', 'ijbb', '--meta', tmp_path, '--images', pictures]
    options += ['--model', f'{tmp_path / "model"},1', '--features', features]
    code, result, err = run_command('ijb', *options)
    assert code == 0, err
    assert result['missing'] == 1
    assert f'1 of {len(names)} images' in err and names[-1] in err
    crops = images[:16, 20:132, 20:132]
    expected = [embed_on_stock_graph(symbol, *params, each) for each in (crops, crops[:, :, ::-1])]
    got = read_matrix(features)
    assert np.abs(got[:16] - np.hstack(expected)).max() < 1e-3 * np.abs(expected).max()
    assert not got[-1].any()


@pytest.mark.parametrize('landmarks', [['0'] * 10, ['nan'] * 10])
def test_pictures_without_usable_landmarks_count_as_missing(tmp_path, run_command, rng, landmarks):
    names = write_lists(tmp_path)
    points = tmp_path / 'ijbb_name_5pts_score.txt'
    rows = [line.split() for line in points.read_text().splitlines()]
    rows[3][1:11] = landmarks
    points.write_text('\ufeff' + ''.join(' '.join(row) + '\r\n' for row in rows), 'utf-8')
    symbol = tiny_symbol()
    save_embedding(tmp_path / 'model', 1, Network(symbol, *reference_params(symbol)))
    for name in names:
        picture = rng.randint(0, 256, (150, 140, 3)).astype(np.uint8)
        cv2.imwrite(str(tmp_path / name), picture)
    options = ['--set', 'ijbb', '--meta', tmp_path, '--images', tmp_path]
    options += ['--model', f'{tmp_path / "model"},1', '--features', tmp_path / 'features.bin']
    code, result, err = run_command('ijb', *options)
    assert code == 0, err
    assert result['missing'] == 1 and names[3] in err


@pytest.mark.parametrize(
    ('name', 'change', 'message'),
    [
        ('face_tid_mid', lambda text: text.split('\n', 1)[1], 'same images'),
        ('name_5pts_score', lambda text: text.replace(' ', ' x', 1), 'could not convert'),
        ('name_5pts_score', lambda text: text.replace(' ', '_', 1), 'line 1: expected 12'),
        ('template_pair_label', lambda text: text.replace(' 1\n', ' 0\n'), 'of one kind'),
        ('template_pair_label', lambda text: text.replace(' 1\n', ' 2\n'), '0|1'),
        ('template_pair_label', lambda text: '99999 5 1\n' + text, 'template 99999'),
    ],
)
def test_wrong_lists(tmp_path, run_command, name, change, message):
    write_lists(tmp_path)
    write_matrix(tmp_path / 'features.bin', CASE['img_feats'])
    path = tmp_path / f'ijbb_{name}.txt'
    path.write_text(change(path.read_text()))
    code, _, err = run_command(
        'ijb', '--set', 'ijbb', '--meta', tmp_path, '--features', tmp_path / 'features.bin'
    )
    assert code == 2
    assert message in err


def test_features_of_other_images(tmp_path, run_command):
    write_lists(tmp_path)
    write_matrix(tmp_path / 'features.bin', CASE['img_feats'][:-1])
    code, _, err = run_command(
        'ijb', '--set', 'ijbb', '--meta', tmp_path, '--features', tmp_path / 'features.bin'
    )
    assert code == 2
    assert '671 x 48 features for 672 images' in err


def test_a_probe_without_a_mate_is_named():
    with pytest.raises(InputError, match='subject 7'):
        search_pooled(np.eye(3), np.arange(3), np.eye(3)[:2], np.array([0, 7]))
