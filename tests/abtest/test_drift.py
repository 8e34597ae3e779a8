"""Drift: none between two halves of the same, and told by its name where a host class becomes slow at one thing."""

import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fingerpost.abtest.drift.frames import split_rows
from fingerpost.abtest.drift.gate import check_drift, live_rows, retrain_pause_s, retrain_reason, workspace_path
from fingerpost.abtest.drift.live import LiveSign, live_signs
from fingerpost.abtest.drift.verdict import drift_verdict
from fingerpost.abtest.results import DriftResult
from fingerpost.clock import US, clock_us
from fingerpost.errors import NoDataError
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.definition import TARGETS, naive_column
from fingerpost.features.prepare import FeatureSettings
from fingerpost.lake import LIVE_ERRORS, date_of, partition, write_table
from fingerpost.serving.live_errors import live_error_table, live_errors
from fingerpost.settings import Settings
from fingerpost.training.candidate import Candidate, make_candidate
from fingerpost.training.registration import register
from fingerpost.training.registry import Registry
from tests.support.demo_telemetry import write_demo_lake

pytestmark = pytest.mark.process

SECONDS = 900
# One for all telemetry: half of the one is to be the same as half of the other.
BEGAN_S = time.time()
SLOWED = ("compute", "hash")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("drift")


@pytest.fixture(scope="module")
def settings(home):
    return Settings(home=home, mlflow_url=f"sqlite:///{home / 'mlflow.db'}", tuning_trials=1, tuning_timeout_s=30)


def rows_of(lake, slowed):
    write_demo_lake(lake, 6, SECONDS, 40, seed=4, slowed=slowed, end_s=BEGAN_S)
    build_features(lake, "shop", FeatureSettings(10, 60, 12, 30))
    return load_training_rows(lake, "shop", 10**6)


@pytest.fixture(scope="module")
def steady(home):
    return rows_of(home / "steady" / "lake", None)


@pytest.fixture(scope="module")
def slowed(settings):
    return rows_of(settings.lake, SLOWED)


def first_half(rows):
    begin = rows["time"].min()
    return rows[rows["time"] <= begin + (rows["time"].max() - begin) * 0.48].reset_index(drop=True)


@pytest.fixture(scope="module")
def candidate(slowed, settings) -> Candidate:
    return make_candidate(first_half(slowed), settings)


def verdict_of(rows, candidate, settings, **changes):
    half = first_half(rows)
    sides = split_rows(rows, half["time"].min(), half["time"].max(), 10**6)
    chosen = Settings(**{**settings.model_dump(), **changes})
    return drift_verdict(*sides, candidate.bundle.predict_log, chosen, "1", candidate.train["time"].max())


def test_two_halves_of_the_same_do_not_drift(steady, candidate, settings):
    verdict = verdict_of(steady, candidate, settings)
    assert (verdict.verdict, verdict.reasons) == ("no drift", [])
    assert len(verdict.columns) >= 10
    assert verdict.cells_looked_at > 30
    assert verdict.to_json()["data"] == {"passed": True, "failed": [], "tests": len(verdict.tests)}
    assert not verdict.retrain
    assert json.loads(json.dumps(verdict.to_json()))["verdict"] == "no drift"


def test_a_host_class_that_becomes_slow_at_one_thing_is_named(slowed, candidate, settings):
    verdict = verdict_of(slowed, candidate, settings)
    assert verdict.verdict == "drift"
    assert verdict.retrain
    changed = {(each.host, each.category) for each in verdict.cells}
    assert {host for host, _ in changed} == {"compute-1", "compute-2"}
    assert all("/work/hash" in category for _, category in changed)
    level = [each.ratio for each in verdict.cells if each.quantity == "throughput_rps"]
    assert np.median(level) == pytest.approx(1 / 3, rel=0.25)
    assert any("/work/hash" in reason and "compute-1, compute-2" in reason for reason in verdict.reasons)


def test_few_rows_tell_nothing(steady, candidate, settings):
    half = first_half(steady)
    verdict = drift_verdict(half, half.head(50), candidate.bundle.predict_log, settings, "1", half["time"].min())
    assert verdict.verdict == "too little data"
    assert verdict.to_json()["data"]["passed"] is None


def test_data_that_is_not_fit_fails_its_tests(steady, candidate, settings):
    half = first_half(steady)
    later = steady[steady["time"] > half["time"].max()].reset_index(drop=True)
    later["throughput_rps"] = later["throughput_rps"].where(np.arange(len(later)) % 2 == 0)
    later["latency_p50_s"] = later["latency_p50_s"] + np.log(1e6)
    later = later[later["host"] == "compute-1"].reset_index(drop=True)
    verdict = drift_verdict(half, later, candidate.bundle.predict_log, settings, "1", half["time"].min())
    failed = " ".join(verdict.to_json()["data"]["failed"])
    assert "missing values" in failed
    assert "out of range" in failed
    assert "1 of 6 hosts" in failed
    assert DriftResult.read(verdict.to_json()).holds("data")[0] is False


def test_rows_are_bounded(slowed, candidate, settings):
    verdict = verdict_of(slowed, candidate, settings, drift_max_rows=600)
    assert verdict.rows["current"] > 600
    count = next(test for test in verdict.tests if "Row count" in test.name)
    assert "600" in count.description


@pytest.mark.process
@pytest.mark.usefixtures("slowed")
def test_the_gate_logs_what_promotion_reads(candidate, settings, monkeypatch):
    monkeypatch.chdir(settings.home)
    version = register(Registry(settings), candidate, "shop")
    Registry(settings).set_champion(version)
    verdict, run_id = check_drift(settings, version)
    assert verdict.verdict == "drift"
    assert pd.Timestamp(verdict.span["reference_to"]) < pd.Timestamp(verdict.span["current_from"])

    registry = Registry(settings)
    found = registry.latest_result("drift", version)
    assert found["run_id"] == run_id
    holds, why = DriftResult.read(found["result"]).holds("drift")
    assert holds is False
    assert "/work/hash" in why
    artifacts = {item.path for item in registry.client.list_artifacts(run_id)}
    assert artifacts == {"report.html", "verdict.json"}
    assert "distance.level_throughput_rps" in registry.client.get_run(run_id).data.metrics

    from evidently.ui.workspace import Workspace

    workspace = Workspace.create(str(workspace_path(settings)))
    [project] = workspace.list_projects()
    assert project.name == settings.model_name
    assert len(workspace.list_runs(project.id)) == 1


def test_live_errors_come_first_and_are_enough(steady, candidate, settings):
    """Rows are not needed for them; of rows that do not drift the report says so all the same."""
    sign = LiveSign("throughput_rps", "", 0.5, 0.1, 0.2, 1.4, 1.0, 40, 38, 10**15)
    half = first_half(steady)
    about = (candidate.bundle.predict_log, settings, "1", half["time"].min(), None, [sign])
    few = drift_verdict(half, half.head(50), *about)
    assert few.verdict == "drift"
    assert few.retrain
    assert few.reasons[0].startswith("live error of throughput_rps is 0.500 since 2001-09-09")
    assert few.to_json()["data"]["passed"] is None
    assert few.to_json()["live"][0]["found"]
    calm = drift_verdict(half, half.head(50), *about[:-1], [replace(sign, since_us=None)])
    assert (calm.verdict, len(calm.reasons)) == ("too little data", 1)
    # The budget of trainings holds for them too.
    assert retrain_reason(few, None, 100.0, 200.0) is None
    assert retrain_reason(few, None, 300.0, 200.0) == "drift"


@pytest.mark.parametrize(("wrong", "signs"), [(0.0, 0), (1.2, 2)])
def test_what_engines_saw_is_read_from_the_lake(steady, candidate, settings, wrong, signs):
    """Windows as those it was tested with are no sign; made worse for good they are, of their version."""
    later = steady[(steady["time"] > candidate.test["time"].max()) & ~steady["cold_start"].to_numpy(bool)]
    later = later.reset_index(drop=True)
    naive = [naive_column("last", each) for each in TARGETS]
    predicted = candidate.bundle.predict_log(later)
    now_us, found = clock_us(), []
    for number, places in enumerate(later.groupby("time").indices.values()):
        rows = later.iloc[places]
        model = np.column_stack([predicted[each][places] for each in TARGETS]) + wrong
        cells = (each[None] for each in (rows[[*TARGETS]].to_numpy(), model, rows[naive].to_numpy()))
        categories = [str(each) for each in rows["category"]]
        asked = rows["requests"].to_numpy()[None]
        found.append(live_errors(now_us - (200 - number) * US, "9", categories, asked, *cells))
    assert len(found) > 30
    path = partition(settings.lake, LIVE_ERRORS, "shop", date_of(now_us)) / f"{wrong}.parquet"
    write_table(path, live_error_table("shop", found))
    try:
        since = pd.Timestamp(now_us - 300 * US, unit="us", tz="UTC").to_pydatetime()
        live = live_rows(settings, "9", since)
        assert live_rows(settings, "8", since).empty
        told = live_signs(later, candidate.bundle.predict_log, live, settings.drift_live_ratio)
        assert sum(each.found for each in told if not each.category) == signs
    finally:
        path.unlink()


@pytest.mark.process
def test_a_version_that_does_not_tell_its_window_is_named(made, tmp_path):
    assert Path(made.settings.home) == tmp_path
    with pytest.raises(NoDataError, match="version 2 of fingerpost-shop does not tell"):
        check_drift(made.settings, "2")


@pytest.mark.parametrize(("unpromoted", "hours"), [(0, 6), (1, 6), (2, 12), (3, 24), (9, 24)])
def test_a_training_is_asked_for_as_often_as_it_helps(unpromoted, hours):
    assert retrain_pause_s(6 * 3600.0, unpromoted) == hours * 3600
    assert retrain_pause_s(0.0, unpromoted) == 0
