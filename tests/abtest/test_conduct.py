"""From a challenger to its verdict by itself; experiments of versions that do not differ promote nothing."""

import json

import pytest

from fingerpost.abtest.experiment.advance import advance_experiment, further_challengers
from fingerpost.abtest.experiment.store import RECORD_TAG, records_of, running, settle_us, start
from fingerpost.abtest.promotion.promote import consider_challenger
from fingerpost.abtest.promotion.record import load_record, replay
from fingerpost.abtest.results import ComparisonResult, log_result
from fingerpost.clock import US
from fingerpost.training.registry import OUTCOME_TAG
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


def test_of_several_challengers_the_best_is_promoted_and_the_others_are_recorded(due):
    others = [due.version(0.3), due.version(0.25)]
    experiment = start(due.settings, now_us=BEGIN, others=others).experiment
    assert (experiment.others, experiment.pairs) == (("3", "4"), 3 * due.settings.experiment_pairs)
    assert experiment.steps == tuple((3 * pairs, one_in, 10.0) for pairs, one_in in ((2, 20), (2, 10), (4, 5)))
    effects = {"challenger": -0.1, "challenger-2": -0.4, "challenger-3": 1.5}
    keep_records(due.settings, made_records(experiment, effect=effects, tail=0.3))
    done = advance_experiment(due.settings)
    assert done.action == "stopped"
    verdicts = [each.verdict for each in (done.evaluation, *done.others)]
    assert [each.verdict for each in verdicts] == ["better", "better", "guardrail"]
    assert {each.planned for each in verdicts} == {30}
    # What all are wrongly called together is alpha.
    assert [each.alpha for each in verdicts] == pytest.approx([0.05 / 3] * 3)
    assert due.challenger == "3"
    [record] = records_of(due.settings)
    assert {version: each["verdict"] for version, each in record["others"].items()} == {"3": "better", "4": "guardrail"}
    for version in ("2", "3", "4"):
        entry = due.registry.version(version)
        assert json.loads(entry.tags[RECORD_TAG])["id"] == experiment.id
        found = due.registry.latest_result("experiment", version)["result"]
        assert found["chosen"] == "3"
        assert set(found["rivals"]) == {"2", "3", "4"} - {version}
    assert due.registry.version("2").tags[OUTCOME_TAG].startswith("better, not best: version 3 is")
    assert due.registry.version("4").tags[OUTCOME_TAG].startswith("rejected: guardrail")
    due.result("drift", "3", {"verdict": "no drift", "data": {"passed": True, "failed": []}})
    decided = consider_challenger(due.settings, "test")
    assert (decided.action, due.champion) == ("promote", "3")
    again, same = replay(load_record(due.registry, decided.record))
    assert (again.outcome, same) == ("promote", True)


def test_a_challenger_that_is_worse_goes_out_while_the_others_go_on(due):
    started = start(due.settings, now_us=BEGIN, others=[due.version(0.3)]).experiment
    records = made_records(started, effect={"challenger": 0.0, "challenger-2": 2.0}, tail=0.3)
    # Fourteen pairs of each are over.
    until_us = started.slot_begin_us(56)
    keep_records(due.settings, records[records["time_us"] < until_us])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fingerpost.abtest.experiment.store.clock_us", lambda: until_us + settle_us(due.settings))
        done = advance_experiment(due.settings)
    assert done.action == "goes on"
    assert done.evaluation.verdict.decided_at is None
    assert done.others[0].verdict.verdict == "guardrail"
    assert running(due.settings).out == ("challenger-2",)
    assert "version 3: guardrail" in done.why


def test_the_policy_says_how_many_are_compared_at_once(due, tmp_path):
    policy = tmp_path / "policy.toml"
    policy.write_text("[experiment]\nchallengers = 3\n")
    due.settings = due.settings.model_copy(update={"promotion_policy": policy})
    bad, rejected, good, newest = (due.version(skill) for skill in (-0.5, 0.3, 0.2, 0.4))
    due.registry.tag_version(rejected, OUTCOME_TAG, "rejected: worse")
    assert further_challengers(due.settings, due.registry) == [newest, good]
    assert advance_experiment(due.settings).action == "started"
    assert running(due.settings).others == (newest, good)
    assert bad not in running(due.settings).others
    due.settings = due.settings.model_copy(update={"promotion_policy": None})
    assert further_challengers(due.settings, due.registry) == []


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
