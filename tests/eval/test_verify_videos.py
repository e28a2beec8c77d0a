"""From crops to videos, a quality head and their verification, through the commands."""

import shutil

import numpy as np
import pytest
from conftest import needs_mxnet
from deploy_models import portrait, write_checkpoint
from pictures import decoded, encoded
from vargfacenet.common.data.make_videos import blurred, covered, darkened, degrade
from vargfacenet.common.engine.open_model import open_model
from vargfacenet.eval.pooling import POOLINGS

PEOPLE, PICTURES = 8, 4
MAKE = ('--min-images', 4, '--pictures', 2, '--frames', 3)


@pytest.fixture(scope='module')
def crops(tmp_path_factory):
    folder = tmp_path_factory.mktemp('crops')
    for person in range(2 * PEOPLE):
        (folder / f'p{person:02d}').mkdir()
        for picture in range(PICTURES):
            path = folder / f'p{person:02d}' / f'{picture}.jpg'
            path.write_bytes(encoded(portrait(person, picture)))
    return folder


def files(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob('*.jpg'))
    }


def test_degradations_follow_from_their_strength(rng):
    face = portrait(0)
    assert (degrade(face, 0.0, rng) == face).all()
    grey = face.mean(axis=2)
    sharpness = [np.abs(np.diff(blurred(face, s).mean(axis=2))).mean() for s in (0, 0.3, 1)]
    assert sharpness == sorted(sharpness, reverse=True)
    light = [darkened(face, s, rng).mean() / grey.mean() for s in (0, 0.5, 1)]
    np.testing.assert_allclose(light, [1, 0.08**0.5, 0.08], atol=0.03)
    for strength, side in ((0, 0.2), (1, 0.7)):
        hidden = covered(np.zeros_like(face), strength, np.random.RandomState(3)).any(axis=2)
        assert abs(hidden.mean() - side**2) < 0.02


def test_videos_share_no_picture_and_people_do_not_change_each_other(crops, tmp_path, run_command):
    code, result, errors = run_command('make-videos', crops, tmp_path / 'all', *MAKE, '--share', 0)
    assert code == 0, errors
    assert (result['people'], result['videos'], result['frames']) == (16, 32, 96)
    for person in range(2 * PEOPLE):
        mine = [encoded(portrait(person, picture)) for picture in range(PICTURES)]
        pictures = np.stack([decoded(one) for one in mine]).astype(float)
        used = []
        for video in ('00', '01'):
            frames = sorted((tmp_path / 'all' / f'p{person:02d}' / video).iterdir())
            gaps = [
                np.abs(pictures - decoded(frame.read_bytes())).mean(axis=(1, 2, 3))
                for frame in frames
            ]
            assert np.min(gaps, axis=1).max() < 3  # JPEG again
            used.append(set(np.argmin(gaps, axis=1)))
        assert not used[0] & used[1] and len(used[0] | used[1]) == PICTURES
    (tmp_path / 'gone.txt').write_text('p00\np05\n')
    for name, more in (('a', ()), ('b', ()), ('c', ('--exclude', tmp_path / 'gone.txt'))):
        assert run_command('make-videos', crops, tmp_path / name, *MAKE, *more)[0] == 0
    first, again, fewer = (files(tmp_path / name) for name in 'abc')
    assert first == again
    assert fewer == {k: v for k, v in first.items() if not k.startswith(('p00', 'p05'))}
    assert run_command('make-videos', crops, tmp_path / 'a', *MAKE)[0] == 2  # not empty


def test_a_broken_picture_leaves_nothing_behind(crops, tmp_path, run_command):
    shutil.copytree(crops, tmp_path / 'crops')
    (tmp_path / 'crops' / 'p15' / '0.jpg').write_bytes(b'no picture')
    code, _, errors = run_command('make-videos', tmp_path / 'crops', tmp_path / 'out', *MAKE)
    assert code == 2 and 'p15/0.jpg' in errors
    assert [path.name for path in tmp_path.iterdir()] == ['crops']


def test_people_with_too_few_pictures_are_counted(crops, tmp_path, run_command):
    words = ('make-videos', crops, tmp_path / 'out', *MAKE, '--min-images', PICTURES + 1)
    code, _, errors = run_command(*words)
    count = sum(1 for _ in crops.iterdir())
    assert code == 2 and f'none of {count} people has {PICTURES + 1} pictures' in errors
    assert errors.count('\n') == 1 and not (tmp_path / 'out').exists()


def test_too_few_pictures_for_two_videos_names_what_to_change(crops, tmp_path, run_command):
    """Of the two options that do not go together one may have its default."""
    words = ('make-videos', crops, tmp_path / 'out', '--min-images', 3, '--most-people', 4)
    code, _, errors = run_command(*words)
    assert code == 2 and '3 pictures (--min-images)' in errors and '3 each (--pictures)' in errors
    assert 'give --min-images 6 or more, or --pictures 1 or fewer' in errors
    code, _, errors = run_command(*words, '--min-images', 5, '--pictures', 2)
    assert 'or fewer' not in errors


@pytest.mark.parametrize('command', ['quality', 'verify-videos'])
def test_a_folder_of_videos_that_is_missing(command, tmp_path, run_command):
    """Told before a model is loaded."""
    out = ['--out', tmp_path / 'head.npz'] if command == 'quality' else []
    code, _, errors = run_command(command, tmp_path / 'no', '--model', 'default', *out)
    assert code == 2 and 'no is no folder; expected FOLDER/<person>/<video>/<frame>' in errors
    assert errors.count('\n') == 1


def test_an_excluded_name_that_matches_nothing_stops(crops, tmp_path, run_command):
    (tmp_path / 'test.txt').write_text('nobody')
    words = ('make-videos', crops, tmp_path / 'out', *MAKE, '--exclude', tmp_path / 'test.txt')
    code, _, errors = run_command(*words)
    assert code == 2 and 'nobody' in errors and not (tmp_path / 'out').exists()
    assert run_command(*words, '--allow-unknown')[0] == 0


@needs_mxnet
def test_heads_and_poolings_by_the_commands(crops, tmp_path, run_command):
    model = write_checkpoint(tmp_path)
    test, train, head = tmp_path / 'test', tmp_path / 'train', tmp_path / 'head.npz'
    assert run_command('make-videos', crops, test, *MAKE, '--most-people', PEOPLE)[0] == 0
    (tmp_path / 'test.txt').write_text('\n'.join(path.name for path in test.iterdir()))
    exclude = ('--exclude', tmp_path / 'test.txt')
    assert run_command('make-videos', crops, train, *MAKE, *exclude)[0] == 0
    code, trained, errors = run_command('quality', train, '--model', model, '--out', head)
    assert code == 0, errors
    assert trained['people'] == PEOPLE and trained['videos'] == 2 * PEOPLE
    verify = ('--model', model, '--replicates', 20, '--quality', head, '--far', 0.1)
    code, _, errors = run_command('verify-videos', train, *verify)
    assert code == 2 and f'trained with {PEOPLE} of these people' in errors
    code, result, errors = run_command('verify-videos', test, *verify)
    assert code == 0, errors
    assert (result['genuine_pairs'], result['impostor_pairs']) == (PEOPLE, 112)
    assert len(result['arms']) == 5 + 3
    weight = np.load(head)['weight']
    for arm in result['arms']:
        assert arm['tar'][0] == pytest.approx(tar(test, model, weight, arm))
        for number, name in ((0, 'mean'), (1, 'best')):
            assert result['arms'][number]['pooling'] == name
            gap = arm['tar'][0] - result['arms'][number]['tar'][0]
            assert arm[f'minus_{name}'][0] == pytest.approx(gap)


def tar(folder, model, weight, arm, far=0.1):
    """TAR at FAR of an arm, by a loop over the videos and a sort of the cosines."""
    opened = open_model(model)
    videos, people = [], []
    for video in sorted(folder.glob('*/*')):
        frames = np.stack([decoded(path.read_bytes()) for path in sorted(video.iterdir())])
        rows = opened.embed(frames)
        lengths = np.linalg.norm(rows, axis=1)
        qualities = lengths
        if arm['quality'] != 'norm':
            qualities = np.column_stack([rows / lengths[:, None], np.log(lengths)]) @ weight
        pooled = POOLINGS.get(arm['pooling'])(rows, qualities.astype(np.float32))
        videos.append(pooled / np.linalg.norm(pooled.astype(np.float64)))
        people.append(video.parent.name)
    genuine, impostor = [], []
    for i in range(len(videos)):
        for j in range(i):
            same = people[i] == people[j]
            (genuine if same else impostor).append(float(videos[i] @ videos[j]))
    threshold = sorted(impostor, reverse=True)[int(far * len(impostor))]
    return np.mean(np.array(genuine) > threshold)


@pytest.mark.parametrize(
    ('flags', 'message'),
    [
        (['--pictures', 3], 'or --pictures 2 or fewer'),
        (['--most-people', 99], '16 people'),
        (['--share', 2], '--share'),
    ],
)
def test_wrong_options(flags, message, crops, tmp_path, run_command):
    options = ('--min-images', 4, '--pictures', 2)
    code, _, errors = run_command('make-videos', crops, tmp_path / 'out', *options, *flags)
    assert code == 2 and message in errors and not (tmp_path / 'out').exists()
