"""Live errors as a sign of drift: none where nothing changed, soon where the model is wrong for good."""

import numpy as np
import pandas as pd
import pytest

from fingerpost.abtest.drift.live import LIVE_TARGETS, first_alarm, live_signs
from fingerpost.clock import US
from fingerpost.features.definition import NAIVE_COLUMNS, TARGETS
from fingerpost.serving.live_errors import ALL, live_error_table, live_errors

HOSTS, CATEGORIES, BEGAN_US = 8, ("a", "b", "c", "d"), 1_790_000_000 * US
RATIO = 1.5


class Telemetry:
    """Windows of a fleet whose speeds wander together, window by window, beside what a model says of them.

    Args:
        requests: of a cell in a window, on average: what is measured of few is far off by chance.
        wrong: logs that the model is off by, and at how many of the categories.
        surprise: standard deviation of what nobody can predict, beside what stays for a while.
    """

    def __init__(self, seed, windows, requests=30.0, wrong=0.0, categories=0, surprise=0.0):
        rng = np.random.default_rng(seed)
        shape = (windows, HOSTS, len(CATEGORIES))
        wander = np.zeros(windows)
        for number in range(1, windows):
            wander[number] = 0.95 * wander[number - 1] + rng.normal(0, 0.1)
        self.truth = wander[:, None, None] + rng.normal(0, 0.5, shape[1:])
        # What a window is off by stays for a while.
        unseen = rng.normal(0, 0.1, shape)
        for number in range(1, windows):
            unseen[number] = 0.7 * unseen[number - 1] + unseen[number]
        self.requests = rng.poisson(requests, shape) + 0.0
        chance = rng.normal(0, 1, shape) / np.sqrt(np.maximum(self.requests, 1))
        self.measured = self.truth + unseen + chance + rng.normal(0, surprise, shape)
        self.model = self.truth + wrong * (np.arange(len(CATEGORIES)) < categories)
        self.naive = np.roll(self.measured, 1, axis=0)

    def targets(self, values):
        return np.repeat(values[..., None], len(TARGETS), axis=-1)

    def rows(self):
        """As training rows."""
        windows = len(self.truth)
        time, host, category = (each.reshape(-1) for each in np.indices(self.truth.shape))
        frame = pd.DataFrame({"time": pd.to_datetime(BEGAN_US + time * 10 * US, unit="us", utc=True)})
        frame["host"], frame["category"] = [f"h{each}" for each in host], [CATEGORIES[each] for each in category]
        frame["requests"] = self.requests.reshape(-1)
        frame[[*TARGETS]] = np.repeat(self.measured.reshape(-1, 1), len(TARGETS), axis=1)
        frame[[*NAIVE_COLUMNS]] = np.repeat(self.naive.reshape(-1, 1), len(NAIVE_COLUMNS), axis=1)
        frame["said"] = self.model.reshape(-1)
        return frame[frame["time"] > frame["time"].min()] if windows > 1 else frame

    def live(self):
        """As engines write it."""
        found = [
            live_errors(
                BEGAN_US + number * 10 * US, "1", CATEGORIES, self.requests[number],
                *(self.targets(each[number]) for each in (self.measured, self.model, self.naive)),
            )
            for number in range(1, len(self.truth))
        ]  # fmt: skip
        return live_error_table("shop", found).to_pandas()


def predict(rows):
    return {target: rows["said"].to_numpy() for target in TARGETS}


def signs_of(tested, live):
    return live_signs(tested.rows(), predict, live.live(), RATIO)


@pytest.mark.parametrize("change", [{}, {"requests": 4.0}, {"surprise": 0.5}, {"requests": 300.0}])
def test_no_sign_where_the_model_is_as_right_as_it_was(change):
    """Nor at night, with an eighth of the requests, nor where nobody can predict as much as before."""
    for seed in range(10):
        found = signs_of(Telemetry(seed, 60), Telemetry(100 + seed, 360, **change))
        assert len(found) == len(LIVE_TARGETS) * (1 + len(CATEGORIES))
        assert not [each.text() for each in found if each.found]


def test_a_model_that_is_wrong_for_good_is_told_within_minutes():
    for seed in range(10):
        found = signs_of(Telemetry(seed, 60), Telemetry(100 + seed, 60, wrong=np.log(3), categories=4))
        whole = [each for each in found if each.found and each.category == ALL]
        assert [each.target for each in whole] == [*LIVE_TARGETS]
        # All of them, from the first window on.
        assert whole[0].since_us == BEGAN_US + 10 * US
        assert whole[0].error > whole[0].high >= RATIO * whole[0].low
        assert "beyond what it was tested with" in whole[0].text()


def test_a_category_that_is_wrong_is_named():
    found = signs_of(Telemetry(1, 60), Telemetry(2, 120, wrong=np.log(2), categories=1))
    assert {each.category for each in found if each.found} - {ALL} == {"a"}
    assert any("of 'a' is" in each.text() for each in found)


def test_what_is_over_is_no_sign():
    wrong, right = Telemetry(2, 60, wrong=np.log(3), categories=4), Telemetry(3, 200)
    rows = pd.concat([wrong.live(), right.live().assign(time=lambda each: each["time"] + pd.Timedelta("1h"))])
    assert not [each for each in live_signs(Telemetry(1, 60).rows(), predict, rows, RATIO) if each.found]


def test_few_tested_windows_have_no_interval():
    assert signs_of(Telemetry(1, 15), Telemetry(2, 60, wrong=2.0, categories=4)) == []
    assert live_signs(Telemetry(1, 60).rows(), predict, Telemetry(2, 60).live().head(0), RATIO) == []


def test_an_alarm_needs_many_windows_and_lasts_as_they_do():
    assert first_alarm(np.ones(10, dtype=bool), 1e6) is None
    assert first_alarm(np.ones(40, dtype=bool), 1e6) == 0
    late = np.concatenate([np.zeros(50, dtype=bool), np.ones(40, dtype=bool)])
    assert first_alarm(late, 1e6) == 50
    assert first_alarm(np.concatenate([late, np.zeros(60, dtype=bool)]), 1e6) is None
    assert first_alarm(np.concatenate([late, np.zeros(90, dtype=bool), np.ones(40, dtype=bool)]), 1e6) == 180


def test_what_a_window_did_not_measure_does_not_count():
    measured = np.zeros((2, 1, 3))
    naive = measured - 0.5
    naive[0] = measured[0]
    found = live_errors(1, "1", ("a",), np.array([[10.0], [30.0]]), measured, measured + 0.2, naive)
    assert found.categories == (ALL, "a")
    assert found.requests.tolist() == [30, 30]
    assert found.model == pytest.approx(np.full((2, 3), 0.2))
    assert found.naive == pytest.approx(np.full((2, 3), 0.5))
