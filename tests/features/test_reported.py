"""What travelled as windows trains the model that the same data in one place would train."""

import time

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fingerpost.agent.ended_windows import Numbering
from fingerpost.agent.host_history import SETTLE_US, HostHistory
from fingerpost.agent.options import AgentOptions
from fingerpost.category import CategoryTable
from fingerpost.clock import US
from fingerpost.features.build import build_features, load_categories, load_training_rows
from fingerpost.features.definition import NUMERIC_FEATURES, OUTCOMES
from fingerpost.features.ingest import ingest
from fingerpost.features.maintenance import compact
from fingerpost.features.prepare import FeatureSettings
from fingerpost.features.reported import Reported, read_reported, reported_counts
from fingerpost.lake import INBOX, dates, parquet_files, partition, read, write_table
from fingerpost.schemas import SCHEMAS
from fingerpost.serving.window_landing import tables_of
from fingerpost.window_merge import merge_reports
from fingerpost.window_report import WINDOW_COLUMNS, pack, unpack
from tests.support.demo_telemetry import write_demo_lake
from tests.support.lakes import records_of
from tests.support.records import made_report

SETTINGS = FeatureSettings(5.0, 20.0, 24, 30)
DAY_S = 86_400


def reports_of(lake, host, table):
    """What the agent of a host would tell of its records, through the wire."""
    options = AgentOptions(lake, "shop", host, window_s=SETTINGS.window_s, deliver="engine")
    own = HostHistory(table, SETTINGS.window_s, SETTINGS.halflife_s)
    own.ended._keys_told_s -= 3600.0  # a minute has passed
    rows = sorted([*records_of(lake, host), *records_of(lake, host, "samples")], key=lambda row: row["time"])
    for row in rows:
        if "route" in row:
            own.add_requests([row])
        else:
            own.add_sample(row)
    own.close(rows[-1]["time"] + SETTLE_US + 5 * US)
    now_us = rows[-1]["time"] + 10 * US
    return [unpack(pack(each), 0, 2**62) for each in Numbering(options, "b").reports(own.ended, "v", None, now_us)]


def land(lake, reports, name="landed"):
    for kind, table in tables_of(reports).items():
        if table.num_rows:
            write_table(partition(lake / INBOX, kind, "shop", "2026-01-01") / f"{name}.parquet", table)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A lake of records, and what the features step makes of them."""
    lake = tmp_path_factory.mktemp("one-place") / "lake"
    write_demo_lake(lake, 6, 120, 60.0)
    build_features(lake, "shop", SETTINGS)
    return lake


@pytest.fixture(scope="module")
def travelled(records, tmp_path_factory):
    """A lake to which only windows came."""
    lake, table = tmp_path_factory.mktemp("travelled") / "lake", load_categories(records, "shop")
    for host in sorted({row["host"] for day in dates(records, "samples", "shop") for row in hosts_in(records, day)}):
        land(lake, reports_of(records, host, table), host)
    report = ingest(lake, "shop", 5, DAY_S)
    assert not report.refused and not report.refused_files and report.windows > 500
    build_features(lake, "shop", SETTINGS)
    return lake


def hosts_in(lake, day):
    return read(lake, "samples", "shop", columns=["host"], on=[day]).to_pylist()


def test_the_training_rows_are_those_of_the_same_data_in_one_place(records, travelled):
    wanted, found = (load_training_rows(lake, "shop", 10**6) for lake in (records, travelled))
    place = ["time", "host", "category", "cold_start"]
    assert len(wanted) > 1000
    pd.testing.assert_frame_equal(found[place].astype(str), wanted[place].astype(str))
    for names in (list(NUMERIC_FEATURES), list(OUTCOMES), ["requests"]):
        numbers = [frame[names].to_numpy(np.float64) for frame in (found, wanted)]
        np.testing.assert_allclose(*numbers, rtol=2e-5, atol=4e-5)


def test_categories_are_fitted_from_counts_as_from_records(records, travelled):
    assert load_categories(travelled, "shop").version == load_categories(records, "shop").version


def test_a_second_run_makes_nothing_anew(travelled):
    assert build_features(travelled, "shop", SETTINGS).dates_made == []


def test_of_a_host_that_reports_its_sampled_records_make_no_windows(records, tmp_path):
    host = hosts_in(records, dates(records, "samples", "shop")[0])[0]["host"]
    lake = tmp_path / "lake"
    land(lake, reports_of(records, host, load_categories(records, "shop")))
    ingest(lake, "shop", 5, DAY_S)
    for kind in ("requests", "samples"):
        for day in dates(records, kind, "shop"):
            for path in parquet_files(partition(records, kind, "shop", day)):
                write_table(partition(lake, kind, "shop", day) / path.name, pq.ParquetFile(path).read())
    build_features(lake, "shop", SETTINGS)
    windows, wanted = (read(each, "windows", "shop").to_pandas() for each in (lake, records))
    pd.testing.assert_frame_equal(
        windows.sort_values(["time", "host", "category"], ignore_index=True),
        wanted.sort_values(["time", "host", "category"], ignore_index=True),
        rtol=1e-5,
    )


def test_what_was_compacted_gives_the_same_windows(travelled, tmp_path):
    lake = tmp_path / "lake"
    for kind in ("reported_windows", "reported_loads"):
        for day in dates(travelled, kind, "shop"):
            for path in parquet_files(partition(travelled, kind, "shop", day)):
                write_table(partition(lake, kind, "shop", day) / path.name, pq.ParquetFile(path).read())
    before = read(lake, "reported_windows", "shop").num_rows
    compact(lake, "shop", time.time() + 3 * DAY_S, quiet_s=0)
    assert read(lake, "reported_windows", "shop").num_rows == before
    assert len(list(parquet_files(lake / "reported_windows"))) == len(dates(lake, "reported_windows", "shop"))


def reported(*reports):
    """What `read_reported` gives of these."""
    made = tables_of(reports)
    return Reported("shop", 10.0, made["reported_windows"], made["reported_loads"])


TABLE = CategoryTable.from_names(["GET /a", "GET /b"])


def told(names, counts, **changes):
    windows = np.full((len(names), len(WINDOW_COLUMNS)), 0.5, dtype=np.float32)
    windows[:, 0] = windows[:, 2] = counts
    windows[:, 1] = 0
    windows[:, WINDOW_COLUMNS.index("latency_p50_s")] = np.array(counts) / 100
    return made_report(categories=tuple(names), windows=windows, **changes)


def test_categories_of_another_table_are_brought_to_the_one_in_force():
    rows = reported(told(["GET /a|0", "GET /a|1K", "GET /c|0"], [10, 30, 5])).windows(TABLE).to_pylist()
    assert [(row["category"], row["requests"]) for row in rows] == [("GET /a", 40), ("other", 5)]
    assert rows[0]["latency_p50_s"] == pytest.approx((10 * 0.1 + 30 * 0.3) / 40)
    assert rows[0]["rate_rps"] == 4.0


def test_several_reporters_of_a_host_are_merged_by_the_rule():
    host = told(["GET /a"], [10])
    seen = [told(["GET /a", "GET /b"], [4, 3], source="proxy", reporter=name, load=None) for name in ("e1", "e2")]
    for reports in ([host, *seen], seen):
        rows = reported(*reports).windows(TABLE).to_pylist()
        merged = merge_reports(reports)
        assert [row["category"] for row in rows] == list(merged.categories)
        for name in WINDOW_COLUMNS:
            np.testing.assert_allclose([row[name] for row in rows], merged.column(name), rtol=1e-6)
    assert len(reported(host, *seen).loads()) == 1


def test_a_window_that_ends_at_midnight_is_of_the_date_that_it_began_on(tmp_path):
    midnight_us = 1_700_006_400_000_000 // (DAY_S * US) * DAY_S * US
    land(tmp_path, [told(["GET /a"], [5], end_us=midnight_us, time_us=midnight_us + US)])
    ingest(tmp_path, "shop", 5, DAY_S, now_s=midnight_us / US + 10)
    (day,) = dates(tmp_path, "reported_windows", "shop")
    bounds = (midnight_us - DAY_S * US, midnight_us)
    assert len(read_reported(tmp_path, "shop", [day], bounds, 10.0).rows) == 1
    assert day == str(np.datetime64(midnight_us - 1, "us").astype("datetime64[D]"))


def test_windows_of_another_length_are_left_out_and_told_of(tmp_path, caplog):
    end_us = 1_699_999_990_000_000
    land(tmp_path, [told(["GET /a"], [5]), told(["GET /a"], [5], host="h2", window_s=5.0)])
    ingest(tmp_path, "shop", 5, DAY_S, now_s=end_us / US + 10)
    (day,) = dates(tmp_path, "reported_windows", "shop")
    found = read_reported(tmp_path, "shop", [day], (end_us - DAY_S * US, end_us + DAY_S * US), 10.0)
    assert found.rows.column("host").to_pylist() == ["h1"]
    assert "another length than 10 s" in caplog.text


def test_bad_windows_are_refused_by_name(tmp_path):
    table = tables_of([told(["GET /a", "GET /b"], [5, 6])])["reported_windows"]
    bad = table.set_column(table.column_names.index("latency_p50_s"), "latency_p50_s", pa.array([-1.0, 0.5]))
    write_table(partition(tmp_path / INBOX, "reported_windows", "shop", "2026-01-01") / "x.parquet", bad)
    report = ingest(tmp_path, "shop", 5, DAY_S, now_s=1_700_000_000)
    assert (report.windows, dict(report.refused)) == (1, {"latency_p50_s:negative": 1})


def test_counts_of_a_host_with_an_agent_are_the_agents():
    schema, key = SCHEMAS["reported_keys"], "GET /a|0|none|browser|DE"
    rows = [("h1", "host", "h1", 5), ("h1", "proxy", "e1", 4), ("h2", "proxy", "e1", 3), ("h2", "proxy", "e2", 2)]
    columns = {
        "time": [0] * 4,
        "service": ["shop"] * 4,
        **{name: [row[place] for row in rows] for place, name in enumerate(("host", "source", "reporter"))},
        "key": [key] * 4,
        "requests": [row[3] for row in rows],
    }
    counted = reported_counts(pa.table(columns, schema=schema).to_pandas())
    assert counted == [(tuple(key.split("|")), 10)]
