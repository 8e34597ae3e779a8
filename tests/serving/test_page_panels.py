"""What the page is made of: windows beside predictions, hosts and why, arms out of records, answers in sentences."""

import math
from dataclasses import replace

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from fingerpost.agent.batches import write_batch
from fingerpost.clock import US, clock_us
from fingerpost.features.ingest import ingest
from fingerpost.lake import LIVE_ERRORS, date_of, partition, read
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from fingerpost.serving.fleet_state import build_fleet
from fingerpost.serving.live_errors import LiveErrorLog, live_errors
from fingerpost.serving.metrics import EngineMetrics
from fingerpost.serving.page.decisions import Decisions
from fingerpost.serving.page.fleet import cell_history, fleet_panel, host_rows, slowdown
from fingerpost.serving.page.windows import SERVED, Measured, ServiceWindows, Total, errors_of
from fingerpost.serving.page.worth import forecast_rps
from fingerpost.serving.scoring import ModelScorer, score_fleet
from fingerpost.serving.table import build_table
from fingerpost.settings import Settings
from tests.support.made_fleet import FORM, MadeFleet, fit_model, states_of
from tests.support.records import record, sample

NOW = 10**9 * US
HOSTS, CATEGORIES = ("a", "b"), ("x", "y")


def scored_at(made, sequence, end_us, before=None, scorer=None):
    states = {
        host: replace(state, fingerprint=made.fingerprint(place, sequence, end_us + 1000))
        for place, (host, state) in enumerate(states_of(made).items())
    }
    return score_fleet(build_fleet("shop", states, 50), scorer, before)


def test_errors_weigh_requests_and_leave_out_what_was_not_measured():
    logs = np.zeros((2, 2, 3), dtype=np.float32)
    logs[1, 1] = np.nan
    measured = Measured(HOSTS, CATEGORIES, NOW, np.array([[30.0, 0.0], [10.0, 5.0]], dtype=np.float32), logs)
    good, bad = np.zeros((2, 2, 3)), np.zeros((2, 2, 3))
    bad[0, 0], bad[1, 0, 0] = 0.4, 0.8
    found = errors_of({SERVED: good, "bad": bad}, measured)
    assert found.off[SERVED].tolist() == [0, 0, 0]
    assert found.off["bad"] == pytest.approx([0.75 * 0.4 + 0.25 * 0.8, 0.3, 0.3])
    assert found.requests == 40
    assert found.p99_over == 0


def test_regret_is_what_the_chosen_host_takes_longer_than_the_fastest():
    logs = np.zeros((2, 2, 3), dtype=np.float32)
    logs[0, 0, 0] = math.log(2)
    measured = Measured(HOSTS, CATEGORIES, NOW, np.full((2, 2), 10, dtype=np.float32), logs)
    wrong = np.zeros((2, 2, 3))
    wrong[1, :, 0] = 1.0
    found = errors_of({SERVED: logs, "wrong": wrong}, measured)
    # At `x` the other host is twice as fast; at `y` both are alike.
    assert found.regret == pytest.approx({SERVED: 0.0, "wrong": 0.5})


def test_windows_are_compared_with_what_was_predicted_when_the_one_before_was_over():
    made = MadeFleet.make(4, 3)
    windows = ServiceWindows(10.0)
    scored = None
    for number in range(7):
        scored = scored_at(made, number, NOW + number * 10 * US)
        windows.observe(scored)
        windows.observe(scored)
    assert [each.end_us for each in windows.totals()] == [NOW + number * 10 * US for number in range(7)]
    first, *others = windows.totals()
    assert first.errors is None
    assert len(windows.points()) == 6
    for each in others:
        assert set(each.errors.off) == {"served", "baseline", "last window"}
        assert 0 < each.errors.off["served"][0] < 0.15
    minute, hour = windows.requests(made.hosts, made.categories)
    assert hour.sum() == pytest.approx(sum(each.rate_rps * 10 for each in windows.totals()))
    assert minute.sum() == pytest.approx(sum(each.rate_rps * 10 for each in windows.totals()[-6:]))
    assert windows.requests(("h0001", "none"), made.categories)[0][0] == pytest.approx(minute[1])

    history = cell_history(windows.points(), None, "h0002", made.categories[1])
    truth = math.exp(made.truth()[2, 1, 0])
    assert history["now"] is None
    assert history["measured"]["throughput_rps"] == pytest.approx([truth] * 6, rel=0.25)
    assert history["predicted"]["throughput_rps"] == pytest.approx([truth] * 6, rel=0.25)
    low, high = history["interval"]["throughput_rps"]
    assert 0.8 < low < 1 < high < 1.25
    assert cell_history(windows.points(), None, "nobody", made.categories[1]) is None


def test_a_window_ends_without_the_hosts_that_fell_silent():
    made = MadeFleet.make(3, 2)
    windows = ServiceWindows(10.0)
    late = made.fingerprint(2, 0, NOW + 1000)
    for number in range(4):
        scored = scored_at(made, number, NOW + number * 10 * US)
        states = {state.fingerprint.host: state for state in scored.fleet.states}
        states["h0002"] = replace(states["h0002"], fingerprint=late)
        windows.observe(score_fleet(build_fleet("shop", states, 50), None))
    # The last one may still be told of.
    assert [each.end_us for each in windows.totals()] == [NOW + number * 10 * US for number in range(3)]
    assert windows.points()[-1].requests[2].sum() == 0


def test_a_model_and_its_challenger_are_compared_too():
    made = MadeFleet.make(4, 3)
    model = fit_model(made, 5, 4)
    champion = ModelScorer.compiled(model, "1", FORM)
    challenger = ModelScorer.compiled(fit_model(made, 5, 4, factor=2.0), "2", FORM, "challenger")
    windows, scored, live = ServiceWindows(10.0), None, []
    for number in range(3):
        scored = scored_at(made, number, NOW + number * 10 * US, scored, champion)
        live += windows.observe(scored, score_fleet(scored.fleet, challenger))
    errors = windows.totals()[-1].errors
    assert set(errors.off) == {"served", "baseline", "last window", "champion", "challenger"}
    assert errors.off["challenger"][0] == pytest.approx(math.log(2), abs=0.15)
    assert errors.off["champion"][0] < 0.2
    # The champion's are what the drift flow reads.
    assert [(each.end_us, each.version) for each in live] == [(NOW + number * 10 * US, "1") for number in (1, 2)]
    assert live[-1].categories == ("", *made.categories)
    assert live[-1].model[0] == pytest.approx(errors.off["champion"], rel=0.1)
    # Ratios between hosts are what routes: a factor for all costs nothing.
    assert errors.regret["challenger"] == pytest.approx(errors.regret["champion"], abs=0.05)


def test_live_errors_are_in_the_lake_once_a_minute_is_over(tmp_path):
    settings = Settings(home=tmp_path)
    cells = np.zeros((2, 2, 3))
    windows = [
        live_errors(NOW + second * US, "7", CATEGORIES, np.ones((2, 2)), cells, cells + 0.25, cells - 0.5)
        for second in range(0, 130, 10)
    ]
    # Two engines of one lake.
    for log in (LiveErrorLog(settings, EngineMetrics(CollectorRegistry())) for _ in range(2)):
        log.take("shop", windows)
    rows = read(settings.lake, LIVE_ERRORS, "shop").to_pandas()
    minute_us = NOW // (60 * US) * 60 * US
    until_us = (NOW + 120 * US) // (60 * US) * 60 * US
    assert len(rows) == 3 * sum(minute_us <= each.end_us < until_us for each in windows)
    assert set(rows["version"]) == {"7"}
    assert list(rows["category"][:3]) == ["", "x", "y"]
    assert list(rows["requests"][:3]) == [4, 2, 2]
    assert rows["model_throughput_rps"].to_numpy() == pytest.approx(0.25)
    assert rows["naive_latency_p50_s"].to_numpy() == pytest.approx(0.5)


def listed(host, **changes):
    about = {"state": "serving", "reports": True, "heard": NOW / US - 1, "class": "big", "zone": "z1"}
    return {"host": host, **about, **changes}


def test_every_state_of_a_host_has_its_reason():
    made = MadeFleet.make(5, 2)
    windows = ServiceWindows(10.0)
    for number in range(3):
        windows.observe(scored_at(made, number, NOW + number * 10 * US))
    points = windows.points()
    slow = replace(points[-1], measured=points[-1].measured.copy())
    slow.measured[1, :, 0] -= np.log(3).astype(np.float16)
    scored = scored_at(made, 3, NOW + 30 * US)
    table = build_table(scored, (), 60.0)
    table = replace(table, weights=np.array([1, 1, 0.5, 1, 1], dtype=np.float32))
    known = [listed(name) for name in made.hosts]
    known += [listed("old", heard=NOW / US - 300), listed("new", reports=False), listed("out", state="draining")]
    guard = {"hosts": {"h0003": {"cost": 5.0, "success": 1.0}}}
    failed = np.array([0, 0, 0, 0, 0.2])
    rows = host_rows(known, table, [slow] * 3, np.full(5, 7.0), failed, guard, 60.0, NOW / US)
    found = {each.name: (each.state, each.why) for each in rows}
    assert {name: state for name, (state, _) in found.items()} == {
        "h0000": "ok", "h0001": "anomalous", "h0002": "warming", "h0003": "ejected", "h0004": "failing",
        "old": "silent", "new": "warming", "out": "draining",
    }  # fmt: skip
    assert "times as slow as predicted" in found["h0001"][1][0]
    assert "50%" in found["h0002"][1][0]
    assert "silent for 5 min" in found["old"][1][0]
    assert slowdown([slow] * 3, made.hosts)[0][1] == pytest.approx(3, rel=0.2)
    panel = fleet_panel(rows, table, np.ones(2))
    assert panel["states"]["silent"] == 1
    assert panel["known"] == 8
    best = np.array(panel["picture"]["relative_throughput"]).max(axis=0)
    assert best.tolist() == [1, 1]


def test_a_large_fleet_is_shown_in_part():
    made = MadeFleet.make(90, 50)
    table = build_table(scored_at(made, 1, NOW), (), 60.0)
    rows = host_rows([], table, [], np.arange(90.0), np.zeros(90), {}, 60.0, NOW / US)
    picture = fleet_panel(rows, table, np.arange(50.0))["picture"]
    assert (len(picture["hosts"]), len(picture["categories"])) == (60, 40)
    assert (picture["all_hosts"], picture["all_categories"]) == (90, 50)
    # The busiest of both.
    assert picture["hosts"] == list(made.hosts[30:])
    assert picture["categories"][0] == made.categories[-1]


def test_arms_are_read_from_the_records_of_the_lake_once(tmp_path):
    now = clock_us()
    decided = {"model_version": "3", "predicted_cost": 1.0}
    rows = [
        record(time=now - 60 * US - number, duration_s=0.02 if number % 2 else 0.01, policy="fingerpost",
               propensity=0.9 if number % 10 else 0.05, weight=2.0, **decided)
        for number in range(100)
    ]  # fmt: skip
    rows += [record(time=now - 61 * US, policy="least_request", propensity=0.25, status=503) for _ in range(10)]
    rows += [record(time=now - 62 * US, policy="fingerpost", arm="champion", propensity=0.9, **decided)]
    rows += [record(time=now - 4000 * US, policy="fingerpost", propensity=0.9, **decided), record(time=now - US)]
    write_batch(tmp_path, "samples", HOST_SAMPLE, [sample()], "p-1")
    write_batch(tmp_path, "requests", REQUEST_RECORD, rows, "p-1")
    ingest(tmp_path, "shop", 5, 86_400)
    decisions = Decisions(tmp_path, "shop")
    decisions.look()
    decisions._looked_s -= 60
    decisions.look()
    hour = decisions.hour()
    assert decisions.problem is None
    assert set(hour) == {"predicted", "least request", "champion", "random"}
    predicted = hour["predicted"]
    assert (predicted.requests, predicted.explored, predicted.failed) == (200, 20, 0)
    assert predicted.quantile_s(0.4) == pytest.approx(0.01, rel=0.06)
    assert predicted.quantile_s(0.9) == pytest.approx(0.02, rel=0.06)
    assert (hour["least request"].failed, hour["least request"].explored) == (10, 0)
    assert hour["least request"].quantile_s(0.5) is None


def test_a_lake_that_cannot_be_read_is_told(tmp_path):
    folder = partition(tmp_path, "requests", "shop", date_of(clock_us()))
    folder.mkdir(parents=True)
    (folder / "bad.parquet").write_text("no Parquet")
    decisions = Decisions(tmp_path, "shop")
    decisions.look()
    assert "cannot be read" in decisions.problem


def totals(rates):
    return [Total(NOW + place * 10 * US, rate, 0.01, 0.02, 0.0, None) for place, rate in enumerate(rates)]


def test_the_rate_is_drawn_out_and_bounded():
    assert forecast_rps(totals([100.0] * 10)) is None
    assert forecast_rps(totals([100.0] * 60)) == pytest.approx(100)
    assert forecast_rps(totals([100.0 + each for each in range(90)])) == pytest.approx(189 + 30, rel=0.01)
    assert forecast_rps(totals([100.0 - 3 * each for each in range(33)])) == 0
    assert forecast_rps(totals([100.0 * 2**each for each in range(40)])) <= 3 * 100 * 2.0**39
