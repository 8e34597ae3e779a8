"""Promotion: decision, record and swap, on a real registry."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta

import pytest

from fingerpost.abtest.promotion.policy import load_policy
from fingerpost.abtest.promotion.promote import (
    consider_challenger,
    gather,
    promote_version,
    rollback,
    set_hold,
)
from fingerpost.abtest.promotion.record import history, load_record, replay
from fingerpost.errors import FingerpostError
from fingerpost.experiment import EXPERIMENT_TAG
from fingerpost.training.registry import FORMER_TAG, OUTCOME_TAG, WATCH_TAG, Registry, StaleEvidenceError
from tests.support.registry_harness import GOOD

pytestmark = pytest.mark.process


def test_a_challenger_is_promoted_with_a_record_that_decides_the_same(made):
    made.registry.set_note(EXPERIMENT_TAG, {"champion": "1", "challenger": "2"})
    made.good_results()
    done = consider_challenger(made.settings, "flow promote")
    assert (done.action, done.applied) == ("promote", True)
    # The version before is kept to judge this one by.
    assert (made.champion, made.challenger) == ("2", "1")
    assert made.registry.former_champions() == ["1"]
    assert made.registry.note(WATCH_TAG)["previous"] == "1"
    assert made.registry.experiment().purpose == "watch"
    assert made.registry.version("2").tags[OUTCOME_TAG] == "promoted"

    record = load_record(made.registry, done.record)
    assert record["who"] == "flow promote"
    assert record["policy"]["text"] == load_policy(None).text
    assert record["evidence"]["experiment"]["result"] == GOOD["experiment"]
    again, same = replay(record)
    assert same
    assert again.outcome == "promote"
    record["evidence"]["experiment"]["result"]["verdict"] = "worse"
    assert replay(record)[1] is False
    record["policy"]["text"] += "# changed"
    with pytest.raises(FingerpostError, match="hash"):
        replay(record)

    [line] = history(made.registry)
    assert (line.action, line.champion, line.challenger, line.applied) == ("promote", "1", "2", "yes")
    assert consider_challenger(made.settings, "flow promote") is None


def test_a_challenger_that_fails_is_rejected_and_one_without_evidence_waits(made):
    assert consider_challenger(made.settings, "flow").action == "wait"
    assert made.challenger == "2"
    made.result("experiment", "2", {"verdict": "guardrail", "samples": 2})
    assert consider_challenger(made.settings, "flow").action == "reject"
    assert (made.champion, made.challenger) == ("1", None)
    assert made.registry.version("2").tags[OUTCOME_TAG].startswith("rejected: experiment: guardrail")
    assert [line.action for line in history(made.registry)] == ["reject", "wait"]


def test_the_newest_result_counts(made):
    made.good_results()
    made.result("experiment", "2", {"verdict": "undecided", "samples": 1})
    assert gather(made.registry, "2")["experiment"]["result"]["verdict"] == "undecided"


def test_rollback_goes_back_step_by_step(made):
    third = made.version(0.4)
    promote_version(made.settings, "2", "ann", "try", skip_gates=True)
    promote_version(made.settings, third, "ann", "try", skip_gates=True)
    assert made.champion == third
    assert rollback(made.settings, "ann", "slow").version == "2"
    assert rollback(made.settings, "ann", "slow").version == "1"
    assert made.champion == "1"
    assert made.registry.note(WATCH_TAG) is None
    with pytest.raises(FingerpostError, match="nothing to go back to"):
        rollback(made.settings, "ann", "slow")
    assert [line.action for line in history(made.registry)] == ["rollback", "rollback", "forced", "forced"]
    with pytest.raises(FingerpostError, match="no gates"):
        replay(load_record(made.registry, history(made.registry)[0].run_id))


def test_a_hold_keeps_what_would_be_promoted(made):
    made.good_results()
    set_hold(made.settings, True, "ann", "release day", datetime.now(UTC) + timedelta(hours=1))
    done = consider_challenger(made.settings, "flow")
    assert done.action == "wait"
    assert "on hold by ann: release day" in done.reason
    set_hold(made.settings, False, "ann")
    assert consider_challenger(made.settings, "flow").action == "promote"


def test_wrong_versions_are_named(made):
    with pytest.raises(FingerpostError, match="no version '9'"):
        promote_version(made.settings, "9", "ann")
    with pytest.raises(FingerpostError, match="no version 'x'"):
        promote_version(made.settings, "x", "ann")
    with pytest.raises(FingerpostError, match="champion already"):
        promote_version(made.settings, "1", "ann")


def test_evidence_against_another_champion_promotes_nothing(made):
    third = made.version(0.4)
    with pytest.raises(StaleEvidenceError, match="version 1 by now"):
        made.registry.swap_champion(third, "2", None)
    assert made.champion == "1"


def test_notes_of_a_promotion_that_was_cut_short_do_no_harm(made):
    made.registry.client.set_registered_model_tag(made.registry.name, FORMER_TAG, '["1"]')
    made.registry.set_note(WATCH_TAG, {"version": "2", "previous": "1", "since": "", "until": "", "record": ""})
    assert made.registry.former_champions() == []
    made.good_results()
    assert consider_challenger(made.settings, "flow").action == "promote"


PROMOTER = """
import sys, time
from pathlib import Path
from fingerpost.training.registry import Registry, StaleEvidenceError
from tests.support.registry_harness import registry_settings
registry = Registry(registry_settings(Path(sys.argv[1])))
champion = registry.version_of("champion")
print("ready", flush=True)
sys.stdin.readline()
try:
    registry.swap_champion(champion, sys.argv[2], {"version": sys.argv[2], "previous": champion})
    print("promoted")
except StaleEvidenceError as error:
    print("refused:", error)
"""


def test_of_two_processes_one_promotes(made, tmp_path):
    third = made.version(0.4)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROMOTER, str(tmp_path), version],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for version in ("2", third)
    ]
    for process in processes:
        while process.stdout.readline().strip() != "ready":
            assert process.poll() is None
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    answers = [process.communicate(timeout=120)[0] for process in processes]
    assert sorted(answer.split(":")[0].strip() for answer in answers) == ["promoted", "refused"]
    winner = "2" if answers[0].startswith("promoted") else third
    assert made.champion == winner
    assert made.registry.former_champions() == ["1"]
    assert Registry(made.settings).note(WATCH_TAG)["version"] == winner
