"""The lake's door: what is refused is named, counted and kept; the good rest comes in; a second run changes nothing."""

import contextlib
import json
import os
import time

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fingerpost.agent.batches import write_batch
from fingerpost.clock import US, clock_us
from fingerpost.features import ingest as ingest_module
from fingerpost.features.ingest import ingest
from fingerpost.features.maintenance import apply_retention
from fingerpost.lake import INBOX, parquet_files, partition, remove_oldest
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from fingerpost.schemas import REQUEST_RECORD_SCHEMA
from tests.support.records import record, sample

DAY_S = 86400.0


@pytest.fixture
def lake(tmp_path):
    write_batch(tmp_path, "samples", HOST_SAMPLE, [sample()], "h1-1")
    return tmp_path


def run(lake):
    return ingest(lake, "shop", clock_skew_s=5, max_age_s=DAY_S)


def rows(lake, kind):
    return [row for path in parquet_files(lake / kind) for row in pq.ParquetFile(path).read().to_pylist()]


def test_bad_rows_are_refused_by_name_and_the_good_rest_comes_in(lake):
    now = clock_us()
    bad = {
        "duration_s:not_finite": record(duration_s=float("nan")),
        "duration_s:negative": record(duration_s=-1.0),
        "time:future": record(time=now + 3600 * US),
        "time:too_old": record(time=now - 3 * 86400 * US),
        "host:unknown": record(host="stranger", time=now - 600 * US),
        "service:mismatch": record(service="bank"),
        "status:too_large": record(status=999),
    }
    write_batch(lake, "requests", REQUEST_RECORD, [record(), *bad.values(), record()], "h1-1")
    report = run(lake)
    assert report.request_records == 2
    assert dict(report.refused) == dict.fromkeys(bad, 1)
    assert len(rows(lake, "requests")) == 2
    assert {row["reason"] for row in rows(lake / "quarantine", "requests")} == set(bad)
    assert not list(parquet_files(lake / INBOX))


def test_records_of_a_host_that_is_not_known_yet_wait_for_it(lake):
    write_batch(lake, "requests", REQUEST_RECORD, [record(), record(host="h2")], "edge-1")
    report = run(lake)
    assert (report.files, report.request_records, report.refused) == (1, 0, {})
    write_batch(lake, "samples", HOST_SAMPLE, [sample(host="h2")], "h2-1")
    report = run(lake)
    assert (report.files, report.request_records, report.refused) == (2, 2, {})
    assert not list(parquet_files(lake / INBOX))


def test_records_of_before_the_clock_was_set_back_wait_until_their_time_has_come(lake):
    ahead = clock_us() + 90 * US
    write_batch(lake, "requests", REQUEST_RECORD, [record(), record(time=ahead)], "h1-1")
    assert (run(lake).request_records, rows(lake, "quarantine")) == (0, [])
    report = ingest(lake, "shop", clock_skew_s=5, max_age_s=DAY_S, now_s=ahead / US)
    assert (report.request_records, report.refused) == (2, {})
    assert not list(parquet_files(lake / INBOX))


def test_unreadable_files_are_set_aside_with_their_reason(lake):
    whole = write_batch(lake, "requests", REQUEST_RECORD, [record()] * 50, "h1-1")
    half = whole.with_name("h1-2.parquet")
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    whole.with_name("h1-3.parquet").write_bytes(b"")
    pq.write_table(pa.table({"time": [1], "service": ["shop"]}), whole.with_name("h1-4.parquet"))
    report = run(lake)
    assert report.request_records == 50
    assert dict(report.refused_files) == {"file:unreadable": 2, "file:columns": 1}
    notes = sorted((lake / "quarantine" / "files").rglob("*.json"))
    assert [json.loads(note.read_text())["reason"] for note in notes] == [
        "file:unreadable",
        "file:unreadable",
        "file:columns",
    ]


def test_a_file_being_written_is_left_alone(lake):
    write_batch(lake, "requests", REQUEST_RECORD, [record()], "h1-1")
    folder = next(parquet_files(lake / INBOX / "requests")).parent
    (folder / ".h1-2.parquet.1-abc.tmp").write_bytes(b"PAR1 half")
    assert run(lake).request_records == 1
    assert (folder / ".h1-2.parquet.1-abc.tmp").exists()


@contextlib.contextmanager
def while_it_is_read(monkeypatch, happen):
    """Has something happen in the middle of an ingest: after the requests' batch was read, before it is removed."""
    real = ingest_module.refusals

    def first(table, columns, *rest):
        if columns is REQUEST_RECORD:
            happen()
        return real(table, columns, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(ingest_module, "refusals", first)
        yield


def test_a_batch_that_is_replaced_while_it_is_read_is_read_again(lake, monkeypatch):
    write_batch(lake, "requests", REQUEST_RECORD, [record()] * 2, "h1-1")
    with while_it_is_read(monkeypatch, lambda: write_batch(lake, "requests", REQUEST_RECORD, [record()] * 5, "h1-1")):
        run(lake)
    assert len(rows(lake, "requests")) == 2
    run(lake)
    assert len(rows(lake, "requests")) == 5
    assert not list(parquet_files(lake / INBOX))


def test_an_ingest_that_is_killed_in_a_batch_is_gone_on_with(lake, monkeypatch):
    def killed():
        write_batch(lake, "requests", REQUEST_RECORD, [record()] * 5, "h1-1")
        raise KeyboardInterrupt

    write_batch(lake, "requests", REQUEST_RECORD, [record()] * 2, "h1-1")
    write_batch(lake, "requests", REQUEST_RECORD, [record()], "h1-2")
    with while_it_is_read(monkeypatch, killed), pytest.raises(KeyboardInterrupt):
        run(lake)
    assert rows(lake, "requests") == []
    run(lake)
    # The second version of the batch is the longer one: it is what stays.
    assert len(rows(lake, "requests")) == 6
    assert [path for path in (lake / INBOX).rglob("*") if path.is_file()] == []


def test_what_killed_processes_left_goes_after_an_hour_and_nothing_else(lake):
    folder = next(parquet_files(lake / INBOX)).parent
    names = (".h1-2.parquet.1-0a1b2c3d.tmp", ".h1-3.parquet.1-0a1b2c3d.tmp", ".notes.tmp")
    for name in names:
        (folder / name).write_bytes(b"PAR1 half")
    for name in names[1:]:
        os.utime(folder / name, (time.time() - 3700, time.time() - 3700))
    run(lake)
    assert sorted(path.name for path in folder.iterdir()) == [names[0], ".notes.tmp"]


def test_running_again_after_a_kill_ends_the_same(lake):
    path = write_batch(lake, "requests", REQUEST_RECORD, [record(), record()], "h1-1")
    again = path.read_bytes()
    run(lake)
    path.write_bytes(again)  # killed after the write, before the batch left the inbox
    assert run(lake).request_records == 2
    assert len(rows(lake, "requests")) == 2


def test_a_batch_over_midnight_lands_on_both_dates(lake):
    midnight = clock_us() // (86400 * US) * 86400 * US
    write_batch(lake, "requests", REQUEST_RECORD, [record(time=midnight - US), record(time=midnight + US)], "h1-1")
    run(lake)
    assert len({path.parent.name for path in parquet_files(lake / "requests")}) == 2


def test_optional_columns_may_be_absent_and_strange_ones_are_dropped(lake):
    table = pa.Table.from_pylist([record()], schema=REQUEST_RECORD_SCHEMA).drop_columns(["arm", "cpu_s"])
    table = table.append_column("note", pa.array(["x"]))
    folder = partition(lake / INBOX, "requests", "shop", "2026-01-01")
    folder.mkdir(parents=True)
    pq.write_table(table, folder / "foreign.parquet")
    assert run(lake).request_records == 1
    assert set(rows(lake, "requests")[0]) == set(REQUEST_RECORD_SCHEMA.names)


def test_retention_removes_old_partitions_only(lake):
    for date in ("2020-01-01", "2999-01-01"):
        partition(lake, "requests", "shop", date).mkdir(parents=True)
    assert apply_retention(lake, "shop", 30, 1) == 1
    assert [path.name for path in (lake / "requests" / "service=shop").iterdir()] == ["date=2999-01-01"]


def test_the_oldest_go_first_when_there_is_too_much(tmp_path):
    for age, name in enumerate(("new", "middle", "old")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    assert remove_oldest(tmp_path, 250) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["middle", "new"]


def test_a_row_whose_text_is_no_text_is_refused_alone(lake):
    good = pa.Table.from_pylist([record(), record()], schema=REQUEST_RECORD_SCHEMA)
    routes = pa.array([b"/a", b"/\xff"], pa.binary()).view(pa.string())
    place = good.schema.get_field_index("route")
    folder = partition(lake / INBOX, "requests", "shop", "2026-01-01")
    folder.mkdir(parents=True)
    pq.write_table(good.set_column(place, good.schema.field(place), routes), folder / "h1-2.parquet")
    report = run(lake)
    assert (report.request_records, dict(report.refused)) == (1, {"route:not_unicode": 1})
    assert not list(parquet_files(lake / INBOX))
