"""The set-to-set loss against a loop from its definition, and heads that find what is drawn."""

import numpy as np
import pytest
from vargfacenet.common.errors import InputError
from vargfacenet.eval.quality_head import QualityHead, features, load_head
from vargfacenet.eval.video_sets import VideoSet
from vargfacenet.recognition.quality import train_head
from vargfacenet.recognition.set_loss import MOST_SCALE, FrameSets, set_loss


def drawn_sets(rng, people=(0, 0, 1, 1, 1, 2), size=6):
    counts = rng.randint(1, 5, len(people))
    units = rng.standard_normal((counts.sum(), size))
    units /= np.linalg.norm(units, axis=1, keepdims=True)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    return FrameSets(units, starts, np.array(people)), rng.standard_normal(len(units))


def loss_of_the_definition(sets, qualities, scale):
    ends = [*sets.starts[1:], len(sets.units)]
    videos = []
    for start, end in zip(sets.starts, ends):
        total = sum(np.exp(qualities[k]) * sets.units[k] for k in range(start, end))
        videos.append(total / np.linalg.norm(total))
    of_people = {}
    for i, a in enumerate(videos):
        for j, b in enumerate(videos):
            if i == j or sets.people[i] != sets.people[j]:
                continue
            others = sum(
                np.exp(scale * (a @ c))
                for c, who in zip(videos, sets.people)
                if who != sets.people[i]
            )
            mine = np.exp(scale * (a @ b))
            of_people.setdefault(sets.people[i], []).append(-np.log(mine / (mine + others)))
    return np.mean([np.mean(losses) for losses in of_people.values()])


@pytest.mark.parametrize('scale', [1.0, 8.0, 32.0])
def test_the_loss_is_its_definition_and_its_gradient_its_slope(scale, rng):
    sets, qualities = drawn_sets(rng)
    loss, gradient = set_loss(sets, qualities, scale)
    np.testing.assert_allclose(loss, loss_of_the_definition(sets, qualities, scale), rtol=1e-10)
    step = 1e-6
    for frame in range(len(qualities)):
        moved = step * (np.arange(len(qualities)) == frame)
        above, below = (
            loss_of_the_definition(sets, qualities + sign * moved, scale) for sign in (1, -1)
        )
        np.testing.assert_allclose(gradient[frame], (above - below) / (2 * step), atol=1e-7)


def test_large_scales_and_qualities_stay_finite(rng):
    sets, qualities = drawn_sets(rng)
    loss, gradient = set_loss(sets, 1e4 * qualities, MOST_SCALE)
    assert np.isfinite(loss) and np.isfinite(gradient).all()


def noisy_videos(rng, people, first=0, size=24):
    """Bad frames have half of a direction of their own, as dark faces have, and no identity."""
    bad_direction = np.eye(size)[0]
    rows, owner, whose = [], [], []
    for person in range(people):
        identity = np.append(0, rng.standard_normal(size - 1))
        for _ in range(3):
            for frame in range(6):
                noise = 0.4 * rng.standard_normal(size)
                clear = identity + noise
                bad = 4 * bad_direction + 0.8 * rng.standard_normal(size)
                rows.append(bad if frame % 3 else clear)
                owner.append(len(whose))
            whose.append(person)
    names = tuple(f'p{first + person}' for person in range(people))
    none = np.empty((len(rows), 0), np.float32)
    return VideoSet(np.array(rows, np.float32), none, np.array(owner), np.array(whose), names)


def test_a_head_tells_bad_frames_of_people_it_has_not_seen(rng, tmp_path):
    head, known = train_head(noisy_videos(rng, 12), 'model', 32.0, 0)
    assert known['held_out_loss'] < 0.5 * known['held_out_loss_of_the_mean']
    others = noisy_videos(rng, 10, first=100)
    qualities = head(None, others.embeddings)
    bad = np.arange(len(qualities)) % 3 != 0
    # the share of pairs of a clear and a bad frame that it puts in order
    ordered = (qualities[~bad][:, None] > qualities[bad]).mean()
    assert ordered > 0.95
    again, _ = train_head(noisy_videos(np.random.RandomState(20191011), 12), 'model', 32.0, 0)
    np.testing.assert_array_equal(again.weight, head.weight)


class Model:
    name, fingerprint, embedding_size = 'm', 'model', 4


def test_a_head_in_a_file_belongs_to_one_model(rng, tmp_path):
    head = QualityHead(rng.standard_normal(5), 'model', ('ann', 'bob'))
    head.save(tmp_path / 'head.npz')
    loaded = load_head(tmp_path / 'head.npz', Model)
    np.testing.assert_array_equal(loaded.weight, head.weight)
    assert loaded.people == head.people
    rows = rng.standard_normal((7, 4)).astype(np.float32)
    lengths = np.linalg.norm(rows.astype(np.float64), axis=1)
    expected = [
        sum(w * x for w, x in zip(head.weight, row / length)) + head.weight[4] * np.log(length)
        for row, length in zip(rows.astype(np.float64), lengths)
    ]
    np.testing.assert_allclose(loaded(None, rows), expected, rtol=1e-5)
    with pytest.raises(InputError, match='length 1'):
        loaded(None, rows / lengths[:, None])
    with pytest.raises(InputError, match='zero or not finite'):
        features(np.zeros((1, 4)))
    for fingerprint, size in (('other', 4), ('model', 5)):
        other = type('Other', (), {'name': 'o', 'fingerprint': fingerprint, 'embedding_size': size})
        with pytest.raises(InputError, match='another model'):
            load_head(tmp_path / 'head.npz', other)
    np.savez(tmp_path / 'x.npz', embeddings=rows)
    with pytest.raises(InputError, match='no quality head'):
        load_head(tmp_path / 'x.npz', Model)
