"""The sample in data/: made by its scripts, the same in all its forms, and enough for `fingerpost evaluate`."""

import json
import re
import time
import tomllib
from fnmatch import fnmatch

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from data.make_sample import ABOUT, FEATURE_DIGITS, MINUTES, SAMPLE, SEED, feature_settings, make_sample, write_records
from data.make_schema import SCHEMA, schema_notes
from data.sample_logs import HAPROXY_CAPTURES, HAPROXY_HEADER_BYTES, NGINX_FORMAT, read_lines, write_logs
from data.sample_run import HOSTS, RTT_S, SERVICE
from data.sample_traffic import make_traffic
from fingerpost.accesslog import times
from fingerpost.agent.otlp import JSON, parse_traces
from fingerpost.agent.record_buffer import RecordBuffer
from fingerpost.agent.sources import LogSource
from fingerpost.cli import app
from fingerpost.features.build import build_features
from fingerpost.features.definition import schema_hash
from fingerpost.lake import parquet_files, service_folder
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from fingerpost.regions import Regions

ROOT = SAMPLE.parent.parent
REMAKE = "data/sample is not what the scripts make now: run `python -m data.make_sample` and commit it"
MILLISECOND_US = 1000
# What a line of any log tells of a request in full, and what its record must have.
TOLD = ["host", "method", "route", "status", "bytes_in", "auth", "user_agent_class", "region"]


def records_in(lake, kind="requests"):
    """Rows of all hosts, by host and time."""
    tables = [pq.read_table(path, partitioning=None) for path in parquet_files(service_folder(lake, kind, SERVICE))]
    return pd.concat([table.to_pandas() for table in tables]).sort_values(["host", "time"], ignore_index=True)


@pytest.fixture(scope="module")
def lake_records():
    return records_in(SAMPLE)


@pytest.fixture
def intake():
    """The agent's door, on the evening of that day."""
    end_s = json.loads((SAMPLE / ABOUT).read_text())["end_us"] / 1e6
    return RecordBuffer(Regions(), 5.0, 86_400.0, clock=lambda: end_s)


@pytest.fixture
def in_utc(monkeypatch):
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    times._local_s.cache_clear()
    yield
    monkeypatch.undo()
    time.tzset()
    times._local_s.cache_clear()


@pytest.fixture(scope="module")
def made_again():
    return make_traffic(SEED, MINUTES)


def read_log(intake, tmp_path, packed, log_format, host):
    """What the agent of a host takes from a log."""
    log = tmp_path / f"{host}-{packed.stem}"
    log.write_bytes(b"".join(line + b"\n" for line in read_lines(packed)))
    source = LogSource(log, log_format, SERVICE, host, tmp_path)
    source.read(intake, lambda: True)
    source.close()


def taken(intake):
    assert intake.counts == {}
    columns = [column.name for column in REQUEST_RECORD]
    frame = pd.DataFrame(intake.records, columns=columns)
    frame["time"] = pd.to_datetime(frame["time"], unit="us", utc=True)
    return frame.reset_index(drop=True)


def micros(times):
    return times.dt.as_unit("us").astype("int64").to_numpy()


def assert_told(found, records, columns):
    assert len(found) == len(records)
    pd.testing.assert_frame_equal(found[columns], records[columns], check_dtype=False)


def assert_cut_to_milliseconds(found, known):
    """Times that a log has in whole milliseconds, cut off."""
    assert (found.isna() == known.isna()).all()
    lost_us = (known.dropna() - found.dropna()) * 1e6
    assert lost_us.min() > -1 and lost_us.max() < MILLISECOND_US


def test_envoys_log_tells_every_record_in_full(lake_records, intake, tmp_path):
    for host in HOSTS:
        read_log(intake, tmp_path, SAMPLE / "logs" / "envoy" / "access.log.gz", "envoy", host)
    found = taken(intake).sort_values("host", kind="stable", ignore_index=True)
    assert_told(found, lake_records, list(lake_records.columns))


def test_nginxs_logs_tell_the_same_to_the_millisecond(lake_records, intake, tmp_path):
    for host in sorted(HOSTS):
        read_log(intake, tmp_path, SAMPLE / "logs" / "nginx" / f"{host}.log.gz", "combined", host)
    found = taken(intake)
    assert_told(found, lake_records, [*TOLD, "bytes_out"])
    assert_cut_to_milliseconds(found["duration_s"], lake_records["duration_s"])
    assert_cut_to_milliseconds(found["service_time_s"], lake_records["service_time_s"])
    late_us = micros(lake_records["time"]) - micros(found["time"])
    assert late_us.min() >= 0 and late_us.max() < MILLISECOND_US


@pytest.mark.usefixtures("in_utc")
def test_haproxys_log_tells_the_same_to_the_millisecond(lake_records, intake, tmp_path):
    for host in HOSTS:
        read_log(intake, tmp_path, SAMPLE / "logs" / "haproxy" / "haproxy.log.gz", "haproxy", host)
    found = taken(intake).sort_values("host", kind="stable", ignore_index=True)
    assert_told(found, lake_records, TOLD)
    # HAProxy counts the answer's headers too; a client that left was sent none.
    headers = np.where(lake_records["status"] == 499, 0, HAPROXY_HEADER_BYTES)
    assert (found["bytes_out"] - lake_records["bytes_out"] == headers).all()
    assert_cut_to_milliseconds(found["duration_s"], lake_records["duration_s"])
    assert_cut_to_milliseconds(found["service_time_s"], lake_records["service_time_s"])
    # Begin and duration are cut off, each.
    late_us = micros(lake_records["time"]) - micros(found["time"])
    assert late_us.min() >= 0 and late_us.max() < 2 * MILLISECOND_US


@pytest.mark.process
def test_spans_tell_the_same_as_the_host_saw_it(lake_records, intake):
    for host in sorted(HOSTS):
        for body in read_lines(SAMPLE / "logs" / "otlp" / f"{host}.jsonl.gz"):
            spans = parse_traces(body, JSON, service=SERVICE, host=host)
            assert not spans.refused and not spans.skipped
            for record in spans.records:
                assert record["host"] == host
                intake.take(record, body[:100])
    found = taken(intake)
    assert_told(found, lake_records, [*TOLD, "bytes_out"])
    answered = lake_records["service_time_s"].notna()
    # The service time is that which the proxy saw: the way there and back included.
    np.testing.assert_allclose(
        found["service_time_s"] + RTT_S,
        lake_records["service_time_s"].where(answered, found["service_time_s"] + RTT_S),
        atol=1e-6,
    )
    late_us = (micros(lake_records["time"]) - micros(found["time"]))[answered]
    assert late_us.min() > 0 and late_us.max() < 10 * MILLISECOND_US


def test_the_formats_are_those_that_are_documented():
    pages = "\n".join(path.read_text() for path in sorted((ROOT / "docs").glob("*.md")))
    [nginx] = re.findall(r"log_format fingerpost (.*?);\n", pages, re.DOTALL)
    assert "".join(re.findall(r"'([^']*)'", nginx)) == NGINX_FORMAT
    assert tuple(re.findall(r"http-request capture (.*)", pages)) == HAPROXY_CAPTURES


@pytest.mark.process
def test_the_sample_is_what_the_script_makes(made_again, tmp_path):
    write_records(made_again, tmp_path)
    for kind, columns in (("requests", REQUEST_RECORD), ("samples", HOST_SAMPLE)):
        made, kept = (records_in(lake, kind) for lake in (tmp_path, SAMPLE))
        assert list(kept.columns) == [column.name for column in columns]
        assert kept.equals(made), REMAKE
    write_logs(made_again.requests, tmp_path / "logs")
    logs = sorted(path.relative_to(tmp_path) for path in (tmp_path / "logs").rglob("*.gz"))
    assert logs == sorted(path.relative_to(SAMPLE) for path in (SAMPLE / "logs").rglob("*.gz"))
    for log in logs:
        assert read_lines(SAMPLE / log) == read_lines(tmp_path / log), f"{log}: {REMAKE}"


def test_windows_and_features_are_those_of_this_version(tmp_path):
    assert json.loads((SAMPLE / ABOUT).read_text())["schema_hash"] == schema_hash(), REMAKE
    build_features(SAMPLE, SERVICE, feature_settings(), out=tmp_path)
    for kind, precision in (("windows", 1e-12), ("loads", 1e-12), ("features", 10.0**-FEATURE_DIGITS)):
        made, kept = (
            pd.concat([pq.read_table(path, partitioning=None).to_pandas() for path in parquet_files(lake / kind)])
            for lake in (tmp_path, SAMPLE)
        )
        pd.testing.assert_frame_equal(kept, made, rtol=precision, atol=1e-9, obj=f"{kind}: {REMAKE}")


def contents(folder):
    """Every file by its path: the rows of a Parquet file, the bytes of any other."""
    return {
        str(path.relative_to(folder)): pq.read_table(path, partitioning=None).to_pandas()
        if path.suffix == ".parquet"
        else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def same(one, other):
    return one.equals(other) if isinstance(one, pd.DataFrame) else one == other


@pytest.mark.process
def test_the_same_seed_makes_the_same_and_another_another(tmp_path):
    for name, seed in (("first", 5), ("again", 5), ("other", 6)):
        make_sample(seed, 2, tmp_path / name)
    first, again, other = (contents(tmp_path / name) for name in ("first", "again", "other"))
    assert list(first) == list(again)
    assert [name for name in first if not same(first[name], again[name])] == []
    assert first["logs/envoy/access.log.gz"] != other["logs/envoy/access.log.gz"]


def test_an_older_sample_is_replaced_and_nothing_else(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FileExistsError, match="no sample"):
        make_sample(5, 2, tmp_path)
    with pytest.raises(ValueError, match=r"minutes is 0\.5"):
        make_sample(5, 0.5, tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.process
def test_propensities_are_those_of_the_picker(made_again):
    requests = made_again.requests
    once = ~requests["retried"].to_numpy(bool)
    assert requests["propensity"].notna().tolist() == once.tolist()
    assert 0 < (~once).sum() < 10
    explored = requests["explored"].to_numpy(bool)
    assert 0.04 < explored.mean() < 0.07
    # Who did not explore took a host that costs least, which is likelier than any that is only explored.
    assert requests["propensity"][once & ~explored].min() > 0.2
    assert requests["propensity"][once & explored].min() >= 0.05 / 4
    assert set(requests["arm"]) == {"champion", "challenger"}
    assert requests.groupby("arm")["model_version"].unique().str.len().eq(1).all()


@pytest.mark.process
def test_the_sample_is_evaluated_from_a_clone():
    before = {path: path.stat().st_mtime_ns for path in SAMPLE.rglob("*")}
    told = CliRunner().invoke(app, ["evaluate", str(SAMPLE)], catch_exceptions=False)
    assert told.exit_code == 0
    assert "skill" in told.stdout
    for target in ("throughput", "latency_p50", "latency_p90", "latency_p99"):
        assert re.search(rf"{target}\b.*[+-]\d\.\d{{3}}", told.stdout), told.stdout
    assert {path: path.stat().st_mtime_ns for path in SAMPLE.rglob("*")} == before


def test_the_schema_notes_are_those_of_the_definitions():
    assert SCHEMA.read_text() == schema_notes(), "run `python -m data.make_schema` and commit data/SCHEMA.md"


def test_the_sample_is_small_and_in_no_wheel():
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) < 5_000_000
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    wanted = tools["packages"]["find"]["include"]
    assert not any(fnmatch(name, pattern) for name in ("data", "data.sample") for pattern in wanted)
    assert not any("data" in name.split("/") or "sample" in name for name in tools.get("package-data", {}))
