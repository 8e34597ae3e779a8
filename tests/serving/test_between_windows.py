"""Predictions between windows: a host's recurring spell may begin within one."""

from dataclasses import replace

import numpy as np
import pytest

from fingerpost.clock import US
from fingerpost.serving.fleet_state import build_fleet
from fingerpost.serving.scoring import score_fleet
from fingerpost.telemetry.history import HISTORY_HOST_PLACE
from fingerpost.training.bundle import ModelBundle
from tests.support.contest import DueAlone
from tests.support.made_fleet import FORM, MadeFleet, fit_model, state_of
from tests.support.made_fleet import NOW as RECEIVED

WINDOW_US = round(FORM.window_s * US)


@pytest.fixture(scope="module")
def made():
    return MadeFleet.make(6, 3)


@pytest.fixture(scope="module")
def scorer(made) -> DueAlone:
    bundle: ModelBundle = fit_model(made, 4, 4)
    return DueAlone(bundle, trees=None, version="1", form=FORM)  # type: ignore[arg-type]


def states(made, due=(0.0, 1.0)):
    """Every host's state; on the second one something is due, in the next window and in the one after."""
    found = {}
    for place, host in enumerate(made.hosts):
        print_ = made.fingerprint(place, 1, RECEIVED)
        values = print_.history.host_values.copy()
        for name, value in zip(("host_due", "host_due_after"), due if place == 1 else (np.nan, np.nan), strict=True):
            values[HISTORY_HOST_PLACE[name]] = value
        found[host] = state_of(replace(print_, history=replace(print_.history, host_values=values)))
    return found


class All:
    """The model serves everything."""

    reason = ""

    def by_model(self, categories):
        return np.ones(len(categories), dtype=bool)


def at(made, scorer, seconds, before=None):
    """The fleet's score so many seconds after its window; `before` is of the same states."""
    own = {state.fingerprint.host: state for state in before.fleet.states} if before else states(made)
    at_us = RECEIVED // WINDOW_US * WINDOW_US + seconds * US
    fleet = build_fleet("shop", own, 256, before.fleet if before else None, at_us=at_us)
    return score_fleet(fleet, scorer, before, serving=All())


def test_what_is_due_is_read_between_windows(made, scorer):
    first = at(made, scorer, 0)
    later = [at(made, scorer, seconds, first) for seconds in (3, 8, 13, 60)]
    of_host = [float(np.log(scored.predictions[1, 0, 0])) for scored in (first, *later)]
    assert of_host == pytest.approx([0.0, 0.0, 0.5, 1.0, 1.0])
    for scored in later:
        np.testing.assert_array_equal(scored.predictions[0], first.predictions[0])


def test_only_hosts_on_which_something_is_due_are_scored_anew_and_come_out_as_all_would(made, scorer):
    first = at(made, scorer, 0)
    later, anew = at(made, scorer, 8, first), at(made, scorer, 8)
    assert first.model_output.cells == 18
    assert later.model_output.cells == 3
    np.testing.assert_array_equal(later.predictions, anew.predictions)
    # What a window is judged by is what was predicted as it began.
    np.testing.assert_array_equal(later.model_output.logs, first.model_output.logs)
    back = at(made, scorer, 0, later)
    np.testing.assert_array_equal(back.predictions, first.predictions)


def test_a_score_says_when_it_would_be_another(made, scorer):
    first = at(made, scorer, 0)
    end_us = first.model_output.histories.now_us
    assert [first.moves(end_us + seconds * US) for seconds in (0, 3, 4, 8)] == [False, False, True, True]
    later = at(made, scorer, 8, first)
    assert not later.moves(end_us + 8 * US)
    assert not score_fleet(first.fleet, None).moves(end_us + 8 * US)
