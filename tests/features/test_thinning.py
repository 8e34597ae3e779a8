"""Training rows that are thinned stand for the whole history, and are the same whenever they are chosen."""

import numpy as np
import pandas as pd
import pytest

from fingerpost.clock import US
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.prepare import FeatureSettings
from fingerpost.features.thinning import Draws, Thinning, kept, limits, recent_from_us, thinned
from tests.support.lakes import lake_of_days

HOUR_US = 3600 * US
HOSTS = [f"h{number}" for number in range(40)]
CATEGORIES = [f"GET /{number}" for number in range(10)]


def history(days, hosts=HOSTS, categories=CATEGORIES, every_s=600):
    """Rows of all cells of a history, as `load_training_rows` meets them: `time_us`, `host`, `category`, `draw`."""
    times = np.arange(0, days * 24 * HOUR_US, every_s * US)
    grids = np.meshgrid(times, range(len(hosts)), range(len(categories)), indexing="ij")
    time, host, category = (each.ravel() for each in grids)
    rows = pd.DataFrame({"time_us": time, "host": host, "category": category, "weight": 1.0})
    return rows.assign(draw=Draws(hosts, categories).of(time, host, category))


def chosen(rows, max_rows, hours=6.0):
    recent = rows["time_us"].to_numpy() >= recent_from_us(int(rows["time_us"].max()), hours)
    older, latest = limits(rows["draw"].to_numpy(), recent, max_rows)
    return kept(rows, np.where(recent, latest, older))


def test_all_recent_hours_are_kept_and_the_rest_is_spread_over_the_days():
    rows = history(7)
    few = chosen(rows, 40_000)
    assert 36_000 < len(few) <= 40_000
    recent = few["time_us"] >= recent_from_us(int(rows["time_us"].max()), 6.0)
    assert recent.sum() == (rows["time_us"] >= recent_from_us(int(rows["time_us"].max()), 6.0)).sum()
    assert (few.loc[recent, "weight"] == 1).all()
    assert (few.loc[~recent, "weight"] > 5).all()
    by_hour = few.groupby(few["time_us"] // HOUR_US % 24)["weight"].sum()
    np.testing.assert_allclose(by_hour, len(rows) / 24, rtol=0.5)


def test_weights_make_sums_unbiased():
    rows = history(7)
    for max_rows in (5_000, 20_000, 100_000):
        few = chosen(rows, max_rows)
        assert few["weight"].sum() == pytest.approx(len(rows), rel=0.1)
        hosts, all_hosts = (each.groupby("host").size() for each in (few, rows))
        assert len(hosts) == len(all_hosts)
    # Thinned once more, they still stand for all.
    again = thinned(chosen(rows, 100_000), 10_000)
    assert len(again) <= 10_000
    assert again["weight"].sum() == pytest.approx(len(rows), rel=0.1)


def test_the_same_rows_are_kept_again_and_fewer_of_them_are_among_more():
    rows = history(3)
    more, few = chosen(rows, 20_000), chosen(rows, 5_000)
    place = ["time_us", "host", "category"]
    assert len(few.merge(more[place], on=place)) == len(few)
    pd.testing.assert_frame_equal(chosen(history(3), 5_000), few)
    # A day later, earlier rows have the draws that they had.
    later = history(4)
    pd.testing.assert_frame_equal(later.head(len(rows)), rows)


def test_what_a_date_kept_before_counts():
    """Rows that were thinned when they were made, and are read with others that were not."""
    rows = history(6)
    share = Thinning(8_000, 2**62).shares(rows["time_us"].to_numpy())
    made = kept(rows, np.where(rows["time_us"] < 3 * 24 * HOUR_US, share, 1.0))
    few = chosen(made, 3_000)
    assert few["weight"].sum() == pytest.approx(len(rows), rel=0.15)


def test_hosts_of_a_category_stay_together_and_choices_among_them_can_be_replayed():
    groups = chosen(history(3), 5_000).groupby(["time_us", "category"]).size()
    assert (groups > 1).mean() > 0.9
    assert groups.max() <= len(HOSTS)


def test_few_windows_of_a_large_fleet_give_rows():
    hosts, categories = [f"h{number}" for number in range(204)], [f"GET /{number}" for number in range(50)]
    rows = history(1, hosts, categories, 300)
    shares = Thinning(40_000, 2**62).shares(rows["time_us"].to_numpy())
    made = kept(rows, shares)
    windows, all_windows = made["time_us"].nunique(), rows["time_us"].nunique()
    assert windows < all_windows / 4
    assert len(made) / windows > 300
    assert made["weight"].sum() == pytest.approx(len(rows), rel=0.3)


def test_rows_of_a_lake_are_thinned_when_made_and_when_read(tmp_path):
    lake_of_days(tmp_path, 3)
    everything = FeatureSettings(5, 30, 16, 5)
    build_features(tmp_path, "shop", everything)
    rows = load_training_rows(tmp_path, "shop", 10**6)
    few = load_training_rows(tmp_path, "shop", len(rows) // 2, recent_hours=0.01)
    assert 0 < len(few) <= len(rows) // 2
    assert few["time"].dt.date.nunique() == rows["time"].dt.date.nunique() > 2
    assert few["weight"].sum() == pytest.approx(len(rows), rel=0.4)
    other = tmp_path / "thinned"
    thin = FeatureSettings(5, 30, 16, 5, max_rows=len(rows) // 3, recent_hours=0.01)
    made = build_features(tmp_path, "shop", thin, other)
    assert made.training_rows < len(rows)
    found = load_training_rows(other, "shop", 10**6)
    place = ["time", "host", "category", "cold_start"]
    kept_rows = rows.merge(found[place], on=place)
    # What is kept has the features that it has where all is kept: the history heard of all windows.
    columns = [name for name in found.columns if name not in ("weight", "host", "category")]
    assert len(kept_rows) == len(found)
    pd.testing.assert_frame_equal(kept_rows[columns], found[columns])
