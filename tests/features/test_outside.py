"""Events and holidays as features: the same in training and in the engine, and none before it was told."""

import io
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.events import Event
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.definition import OUTSIDE_FEATURES
from fingerpost.features.ingest import ingest
from fingerpost.features.outside import NOTHING, Outside, events_in_lake, is_holiday, outside_of
from fingerpost.features.prepare import FeatureSettings
from fingerpost.lake import INBOX, partition, write_bytes_atomically
from fingerpost.serving.outside import event_file
from fingerpost.training.plots import load_over_time
from tests.support.lakes import DAY_US, lake_of_days

NOW_US = 1_780_000_000 * US
HOUR_US = 3600 * US
HOSTS = ("h1", "h2")


def at(now_us, *events, country=""):
    return Outside(events, country).of_hosts(HOSTS).at(now_us)


def test_seconds_since_and_until_the_nearest_event_of_each_kind():
    events = (
        Event("deploy", "shop", "", NOW_US - 3 * HOUR_US),
        Event("deploy", "shop", "h1", NOW_US - HOUR_US),
        Event("deploy", "shop", "h3", NOW_US - 60 * US),
        Event("deploy", "shop", "h2", NOW_US + HOUR_US),
        Event("campaign", "shop", "", NOW_US - HOUR_US, NOW_US + HOUR_US),
        Event("campaign", "shop", "", NOW_US - 30 * 24 * HOUR_US),
    )
    found = at(NOW_US, *events)
    assert tuple(found) == OUTSIDE_FEATURES
    np.testing.assert_array_equal(found["deploy_since_s"], [3600, 3 * 3600])
    np.testing.assert_array_equal(found["deploy_until_s"], [np.nan, 3600])
    np.testing.assert_array_equal(found["deploy_on"], [0, 0])
    np.testing.assert_array_equal(found["campaign_on"], [1, 1])
    np.testing.assert_array_equal(found["campaign_since_s"], [3600, 3600])
    assert all(np.isnan(found[name]).all() for name in OUTSIDE_FEATURES if name.startswith("config"))
    assert np.isnan(found["holiday"]).all()
    np.testing.assert_array_equal(at(NOW_US + HOUR_US, *events)["campaign_on"], [0, 0])


def test_nothing_is_known_before_it_was_told():
    planned = Event("deploy", "shop", "", NOW_US, told_us=NOW_US - HOUR_US)
    late = Event("config", "shop", "", NOW_US - HOUR_US, told_us=NOW_US)
    before = at(NOW_US - 2 * HOUR_US, planned, late)
    assert all(np.isnan(values).all() for values in before.values())
    half = at(NOW_US - HOUR_US // 2, planned, late)
    np.testing.assert_array_equal(half["deploy_until_s"], [1800, 1800])
    assert np.isnan(half["config_since_s"]).all()
    np.testing.assert_array_equal(at(NOW_US, planned, late)["config_since_s"], [3600, 3600])


def test_a_withdrawn_event_was_known_until_then_and_is_not_after():
    planned = Event("campaign", "shop", "", NOW_US, NOW_US + HOUR_US, "", NOW_US - 2 * HOUR_US, NOW_US - HOUR_US)
    assert at(NOW_US - 2 * HOUR_US, planned)["campaign_until_s"].tolist() == [7200, 7200]
    for later_us in (NOW_US - HOUR_US, NOW_US, NOW_US + HOUR_US):
        assert all(np.isnan(values).all() for values in at(later_us, planned).values())


def test_without_hosts_or_events_there_is_nothing():
    assert all(len(values) == 0 for values in NOTHING.of_hosts(()).at(NOW_US).values())
    assert all(np.isnan(values).all() for values in at(NOW_US).values())


def test_holidays_are_those_of_the_country_and_its_part():
    christmas, epiphany = (pd.Timestamp(day, tz="UTC").value // 1000 for day in ("2026-12-25", "2026-01-06"))
    np.testing.assert_array_equal(at(christmas, country="DE")["holiday"], [1, 1])
    np.testing.assert_array_equal(at(christmas - 3 * 24 * HOUR_US, country="DE")["holiday"], [0, 0])
    assert (is_holiday("DE", epiphany), is_holiday("DE-BY", epiphany)) == (0, 1)
    with pytest.raises(FingerpostError, match="'XX' names no country"):
        is_holiday("XX", NOW_US)


def test_a_calendar_counts_for_its_services(tmp_path):
    path = tmp_path / "calendar.toml"
    text = '[[event]]\nkind = "campaign"\nat = 2026-11-27T08:00:00Z\n'
    path.write_text(text + text + 'service = "other"\n')
    assert len(outside_of("shop", (), path, "").events) == 1
    assert len(outside_of("other", (), path, "").events) == 2


def landed(lake, name, event):
    write_bytes_atomically(partition(lake / INBOX, "events", "shop", "2026-01-01") / name, event_file(event))


def test_events_of_the_lake_are_features_of_the_rows_after_them(tmp_path):
    midnight_us = lake_of_days(tmp_path, 2)
    event = Event("deploy", "shop", "h1", midnight_us, note="of a host", told_us=midnight_us)
    unserved = Event("config", "shop", "not-yet", midnight_us, told_us=midnight_us)
    of_all = Event("campaign", "shop", "", midnight_us + DAY_US, told_us=midnight_us)
    withdrawn = replace(of_all, withdrawn_us=midnight_us + 2 * DAY_US)
    told = (("first", event), ("again", event), ("early", unserved), ("all", of_all), ("gone", withdrawn))
    for name, each in told:
        landed(tmp_path, f"{name}.parquet", each)
    report = ingest(tmp_path, "shop", 5, 30 * 86_400)
    assert (report.files, dict(report.refused)) == (5, {})
    assert set(events_in_lake(tmp_path, "shop")) == {event, unserved, withdrawn}
    build_features(tmp_path, "shop", FeatureSettings(5, 30, 16, 5))
    rows = load_training_rows(tmp_path, "shop", 10**6)
    after = rows["time"].astype("int64") >= midnight_us
    mine = rows["host"] == "h1"
    assert rows.loc[~after | ~mine, "deploy_since_s"].isna().all()
    since_s = (rows["time"].astype("int64") - midnight_us) / US
    np.testing.assert_allclose(rows.loc[after & mine, "deploy_since_s"], np.log1p(since_s[after & mine]))


def test_a_batch_of_events_is_checked_row_by_row(tmp_path):
    lake_of_days(tmp_path, 1)
    made = io.BytesIO()
    table = pa.table({"time": [1], "service": ["shop"], "kind": ["deploy"], "at_us": [-1]})
    pq.write_table(table, made)
    folder = partition(tmp_path / INBOX, "events", "shop", "2026-01-01")
    folder.mkdir(parents=True)
    (folder / "old.parquet").write_bytes(made.getvalue())
    assert dict(ingest(tmp_path, "shop", 5, 30 * 86_400).refused) == {"time:too_old": 1}
    assert events_in_lake(tmp_path, "shop") == []


def test_the_picture_of_the_load_names_the_events_of_its_time():
    times = pd.date_range("2026-11-27", periods=100, freq="min", tz="UTC")
    rows = pd.DataFrame({"time": times, "requests": 60, "weight": 2.0, "cold_start": False})
    within = Event("deploy", "shop", "h1", times[50].value // 1000, note="costs $5 and $6")
    after = Event("config", "shop", "", times[-1].value // 1000 + HOUR_US)
    figure = load_over_time(rows[:70], rows[70:], (within, after))
    figure.canvas.draw()
    (axes,) = figure.axes
    assert [each.get_text() for each in axes.texts] == [r"deploy h1 costs \$5 and \$6"]
    held_out = axes.lines[1].get_ydata()
    assert held_out.sum() * (times[-1] - times[0]).total_seconds() / len(held_out) == pytest.approx(30 * 120, rel=0.02)
