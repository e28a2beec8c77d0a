"""Centres of several ranks (threads) as one file, and back on any number of ranks."""

import numpy as np
import pytest
from thread_ranks import on_ranks
from vargfacenet.common.errors import InputError
from vargfacenet.common.ranks import SingleRank
from vargfacenet.recognition.partial_fc import Centres, shards
from vargfacenet.recognition.partial_fc.centres_file import check_centres, read_blocks, shape_of

CLASSES, WIDTH = 5000, 4  # five blocks of a file


def of_rank(ranks, padded=True, classes=CLASSES, dtype='float32'):
    sharding = shards.Sharding(ranks, classes, padded)
    return Centres(sharding.mine.rows, WIDTH, dtype), sharding


def values(rows, seed):
    return np.random.default_rng(seed).standard_normal((rows, WIDTH)).astype(np.float32)


def write(path, size, padded=True):
    """A file by so many ranks; the centres and momenta that are in it."""
    rows = -(-CLASSES // size) * size if padded else CLASSES
    wanted = values(rows, 0), values(rows, 1)

    def work(ranks):
        centres, sharding = of_rank(ranks, padded)
        part = slice(sharding.mine.start, sharding.mine.start + sharding.mine.rows)
        centres.weights[:], centres.momenta[:] = wanted[0][part], wanted[1][part]
        shards.save(path, centres, sharding, {'fc7_progress': np.float32([0.5])})

    on_ranks(size, work)
    return wanted


@pytest.mark.parametrize('padded', [True, False])
@pytest.mark.parametrize(('before', 'after'), [(1, 1), (3, 3), (3, 1), (1, 3), (3, 2)])
def test_centres_are_read_back_on_any_number_of_ranks(before, after, padded, tmp_path):
    path = tmp_path / 'model-0001.centres'
    weights, momenta = write(path, before, padded)
    check_centres(path)
    assert shape_of(path) == (CLASSES, WIDTH)

    def work(ranks):
        centres, sharding = of_rank(ranks, padded)
        assert shards.resume(path, centres, sharding) == {'fc7_progress': np.float32([0.5])}
        return centres

    found = on_ranks(after, work)
    rows = len(weights) if before == after else CLASSES
    for array, name in ((weights, 'weights'), (momenta, 'momenta')):
        whole = np.concatenate([getattr(centres, name) for centres in found])
        np.testing.assert_array_equal(whole[:rows], array[:rows])
        assert not whole[rows:].any()  # what pads other shards is left as it is


def test_what_a_file_must_be(tmp_path):
    path = tmp_path / 'model-0001.centres'
    write(path, 1)
    assert [start for start, _ in read_blocks(path, 'momenta')] == [0, 1024, 2048, 3072, 4096]
    with pytest.raises(InputError, match=r'has centres of \(5000, 4\), this run \(4999, 4\)'):
        shards.resume(path, *of_rank(SingleRank(), classes=4999))
    with pytest.raises(InputError, match='has float32 centres, this run float16'):
        shards.resume(path, *of_rank(SingleRank(), dtype='float16'))
    whole = path.read_bytes()
    for cut in (0, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:cut])
        with pytest.raises(InputError, match='not a whole file of class centres'):
            check_centres(path)
    path.unlink()
    with pytest.raises(InputError, match='is missing'):
        check_centres(path)


@pytest.mark.parametrize('size', [1, 2])
def test_centres_go_with_the_names_of_their_classes(size):
    theirs = np.arange(12, dtype=np.float32).reshape(4, 3)
    rows = np.array([4, -1, 0, 2])  # theirs 0 is ours 4, theirs 1 is nobody here

    def work(ranks):
        sharding = shards.Sharding(ranks, 5, padded=True)
        centres = Centres(sharding.mine.rows, 3)
        centres.momenta[:] = 1
        blocks = iter([(0, theirs[:3]), (3, theirs[3:])])
        found = ((4, 3), blocks) if ranks.rank == 0 else None
        return shards.adopt(centres, sharding, found, rows, None), centres

    found = on_ranks(size, work)
    assert [taken for taken, _ in found] == [3] * size
    weights = np.concatenate([centres.weights for _, centres in found])[:5]
    momenta = np.concatenate([centres.momenta for _, centres in found])[:5]
    np.testing.assert_array_equal(weights[[4, 0, 2]], theirs[[0, 2, 3]])
    assert not weights[[1, 3]].any() and momenta[[1, 3]].all()
    assert not momenta[[4, 0, 2]].any()
