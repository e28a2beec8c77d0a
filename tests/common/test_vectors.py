"""Unit length by the definition, and what becomes of rows that have none."""

import math

import numpy as np
import pytest
from vargfacenet.common.vectors import unit_rows


def test_rows_by_the_definition(rng):
    rows = rng.standard_normal((5, 7)).astype(np.float32) * 1e3
    units = unit_rows(rows)
    assert units.dtype == np.float64
    for row, unit in zip(rows, units):
        length = math.sqrt(math.fsum(float(x) ** 2 for x in row))
        assert unit == pytest.approx([float(x) / length for x in row], rel=1e-14)


def test_a_short_row_has_a_direction():
    # 3e-30 squared is below what float32 holds
    rows = np.array([[3e-30, 4e-30]], np.float32)
    assert unit_rows(rows)[0] == pytest.approx([0.6, 0.8], rel=1e-6)


def test_rows_without_a_direction_stay_or_are_named():
    rows = np.array([[3, 4], [0, 0], [np.nan, 1], [np.inf, 1]])
    units = unit_rows(rows)
    assert units[0] == pytest.approx([0.6, 0.8]) and not units[1].any()
    assert np.isnan(units[2]).all() and np.isnan(units[3, 0])
    with pytest.raises(KeyError, match=r'\[1, 2, 3\]'):
        unit_rows(rows, lambda bad: KeyError(bad.tolist()))
    with pytest.raises(KeyError, match=r'\[1\]'):
        unit_rows(rows[:2], lambda bad: KeyError(bad.tolist()))
