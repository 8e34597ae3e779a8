"""Corrections of predictions between trainings, by the errors of windows that had ended by then."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.correction import BOUND, correction

WINDOW_S = 10.0


def windows(count: int, cells: int = 2, requests: float = 1000.0) -> pd.DataFrame:
    """A row for every window and cell, in order of time."""
    times = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.repeat(np.arange(count), cells) * WINDOW_S, "s")
    names = [f"host-{number}" for number in range(cells)] * count
    return pd.DataFrame({"time": times, "host": names, "category": "GET /", "requests": requests})


def test_a_cell_that_the_model_is_wrong_about_is_corrected_and_others_are_not():
    test = windows(50)
    actual = np.tile([0.2, 0.0], 50)
    added = correction(test, np.zeros(100), actual, 300.0).reshape(50, 2)
    assert added[0].tolist() == [0.0, 0.0]  # nothing had ended
    assert added[-1] == pytest.approx([0.2, 0.0], abs=0.01)


def test_a_correction_is_bounded_and_forgotten():
    test, actual = windows(300, 1), np.r_[np.full(100, 5.0), np.full(200, np.nan)]
    added = correction(test, np.zeros(300), actual, 100.0)
    assert added[100] == BOUND
    assert abs(added[-1]) < 0.01


@given(st.integers(1, 19), st.lists(st.floats(-1, 1), min_size=20, max_size=20))
def test_a_correction_knows_nothing_of_its_own_window_or_later(cut, errors):
    test, actual = windows(20, 1), np.array(errors)
    changed = np.where(np.arange(20) >= cut, -actual, actual)
    before, after = (correction(test, np.zeros(20), each, 60.0) for each in (actual, changed))
    np.testing.assert_array_equal(before[: cut + 1], after[: cut + 1])
