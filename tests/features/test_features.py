"""Windows, throughput, fingerprints: formulas, and that no feature knows the future."""

import shutil

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.category import CategoryTable
from fingerpost.errors import NoDataError
from fingerpost.features.build import build_features, load_categories, load_training_rows
from fingerpost.features.definition import FEATURES, NAIVE_COLUMNS, OUTCOMES, naive_column, schema_hash
from fingerpost.features.prepare import FeatureSettings
from fingerpost.features.replay import Replay
from fingerpost.features.windows import build_windows, windowed_of, windows_table
from fingerpost.features.windows import loads_table as table_of_loads
from fingerpost.lake import parquet_files
from fingerpost.schemas import HOST_SAMPLE_SCHEMA, WINDOW_SCHEMA
from fingerpost.telemetry.history import HISTORY_COLUMNS, History
from fingerpost.telemetry.throughput import PLACES_A_CORE, throughput_rps
from fingerpost.telemetry.windows import aggregate
from tests.support.latest_features import features_of

START = pd.Timestamp("2026-01-01", tz="UTC").as_unit("us")


def requests_frame(rows):
    """(seconds, host, route, duration, cpu) to request records."""
    frame = pd.DataFrame(rows, columns=["at", "host", "route", "duration_s", "cpu_s"])
    frame["time"] = START + pd.to_timedelta(frame.pop("at"), unit="s").dt.as_unit("us")
    return frame.assign(
        service="shop", method="GET", status=200, bytes_in=0, auth="none", user_agent_class="bot", region="none",
        service_time_s=frame["duration_s"], inflight=1,
    )  # fmt: skip


def samples_frame(rows):
    """(seconds, host, cpu_util, cores, slots) to host samples."""
    frame = pd.DataFrame(rows, columns=["at", "host", "cpu_util", "cores", "slots"])
    frame["time"] = START + pd.to_timedelta(frame.pop("at"), unit="s").dt.as_unit("us")
    return frame.assign(mem_bytes=500, mem_limit_bytes=1000, inflight=2)


TABLE = CategoryTable((("GET /a",), ("GET /b",)))


def random_telemetry(seconds=120, seed=0):
    rng = np.random.default_rng(seed)
    times = np.sort(rng.uniform(0, seconds, seconds * 20))
    rows = [(t, rng.choice(["h1", "h2"]), rng.choice(["/a", "/b"]), rng.lognormal(-4, 0.5), 0.004) for t in times]
    samples = [(t + 0.5, host, rng.uniform(), 2.0, 4) for t in range(seconds) for host in ("h1", "h2")]
    return requests_frame(rows), samples_frame(samples)


def replay(requests, samples, window_s=5.0, simulate_cold_start=False):
    """The training rows, and the latest features."""
    windowed = build_windows(requests, samples, TABLE, window_s)
    told = Replay(windowed.hosts, windowed.categories, window_s, 30.0)
    return told.run(windowed.windows, windowed.loads, simulate_cold_start), features_of(told)


def test_throughput_is_the_tightest_bound():
    assert throughput_rps(0.01, 2.0, 0.02, 8)[()] == pytest.approx(200)  # CPU: 200/s, slots: 400/s
    assert throughput_rps(0.001, 2.0, 0.02, 8)[()] == pytest.approx(400)
    assert throughput_rps(0.001, 2.0, 0.02, 8, mem_bytes=100, mem_left_bytes=200)[()] == pytest.approx(100)
    assert np.isnan(throughput_rps(np.nan, 2.0))


@given(st.floats(1e-6, 10), st.floats(0, 64), st.floats(1e-6, 10), st.integers(1, 100))
def test_throughput_never_exceeds_any_resource(cpu_s, cores, service_time_s, slots):
    rate = throughput_rps(cpu_s, cores, service_time_s, slots)[()]
    assert 0 < rate <= max(cores, 0.05) / cpu_s * 1.000001
    assert rate <= slots / service_time_s * 1.000001


def test_windows_hold_their_beginning_not_their_end():
    requests = requests_frame(
        [(0.0, "h1", "/a", 0.1, 0.02), (9.999999, "h1", "/a", 0.3, 0.04), (10.0, "h1", "/a", 0.5, 0.1)]
    )
    windowed = build_windows(requests, samples_frame([(1, "h1", 0.5, 2.0, 4), (11, "h1", 0.5, 2.0, 4)]), TABLE, 10)
    windows = windows_table(windowed, "shop", 10.0).to_pandas()
    assert windows["time"].tolist() == [START + pd.Timedelta(seconds=10), START + pd.Timedelta(seconds=20)]
    first = windows.iloc[0]
    assert (first["requests"], first["rate_rps"], first["latency_p50_s"]) == (2, 0.2, pytest.approx(0.2))
    assert first["cpu_s"] == pytest.approx(0.06)
    # 1 core in use, 0.006 of it by requests; 1.006 left; 0.03 CPU-s a request; 4 slots / 0.2 s allow 20/s.
    assert windowed.loads["background_cores"][0] == pytest.approx(0.994)
    assert first["throughput_rps"] == pytest.approx(4 / 0.2)
    assert windows.columns.tolist() == WINDOW_SCHEMA.names


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 2), st.floats(1e-6, 100)), min_size=1, max_size=80))
def test_windows_agree_with_pandas(rows):
    seconds, category, durations = (np.array(each) for each in zip(*rows, strict=True))
    zeros = np.zeros(len(rows), dtype=np.int64)
    told = aggregate(
        {
            "time_us": seconds * 10**6,
            "host": zeros,
            "category": category,
            "status": zeros + 200,
            "duration_s": durations,
        },
        10.0,
    )
    frame = pd.DataFrame({"end": (seconds // 10 + 1) * 10**7, "category": category, "d": durations})
    groups = frame.groupby(["end", "category"])["d"]
    assert told["end_us"].tolist() == [key[0] for key in groups.groups]
    assert told["requests"].tolist() == told["measured"].tolist() == groups.size().tolist()
    for share, name in ((0.5, "latency_p50_s"), (0.9, "latency_p90_s"), (0.99, "latency_p99_s")):
        np.testing.assert_allclose(told[name], groups.quantile(share), rtol=1e-5, atol=1e-30)


def test_windows_read_back_are_what_was_written():
    windowed = build_windows(*random_telemetry(60), TABLE, 5)
    again = windowed_of(windows_table(windowed, "shop", 5.0), table_of_loads(windowed))
    for written, read in ((windowed.windows, again.windows), (windowed.loads, again.loads)):
        for name in written.keys() - {"category"}:
            np.testing.assert_array_equal(written[name], read[name])


def test_a_host_alone_has_the_history_it_has_in_the_fleet():
    windowed = build_windows(*random_telemetry(), TABLE, 5.0)
    count = len(windowed.categories)
    fleet = History(2, count, 5.0, 30.0)
    alone = [History(1, count, 5.0, 30.0) for _ in range(2)]
    for end_us in np.unique(np.r_[windowed.windows["end_us"], windowed.loads["end_us"]]):
        parts = [
            {n: v[each["end_us"] == end_us] for n, v in each.items()} for each in (windowed.windows, windowed.loads)
        ]
        fleet.observe(int(end_us), *parts)
        for place, history in enumerate(alone):
            mine = [{n: v[each["host"] == place] for n, v in each.items()} for each in parts]
            history.observe(int(end_us), *({**each, "host": each["host"] * 0} for each in mine))
    for place, history in enumerate(alone):
        np.testing.assert_array_equal(history.columns()[0], fleet.columns()[place])
        np.testing.assert_array_equal(history.host_values()[0], fleet.host_values()[place])


def test_no_feature_depends_on_the_future():
    requests, samples = random_telemetry()
    rows = replay(requests, samples, simulate_cold_start=True)[0]
    cut = START + pd.Timedelta(seconds=60)
    late = requests["time"] >= cut
    changed = requests.assign(
        duration_s=requests["duration_s"].where(~late, requests["duration_s"] * 50),
        cpu_s=requests["cpu_s"].where(~late, 0.9),
    )
    changed_samples = samples.assign(cpu_util=samples["cpu_util"].where(samples["time"] < cut, 1.0))
    perturbed = replay(changed, changed_samples, simulate_cold_start=True)[0]
    known = [*FEATURES, *NAIVE_COLUMNS]
    before, after = rows[rows["time"] <= cut], perturbed[perturbed["time"] <= cut]
    assert len(before) > 30
    pd.testing.assert_frame_equal(before[known], after[known])
    assert not rows[rows["time"] > cut][known].equals(perturbed[perturbed["time"] > cut][known])


def test_served_features_equal_those_of_training():
    requests, samples = random_telemetry()
    rows = replay(requests, samples)[0]
    for at in sorted(rows["time"].unique())[::5]:
        served = replay(requests[requests["time"] < at], samples[samples["time"] < at])[1]
        assert (served["time"] == at).all()
        trained = rows[rows["time"] == at]
        both = trained[["host", "category"]].merge(served, on=["host", "category"], how="left")
        pd.testing.assert_frame_equal(both[list(FEATURES)], trained[list(FEATURES)].reset_index(drop=True))


def test_after_a_gap_predictions_are_made_from_what_is_known_and_the_gap():
    requests, samples = random_telemetry()
    gap = [START + pd.Timedelta(seconds=each) for each in (40, 80)]
    kept = [each[~each["time"].between(*gap, inclusive="left")] for each in (requests, samples)]
    rows = replay(*kept)[0]
    first = rows[rows["time"] == START + pd.Timedelta(seconds=80)]
    assert np.expm1(first["age_s"]).to_numpy() == pytest.approx(40)
    second = rows[rows["time"] == START + pd.Timedelta(seconds=85)]
    assert np.expm1(second["host_gap_s"]).to_numpy() == pytest.approx(40)


def test_every_host_is_served_for_every_category_seen():
    requests = requests_frame([(t * 1.0, "h1", "/a" if t % 2 else "/b", 0.01, 0.005) for t in range(40)])
    samples = samples_frame([(t, host, 0.1, 1.0, 4) for t in range(40) for host in ("h1", "h2")])
    latest = replay(requests, samples)[1]
    assert len(latest) == 4
    unseen = latest[latest["host"] == "h2"]
    assert not unseen["own"].any()
    assert np.isfinite(unseen[naive_column("ewma", "latency_p50_s")]).all()


def one_cell(history, end_s, value, requests=1.0):
    values = dict.fromkeys(("throughput_rps", "latency_p50_s", "latency_p90_s", "latency_p99_s", "cpu_mean_s"), value)
    windows = {name: np.exp([each]) for name, each in values.items()}
    windows |= {
        "host": np.array([0]),
        "category": np.array([0]),
        "requests": np.array([requests]),
        "measured": np.array([requests]),
        "errors": np.zeros(1),
    }
    windows |= {"bytes_in_mean": np.zeros(1), "inflight_mean": np.array([np.nan])}
    history.observe(int(end_s * 1e6), windows, {"host": np.zeros(0)})


def view_of(history, name, now_s=None):
    now_us = None if now_s is None else int(now_s * 1e6)
    return history.columns(now_us)[0, 0, HISTORY_COLUMNS.index(name)]


def test_ewma_halves_by_time_and_counts_by_requests():
    history = History(1, 1, window_s=10, halflife_s=20)
    one_cell(history, 10, 1.0, requests=3)
    one_cell(history, 30, 5.0, requests=1)
    assert view_of(history, "latency_p50_s_ewma") == pytest.approx((3 * 0.5 * 1.0 + 5.0) / (3 * 0.5 + 1))
    assert view_of(history, "latency_p50_s_last") == 5.0
    assert view_of(history, "latency_p50_s_previous") == 1.0
    assert view_of(history, "latency_p50_s_median") == 3.0
    assert view_of(history, "age_s", 50) == 20
    assert view_of(history, "rate_rps_last") == 0.1
    assert view_of(history, "rate_rps_last", 50) == 0


def test_the_mixed_forecast_follows_what_did_well():
    history = History(1, 1, window_s=10, halflife_s=60)
    for number in range(1, 60):
        one_cell(history, number * 10, 1.0 if number < 40 else 3.0)
    assert view_of(history, "latency_p50_s_mixed") == pytest.approx(3.0, abs=0.05)
    assert view_of(history, "latency_p50_s_error_last") < view_of(history, "latency_p50_s_error_long")


def test_windows_must_come_in_order():
    history = History(1, 1, 10, 20)
    one_cell(history, 20, 1.0)
    with pytest.raises(ValueError, match="comes after"):
        one_cell(history, 20, 1.0)
    with pytest.raises(ValueError, match="lies before"):
        history.columns(10)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=30))
def test_averages_stay_within_what_was_seen(values):
    history = History(1, 1, 10, 20)
    for number, value in enumerate(values, start=1):
        one_cell(history, number * 10, value)
    for view in ("last", "short", "ewma", "long", "level", "median", "mixed"):
        assert min(values) - 1e-6 <= view_of(history, f"latency_p50_s_{view}") <= max(values) + 1e-6


def test_features_of_a_lake(featured_lake):
    rows = load_training_rows(featured_lake, "shop", 10**6)
    assert set(FEATURES) <= set(rows.columns)
    assert 0 < len(load_training_rows(featured_lake, "shop", 10)) <= 10
    assert rows["category"].isin(load_categories(featured_lake, "shop").names).all()


def test_no_records_is_said_plainly(tmp_path):
    with pytest.raises(NoDataError, match="no request records of service 'shop'"):
        build_features(tmp_path, "shop", FeatureSettings(5, 30, 16, 30))
    with pytest.raises(NoDataError, match="fingerpost run features"):
        load_training_rows(tmp_path, "shop", 10)


def test_records_without_host_samples_still_make_windows():
    requests, _ = random_telemetry(30)
    windows = build_windows(requests, HOST_SAMPLE_SCHEMA.empty_table().to_pandas(), TABLE, 5).windows
    assert len(windows["end_us"]) > 10
    # A host that nothing is known of but its log serves one request at a time.
    np.testing.assert_allclose(windows["throughput_rps"], PLACES_A_CORE / windows["service_time_mean_s"])


def test_new_hosts_are_forecast_as_their_like():
    """h1 and h3 are alike, h2 and h4 are: what h4 never served it is expected to serve as h2 does."""
    rng, rows = np.random.default_rng(1), []
    for second in range(200):
        for host, slow in (("h1", "/a"), ("h2", "/b"), ("h3", "/a"), ("h4", "/b")):
            for route in ("/a", "/b"):
                if (host, route) != ("h4", "/b"):
                    rows.append(
                        (second, host, route, 0.01 * (4 if route == slow else 1) * rng.lognormal(0, 0.1), 0.001)
                    )
    latest = replay(requests_frame(rows), samples_frame([(1, "h1", 0.1, 1.0, 4)]))[1].set_index(["host", "category"])
    cell = latest.loc[("h4", "GET /b")]
    expected = cell["latency_p50_s_ewma"] + cell["latency_p50_s_peers"]
    assert expected == pytest.approx(np.log(0.04), abs=0.15)
    assert cell[naive_column("ewma", "latency_p50_s")] < np.log(0.03)
    assert set(OUTCOMES) <= {name.removeprefix("naive_ewma_") for name in latest.columns}


def test_what_another_version_made_is_made_anew_or_left_out(measured_lake, tmp_path, caplog):
    lake, settings = tmp_path / "lake", FeatureSettings(5, 30, 16, 30)
    for kind in ("requests", "samples"):
        shutil.copytree(measured_lake / kind, lake / kind)
    first = build_features(lake, "shop", settings)
    rows = load_training_rows(lake, "shop", 10**6)
    for folder in (lake / "windows").rglob("date=*"):
        # As a version before had it: fewer columns, another schema.
        path, made_from = folder / "windows.parquet", folder / "made_from.json"
        pq.write_table(pq.ParquetFile(path).read().drop_columns(["measured", "unloaded_mean_s"]), path)
        made_from.write_text(made_from.read_text().replace(schema_hash(), "0123456789ab"))
    again = build_features(lake, "shop", settings)
    assert again.dates_made == again.dates_replayed == first.dates_made
    pd.testing.assert_frame_equal(load_training_rows(lake, "shop", 10**6), rows)
    # Rows whose records are gone cannot be made anew.
    (path,) = parquet_files(lake / "features")
    old = path.parent.parent / "date=2020-01-01" / path.name
    old.parent.mkdir()
    table = pq.ParquetFile(path).read()
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"schema_hash": b"0123456789ab"}), old)
    with caplog.at_level("WARNING"):
        assert len(load_training_rows(lake, "shop", 10**6)) == len(rows)
    assert "another version" in caplog.text
