"""One agent beside a proxy, for all of its hosts: windows, decisions, restarts, bounds, other agents on its log."""

import contextlib
import os
import subprocess
import sys
import time
from collections import Counter

import pytest
from typer.testing import CliRunner

from fingerpost.agent import proxy_windows
from fingerpost.agent.main import build_agent, build_proxy_agent
from fingerpost.agent.options import AgentOptions
from fingerpost.category import CategoryTable
from fingerpost.cli import app
from fingerpost.clock import US, clock_us
from fingerpost.features.ingest import ingest
from fingerpost.features.reported import read_reported
from fingerpost.lake import INBOX, date_of, dates, parquet_files, partition, write_table
from fingerpost.packed_message import open_message
from fingerpost.serving.window_landing import tables_of
from fingerpost.window_report import unpack
from tests.support.agent_harness import accepted, get, is_up, log_line, quarantined
from tests.support.waiting import wait_for

NOWHERE = "http://127.0.0.1:9"
WINDOW_S = 2.0


class Beside:
    """An agent of a proxy that is driven by hand: its clock, its log, and what waits to be sent."""

    def __init__(self, tmp_path, **changes):
        self.folder, self.now_us = tmp_path, clock_us()
        changes = {"engine_url": NOWHERE, "window_s": WINDOW_S, **changes}
        self.options = AgentOptions(tmp_path / "lake", "shop", "p1", tmp_path / "access.log", proxy=True, **changes)
        self.agent, self.door, self.sender, self.courier = build_proxy_agent(self.options)
        self.agent._clock_us = lambda: self.now_us

    def log(self, lines, append=True):
        with (self.folder / "access.log").open("ab" if append else "wb") as log:
            log.write(b"".join(line + b"\n" for line in lines))

    def later(self, seconds=2 * WINDOW_S + 1):
        """The present once the windows of what was logged are over; then all is read."""
        self.now_us = clock_us() + round(seconds * US)
        while self.agent.read():
            pass

    def reports(self):
        packets = self.sender._spool.oldest(1000, 2**30)
        parts = [
            part for _, packet in packets for part in (open_message(packet) if packet[:1] == b"\x1f" else [packet])
        ]
        return [unpack(part, 0, 2**62) for part in parts]

    def requests(self):
        """Number of requests reported, by host."""
        found = Counter()
        for report in self.reports():
            found[report.host] += int(report.column("requests").sum())
        return dict(found)

    def metrics(self):
        return {
            (sample.name, sample.labels.get("category")): sample.value
            for family in self.agent.metrics()
            for sample in family.samples
        }


@contextlib.contextmanager
def ended(process):
    try:
        yield process
    finally:
        process.terminate()
        process.wait(20)


def lines(host, count, ago_s=1.0, **changes):
    return [log_line(host=host, start=f"{time.time() - ago_s:.6f}", **changes) for _ in range(count)]


def test_windows_of_every_host_are_reported_as_the_proxy_saw_them(tmp_path):
    beside = Beside(tmp_path)
    beside.log([*lines("h1", 6), *lines("h2", 3, duration_us=40_000), *lines("h2", 1, status=503)])
    beside.later()
    told = {report.host: report for report in beside.reports() if report.categories}
    assert beside.requests() == {"h1": 6, "h2": 4}
    for report in told.values():
        assert (report.service, report.source, report.reporter) == ("shop", "proxy", "p1")
        assert report.load is None
        assert report.end_us % round(WINDOW_S * US) == 0
    assert told["h2"].column("errors").sum() == 1
    assert told["h2"].column("latency_p50_s") == pytest.approx([0.04])
    assert told["h1"].column("inflight_mean") == pytest.approx([3])
    assert told["h1"].column("throughput_rps")[0] > 0
    assert sum(count for report in told.values() for _, count in report.keys) == 10
    numbers = [report.sequence for report in beside.reports() if report.host == "h1"]
    assert numbers == list(range(len(numbers)))


def test_decisions_reach_the_inbox_once_with_their_weights(tmp_path):
    beside = Beside(tmp_path, decisions_per_s=10.0)
    greedy, explored = {"policy": "fingerpost", "propensity": 0.97}, {"policy": "fingerpost", "propensity": 0.01}
    start = f"{time.time() - 1:.6f}"
    beside.log([log_line(start=start, **greedy)] * 300 + [log_line(start=start, **explored)] * 7)
    beside.log([log_line(start=start, policy=None, propensity=None)] * 50)
    beside.later()
    rows = accepted(tmp_path)
    weights = {share: [row["weight"] for row in rows if row["propensity"] == share] for share in (0.97, 0.01)}
    assert weights[0.01] == [1.0] * 7
    assert len(weights[0.97]) == 20
    assert sum(weights[0.97]) == pytest.approx(300)
    assert beside.requests() == {"h1": 357}, "windows are of all"


def test_a_restart_neither_loses_nor_doubles(tmp_path):
    """Killed at any moment: what was reported is not reported again, what was not is read again."""
    first = Beside(tmp_path)
    first.log(lines("h1", 5, ago_s=10))
    first.later(0)
    assert first.requests() == {"h1": 5}
    first.log([*lines("h1", 4, ago_s=0.1), *lines("h2", 2, ago_s=0.1)])
    first.later(0)
    assert first.requests() == {"h1": 5}, "their window is still open"
    second = Beside(tmp_path)
    second.later()
    assert second.requests() == {"h1": 9, "h2": 2}
    third = Beside(tmp_path)
    third.later()
    assert third.requests() == {"h1": 9, "h2": 2}
    assert sum(row["weight"] for row in accepted(tmp_path)) == 11


def test_a_long_log_is_caught_up_with_window_by_window(tmp_path, monkeypatch):
    monkeypatch.setattr("fingerpost.accesslog.tail._CHUNK_BYTES", 4096)
    beside = Beside(tmp_path)
    for ago_s in range(60, 0, -1):
        beside.log(lines("h1", 20, ago_s=ago_s))
    beside.later()
    ends = [report.end_us for report in beside.reports()]
    assert beside.requests() == {"h1": 1200}
    assert ends == sorted(set(ends))
    assert len(ends) >= 30
    assert beside.agent.all_counts().get("late", 0) == 0


def test_of_a_busy_log_a_sample_is_read_and_counts_are_scaled(tmp_path):
    beside = Beside(tmp_path, lines_per_s=50.0, decisions_per_s=10.0)
    begun_s = time.time() - 2
    beside.log(log_line(host=f"h{n % 4}", start=f"{begun_s + n / 4000:.6f}") for n in range(4000))
    beside.later()
    counts, found = beside.agent.all_counts(), beside.requests()
    assert counts["lines"] == 4000
    assert 40 <= counts["lines_read"] <= 600
    assert sum(found.values()) == pytest.approx(4000, rel=0.05)
    assert sorted(found) == ["h0", "h1", "h2", "h3"]
    assert sum(row["weight"] for row in accepted(tmp_path)) == pytest.approx(4000, rel=0.05)
    assert all(value == pytest.approx(1000, rel=0.7) for value in found.values())


def test_hosts_that_have_an_agent_on_the_same_log_are_left_to_it(tmp_path):
    own, *_ = build_agent(AgentOptions(tmp_path / "lake", "shop", "h1", tmp_path / "access.log"))
    beside = Beside(tmp_path)
    beside.log([*lines("h1", 3, ago_s=10), *lines("h2", 2, ago_s=10), b"not json"])
    beside.later(0)
    own.read()
    own.report()
    assert beside.requests() == {"h2": 2}
    assert beside.agent.all_counts()["own_agents"] == 3
    assert sorted(row["host"] for row in accepted(tmp_path)) == ["h1"] * 3 + ["h2"] * 2
    assert [entry["reason"] for entry in quarantined(tmp_path)] == ["line:malformed"], "refused by one of them"
    own._source.close()
    beside.agent._log._own_agents_s = 0.0
    beside.log(lines("h1", 1, ago_s=0))
    beside.later()
    assert beside.requests() == {"h1": 1, "h2": 2}, "its agent is gone"


def test_lines_without_a_host_are_refused_and_kept(tmp_path):
    beside = Beside(tmp_path)
    beside.log([log_line(host=None), b'{"host":"h1","dur', *lines("h1", 1)])
    beside.later()
    assert sorted(entry["reason"] for entry in quarantined(tmp_path)) == ["host:missing", "line:malformed"]


def test_hosts_are_bounded_and_idle_ones_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(proxy_windows, "MAX_HOSTS", 2)
    beside = Beside(tmp_path)
    beside.log([*lines("h1", 1), *lines("h2", 1), *lines("h3", 5)])
    beside.later()
    assert beside.requests() == {"h1": 1, "h2": 1}
    assert beside.agent.all_counts()["hosts_over_cap"] == 5
    beside.later(proxy_windows.IDLE_S + 60)
    assert beside.agent.all_counts()["hosts_forgotten"] == 2
    assert beside.metrics()["fingerpost_proxy_hosts", None] == 0


def test_arrivals_by_category_are_metrics(tmp_path):
    beside = Beside(tmp_path)
    for ago_s in range(14, 0, -1):
        beside.log(lines("h1", 10, ago_s=ago_s + 0.3, duration_us=300_000))
        beside.log(lines("h2", 14 - ago_s, ago_s=ago_s + 0.3, method="GET", duration_us=300_000))
    beside.later(0)
    found = {key: value for key, value in beside.metrics().items() if key[1]}
    rates = {category: value for (name, category), value in found.items() if name == "fingerpost_arrivals_rps"}
    assert len(rates) == 2
    assert max(rates.values()) == pytest.approx(10, rel=0.15)
    trends = {category: value for (name, category), value in found.items() if name == "fingerpost_arrivals_trend"}
    (rising,) = [category for category in trends if category.startswith("GET")]
    # One more each second, as of when the lines were read: on a busy machine that is later than they were written.
    assert 0.4 < trends[rising] < 1.4


@pytest.mark.parametrize(
    ("log_format", "line"),
    [
        (
            "combined",
            '203.0.113.9 - - [{day}] "GET /a/42 HTTP/1.1" 200 512 "-" "curl/8" rt=0.2 host="web-9, web-1" end={s:.3f}',
        ),
        ("haproxy", '10.0.1.2:33317 [{local}.000] in web/web-1 1/0/3/6/90 200 27 - - ---- 1/1/1/1/0 0/0 "GET /a H"'),
    ],
)
def test_the_logs_of_nginx_and_haproxy_name_the_host(tmp_path, log_format, line):
    beside = Beside(tmp_path, log_format=log_format)
    now_s = time.time() - 2
    text = line.format(
        s=now_s,
        day=time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime(now_s)),
        local=time.strftime("%d/%b/%Y:%H:%M:%S", time.localtime(now_s)),
    )
    beside.log([text.replace(' H"', ' HTTP/1.1"').encode()] * 3)
    beside.later()
    assert beside.requests() == {"web-1": 3}, beside.agent.all_counts()


def test_a_lake_that_cannot_be_written_loses_no_decision_and_no_report(tmp_path):
    beside = Beside(tmp_path)
    (tmp_path / "lake" / "inbox").write_text("in the way")
    beside.log(lines("h1", 3))
    beside.later()
    assert beside.requests() == {"h1": 3}
    assert "lake" in beside.agent.problems.now()
    (tmp_path / "lake" / "inbox").unlink()
    beside.later(5 * WINDOW_S)
    assert len(accepted(tmp_path)) == 3
    assert beside.agent.problems.now() == {}


def test_a_clock_that_goes_back_begins_anew(tmp_path):
    beside = Beside(tmp_path)
    beside.log(lines("h1", 3))
    beside.later(3600)
    boots = {report.boot_id for report in beside.reports()}
    beside.log(lines("h1", 2))
    beside.later(3 * WINDOW_S)
    assert beside.requests() == {"h1": 5}
    assert {report.boot_id for report in beside.reports()} > boots
    assert beside.agent.all_counts()["clock_jumps"] == 1


def test_the_agent_of_a_proxy_is_told_what_it_needs_and_nothing_of_one_host(tmp_path, monkeypatch):
    monkeypatch.setenv("FINGERPOST_HOME", str(tmp_path))

    def complaint(*arguments):
        return str(CliRunner().invoke(app, ["agent", *arguments]).exception)

    assert "give --host for the agent of one host, or --proxy" in complaint()
    assert "give --host for the agent of one host, or --proxy" in complaint("--host", "h1", "--proxy", "p1")
    assert "--proxy 'p 1'" in complaint("--proxy", "p 1")
    assert "--proxy needs --access-log" in complaint("--proxy", "p1", "--engine-url", NOWHERE)
    assert "--proxy needs --engine-url" in complaint("--proxy", "p1", "--access-log", "a")
    needed = ("--proxy", "p1", "--access-log", "a", "--engine-url", NOWHERE)
    assert "--proxy needs --access-log" in complaint("--proxy", "p1", "--engine-url", NOWHERE, "--otlp")
    assert "give one of --access-log, --middleware-socket and --otlp" in complaint(*needed, "--otlp")
    assert "--proxy measures no host" in complaint(*needed, "--slots", "4")
    assert "--drain announces a host" in complaint(*needed, "--drain")


@pytest.mark.process
def test_a_process_reports_all_hosts_of_the_log_that_it_is_given(tmp_path, free_ports):
    (port,) = free_ports(1)
    command = ("agent", "--proxy", "p1", "--access-log", str(tmp_path / "access.log"), "--engine-url", NOWHERE)
    variables = {"FINGERPOST_HOME": str(tmp_path), "FINGERPOST_WINDOW_S": "1"}
    arguments = [sys.executable, "-m", "fingerpost", *command]
    (tmp_path / "access.log").write_bytes(b"".join(line + b"\n" for line in lines("h1", 3) + lines("h2", 2)))
    with ended(subprocess.Popen([*arguments, "--http-port", str(port)], env={**os.environ, **variables})) as process:
        wait_for(lambda: is_up(port))
        metrics = wait_for(lambda: text if 'event="reports"} 2.0' in (text := get(port, "/metrics").text) else "")
        assert "fingerpost_proxy_hosts 2.0" in metrics
        assert 'fingerpost_agent_events_total{event="lines"} 5.0' in metrics
        assert 'fingerpost_arrivals_rps{category="' in metrics
        assert "fingerpost_agent_spool_waiting 1.0" in metrics, "reports of one window are one packet"
        second = subprocess.run(arguments, env={**os.environ, **variables}, capture_output=True, text=True, check=False)
        assert second.returncode == 1
        assert f"an agent of proxy p1 of service shop runs on this lake already: pid {process.pid}" in second.stderr
        assert "its own --proxy" in second.stderr
    assert process.returncode == 0
    assert len(list(parquet_files(tmp_path / "lake" / "inbox" / "requests"))) == 1


def test_requests_in_flight_that_no_host_tells_are_counted_in_the_log(tmp_path):
    """Of each host by itself, over the window's edge, and of a sample by what it stands for."""
    beside = Beside(tmp_path)
    start = int(time.time()) - 20
    for host in ("h1", "h2"):
        slow = {"host": host, "inflight": None, "start": f"{start}.000000", "service_time_us": 9_000_000}
        fast = {"host": host, "inflight": None, "method": "GET", "duration_us": 10_000, "service_time_us": 10_000}
        beside.log([log_line(**{**slow, "duration_us": 9_000_000})] * 5)
        beside.log(log_line(start=f"{start + number}.500000", **fast) for number in range(8))
    beside.later()
    seen = {
        report.host: report.column("inflight_mean")[place]
        for report in beside.reports()
        for place, name in enumerate(report.categories)
        if report.end_us < (start + 8) * US
    }
    assert seen == {"h1": 5, "h2": 5}


def test_what_is_reported_of_hosts_with_nothing_installed_is_taken_into_the_lake(tmp_path):
    """The windows that the engine lands make the hosts known, so that their decision records are taken as well."""
    beside = Beside(tmp_path)
    beside.log([*lines("h1", 6), *lines("h2", 4)])
    beside.later()
    lake = tmp_path / "lake"
    for kind, table in tables_of(beside.reports()).items():
        if table.num_rows:
            write_table(partition(lake / INBOX, kind, "shop", date_of(clock_us())) / "reports.parquet", table)
    found = ingest(lake, "shop", 5.0, 3600.0)
    assert found.refused == {}
    assert found.request_records == 10
    reported = read_reported(lake, "shop", dates(lake, "reported_windows", "shop"), (0, clock_us()), WINDOW_S)
    windows = reported.windows(CategoryTable()).to_pandas()
    assert windows.groupby("host")["requests"].sum().to_dict() == {"h1": 6, "h2": 4}
