"""Batches that agents send become files of the inbox: whole, bounded, and nothing else."""

import io

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.engine_api import BATCH_KINDS
from fingerpost.errors import RefusedError
from fingerpost.lake import parquet_files
from fingerpost.serving.landing import FullError, Landing


def parquet(rows=3):
    made = io.BytesIO()
    pq.write_table(pa.table({"a": list(range(rows))}), made)
    return made.getvalue()


def test_a_batch_that_comes_again_replaces_itself(tmp_path):
    landing = Landing(tmp_path, 10**6)
    landing.land("requests", "shop", "h1-1", parquet(3))
    landing.land("requests", "shop", "h1-1", parquet(5))
    [path] = parquet_files(tmp_path / "inbox" / "requests" / "service=shop")
    assert pq.ParquetFile(path).metadata.num_rows == 5


@pytest.mark.parametrize(
    ("kind", "service", "name", "body", "reason"),
    [
        ("windows", "shop", "h1-1", parquet(), "kind:unknown"),
        ("requests", "../shop", "h1-1", parquet(), "service:invalid"),
        ("requests", "shop", "../../h1", parquet(), "name:invalid"),
        ("requests", "shop", ".h1", parquet(), "name:invalid"),
        ("requests", "shop", "h" * 201, parquet(), "name:invalid"),
        ("requests", "shop", "h1-1", b"PAR1", "batch:not_parquet"),
        ("requests", "shop", "h1-1", b"x" * 100, "batch:not_parquet"),
    ],
)
def test_what_can_be_no_batch_is_refused_by_reason(tmp_path, kind, service, name, body, reason):
    with pytest.raises(RefusedError) as caught:
        Landing(tmp_path, 10**6).land(kind, service, name, body)
    assert caught.value.reason == reason
    assert list(tmp_path.iterdir()) == []


@given(st.text(max_size=30), st.text(max_size=30))
def test_nothing_lands_outside_of_the_inbox(tmp_path_factory, service, name):
    lake = tmp_path_factory.mktemp("lake")
    try:
        Landing(lake, 10**6).land("samples", service, name, parquet())
    except RefusedError:
        assert list(lake.rglob("*")) == []
    else:
        [path] = [each for each in lake.rglob("*") if each.is_file()]
        assert path.parent.parent == lake / "inbox" / "samples" / f"service={service}"
        assert path.name == f"{name}.parquet"


def test_an_inbox_that_nobody_empties_is_full_for_its_service_alone(tmp_path, monkeypatch):
    body = parquet()
    landing = Landing(tmp_path, 3 * len(body))
    for number in range(3):
        landing.land(BATCH_KINDS[number % 2], "shop", f"h1-{number}", body)
    with pytest.raises(FullError, match="shop wait for the ingest flow"):
        landing.land("requests", "shop", "h1-9", body)
    landing.land("requests", "blog", "h1-9", body)
    for path in parquet_files(tmp_path / "inbox" / BATCH_KINDS[0]):
        path.unlink()
    # A later look.
    monkeypatch.setattr("fingerpost.serving.landing.time.monotonic", lambda: 1e12)
    landing.land("requests", "shop", "h1-9", body)
