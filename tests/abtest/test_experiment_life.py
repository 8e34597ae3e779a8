"""The life of an experiment on a real registry: begun, gone on with, evaluated, stopped; killed anywhere."""

import contextlib
import json
import os
from dataclasses import replace
from typing import Any

import mlflow
import pandas as pd
import pytest
from typer.testing import CliRunner

from fingerpost.abtest.experiment import store as experiments
from fingerpost.abtest.experiment.store import (
    RECORD_TAG,
    attend,
    evaluate,
    first_steps,
    records_of,
    running,
    settle_us,
    start,
    still_in_force,
    stop,
)
from fingerpost.abtest.promotion.policy import RampStep
from fingerpost.abtest.reports import verdict_markdown
from fingerpost.cli import app
from fingerpost.clock import US
from fingerpost.errors import FingerpostError
from fingerpost.experiment import EXPERIMENT_TAG
from fingerpost.lake import date_of
from fingerpost.routing.trust import guard_file
from fingerpost.settings import Settings, get_settings
from fingerpost.training.registry import Registry
from tests.support.experiment_records import keep_records, made_records

pytestmark = pytest.mark.process

NOW = 1_790_000_000 * US


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    """A registry with versions 1, 2 and 3 of the service's model."""
    folder = tmp_path_factory.mktemp("registry")
    url = f"sqlite:///{folder / 'mlflow.db'}"
    client = mlflow.MlflowClient(url)
    client.create_registered_model("fingerpost-shop")
    for _ in range(3):
        client.create_model_version("fingerpost-shop", source=str(folder / "model"))
    return url


@pytest.fixture
def settings(registry, tmp_path):
    """Champion 1, challenger 2, no experiment, a lake of its own."""
    client = mlflow.MlflowClient(registry)
    client.set_registered_model_alias("fingerpost-shop", "champion", "1")
    client.set_registered_model_alias("fingerpost-shop", "challenger", "2")
    client.delete_registered_model_tag("fingerpost-shop", EXPERIMENT_TAG)
    return Settings(
        home=tmp_path, mlflow_url=registry, experiment_slot_s=20, experiment_washout_s=4, experiment_pairs=60
    )


@pytest.fixture
def fingerpost(settings):
    """Runs a command in this process, with these settings; what it leaves in the environment is gone afterwards."""
    before = dict(os.environ)
    named = {"home": settings.home, "mlflow_url": settings.mlflow, "experiment_slot_s": 20, "experiment_washout_s": 4}
    os.environ.update({f"FINGERPOST_{name.upper()}": str(value) for name, value in named.items()})
    get_settings.cache_clear()
    runner = CliRunner()

    def run(*arguments):
        done = runner.invoke(app, arguments, catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    yield run
    os.environ.clear()
    os.environ.update(before)
    get_settings.cache_clear()


def write_records(settings, experiment, **arguments):
    keep_records(settings, made_records(experiment, **arguments))


def test_it_is_begun_once_evaluated_and_stopped(settings, registry):
    begun = start(settings, now_us=NOW)
    assert begun.new
    experiment = begun.experiment
    assert (experiment.champion, experiment.challenger, experiment.pairs, experiment.slot_s) == ("1", "2", 60, 20)
    # Later than engines look at the registry.
    assert experiment.begin_us >= NOW + 2 * settings.model_poll_s * US
    assert start(settings, slot_s=50, now_us=NOW + 5 * US) == experiments.Started(experiment, new=False)
    assert running(settings) == experiment
    write_records(settings, experiment, effect=-0.25, seed=2)
    early = evaluate(settings, experiment, experiment.begin_us + 100 * US)
    assert (early.verdict.verdict, early.verdict.over) == ("undecided", False)
    late = evaluate(settings, experiment, experiment.end_us + settle_us(settings))
    assert (late.verdict.verdict, late.verdict.over, late.verdict.elapsed) == ("better", True, 60)
    assert late.verdict.experiment["id"] == experiment.id
    assert late.verdict.trusts == {}
    guard = guard_file(settings.home / "routing" / f"{experiment.service}.table")
    guard.parent.mkdir(parents=True, exist_ok=True)
    guard.write_text('{"trusts": {"1": 1.0, "2": 0.25, "9": 0.5}}')
    late = evaluate(settings, experiment, experiment.end_us + settle_us(settings))
    assert late.verdict.trusts == {"champion": 1.0, "challenger": 0.25}
    assert "challenger's predictions by 0.25" in verdict_markdown(late.verdict)
    path = stop(settings, late.verdict, "decided", now_us=experiment.end_us)
    assert running(settings) is None
    (record,) = records_of(settings)
    assert json.loads(path.read_text()) == record
    assert record["verdict"]["effects"]["latency_mean_s"]["high"] < 1
    tags = mlflow.MlflowClient(registry).get_model_version("fingerpost-shop", "2").tags
    short = json.loads(tags[RECORD_TAG])
    assert (short["id"], short["verdict"], short["why"]) == (experiment.id, "better", "decided")
    assert stop(settings, None, "again") is None


def test_one_at_a_time_and_only_champion_against_challenger(settings, registry):
    client = mlflow.MlflowClient(registry)
    first = start(settings, now_us=NOW).experiment
    assert still_in_force(settings, first)
    client.set_registered_model_alias("fingerpost-shop", "challenger", "3")
    assert not still_in_force(settings, first)
    with pytest.raises(FingerpostError, match=rf"{first.id} of versions 1 and 2 is there.*stop"):
        start(settings, now_us=NOW)
    stop(settings, None, "another challenger")
    client.set_registered_model_alias("fingerpost-shop", "challenger", "1")
    with pytest.raises(FingerpostError, match="challenger = '1'"):
        start(settings, now_us=NOW)
    client.delete_registered_model_alias("fingerpost-shop", "challenger")
    with pytest.raises(FingerpostError, match="fingerpost-shop has no challenger"):
        start(settings, now_us=NOW)
    with pytest.raises(FingerpostError, match="fingerpost-bank has no champion"):
        start(settings.model_copy(update={"service": "bank"}), now_us=NOW)
    assert running(settings.model_copy(update={"service": "bank"})) is None


def test_the_challenger_routes_only_while_somebody_looks(settings):
    experiment = start(settings, now_us=NOW).experiment
    lease_us = round(settings.experiment_unattended_s * US)
    assert experiment.until_us == experiment.begin_us + lease_us
    attend(settings, experiment, experiment.begin_us + US)
    assert running(settings) == experiment
    later = experiment.begin_us + lease_us // 2
    attend(settings, experiment, later)
    assert running(settings) == replace(experiment, until_us=later + lease_us)
    # Who looked at what is not there any more changes nothing.
    attend(settings, experiment, later + lease_us)
    assert running(settings).until_us == later + lease_us


def test_the_steps_are_those_of_the_policy_with_slots_no_longer_than_the_others(settings):
    experiment = start(settings, now_us=NOW).experiment
    assert experiment.steps == ((2, 20, 10.0), (2, 10, 10.0), (4, 5, 10.0))
    short = [RampStep(pairs=2, one_in=20, slot_s=10), RampStep(pairs=9, one_in=5, slot_s=10)]
    assert first_steps(short, 5.0, 4) == ((2, 20, 5.0), (1, 5, 5.0))
    assert first_steps(short, 5.0, 1) == first_steps([], 5.0, 9) == ()


class Killed(BaseException):
    pass


class DyingClient:
    """MLflow's client, until so many calls were made; the last one is made, but nobody hears of it."""

    def __init__(self, client: Any, left: list[int]) -> None:
        self._client, self._left = client, left

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            if self._left[0] <= 0:
                raise Killed
            self._left[0] -= 1
            answer = getattr(self._client, name)(*arguments, **named)
            if self._left[0] == 0:
                raise Killed
            return answer

        return call


@pytest.mark.parametrize("calls", range(1, 8))
def test_killed_anywhere_and_begun_again_it_is_the_same(settings, monkeypatch, calls):
    def killed_after(step):
        left = [calls]

        class DyingRegistry(Registry):
            def __init__(self, settings):
                super().__init__(settings)
                self.client = DyingClient(self.client, left)

        with monkeypatch.context() as patched, contextlib.suppress(Killed):
            patched.setattr(experiments, "Registry", DyingRegistry)
            step()

    killed_after(lambda: start(settings, now_us=NOW))
    there = running(settings)
    begun = start(settings, now_us=NOW + 100 * US)
    assert begun.new == (there is None)
    assert there is None or begun.experiment == there
    killed_after(lambda: stop(settings, None, "test", now_us=NOW))
    stop(settings, None, "test", now_us=NOW)
    assert running(settings) is None
    assert [record["experiment"]["id"] for record in records_of(settings)] == [begun.experiment.id]


def test_nonsense_in_the_registry_is_told(settings, registry):
    mlflow.MlflowClient(registry).set_registered_model_tag("fingerpost-shop", EXPERIMENT_TAG, "{}")
    with pytest.raises(FingerpostError, match="not an experiment"):
        running(settings)
    assert stop(settings, None, "test") is None
    assert running(settings) is None


def test_an_experiment_that_cannot_be_judged_can_be_stopped(settings, fingerpost):
    experiment = start(settings).experiment
    status = json.loads(fingerpost("experiment", "status", "--json"))
    assert (status["verdict"], status["pairs"], status["effects"]) == ("undecided", 0, {})
    folder = settings.lake / "requests" / "service=shop" / f"date={date_of(experiment.begin_us)}"
    folder.mkdir(parents=True)
    (folder / "broken.parquet").write_text("nonsense")
    assert "cannot be judged: ArrowInvalid" in fingerpost("experiment", "stop")
    assert running(settings) is None


def test_the_command_line_takes_an_experiment_through_its_life(settings, fingerpost):
    def refused(*arguments):
        with pytest.raises(FingerpostError) as error:
            CliRunner().invoke(app, arguments, catch_exceptions=False)
        return str(error.value)

    past = start(settings, now_us=int(pd.Timestamp.now("UTC").timestamp() - 3600) * US).experiment
    write_records(settings, past, effect=-0.3, seed=1)
    status = json.loads(fingerpost("experiment", "status", "--json"))
    assert (status["running"], status["verdict"], status["still_in_force"]) == (True, "better", True)
    assert "latency is lower" in fingerpost("experiment", "status")
    folder = settings.home / "report"
    fingerpost("experiment", "report", "--out", str(folder))
    assert {each.name for each in folder.iterdir()} == {"report.md", "differences.png", "latencies.png"}
    made = json.loads(fingerpost("experiment", "plan", "--hours", "2", "--effect", "-0.3", "--json"))
    assert made["needs"][0]["pairs"] < 60
    assert json.loads(fingerpost("experiment", "stop", "--json"))["id"] == past.id
    assert "no experiment runs" in refused("experiment", "stop")
    assert "is there a challenger" in refused("offpolicy")
    assert json.loads(fingerpost("shadow", "--json"))["status"] == "insufficient"
    assert "--effect 0.0 must be" in refused("experiment", "plan", "--spread", "0.1", "--effect", "0")
