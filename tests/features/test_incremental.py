"""The features step date by date: what did not change is not made again, and the end is the same."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from fingerpost.agent.batches import write_batch
from fingerpost.clock import US, clock_us
from fingerpost.features import open_date
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.ingest import ingest
from fingerpost.features.prepare import FeatureSettings
from fingerpost.lake import date_of, parquet_files
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from tests.support.lakes import DAY_US, SETTINGS, lake_of_days
from tests.support.records import record, sample


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


def reported(lake, begin_us, seconds, hosts, routes=1, seed=0):
    """Requests and samples of so many seconds arrive, in random order and of random lengths."""
    rng = np.random.default_rng([seed, begin_us])
    for host in hosts:
        times = begin_us + np.sort(rng.choice(seconds * US, 2 * seconds, replace=False))
        rows = [
            record(time=int(at), host=host, route=f"/{at % routes}", duration_s=float(rng.lognormal(-4, 0.5)))
            for at in times
        ]
        name = f"{host}-{begin_us}-{seed}"
        write_batch(lake, "requests", REQUEST_RECORD, rows, name)
        write_batch(lake, "samples", HOST_SAMPLE, [sample(time=int(at), host=host) for at in times[::10]], name)
    ingest(lake, "shop", 5, 30 * 86_400)


def outcome(lake, after_us=0):
    """Training rows from a time on, and the history as it was saved last."""
    with np.load(max((lake / "history").rglob("history.npz"))) as saved:
        history = {name: saved[name] for name in saved.files}
    rows = load_training_rows(lake, "shop", 10**6)
    return rows[rows["time"].astype("int64") >= after_us].reset_index(drop=True), history


def same(one, other):
    pd.testing.assert_frame_equal(one[0], other[0])
    assert one[1].keys() == other[1].keys()
    for name, values in one[1].items():
        np.testing.assert_array_equal(values, other[1][name], err_msg=name)


@pytest.mark.parametrize("max_rows", [None, 2_000])
def test_what_was_replayed_of_a_date_is_not_replayed_again_and_the_end_is_the_same(tmp_path, monkeypatch, max_rows):
    monkeypatch.setattr(open_date, "LATE_S", 60.0)
    settings = replace(SETTINGS, max_rows=max_rows, recent_hours=1.0)
    midnight = clock_us() // DAY_US * DAY_US - DAY_US
    lake, hosts = tmp_path / "lake", ("h1", "h2", "h3")
    # Over midnight, where the date before is finished; and over full hours, where shares of rows fall.
    pieces = [(-200, 150), (-50, 150), (100, 200), (3500, 200), (3700, 150), (3850, 20), (7300, 100)]
    replayed = []
    for turn, (begin_s, seconds) in enumerate(pieces):
        reported(lake, midnight + begin_s * US, seconds, hosts, routes=2)
        report = build_features(lake, "shop", settings)
        replayed.append(report.windows_replayed)
        if turn >= 5:
            fresh = tmp_path / f"fresh-{turn}"
            whole = build_features(lake, "shop", settings, fresh)
            assert whole.windows_replayed == 15 + 5 + sum(seconds // 10 for _, seconds in pieces[1 : turn + 1]) - 5
            # Dates before keep the rows that they had when they were the latest.
            same(outcome(lake, midnight), outcome(fresh, midnight))
    # Of each piece its own windows, and those of a minute before.
    assert replayed[2:] == [20 + 6, 20 + 6, 15 + 6, 2 + 6, 10 + 6]
    assert build_features(lake, "shop", settings).windows_replayed == 0


def test_late_requests_have_an_open_date_replayed(tmp_path, monkeypatch):
    monkeypatch.setattr(open_date, "LATE_S", 60.0)
    lake, begin_us = tmp_path / "lake", clock_us() // DAY_US * DAY_US - DAY_US
    reported(lake, begin_us, 300, ("h1", "h2"))
    build_features(lake, "shop", SETTINGS)
    # A host that was not there before changes no place, and nothing of what was.
    reported(lake, begin_us + 300 * US, 50, ("h0", "h1", "h2"))
    assert build_features(lake, "shop", SETTINGS).windows_replayed == 5 + 6
    reported(lake, begin_us + 100 * US, 10, ("h1",), seed=1)
    assert build_features(lake, "shop", SETTINGS).windows_replayed == 35
    build_features(lake, "shop", SETTINGS, tmp_path / "fresh")
    same(outcome(lake), outcome(tmp_path / "fresh"))


@pytest.mark.parametrize("lost", ["features", "checkpoint", "cut"])
def test_without_what_was_kept_an_open_date_is_replayed(tmp_path, monkeypatch, lost):
    monkeypatch.setattr(open_date, "LATE_S", 60.0)
    lake, begin_us = tmp_path / "lake", clock_us() // DAY_US * DAY_US - DAY_US
    reported(lake, begin_us, 300, ("h1", "h2"))
    build_features(lake, "shop", SETTINGS)
    (features,), (checkpoint,) = (list(lake.rglob(name)) for name in ("features.parquet", "open.npz"))
    if lost == "features":
        features.unlink()
    elif lost == "checkpoint":
        checkpoint.unlink()
    else:
        # Killed between the rows and their checkpoint: the rows are of later windows.
        pq.write_table(pq.read_table(features).slice(2), features)
    reported(lake, begin_us + 300 * US, 50, ("h1", "h2"))
    assert build_features(lake, "shop", SETTINGS).windows_replayed == 35
    build_features(lake, "shop", SETTINGS, tmp_path / "fresh")
    same(outcome(lake), outcome(tmp_path / "fresh"))
