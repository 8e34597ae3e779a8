"""Splits, models, evaluation, and the registry on a real MLflow database."""

import json
import time

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fingerpost.errors import NoDataError
from fingerpost.experiment import CHAMPION
from fingerpost.features.build import load_training_rows
from fingerpost.features.definition import CATEGORICAL_FEATURES, FEATURES, NUMERIC_FEATURES, TARGETS
from fingerpost.features.prepare import FeatureSettings
from fingerpost.settings import Settings
from fingerpost.training.bundle import Blend, ModelBundle
from fingerpost.training.calibration import share_under, shift_to
from fingerpost.training.candidate import make_candidate
from fingerpost.training.evaluate import error_table, log_mae, purged_folds, score, time_split
from fingerpost.training.fit import DEFAULT_PARAMS, TrainingSet, fit_booster, training_set
from fingerpost.training.loss import quantile_objective
from fingerpost.training.manifest import SchemaMismatchError
from fingerpost.training.registration import champion_params, register
from fingerpost.training.registry import Registry
from tests.support.latest_features import latest_features

START = pd.Timestamp("2026-01-01", tz="UTC")
SETTINGS = Settings(window_s=5, halflife_s=30, tuning_trials=3, tuning_timeout_s=30, tuning_jobs=1)


@pytest.fixture(scope="module")
def candidate(featured_lake):
    return make_candidate(load_training_rows(featured_lake, "shop", 10**6), SETTINGS)


@given(st.lists(st.integers(0, 200), min_size=60, max_size=300, unique=False), st.floats(0.1, 0.5))
def test_split_leaves_a_gap_in_time(seconds, share):
    times = pd.Series(START + pd.to_timedelta(sorted(seconds), unit="s"))
    gap = pd.Timedelta(seconds=10)
    try:
        earlier, later = time_split(times, share, gap)
    except NoDataError:
        return
    assert times[earlier].max() + gap <= times[later].min()


def test_too_little_to_split_is_said_plainly():
    with pytest.raises(NoDataError, match="measure for longer"):
        time_split(pd.Series([START] * 50), 0.25, pd.Timedelta(seconds=5))


def test_model_beats_remembering_where_there_is_something_to_learn(candidate):
    scores = candidate.scores
    assert set(scores) == set(TARGETS)
    assert scores["latency_p50_s"].skill > 0.03
    for each in scores.values():
        assert each.rows > 50
        assert each.skill == pytest.approx(1 - each.model / min(each.naive.values()))


def test_predictions_rank_the_slow_host_last(candidate, featured_lake):
    latest = latest_features(featured_lake, FeatureSettings(5, 30, 16, 30))
    cells = pd.concat([latest[["host", "category", "request_type"]], candidate.bundle.predict(latest)], axis=1)
    hashes = cells[cells["request_type"] == "POST /work/hash"]
    assert len(hashes) >= 4
    for _, row in hashes.groupby("category"):
        assert row.set_index("host")["throughput_rps"].idxmin() == "h3"
    assert (cells["latency_p99_s"] >= cells["latency_p50_s"]).all()


def test_saved_and_loaded_models_predict_the_same(candidate, tmp_path):
    candidate.bundle.save(tmp_path)
    copy = ModelBundle.load(tmp_path)
    pd.testing.assert_frame_equal(copy.predict(candidate.test), candidate.bundle.predict(candidate.test))


def test_a_model_for_other_features_is_refused(candidate, tmp_path):
    candidate.bundle.save(tmp_path)
    about = json.loads((tmp_path / "bundle.json").read_text())
    (tmp_path / "bundle.json").write_text(json.dumps({**about, "schema_hash": "other"}))
    with pytest.raises(SchemaMismatchError, match="other"):
        ModelBundle.load(tmp_path)


def test_unknown_categories_and_hosts_are_predicted(candidate):
    rows = candidate.test.head(5).assign(**dict.fromkeys(CATEGORICAL_FEATURES, "never seen"), host="new")
    assert np.isfinite(candidate.bundle.predict(rows)).all(axis=None)
    with pytest.raises(ValueError, match="host_cpu_util"):
        candidate.bundle.predict(rows.drop(columns=["host_cpu_util"]))


def test_log_mae_passes_over_what_was_not_measured():
    assert log_mae([0.0, np.nan, 2.0], [1.0, 1.0, np.inf]) == 1.0
    assert np.isnan(log_mae([np.nan], [1.0]))


def test_blend_of_a_constant_target_is_the_constant():
    matrix = np.zeros((120, len(FEATURES)))
    matrix[:, NUMERIC_FEATURES.index("latency_p50_s_ewma")] = -4.0
    matrix[:60, NUMERIC_FEATURES.index("seen_windows")] = 1.0
    blend = Blend.fit(matrix, np.full(120, -4.0), "latency_p50_s")
    assert blend.predict(matrix, "latency_p50_s") == pytest.approx(np.full(120, -4.0))


@pytest.mark.parametrize(("rows", "spread"), [(100, 1.0), (1000, 0.0)])
def test_rows_that_are_too_few_or_all_alike_are_refused_with_advice(rows, spread):
    rng = np.random.default_rng(1)
    matrix = rng.normal(0, spread, (rows, len(FEATURES)))
    matrix[:, [FEATURES.index(name) for name in CATEGORICAL_FEATURES]] = 1.0
    data = TrainingSet(matrix, rng.normal(size=rows), np.ones(rows))
    blend = Blend.fit(matrix, data.outcome, "latency_p50_s")
    with pytest.raises(NoDataError, match=f"{rows} rows are too few, or too much alike, to learn latency_p50_s"):
        fit_booster(data, blend, "latency_p50_s", DEFAULT_PARAMS)


@given(st.lists(st.integers(0, 500), min_size=150, max_size=300))
def test_folds_are_purged_and_go_forward(seconds):
    times = pd.Series(START + pd.to_timedelta(sorted(seconds), unit="s"))
    gap = pd.Timedelta(seconds=10)
    try:
        folds = purged_folds(times, 2, gap)
    except NoDataError:
        return
    for earlier, later in folds:
        assert times[earlier].max() + gap <= times[later].min()
    assert not (folds[0][1] & folds[1][1]).any()


def test_a_target_that_is_not_known_says_of_what_and_what_it_takes():
    rows = pd.DataFrame(
        {"requests": [1, 2, 3], "cold_start": False, "weight": 1.0, "throughput_rps": np.nan, "latency_p50_s": np.nan}
    )
    for target, sampled in (("throughput_rps", True), ("latency_p50_s", False)):
        with pytest.raises(NoDataError, match=r"in none of the 3 windows.*status of 100 to 399") as raised:
            training_set(rows, np.zeros((3, 1)), target)
        assert ("sampled" in str(raised.value)) == sampled


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_the_smooth_loss_finds_the_quantile(share):
    import lightgbm

    rng = np.random.default_rng(2)
    side = rng.integers(0, 2, 4000)
    label = rng.normal(0, 1, 4000) + 3 * side
    params = {"objective": quantile_objective(share), "verbosity": -1, "num_leaves": 2, "learning_rate": 0.3}
    booster = lightgbm.train(params, lightgbm.Dataset(side[:, None].astype(float), label), 150)
    found = booster.predict(side[:, None].astype(float))
    assert (label <= found)[side == 1].mean() == pytest.approx(share, abs=0.02)
    assert (label <= found).mean() == pytest.approx(share, abs=0.02)


def test_latency_never_falls_with_inflight(candidate):
    rows = candidate.test.head(200)
    more = rows.assign(host_inflight=rows["host_inflight"] + 2, inflight=rows["inflight"] + 2)
    for target in ("latency_p50_s", "latency_p99_s"):
        assert (candidate.bundle.predict_log(more)[target] >= candidate.bundle.predict_log(rows)[target] - 1e-9).all()


def test_the_shift_makes_the_promised_share(candidate):
    predicted = candidate.bundle.predict_log(candidate.test)["latency_p99_s"]
    shift = shift_to(candidate.test, predicted, 0.99)
    assert share_under(candidate.test, predicted + shift) == pytest.approx(0.99, abs=1e-3)
    assert 0.9 < candidate.coverage["latency_p99_s"]["served"] <= 1


def test_ranking_beats_chance(candidate):
    ranking = candidate.ranking
    assert ranking.groups > 10
    assert 0 <= ranking.regret < ranking.chance
    assert ranking.correlation > 0


def test_error_tables_cover_every_host(candidate):
    table = error_table(candidate.predicted, candidate.test, "host")
    assert sorted(table["host"]) == ["h1", "h2", "h3", "h4"]
    assert table["rows"].sum() == len(candidate.test)


def test_what_is_registered_has_learned_the_latest_rows_too(candidate):
    before, after = candidate.scores, score(candidate.refitted, candidate.test)
    for target in TARGETS:
        assert after[target].model < before[target].model
        rounds = [
            [each.num_trees() for each in bundle.boosters[target]] for bundle in (candidate.bundle, candidate.refitted)
        ]
        assert rounds[0] == rounds[1]
    assert candidate.refitted.shifts == candidate.bundle.shifts


@pytest.mark.process
def test_registry_keeps_the_evidence(candidate, tmp_path, monkeypatch):
    import mlflow

    monkeypatch.chdir(tmp_path)
    settings = Settings(home=tmp_path, mlflow_url=f"sqlite:///{tmp_path / 'mlflow.db'}", service="shop")
    url = settings.mlflow
    registry = Registry(settings)
    assert registry.version_of(CHAMPION) is None
    assert registry.newest_version_s() == float("-inf")
    assert champion_params(registry) is None
    version = register(registry, candidate, "shop")
    registry.set_champion(version)
    assert registry.version_of(CHAMPION) == version
    assert register(registry, candidate, "shop") == version
    assert registry.newest_version_s() == pytest.approx(time.time(), abs=600)

    client = mlflow.MlflowClient(url)
    run = client.get_run(client.get_model_version("fingerpost-shop", version).run_id)
    assert float(run.data.metrics["latency_p50_s.skill"]) == pytest.approx(candidate.scores["latency_p50_s"].skill)
    assert run.data.params["train_rows"] == str(len(candidate.train))
    assert {"train_from", "train_to", "test_from", "num_leaves"} <= set(run.data.params)
    assert len(run.inputs.dataset_inputs) == 2
    assert client.search_logged_models([run.info.experiment_id])
    assert not client.search_logged_models(["0"])
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert {"features.json", "plots", "errors_by_host.csv", "errors_by_category.csv"} <= artifacts
    assert len(client.list_artifacts(run.info.run_id, "plots")) == 9

    notes = run.data.tags["mlflow.note.content"]
    assert all(
        text in notes for text in ("Trained on what", "| latency_p50_s |", "Ranking", "Worst by host", "rolling")
    )
    assert {"ranking.regret", "latency_p99_s.share_under_served"} <= set(run.data.metrics)
    assert champion_params(registry) == pytest.approx(candidate.tuning.params)

    loaded = mlflow.pyfunc.load_model("models:/fingerpost-shop@champion")
    assert {column.name for column in loaded.metadata.signature.outputs.inputs} == set(TARGETS)
    bundle = registry.load(version)
    pd.testing.assert_frame_equal(bundle.predict(candidate.test), candidate.refitted.predict(candidate.test))
    scored = registry.load_scored(run.info.run_id)
    assert scored is not None
    assert score(scored, candidate.test) == candidate.scores
    assert not list((tmp_path).rglob("*.pkl"))
