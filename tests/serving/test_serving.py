"""What the engine serves from: fingerprints that fit, and predictions that name the best host."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from fingerpost.features.build import fingerprints_path, load_training_rows
from fingerpost.features.definition import NUMERIC_FEATURES, TARGETS
from fingerpost.features.fleet_features import ChosenCells, FleetFeatures, HostsCells, cell_features, request_types
from fingerpost.serving import scoring
from fingerpost.serving.fingerprints import LatestFingerprints
from fingerpost.serving.fleet_state import build_fleet
from fingerpost.serving.histories import gather
from fingerpost.serving.predictor import cells_to_json, predict_cells
from fingerpost.serving.scoring import ModelScorer, load_model
from fingerpost.settings import Settings
from fingerpost.training.candidate import make_candidate
from fingerpost.training.inspection import inspect_files
from fingerpost.training.manifest import DamagedModelError
from tests.support.made_fleet import FORM, MadeFleet, fit_model


@pytest.fixture
def lake(featured_lake, tmp_path):
    shutil.copytree(featured_lake / "fingerprints", tmp_path / "fingerprints")
    return tmp_path


def test_fingerprints_are_read_again_when_they_change(lake):
    latest = LatestFingerprints(lake, "shop")
    first = latest.read()
    assert latest.read() is first
    path = fingerprints_path(lake, "shop")
    table = pq.read_table(path)
    path.unlink()
    pq.write_table(table.slice(0, 2), path)
    assert len(latest.read()) == 2
    path.unlink()
    assert latest.read() is None
    assert "has not run" in latest.problem


def test_fingerprints_of_another_schema_are_refused(lake):
    path = fingerprints_path(lake, "shop")
    table = pq.read_table(path)
    pq.write_table(table.replace_schema_metadata({**table.schema.metadata, b"schema_hash": b"other"}), path)
    latest = LatestFingerprints(lake, "shop")
    assert latest.read() is None
    assert "other" in latest.problem


def test_one_best_host_a_category_and_no_nan_on_the_wire(featured_lake):
    settings = Settings(window_s=5, tuning_trials=1)
    bundle = make_candidate(load_training_rows(featured_lake, "shop", 10**6), settings).bundle
    latest = LatestFingerprints(featured_lake, "shop").read()
    cells = predict_cells(bundle, latest, latency_weight=0.0)
    assert (cells.groupby("category")["best"].sum() == 1).all()
    cheapest = cells.loc[cells.groupby("category")["cost_s"].idxmin()]
    assert cheapest["best"].all()
    cells.loc[0, ["throughput_rps", "cost_s"]] = [np.nan, np.inf]
    assert cells_to_json(cells)[0]["throughput_rps"] is None
    assert cells_to_json(cells)[0]["cost_s"] is None


@pytest.fixture(scope="module")
def made():
    """A fleet of which one host has told no history, and a model of such fleets."""
    fleet = MadeFleet.make(23, 11)
    states = fleet.states(1)
    silent = states[fleet.hosts[4]]
    states[fleet.hosts[4]] = replace(silent, fingerprint=replace(silent.fingerprint, history=None))
    bundle = fit_model(MadeFleet.make(20, 11, seed=8), 40, 24, rounds=2, factor=1.1)
    return build_fleet("shop", states, 256), bundle


def evaluated(bundle, histories):
    """What training's evaluation would predict of all cells, with LightGBM itself, shape (H, C, 3)."""
    shape = histories.cells.shape[:2]
    host, category = np.divmod(np.arange(shape[0] * shape[1]), shape[1])
    types, history = request_types(histories.categories), histories.cells.astype(np.float64)
    found = cell_features(history, histories.host_values, types, histories.now_us, host, category)
    served = bundle.served_logs(bundle.encoder.encode_cells(found.numeric, histories.categories, category))
    return np.stack([served[target] for target in TARGETS], axis=1).reshape(*shape, len(TARGETS))


@pytest.mark.parametrize("block", [1, 40, 10_000])
def test_a_scorer_predicts_what_training_evaluates_whatever_the_blocks(made, monkeypatch, block):
    fleet, bundle = made
    monkeypatch.setattr(scoring, "_BLOCK", block)
    output = ModelScorer.compiled(bundle, "1", FORM).output(fleet)
    assert output.histories.known == 22
    assert output.cells == 23 * 11
    # The last bit of a sum may hang on how many rows are added up side by side.
    np.testing.assert_allclose(output.logs, evaluated(bundle, output.histories), rtol=0, atol=1e-14)


def test_features_of_whole_hosts_are_those_of_chosen_cells(made):
    histories = gather(made[0], FORM)
    types = request_types(histories.categories)
    fleet = FleetFeatures(histories.cells, histories.host_values, types, histories.now_us)
    host, category = np.divmod(np.arange(11 * 23), 11)
    rng = np.random.default_rng(1)
    anew = np.full((len(NUMERIC_FEATURES), 5 * 11), 99.0)
    whole = fleet.of(HostsCells(3, 8, 11), anew)
    assert not (anew == 99.0).any()
    place = rng.permutation(np.flatnonzero((host >= 3) & (host < 8)))
    some = fleet.of(ChosenCells(host[place], category[place]))
    np.testing.assert_array_equal(some.numeric, whole.numeric[place - 3 * 11])
    np.testing.assert_array_equal(some.own, whole.own[place - 3 * 11])
    for view in whole.naive:
        np.testing.assert_array_equal(some.naive[view], whole.naive[view][:, place - 3 * 11])


def test_a_model_is_loaded_once_its_files_were_inspected(made, tmp_path):
    fleet, bundle = made
    bundle.save(tmp_path)
    with pytest.raises(DamagedModelError, match="not inspected"):
        load_model(tmp_path, "1", "champion", FORM)
    inspect_files(tmp_path)
    loaded = load_model(tmp_path, "1", "champion", FORM).output(fleet)
    np.testing.assert_array_equal(loaded.logs, ModelScorer.compiled(bundle, "1", FORM).output(fleet).logs)
