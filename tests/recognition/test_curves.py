"""The picture of a run: what is drawn, and where it lies."""

import json
import math

import cv2
import numpy as np
import pytest
from vargfacenet.recognition.curves import curves_of, plot_curves

ROW = {'loss': 2.0, 'accuracy': 0.25, 'learning_rate': 0.1}
HEIGHT, WIDTH = 420, 1440
TOP, BOTTOM = 0.12 * HEIGHT, 0.86 * HEIGHT  # of the axes


def sides(number):
    """(left, right) of the axes of one of the three pictures, between which is 0.22 of a width."""
    width = (0.99 - 0.05) / (3 + 2 * 0.22)
    left = 0.05 + 1.22 * width * number
    return WIDTH * left, WIDTH * (left + width)


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
    assert drawn(tmp_path, rows).shape == (HEIGHT, WIDTH, 3)


def test_a_line_lies_where_its_values_are(tmp_path):
    """Learning rates on a straight line, drawn from corner to corner but for the margins."""
    rows = [{'step': step, **ROW, 'learning_rate': 1 - step / 100} for step in range(0, 101, 5)]
    blue = (np.abs(drawn(tmp_path, rows).astype(int) - (31, 119, 180)) < 30).all(axis=2)
    left, right = sides(1)
    margin = 0.05 / 1.1  # of the axis, on each side
    part = np.linspace(0.01, 0.99, 200)
    x = left + (right - left) * (margin + part * (1 - 2 * margin))
    y = TOP + (BOTTOM - TOP) * (margin + part * (1 - 2 * margin))
    for column, row in zip(x.round().astype(int), y.round().astype(int)):
        assert blue[row - 2 : row + 3, column].any()
        assert not blue[row + 5 : int(BOTTOM), column].any()  # the legend lies above
    outside = blue.copy()
    outside[:, math.floor(left) : math.ceil(right)] = False
    assert not outside[:, math.floor(sides(0)[1]) : math.ceil(sides(2)[0])].any()


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
@pytest.mark.parametrize('title', ['$\\badcommand{x}$', '$\\alpha имя 人\n' + 100 * 'long '])
@pytest.mark.filterwarnings('ignore:Glyph')  # which no font of matplotlib's has
def test_any_history_is_drawn(rows, title, tmp_path):
    picture = drawn(tmp_path, rows, title)
    assert picture.shape == (HEIGHT, WIDTH, 3)
    for number in range(3):
        left, right = (round(side) for side in sides(number))
        frame = picture[round(BOTTOM) - 2 : round(BOTTOM) + 3, left + 4 : right - 4]
        # the axes are there, be it below a legend of 40 names
        assert (frame.max(axis=2) < 90).any(axis=0).mean() > 0.9
    assert (picture[: round(TOP) - 4] < 128).any()  # and the title


@pytest.mark.parametrize('names', [20, 41, 100])
def test_the_names_of_many_targets_stay_inside_the_axes(names, tmp_path):
    """Outside nothing differs from the picture of one target."""
    few, many = (
        drawn(tmp_path, [{'step': 1, **ROW, **{f'fold_{n}_accuracy': 0.5 for n in range(count)}}])
        for count in (1, names)
    )
    left, right = sides(2)
    inside = np.zeros((HEIGHT, WIDTH), bool)
    inside[round(TOP) : round(BOTTOM) + 2, round(left) : round(right) + 2] = True
    assert (few != many)[inside].any() and not (few != many)[~inside].any()
