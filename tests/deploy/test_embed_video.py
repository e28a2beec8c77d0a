"""embed --video: one row a video, from folders of frames and video files."""

import numpy as np
import pytest
from conftest import needs_mxnet
from deploy_models import export_folder, portraits, write_checkpoint
from pictures import encoded, scene, write_video
from vargfacenet.common.engine.open_model import open_model
from vargfacenet.eval.pooling import POOLINGS
from vargfacenet.eval.quality_head import QualityHead


@pytest.fixture(scope='module')
def model(tmp_path_factory):
    return export_folder(tmp_path_factory.mktemp('export'))


@pytest.fixture(scope='module')
def faces():
    return portraits(7)


@pytest.fixture
def videos(tmp_path, faces):
    """ann/one: a folder of frames 0-2; bob/two.avi: a file of frames 3-6."""
    folder = tmp_path / 'videos' / 'ann' / 'one'
    folder.mkdir(parents=True)
    for number in range(3):
        (folder / f'{number}.png').write_bytes(encoded(faces[number], '.png'))
    (tmp_path / 'videos' / 'bob').mkdir()
    write_video(tmp_path / 'videos' / 'bob' / 'two.avi', faces[3:])
    return tmp_path / 'videos'


def embed(run_command, source, model, out, *more):
    command = ('embed', source, '--video', '--model', model, '--out', out, '--faces', 'crop')
    return run_command(*command, *more)


def unit(row):
    return np.asarray(row, np.float64) / np.linalg.norm(np.asarray(row, np.float64))


def test_a_row_is_the_mean_of_its_frames(videos, faces, model, run_command, tmp_path):
    out = tmp_path / 'f.npz'
    code, result, errors = embed(run_command, videos, model, out, '--batch-size', 2)
    assert code == 0, errors
    assert (result['videos'], result['embedded'], result['frames_used']) == (2, 2, 7)
    stored = np.load(out)
    assert stored['labels'].tolist() == ['ann', 'bob']
    assert stored['paths'].tolist() == [str(videos / 'ann' / 'one'), str(videos / 'bob/two.avi')]
    assert stored['frames'].tolist() == stored['total_frames'].tolist() == [3, 4]
    rows = [unit(row) for row in open_model(model).embed(faces)]
    expected = [unit(np.mean(rows[:3], axis=0)), unit(np.mean(rows[3:], axis=0))]
    np.testing.assert_allclose(stored['embeddings'], expected, atol=1e-5)
    assert stored['embeddings'].dtype == np.float32


@needs_mxnet
@pytest.mark.parametrize('name', POOLINGS.names())
def test_every_pooling_with_lengths_as_qualities(name, videos, faces, tmp_path, run_command):
    checkpoint, out = write_checkpoint(tmp_path), tmp_path / 'f.npz'
    code, result, errors = embed(run_command, videos, checkpoint, out, '--pooling', name)
    assert code == 0 and (result['pooling'], result['quality']) == (name, 'norm'), errors
    rows = open_model(checkpoint).embed(faces)
    lengths = np.linalg.norm(rows, axis=1)
    pool = POOLINGS.get(name)
    expected = [unit(pool(rows[:3], lengths[:3])), unit(pool(rows[3:], lengths[3:]))]
    np.testing.assert_allclose(np.load(out)['embeddings'], expected, atol=1e-4)


@needs_mxnet
def test_a_trained_head_weights_the_frames(videos, faces, rng, tmp_path, run_command):
    checkpoint, out = write_checkpoint(tmp_path), tmp_path / 'f.npz'
    opened = open_model(checkpoint)
    weight = rng.standard_normal(opened.embedding_size + 1)
    QualityHead(weight, opened.fingerprint, ('eve',)).save(tmp_path / 'head.npz')
    options = ('--quality', tmp_path / 'head.npz')
    code, result, errors = embed(run_command, videos, checkpoint, out, *options)
    assert code == 0 and result['pooling'] == 'softmax', errors
    rows = opened.embed(faces).astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1)
    units = rows / lengths[:, None]
    weights = np.exp(units @ weight[:-1] + np.log(lengths) * weight[-1])[:, None]
    expected = [unit((weights * units)[part].sum(axis=0)) for part in (slice(3), slice(3, None))]
    np.testing.assert_allclose(np.load(out)['embeddings'], expected, atol=1e-4)


@needs_mxnet
def test_flip_is_the_mean_with_the_mirror_image(videos, faces, tmp_path, run_command):
    checkpoint, out = write_checkpoint(tmp_path), tmp_path / 'f.npz'
    options = ('--pooling', 'norm', '--flip', '--most-frames', 2)
    assert embed(run_command, videos, checkpoint, out, *options)[0] == 0
    opened = open_model(checkpoint)
    rows = opened.embed(faces) + opened.embed(np.ascontiguousarray(faces[:, :, ::-1]))
    expected = [unit(rows[[0, 2]].sum(axis=0)), unit(rows[[4, 6]].sum(axis=0))]
    stored = np.load(out)
    np.testing.assert_allclose(stored['embeddings'], expected, atol=1e-4)
    assert stored['looked_at'].tolist() == [2, 2] and stored['total_frames'].tolist() == [3, 4]


@needs_mxnet
def test_lengths_of_one_tell_nothing(videos, run_command, tmp_path):
    model = export_folder(tmp_path, '--l2-normalize')
    code, _, errors = embed(run_command, videos, model, tmp_path / 'f.npz', '--pooling', 'norm')
    assert code == 2 and 'ann/one: --pooling norm' in errors and 'length 1' in errors
    assert not (tmp_path / 'f.npz').exists()


def test_frames_left_out_are_counted(model, run_command, tmp_path):
    """Faces are found; frames without one, and with several, are said."""
    empty = np.full((160, 160, 3), 90, np.uint8)
    both = np.hstack([scene(0, size=160), scene(1, size=160)])
    for video, pictures in (('v', [scene(0), empty, both]), ('w', [empty])):
        (tmp_path / 'videos' / video).mkdir(parents=True)
        for number, picture in enumerate(pictures):
            path = tmp_path / 'videos' / video / f'{number}.png'
            path.write_bytes(encoded(picture, '.png'))
    (tmp_path / 'videos' / 'v' / '3.png').write_bytes(b'no picture')
    (tmp_path / 'videos' / 'x.mp4').write_bytes(b'no video')
    out = tmp_path / 'f.npz'
    command = ('embed', tmp_path / 'videos', '--video', '--model', model, '--out', out)
    code, _, errors = run_command(*command)
    assert code == 2 and '--skip-broken' in errors and not out.exists()
    code, result, errors = run_command(*command, '--skip-broken')
    assert code == 0, errors
    assert (result['videos'], result['embedded'], result['left_out']) == (3, 1, 2)
    assert 'w: no face in 1 frames; left out' in errors and 'x.mp4: no video' in errors
    left_out = [result[f'frames_{why}'] for why in ('without_face', 'broken', 'with_several_faces')]
    assert left_out == [2, 1, 1]
    stored = np.load(out)
    assert stored['frames'].tolist() == [2] and stored['looked_at'].tolist() == [4]


def test_a_file_that_ends_early_is_said(videos, model, run_command, tmp_path):
    path = videos / 'bob' / 'two.avi'
    path.write_bytes(path.read_bytes()[: -path.stat().st_size // 2])
    code, result, errors = embed(run_command, path, model, tmp_path / 'f.npz')
    assert code == 0 and result['cut_off'] == 1 and result['embedded'] == 1
    assert 'of 4 frames can be decoded' in errors


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--every', '2'], '--every: only with --video'),
        (['--video', '--every', '2', '--fps', '3'], 'one of them'),
        (['--video', '--every', '0'], '--every 0'),
        (['--video', '--most-frames', '0'], '--most-frames 0'),
        (['--video', '--fps', '0'], '--fps 0'),
        (['--video', '--fps', '2'], 'tells no time'),
        (['--video', '--which', 'all'], '--which all'),
        (['--video', '--pooling', 'median'], 'median'),
    ],
)
def test_wrong_options(flags, message, videos, model, run_command, tmp_path):
    command = ('embed', videos, '--model', model, '--out', tmp_path / 'f.npz', '--faces', 'crop')
    code, _, errors = run_command(*command, *flags)
    assert code == 2 and message in errors
    assert not (tmp_path / 'f.npz').exists()
