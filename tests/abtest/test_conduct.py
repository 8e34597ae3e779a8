"""From a challenger to its verdict by itself; experiments of versions that do not differ promote nothing."""

import pytest

from fingerpost.abtest.experiment.advance import advance_experiment
from fingerpost.abtest.experiment.store import records_of, running, start
from fingerpost.abtest.promotion.promote import consider_challenger
from fingerpost.abtest.results import ComparisonResult, log_result
from fingerpost.clock import US
from tests.support.experiment_records import BEGIN, keep_records, made_records

pytestmark = pytest.mark.process

SLOTS = {"experiment_slot_s": 20.0, "experiment_washout_s": 4.0, "experiment_pairs": 30}
SHADOW = ComparisonResult(verdict="no difference", champion="1", challenger="2", samples=900, reason="as good")


@pytest.fixture
def due(made):
    """A registry whose challenger is no worse in the shadow, in a world that does not drift."""
    made.settings = made.settings.model_copy(update=SLOTS)
    log_result(made.registry, "shadow", SHADOW)
    made.result("drift", "2", {"verdict": "no drift", "data": {"passed": True, "failed": []}})
    return made


def begun_long_ago(made, effect, seed=0, **arguments):
    """An experiment whose slots are all over, with the records of its requests in the lake.

    It begins at a given moment, since its name and so the order of its slots follow from that: drawn anew in every
    run, one of 150 experiments of versions that do not differ would be called better, as alpha permits.
    """
    settings = made.settings
    experiment = start(settings, now_us=BEGIN + seed * 3600 * US).experiment
    records = made_records(experiment, effect=effect, seed=seed, **arguments)
    keep_records(settings, records)
    return experiment


def test_a_challenger_gets_an_experiment_once_it_was_compared(made):
    assert advance_experiment(made.settings).why == "version 2 has not been compared in the shadow yet"
    log_result(made.registry, "shadow", SHADOW.model_copy(update={"verdict": "worse"}))
    assert advance_experiment(made.settings).why == "version 2 is worse in the shadow"
    assert log_result(made.registry, "shadow", SHADOW)
    assert log_result(made.registry, "shadow", SHADOW) is None
    begun = advance_experiment(made.settings)
    assert begun.action == "started"
    experiment = running(made.settings)
    assert (experiment.champion, experiment.challenger) == ("1", "2")
    assert advance_experiment(made.settings).action == "goes on"
    assert running(made.settings) == experiment


def test_people_may_begin_experiments_themselves(due):
    due.settings = due.settings.model_copy(update={"experiment_auto": False})
    assert "FINGERPOST_EXPERIMENT_AUTO" in advance_experiment(due.settings).why
    assert running(due.settings) is None


def test_a_better_challenger_is_promoted(due):
    begun_long_ago(due, effect=-0.3)
    done = advance_experiment(due.settings)
    assert (done.action, done.evaluation.verdict.verdict) == ("stopped", "better")
    assert running(due.settings) is None
    assert due.registry.latest_result("experiment", "2")["result"]["challenger"] == "2"
    assert advance_experiment(due.settings).why == "version 2 has had its experiment"
    assert consider_challenger(due.settings, "test").action == "promote"
    assert due.champion == "2"


def test_a_challenger_that_is_not_worse_is_promoted_once_it_chooses_no_worse_hosts(due):
    """What an ordinary retraining can show: no certain gain, but certainly no loss beyond the margin."""
    due.settings = due.settings.model_copy(update={"experiment_margin": 0.25})
    begun_long_ago(due, effect=0.0, seed=3)
    done = advance_experiment(due.settings)
    assert (done.action, done.evaluation.verdict.verdict) == ("stopped", "not worse")
    waits = consider_challenger(due.settings, "test")
    assert (waits.action, "regret" in waits.reason) == ("wait", True)
    due.result("shadow", "2", {**SHADOW.to_json(), "regret": {"difference": {"value": 0.0, "low": -0.1, "high": 0.1}}})
    assert consider_challenger(due.settings, "test").action == "promote"
    assert due.champion == "2"


def test_no_difference_waits_and_does_not_reject(due):
    begun_long_ago(due, effect=0.0, tail=2.0)
    assert advance_experiment(due.settings).evaluation.verdict.verdict == "no difference"
    assert consider_challenger(due.settings, "test").action == "wait"
    assert due.challenger == "2"


def test_killed_before_its_end_was_written_it_ends_the_same(due, monkeypatch):
    begun_long_ago(due, effect=-0.3)

    def killed(*_arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("fingerpost.abtest.experiment.advance.stop", killed)
        with pytest.raises(KeyboardInterrupt):
            advance_experiment(due.settings)
    assert running(due.settings) is not None
    assert advance_experiment(due.settings).action == "stopped"
    assert len(records_of(due.settings)) == 1
    assert len(due.registry.runs("experiment")) == 1


def test_an_experiment_of_other_versions_ends(due):
    begun_long_ago(due, effect=0.0)
    due.registry.client.set_registered_model_alias(due.registry.name, "champion", due.version(0.4))
    done = advance_experiment(due.settings)
    assert done.action == "stopped"
    assert "not champion and challenger any more" in done.why
    assert due.registry.latest_result("experiment", "2") is None


def test_experiments_of_versions_that_do_not_differ_promote_nothing(due):
    for seed in range(100, 112):
        begun_long_ago(due, effect=0.0, seed=seed)
        assert advance_experiment(due.settings).action == "stopped"
        outcome = consider_challenger(due.settings, "test")
        assert outcome is None or outcome.action != "promote"
        assert due.champion == "1"
        version = due.version(0.3)
        due.registry.set_challenger(version)
        due.result("drift", version, {"verdict": "no drift", "data": {"passed": True, "failed": []}})
    assert len(records_of(due.settings)) == 12
