"""`vargfacenet fit`: laws of the two layers, and the model that the command writes."""

import contextlib
from pathlib import Path

import numpy as np
import pytest
from deploy_models import portrait
from pictures import encoded
from vargfacenet.common.data.recordio import RecordFile
from vargfacenet.common.engine.open_model import open_model
from vargfacenet.common.errors import InputError
from vargfacenet.recognition import fit
from vargfacenet.symbol import textures


def people(count=30, images=5, noise=0.3):
    """Features (N, 6, 3, 2) of people, and who each is."""
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(count), images)
    mean = rng.standard_normal((count, 6, 3, 2))[labels] + 4
    return (mean + noise * rng.standard_normal(mean.shape)).astype(np.float32), labels


def embedded(layers, features):
    values = np.einsum('kc,ncp->nkp', layers.channels, features.reshape(len(features), 6, -1))
    return values.reshape(len(features), -1) @ layers.weight.T + layers.bias


def test_pictures_of_a_person_vary_alike_in_all_directions():
    features, labels = people()
    rows = embedded(fit.fit_layers(features, labels, 6, 20, 1e-9), features)
    np.testing.assert_allclose(rows.mean(axis=0), 0, atol=1e-3)
    rest = rows - np.stack([rows[labels == label].mean(axis=0) for label in labels])
    np.testing.assert_allclose(rest.T @ rest / (len(rows) - 30), np.eye(20), atol=2e-3)


def test_shrunk_for_ever_it_is_a_rotation_of_the_principal_components():
    features, labels = people()
    rows = embedded(fit.fit_layers(features, labels, 6, 36, 1e9), features)
    centred = features.reshape(len(features), -1).astype(float)
    centred -= centred.mean(axis=0)

    def cosines(data):
        data = data / np.linalg.norm(data, axis=1, keepdims=True)
        return data @ data.T

    np.testing.assert_allclose(cosines(rows), cosines(centred), atol=1e-3)


def test_few_pictures_have_the_principal_directions_of_their_covariance(rng):
    """More values than pictures; and no directions but those in which these differ."""
    rows = rng.randn(9, 30).astype(np.float32)
    rows[5] = rows[4]
    rows -= rows.mean(axis=0)
    found = fit.principal_directions_of(rows, 8)
    expected = fit.principal_directions(rows.T.astype(float) @ rows.astype(float), 7)
    np.testing.assert_allclose(abs(found[:7] @ expected.T), np.eye(7), atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), [1] * 7 + [0], atol=1e-6)


def test_what_varies_within_a_person_counts_less():
    features, labels = people(noise=0.05)
    shaken = features.copy()
    shaken[:, 2] += np.random.default_rng(1).standard_normal((len(features), 3, 2)) * 5

    def worst(shrinkage):
        rows = embedded(fit.fit_layers(shaken, labels, 6, 36, shrinkage), shaken)
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        same = labels[:, None] == labels
        return (rows @ rows.T)[same].min()

    assert worst(1e-4) > 0.9 > worst(1e9)


def test_values_of_a_cell_are_kept_in_the_order_in_which_they_tell_people_apart():
    features, labels = people()
    features[:, 2] += np.random.default_rng(1).standard_normal((len(features), 3, 2)) * 5
    basis = fit.discriminant_directions(features, labels, 6, 1e-12)
    kept = np.einsum('kc,nchw->nkhw', basis, features.astype(float))
    rest = kept - np.stack([kept[labels == label].mean(axis=0) for label in labels])
    within = np.einsum('nkhw,njhw->kj', rest, rest) / (len(kept) - 30)
    np.testing.assert_allclose(within, np.eye(6), atol=1e-6)
    kept -= kept.mean(axis=0)
    total = np.einsum('nkhw,njhw->kj', kept, kept)
    np.testing.assert_allclose(
        total / total.max(), np.diag(np.diag(total)) / total.max(), atol=1e-6
    )
    assert (np.diff(np.diag(total)) < 0).all()
    # the shaken value says least of all
    assert np.abs(basis[0] / np.abs(basis[0]).max())[2] < 0.1


def test_each_part_is_fitted_by_itself():
    rng = np.random.default_rng(2)
    features = rng.random((40, textures.FEATURES), np.float32)
    labels = np.repeat(np.arange(10), 4)
    both = fit.fit(features, labels, 2, 12, 0.1)
    assert [layers.weight.shape for layers in both] == [(6, 2 * 8 * 4), (6, 1 * 16 * 7)]
    start = 0
    for part, kept, layers in zip(textures.PARTS, (2, 1), both):
        own = features[:, start : start + part.size].reshape(40, *part[1:])
        start += part.size
        expected = fit.fit_layers(own, labels, kept, 6, 0.1)
        for given, alone in zip(layers, expected):
            np.testing.assert_array_equal(given, alone)


@pytest.mark.parametrize('repeat', [False, True])
def test_too_little_is_refused(repeat):
    features, labels = people(4, 3)
    with pytest.raises(InputError, match='do not span 20' if repeat else 'nobody has two'):
        fit.fit_layers(features, labels if repeat else np.arange(12), 6, 20 if repeat else 5, 0.1)


def test_copies_of_a_picture_tell_nothing():
    features, labels = people(30, 1)
    with pytest.raises(InputError, match='are they copies'):
        fit.fit_layers(np.repeat(features, 2, axis=0), np.repeat(labels, 2), 6, 20, 0.1)


def test_more_pictures_than_memory_holds_are_refused(tmp_path, run_command, monkeypatch):
    write_pictures(tmp_path / 'faces', ['1/1', '1/2', '2/1'])
    words = ['fit', '--data-dir', tmp_path / 'faces', '--out', tmp_path / 'model', '--emb-size', 4]
    monkeypatch.setattr(fit, 'free_memory', lambda: 1 << 16)
    code, _, errors = run_command(*words)
    assert code == 2 and '3 pictures would take' in errors
    assert 'only 1 pictures are further ones' in errors
    assert not list(tmp_path.glob('model*'))


def test_too_few_pictures_for_the_embedding_name_the_size_that_goes(tmp_path, run_command):
    write_pictures(tmp_path / 'faces', ['1/1', '1/2', '2/1'])
    words = ['fit', '--data-dir', tmp_path / 'faces', '--out', tmp_path / 'model', '--emb-size']
    code, _, errors = run_command(*words, 6)
    assert code == 2 and '3 pictures for --emb-size 6' in errors
    assert errors.rstrip().endswith('or an --emb-size of at most 4')
    assert run_command(*words, 4)[0] == 0


def test_what_is_there_stays(tmp_path, run_command):
    words = ['fit', '--data-dir', tmp_path, '--out', tmp_path / 'model']
    for name in ('model-0000.params', 'model-0000.json'):
        (tmp_path / name).write_text('precious')
        code, _, errors = run_command(*words)
        assert code == 2 and f'{name} is there already' in errors
        (tmp_path / name).unlink()
    (tmp_path / 'model-0007.json').write_text('{}')
    code, _, errors = run_command(*words, '--overwrite')
    assert code == 2 and 'newest: 7' in errors


def test_some_of_each():
    labels = np.array([2, 0, 2, 2, 1, 0, 0])
    assert fit.some_of_each(labels, 2).tolist() == [0, 1, 2, 4, 5]
    labels[[0, 5]] = fit.UNLABELLED
    assert fit.some_of_each(labels, 2).tolist() == [1, 2, 3, 4, 6]


def write_pictures(folder, names):
    """<person>/<picture>.png each."""
    for name in names:
        path = folder / f'{name}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(portrait(int(path.parent.name), int(path.stem)), '.png'))


def test_what_cannot_be_read_is_named_and_left_out_where_allowed(tmp_path, run_command):
    """The model is that of a folder without it; a record that is no record has no label either."""
    names = [f'{person}/{picture}' for person in range(6) for picture in range(5)]
    write_pictures(tmp_path / 'good', [*names, '7/1'])
    write_pictures(tmp_path / 'bad', [*names, '7/1'])
    bad = tmp_path / 'bad' / '2' / '3.png'
    bad.write_bytes(bad.read_bytes()[:90])
    (tmp_path / 'good' / '2' / '3.png').unlink()
    words = ['fit', '--emb-size', '16', '--images', '4', '--data-dir']
    out = ['--out', tmp_path / 'm' / 'model']
    code, _, errors = run_command(*words, tmp_path / 'bad', *out)
    assert code == 2 and str(bad) in errors and errors.count('--skip-corrupt N leaves up to N') == 1
    assert not (tmp_path / 'm').exists()
    code, result, errors = run_command(*words, tmp_path / 'bad', *out, '--skip-corrupt', '1')
    assert code == 0 and f'left out, 1 of at most 1: {bad}' in errors
    # of person 2 the fifth is not looked at, as without --skip-corrupt
    expected = {'pictures': 24, 'people': 7, 'people_of_one_picture': 1, 'left_out': 1}
    assert {key: result[key] for key in expected} == expected
    assert result['pictures_beyond_images'] == 6
    assert '1 of these have one picture' in errors and '6 pictures beyond --images 4, 1' in errors
    (tmp_path / 'good' / '2' / '4.png').unlink()
    other = run_command(*words, tmp_path / 'good', '--out', tmp_path / 'n' / 'model')[1]
    assert other['left_out'] == 0
    faces = np.stack([portrait(person, 9) for person in range(4)])
    np.testing.assert_array_equal(
        open_model(result['model']).embed(faces), open_model(other['model']).embed(faces)
    )
    rec = run_command('make-rec', tmp_path / 'good', tmp_path / 'rec')[1]['rec']
    content = bytearray(Path(rec).read_bytes())
    with contextlib.closing(RecordFile(rec)) as records:
        start = content.index(records.read(3)[1]) - 32
    content[start : start + 4] = bytes(4)  # the sign that a record begins
    Path(rec).write_bytes(content)
    rest = [tmp_path / 'rec', *out, '--overwrite']
    code, _, errors = run_command(*words, *rest)
    assert code == 2 and 'train.rec record 4' in errors and '; --skip-corrupt N leaves' in errors
    code, result, errors = run_command(*words, *rest, '--skip-corrupt', '1')
    assert code == 0 and result['left_out'] == 1 and result['pictures'] == 24


def test_the_command(tmp_path, run_command):
    write_pictures(tmp_path / 'faces', [f'{p}/{picture}' for p in range(8) for picture in range(3)])
    words = ['fit', '--data-dir', tmp_path / 'faces', '--out', tmp_path / 'm' / 'model']
    code, _, errors = run_command(*words)
    assert code == 2 and '24 pictures' in errors and not (tmp_path / 'm').exists()
    code, _, errors = run_command(*words, '--emb-size', '15')
    assert code == 2 and 'an even number' in errors
    code, _, errors = run_command(*words, '--emb-size', '16', '--channels', '50')
    assert code == 2 and '--channels 50' in errors and '1..49' in errors
    words += ['--emb-size', '16']
    code, result, errors = run_command(*words)
    assert code == 0, errors
    assert (result['pictures'], result['people']) == (24, 8)
    faces = np.stack([portrait(person, k) for k in (0, 1) for person in range(8)])
    rows = open_model(result['model']).embed(faces)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    # each picture of those it was fitted to is nearest to the other of its person
    assert ((rows[:8] @ rows[8:].T).argmax(axis=1) == np.arange(8)).sum() >= 7
    code, _, errors = run_command(*words)
    assert code == 2 and 'is there already' in errors
    again = run_command(*words, '--overwrite')[1]
    np.testing.assert_array_equal(
        open_model(again['model']).embed(faces[:2]), open_model(result['model']).embed(faces[:2])
    )
    code, _, errors = run_command(
        *words[:2], tmp_path / 'faces' / '0', '--out', tmp_path / 'n' / 'model'
    )
    assert code == 2 and 'without labels' in errors
