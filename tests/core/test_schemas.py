"""Whole tables are judged as single rows are: the same verdict, for the same reason."""

import math

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fingerpost.records import HOST_SAMPLE, MAX_TEXT, REQUEST_RECORD, refusal
from fingerpost.schemas import refusals
from tests.support.records import record, sample

EARLIEST, LATEST = 1_000_000, 2_000_000
GOOD = {
    REQUEST_RECORD: record(time=EARLIEST + 1),
    HOST_SAMPLE: sample(time=EARLIEST + 1),
}
TEXTS = st.one_of(
    st.sampled_from(
        ["", "h1", "-h1", "a/b", "é" * MAX_TEXT, "x" * (MAX_TEXT + 1), "\ud800", "\ud800" * (MAX_TEXT + 1)]
    ),
    st.text(st.characters(), max_size=8),
)


def values(column):
    """Values of a column, good and bad, as a file can hold them: what is no number never gets so far."""
    if column.kind == "string":
        return TEXTS
    if column.kind == "timestamp":
        return st.sampled_from([-1, 0, EARLIEST - 1, EARLIEST, LATEST, LATEST + 1, 2**62])
    edges = [edge for edge in (column.low, column.high, 0) if edge is not None]
    near = sorted({edge + step for edge in edges for step in (-1, 0, 1)})
    if column.kind == "int64":
        return st.one_of(st.sampled_from([round(edge) for edge in near]), st.integers(-(2**62), 2**62))
    return st.one_of(st.sampled_from([float(edge) for edge in near]), st.floats())


def changed(columns):
    """A good row with some values changed, or missing."""
    return st.lists(
        st.sampled_from(columns).flatmap(lambda column: st.tuples(st.just(column.name), st.none() | values(column))),
        max_size=4,
    ).map(lambda changes: {**GOOD[columns], **dict(changes)})


def stored(column, row, number=None):
    value = row.get(column.name)
    if column.kind == "string":
        raw = pa.array([None if value is None else value.encode("utf-8", "surrogatepass")], pa.binary())
        return raw.view(pa.string())  # files can hold half characters, which no text can
    return pa.array([value], number or (pa.float64() if column.kind == "float64" else pa.int64()))


def verdict_of_table(row, columns, number=None):
    table = pa.table({column.name: stored(column, row, number) for column in columns})
    return refusals(table, columns, EARLIEST, LATEST)


@pytest.mark.process
@pytest.mark.parametrize("columns", [REQUEST_RECORD, HOST_SAMPLE], ids=["requests", "samples"])
def test_a_table_is_judged_as_its_rows_are(columns):
    @settings(max_examples=400, deadline=None)
    @given(changed(columns))
    @example(GOOD[columns])
    def judged_alike(row):
        assert verdict_of_table(row, columns) == [refusal(row, columns, EARLIEST, LATEST)]

    judged_alike()


@settings(max_examples=200, deadline=None)
@given(st.floats())
def test_whole_numbers_that_come_as_floats_are_judged_alike(value):
    [column] = [each for each in REQUEST_RECORD if each.name == "bytes_in"]
    row = {"bytes_in": value}
    assert verdict_of_table(row, (column,), pa.float64()) == [refusal(row, (column,), EARLIEST, LATEST)]


def test_every_row_has_its_own_verdict_and_a_good_one_has_none():
    rows = [
        record(time=EARLIEST, **change) for change in ({}, {"status": 99}, {"route": None}, {"cpu_s": math.inf}, {})
    ]
    table = pa.Table.from_pylist([{column.name: row.get(column.name) for column in REQUEST_RECORD} for row in rows])
    table = pa.table(
        {
            column.name: table.column(column.name).cast(pa.string() if column.kind == "string" else pa.float64())
            for column in REQUEST_RECORD
        }
    )
    found = refusals(table, REQUEST_RECORD, EARLIEST, LATEST, {"host": ("unknown", {"h1"})})
    assert found == [None, "status:too_small", "route:missing", "cpu_s:not_finite", None]
    found = refusals(table, REQUEST_RECORD, EARLIEST, LATEST, {"host": ("unknown", {"h2"})})
    assert found[0] == "host:unknown"
    assert refusals(table.slice(0, 0), REQUEST_RECORD, EARLIEST, LATEST) == []
