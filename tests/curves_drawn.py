"""The pictures of small runs, which take as long to draw as the runs take to train."""

import math

import pytest
from vargfacenet.common.history import read_history
from vargfacenet.recognition import hooks
from vargfacenet.recognition.curves import plot_curves

_drawn = set()  # (title, rows) of the histories that this process has drawn


def _held(row):
    """What a row has, and which of it is no finite number."""
    return tuple((name, '' if math.isfinite(x) else str(x)) for name, x in sorted(row.items()))


@pytest.fixture(autouse=True)
def alike_are_drawn_once(monkeypatch):
    """Runs of one title whose rows hold the same, one by one, differ in `curves.png` only by the
    height of their lines: the first of them is drawn."""

    def plot(folder, title):
        held = title, tuple(map(_held, read_history(folder)))
        if held not in _drawn:
            plot_curves(folder, title)
            _drawn.add(held)

    monkeypatch.setattr(hooks, 'plot_curves', plot)
