import importlib.metadata

import numpy as np
import pytest
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.data.pair_sets import read_pairs
from vargfacenet.common.data.recordio import RecordFile
from vargfacenet.common.synth.dataset import TEST_START, Task, _painter, draw_pairs
from vargfacenet.common.synth.face import jpeg_faces, person

FILES = ('train.rec', 'train.idx', 'property', 'synth.bin')
SMALL = ('--identities', 3, '--images', 2, '--pairs', 20, '--size', 64)


def whitened(train, components):
    """Mean and whitening projection of a PCA fitted on the rows of `train`."""
    mean = train.mean(axis=0)
    _, spread, axes = np.linalg.svd(train - mean, full_matrices=False)
    return mean, axes[:components].T / (spread[:components] / np.sqrt(len(train)))


def ten_fold_accuracy(distances, same):
    """Accuracy at the threshold that is best on the other nine folds, averaged."""
    folds = np.arange(len(same)) * 10 // len(same)
    accuracies = []
    for fold in range(10):
        train, test = folds != fold, folds == fold
        thresholds = np.sort(distances[train])
        scores = [((distances[train] < limit) == same[train]).mean() for limit in thresholds]
        best = thresholds[int(np.argmax(scores))]
        accuracies.append(((distances[test] < best) == same[test]).mean())
    return np.mean(accuracies)


def test_the_files_hold_what_was_asked_for(tmp_path, run_command):
    code, result, _ = run_command('synth', tmp_path, *SMALL)
    assert code == 0
    counts = [result[key] for key in ('identities', 'images', 'pairs', 'same')]
    assert counts == [3, 6, 20, 10]
    records = RecordFile(tmp_path / 'train', size=64)
    assert records.grouped and (records.num_classes, len(records)) == (3, 6)
    labels, pictures = zip(*(records.read(position) for position in range(6)))
    assert labels == (0, 0, 1, 1, 2, 2)
    images, same = read_pairs(tmp_path / 'synth.bin')
    assert len(images) == 40 and len(set(images)) == 40
    assert same.reshape(10, 2).sum(axis=1).tolist() == [1] * 10
    assert {decode_rgb(picture).shape for picture in (*pictures, *images)} == {(64, 64, 3)}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(tmp_path, run_command):
    contents = []
    for name, seed in (('a', 5), ('b', 5), ('c', 6)):
        assert run_command('synth', tmp_path / name, *SMALL, '--seed', seed)[0] == 0
        contents.append([(tmp_path / name / file).read_bytes() for file in FILES])
    assert contents[0] == contents[1]
    assert contents[0][0] != contents[2][0] and contents[0][3] != contents[2][3]


def test_a_picture_does_not_depend_on_how_many_there_are(tmp_path, run_command):
    run_command('synth', tmp_path / 'small', *SMALL)
    run_command('synth', tmp_path / 'large', *SMALL[4:], '--identities', 4, '--images', 5)
    small = RecordFile(tmp_path / 'small' / 'train', size=64)
    large = RecordFile(tmp_path / 'large' / 'train', size=64)
    for identity in range(3):
        for picture in range(2):
            assert small.read(2 * identity + picture) == large.read(5 * identity + picture)
    assert (tmp_path / 'small' / 'synth.bin').read_bytes() == (
        tmp_path / 'large' / 'synth.bin'
    ).read_bytes()


@pytest.mark.parametrize(('pairs', 'identities'), [(20, 2), (600, 100), (1000, 7)])
def test_pairs_are_balanced_in_every_fold_and_of_people_outside_training(pairs, identities):
    drawn = draw_pairs(pairs, identities, seed=3)
    assert len(drawn) == pairs
    same = np.array([pair.same for pair in drawn])
    assert (same.reshape(10, -1).sum(axis=1) == pairs // 20).all()
    for pair in drawn:
        assert pair.same == (pair.first[0] == pair.second[0])
        assert min(pair.first[0], pair.second[0]) >= TEST_START
        assert max(pair.first[0], pair.second[0]) < TEST_START + identities
    pictures = [picture for pair in drawn for picture in (pair.first, pair.second)]
    assert len(set(pictures)) == 2 * pairs


def test_pairs_are_shuffled_within_folds_and_use_everybody():
    drawn = draw_pairs(600, 30, seed=0)
    same = np.array([pair.same for pair in drawn]).reshape(10, 60)
    # sorted folds would have one change of side each, alternating ones 59
    assert (np.abs(np.diff(same.astype(int), axis=1)).sum(axis=1) > 20).all()
    assert len({pair.first[0] for pair in drawn}) == 30
    assert len({pair.second[0] for pair in drawn if not pair.same}) == 30


def test_training_and_test_people_are_different_people():
    training = {person(0, identity) for identity in range(200)}
    testing = {person(0, TEST_START + identity) for identity in range(100)}
    assert len(training) == 200 and len(testing) == 100 and not training & testing


def test_faces_are_no_task_for_principal_components():
    """Whitened PCA on grey pictures, the classical baseline, must not solve the pairs."""
    size, people, pictures, pairs = 56, 40, 6, 120

    def grey(encoded):
        return decode_rgb(encoded).mean(axis=2)[::2, ::2].ravel()

    faces = [jpeg_faces(0, identity, range(pictures), size) for identity in range(people)]
    train = np.array([grey(encoded) for one in faces for encoded in one])
    drawn = draw_pairs(pairs, 40, seed=0)
    shown = [face for pair in drawn for face in (pair.first, pair.second)]
    test = np.array([grey(*jpeg_faces(0, who, [picture], size)) for who, picture in shown])
    same = np.array([pair.same for pair in drawn])
    mean, projection = whitened(train, 64)
    embedding = (test - mean) @ projection
    unit = embedding / np.linalg.norm(embedding, axis=1, keepdims=True)
    for rows in (embedding, unit):
        distances = ((rows[0::2] - rows[1::2]) ** 2).sum(axis=1)
        assert ten_fold_accuracy(distances, same) < 0.8


def is_installed():
    try:
        return bool(importlib.metadata.version('vargfacenet'))
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not is_installed(), reason='a new process must be able to import the package')
def test_other_processes_draw_the_same_pictures():
    tasks = [Task(2, identity, range(2), 48) for identity in range(3)]
    with _painter(2) as paint:
        elsewhere = [paint(task) for task in tasks]
    assert elsewhere == [jpeg_faces(*task) for task in tasks]


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (('--identities', 0), '--identities 0'),
        (('--images', -1), '--images -1'),
        (('--pairs', 30), 'multiple of 20'),
        (('--pairs', 0), '--pairs 0'),
        (('--test-identities', 1), '--test-identities 1'),
        (('--seed', -1), '--seed -1'),
        (('--size', 8), '--size 8'),
        (('--workers', 0), '--workers 0'),
        (('--identities', 1_000_000, '--images', 20), '16777216'),
        (('--identities', 'many'), 'many'),
    ],
)
def test_wrong_options_give_one_line(tmp_path, run_command, options, words):
    code, _, errors = run_command('synth', tmp_path / 'out', *options)
    assert code == 2 and errors.count('\n') == 1 and words in errors
    assert not (tmp_path / 'out').exists()


def test_an_output_that_cannot_be_a_folder_gives_one_line(tmp_path, run_command):
    (tmp_path / 'file').write_text('in the way')
    code, _, errors = run_command('synth', tmp_path / 'file', *SMALL)
    assert code == 2 and errors.count('\n') == 1 and 'file' in errors


def test_an_existing_data_set_is_not_replaced_unasked(tmp_path, run_command):
    (tmp_path / 'train.rec').write_bytes(b'days of work')
    code, _, errors = run_command('synth', tmp_path, *SMALL)
    assert code == 2 and 'train.rec is there already' in errors and '--overwrite' in errors
    assert (tmp_path / 'train.rec').read_bytes() == b'days of work'
    assert run_command('synth', tmp_path, *SMALL, '--overwrite')[0] == 0
