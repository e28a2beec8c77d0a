"""The picture of a run: what is drawn, and where it lies."""

import json
import math

import cv2
import numpy as np
import pytest
from vargfacenet.recognition import curves
from vargfacenet.recognition.curves import _COLOURS, _SIDES, curves_of, plot_curves, ticks

ROW = {'loss': 2.0, 'accuracy': 0.25, 'learning_rate': 0.1}


def drawn(folder, rows, title='a run'):
    """(420, 1440, 3) RGB of what is drawn of the rows of a history."""
    (folder / 'history.jsonl').write_text('\n'.join(map(json.dumps, rows)))
    return cv2.imread(str(plot_curves(folder, title)))[..., ::-1]


def test_a_curve_has_the_rows_that_hold_its_value(tmp_path):
    """A run that goes on with another loss logs more than it did; a verification is a row too."""
    rows = [{'step': 1, **ROW}, {'step': 2, **ROW, 'class_loss': 1.5}, {'step': 2, 'a_accuracy': 1}]
    curves = curves_of(rows)
    assert [line.label for line in curves.losses] == ['loss', 'class loss']
    assert curves.losses[1] == ('class loss', [2], [1.5], '')
    assert curves.accuracies == [('training', [1, 2], [25, 25], ''), ('a', [2], [100], 'o')]
    assert drawn(tmp_path, rows).shape == (420, 1440, 3)


def test_ticks_are_few_round_and_inside():
    random = np.random.RandomState(3)
    for _ in range(2000):
        low = random.randn() * 10.0 ** random.randint(-6, 7)
        high = low + 10.0 ** random.uniform(-4, 7) * max(abs(low), 1e-3)
        found = ticks(low, high)
        assert 2 <= len(found) <= 6
        step = found[1] - found[0]
        np.testing.assert_allclose(np.diff(found), step, rtol=1e-6)
        assert low - 1e-9 * step <= found[0] and found[-1] <= high + 1e-9 * step
        digits = step / 10.0 ** math.floor(math.log10(step) + 1e-9)
        assert min(abs(digits - known) for known in (1, 2, 2.5, 5)) < 1e-6


def test_a_line_lies_where_its_values_are(tmp_path):
    """Learning rates on a straight line: its pixels lie on one, from corner to corner but for the
    margins, and the colour is in the legend too."""
    rows = [{'step': step, **ROW, 'learning_rate': 1 - step / 100} for step in range(0, 101, 5)]
    picture = drawn(tmp_path, rows)
    left, right = _SIDES[1]
    pixels = (picture == _COLOURS[0]).all(axis=2)
    pixels[:, :left], pixels[:, right:] = False, False
    y, x = np.nonzero(pixels[96:362])
    assert len(set(x)) > 0.9 * (right - left)
    slope, start = np.polyfit(x, y, 1)
    assert abs(y - (slope * x + start)).max() < 2
    margin = 0.05 / 1.1  # of the axis, on each side
    assert abs(x.min() - left - margin * (right - left)) < 2
    assert abs(y.min() - margin * (362 - 96)) < 2
    assert pixels[70:96].any() and not pixels[362:].any()


@pytest.mark.parametrize(
    'rows',
    [
        [],
        [{'step': 5, **ROW}],
        [{'step': step, **ROW} for step in range(3)],
        [{'step': 1, **ROW, 'loss': 1e300}, {'step': 2, **ROW, 'loss': math.nan}],
        [{'step': 10**30, **ROW}, {'step': 1, **ROW, 'loss': -1e99, 'accuracy': 1e99}],
        [{'step': 1, **ROW, 'loss': 1e-300}, {'step': 2, **ROW, 'loss': 1.0000001e-300}],
        [{'step': 1, **ROW, **{f'{n}-fold target_accuracy': 0.5 for n in range(40)}}],
    ],
)
def test_any_history_is_drawn(rows, tmp_path):
    picture = drawn(tmp_path, rows, title='$\\alpha имя 人\n' + 100 * 'long ')
    frame = picture[96, _SIDES[0][0] : _SIDES[0][1]]
    assert (frame < 60).all()  # the axes are there


def test_labels_without_room_are_counted(monkeypatch, tmp_path):
    told = []
    monkeypatch.setattr(
        curves._Picture, 'text', lambda self, x, y, text, *_: told.append((y, text))
    )
    rows = [{'step': 1, **ROW, **{f'{n}-fold target_accuracy': 0.5 for n in range(40)}}]
    drawn(tmp_path, rows)
    named = [y for y, text in told if 'fold' in text or text == 'training']
    (more,) = [text for _, text in told if text.startswith('and ')]
    assert more == f'and {41 - len(named)} more' and len(named) > 3
    heading = next(y for y, text in told if text == 'accuracy (%)')
    assert min(named) > heading + 14
    told.clear()
    drawn(tmp_path, [{'step': 1, **ROW}])
    assert not [text for _, text in told if text.startswith('and ')]
