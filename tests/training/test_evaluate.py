"""`fingerpost evaluate`: foreign telemetry by mapping, dirty rows left out, and the figures of the shipped targets."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from fingerpost.cli import app
from fingerpost.errors import NoDataError
from fingerpost.features.foreign import find_mapping, import_telemetry, load_mapping
from fingerpost.lake import parquet_files
from tests.support.foreign import foreign_input

START = pd.Timestamp("2026-01-01 23:55", tz="UTC").as_unit("us")


def write_spans(folder, seconds=900, seed=0):
    """Two hosts, three operations; every 60 s the hosts slow down for 20 s. Some rows are dirty."""
    rng, folder = np.random.default_rng(seed), Path(folder)
    at = np.sort(rng.uniform(0, seconds, seconds * 15))
    slow = np.where((at % 60) < 20, 3.0, 1.0)
    spans = pd.DataFrame(
        {
            "start": START + pd.to_timedelta(at, unit="s").as_unit("us"),
            "host": rng.choice(["pod-a", "pod-b"], len(at)),
            "operation": rng.choice(["svc/Get", "svc/Put", "svc/List"], len(at)),
            "duration_s": 0.01 * slow * rng.lognormal(0, 0.4, len(at)),
        }
    )
    spans.loc[3, "start"] = pd.Timestamp("2031-05-05", tz="UTC")
    spans.loc[4, "duration_s"] = -1.0
    spans.loc[5, "host"] = None
    spans.to_parquet(folder / "requests.parquet")
    minutes = pd.date_range(START, periods=seconds // 60, freq="min")
    pods = [{"time": time, "PodName": pod} for time in minutes for pod in ("pod-a", "pod-b")]
    metrics = pd.DataFrame(pods).assign(**{"CpuUsageRate(%)": 50.0, "CpuUsage(m)": 100.0, "MemoryUsageRate(%)": 20.0})
    metrics["MemoryUsage(Mi)"] = 30.0
    metrics.loc[0, "time"] = pd.Timestamp("2029-01-01", tz="UTC")
    metrics.to_parquet(folder / "host_metrics.parquet")


def test_dirty_rows_are_left_out_and_counted(tmp_path):
    write_spans(tmp_path, 200)
    refused = import_telemetry(tmp_path, find_mapping(tmp_path), tmp_path / "lake", "shop")
    # Without a duration there is no telling when a span ended.
    assert refused == {
        "requests:time:future": 1,
        "requests:time:missing": 1,
        "requests:host:missing": 1,
        "samples:time:future": 1,
    }
    files = list(parquet_files(tmp_path / "lake" / "requests"))
    assert sum(len(pd.read_parquet(path)) for path in files) == 200 * 15 - 3
    samples = pd.concat([pd.read_parquet(path) for path in parquet_files(tmp_path / "lake" / "samples")])
    assert samples["cores"].tolist() == pytest.approx([0.2] * len(samples))


@pytest.mark.process
def test_foreign_telemetry_is_scored_against_every_naive_forecast(tmp_path):
    write_spans(tmp_path)
    told = CliRunner().invoke(app, ["evaluate", str(tmp_path), "--json"], catch_exceptions=False)
    assert told.exit_code == 0
    figures = json.loads(told.stdout)
    assert figures["requests"] == 900 * 15 - 3
    # How many cores a host has left is told once a minute, in one window of six.
    assert 0 < figures["targets"]["throughput"]["rows"] <= figures["test_rows"] / 4
    for name in ("latency_p50", "latency_p90", "latency_p99"):
        target = figures["targets"][name]
        assert target["rows"] == figures["test_rows"]
        assert set(target["naive"]) == {"last", "ewma", "median"}
        assert target["skill"] == pytest.approx(1 - target["model"] / min(target["naive"].values()))
    # What slows down and recovers can be foreseen from how long it has been so.
    median = figures["targets"]["latency_p50"]
    assert median["skill"] > 0.1
    assert median["request_skill"] > 0.1
    # The median of 25 requests with a spread of 0.4 is off by 1.25 * 0.4 / 5, or 0.08 on average; spells that begin
    # within a window add to it.
    assert 0.07 < median["ceiling"]["noise"] < 0.11
    assert median["skill"] < median["ceiling"]["skill"] < 1
    assert 0 < median["ceiling"]["share"] < 1
    assert figures["replay.groups"] > 5
    assert 0 <= figures["ranking.regret"] <= figures["ranking.chance"] + 0.1


@pytest.mark.process
def test_a_lake_of_ours_is_scored_and_left_as_it_was(measured_lake):
    before = sorted(path for path in measured_lake.rglob("*"))
    told = CliRunner().invoke(app, ["evaluate", str(measured_lake), "--window", "5"], catch_exceptions=False)
    assert told.exit_code == 0
    assert "throughput" in told.stdout
    assert "regret of the choice of hosts: " in told.stdout
    assert sorted(path for path in measured_lake.rglob("*")) == before


def test_a_mapping_of_ones_own(tmp_path):
    seconds = np.arange(0, 3000, dtype=float)
    table = pd.DataFrame({"when": 1.7e9 + seconds / 5, "node": "n1", "call": "x", "ms": 5.0})
    table.to_csv(tmp_path / "calls.csv", index=False)
    with pytest.raises(NoDataError, match="--mapping FILE"):
        find_mapping(tmp_path)
    path = tmp_path / "mine.toml"
    path.write_text(
        '[requests]\nfile = "calls.csv"\n[requests.columns]\ntime = { from = "when", unit = "s" }\n'
        'host = { from = "node" }\nroute = { from = "call" }\nduration_s = { from = "ms", scale = 0.001 }\n'
    )
    import_telemetry(tmp_path, load_mapping(path), tmp_path / "lake", "shop")
    [file] = parquet_files(tmp_path / "lake" / "requests")
    assert pd.read_parquet(file)["duration_s"].tolist() == pytest.approx([0.005] * 3000)
    path.write_text('[requests]\nfile = "calls.csv"\n[requests.columns]\ncolour = { from = "x" }\n')
    with pytest.raises(NoDataError, match="colour"):
        load_mapping(path)


def test_the_targets_on_real_telemetry():
    told = CliRunner().invoke(
        app, ["evaluate", str(foreign_input("online-boutique")), "--json"], catch_exceptions=False
    )
    targets = json.loads(told.stdout)["targets"]
    assert targets["latency_p50"]["skill"] >= 0.20
    assert targets["latency_p90"]["skill"] >= 0.14
