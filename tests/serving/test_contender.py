"""Champion and baseline, live: whatever is planted as champion, the table is never much worse than the baseline's."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.clock import US
from fingerpost.serving.contender import (
    BETS,
    WINDOWS_A_CHANGE,
    Contender,
    Duel,
    Forecast,
    Outcome,
    compare,
)
from fingerpost.serving.contest import LiveContest
from fingerpost.serving.scoring import score_fleet
from fingerpost.serving.table import build_table, render_json
from fingerpost.training.manifest import Verdict
from tests.support.contest import BAD, CATEGORIES, WINDOWS, WORLD, foresight, planted, run, shuffled


@pytest.fixture(scope="module")
def by_baseline(tmp_path_factory):
    return run(WORLD, None, LiveContest(tmp_path_factory.mktemp("none") / "contest.json", 10.0).served, WINDOWS)


@pytest.mark.parametrize("model", BAD)
def test_a_bad_champion_gives_way_to_the_baseline(model, by_baseline, tmp_path):
    """Within 30 windows, five minutes of 10 s; from then on the table is the baseline's."""
    found = run(WORLD, planted(model), LiveContest(tmp_path / "contest.json", 10.0).served, WINDOWS)
    for last in (found.scored[30], found.scored[-1]):
        assert (last.source, last.version, len(last.by_baseline)) == ("baseline", "", CATEGORIES)
        np.testing.assert_array_equal(last.predictions, score_fleet(last.fleet, None).predictions)
    # All requests of the run take at most a quarter longer, a quarter of an hour in which the model was new; later ones
    # as long as the baseline's.
    taken, usual = ((1 + np.array(each.regrets)).reshape(2, -1).mean(axis=1) for each in (found, by_baseline))
    assert taken.mean() < 1.25 * usual.mean()
    assert taken[1] < 1.03 * usual[1]


def test_foresight_serves_throughout(by_baseline, tmp_path):
    found = run(WORLD, planted(foresight), LiveContest(tmp_path / "contest.json", 10.0).served, WINDOWS)
    assert max(found.by_baseline) == 0
    assert np.mean(found.regrets) < 0.7 * np.mean(by_baseline.regrets)


def test_a_model_that_learns_to_be_better_comes_back(tmp_path):
    """It serves again once it has been shown to be better, whatever it was before."""
    found = run(
        WORLD,
        planted(lambda window: (shuffled if window < 1040 else foresight)(window)),
        LiveContest(tmp_path / "contest.json", 10.0).served,
        WINDOWS,
    )
    given_up, served = found.by_baseline.index(CATEGORIES), [CATEGORIES - each for each in found.by_baseline]
    assert given_up < 30
    assert served[39] == 0
    assert served[-1] == CATEGORIES


def test_the_worse_category_alone_gives_way(tmp_path):
    def model(window):
        seconds = WORLD.seconds(window)
        seconds[:, 2] = np.roll(seconds[:, 2], 3)
        return seconds

    found = run(WORLD, planted(model), LiveContest(tmp_path / "contest.json", 10.0).served, 40)
    last = found.scored[-1]
    assert last.by_baseline == (last.fleet.categories[2],)
    assert last.source == "champion"
    assert "in some categories" in last.reason
    alone = score_fleet(last.fleet, None).predictions
    np.testing.assert_array_equal(last.predictions[:, 2], alone[:, 2])
    assert (last.predictions[:, 1] != alone[:, 1]).any()
    said = json.loads(render_json(build_table(last, (), 0.0), 1.0))
    assert (said["by_baseline"], said["reason"]) == (list(last.by_baseline), last.reason)


def test_training_says_who_begins(tmp_path):
    """The baseline serves what it chose better in replays, from the first table on."""
    category = run(WORLD, None, LiveContest(tmp_path / "a.json", 10.0).served, 1).scored[0].fleet.categories[0]
    for verdict, count in ((Verdict(but=[category]), 1), (Verdict(by="baseline", but=[category]), CATEGORIES - 1)):
        found = run(WORLD, planted(foresight, verdict=verdict), LiveContest(tmp_path / "b.json", 10.0).served, 1)
        assert found.by_baseline == [count]
        assert "replays" in found.scored[0].reason


def test_a_restart_serves_what_was_served_before(tmp_path):
    path = tmp_path / "models" / "contest.json"
    before = run(WORLD, planted(shuffled), LiveContest(path, 10.0).served, 30)
    assert before.scored[-1].source == "baseline"
    assert (
        run(WORLD, planted(shuffled), LiveContest(path, 10.0).served, 1, 30).scored[0].reason
        == before.scored[-1].reason
    )
    # Another version begins anew, and so does whoever finds the file damaged.
    assert run(WORLD, planted(shuffled, "2"), LiveContest(path, 10.0).served, 1, 30).by_baseline == [0]
    path.write_text(path.read_text().replace("true", "maybe").replace("false", "-1"))
    assert run(WORLD, planted(shuffled), LiveContest(path, 10.0).served, 1, 30).by_baseline == [0]


def test_hosts_that_come_and_go_are_compared_where_both_know_them():
    names = ("a", "b")
    values = np.log(np.array([[[8.0, 1.0]] * 2, [[4.0, 2.0]] * 2, [[2.0, 4.0]] * 2]))
    off = values + np.array([0.0, 0.5, 0.0])[:, None, None]
    forecast = Forecast(("h1", "h2", "h3"), names, 0, values, off, values * np.nan)
    outcome = Outcome(("h2", "h3", "h4"), ("b", "c"), 10, values[[1, 2, 0]], np.full((3, 2), 7.0))
    found = compare(forecast, outcome)
    assert found.categories == ("b",)
    assert found.requests.tolist() == [14.0]
    # Half of what one host of two is off lies in the category's mean.
    assert (found.worse[0], found.apart[0]) == (pytest.approx(-0.25), pytest.approx(0.25))


def test_a_level_that_is_off_for_all_hosts_does_not_count():
    values = np.log(np.array([[[8.0, 1.0]], [[4.0, 2.0]]]))
    forecast = Forecast(("h1", "h2"), ("a",), 0, values + 2.0, values, values * np.nan)
    found = compare(forecast, Outcome(("h1", "h2"), ("a",), 10, values, np.full((2, 1), 7.0)))
    assert (found.worse[0], found.apart[0]) == (pytest.approx(0.0), pytest.approx(0.0))


def test_what_a_window_does_not_measure_is_no_outcome():
    values = np.log(np.array([[[8.0, 1.0]], [[4.0, 2.0]]]))
    forecast = Forecast(("h1", "h2"), ("a",), 0, values, values * [2.0, 1.0], values)
    outcome = Outcome(("h1", "h2"), ("a",), 10, values, np.full((2, 1), 7.0))
    assert compare(forecast, outcome).requests.tolist() == [0.0]
    # Throughput as before, a median measured anew: the median counts.
    fresh = Outcome(("h1", "h2"), ("a",), 10, values + np.array([0.0, 0.1]), np.full((2, 1), 7.0))
    assert compare(forecast, fresh).apart.tolist() == [pytest.approx(0.0)]


@given(st.lists(st.floats(-1, 1), max_size=300), st.booleans())
def test_a_duel_is_won_by_evidence_alone(shares, by_model):
    """One window never decides, and who serves changes only if the other did better since."""
    duel, since = Duel(by_model, (1.0,) * len(BETS)), []
    for share in shares:
        since.append(share if duel.by_model else -share)
        after = duel.after(share, WINDOWS_A_CHANGE)
        assert all(0 < won <= 2 * WINDOWS_A_CHANGE * len(BETS) for won in after.won)
        if after.by_model != duel.by_model:
            assert len(since) >= 8
            assert any(sum(since[-count:]) > 4 for count in range(1, len(since) + 1))
            since = []
        duel = after


@pytest.mark.parametrize(("correlation", "windows_a_change"), [(0.0, WINDOWS_A_CHANGE), (0.9, 500)])
def test_equals_do_not_flap(correlation, windows_a_change):
    """Two that are equally good; where one does better for ten windows or so at a time, they change more often."""
    rng, changes = np.random.default_rng(5), 0
    for _ in range(60):
        duel, share = Duel(True, (1.0,) * len(BETS)), 0.0
        for _ in range(500):
            share = correlation * share + np.sqrt(1 - correlation**2) * rng.normal(0, 0.15)
            after = duel.after(float(np.clip(share, -1, 1)), WINDOWS_A_CHANGE)
            changes += after.by_model != duel.by_model
            duel = after
    assert changes <= 60 * 500 / windows_a_change


def test_what_is_kept_is_bounded():
    contender = Contender("1", Verdict(), 10.0)
    values = np.log(np.array([[[8.0, 1.0]], [[4.0, 2.0]]]))
    for number in range(4200):
        forecast = Forecast(("h1", "h2"), (f"c{number}",), number * 10 * US, values, values * 2, values * np.nan)
        outcome = Outcome(("h1", "h2"), (f"c{number}",), (number + 1) * 10 * US, values, np.ones((2, 1)))
        contender.observe(forecast, outcome)
    assert len(contender.duels) <= 4097
