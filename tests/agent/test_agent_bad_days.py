"""The agent on bad days: full disks, damaged state, two of one host, logs that are not there or cannot be read."""

import contextlib
import json
import logging
import os
import resource
import socket
import subprocess
import sys
import time
from collections import Counter

import httpx
import pytest

from fingerpost.agent import record_buffer
from fingerpost.agent.batches import quarantine_lines
from fingerpost.agent.health import Problems, RequestChecks
from fingerpost.agent.http import AgentHTTPServer
from fingerpost.agent.options import AgentOptions
from fingerpost.agent.record_buffer import RecordBuffer
from fingerpost.agent.spool import Spool
from fingerpost.clock import US
from fingerpost.regions import Regions
from fingerpost.window_report import unpack
from tests.support.agent_harness import (
    FAR,
    Engine,
    accepted,
    agent,
    get,
    is_up,
    lake_rows,
    log_line,
    packet,
    quarantined,
    running_agent,
)
from tests.support.records import record
from tests.support.waiting import wait_for

NGINX = b'203.0.113.9 - - [17/May/2026:10:05:03 +0000] "GET /a/42 HTTP/1.1" 200 512 "-" "curl/8.5.0"\n'


def append(log, numbers):
    with log.open("ab") as handle:
        handle.writelines(log_line(bytes_out=number) + b"\n" for number in numbers)


@contextlib.contextmanager
def full_disk(pid):
    """No file of a process can grow, which a full disk comes to."""
    before = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_FSIZE, before)


def problems(port):
    """What is wrong by the agent's own word; what it is not asked yet is nothing."""
    try:
        return get(port, "/healthz").json()["problems"]
    except httpx.TransportError:
        return {"": "it has not started"}


# --- a full disk


@pytest.mark.process
def test_on_a_full_disk_reports_are_sent_and_nothing_is_lost(tmp_path, free_ports):
    (port,) = free_ports(1)
    log, engine = tmp_path / "access.log", Engine()
    append(log, range(10))
    arguments = ("--access-log", str(log), "--http-port", str(port), "--engine-url", f"http://127.0.0.1:{engine.port}")
    with running_agent(tmp_path, *arguments) as process:
        wait_for(lambda: len(lake_rows(tmp_path, "requests")) == 10)
        with full_disk(process.pid):
            append(log, range(10, 20))
            wait_for(lambda: "lake" in problems(port))
            known = len(engine.sequences)
            wait_for(lambda: len(engine.sequences) >= known + 5)
            told = get(port, "/healthz").json()
            assert "cannot write to the lake" in told["problems"]["lake"]
            assert 'fingerpost_agent_problem{problem="lake"} 1.0' in get(port, "/metrics").text
            assert process.poll() is None
        wait_for(lambda: len(lake_rows(tmp_path, "requests")) == 20)
        wait_for(lambda: problems(port) == {})
    assert sorted(row["bytes_out"] for row in lake_rows(tmp_path, "requests")) == list(range(20))
    assert engine.sequences == list(range(len(engine.sequences)))
    engine.stop()


@pytest.mark.process
def test_an_agent_starts_on_a_full_disk(tmp_path, free_ports):
    (port,) = free_ports(1)
    log = tmp_path / "access.log"
    append(log, range(5))
    with running_agent(tmp_path, "--access-log", str(log)):
        wait_for(lambda: len(lake_rows(tmp_path, "requests")) == 5)
    append(log, range(5, 10))
    with full_disk(os.getpid()), running_agent(tmp_path, "--access-log", str(log), "--http-port", str(port)) as process:
        wait_for(lambda: "lake" in problems(port))
        resource.prlimit(process.pid, resource.RLIMIT_FSIZE, resource.prlimit(os.getppid(), resource.RLIMIT_FSIZE))
        wait_for(lambda: len(lake_rows(tmp_path, "requests")) == 10)


@pytest.mark.process
def test_what_cannot_be_held_waits_in_the_log(tmp_path):
    log = tmp_path / "access.log"
    line = log_line() + b"\n"
    log.write_bytes(line * (record_buffer.MAX_ROWS + 100))
    each = agent(tmp_path)
    (tmp_path / "lake" / "inbox").write_text("in the way")
    for _ in range(3):
        each.read()
        assert not each.report_or_keep()
    assert len(each._intake.records) == record_buffer.MAX_ROWS
    (tmp_path / "lake" / "inbox").unlink()
    assert each.report_or_keep()
    each.read()
    each.report()
    assert len(accepted(tmp_path)) == record_buffer.MAX_ROWS + 100


def test_packets_wait_in_memory_while_the_disk_is_full(tmp_path):
    spool = Spool(tmp_path / "spool", 10**8)
    spool.put(packet(0))
    with full_disk(os.getpid()):
        for number in range(1, 4):
            spool.put(packet(number))
        found = spool.oldest(10, 10**6)
        assert [unpack(content, 0, FAR).sequence for _, content in found] == [0, 1, 2, 3]
        assert spool.problem
        spool.remove([number for number, _ in found[:2]])
        for _ in range(10):
            spool.put(bytes(10**6))
        assert spool.dropped
        assert spool.size < 5 * 10**6
    spool.put(b"last")
    assert spool.problem is None
    assert Spool(tmp_path / "spool", 10**8).oldest(100, 10**9)[-1][1] == b"last"


# --- what an agent finds when it starts


def damage_checkpoint(text):
    return lambda state: (state / "h1.json").write_text(text)


DAMAGES = {
    "negative offset": damage_checkpoint('{"inode": 7, "offset": -5}'),
    "infinite offset": damage_checkpoint('{"inode": 1, "offset": 1e400}'),
    "offset of no number": damage_checkpoint('{"inode": 1, "offset": "12"}'),
    "offset beyond all files": damage_checkpoint(json.dumps({"inode": 1, "offset": 2**70})),
    "marks of no text": damage_checkpoint('{"inode": 1, "offset": 2, "mark": 7}'),
    "a list": damage_checkpoint("[1, 2]"),
    "deep nesting": damage_checkpoint("[" * 100_000),
    "not unicode": lambda state: (state / "h1.json").write_bytes(b"\xff\xfe\x00"),
    "a folder": lambda state: (state / "h1.json").mkdir(),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_checkpoint_that_cannot_be_used_is_set_aside(tmp_path, caplog, damage):
    state = tmp_path / "lake" / "agents" / "service=shop"
    state.mkdir(parents=True)
    DAMAGES[damage](state)
    append(tmp_path / "access.log", range(3))
    each = agent(tmp_path)
    each.read()
    each.report()
    assert len(accepted(tmp_path)) == 3
    assert each.all_counts()["checkpoints_refused"] == 1
    assert "h1.json does not tell how far the log was read" in caplog.text
    assert (state / "h1.json.bad").exists()


@pytest.mark.parametrize("damage", DAMAGES)
def test_after_a_damaged_checkpoint_no_record_is_doubled(tmp_path, caplog, damage):
    append(tmp_path / "access.log", range(3))
    first = agent(tmp_path)
    first.read()
    first.report()
    state = tmp_path / "lake" / "agents" / "service=shop"
    (state / "h1.json").unlink()
    DAMAGES[damage](state)
    append(tmp_path / "access.log", range(3, 5))
    again = agent(tmp_path)
    again.read()
    again.report()
    assert [row["bytes_out"] for row in accepted(tmp_path)] == list(range(5))
    assert "the log is read from where h1.copy says" in caplog.text
    assert again.all_counts()["checkpoints_refused"] == 1


def test_a_log_that_is_rotated_before_the_first_report_is_read_from_its_beginning(tmp_path):
    log = tmp_path / "access.log"
    append(log, range(3))
    agent(tmp_path)  # killed before it has read anything
    log.rename(tmp_path / "access.log.1")
    append(log, range(3, 5))
    each = agent(tmp_path)
    each.read()
    each.report()
    assert [row["bytes_out"] for row in accepted(tmp_path)] == list(range(5))
    assert "log_gaps" not in each.all_counts()


def test_what_is_no_packet_is_set_aside(tmp_path, caplog):
    (tmp_path / "\u00b2.packed").write_bytes(b"x")
    (tmp_path / "notes.packed").write_bytes(b"x")
    (tmp_path / "000000000009.packed").mkdir()
    spool = Spool(tmp_path, 10**6)
    spool.put(b"good")
    assert spool.oldest(10, 10**6) == [(0, b"good")]
    assert caplog.text.count("it is no packet") == 3
    assert {path.name for path in tmp_path.iterdir()} == {
        "\u00b2.packed.bad",
        "notes.packed.bad",
        "000000000009.packed.bad",
        "000000000000.packed",
    }


@pytest.mark.process
def test_the_second_agent_of_a_host_is_refused_and_told_of_the_first(tmp_path, free_ports):
    (port,) = free_ports(1)
    with running_agent(tmp_path, "--http-port", str(port)) as first:
        wait_for(lambda: is_up(port))
        second = subprocess.run(
            [sys.executable, "-m", "fingerpost", "agent", "--host", "h1"],
            env={**os.environ, "FINGERPOST_HOME": str(tmp_path)},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert second.returncode == 1
        assert second.stderr.startswith("fingerpost: an agent of host h1 of service shop runs on this lake already")
        assert f"pid {first.pid} " in second.stderr
        assert "Traceback" not in second.stderr


# --- logs that are not there, or hold something else


@pytest.mark.process
def test_a_log_that_does_not_exist_is_told_of_until_it_does(tmp_path, free_ports):
    (port,) = free_ports(1)
    log = tmp_path / "access.log"
    with running_agent(tmp_path, "--access-log", str(log), "--http-port", str(port)):
        wait_for(lambda: "requests" in problems(port))
        assert f"{log} does not exist" in problems(port)["requests"]
        assert 'fingerpost_agent_problem{problem="requests"} 1.0' in get(port, "/metrics").text
        append(log, range(3))
        wait_for(lambda: problems(port) == {})
        assert 'fingerpost_agent_problem{problem="requests"} 0.0' in get(port, "/metrics").text


def test_a_log_that_cannot_be_read_does_not_end_the_agent(tmp_path):
    log = tmp_path / "access.log"
    log.mkdir()
    each = agent(tmp_path)
    each.read()
    assert "cannot be read" in each.problems.now()["requests"]
    log.rmdir()
    append(log, range(2))
    each.read()
    assert each.problems.now() == {}
    each.report()
    assert len(accepted(tmp_path)) == 2


def test_a_log_of_another_format_is_told_of(tmp_path, caplog):
    log = tmp_path / "access.log"
    log.write_bytes(NGINX * 30)
    each = agent(tmp_path)
    each.read()
    each.report()
    said = each.problems.now()["refused"]
    assert "30 of the last 30 requests were refused, 30 of them because of line:malformed" in said
    assert "does --log-format envoy fit?" in said
    assert str(tmp_path / "lake" / "quarantine" / "lines") in said
    assert said in caplog.text


def test_times_of_another_unit_are_told_of():
    """Seconds or milliseconds, where microseconds are read."""
    told = Problems()
    checks = RequestChecks(told, "")
    checks.update([{"duration_s": number / 1e6} for number in (0, 1, 2) * 50], 150, Counter())
    checks.update([{"duration_s": number / 1e6} for number in (0, 1, 2) * 50], 300, Counter())
    assert "another unit" in told.now()["times"]
    checks.update([{"duration_s": 0.002}] * 150, 450, Counter())
    assert told.now() == {}


def test_a_log_without_times_is_told_of(tmp_path):
    log = tmp_path / "access.log"
    log.write_bytes(
        time.strftime("%d/%b/%Y:%H:%M:%S +0000", time.gmtime())
        .encode()
        .join(NGINX.split(b"17/May/2026:10:05:03 +0000"))
        * 120
    )
    each = agent(tmp_path, log_format="combined")
    each.read()
    each.report()
    assert "no request tells how long it took" in each.problems.now()["times"]
    assert accepted(tmp_path)


def test_requests_are_checked_over_the_last_minute():
    now = {"s": 0.0}
    told = Problems(lambda: now["s"])
    checks = RequestChecks(told, "hint", lambda: now["s"])
    checks.update([], 0, Counter())
    for step in range(1, 30):
        now["s"] = step * 5.0
        checks.update([], 100 * step, Counter({"a:b": 10 * step}))
        assert told.now() == {}
    for step in range(30, 60):
        now["s"] = step * 5.0
        checks.update([], 2900, Counter({"a:b": 290 + 10 * (step - 29)}))
    assert "because of a:b; hint" in told.now()["refused"]
    now["s"] += 100
    checks.update([], 2900, Counter({"a:b": 600}))
    now["s"] += 100
    checks.update([], 2900, Counter({"a:b": 600}))
    assert told.now() == {}


def test_a_problem_is_logged_once_a_minute_however_often_it_is_told(caplog):
    caplog.set_level(logging.INFO)
    now = {"s": 0.0}
    told = Problems(lambda: now["s"])
    for second in range(130):
        now["s"] = float(second)
        told.tell("host", "it is gone")
    told.tell("host", None)
    told.tell("host", None)
    assert [record.message for record in caplog.records] == [
        "it is gone",
        "it is gone (61 times by now)",
        "it is gone (121 times by now)",
        "over: it is gone",
    ]


# --- what is refused


def test_of_refused_lines_only_so_much_is_held():
    held = RecordBuffer(None, 5, 60)
    for _ in range(5000):
        held.refuse("line:malformed", b"x" * 60_000)
    assert {len(line) for _, line in held.refused} == {record_buffer.MAX_REFUSED_BYTES}
    assert sum(len(line) for _, line in held.refused) <= 8 * 2**20
    assert held.counts["refused line:malformed"] == 5000
    assert held.counts["refused_dropped"] == 5000 - len(held.refused)
    held.clear()
    held.refuse("line:malformed", b"y")
    assert held.refused == [("line:malformed", b"y")]


def test_what_was_stamped_before_the_clock_was_set_back_is_set_back_as_well():
    now, steady = {"s": 1e9}, {"s": 50.0}
    held = RecordBuffer(Regions(), 5, 86_400, lambda: now["s"], lambda: steady["s"])

    def take(at_s):
        row = record(time=round(at_s * US))
        held.take(row, b"")
        return row["time"] / US

    # The hosts' clocks may be ahead by five seconds; more is refused, as long as this one was not set.
    assert take(1e9 + 4) == 1e9 + 4
    take(1e9 + 6)
    assert held.counts["refused time:future"] == 1
    now["s"], steady["s"] = 1e9 + 10 - 90, 60.0
    assert take(1e9 + 9) == 1e9 + 9 - 90
    assert take(1e9 - 81) == 1e9 - 81
    take(1e9 + 3600)
    assert (held.counts["clock_corrected"], held.counts["refused time:future"], held.taken) == (1, 2, 3)
    now["s"], steady["s"] = 1e9 + 71 - 90, 121.0
    take(1e9 + 60)
    assert held.counts["refused time:future"] == 3


def test_the_quarantine_is_bounded_where_the_agent_writes_it(tmp_path):
    each = agent(tmp_path, max_quarantine_bytes=100_000)
    log = tmp_path / "access.log"
    for number in range(8):
        with log.open("ab") as handle:
            handle.write((b"%d words " % number * 120 + b"\n") * 20)
        each.read()
        each.report()
    size = sum(path.stat().st_size for path in (tmp_path / "lake" / "quarantine").rglob("*.jsonl"))
    assert 50_000 < size <= 106_250
    assert {entry["line"][0] for entry in quarantined(tmp_path)} >= {"5", "6", "7"}
    assert each.all_counts()["quarantine_dropped"] >= 2


def test_batches_that_nobody_fetches_are_bounded_and_told_of(tmp_path):
    other = agent(tmp_path, "h1-1")
    (tmp_path / "access.log").write_bytes(log_line(host="h1-1") + b"\n")
    other.read()
    other.report()
    each = agent(tmp_path, inbox_bytes=200_000)
    for number in range(40):
        append(tmp_path / "access.log", [number])
        each.read()
        each.report()
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "lake" / "inbox").rglob("*.parquet")}
    ours = sum(size for name, size in sizes.items() if not name.startswith("h1-1-"))
    assert 100_000 < ours <= 212_500
    rows = accepted(tmp_path)
    assert [row["host"] for row in rows].count("h1-1") == 1
    kept = [row["bytes_out"] for row in rows if row["host"] == "h1"]
    assert sorted(kept) == list(range(40 - len(kept), 40))
    assert each.all_counts()["batches_dropped"] == 40 - len(kept)
    assert "batches that nobody fetched were removed" in each.problems.now()["inbox"]


def test_refused_lines_are_kept_as_they_are_but_for_secrets(tmp_path):
    path = quarantine_lines(tmp_path, "shop", 0, "h1", [("a:b", b'\xff\xfe "\n\x00 /a?key=SECRET')])
    assert json.loads(path.read_text()) == {"reason": "a:b", "line": '\ufffd\ufffd "\n\x00 /a?***'}


# --- its port


@pytest.mark.process
@pytest.mark.parametrize("length", [b"\xb2", b"\xd9\xa1", b"9" * 5000, b"-1", b"1_0", b"+5", b""])
def test_a_content_length_that_is_none_is_refused(length):
    door = AgentHTTPServer("127.0.0.1", 0, lambda: b"", lambda: (True, {}), lambda *_: (b"", "text/plain"))
    door.start()
    try:
        with socket.create_connection(("127.0.0.1", door.port), timeout=10) as client:
            client.sendall(b"POST /v1/traces HTTP/1.1\r\ncontent-length: " + length + b"\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 411 ")
    finally:
        door.stop()


# --- what it says when it starts


def test_what_a_throughput_needs_is_told_in_one_line(tmp_path):
    def missing(**options):
        return AgentOptions(tmp_path, "shop", "h1", **options).missing()

    nothing = missing()
    assert all(option in nothing for option in ("--access-log", "--slots", "--pid-file"))
    assert "\n" not in nothing
    log = tmp_path / "access.log"
    assert "--slots" not in missing(access_log=log, slots=4)
    assert "--pid-file" in missing(access_log=log, slots=4)
    assert "--pid-file" not in missing(access_log=log, unit="shop")
    assert missing(access_log=log, slots=4, match="gunicorn") is None
    assert missing(middleware_socket=log, slots=4) is None
