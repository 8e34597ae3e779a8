"""What the registry's models are made into where they are fetched: folders of files, their trees compiled."""

import numpy as np
import pytest

from bench.engine_fleet import FORM, MadeFleet, fit_model, register_model
from fingerpost.settings import Settings
from serving.champion_scorer import ChampionScorer, load_model
from serving.fleet_state import build_fleet
from serving.model_files import ModelFiles
from serving.registry_watch import look
from training import compiled_trees
from training.compiled_trees import COMPILED, save_trees

SMALL = MadeFleet.make(6, 5)


class Brought:
    """A bundle as an artifact may be: with whatever else lies in its folder."""

    def __init__(self, bundle, add):
        self._bundle, self._add = bundle, add

    def save(self, folder):
        self._bundle.save(folder)
        self._add(folder)


@pytest.fixture(scope="module")
def bundle():
    return fit_model(SMALL, 6, 8)


def fetched(tmp_path, model):
    """The folder in which a worker finds the champion."""
    settings = Settings(home=tmp_path, mlflow_url=f"sqlite:///{tmp_path / 'mlflow.db'}", service="shop")
    register_model(model, settings.mlflow, settings.model_name)
    files = ModelFiles(settings.home)
    look(settings, files, "shop")
    state = files.read_aliases("shop")
    assert state.problem is None
    assert state.champion is not None
    return files.folder("shop") / state.champion.folder


def forbidden(_booster):
    raise AssertionError("the worker compiled trees")


def test_trees_are_compiled_where_a_model_is_fetched_and_not_where_it_is_served(bundle, tmp_path, monkeypatch):
    fleet = build_fleet("shop", SMALL.states(1), 256)
    wanted = ChampionScorer.compiled(bundle, "1", FORM).logs(fleet).logs
    folder = fetched(tmp_path, bundle)
    monkeypatch.setattr(compiled_trees, "fast_predict", forbidden)
    found = load_model(folder, "1", "champion", FORM).scorer.logs(fleet).logs
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, wanted)


def test_compiled_trees_that_an_artifact_brings_along_are_not_believed(bundle, tmp_path):
    other = fit_model(SMALL, 3, 8)
    folder = fetched(tmp_path, Brought(bundle, lambda folder: save_trees(folder, other.boosters)))
    own = tmp_path / "own"
    own.mkdir()
    save_trees(own, bundle.boosters)
    assert (folder / COMPILED).read_bytes() == (own / COMPILED).read_bytes()


def test_a_model_that_cannot_be_compiled_is_fetched_all_the_same(bundle, tmp_path, caplog):
    def damage(folder):
        (folder / "throughput_rps-0.txt").write_text("no trees")
        (folder / COMPILED).write_text("nothing good")

    folder = fetched(tmp_path, Brought(bundle, damage))
    assert not (folder / COMPILED).exists()
    assert "cannot be compiled" in caplog.text
