"""The lake's one reader: spans of time across dates, columns that files lack, and files that go while it reads."""

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fingerpost import lake as lake_module
from fingerpost.clock import US
from fingerpost.features.maintenance import compact
from fingerpost.lake import FILE, dates, parquet_files, partition, read, read_frame, row_count, write_table
from fingerpost.schemas import SCHEMAS

MIDNIGHT = 1_767_312_000 * US
DAY_US = 86_400 * US
STAMP = pa.timestamp("us", tz="UTC")


def put(lake, kind, day, name, times, **columns):
    """Writes a file of rows at the given times, microseconds since midnight between the two dates."""
    table = pa.table({"time": pa.array([MIDNIGHT + time for time in times], STAMP), **columns})
    write_table(partition(lake, kind, "shop", day) / f"{name}.parquet", table)


def offsets(table):
    return [time - MIDNIGHT for time in table.column("time").cast("int64").to_pylist()]


def test_a_span_is_read_in_order_of_time_from_the_dates_that_can_hold_it(tmp_path):
    put(tmp_path, "requests", "2026-01-01", "b", [-1, -5], host=["h1", "h1"])
    put(tmp_path, "requests", "2026-01-02", "a", [3, 0, 1], host=["h3", "h2", "h2"])
    put(tmp_path, "requests", "2026-01-03", "a", [DAY_US], host=["h4"])
    (partition(tmp_path, "requests", "shop", "2026-01-02") / ".c.parquet.1-0a1b2c3d.tmp").write_bytes(b"half")
    (tmp_path / "requests" / "service=shop" / "date=notes").mkdir()
    assert dates(tmp_path, "requests", "shop") == ["2026-01-01", "2026-01-02", "2026-01-03"]
    assert offsets(read(tmp_path, "requests", "shop", MIDNIGHT - 1, MIDNIGHT + 3)) == [-1, 0, 1]
    assert offsets(read(tmp_path, "requests", "shop", on=["2026-01-02"])) == [0, 1, 3]
    assert read(tmp_path, "requests", "shop").num_rows == row_count(tmp_path, "requests", "shop") == 6
    frame = read_frame(tmp_path, "requests", "shop", MIDNIGHT, MIDNIGHT + DAY_US, ("time", "host"))
    assert frame["host"].tolist() == ["h2", "h2", "h3"]
    assert (frame["time_us"] - MIDNIGHT).tolist() == [0, 1, 3]


def test_columns_that_a_file_lacks_are_null_and_a_file_tells_its_name(tmp_path):
    put(tmp_path, "requests", "2026-01-02", "old", [0], host=["h1"])
    put(tmp_path, "requests", "2026-01-02", "new", [1], host=["h1"], cpu_s=[0.5], strange=["x"])
    assert read(tmp_path, "requests", "shop").schema.names == SCHEMAS["requests"].names
    rows = read(tmp_path, "requests", "shop", columns=["time", "cpu_s", "nowhere", FILE]).to_pylist()
    assert [row["cpu_s"] for row in rows] == [None, 0.5]
    assert [row["nowhere"] for row in rows] == [None, None]
    assert [row[FILE].rsplit("/", 1)[1] for row in rows] == ["old.parquet", "new.parquet"]


def test_a_kind_without_a_schema_is_read_by_all_that_its_files_have(tmp_path):
    put(tmp_path, "predictions", "2026-01-02", "a", [0], host=pa.array(["h1"]).dictionary_encode(), old=[1])
    put(tmp_path, "predictions", "2026-01-02", "b", [1], host=["h2"], new=[2.0])
    assert read(tmp_path, "predictions", "shop", columns=["host", "old", "new"]).to_pylist() == [
        {"host": "h1", "old": 1, "new": None},
        {"host": "h2", "old": None, "new": 2.0},
    ]


@pytest.mark.parametrize("kind", ["requests", "predictions"])
def test_where_there_is_nothing_the_columns_are_there_without_rows(tmp_path, kind):
    frame = read_frame(tmp_path, kind, "shop", 0, MIDNIGHT, ("time", "host", FILE))
    assert frame.empty
    assert frame.columns.tolist() == ["time", "host", FILE, "time_us"]


@pytest.mark.parametrize("kind", ["windows", "loads"])
def test_a_window_that_ends_at_midnight_is_of_the_day_it_ends_on(tmp_path, kind):
    put(tmp_path, kind, "2026-01-01", kind, [-10 * US, 0], host=["h1", "h1"])
    assert offsets(read(tmp_path, kind, "shop", MIDNIGHT, MIDNIGHT + DAY_US)) == [0]


def test_files_that_are_merged_between_listing_and_reading_are_read_as_merged(tmp_path, monkeypatch):
    for number in range(3):
        put(tmp_path, "requests", "2026-01-01", f"h1-{number}", [number - 3], host=["h1"])
    real, listed = lake_module.parquet_files, []

    def listing_then_merged(folder):
        files = list(real(folder))
        if not listed:
            listed.extend(path.name for path in files)
            compact(tmp_path, "shop", quiet_s=-DAY_US)
        return files

    monkeypatch.setattr(lake_module, "parquet_files", listing_then_merged)
    assert offsets(read(tmp_path, "requests", "shop", MIDNIGHT - US, MIDNIGHT)) == [-3, -2, -1]
    assert listed == ["h1-0.parquet", "h1-1.parquet", "h1-2.parquet"]


def test_a_file_that_stays_away_is_an_error(tmp_path, monkeypatch):
    put(tmp_path, "requests", "2026-01-01", "h1-1", [0], host=["h1"])
    monkeypatch.setattr(lake_module, "parquet_files", lambda folder: [folder / "gone.parquet"])
    with pytest.raises(FileNotFoundError):
        read(tmp_path, "requests", "shop")


def test_metadata_is_kept_beside_the_tables_own(tmp_path):
    path = tmp_path / "a" / "x.parquet"
    write_table(path, pa.table({"x": [1]}).replace_schema_metadata({"own": "1"}), {"schema_hash": "abc"})
    assert pq.read_schema(path).metadata == {b"own": b"1", b"schema_hash": b"abc"}
    assert list(parquet_files(tmp_path)) == [path]
