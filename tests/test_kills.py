"""Six commands killed at random moments; `tests/kills.sh` kills fifty times."""

import pytest

JOBS = ('train', 'distill', 'teach', 'export', 'gallery', 'identify')


@pytest.mark.timeout(1200)
def test_what_was_killed_goes_on_to_what_a_whole_run_gives():
    pytest.importorskip('mxnet')
    import kills

    done = kills.run(len(JOBS), 1, JOBS)
    assert done.keys() == set(JOBS)
    assert sum(early for _, early in done.values()) >= len(JOBS) - 2  # not after their end
