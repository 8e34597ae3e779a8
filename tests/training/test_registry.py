"""The registry: the only way to MLflow, with aliases and notes that survive what others write beside them."""

import re
import subprocess
from pathlib import Path

import pytest

from fingerpost.experiment import EXPERIMENT_TAG
from fingerpost.training.registry import FORMER_TAG, HOLD_TAG, OUTCOME_TAG, WATCH_TAG, StaleEvidenceError

pytestmark = pytest.mark.process

ROOT = Path(__file__).parents[2]
MLFLOW = re.compile(r"^\s*(import mlflow|from mlflow)|MlflowClient", re.MULTILINE)


def test_two_modules_know_mlflow():
    listed = subprocess.run(["git", "ls-files", "*.py"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    product = [name for name in listed.split() if not name.startswith(("tests/", "benchmarks/"))]
    knowing = {name for name in product if MLFLOW.search((ROOT / name).read_text())}
    assert knowing == {"training/registry.py", "training/runs.py"}


def test_a_swap_keeps_the_way_back_and_refuses_what_changed_meanwhile(made):
    registry = made.registry
    registry.set_note(EXPERIMENT_TAG, {"champion": "1", "challenger": "2"})
    registry.swap_champion("1", "2", {"version": "2"})
    assert (made.champion, made.challenger) == ("2", None)
    assert registry.former_champions() == ["1"]
    assert registry.note(WATCH_TAG) == {"version": "2"}
    assert registry.note(EXPERIMENT_TAG) is None
    assert registry.version("2").tags[OUTCOME_TAG] == "promoted"
    with pytest.raises(StaleEvidenceError, match="version 2 by now, the evidence is against 1"):
        registry.swap_champion("1", "2", None)
    with pytest.raises(StaleEvidenceError, match="champion already"):
        registry.swap_champion("2", "2", None)
    assert registry.former_champions() == ["1"]


@pytest.mark.parametrize("text", ["{", "3", '"x"'])
def test_notes_that_somebody_damaged_are_none(made, text):
    for tag in (HOLD_TAG, FORMER_TAG):
        made.registry.client.set_registered_model_tag(made.registry.name, tag, text)
    assert made.registry.note(HOLD_TAG) is None
    assert made.registry.former_champions() == []


def test_what_is_not_there_is_none(made):
    registry = made.registry
    assert registry.version("9") is None
    assert registry.training_run("9") is None
    assert registry.find_by_digest("0" * 64) is None
    assert registry.latest_result("shadow", "2") is None
    registry.set_note(HOLD_TAG, None)
    registry.tag_version("9", OUTCOME_TAG, "promoted")


def test_versions_since_the_champion_are_counted(made):
    assert made.registry.newer_than_champion() == 1
    made.version(0.4)
    assert made.registry.newer_than_champion() == 2
    made.registry.set_champion("2")
    assert made.registry.newer_than_champion() == 1
