"""Faces that count: quality, turned pictures, advice, crops told apart, doubtful enrolments."""

import cv2
import numpy as np
import pytest
from deploy_models import export_folder, portrait
from pictures import encoded, scene
from vargfacenet.common.data.detectors.mtcnn import Mtcnn
from vargfacenet.common.data.warp import TEMPLATE
from vargfacenet.common.errors import InputError
from vargfacenet.deploy import FaceEmbedder
from vargfacenet.deploy.faces import (
    LARGEST,
    Face,
    NoFace,
    cosine_of,
    find_face,
    find_group,
    turned_back,
)
from vargfacenet.deploy.quality import ENROL, assess, blur, head_pose, ramp


@pytest.fixture(scope='module')
def embedder(tmp_path_factory):
    return FaceEmbedder(export_folder(tmp_path_factory.mktemp('export')))


def test_no_cosine_is_beyond_one(rng):
    rows = rng.randn(50, 8)
    rows = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
    faces = [Face(row, None, None, 0, True) for row in rows]
    assert max(float(row.astype(np.float64) @ row) for row in rows) > 1  # a face and itself
    for first in faces:
        opposite = first._replace(embedding=-first.embedding)
        assert cosine_of(first, first) == pytest.approx(1) and cosine_of(first, first) <= 1
        assert -1 <= cosine_of(first, opposite) == pytest.approx(-1)
        exact = [float(a) * float(b) for a, b in zip(first.embedding, rows[0])]
        assert cosine_of(first, faces[0]) == pytest.approx(sum(exact), abs=1e-6)


def test_ramp():
    assert [ramp(value, 10, 20) for value in (0, 10, 15, 20, 99)] == [0, 0, 0.5, 1, 1]
    assert [ramp(value, 20, 10) for value in (99, 20, 15, 10, 0)] == [0, 0, 0.5, 1, 1]


def test_blur_grows_with_blur_and_not_with_contrast():
    image = portrait(1)
    softer = [blur(cv2.GaussianBlur(image, (0, 0), sigma)) for sigma in (0.5, 1, 2, 4)]
    assert blur(image) < softer[0] < softer[1] < softer[2] < softer[3] <= 1
    faint = (image // 4 + 90).astype(np.uint8)
    assert blur(faint) == pytest.approx(blur(image), abs=0.1)
    assert blur(np.full((112, 112, 3), 7, np.uint8)) == 1


def rotated(yaw, pitch, roll=0.0, scale=1.0):
    """Five points of a head in another pose, by rotation matrices."""
    from vargfacenet.deploy import quality

    eyes = np.linalg.norm(TEMPLATE[1] - TEMPLATE[0])
    head = np.column_stack([TEMPLATE / eyes, quality._DEPTHS])
    head = head - head.mean(axis=0)
    yaw, pitch, roll = np.radians([yaw, pitch, roll])
    turn = [[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]]
    nod = [[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]]
    tilt = [[np.cos(roll), -np.sin(roll)], [np.sin(roll), np.cos(roll)]]
    return scale * (head @ (np.array(nod) @ turn).T)[:, :2] @ np.array(tilt).T + [300, 200]


@pytest.mark.parametrize(('yaw', 'pitch'), [(0, 0), (30, 0), (-45, 0), (0, 25), (0, -20)])
def test_pose_of_a_turned_head(yaw, pitch):
    for roll, scale in ((0, 40), (35, 90)):
        found = head_pose(rotated(yaw, pitch, roll, scale))
        assert found == pytest.approx((yaw, pitch), abs=0.5)  # the template's eyes slant a bit


def test_quality_is_its_worst_share_and_says_why():
    crop = portrait(2)
    good = assess(crop, TEMPLATE * 3, 0.999, 1.0)
    assert good.score == 1 and not good.reasons
    poor = {
        'small': assess(crop, TEMPLATE * 0.3, 0.999, 1.0),
        'blurred': assess(cv2.GaussianBlur(crop, (0, 0), 4), TEMPLATE, 0.999, 1.0),
        'sideways': assess(crop, rotated(65, 0, scale=60), 0.999, 1.0),
        'lowered': assess(crop, rotated(0, 55, scale=60), 0.999, 1.0),
        'not sure': assess(crop, TEMPLATE, 0.84, 1.0),
        'usual length': assess(crop, TEMPLATE, 0.999, 0.5),
    }
    for word, quality in poor.items():
        assert quality.score < 0.5 and word in quality.reasons[0], (word, quality)
    assert poor['small'].score < ENROL and poor['blurred'].score < ENROL
    assert assess(crop).score == 1  # a crop that was brought has no landmarks


def test_a_turned_picture_is_turned_back(embedder):
    image = scene(0, size=240)
    upright = find_face(embedder, image).face
    assert (upright.turned, upright.detected) == (0, True)
    for turns in (1, 2, 3):
        found = find_face(embedder, np.ascontiguousarray(np.rot90(image, -turns))).face
        if turns != 2:  # a drawn face is found upside down as well
            assert found.turned == 90 * turns
            assert found.embedding @ upright.embedding > 0.999


@pytest.mark.parametrize('turns', range(4))
def test_boxes_go_back_to_the_picture_as_it_came(turns):
    """The box of a filled rectangle, looked at before and after np.rot90."""

    def box(mask):
        rows, columns = np.nonzero(mask)
        return [columns.min(), rows.min(), np.ptp(columns) + 1, np.ptp(rows) + 1]

    mask = np.zeros((50, 80), bool)
    mask[10:17, 20:31] = True
    assert turned_back([box(np.rot90(mask, turns))], turns, 80, 50)[0].tolist() == box(mask)


def test_all_faces_of_a_group(embedder):
    """Two people beside each other, the larger on the right: each is who it is alone."""
    image = np.full((420, 620, 3), 128, np.uint8)
    image[:200, :200] = cv2.resize(scene(0), (200, 200), interpolation=cv2.INTER_AREA)
    image[:, 200:] = cv2.resize(scene(1), (420, 420))
    group = find_group(embedder, image, 'detect', slice(None))
    assert [face.index for face in group.faces] == [0, 1] and len(group.boxes) == 2
    middles = group.boxes[:, 0] + group.boxes[:, 2] / 2
    assert middles[1] < 200 < middles[0] and np.all(group.scores > 0.9)
    alone = [find_face(embedder, part).face for part in (image[:, 200:], image[:, :200])]
    cosines = [[face.embedding @ other.embedding for other in alone] for face in group.faces]
    assert np.argmax(cosines, axis=1).tolist() == [0, 1] and np.diag(cosines).min() > 0.95, cosines
    # the second is of less than half of the first one's side, and counts for nobody
    assert find_face(embedder, image).large_faces == 1
    alike = np.concatenate([cv2.resize(scene(0), (420, 420)), image[:, 200:]], axis=1)
    largest = find_face(embedder, alike)
    assert largest.large_faces == largest.summary()['large_faces'] == 2
    assert len(find_group(embedder, alike, 'detect', LARGEST).boxes) == 2
    second = find_group(embedder, image, 'detect', slice(1, 2)).faces
    assert len(second) == 1 and np.array_equal(second[0].embedding, group.faces[1].embedding)
    lying = find_group(embedder, np.ascontiguousarray(np.rot90(image, -1)), 'detect', slice(1))
    assert lying.faces[0].turned == 90
    x, y, wide, high = group.boxes[0]
    assert lying.boxes[0] == pytest.approx([420 - y - high, x, high, wide], abs=1)


def test_the_points_of_the_faces_asked_for_alone_are_made_exact(embedder, monkeypatch):
    counts = []

    def counted(self, image, faces):
        counts.append(len(faces.scores))
        return faces.landmarks

    monkeypatch.setattr(Mtcnn, 'exact_landmarks', counted)
    alike = np.concatenate([cv2.resize(scene(seed), (420, 420)) for seed in (0, 1)], axis=1)
    for which, count in ((LARGEST, 1), (slice(None), 2), (slice(1, 2), 1)):
        counts.clear()
        assert len(find_group(embedder, alike, 'detect', which).boxes) == 2
        assert counts == [count]


def test_faces_says_what_pictures_are(embedder):
    crop, photograph = portrait(1), cv2.resize(scene(0), (112, 112))
    assert find_face(embedder, crop).face.detected is False
    assert find_face(embedder, photograph).face.detected is True  # of a crop's size, and none
    assert find_face(embedder, photograph, 'crop').face.detected is False
    with pytest.raises(InputError, match='420x420 pixels; an aligned crop'):
        find_face(embedder, np.zeros((420, 420, 3), np.uint8), 'crop')


@pytest.mark.parametrize(
    ('picture', 'words'),
    [
        ('tiny', 'more pixels than 30x30'),
        ('flat', 'of one tone'),
        ('dark', 'nearly black'),
        ('bright', 'nearly white'),
        ('blurred', 'blurred'),
        ('noise', 'larger and seen from the front'),
    ],
)
def test_advice_fits_the_cause(picture, words, embedder, rng):
    noise = np.repeat(rng.randint(0, 256, (300, 300, 1)), 3, axis=2)
    image = {
        'tiny': noise[:30, :30],
        'flat': np.full((300, 300, 3), 120),
        'dark': noise // 6,
        'bright': 255 - noise // 6,
        'blurred': (cv2.GaussianBlur(noise - 127.5, (0, 0), 15) * 30) + 127.5,
        'noise': noise,
    }[picture]
    image = np.clip(image, 0, 255).astype(np.uint8)
    with pytest.raises(NoFace, match='no face found; take a photograph') as error:
        find_face(embedder, image)
    assert words in str(error.value)


def test_doubtful_faces_are_enrolled_only_by_force(tmp_path, run_command):
    model = export_folder(tmp_path, thresholds={'0.1': 0.5, '0.001': 0.999})
    place = ['--gallery', tmp_path / 'people', '--model', model]
    paths = {}
    for name, image in {
        'sharp': portrait(1),
        'other': portrait(2),
        'blurred': cv2.GaussianBlur(portrait(3), (0, 0), 5),
    }.items():
        paths[name] = tmp_path / f'{name}.png'
        paths[name].write_bytes(encoded(image, '.png'))
    crops = [*place, '--faces', 'crop']
    code, _, errors = run_command('gallery', 'enrol', 'Ada', paths['blurred'], *crops)
    assert code == 2 and 'below 0.3: the face is blurred' in errors and '--force' in errors
    assert not (tmp_path / 'people').exists()
    code, _, errors = run_command('gallery', 'enrol', 'Ada', paths['sharp'], paths['sharp'], *crops)
    assert code == 2 and 'given twice' in errors
    assert run_command('gallery', 'enrol', 'Ada', paths['sharp'], *crops)[0] == 0
    for name in ('Eve', 'Ada'):
        code, _, errors = run_command('gallery', 'enrol', name, paths['sharp'], *crops)
        assert code == 2 and "the same picture is enrolled as 'Ada' already" in errors
    # nearly the same picture: another file, the same person
    paths['again'] = tmp_path / 'again.png'
    again = portrait(1).copy()
    again[:2, :2] += 1
    paths['again'].write_bytes(encoded(again, '.png'))
    code, _, errors = run_command('gallery', 'enrol', 'Eve', paths['again'], *crops)
    assert code == 2 and "looks like 'Ada'" in errors and 'two names' in errors
    assert run_command('gallery', 'enrol', 'Ada', paths['again'], *crops)[0] == 0
    code, result, errors = run_command(
        'gallery', 'enrol', 'Eve', paths['sharp'], paths['blurred'], *crops, '--force'
    )
    assert code == 0 and len(result['doubts']) >= 2 and 'enrolled all the same' in errors
    assert result['pictures'][1]['quality'] < ENROL
    assert [picture['large_faces'] for picture in result['pictures']] == [1, 1]


def test_identify_says_first_who_it_is(tmp_path, run_command):
    model = export_folder(tmp_path, thresholds={'0.01': 0.99999})
    place = ['--gallery', tmp_path / 'people', '--model', model, '--faces', 'crop']
    paths = [tmp_path / f'{person}.png' for person in (1, 2)]
    for person, path in enumerate(paths, 1):
        path.write_bytes(encoded(portrait(person), '.png'))
    assert run_command('gallery', 'enrol', 'Ada', paths[0], *place)[0] == 0
    for path, verdict in zip(paths, ('Ada', 'nobody who is enrolled')):
        code, result, errors = run_command('gallery', 'identify', path, *place)
        assert code == 0 and result['gallery_faces'] == 1
        assert f'{path}: {verdict}; enrolled faces: 1; of strangers 1 %' in ' '.join(errors.split())
    assert run_command('gallery', 'remove', 'Ada', *place[:2])[0] == 0
    code, result, errors = run_command('gallery', 'identify', paths[0], *place)
    assert code == 0 and (result['matches'], result['gallery_faces']) == ([], 0)
    assert 'nobody is enrolled; `vargfacenet gallery enrol` adds people' in errors


def test_a_gallery_decides_for_its_size(tmp_path, run_command):
    model = export_folder(tmp_path, thresholds={'0.1': 0.5, '0.001': 0.7, '0.0001': 0.8})
    place = ['--gallery', tmp_path / 'people', '--model', model, '--faces', 'crop']
    (tmp_path / 'a.png').write_bytes(encoded(portrait(1), '.png'))
    for person in range(2, 12):
        path = tmp_path / f'{person}.png'
        path.write_bytes(encoded(portrait(person), '.png'))
        assert run_command('gallery', 'enrol', f'p{person}', path, *place, '--force')[0] == 0
    identify = ('gallery', 'identify', tmp_path / 'a.png', *place)
    _, result, errors = run_command(*identify)
    # ten faces at 1 % need a rate of 0.001 of one comparison, nearly
    assert (result['gallery_faces'], result['fpir']) == (10, 0.01)
    assert result['far'] == pytest.approx(0.001, rel=0.01)
    assert result['threshold'] == pytest.approx(0.7, abs=0.001) and 'strangers 1 %' in ' '.join(
        errors.split()
    )
    _, result, errors = run_command(*identify, '--fpir', 1e-5)
    assert result['threshold'] == 0.8 and 'tell no false-identification rate below' in errors
    assert result['fpir'] == pytest.approx(1 - 0.9999**10)
    _, result, _ = run_command(*identify, '--far', 0.1)
    assert result['threshold'] == 0.5 and result['fpir'] == pytest.approx(1 - 0.9**10)
    code, _, errors = run_command(*identify, '--far', 0.1, '--fpir', 0.1)
    assert code == 2 and 'leave out' in errors
    assert run_command(*identify, '--fpir', 1)[0] == 2
