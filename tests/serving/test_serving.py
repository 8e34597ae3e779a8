"""What the engine serves from: fingerprints that fit, and predictions that name the best host."""

import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fingerpost.engine_api import EngineError
from fingerpost.errors import NoDataError
from fingerpost.features.build import fingerprints_path, load_training_rows
from fingerpost.features.definition import NUMERIC_FEATURES, TARGETS
from fingerpost.features.fleet_features import ChosenCells, FleetFeatures, HostsCells, request_types
from fingerpost.features.prepare import FeatureSettings
from fingerpost.serving import scoring
from fingerpost.serving.answers import predict
from fingerpost.serving.api_models import PredictRequest
from fingerpost.serving.fleet_state import build_fleet
from fingerpost.serving.histories import HistoryForm, gather
from fingerpost.serving.lake_table import LakeTable
from fingerpost.serving.scoring import ModelScorer, load_model
from fingerpost.settings import Settings
from fingerpost.training.candidate import make_candidate
from fingerpost.training.inspection import inspect_files
from fingerpost.training.manifest import DamagedModelError
from tests.support.engine_harness import RunningEngine
from tests.support.latest_features import latest_features
from tests.support.made_fleet import FORM, MadeFleet, fit_model

SETTINGS = FeatureSettings(5, 30, 16, 30)


@pytest.fixture(scope="module")
def trained(featured_lake):
    """A model of the lake's windows."""
    bundle = make_candidate(
        load_training_rows(featured_lake, "shop", 10**6), Settings(window_s=5, tuning_trials=1)
    ).bundle
    return ModelScorer.compiled(bundle, "1", HistoryForm(5, 30))


@pytest.fixture
def home(featured_lake, tmp_path):
    shutil.copytree(featured_lake / "fingerprints", tmp_path / "lake" / "fingerprints")
    return tmp_path


def test_hosts_that_send_nothing_are_predicted_as_of_their_last_windows(featured_lake, home, trained):
    table = LakeTable(Settings(home=home)).table(trained, ())
    latest = latest_features(featured_lake, SETTINGS)
    wanted = trained.bundle.predict(latest)
    served = {name: getattr(table, name) for name in TARGETS}
    assert (table.source, table.model_version, len(latest)) == ("champion", "1", served[TARGETS[0]].size)
    row = [table.categories.index(name) for name in latest["category"]]
    column = [table.hosts.index(name) for name in latest["host"]]
    for name in TARGETS:
        # The wire's 32 bits and the table's four digits can bring a cell to another leaf of one of some hundred trees.
        assert np.isclose(served[name][row, column], wanted[name], rtol=1e-3).mean() > 0.98
        np.testing.assert_allclose(served[name][row, column], wanted[name], rtol=0.02)
    answer = predict(table, PredictRequest(service="shop"), "m", 0.0)
    best = [cell["category"] for cell in answer["cells"] if cell["best"]]
    assert sorted(best) == sorted(table.categories)


def test_fingerprints_of_the_lake_are_read_again_when_they_change(home, trained):
    lake, path = LakeTable(Settings(home=home)), fingerprints_path(home / "lake", "shop")
    first = lake.table(trained, ())
    assert lake.table(trained, ()) is first
    assert lake.table(None, ()).source == "baseline"
    rows = pq.read_table(path)
    path.unlink()
    pq.write_table(rows.slice(0, 2), path)
    assert len(lake.table(trained, ()).hosts) == 2
    pq.write_table(pa.table({"fingerprint": [b"junk", rows["fingerprint"][0].as_py()]}), path)
    assert len(lake.table(trained, ()).hosts) == 1


def test_fingerprints_that_cannot_be_read_are_no_reason_to_fail(home):
    lake, path = LakeTable(Settings(home=home)), fingerprints_path(home / "lake", "shop")
    for junk, why in ((pa.table({"fingerprint": [b"junk"]}), "none that can be read"), (pa.table({"x": [1]}), "x")):
        pq.write_table(junk, path)
        with pytest.raises(NoDataError, match=why):
            lake.table(None, ())
    path.write_bytes(b"no parquet")
    with pytest.raises(NoDataError, match="cannot be read"):
        lake.table(None, ())
    path.unlink()
    with pytest.raises(NoDataError, match="has not run"):
        lake.table(None, ())


@pytest.mark.process
def test_an_engine_predicts_the_lakes_hosts_and_routes_nothing_to_them(home, free_ports):
    with RunningEngine(home, free_ports(1)[0]) as engine, engine.client() as client:
        answer = client.predict("shop")
        assert len({cell["host"] for cell in answer["cells"]}) == 4
        for ask in (lambda: client.table("shop"), lambda: client.route("shop"), lambda: client.predict("elsewhere")):
            with pytest.raises(EngineError, match="no live hosts"):
                ask()
        fingerprints_path(home / "lake", "shop").unlink()
        with pytest.raises(EngineError, match="the features flow has not run"):
            client.predict("shop")


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
    found = FleetFeatures(history, histories.host_values, types, histories.now_us).of(ChosenCells(host, category))
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


@pytest.mark.process
def test_a_model_is_loaded_once_its_files_were_inspected(made, tmp_path):
    fleet, bundle = made
    bundle.save(tmp_path)
    with pytest.raises(DamagedModelError, match="not inspected"):
        load_model(tmp_path, "1", "champion", FORM)
    inspect_files(tmp_path)
    loaded = load_model(tmp_path, "1", "champion", FORM).output(fleet)
    np.testing.assert_array_equal(loaded.logs, ModelScorer.compiled(bundle, "1", FORM).output(fleet).logs)
