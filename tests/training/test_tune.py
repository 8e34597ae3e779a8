"""Tuning by Optuna: budgets over several runs, trials that fail, processes that die, and the databases behind it."""

import pickle

import optuna
import pandas as pd
import pytest

from fingerpost.errors import NoDataError
from fingerpost.features.build import load_training_rows
from fingerpost.features.definition import CATEGORICAL_FEATURES, NUMERIC_FEATURES
from fingerpost.training.draws import PLACE, next_place
from fingerpost.training.fit import DEFAULT_PARAMS
from fingerpost.training.tune import TuningBudget, open_study, score_case, trial_data, tune
from fingerpost.workers import LocalExecutor
from tests.support.postgres import running_postgres

GAP = pd.Timedelta(seconds=5)


@pytest.fixture(scope="module")
def rows(featured_lake):
    return load_training_rows(featured_lake, "shop", 10**6)


@pytest.fixture
def storage(tmp_path):
    return f"sqlite:///{tmp_path / 'tuning.db'}"


def trials_of(storage, number=-1):
    name = optuna.get_all_study_names(storage)[number]
    return optuna.load_study(study_name=name, storage=storage).trials


def test_trials_share_bins_and_are_scored_as_if_each_had_its_own(rows):
    """Side by side too, and after they were sent elsewhere."""
    tries = [
        {**DEFAULT_PARAMS, "min_data_in_leaf": leaf, "num_leaves": leaves} for leaf in (20, 60) for leaves in (4, 9)
    ]
    items = [(case, params) for params in tries for case in range(2)]
    alone = [score_case(trial_data(rows, GAP), item) for item in items]
    shared = trial_data(rows, GAP)
    assert LocalExecutor(4).map(score_case, items, shared) == alone
    assert len(set(alone)) > len(items) / 2
    sent = pickle.loads(pickle.dumps(shared))  # noqa: S301
    assert [score_case(sent, item) for item in items[:2]] == alone[:2]


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


class DyingWorkers(LocalExecutor):
    """Workers whose process ends when it has fitted so many models; its trial is left as it was."""

    def __init__(self, fits):
        super().__init__(1)
        self.fits = fits

    def map(self, work, items, shared):
        self.fits -= 1
        if self.fits < 0:
            raise SystemExit
        return super().map(work, items, shared)


@pytest.mark.process
def test_a_search_that_is_killed_in_the_middle_of_trials_ends_as_if_it_was_not(rows, storage):
    begin_with = ({**DEFAULT_PARAMS, "num_leaves": 12},)
    undisturbed = tune(rows, GAP, TuningBudget(4, 600), begin_with)
    budget = TuningBudget(4, 600, storage, "shop")
    for fits in (1, 8, 10):
        with pytest.raises(SystemExit):
            tune(rows, GAP, budget, begin_with, workers=DyingWorkers(fits))
    assert tune(rows, GAP, budget, begin_with) == undisturbed
    assert [each.state.name for each in trials_of(storage)].count("RUNNING") == 3


@pytest.mark.process
def test_trials_side_by_side_try_the_same_every_time(rows, tmp_path):
    def tried(name):
        storage = f"sqlite:///{tmp_path / name}"
        tune(rows, GAP, TuningBudget(3, 600, storage, "shop", jobs=2), workers=LocalExecutor(2))
        return {each.user_attrs[PLACE]: each.params for each in trials_of(storage)}

    assert tried("first") == tried("second")


def test_a_place_in_the_search_is_tried_until_it_is_done_but_not_for_ever():
    assert next_place([]) == 0
    assert next_place([(0, True), (2, True)]) == 1
    assert next_place([(0, True), (1, False), (1, False)]) == 1
    assert next_place([(0, True), (1, False), (1, False), (1, False)]) == 2
    # Beside each other, each has a place.
    assert next_place([(0, True), (1, False)], begun=[1]) == 2


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
