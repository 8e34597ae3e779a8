"""CPU that an agent attributes reaches lake, history, target and model, as CPU that was measured does."""

import json
import time

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fingerpost.agent.attribution import attribute
from fingerpost.agent.batches import write_batch
from fingerpost.agent.host_history import HostHistory
from fingerpost.category import CategoryTable, category_key
from fingerpost.clock import US
from fingerpost.features.build import build_features, load_categories, load_training_rows
from fingerpost.features.ingest import ingest
from fingerpost.features.prepare import FeatureSettings
from fingerpost.lake import parquet_files
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD, refusal
from fingerpost.telemetry.host_attribution import HostAttribution
from fingerpost.training.evaluate import time_split
from fingerpost.training.fit import DEFAULT_PARAMS, fit_bundle
from tests.support.lakes import records_of, replayed
from tests.support.records import record

TABLE = CategoryTable(tuple(category_key("POST", route, "0", "none", "browser", "DE") for route in ("/a", "/b")))
OVERHEAD_S = 0.001
# CPU-seconds a request of each route; `twin` is `fast` with middleware, the others are known from their logs alone.
HOSTS = {"fast": (0.01, 0.02), "slow": (0.02, 0.02), "odd": (0.01, 0.04), "twin": (0.01, 0.02)}
SECONDS, RATE, BATCH = 180, 12, 5


def one_host(host, begin_s, rng):
    """What the agent of a host makes of its telemetry: records with CPU, samples, and the history it keeps."""
    attribution = HostAttribution(len(TABLE.names), 60.0, 300.0, begin_s)
    own = HostHistory(TABLE, 5.0, 30.0)
    requests, samples = [], []
    for batch in range(SECONDS // BATCH):
        fresh, places = [], []
        for second in range(begin_s + batch * BATCH, begin_s + (batch + 1) * BATCH):
            used_s = 0.05
            for _ in range(rng.poisson(RATE)):
                place = int(rng.integers(2))
                cost_s = HOSTS[host][place] * rng.lognormal(-0.02, 0.2)
                used_s += cost_s
                known = {"cpu_s": cost_s - OVERHEAD_S} if host == "twin" else {"cpu_s": None}
                end_us = int((second + rng.uniform(0.2, 1)) * US)
                known |= {"duration_s": 3 * cost_s, "service_time_s": None, "inflight": None, "time": end_us}
                fresh.append(record(host=host, route="/" + "ab"[place], bytes_in=0, **known))
                places.append(place)
            sample = {"time": (second + 1) * US, "service": "shop", "host": host, "cpu_util": min(used_s / 2, 1.0)}
            sample |= {"cores": 2.0, "mem_bytes": 100, "mem_limit_bytes": 1000, "inflight": None, "slots": None}
            attribution.add_sample(np.array([second, second + 1.0]), np.array([used_s]), 100.0, 2.0)
            own.add_sample(sample)
            samples.append(sample)
        attribute(attribution, fresh, np.array(places, dtype=np.int64), second + 1.0)
        own.add_requests(fresh)
        own.close((second + 1) * US)
        requests += fresh
    own.close((begin_s + SECONDS + 20) * US)
    return requests, samples, own


@pytest.fixture(scope="module")
def fleet(tmp_path_factory):
    """A lake of all hosts with windows and training rows, and the histories their agents kept."""
    lake, rng, histories = tmp_path_factory.mktemp("attributed"), np.random.default_rng(4), {}
    begin_s = int(time.time()) // 60 * 60 - SECONDS - 60
    for host in HOSTS:
        requests, samples, histories[host] = one_host(host, begin_s, rng)
        bounds = ((begin_s - 10) * US, (begin_s + 1000) * US)
        assert {refusal(row, REQUEST_RECORD, *bounds) for row in requests} == {None}
        write_batch(lake, "samples", HOST_SAMPLE, samples, host)
        write_batch(lake, "requests", REQUEST_RECORD, requests, host)
    assert not ingest(lake, "shop", 5, 86_400).refused
    (lake / "categories").mkdir()
    (lake / "categories" / "service=shop.json").write_text(json.dumps(TABLE.to_json()))
    build_features(lake, "shop", FeatureSettings(5, 30, 16, 30))
    return lake, histories


def windows_of(lake, host):
    """The host's windows after the first minute, by category."""
    files = parquet_files(lake / "windows")
    rows = [row for path in files for row in pq.ParquetFile(path).read().to_pylist() if row["host"] == host]
    begin = min(row["time"] for row in rows)
    late = [row for row in rows if (row["time"] - begin).total_seconds() > 60]
    return [[row for row in late if row["category"] == name] for name in TABLE.names[:2]]


def capacity(rows):
    return len(rows) / sum(1 / row["throughput_rps"] for row in rows)


def test_windows_of_plain_logs_have_a_throughput_by_attributed_cpu(fleet):
    lake, _ = fleet
    for host, costs in HOSTS.items():
        for rows, cost_s in zip(windows_of(lake, host), costs, strict=True):
            assert capacity(rows) == pytest.approx(1.95 / cost_s, rel=0.15), host
            shares = {row["cpu_attributed_share"] for row in rows}
            assert shares == ({0.0} if host == "twin" else {1.0})


def test_a_host_without_middleware_is_on_the_scale_of_its_twin_with_it(fleet):
    lake, _ = fleet
    for mine, twins in zip(windows_of(lake, "fast"), windows_of(lake, "twin"), strict=True):
        assert capacity(mine) == pytest.approx(capacity(twins), rel=0.1)


def test_records_say_whether_their_cpu_was_measured(fleet):
    lake, _ = fleet
    measured = records_of(lake, "twin")
    assert {row["cpu_attributed"] for row in measured} == {0}
    attributed = records_of(lake, "slow")
    known = [row for row in attributed if row["cpu_s"] is not None]
    assert {row["cpu_attributed"] for row in known} == {1}
    # But for those of the first batch, before there was anything to attribute by.
    assert len(known) > 0.95 * len(attributed)


def test_the_live_history_is_the_replayed_one(fleet):
    lake, histories = fleet
    hosts, history = replayed(lake, load_categories(lake, "shop").names)
    for place, host in enumerate(hosts):
        own = histories[host].history
        now_us = own.now_us
        np.testing.assert_array_equal(own.columns(now_us)[0], history.columns(now_us)[place])
        np.testing.assert_array_equal(own.host_values(now_us)[0], history.host_values(now_us)[place])


def test_a_fleet_of_plain_logs_trains_and_is_told_apart(fleet):
    lake, _ = fleet
    rows = load_training_rows(lake, "shop", 10**6)
    rows = rows[rows["host"] != "twin"].reset_index(drop=True)
    earlier, later = time_split(rows["time"], 0.2, pd.Timedelta(seconds=5))
    bundle = fit_bundle(rows[earlier], rows[later], {**DEFAULT_PARAMS, "min_data_in_leaf": 20})
    found = rows[["host", "category"]].assign(rate=np.exp(bundle.predict_log(rows)["throughput_rps"]))
    late = found[rows["time"] > rows["time"].min() + pd.Timedelta(seconds=60)]
    rate = late.groupby(["category", "host"], observed=True)["rate"].median()
    a, b = (name for name in TABLE.names[:2])
    assert rate[a, "fast"] > 1.5 * rate[a, "slow"]
    assert rate[b, "fast"] > 1.5 * rate[b, "odd"]
    assert rate[a, "odd"] == pytest.approx(rate[a, "fast"], rel=0.2)
