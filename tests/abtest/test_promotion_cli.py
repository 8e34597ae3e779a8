"""The commands of promotion, on a real registry; and who becomes challenger after a training."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

import pytest
from typer.testing import CliRunner

from fingerpost.cli import app
from fingerpost.clock import clock_us
from fingerpost.errors import FingerpostError
from fingerpost.experiment import EXPERIMENT_TAG, Experiment
from fingerpost.settings import get_settings

pytestmark = pytest.mark.process


@pytest.fixture
def run(made, monkeypatch):
    """Runs a command against the registry; returns exit code and output."""
    monkeypatch.setenv("FINGERPOST_HOME", str(made.settings.home))
    monkeypatch.setenv("FINGERPOST_MLFLOW_URL", made.settings.mlflow_url)
    get_settings.cache_clear()

    def call(*arguments):
        done = CliRunner().invoke(app, list(arguments))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.exit_code, done.stdout

    yield call
    get_settings.cache_clear()


def test_from_waiting_to_rollback(made, run):
    code, text = run("promote", "2")
    assert code == 1
    assert "wait  experiment: no result yet" in text
    made.good_results()
    later = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    assert run("hold", "on", "--until", later, "--reason", "release")[0] == 0
    assert run("promote", "2")[0] == 1
    assert run("hold", "off") == (0, "promotion is free\n")
    code, text = run("promote", "2", "--json")
    assert (code, json.loads(text)["action"]) == (0, "promote")
    code, text = run("decisions", "replay", json.loads(text)["record"])
    assert code == 0
    assert text.startswith("the same: promote")
    assert run("rollback", "--reason", "slow")[0] == 0
    assert made.champion == "1"
    code, text = run("history", "--json")
    assert [each["action"] for each in json.loads(text)][:2] == ["rollback", "promote"]
    assert run("history")[0] == 0
    assert run("promote", "2", "--skip-gates", "--reason", "sure")[0] == 0
    assert made.champion == "2"


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("promote", "77"), "no version '77'"),
        (("hold", "maybe"), "'maybe'"),
        (("hold", "on", "--until", "soon"), "'soon'"),
        (("hold", "on", "--until", "2001-01-01"), "past"),
        (("decisions", "replay", "nonsense"), "no record 'nonsense'"),
        (("rollback",), "nothing to go back to"),
        (("drift", "--version", "9"), "no version 9"),
        (("up", "--only", "kafka"), "no part 'kafka'"),
    ],
)
def test_what_is_wrong_is_named(run, command, words):
    with pytest.raises(FingerpostError, match=words):
        run(*command)


def test_a_challenger_in_an_experiment_keeps_its_place_unless_it_is_urgent(made):
    third = made.version(0.4)
    running = Experiment("e1", "shop", "1", "2", clock_us() - 10**6, 60, 5, 100)
    made.registry.set_note(EXPERIMENT_TAG, asdict(running))
    assert made.registry.set_challenger(third, urgent=False) == "2"
    assert made.challenger == "2"
    assert made.registry.set_challenger(third, urgent=True) is None
    assert made.challenger == third
    assert made.registry.set_challenger("2", urgent=False) is None
    assert made.challenger == "2"
