"""Pooling of frames against the QAN++ authors' own run, float64 loops and what it must obey."""

import numpy as np
import pytest
from conftest import DATA
from vargfacenet.eval.pooling import POOLINGS

ALL = POOLINGS.names()
SAFE = [name for name in ALL if name != 'qan++']


def frames(rng, count, size=8):
    embeddings = rng.standard_normal((count, size)).astype(np.float32)
    return embeddings, rng.standard_normal(count).astype(np.float32)


@pytest.mark.parametrize('name', ['qan++', 'qan++-safe'])
def test_qan_is_what_the_authors_script_computes(name):
    """Row i is line i of the frame list; a frame's video is the second part of its path."""
    golden = np.load(DATA / 'qan_aggregation.npz')
    owners = np.array([path.split('/')[1] for path in golden['frame_list']])
    counts = []
    for video, expected in zip(golden['video_list'], golden['out']):
        rows = np.flatnonzero(owners == video.split(' ')[0])
        counts.append(len(rows))
        pooled = POOLINGS.get(name)(golden['feat'][rows], golden['quality'][rows])
        assert pooled.dtype == np.float32
        if name == 'qan++' or len(rows) > 2 or (golden['quality'][rows] >= 0).all():
            np.testing.assert_allclose(pooled, expected, rtol=2e-6, atol=1e-6)
    assert max(counts) > 2 and min(counts) <= 2


@pytest.mark.parametrize('count', [1, 2, 3, 7])
def test_weights_are_those_of_the_definitions(count, rng):
    embeddings, qualities = frames(rng, count)
    qualities = np.abs(qualities)
    q = qualities.astype(np.float64)
    lengths = [float(np.sqrt(sum(float(x) ** 2 for x in row))) for row in embeddings]
    stretched = (q - q.min()) / (q.max() - q.min()) if count > 2 else q
    units = {name: [1 / length for length in lengths] for name in ('mean', 'softmax')}
    weights = {
        'mean': np.ones(count),
        'norm': np.ones(count),
        'best': q == q.max(),
        'softmax': np.exp(q),
        'qan++': stretched,
        'qan++-safe': stretched,
    }
    assert sorted(weights) == ALL
    for name, weight in weights.items():
        expected = np.zeros(8)
        for row in range(count):
            scale = units[name][row] if name in units else 1.0
            expected += weight[row] * scale * embeddings[row].astype(np.float64)
        expected /= weight.sum()
        pooled = POOLINGS.get(name)(embeddings, qualities)
        np.testing.assert_allclose(pooled, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('name', ALL)
def test_the_order_of_frames_does_not_matter(name, rng):
    embeddings, qualities = frames(rng, 9)
    order = rng.permutation(9)
    pooled = POOLINGS.get(name)(embeddings, qualities)
    again = POOLINGS.get(name)(embeddings[order], qualities[order])
    np.testing.assert_allclose(pooled, again, rtol=1e-5, atol=1e-6)


HAZARDS = ([0.5] * 4, [-0.5] * 4, [0, 0], [0], [1, -1], [-1], [-2, -0.5])


@pytest.mark.parametrize('qualities', HAZARDS, ids=str)
def test_the_safe_form_is_defined_where_the_published_one_is_not(qualities, rng):
    embeddings, _ = frames(rng, len(qualities))
    q = np.array(qualities, np.float32)
    published = POOLINGS.get('qan++')(embeddings, q)
    kept = q > 0 if (q > 0).any() and len(q) <= 2 else np.ones(len(q), bool)
    expected = embeddings[kept].mean(axis=0)
    np.testing.assert_allclose(POOLINGS.get('qan++-safe')(embeddings, q), expected, rtol=1e-5)
    for name in SAFE:
        assert np.isfinite(POOLINGS.get(name)(embeddings, q)).all()
    if q.sum() == 0 or len(q) > 2:
        assert not np.isfinite(published).any()
