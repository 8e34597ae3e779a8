"""The agent, its tail and its parser on real files."""

import json
import os
import time

import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.accesslog.envoy import claimed_host, parse_line
from fingerpost.accesslog.tail import MAX_LINE_BYTES, LogTail
from fingerpost.agent.batches import write_batch
from fingerpost.clock import clock_us
from fingerpost.errors import RefusedError
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD, refusal
from fingerpost.schemas import HOST_SAMPLE_SCHEMA, REQUEST_RECORD_SCHEMA
from fingerpost.telemetry.windows import APART_S, SETTLE_S
from tests.support.agent_harness import accepted, agent, log_line, quarantined
from tests.support.records import record


def test_a_line_becomes_a_record():
    row = parse_line(log_line(start="1700000000.000123"), "shop")
    assert row["time"] == 1_700_000_000_000_123 + 12500
    assert (row["route"], row["auth"], row["user_agent_class"]) == ("/work/hash", "bearer", "library")
    assert (row["duration_s"], row["inflight"], row["cpu_s"]) == (0.0125, 3, 0.004)


@given(st.binary())
def test_any_bytes_are_parsed_or_refused(line):
    try:
        parse_line(line, "shop")
    except RefusedError as error:
        assert error.reason
    claimed_host(line)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(json.loads(log_line()))), json_values))
def test_any_values_are_accepted_within_bounds_or_refused_by_name(changes):
    now = clock_us()
    try:
        row = parse_line(log_line(**changes), "shop")
    except RefusedError as error:
        reason = error.reason
    else:
        reason = refusal(row, REQUEST_RECORD, now - 10**12, now + 10**7)
        if reason is None and row["duration_s"] is not None:
            assert 0 <= row["duration_s"] <= 3600
    assert reason is None or ":" in reason


def test_batches_have_the_schema_of_the_lake(tmp_path):
    path = write_batch(tmp_path, "requests", REQUEST_RECORD, [record(), record(cpu_s=None)], "b")
    assert pq.ParquetFile(path).schema_arrow.equals(REQUEST_RECORD_SCHEMA)
    assert "service=shop" in str(path)
    from tests.support.records import sample

    path = write_batch(tmp_path, "samples", HOST_SAMPLE, [sample()], "b")
    assert pq.ParquetFile(path).schema_arrow.equals(HOST_SAMPLE_SCHEMA)


def test_agents_share_a_log_and_refuse_a_line_nobody_claims_once(tmp_path):
    one, two = agent(tmp_path, "h1"), agent(tmp_path, "h2")
    lines = [log_line(), log_line(host="h2"), b'{"host":"h1","dur', b"not json", log_line(duration_us=-5), b"\xff\xfe"]
    (tmp_path / "access.log").write_bytes(b"\n".join(lines) + b"\n")
    for each in (one, two):
        each.read()
        each.report()
    assert sorted(row["host"] for row in accepted(tmp_path)) == ["h1", "h2"]
    reasons = sorted(entry["reason"] for entry in quarantined(tmp_path))
    assert reasons == ["duration_s:negative", "line:malformed", "line:malformed", "line:malformed"]
    assert one.all_counts()["refused line:malformed"] == 3
    assert two.all_counts()["unclaimed"] == 3


def test_a_future_record_is_refused(tmp_path):
    (tmp_path / "access.log").write_bytes(log_line(start=f"{time.time() + 3600:.6f}") + b"\n")
    each = agent(tmp_path)
    each.read()
    each.report()
    assert [entry["reason"] for entry in quarantined(tmp_path)] == ["time:future"]


def test_a_crash_between_reports_neither_loses_nor_doubles(tmp_path):
    log = tmp_path / "access.log"
    log.write_bytes((log_line(bytes_in=1) + b"\n") * 3)
    first = agent(tmp_path)
    first.read()
    first.report()
    log.write_bytes(log.read_bytes() + (log_line(bytes_in=2) + b"\n") * 2)
    first.read()  # read, then lost in a crash before the report
    second = agent(tmp_path)
    second.read()
    second.report()
    assert sorted(row["bytes_in"] for row in accepted(tmp_path)) == [1, 1, 1, 2, 2]


def test_while_the_lake_cannot_be_written_rows_are_kept(tmp_path):
    (tmp_path / "access.log").write_bytes((log_line() + b"\n") * 2)
    each = agent(tmp_path)
    each.read()
    (tmp_path / "lake" / "inbox").write_text("in the way")
    assert not each.report_or_keep()
    (tmp_path / "lake" / "inbox").unlink()
    assert each.report_or_keep()
    assert len(accepted(tmp_path)) == 2
    assert each.all_counts()["reports_failed"] == 1


def test_host_samples_of_a_process(tmp_path):
    each = agent(tmp_path, pid=os.getpid(), cores=2.0, mem_limit_bytes=2**40)
    time.sleep(0.05)
    each.sample_host()
    each.report()
    (row,) = accepted(tmp_path, "samples")
    assert row["cores"] == 2.0
    assert 0 < row["mem_bytes"] < 2**40
    assert 0 <= row["cpu_util"] <= 1
    assert row["slots"] is None


@pytest.mark.process
def test_a_host_that_is_gone_does_not_stop_the_agent(tmp_path):
    import subprocess

    process = subprocess.Popen(["sleep", "60"])
    each = agent(tmp_path, pid=process.pid)
    process.kill()
    process.wait()
    each.sample_host()
    assert each.all_counts()["samples_failed"] == 1


def test_tail_follows_growth_rotation_and_truncation(tmp_path):
    log = tmp_path / "log"
    tail = LogTail(log)
    assert list(tail.lines()) == []
    log.write_bytes(b"a\nb\npart")
    assert list(tail.lines()) == [b"a", b"b"]
    with log.open("ab") as handle:
        handle.write(b"ial\n")
    assert list(tail.lines()) == [b"partial"]
    with log.open("ab") as handle:
        handle.write(b"last\n")
    log.rename(tmp_path / "log.1")
    log.write_bytes(b"new\n")
    assert list(tail.lines()) == [b"last", b"new"]
    log.write_bytes(b"x\n")
    assert list(tail.lines()) == [b"x"]


def test_tail_cuts_endless_lines(tmp_path):
    log = tmp_path / "log"
    log.write_bytes(b"x" * (3 * 2**20) + b"\nnext\n")
    lines = list(LogTail(log).lines())
    assert [len(line) for line in lines] == [MAX_LINE_BYTES, 4]


def test_tail_gives_blocks_of_the_lines_with_their_sizes(tmp_path, monkeypatch):
    monkeypatch.setattr("fingerpost.accesslog.tail._CHUNK_BYTES", 1000)
    log, lines = tmp_path / "log", [b"x" * (number % 90) for number in range(300)]
    log.write_bytes(b"".join(line + b"\n" for line in lines) + b"part")
    tail, seen = LogTail(log), []
    for block, size in tail.blocks():
        assert size == sum(map(len, block)) + len(block)
        seen += block
        if len(seen) > 150:
            tail.rewind()
            break
    tail = LogTail(log, tail.position)  # a restart
    log.rename(tmp_path / "log.1")
    log.write_bytes(b"new\n")
    found = list(tail.blocks())
    assert seen + [line for block, _ in found for line in block] == [*lines, b"part", b"new"]
    assert sum(size for _, size in found[-2:]) == len(b"partnew\n")


@given(st.lists(st.binary(max_size=40).filter(lambda part: b"\n" not in part and part.strip()), max_size=20), st.data())
def test_tail_hands_out_every_line_once_however_it_is_written(tmp_path_factory, lines, data):
    log = tmp_path_factory.mktemp("tail") / "log"
    log.touch()
    tail, seen, text = LogTail(log), [], b"".join(line + b"\n" for line in lines)
    while text:
        size = data.draw(st.integers(1, len(text)))
        with log.open("ab") as handle:
            handle.write(text[:size])
        text = text[size:]
        seen += list(tail.lines())
        if data.draw(st.booleans()):
            tail = LogTail(log, tail.position)  # a restart
    assert seen == lines


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"duration_s": float("nan")}, "duration_s:not_finite"),
        ({"duration_s": -0.1}, "duration_s:negative"),
        ({"duration_s": 1e9}, "duration_s:too_large"),
        ({"status": 42}, "status:too_small"),
        ({"status": "200"}, "status:type"),
        ({"host": None}, "host:missing"),
        ({"host": "../../etc"}, "host:bad_name"),
        ({"route": "/" + "a" * 600}, "route:too_long"),
        ({"time": 0}, "time:too_old"),
        ({}, None),
    ],
)
def test_refusal_names_column_and_reason(change, reason):
    now = clock_us()
    assert refusal(record(**change), REQUEST_RECORD, now - 10**12, now + 10**7) == reason


def test_windows_are_reported_as_soon_as_they_are_closed_each_host_apart_from_others(tmp_path):
    late_s = []
    for number in range(50):
        each = agent(tmp_path, host=f"h{number}", batch_s=5.0)
        each._clock = lambda: 1_795_678_400.25
        late_s.append((each._clock() + each._until_report_s()) % 5.0)
    assert min(late_s) >= SETTLE_S
    assert max(late_s) <= SETTLE_S + APART_S
    assert len({round(late, 1) for late in late_s}) >= 8
