"""The engine's rolling state: that of a replay of the same windows, whatever the order in which hosts report."""

import random
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from fingerpost.clock import US, clock_us
from fingerpost.lake import parquet_files
from fingerpost.serving.fleet_history import FleetHistory
from fingerpost.serving.histories import HistoryForm
from fingerpost.serving.host_states import HostStates
from fingerpost.serving.landing import Landing
from fingerpost.serving.report_log import ReportLog
from fingerpost.serving.store import Arrival, Limits, ReportStore
from fingerpost.serving.window_landing import WindowLanding
from fingerpost.settings import Settings
from fingerpost.telemetry.history import History
from fingerpost.window_report import LOAD_COLUMNS, WINDOW_COLUMNS, pack
from tests.support.made_fleet import MadeFleet

FORM = HistoryForm(10.0, 60.0)
SPAN_US = 10 * US
MADE = MadeFleet.make(5, 7)


def reports(rounds=12, first_us=1_700_000_000_000_000, skip=0.2, made=MADE):
    """What hosts tell window by window; some are silent now and then, or serve only some categories."""
    rng = np.random.default_rng(3)
    told = []
    for turn in range(rounds):
        for host in range(len(made.hosts)):
            if turn and rng.random() < skip:
                continue
            report = made.report(host, turn, first_us + turn * SPAN_US + 1_500_000)
            kept = np.flatnonzero(rng.random(len(made.categories)) > 0.3)
            names = tuple(made.categories[place] for place in kept.tolist())
            load = report.load if rng.random() > 0.1 else None
            told.append(replace(report, categories=names, windows=report.windows[kept], load=load))
    return told


def replayed(told, host, categories):
    """The history of one host alone, as the features step follows it."""
    own = History(1, len(categories), FORM.window_s, FORM.halflife_s)
    for report in told:
        if report.host != host:
            continue
        count = len(report.categories)
        windows = {name: report.column(name) for name in WINDOW_COLUMNS}
        windows["host"] = np.zeros(count, dtype=np.int64)
        windows["category"] = np.array([categories.index(name) for name in report.categories], dtype=np.int64)
        loads = {"host": np.zeros(0, dtype=np.int64)}
        if report.load is not None:
            loads = dict(zip(LOAD_COLUMNS, report.load.astype(np.float64)[:, None], strict=True))
            loads["host"] = np.zeros(1, dtype=np.int64)
        own.observe(report.end_us, windows, loads)
    return own


def assert_as_replayed(history, told, rtol=1e-6):
    names = list(MADE.categories)
    blocks = history.blocks(MADE.hosts)
    for host in MADE.hosts:
        own, block = replayed(told, host, names), blocks[host]
        assert block.as_of_us == own.now_us
        places = [names.index(name) for name in block.categories]
        assert set(places) == set(np.flatnonzero(own.state["seen"][0]).tolist())
        np.testing.assert_allclose(block.cells, own.columns()[0][places], rtol=rtol, atol=1e-5)
        np.testing.assert_allclose(block.host_values, own.host_values()[0], rtol=rtol, atol=1e-5)


def test_state_is_that_of_a_replay_of_each_host():
    told, history = reports(), FleetHistory(FORM, 256)
    for begin in range(0, len(told), 4):
        history.observe(told[begin : begin + 4])
    assert_as_replayed(history, told)


def test_hosts_may_be_far_apart_as_after_a_partition():
    told, history = reports(), FleetHistory(FORM, 256)
    late = [report for report in told if report.host == MADE.hosts[2]]
    history.observe(report for report in told if report.host != MADE.hosts[2])
    history.observe(late)
    assert_as_replayed(history, told)


def test_a_host_in_order_is_all_that_is_needed():
    told, history = reports(), FleetHistory(FORM, 256)
    queues = {host: [report for report in told if report.host == host] for host in MADE.hosts}
    draw = random.Random(5)
    while any(queues.values()):
        host = draw.choice([host for host, queue in queues.items() if queue])
        history.observe([queues[host].pop(0)])
    assert_as_replayed(history, told)


def test_windows_that_come_too_late_are_counted_and_left_out():
    told, history = reports(skip=0.0), FleetHistory(FORM, 256)
    history.observe(told)
    history.observe(told[:3])
    assert history.counts["windows_late"] == 3
    assert_as_replayed(history, told)


def test_a_state_goes_on_where_it_was_saved():
    told, before, after = reports(), FleetHistory(FORM, 256), FleetHistory(FORM, 256)
    half = len(told) // 2
    before.observe(told[:half])
    for host in reversed(MADE.hosts):
        after.restore(host, before.packed(host))
    after.observe(told[half:])
    assert_as_replayed(after, told, rtol=1e-4)


@pytest.mark.parametrize("packed", [b"", b"\x80", b"nothing", FleetHistory(HistoryForm(5.0, 60.0), 9)._made_by])
def test_a_state_of_another_version_is_refused(packed):
    other = FleetHistory(HistoryForm(5.0, 60.0), 9)
    other.observe([replace(reports()[0], window_s=5.0)])
    raw = packed if isinstance(packed, bytes) else other.packed(MADE.hosts[0])
    with pytest.raises(ValueError, match=r"."):
        FleetHistory(FORM, 256).restore(MADE.hosts[0], raw)


def test_hosts_that_went_leave_their_place_to_others():
    history, many = FleetHistory(FORM, 256), MadeFleet.make(40, 3)
    for turn in range(30):
        renamed = many.renamed(f"h{turn}")
        history.observe([renamed.report(0, 1, 1_700_000_000_000_000 + turn * SPAN_US)])
        if turn >= 5:
            history.forget(f"h{turn - 5}")
    assert len(history._end_us) == 8
    fresh = FleetHistory(FORM, 256)
    fresh.observe([many.renamed("h29").report(0, 1, 1_700_000_000_000_000 + 29 * SPAN_US)])
    np.testing.assert_array_equal(history.blocks(["h29"])["h29"].cells, fresh.blocks(["h29"])["h29"].cells)


def test_categories_are_bounded_and_those_out_of_use_make_room():
    history, now_us = FleetHistory(FORM, 20), 1_700_000_000_000_000

    def tell(names, turn):
        report = MADE.report(0, turn, now_us + turn * SPAN_US)
        windows = np.repeat(report.windows[:1], len(names), axis=0)
        history.observe([replace(report, categories=tuple(names), windows=windows)])

    tell([f"a{number}" for number in range(30)], 0)
    assert history.counts["cells_dropped"] == 10
    tell([f"a{number}" for number in range(10, 20)], 100)
    tell([f"b{number}" for number in range(4)], 101)
    kept = set(history.blocks([MADE.hosts[0]])[MADE.hosts[0]].categories)
    assert {f"b{number}" for number in range(4)} <= kept and {f"a{number}" for number in range(10, 20)} <= kept


def test_a_host_that_makes_up_categories_pushes_nobody_out():
    history, now_us = FleetHistory(FORM, 20), 1_700_000_000_000_000
    for turn in range(4):
        rogue = MADE.report(0, turn, now_us + turn * SPAN_US)
        windows = np.repeat(rogue.windows[:1], 1000, axis=0)
        names = tuple(f"{turn}-{number}" for number in range(1000))
        history.observe([replace(rogue, host="rogue", categories=names, windows=windows)])
        history.observe([MADE.report(host, turn, now_us + turn * SPAN_US) for host in range(3)])
    assert all(history.blocks([host])[host].categories == MADE.categories for host in MADE.hosts[:3])


def test_what_proxies_see_is_merged_with_what_the_agent_tells():
    """Of one host only proxies tell: two that see half of its requests each; of the others the agents tell the rest."""
    told, history = reports(skip=0.0), FleetHistory(FORM, 256)
    for report in told[: len(MADE.hosts)]:  # a window without requests, from which on all are known to report
        empty = {"end_us": report.end_us - SPAN_US, "categories": (), "windows": report.windows[:0], "load": None}
        own = [replace(report, **empty)] if report.host != MADE.hosts[0] else []
        seen = [replace(report, source="proxy", reporter=name, **empty) for name in ("edge-1", "edge-2")]
        history.observe([*own, *seen])
    for report in told:
        half = report.windows.copy()
        half[:, :3] /= 2
        halves = [replace(report, source="proxy", reporter=name, windows=half) for name in ("edge-1", "edge-2")]
        own = [report] if report.host != MADE.hosts[0] else []
        history.observe([halves[0], *own, halves[1]])
    assert_as_replayed(history, told)


def test_a_window_waits_for_all_that_report_on_its_host_but_not_for_long():
    told, history = reports(skip=0.0, made=MADE.renamed("h1")), FleetHistory(FORM, 256)
    seen = [replace(report, source="proxy", reporter="edge") for report in told]
    history.observe([told[0], seen[0]])
    assert history.end_us("h1") == told[0].end_us
    history.observe([told[1]])
    assert history.waits("h1") and history.end_us("h1") == told[0].end_us
    history.observe([seen[1]])
    assert not history.waits("h1") and history.end_us("h1") == told[1].end_us
    # The proxy is gone: a window waits for the next one, and soon for nothing.
    history.observe([told[2], told[3]])
    assert history.end_us("h1") == told[2].end_us
    history.observe(told[4:12])
    assert not history.waits("h1") and history.end_us("h1") == told[11].end_us


@pytest.fixture
def store(tmp_path):
    made = ReportStore(f"sqlite:///{tmp_path / 'store.db'}", Limits(100, 3, 60_000_000))
    yield made
    made.close()


def put(store, told):
    now_us = clock_us()
    names = ("service", "host", "reporter", "boot_id", "sequence", "time_us", "end_us")
    rows = [Arrival(*(getattr(each, name) for name in names), now_us, pack(each)) for each in told]
    assert set(store.put(rows)) == {None}


def followed(store, tmp_path):
    states = HostStates("shop", ReportLog(store, "w"), Settings(home=tmp_path))
    states.follow(store.mark().epoch)
    states.take(store.changed("shop", 0))
    return states


@pytest.mark.process
def test_what_is_passed_over_is_told_once(store, tmp_path):
    told = reports(first_us=clock_us() // SPAN_US * SPAN_US - 12 * SPAN_US, skip=0.0)[: len(MADE.hosts)]
    put(store, told)
    states = followed(store, tmp_path)
    assert states.passed_over().get("windows_late", 0) == 0
    # As if the same windows were told again later.
    states.take([replace(row, change=row.change + 100) for row in store.changed("shop", 0)[:2]])
    assert states.passed_over()["windows_late"] == 2
    assert states.passed_over() == {}


@pytest.mark.process
def test_a_worker_that_starts_anew_has_what_the_others_have(store, tmp_path):
    told = reports(first_us=clock_us() // SPAN_US * SPAN_US - 12 * SPAN_US)
    half = len(told) // 2
    put(store, told[:half])
    first = followed(store, tmp_path)
    for now_s in (0.0, 60.0):
        first.save_some(now_s)
    WindowLanding(store, ReportLog(store, "w"), Landing(tmp_path / "lake", 10**9)).land()
    store.trim(0, 0)
    # Of what is saved and landed only the last report of each host is left.
    assert len(store.changed("shop", 0)) == len(MADE.hosts)
    put(store, told[half:])
    first.take(store.changed("shop", store.mark().change - (len(told) - half)))
    second = followed(store, tmp_path)
    assert set(first.hosts) == set(second.hosts) == set(MADE.hosts)
    for host, known in first.hosts.items():
        one, other = known.fingerprint.history, second.hosts[host].fingerprint.history
        assert one.categories == other.categories
        np.testing.assert_allclose(other.cells, one.cells, rtol=1e-4, atol=1e-5)
    assert_as_replayed(second._history, told, rtol=1e-4)


@pytest.mark.process
def test_a_store_that_was_lost_takes_no_history_with_it(store, tmp_path):
    told = reports(first_us=clock_us() // SPAN_US * SPAN_US - 12 * SPAN_US)
    put(store, told[:30])
    states = followed(store, tmp_path)
    other = ReportStore(f"sqlite:///{tmp_path / 'other.db'}", Limits(100, 3, 60_000_000))
    put(other, told[30:])
    states.follow(other.mark().epoch)
    states.take(other.changed("shop", 0))
    assert_as_replayed(states._history, told)
    other.close()


def landed(lake, kind):
    paths = list(parquet_files(lake / "inbox" / kind))
    return paths, [row for path in paths for row in pq.ParquetFile(path).read().to_pylist()]


@pytest.mark.process
def test_windows_are_landed_once_and_in_few_files(store, tmp_path):
    told = reports(first_us=clock_us() // SPAN_US * SPAN_US - 12 * SPAN_US)
    key = (("GET /a", "0", "none", "browser", "DE"), 3)
    told[0] = replace(told[0], keys=(key,))
    told[1] = replace(told[1], landed=False)
    put(store, told)
    lake = tmp_path / "lake"
    landings = [WindowLanding(store, ReportLog(store, name), Landing(lake, 10**9)) for name in ("one", "two")]
    assert landings[0].land() == len(told)
    assert landings[1].land() == landings[0].land() == 0
    paths, rows = landed(lake, "reported_windows")
    assert len(paths) == 1
    assert len(rows) == sum(len(report.categories) for report in told if report.landed)
    assert len(landed(lake, "reported_loads")[1]) == sum(r.load is not None for r in told if r.landed)
    [counted] = landed(lake, "reported_keys")[1]
    assert (counted["key"], counted["requests"]) == ("GET /a|0|none|browser|DE", 3)


@pytest.mark.process
def test_what_was_landed_before_a_crash_replaces_itself(store, tmp_path, monkeypatch):
    told = reports(first_us=clock_us() // SPAN_US * SPAN_US - 12 * SPAN_US)
    put(store, told[:20])
    lake, log = tmp_path / "lake", ReportLog(store, "one")
    landing = WindowLanding(store, log, Landing(lake, 10**9))
    with monkeypatch.context() as patched:
        patched.setattr(log, "note_landed", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            landing.land()
    put(store, told[20:])
    landing.land()
    paths, rows = landed(lake, "reported_windows")
    assert len(paths) == 1 and len(rows) == sum(len(report.categories) for report in told)
