import itertools
import threading

import pytest
from vargfacenet.common.parallel import ordered_map


@pytest.mark.parametrize('threads', [None, 1, 5])
def test_results_come_in_order(threads):
    assert list(ordered_map(lambda n: n * n, range(300), threads)) == [n * n for n in range(300)]


def test_items_are_consumed_only_a_little_ahead():
    taken = itertools.count()
    results = ordered_map(lambda n: n, (next(taken) for _ in itertools.count()), threads=2)
    assert [next(results) for _ in range(10)] == list(range(10))
    assert next(taken) < 100
    results.close()


def test_work_is_done_at_the_same_time():
    both = threading.Barrier(2, timeout=60)
    assert sorted(ordered_map(lambda _: both.wait(), range(2), threads=2)) == [0, 1]


def test_the_first_error_ends_it_and_stops_the_threads():
    before = threading.active_count()

    def fail(n):
        if n >= 3:
            raise ValueError(n)
        return n

    results = ordered_map(fail, range(1000), threads=3)
    assert [next(results) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(ValueError, match='3'):
        next(results)
    assert threading.active_count() == before
