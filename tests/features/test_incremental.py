"""The features step date by date: what did not change is not made again, and the end is the same."""

import shutil

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fingerpost.agent.batches import write_batch
from fingerpost.clock import US
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.ingest import ingest
from fingerpost.features.prepare import FeatureSettings
from fingerpost.lake import date_of, parquet_files
from fingerpost.records import REQUEST_RECORD
from tests.support.lakes import DAY_US, SETTINGS, lake_of_days
from tests.support.records import record


@pytest.mark.process
def test_nothing_is_made_twice_and_late_records_change_only_what_they_must(tmp_path):
    midnight = lake_of_days(tmp_path)
    first = build_features(tmp_path, "shop", SETTINGS)
    assert len(first.dates_made) == len(first.dates_replayed) == 4
    rows = load_training_rows(tmp_path, "shop", 10**6)
    assert build_features(tmp_path, "shop", SETTINGS).dates_made == []
    pd.testing.assert_frame_equal(load_training_rows(tmp_path, "shop", 10**6), rows)

    late = [record(time=midnight + DAY_US + 100 * US + number, host="h1", duration_s=5.0) for number in range(20)]
    write_batch(tmp_path, "requests", REQUEST_RECORD, late, "late")
    ingest(tmp_path, "shop", 5, 30 * 86_400)
    again = build_features(tmp_path, "shop", SETTINGS)
    day = date_of(midnight + DAY_US)
    assert again.dates_made == [day]
    assert again.dates_replayed == first.dates_replayed[first.dates_replayed.index(day) :]
    # As if all had been there from the start.
    fresh = tmp_path / "fresh"
    build_features(tmp_path, "shop", SETTINGS, fresh)
    pd.testing.assert_frame_equal(load_training_rows(fresh, "shop", 10**6), load_training_rows(tmp_path, "shop", 10**6))


def test_a_run_that_was_cut_short_ends_the_same(tmp_path):
    lake_of_days(tmp_path, 2)
    whole = build_features(tmp_path, "shop", SETTINGS)
    expected = load_training_rows(tmp_path, "shop", 10**6)
    last = sorted((tmp_path / "windows" / "service=shop").glob("date=*"))[-1]
    (last / "made_from.json").unlink()
    shutil.rmtree(tmp_path / "history" / "service=shop" / last.name)
    again = build_features(tmp_path, "shop", SETTINGS)
    assert again.dates_made == [last.name.removeprefix("date=")]
    assert (again.windows, again.training_rows) == (whole.windows, whole.training_rows)
    pd.testing.assert_frame_equal(load_training_rows(tmp_path, "shop", 10**6), expected)


def test_windows_lie_in_the_date_of_their_beginning(tmp_path):
    """Of seven seconds: they do not fit a day, and one straddles midnight."""
    lake_of_days(tmp_path, 2)
    settings = FeatureSettings(7, 60, 16, 5)
    build_features(tmp_path, "shop", settings)
    ends = []
    for path in parquet_files(tmp_path / "windows"):
        table = pq.ParquetFile(path).read().to_pandas()
        began = table["time"] - pd.Timedelta(seconds=7)
        assert (began.dt.strftime("%Y-%m-%d") == path.parent.name.removeprefix("date=")).all()
        ends += table[["time", "host", "category"]].itertuples(index=False, name=None)
    assert len(set(ends)) == len(ends)
    total = sum(
        pq.ParquetFile(path).read().column("requests").to_pandas().sum() for path in parquet_files(tmp_path / "windows")
    )
    assert total == 2 * 2 * 600
