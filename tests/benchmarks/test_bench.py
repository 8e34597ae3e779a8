"""The measurements measure what they say: everything written is reported, every cell is scored."""

import itertools
import json

import numpy as np
import pytest
from typer.testing import CliRunner

import benchmarks.envoy
from benchmarks.__main__ import app
from benchmarks.agent import measure_agent
from benchmarks.engine import measure_ingest
from benchmarks.engine_process import MeasuredEngine
from benchmarks.engine_scoring import measure_scoring
from benchmarks.envoy import Options, measure_envoy
from benchmarks.learn_table import decisions, learn_table, table_error
from benchmarks.rivals import RIVALS
from benchmarks.sinkhole import measure_sinkhole, trials
from benchmarks.training import SERVICE, make_windows, measure_fits
from benchmarks.unlike import fleets, measure_unlike
from benchmarks.windowing import measure_windowing
from benchmarks.wire import bytes_a_day
from benchmarks.zones import measure_zones
from fingerpost.errors import FingerpostError
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.prepare import FeatureSettings
from fingerpost.routing.envoy.module import compiler
from fingerpost.settings import Settings, get_settings
from tests.support.recipes import program

pytestmark = pytest.mark.process


def test_the_measured_agent_reports_every_line():
    figures = measure_agent(rate_rps=100, seconds=2)
    assert figures["records"] == figures["lines"] > 100
    assert figures["rss_mb"] > 0


def test_the_greater_a_zones_factor_the_fewer_requests_leave_it():
    found = measure_zones(2000, 0.5, 1)
    crossing = [row["crossing"] for row in found]
    assert crossing == sorted(crossing, reverse=True)
    assert crossing[0] > 0.6
    assert crossing[-1] == 0.0


def test_every_cell_is_scored():
    figures = measure_scoring(hosts=20, categories=10)
    assert figures["cells"] == 200
    assert figures["cells_per_cpu_s"] > 0


def test_an_engine_takes_and_lands_every_window_of_the_load(tmp_path):
    with MeasuredEngine(tmp_path) as engine:
        figures = measure_ingest(engine, reporting=20, seconds=2)
    assert figures["errors"] == 0
    assert figures["accepted_per_s"] > 0
    assert figures["landed_rows"] == 8 * 100


def test_a_host_sends_less_than_a_hundred_megabytes_a_day():
    assert bytes_a_day(100)["mb_a_day"] < 100


def test_every_record_is_windowed_and_every_target_fitted():
    windowed = measure_windowing(5000)
    assert windowed["records_per_s"] > 0
    assert 0 < windowed["windows"] <= 5000
    assert measure_fits(2000, 10)["targets"] == 3


def log_line(category, host, took_s, decision=""):
    entry = {
        **{"start": "1790000000.000000", "host": f"h{host:02}", "method": "GET", "path": f"/c{category}"},
        **{"status": 200, "bytes_in": 0, "bytes_out": 0, "duration_us": took_s * 1e6, "service_time_us": took_s * 1e6},
        **{"user_agent": "python-bench", "inflight": 0},
        **({"decision": decision} if decision else {"policy": "random"}),
    }
    return json.dumps(entry) + "\n"


def test_a_table_of_what_was_measured_is_as_far_from_the_truth_as_what_was_measured(tmp_path):
    truth = np.array([[0.1, 0.2, 0.4], [0.3, 0.1, 0.2]])
    log = tmp_path / "access.log"
    log.write_text("".join(log_line(c, h, truth[c, h]) for c in range(2) for h in range(3) for _ in range(40)))
    table = learn_table(log, 4, Settings(), 60)
    assert table_error(table, truth) == 0
    # A category that is slower everywhere by the same factor routes the same; half of the hosts twice as slow does not.
    assert table_error(table, truth * [[3.0], [1.0]]) == 0
    assert table_error(table, truth * [1.0, 2.0, 4.0]) == pytest.approx(np.log(2), abs=1e-3)


def test_decisions_are_counted_from_where_a_run_began(tmp_path):
    log = tmp_path / "access.log"
    before = log_line(0, 0, 0.1)
    said = (
        "fingerpost;;;main;1;t1;0.99;0.1;GET /c0",
        "fingerpost;;1;main;2;t2;0.01;0.1;a;b",
        "least_request;expired;;;;;;;",
    )
    log.write_text(before + "".join(log_line(0, 0, 0.1, each) for each in said))
    found = decisions(log, len(before))
    assert found == {"predicted": 1, "explored": 1, "fell back": 1, "tables": 3, "models": ["", "1", "2"]}


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_baseline_and_model_that_route_are_learned_from_the_fleet_that_is_measured(monkeypatch):
    for name, value in {"WINDOW_S": 1, "TUNING_TRIALS": 1, "AGENT_BATCH_S": 1, "MODEL_POLL_S": 1}.items():
        monkeypatch.setenv(f"FINGERPOST_{name}", str(value))
    get_settings.cache_clear()
    policies = ("fingerpost", "fingerpost-model")
    try:
        figures = measure_envoy(Options(2, 2.0, (0.4,), policies, slo_s=5.0, warm_up_s=14.0), print)
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()
    learned, rows = figures["learned"], [figures["policies"][policy]["0.4"] for policy in policies]
    assert learned["request_records"] >= figures["warm_up_requests"] > 100
    assert learned["refused"] == {}
    assert [row["failed"] for row in rows] == [0, 0]
    assert rows[0]["decisions"]["models"] == [""]
    # So short a warm-up may not tell whether the model chooses no worse than the baseline, which goes on then.
    assert learned["model_version"] == "1"
    assert rows[1]["decisions"]["models"] == ["1" if learned["champion"] else ""]
    # The baseline has no row for a category that was adopted a moment ago until a request of it is measured.
    assert rows[1]["decisions"].get("fell back", 0) == 0 or not learned["champion"]
    assert rows[1]["decisions"]["predicted"] > rows[1]["requests"] / 2


def test_every_proxy_starts_and_serves_and_least_requests_log_is_judged(monkeypatch):
    """Two proxies each, hosts that tell nothing, one of which fails: what is counted and what is said of it."""
    for name in ("haproxy", "nginx"):
        program(name)
    # Requests that are sent late spoil figures, and nothing that is shown here; no policy has weights to learn.
    monkeypatch.setattr(benchmarks.envoy, "_REPEATS", 0)
    monkeypatch.setattr(benchmarks.envoy, "_WARM_S", 0.5)
    policies = ("least_request", "least_request_full", *RIVALS)
    figures = measure_envoy(
        Options(8, 5.0, (0.4,), policies, warm_up_s=1.0, proxies=2, failing=0.5, log_only=True, predict=True), print
    )
    rows = {policy: figures["policies"][policy]["0.4"] for policy in policies}
    assert len({row["requests"] for row in rows.values()}) == 1
    assert all(row["p99_ms"] > 0 for row in rows.values())
    assert all(0 < row["failed"] < 0.4 * row["requests"] for row in rows.values())
    assert set(figures["p99_gain"]) == {*policies[1:]}
    said = figures["predicted"]["0.4"]
    assert said["difference"]["verdict"] == "by category"
    assert said["gain_p99"]["mean"] > 0
    with pytest.raises(FingerpostError, match="'best' is none of"):
        Options(policies=("best",))


@pytest.mark.skipif(compiler() is None, reason="there is no C compiler")
def test_a_host_that_fails_fast_takes_few_requests():
    """The engine's table, made of what three agents read, and a host that fails everything at once."""
    policies = ["fingerpost", "least_request_plain"]
    figures = measure_sinkhole(3, trials([40.0], [1.0], [0.001]), policies, 14.0, 8.0, 1, print)
    (found,) = figures["trials"].values()
    ours, plain = (found[policy] for policy in policies)
    assert plain["ejections"] == 0
    assert ours["failed"] <= plain["failed"] / 4


def test_fleets_from_alike_to_unlike_are_measured():
    names = {name: log_factor for name, log_factor, _ in fleets()}
    assert len(names) == 6
    (row,) = measure_unlike([("alike", names["alike"][:, :4], (0.3,))], [1], print)
    assert row["low"] <= row["gain"] <= row["high"]
    assert row["gain"] == pytest.approx(1, abs=0.1)


def test_the_shipped_fleets_are_measured():
    arguments = {"--scenarios": "like-hosts", "--loads": "0.3", "--absurd": "1", "--seeds": "1"}
    found = CliRunner().invoke(app, ["guard", *itertools.chain(*arguments.items()), "--json"])
    rows = json.loads(found.stdout)
    assert [row["predictions"] for row in rows] == ["1 absurd", "shuffled"]
    assert max(row["p99_ratio"] for row in rows) <= 1.05


def test_windows_that_are_made_for_a_training_become_rows(tmp_path):
    made = make_windows(tmp_path, hosts=10, categories=4, days=2, windows_a_day=12)
    settings = FeatureSettings(10, 60, 16, 5, max_rows=300)
    report = build_features(tmp_path, SERVICE, settings)
    assert report.windows == made > 100
    rows = load_training_rows(tmp_path, SERVICE, 10**6)
    assert (rows["host"].nunique(), rows["category"].nunique(), rows["time"].dt.date.nunique()) == (10, 4, 2)
    assert len(rows) == report.training_rows < made
