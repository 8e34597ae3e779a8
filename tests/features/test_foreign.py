"""Foreign telemetry is held to the bounds of our own, and told how many requests each host had."""

import bz2
import contextlib
import gzip
import lzma

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fingerpost.errors import NoDataError
from fingerpost.features.foreign import find_mapping, import_telemetry, load_mapping
from fingerpost.features.windows import in_flight_at
from fingerpost.lake import read

MOMENTS = st.integers(0, 12)


@settings(max_examples=200, deadline=None)
@given(st.lists(MOMENTS, max_size=6), st.lists(st.tuples(MOMENTS, MOMENTS).map(sorted), max_size=8))
def test_in_flight_are_those_that_have_begun_before_and_not_ended_by_then(at, spans):
    # One that begins and ends at once is never in flight.
    lasting = [(begin, end) for begin, end in spans if end > begin]
    begun, ended = (np.array([span[place] for span in lasting], dtype=np.int64) for place in (0, 1))
    expected = [sum(begin < moment < end for begin, end in lasting) for moment in at]
    assert in_flight_at(np.array(at, dtype=np.int64), begun, ended).tolist() == expected


def spans(folder, **columns):
    start = pd.Timestamp("2026-01-01 12:00", tz="UTC")
    rows = len(columns["duration_s"])
    at = [start + pd.Timedelta(seconds=second) for second in range(rows)]
    table = {"start": at, "host": ["10.0.0.1:80"] * rows, "operation": ["svc/Get"] * rows, **columns}
    pd.DataFrame(table).to_parquet(folder / "requests.parquet")
    refused = import_telemetry(folder, find_mapping(folder), folder / "lake", "shop")
    return refused, read(folder / "lake", "requests", "shop").to_pandas()


def test_requests_in_flight_are_counted_from_their_beginnings_and_ends(tmp_path):
    refused, rows = spans(tmp_path, duration_s=[10.0, 1.5, 1.5, 1.5])
    assert not refused
    rows = rows.sort_values("duration_s", kind="stable", ignore_index=True)
    # The long one, and from the third second on the one before that has not ended.
    assert rows["inflight"].tolist() == [1, 2, 2, 0]


def test_hosts_get_names_that_are_allowed_and_rows_are_refused_as_our_own_are(tmp_path):
    refused, rows = spans(tmp_path, duration_s=[0.1, -1.0, 7200.0, 0.1], operation=["a", "b", "c", "x" * 600])
    assert set(rows["host"]) == {"10.0.0.1-80"}
    assert len(rows) == 1
    assert refused == {
        "requests:time:missing": 1,
        "requests:duration_s:too_large": 1,
        "requests:route:too_long": 1,
    }


def table_of(folder, times):
    pd.DataFrame({"time": times, "host": "h1", "route": "/a", "duration_s": 0.1}).to_csv(folder / "requests.csv")
    refused = import_telemetry(folder, find_mapping(folder), folder / "lake", "shop")
    return refused, read(folder / "lake", "requests", "shop")


def test_times_with_and_without_a_fraction_are_read_alike(tmp_path):
    times = ["2026-11-01T10:00:00+00:00", "2026-11-01T10:00:00.250000+00:00", "2026-11-01T10:00:01+00:00"]
    refused, rows = table_of(tmp_path, times)
    assert not refused
    assert rows.num_rows == 3


@pytest.mark.parametrize("scale", [1, 1e3, 1e9])
def test_numbers_that_are_no_times_in_their_unit_are_refused_with_what_to_do(tmp_path, scale):
    with pytest.raises(NoDataError, match="set its unit"):
        table_of(tmp_path, [1_793_527_200 * scale, 1_793_527_201 * scale])


@pytest.mark.parametrize(
    ("columns", "problem"),
    [
        ('time = { from = "t", unit = "min" }', "unit"),
        ('time = { from = "t", scale = nan }', "scale"),
        ('colour = { from = "c" }', "unknown columns colour"),
        ('method = { from = "m" }', "lacks .*time or start"),
    ],
)
def test_a_mapping_that_does_not_say_what_it_must_is_refused_by_the_place(tmp_path, columns, problem):
    path = tmp_path / "mine.toml"
    others = "\n".join(f'{name} = {{ from = "{name}" }}' for name in ("host", "route", "duration_s"))
    path.write_text(f'[requests]\nfile = "x.csv"\n[requests.columns]\n{others}\n{columns}\n')
    with pytest.raises(NoDataError, match=problem):
        load_mapping(path)


HEAD = "time,host,route,duration_s\n"
ROWS = [f"2026-11-01T10:00:0{second}+00:00,h{second % 2},/a,0.012" for second in range(9)]


def imported(folder, content, name="requests.csv"):
    (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    refused = import_telemetry(folder, find_mapping(folder), folder / "lake", "shop")
    return refused, read(folder / "lake", "requests", "shop")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("requests.csv", "\n".join([HEAD.strip(), *ROWS])),
        ("requests.csv", ("\ufeff" + HEAD + "\n".join(ROWS)).encode()),
        ("requests.csv", (HEAD + "\n".join(ROWS)).encode("utf-16")),
        ("requests.csv", (HEAD + "\n".join(ROWS)).replace("/a", "/\xe9").encode("latin-1")),
        ("requests.csv", (HEAD + "\n".join(ROWS)).replace(",", "\t")),
        ("requests.csv", (HEAD + "\n".join(ROWS)).replace(",", ";").replace("0.012", "0,012")),
        ("requests.csv", (HEAD + "\n".join(ROWS)).replace("0.012", "12ms")),
        ("requests.csv", (HEAD + "\n".join(ROWS)).replace("0.012", "12000 us")),
        ("requests.csv", "Time,HOST, Route,Duration_S\n" + "\n".join(ROWS)),
        ("requests.csv", '"time","host","route","duration_s"\n' + "\n".join(ROWS)),
        ("requests.csv.gz", gzip.compress((HEAD + "\n".join(ROWS)).encode(), mtime=0)),
        ("requests.csv.xz", lzma.compress((HEAD + "\n".join(ROWS)).encode())),
        ("requests.csv", bz2.compress((HEAD + "\n".join(ROWS)).encode())),
    ],
)
def test_tables_are_read_whatever_their_encoding_separator_and_compression(tmp_path, name, content):
    refused, rows = imported(tmp_path, content, name)
    assert not refused
    assert rows.num_rows == 9
    assert set(rows["duration_s"].to_pylist()) == {0.012}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            HEAD + "\n".join(["yesterday,h0,/a,0.01"] * 8 + ROWS[:2]),
            "of 10 rows 8 are refused, 8 .* time:missing",
        ),
        (HEAD + "\n".join(ROWS).replace("0.012", "12000"), "duration_s:too_large: is it of another unit"),
        (HEAD + "1793527200,h0,/a,0.01\n" + "\n".join(ROWS), "set its unit"),
        (HEAD, "has no rows"),
        ("", "cannot be read as CSV"),
        (gzip.compress((HEAD + "\n".join(ROWS)).encode(), mtime=0)[:60], "cannot be read as CSV"),
        (b"\0" * 100, "fits a shipped mapping"),
    ],
)
def test_a_table_most_of_which_cannot_be_used_is_refused_in_one_line(tmp_path, content, words):
    with pytest.raises(NoDataError, match=words) as error:
        imported(tmp_path, content)
    assert "\n" not in str(error.value)


@settings(max_examples=40, deadline=None)
@given(st.text(",;\t|\n\"' 0123456789.:-TZab") | st.text(), st.sampled_from(["", HEAD, HEAD + ROWS[0] + "\n"]))
@example("20000000000000000000", "time,host,route,duration_s\n")
@example("99999999999999999999999", HEAD + ROWS[0] + "\n")
def test_any_table_is_read_or_refused(tmp_path_factory, text, head):
    folder = tmp_path_factory.mktemp("any")
    with contextlib.suppress(NoDataError):
        imported(folder, (head + text).encode("utf-8", "replace"))
