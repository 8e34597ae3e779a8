"""Compaction: one file a past date, nothing lost, nothing doubled, wherever it is killed."""

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime

import pandas as pd
import pyarrow.parquet as pq
import pytest

from fingerpost.agent.batches import write_batch
from fingerpost.clock import US, clock_us
from fingerpost.errors import FingerpostError
from fingerpost.features import maintenance
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.ingest import ingest
from fingerpost.features.maintenance import compact, lake_lock, was_merged
from fingerpost.features.prepare import FeatureSettings
from fingerpost.lake import date_of, parquet_files, partition, service_folder
from fingerpost.records import HOST_SAMPLE, REQUEST_RECORD
from tests.support.records import record, sample

DAY_S = 86_400
SETTINGS = FeatureSettings(10, 60, 16, 5)
BATCHES = 12
# Noon of the day before yesterday.
BEGIN = (clock_us() // (DAY_S * US) - 2) * DAY_S * US + DAY_S * US // 2


def batch(lake, number, begin=BEGIN):
    """A batch of one host: 10 s of requests and samples."""
    at = begin + number * 10 * US
    rows = [
        record(time=at + each * US // 10, route=f"/r{each % 3}", duration_s=0.01 + each / 9000) for each in range(99)
    ]
    name = f"h1-{number:03d}"
    write_batch(lake, "samples", HOST_SAMPLE, [sample(time=at + each * US) for each in range(10)], name)
    write_batch(lake, "requests", REQUEST_RECORD, rows, name)


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    lake = tmp_path_factory.mktemp("compaction") / "lake"
    for number in range(BATCHES):
        batch(lake, number)
    batch(lake, 0, int(time.time() - 60) * US)
    ingest(lake, "shop", 5, 10 * DAY_S)
    build_features(lake, "shop", SETTINGS)
    return lake


@pytest.fixture
def lake(filled, tmp_path):
    return shutil.copytree(filled, tmp_path / "lake")


def content(lake, kind="requests"):
    """All rows of a kind, in an order of their own."""
    files = parquet_files(service_folder(lake, kind, "shop"))
    frame = pd.concat([pq.ParquetFile(path).read().to_pandas() for path in files])
    return frame.sort_values(["time", "route"] if kind == "requests" else ["time"], ignore_index=True)


def past_files(lake, kind="requests"):
    return [path.name for path in parquet_files(partition(lake, kind, "shop", date_of(BEGIN)))]


def test_a_past_date_becomes_one_file_and_today_stays(lake):
    before = {kind: content(lake, kind) for kind in ("requests", "samples")}
    report = compact(lake, "shop", quiet_s=-DAY_S)
    assert (report.partitions, report.files) == (2, 2 * BATCHES)
    for kind, rows in before.items():
        assert past_files(lake, kind) == ["merged.parquet"]
        pd.testing.assert_frame_equal(content(lake, kind), rows)
    today = datetime.now(UTC).strftime("%Y-%m-%d")
    assert "merged.parquet" not in [path.name for path in parquet_files(partition(lake, "requests", "shop", today))]
    assert not list((lake / ".compacting").rglob("*.parquet"))
    again = compact(lake, "shop", quiet_s=-DAY_S)
    assert (again.partitions, again.files) == (0, 0)


def test_what_was_made_from_the_files_is_not_made_again_and_would_be_the_same(lake):
    rows = load_training_rows(lake, "shop", 10**6)
    compact(lake, "shop", quiet_s=-DAY_S)
    assert build_features(lake, "shop", SETTINGS).dates_made == []
    # Made anew from the merged file, it is what it was.
    report = build_features(lake, "shop", replace(SETTINGS, halflife_s=61))
    assert report.dates_made == []
    shutil.rmtree(lake / "windows")
    build_features(lake, "shop", SETTINGS)
    pd.testing.assert_frame_equal(load_training_rows(lake, "shop", 10**6), rows)


def test_a_date_that_had_a_file_lately_waits(lake):
    assert compact(lake, "shop").partitions == 0


def test_a_batch_that_comes_again_is_not_doubled_and_a_late_one_is_taken(lake):
    compact(lake, "shop", quiet_s=-DAY_S)
    before = content(lake)
    batch(lake, 3)
    ingest(lake, "shop", 5, 10 * DAY_S)
    pd.testing.assert_frame_equal(content(lake), before)
    batch(lake, BATCHES + 1)
    ingest(lake, "shop", 5, 10 * DAY_S)
    assert len(content(lake)) == len(before) + 99
    assert compact(lake, "shop", quiet_s=-DAY_S).partitions == 2
    assert past_files(lake) == ["merged.parquet"]
    folder = partition(lake, "requests", "shop", date_of(BEGIN))
    assert was_merged(folder, "h1-003.parquet")
    assert was_merged(folder, f"h1-{BATCHES + 1:03d}.parquet")
    assert not was_merged(folder, "h1-999.parquet")


def test_a_date_whose_batch_still_waits_is_left_alone(lake):
    batch(lake, 3)
    assert compact(lake, "shop", quiet_s=-DAY_S).partitions == 0
    assert len(past_files(lake)) == BATCHES


@pytest.mark.parametrize("step", ["_write_merged", "save_names", "_exchange", "_update_manifests", "rmtree"])
@pytest.mark.parametrize("moment", ["before", "after"])
def test_cut_short_anywhere_and_run_again_it_ends_the_same(lake, monkeypatch, step, moment):
    rows = content(lake)
    place = shutil if step == "rmtree" else maintenance
    real = getattr(place, step)

    def cut(*arguments, **options):
        if step == "rmtree" and options.get("ignore_errors"):
            return real(*arguments, **options)
        if moment == "after":
            real(*arguments, **options)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(place, step, cut)
        with pytest.raises(KeyboardInterrupt):
            compact(lake, "shop", quiet_s=-DAY_S)
    pd.testing.assert_frame_equal(content(lake), rows)
    compact(lake, "shop", quiet_s=-DAY_S)
    assert past_files(lake) == ["merged.parquet"]
    pd.testing.assert_frame_equal(content(lake), rows)
    assert not list((lake / ".compacting").rglob("*.parquet"))


@pytest.mark.process
def test_killed_again_and_again_it_loses_nothing(lake):
    rows = content(lake)
    code = "from pathlib import Path; from fingerpost.features.maintenance import compact; print('on', flush=True);"
    code += f"compact(Path({str(lake)!r}), 'shop', quiet_s=-{DAY_S})"
    for pause_s in (0.0, 0.01, 0.03):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        process.stdout.readline()
        time.sleep(pause_s)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        pd.testing.assert_frame_equal(content(lake), rows)
    compact(lake, "shop", quiet_s=-DAY_S)
    pd.testing.assert_frame_equal(content(lake), rows)


def test_readers_share_the_lake_and_compaction_waits_for_them(lake):
    refused = pytest.raises(FingerpostError, match=r"another process has .*lock")
    with lake_lock(lake, "shop"), lake_lock(lake, "shop"), refused, lake_lock(lake, "shop", True, 0.2):
        pass
    with lake_lock(lake, "shop", True, 0.2):
        pass
