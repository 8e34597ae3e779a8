"""`fingerpost fingerprint`: what the lake has of a host, as of now or of an earlier time."""

import json
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from typer.testing import CliRunner

from fingerpost.cli import app
from fingerpost.errors import NoDataError
from fingerpost.lake import partition, write_table

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def lake(tmp_path, monkeypatch):
    monkeypatch.setenv("FINGERPOST_HOME", str(tmp_path))
    monkeypatch.setenv("FINGERPOST_SERVICE", "shop")
    rows = [
        {"time": NOON + timedelta(minutes=minute), "host": host, "category": category, "rate_rps": rate}
        for minute in (0, 5)
        for host in ("h1", "h2")
        for category, rate in (("GET /a", 1.0 + minute), ("GET /b", 20.0 + minute))
    ]
    write_table(
        partition(tmp_path / "lake", "fingerprints", "shop", "2026-01-02") / "h-1.parquet", pa.Table.from_pylist(rows)
    )
    return tmp_path / "lake"


def call(*arguments):
    told = CliRunner().invoke(app, ["fingerprint", *arguments], catch_exceptions=False)
    assert told.exit_code == 0
    return told.stdout


@pytest.mark.parametrize(
    ("at", "rate"), [("2026-01-02T12:04", 1.0), ("2026-01-02T12:05", 6.0), ("2026-01-03T11:00", 6.0)]
)
def test_the_last_fingerprint_before_a_time_is_shown(at, rate):
    rows = json.loads(call("h1", "--at", at, "--json"))
    assert [(row["host"], row["category"], row["rate_rps"]) for row in rows] == [
        ("h1", "GET /a", rate),
        ("h1", "GET /b", rate + 19.0),
    ]
    text = call("h1", "--at", at)
    assert text.index("GET /b") < text.index("GET /a")


@pytest.mark.parametrize(
    ("host", "at"), [("h3", "2026-01-02T12:05"), ("h1", "2026-01-02T11:59"), ("h1", "2026-01-04T12:00")]
)
def test_where_there_is_none_it_is_said_what_to_do(host, at):
    with pytest.raises(NoDataError, match=f"no fingerprint of host '{host}'.*fingerpost run ingest"):
        call(host, "--at", at)
