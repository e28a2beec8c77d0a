"""Measuring in turn, and the arithmetic of what is measured."""

import subprocess
import sys
import time
from functools import partial

import pytest
from matplotlib.figure import Figure
from vargfacenet.common.engine import ops
from vargfacenet.common.errors import InputError
from vargfacenet.deploy.bench import measure


def test_candidates_take_turns_and_the_short_one_runs_more_often(monkeypatch):
    """By a clock of its own, which only the calls move."""
    order, now = [], 0.0

    def call(name, seconds):
        nonlocal now
        order.append(name)
        now += seconds

    monkeypatch.setattr(measure, 'repeated', partial(measure.repeated, clock=lambda: now))
    times = measure.in_turn(
        {'slow': lambda: call('slow', 1 / 32), 'fast': lambda: call('fast', 1 / 256)},
        seconds=0,
        slice_seconds=5 / 256,
        min_rounds=4,
    )
    # one of each that does not count, then rounds
    assert order == ['slow', 'fast'] + 4 * ['slow', *['fast'] * 5]
    assert times['slow'].seconds == (1 / 32,) * 4 and times['fast'].seconds == (1 / 256,) * 4
    assert measure.faster(times['slow'], times['fast']) == measure.Ratio(8.0, 8.0, 8.0)


def test_a_call_takes_the_seconds_of_the_clock():
    seconds = measure.repeated(lambda: time.sleep(0.005))(0.02)
    assert all(0.005 <= each < 60 for each in seconds) and sum(seconds) >= 0.02


def test_ratios_are_taken_round_by_round():
    """A machine that slows down to a half in the middle changes no ratio."""
    slow, fast = measure.Timing((4.0, 8.0, 8.0)), measure.Timing((1.0, 2.0, 2.0))
    assert measure.faster(slow, fast) == measure.Ratio(4.0, 4.0, 4.0)
    assert measure.faster(slow, fast, slow_items=16, fast_items=32).median == 8.0


def test_the_rate_is_of_the_median():
    timing = measure.Timing(tuple(x / 100 for x in range(1, 101)))
    assert timing.summary(10)['per_second'] == pytest.approx(10 / 0.505)


def test_peak_memory_is_of_this_process_alone():
    """A child does not inherit the peak of its parent, and sees its own allocations."""
    held = bytearray(300 << 20)
    code = (
        'from vargfacenet.deploy.bench.measure import peak_memory as p; a = p(); '
        'x = bytearray(100 << 20); print(a, p() - a)'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    before, grown = map(int, done.stdout.split())
    assert before < 250 << 20 < measure.peak_memory()
    assert 95 << 20 < grown < 120 << 20
    assert len(held)


@pytest.mark.skipif(not ops.available(), reason='needs a C++ compiler')
def test_the_peak_is_above_what_a_product_reaches():
    """No matrix product does more than the registers allow."""
    import numpy as np

    a = np.ones((512, 512), np.float32)
    best = peak = 0.0
    for _ in range(40):  # in turn, and as short: now and then other work leaves both alone
        started = time.process_time()  # of all threads, so that this is the rate of one core
        a @ a
        best = max(best, 2 * 512**3 / (time.process_time() - started) / 1e9)
        peak = max(peak, ops.peak_gflops(1, 0.02))
    assert peak > 0.8 * best > 1


@pytest.mark.parametrize('text', ['', 'a', '1,', '0', '4,-1'])
def test_numbers_that_are_none_are_named(text):
    with pytest.raises(InputError, match='--batches'):
        measure.check_numbers(text, '--batches')


def test_a_picture_of_numbers_and_of_names(tmp_path, monkeypatch):
    """Numbers over hundreds have logarithmic axes, names and others have not."""
    figures, save = [], Figure.savefig

    def noted(figure, *words, **named):
        figures.append(figure)
        save(figure, *words, **named)

    monkeypatch.setattr(Figure, 'savefig', noted)
    few = [1, 10], [1.0, 2.0]
    lines = {'a': ([1, 1000], [1.0, 2.0])}, {'b': (['plain', 'stored'], [1.0, 2.0])}, {'c': few}
    measure.plot_lines(tmp_path / 'a.png', [('title', 'x', 'y', line) for line in lines])
    scales = [(axis.get_xscale(), axis.get_yscale()) for axis in figures[0].axes]
    assert scales == [('log', 'log'), ('linear', 'linear'), ('linear', 'linear')]
    assert (tmp_path / 'a.png').read_bytes().startswith(b'\x89PNG')
