"""Tuning by Optuna: budgets over several runs, trials that fail, processes that die, and the databases behind it."""

import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
from optuna.trial import TrialState

import fingerpost.training.tune as tuning
from fingerpost.errors import NoDataError
from fingerpost.features.build import load_training_rows
from fingerpost.features.definition import CATEGORICAL_FEATURES, NUMERIC_FEATURES
from fingerpost.training.fit import DEFAULT_PARAMS
from fingerpost.training.tune import TuningBudget, open_study, tune
from fingerpost.workers import LocalExecutor
from tests.support.postgres import running_postgres

GAP = pd.Timedelta(seconds=5)
# A trial that never ends.
ENDLESS = """
import sys, time
from fingerpost.training.tune import open_study
def objective(trial):
    trial.suggest_float("x", 0, 1)
    print("running", flush=True)
    time.sleep(600)
open_study(sys.argv[1], "fingerpost-shop", "0").optimize(objective)
"""
HEARTBEATS = "SELECT count(*) FROM trial_heartbeats"


@pytest.fixture(scope="module")
def rows(featured_lake):
    return load_training_rows(featured_lake, "shop", 10**6)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'tuning.db'}"


def trials_of(storage, number=-1):
    name = optuna.get_all_study_names(storage)[number]
    return optuna.load_study(study_name=name, storage=storage).trials


@pytest.mark.process
def test_the_budget_is_of_all_runs(rows, storage):
    first = tune(rows, GAP, TuningBudget(1, 600, storage, "shop"))
    assert first.params == DEFAULT_PARAMS
    numbers = []
    more = tune(rows, GAP, TuningBudget(3, 600, storage, "shop"), progress=lambda number, _best: numbers.append(number))
    assert numbers == [1, 2]
    assert more.history[0] == first.history[0] == first.value
    assert more.value == min(value for value in more.history if value is not None)
    assert len({each.params["learning_rate"] for each in trials_of(storage)}) == 3
    # What was found beyond a smaller budget counts too.
    assert tune(rows, GAP, TuningBudget(1, 600, storage, "shop"), progress=lambda *_: numbers.clear()) == more
    # A run that has no time still does one trial.
    assert len(tune(rows, GAP, TuningBudget(5, 1e-3, storage, "shop")).history) == 4
    assert numbers
    # Without a storage nothing is kept, and one trial after the other is the same each time.
    assert tune(rows, GAP, TuningBudget(2, 600)) == tune(rows, GAP, TuningBudget(2, 600))


class SmallWorkers(LocalExecutor):
    """Workers whose memory does not hold trees of 31 leaves."""

    def map(self, work, items, shared):
        if any(params["num_leaves"] == 31 for _, params in items):
            raise MemoryError("too many leaves")
        return super().map(work, items, shared)


@pytest.mark.process
def test_a_trial_that_fails_does_not_end_the_search(rows, storage):
    failing = ({**DEFAULT_PARAMS, "num_leaves": 31},)
    workers = SmallWorkers(1)
    found = tune(rows, GAP, TuningBudget(3, 600, storage, "shop"), failing, workers=workers)
    assert [each.state.name for each in trials_of(storage)] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert len(found.history) == 2
    # The next run does not try it again, and another in its place.
    assert len(tune(rows, GAP, TuningBudget(3, 600, storage, "shop"), failing, workers=workers).history) == 3
    assert [each.state.name for each in trials_of(storage)] == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE"]


@pytest.mark.process
def test_trials_that_all_fail_say_why(rows, storage):
    rows = rows.assign(**dict.fromkeys(NUMERIC_FEATURES, 1.0), **dict.fromkeys(CATEGORICAL_FEATURES, "alike"))
    with pytest.raises(NoDataError, match="too few, or too much alike"):
        tune(rows, GAP, TuningBudget(2, 600, storage, "shop"))


@pytest.mark.process
def test_a_trial_whose_process_died_is_tried_again(storage, monkeypatch):
    monkeypatch.setattr(tuning, "_DEAD_S", 1)
    study = open_study(storage, "fingerpost-shop", "0")
    study.enqueue_trial({"x": 0.25})
    command = [sys.executable, "-c", ENDLESS, storage]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[2]) as process:
        assert process.stdout.readline() == "running\n"
        # Its first sign of life comes from a thread of its own; a trial without one never counts as dead.
        while not sqlite3.connect(storage.removeprefix("sqlite:///")).execute(HEARTBEATS).fetchone()[0]:
            time.sleep(0.05)
        process.kill()
    [left] = study.get_trials(deepcopy=False)
    assert left.state == TrialState.RUNNING
    # It is given a second to show that it lives.
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), timeout=300, callbacks=[stop_after_retry])
    first, *_, last = study.get_trials(deepcopy=False)
    assert (first.state, last.state, last.params) == (TrialState.FAIL, TrialState.COMPLETE, {"x": 0.25})


def stop_after_retry(study, trial):
    if trial.params == {"x": 0.25}:
        study.stop()


@pytest.mark.process
def test_old_studies_go(storage):
    open_study(storage, "fingerpost-shop-eu", "0")
    for number in range(5):
        open_study(storage, "fingerpost-shop", str(number))
    kept = sorted(optuna.get_all_study_names(storage))
    assert kept == ["fingerpost-shop-eu@0", *(f"fingerpost-shop@{number}" for number in (2, 3, 4))]


@pytest.mark.process
def test_trials_are_kept_in_postgresql(rows, tmp_path, free_ports):
    with running_postgres(tmp_path / "postgres", free_ports(1)[0]) as server:
        found = tune(rows, GAP, TuningBudget(2, 600, server.url, "shop", jobs=2))
        assert tune(rows, GAP, TuningBudget(2, 600, server.url, "shop")) == found
