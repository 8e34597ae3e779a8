"""Tables are kept for services that are asked for, and only for those."""

import itertools
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from prometheus_client import REGISTRY

from fingerpost.announcement import DRAINING, REMOVED, Announcement, Notice
from fingerpost.clock import clock_us
from fingerpost.serving import host_states, refresh, views
from fingerpost.serving.landing import Landing
from fingerpost.serving.members import Members
from fingerpost.serving.metrics import engine_metrics
from fingerpost.serving.models import Slot
from fingerpost.serving.outside import Events
from fingerpost.serving.refresh import Refresher
from fingerpost.serving.report_log import ReportLog
from fingerpost.serving.store import Arrival, Limits, ReportStore
from fingerpost.serving.table import Categories, build_table
from fingerpost.settings import Settings
from fingerpost.telemetry.history import HISTORY_HOST_PLACE
from fingerpost.window_report import pack
from tests.support.contest import WORLD, DueAlone, planted, run, shuffled
from tests.support.made_fleet import FORM, MadeFleet, fit_model
from tests.support.waiting import wait_for

pytestmark = pytest.mark.process


def arrival(report, packed=None):
    order = (report.boot_id, report.sequence, report.time_us, report.end_us)
    packed = pack(report) if packed is None else packed
    return Arrival(report.service, report.host, report.reporter, *order, report.time_us, packed)


def said(name):
    return REGISTRY.get_sample_value(f"fingerpost_engine_{name}", {"service": "forgotten"})


def made_refresher(store, settings):
    members = Members(store, Limits(100, 3, 60_000_000), 3600_000_000, clock_us())
    return refresher_of(store, ReportLog(store, "one"), settings, members)


def refresher_of(store, log, settings, members):
    events = Events(store, Landing(settings.lake, 2**20), settings)
    return Refresher(store, log, settings, engine_metrics(), Categories(settings.lake), members, events)


@pytest.fixture
def refresher(tmp_path):
    settings = Settings(home=tmp_path, table_refresh_s=0.1)
    store = ReportStore(f"sqlite:///{tmp_path / 'store.db'}", Limits(100, 3, 60_000_000))
    now_us = clock_us()
    made = MadeFleet.make(4, 3, "forgotten")
    store.put([arrival(made.report(host, 1, now_us)) for host in range(4)])
    refresher = made_refresher(store, settings)
    refresher.start()
    yield refresher
    refresher.stop()
    store.close()


def test_of_a_service_that_is_no_longer_asked_for_metrics_say_nothing(refresher, monkeypatch):
    wait_for(lambda: refresher.view("forgotten"))
    wait_for(lambda: said("hosts") == 4.0 and said("prediction_age_seconds") > 0)
    monkeypatch.setattr(refresh, "_IDLE_S", 0.0)
    wait_for(lambda: said("hosts") == 0.0)
    assert refresher.services() == []
    assert (said("table_age_seconds"), said("prediction_age_seconds")) == (0.0, 0.0)


def test_stored_reports_of_an_older_version_are_passed_over(refresher, caplog):
    """An upgraded engine with the store of before: hosts come back with their agents' next reports."""
    store, now_us = refresher._store, clock_us()
    wait_for(lambda: refresher.view("forgotten"))
    wait_for(lambda: said("hosts") == 4.0)
    made = MadeFleet.make(2, 3, "upgraded")

    def put(sequence, change=lambda packed: packed):
        first, second = (made.report(host, sequence, now_us) for host in range(2))
        store.put([arrival(first, change(pack(first))), arrival(second)])

    def hosts():
        published = refresher.view("upgraded").published if refresher.view("upgraded") else None
        return published.table.hosts if published else ()

    put(1, lambda packed: packed.replace(b"schema\x01", b"schema\x00"))
    wait_for(lambda: hosts() == made.hosts[1:])
    assert f"a stored report of {made.hosts[0]} cannot be read: schema:older" in caplog.text
    put(2)
    wait_for(lambda: hosts() == made.hosts)


class Clock:
    """The machine's clock, which somebody sets."""

    def __init__(self):
        self.ahead_s, self.monotonic, self.perf_counter, self.sleep = 0.0, time.monotonic, time.perf_counter, time.sleep

    def time(self):
        return time.time() + self.ahead_s

    def time_ns(self):
        return time.time_ns() + round(self.ahead_s * 1e9)


class LeapingClock(Clock):
    """Time that leaps ahead, for all clocks alike."""

    def __init__(self):
        super().__init__()
        self.monotonic = lambda: time.monotonic() + self.ahead_s


def test_what_a_worker_holds_is_bounded_while_hundreds_of_hosts_come_and_go(tmp_path, monkeypatch):
    """Each ten minutes other hosts: a third drains and ends, a third is removed, and a third falls silent."""
    clock = LeapingClock()
    monkeypatch.setattr(refresh, "time", clock)
    monkeypatch.setattr(refresh, "clock_us", lambda: clock.time_ns() // 1000)
    store, limits = (
        ReportStore(f"sqlite:///{tmp_path / 'store.db'}", Limits(5000, 3, 60_000_000)),
        Limits(5000, 3, 0),
    )
    members = Members(store, limits, 60_000_000, 0)
    settings = Settings(home=tmp_path)
    monkeypatch.setattr(host_states, "time", clock)
    monkeypatch.setattr(host_states, "clock_us", lambda: clock.time_ns() // 1000)
    log = ReportLog(store, "one")
    refresher = refresher_of(store, log, settings, members)
    made, hosts = MadeFleet.make(1, 1, "churn"), 30
    for number in range(12):
        names, now_us = [f"host-{number}-{place}" for place in range(hosts)], clock.time_ns() // 1000
        for name in names:
            members.take(Notice("churn", name, boot_id=f"b{number}", about=Announcement(zone="east")), now_us)
        told = made.report(0, 1, now_us)
        store.put([arrival(replace(told, host=name, reporter=name)) for name in names])
        refresher._tick()
        view = refresher.view("churn")
        refresher._tick()
        assert set(view.published.table.hosts) == set(names)
        [work] = refresher._work.values()
        known = (work.states.hosts, work.states.members, members.listing("churn"))
        assert max(map(len, known)) <= 2 * hosts
        for place, name in enumerate(names):
            if place % 3 < 2:
                members.take(Notice("churn", name, DRAINING if place % 3 else REMOVED), now_us)
        clock.ahead_s += 600.0
    store.close()


@pytest.mark.parametrize("step_s", [-3600.0, 3600.0], ids=["back", "ahead"])
def test_a_clock_that_is_set_neither_stops_the_tables_nor_keeps_or_loses_a_host(tmp_path, monkeypatch, step_s):
    clock = Clock()
    monkeypatch.setattr(refresh, "time", clock)
    monkeypatch.setattr(views, "time", clock)
    for module in (refresh, host_states):
        monkeypatch.setattr(module, "clock_us", lambda: clock.time_ns() // 1000)
    monkeypatch.setattr(host_states, "time", clock)
    settings = Settings(home=tmp_path, table_refresh_s=0.05, fingerprint_ttl_s=2.0)
    store = ReportStore(f"sqlite:///{tmp_path / 'store.db'}", Limits(100, 3, 2_000_000))
    made = MadeFleet.make(4, 3, "clocked")

    def tell(sequence, hosts):
        now_us = clock.time_ns() // 1000
        assert store.put([arrival(made.report(host, sequence, now_us)) for host in hosts]) == [None] * len(hosts)
        return now_us / 1e6

    tell(1, range(4))
    refresher = made_refresher(store, settings)
    refresher.start()
    try:
        wait_for(lambda: refresher.view("clocked"))
        view = refresher.view("clocked")

        def table():
            return view.published.table if view.published else None

        wait_for(lambda: table() is not None and len(table().hosts) == 4)
        assert refresher.clock_problem() is None
        clock.ahead_s = step_s
        # Nobody has fallen silent by that, and what pickers are given expires when it should.
        until, version = time.monotonic() + 0.5, table().version
        while time.monotonic() < until:
            assert len(table().hosts) == 4
            assert abs(view.published.expires_at(30.0) - clock.time() - 30.0) < 10.0
            assert (refresher.clock_problem() is not None) == (step_s < 0)
        assert table().version == version
        sent_s, sequence = tell(2, (0, 1)), itertools.count(3)
        wait_for(
            lambda: table().times_us.max() >= sent_s * 1e6 and tell(next(sequence), (0, 1)) and len(table().hosts) == 2
        )
        assert refresher.clock_problem() is None
        wait_for(lambda: view.empty)
        assert {row[1] for row in store.hosts()} <= {made.hosts[host] for host in range(4)}
    finally:
        refresher.stop()
        store.close()


@pytest.mark.parametrize("takes_over", [True, False])
def test_the_baseline_takes_over_from_a_worse_champion_and_the_metrics_say_so(refresher, takes_over, caplog):
    caplog.set_level("INFO")
    work = SimpleNamespace(view=views.ServiceView("shop"), contest=None)
    refresher._settings = refresher._settings.model_copy(update={"baseline_takes_over": takes_over})
    before = REGISTRY.get_sample_value("fingerpost_engine_champion_changes_total")

    def serve(fleet, scorer, scored):
        return refresher._contested(work, fleet, scorer, scored), False

    last = run(WORLD, planted(shuffled), serve, 20).scored[-1]
    changes = REGISTRY.get_sample_value("fingerpost_engine_champion_changes_total") - before
    assert (last.source, changes >= 1) == (("baseline", True) if takes_over else ("champion", False))
    assert ("another serves" in caplog.text) == takes_over
    kept = refresher.models.files.folder("shop") / "contest.json"
    assert kept.exists() == takes_over
    share = build_table(last, (), 0.0).model_share
    assert share == (0.0 if takes_over else 1.0)


def test_a_table_follows_what_is_due_although_nothing_is_reported(refresher, monkeypatch):
    """A recurring spell begins within a window: what was predicted as the window began is not served to its end."""
    view = wait_for(lambda: refresher.view("forgotten"))
    wait_for(lambda: said("hosts") == 4.0 and view.published)
    clock = Clock()
    monkeypatch.setattr(refresh, "clock_us", lambda: clock.time_ns() // 1000)
    bundle = fit_model(MadeFleet.make(4, 3, "forgotten"), 4, 4)
    champion = Slot(DueAlone(bundle, None, "1", FORM))
    monkeypatch.setattr(refresher.models, "slot", lambda _, alias: champion if alias == "champion" else Slot())
    states = refresher._work["forgotten"].states.hosts
    for place, (host, state) in enumerate(list(states.items())):
        block = state.fingerprint.history
        values = block.host_values.copy()
        values[[HISTORY_HOST_PLACE["host_due"], HISTORY_HOST_PLACE["host_due_after"]]] = (0.0, float(place == 0))
        block = replace(block, host_values=values, as_of_us=clock_us())
        states[host] = replace(state, fingerprint=replace(state.fingerprint, history=block))
    refresher._work["forgotten"].dirty = True

    def speeds():
        return view.published.table.throughput_rps[0]

    wait_for(lambda: view.scored.by_model and speeds()[0] < 2.0)
    clock.ahead_s = 60.0
    wait_for(lambda: speeds()[0] > 2.0)
    assert (speeds()[1:] == 1.0).all()
