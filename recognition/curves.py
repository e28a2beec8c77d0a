"""A picture of a run: loss, learning rate and verification accuracy over its steps.

Drawn with OpenCV and Pillow in the hundredth of a second. matplotlib, which the report's figures
are made with, takes half a second to load and draw these, at the end of every run.
"""

import functools
import importlib.util
import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from ..common.files import atomic_path
from ..common.history import read_history

_LOGGED = {'loss', 'learning_rate', 'accuracy'}  # what a row of training holds
_LOSSES = ('loss', 'class_loss', 'distill_loss')
_SUFFIX = '_accuracy'  # of what is logged of a target

_WIDTH, _HEIGHT = 1440, 420  # pixels
_TOP, _BOTTOM = 96, 362  # of the three pictures
_SIDES = ((72, 460), (545, 933), (1032, 1420))  # left and right of each
_MARGIN = 0.05  # of the values, which is left free above and below them
_TICKS = 6  # along an axis, at most
_STEPS = (1, 2, 2.5, 5, 10)  # between ticks, times a power of ten
_INK, _GRID = (0, 0, 0), (222, 222, 222)  # RGB
# Okabe and Ito's, which the colour-blind can tell apart
_COLOURS = ((0, 114, 178), (213, 94, 0), (0, 158, 115), (204, 121, 167), (230, 159, 0))
_LETTERS, _TITLE = 14, 18  # pixels
_ROW = 18  # pixels from one row of a legend to the next
_ROWS = 2  # of a legend, at most: above them are the title and what is drawn
_LARGEST = 1e100  # of what is drawn
_SUBPIXELS = 4  # bits of a pixel's fraction


class Line(NamedTuple):
    """A line of a picture: `values` over `steps`."""

    label: str
    steps: Sequence[int]
    values: Sequence[float]
    marker: str = ''


class Curves(NamedTuple):
    """The lines of the three pictures."""

    losses: list[Line]
    rates: list[Line]
    accuracies: list[Line]  # %


def _line(rows: Sequence[dict], name: str, label: str, scale: int = 1, marker: str = '') -> Line:
    """What those of the rows say that hold such a value."""
    rows = [row for row in rows if name in row]
    values = [scale * row[name] for row in rows]
    return Line(label, [row['step'] for row in rows], values, marker)


def curves_of(rows: Sequence[dict]) -> Curves:
    """What is to be drawn of a history, as `read_history` gives it."""
    logged = [row for row in rows if row.keys() >= _LOGGED]
    targets = sorted({name for row in rows for name in row if name.endswith(_SUFFIX)})
    losses = [_line(logged, name, name.replace('_', ' ')) for name in _LOSSES]
    verified = (_line(rows, name, name.removesuffix(_SUFFIX), 100, marker='o') for name in targets)
    return Curves(
        [line for line in losses if line.steps],
        [_line(logged, 'learning_rate', 'learning rate')],
        [_line(logged, 'accuracy', 'training', 100), *verified],
    )


def ticks(low: float, high: float) -> list[float]:
    """At most _TICKS round numbers at equal distances that are not outside `low` to `high`."""
    power = 10.0 ** math.floor(math.log10((high - low) / _TICKS))
    step = next(step * power for step in _STEPS if (high - low) / (step * power) < _TICKS)
    return [step * n for n in range(math.ceil(low / step), math.floor(high / step) + 1)]


def _is_drawn(value: float) -> bool:
    return abs(value) < _LARGEST  # which NaN is not


def _span(values: Sequence[float], *also: float) -> tuple[float, float]:
    """(lowest, highest) of an axis on which these and the others are to be seen."""
    drawn = [value for value in (*values, *also) if _is_drawn(value)] or [0.0]
    low, high = min(drawn), max(drawn)
    if high - low <= max(
        1e-9 * max(abs(low), abs(high)), 1e-300
    ):  # a single value lies in the middle
        return low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    free = _MARGIN * (high - low)
    return low - free, high + free


@functools.cache
def _font(size: int):
    """matplotlib's font, which has many alphabets, without matplotlib."""
    from PIL import ImageFont

    (folder,) = importlib.util.find_spec('matplotlib').submodule_search_locations
    file = Path(folder, 'mpl-data', 'fonts', 'ttf', 'DejaVuSans.ttf')
    # where another matplotlib keeps its fonts elsewhere, Pillow has one of its own
    return ImageFont.truetype(str(file), size) if file.exists() else ImageFont.load_default(size)


class _Picture:
    """The picture while it is drawn: lines by OpenCV, which smooths them, letters by Pillow."""

    def __init__(self):
        self.pixels = np.full((_HEIGHT, _WIDTH, 3), 255, np.uint8)
        self._texts: list[tuple] = []

    def line(self, points: np.ndarray, colour: tuple, width: int = 1) -> None:
        """Through (N, 2) points x, y in pixels."""
        fixed = np.round(points * (1 << _SUBPIXELS)).astype(np.int32)
        cv2.polylines(self.pixels, [fixed], False, colour, width, cv2.LINE_AA, _SUBPIXELS)

    def dot(self, point: np.ndarray, colour: tuple) -> None:
        x, y = np.round(point * (1 << _SUBPIXELS)).astype(int).tolist()
        cv2.circle(self.pixels, (x, y), 4 << _SUBPIXELS, colour, -1, cv2.LINE_AA, _SUBPIXELS)

    def text(self, x: float, y: float, text: str, anchor: str, size: int = _LETTERS) -> None:
        """On one line; `anchor` says which point of it lies there, as in Pillow."""
        self._texts.append(((x, y), ' '.join(text.split()), anchor, size))

    def png(self) -> bytes:
        from PIL import Image, ImageDraw

        image = Image.fromarray(self.pixels)
        draw = ImageDraw.Draw(image)
        for place, text, anchor, size in self._texts:
            draw.text(place, text, _INK, _font(size), anchor)
        return cv2.imencode('.png', np.asarray(image)[..., ::-1])[1].tobytes()


def _axes(
    picture: _Picture, sides: tuple[int, int], lines: Sequence[Line], also: Sequence[float] = ()
) -> None:
    """Draw one of the three pictures; `also` are values that are to be seen beside the lines'."""
    left, right = sides
    steps = _span([step for line in lines for step in line.steps])
    values = _span([value for line in lines for value in line.values], *also)

    def across(step: float) -> float:
        return left + (right - left) * (step - steps[0]) / (steps[1] - steps[0])

    def down(value: float) -> float:
        return _BOTTOM - (_BOTTOM - _TOP) * (value - values[0]) / (values[1] - values[0])

    for step in ticks(*steps):
        picture.line(np.array([(across(step), _TOP), (across(step), _BOTTOM)]), _GRID)
        picture.text(across(step), _BOTTOM + 6, f'{step:g}', 'mt')
    for value in ticks(*values):
        picture.line(np.array([(left, down(value)), (right, down(value))]), _GRID)
        picture.text(left - 6, down(value), f'{value:g}', 'rm')
    corners = ((left, _TOP), (right, _TOP), (right, _BOTTOM), (left, _BOTTOM), (left, _TOP))
    picture.line(np.array(corners), _INK)
    picture.text((left + right) / 2, _HEIGHT - 12, 'step', 'mb')
    _legend(picture, sides, [line.label for line in lines])
    for line, colour in zip(lines, itertools.cycle(_COLOURS)):
        pairs = [pair for pair in zip(line.steps, line.values) if all(map(_is_drawn, pair))]
        points = np.array([(across(step), down(value)) for step, value in pairs]).reshape(-1, 2)
        picture.line(points, colour, 2)
        for point in points if line.marker or len(points) == 1 else ():
            picture.dot(point, colour)


def _legend(picture: _Picture, sides: tuple[int, int], labels: Sequence[str]) -> None:
    """The colours' labels in rows over one of the pictures; those that find no room are counted."""
    left, right = sides
    place, number = left, 0
    placed = []
    for label, colour in zip(labels, itertools.cycle(_COLOURS)):
        width = 28 + _font(_LETTERS).getlength(label)
        if place + width > right and place > left:
            place, number = left, number + 1
        placed.append((place, number, label, colour))
        place += width + 16
    shown = [each for each in placed if each[1] < _ROWS]
    last = shown[-1][1] if shown else 0
    if len(shown) < len(placed):
        picture.text(
            right, _TOP - 13 - _ROW * (last + 1), f'and {len(placed) - len(shown)} more', 'rm'
        )
    for place, number, label, colour in shown:
        y = _TOP - 13 - _ROW * (last - number)
        picture.line(np.array([(place, y), (place + 22, y)]), colour, 2)
        picture.text(place + 28, y, label, 'lm')


def plot_curves(folder: Path, title: str) -> Path:
    """Draw the history of the run in `folder` as `curves.png` beside it; returns its path."""
    curves = curves_of(read_history(folder))
    picture = _Picture()
    picture.text(_WIDTH / 2, 8, title, 'mt', _TITLE)
    _axes(picture, _SIDES[0], curves.losses, also=(0,))
    _axes(picture, _SIDES[1], curves.rates)
    _axes(picture, _SIDES[2], curves.accuracies)
    picture.text(_SIDES[2][0], 30, 'accuracy (%)', 'lt')
    path = Path(folder) / 'curves.png'
    with atomic_path(path) as temporary:
        Path(temporary).write_bytes(picture.png())
    return path
