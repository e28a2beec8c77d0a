"""`clean` finds the faults that were planted, and in LFW the two that are known."""

import csv
import json
import shutil
import tarfile

import numpy as np
import pytest
from conftest import ROOT
from pictures import encoded
from tiny_network import calibrated_params
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.synth.face import jpeg_faces
from vargfacenet.eval.cleaning import classes_of, mislabelled, pairs_above, same_people

SHARED = ROOT.parent / 'shared' / 'data'
PEOPLE, PICTURES = 6, 5


def unit(rows):
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


class Drawn:
    """An embedded set of points on a sphere, in place of pictures."""

    def __init__(self, rows, labels):
        self.rows, self.labels = unit(rows), np.asarray(labels)


def test_pairs_above_are_those_of_the_whole_matrix(rng):
    rows, others = unit(rng.standard_normal((300, 8))), unit(rng.standard_normal((200, 8)))
    for second in (others, None):
        scores = rows.astype(np.float64) @ (rows if second is None else second).T
        wanted = scores >= 0.6
        if second is None:
            wanted &= np.triu(np.ones_like(wanted), 1)
        found = pairs_above(rows, second, 0.6)
        assert len(found.i) == wanted.sum() > 50
        assert wanted[found.i, found.j].all() and len({*zip(found.i, found.j)}) == len(found.i)
        np.testing.assert_allclose(found.scores, scores[found.i, found.j], atol=1e-6)
        assert (np.diff(found.scores) <= 0).all()


def test_own_scores_leave_the_picture_out(rng):
    labels = np.array([0, 0, 0, 4, 4, 7, 9, 9])
    people = Drawn(rng.standard_normal((8, 5)), labels)
    classes = classes_of(people)
    assert classes.labels.tolist() == [0, 4, 7, 9]
    for index, label in enumerate(labels):
        others = [k for k in np.flatnonzero(labels == label) if k != index]
        if not others:
            assert np.isnan(classes.own[index])
            continue
        mean = people.rows[others].astype(np.float64).sum(axis=0)
        wanted = people.rows[index] @ mean / np.linalg.norm(mean)
        assert classes.own[index] == pytest.approx(wanted, abs=1e-6)


def planted(rng):
    """20 people of 6 points around a direction each; point 8 lies with 5, and 19 is 3 again."""
    directions = rng.standard_normal((20, 32))
    directions[19] = directions[3]
    labels = np.repeat(np.arange(20), 6)
    rows = unit(directions)[labels] + 0.08 * rng.standard_normal((120, 32))
    rows[8] = unit(directions)[5] + 0.08 * rng.standard_normal(32)  # of person 1
    return Drawn(rows, labels)


def test_planted_faults_and_no_others_are_found(rng):
    people = planted(rng)
    classes = classes_of(people)
    pairs = [(f.first // 6, f.second // 6) for f in same_people(classes, None, 0.8)]
    assert pairs == [(3, 19)]
    found = mislabelled(people, classes, 0.6, 0.2)
    assert [(f.first, f.second // 6) for f in found] == [(8, 5)]
    assert found[0].own < 0.5 < found[0].cosine


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    """(folder of drawn people, MODEL): a network whose running statistics fit the faces."""
    folder = tmp_path_factory.mktemp('clean')
    images = []
    for identity in range(PEOPLE):
        (folder / 'people' / f'p{identity}').mkdir(parents=True)
        for number, content in enumerate(jpeg_faces(3, identity, range(PICTURES), 112)):
            (folder / 'people' / f'p{identity}' / f'{number}.jpg').write_bytes(content)
            images.append(decode_rgb(content))
    options = {'multiplier': 0.25, 'emb_size': 64}
    network = calibrated_params('vargfacenet', np.stack(images), **options)
    checkpoint.save_embedding(folder / 'model', 1, network)
    return folder / 'people', f'{folder}/model,1'


def test_a_copy_under_another_name(faces, tmp_path, run_command):
    """Copied as it is, and saved anew at another quality."""
    people, model = faces
    folder = shutil.copytree(people, tmp_path / 'people')
    shutil.copy(folder / 'p1' / '2.jpg', folder / 'p4' / 'copy.jpg')
    again = encoded(decode_rgb((folder / 'p0' / '0.jpg').read_bytes()), '.png')
    (folder / 'p2' / 'again.png').write_bytes(again)
    before = sorted(path.read_bytes() for path in folder.rglob('*.*'))
    options = ['--model', model, '--out', tmp_path / 'out', '--duplicate', 0.99999]
    code, result, _ = run_command('clean', folder, *options)
    assert code == 0 and result['images'] == PEOPLE * PICTURES + 2
    rows = list(csv.DictReader((tmp_path / 'out' / 'clean.csv').open()))
    copies = {
        (row['first'], row['second'], row['identical'])
        for row in rows
        if row['kind'] == 'duplicate'
    }
    assert copies == {
        (f'{folder}/p1/2.jpg', f'{folder}/p4/copy.jpg', 'True'),
        (f'{folder}/p0/0.jpg', f'{folder}/p2/again.png', 'False'),
    }
    assert (
        json.loads((tmp_path / 'out' / 'clean.json').read_text())['findings'][0]['cosine'] > 0.999
    )
    page = (tmp_path / 'out' / 'index.html').read_text()
    assert page.count('class="pair"') == len(rows) and 'p1 / p4' in page
    assert 'Made by vargfacenet clean.' in page
    assert sorted(path.read_bytes() for path in folder.rglob('*.*')) == before  # nothing deleted


def test_no_name_of_a_folder_becomes_a_formula(faces, tmp_path, run_command):
    people, model = faces
    folder = shutil.copytree(people, tmp_path / 'people')
    (folder / 'p4').rename(folder / '=1+1')
    shutil.copy(folder / 'p1' / '2.jpg', folder / '=1+1' / 'copy.jpg')
    options = ['--model', model, '--out', tmp_path / 'out', '--duplicate', 0.99999]
    assert run_command('clean', folder, *options)[0] == 0
    rows = csv.reader((tmp_path / 'out' / 'clean.csv').open())
    cells = {cell for row in rows for cell in row}
    assert "'=1+1" in cells and not [cell for cell in cells if cell[:1] == '=']


def test_what_two_sets_share_and_a_bad_picture(faces, tmp_path, run_command):
    people, model = faces
    other = tmp_path / 'other'
    shutil.copytree(people / 'p3', other / 'known')
    (other / 'known' / 'bad.jpg').write_bytes(b'\xff\xd8\xff nothing')
    options = ['--model', model, '--out', tmp_path / 'out', '--duplicate', 0.99999]
    code, result, errors = run_command('clean', people, other, *options, '--same-person', 0.9999)
    assert (code, result['duplicate'], result['same_person']) == (0, PICTURES, 1)
    assert result['left_out'] == 1 and 'bad.jpg' in errors
    rows = list(csv.DictReader((tmp_path / 'out' / 'clean.csv').open()))
    assert {(row['first_class'], row['second_class']) for row in rows} == {('p3', 'known')}


@pytest.mark.slow
@pytest.mark.skipif(not (SHARED / 'lfw_112.tar').is_file(), reason='needs LFW and y1')
def test_the_known_copies_in_lfw(tmp_path, run_command):
    """Two pictures of LFW are there under two names, byte for byte; among every 15th person. A
    picture that is moved to another folder is found as well."""
    known = {('Carlos_Beltran', 'Raul_Ibanez'), ('Bart_Hendricks', 'Ricky_Ray')}
    with tarfile.open(SHARED / 'lfw_112.tar') as archive:
        members = [member for member in archive if member.isfile()]
        names = sorted({member.name.split('/')[1] for member in members})
        chosen = {*names[::15], *sum(known, ()), 'Junichiro_Koizumi', 'Serena_Williams'}
        for member in members:
            if member.name.split('/')[1] in chosen:
                archive.extract(member, tmp_path)
    folder = tmp_path / 'lfw_112'
    moved = folder / 'Junichiro_Koizumi' / 'Serena_Williams_0002.jpg'
    (folder / 'Serena_Williams' / moved.name).rename(moved)
    model = f'{SHARED}/y1_ms1m/model,0'
    code, _, _ = run_command('clean', folder, '--model', model, '--out', tmp_path / 'out')
    assert code == 0
    rows = list(csv.DictReader((tmp_path / 'out' / 'clean.csv').open()))
    same = [row for row in rows if row['identical'] == 'True' and row['kind'] == 'duplicate']
    assert {(row['first_class'], row['second_class']) for row in same} == known
    wrong = [row for row in rows if row['kind'] == 'mislabelled']
    assert (wrong[0]['first'], wrong[0]['second_class']) == (str(moved), 'Serena_Williams')
