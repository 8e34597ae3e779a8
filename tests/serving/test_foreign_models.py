"""Models from elsewhere: nothing of theirs is executed, and what is damaged is refused with a reason, in one piece."""

import json
import os
import re
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from fingerpost.features.definition import FEATURES, TARGETS
from fingerpost.settings import Settings
from fingerpost.training import inspection
from fingerpost.training.bundle import ModelBundle
from fingerpost.training.inspection import inspect_files, inspect_once, require_inspected
from fingerpost.training.manifest import ABOUT, DamagedModelError, SchemaMismatchError, read_about
from fingerpost.training.registry import NoModelError, Registry
from fingerpost.training.trees.fast import DamagedTreesError, Forest
from tests.support.made_fleet import MadeFleet, fit_model, register_model
from tests.support.registry_harness import Changed, cut_in_half

FIRST = "throughput_rps-0.txt"


@pytest.fixture(scope="module")
def bundle():
    return fit_model(MadeFleet.make(6, 5), 6, 8)


@pytest.fixture
def saved(bundle, tmp_path):
    bundle.save(tmp_path / "model")
    return tmp_path / "model"


def about_of(folder):
    return json.loads((folder / ABOUT).read_text())


def test_what_is_saved_can_be_read(bundle, saved):
    about = read_about(saved)
    assert {name for target in TARGETS for name in about.names_of(target)} == set(about.files)
    copy = ModelBundle.load(saved)
    rows = np.random.default_rng(1).random((20, len(FEATURES)))
    for target, found in copy.predict_matrix(rows).items():
        np.testing.assert_array_equal(found, bundle.predict_matrix(rows)[target])


OTHER_FILE = {"size": 1, "sha256": "0" * 64}
CHANGES = {
    "a path out of the folder": lambda a: a["files"].update({"../../evil.txt": OTHER_FILE}),
    "an absolute path": lambda a: a["files"].update({"/etc/passwd": OTHER_FILE}),
    "a file too few": lambda a: a["files"].pop(FIRST),
    "a hash that is none": lambda a: a["files"][FIRST].update(sha256="x"),
    "no size": lambda a: a["files"][FIRST].pop("size"),
    "a size below 0": lambda a: a["files"][FIRST].update(size=-1),
    "a size beyond all models": lambda a: a["files"][FIRST].update(size=10**12),
    "another target": lambda a: a["boosters"].update({"../x": 1}),
    "a million boosters": lambda a: a["boosters"].update(throughput_rps=10**6),
    "a number that is true": lambda a: a["boosters"].update(throughput_rps=True),
    "a weight that is no number": lambda a: a["blends"]["throughput_rps"]["own"].__setitem__(0, float("nan")),
    "a weight too many": lambda a: a["blends"]["throughput_rps"]["own"].append(0.5),
    "an endless shift": lambda a: a["shifts"].update(throughput_rps=float("inf")),
    "words for numbers": lambda a: a["vocabulary"].update(region=[1]),
    "another vocabulary": lambda a: a["vocabulary"].pop("region"),
    "something more": lambda a: a.update(loader_module="evil"),
    "a list": lambda a: a.update(files=[]),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_manifest_that_is_not_ours_is_refused(saved, change):
    about = about_of(saved)
    change(about)
    (saved / ABOUT).write_text(json.dumps(about))
    with pytest.raises(DamagedModelError):
        read_about(saved)


@pytest.mark.parametrize("text", ["", "[]", "nothing", "[" * 10**6, '{"format":' + "9" * 5000 + "}", "1e999"])
def test_text_that_is_no_manifest_is_refused(saved, text):
    (saved / ABOUT).write_text(text)
    with pytest.raises(DamagedModelError):
        read_about(saved)


def test_a_manifest_is_not_read_without_end(saved):
    with (saved / ABOUT).open("ab") as file:
        file.truncate(10**10)
    with pytest.raises(DamagedModelError, match="10000000000 bytes, at most"):
        read_about(saved)
    (saved / ABOUT).unlink()
    os.mkfifo(saved / ABOUT)
    with pytest.raises(DamagedModelError, match="is not a file"):
        read_about(saved)


def test_models_of_another_format_are_named_with_what_to_do(saved):
    old = {**about_of(saved), "format": 2}
    del old["files"]
    (saved / ABOUT).write_text(json.dumps(old))
    with pytest.raises(SchemaMismatchError, match=r"format 2 .* train a new version"):
        inspect_files(saved)


def flip(folder):
    content = bytearray((folder / FIRST).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / FIRST).write_bytes(content)


def link(folder):
    (folder / FIRST).rename(folder.parent / "elsewhere")
    (folder / FIRST).symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize("damage", [cut_in_half, flip, link, lambda folder: (folder / FIRST).unlink()])
def test_files_that_are_not_what_was_saved_never_reach_lightgbm(saved, damage):
    damage(saved)
    with pytest.raises(DamagedModelError, match=FIRST):
        ModelBundle.load(saved)
    with pytest.raises(DamagedModelError, match=FIRST):
        inspect_files(saved)


def line(name, value):
    """Replaces what the first tree, or the header, says of a name."""

    def change(text):
        changed, count = re.subn(
            rf"^{name}=(.*)$", lambda found: f"{name}={value(found[1].split())}", text, count=1, flags=re.M
        )
        assert count == 1
        return changed

    return change


def first(value):
    return lambda values: " ".join([value, *values[1:]])


DAMAGES = {
    "a feature that is none": line("split_feature", first("99999999")),
    "a feature below 0": line("split_feature", first("-5")),
    "a circle": line("left_child", first("0")),
    "a node that is none": line("left_child", first("9999999")),
    "a leaf that is none": line("left_child", first("-9999999")),
    "a leaf twice": line("right_child", lambda values: " ".join(["-1"] * len(values))),
    "a leaf too few": line("leaf_value", lambda values: " ".join(values[1:])),
    "a leaf that is no number": line("leaf_value", first("nan")),
    "a threshold too few": line("threshold", lambda values: " ".join(values[1:])),
    "fewer features": line("max_feature_idx", lambda _: "0"),
}


@pytest.mark.parametrize("change", DAMAGES.values(), ids=DAMAGES)
def test_trees_that_are_none_are_not_compiled(bundle, change):
    text = change(bundle.boosters["throughput_rps"][0].model_to_string())
    with pytest.raises(DamagedTreesError):
        Forest.of(SimpleNamespace(model_to_string=lambda: text))


def rewritten(change):
    return lambda folder: (folder / FIRST).write_text(change((folder / FIRST).read_text()))


@pytest.mark.process
@pytest.mark.parametrize(
    "damage",
    [
        cut_in_half,
        *(rewritten(DAMAGES[name]) for name in ("a feature that is none", "a circle", "a leaf that is no number")),
    ],
)
def test_what_ends_lightgbm_ends_another_process(bundle, tmp_path, damage):
    Changed(bundle, damage).save(tmp_path)
    with pytest.raises(DamagedModelError):
        inspect_files(tmp_path)
    with pytest.raises(DamagedModelError, match="not inspected"):
        require_inspected(tmp_path)


@pytest.mark.process
def test_a_model_is_inspected_once_for_each_home(bundle, saved, tmp_path, monkeypatch):
    inspect_once(saved, tmp_path)
    monkeypatch.setattr(inspection, "_run", lambda _: pytest.fail("it was inspected again"))
    inspect_once(saved, tmp_path)
    other = tmp_path / "other"
    replace(bundle, shifts={"throughput_rps": 0.5}).save(other)
    with pytest.raises(pytest.fail.Exception):
        inspect_once(other, tmp_path)


@pytest.fixture
def settings(tmp_path):
    return Settings(home=tmp_path, mlflow_url=f"sqlite:///{tmp_path / 'mlflow.db'}", service="shop")


@pytest.mark.process
def test_a_version_is_loaded_without_what_its_artifact_would_run(bundle, settings):
    version = register_model(bundle, settings.mlflow, settings.model_name)
    [mlmodel] = settings.home.rglob("MLmodel")
    proof = settings.home / "proof"
    evil = mlmodel.parent / "code" / "evilmodule.py"
    evil.parent.mkdir()
    evil.write_text(f"open({str(proof)!r}, 'w').write('ran')\nfrom fingerpost.training.pyfunc import _load_pyfunc\n")
    text = mlmodel.read_text().replace(
        "loader_module: fingerpost.training.pyfunc", "code: code\n    loader_module: evilmodule"
    )
    assert "evilmodule" in text
    mlmodel.write_text(text)
    assert Registry(settings).load(version).shifts == bundle.shifts
    assert not proof.exists()

    (mlmodel.parent / "data" / "bundle" / ABOUT).unlink()
    with pytest.raises(NoModelError, match="version 1 of fingerpost-shop is not a Fingerpost model"):
        Registry(settings).load(version)


@pytest.mark.process
def test_flows_refuse_a_damaged_version_and_live(bundle, settings):
    version = register_model(Changed(bundle, cut_in_half), settings.mlflow, settings.model_name)
    with pytest.raises(DamagedModelError, match="the process that read it was ended by SIGABRT"):
        Registry(settings).load(version)

    import mlflow

    client = mlflow.MlflowClient(settings.mlflow)
    run = client.create_run(mlflow.get_experiment_by_name(f"{settings.model_name}-made").experiment_id)
    assert Registry(settings).load_scored(run.info.run_id) is None
    bundle.save(settings.home / "scored")
    cut_in_half(settings.home / "scored")
    client.log_artifacts(run.info.run_id, str(settings.home / "scored"), "scored")
    with pytest.raises(DamagedModelError, match=f"{FIRST} is not what was saved"):
        Registry(settings).load_scored(run.info.run_id)
