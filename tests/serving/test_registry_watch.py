"""What the registry's models are made into where they are fetched: folders of files, their trees compiled."""

import numpy as np
import pytest

from fingerpost.experiment import EXPERIMENT_TAG, Experiment
from fingerpost.features.definition import TARGETS
from fingerpost.serving import registry_watch
from fingerpost.serving.fleet_state import build_fleet
from fingerpost.serving.model_files import UNFINISHED, ModelFiles
from fingerpost.serving.registry_watch import Refused, sync_aliases
from fingerpost.serving.scoring import ModelScorer, load_model
from fingerpost.settings import Settings
from fingerpost.training.inspection import CHECKED, forget_inspection
from fingerpost.training.manifest import DamagedModelError
from fingerpost.training.registry import Registry
from fingerpost.training.trees import compiled as compiled_trees
from fingerpost.training.trees.compiled import COMPILED, save_trees
from tests.support.made_fleet import FORM, MadeFleet, fit_model, register_model
from tests.support.registry_harness import Changed, cut_in_half

pytestmark = pytest.mark.process

SMALL = MadeFleet.make(6, 5)


@pytest.fixture(scope="module")
def bundle():
    return fit_model(SMALL, 6, 8)


def settings_of(home):
    return Settings(home=home, mlflow_url=f"sqlite:///{home / 'mlflow.db'}", service="shop")


def creation_time(settings):
    import mlflow

    return mlflow.MlflowClient(settings.mlflow).get_model_version(settings.model_name, "1").creation_timestamp


def fetched(tmp_path, model):
    """The folder in which a worker finds the champion."""
    settings = settings_of(tmp_path)
    register_model(model, settings.mlflow, settings.model_name)
    files = ModelFiles(settings.home)
    sync_aliases(settings, files, "shop")
    state = files.read_aliases("shop")
    assert state.problem is None
    assert state.champion is not None
    return files.folder("shop") / state.champion.folder


def forbidden(_booster):
    raise AssertionError("the worker compiled trees")


def test_trees_are_compiled_where_a_model_is_fetched_and_not_where_it_is_served(bundle, tmp_path, monkeypatch):
    fleet = build_fleet("shop", SMALL.states(1), 256)
    wanted = ModelScorer.compiled(bundle, "1", FORM).output(fleet).logs
    folder = fetched(tmp_path, bundle)
    monkeypatch.setattr(compiled_trees, "fast_predict", forbidden)
    found = load_model(folder, "1", "champion", FORM).output(fleet).logs
    assert np.isfinite(found).all()
    np.testing.assert_array_equal(found, wanted)


def test_an_experiment_s_further_challengers_are_fetched_too(bundle, tmp_path):
    settings = settings_of(tmp_path)
    versions = [register_model(bundle, settings.mlflow, settings.model_name) for _ in range(3)]
    registry, files = Registry(settings), ModelFiles(settings.home)
    running = Experiment("x1", "shop", versions[2], versions[0], 1, 10.0, 1.0, 50, others=(versions[1], "99"))
    registry.set_note(EXPERIMENT_TAG, running.to_note())
    sync_aliases(settings, files, "shop")
    state = files.read_aliases("shop")
    assert [each.version for each in state.others] == [versions[1], "99"]
    assert (files.folder("shop") / state.others[0].folder / "bundle.json").exists()
    assert state.others[1].folder == ""
    registry.set_note(EXPERIMENT_TAG, None)
    sync_aliases(settings, files, "shop")
    assert files.read_aliases("shop").others == ()


def test_compiled_trees_that_an_artifact_brings_along_are_not_believed(bundle, tmp_path):
    other = fit_model(SMALL, 3, 8)
    folder = fetched(tmp_path, Changed(bundle, lambda folder: save_trees(folder, other.boosters)))
    own = tmp_path / "own"
    own.mkdir()
    save_trees(own, bundle.boosters)
    assert (folder / COMPILED).read_bytes() == (own / COMPILED).read_bytes()


def test_a_model_whose_trees_are_none_is_told_of_and_not_fetched_at_every_look(bundle, tmp_path, monkeypatch):
    settings, files = settings_of(tmp_path), ModelFiles(tmp_path)
    register_model(Changed(bundle, cut_in_half), settings.mlflow, settings.model_name)
    refused, fetches = Refused(first_s=100), []

    def counted(*given):
        fetches.append(given)
        return registry_watch_fetch(*given)

    registry_watch_fetch = registry_watch.fetch
    monkeypatch.setattr(registry_watch, "fetch", counted)
    for _ in range(3):
        sync_aliases(settings, files, "shop", refused)
        state = files.read_aliases("shop")
        assert "the process that read it was ended by SIGABRT" in state.problem
        assert state.champion.folder == ""
    assert len(fetches) == 1
    assert [path.name for path in files.folder("shop").iterdir()] == ["aliases.json"]

    refused.forget("shop", f"1-{creation_time(settings)}")
    sync_aliases(settings, files, "shop", refused)
    assert len(fetches) == 2


def test_a_pause_doubles_up_to_its_most():
    refused = Refused(first_s=0.0)
    refused.note("shop", "1-1", "bad")
    assert refused.why("shop", "1-1") is None
    slow = Refused(first_s=1000, most_s=1500)
    for _ in range(3):
        slow.note("shop", "1-1", "bad")
    assert slow.why("shop", "1-1") == "bad"
    assert slow.why("other", "1-1") is None
    slow.forget("shop", "1-1")
    assert slow.why("shop", "1-1") is None


def test_a_folder_that_is_damaged_on_disk_is_refused_and_fetched_again(bundle, tmp_path):
    folder = fetched(tmp_path, bundle)
    settings, files = settings_of(tmp_path), ModelFiles(tmp_path)
    for name in (*(f"{target}-0.txt" for target in TARGETS), COMPILED, "bundle.json"):
        stamp = files.stamp("shop")
        cut_in_half(folder, name)
        with pytest.raises(DamagedModelError):
            load_model(folder, "1", "champion", FORM)
        forget_inspection(folder)
        sync_aliases(settings, files, "shop")
        assert load_model(folder, "1", "champion", FORM).version == "1"
        assert files.stamp("shop") != stamp  # so that workers try again


def test_only_what_the_bundle_names_is_fetched(bundle, tmp_path):
    def add(folder):
        (folder / "more.bin").write_bytes(b"x" * 1000)
        (folder / "nested").mkdir()
        (folder / "nested" / "evil.py").write_text("raise SystemExit")

    folder = fetched(tmp_path, Changed(bundle, add))
    found = {path.name for path in folder.rglob("*")}
    assert found == {*(f"{target}-0.txt" for target in TARGETS), "bundle.json", COMPILED, CHECKED}


def test_unfinished_fetches_are_removed(tmp_path):
    files = ModelFiles(tmp_path)
    left = files.folder("shop") / f"{UNFINISHED}abc" / "model"
    left.mkdir(parents=True)
    files.remove_unfinished()
    assert not left.parent.exists()
    assert files.folder("shop").exists()
