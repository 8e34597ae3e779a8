"""Which version serves first: one that chooses hosts no worse than the baseline, in replays of held-out windows."""

import numpy as np
import pandas as pd
import pytest

from fingerpost.experiment import CHAMPION
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.definition import TARGETS
from fingerpost.features.ingest import ingest
from fingerpost.features.prepare import FeatureSettings
from fingerpost.settings import Settings
from fingerpost.training.evaluate import time_split
from fingerpost.training.fit import DEFAULT_PARAMS, fit_bundle
from fingerpost.training.ranking import Replay, choices_in_words, rank_table, replay_choices
from fingerpost.training.registry import Registry
from fingerpost.training.train import MIN_CHOICES, objection_to_serving, train
from tests.support.demo_telemetry import write_demo_inbox


def table(model, baseline, requests=1.0, windows=10):
    count = len(model)
    times = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(count) % windows, unit="min")
    return pd.DataFrame({"time": times, "requests": requests, "model": model, "baseline": baseline})


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    """Training rows of six hosts in three classes, earlier and later; the same whenever the test runs."""
    lake = tmp_path_factory.mktemp("unlike") / "lake"
    write_demo_inbox(lake, hosts=6, seconds=180, rate_rps=60, end_s=1_790_000_000)
    ingest(lake, "shop", 5, 10 * 365 * 86_400)
    build_features(lake, "shop", FeatureSettings(10, 60, 40, 30))
    rows = load_training_rows(lake, "shop", 10**6)
    earlier, later = time_split(rows["time"], 0.25, pd.Timedelta(seconds=10))
    return rows[earlier].reset_index(drop=True), rows[later & ~rows["cold_start"]].reset_index(drop=True)


def replay_of(train_rows, test):
    cut = len(train_rows) * 3 // 4
    bundle = fit_bundle(train_rows.iloc[:cut], train_rows.iloc[cut:], DEFAULT_PARAMS, TARGETS)
    return replay_choices(rank_table(bundle, test))


def test_equal_choices_cost_nothing_more():
    same = replay_choices(table([0.5] * 40, [0.5] * 40))
    assert (same.groups, same.excess, same.error) == (40, 0.0, 0.0)
    assert same.gain == pytest.approx(0.5)
    assert objection_to_serving(same, skill=-1.0, margin=0.0) is None


def test_choices_count_by_their_requests():
    found = replay_choices(table([1.0] * 20 + [0.5] * 20, [0.5] * 20 + [1.0] * 20, [3.0] * 20 + [1.0] * 20))
    assert found.excess == pytest.approx(0.25)
    assert found.gain == pytest.approx(1 - 0.625)


def test_a_window_is_one_piece_of_evidence_however_many_categories_it_has():
    rng = np.random.default_rng(1)
    difference = np.repeat(rng.normal(0, 0.2, 30), 8)
    times = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.repeat(np.arange(30), 8), unit="min")
    rows = pd.DataFrame({"time": times, "requests": 1.0, "model": 0.5 + difference, "baseline": 0.5})
    expected = difference.std(ddof=0) / np.sqrt(29)
    assert replay_choices(rows).error == pytest.approx(expected)


@pytest.mark.parametrize(
    ("replay", "skill", "said"),
    [
        (Replay(200, 0.05, 0.01, 0.4), 0.3, "it chooses worse hosts"),
        (Replay(200, 0.009, 0.01, 0.4), -0.3, None),
        (Replay(MIN_CHOICES - 1, -0.2, 0.1, 0.4), 0.3, "only 19 choices"),
        (Replay(0, np.nan, np.nan, np.nan), 0.1, None),
        (Replay(0, np.nan, np.nan, np.nan), -0.1, "no choice of hosts"),
    ],
)
def test_what_speaks_against_a_version(replay, skill, said):
    found = objection_to_serving(replay, skill, margin=0.01)
    assert found is None if said is None else said in found


def test_nothing_to_choose_is_said_so():
    assert replay_choices(table([], [])).groups == 0
    assert "no category was served by several hosts" in choices_in_words(Replay(0, np.nan, np.nan, np.nan))


@pytest.mark.process
def test_a_model_that_takes_hosts_for_alike_does_not_serve(parts):
    past, test = parts
    good = replay_of(past, test)
    # All that is left to learn is noise: neither the outcome nor what was measured before tells hosts apart.
    rng = np.random.default_rng(5)
    flat = past.copy()
    flat["throughput_rps"] = rng.normal(5, 0.3, len(flat))
    own = [name for name in flat.columns if name.startswith("throughput_rps_")]
    flat[own] = rng.permutation(flat[own].to_numpy())
    bad = replay_of(flat, test)
    assert objection_to_serving(good, 0.0, 0.01) is None
    assert bad.excess > 0.1
    assert "it chooses worse hosts" in str(objection_to_serving(bad, 0.5, 0.01))


@pytest.mark.process
def test_the_baseline_serves_until_a_version_is_no_worse(featured_lake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        home=tmp_path, mlflow_url=f"sqlite:///{tmp_path / 'mlflow.db'}", window_s=5, halflife_s=30,
        tuning_trials=1, tuning_timeout_s=30, baseline_margin=-0.9,
    )  # fmt: skip
    refused = train(featured_lake, settings)
    assert not (refused.champion or refused.challenger)
    assert "the baseline goes on serving: it chooses worse hosts" in refused.reason
    assert Registry(settings).version_of(CHAMPION) is None
    assert Registry(settings).description(refused.model_version) == refused.reason

    other = settings.model_copy(update={"baseline_margin": 0.2, "max_training_rows": 400})
    accepted = train(featured_lake, other)
    assert accepted.champion, accepted.reason
    assert Registry(settings).version_of(CHAMPION) == accepted.model_version
    assert "replayed choices" in accepted.reason
