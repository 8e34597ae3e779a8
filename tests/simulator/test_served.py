"""The engine's predictions in the simulator: the product's code, fed with what a simulation emits, when it is told."""

from pathlib import Path

import numpy as np
import pytest

from fingerpost.agent.host_history import SETTLE_US
from fingerpost.category import ATTRIBUTES, OTHER, category_attributes
from fingerpost.clock import US
from fingerpost.features.definition import NUMERIC_FEATURES
from fingerpost.routing.picker_table import picker_cells
from fingerpost.settings import Settings
from fingerpost.simulator.control import Control
from fingerpost.simulator.run import Bench, past_rows
from fingerpost.simulator.scenario import Scenario
from fingerpost.simulator.served import Served, category_names, fit, training_rows
from fingerpost.simulator.simulation import Table
from fingerpost.simulator.telemetry import Telemetry, joined
from fingerpost.telemetry.throughput import PLACES_A_CORE
from fingerpost.telemetry.windows import APART_S


def scenario(**changes):
    return Scenario.model_validate(
        {
            "name": "small",
            "fleet": {"kind": "classes", "hosts": 8, "classes": 4, "categories": 4, "affinity_sigma": 0.45},
            "slots": 8,
            "drift": {"kind": "wander", "low": 0.5, "high": 1.0, "period_s": 60},
            "predictions": {"kind": "learned"},
            "telemetry": {"hosts_tell": True, "window_s": 2, "halflife_s": 10, "report_s": 1, "settle_s": 0.5},
            "warmup_s": 30,
            "duration_s": 20,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def small():
    return scenario()


@pytest.fixture(scope="module")
def rows(small):
    return past_rows(small, 1)


@pytest.fixture(scope="module")
def bundle(small, rows):
    return fit(rows, small.telemetry.window_s)


@pytest.fixture(scope="module")
def bench(small):
    return Bench(small, 1)


def run(bench, bundle, load):
    return bench.run("fingerpost", load, 3, predictor=Served(bench.scenario, 1, bundle))


@pytest.mark.process
def test_learned_predictions_are_nearly_as_good_as_the_truth(bench, bundle):
    ours = run(bench, bundle, 0.8)
    truth = Bench(scenario(predictions={"kind": "oracle"}), 1).run("fingerpost", 0.8, 3)
    peer = bench.run("least_request_full", 0.8, 3)
    assert not ours.overloaded
    assert ours.trust > 0.5
    assert ours.p99_s < 1.3 * truth.p99_s
    assert ours.p99_s < 0.8 * peer.p99_s


@pytest.mark.process
def test_the_same_seed_learns_the_same_model_and_runs_the_same():
    tiny = scenario(fleet={"kind": "classes", "hosts": 3, "classes": 3, "categories": 2}, slots=4)
    first, again, other = (Bench(tiny, seed) for seed in (1, 1, 2))
    figures = [bench.run("fingerpost", 0.6, 2) for bench in (first, again, other)]
    assert figures[0] == figures[1] != figures[2]
    texts = [
        [each.model_to_string() for boosters in bench.model().boosters.values() for each in boosters]
        for bench in (first, again, other)
    ]
    assert texts[0] == texts[1] != texts[2]
    assert first.model() is first.model()


def test_served_features_are_those_that_training_computes(small, bench, bundle):
    """What is served when a window ends is the training row of the window that begins then, as 32-bit floats tell."""
    # Every agent reports as soon as its window has ended.
    at_once = scenario(telemetry={**small.telemetry.model_dump(), "settle_s": 0, "report_s": 0.001})
    live, telemetry = Served(at_once, 1, bundle), Telemetry(at_once)
    parts, served = [], {}

    class Watched:
        def observe(self, chunk):
            live.observe(chunk)
            ended = telemetry.closed(chunk)
            if ended is not None:
                parts.append(ended)
                live.table(chunk.end_s + 0.01)
                served[int(ended[1]["end_us"].max())] = live.features()

        def table(self, now_s):
            return live.table(now_s)

    bench.run("fingerpost", 0.6, 3, predictor=Watched())
    rows = training_rows(small, parts)
    rows = rows[~rows["cold_start"]]
    names = category_names(small.categories)
    compared = 0
    for began, group in rows.groupby("time"):
        found = served[began.value // 1000]
        host = np.array([int(name.removeprefix("host-")) for name in group["host"]])
        category = np.array([names.index(name) for name in group["category"]])
        place = host * small.categories + category
        told, encoder = {"rtol": 1e-4, "atol": 1e-5}, bundle.encoder
        np.testing.assert_allclose(found.numeric[place], group[list(NUMERIC_FEATURES)].to_numpy(), **told)
        np.testing.assert_allclose(
            encoder.encode_cells(found.numeric[place], names, category), encoder.encode(group), **told
        )
        compared += len(group)
    assert compared > 300


def test_telemetry_says_what_happened(bench):
    """Windows hold every request once, and throughput is slots over the mean service time."""
    telemetry, chunks, parts = Telemetry(bench.scenario), [], []

    def watch(chunk):
        chunks.append(chunk)
        ended = telemetry.closed(chunk)
        if ended is not None:
            parts.append(ended)

    bench.run("least_request", 0.5, 2, watch)
    windows, loads = joined([each for each, _ in parts]), joined([each for _, each in parts])
    assert (np.diff(windows["end_us"]) >= 0).all()
    records = [chunk.records for chunk in chunks]
    time_s = np.concatenate([each.time_s for each in records])
    ended_s = (parts[-1][1]["end_us"].max() - parts[0][1]["end_us"].min()) / US + 2.0
    assert windows["requests"].sum() == (time_s < ended_s).sum()
    assert set(loads["host"]) == set(range(8))
    service = bench.fleet.service_s.mean(axis=0).T
    measured = np.zeros(service.shape)
    np.add.at(measured, (windows["host"], windows["category"]), np.log(windows["throughput_rps"]))
    counts = np.zeros(service.shape)
    np.add.at(counts, (windows["host"], windows["category"]), 1)
    off = measured / counts - np.log(8 / service)
    assert abs(off.mean()) < 0.25
    assert off.std() < 0.15


def test_a_lost_host_reports_nothing_and_what_it_failed_is_no_measurement():
    lost = scenario(events=[{"host": 2, "at_s": 20, "kind": "fail"}], warmup_s=10, duration_s=20)
    telemetry, parts = Telemetry(lost), []

    def watch(chunk):
        ended = telemetry.closed(chunk)
        if ended is not None:
            parts.append(ended)

    Bench(lost, 1).run("least_request", 0.6, 2, watch)
    windows, loads = joined([each for each, _ in parts]), joined([each for _, each in parts])
    origin_us = loads["end_us"].min() - 2 * US
    assert loads["end_us"][loads["host"] == 2].max() == origin_us + 20 * US
    assert windows["errors"].sum() > 0
    assert set(windows["host"][windows["errors"] > 0]) == {2}
    assert not (windows["throughput_rps"] <= 0).any()


def test_categories_of_a_simulation_are_categories():
    names = category_names(12)
    assert len(set(names)) == 12
    assert OTHER not in names
    assert all(set(category_attributes(name)) == set(ATTRIBUTES) for name in names)


DEFAULTS = Scenario.model_validate({"name": "plain", "fleet": {"kind": "classes", "hosts": 4, "categories": 3}})


def test_a_scenario_that_says_nothing_has_the_delays_of_the_settings():
    told, picker = DEFAULTS.telemetry, DEFAULTS.picker
    shipped = Settings.model_construct()
    assert (told.window_s, told.halflife_s) == (shipped.window_s, shipped.halflife_s)
    assert (told.report_s, told.refresh_s) == (shipped.agent_batch_s, shipped.table_refresh_s)
    assert (told.slow_start_s, told.ttl_s) == (shipped.slow_start_s, shipped.fingerprint_ttl_s)
    assert (picker.exploration, picker.latency_weight) == (shipped.exploration, shipped.latency_weight)
    assert round(told.settle_s * US) == SETTLE_US
    assert not told.hosts_tell
    assert told.attribution_halflife_s == shipped.attribution_halflife_s
    assert told.cpu == "attributed"
    assert (DEFAULTS.inflight, DEFAULTS.predictions.kind) == ("own", "baseline")
    with_headers = DEFAULTS.model_copy(update={"telemetry": told.model_copy(update={"hosts_tell": True})})
    assert with_headers.inflight == "reported"
    in_c = "".join(path.read_text() for path in (Path(__file__).parents[2] / "routing" / "native").glob("*.c"))
    assert f"LOOK_EVERY_MS = {round(picker.look_s * 1000)}," in in_c


def test_tables_are_made_by_the_code_of_the_router():
    """What pickers read is `table_of` of what is said: medians, success rates, weights and corrections in it."""
    unknown = np.array([[4.0, 8.0, np.nan], [2.0, np.nan, np.nan], [8.0, 8.0, 8.0], [0.0, 8.0, 8.0]])
    success = np.array([[1.0, 1.0, 1.0], [0.5, 1.0, 1.0], [1.0, 1.0, 1.0], [1.0, 1.0, 1.0]])
    table = Table(unknown, np.full((4, 3), 0.1), success, weights=np.array([1.0, 1.0, 0.25, 1.0]))

    class Given:
        def observe(self, chunk):
            pass

        def table(self, now_s):  # noqa: ARG002
            return table

    without_guard = DEFAULTS.model_copy(update={"picker": DEFAULTS.picker.model_copy(update={"guard": False})})
    (costs,) = Control(without_guard, Given(), 2).costs(0.0)
    slope, offset = picker_cells(unknown.T, table.latency_s.T, success.T, table.weights, Settings.model_construct())
    np.testing.assert_array_equal(costs[:2], np.stack([slope[:, :-1], offset[:, :-1]]))
    assert costs[0, 0, 1] == pytest.approx(1 / 2 / 0.5**3)
    assert costs[0, 2, 0] == costs[0, 2, 1] == pytest.approx(1 / 8)
    assert np.isinf(costs[0, 0, 3])


def test_news_reaches_the_pickers_as_late_as_agents_engine_and_router_are():
    """A window's throughput is in the table of its host once settled and reported, at the next look of the engine."""
    told = DEFAULTS.telemetry.model_copy(update={"window_s": 4.0, "settle_s": 2.0, "report_s": 3.0})
    bench = Bench(DEFAULTS.model_copy(update={"telemetry": told, "warmup_s": 4.0, "duration_s": 12.0}), 1)
    served, first = Served(bench.scenario, 1), {}

    def watch(chunk):
        served.observe(chunk)
        known = np.isfinite(served.table(chunk.end_s).throughput_rps).any(axis=1)
        for host in np.flatnonzero(known).tolist():
            first.setdefault(host, chunk.end_s)

    bench.run("fingerpost", 0.5, 1, watch)
    phases = 2.0 + np.random.default_rng([1, 8]).random(4) * APART_S
    # Where one host has told, the others are taken to be as it is.
    due = phases + np.ceil((6.0 - phases) / 3.0) * 3.0
    assert min(first.values()) == pytest.approx(np.ceil(due.min() / 0.25) * 0.25)
    assert len(first) == 4


def ended_windows(scenario):
    telemetry, ended = Telemetry(scenario), []

    def watch(chunk):
        ended.append(telemetry.closed(chunk))

    Bench(scenario.model_copy(update={"warmup_s": 10.0, "duration_s": 12.0}), 1).run("fingerpost", 0.5, 1, watch)
    return next(each for each in ended if each is not None)


def test_agents_that_read_plain_logs_count_what_is_in_flight_and_attribute_the_hosts_cpu():
    windows, loads = ended_windows(DEFAULTS)
    assert (windows["inflight_mean"] > 1).all()
    assert (windows["cpu_attributed_share"] == 1).all()
    assert np.isnan(loads["slots"]).all()
    assert (loads["cores"] == 8).all()
    # A request takes a core for as long as it takes: what agents make of eight busy cores comes near that.
    cpu_s = windows["cpu_mean_s"]
    np.testing.assert_allclose(np.median(cpu_s / windows["latency_mean_s"]), 1.0, atol=0.15)
    np.testing.assert_allclose(windows["throughput_rps"] * cpu_s, 8, rtol=0.15)


def test_where_nothing_is_installed_at_hosts_only_their_requests_are_known():
    windows, loads = ended_windows(
        DEFAULTS.model_copy(update={"telemetry": DEFAULTS.telemetry.model_copy(update={"cpu": "unknown"})})
    )
    assert np.isnan(windows["cpu_mean_s"]).all()
    assert np.isnan(loads["cores"]).all()
    np.testing.assert_allclose(windows["throughput_rps"] * windows["unloaded_mean_s"], PLACES_A_CORE, rtol=1e-6)
