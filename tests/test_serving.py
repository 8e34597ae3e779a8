"""What the engine serves from: fingerprints that fit, and predictions that name the best host."""

import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.build import fingerprints_path, load_training_rows
from fingerpost.settings import Settings
from serving.fingerprints import LatestFingerprints
from serving.predictor import cells_to_json, predict_cells
from training.candidate import make_candidate


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
