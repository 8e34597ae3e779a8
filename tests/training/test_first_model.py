"""Which version may serve: one that chooses hosts better than the baseline, in replays of held-out windows."""

import numpy as np
import pandas as pd
import pytest

from fingerpost.experiment import CHAMPION
from fingerpost.features.build import build_features, load_training_rows
from fingerpost.features.definition import TARGETS, baseline_column, naive_column
from fingerpost.features.ingest import ingest
from fingerpost.features.prepare import FeatureSettings
from fingerpost.settings import Settings
from fingerpost.training.evaluate import time_split
from fingerpost.training.fit import DEFAULT_PARAMS, fit_bundle
from fingerpost.training.manifest import Verdict
from fingerpost.training.ranking import (
    MIN_CHOICES,
    Replay,
    choices_in_words,
    rank_table,
    replay_choices,
    verdict_in_words,
    verdict_on,
)
from fingerpost.training.registry import VERDICT_TAG, Registry
from fingerpost.training.train import objection_to_serving, train
from tests.support.demo_telemetry import write_demo_inbox

BASELINE, MODEL = Verdict(by="baseline"), Verdict()


def table(model, baseline, requests=1.0, windows=10, category="a"):
    count = len(model)
    times = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(count) % windows, unit="min")
    columns = {"time": times, "category": category, "requests": requests, "model": model, "baseline": baseline}
    return pd.DataFrame(columns)


def categories(seed=3, windows=60, **excess):
    """Choices of categories a to h in which a model costs so much more, with noise of 10%."""
    rng, parts = np.random.default_rng(seed), []
    for name in "abcdefgh":
        model = 0.6 + excess.get(name, excess.get("all", 0.0)) + rng.normal(0, 0.1, windows)
        parts.append(table(model, [0.6] * windows, windows=windows, category=name))
    return pd.concat(parts, ignore_index=True)


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


def fitted(rows):
    cut = len(rows) * 3 // 4
    return fit_bundle(rows.iloc[:cut], rows.iloc[cut:], DEFAULT_PARAMS, TARGETS)


def test_equal_choices_cost_nothing_more():
    same = replay_choices(table([0.5] * 40, [0.5] * 40))
    assert (same.groups, same.excess, same.error) == (40, 0.0, 0.0)
    assert same.gain == pytest.approx(0.5)
    assert verdict_on(table([0.5] * 40, [0.5] * 40), skill=1.0, margin=0.0)[0] == BASELINE


def test_choices_count_by_their_requests():
    found = replay_choices(table([1.0] * 20 + [0.5] * 20, [0.5] * 20 + [1.0] * 20, [3.0] * 20 + [1.0] * 20))
    assert found.excess == pytest.approx(0.25)
    assert found.gain == pytest.approx(1 - 0.625)


def test_a_window_is_one_piece_of_evidence_however_many_categories_it_has():
    rng = np.random.default_rng(1)
    difference = np.repeat(rng.normal(0, 0.2, 20), 8)
    times = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.repeat(np.arange(20), 8), unit="min")
    rows = pd.DataFrame({"time": times, "requests": 1.0, "model": 0.5 + difference, "baseline": 0.5})
    expected = difference.std(ddof=0) / np.sqrt(19)
    assert replay_choices(rows).error == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(3))
def test_windows_that_follow_each_other_are_no_independent_evidence(seed):
    """An error that lasts for a minute is one error, however many windows the minute has."""
    difference = np.repeat(np.random.default_rng(seed).normal(0, 0.2, 20), 6)
    found = replay_choices(table(0.5 + difference, [0.5] * 120, windows=120))
    assert found.error == pytest.approx(difference.std(ddof=0) / np.sqrt(19))
    assert found.bounds()[1] - found.excess == pytest.approx(1.729 * found.error, rel=1e-3)


@pytest.mark.parametrize(
    ("excess", "expected"),
    [
        ({"all": -0.05}, MODEL),
        ({"all": 0.05}, BASELINE),
        ({"all": -0.05, "c": 0.2, "g": 0.1}, Verdict(by="model", but=["c", "g"])),
        ({"all": 0.05, "c": -0.2, "g": -0.1}, Verdict(by="baseline", but=["c", "g"])),
    ],
)
def test_who_serves_which_categories(excess, expected):
    verdict, replay = verdict_on(categories(**excess), skill=0.0, margin=0.0)
    assert verdict == expected
    assert (objection_to_serving(verdict, replay, 0.0) is None) == verdict.serves
    # What is served then: nothing is worse than the baseline beyond chance, unless it is refused.
    assert (replay.bounds()[1] <= 0) == verdict.serves
    words = verdict_in_words(verdict, 8)
    assert words == {0: "the model serves", 2: "the baseline serves 2 of 8 categories"}.get(
        len(verdict.but) if verdict.by == "model" else -1,
        "the baseline serves 6 of 8 categories" if verdict.but else "the baseline serves",
    )


def test_equals_seldom_serve():
    """A version that chooses no better is let through by chance in one case of twenty."""
    served = [verdict_on(categories(seed), skill=0.5, margin=0.0)[0].serves for seed in range(100)]
    assert np.mean(served) <= 0.12
    worse = [verdict_on(categories(seed, all=0.03), skill=0.5, margin=0.0)[0].serves for seed in range(20)]
    assert not any(worse)


@pytest.mark.parametrize(
    ("model", "skill", "said"),
    [
        ([0.65] * 100, 0.3, "it chooses worse hosts"),
        # The same hosts every time.
        ([0.6] * 100, 0.3, "not shown to choose better hosts"),
        (0.6 + np.random.default_rng(2).normal(0.0, 0.1, 100), 0.3, "not shown to choose better hosts"),
        ([0.58] * 100, -0.3, None),
        ([0.4] * (MIN_CHOICES - 1), 0.3, "only 19 choices"),
        ([], 0.1, None),
        ([], -0.1, "no choice of hosts"),
    ],
)
def test_what_speaks_against_a_version(model, skill, said):
    verdict, replay = verdict_on(table(model, [0.6] * len(model), windows=25), skill, margin=0.0)
    found = objection_to_serving(verdict, replay, margin=0.0)
    assert found is None if said is None else said in found


def test_nothing_to_choose_is_said_so():
    assert replay_choices(table([], [])).groups == 0
    assert "no category was served by several hosts" in choices_in_words(Replay(0, np.nan, np.nan, np.nan, 0))


def test_rows_have_what_the_engine_would_serve_without_a_model(parts):
    """The baseline of a row is the table's at its time, to 32-bit floats: own forecasts drawn to the fleet's."""
    _, test = parts
    served, average = test[baseline_column("throughput_rps")], test[naive_column("ewma", "throughput_rps")]
    assert np.isfinite(served[np.isfinite(average)]).all()
    assert 0 < np.abs(served - average).median() < 0.2
    ranks = rank_table(fitted(parts[0]), test)
    without = rank_table(fitted(parts[0]), test.drop(columns=[baseline_column(name) for name in TARGETS]))
    assert (ranks["model"] == without["model"]).all()
    assert (ranks["baseline"] != without["baseline"]).any()


@pytest.mark.process
def test_a_model_that_takes_hosts_for_alike_does_not_serve(parts):
    past, test = parts
    # All that is left to learn is noise: neither the outcome nor what was measured before tells hosts apart.
    rng = np.random.default_rng(5)
    flat = past.copy()
    flat["throughput_rps"] = rng.normal(5, 0.3, len(flat))
    own = [name for name in flat.columns if name.startswith("throughput_rps_")]
    flat[own] = rng.permutation(flat[own].to_numpy())
    verdict, bad = verdict_on(rank_table(fitted(flat), test), skill=0.5, margin=0.0)
    assert bad.excess > 0.1
    assert not verdict.serves
    assert "it chooses worse hosts" in str(objection_to_serving(verdict, bad, 0.0))
    good = replay_choices(rank_table(fitted(past), test))
    assert good.excess < 0.02


@pytest.mark.process
def test_the_baseline_serves_until_a_version_is_better(featured_lake, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(
        home=tmp_path, mlflow_url=f"sqlite:///{tmp_path / 'mlflow.db'}", window_s=5, halflife_s=30,
        tuning_trials=1, tuning_timeout_s=30, baseline_margin=-0.9,
    )  # fmt: skip
    refused = train(featured_lake, settings)
    assert not (refused.champion or refused.challenger)
    assert "the baseline goes on serving: it chooses worse hosts" in refused.reason
    registry = Registry(settings)
    assert registry.version_of(CHAMPION) is None
    assert registry.description(refused.model_version) == refused.reason
    assert registry.load(refused.model_version).verdict == BASELINE
    assert registry.version(refused.model_version).tags[VERDICT_TAG] == "the baseline serves"

    other = settings.model_copy(update={"baseline_margin": 0.3, "max_training_rows": 1000})
    accepted = train(featured_lake, other)
    assert accepted.champion, accepted.reason
    assert registry.version_of(CHAMPION) == accepted.model_version
    assert "replayed choices" in accepted.reason
    assert registry.load(accepted.model_version).verdict.serves

    # Beside a champion nothing that is worse than the baseline becomes challenger.
    third = train(featured_lake, settings.model_copy(update={"max_training_rows": 300}))
    assert not (third.champion or third.challenger)
    assert f"version {accepted.model_version} stays champion: " in third.reason
