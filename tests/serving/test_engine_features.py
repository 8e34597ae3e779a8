"""One definition of features: what agents send and the engine makes of it is what the features step trained on."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.agent.ended_windows import Numbering
from fingerpost.agent.host_history import SETTLE_US, HostHistory
from fingerpost.agent.options import AgentOptions
from fingerpost.clock import US, clock_us
from fingerpost.events import Event
from fingerpost.features.build import build_features, load_categories, load_training_rows
from fingerpost.features.definition import FEATURES, NUMERIC_FEATURES, TARGETS
from fingerpost.features.fleet_features import ChosenCells, FleetFeatures, request_types
from fingerpost.features.outside import Outside
from fingerpost.features.prepare import FeatureSettings
from fingerpost.fingerprint import FINGERPRINT_HOST_COLUMNS, Fingerprint
from fingerpost.lake import partition, write_bytes_atomically
from fingerpost.serving.fleet_history import FleetHistory
from fingerpost.serving.fleet_state import HostState, build_fleet
from fingerpost.serving.histories import HistoryForm, gather
from fingerpost.serving.outside import event_file
from fingerpost.serving.scoring import ModelScorer, score_fleet
from fingerpost.telemetry.history import HISTORY_SCHEMA, History, extrapolate_history
from fingerpost.training.fit import DEFAULT_PARAMS, fit_bundle
from fingerpost.window_report import pack, unpack
from tests.support.demo_telemetry import write_demo_lake
from tests.support.lakes import records_of
from tests.support.latest_features import latest_features

FORM = HistoryForm(5.0, 20.0)
SETTINGS = FeatureSettings(FORM.window_s, FORM.halflife_s, 24, 30)
# What one 32-bit float is off, through differences of logs.
ROUNDING = {"rtol": 2e-6, "atol": 4e-6}
NOW_US = clock_us()
EVENTS = (
    Event("deploy", "shop", "", NOW_US - 7200 * US, told_us=NOW_US - 7200 * US),
    Event("campaign", "shop", "", NOW_US + 3600 * US, NOW_US + 7200 * US, told_us=NOW_US - 7200 * US),
)


@pytest.fixture(scope="module")
def lake(tmp_path_factory):
    lake = tmp_path_factory.mktemp("parity") / "lake"
    write_demo_lake(lake, 6, 120, 60.0)
    for event in EVENTS:
        path = partition(lake, "events", "shop", "2026-01-01") / f"{event.id}.parquet"
        write_bytes_atomically(path, event_file(event))
    build_features(lake, "shop", SETTINGS)
    return lake


@pytest.fixture(scope="module")
def agents(lake):
    """Each host's agent with all its records at hand; `at` hands out what it would have told at a time."""
    return Agents(lake)


class Agents:
    def __init__(self, lake):
        self.table = load_categories(lake, "shop")
        hosts = sorted({row["host"] for row in records_of_all(lake)})
        self.rows = {host: (records_of(lake, host), records_of(lake, host, "samples")) for host in hosts}

    def at(self, end_us, silent=()):
        """The hosts' states in the engine, by way of the wire, right after a window; `silent` ones end before it."""
        fleet, told = FleetHistory(FORM, 256), {}
        for host, (requests, samples) in self.rows.items():
            options = AgentOptions(Path(), "shop", host, window_s=FORM.window_s, deliver="engine")
            own, numbering = HostHistory(self.table, FORM.window_s, FORM.halflife_s), Numbering(options, "b")
            until_us = end_us - (30 * US if host in silent else 0)
            for half in (0, 1):  # in two parts, so that windows close on the way
                low, high = (0, until_us - 20 * US) if half == 0 else (until_us - 20 * US, until_us)
                own.add_requests([row for row in requests if low <= row["time"] < high])
                for row in samples:
                    if low <= row["time"] < high:
                        own.add_sample(row)
                own.close(high + SETTLE_US)
            reports = numbering.reports(own.ended, self.table.version, None, end_us + 3 * US)
            told[host] = [unpack(pack(each), 0, 2**62) for each in reports]
            fleet.observe(told[host])
        blocks, states = fleet.blocks(list(self.rows)), {}
        values = np.full(len(FINGERPRINT_HOST_COLUMNS), np.nan)
        for number, host in enumerate(self.rows):
            made = Fingerprint("shop", host, "b", 0, end_us + 3 * US, "v", ("other",), values, blocks[host])
            states[host] = HostState(made, end_us + number, 1)
        return states


def records_of_all(lake):
    import pyarrow.parquet as pq

    from fingerpost.lake import parquet_files

    return [row for path in parquet_files(lake / "samples") for row in pq.ParquetFile(path).read(["host"]).to_pylist()]


def fleet_of(states, table):
    """The engine's fleet; categories as hosts that have seen all of the table would tell them."""
    from dataclasses import replace

    told = {
        host: replace(each, fingerprint=replace(each.fingerprint, categories=table.names))
        for host, each in states.items()
    }
    return build_fleet("shop", told, 256, outside=Outside(EVENTS))


def test_served_features_are_those_of_the_training_rows(lake, agents):
    rows = load_training_rows(lake, "shop", 10**6)
    rows = rows[~rows["cold_start"]]
    times = sorted(rows["time"].unique())
    for time in (times[0], times[len(times) // 2], times[-1]):
        part = rows[rows["time"] == time]
        end_us = int(time.timestamp() * US)
        fleet = fleet_of(agents.at(end_us), agents.table)
        histories = gather(fleet, FORM)
        assert (histories.known, histories.now_us) == (6, end_us)
        host = np.array([fleet.hosts.index(name) for name in part["host"]])
        category = np.array([fleet.categories.index(name) for name in part["category"]])
        types = request_types(histories.categories)
        outside = fleet.outside.of_hosts(fleet.hosts).at(end_us)
        cells = histories.cells.astype(np.float64)
        found = FleetFeatures(cells, histories.host_values, types, end_us, outside).of(ChosenCells(host, category))
        wanted = part[list(NUMERIC_FEATURES)].to_numpy(np.float64)
        assert len(part) > 30
        assert np.isfinite(part[["deploy_since_s", "campaign_until_s", "campaign_on"]]).all(axis=None)
        np.testing.assert_allclose(found.numeric, wanted, **ROUNDING)


@pytest.mark.process
def test_served_predictions_are_those_of_the_features_step(lake, agents):
    rows = load_training_rows(lake, "shop", 10**6)
    train, valid = rows[: len(rows) * 3 // 4], rows[len(rows) * 3 // 4 :]
    bundle = fit_bundle(train, valid, {**DEFAULT_PARAMS, "min_data_in_leaf": 20})
    bundle.shifts["latency_p99_s"] = 0.1
    latest = latest_features(lake, SETTINGS)
    end_us = int(latest["time"].iloc[0].timestamp() * US)
    scored = score_fleet(fleet_of(agents.at(end_us), agents.table), ModelScorer.compiled(bundle, "1", FORM))
    assert (scored.source, scored.cells) == ("champion", 6 * len(agents.table.names))
    fleet = scored.fleet
    host = [fleet.hosts.index(name) for name in latest["host"]]
    category = [fleet.categories.index(name) for name in latest["category"]]
    served = scored.predictions[host, category]
    wanted = bundle.predict(latest)[list(TARGETS)].to_numpy()
    assert len(wanted) > 60
    # The wire's 32 bits can bring a feature to the other side of a tree's threshold: one leaf of some hundred trees.
    assert np.isclose(served, wanted, rtol=1e-4).mean() > 0.98
    np.testing.assert_allclose(served, wanted, rtol=0.02)


def test_the_encoded_matrix_is_the_same_by_either_way(lake):

    from fingerpost.training.bundle import Encoder

    latest = latest_features(lake, SETTINGS)
    encoder = Encoder.fit(latest.iloc[: len(latest) // 2])
    names = sorted(set(map(str, latest["category"])))
    places = np.array([names.index(str(name)) for name in latest["category"]])
    numeric = latest[list(NUMERIC_FEATURES)].to_numpy(np.float64)
    matrix = encoder.encode_cells(numeric, names, places)
    assert matrix.shape[1] == len(FEATURES)
    np.testing.assert_array_equal(matrix, encoder.encode(latest))


def test_a_host_that_fell_silent_is_as_the_replay_has_it(agents):
    """Its history is brought forward to the others' time, from what it told last."""
    latest = max(row["time"] for requests, _ in agents.rows.values() for row in requests)
    end_us = latest // (5 * US) * 5 * US
    silent = list(agents.rows)[2]
    fleet = fleet_of(agents.at(end_us, (silent,)), agents.table)
    histories = gather(fleet, FORM)
    requests, samples = agents.rows[silent]
    own = HostHistory(agents.table, FORM.window_s, FORM.halflife_s)
    own.add_requests([row for row in requests if row["time"] < end_us - 30 * US])
    for row in samples:
        if row["time"] < end_us - 30 * US:
            own.add_sample(row)
    own.close(end_us - 30 * US + SETTLE_US)
    place = fleet.hosts.index(silent)
    order = [agents.table.names.index(name) for name in fleet.categories]
    wanted = own.history.columns(end_us)[0, order]
    seen = own.history.state["seen"][0, order] > 0
    np.testing.assert_allclose(histories.cells[place, seen], wanted[seen], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(histories.host_values[place], own.history.host_values(end_us)[0], rtol=1e-4, atol=1e-5)
    assert histories.now_us == end_us


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 50)), min_size=1, max_size=6), st.floats(0.1, 500))
def test_a_history_moved_on_is_the_history_later(windows, after_s):
    history = History(1, 2, 5.0, 20.0)
    end_us = 10**9 * US
    for gap, requests in windows:
        end_us += gap * 5 * US
        one = {name: np.full(1, 0.1) for name in ("throughput_rps", "latency_p50_s", "latency_p90_s", "latency_p99_s")}
        place = {"host": np.zeros(1, dtype=np.int64), "category": np.zeros(1, dtype=np.int64)}
        rest = {name: np.full(1, 0.1) for name in ("cpu_mean_s", "bytes_in_mean", "inflight_mean")}
        counts = {"requests": np.full(1, requests), "measured": np.full(1, requests), "errors": np.zeros(1)}
        history.observe(end_us, {**one, **place, **rest, **counts}, {"host": np.zeros(0, dtype=np.int64)})
    then_us = end_us + round(after_s * US)
    cells, host_values = extrapolate_history(
        history.columns()[0].astype(np.float32), history.host_values()[0].astype(np.float32), after_s, 5.0, 20.0
    )
    np.testing.assert_allclose(cells, history.columns(then_us)[0], rtol=2e-4, atol=1e-5)
    np.testing.assert_allclose(host_values, history.host_values(then_us)[0], rtol=2e-4, atol=1e-5)


def test_gathering_what_changed_equals_gathering_all(agents):
    latest = max(row["time"] for requests, _ in agents.rows.values() for row in requests)
    end_us = latest // (5 * US) * 5 * US
    early, late = agents.at(end_us - 15 * US), agents.at(end_us)
    before = gather(fleet_of(early, agents.table), FORM)
    hosts = list(early)
    for changed in (hosts[:1], hosts[:3], hosts):
        fleet = fleet_of({**early, **{host: late[host] for host in changed}}, agents.table)
        step, anew = gather(fleet, FORM, before), gather(fleet, FORM)
        np.testing.assert_array_equal(step.cells, anew.cells)
        np.testing.assert_array_equal(step.host_values, anew.host_values)
        assert gather(fleet, FORM, step) is step
        before = step
    one, other = (states[hosts[0]].fingerprint.history for states in (early, late))
    assert one.schema == HISTORY_SCHEMA
    assert not np.array_equal(one.cells, other.cells)
