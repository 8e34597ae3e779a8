"""Drift: none between two halves of the same, and told by its name where a host class becomes slow at one thing."""

import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from fingerpost.abtest.drift.frames import split_rows
from fingerpost.abtest.drift.gate import check_drift, retrain_pause_s, workspace_path
from fingerpost.abtest.drift.verdict import drift_verdict
from fingerpost.abtest.results import DriftResult
from fingerpost.errors import NoDataError
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.prepare import FeatureSettings
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


@pytest.mark.process
def test_a_version_that_does_not_tell_its_window_is_named(made, tmp_path):
    assert Path(made.settings.home) == tmp_path
    with pytest.raises(NoDataError, match="version 2 of fingerpost-shop does not tell"):
        check_drift(made.settings, "2")


@pytest.mark.parametrize(("unpromoted", "hours"), [(0, 6), (1, 6), (2, 12), (3, 24), (9, 24)])
def test_a_training_is_asked_for_as_often_as_it_helps(unpromoted, hours):
    assert retrain_pause_s(6 * 3600.0, unpromoted) == hours * 3600
    assert retrain_pause_s(0.0, unpromoted) == 0
